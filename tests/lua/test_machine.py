"""All verbs in any order, on a real server beside the model in tests/model.py.

After every step each message must be in exactly one place, and in the place, order and state that
the model says. Time passes by moving what is stored; steps of ten seconds, so that the milliseconds
a test really takes decide nothing.
"""

from __future__ import annotations

import copy
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from atomq import calls
from atomq.calls import Call, Claimed, Outgoing, Rejection, Verdict
from atomq.ids import CallId
from tests.conftest import LONG
from tests.lua.rig import BAND, Queue, Rig, msg, name_of, tracked_msg
from tests.lua.verbs import STOCK
from tests.model import LATE, Claim, Held, Message, Model, claim

OLDER = Path(__file__).parent / "older" / "claim.lua"
LEASE = 60_000
UNIT = 20_000  # bytes of a message that is not small, more than any claim expects
DONE, CANCELLED = Verdict.DONE, Verdict.CANCELLED
WHERE = {"ended": "unacked", "held": "unacked", "due": "delayed", "later": "delayed"}
steps = st.integers(1, 4)
few = st.integers(1, 4)
times = st.sampled_from([10_000, 30_000, 60_000, 90_000])
picks = st.lists(st.integers(0, 40), min_size=1, max_size=4)
History = tuple[str, int, list[tuple[int, int, bool]], bool, int]
histories: st.SearchStrategy[History] = st.tuples(
    st.sampled_from(["ready", "ended", "ended", "ended", "held", "apart", "due", "later"]),
    st.sampled_from([1, 1, 1, 2, 4]),  # its step
    # how often each was delivered, and spared, and whether it is alone
    st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from([0, 0, 0, 1, 2, 3]), st.booleans()),
        min_size=2,
        max_size=6,
    ),
    st.sampled_from([False, False, False, True]),  # past its time to live
    st.sampled_from([0, 0, 0, 1, 2]),  # its size
)
asking = st.fixed_dictionaries(
    {
        "by": st.sampled_from("ab"),
        "limit": st.sampled_from([64, 64, 5, 4, 3, 2, 1, 0]),
        "company": st.sampled_from([calls.SOLE, calls.SOLE, calls.SOLE, calls.HOLDS, 2000]),
        "most": st.sampled_from([2, 1, 3, 0]),  # deliveries
        "units": st.sampled_from([LATE, LATE, LATE, 1, 2, 3]),
        "of": st.sampled_from(["one", "one", "all", "two steps", "one step"]),
    }
)


@dataclass
class Side:
    """A queue on the server, and what it has to be like."""

    q: Queue
    model: Model = field(default_factory=Model)
    names: set[str] = field(default_factory=set)
    receipts: list[str] = field(default_factory=list)

    def contact(self) -> None:
        """Somebody comes to the server: was nobody there for too long?"""
        self.model.gap = 0 < int(self.q.meta.get("seen", 0)) < self.q.now() - 30_000


