"""One claim of a consumer: what it carries along, and what becomes of its answer."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from atomq import calls
from atomq.calls import Call, Claimed, Claims, DeadLettered
from atomq.delivery import Delivery
from atomq.errors import AtomqError, ServerUnavailable
from atomq.flows.acks import Acks
from atomq.flows.base import Flow, ask
from atomq.flows.batching import batches, give_back
from atomq.flows.times import clock
from atomq.ids import Ids
from atomq.keys import QueueKeys
from atomq.looking import Looks
from atomq.options import Options

log = logging.getLogger("atomq.flows")

T = TypeVar("T")
BEYOND_RETRIES = 9  # the highest attempt a claim can have
ASIDE = 0.25  # seconds for which queues are left aside whose node is in trouble
LONGER = 1.0  # the same, once the trouble has lasted for `LONG`
LONG = 60.0  # seconds: by then another node would have taken over, if there were one


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
        """To be said to the server: what was alone and is not any more. Each is said once."""
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
    since: float
    """Monotonic."""


class Begun(NamedTuple):
    """A claim that is under way."""

    call: Call[Claimed]
    claims: Claims
    claim_id: str
    limit: int
    acks: Sequence[Sequence[str]]
    """What it takes along, by queue: the lists that `Acks` gave."""


_new: Any = tuple.__new__  # as in `calls.claiming`
Refused = Sequence[tuple[QueueKeys, Sequence[str]]]
"""Receipts by queue that may not be held beside what is held: they go back."""
ClaimedBy = Callable[[Claimed], Refused | None]


class Claiming:
    """Claims of one consumer on one or several queues, and what they leave to be done.

    A consumer of several nodes claims from each on its own: one in trouble does not hold up others.
    """

    def __init__(
        self,
        queues: Sequence[QueueKeys],
        options: Options,
        acks: Acks | None,
        company: Company | None,
        *,
        fair: bool,
    ) -> None:
        """`fair`: no queue goes before another; else those of a server go in this order."""
        self.queues = list(queues)
        self.options = options
        self.acks = Acks() if acks is None else acks
        self._company: Company = _Nothing() if company is None else company
        self._ids = Ids()
        self._served = False
        # Queues whose next due time was named to this consumer only, and when that is.
        self._minds: dict[str, float] = {}
        self._looks = Looks(options.wait_cap, self.name)
        self._unanswered: dict[str, tuple[Claims, str, int]] = {}  # by group
        self._unreported: list[DeadLettered] = []  # of which waiting clients are to hear
        # By queue: what goes back of what was claimed, and what is alone no more. It stays here
        # until the server has heard it, whatever interrupts the flow that says it.
        self._unsaid: list[tuple[str, Callable[[], Flow[Any]]]] = []
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
        self._by_slot = any(queue.layout == "cluster" for queue in queues)
        groups = [[q] for q in self.queues] if self._by_slot else [self.queues]
        self._groups = [self._claims_on(group) for group in groups]
        self._by_name = {name: claims for claims in self._groups for name in claims.names}
        self._several = len(groups) > 1
        # Of several groups: the queues to claim from before anything is waited for, in this order,
        # and whether anything says that they have messages.
        self._turns: dict[str, bool] = {}
        self._takes_turns = fair and not self._several and len(queues) > 1
        self._aside: dict[str, Aside] = {}  # groups whose node is in trouble, by the first queue

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
        begun = self._begin(claims, limit)
        try:
            claimed = yield from ask(begun.call)
        except BaseException as error:
            self.failed(begun, error)
            raise
        self._answered(begun, claimed)
        self._note(claims, claimed)
        return claimed

    def _begin(self, claims: Claims, limit: int) -> Begun:
        """A claim that is sent now; what becomes of it is said by `_answered`, or `failed`."""
        acks = list(map(self.acks.take, claims.names))
        self.asked = clock()
        claim_id = self._ids.next()
        call = claims.call(claim_id, limit, self._company_at(limit), acks)
        call.brief = self._several
        begun: Begun = _new(Begun, (call, claims, claim_id, limit, acks))
        return begun

    def failed(self, begun: Begun, error: BaseException) -> None:
        """It was refused, or got no answer: then it may have been carried out."""
        for name, receipts in zip(begun.claims.names, begun.acks, strict=True):
            self.acks.put_back(name, receipts)
        may_be_done = not isinstance(error, AtomqError) or (
            isinstance(error, ServerUnavailable) and not error.unsent
        )
        if begun.limit and may_be_done:
            self._unanswered[self._group(begun.claims)] = begun[1:4]

    def _answered(self, begun: Begun, claimed: Claimed) -> None:
        """It was carried out, and so were its acks."""
        lost = claimed.lost_acks
        for name, receipts in zip(begun.claims.names, begun.acks, strict=True):
            if receipts:
                missing = [receipt for queue, receipt in lost if queue == name] if lost else ()
                self.acks.answered(name, receipts, missing)

    def _company_at(self, limit: int) -> int:
        return self._company.company() if limit else calls.HOLDS

    def _note(self, claims: Claims, claimed: Claimed) -> None:
        self._served = True
        if claimed.dead_lettered:
            self._unreported += claimed.dead_lettered
        now = time.monotonic()
        self._looks.claimed(claims.names, now)
        if self._several and not claimed.more:
            self._turns.pop(claims.names[0], None)
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
        """Undo a claim that got no answer at all: what it may hold goes back, uncounted.

        So does what any other has left behind.
        """
        unanswered = self._unanswered.get(self._group(group))
        if unanswered is None:
            yield from self._say_rest()
            return
        claims, claim_id, limit = unanswered
        call = claims.call(claim_id, limit, company=self._company_at(limit))
        for _ in range(BEYOND_RETRIES):
            call = call.again()
        claimed = yield from ask(self._as_said(call))
        self._goes_back(claims.queues, claimed.deliveries)
        self._unanswered.pop(self._group(group), None)
        self._unreported += claimed.dead_lettered
        yield from self._say_rest()

    def _goes_back(self, queues: Sequence[QueueKeys], deliveries: Sequence[Delivery]) -> None:
        """To be said next by `_say_rest`: these were claimed in vain."""
        for queue in queues:
            held = [(d.receipt, "") for d in deliveries if d.queue == queue.name]
            if held:
                self._unsaid.append((queue.name, partial(give_back, queue, held)))

    def _say_rest(self) -> Flow[None]:
        """Say to the server what it has not heard yet. Does not fail.

        What was interrupted, or found no server, is said the next time: twice changes nothing.
        """
        for each in self._unsaid.copy():
            queue, say = each
            if queue in self._aside:
                continue
            try:
                yield from say()
            except AtomqError as error:
                log.warning("what a process holds together is not known to the server: %s", error)
                if isinstance(error, ServerUnavailable):
                    if self._several:
                        continue
                    return
            self._unsaid = [other for other in self._unsaid if other is not each]

    def unanswered(self) -> list[tuple[str, Callable[[], Flow[Any]]]]:
        """What is to be carried out yet of what it leaves behind: each flow with its queue."""
        groups = [claims for claims, _, _ in self._unanswered.values()]
        give_back = self._give_back_unanswered
        return [*((group.names[0], partial(give_back, group)) for group in groups), *self._unsaid]

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
            log.info("what died is reported to its waits later: %s", error)
            return
        except AtomqError as error:
            log.warning("what died is not reported to its waits: %s", error)
        self._unreported = []

    def _claim_from(
        self,
        wanted: Collection[str] | None,
        limit: int,
        claimed_by: ClaimedBy,
        claimed: Claimed | None,
    ) -> Flow[tuple[list[Delivery], bool]]:
        """One claim a group, on the queues wanted; the messages, and whether there are more.

        Of several groups those wanted come behind those whose turn it is. One that has more gets
        its next turn when all others had theirs.

        `claimed` is what a claim of the first group got that was sent ahead.
        """
        got: list[Delivery] = []
        more = False
        trouble: AtomqError | None = None
        for group in self._rotated(wanted):
            claims = group if wanted is None or self._several else self._wanted_of(group, wanted)
            if claims is None or (got and (len(got) >= limit or self._company.stands_still())):
                continue
            if claimed is None:
                if self._aside and self._stays_aside(claims):
                    continue
                self._come_last(claims)
                began = time.monotonic()
                try:
                    if self._unanswered or self._unsaid:
                        yield from self._give_back_unanswered(claims)
                    claimed = yield from self.claim(claims, limit - len(got))
                except AtomqError as error:
                    if self._several and isinstance(error, ServerUnavailable):
                        trouble = self._set_aside(claims, error, time.monotonic() - began)
                        continue
                    if not got:
                        raise
                    log.warning("handing over what was claimed before this: %s", error)
                    break
                if self._aside:
                    self._is_served(claims)
            refused, beside = claimed_by(claimed), self._company.accompanied()
            if refused or beside or claimed.drain_ms:
                claimed = yield from self._set_apart(claims, claimed, refused or (), beside)
            got += claimed.deliveries
            more = more or bool(claimed.more)
            claimed = None
        if len(self._aside) == len(self._groups):
            raise trouble or next(iter(self._aside.values())).error
        return got, bool(self._turns) if self._several else more

    def _set_apart(
        self, claims: Claims, claimed: Claimed, refused: Refused, beside: Sequence[Call[Any]]
    ) -> Flow[Claimed]:
        """What of a claim is handed over, once the server knows what is held beside what."""
        if claimed.drain_ms:
            self._company.drain(claimed.drain_ms / 1000)
        yield from self._say(beside, refused)
        if not refused:
            return claimed
        self._turns.pop(claims.names[0], None)
        gone = {receipt for _, receipts in refused for receipt in receipts}
        kept = [delivery for delivery in claimed.deliveries if delivery.receipt not in gone]
        return claimed._replace(deliveries=kept, more=())

    def accompany(self) -> Flow[None]:
        """Say to the server what was alone and is not any more. Does not fail."""
        return self._say(self._company.accompanied(), ())

    def _say(self, beside: Sequence[Call[Any]], refused: Refused) -> Flow[None]:
        self._unsaid += [(call.queue.name, partial(ask, call)) for call in beside]
        for queue, receipts in refused:
            held = [(receipt, "") for receipt in receipts]
            self._unsaid.append((queue.name, partial(give_back, queue, held)))
        return self._say_rest()

    def _rotated(self, wanted: Collection[str] | None) -> Sequence[Claims]:
        if self._several:
            said = wanted is not None
            if wanted is None:  # each time another one is the first
                names = list(self._by_name)
                self._first = (self._first + 1) % len(names)
                wanted = names[self._first :] + names[: self._first]
            for name in wanted:
                self._turns.setdefault(name, said)
            return [self._by_name[name] for name in self._turns]
        if self._takes_turns:  # the queue that stands first is served first
            self._first = (self._first + 1) % len(self.queues)
            return [self._claims_on(self.queues[self._first :] + self.queues[: self._first])]
        return self._groups

    def _wanted_of(self, group: Claims, wanted: Collection[str]) -> Claims | None:
        queues = [queue for queue in group.queues if queue.name in wanted]
        if len(queues) == len(group.queues):
            return group
        return self._claims_on(queues) if queues else None

    # ── what several groups do not let one of them hold up ────────────────────────────────────

    def _come_last(self, claims: Claims) -> None:
        """It has its next turn when all others had theirs: until its claim finds no more."""
        if self._several:
            self._turns.pop(claims.names[0], None)
            self._turns[claims.names[0]] = True

    def _set_aside(
        self, claims: Claims, error: ServerUnavailable, spent: float
    ) -> ServerUnavailable:
        """Its node is in trouble: claim from it again in a while, from the others meanwhile.

        For as long, at least, as they were kept waiting by this. While the node is in doubt nothing
        is sent to it, so no time is `spent`: it is seen soon that another one has taken over.
        """
        self._turns.pop(claims.names[0], None)
        now, known = time.monotonic(), self._aside.get(claims.names[0])
        since = now if known is None else known.since
        pause = max(ASIDE if now - since < LONG else LONGER, spent)
        until = now + pause * random.uniform(0.8, 1)
        self._aside[claims.names[0]] = Aside(until, error, since)
        log.log(logging.DEBUG if known else logging.INFO, "the other queues go on: %s", error)
        return error

    def _is_served(self, claims: Claims) -> None:
        """Its node answered. If it was in trouble, so it may be for others of that node."""
        if self._aside.pop(claims.names[0], None) is not None:
            self._aside = {name: aside._replace(until=0.0) for name, aside in self._aside.items()}

    def _look_at(self) -> float:
        """When to look, or to claim again from what is left aside."""
        return min([self._looks.next_at, *(aside.until for aside in self._aside.values())])

    def _aside_until(self, now: float) -> set[str]:
        """The groups that are claimed from again by now."""
        return {name for name, aside in self._aside.items() if now >= aside.until}

    def _stays_aside(self, claims: Claims) -> bool:
        aside = self._aside.get(claims.names[0])
        stays = aside is not None and time.monotonic() < aside.until
        if stays:
            self._turns.pop(claims.names[0], None)
        return stays
