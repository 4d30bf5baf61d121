"""Behaviour of several steps, without I/O: generators over calls.

A flow asks, `answer = yield from ask(call)`: a `Call`, or one of the effects below. Each declares
the type of its answer, and mypy holds the flow to it. `Engine.run` and `AsyncEngine.run` drive the
same flow.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from atomq import arguments, calls, fork
from atomq.arguments import Seconds
from atomq.calls import Call, Claimed, Claims, DeadLettered, Verdict
from atomq.durability import Durability
from atomq.errors import (
    AtomqError,
    NotDurable,
    PermissionDenied,
    ScriptsNotLoaded,
    ServerFull,
    ServerUnavailable,
)
from atomq.keys import QueueKeys, RegisterKeys
from atomq.looking import Looked, Looks
from atomq.message import JSON, Delivery, Ids, Producers, Serializer
from atomq.options import Options

log = logging.getLogger("atomq.flows")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
BEYOND_RETRIES = 9  # the highest attempt a claim can have
AT_ONCE = 0.5  # seconds of work that are claimed at once
FOLLOW = 0.5  # seconds between two looks at how far a holder is
STILL = 0.02  # seconds between two looks whether it may claim again
NEVER = float("inf")
LASTS = 10  # times `wait_cap`: seconds after which the server ends a wait, for a client that died
ASIDE = 0.4  # seconds for which queues are left aside whose node is in trouble
AHEAD = 4  # a consumer of more queues claims only from the one whose token came, so behind the wait


class Effect(Generic[T_co]):
    """What a flow asks for besides script calls. `T_co` is the type of its answer."""

    __slots__ = ()


Answer = str | Claimed | Sequence[Looked] | None
"""To `Wait`."""


@dataclass(frozen=True, slots=True)
class Wait(Effect[Answer]):
    """Block until a token arrives on one of these lists, at most `seconds`.

    Answer: the list's name; or, at once, what was heard on the `channels` meanwhile; or None. The
    wait goes on in the server afterwards, so that no token falls between two waits; `Withdraw` ends
    it.

    `ahead` is a claim that may be sent right behind the wait, for the server to carry out at the
    moment the wait ends: a round trip less until the message is here. The answer is the claim's
    result instead of a list's name. The server ends such a wait when it `lasts` so many seconds;
    until then the next one with the same `ahead` goes on with it. It raises `ServerUnavailable` if
    there is no answer to the claim.
    """

    keys: tuple[str, ...]
    seconds: float
    ahead: Call[Claimed] | None = None
    lasts: float = 0.0
    channels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Withdraw(Effect["str | Claimed | None"]):
    """End the wait in the server. Answer: the list whose token it took after all, or None.

    Or the result of the claim that was sent behind it; and `ServerUnavailable`, as with `Wait`.
    """


@dataclass(frozen=True, slots=True)
class Listen(Effect["bytes | None"]):
    """Block until a message arrives on this channel, at most `seconds`; 0: only begin to listen.

    Answer: the message, or None.
    """

    channel: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Get(Effect["bytes | None"]):
    """Read a string. Answer: its bytes, or None."""

    key: str


@dataclass(frozen=True, slots=True)
class Together(Effect["list[T_co | AtomqError]"], Generic[T_co]):
    """Carry out these calls in one round trip. Answer: their results, or errors, in order."""

    calls: Sequence[Call[T_co]]


@dataclass(frozen=True, slots=True)
class Sleep(Effect[None]):
    """Do nothing for so many seconds. Answer: None."""

    seconds: float


class Stop(Protocol):
    """What tells a consumer to stop, once it is set: any of the standard library's events."""

    def is_set(self) -> bool:
        """Whether it is set."""
        ...


Question = Call[T] | Effect[T]
Flow = Generator[Question[Any], object, T]
"""What is sent in is an `object`: mypy refuses to use the answer of a bare `yield`. See `ask`."""


def ask(question: Question[T]) -> Flow[T]:
    """The answer to one call or effect, of the type that it declares."""
    answer = yield question
    return answer  # type: ignore[return-value] # the one place: each driver answers as declared


# Seconds by which the age of a lease is measured: they go on while the machine is suspended.
clock: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic
)


class Pace:
    """How much a consumer claims at once: half a second of work at the pace seen so far.

    It begins with one message and at most doubles from claim to claim, up to `most`. Of several
    `workers` each one that is free may have one message, whatever the pace. Raises
    `InvalidArgument` if `most` or `workers` is no number from 1 to 1,000.
    """

    def __init__(self, most: int, workers: int = 1) -> None:
        calls.check_limit(most)
        self._most = most
        self._workers = arguments.whole("concurrency", workers, 1, calls.MOST)
        self._worked: deque[float] = deque()
        self._seconds: float | None = None  # a message takes; of this the last batch is a half
        self._fit = 1
        self.free = workers
        """How many workers have nothing to do."""

    @property
    def workers(self) -> int:
        """How many messages are worked on at once."""
        return self._workers

    @property
    def limit(self) -> int:
        """How many messages to claim now."""
        return min(self._most, max(self.free, self._fit))

    def worked(self, seconds: float) -> None:
        """One of several workers worked for so long on one message. Any thread may say so."""
        self._worked.append(seconds)

    def took(self, seconds: float, messages: int) -> None:
        """So many messages were handed out, and the next one was asked for after so many seconds.

        Of several workers that tells little: what they `worked` counts.
        """
        if self._workers > 1:
            worked = [self._worked.popleft() for _ in range(len(self._worked))]
            seconds, messages = sum(worked) / self._workers, len(worked)
        if messages:
            last = seconds / messages
            self._seconds = last if self._seconds is None else (self._seconds + last) / 2
            most = min(self._most, 2 * max(self.free, self._fit))
            self._fit = max(1, min(most, int(AT_ONCE / max(self._seconds, 1e-6))))


