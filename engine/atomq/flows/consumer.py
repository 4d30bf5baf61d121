"""A consumer claims, waits for what comes next, looks for what no token tells of, and leaves."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Collection, Iterable, Sequence

from atomq import calls
from atomq.arguments import Seconds
from atomq.calls import Call, Claimed, Claims
from atomq.delivery import Delivery
from atomq.errors import (
    AtomqError,
    ServerFull,
    ServerUnavailable,
)
from atomq.flows.acks import Acks, flush_all
from atomq.flows.base import Filled, Flow, Sleep, Wait, Withdraw, ask
from atomq.flows.claiming import ASIDE, Begun, ClaimedBy, Claiming, Company
from atomq.flows.times import Stop, clock, deadline_of, is_set, seconds_left
from atomq.keys import QueueKeys
from atomq.options import Options

log = logging.getLogger("atomq.flows")
NEVER = float("inf")
STILL = 0.02  # seconds between two looks whether it may claim again
LASTS = 10  # times `wait_cap`: seconds after which the server ends a wait, for a client that died
GLANCE = 0.05  # seconds after which one that has no need to wait looks for tokens of other queues
AHEAD = 4  # a consumer of more queues claims only from the one whose token came, so behind the wait


class Consumer(Claiming):
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
        super().__init__(queues, options, acks, company, fair=fair)
        self._by_wake = {queue.wake: queue for queue in queues}
        self._names = {queue.name: queue for queue in queues}
        self._wakes = tuple(self._by_wake)
        self._waiting = False
        self.until = NEVER
        """When `receive` comes back (monotonic), while it is still waited in the server.

        Only where no claim stands behind the wait: see `pauses`.
        """
        self._pausing = False
        # What to claim from if there was more; None: all. Of several groups, beside those in turn.
        self._next: Collection[str] | None = () if self._several else None
        self._has_waited = False  # since it was last asked for messages
        self._seen = NEVER  # when it last saw all tokens; NEVER: it has claimed from none yet
        self._ahead: tuple[Claims, str, int] | None = None
        self._is_ordinary = not (self._several or self._takes_turns)
        self._by_channel = {queue.looked: queue.name for queue in queues}
        self._channels = {queue.wake: queue.looked for queue in queues}

    def receive(
        self,
        limit: int,
        timeout: Seconds | None,
        claimed_by: ClaimedBy = lambda _: None,
        patient: bool = False,
        stop: Stop | None = None,
        first: Claimed | ServerUnavailable | ServerFull | None = None,
    ) -> Flow[list[Delivery]]:
        """Up to `limit` messages; waits for the first at most `timeout` seconds (None: for ever).

        `claimed_by` is called for every claim before messages are handed over, and answers which
        of them are not to be. With `patient` a server that is full, or served before and is away
        now, is waited for, like a message. Once `stop` is set nothing is waited for any more; that
        is looked at between two waits, of a second at most. `first` is what came of a claim that
        was begun at once: see `ordinary`.
        """
        deadline = deadline_of(timeout)
        # Queues that have something; None: maybe all.
        wanted = (yield from self._beside_turns(deadline, stop)) if self._several else None
        claimed: Claimed | None = None  # what was sent ahead got
        trouble: ServerUnavailable | ServerFull | None = None
        if isinstance(first, Claimed):
            claimed = first
        else:
            trouble, first = first, None  # kept in this frame, it would keep the frame
        failing: float | None = None  # since when no claim was answered
        while True:
            is_held_up = self._ahead or self._pausing or self._company.stands_still()
            if is_held_up and not (yield from self._may_claim(deadline, stop, claimed)):
                return []
            try:
                if trouble is not None:
                    error, trouble = trouble, None
                    raise error
                got, more = yield from self._claim_from(wanted, limit, claimed_by, claimed)
                wanted, claimed, failing = self._next, None, None
            except (ServerUnavailable, ServerFull) as error:
                failing = clock() if failing is None else failing
                if not self._is_borne(error, patient, deadline, clock() - failing):
                    raise
                if is_set(stop):
                    return []
                wanted = None
                yield from ask(Sleep(ASIDE if self._several else random.uniform(0.2, 1.0)))
                continue
            yield from self._tell()
            if got:
                yield from self._hand_over()
                return got
            left = seconds_left(deadline, stop)
            if left is not None and left <= 0:
                fired = yield from self.stop_waiting()
                if not fired:
                    yield from self._hand_over()
                    return []
                wanted = {queue.name for queue in fired}
            elif not more:
                wanted, claimed = yield from self._wait(deadline, stop, limit)

    # ── the short way: what nearly every message takes ────────────────────────────────────────

    def ordinary(self, limit: int) -> Begun | None:
        """A claim, if that is all there is to do now; None: it takes `receive` to find out.

        Its caller carries out the call, and says what came of it: see `has_got` and `failed`. If it
        got more than messages, or none, it is for `receive` to go on: see its `first`. So while
        there are messages none takes a flow.
        """
        if (
            self._is_ordinary
            and self._served
            and not (self._waiting or self._ahead or self._minds)
            and not (self._unanswered or self._unreported or self._unsaid)
            and not self._company.stands_still()
        ):
            return self._begin(self._groups[0], limit)
        return None

    def has_got(self, begun: Begun, claimed: Claimed) -> bool:
        """Whether it got messages, and nothing else is to be done."""
        self._answered(begun, claimed)
        beside = claimed.dead_lettered or claimed.drain_ms or claimed.wait_ms is not None
        if claimed.deliveries and not beside:
            return True  # that it has looked is noted by the claim that comes before a wait
        self._note(begun.claims, claimed)
        return False

    @property
    def pauses(self) -> bool:
        """Whether `until` is heeded."""
        return self._several

    def _is_borne(
        self,
        error: ServerUnavailable | ServerFull,
        patient: bool,
        deadline: float | None,
        seconds: float,
    ) -> bool:
        waited = patient and self._is_waited_for(error, deadline)
        return waited or self._is_tried_again(error, seconds)

    def _is_tried_again(self, error: ServerUnavailable | ServerFull, seconds: float) -> bool:
        """Whether no node serves any of its queues, and the budget that other calls have is left.

        Of several groups each is claimed from briefly and once.
        """
        options, is_away = self.options, isinstance(error, ServerUnavailable)
        may = self._several and is_away and options.retry_attempts > 0
        return may and seconds < options.retry_budget

    def _is_waited_for(self, error: ServerUnavailable | ServerFull, deadline: float | None) -> bool:
        # A claim that found no memory took nothing: it is made again.
        if deadline is not None and time.monotonic() >= deadline:
            return False
        known = isinstance(error, ServerUnavailable)  # the engine has said it
        if known and not self._served:
            return False
        log.log(logging.DEBUG if known else logging.WARNING, "claiming again: %s", error)
        return True

    def _may_claim(
        self, deadline: float | None, stop: Stop | None, claimed: Claimed | None
    ) -> Flow[bool]:
        """Wait while nothing is to be claimed beside what its process holds; False: in vain."""
        if self._pausing:
            self._pausing = False
            return False
        if self._ahead is not None:  # the last time was interrupted
            yield from self.stop_waiting()
        while claimed is None and self._company.stands_still():
            yield from self._hand_over()
            left = seconds_left(deadline, stop)
            if left is not None and left <= 0:
                return False
            yield from ask(Sleep(STILL if left is None else min(STILL, left)))
        return True

    def _beside_turns(
        self, deadline: float | None, stop: Stop | None
    ) -> Flow[Collection[str] | None]:
        """Of several groups: the queues to claim from now, beside those in turn; None: all.

        Where there is work there is a token, which ends a wait at once. So none is claimed from but
        where a token, the answer to a claim or a look says so, or where an ack is to go.
        """
        has_waited, self._has_waited = self._has_waited, False
        now, left = time.monotonic(), seconds_left(deadline, stop)
        is_first, is_last = self._seen == NEVER, left is not None and left <= 0
        if is_first or len(self._aside) == len(self._groups):
            self._seen = now
            return None
        if is_last:
            yield from self._put_in_order(now)
            return None
        wanted = [name for name in self.acks.queues() if name in self._by_name]
        if not self._turns and (has_waited or not wanted):
            return wanted  # it waits next, which is to see all tokens
        # There is always work in some queue, so it does not wait: it may miss that of the others.
        if now >= self._seen + GLANCE:
            wanted += yield from self._glance(now)
        wanted += self._aside_until(now)
        if now >= self._looks.next_at:
            found = yield from self._look(now)
            if found is None:
                return None
            wanted += found
        return wanted

    def _put_in_order(self, now: float) -> Flow[None]:
        """Before all are claimed from, without a wait: those go first that have something.

        Of the others, those that were claimed from lose their turn, until it is time to look: what
        has work and no token is not behind others for longer.
        """
        if now >= self._looks.next_at:
            return
        said, knows = self._turns, self._looks.knows
        self._turns = {name: True for name in said if said[name] or not knows(name)}
        if not self._turns or now >= self._seen + GLANCE:
            self._turns.update(dict.fromkeys((yield from self._glance(now)), True))

    def _glance(self, now: float) -> Flow[list[str]]:
        """The queues in which a token lies."""
        self._seen = now
        filled = yield from ask(Filled(self._wakes_at_hand()))
        return [self._by_wake[wake].name for wake in filled]

    def _wait(
        self, deadline: float | None, stop: Stop | None, limit: int
    ) -> Flow[tuple[Collection[str] | None, Claimed | None]]:
        """Wait until there is something to claim, or for as long as may be waited.

        The queues to claim from then (None: all), and what a claim got that was sent ahead.
        Meanwhile this consumer or another one looks whether a token was lost: see `looking.py`.
        """
        found: Collection[str] | None = None
        now = time.monotonic()
        end = min([*self._minds.values(), NEVER if deadline is None else deadline])
        until = self.until if self._several else NEVER
        # A lease counts from when its claim was sent: it may be a sixth of it older than it is.
        cap = self.options.wait_cap
        most = max(cap, min(LASTS * cap, self.options.lease_ms / 6000)) * random.uniform(0.9, 1)
        lasts = min(most, end - now)
        ahead = self._claim_ahead(limit)
        self._waiting = self._has_waited = True
        self.asked = clock()
        try:
            while True:
                look_at = self._looks.next_at if not self._aside else self._look_at()
                seconds = max(0.0, min(end, until, look_at) - time.monotonic())
                wakes = self._wakes if not self._aside else self._wakes_at_hand()
                answer = yield from ask(Wait(wakes, seconds, ahead, lasts, self._channels))
                if isinstance(answer, str | Claimed):
                    break
                now = time.monotonic()
                for looked in answer or ():
                    self._looks.heard(self._by_channel[looked.channel], looked.consumer, now)
                if until <= now < end and not is_set(stop):
                    self._pausing = True
                    return (), None
                look_at = self._looks.next_at if not self._aside else self._look_at()
                time_is_up = answer is None or now >= min(end, look_at)
                is_over = (time_is_up and end <= look_at) or is_set(stop)
                if time_is_up and not is_over:
                    found = yield from self._look_or_retry(now)
                if is_over or (time_is_up and found != set()):
                    answer = yield from self._waited(is_over=is_over)
                    break
        except ServerUnavailable as error:
            log.info("a claim was sent and not answered: %s", error)
            self._has_no_answer()
            self._waiting = False
            return None, None
        self._ahead, self._seen = None, time.monotonic()
        if answer is not None:
            self._waiting = self._several  # for the others it is still waited, each on its line
        if isinstance(answer, Claimed):
            self._note(self._groups[0], answer)
            return None, answer
        if isinstance(answer, str):
            return {self._by_wake[answer].name}, None
        left = seconds_left(deadline, stop)
        if self._several and not found and (left is None or left > 0):
            found = {name for name, at in self._minds.items() if at <= self._seen}
        return found or None, None

    def _claim_ahead(self, limit: int) -> Call[Claimed] | None:
        """The claim that is sent right behind a wait, so that a token costs no trip of its own."""
        if self._several or len(self.queues) > AHEAD:
            return None
        claims, claim_id = self._groups[0], self._ids.next()
        self._ahead = (claims, claim_id, limit)
        return claims.call(claim_id, limit, company=self._company_at(limit))

    def _waited(self, *, is_over: bool) -> Flow[str | Claimed | None]:
        """There may be something to claim: end the wait, if its claim or a token is to be had."""
        if self._ahead is None and not (is_over and self._minds):
            return None
        # What falls due the claim that follows gets. What it wakes another consumer with must not
        # come back to a wait that is still out.
        is_ahead = self._ahead is not None
        answer = yield from ask(Withdraw())
        self._waiting = False
        if isinstance(answer, Claimed):
            return answer
        return answer[0] if is_ahead and answer else None

    def _has_no_answer(self) -> None:
        """What was sent ahead may have been carried out."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            self._unanswered[self._group(ahead[0])] = ahead

    def _look_or_retry(self, now: float) -> Flow[Collection[str] | None]:
        """What to claim from: what a look finds, or what was left aside until now."""
        retried = self._aside_until(now) if now < self._looks.next_at else None
        return retried or (yield from self._look(now))

    def _look(self, now: float) -> Flow[set[str] | None]:
        """Look at the queues whose time it is; those to claim from, None: all."""
        # None is due where a connection broke: then any token may be lost.
        due = self._looks.due(now)
        names = [name for name in due or self._names if not (due and self._is_looked_at(name, now))]
        for name in names:
            self._names[name].looking = now
        found: set[str] = set()
        try:
            for claims in self._groups:
                queues = [queue for queue in claims.queues if queue.name in names]
                if self._aside and (aside := self._aside.get(claims.names[0])) is not None:
                    if now >= aside.until:
                        found.update(claims.names)
                elif queues:
                    renew_ms = self._settings["renew_ms"]
                    look = calls.look(queues, self.name, renew_ms=renew_ms)
                    found.update((yield from ask(self._as_said(look))))
        except AtomqError as error:
            log.debug("all is claimed, as it could not be looked at: %s", error)
            self._looks.claimed(names, now)
            self._done_looking(names)
            return None
        self._done_looking(found)  # nothing is said of these: others look too
        self._looks.looked([name for name in names if name not in found], now)
        return found

    def _done_looking(self, names: Iterable[str]) -> None:
        for name in names:
            self._names[name].looking = 0.0

    def _is_looked_at(self, name: str, now: float) -> bool:
        """Whether another consumer of this process has begun to, and it will be heard of soon.

        Else all of a busy process would look, as none hears of a look before it is over.
        """
        since = self._names[name].looking
        if not now - self.options.wait_cap / 2 < since <= now:
            return False
        self._looks.heard(name, "", since)
        return True

    def _wakes_at_hand(self) -> tuple[str, ...]:
        return tuple(wake for wake, queue in self._by_wake.items() if queue.name not in self._aside)

    def _hand_over(self) -> Flow[None]:
        """Stop waiting; what is due next is another consumer's to mind. Does not fail.

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

    def stop_waiting(self, *, handing_over: bool = False) -> Flow[list[QueueKeys]]:
        """Take back the wait in the server; the queues whose tokens it had taken.

        With `handing_over` the tokens are passed on: this consumer goes to work now.
        """
        if not self._waiting:
            return []
        self._waiting = False
        try:
            answer = yield from ask(Withdraw())
        except ServerUnavailable:
            self._has_no_answer()
            raise
        self._ahead = None
        if isinstance(answer, Claimed):
            self._unreported += answer.dead_lettered
            self._goes_back(self.queues, answer.deliveries)
            yield from self._say_rest()
            yield from self._tell()
            return []
        fired = [self._by_wake[name] for name in answer]
        for queue in fired if handing_over else ():
            self._come_last(self._claims_on([queue]))
            yield from self.claim(self._claims_on([queue]), 0)
        return fired

    @property
    def has_to_leave(self) -> bool:
        """Whether `close` has anything to say to the server."""
        mine = self._waiting or self._ahead or self._minds
        left = self._unanswered or self._unreported or self._unsaid
        return bool(mine or left) or any(
            self.acks.waits(queue.name) or self.acks.under_way(queue.name) for queue in self.queues
        )

    def close(self) -> Flow[None]:
        """Leave: pass on what was taken, send the acks that wait."""
        yield from self._hand_over()
        for claims in self._groups if self._unanswered else ():
            yield from self._give_back_unanswered(claims)
        yield from self._say_rest()
        yield from self._tell()
        yield from flush_all(self.queues, self.acks)
