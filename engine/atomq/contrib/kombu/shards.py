"""What one connection asks a cluster for: `intake.py` for queues that lie on several servers.

Each node has one line, which is never blocked: its queues are claimed, looked at and waited for
over it, each by itself, for no script takes keys of two slots. What trouble a node is in is the
affair of its own queues. Nothing here waits for a server, but for a moment when a consumer begins
to listen, and when all of it ends.

Waiting is listening: the server tells, once, that the tokens of a queue changed (CLIENT TRACKING),
then a token is taken, if it is still there, and the queue is claimed. See `shard_queue.py`.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from redis import exceptions as server

from atomq.calls import Call, Claimed
from atomq.contrib.kombu.broadcasts import Broadcasts
from atomq.contrib.kombu.chores import Chores
from atomq.contrib.kombu.claims import Outcome
from atomq.contrib.kombu.demand import Demand
from atomq.contrib.kombu.nodes import Lines, NodeLine
from atomq.contrib.kombu.popped import Popped
from atomq.contrib.kombu.rights import CLAIM, LISTEN, WAIT
from atomq.contrib.kombu.shard_queue import ClaimedQueue, PoppedQueue, ShardQueue
from atomq.contrib.kombu.worker import stopping
from atomq.conversation import INVALIDATED, PUSHED, TRACK
from atomq.errors import AtomqError, PermissionDenied, ServerUnavailable

if TYPE_CHECKING:
    from atomq.contrib.kombu.broker import Broker
    from atomq.contrib.kombu.channel import Channel
    from atomq.contrib.kombu.hand_over import HandOver

log = logging.getLogger("atomq.kombu")

EVERY = (0.75, 0.9)  # seconds between two times of what is done once a second
LAPSE = 0.2  # seconds for which a claim keeps room from others: its node may stand still
LATE = 0.3  # seconds of silence after which another node may serve what this one did
PATIENCE = 5.0  # seconds of silence after which a line counts as dead
DEAF = 1.0  # the same for the line that listens: another node will do
ASK = 0.5  # seconds between two times that the nodes are asked which of them serves what
REST = 0.2  # seconds before a claim is asked for again that no node answered
OPENING, CLOSING = 1.0, 1.0  # seconds, at most, that are waited for nodes


class Shards:
    """Claims, waits and subscriptions of one transport. Belongs to one thread."""

    def __init__(self, transport: Any, buffer: HandOver) -> None:
        """`buffer` takes the messages that are claimed."""
        self._transport = transport
        self._broker: Broker = transport.broker
        self._buffer = buffer
        self._slots: Any = self._broker.engine.slots
        self.lines = Lines(self._broker.engine, self._broken)
        self.lines.ear.on_open = self._listen
        self._broadcasts = Broadcasts(transport)
        self._listens = False  # whether the subscriptions of the ear were answered
        self._popped = Popped(transport)
        self.demand = Demand(transport, buffer, self._popped)
        self.chores = Chores(transport)
        self._claimed: dict[str, ClaimedQueue] = {}
        self._pops: dict[str, PoppedQueue] = {}
        self._by_key: dict[str, ShardQueue] = {}
        self._chores_at = self._asks_at = self._ticks_at = 0.0
        self._trouble: Exception | None = None
        self._on_socket: Callable[[int | None], None] = lambda _: None

    # ── what the poller says and asks: see `Intake` ───────────────────────────────────────────

    def began(self, queue: str) -> None:
        """A consumer came: look into its queue, listen to its broadcasts."""
        if (known := self._claimed.get(queue)) is not None:
            known.claims.hot.add(queue)
        self._chores_at = 0.0
        self.subscribe()

    def ended(self, queue: str) -> None:
        """A consumer went: nothing is claimed for it any more. Sends nothing."""

    def leave(self, queue: str) -> None:
        """A consumer went: wait for its messages no more."""
        self.subscribe()
        if not any(queue in ch.claimed_queues() for ch in self._transport.channels):
            if (known := self._claimed.get(queue)) is not None:
                known.pass_on()
            self.chores.drop(queue)

    def attach(self, on_socket: Callable[[int | None], None]) -> None:
        """Call `on_socket` with the file number to watch, with None when there is none."""
        self._on_socket = on_socket
        on_socket(self.lines.fileno())

    is_open = True

    @property
    def next_at(self) -> float:
        """When there is something to do though nothing is heard (monotonic)."""
        return self._ticks_at

    def has_news(self) -> bool:
        """Whether there may be something that was not taken in."""
        return not self.lines.is_closed

    @property
    def has_answer(self) -> bool:
        """Whether an answer was taken in already."""
        return self.lines.has_answer

    def can_read(self, seconds: float) -> bool:
        """Whether something comes within so many seconds."""
        return not self.lines.is_closed and self.lines.readable(seconds)

    def hear(self) -> None:
        """Take in what has come."""
        self.lines.hear()
        self._raise()

    def begin_task(self) -> None:
        """The thread works on a task now. What the server tells meanwhile, it tells others too."""
        for one in self._claimed.values():
            if one.claims.due_at != inf:
                one.claims.begin_task()

    def end_task(self) -> None:
        """The task is done."""
        for one in self._claimed.values():
            one.claims.end_task()

    def read_on(self) -> bool:
        """Take in what has come, up to what is to be handed over; True if that is done already."""
        self.hear()
        is_done = False
        while self.has_answer and not is_done and not self._buffer:
            is_done = self.read()
        return is_done

    def read(self) -> bool:
        """Take in one answer or push of each line; True if something was handed over at once."""
        is_done = False
        for line, purpose, reply in self.lines.answers():
            is_done |= bool(
                self._pushed(reply) if purpose is PUSHED else self._answered(line, purpose, reply)
            )
        self._raise()
        return is_done

    def _answered(self, line: NodeLine, purpose: Callable[[Any], object], reply: Any) -> object:
        if line.place is not None:
            reply = self._slots.judged(line.place, reply)
        return purpose(reply)

    # ── claiming and waiting ──────────────────────────────────────────────────────────────────

    def pump(self) -> None:
        """Send what there is to send: for each queue a claim, a look, or what it waits by."""
        if self.lines.is_closed:
            return
        now = time.monotonic()
        self.lines.catch_up()
        self._raise()
        self._sort_queues()
        self._find_nodes(now)
        self._mind(now)
        is_time = now >= self._chores_at
        if is_time:
            self._do_chores(now)
        due = [one for one in self._claimed.values() if now >= one.claims.due_at]
        for one in due:
            one.claims.fall_due()
        least = is_time or any(one.wants_any_room(now) for one in self._claimed.values())
        rooms = self.demand.rooms(least=least, reserved=self._reserved)
        if rooms and stopping():
            rooms = {}
        for channel, room in rooms.items():
            self._ask_for(channel, room, now)
        if due:
            self._leave_due(due, rooms)
        for popped in self._pops.values():
            popped.ask(now)
        self._tick(now)

    def _ask_for(self, channel: Channel, room: int, now: float) -> None:
        """Claim from one queue, which has the room until it is answered; wait for the others."""
        for name in channel.ordered():
            one = self._claimed.get(name)
            if one is None or not one.can_ask(now):
                continue
            if name not in one.claims.hot:
                one.wait()
                one.look(now)
            elif room:
                one.claims.send(channel, [name], room)
                room = 0

    def _leave_due(self, due: list[ClaimedQueue], able: Collection[Channel]) -> None:
        """What fell due and cannot be taken here is for another consumer, which does not know."""
        here = {name for channel in able for name in channel.claimed_queues()}
        for one in due:
            if one.name not in here and not one.is_sent:
                one.pass_on()

    def _reserved(self, channel: Channel) -> int:
        return sum(one.claims.reserved(channel, LAPSE) for one in self._claimed.values())

    def _sort_queues(self) -> None:
        """Make the state of queues that are consumed now, and drop that of others."""
        channels = self._transport.channels
        claimed = [name for channel in channels for name in channel.claimed_queues()]
        popped = [name for channel in channels for name in channel.popped_queues()]
        if self._claimed.keys() == set(claimed) and self._pops.keys() == set(popped):
            return
        for name in set(claimed) - self._claimed.keys():
            self._claimed[name] = ClaimedQueue(
                self._transport, self._buffer, name, self._ask, self._load
            )
        for name in set(popped) - self._pops.keys():
            self._pops[name] = PoppedQueue(self._broker, self._popped, name)
        for name in self._claimed.keys() - set(claimed):
            if not self._claimed[name].claims.under_way:  # its answer belongs to a closed one
                del self._claimed[name]
        for name in self._pops.keys() - set(popped):
            del self._pops[name]
        self._by_key = {key: one for one in self._every() for key in one.waits_for}

    def _every(self) -> Iterator[ShardQueue]:
        yield from self._claimed.values()
        yield from self._pops.values()

    def _find_nodes(self, now: float) -> None:
        """Give each queue the line of the node that serves it."""
        needed = set()
        for one in self._every():
            place = self._slots.owner(one.keys.slot)
            if place is None:
                self._ask_nodes(now)
                continue
            line = self.lines.to(place)
            line.on_open = partial(self._track, line)
            if one.line is not line:
                one.moved_to(line)
            line.open(now)
            needed.add(line)
        for line in self.lines.every():
            if line is not self.lines.ear and line not in needed and not line.is_asked:
                self.lines.drop(line)
        if self._broadcasts.patterns:
            self.lines.ear.open(now)

    def _mind(self, now: float) -> None:
        """See to lines that were asked and are silent."""
        for line in self.lines.every():
            silent = line.silent(now)
            if line is self.lines.ear:
                self._mind_ear(line, silent, now)
            elif silent > LATE or not line.is_open:
                self._ask_nodes(now)
                if silent > LATE and line.place is not None:
                    self._slots.doubt(line.place)
                serves = line.place in self._slots.primaries
                if silent > PATIENCE or (silent > LATE and not serves):
                    self.lines.broken(line, server.TimeoutError("no answer in time"))

    def _mind_ear(self, ear: NodeLine, silent: float, now: float) -> None:
        node = ear.line.wire.node if ear.line is not None else None
        if silent > DEAF or (silent > LATE and node in self._slots.doubted):
            if node is not None:
                self._slots.doubt(node)
            self.lines.broken(ear, server.TimeoutError("no answer in time"))
        elif ear.is_open and not silent and now >= self._chores_at:
            ear.say((("PING",), _ignore))

    def _track(self, line: NodeLine) -> None:
        """A line is open: have the node report changes of the keys that are said to be watched."""
        line.say((TRACK, self._tracks))

    def _tracks(self, reply: Any) -> None:
        if isinstance(reply, server.NoPermissionError):
            text = f"this user may not wait for messages: {reply}"
            self._broker.rights.refuse(WAIT, PermissionDenied(text))
        elif not isinstance(reply, Exception):
            self._broker.rights.grant(WAIT)

    def _ask_nodes(self, now: float) -> None:
        """Have a thread ask the nodes which of them serves what."""
        if now >= self._asks_at:
            self._asks_at = now + ASK
            self.lines.threads.do(None, "map", self._ask_map)

    def _ask_map(self) -> None:
        with contextlib.suppress(AtomqError):  # none answers: it is asked again soon
            self._broker.engine.nodes()

    def _tick(self, now: float) -> None:
        """Say when there is something to do."""
        needed = [line for line in self.lines.every() if line.place or self._broadcasts.patterns]
        soon = LAPSE if any(line.is_asked or not line.is_open for line in needed) else 1.0
        later = [self._chores_at]
        for one in self._claimed.values():
            later += (one.look_at, one.claims.due_at)
        # What is due and was not done now waits for room, or for an answer.
        self._ticks_at = min([now + soon, *(at for at in later if at > now)])

    def _do_chores(self, now: float) -> None:
        self._chores_at = now + random.uniform(*EVERY)
        try:
            self.chores.turn()
        except PermissionDenied as error:
            self._broker.rights.refuse(CLAIM, error)

    # ── claims without an answer ──────────────────────────────────────────────────────────────

    def _ask(self, name: str, call: Call[Claimed], then: Callable[[Outcome], None]) -> None:
        """Have the engine ask for a claim, in a thread, for as long as it takes."""
        job = partial(self._ask_engine, call, then)
        self.lines.threads.do((f"claim of {name}", 0), f"ask {id(call)}", job)

    def _load(self, call: Call[Any]) -> None:
        """Have the engine carry out a call, in a thread, so that its script is loaded."""
        place = self._slots.owner(call.queue.slot)
        self.lines.threads.do(place, f"load {call.script.sha}", partial(self._run_quietly, call))

    def _run_quietly(self, call: Call[Any]) -> None:
        with contextlib.suppress(AtomqError):
            self._broker.engine.run(call)

    def _ask_engine(self, call: Call[Claimed], then: Callable[[Outcome], None]) -> None:
        outcome: Outcome
        while True:
            try:
                outcome = self._broker.engine.run(call)
            except ServerUnavailable as error:
                if self.lines.is_closed:
                    return  # the broker asks, when another connection is made
                log.debug("a claim is asked for again: %s", error)
                call = call.again()
                time.sleep(REST)
                continue
            except Exception as error:  # noqa: BLE001 - raised by the thread of the connection
                outcome = error
            break
        self.lines.post(partial(self._resolved, then, outcome))

    def _resolved(self, then: Callable[[Outcome], None], outcome: Outcome) -> None:
        try:
            then(outcome)
        except Exception as error:  # noqa: BLE001 - raised where the poller asks
            self._trouble = error

    def _raise(self) -> None:
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble

    # ── broadcasts ────────────────────────────────────────────────────────────────────────────

    def subscribe(self) -> None:
        """Listen to the broadcasts that are consumed now: at once, if a node can be reached."""
        new, old = self._broadcasts.changed()
        ear = self.lines.ear
        if old and ear.is_open:
            ear.subscribe("PUNSUBSCRIBE", old, _ignore)
        if not new:
            return
        self._listens = False
        if ear.is_open:
            ear.subscribe("PSUBSCRIBE", new, self._on_listen)
        until = time.monotonic() + OPENING
        while not self._listens and (now := time.monotonic()) < until and not self.lines.is_closed:
            ear.open(now)
            if self.lines.readable(0.02):
                self.lines.hear()
            while ear.line is not None and ear.line.has_answer and not self._listens:
                purpose, reply = ear.line.answer()
                if purpose is PUSHED:
                    self._pushed(reply)
                else:
                    purpose(reply)

    def _listen(self) -> None:
        """The ear is open."""
        if patterns := self._broadcasts.patterns:
            self.lines.ear.subscribe("PSUBSCRIBE", patterns, self._on_listen)

    def _on_listen(self, reply: Any) -> bool:
        """PSUBSCRIBE was answered; True if it was granted: stock's drain_events() ends with it."""
        if isinstance(reply, Exception):
            denied = PermissionDenied(f"this user may not listen to broadcasts: {reply}")
            self._broker.rights.refuse(LISTEN, denied)
            self.lines.broken(self.lines.ear, server.ConnectionError(str(reply)))
            return False
        self._broker.rights.grant(LISTEN)
        self._listens = True
        return True

    def _pushed(self, push: list[Any]) -> bool:
        if push[0] == INVALIDATED:
            # The server reports once that these changed; None: all keys were removed.
            for key in self._by_key if push[1] is None else [key.decode() for key in push[1]]:
                if (one := self._by_key.get(key)) is not None:
                    one.changed()
        elif push[0] == b"pmessage":
            return self._broadcasts.hand_over(push[1].decode(), push[2], push[3])
        return False

    # ── lines that are lost, and the end ──────────────────────────────────────────────────────

    def _broken(self, line: NodeLine, _: Exception) -> None:
        if line.place is not None:
            self._slots.doubt(line.place)
        for one in self._every():
            one.disconnected(line)
        self._ask_nodes(time.monotonic())

    def close(self) -> None:
        """Give back what was not handed over, and hang up."""
        if not self._transport.lost and not self.lines.is_closed:
            until = time.monotonic() + CLOSING
            try:
                while any(one.is_sent for one in self._claimed.values()):
                    if time.monotonic() > until:
                        break
                    if self.lines.readable(0.02):
                        self.lines.hear()
                        self.read()
                for one in self._claimed.values():
                    one.pass_on()
                self._buffer.give_back()
                self.chores.leave()
            except (server.RedisError, OSError, AtomqError) as error:
                log.debug("while hanging up: %s", error)
        self._buffer.give_back()
        for one in self._claimed.values():
            one.claims.give_up()
        self._on_socket(None)
        self.lines.close()


def _ignore(_: Any) -> None:
    """An answer, or an error, that changes nothing."""
