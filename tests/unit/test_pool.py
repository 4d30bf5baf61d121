"""How threads take connections and put them back, which are played, as the clock is. No server."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as server

from atomq import connect, pool, wires
from atomq.actions import Replaced
from atomq.conversation import packed
from atomq.flight import Bare
from atomq.line import Line
from atomq.outage import outage_of
from atomq.pool import LOOK
from atomq.pool_base import FRESH, LATE
from atomq.translating import Unsent
from tests.threads import running

NODE = ("a", 1)
GET = packed(("GET", "k"))
GONE = server.ConnectionError("gone")
FOR_EVER = 1e9


class Wire:
    """One connection. What comes over it comes at a time, or at once."""

    def __init__(self, played: Pool) -> None:
        self.pool = played
        self.read_before: list[Any] = []
        self.sent: list[bytes] = []
        self.closed = self.hung_up = False
        self.impatient_after: list[float] = []
        played.wires.append(self)

    def be_impatient(self, seconds: float) -> bool:
        self.impatient_after.append(seconds)
        return self.pool.kernel_has_time

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def readable(self, seconds: float) -> bool:
        if seconds == 0:
            return self.hung_up
        self.pool.looked.append(seconds)
        if self.pool.comes_at <= self.pool.now + seconds:
            self.pool.now = max(self.pool.now, self.pool.comes_at)
            return True
        self.pool.now += seconds
        if self.pool.then is not None:
            self.pool.then()
        assert len(self.pool.looked) < 100, "it waits for ever"
        return False

    def receive(self) -> bytes:
        if self.pool.comes_at > self.pool.now:
            self.pool.now += self.impatient_after[-1]
            raise server.TimeoutError("late")
        answer = self.pool.answers.popleft()
        if isinstance(answer, BaseException):
            raise answer
        return bytes(answer)

    def close(self) -> None:
        self.closed = True


class Pool(pool.Pool):
    """One whose connections are such, and answer as they are told, at once."""

    def __init__(self, *, late: Any = None, most: int = 0, **options: Any) -> None:
        self.now, self.comes_at = 100.0, 0.0
        self.answers: deque[Any] = deque()
        self.looked: list[float] = []
        self.wires: list[Wire] = []
        self.then: Callable[[], None] | None = None
        self.kernel_has_time = False
        self.within: list[float | None] = []
        self.trouble: Exception | None = None
        given = {"socket_timeout": None, "health_check_interval": None, **options}
        address = SimpleNamespace(of_node=lambda *place: place, safe_url="redis://one")
        engine: Any = SimpleNamespace(
            address=address,
            reached=address,
            outage=outage_of("one"),
            options=SimpleNamespace(max_connections=most, socket_connect_timeout=None, **given),
            era=0,
            moves=0,
        )
        super().__init__(engine, None if late is None else NODE, late)
        self.standing.verified = True

    def fresh(self, _channel: str | None = None, *, within: float | None = None) -> Any:
        self.within.append(within)
        if self.trouble is not None:
            raise self.trouble
        return Wire(self)

    def get_one(self, answer: Any = b":1\r\n", **more: Any) -> Any:
        self.answers.append(answer)
        return self.over(Bare([GET]), **more)[0]

    def call_one(self, *answers: Any, within: float | None = None) -> Any:
        self.answers.extend(answers)
        call: Any = SimpleNamespace(packed=lambda: GET)
        return self.one(call, within)


BOTH = pytest.mark.parametrize("way", [Pool.get_one, Pool.call_one], ids=["over", "one"])


@pytest.fixture(autouse=True)
def _played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "connector", lambda *_: None)
    monkeypatch.setattr(wires, "taken", lambda wire: wire)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pool]:
    def make(**given: Any) -> Pool:
        found = Pool(**given)
        monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: found.now))
        return found

    return make


# ── taken and put back ────────────────────────────────────────────────────────────────────────


def test_what_was_put_back_is_taken_again(made: Any) -> None:
    one = made()
    call: Any = SimpleNamespace(packed=lambda: GET)
    one.answers += [b":1\r\n", b":2\r\n"]
    assert (one.one(call), one.one(call)) == (1, 2)
    assert [wire.sent for wire in one.wires] == [[GET, GET]]
    one.answers.append(b":3\r\n:4\r\n")
    assert one.commands([("GET", "k")] * 2) == [3, 4]
    assert one.wires[0].sent[2:] == [2 * GET]
    assert one.looked == []
    assert one.nodes() == [("redis://one", one)]


def test_it_is_looked_at_after_a_rest_or_where_a_call_cannot_be_sent_again(made: Any) -> None:
    one = made()
    one.get_one()
    one.wires[0].hung_up = True
    one.now += FRESH - 0.01
    one.get_one()
    one.answers.append(b":1\r\n")
    one.one(SimpleNamespace(packed=lambda: GET))
    assert len(one.wires) == 1, "it was used a moment ago"
    one.answers.append(b":1\r\n")
    one.commands([("GET", "k")])
    assert (len(one.wires), one.wires[0].closed) == (2, True)
    one.wires[1].hung_up = True
    one.now += FRESH
    one.get_one()
    assert (len(one.wires), one.wires[1].closed) == (3, True)
    one.now += 1e6
    one.get_one()
    assert len(one.wires) == 3, "it is well"


def test_what_idles_can_be_had_and_does_not_idle_here_any_more(made: Any) -> None:
    one = made()
    assert (one.give(), one.idles) == (None, False)
    for wire in (Wire(one), Wire(one)):
        one._idle.append(Line(wire))  # type: ignore[arg-type]
    first, last = one.wires
    last.hung_up = True
    assert one.idles
    assert one.give() is first
    assert (first.closed, last.closed, one.idles) == (False, True, False)


def test_it_is_not_used_after_the_interval_at_which_connections_are_checked(made: Any) -> None:
    one = made(health_check_interval=25)
    one.get_one()
    one.now += 24.9
    one.get_one()
    assert len(one.wires) == 1
    one.now += 25
    one.get_one()
    assert (len(one.wires), one.wires[0].closed) == (2, True)


def test_another_thread_may_take_the_last_one(made: Any) -> None:
    class Idle(deque[Any]):
        def pop(self) -> Any:
            self.clear()
            return super().pop()

    one = made()
    one.get_one()
    one._idle = Idle(one._idle)
    one.get_one()
    assert len(one.wires) == 2


def test_what_cannot_be_connected_is_not_sent(made: Any) -> None:
    one = made()
    one.trouble = GONE
    with pytest.raises(Unsent):
        one.get_one(within=0.3)
    assert one.within == [0.3]


@BOTH
@pytest.mark.parametrize("error", [GONE, server.InvalidResponse("what?")])
def test_one_that_breaks_takes_with_it_what_idles(made: Any, error: Exception, way: Any) -> None:
    one = made()
    two_idle(one)
    with pytest.raises(type(error)):
        way(one, error)
    assert [wire.closed for wire in one.wires] == [True, True]
    assert (one.standing.verified, len(one._idle)) == (False, 0)


def two_idle(one: Pool) -> None:
    """Have two that idle."""
    first = one._take(looked_at=False, within=None)
    one.get_one()
    one._idle.append(first)
    first.since = one.now


@BOTH
def test_an_interrupted_one_is_closed_and_no_other(made: Any, way: Any) -> None:
    one = made()
    two_idle(one)
    with pytest.raises(KeyboardInterrupt):
        way(one, KeyboardInterrupt())
    assert sorted(wire.closed for wire in one.wires) == [False, True]
    assert one.standing.verified


@pytest.mark.parametrize(
    ("answer", "kept"), [(b"-NOPERM no\r\n", True), (b"-READONLY no\r\n", False)]
)
def test_one_that_leads_astray_is_closed_with_what_idles(
    made: Any, answer: bytes, kept: bool
) -> None:
    one = made()
    two_idle(one)
    one.answers.append(answer + b":1\r\n")
    error, reply = one.over(Bare([GET, GET]))
    assert (isinstance(error, server.ResponseError), reply) == (True, 1)
    assert [wire.closed for wire in one.wires] == [not kept] * 2
    assert one.standing.verified is kept


@pytest.mark.parametrize(
    ("answer", "kept"), [(b"-NOPERM no\r\n", True), (b"-READONLY no\r\n", False)]
)
def test_so_is_one_whose_only_call_says_so(made: Any, answer: bytes, kept: bool) -> None:
    one = made()
    two_idle(one)
    assert isinstance(one.call_one(answer), server.ResponseError)
    assert [wire.closed for wire in one.wires] == [not kept] * 2
    assert (one.standing.verified, len(one._idle)) == (kept, 2 * kept)


def test_a_call_waits_for_the_rest_of_its_answer(made: Any) -> None:
    one = made()
    one.get_one()
    assert one.call_one(b":1", b"2\r\n") == 12
    assert one.call_one(b">2\r\n+invalidate\r\n*0\r\n", b":3\r\n") == 3
    assert one.call_one(b">2\r\n+invalidate\r\n*0\r\n:4\r\n") == 4
    assert len(one.wires) == 1


def test_a_call_is_not_sent_over_what_rested_for_too_long(made: Any) -> None:
    one = made()
    one.get_one()
    one.wires[0].hung_up = True
    one.now += FRESH
    one.trouble = GONE
    with pytest.raises(Unsent):
        one.call_one(b":1\r\n")
    one.trouble = None
    one.answers.clear()
    assert one.call_one(b":1\r\n") == 1
    one.now += FRESH - 0.01
    one.wires[1].hung_up = True
    assert one.call_one(b":1\r\n") == 1
    assert len(one.wires) == 2
    one._idle[0].since = one.now - FRESH
    one.wires[1].hung_up = False
    assert one.call_one(b":1\r\n") == 1
    assert len(one.wires) == 2, "it is well"


def test_a_call_of_before_another_master_does_not_have_its_connection_put_back(made: Any) -> None:
    one = made()
    one.get_one()
    real = one.wires[0].receive

    def receive() -> bytes:
        one.switched()
        return bytes(real())

    one.wires[0].receive = receive
    assert one.call_one(b":1\r\n") == 1
    assert (one.wires[0].closed, len(one._idle)) == (True, 0)


def test_one_of_before_another_master_is_not_put_back(made: Any) -> None:
    one = made()
    assert one.get_one(meanwhile=one.switched) == 1
    assert (one.wires[0].closed, len(one._idle)) == (True, 0)
    one.get_one()
    one.rotated()
    assert one.wires[1].closed, "it idled"


def test_after_a_fork_nothing_is_known_and_nothing_closed(made: Any) -> None:
    one = made(most=1)
    one.get_one()
    places = one._places
    one.forget()
    assert (one.standing.verified, len(one._idle), one.wires[0].closed) == (False, 0, False)
    assert one._places is not places


# ── at most so many ───────────────────────────────────────────────────────────────────────────


def test_behind_sentinels_each_replica_has_a_pool_that_is_closed_with_the_masters(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, named = made(), [("b", 2), ("c", 3)]
    monkeypatch.setattr(connect, "replicas", lambda _: named)
    one.engine.address.kind = "tcp"
    assert one.replicas() == []
    one.engine.address.kind = "sentinel"
    found = dict(one.replicas())
    assert list(found) == ["b:2", "c:3"]
    assert dict(one.replicas()) == found, "the same"
    named.pop(0)
    assert dict(one.replicas()) == {"c:3": found["c:3"]}
    idle = Wire(one)
    found["c:3"]._idle.append(SimpleNamespace(wire=idle))
    one.close()
    assert idle.closed


def test_a_thread_waits_for_a_place_but_not_for_itself(made: Any) -> None:
    one = made(most=1)
    entered, waits, begun = threading.Event(), threading.Event(), threading.Event()
    changed = one._places._changed
    real = changed.wait
    waited: list[None] = []

    def wait() -> None:
        waits.set()
        waited.append(real(5) and None)
        assert len(waited) < 3, "it waits for ever"

    changed.wait = wait

    def other() -> None:
        with one._places:
            entered.set()

    with running(other):
        assert entered.wait(5), "there is one"
    assert not waits.is_set()
    entered.clear()
    with running(lambda: begun.wait(5) and other()):
        with one._places:
            begun.set()
            assert waits.wait(5)
            assert not entered.is_set()
        assert entered.wait(5)
    for event in (entered, waits, begun):
        event.clear()
    with running(lambda: begun.wait(5) and other()):
        with one._places, one._places:  # as a finalizer comes again
            begun.set()
            assert waits.wait(5)
            assert not entered.is_set()
        assert entered.wait(5)
    assert (one._places._free, one._places._threads) == (1, [])


def test_each_way_to_send_takes_a_place(made: Any) -> None:
    one = made(most=2)
    call: Any = SimpleNamespace(packed=lambda: GET)
    free: list[int] = []
    one._places._changed.wait = pytest.fail
    one.answers += [b":1\r\n", b":2\r\n"]
    real = one._over

    def over(*given: Any) -> Any:
        free.append(one._places._free)
        return real(*given)

    one._over = over
    assert (one.one(call), one.over(Bare([GET]))) == (1, [2])
    assert (free, one._places._free) == ([1, 1], 2)
    one.answers.append(b":3\r\n")
    assert one._idle, "what idles takes one too"
    assert (one.one(call), free, one._places._free) == (3, [1, 1, 1], 2)


def test_what_was_used_a_moment_ago_goes_the_short_way(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made()
    one.call_one(b":1\r\n")
    monkeypatch.setattr(one, "over", pytest.fail)
    one.now += FRESH / 2
    assert one.call_one(b":2\r\n") == 2


# ── answers that take their time ──────────────────────────────────────────────────────────────


def test_without_a_reason_nothing_is_looked_at(made: Any) -> None:
    one = made()
    one.get_one()
    assert one.looked == []


def patient(seconds: float) -> Any:
    load: Any = Bare([GET])
    return SimpleNamespace(data=load.data, patience=seconds)


def test_a_confirmation_is_waited_for_and_another_master_looked_for(made: Any) -> None:
    one = made()
    one.answers.append(b":1\r\n")
    one.comes_at = 100.6
    assert one.over(patient(3.0)) == [1]
    assert one.looked == [LOOK] * 3
    one.answers.append(b":1\r\n")
    one.comes_at, one.now = FOR_EVER, 200.0

    def over() -> None:
        one.comes_at = one.now if one.now > 202.9 else FOR_EVER

    one.then = over
    assert one.over(patient(3.0)) == [1]
    assert one.now == pytest.approx(203.0), "then the read itself says how long it waits"

    def moves() -> None:
        one.engine.moves += 1

    one.comes_at, one.then = FOR_EVER, moves
    with pytest.raises(Replaced):
        one.over(patient(3.0))


def test_a_brief_call_goes_as_what_is_given_up_in_time(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, given, call = made(), list[Any](), SimpleNamespace(packed=lambda: GET)
    monkeypatch.setattr(one, "over", lambda _, **how: given.append(how) or [b"first", b"next"])
    assert one.one(call, 0.3) == b"first"
    assert given == [{"looked_at": True, "within": 0.3}]


@pytest.mark.parametrize(("timeout", "within"), [(None, 0.6), (0.2, 0.2), (5.0, 0.6)])
def test_what_is_brief_is_given_up_in_time(made: Any, timeout: Any, within: float) -> None:
    one = made(socket_timeout=timeout, late=lambda _: pytest.fail("asked"))
    one.comes_at = 100.0 + within
    assert one.get_one(within=0.6) == 1
    one.now, one.comes_at = 200.0, FOR_EVER
    with pytest.raises(server.TimeoutError):
        one.get_one(within=0.6)
    assert one.now == 200.0 + within


@pytest.mark.parametrize(("timeout", "within"), [(None, 0.6), (0.2, 0.2), (5.0, 0.6)])
def test_a_brief_call_goes_the_short_way_to_a_node_that_has_not_hung_up(
    made: Any, timeout: Any, within: float
) -> None:
    """Its read ends by itself, and what is left of its time is waited for then."""
    one = made(socket_timeout=timeout, late=lambda _: pytest.fail("asked"))
    one.kernel_has_time = True
    one.get_one()
    assert one.call_one(b":2\r\n", within=0.6) == 2
    assert (len(one.wires), one.looked) == (1, [])
    one.wires[0].hung_up = True
    assert one.call_one(b":3\r\n", within=0.6) == 3
    assert (len(one.wires), one.wires[0].closed, one.wires[0].sent) == (2, True, [GET] * 2)
    if within > LATE:
        one.looked.clear()
        one.comes_at = one.now + within - 0.01
        assert one.call_one(b":4\r\n", within=0.6) == 4
        assert one.looked == [pytest.approx(within - LATE)]
    one.comes_at, began = FOR_EVER, one.now
    with pytest.raises(server.TimeoutError):
        one.call_one(b":5\r\n", within=0.6)
    assert one.now == pytest.approx(began + within)


@pytest.mark.parametrize("kernel_has_time", [False, True])
@BOTH
def test_a_node_is_late_every_half_a_second_until_it_counts_as_dead(
    made: Any, kernel_has_time: bool, way: Any
) -> None:
    late: list[float] = []
    one = made(late=lambda place: late.append(one.now) if place == NODE else None, socket_timeout=3)
    one.kernel_has_time = kernel_has_time
    one.get_one()
    assert (late, one.wires[0].impatient_after) == ([], [LATE])
    assert one.looked == [LATE][kernel_has_time:], "a read that ends by itself needs no look"
    one.comes_at = 100.0 + 2.2 * LATE
    way(one, b":1\r\n")
    assert late == [100.0 + LATE, 100.0 + 2 * LATE]
    late.clear()
    one.comes_at = one.now + 1.2 * LATE
    one.answers.append(b":")
    way(one, b"1\r\n")
    assert len(late) == 1, "the rest of the answer is not late"
    late.clear()
    one.now, one.comes_at = 200.0, FOR_EVER
    one._idle[-1].since = 200.0
    with pytest.raises(server.TimeoutError):
        way(one, b":1\r\n")
    assert one.now == pytest.approx(203.0)
    assert late == [200.0 + n * LATE for n in range(1, 7)]


@BOTH
def test_one_that_is_late_may_be_given_up(made: Any, way: Any) -> None:
    def late(_: Any) -> None:
        raise server.TimeoutError("another node serves it")

    one = made(late=late)
    one.kernel_has_time = True
    two_idle(one)
    one.comes_at = FOR_EVER
    with pytest.raises(server.TimeoutError, match="another node"):
        way(one, b":1\r\n")
    assert one.now == 100.0 + LATE
    assert [wire.closed for wire in one.wires] == [True, True]
    one = made(late=late)
    one.comes_at = FOR_EVER
    with pytest.raises(server.TimeoutError, match="another node"):
        one.get_one()
    assert one.now == 100.0 + LATE
    one = made(late=late, socket_timeout=0.2)
    one.get_one()
    assert one.wires[0].impatient_after == [0.2], "no later than that"


def test_a_node_of_which_none_asks_is_not_late(made: Any) -> None:
    one = made()
    again = pool.Pool(one.engine, NODE)
    assert (one._late, again._late) == (None, None)


def test_a_node_that_confirms_may_take_longer(made: Any) -> None:
    one = made(late=lambda _: None, socket_timeout=3)
    one.kernel_has_time = True
    one.comes_at = FOR_EVER
    with pytest.raises(server.TimeoutError):
        one.over(patient(4.0))
    assert one.now == pytest.approx(107.0)
    assert one.looked[:2] == [LATE, LATE]