class Acks:
    """Acks that may wait a moment, to ride along with the next claim. Any thread may add.

    What is taken is not forgotten until its call was answered: `put_back` if it was not. `waiting`
    is told when the first one comes to wait for a queue, `lost` of those that came too late.

    There is no lock: Python may run the finalizer of an abandoned consumer at any moment, which
    takes and adds in the midst of what its thread does here. Each step is one operation on a deque,
    a list, a set or a dict, which neither threads nor finalizers divide.
    """

    def __init__(
        self,
        waiting: Callable[[], None] = lambda: None,
        lost: Callable[[str, Sequence[str]], None] = lambda _, __: None,
    ) -> None:
        self._waiting = waiting
        self._lost = lost
        self.forked()
        fork.renew(self)

    def forked(self) -> None:
        """In a child process: they are the parent's."""
        self._receipts: dict[str, deque[str]] = {}
        self._since: dict[str, float] = {}
        self._under_way: list[str] = []  # the queue of each batch
        self._repeated: set[str] = set()

    def add(self, queue: str, receipt: str) -> None:
        """One more."""
        waiting = self._receipts.get(queue)
        if waiting is None:
            waiting = self._of(queue)
        first = not waiting
        waiting.append(receipt)
        if first or len(waiting) == 1:
            self._since[queue] = time.monotonic()
            self._waiting()

    def _of(self, queue: str) -> deque[str]:
        found = self._receipts.get(queue)
        return self._receipts.setdefault(queue, deque()) if found is None else found

    def take(self, queue: str) -> list[str]:
        """At most 1,000 of those that wait, oldest first."""
        waiting = self._receipts.get(queue)
        if not waiting:
            return []
        taken: list[str] = []
        self._under_way.append(queue)
        try:
            while waiting and len(taken) < calls.MOST:
                taken.append(waiting.popleft())
        except IndexError:
            pass  # another thread, or a finalizer, took the last one
        if not taken:
            self._arrived(queue)
        return taken

    def _arrived(self, queue: str) -> None:
        try:  # noqa: SIM105 - each claim comes here, and suppress() takes three times as long
            self._under_way.remove(queue)
        except ValueError:
            pass  # a forked child ends what its parent began

    def put_back(self, queue: str, receipts: Sequence[str]) -> None:
        """These were taken and not answered for: nobody knows whether they were carried out."""
        if receipts:
            self.send_again(queue, receipts)
            self._arrived(queue)

    def send_again(self, queue: str, receipts: Sequence[str]) -> None:
        """These were sent, and not answered for."""
        if receipts:
            self._repeated.update(receipts)
            self._since[queue] = 0.0
            self._of(queue).extendleft(reversed(receipts))
            self._waiting()

    def answered(self, queue: str, receipts: Sequence[str], missing: Sequence[str]) -> None:
        """These were taken and carried out; `missing` of them found nothing."""
        self._arrived(queue)
        if self._repeated:
            # Sent before, and maybe carried out then: that they find nothing says nothing.
            missing = [receipt for receipt in missing if receipt not in self._repeated]
            self._repeated.difference_update(receipts)
        if missing:
            self._lost(queue, missing)

    def waits(self, queue: str) -> bool:
        """Whether some wait for this queue."""
        return bool(self._receipts.get(queue))

    def under_way(self, queue: str) -> bool:
        """Whether some are taken and not answered for yet, by another thread maybe."""
        return queue in self._under_way

    def queues(self) -> list[str]:
        """The queues something waits for."""
        return [queue for queue, waiting in self._receipts.copy().items() if waiting]

    def since(self) -> float:
        """When the one that waits longest came (monotonic); inf: none waits."""
        return min([self._since.get(queue, 0.0) for queue in self.queues()], default=float("inf"))


class Company(Protocol):
    """What the process of a consumer holds, as far as it decides what may be claimed beside it.

    The server counts an end without a word against a message only if it was alone. Two such ends in
    company, and the message goes alone: nothing is claimed beside it until it is settled.
    """

    def company(self) -> int:
        """What a claim that is sent now has to say of it: see `calls.claim`."""
        ...

    def stands_still(self) -> bool:
        """Whether nothing is to be claimed now."""
        ...

    def drain(self, seconds: float, /) -> None:
        """The server asks it to claim nothing for so long, so as to come to hold nothing."""
        ...

    def accompanied(self) -> Sequence[Call[Any]]:
        """To be said to the server: what was alone and is not any more. Each is told once."""
        ...


