"""What a queue is, in a hundred lines of Python: the scripts must do the same.

A message is in exactly one of `ready`, `unacked`, `delayed`, `dead` and `gone`. Times are the
server's milliseconds; whoever drives the model says what time it is.
"""

from __future__ import annotations

from collections.abc import Iterable
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


@dataclass
class Held:
    message: Message
    at: int
    """When the lease ends, or the message falls due."""
    alone: bool = False
    """Its holder has nothing else, or it has none."""
    apart: bool = False
    """It waits to go alone."""


@dataclass
class Model:
    steps: int = 4
    max_deliveries: int = 3
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
    id: str = ""  # of the claim that is being carried out
    died: str = ""  # the claim that last made dead letters
    aside: int = 0
    sole: bool = True

    def lane(self, step: int) -> list[Message]:
        return self.ready.setdefault(step, [])

    # producers

    def publish(self, message: Message, due: int | None, message_id: str, *, dedup: bool) -> bool:
        named = dedup or due is not None
        if (named and message_id in self.delayed) or (dedup and message_id in self.seen_ids):
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

    def claim(
        self, claim_id: str, attempt: int, limit: int, now: int, lease: int, company: int = 0
    ) -> list[str]:
        self.contact(now)
        live = [receipt for receipt in self.claims.get(claim_id, []) if receipt in self.unacked]
        if live or self.died == claim_id:  # its leases and dead letters, and nothing new
            return live
        self.id, self.aside, self.sole = f"{claim_id}.{attempt}", 0, company == 0
        given: list[str] = []
        for message in self._next(limit, now):
            receipt = f"{claim_id}.{attempt}.{len(given) + 1}"
            self.unacked[receipt] = Held(message, now + lease)
            given.append(receipt)
        if self.sole and len(given) == 1:
            self.unacked[given[0]].alone = True
        self.claims.setdefault(claim_id, []).extend(given)
        return given

    def _next(self, limit: int, now: int) -> Iterable[Message]:
        """Take out, one after another, what a claim hands out; bury what it may not hand out."""
        taken: set[int] = set()  # what this very claim leased is not looked at again
        for step in range(1, self.steps + 1):
            if self.paused:
                continue
            ended = now if now >= self.grace else min(self.had_grace, now)
            if self.sole:
                for name in self._due(self.unacked, step, ended, apart=True):
                    if taken or not limit:
                        break
                    yield from self._deliver(self.unacked.pop(name), taken, now)
            for source, until in ((self.unacked, ended), (self.delayed, now)):
                for name in self._due(source, step, until):
                    if len(taken) >= limit or -1 in taken:
                        return
                    held = source.pop(name)
                    held.message.spared += source is self.unacked and not held.alone
                    yield from self._deliver(
                        held, taken, now, name if source is self.unacked else ""
                    )
            while self.lane(step) and len(taken) < limit and -1 not in taken:
                yield from self._deliver(Held(self.lane(step).pop(0), now), taken, now)
            if -1 in taken:
                return

    def _due(
        self, source: dict[str, Held], step: int, now: int, *, apart: bool = False
    ) -> list[str]:
        due = [
            (held.at, name.encode())
            for name, held in source.items()
            if held.message.step == step and held.at <= now and held.apart == apart
        ]
        return [name.decode() for _, name in sorted(due)]

    def _deliver(self, held: Held, taken: set[int], now: int, name: str = "") -> Iterable[Message]:
        message = held.message
        message.spared = min(message.spared, message.deliveries)
        often = message.deliveries - message.spared >= self.max_deliveries
        if often or message.stale:
            self.aside += 1
            self.died = self.id.rpartition(".")[0]
            self.dead.append((message, "max_deliveries" if often else "expired"))
        elif message.spared > 1 and (taken or not self.sole):
            self.aside += 1
            name = name or f"{self.id}.apart{self.aside:03d}"
            self.unacked[name] = Held(message, now, alone=True, apart=True)
        else:
            message.deliveries += 1
            taken.add(-1 if message.spared > 1 else len(taken))
            yield message

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
            message.deliveries -= not counted
            if due is not None:
                name = receipt if not message_id or message_id in self.delayed else message_id
                self.delayed[name] = Held(message, due)
            else:
                self.lane(message.step).insert(0 if front else LATE, message)
        return [verdicts[i] for i in range(len(items))]

    # operators

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
                for step in range(1, self.steps + 1)
                for name in self._due(source, step, LATE * 9, apart=apart)
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
