"""What a process holds, where no server is asked. `faults/test_leases.py` asks one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as server

from atomq import AsyncMessage, AsyncQueue, Message, Queue, leases
from atomq.backlog import Backlog
from atomq.calls import Call, Claimed, Verdict, ack
from atomq.client import Engine
from atomq.delivery import Delivery
from atomq.errors import PermissionDenied, ServerUnavailable
from atomq.flows import Flow, clock
from atomq.keys import QueueKeys
from atomq.lease import Lease, work_of
from atomq.leases import LeaseKeeper
from atomq.node_threads import NodeThreads
from atomq.register import Work
from atomq.retrying import calling
from atomq.settling import RETRY
from tests.scripted import raw


@pytest.fixture
def keeper() -> Iterator[LeaseKeeper]:
    """Of an engine that is never connected."""
    with Engine("redis://127.0.0.1:1", max_lease=10) as engine:
        yield leases.keeper(engine)


def held(keeper: LeaseKeeper, count: int = 1) -> list[Delivery]:
    """So many messages that it holds."""
    found = [Delivery("q", f"c-1.0.{i}", 1, 1, b"{}") for i in range(1, count + 1)]
    keeper.hold(Claimed(0, None, (), (), found), found)
    return found


def test_max_lease_counts_once_from_the_begin_of_the_work(
    keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.monotonic()]
    (message,) = held(keeper)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    keeper.start(message.receipt)
    now[0] += 9
    keeper.start(message.receipt)
    keeper._renewal.held()
    assert keeper.holds(message.receipt)
    now[0] += 2
    keeper._renewal.held()
    assert not keeper.holds(message.receipt)


def test_what_is_given_back_is_not_given_back_again_by_its_consumer(keeper: LeaseKeeper) -> None:
    messages = held(keeper, 2)
    backlog = Backlog(keeper, keeper._engine.keys("q"))
    backlog.fill(messages, clock())
    assert backlog.withdraw() == [message.receipt for message in messages]
    taken = backlog.take()  # the consumer leaves meanwhile
    flow = backlog.give_back()
    assert isinstance(next(flow), Call)
    with pytest.raises(StopIteration):
        flow.send([Verdict.DONE, Verdict.DONE])
    assert taken == messages
    assert all(message.settled for message in taken)


class Waiting:
    """What is to be given back in a while."""

    def __init__(self, queue: QueueKeys, seconds: float) -> None:
        self.queue = queue
        self.looks = 0
        self.over = threading.Event()
        self._until = clock() + seconds

    def waits_until(self) -> float:
        self.looks += 1
        return self._until

    def withdraw(self) -> list[str]:
        self.over.set()
        return []

    def give_back(self) -> Flow[None]:
        yield from ()


def test_what_waits_is_looked_at_when_its_time_comes_and_not_all_the_time(
    keeper: LeaseKeeper,
) -> None:
    held(keeper)
    waits = Waiting(keeper._engine.keys("q"), 0.2)
    keeper.watch(waits, patience=0.0)
    assert waits.over.wait(5)
    assert waits.looks < 10


SUSPENDED = """
import time
asleep, real = 0, time.clock_gettime
time.clock_gettime = lambda which: real(which) + asleep * (which == time.CLOCK_BOOTTIME)

from atomq import leases
from atomq.calls import Claimed
from atomq.client import Engine
from atomq.delivery import Delivery

