"""What one connection asks the server for, and what it makes of the answers, over one socket.

The socket is either waiting for a claim's answer, or blocked on tokens, or only listening to
broadcasts. A connection that breaks is replaced without a word to Celery, if it can be.

The rooms below: `line.py` has the socket, `demand.py` knows which channels have room, `claims.py`
has the claim under way, `looks.py` looks for what no token tells of, `watch.py` hears of stock
producers, `popped.py` and `broadcasts.py` hand over what has no lease, and `chores.py` does what is
due once a second.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from redis import exceptions as server

from atomq.contrib.kombu.broadcasts import Broadcasts
from atomq.contrib.kombu.chores import Chores
from atomq.contrib.kombu.claims import Claims
from atomq.contrib.kombu.demand import Demand
from atomq.contrib.kombu.line import Socket
from atomq.contrib.kombu.looks import Looker
from atomq.contrib.kombu.popped import Popped
from atomq.contrib.kombu.rights import CLAIM, LISTEN, WAIT
from atomq.contrib.kombu.watch import LINGER, Watch
from atomq.contrib.kombu.worker import stopping
from atomq.conversation import PUSHED, UNREAD, Command, is_unblocked, unblocking
from atomq.errors import AtomqError, PermissionDenied
from atomq.keys import is_queue_key

if TYPE_CHECKING:
    from atomq.contrib.kombu.broker import Broker
    from atomq.contrib.kombu.channel import Channel
    from atomq.contrib.kombu.hand_over import HandOver

log = logging.getLogger("atomq.kombu")

# Seconds a wait lasts, and the server ends it up to 0.07 s late: an expired lease is offered again
# within a second.
CAP = (0.75, 0.9)
PATIENCE = 5.0  # seconds an answer may be late before the connection counts as dead
QUICK = 1.0  # seconds a connection must have lasted to be replaced without a word to Celery
GONE = (server.ConnectionError, server.TimeoutError, server.InvalidResponse, OSError)


class Intake:
    """Claims, waits and subscriptions of one transport. Belongs to one thread."""

    def __init__(self, transport: Any, buffer: HandOver) -> None:
        """`buffer` takes the messages that are claimed."""
        self._transport = transport
        self._broker: Broker = transport.broker
        self._buffer = buffer
        self.socket = Socket(self._broker.engine)
        self.has_read = False
        """Whether something was read since the event loop looked what is readable."""
        self.blocked: Sequence[str] = ()
        """The keys that the server waits on for us."""
        self._until = 0.0  # when the server must have answered what is under way
        self._broadcasts = Broadcasts(transport)
        self._popped = Popped(transport)
        self.demand = Demand(transport, buffer, self._popped)
        self.claims = Claims(transport, buffer, self._send, self._got_nothing)
        self.watch = Watch(self._broker, self._send, self.claims.hot.add)
        self.looker = Looker(self._broker, self._send, self.claims.found)
        self._able: tuple[Channel, ...] = ()
        self.unable_since = inf
        """Since when it watches queues from which it can take nothing (monotonic)."""
        self.chores = Chores(transport)

    # ── what the poller says and asks ─────────────────────────────────────────────────────────

    def began(self, queue: str) -> None:
        """A consumer came: look into its queue, listen to its broadcasts."""
        self.claims.hot.add(queue)
        self.claims.chores_at = 0.0  # registered before the claim
        self.watch.election.want(queue)
        self.subscribe()

    def ended(self, queue: str) -> None:
        """A consumer went: nothing is claimed for it any more. Sends nothing."""
        self.claims.hot.discard(queue)
        self.looker.times.forget(queue)

    def leave(self, queue: str) -> None:
        """A consumer went: wait for its messages no more."""
        if self.socket.line is None:
            return
        self.subscribe()
        keys = self._broker.keys(queue)
        if not {keys.wake, *keys.ready}.isdisjoint(self.blocked):
            self.withdraw()
        if not any(queue in ch.claimed_queues() for ch in self._transport.channels):
            self.chores.drop(queue)

    def attach(self, on_socket: Callable[[int | None], None]) -> None:
        """Call `on_socket` with each file number to watch, with None when there is none."""
        self.socket.watch(on_socket)

    @property
    def is_open(self) -> bool:
        """Whether there is anything to read from."""
        return self.socket.line is not None

    @property
    def next_at(self) -> float:
        """When there is something to do though nothing is heard (monotonic)."""
        return min(self.claims.due_at, self.unable_since + LINGER)

    def has_news(self) -> bool:
        """Whether something came that was not taken in."""
        # Another callback of this turn may have taken it in. To ask each time would cost a poll.
        if self.socket.line is None or (self.has_read and not self.can_read(0)):
            return False
        self.has_read = True
        return True

    def begin_task(self) -> None:
        """The thread works on a task now, and hears nothing meanwhile."""
        self.watch.election.begin()
        if self.claims.due_at != inf:
            self.claims.begin_task()

    def end_task(self) -> None:
        """The task is done."""
        self.watch.election.end()
        self.claims.end_task()

    def close(self) -> None:
        """Give back what was not handed over, pass a wake-up on, and hang up."""
        if self.socket.line is None:
            return
        if not self._transport.lost:
            try:
                self._settle_claim()
                self.withdraw()
                for call in self.watch.resign():
                    self._broker.engine.run(call)
                self._buffer.give_back()
                self.chores.leave()
            except (server.RedisError, OSError, AtomqError) as error:
                log.debug("while hanging up: %s", error)
        self._buffer.give_back()
        self._hang_up()
        self.claims.give_up()

    def _hang_up(self) -> None:
        self.socket.hang_up()
        self.blocked = ()
        self._broadcasts.forget()
        self.watch.disconnected()
        self.looker.disconnected()

    def _settle_claim(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.claims.under_way and time.monotonic() < deadline:
            if self.can_read(0.1):
                self.read()

    def _send(self, purpose: Any, command: Command) -> None:
        """Send a command, packed or not. `purpose`: CLAIM, WAIT, or a function of the answer."""
        try:
            (self.socket.line or self.socket.connected()).say(command, purpose)
        except GONE as error:
            self._broken(error)

    def can_read(self, seconds: float) -> bool:
        """Whether an answer, or a part of one, comes within so many seconds."""
        line = self.socket.line
        try:
            return line is not None and line.readable(seconds)
        except GONE as error:
            self._broken(error)
            return False

    # ── claiming and waiting ──────────────────────────────────────────────────────────────────

    def pump(self) -> None:
        """Send what there is to send: a claim if there is room and work, else the wait for work."""
        now, self.has_read = time.monotonic(), False
        claims = self.claims
        if self.socket.is_outdated:
            self._renew_socket()
        if now > self._until and (claims.under_way or self.blocked):
            self._overdue()
        if claims.under_way or now < claims.rests_until:
            return
        is_time, is_due = now >= claims.chores_at, now >= claims.due_at
        may_look = not self.blocked and now >= self.looker.times.next_at
        rooms = self.demand.rooms(least=is_time or is_due or may_look or claims.has_found)
        if rooms and stopping():
            rooms = {}
        if is_due:
            self._leave_due(claims.fall_due(), rooms)
        if is_time:
            self._do_chores(now)
        if may_look and rooms:  # also while there is always something to claim from some queues
            able = {name for channel in rooms for name in channel.claimed_queues()}
            for name in self.looker.look(able - claims.hot, now):
                self.watch.election.want(name)
        for channel, room in rooms.items():
            queues = [name for name in channel.ordered() if name in claims.hot]
            if queues:
                self._send_claim(channel, queues, room)
                return
        channels = tuple(rooms)
        # The event loop asks at every turn: mostly nothing has changed.
        if (
            channels != self._able
            or now >= self.unable_since + LINGER
            or self.demand.waits.get(channels) != self.blocked
        ):
            self._block(channels)

    def _leave_due(self, due: Collection[str], able: Collection[Channel]) -> None:
        """What fell due and cannot be taken here is for another consumer, which does not know."""
        here = {name for channel in able for name in channel.claimed_queues()}
        for name in due:
            if name not in here:
                self.claims.pass_on(self._broker.keys(name).wake)

    def _renew_socket(self) -> None:
        if self.socket.has_moved:
            self._broken(server.ConnectionError("there is another master"))
        # Over this connection, so that nothing it waits for is lost. Behind a wait it is sent at
        # the latest a second later. If it is refused the connection is made anew.
        if credentials := self.socket.new_credentials():
            self._send(_ignore, ("AUTH", *credentials))

    def _do_chores(self, now: float) -> None:
        self.claims.chores_at = now + random.uniform(*CAP)
        try:
            self.chores.turn()
        except PermissionDenied as error:
            self.claims.denied(CLAIM, error)

    def _send_claim(self, channel: Channel, queues: list[str], room: int) -> None:
        self.withdraw()
        now = time.monotonic()
        self.watch.election.claimed(queues)
        self.looker.times.claimed(queues, now)
        self._until = now + PATIENCE
        self.claims.send(channel, queues, room)

    def _got_nothing(self, queues: Collection[str]) -> None:
        for name in queues:  # what woke it may be one that left the watch to others
            self.watch.election.want(name)

    def _block(self, able: tuple[Channel, ...]) -> None:
        keys = self.demand.keys(able)
        self._linger(able)
        if keys == self.blocked:
            return
        if self.blocked:
            self.withdraw()
            self.pump()
            return
        if keys:
            # The server's own timer ends the wait: whatever was missed is found within a second.
            now, seconds = time.monotonic(), random.uniform(*CAP)
            if able:
                queues = [name for channel in able for name in channel.claimed_queues()]
                seconds = min(seconds, max(0.01, self.looker.times.next_of(queues) - now))
                self.watch.arm(queues)
            self.blocked = keys
            self._until = now + seconds + PATIENCE
            self._send(WAIT, ("BRPOP", *keys, round(seconds, 3)))

    def _linger(self, able: tuple[Channel, ...]) -> None:
        """Leave the watch of queues from which no more can be taken here to others, after a while.

        Until then what the server tells of them is passed on.
        """
        now = time.monotonic()
        if able != self._able:
            self._able = able
            queues = {name for channel in able for name in channel.claimed_queues()}
            if not self.watch.election.has_more(queues):
                self.unable_since = inf
            elif self.unable_since == inf:
                self.unable_since = now
        if now >= self.unable_since + LINGER:
            self.unable_since = inf
            self.resign(staying={name for channel in able for name in channel.claimed_queues()})

    def resign(self, staying: Collection[str] = ()) -> None:
        """Leave the watch of all queues but `staying`, from which no more can be taken here."""
        resigning = self.watch.resign(staying)
        if resigning:
            self.withdraw()  # behind the wait they would wait
        for call in resigning:
            self.watch.send(call)

    def subscribe(self) -> None:
        """Listen to the broadcasts that are consumed now, and to looks at queues."""
        new, old = self._broadcasts.changed()
        looks = self.looker.channels(self.demand.claimed())
        if not (new or old or looks):
            return
        self._settle_claim()
        self.withdraw()
        try:
            if new:
                self.socket.connected().subscribe("PSUBSCRIBE", new, LISTEN)
            if old:
                self.socket.connected().subscribe("PUNSUBSCRIBE", old, _ignore)
            if looks:
                self.socket.connected().subscribe("SUBSCRIBE", looks, _ignore)
        except GONE as error:
            self._broken(error)

    def withdraw(self) -> None:
        """End the wait in the server; what it had got after all is taken in."""
        is_asked, pause = False, UNREAD
        while self.blocked and (line := self.socket.line) is not None:
            if not (is_asked or line.talk.expects is not WAIT or self.can_read(0)):
                if self.socket.line is not line:
                    return  # it broke, and so did the wait
                ask = unblocking(line.wire.hello.get(b"id"))
                try:
                    is_asked = bool(self._broker.engine.command(*ask)) or pause > CAP[1]
                except AtomqError as error:
                    # Not permitted, or not there: the server's own timer ends the wait soon.
                    log.debug("CLIENT UNBLOCK: %s", error)
                    is_asked = True
                if not is_asked:  # the wait is not read yet, or its answer is under way
                    self.can_read(pause)
                    pause *= 2
                    continue
            self.read()

    @property
    def has_answer(self) -> bool:
        """Whether an answer was taken in already. A selector knows only what the system holds."""
        return self.socket.line is not None and self.socket.line.has_answer

    def hear(self) -> None:
        """Take in what has come over the socket, which is readable."""
        try:
            assert self.socket.line is not None
            self.socket.line.hear()
        except GONE as error:
            self._broken(error)

    # ── answers ───────────────────────────────────────────────────────────────────────────────

    def read_on(self) -> bool:
        """Take in what has come, up to what is to be handed over; True if that is done already."""
        is_done = self.read()
        while self.has_answer and not is_done and not self._buffer:
            is_done = self.read()
        return is_done

    def read(self) -> bool:
        """Take in one answer or push, which is waited for; True if it was handed over at once."""
        self.has_read = True
        try:
            assert self.socket.line is not None
            purpose, reply = self.socket.line.answer()
        except GONE as error:
            self._broken(error)
            return False
        if purpose is PUSHED:
            return self._pushed(reply)
        if isinstance(reply, GONE):
            self._broken(reply)
            return False
        if purpose is CLAIM:
            self.claims.answered(reply)
            return False
        if purpose is WAIT:
            return self._waited(reply)
        if purpose is LISTEN:
            return self._listens(reply)
        purpose(reply)
        return False

    def _waited(self, reply: Any) -> bool:
        self.blocked = ()
        if isinstance(reply, server.NoPermissionError):
            text = f"this user may not wait for messages: {reply}"
            self.claims.denied(WAIT, PermissionDenied(text))
            return False
        if is_unblocked(reply):
            return False
        if isinstance(reply, Exception):
            # It was broken off: the master became a replica, the type is wrong, …
            self._broken(server.ConnectionError(str(reply)))
            return False
        self._broker.rights.grant(WAIT)
        if not reply:
            return False
        return self._woken(reply[0].decode(), reply[1])

    def _listens(self, reply: Any) -> bool:
        """PSUBSCRIBE was answered; True if it was granted: stock's drain_events() ends with it."""
        if isinstance(reply, Exception):
            text = f"this user may not listen to broadcasts: {reply}"
            self.claims.denied(LISTEN, PermissionDenied(text))
            self._broken(server.ConnectionError(str(reply)))  # and is subscribed on the next one
            return False
        self._broker.rights.grant(LISTEN)
        return True

    def _woken(self, key: str, value: bytes) -> bool:
        source = self.demand.source(key)
        if source is not None and source.is_popped:
            self._popped.hand_over(key, source.queue, value)
            return True
        if source is not None:
            self.claims.hot.add(source.queue)
        elif is_queue_key(key) is None:
            self._popped.put_back(key, value)
        else:
            self.claims.pass_on(key)
        return False

    def _pushed(self, push: list[Any]) -> bool:
        if push[0] == b"invalidate":
            able = {name for ch in self.demand.rooms() for name in ch.claimed_queues()}
            lists = None if push[1] is None else [key.decode() for key in push[1]]
            # Another program changed these lists: claim, or let another consumer claim.
            for name in self.watch.election.changed(lists) & self.demand.claimed():
                self.claims.hot.add(name)
                if name not in able:
                    self.claims.pass_on(self._broker.keys(name).wake)
            return False
        if push[0] == b"message":
            self.looker.heard(push[1].decode(), push[2].decode())
            return False
        if push[0] != b"pmessage":
            return False
        return self._broadcasts.hand_over(push[1].decode(), push[2], push[3])

    # ── health ────────────────────────────────────────────────────────────────────────────────

    def _overdue(self) -> None:
        # A program that drains by hand may have been away for long: the answer lies here.
        if self.can_read(0):
            return
        self._broken(server.ConnectionError("the broker did not answer in time"))

    def _broken(self, error: Exception) -> None:
        """The socket is of no use any more: make another, or raise `error`.

        Celery drops what it has reserved when a connection is lost, so it does not hear of one that
        can be replaced at once. One that breaks again right away is not replaced in silence,
        unless it broke under a claim that got something: that may have been too large for it.
        """
        quick = self.socket.lasted() < QUICK
        if (quick and not self.claims.under_way) or not self._reopened(quick=quick):
            self.give_up()
            raise error
        log.info("the connection was lost and made again: %s", error)

    def _reopened(self, *, quick: bool) -> bool:
        """Connect anew, subscribe, and get the answer to the claim that was outstanding.

        That comes over a line of the engine's: where broadcasts are heard, the server cuts off
        whatever exceeds its `client-output-buffer-limit pubsub`, so also a large message.
        """
        self._hang_up()
        try:
            line = self.socket.connected()
            if patterns := self._broadcasts.changed()[0]:
                line.subscribe("PSUBSCRIBE", patterns, LISTEN)
            if looks := self.looker.channels(self.demand.claimed()):
                line.subscribe("SUBSCRIBE", looks, _ignore)
            if self.claims.under_way and not self.claims.ask_again() and quick:
                return False
        except (*GONE, AtomqError) as error:
            log.debug("and could not be made again: %s", error)
            return False
        self.claims.chores_at = 0.0
        self.claims.found(self.demand.claimed())
        return True

    def give_up(self) -> None:
        """The connection is gone: nothing is given back, what is held stays held."""
        self._transport.lost = True
        self.chores.lost()
        self.claims.give_up()
        self._buffer.clear()
        self._hang_up()


def _ignore(_: Any) -> None:
    """An answer, or an error, that changes nothing."""