class _Nothing:
    """Of a consumer that knows of no other, and counts on its messages being settled."""

    def company(self) -> int:
        return calls.SOLE

    def stands_still(self) -> bool:
        return False

    def drain(self, _seconds: float, /) -> None:
        return

    def accompanied(self) -> Sequence[Call[Any]]:
        return ()


class Aside(NamedTuple):
    """A group of queues that is not claimed from for a while."""

    until: float
    """Monotonic."""
    error: ServerUnavailable


Refused = Sequence[tuple[QueueKeys, Sequence[str]]]
"""Receipts by queue that may not be held beside what is held: they go back."""
ClaimedBy = Callable[[Claimed], Refused | None]


class Consumer:
    """One consumer of one or several queues: claims, waits, and carries acks along.

    It belongs to one thread or task. A forked child must make its own.
    """

    def __init__(
        self,
        queues: Sequence[QueueKeys],
        options: Options,
        acks: Acks | None = None,
        company: Company | None = None,
        *,
        fair: bool = False,
    ) -> None:
        """`fair`: no queue goes before another; else those of a server go in this order."""
        self.queues = list(queues)
        self.options = options
        self.acks = Acks() if acks is None else acks
        self._company: Company = _Nothing() if company is None else company
        self._ids = Ids()
        self._by_wake = {queue.wake: queue for queue in queues}
        self._wakes = tuple(self._by_wake)
        self._waiting = False
        self._served = False
        # Queues whose next due time was told to this consumer only, and when that is.
        self._minds: dict[str, float] = {}
        self._looks = Looks(options.wait_cap, self.name)
        self._found: set[str] | None = None  # when it looked; None: it did not
        self._unanswered: dict[str, tuple[Claims, str, int]] = {}  # by group
        self._ahead: tuple[Claims, str, int] | None = None
        self._unreported: list[DeadLettered] = []  # of which waiting clients are to hear
        self._first = random.randrange(len(self.queues)) if fair else 0
        self.asked = 0.0
        """When the last claim was sent for the first time, by `clock`: its leases are no older."""
        self._settings: dict[str, Any] = {
            "lease_ms": options.lease_ms,
            "renew_ms": calls.renewal_ms(options.lease_ms),
            "max_deliveries": options.max_deliveries,
            "max_bytes": options.max_bytes,
        }
        # In a cluster each queue has a slot of its own, and a claim has one slot.
        by_slot = any(queue.layout == "cluster" for queue in queues)
        groups = [[q] for q in self.queues] if by_slot else [self.queues]
        self._groups = [self._claims_on(group) for group in groups]
        self._several = len(groups) > 1
        self._takes_turns = fair and not self._several and len(queues) > 1
        self._aside: dict[str, Aside] = {}  # groups whose node is in trouble, by the first queue
        # In a cluster what is said on a channel goes to every node: each consumer looks for itself.
        self._by_channel = {} if by_slot else {queue.looked: queue.name for queue in queues}
        self._channels = tuple(self._by_channel)

    @property
    def name(self) -> str:
        """What its receipts begin with: the name of its process, and a number."""
        return self._ids.prefix

    def idle(self) -> float:
        """How many seconds ago it asked for messages."""
        return clock() - self.asked

    def _claims_on(self, queues: Sequence[QueueKeys]) -> Claims:
        return Claims(queues, **self._settings)

    def _group(self, claims: Claims) -> str:
        """What the claims of one group have in common."""
        return claims.names[0] if self._several else ""

    def claim(self, claims: Claims, limit: int) -> Flow[Claimed]:
        """A claim on some of its queues, with the acks that wait for them."""
        claim_id = self._ids.next()
        acks = [self.acks.take(name) for name in claims.names]
        self.asked = clock()
        try:
            company = self._company.company() if limit else calls.HOLDS
            call = claims.call(claim_id, limit, company=company, acks=acks)
            call.brief = self._several
            claimed = yield from ask(call)
        except BaseException as error:
            for name, receipts in zip(claims.names, acks, strict=True):
                self.acks.put_back(name, receipts)
            refused = isinstance(error, AtomqError) and not isinstance(error, ServerUnavailable)
            if limit and not refused:
                self._unanswered[self._group(claims)] = (claims, claim_id, limit)
            raise
        for name, receipts in zip(claims.names, acks, strict=True):
            if receipts:
                lost = claimed.lost_acks
                missing = [receipt for queue, receipt in lost if queue == name] if lost else ()
                self.acks.answered(name, receipts, missing)
        self._note(claims, claimed)
        return claimed

    def _company_at(self, limit: int) -> int:
        return self._company.company() if limit else calls.HOLDS

    def _note(self, claims: Claims, claimed: Claimed) -> None:
        self._served = True
        if claimed.dead_lettered:
            self._unreported += claimed.dead_lettered
        now = time.monotonic()
        self._looks.claimed(claims.names, now)
        if claimed.wait_ms is not None:
            self._minds.update(dict.fromkeys(claims.names, now + claimed.wait_ms / 1000))
        elif self._minds:
            for name in claims.names:
                self._minds.pop(name, None)

    def _as_said(self, call: Call[T]) -> Call[T]:
        """Of several groups none waits long for the server of another."""
        call.brief = self._several
        return call

    def _give_back_unanswered(self, group: Claims) -> Flow[None]:
        """Undo a claim that got no answer at all: what it may hold goes back, uncounted."""
        unanswered = self._unanswered.get(self._group(group))
        if unanswered is None:
            return
        claims, claim_id, limit = unanswered
        call = claims.call(claim_id, limit, company=self._company_at(limit))
        for _ in range(BEYOND_RETRIES):
            call = call.again()
        claimed = yield from ask(self._as_said(call))
        del self._unanswered[self._group(group)]
        self._unreported += claimed.dead_lettered
        for queue in claims.queues:
            held = [(d.receipt, "") for d in claimed.deliveries if d.queue == queue.name]
            yield from give_back(queue, held)

    def _tell(self) -> Flow[None]:
        """Report what its claims made dead letters to clients that wait for results. Does not fail.

        Reporting it twice changes nothing: what was interrupted, or found no server, is done the
        next time.
        """
        if not self._unreported:
            return
        try:
            for queue in self.queues:
                died = [(b.id, b.reason) for b in self._unreported if b.queue == queue.name]
                items = [(i, calls.failed(i, reason)) for i, reason in died if i]
                for some in batches(items):
                    yield from ask(calls.tell(queue, some, ttl_ms=self.options.result_ttl_ms))
        except ServerUnavailable as error:
            log.info("who waits for what died is told later: %s", error)
            return
        except AtomqError as error:
            log.warning("who waits for what died is not told: %s", error)
        self._unreported = []

    def receive(
        self,
        limit: int,
        timeout: Seconds | None,
        claimed_by: ClaimedBy = lambda _: None,
        *,
        patient: bool = False,
        stop: Stop | None = None,
    ) -> Flow[list[Delivery]]:
        """Up to `limit` messages; waits for the first at most `timeout` seconds (None: for ever).

        `claimed_by` is told of every claim before the messages are handed over, and answers which
        of them are not to be. With `patient` a server that is full, or served before and is away
        now, is waited for, like a message. Once `stop` is set nothing is waited for any more; that
        is looked at between two waits, of a second at most.
        """
        deadline = deadline_of(timeout)
        wanted: set[str] | None = None  # queues that have something; None: maybe all
        claimed: Claimed | None = None  # what was sent ahead got
        while True:
            # What is nearly never to be done is asked for here: a flow that ends at once costs too.
            is_held_up = self._ahead is not None or self._company.stands_still()
            if is_held_up and not (yield from self._may_claim(deadline, stop, claimed)):
                return []
            try:
                got, more = yield from self._claim_from(wanted, limit, claimed_by, claimed)
                wanted = claimed = None
            except (ServerUnavailable, ServerFull) as error:
                if not patient or not self._is_waited_for(error, deadline):
                    raise
                if is_set(stop):
                    return []
                wanted = None
                yield from ask(Sleep(random.uniform(0.2, 1.0)))
                continue
            if self._unreported:
                yield from self._tell()
            if got:
                if self._waiting or self._minds:
                    yield from self._hand_over()
                return got
            left = seconds_left(deadline, stop)
            if left is not None and left <= 0:
                fired = yield from self.stop_waiting()
                if fired is None:
                    yield from self._hand_over()
                    return []
                wanted = {fired.name}
            elif not more:
                wanted, claimed = yield from self._wait(deadline, stop, limit)

    def _is_waited_for(self, error: ServerUnavailable | ServerFull, deadline: float | None) -> bool:
        # A claim that found no memory took nothing: it is made again.
        if deadline is not None and time.monotonic() >= deadline:
            return False
        known = isinstance(error, ServerUnavailable)  # the engine has said it
        if known and not self._served:
            return False
        log.log(logging.DEBUG if known else logging.WARNING, "claiming again: %s", error)
        return True

    def _wait(
        self, deadline: float | None, stop: Stop | None, limit: int
    ) -> Flow[tuple[set[str] | None, Claimed | None]]:
        """Wait until there is something to claim, or for as long as may be waited.

        The queues to claim from then (None: all), and what a claim got that was sent ahead.
        Meanwhile this consumer or another one looks whether a token was lost: see `looking.py`.
        """
        self._found = None
        now = time.monotonic()
        ahead, cap = None, self.options.wait_cap
        end = min([*self._minds.values(), NEVER if deadline is None else deadline])
        # A lease counts from when its claim was sent: it may be a sixth of it older than it is.
        most = max(cap, min(LASTS * cap, self.options.lease_ms / 6000)) * random.uniform(0.9, 1)
        lasts = min(most, end - now)
        if len(self._groups) == 1 and len(self.queues) <= AHEAD:
            claims, claim_id = self._groups[0], self._ids.next()
            self._ahead = (claims, claim_id, limit)
            ahead = claims.call(claim_id, limit, company=self._company_at(limit))
        self._waiting = True
        self.asked = clock()
        try:
            while True:
                seconds = max(0.0, min(end, self._looks.next()) - time.monotonic())
                wakes = self._wakes if not self._aside else self._wakes_at_hand()
                answer = yield from ask(Wait(wakes, seconds, ahead, lasts, self._channels))
                if isinstance(answer, str | Claimed):
                    break
                now = time.monotonic()
                for looked in answer or ():
                    self._looks.heard(self._by_channel[looked.channel], looked.consumer, now)
                time_is_up = answer is None or now >= min(end, self._looks.next())
                is_over = (time_is_up and end <= self._looks.next()) or is_set(stop)
                if is_over or (time_is_up and (yield from self._look(now))):
                    answer = yield from self._waited(is_over=is_over)
                    break
        except ServerUnavailable as error:
            log.info("a claim was sent and not answered: %s", error)
            self._has_no_answer()
            self._waiting = False
            return None, None
        self._ahead = None
        if answer is not None:
            self._waiting = False
        if isinstance(answer, Claimed):
            self._note(self._groups[0], answer)
            return None, answer
        return {self._by_wake[answer].name} if isinstance(answer, str) else self._found, None

    def _has_no_answer(self) -> None:
        """What was sent ahead may have been carried out."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            self._unanswered[self._group(ahead[0])] = ahead

    def _waited(self, *, is_over: bool) -> Flow[str | Claimed | None]:
        """There may be something to claim: end the wait, if its claim or a token is to be had."""
        if self._ahead is None and not (is_over and self._minds):
            return None
        # What falls due the claim that follows gets. What it wakes another consumer with must not
        # come back to a wait that is still out.
        is_ahead = self._ahead is not None
        answer = yield from ask(Withdraw())
        self._waiting = False
        return answer if is_ahead else None

    def _look(self, now: float) -> Flow[bool]:
        """Look at the queues whose time it is; whether to claim: what was `_found`."""
        # None is due where a connection broke: then any token may be lost.
        names = self._looks.due(now) or [queue.name for queue in self.queues]
        found: set[str] = set()
        self._found = None
        try:
            for claims in self._groups:
                queues = [queue for queue in claims.queues if queue.name in names]
                if self._aside and (aside := self._aside.get(claims.names[0])) is not None:
                    if now >= aside.until:
                        found.update(claims.names)
                elif queues:
                    renew_ms = self._settings["renew_ms"]
                    look = calls.look(
                        queues, self.name if self._channels else "", renew_ms=renew_ms
                    )
                    found.update((yield from ask(self._as_said(look))))
        except AtomqError as error:
            log.debug("all is claimed, as it could not be looked at: %s", error)
            self._looks.claimed(names, now)
            return True
        self._looks.looked([name for name in names if name not in found], now)
        self._found = found
        return bool(found)

    def _claim_from(
        self,
        wanted: set[str] | None,
        limit: int,
        claimed_by: ClaimedBy,
        claimed: Claimed | None,
    ) -> Flow[tuple[list[Delivery], bool]]:
        """One claim a group, on the queues wanted; the messages, and whether there are more.

        `claimed` is what a claim of the first group got that was sent ahead.
        """
        got: list[Delivery] = []
        more = False
        trouble: AtomqError | None = None
        for group in self._rotated():
            claims = group if wanted is None else self._wanted_of(group, wanted)
            if claims is None or (got and (len(got) >= limit or self._company.stands_still())):
                continue
            if claimed is None:
                if self._aside and self._is_aside(claims):
                    continue
                try:
                    if self._unanswered:
                        yield from self._give_back_unanswered(claims)
                    claimed = yield from self.claim(claims, limit - len(got))
                except AtomqError as error:
                    if self._several and isinstance(error, ServerUnavailable):
                        trouble = self._set_aside(claims, error)
                        continue
                    if not got:
                        raise
                    log.warning("handing over what was claimed before this: %s", error)
                    break
                if self._aside:
                    self._aside.pop(claims.names[0], None)
            refused, beside = claimed_by(claimed), self._company.accompanied()
            if refused or beside or claimed.drain_ms:
                claimed = yield from self._set_apart(claimed, refused or (), beside)
            got += claimed.deliveries
            more = more or bool(claimed.more)
            claimed = None
        if len(self._aside) == len(self._groups):
            raise trouble or next(iter(self._aside.values())).error
        return got, more

    # ── what several groups do not let one of them hold up ────────────────────────────────────

    def _set_aside(self, claims: Claims, error: ServerUnavailable) -> ServerUnavailable:
        """Its node is in trouble: claim from it again in a while, from the others meanwhile."""
        known = claims.names[0] in self._aside
        until = time.monotonic() + ASIDE * random.uniform(0.8, 1)
        self._aside[claims.names[0]] = Aside(until, error)
        log.log(logging.DEBUG if known else logging.INFO, "the other queues go on: %s", error)
        return error

    def _is_aside(self, claims: Claims) -> bool:
        aside = self._aside.get(claims.names[0])
        return aside is not None and time.monotonic() < aside.until

    def _wakes_at_hand(self) -> tuple[str, ...]:
        return tuple(wake for wake, queue in self._by_wake.items() if queue.name not in self._aside)

    def _wanted_of(self, group: Claims, wanted: set[str]) -> Claims | None:
        queues = [queue for queue in group.queues if queue.name in wanted]
        if len(queues) == len(group.queues):
            return group
        return self._claims_on(queues) if queues else None

    def _may_claim(
        self, deadline: float | None, stop: Stop | None, claimed: Claimed | None
    ) -> Flow[bool]:
        """Wait while nothing is to be claimed beside what its process holds; False: in vain."""
        if self._ahead is not None:  # the last time was interrupted
            yield from self.stop_waiting()
        while claimed is None and self._company.stands_still():
            yield from self._hand_over()
            left = seconds_left(deadline, stop)
            if left is not None and left <= 0:
                return False
            yield from ask(Sleep(STILL if left is None else min(STILL, left)))
        return True

    def _set_apart(
        self, claimed: Claimed, refused: Refused, beside: Sequence[Call[Any]]
    ) -> Flow[Claimed]:
        """What of a claim is handed over, once the server knows what is held beside what."""
        if claimed.drain_ms:
            self._company.drain(claimed.drain_ms / 1000)
        try:
            for call in beside:
                yield from ask(call)
            for queue, receipts in refused:
                yield from give_back(queue, [(receipt, "") for receipt in receipts])
        except AtomqError as error:
            log.warning("what a process holds together is not known to the server: %s", error)
        if not refused:
            return claimed
        gone = {receipt for _, receipts in refused for receipt in receipts}
        kept = [delivery for delivery in claimed.deliveries if delivery.receipt not in gone]
        return claimed._replace(deliveries=kept, more=())

    def _hand_over(self) -> Flow[None]:
        """Stop waiting; what is due next is somebody else's to mind. Does not fail.

        If it cannot be said to the server, others notice within a second.
        """
        if not (self._waiting or self._minds):
            return
        try:
            yield from self.stop_waiting(handing_over=True)
            for claims in self._groups if self._minds else ():
                minded = [queue for queue in claims.queues if queue.name in self._minds]
                if minded and claims.names[0] not in self._aside:
                    yield from self.claim(self._claims_on(minded), 0)
        except AtomqError as error:
            log.info("a wake-up could not be passed on: %s", error)
        self._minds.clear()

    def stop_waiting(self, *, handing_over: bool = False) -> Flow[QueueKeys | None]:
        """Take back the wait in the server; the queue whose token it had taken, if any.

        With `handing_over` the token is passed on: this consumer goes to work now.
        """
        if not self._waiting:
            return None
        self._waiting = False
        try:
            answer = yield from ask(Withdraw())
        except ServerUnavailable:
            self._has_no_answer()
            raise
        self._ahead = None
        if isinstance(answer, Claimed):
            self._unreported += answer.dead_lettered
            for queue in self.queues:
                held = [(d.receipt, "") for d in answer.deliveries if d.queue == queue.name]
                yield from give_back(queue, held)
            yield from self._tell()
            return None
        fired = self._by_wake.get(answer) if answer is not None else None
        if fired is not None and handing_over:
            yield from self.claim(self._claims_on([fired]), 0)
        return fired

    @property
    def has_to_leave(self) -> bool:
        """Whether `close` has anything to say to the server."""
        mine = self._waiting or self._ahead or self._unanswered or self._minds or self._unreported
        return bool(mine) or any(
            self.acks.waits(queue.name) or self.acks.under_way(queue.name) for queue in self.queues
        )

    def close(self) -> Flow[None]:
        """Leave: pass on what was taken, send the acks that wait."""
        yield from self._hand_over()
        for claims in self._groups if self._unanswered else ():
            yield from self._give_back_unanswered(claims)
        yield from self._tell()
        for queue in self.queues:
            yield from flush(queue, self.acks)
        for _ in range(100):  # 0.2 s: others may be sending some of ours right now
            if not any(self.acks.under_way(queue.name) for queue in self.queues):
                break
            yield from ask(Sleep(0.002))

    def _rotated(self) -> Sequence[Claims]:
        if self._takes_turns:  # the queue that stands first is served first
            self._first = (self._first + 1) % len(self.queues)
            return [self._claims_on(self.queues[self._first :] + self.queues[: self._first])]
        if len(self._groups) == 1:
            return self._groups
        self._first = (self._first + 1) % len(self._groups)
        return self._groups[self._first :] + self._groups[: self._first]


def deadline_of(timeout: Seconds | None) -> float | None:
    """When the time is up (monotonic); None: never. Raises `InvalidArgument`."""
    seconds = arguments.timeout(timeout)
    return None if seconds is None else time.monotonic() + seconds


def is_set(stop: Stop | None) -> bool:
    """Whether the consumer is to stop."""
    return stop is not None and stop.is_set()


def seconds_left(deadline: float | None, stop: Stop | None) -> float | None:
    """Seconds that may still be waited for a message; None: any number."""
    if is_set(stop):
        return 0.0
    return None if deadline is None else deadline - time.monotonic()


class Rest(Generic[T]):
    """A flow of calls that can be taken up again where it was interrupted.

    The call that was under way then is said again, as after a lost reply.
    """

    def __init__(self, work: Flow[T]) -> None:
        self._work = work
        self._call: Call[Any] | None = None

    def flow(self) -> Flow[T]:
        """What is left of it."""
        try:
            call: Any = next(self._work) if self._call is None else self._call.again()
            while True:
                self._call = call
                answer = yield call
                call = self._work.send(answer)
        except StopIteration as stop:
            value: T = stop.value
            return value


def flush(queue: QueueKeys, acks: Acks) -> Flow[None]:
    """Send the acks that wait for a queue."""
    while receipts := acks.take(queue.name):
        try:
            verdicts = yield from ask(calls.ack(queue, receipts))
        except BaseException:
            acks.put_back(queue.name, receipts)
            raise
        pairs = zip(receipts, verdicts, strict=True)
        missing = [receipt for receipt, verdict in pairs if verdict is Verdict.LOST]
        acks.answered(queue.name, receipts, missing)


# ── batches of any size ───────────────────────────────────────────────────────────────────────


def batches(items: Sequence[T], size: int = calls.MOST) -> list[Sequence[T]]:
    """Slices of at most `size`."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def in_batches(
    items: Sequence[T], call: Callable[[Sequence[T]], Call[list[Verdict]]]
) -> Flow[list[Verdict]]:
    """A verb that takes items and answers verdicts, over any number of items.

    What one call did not reach within its bytes is asked for again, until it is done.
    """
    verdicts: list[Verdict] = []
    for batch in batches(items):
        found = yield from ask(call(batch))
        while Verdict.AGAIN in found:
            left = [i for i, verdict in enumerate(found) if verdict is Verdict.AGAIN]
            again = yield from ask(call([batch[i] for i in left]))
            for i, verdict in zip(left, again, strict=True):
                found[i] = verdict
        verdicts += found
    return verdicts


