"""Where a message is, by its id: `find` beside what is stored, after every move there is."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from atomq import calls, flows
from atomq.calls import MessageStatus, Outgoing, Rejection, Verdict
from atomq.delivery import Delivery
from atomq.ids import CallId
from benchmarks.meter import Meter
from tests.conftest import LONG
from tests.lua.rig import Queue, Rig, msg, name_of, tracked_msg

DONE, LOST = Verdict.DONE, Verdict.LOST
OLDER = Path(__file__).parent / "older" / "claim.lua"
DAY = 86_400_000


def envelope(name: str, *, tracked: bool = True) -> bytes:
    """A message whose id can be read."""
    make = tracked_msg if tracked else msg
    return make(name, properties={"delivery_tag": name})


def put(q: Queue, *names: str, tracked: bool = True, **more: Any) -> None:
    outgoing = [Outgoing(envelope(n, tracked=tracked), n, tracked=tracked, **more) for n in names]
    q.run(calls.publish(q.keys, outgoing, call_id=CallId(f"p{q.rig.next()}")))


def find(q: Queue, name: str, **more: Any) -> MessageStatus:
    found: MessageStatus = q.run(calls.find(q.keys, name, **more))
    return found


def cancel(q: Queue, *names: str) -> list[Verdict]:
    return q.rig.engine.run(flows.cancel(q.keys, names))


def older_claim(q: Queue, limit: int = 10) -> list[bytes]:
    """A claim of 14144c1, which knows nothing of tracking; the receipts."""
    call = q.claiming(limit, by="old")
    keys, args = q.keys.inspect, [*call.args[:8], *call.args[10:]]
    sha = q.db.script_load(OLDER.read_text())
    return list(q.db.execute_command("EVALSHA", sha, len(keys), *keys, *args)[1:][1::5])


# ── every move ────────────────────────────────────────────────────────────────────────────────


class Ledger(RuleBasedStateMachine):
    """What was done to each message, and what `find` has to say of it."""

    rig: Rig

    def __init__(self) -> None:
        super().__init__()
        self.rig.db.flushall()
        self.q = self.rig.queue()
        self.where: dict[str, str] = {}
        self.tracked: dict[str, bool] = {}
        self.held: dict[str, Delivery] = {}
        self.count = 0

    def those(self, *states: str) -> list[str]:
        return [name for name, state in self.where.items() if state in states]

    def one(self, pick: int, *states: str) -> str | None:
        names = self.those(*states)
        return names[pick % len(names)] if names else None

    def end(self, name: str, state: str) -> None:
        """It left the queue: of what is not tracked no word is left."""
        self.held.pop(name, None)
        self.where[name] = state if self.tracked[name] else "unknown"

    @rule(
        tracked=st.booleans(),
        delay=st.sampled_from([0, 0, 60_000]),
        step=st.integers(1, 4),
        dedup=st.booleans(),
        ttl=st.sampled_from([0, 100_000]),
    )
    def put(self, tracked: bool, delay: int, step: int, dedup: bool, ttl: int) -> None:
        self.count += 1
        name = f"m{self.count:03d}%"
        settings = {"delay_ms": delay, "step": step, "dedup": dedup, "ttl_ms": ttl}
        put(self.q, name, tracked=tracked, **settings)
        self.where[name] = "delayed" if delay else "ready"
        self.tracked[name] = tracked

    @rule(limit=st.integers(1, 4), ack=st.booleans())
    def claim(self, limit: int, ack: bool) -> None:
        acked = self.one(0, "held") if ack else None
        words = [[self.held[acked].word]] if acked else None
        if acked:
            self.end(acked, "done")
        for got in self.q.take(limit, acks=words):
            name = got.envelope.id
            assert self.where[name] in ("ready", "held", "delayed")
            self.where[name] = "held"
            self.held[name] = got

    @rule(pick=st.integers(0, 9), verb=st.sampled_from(["ack", "complete"]))
    def settle(self, pick: int, verb: str) -> None:
        if name := self.one(pick, "held", "cancelling"):
            word = self.held[name].word
            if verb == "ack":
                call: Any = calls.ack(self.q.keys, [word])
            else:
                call = calls.complete(self.q.keys, [(word, name, '{"state":"done","value":1}')])
            assert self.q.run(call) == [DONE]
            self.end(name, "done")
            if verb == "complete":
                self.where[name] = "done"

    @rule(pick=st.integers(0, 9), delay=st.sampled_from([0, 60_000]))
    def release(self, pick: int, delay: int) -> None:
        if name := self.one(pick, "held", "cancelling"):
            was, receipt = self.where[name], self.held.pop(name).receipt
            self.q.run(calls.release(self.q.keys, [(receipt, name)], delay_ms=delay))
            if was == "cancelling":
                self.end(name, "cancelled")
            else:
                self.where[name] = "delayed" if delay else "ready"

    @rule(pick=st.integers(0, 9))
    def reject(self, pick: int) -> None:
        if name := self.one(pick, "held", "cancelling"):
            self.q.run(calls.reject(self.q.keys, [Rejection(self.held[name].receipt, name, "no")]))
            self.held.pop(name)
            self.where[name] = "dead"

    @rule()
    def redrive(self) -> None:
        self.rig.engine.run(flows.redrive_all(self.q.keys))
        for name in self.those("dead"):
            self.where[name] = "ready"

    @rule()
    def all_leases_end(self) -> None:
        """And all are taken anew, or dropped."""
        self.q.expire()
        before = self.those("held", "cancelling")
        ready = self.those("ready")
        for got in self.q.take(1000):
            name = got.envelope.id
            assert name in before + ready + self.those("delayed"), name
            assert self.where[name] != "cancelling"
            self.where[name], self.held[name] = "held", got
        for name in self.those("cancelling"):
            self.end(name, "cancelled")

    @rule(pick=st.integers(0, 9))
    def cancel(self, pick: int) -> None:
        if name := self.one(pick, "ready", "delayed", "held"):
            was = self.where[name]
            assert cancel(self.q, name) == [DONE]
            if was == "held":
                self.where[name] = "cancelling"
            else:
                self.end(name, "cancelled")

    @rule(pick=st.integers(0, 9))
    def run_now(self, pick: int) -> None:
        if name := self.one(pick, "delayed"):
            assert self.q.run(calls.run_now(self.q.keys, [name, "nobody"])) == [DONE, LOST]
            got = self.q.take(1000)
            assert name in [each.envelope.id for each in got]
            for each in got:
                self.where[each.envelope.id], self.held[each.envelope.id] = "held", each

    @rule(part=st.sampled_from(["ready", "delayed", "unacked", "dead"]))
    def purge(self, part: Any) -> None:
        self.q.run(calls.purge(self.q.keys, **{part: True}))
        gone = {"unacked": ("held", "cancelling")}.get(part, (part,))
        for name in self.those(*gone):
            self.end(name, "gone")

    @rule()
    def hand_back(self) -> None:
        self.rig.engine.run(flows.hand_back_all(self.q.keys))
        for name in self.those("held", "delayed", "cancelling"):
            self.held.pop(name, None)
            self.where[name] = "ready"

    @rule()
    def an_older_worker_takes_all(self) -> None:
        """It writes no record: `find` looks for itself."""
        receipts = older_claim(self.q, 1000)
        for receipt in receipts:
            held = self.q.db.hget(self.q.keys.records, receipt)
            assert held
            got = Delivery("q", receipt.decode(), 1, 1, held.split(b" ", 3)[3])
            self.where[got.envelope.id], self.held[got.envelope.id] = "held", got

    @invariant()
    def it_says_what_is_so(self) -> None:
        for name, state in self.where.items():
            found = find(self.q, name)
            told = "cancelling" if found.cancelling else found.state
            assert told == state, (name, found)
            assert found.certain
            if told in ("held", "cancelling"):
                assert found.receipt == self.held[name].receipt
                assert found.since_ms
                assert found.lease_ends_ms
            if told == "dead":
                assert found.reason in ("no", "max_deliveries", "expired")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_find_says_what_is_so_whatever_was_done(rig: Rig) -> None:
    machine = type("Machine", (Ledger,), {"rig": rig})
    if not LONG:
        seed(zlib.crc32(f"{rig.server.kind} {rig.layout}".encode()))(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=200 if LONG else 12,
            stateful_step_count=40 if LONG else 25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# ── releases beside each other ────────────────────────────────────────────────────────────────


def test_a_worker_of_14144c1_leaves_no_record_and_find_does_not_lie(q: Queue) -> None:
    put(q, "a", "b")
    receipts = older_claim(q)
    found = find(q, "a")
    assert (found.state, found.receipt) == ("held", receipts[0].decode())
    q.run(calls.ack(q.keys, [receipts[0].decode()]))
    found = find(q, "a")
    assert (found.state, found.certain) == ("gone", True)
    assert "left no word" in found.note
    q.expire()
    (got,) = q.take()
    assert find(q, "b").receipt == got.receipt
    q.run(calls.ack(q.keys, [got.receipt]))  # as an older one acks it: without its id
    assert find(q, "b").state == "gone"


def test_what_a_record_says_of_a_long_queue_is_not_certain(q: Queue) -> None:
    put(q, *(f"m{i}" for i in range(1000)))
    assert (find(q, "m0").certain, find(q, "m999").certain) == (True, True)
    found = find(q, "m500", limit=100)
    assert (found.state, found.certain, found.raw) == ("ready", False, None)
    q.db.delete(q.keys.put("m500"))
    found = find(q, "m500", limit=100)
    assert (found.state, found.tracked) == ("unknown", False)
    assert found.note == "not tracked: 900 messages of the queue were not searched for it"


def test_the_text_of_an_id_elsewhere_in_a_message_is_not_the_message(q: Queue) -> None:
    q.put(msg("x", properties={"delivery_tag": "other"}, parent="wanted"))
    assert find(q, "wanted").state == "unknown"
    put(q, "wanted", tracked=False)
    assert find(q, "wanted").state == "ready"


def test_however_often_an_id_is_found_elsewhere_each_part_is_searched_to_its_bounds(
    q: Queue,
) -> None:
    others = [msg("x", properties={"delivery_tag": f"m{i}"}, parent="wanted") for i in range(90)]
    q.put(*others)
    dead = [Rejection(each.receipt, "", "no") for each in q.take(60)[30:]]
    assert q.run(calls.reject(q.keys, dead)) == [DONE] * 30
    put(q, "wanted", tracked=False)
    found = find(q, "wanted", limit=40)
    assert (found.state, found.certain) == ("ready", True)
    assert found.raw == envelope("wanted", tracked=False)
    q.db.lset(q.keys.ready[0], 15, q.db.lpop(q.keys.ready[0]))  # the newest, to their middle
    found = find(q, "wanted", limit=20)
    assert (found.state, found.certain) == ("unknown", False)
    assert found.note == "not tracked: 30 messages of the queue were not searched for it"


@pytest.mark.parametrize("blank", ["", " "])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", [17, -17, 1.5])
def test_an_id_that_is_a_number_is_found(
    q: Queue, name: float, indent: int | None, blank: str
) -> None:
    for last in True, False:
        named = {"message_id": name} if last else {"message_id": name, "priority": 0}
        raw = json.dumps(
            {"body": "x", "properties": named}, indent=indent, separators=(",", f":{blank}")
        )
        q.write("ready", raw.encode(), name="")
        found = find(q, str(name))
        assert (found.state, found.raw) == ("ready", raw.encode())
        q.db.delete(q.keys.ready[0])


@pytest.mark.parametrize("name", ['"quoted"', "with blanks", "ä€😀", "!mark", "50%", "\\", "'"])
def test_any_id_is_tracked(q: Queue, name: str) -> None:
    put(q, name)
    assert find(q, name).state == "ready"
    (got,) = q.take()
    assert got.envelope.id == name
    assert (find(q, name).state, find(q, name).receipt) == ("held", got.receipt)
    q.run(calls.ack(q.keys, [got.word]))
    assert find(q, name).state == "done"


# ── cancelled ─────────────────────────────────────────────────────────────────────────────────


def test_a_tracked_one_amid_a_long_queue_is_dropped_by_the_claim_that_meets_it(q: Queue) -> None:
    put(q, *(f"m{i}" for i in range(9)))
    assert q.run(calls.revoke(q.keys, "m4"))
    assert find(q, "m4").state == "cancelled"
    assert not q.run(calls.revoke(q.keys, "m4")), "once"
    assert not q.run(calls.revoke(q.keys, "nobody"))
    put(q, "m4", dedup=True)  # the id is free again
    got = [each.envelope.id for each in q.take()]
    assert got == [f"m{i}" for i in (0, 1, 2, 3, 5, 6, 7, 8, 4)]
    assert q.stats["cancelled"] == 1
    assert not q.db.exists(q.keys.cancelled)
    assert q.meta["cancels"] == "0", "claims take the short way again"


@pytest.mark.parametrize(
    "how", [{}, {"delay_ms": 1}, {"ttl_ms": 60_000}], ids=["ready", "delayed", "expires"]
)
def test_what_is_put_again_is_not_dropped_though_claims_meet_it_first(
    q: Queue, how: dict[str, int]
) -> None:
    put(q, "a", step=3)
    assert q.run(calls.revoke(q.keys, "a"))
    put(q, "a", step=2, dedup=True, **how)
    assert find(q, "a").state == ("delayed" if "delay_ms" in how else "ready")
    before = q.now()
    while q.now() < before + 3:
        pass
    (got,) = q.take(1)
    assert (got.step, got.envelope.id, find(q, "a").receipt) == (2, "a", got.receipt)
    assert q.run(calls.release(q.keys, [(got.receipt, "a")])) == [Verdict.DONE]
    assert [each.step for each in q.take()] == [2], "delivered before, it is still that one"
    assert (q.stats["cancelled"], q.db.exists(q.keys.cancelled)) == (1, 0)
    assert find(q, "a").state == "held", "what was dropped is not the one that is held"


def test_an_id_that_is_cancelled_and_put_again_twice(q: Queue) -> None:
    for step in (3, 2):
        put(q, "a", step=step, dedup=True)
        assert q.run(calls.revoke(q.keys, "a"))
    put(q, "a", dedup=True)
    assert [each.step for each in q.take()] == [1]
    assert (q.stats["cancelled"], q.db.exists(q.keys.cancelled)) == (2, 0)


def test_what_is_put_again_after_a_purge_is_not_dropped(q: Queue) -> None:
    """The marks of what was ready go with it, and not those of what is held."""
    put(q, "a", "b")
    (a,) = q.take(1)
    for receipt in (a.receipt, ""):
        assert q.run(calls.revoke(q.keys, "a" if receipt else "b", receipt=receipt))
    q.run(calls.purge(q.keys, ready=True))
    assert q.db.hkeys(q.keys.cancelled) == [b"!" + a.receipt.encode()]
    put(q, "b", dedup=True)
    assert q.db.lrange(q.keys.ready[0], 0, -1) == [envelope("b")]
    assert [each.envelope.id for each in q.take()] == ["b"]


@pytest.mark.parametrize("why", ["expired", "max_deliveries", "alone and max_deliveries"])
def test_a_cancelled_one_that_is_past_its_time_is_no_dead_letter(q: Queue, why: str) -> None:
    """Who waits for its result would hear that it failed."""
    put(q, "a", tracked=True, ttl_ms=1 if why == "expired" else 0)
    if why != "expired":
        spared = 2 if why.startswith("alone") else 0
        raw = envelope("a")
        q.db.lpop(q.keys.ready[0])
        q.write("ready", raw, name="", deliveries=3 + spared, spared=spared)
    assert q.run(calls.revoke(q.keys, "a"))
    put(q, "b")
    before = q.now()
    while q.now() < before + 2:
        pass
    claimed = q.claim(max_deliveries=3)
    assert [each.envelope.id for each in claimed.deliveries] == ["b"]
    assert (q.dead, list(claimed.dead_lettered)) == ([], [])
    assert (find(q, "a").state, q.stats["cancelled"]) == ("cancelled", 1)


def test_what_is_past_its_time_beside_a_cancelled_one_is_a_dead_letter(q: Queue) -> None:
    put(q, "cancelled", "late", ttl_ms=1)
    assert q.run(calls.revoke(q.keys, "cancelled"))
    before = q.now()
    while q.now() < before + 2:
        pass
    assert q.take() == []
    assert [letter.reason for letter in q.dead] == ["expired"]
    assert [find(q, name).state for name in ("cancelled", "late")] == ["cancelled", "dead"]


@pytest.mark.parametrize("is_late", [False, True])
def test_what_was_cancelled_counts_as_bytes_too(q: Queue, is_late: bool) -> None:
    put(q, *"abcdef")
    q.db.delete(q.keys.ready[0])
    for name in "abcdef":
        raw = tracked_msg(name, fill="x" * 1000)
        q.write("ready", raw, name="", deliveries=3 * is_late)
        assert q.run(calls.revoke(q.keys, name))
    claimed = q.claim(max_deliveries=3, max_bytes=2500)
    assert (claimed.deliveries, claimed.more, len(q.ready)) == ([], ("q",), 3)
    assert q.stats["cancelled"] == 3


def test_a_claim_that_drops_all_that_it_meets_answers_as_if_it_met_nothing(q: Queue) -> None:
    put(q, "a")
    assert q.run(calls.revoke(q.keys, "a"))
    call = q.claiming()
    sha = q.db.script_load(call.script.text)
    reply = q.db.execute_command("EVALSHA", sha, len(call.keys), *call.keys, *call.args)
    assert (reply.split()[1:], q.stats["cancelled"]) == (b"-1 0 0 0 0".split(), 1)


@pytest.mark.parametrize("keeps", [True, False], ids=["others held", "each acked"])
def test_plain_claims_before_it_hand_no_cancelled_one_out(q: Queue, keeps: bool) -> None:
    """They look at nothing but `quiet`, which is taken back, and not given while it is there."""
    put(q, *(f"m{i}" for i in range(9)))
    got = []
    for at in range(8):
        if at == 2:
            q.run(calls.revoke(q.keys, "m5"))
        (one,) = q.take(1)
        got.append(one.envelope.id)
        if not keeps:
            q.run(calls.ack(q.keys, [one.word]))
    assert got == [f"m{i}" for i in (0, 1, 2, 3, 4, 6, 7, 8)]


def test_the_holder_of_a_cancelled_one_hears_of_it(q: Queue) -> None:
    q.put("a", "b")
    a, b = q.take()
    assert q.run(calls.revoke(q.keys, "a", receipt=a.receipt))
    renew = calls.extend(q.keys, [b.receipt, a.receipt, "c-0.0.1"], lease_ms=60_000)
    assert q.run(renew) == [DONE, Verdict.CANCELLED, LOST]
    assert set(q.unacked) == {a.receipt, b.receipt}
    q.run(calls.ack(q.keys, [a.receipt]))
    assert q.run(renew) == [DONE, LOST, LOST]


def test_a_held_one_frees_its_id_once_however_often_it_is_cancelled(q: Queue) -> None:
    """A cancel that is sent again after a lost reply must not free what was put since."""
    put(q, "a", tracked=False, dedup=True)
    (a,) = q.take()
    cancelling = calls.revoke(q.keys, "a", receipt=a.receipt)
    assert q.run(cancelling)
    put(q, "a", tracked=False, dedup=True)
    assert q.run(cancelling)
    put(q, "a", tracked=False, dedup=True)
    assert len(q.ready) == 1
    assert q.run(calls.release(q.keys, [(a.receipt, "a")])) == [DONE]
    assert len(q.ready) == 1


def test_one_whose_holder_died_is_not_handed_out_again(q: Queue) -> None:
    q.put("a", "b")
    a, _ = q.take()
    assert q.run(calls.revoke(q.keys, "a", receipt=a.receipt))
    q.expire()
    assert [name_of(each) for each in q.take()] == ["b"]
    assert q.stats["cancelled"] == 1


def test_run_now_wakes_a_consumer(q: Queue) -> None:
    put(q, "a", "b", delay_ms=60_000)
    q.db.delete(q.keys.wake)
    assert q.run(calls.run_now(q.keys, ["a", "x"])) == [DONE, LOST]
    assert q.tokens == 1
    assert [each.envelope.id for each in q.take()] == ["a"]
    assert find(q, "b").state == "delayed"


# ── progress ──────────────────────────────────────────────────────────────────────────────────


def test_progress_is_of_the_holder(q: Queue) -> None:
    put(q, "a")
    (got,) = q.take()
    assert q.run(calls.progress(q.keys, "a", got.receipt, 0.25, "a quarter"))
    said = find(q, "a").progress
    assert said is not None
    assert (said.fraction, said.text) == (0.25, "a quarter")
    q.expire()
    (anew,) = q.take()
    assert find(q, "a").progress is None
    assert not q.run(calls.progress(q.keys, "a", got.receipt, 0.5)), "it is another's"
    q.run(calls.ack(q.keys, [anew.word]))
    assert not q.run(calls.progress(q.keys, "a", anew.receipt, 1.0))
    assert find(q, "a").state == "done"


# ── what it costs, and how long it stays ──────────────────────────────────────────────────────


def commands(q: Queue, call: calls.Call[Any]) -> float:
    meter = Meter(q.db)
    q.db.script_load(call.script.text)
    begin = meter.read()
    q.run(call)
    return meter.spent(begin).commands


@pytest.mark.alone
def test_each_move_costs_at_most_two_commands_more(q: Queue) -> None:
    def moves(kind: str, *, tracked: bool, many: int) -> dict[str, float]:
        names = [f"{kind}{i}" for i in range(many)]
        outgoing = [Outgoing(envelope(n, tracked=tracked), n, tracked=tracked) for n in names]
        cost = {"put": commands(q, calls.publish(q.keys, outgoing, call_id=CallId(kind)))}
        claiming = q.claiming(many)
        cost["claim"] = commands(q, claiming)
        front = claiming.args[0]
        words = [f"{front}.0.{i + 1}" + (f" {n}" if tracked else "") for i, n in enumerate(names)]
        assert len(q.unacked) == many
        cost["ack"] = commands(q, calls.ack(q.keys, words))
        assert not q.unacked
        return cost

    def least(kind: str, *, tracked: bool, many: int) -> dict[str, float]:
        """Of three times: now and then a claim also looks for what time has brought."""
        found = []
        for turn in "abc":
            q.db.delete(*q.keys.tracked)
            found.append(moves(f"{kind}{many}{turn}", tracked=tracked, many=many))
        return {verb: min(each[verb] for each in found) for verb in found[0]}

    moves("warm", tracked=False, many=1)
    for many in 1, 10:
        plain = least("plain", tracked=False, many=many)
        tracked = least("tracked", tracked=True, many=many)
        more = {verb: tracked[verb] - plain[verb] for verb in plain}
        assert more["put"] <= 2 * many, more  # one for the time, one each
        assert more["claim"] <= 2, more
        assert more["ack"] <= 2, more


def test_records_pass_by_themselves(q: Queue) -> None:
    put(q, "a")
    (got,) = q.take()
    q.run(calls.ack(q.keys, [got.word]))
    (key,) = [key for key in q.keys.tracked if q.db.exists(key)]
    assert DAY - 1000 < q.db.pttl(key) <= 2 * DAY
    assert DAY < q.db.pttl(q.keys.put("a")) <= 2 * DAY
    assert q.db.hlen(key) == 1
