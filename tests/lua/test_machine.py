"""All verbs in any order, on a real server beside the model in tests/model.py.

After every step each message must be in exactly one place, and in the place, order and state that
the model says. Time passes by moving what is stored; steps of ten seconds, so that the milliseconds
a test really takes decide nothing.
"""

from __future__ import annotations

import copy
import time
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
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
from tests.lua.rig import BAND, Rig, msg, name_of
from tests.lua.verbs import STOCK
from tests.model import Message, Model

LEASE = 60_000
DONE = Verdict.DONE
steps = st.integers(1, 4)
few = st.integers(1, 4)
times = st.sampled_from([10_000, 30_000, 60_000, 90_000])
picks = st.lists(st.integers(0, 40), min_size=1, max_size=4)


class QueueMachine(RuleBasedStateMachine):
    """The rig's queue and the model, side by side."""

    rig: Rig

    def __init__(self) -> None:
        super().__init__()
        self.rig.db.flushall()
        self.q = self.rig.queue()
        self.model = Model()
        self.count = 0
        self.names: set[str] = set()
        self.receipts: list[str] = []
        self.last_publish: Call[Any] | None = None
        self.last_claim: Call[Claimed] | None = None

    @initialize()
    def begin(self) -> None:
        self.claim("a", 0, [])  # the queue has been seen: from now on a gap is a gap

    def pick(self, picked: list[int]) -> list[str]:
        """Receipts, live and stale ones, and one that never was."""
        pool = [*self.receipts, "never"]
        return [pool[-1 - i % len(pool)] for i in picked]

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
        put, delayed = 0, self.q.delayed
        for i, out in enumerate(outgoing):
            name = name_of(out.message)  # type: ignore[arg-type]
            message = Message(name, step, stale=bool(ttl))
            held = delayed.get(out.id)  # not if its id is known: then it is not put
            due = (held.deadline if held else 0) if delay else None
            was_put = self.model.publish(message, due, out.id, dedup=dedup)
            assert was_put == (i not in done.known)
            put += was_put
            self.names |= {name} if was_put else set()
        assert done.count == put
        self.last_publish = call
        if ttl:
            time.sleep(0.002)

    @precondition(lambda self: self.last_publish)
    @rule()
    def publish_again(self) -> None:
        assert self.last_publish is not None
        assert self.q.run(self.last_publish.again()).repeated

    # consumers

    @rule(
        by=st.sampled_from("ab"),
        limit=st.integers(0, 5),
        acks=st.one_of(st.just([]), picks),
        company=st.sampled_from([calls.SOLE, calls.SOLE, calls.HOLDS, 2000]),
    )
    def claim(self, by: str, limit: int, acks: list[int], company: int = calls.SOLE) -> None:
        riding = self.pick(acks) if acks else []
        call = self.q.claiming(
            limit, by=by, lease_ms=LEASE, max_deliveries=3, acks=[riding], company=company
        )
        lost = [receipt for receipt in riding if not self.model.ack(receipt)]
        claimed = self.claimed(call)
        assert [receipt for _, receipt in claimed.lost_acks] == lost
        self.last_claim = call

    @precondition(lambda self: self.last_claim)
    @rule()
    def claim_again(self) -> None:
        """The reply was lost; acks that rode along were done the first time."""
        assert self.last_claim is not None
        self.last_claim = self.last_claim.again()
        for receipt in self.last_claim.args[11:]:
            self.model.ack(receipt)
        self.claimed(self.last_claim)

    def claimed(self, call: Call[Claimed]) -> Claimed:
        self.contact()
        claimed = self.q.run(call)
        claim_id, attempt, limit = call.args[:3]
        company = call.args[8]
        wanted = self.model.claim(claim_id, attempt, limit, claimed.now_ms, LEASE, company)
        assert company > 1 or not claimed.drain_ms
        assert [each.receipt for each in claimed.deliveries] == wanted
        self.receipts += [each for each in wanted if each not in self.receipts]
        for each in claimed.deliveries:
            held = self.model.unacked[each.receipt].message
            assert (name_of(each), each.deliveries) == (held.name, held.deliveries)
            assert each.spared == held.spared
        return claimed

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
        self.contact()
        verdicts = self.q.run(
            calls.extend(self.q.keys, receipts, lease_ms=lease, renew_ms=20_000, beside=beside)
        )
        now = self.q.now()
        self.model.contact(now)
        seen = set()
        for receipt, verdict in zip(receipts, verdicts, strict=True):
            live = receipt in self.model.unacked and receipt not in seen
            assert live == (verdict is DONE)
            seen.add(receipt)
            if live:
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

    @rule()
    def a_stock_worker_died(self) -> None:
        self.count += 1
        name, db = f"m{self.count}", self.rig.db
        db.hset(STOCK[0], name, b'[%s, "", "q"]' % msg(name))
        db.zadd(STOCK[1], {name: 1})
        call = calls.restore_foreign(
            self.q.keys, STOCK, visibility_s=60, targets=[(name, self.q.keys, 0)]
        )
        assert self.q.run(call) == (1, [])
        self.names.add(name)
        self.model.lane(1).insert(0, Message(name, 1, deliveries=1))

    @rule(ms=times)
    def time_passes(self, ms: int) -> None:
        """With consumers asking all the while."""
        self.q.pass_time(ms)
        self.q.pass_time(ms, of="delayed")
        for name in {"grace", "had_grace"} & self.q.meta.keys():
            self.rig.db.hincrby(self.q.keys.meta, name, -ms)
        self.model.time_passes(ms)

    @rule()
    def outage(self) -> None:
        """Nobody reached the server for 90 s: more than one and a half renewals."""
        self.time_passes(90_000)
        self.rig.db.hincrby(self.q.keys.meta, "seen", -90_000)

    def contact(self) -> None:
        """Somebody comes to the server: was nobody there for too long?"""
        self.model.gap = 0 < int(self.q.meta.get("seen", 0)) < self.q.now() - 30_000

    # what must hold

    @invariant()
    def each_message_is_where_the_model_has_it(self) -> None:
        q, model = self.q, self.model
        places = q.places()  # fails if one is in two places
        assert set(places) | model.gone == self.names
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


def count_of(raw: bytes) -> int:
    """The deliveries at the head of a message."""
    head, found, rest = raw.partition(b'"x-deliveries":')
    return int(rest.partition(b",")[0]) if found and head == b"{" else 0


@pytest.mark.slow
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


def test_the_model_itself() -> None:
    """It loses nothing either."""
    model = Model()
    for i in range(3):
        model.publish(Message(f"m{i}", 1 + i), None, f"m{i}", dedup=True)
    assert not model.publish(Message("m0", 1), None, "m0", dedup=True)
    assert model.claim("a-1", 0, 2, 1000, 60) == ["a-1.0.1", "a-1.0.2"]
    assert model.claim("a-1", 1, 2, 1000, 60) == ["a-1.0.1", "a-1.0.2"]
    before = copy.deepcopy(model)
    assert not model.ack("stale")
    assert model == before
    assert model.ack("a-1.0.1")
    assert model.gone == {"m0"}
    assert model.claim("b-1", 0, 5, 1060, 60) == ["b-1.0.1", "b-1.0.2"]
    assert {held.message.name for held in model.unacked.values()} == {"m1", "m2"}