def give_back(keys: QueueKeys, items: Sequence[tuple[str, str]]) -> Flow[list[Verdict]]:
    """Release what was not started, as if it had never been claimed: in front, uncounted."""
    return in_batches(items, lambda some: calls.release(keys, some, front=True, counted=False))


def publish(
    keys: QueueKeys,
    messages: Sequence[calls.Outgoing],
    producers: Producers,
    options: Options,
    durability: Durability | None = None,
) -> Call[calls.Published]:
    """One publish call under an id of its own, known for as long as the options say."""
    return calls.publish(
        keys,
        messages,
        call_id=producers.next(),
        window_ms=options.call_window_ms,
        dedup_window_ms=options.dedup_window_ms,
        durability=durability,
    )


def publish_all(
    keys: QueueKeys,
    messages: Sequence[calls.Outgoing],
    *,
    producers: Producers,
    options: Options,
    durability: Durability | None = None,
) -> Flow[list[bool]]:
    """Publish any number of messages; which of them were put (False: the id was known).

    Each call is atomic, the whole is not: calls hold at most 1,000 messages and about `max_bytes`.
    It ends with the first that is not confirmed as `durability` says: `NotDurable`.
    """
    put: list[bool] = []
    for batch in by_size(messages, options.max_bytes):
        try:
            done = yield from ask(publish(keys, batch, producers, options, durability))
        except NotDurable as error:
            error.ids = [message.id for message in messages[: len(put) + len(batch)]]
            raise
        new = [True] * len(batch)
        for i in done.known:
            new[i] = False
        put += new
    return put


