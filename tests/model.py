"""What a queue is, in plain Python: the scripts must do the same.

A message is in exactly one of `ready`, `unacked`, `delayed`, `dead` and `gone`. Times are the
server's milliseconds; whoever drives the model says what time it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

RENEW = 20_000
LATE = 10**12  # a deadline no test reaches


@dataclass
class Message:
    name: str
    step: int
    deliveries: int = 0
    spared: int = 0
    """Deliveries that ended without a word in company."""
    stale: bool = False
    """Past its time to live."""
    units: int = 0
    """Its size. Most have none: they are small beside what a claim is asked for."""


@dataclass
class Held:
    message: Message
    at: int
    """When the lease ends, or the message falls due."""
    alone: bool = False
    """Its holder has nothing else, or it has none."""
    apart: bool = False
    """It waits to go alone."""
    cancelled: bool = False
    """While it was held."""


@dataclass
class Claim:
    """What a claim is asked for, and how far it has come."""

    id: str
    attempt: int
    limit: int
    now: int
    lease: int
    sole: bool = True
    """Its consumer holds nothing else."""
    max_deliveries: int = 3  # 0: no limit
    units: int = LATE
    steps: int = 4
    older: bool = False
    """By the script of a release that knows nothing of what goes alone, or is cancelled."""
    given: list[tuple[Model, str]] = field(default_factory=list)
    spent: int = 0
    aside: int = 0
    one_went_alone: bool = False

    @property
    def has_room(self) -> bool:
        is_over = self.one_went_alone or self.spent >= self.units
        return len(self.given) < self.limit and not is_over


def claim(models: Sequence[Model], asked: Claim) -> list[str]:
    """The receipts that the queues of these models answer."""
    for model in models:
        model.contact(asked.now)
    live = [
        receipt
        for attempt in range(10)
        for model in models
        for receipt in dict.fromkeys(model.claims.get(asked.id, ()))
        if receipt in model.unacked and receipt.split(".")[-2] == str(attempt)
    ]
    if live or any(model.died == asked.id for model in models):
        return live  # its leases and dead letters, and nothing new
    for step in range(1, asked.steps + 1):
        for model in models:
            if not model.paused:
                model.hand_out(asked, step)
    if asked.sole and len(asked.given) == 1:
        model, receipt = asked.given[0]
        model.unacked[receipt].alone = True
    return [receipt for _, receipt in asked.given]


@dataclass
class Model:
    steps: int = 4
    ready: dict[int, list[Message]] = field(default_factory=dict)  # the next one out comes first
    unacked: dict[str, Held] = field(default_factory=dict)
    delayed: dict[str, Held] = field(default_factory=dict)
    dead: list[tuple[Message, str]] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    seen_ids: set[str] = field(default_factory=set)
    claims: dict[str, list[str]] = field(default_factory=dict)  # claim id -> its receipts
    paused: bool = False
    gap: bool = False
    grace: int = 0  # until when a lease is not taken from its holder; 0: there was no gap yet
    had_grace: int = 0  # but one that ended before this is: it has had a whole grace
    died: str = ""  # the claim that last made dead letters

    def lane(self, step: int) -> list[Message]:
        return self.ready.setdefault(step, [])

    # producers

    def publish(self, message: Message, due: int | None, message_id: str, *, dedup: bool) -> bool:
        if dedup and (message_id in self.delayed or message_id in self.seen_ids):
            return False
        if dedup:
            self.seen_ids.add(message_id)
        if due is None:
            self.lane(message.step).append(message)
        else:
            self.delayed[message_id] = Held(message, due)
        return True

    # consumers

    def contact(self, now: int) -> None:
        """A claim or an extend comes; was nobody there before it for too long?"""
        if self.gap:
            if self.grace:
                self.had_grace = self.grace - RENEW
            self.gap, self.grace = False, now + RENEW

    def ended(self, now: int) -> int:
        """When a lease must have ended to be taken from its holder."""
        return now if now >= self.grace else min(self.had_grace, now)

    def has_work(self, now: int, steps: int) -> bool:
        """Whether a claim finds something, be it what its consumer holds."""
        due = self._due(self.delayed, 1, self.steps, now)
        expired = self._due(self.unacked, 1, self.steps, self.ended(now))
        return not self.paused and bool(
            due or expired or any(self.lane(step) for step in range(1, steps + 1))
        )

    @property
    def has_apart(self) -> bool:
        """Whether anything waits for a consumer that holds nothing else."""
        return not self.paused and any(held.apart for held in self.unacked.values())

    def hand_out(self, asked: Claim, step: int) -> None:
        """Take out, one after another, what a claim hands out; bury what it may not hand out.

        At its last step it looks into those beyond, too, where there is no list.
        """
        last, ended = (self.steps if step == asked.steps else step), self.ended(asked.now)
        if asked.sole and not asked.older:
            for name in self._due(self.unacked, step, last, ended, apart=True):
                if asked.given or not asked.has_room:
                    break
                self._deliver(self.unacked.pop(name), asked, step)
        for source, until in ((self.unacked, ended), (self.delayed, asked.now)):
            for name in self._due(source, step, last, until):
                if asked.has_room:
                    held = source.pop(name)
                    is_lease = source is self.unacked
                    held.message.spared += is_lease and not held.alone and not asked.older
                    self._deliver(held, asked, step, name if is_lease else "")
        while self.lane(step) and asked.has_room:
            self._deliver(Held(self.lane(step).pop(0), 0), asked, step)

    def _due(
        self, source: dict[str, Held], first: int, last: int, now: int, *, apart: bool = False
    ) -> list[str]:
        due = [
            (held.message.step, held.at, held.alone, name.encode())
            for name, held in source.items()
            if first <= held.message.step <= last and held.at <= now and held.apart == apart
        ]
        return [name.decode() for *_, name in sorted(due)]

    def _deliver(self, held: Held, asked: Claim, step: int, name: str = "") -> None:
        """`name`: of a lease that has ended."""
        message, given = held.message, len(asked.given)
        asked.spent += message.units
        message.step = step
        counted = message.deliveries
        if not asked.older:
            message.spared = min(message.spared, message.deliveries)
            counted -= message.spared
        often = 0 < asked.max_deliveries <= counted
        goes_alone = message.spared > 1 and not asked.older
        if held.cancelled and not asked.older:
            asked.aside += 1
            self.gone.add(message.name)
        elif often or message.stale:
            asked.aside += 1
            self.died = asked.id
            self.dead.append((message, "max_deliveries" if often else "expired"))
        elif goes_alone and (given or not asked.sole):
            asked.aside += 1
            number = asked.aside
            while not name or name in self.unacked:
                name = f"{asked.id}.{asked.attempt}.apart{number:03d}"
                number += 1
            self.unacked[name] = Held(message, asked.now, alone=True, apart=True)
        else:
            message.deliveries += 1
            receipt = f"{asked.id}.{asked.attempt}.{given + 1}"
            self.unacked[receipt] = Held(message, asked.now + asked.lease)
            self.claims.setdefault(asked.id, []).append(receipt)
            asked.given.append((self, receipt))
            asked.one_went_alone = goes_alone

    # holders

    def ack(self, receipt: str) -> bool:
        held = self.unacked.pop(receipt, None)
        if held:
            self.gone.add(held.message.name)
        return held is not None

    def extend(self, receipt: str, until: int, *, beside: bool = False) -> bool:
        if receipt in self.unacked:
            self.unacked[receipt].at = until
            self.unacked[receipt].alone &= not beside
        return receipt in self.unacked

    def reject(self, receipt: str, reason: str) -> bool:
        held = self.unacked.pop(receipt, None)
        if held:
            self.dead.append((held.message, reason))
        return held is not None

    def release(
        self, items: list[tuple[str, str]], due: int | None, *, front: bool, counted: bool
    ) -> list[bool]:
        verdicts = {}
        order = list(enumerate(items))
        for i, (receipt, message_id) in reversed(order) if front and due is None else order:
            held = self.unacked.pop(receipt, None)
            verdicts[i] = held is not None
            if held is None:
                continue
            message = held.message
            if held.cancelled:
                self.gone.add(message.name)
                continue
            message.deliveries -= not counted
            if due is not None:
                name = receipt if not message_id or message_id in self.delayed else message_id
                self.delayed[name] = Held(message, due)
            else:
                self.lane(message.step).insert(0 if front else LATE, message)
        return [verdicts[i] for i in range(len(items))]

    # operators

    def revoke(self, receipt: str) -> bool:
        held = self.unacked.get(receipt)
        if held and held.apart:  # nobody holds it
            self.gone.add(self.unacked.pop(receipt).message.name)
        elif held:
            held.cancelled = True
        return held is not None

    def cancel(self, message_id: str) -> bool:
        held = self.delayed.pop(message_id, None)
        if held:
            self.gone.add(held.message.name)
        return held is not None

    def redrive(self, limit: int) -> int:
        moved, self.dead = self.dead[:limit], self.dead[limit:]
        for message, _ in moved:
            message.deliveries, message.spared, message.stale = 0, 0, False
            self.lane(message.step).append(message)
        return len(moved)

    def hand_back(self) -> None:
        for source in (self.unacked, self.delayed):
            order = [
                name
                for apart in (False, True)
                for name in self._due(source, 1, self.steps, LATE * 9, apart=apart)
            ]
            for held in source.values():
                held.message.spared += source is self.unacked and not held.alone
            back = [source.pop(name).message for name in order]
            for message in reversed(back) if source is self.unacked else back:
                where = 0 if source is self.unacked else LATE
                self.lane(message.step).insert(where, message)

    def purge_ready(self) -> None:
        for messages in self.ready.values():
            self.gone |= {message.name for message in messages}
            messages.clear()

    def time_passes(self, ms: int) -> None:
        """Whatever has a time is so much nearer to it."""
        self.grace -= ms if self.grace else 0
        self.had_grace -= ms if self.had_grace else 0
        for held in (*self.unacked.values(), *self.delayed.values()):
            held.at -= ms