message = Delivery("q", "c-1.0.1", 1, 1, b"{}")
keeper = leases.keeper(Engine("redis://127.0.0.1:1", lease=60))
keeper.hold(Claimed(0, None, (), (), [message]), [message])
print(keeper.lapsed(message.receipt))
asleep = 61  # no other clock of the process goes on
print(keeper.lapsed(message.receipt))
"""


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no such clock")
def test_a_lease_grows_old_while_the_machine_is_suspended() -> None:
    said = subprocess.run(
        [sys.executable, "-c", SUSPENDED], capture_output=True, text=True, timeout=30
    )
    assert said.stdout.split() == ["False", "True"], said.stderr


# ── what it holds, where nothing is sent ──────────────────────────────────────────────────────


class Settled:
    """Notes what a keeper has sent, and its calls, in its place."""

    def __init__(self, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
        self.later: list[Any] = []
        self.held: list[Any] = []
        self.now: list[Any] = []
        self.settled: list[Any] = []
        self.roused: list[float] = []
        self.done: list[Any] = []
        settling = keeper._settling
        monkeypatch.setattr(settling, "settle_later", self._later)
        monkeypatch.setattr(settling, "settle_now", lambda later, _: self.now.append(later))
        monkeypatch.setattr(settling, "settle", self._settle)
        for name in ("send", "leave"):
            monkeypatch.setattr(
                settling, name, lambda *given, n=name: self.done.append((n, *given))
            )
        monkeypatch.setattr(keeper._thread, "rouse", lambda: self.roused.append(time.monotonic()))

    def _later(
        self, queue: str, receipts: Any, flow: Any, within: float = RETRY, holders: Any = ()
    ) -> None:
        self.later.append((queue, receipts, flow, within))
        self.held.append(holders)

    def _settle(self, *given: Any) -> bool:
        self.settled.append(given)
        return True


@pytest.fixture
def settled(keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch) -> Settled:
    return Settled(keeper, monkeypatch)


def claim(*receipts: str, alone: bool = False, spared: int = 0, tracked: bool = False) -> Claimed:
    raw = b'{"x-deliveries":5,"x-spared":%d,"a":1}' % spared if spared else b"{}"
    found = [Delivery("q", each, 5, 1, raw) for each in receipts]
    if tracked:
        for each in found:
            each.word = f"{each.receipt} id"
    return Claimed(0, None, (), (), found, alone=alone)


def test_what_must_be_alone_and_would_not_be_is_not_held(
    keeper: LeaseKeeper, settled: Settled
) -> None:
    one, strict = claim("a"), claim("s", alone=True, spared=2)
    assert keeper.hold(claim(), [])
    assert keeper.hold(one, one.deliveries)
    assert not keeper.hold(strict, strict.deliveries)
    assert not keeper.holds("s")
    mild = claim("m", alone=True, spared=1)
    assert keeper.hold(mild, mild.deliveries), "it need not be alone"
    keeper.drop(["a", "m"])
    assert keeper.hold(strict, strict.deliveries)
    other = claim("o")
    assert not keeper.hold(other, other.deliveries), "what is held must stay alone"
    keeper.drop(["s"])
    assert keeper.hold(other, other.deliveries)


def test_what_is_alone_is_so_until_something_else_is_held(
    keeper: LeaseKeeper, settled: Settled
) -> None:
    one, other = claim("a", alone=True), claim("b")
    keeper.hold(one, one.deliveries)
    assert keeper.alone.message == ("q", "a", False)
    keeper.hold(other, other.deliveries)
    assert keeper.alone.message is None
    assert [list(call.args[3:]) for call in keeper.alone.accompanied()] == [["a"]]


def test_the_first_that_is_held_says_when_to_renew(keeper: LeaseKeeper, settled: Settled) -> None:
    one, other, tracked = claim("a"), claim("b"), claim("t", tracked=True)
    keeper.hold(one, one.deliveries)
    due = keeper._renewal.renew_at
    assert (len(settled.roused), keeper._renewal.ask_at) == (1, inf)
    keeper.hold(other, other.deliveries)
    assert (keeper._renewal.renew_at, len(settled.roused)) == (due, 1)
    keeper.hold(tracked, tracked.deliveries)
    asks = keeper._renewal.ask_at
    assert asks < due
    again = claim("u", tracked=True)
    keeper.hold(again, again.deliveries)
    assert keeper._renewal.ask_at == asks


def test_what_was_claimed_long_before_its_answer_was_read_is_renewed_at_once(
    keeper: LeaseKeeper, settled: Settled
) -> None:
    """A loop that stood still reads it: by the next renewal its lease may have ended."""
    first, late, later = claim("a"), claim("b"), claim("c")
    keeper.hold(first, first.deliveries)
    in_time, roused = keeper._renewal.renew_at, len(settled.roused)
    keeper.hold(late, late.deliveries, clock() - 19)
    assert keeper._renewal.renew_at == in_time > time.monotonic() + 10
    keeper.hold(later, later.deliveries, clock() - 21)
    assert keeper._renewal.renew_at <= time.monotonic()
    assert len(settled.roused) == roused + 1


def test_an_ack_ends_the_lease_of_its_receipt_also_where_it_is_tracked(
    keeper: LeaseKeeper, settled: Settled
) -> None:
    one, tracked = claim("a"), claim("t", tracked=True)
    keeper.hold(one, one.deliveries)
    keeper.hold(tracked, tracked.deliveries)
    queue = keeper._engine.keys("q")
    keeper.ack_later(queue, "t id")
    assert (keeper.holds("a"), keeper.holds("t"), keeper.holds_any) == (True, False, True)
    keeper.ack_later(queue, "a")
    assert not keeper.holds_any
    assert keeper.acks.take("q") == ["t id", "a"]


def test_a_settlement_names_the_queue_of_what_is_held(
    keeper: LeaseKeeper, settled: Settled
) -> None:
    one = claim("a")
    keeper.hold(one, one.deliveries)
    for receipts in (["a"], ["unknown"], []):
        assert keeper.settle(receipts, lambda: iter(()))  # type: ignore[arg-type,return-value]
    assert [given[0] for given in settled.settled] == ["q", None, None]


def test_what_is_settled_once_the_server_is_back_is_held_until_then(
    keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    def away(_: Any) -> None:
        raise ServerUnavailable("away")

    monkeypatch.setattr(keeper._engine, "run", away)
    monkeypatch.setattr(keeper._thread, "rouse", lambda: None)  # it sends when the test says so
    one = claim("a", "b")
    keeper.hold(one, one.deliveries)
    assert not keeper.settle(["a"], lambda: sent.append("a"))  # type: ignore[arg-type,func-returns-value]
    del one
    assert keeper.abandoned() == [(keeper._engine.keys("q"), ["b"])], "a is not given back"
    assert keeper._renewal.held() == {"q": ["a"]}
    monkeypatch.setattr(keeper._engine, "run", lambda _: None)
    assert keeper._settling.flush()
    assert (sent, keeper.holds_any) == (["a", "a"], False)


def test_what_a_message_says_once_the_server_is_back_settles_it_now(
    keeper: LeaseKeeper, settled: Settled
) -> None:
    holders = [SimpleNamespace(receipt=each, settled=False, _queue=QueueKeys("q")) for each in "ab"]
    rest: Any = SimpleNamespace(flow=lambda: iter(()))
    keeper.settle_later(holders[:1], rest)
    keeper.settle_later(holders, rest)
    assert [each.settled for each in holders] == [True, True]
    assert [later[:3] for later in settled.later] == [
        ("q", ["a"], rest.flow),
        ("q", ["a", "b"], rest.flow),
    ]
    assert settled.held == [holders[:1], holders]


def test_what_is_garbage_is_found_once(keeper: LeaseKeeper, settled: Settled) -> None:
    one, other = claim("a", "b"), claim("c")
    keeper.hold(one, one.deliveries)
    keeper.hold(other, other.deliveries)
    del one
    assert keeper.abandoned() == [(keeper._engine.keys("q"), ["a", "b"])]
    assert (keeper.abandoned(), keeper.holds("c")) == ([], True)
    assert [work.queue for work in keeper.working(5)[1]] == ["q"]
    del other
    assert keeper.working(5) == (0, [])


def test_a_lease_has_lapsed_where_it_was_not_renewed_for_so_long(
    keeper: LeaseKeeper, settled: Settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = claim("a")
    keeper.hold(one, one.deliveries, since=5.0)
    for age, lapsed in ((60.0, False), (60.01, True)):
        monkeypatch.setattr(leases, "clock", lambda age=age: 5.0 + age)
        assert keeper.lapsed("a") == lapsed
    assert keeper.lapsed("unknown")


class Told:
    """A message, as far as what is said of it concerns it."""

    def __init__(self, receipt: str) -> None:
        self.receipt = receipt
        self.settled = self.lost = self.cancelled = False
        self.told = 0
        self.log_extra = {"queue": "q"}

    def _on_cancelled(self) -> None:
        self.told += 1


def test_a_cancel_is_told_once_to_what_works(
    keeper: LeaseKeeper, settled: Settled, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []
    told, plain = Told("a"), claim("b").deliveries[0]
    keeper.hold(claim("a", "b"), [told, plain])
    for hears in (None, heard.append):
        keeper.on_cancelled = hears
        keeper.cancelled(["unknown", "a"])
    keeper.cancelled(["b"])
    keeper.cancelled(["b"])
    assert (told.cancelled, told.told, heard) == (True, 1, [plain])
    assert (len(caplog.records), keeper.holds("a")) == (2, True)
    other = claim("c")
    keeper.hold(other, other.deliveries)
    del other
    keeper.cancelled(["c"])
    assert len(caplog.records) == 2


def test_a_loss_is_told_once_to_what_is_not_settled(
    keeper: LeaseKeeper, settled: Settled, caplog: pytest.LogCaptureFixture
) -> None:
    told, done, known = Told("a"), Told("b"), Told("c")
    done.settled = known.lost = True
    keeper.hold(claim("a", "b", "c"), [told, done, known])
    other = claim("garbage")
    keeper.hold(other, other.deliveries)
    del other
    for _ in range(2):
        keeper.lost(["unknown", "a", "b", "c", "garbage"])
    assert (told.lost, done.lost) == (True, False)
    assert (len(caplog.records), keeper.holds_any) == (1, False)


def test_that_a_message_is_alone_no_more_is_said_by_its_claim_or_on_a_cluster_by_a_thread(
    keeper: LeaseKeeper, settled: Settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = keeper._accompanied("q", "a")
    assert call is not None
    assert (call.args[2], call.args[3:]) == (1, ["a"])
    assert settled.later == []
    monkeypatch.setattr(keeper._engine, "slots", object())
    assert keeper._accompanied("q", "a") is None
    ((queue, receipts, flow, within),) = settled.later
    assert (queue, receipts, within) == ("q", (), 0.0)
    assert next(flow()).args == call.args


@pytest.mark.parametrize("error", [ServerUnavailable("away"), PermissionDenied("no")])
def test_what_cannot_be_said_of_company_is_tried_again_only_if_the_server_is_away(
    keeper: LeaseKeeper, settled: Settled, error: Exception
) -> None:
    call = keeper._renewal.extending("q", ["a"], beside=True)
    flow = leases._beside(call)
    next(flow)
    with pytest.raises(type(error) if isinstance(error, ServerUnavailable) else StopIteration):
        flow.throw(error)


# ── what waits to be given back ───────────────────────────────────────────────────────────────


class Backing(Waiting):
    """It notes how often it was asked to give back, and has something to."""

    def __init__(self, queue: QueueKeys, seconds: float, *receipts: str) -> None:
        super().__init__(queue, seconds)
        self.receipts = [*receipts]

    def withdraw(self) -> list[str]:
        self.over.set()
        found, self.receipts = self.receipts, []
        return found


def test_what_waits_is_given_back_when_its_time_comes(
    keeper: LeaseKeeper, settled: Settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [50.0]
    monkeypatch.setattr(leases, "clock", lambda: now[0])
    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: 1000 + now[0]))
    keys = keeper._engine.keys("q")
    due, soon, later = (Backing(keys, 0, name) for name in "dsl")
    for waits, until in ((due, 50.0), (soon, 50.5), (later, 52.0)):
        waits._until = until
    keeper.watch(later, patience=2.0)
    keeper.watch(later, patience=3.0)
    assert (keeper._look_at, len(settled.roused)) == (1052.0, 1), "it is looked at by then"
    keeper.watch(soon, patience=2.0)
    assert len(settled.roused) == 1
    keeper.watch(due, patience=0.0)
    assert (keeper._look_at, len(settled.roused)) == (1050.0, 2)
    keeper._give_back_waiting()
    assert [(each.queue, each.receipts) for each in settled.now] == [("q", ["d"])]
    assert keeper._look_at == 1050.5
    assert [waits.over.is_set() for waits in (due, soon, later)] == [True, False, False]
    now[0] = 52.0
    for waits in (due, soon):
        waits._until = inf
    keeper._give_back_waiting()
    assert [each.receipts for each in settled.now] == [["d"], ["l"]]
    assert keeper._look_at == inf


# ── its turns, and its end ────────────────────────────────────────────────────────────────────


class Turns:
    """One turn of a keeper's thread, on a clock and a wait that are played."""

    def __init__(self, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keeper, self.now = keeper, 100.0
        self.did: list[str] = []
        self.waited: list[float] = []
        self.roused = False
        monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(keeper, "_give_back_waiting", lambda: self.did.append("backlogs"))
        monkeypatch.setattr(keeper._settling, "turn", lambda _: self.did.append("settling"))
        monkeypatch.setattr(keeper._renewal, "turn", lambda _: self.did.append("renewal"))
        monkeypatch.setattr(keeper._thread.wake, "wait", self._wait)
        monkeypatch.setattr(keeper._thread, "ended", lambda: self.did.append("ended"))

    def _wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return self.roused

    def turn(self) -> tuple[bool, list[str], list[float]]:
        goes_on = self.keeper._turn()
        did, self.did = self.did, []
        waited, self.waited = self.waited, []
        return goes_on, did, waited


def test_a_turn_does_what_is_due_and_waits_for_the_next_thing(
    keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(keeper, monkeypatch)
    keeper._look_at, keeper._settling.send_at, keeper._renewal.renew_at = 101.0, 102.0, 103.0
    assert turns.turn() == (True, ["renewal"], [1.0])
    turns.now = 101.0
    assert turns.turn() == (True, ["backlogs", "renewal"], [])
    keeper._look_at, turns.now = inf, 102.0
    assert turns.turn() == (True, ["settling", "renewal"], [])
    keeper._settling.send_at = inf
    assert turns.turn() == (True, ["renewal"], [1.0])
    keeper._renewal.renew_at = 102.5
    assert turns.turn() == (True, ["renewal"], [0.5])
    turns.now = 102.5
    assert turns.turn() == (True, ["renewal"], []), "no time at all is not waited for"


def test_the_thread_ends_where_nothing_comes_for_a_while_or_it_is_to_end(
    keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(keeper, monkeypatch)
    assert turns.turn() == (False, ["renewal", "ended"], [leases.IDLE])
    turns.roused = True
    assert turns.turn() == (True, ["renewal"], [leases.IDLE])
    keeper._renewal.renew_at = 1e6
    turns.roused = False
    assert turns.turn() == (True, ["renewal"], [leases.IDLE]), "something is held"
    keeper._thread.closing = True
    assert turns.turn() == (False, ["renewal", "ended"], [])


def test_at_the_end_what_waits_is_sent_and_nothing_is_renewed_any_more(
    keeper: LeaseKeeper, settled: Settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[float] = []
    monkeypatch.setattr(keeper._thread, "join", joined.append)
    one = claim("a")
    keeper.hold(one, one.deliveries)
    keeper._look_at = keeper._settling.send_at = 5.0
    keeper.close()
    assert (keeper.holds_any, keeper._look_at, keeper._settling.send_at) == (False, inf, inf)
    assert (keeper._renewal.due(), keeper._thread.closing, joined) == (inf, True, [2.0])
    keeper.send()
    budget = keeper._engine.options.retry_budget
    assert settled.done == [("leave", leases.LEAVING, budget), ("send", leases.LEAVING)]
    settled.done.clear()
    leases._at_exit()
    assert settled.done == [("leave", leases.LEAVING, 0.0)], "a server that is away had its time"
    settled.done.clear()
    keeper._thread.closing = False
    leases._at_exit()
    assert settled.done == [("leave", leases.LEAVING, budget)]


def test_it_tries_again_at_its_own_pace(keeper: LeaseKeeper) -> None:
    assert keeper._engine.retry.attempts == 0
    assert keeper._engine.retry.budget == keeper.renew_ms / 1000 == 20.0


def test_where_a_server_that_began_anew_lacks_the_scripts_it_tries_again(
    keeper: LeaseKeeper,
) -> None:
    """This user may not load them: what is held would not be settled, though another one will."""
    trying = calling([ack(keeper._engine.keys("q"), ["a"])], keeper._engine.retry)
    unknown = server.NoScriptError("No matching script.")
    next(trying)
    trying.send([unknown])
    with pytest.raises(ServerUnavailable, match="run `atomq scripts load"):
        trying.send([server.NoPermissionError("NOPERM no script|load"), unknown])


@pytest.mark.parametrize(
    ("lease", "given", "waits"),
    [
        (60, {}, (5, 5)),
        (60, {"socket_timeout": 7, "socket_connect_timeout": 3}, (7, 3)),
        (60, {"socket_timeout": None, "socket_connect_timeout": None}, (20, 20)),
        (60, {"socket_timeout": 30, "socket_connect_timeout": 30}, (20, 20)),
        (9, {}, (3, 3)),
        (1, {}, (1, 1)),
    ],
)
def test_it_waits_for_no_answer_so_long_that_a_lease_ends_meanwhile(
    lease: float, given: dict[str, Any], waits: tuple[float, float]
) -> None:
    with Engine("redis://127.0.0.1:1", lease=lease, **given) as engine:
        options = leases.keeper(engine)._engine.options
    assert (options.socket_timeout, options.socket_connect_timeout) == waits


def test_on_a_cluster_it_shares_the_map_of_its_engine() -> None:
    with Engine("redis://127.0.0.1:1") as engine:
        slots: Any = object()
        engine.slots = slots
        assert leases.keeper(engine)._engine.slots is slots


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
def test_no_block_waits_for_a_node_that_is_in_doubt(
    monkeypatch: pytest.MonkeyPatch, fails: bool, is_async: bool
) -> None:
    """Of a cluster: its consumer has messages of other nodes too."""
    kind = AsyncQueue if is_async else Queue
    queue: Any = kind("q", "redis+cluster://127.0.0.1:1")
    keeper, node = queue.keeper, ("127.0.0.1", 1)
    message = (AsyncMessage if is_async else Message)(queue, Delivery("q", "c-1.0.1", 1, 1, b"{}"))
    monkeypatch.setattr(keeper._thread, "rouse", lambda: None)  # else it may take the ack first
    keeper.hold(Claimed(0, None, (), (), [message._delivery]), [message])
    monkeypatch.setattr(keeper._engine, "place", lambda _: node)
    monkeypatch.setattr(queue.engine, "run_flow", None)
    keeper._engine.slots.doubted.add(node)

    async def work() -> None:
        async with message:
            if fails:
                raise LookupError

    with suppress(LookupError):
        if is_async:
            asyncio.run(work())
        else:
            with message:
                if fails:
                    raise LookupError
    assert [later.receipts for later in keeper._settling.later] == [["c-1.0.1"]] * fails
    assert keeper.acks.waits("q") is not fails
    assert keeper.holds("c-1.0.1") is fails
    keeper._settling.begin(NodeThreads())
    keeper.acks.forked()


def test_what_is_worked_on_is_named_as_far_as_it_can_be_read() -> None:
    def work(message: bytes) -> Work:
        delivery = Delivery("q", "r", 1, 1, message)
        return work_of(Lease("q", weakref.ref(delivery), 10.0, tracked=False), 11.2346)

    made = work(raw(id="i" * 300, task="t" * 300))
    assert made == Work("q", "i" * 256, 1.235, "t" * 256)
    assert work(raw(id="i")) == Work("q", "i", 1.235, "")
    assert work(b"no envelope") == Work("q", "", 1.235, "")
    dropped = Lease("q", weakref.ref(Delivery("q", "r", 1, 1, b"{}")), 10.0, tracked=False)
    assert work_of(dropped, 10.0) == Work("q", "", 0.0, "")