def by_size(messages: Sequence[calls.Outgoing], max_bytes: int) -> list[Sequence[calls.Outgoing]]:
    """What goes in one call each."""
    if len(messages) <= calls.MOST and sum([len(m.message) for m in messages]) <= max_bytes:
        return [messages]
    found: list[Sequence[calls.Outgoing]] = []
    first, size = 0, 0
    for i, message in enumerate(messages):
        size += len(message.message)
        if i > first and (size > max_bytes or i - first == calls.MOST):
            found.append(messages[first:i])
            first, size = i, len(message.message)
    found.append(messages[first:])
    return found


def redrive_all(
    keys: QueueKeys,
    *,
    until: str = "",
    reason: str = "",
    report: Callable[[int], None] = lambda _: None,
) -> Flow[int]:
    """Every dead letter (of this reason) back to ready, those that died until now; how many.

    `report` is called with the running count after every call.
    """
    total, after = 0, ""
    if not until:
        newest = yield from ask(calls.inspect(keys))
        until = f"{newest.now_ms}-18446744073709551615"
    while True:
        answer = yield from ask(
            calls.redrive(keys, after=after, until=until, reason=reason, limit=500, look=True)
        )
        total += yield from _redrive(keys, answer)
        report(total)
        if answer.seen == 0:
            return total
        after = answer.last


