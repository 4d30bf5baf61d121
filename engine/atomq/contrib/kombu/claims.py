"""The claims of one connection: when to claim, the claim under way, and what its answer brings."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from math import inf
from typing import TYPE_CHECKING, Any

from atomq.calls import Call, Claimed
from atomq.contrib.kombu.consuming import MOST_CLAIMED
from atomq.contrib.kombu.rights import CLAIM
from atomq.conversation import Command
from atomq.errors import PermissionDenied, ServerFull
from atomq.flows import Flow, ask, clock
from atomq.keys import QueueKeys, is_queue_key

if TYPE_CHECKING:
    from atomq.contrib.kombu.broker import Broker
    from atomq.contrib.kombu.channel import Channel
    from atomq.contrib.kombu.hand_over import HandOver

log = logging.getLogger("atomq.kombu")

Taken = dict[str, list[str]]  # receipts whose acks ride along, by queue

REST = 0.5  # seconds between two tries of what a user may not do just now


Outcome = Claimed | BaseException
Ask = Callable[[Call[Claimed], Callable[[Outcome], None]], None]


class Claims:
    """One claim at a time is under way.

    It belongs to one thread, but for what the keeper of leases calls while a task runs in that: it
    leaves to other consumers what falls due meanwhile. See `backlog.Waits`.
    """

    def __init__(
        self,
        transport: Any,
        buffer: HandOver,
        send: Callable[[Any, Command], None],
        on_nothing: Callable[[Collection[str]], None],
        ask: Ask | None = None,
    ) -> None:
        """`send(purpose, command)` sends a command over the connection's socket.

        `on_nothing(queues)` hears of a claim from these that got nothing. `ask(call, then)` asks
        for a claim over a connection of the engine's, and calls `then` with what came of it; by
        default it waits for that.
        """
        self._ask = ask or self._ask_and_wait
        self._transport = transport
        self._broker: Broker = transport.broker
        self._buffer = buffer
        self._send = send
        self._on_nothing = on_nothing
        self.hot: set[str] = set()
        """Queues that may have something to claim."""
        self.due_at = inf
        """When a delayed message falls due (monotonic)."""
        self._due: set[str] = set()  # of which queues
        self._is_busy = False  # whether its thread works on a task
        self._is_watched = False  # whether the keeper looks when that message falls due
        self._left: list[str] = []  # queues of which the keeper leaves to others what fell due
        self.has_found = False
        """Whether it was looked, and what was found is not claimed yet."""
        self.chores_at = 0.0
        """When to do again what is done once a second (monotonic)."""
        self.rests_until = 0.0
        """Until when nothing is tried: the user was refused a right that it had."""
        self.under_way: tuple[Channel, Call[Claimed], Taken] | None = None
        """The claim that waits for its answer, for which channel, and the acks that ride along."""
        self._sent_at = 0.0  # when the claim was sent for the first time
        self._room = 0  # for how many messages

    def reserved(self, channel: Channel, seconds: float) -> int:
        """The room of a channel that a claim asked for which was sent within so many seconds."""
        if self.under_way is None or self.under_way[0] is not channel:
            return 0
        return self._room if clock() - self._sent_at < seconds else 0

    def found(self, queues: Collection[str]) -> None:
        """There is something to claim in these: by a look, or because a token may be lost."""
        self.hot.update(queues)
        self.has_found = True

    def fall_due(self) -> set[str]:
        """It is time to claim what is delayed: of these queues."""
        due, self._due, self.due_at = self._due, set(), inf
        self.hot |= due
        return due

    def begin_task(self) -> None:
        """The thread works on a task now: what falls due meanwhile is for other consumers."""
        self._is_busy = True
        if not self._is_watched and self.due_at != inf:
            self._is_watched = True
            self._broker.keeper.watch(self, max(0.0, self.due_at - time.monotonic()))

    def end_task(self) -> None:
        """The task is done."""
        self._is_busy = False

    @property
    def queue(self) -> QueueKeys:
        """See `backlog.Waits`."""
        return self._broker.keys(self._left[0])

    def waits_until(self) -> float:
        """See `backlog.Waits`. Of one that is not busy the next task has the keeper look again."""
        self._is_watched = False  # first: a task that begins now sees that
        if not self._is_busy or self.due_at == inf:
            return inf
        self._is_watched = True
        return clock() + self.due_at - time.monotonic()

    def withdraw(self) -> list[str]:
        """See `backlog.Waits`."""
        due, self._due, self.due_at = self._due, set(), inf
        self._left += due
        return list(due)

    def give_back(self) -> Flow[None]:
        """See `backlog.Waits`. A claim of nothing leaves a token, which wakes another consumer."""
        left, self._left = self._left, []
        for name in left:
            yield from ask(self._broker.claim([name], 0))

    def _minds(self, queues: Collection[str], wait_ms: int) -> None:
        """Claim from these again when the next delayed message falls due."""
        # That counts from when the claim was sent: its answer may have lain unread for a while, and
        # the claim that is sent then will be as long on its way.
        sent_at = time.monotonic() - (clock() - self._sent_at)
        self.due_at = min(self.due_at, sent_at + wait_ms / 1000)
        self._due.update(queues)
        self._is_watched = False
        self._transport.poller.ring_at(self.due_at)

    def send(self, channel: Channel, queues: list[str], room: int) -> None:
        """Send a claim, with the acks that wait."""
        acks = {name: self._broker.keeper.acks.take(name) for name in queues}
        call = self._broker.claim(queues, min(room, MOST_CLAIMED), acks)
        if not channel.qos.prefetch_count:
            channel.pace()
        self.hot.difference_update(queues)
        self.has_found = False
        self.under_way = (channel, call, acks)
        self._room = room
        self._sent_at = clock()
        self._send(CLAIM, call.packed())

    def answered(self, reply: Any) -> None:
        """The server answered the claim, or refused it."""
        assert self.under_way is not None
        channel, call, acks = self.under_way
        if isinstance(reply, Exception):
            # The engine knows what to do about scripts that are not loaded, and passing trouble.
            self._ask(call, self.resolved)
            return
        self.under_way = None
        self._claimed(channel, call.parse(reply, call.repeated), acks)

    def resolved(self, outcome: Outcome) -> None:
        """What came of the claim when the engine asked. Raises what is none of its business."""
        if self.under_way is None:
            return  # the connection was closed meanwhile
        channel, call, acks = self.under_way
        self.under_way = None
        if not isinstance(outcome, BaseException):
            self._claimed(channel, outcome, acks)
            return
        self._put_back(acks)
        if isinstance(outcome, ServerFull):
            # It took nothing, and comes again within a second, as where nothing was to be had.
            log.warning("claiming again within a second: %s", outcome)
        elif isinstance(outcome, PermissionDenied):
            self.denied(CLAIM, outcome)
        else:
            self._broker.unanswered.append(call)
            raise outcome

    def _ask_and_wait(self, call: Call[Claimed], then: Callable[[Outcome], None]) -> None:
        try:
            outcome: Outcome = self._broker.engine.run(call)
        except BaseException as error:  # noqa: BLE001 - raised again there
            outcome = error
        then(outcome)

    def take_back(self) -> None:
        """The claim was surely not carried out: it is sent anew."""
        assert self.under_way is not None
        _, _, acks = self.under_way
        self.under_way = None
        self._put_back(acks)
        self.found(acks)

    def ask_by_engine(self) -> None:
        """No answer comes over the connection any more: have the engine ask for it."""
        assert self.under_way is not None
        channel, call, acks = self.under_way
        self.under_way = channel, call.again(), acks
        self._ask(self.under_way[1], self.resolved)

    def ask_again(self) -> bool:
        """Get the answer that a broken connection took along; whether it has messages.

        The engine asks, over a connection of its own. Raises what the engine raises.
        """
        assert self.under_way is not None
        channel, call, acks = self.under_way
        self.under_way = channel, call.again(), acks
        claimed = self._broker.engine.run(self.under_way[1])
        self.under_way = None
        self._claimed(channel, claimed, acks)
        return bool(claimed.deliveries)

    def give_up(self) -> None:
        """The connection has ended: the broker asks for the answer when the next one is made."""
        if self.under_way is not None:
            _, call, acks = self.under_way
            self._put_back(acks)
            self._broker.unanswered.append(call)
            self.under_way = None

    def pass_on(self, token: str) -> None:
        """Wake another consumer by a token for a queue that is not consumed here any more."""
        full = is_queue_key(token)
        prefix = self._broker.engine.prefix
        if full is not None and full.startswith(prefix):
            self._broker.engine.run(self._broker.claim([full.removeprefix(prefix)], 0))

    def denied(self, asked: str, error: PermissionDenied) -> None:
        """Rest for a moment and try again, or raise `error`: see `Rights.refuse`."""
        self._broker.rights.refuse(asked, error)
        self.rests_until, self.chores_at = time.monotonic() + REST, 0.0
        self.found([n for channel in self._transport.channels for n in channel.claimed_queues()])

    def _put_back(self, acks: Taken) -> None:
        for queue, receipts in acks.items():
            self._broker.keeper.acks.put_back(queue, receipts)

    def _claimed(self, channel: Channel, claimed: Claimed, acks: Taken) -> None:
        keeper = self._broker.keeper
        self._broker.rights.grant(CLAIM)
        deliveries = self._broker.hold(claimed, self._sent_at)
        for queue, receipts in acks.items():
            missing = [receipt for name, receipt in claimed.lost_acks if name == queue]
            keeper.acks.answered(queue, receipts, missing)
        self.hot.update(claimed.more)
        if claimed.wait_ms is not None:
            self._minds(acks, claimed.wait_ms)
        self._buffer.add(channel, deliveries, claimed.now_ms)
        if channel.closed:  # meanwhile
            self._buffer.give_back(lambda one, _: one is channel)
        elif deliveries:
            channel.rotate(deliveries[-1].queue)
        else:
            self._on_nothing(acks)
