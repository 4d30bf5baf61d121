"""What one connection receives: claims, wake-ups and broadcasts, over one socket of its own.

The socket is either waiting for a claim's answer, or blocked on tokens, or only listening to
broadcasts; whatever comes makes it readable, so an event loop can watch it and a blocking caller
can wait on it. Everything is handed over from `on_readable`: what Celery does in there is seen by
its loop before it sleeps again.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any
from weakref import WeakSet

from redis import exceptions as server

from atomq import calls, wires
from atomq.calls import Call, Claimed
from atomq.contrib.fleet import Registration
from atomq.contrib.kombu.broadcasts import Broadcasts, payload_of
from atomq.contrib.kombu.channel import Channel
from atomq.contrib.kombu.consuming import MOST_CLAIMED
from atomq.contrib.kombu.declaring import is_reply_queue
from atomq.contrib.kombu.hand_over import HandOver
from atomq.contrib.kombu.line import Line
from atomq.contrib.kombu.stock import Restore, Watch
from atomq.contrib.kombu.waker import Waker
from atomq.contrib.kombu.worker import (
    acks_between_drains,
    forgotten,
    in_gevent_hub,
    runs_in_delivery,
    stopping,
)
from atomq.conversation import PUSHED
from atomq.errors import AtomqError, InvalidMessage, PermissionDenied, ServerFull
from atomq.flows import clock
from atomq.keys import QueueKeys, is_queue_key

log = logging.getLogger("atomq.kombu")

Taken = dict[str, list[str]]  # receipts whose acks ride along, by queue

# Seconds a wait lasts, and the server ends it up to 0.07 s late: an expired lease is offered again
# within a second.
CAP = (0.75, 0.9)
PATIENCE = 5.0  # seconds an answer may be late before the connection counts as dead
TURN = 0.005  # seconds of handing over in one turn of the event loop: as late as acks may be
NAP = (0.001, 0.1)  # seconds, the least and the most, between two looks for acks to be sent
FORBIDDEN = 15.0  # seconds for which a right that was there may be missing
REST = 0.5  # seconds between two tries meanwhile
QUICK = 1.0  # seconds a connection must have lasted to be replaced without a word to Celery
GONE = (server.ConnectionError, server.TimeoutError, server.InvalidResponse, OSError)
_CLAIM, _WAIT, _LISTEN = "claim", "wait for messages", "listen to broadcasts"
_pollers: WeakSet[Poller] = WeakSet()


def let_go() -> None:
    """Give back what no connection of this process has handed over yet."""
    for poller in list(_pollers):
        poller.let_go()


class Poller:
    """The receiving side of one transport. Belongs to one thread."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._broker = transport.broker
        self._line: Line | None = None
        self._has_read = False  # since the event loop looked what is readable
        self._opened = 0.0
        self._moves = self._era = 0
        self._claim: tuple[Channel, Call[Claimed], Taken] | None = None
        self._blocked: tuple[str, ...] = ()
        self._rests_until = 0.0  # this user was refused what it might before
        self._claimed_at = 0.0  # when the claim was sent for the first time
        self._until = 0.0  # when what is outstanding must have been answered
        self._hot: set[str] = set()  # queues that may have something to claim
        self._due_at = float("inf")
        self._buffer = HandOver(self._broker)
        self._broadcasts = Broadcasts(transport)
        self._on_socket: Callable[[int | None], None] = lambda _: None
        self._waker: Waker | None = None
        self._all_at = 0.0
        self._handed_at = 0.0
        self._watch = Watch(self._broker)
        self._restore = Restore(self._broker, transport.settings)
        name = f"{self._broker.ids.prefix}-{id(self):x}"
        shared = transport.settings.shared()
        self._registration = Registration(
            self._broker.engine, name, shared, self._broker.attendance
        )
        self._tracking: bool | None = None  # None: not tried on this connection
        _pollers.add(self)
        # Kept until consumers change, for the event loop asks at every turn.
        self._claimers: list[Channel] | None = None
        self._waits: dict[tuple[Channel, ...], tuple[str, ...]] = {}
        self._popped: dict[str, tuple[str, int]] = {}
        """Queue and step of each ready list that is, or was, popped from."""

    # ── what channels say ─────────────────────────────────────────────────────────────────────

    def regroup(self) -> None:
        """What a channel claims from or pops from is not what it was."""
        self._claimers = None
        self._waits.clear()

    def changed(self, keys: QueueKeys) -> None:
        """A consumer came: look into its queue, listen to its broadcasts."""
        self._hot.add(keys.name)
        self._all_at = 0.0  # say that we are here before we claim
        self._subscribe()

    def cancelled(self, channel: Channel, queue: str) -> None:
        """A consumer went: what was claimed for it and not handed over goes back."""
        self._hot.discard(queue)
        if in_gevent_hub():
            return  # a signal handler of a worker that stops: all of this is done when it hangs up
        try:
            if stopping() and not self._transport.lost:
                channel.qos.give_back_unbegun()
            self._buffer.give_back(
                lambda one: one.channel is channel and one.delivery.queue == queue
            )
            if self._line is not None and not self._transport.lost:
                self._subscribe()
                keys = self._broker.keys(queue)
                if not {keys.wake, *keys.ready}.isdisjoint(self._blocked):
                    self.withdraw()
                if not any(queue in ch.claimed_queues() for ch in self._transport.channels):
                    self._registration.drop(queue)
        except (server.RedisError, OSError, AtomqError) as error:
            if not channel.closed:
                raise
            log.debug("while closing a channel: %s", error)  # it must get to its end

    def forget(self, channel: Channel) -> None:
        """A channel closes."""
        self.regroup()
        self._buffer.give_back(lambda one: one.channel is channel)

    def let_go(self) -> None:
        """The worker stops: give back what waits here to be handed over. For any thread."""
        self._buffer.let_go()

    # ── the socket ────────────────────────────────────────────────────────────────────────────

    def watch(self, on_socket: Callable[[int | None], None], waker: Waker) -> None:
        """Tell `on_socket` the file number to watch, and None when there is none any more.

        While `waker` is set, `on_waker` is to be called too.
        """
        self._on_socket, self._waker = on_socket, waker
        if self._line is not None:
            on_socket(self._line.wire.fileno())

    def _connected(self) -> Line:
        if self._line is None:
            self._moves, self._era = self._broker.engine.moves, self._broker.engine.era
            self._line = Line(wires.taken(self._broker.engine.connection()))
            self._opened = time.monotonic()
            self._on_socket(self._line.wire.fileno())
        return self._line

    def close(self) -> None:
        """Give back what was not handed over, pass a wake-up on, and hang up."""
        if self._line is None:
            return
        if not self._transport.lost:
            try:
                self._settle_claim()
                self.withdraw()
                for call in self._watch.resign():
                    self._broker.engine.run(call)
                self._buffer.give_back()
                self._registration.leave()
            except (server.RedisError, OSError, AtomqError) as error:
                log.debug("while hanging up: %s", error)
        self._buffer.give_back()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._line is not None:
            self._on_socket(None)
            self._line.wire.close()
        self._line, self._claim, self._blocked = None, None, ()
        self._broadcasts.forget()
        self._tracking = None

    def _settle_claim(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._claim is not None and time.monotonic() < deadline:
            if self._can_read(0.1):
                self._read()

    # ── sending ───────────────────────────────────────────────────────────────────────────────

    def pump(self) -> None:
        """Send what there is to send: a claim if there is room and work, else the wait for work."""
        now, self._has_read = time.monotonic(), False
        if self._line is not None and self._moves != self._broker.engine.moves:
            self._broken(server.ConnectionError("there is another master"))
        if self._line is not None and self._era != self._broker.engine.era:
            self._log_in_again()
        if now > self._until and (self._claim is not None or self._blocked):
            self._overdue()
        if self._claim is not None or now < self._rests_until:
            return
        look = now >= self._due_at or now >= self._all_at
        channels = self._claiming(least=look)
        if channels and stopping():
            channels = {}
        if look:
            self._due_at = float("inf")
            self._all_at = now + random.uniform(*CAP)
            self._hot.update(name for channel in channels for name in channel.claimed_queues())
            self._look_beside()
        for channel, room in channels.items():
            queues = [name for name in channel.ordered() if name in self._hot]
            if queues:
                if self._blocked:
                    self.withdraw()
                self._send_claim(channel, queues, room)
                return
        self._block(channels)

    def _log_in_again(self) -> None:
        """Use the provider's new token, over this connection: nothing that it waits for is lost.

        Behind a wait it is sent at the latest a second later. If it is refused the connection is
        made anew.
        """
        self._era = self._broker.engine.era
        provider = self._line.wire.credential_provider if self._line is not None else None
        if provider is not None:  # without one another master is about to be announced
            self._send(_forget, "AUTH", *provider.get_credentials())

    def _look_beside(self) -> None:
        """Once a second: say what is consumed here, take over what others left, or Celery."""
        for message in forgotten(self._broker.keeper.lease_ms / 1000):
            log.warning("%s is given back: Celery forgot it when its task failed", message.delivery)
            message.requeue()
        queues = [
            (channel, name)
            for channel in self._transport.channels
            for name in channel.claimed_queues()
        ]
        if queues:
            self._registration.refresh([name for _, name in queues])
            try:
                self._restore.turn(*queues[0])
            except PermissionDenied as error:
                self._denied(_CLAIM, error)
        for channel in self._transport.channels:
            for name in channel.popped_queues():
                if not is_reply_queue(name):
                    self._broker.attendance.pass_by(name)

    def _claiming(self, *, least: bool = False) -> dict[Channel, int]:
        """Channels with room that is worth a call, or with any; how much that is."""
        if self._claimers is None:
            self._claimers = [ch for ch in self._transport.channels if ch.claimed_queues()]
        found: dict[Channel, int] = {}
        if self._broker.keeper.stands_still():
            return found
        for channel in self._claimers:
            room = channel.room(self._buffer.count(channel) if self._buffer else 0, least=least)
            if room and not channel.closed:
                found[channel] = room
        return found

    def _send_claim(self, channel: Channel, queues: list[str], room: int) -> None:
        acks = {name: self._broker.keeper.acks.take(name) for name in queues}
        call = self._broker.claim(queues, min(room, MOST_CLAIMED), acks)
        if not channel.qos.prefetch_count:
            channel.pace()
        self._hot.difference_update(queues)
        self._track_no_more()
        self._claim = (channel, call, acks)
        self._claimed_at = clock()
        self._until = time.monotonic() + PATIENCE
        self._send(_CLAIM, *call.command())

    def _block(self, channels: Iterable[Channel]) -> None:
        able = tuple(channels)
        keys = self._waits.get(able)
        if keys is None:
            keys = self._waits[able] = self._wanted(able)
        if keys == self._blocked:
            if not keys:
                self._resign()
            return
        if self._blocked:
            self.withdraw()
            self.pump()
            return
        queues = [name for channel in able for name in channel.claimed_queues()]
        self._resign(staying=queues)
        if keys:
            # The server's own timer ends the wait: whatever was missed is found within a second.
            seconds = random.uniform(*CAP)
            self._arm(queues)
            self._blocked = keys
            self._until = time.monotonic() + seconds + PATIENCE
            self._send(_WAIT, "BRPOP", *keys, round(seconds, 3))

    def _wanted(self, channels: Iterable[Channel]) -> tuple[str, ...]:
        """What to wait for: tokens of what these channels claim, and whatever is popped."""
        wanted = [
            self._broker.keys(name).wake
            for channel in channels
            for name in channel.claimed_queues()
        ]
        for channel in self._transport.channels:
            for name in channel.popped_queues():
                for step, key in enumerate(self._broker.keys(name).ready, 1):
                    wanted.append(key)
                    self._popped[key] = name, step
        return tuple(dict.fromkeys(wanted))

    def _arm(self, queues: list[str]) -> None:
        """Stand for election as watcher. Who is has the server tell of the next change of lists."""
        for queue, command in self._watch.stand(queues):
            self._send(partial(self._elected, queue), *command)
        watched = self._watch.lists(queues)
        if not watched or self._tracking is False:
            return
        if self._tracking is None:
            self._tracking = True
            self._send(self._tracked, "CLIENT", "TRACKING", "ON", "NOLOOP")
        for lists in watched:
            self._send(partial(self._tracked, lists=lists), "EXISTS", *lists)  # by reading them

    def _track_no_more(self) -> None:
        """Before a claim: what its script reads is not to be tracked.

        For each key that a script reads, Redis up to 7.0 remembers all keys of the script, which is
        the square of the queues. https://github.com/redis/redis/issues/11770
        """
        if self._tracking:
            self._tracking = None
            self._send(_forget, "CLIENT", "TRACKING", "OFF")

    def _resign(self, staying: Collection[str] = ()) -> None:
        """Leave the watch of all queues but `staying`, from which no more can be taken here."""
        resigning = list(self._watch.resign(staying))
        if resigning:
            self.withdraw()  # behind the wait they would wait
        for call in resigning:
            self._send(partial(self._resigned, call), *call.command())

    def _resigned(self, call: Call[None], reply: Any) -> None:
        if isinstance(reply, server.NoScriptError):
            self._broker.engine.run(call)

    def _elected(self, queue: str, reply: Any) -> None:
        if isinstance(reply, server.ResponseError):  # the claim once a second finds it, too
            log.debug("no watcher of %s: %s", queue, reply)
            reply = None
        if self._watch.elected(queue, won=bool(reply)):
            self._hot.add(queue)  # what came before is not told of

    def _tracked(self, reply: Any, lists: list[str] | None = None) -> None:
        if isinstance(reply, server.ResponseError):
            log.debug("not watching for stock producers: %s", reply)
            self._tracking = False
        elif lists is not None and reply:
            self._stirred(lists, changed=False)

    def _send(self, purpose: Any, *command: Any) -> None:
        """Send a command. `purpose`: _CLAIM, _WAIT, or a function of the answer or error."""
        try:
            self._connected().say(command, purpose)
        except GONE as error:
            self._broken(error)

    def _subscribe(self) -> None:
        new, old = self._broadcasts.changed()
        if not (new or old):
            return
        self._settle_claim()
        self.withdraw()
        try:
            if new:
                self._connected().subscribe("PSUBSCRIBE", new, _LISTEN)
            if old:
                self._connected().subscribe("PUNSUBSCRIBE", old, _forget)
        except GONE as error:
            self._broken(error)

    def withdraw(self) -> None:
        """End the wait in the server; what it had got after all is taken in."""
        if not self._blocked or self._line is None:
            return
        is_asked = False
        while self._blocked and self._line is not None:
            if not (is_asked or self._line.talk.expects is not _WAIT or self._can_read(0)):
                is_asked = True
                self._unblock(self._line)
            self._read()

    def _unblock(self, line: Line) -> None:
        try:
            self._broker.engine.command("CLIENT UNBLOCK", line.wire.hello.get(b"id"))
        except AtomqError as error:
            # Not permitted, or not there: the server's own timer ends the wait soon.
            log.debug("CLIENT UNBLOCK: %s", error)

    # ── receiving ─────────────────────────────────────────────────────────────────────────────

    def on_readable(self) -> None:
        """Take in what came, hand over what can be, and send what comes next."""
        # Another callback of this turn may have taken it in. To ask each time would cost a poll.
        if self._line is None or (self._has_read and not self._can_read(0)):
            return
        self._has_read = True
        if not self._line.has_answer:
            try:
                self._line.hear()
            except GONE as error:
                self._broken(error)
        while True:
            if self._has_answer:
                self._read()
            if self._waker is None or not self._waker.is_set:
                self._hand_over()
            if not self._has_answer:
                return

    @property
    def _has_answer(self) -> bool:
        """Whether an answer was taken in already. A selector tells of what the system holds."""
        return self._line is not None and self._line.has_answer

    def on_waker(self) -> None:
        """Go on handing over what waits here, after what came meanwhile: somebody may say stop."""
        if self._line is not None and self._can_read(0):
            self.on_readable()
        self._hand_over()

    def _hand_over(self) -> None:
        """Hand over what waits here, for some time: then the loop sees to what came of it.

        A solo worker runs a task in there. It is acked by the loop, and may tell us to stop.
        """
        until = time.monotonic() + TURN
        try:
            while self._buffer and not stopping():
                self.deliver_one()
                if self._waker is not None and time.monotonic() > until:
                    break
        finally:  # a callback may raise, and the loop go on
            if self._waker is not None:
                self._waker.set(bool(self._buffer) and not stopping())

    def receive(self, timeout: float | None) -> bool:
        """Hand over one message or broadcast; False if none came within `timeout` seconds.

        A worker that acks between two calls is let go sooner, to see whether it has to: after a
        tenth of the time since it was handed something.
        """
        if acks_between_drains():
            nap = min(max((time.monotonic() - self._handed_at) / 10, NAP[0]), NAP[1])
            timeout = nap if timeout is None else min(timeout, nap)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._buffer and not stopping():
                self._handed_at = time.monotonic()
                self.deliver_one()
                return True
            self.pump()
            left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            wait = max(0.0, min(left, self._due_at - time.monotonic()))
            if self._line is None:
                time.sleep(min(wait, 0.1))
            elif self._can_read(wait) and self._read():
                return True
            late = deadline is not None and time.monotonic() >= deadline
            if late and (not self._buffer or stopping()):
                return False

    def deliver_one(self) -> None:
        """Hand over the oldest message that waits."""
        oldest = self._buffer.next()
        if oldest is None:
            return
        channel, delivery, now_ms = oldest
        if not delivery.lost:
            if runs_in_delivery(in_loop=self._waker is not None):
                self._resign()  # nothing is heard from here until it is done
            channel.deliver(delivery, now_ms)

    def _can_read(self, seconds: float) -> bool:
        try:
            return self._line is not None and self._line.readable(seconds)
        except GONE as error:
            self._broken(error)
            return False

    def _read(self) -> bool:
        """Take in one answer or push; True if something was handed over at once."""
        self._has_read = True
        try:
            purpose, reply = self._connected().answer()
        except GONE as error:
            self._broken(error)
            return False
        if purpose is PUSHED:
            return self._pushed(reply)
        if isinstance(reply, GONE):
            self._broken(reply)
            return False
        if purpose is _CLAIM:
            self._answered(reply)
            return False
        if purpose is _WAIT:
            return self._waited(reply)
        if purpose is _LISTEN:
            return self._listens(reply)
        purpose(reply)
        return False

    def _waited(self, reply: Any) -> bool:
        self._blocked = ()
        if isinstance(reply, server.NoPermissionError):
            text = f"this user may not wait for messages: {reply}"
            self._denied(_WAIT, PermissionDenied(text))
            return False
        if isinstance(reply, Exception):
            # It was broken off: the master became a replica, the type is wrong, …
            self._broken(server.ConnectionError(str(reply)))
            return False
        self._granted(_WAIT)
        if not reply:
            self._all_at = 0.0
            return False
        return self._woken(reply[0].decode(), reply[1])

    def _listens(self, reply: Any) -> bool:
        """PSUBSCRIBE was answered; True if it was granted: stock's drain_events() ends with it."""
        if isinstance(reply, Exception):
            text = f"this user may not listen to broadcasts: {reply}"
            self._denied(_LISTEN, PermissionDenied(text))
            self._broken(server.ConnectionError(str(reply)))  # and is subscribed on the next one
            return False
        self._granted(_LISTEN)
        return True

    def _answered(self, reply: Any) -> None:
        """The claim was answered, or refused."""
        assert self._claim is not None
        channel, call, acks = self._claim
        self._claim = None
        if not isinstance(reply, Exception):
            self._claimed(channel, call.parse(reply, call.repeated), acks)
            return
        # The engine knows what to do about scripts that are not loaded, and about passing trouble.
        try:
            claimed = self._broker.engine.run(call)
        except ServerFull as full:
            # It took nothing, and comes again within a second, as where nothing was to be had.
            self._put_back(acks)
            log.warning("claiming again within a second: %s", full)
            return
        except PermissionDenied as refused:
            self._put_back(acks)
            self._denied(_CLAIM, refused)
            return
        except BaseException:
            self._put_back(acks)
            self._broker.unanswered.append(call)
            raise
        self._claimed(channel, claimed, acks)

    def _denied(self, asked: object, error: PermissionDenied) -> None:
        """Raise this, unless the user might do it before: its rights may be changing just now.

        Then it is tried again for some seconds.
        """
        now, since = time.monotonic(), self._broker.denied.get(asked)
        if asked not in self._broker.granted or (since and now - since > FORBIDDEN):
            raise error
        if since is None:
            log.warning("trying again for %.0f s: %s", FORBIDDEN, error)
            self._broker.denied[asked] = now
        self._rests_until, self._all_at = now + REST, 0.0

    def _granted(self, asked: object) -> None:
        """The user may do this."""
        self._broker.granted.add(asked)
        self._broker.denied.pop(asked, None)

    def _put_back(self, acks: Taken) -> None:
        for queue, receipts in acks.items():
            self._broker.keeper.acks.put_back(queue, receipts)

    def _claimed(self, channel: Channel, claimed: Claimed, acks: Taken) -> None:
        keeper = self._broker.keeper
        self._granted(_CLAIM)
        deliveries = self._broker.hold(claimed, self._claimed_at)
        for queue, receipts in acks.items():
            missing = [receipt for name, receipt in claimed.lost_acks if name == queue]
            keeper.acks.answered(queue, receipts, missing)
        self._hot.update(claimed.more)
        if claimed.wait_ms is not None:
            self._due_at = min(self._due_at, time.monotonic() + claimed.wait_ms / 1000)
            self._transport.wake_in(claimed.wait_ms / 1000)
        self._buffer.add(channel, deliveries, claimed.now_ms)
        if channel.closed:  # meanwhile
            self._buffer.give_back(lambda one: one.channel is channel)
        elif deliveries:
            channel.rotate(deliveries[-1].queue)

    def _woken(self, key: str, value: bytes) -> bool:
        for channel in list(self._transport.channels):
            for name in channel.claimed_queues():
                if self._broker.keys(name).wake == key:
                    self._hot.add(name)
                    return False
            for name in channel.popped_queues():
                if key in self._broker.keys(name).ready:
                    self._pop(key, name, value)
                    return True
        if is_queue_key(key) is None:
            self._unpop(key, value)
        else:
            self._pass_on(key)
        return False

    def _stirred(self, lists: list[str], *, changed: bool = True) -> None:
        """Ready lists that somebody else changed: claim, or let another consumer claim.

        Not `changed`: there was something in them when we looked.
        """
        able = {name for channel in self._claiming() for name in channel.claimed_queues()}
        for channel in self._transport.channels:
            for name in channel.claimed_queues():
                keys = self._broker.keys(name)
                if any(key in lists for key in keys.ready):
                    self._hot.add(name)
                    # Only for what is new: who looked because of this would find the same again.
                    if changed and name not in able:
                        self._pass_on(keys.wake)

    def _pop(self, key: str, queue: str, raw: bytes) -> None:
        """A message that nobody will ack."""
        callback = self._transport._callbacks.get(queue)
        if callback is None:
            self._unpop(key, raw)
            return
        try:
            callback(payload_of(raw))
        except InvalidMessage as error:
            self._broker.dead_letter(queue, key, raw, error)

    def _unpop(self, key: str, raw: bytes) -> None:
        """What was popped for a consumer that has left goes back to where it was."""
        if is_reply_queue(key):
            log.debug("no client waits for this reply any more: %s", key)  # its list would stay
        else:
            queue, step = self._popped[key]
            self._broker.engine.run(calls.put_back(self._broker.keys(queue), raw, step=step))

    def _pass_on(self, key: str) -> None:
        """A token for a queue that is not consumed here any more."""
        full = is_queue_key(key)
        prefix = self._broker.engine.options.global_keyprefix
        if full is not None and full.startswith(prefix):
            self._broker.engine.run(self._broker.claim([full.removeprefix(prefix)], 0))

    def _pushed(self, push: list[Any]) -> bool:
        if push[0] == b"invalidate":
            self._stirred([key.decode() for key in push[1] or ()])
            return False
        if push[0] != b"pmessage":
            return False
        return self._broadcasts.hand_over(push[1].decode(), push[2], push[3])

    # ── health ────────────────────────────────────────────────────────────────────────────────

    def _overdue(self) -> None:
        # Who drains by hand may have been away for long: the answer lies here.
        if self._line is not None and self._can_read(0):
            return
        self._broken(server.ConnectionError("the broker did not answer in time"))

    def _broken(self, error: Exception) -> None:
        """The socket is of no use any more: make another, or raise `error`.

        Celery drops what it has reserved when a connection is lost, so it is not told of one that
        can be replaced at once. One that breaks again right away is not replaced in silence,
        unless it broke under a claim that got something: that may have been too large for it.
        """
        quick = time.monotonic() - self._opened < QUICK
        if (quick and self._claim is None) or not self._reopened(quick=quick):
            self._lost()
            raise error
        log.info("the connection was lost and made again: %s", error)

    def _reopened(self, *, quick: bool) -> bool:
        """Connect anew, subscribe, and get the answer to the claim that was outstanding.

        That comes over a line of the engine's: where broadcasts are heard, the server cuts off
        whatever exceeds its `client-output-buffer-limit pubsub`, so also a large message.
        """
        claim = self._claim
        self._hang_up()
        self._claim = claim
        try:
            line = self._connected()
            if patterns := self._broadcasts.changed()[0]:
                line.subscribe("PSUBSCRIBE", patterns, _LISTEN)
            if claim is not None:
                channel, call, acks = claim
                self._claim = (channel, call.again(), acks)
                claimed = self._broker.engine.run(self._claim[1])
                self._claim = None
                self._claimed(channel, claimed, acks)
                if quick and not claimed.deliveries:
                    return False
        except (*GONE, AtomqError) as error:
            log.debug("and could not be made again: %s", error)
            return False
        self._all_at = 0.0
        return True

    def _lost(self) -> None:
        """The connection is gone: nothing is given back, what is held stays held."""
        self._transport.lost = True
        self._registration.lost()
        if self._claim is not None:
            _, call, acks = self._claim
            self._put_back(acks)
            self._broker.unanswered.append(call)
        self._buffer.clear()
        self._hang_up()


def _forget(_: Any) -> None:
    """An answer, or an error, that changes nothing."""