def redrive(keys: QueueKeys, ids: Sequence[str], *, reason: str = "") -> Flow[int]:
    """These dead letters (of this reason) back to ready; how many."""
    total = 0
    for batch in batches(ids):
        left = list(batch)
        while left:
            answer = yield from ask(calls.redrive(keys, left, reason=reason, look=True))
            total += yield from _redrive(keys, answer)
            # Not all may have been reached within the bytes of a call.
            left = left[left.index(answer.last) + 1 :] if answer.last in left else []
    return total


def _redrive(keys: QueueKeys, looked: calls.Redriven) -> Flow[int]:
    """Move what was found, and forget the results of its messages."""
    if not looked.found:
        return 0
    letters, messages = zip(*looked.found, strict=True)
    moved = yield from ask(calls.redrive(keys, letters, messages=messages))
    return moved.count


def hand_back_all(
    keys: QueueKeys,
    *,
    unacked: bool = True,
    delayed: bool = True,
    report: Callable[[int], None] = lambda _: None,
) -> Flow[calls.HandedBack]:
    """All delayed and leased messages into the lists that stock workers read."""
    delayed_count = unacked_count = 0
    while True:
        answer = yield from ask(calls.hand_back(keys, unacked=unacked, delayed=delayed, limit=500))
        delayed_count, unacked_count = (
            delayed_count + answer.delayed,
            unacked_count + answer.unacked,
        )
        report(delayed_count + unacked_count)
        if answer.left == 0 or answer.delayed + answer.unacked == 0:
            return calls.HandedBack(delayed_count, unacked_count, answer.left)