class QueueMachine(RuleBasedStateMachine):
    """The rig's queues and the model, side by side."""

    rig: Rig

    def __init__(self) -> None:
        super().__init__()
        self.rig.db.flushall()
        self.few = {n: self.rig.queue("q", steps=(0, 3, 6)[:n]) for n in (1, 2)}
        self.at = Side(self.rig.queue())
        """Where rules act."""
        self.sides = [self.at]
        if self.rig.layout == "stock":  # in a cluster a claim has one queue
            self.sides.append(Side(self.rig.queue("r")))
        self.count = 0
        self.last_publish: Call[Any] | None = None
        self.last_claim: tuple[Call[Claimed], list[Side], Claim] | None = None

    @property
    def q(self) -> Queue:
        return self.at.q

    @property
    def model(self) -> Model:
        return self.at.model

    @initialize(planted=st.lists(histories, max_size=6))
    def begin(self, planted: list[History]) -> None:
        for side in self.sides:  # they have been seen: from now on a gap is a gap
            self.at = side
            self.claim("a", 0)
            for some in planted[:: len(self.sides)]:
                self.some_have_a_history(some)
            planted = planted[1:]

    def pick(self, picked: list[int]) -> list[str]:
        """Receipts, live and stale ones, and one that never was."""
        pool = [*self.at.receipts, "never"]
        return [pool[-1 - i % len(pool)] for i in picked]

    def name(self) -> str:
        self.count += 1
        name = f"m{self.count}"
        self.at.names.add(name)
        return name

    @precondition(lambda self: len(self.sides) > 1)
    @rule()
    def turn_to_the_other_queue(self) -> None:
        self.sides.reverse()
        self.at = self.sides[0]

    # producers

    @rule(
        n=few,
        step=steps,
        delay=st.sampled_from([0, 0, 30_000]),
        dedup=st.booleans(),
        old=few,
        ttl=st.sampled_from([0, 0, 0, 1]),
    )
    def publish(self, n: int, step: int, delay: int, dedup: bool, old: int, ttl: int) -> None:
        outgoing = []
        for i in range(n):
            self.count += 1
            name = f"m{self.count}"
            message_id = f"m{self.count - old}" if i == 1 and self.count > old else name
            outgoing.append(
                Outgoing(msg(name), message_id, step=step, delay_ms=delay, ttl_ms=ttl, dedup=dedup)
            )
        call = calls.publish(self.q.keys, outgoing, call_id=CallId("p", self.count))
        done = self.q.run(call)
        put, delayed = 0, {name_of(one.raw): (at, one) for at, one in self.q.delayed.items()}
        for i, out in enumerate(outgoing):
            name = name_of(out.message)  # type: ignore[arg-type]
            message = Message(name, step, stale=bool(ttl))
            # Not if its id is known, and it is put once: then it is not put. Others of an id that
            # waits have one beside it.
            at, held = delayed.get(name, (out.id, None))
            is_one_more = not dedup and delay and out.id in self.model.delayed
            assert at.startswith(f"{out.id}#") if is_one_more else at == out.id
            due = (held.deadline if held else 0) if delay else None
            was_put = self.model.publish(message, due, at, dedup=dedup)
            assert was_put == (i not in done.known)
            put += was_put
            self.at.names |= {name} if was_put else set()
        assert done.count == put
        self.last_publish = call
        if ttl:
            time.sleep(0.002)

    @precondition(lambda self: self.last_publish)
    @rule()
    def publish_again(self) -> None:
        assert self.last_publish is not None
        assert self.q.run(self.last_publish.again()).repeated

    @rule(planted=histories)
    def some_have_a_history(self, planted: History) -> None:
        """They are written as years of claims, or other programs, would have left them."""
        place, step, before, stale, units = planted
        where = WHERE.get(place, place)
        is_lease, is_apart = where in ("unacked", "apart"), where == "apart"
        at = self.q.now() + (65_000 if place in ("held", "later") else -15_000)
        for i, (count, spared, alone) in enumerate(before):
            body, deliveries = self.name(), max(count, int(is_lease))
            message = Message(body, step, deliveries, spared, stale=stale, units=units)
            held = Held(message, at + i, alone=is_lease and (alone or is_apart), apart=is_apart)
            name = f"z-{self.count}.0.1" if is_lease else body
            make = tracked_msg if self.count % 3 == 0 else msg
            self.q.write(
                where,
                make(body, **({"fill": "x" * (units * UNIT)} if units else {})),
                name=name,
                step=step,
                deliveries=deliveries,
                spared=spared,
                stale=stale,
                alone=held.alone,
                at=held.at,
                blank=" " if self.count % 2 else "",
            )
            if place == "ready":
                self.model.lane(step).append(message)
            else:
                (self.model.unacked if is_lease else self.model.delayed)[name] = held
            self.at.receipts += [name] if is_lease else []

    # consumers

    @rule(acks=st.one_of(st.just([]), picks), asked=asking)
    def some_claim(self, acks: list[int], asked: dict[str, Any]) -> None:
        self.claim(acks=acks, **asked)

    def claim(
        self,
        by: str,
        limit: int,
        acks: Sequence[int] = (),
        *,
        company: int = calls.SOLE,
        most: int = 3,
        units: int = LATE,
        of: str = "one",
    ) -> None:
        riding = self.pick(list(acks)) if acks else []
        sides = [self.at]  # first, for the acks are of its messages
        if of == "all":
            sides += [side for side in self.sides if side is not self.at]
        keys, n = [side.q.keys for side in sides], {"two steps": 2, "one step": 1}.get(of, 4)
        if n < 4 and self.q.name == "q":  # of a fleet that has fewer priorities
            keys = [self.few[n].keys]
        more = {} if units == LATE else {"max_bytes": units * UNIT - UNIT // 2}
        call = calls.claim(
            keys,
            f"{by}-{self.rig.next()}",
            limit=limit,
            lease_ms=LEASE,
            max_deliveries=most,
            acks=[riding, *([] for _ in sides[1:])],
            company=company,
            **more,
        )
        asked = Claim(call.args[0], 0, limit, 0, LEASE, company == calls.SOLE, most, units)
        asked.steps = len(keys[0].steps)
        lost = [receipt for receipt in riding if not self.model.ack(receipt)]
        claimed = self.claimed(call, sides, asked)
        assert [receipt for _, receipt in claimed.lost_acks] == lost
        assert company > 1 or not claimed.drain_ms
        self.last_claim = call, sides[:], asked

    @precondition(lambda self: self.last_claim)
    @rule(times=st.sampled_from([1, 1, 9]))
    def claim_again(self, times: int) -> None:
        """The reply was lost; acks that rode along were done the first time."""
        assert self.last_claim is not None
        call, sides, asked = self.last_claim
        for receipt in call.args[11 : 11 + call.args[10]]:
            sides[0].model.ack(receipt)
        for _ in range(times):
            call = call.again()
        self.last_claim = call, sides, asked
        self.claimed(call, sides, asked)

    def claimed(self, call: Call[Claimed], sides: list[Side], asked: Claim) -> Claimed:
        for side in sides:
            side.contact()
        claimed = self.q.run(call)
        asked = replace(asked, attempt=call.args[1], now=claimed.now_ms, given=[])
        assert [each.receipt for each in claimed.deliveries] == claim(
            [side.model for side in sides], asked
        )
        for each in claimed.deliveries:
            (side,) = (side for side in sides if side.q.name == each.queue)
            held = side.model.unacked[each.receipt].message
            told = (name_of(each), each.step, each.deliveries, each.spared)
            assert told == (held.name, held.step, held.deliveries, held.spared)
            side.receipts += [each.receipt] if each.receipt not in side.receipts else []
        for side in sides:
            has_more = side.q.name in claimed.more
            assert has_more >= side.model.has_work(claimed.now_ms, asked.steps)
            if claimed.deliveries or not asked.limit:  # its consumer goes to work, or leaves
                assert has_more >= side.model.has_apart
            assert has_more <= side.q.tokens
        return claimed

    @rule()
    def look(self) -> None:
        """A waiting consumer asks whether a claim would find anything."""
        self.at.contact()
        found = self.q.run(calls.look([self.q.keys], "me", renew_ms=20_000))
        self.model.contact(self.q.now())
        assert bool(found) >= self.model.has_work(self.q.now(), 4)

    @precondition(lambda self: not self.model.grace)  # of which it knows less
    @rule(limit=few, most=st.sampled_from([3, 3, 2]))
    def claim_of_the_release_before(self, limit: int, most: int) -> None:
        """14144c1 knows nothing of what goes alone, or is cancelled."""
        self.at.contact()
        if self.model.gap:
            return
        call = self.q.claiming(limit, by="old", lease_ms=LEASE, max_deliveries=most)
        args = [*call.args[:8], *call.args[10:]]
        sha = self.rig.db.script_load(OLDER.read_text())
        keys = self.q.keys.inspect
        reply = self.rig.db.execute_command("EVALSHA", sha, len(keys), *keys, *args)
        now = int(reply[0].split()[0])
        asked = Claim(call.args[0], 0, limit, now, LEASE, sole=False, max_deliveries=most)
        asked.older = True
        got = [receipt.decode() for receipt in reply[1 : 1 + len(reply) // 5 * 5][1::5]]
        assert got == claim([self.model], asked)
        self.at.receipts += got

    # holders

    @rule(picked=picks, complete=st.booleans())
    def ack(self, picked: list[int], complete: bool) -> None:
        receipts = self.pick(picked)
        call = calls.ack(self.q.keys, receipts)
        if complete:
            items = [(receipt, f"r{receipt}", receipt) for receipt in receipts]
            call = calls.complete(self.q.keys, items)
        verdicts = self.q.run(call)
        for receipt, verdict in zip(receipts, verdicts, strict=True):
            assert self.model.ack(receipt) == (verdict is DONE)
            if complete and verdict is DONE:
                assert self.q.result(f"r{receipt}") == receipt.encode()

    @rule(picked=picks, lease=times, beside=st.booleans())
    def extend(self, picked: list[int], lease: int, beside: bool) -> None:
        receipts = self.pick(picked)
        self.at.contact()
        verdicts = self.q.run(
            calls.extend(self.q.keys, receipts, lease_ms=lease, renew_ms=20_000, beside=beside)
        )
        now = self.q.now()
        self.model.contact(now)
        seen = set()
        for receipt, verdict in zip(receipts, verdicts, strict=True):
            live = receipt in self.model.unacked and receipt not in seen
            assert live == (verdict in (DONE, CANCELLED))
            seen.add(receipt)
            if live:
                assert self.model.unacked[receipt].cancelled == (verdict is CANCELLED)
                until = self.q.unacked[receipt].deadline
                assert abs(until - now - lease) < 1000
                self.model.extend(receipt, until, beside=beside)

    @rule(
        picked=picks,
        delay=st.sampled_from([0, 0, 30_000]),
        front=st.booleans(),
        counted=st.booleans(),
    )
    def release(self, picked: list[int], delay: int, front: bool, counted: bool) -> None:
        names = {r: held.message.name for r, held in self.model.unacked.items()}
        items = [(r, names.get(r, "")) for r in dict.fromkeys(self.pick(picked))]
        before = set(self.model.delayed)
        call = calls.release(self.q.keys, items, delay_ms=delay, front=front, counted=counted)
        verdicts = [verdict is DONE for verdict in self.q.run(call)]
        due = self.q.now() + delay if delay else None
        if delay and front:
            items, verdicts = items[::-1], verdicts[::-1]
        wanted = self.model.release(items, due, front=front, counted=counted)
        assert verdicts == wanted
        stored = self.q.delayed
        for name in set(self.model.delayed) - before:
            assert abs(stored[name].deadline - self.model.delayed[name].at) < 1000
            self.model.delayed[name].at = stored[name].deadline

    @rule(picked=picks)
    def reject(self, picked: list[int]) -> None:
        receipts = self.pick(picked)
        items = [Rejection(receipt, "", "refused") for receipt in receipts]
        verdicts = self.q.run(calls.reject(self.q.keys, items))
        wanted = [self.model.reject(receipt, "refused") for receipt in receipts]
        assert [verdict is DONE for verdict in verdicts] == wanted

    # operators and time

    @rule(picked=picks)
    def revoke(self, picked: list[int]) -> None:
        """What is held is cancelled."""
        receipt = self.pick(picked)[0]
        was_held = self.q.run(calls.revoke(self.q.keys, "any", receipt=receipt))
        assert was_held == self.model.revoke(receipt)

    @rule(n=st.integers(0, 8))
    def cancel(self, n: int) -> None:
        ids = [f"m{max(0, self.count - n)}", f"m{self.count}"]
        verdicts = self.q.run(calls.cancel(self.q.keys, ids))
        assert [verdict is DONE for verdict in verdicts] == [self.model.cancel(i) for i in ids]

    @rule(limit=few)
    def redrive(self, limit: int) -> None:
        assert self.q.run(calls.redrive(self.q.keys, limit=limit)).count == self.model.redrive(
            limit
        )

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        assert self.q.run(calls.pause(self.q.keys, paused=paused)) == self.model.paused
        self.model.paused = paused

    @rule(rarely=st.integers(0, 3))
    def hand_back(self, rarely: int) -> None:
        if rarely == 0:
            self.q.run(calls.hand_back(self.q.keys))
            self.model.hand_back()

    @rule(rarely=st.integers(0, 4))
    def purge(self, rarely: int) -> None:
        if rarely == 0:
            self.q.run(calls.purge(self.q.keys, ready=True))
            self.model.purge_ready()

    @rule(deliveries=st.sampled_from([0, 0, 1, 2]), spared=st.integers(0, 2))
    def a_stock_worker_died(self, deliveries: int, spared: int) -> None:
        name, db = self.name(), self.rig.db
        head = f'"x-deliveries": {deliveries}, "x-spared": {spared}, ' if deliveries else ""
        db.hset(STOCK[0], name, b'[{%b%b, "", "q"]' % (head.encode(), msg(name)[1:]))
        db.zadd(STOCK[1], {name: 1})
        call = calls.restore_foreign(
            self.q.keys, STOCK, visibility_s=60, targets=[(name, self.q.keys, 0)]
        )
        assert self.q.run(call) == (1, [])
        spared = spared + 1 if deliveries else 0
        self.model.lane(1).insert(0, Message(name, 1, deliveries + 1, spared))

    @rule(units=st.integers(0, 2), step=steps)
    def a_stock_producer_puts(self, units: int, step: int) -> None:
        """It tells nobody, and not how large it is."""
        name = self.name()
        raw = msg(name, size=units * UNIT)
        self.rig.db.lpush(self.q.keys.ready[step - 1], raw)
        self.model.lane(step).append(Message(name, step, units=units))

    @rule(ms=times)
    def time_passes(self, ms: int) -> None:
        """With consumers asking all the while."""
        for side in self.sides:
            side.q.pass_time(ms)
            side.q.pass_time(ms, of="delayed")
            for name in {"grace", "had_grace"} & side.q.meta.keys():
                self.rig.db.hincrby(side.q.keys.meta, name, -ms)
            side.model.time_passes(ms)

    @rule()
    def outage(self) -> None:
        """Nobody reached the server for 90 s: more than one and a half renewals."""
        self.time_passes(90_000)
        for side in self.sides:
            self.rig.db.hincrby(side.q.keys.meta, "seen", -90_000)

    # what must hold

    @invariant()
    def each_message_is_where_the_model_has_it(self) -> None:
        for side in self.sides:
            is_alike(side)


def is_alike(side: Side) -> None:
    """The queue holds what its model holds, and says so."""
    q, model = side.q, side.model
    places = q.places()  # fails if one is in two places
    assert set(places) | model.gone == side.names
    assert not set(places) & model.gone
    for step in range(1, 5):
        lane = [(m.name, m.deliveries) for m in model.lane(step)]
        stored = q.rig.db.lrange(q.keys.ready[step - 1], 0, -1)[::-1]
        assert [(name_of(raw), count_of(raw)) for raw in stored] == lane
    for stored, wanted in ((q.unacked, model.unacked), (q.delayed, model.delayed)):
        assert {
            name: (name_of(each.raw), each.step, each.deliveries, each.deadline)
            for name, each in stored.items()
        } == {
            name: (held.message.name, held.message.step, held.message.deliveries, held.at)
            for name, held in wanted.items()
        }
    marks = {
        receipt.decode(): (score >= 10 * BAND, score % 1 > 0)
        for receipt, score in q.db.zrange(q.keys.unacked, 0, -1, withscores=True)
    }
    assert marks == {name: (held.apart, held.alone) for name, held in model.unacked.items()}
    letters = [(name_of(each.raw), each.reason, each.deliveries) for each in q.dead]
    assert letters == [(m.name, reason, m.deliveries) for m, reason in model.dead]
    state = q.run(calls.inspect(q.keys))
    (row,) = q.run(calls.overview([q.keys]))
    leases, later = list(model.unacked.values()), list(model.delayed.values())
    assert list(state.ready_by_priority.values()) == [len(model.lane(n)) for n in range(1, 5)]
    for said in (state, row):
        assert (said.ready, said.dead, said.paused) == (
            sum(map(len, model.ready.values())),
            len(model.dead),
            model.paused,
        )
        assert (said.unacked, said.delayed) == (len(leases), len(later))
        assert said.expired == sum(held.at <= said.now_ms for held in leases)
        assert said.due == sum(held.at <= said.now_ms for held in later)
        assert said.next_due_ms == min((held.at for held in later), default=None)
    assert state.inconsistent == 0
    quiet = int(q.meta.get("quiet", 0))  # until when a plain claim does not look what ended
    assert quiet <= q.now() or not any(
        held.at < quiet or held.apart or held.cancelled for held in leases
    )


def count_of(raw: bytes) -> int:
    """The deliveries at the head of a message."""
    head, found, rest = raw.partition(b'"x-deliveries":')
    return int(rest.partition(b",")[0]) if found and head == b"{" else 0


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(900)  # when it fails, the steps are made as few as can be
def test_the_scripts_do_what_the_model_does(rig: Rig) -> None:
    rig.allowed |= {key.encode() for key in STOCK}
    machine = type("Machine", (QueueMachine,), {"rig": rig})
    if not LONG:  # the same steps in every run, others on every server and in every layout
        seed(zlib.crc32(f"{rig.server.kind} {rig.layout}".encode()))(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=300 if LONG else 25,
            stateful_step_count=60 if LONG else 30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_claim_of_any_mixture_does_what_the_model_does(rig: Rig) -> None:
    """What takes long to come about is written as it would be, and claimed from at once."""

    @settings(
        max_examples=5000 if LONG else 80,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        planted=st.lists(histories, min_size=1, max_size=8),
        claims=st.lists(asking, min_size=1, max_size=3),
        paused=st.sampled_from([False, False, False, True]),
    )
    def check(planted: list[History], claims: list[dict[str, Any]], paused: bool) -> None:
        machine = type("Machine", (QueueMachine,), {"rig": rig})()
        machine.begin(planted)
        if paused:
            machine.pause(paused)
        for asked in claims:
            machine.turn_to_the_other_queue()
            machine.claim(**asked)
            machine.each_message_is_where_the_model_has_it()

    if not LONG:
        seed(zlib.crc32(f"{rig.server.kind} {rig.layout}".encode()))(check)
    check()


def test_the_model_itself() -> None:
    """It loses nothing either."""
    model = Model()
    for i in range(3):
        model.publish(Message(f"m{i}", 1 + i), None, f"m{i}", dedup=True)
    assert not model.publish(Message("m0", 1), None, "m0", dedup=True)
    assert claim([model], Claim("a-1", 0, 2, 1000, 60)) == ["a-1.0.1", "a-1.0.2"]
    assert claim([model], Claim("a-1", 1, 2, 1000, 60)) == ["a-1.0.1", "a-1.0.2"]
    before = copy.deepcopy(model)
    assert not model.ack("stale")
    assert model == before
    assert model.ack("a-1.0.1")
    assert model.gone == {"m0"}
    assert claim([model], Claim("b-1", 0, 5, 1060, 60)) == ["b-1.0.1", "b-1.0.2"]
    assert {held.message.name for held in model.unacked.values()} == {"m1", "m2"}