def whole_roster(keys: RegisterKeys) -> Flow[calls.Roster]:
    """The register, with the names of all queues in their order."""
    page = yield from ask(calls.roster(keys))
    names = page.queues
    while len(page.queues) == calls.MOST:
        page = yield from ask(calls.roster(keys, after=names[-1]))
        names += page.queues
    return page._replace(queues=names)


def status(
    keys: QueueKeys, register: RegisterKeys, message_id: str, serializer: Serializer = JSON
) -> Flow[calls.MessageStatus]:
    """Where a message is; of a held one, also the host and the pid of its holder, if known."""
    found = yield from ask(calls.find(keys, message_id, serializer=serializer))
    if found.state != "held":
        return found
    try:
        known = yield from ask(calls.roster(register, limit=1))
    except (PermissionDenied, ScriptsNotLoaded):  # nothing but the queue is this user's
        return found
    if (process := known.process_of(found.holder)) is None:
        return found
    return replace(found, host=process.host or "", pid=process.pid)


def cancel(keys: QueueKeys, ids: Sequence[str]) -> Flow[list[Verdict]]:
    """Cancel messages, wherever they are: delayed, ready or held; one verdict each.

    DONE, of a held one, is that its holder will hear of it. LOST: it is none of these, or is ready
    and was not found.
    """
    verdicts = yield from in_batches(ids, lambda some: calls.cancel(keys, some))
    for i, message_id in enumerate(ids):
        for _ in range(3 if verdicts[i] is not Verdict.DONE else 0):
            found = yield from ask(calls.find(keys, message_id))
            if found.state == "held":
                if found.cancelling:
                    verdicts[i] = Verdict.DONE
                    break
                done = yield from ask(calls.revoke(keys, message_id, receipt=found.receipt))
            elif found.state == "ready" and (found.raw is not None or not found.certain):
                done = yield from ask(calls.revoke(keys, message_id, message=found.raw or b""))
            elif found.state == "delayed":
                again = yield from ask(calls.cancel(keys, [message_id]))
                done = again[0] is Verdict.DONE
            else:
                break
            if done:
                verdicts[i] = Verdict.DONE
                break
    return verdicts


def run_now(keys: QueueKeys, ids: Sequence[str]) -> Flow[list[Verdict]]:
    """Delayed messages fall due at once, by id; one verdict each."""
    return in_batches(ids, lambda some: calls.run_now(keys, some))


def leave(keys: QueueKeys, consumer: str) -> Flow[int]:
    """A consumer leaves; if it is the last, delayed messages of Celery's go to ready: how many."""
    moved = skip = 0
    while True:
        answer = yield from ask(calls.attend(keys, consumer, skip=skip))
        moved, skip = moved + answer.ready, skip + answer.kept
        if answer.left == 0:
            return moved


def follow(
    keys: QueueKeys, message_id: str, on_progress: Callable[[calls.Progress], object]
) -> Callable[[], Flow[None]]:
    """A flow that looks how far the holder of a message is, and says so when it said something."""
    last: list[calls.Progress | None] = [None]

    def look() -> Flow[None]:
        found = yield from ask(calls.find(keys, message_id, limit=0))
        if found.progress is not None and found.progress != last[0]:
            last[0] = found.progress
            on_progress(found.progress)

    return look


def await_result(
    key: str, timeout: Seconds | None, look: Callable[[], Flow[None]] | None = None
) -> Flow[bytes | None]:
    """The result stored under `key`, or None after `timeout` seconds (None: wait for ever).

    With `look`, that is run twice a second meanwhile.

    Listens before it looks, so nothing falls between, and looks again every 5 s. Whenever it heard
    nothing its connection may be another by now, so it listens anew before it relies on a look. A
    server that served once and is away is waited for.
    """
    deadline = deadline_of(timeout)
    found = yield from ask(Get(key))
    seconds, pause = 0.0, 5.0 if look is None else FOLLOW
    while found is None:
        left = 5.0 if deadline is None else min(5.0, deadline - time.monotonic())
        if left <= 0:
            return None
        found = yield from ask(Listen(key, min(seconds, left)))
        seconds = 0.0 if seconds and look is None else pause
        if found is None:
            try:
                found = yield from ask(Get(key))
                if found is None and look is not None:
                    yield from look()
            except ServerUnavailable as error:
                log.info("waiting for the server: %s", error)
                seconds = 0.0
                yield from ask(Sleep(random.uniform(0.05, 0.5)))
    return found
