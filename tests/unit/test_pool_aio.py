"""How the tasks of a loop share connections, which only note what is said. Needs no server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as server

from atomq import calls, commands_aio, connect, pool_aio, wires
from atomq.calls import Outgoing
from atomq.conversation import packed
from atomq.durability import Confirmed, Durability
from atomq.errors import ServerTooOld, ServerUnavailable
from atomq.flight import SMALL, Bare
from atomq.ids import CallId
from atomq.keys import QueueKeys
from atomq.opening_aio import asked, connected, heeded
from atomq.outage import outage_of
from atomq.outage_report import OutageReport
from atomq.pool_aio import OPENED_AT_ONCE, UNDER_WAY, AsyncPool
from atomq.pool_base import HANDSHAKE, LONGER, check_version
from atomq.translating import Unsent

NODE = ("a", 1)
REFUSED = server.ResponseError("NOPERM")


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 5.0))

    return run


def call(size: int = 10, *, large: bool = False) -> Any:
    return SimpleNamespace(packed=lambda: bytes(size), large=large, durability=None)


class Line:
    """One connection: what was said over it, and is answered when a test says so."""

    def __init__(self, pool: Pool, connection: Any, era: int) -> None:
        self.pool, self.connection, self.era = pool, connection, era
        self.asked: list[Any] = []
        self.said: list[tuple[list[bytes], bool, float]] = []
        self.looked_at: list[bool] = []
        self.sound = True
        self.did: list[Any] = []
        pool.made.append(self)

    @property
    def under_way(self) -> int:
        return len(self.asked)

    def is_sound(self, looked_at: bool) -> bool:
        self.looked_at.append(looked_at)
        return self.sound

    def say(self, data: Any, asked: Any, large: bool, patience: float = 0.0) -> None:
        if large:
            self.pool.occupied(self)  # type: ignore[arg-type]
        self.said.append((list(data), large, patience))
        self.asked += [asked] * len(data)

    def answer(self, *replies: Any) -> None:
        for reply in replies:
            self.asked.pop(0).set_result(reply)
        if not self.asked:
            self.pool.rests(self)  # type: ignore[arg-type]

    def leave(self) -> None:
        self.did.append("leave")
        self.pool.left(self, answers=bool(self.asked))  # type: ignore[arg-type]

    def close(self) -> None:
        self.did.append("close")
        self.pool.left(self, answers=False)  # type: ignore[arg-type]

    def give(self) -> str:
        self.pool.left(self, answers=False)  # type: ignore[arg-type]
        return "its wire"

    def broke(self, error: Exception) -> None:
        self.did.append(error)


class Connection:
    """As redis-py's, which fails as often as there are errors, and may take its time."""

    def __init__(self, errors: list[BaseException], hello: Any) -> None:
        self.errors, self.handshake_metadata = errors, hello
        self.disconnected: list[bool] = []
        self.commands: list[tuple[str, ...]] = []

    async def connect(self) -> None:
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)

    async def send_command(self, *command: str, check_health: bool) -> None:
        assert not check_health, "the handshake was one"
        self.commands.append(command)

    async def read_response(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "its answer"

    async def disconnect(self, *, nowait: bool) -> None:
        self.disconnected.append(nowait)


class Pool(AsyncPool):
    """One of such connections."""

    def __init__(self, *, most: int = 0, place: Any = None, late: Any = None, **given: Any) -> None:
        self.made: list[Any] = []
        self.connections: list[Connection] = []
        self.errors: list[BaseException] = []
        self.hello: Any = None
        options = {"socket_timeout": None, "socket_connect_timeout": None, **given}
        address = SimpleNamespace(of_node=lambda *place: place)
        engine: Any = SimpleNamespace(
            address=address,
            reached=address,
            outage=outage_of("one"),
            options=SimpleNamespace(max_connections=most, **options),
            era=0,
            moves=0,
        )
        super().__init__(engine, place, late)

    def connection(self) -> Connection:
        self.connections.append(Connection(self.errors, self.hello))
        return self.connections[-1]

    async def with_line(self) -> Line:
        """Have one that rests."""
        answer = self.one(call())
        await soon()
        line: Line = self.made[-1]
        line.answer(0)
        assert await answer == 0
        line.said.clear()
        line.looked_at.clear()
        return line


@pytest.fixture(autouse=True)
def _lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_aio, "Line", Line)
    monkeypatch.setattr(connect, "async_connector", lambda _, pool: pool.connection)


async def soon() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# ── what travels together ─────────────────────────────────────────────────────────────────────


@in_loop
async def test_calls_share_a_connection_and_each_gets_its_own_answer() -> None:
    pool = Pool()
    answers = [pool.one(call()) for _ in range(3)]
    await soon()
    (line,) = pool.made
    assert line.said == [([bytes(10)], False, 0.0)] * 3
    line.answer(1, REFUSED, 3)
    assert [await answer for answer in answers] == [1, REFUSED, 3]


@pytest.mark.parametrize(("many", "lines"), [(UNDER_WAY, 1), (UNDER_WAY + 1, 2)])
@in_loop
async def test_so_many_wait_for_one_connection_and_more_of_them_for_another(
    many: int, lines: int
) -> None:
    pool = Pool()
    for _ in range(many):
        pool.one(call())
    await soon()
    assert [line.under_way for line in pool.made] == [UNDER_WAY, 1][:lines]


@in_loop
async def test_a_connection_takes_so_many_and_no_more() -> None:
    pool = Pool()
    line = await pool.with_line()
    for _ in range(UNDER_WAY):
        pool.one(call())
    assert line.under_way == UNDER_WAY
    pool.one(call())
    assert line.under_way == UNDER_WAY
    assert pool.is_wanted
    await soon()
    assert [each.under_way for each in pool.made] == [UNDER_WAY, 1]
    assert not pool.is_wanted


@pytest.mark.parametrize(
    ("each", "large"), [(call(SMALL), False), (call(SMALL + 1), True), (call(large=True), True)]
)
@in_loop
async def test_a_large_call_has_a_connection_of_its_own_until_it_is_answered(
    each: Any, large: bool
) -> None:
    pool = Pool()
    line = await pool.with_line()
    pool.one(each)
    pool.one(call())
    await soon()
    assert line.said[0][1] == large
    assert [one.under_way for one in pool.made] == ([1, 1] if large else [2])
    line.answer(*[0] * line.under_way)
    pool.made[-1].answer(*[0] * pool.made[-1].under_way)
    for _ in range(3):
        pool.one(call())
    await soon()
    assert len(pool.made) == 1 + large, "it takes calls again"


@in_loop
async def test_a_large_call_does_not_go_behind_others() -> None:
    pool = Pool()
    line = await pool.with_line()
    pool.one(call())
    pool.one(call(large=True))
    await soon()
    assert [one.under_way for one in pool.made] == [1, 1]
    assert (line.said[0][1], pool.made[1].said[0][1]) == (False, True)


@in_loop
async def test_several_large_calls_open_several_connections_at_once_and_not_too_many() -> None:
    pool = Pool()
    for _ in range(OPENED_AT_ONCE + 2):
        pool.one(call(large=True))
    await asyncio.sleep(0)
    assert len(pool.connections) == OPENED_AT_ONCE
    await soon()
    await soon()
    assert [line.under_way for line in pool.made] == [1] * (OPENED_AT_ONCE + 2)


@pytest.mark.parametrize(
    ("many", "loads", "large"),
    [
        ([SMALL], [], False),
        ([SMALL - 10, 10], [], False),
        ([SMALL - 10, 11], [], True),
        ([SMALL], [SMALL], False),
        ([SMALL + 1], [1], True),
    ],
)
@in_loop
async def test_calls_in_one_go_are_large_by_their_bytes_and_scripts_do_not_count(
    many: list[int], loads: list[int], large: bool
) -> None:
    pool = Pool()
    line = await pool.with_line()
    scripts: Any = [SimpleNamespace(script=SimpleNamespace(text="x" * n)) for n in loads]
    sent = asyncio.ensure_future(pool.send([call(n) for n in many], scripts))
    await soon()
    assert [said[1] for said in line.said] == [large]
    line.answer(*range(len(many) + len(loads)))
    assert await sent == list(range(len(many) + len(loads)))


@in_loop
async def test_the_answers_to_several_come_all_at_once() -> None:
    pool = Pool()
    line = await pool.with_line()
    asked = asyncio.ensure_future(pool.over(Bare([b"a", b"b", b"c"], large=False)))
    await soon()
    waits = line.asked[0]
    line.answer(1)
    assert not waits.done()
    line.answer(2, 3)
    assert await asked == [1, 2, 3]


@in_loop
async def test_one_large_call_of_several_makes_them_large() -> None:
    pool = Pool()
    line = await pool.with_line()
    sent = asyncio.ensure_future(pool.send([call(), call(large=True)]))
    await soon()
    assert line.said == [([bytes(10)] * 2, True, 0.0)]
    line.answer(1, 2)
    assert await sent == [1, 2]


@in_loop
async def test_what_is_confirmed_may_take_longer_and_nothing_goes_behind_it() -> None:
    durability = Durability.of("replicas=2", 1.5)
    keys = QueueKeys("q", layout="cluster")
    publish = calls.publish(
        keys, [Outgoing("{}", "i")], call_id=CallId("p", 1), durability=durability
    )
    pool = Pool()
    line = await pool.with_line()
    sent = asyncio.ensure_future(pool.send([publish]))
    await soon()
    ((data, large, patience),) = line.said
    assert (large, patience) == (True, durability.seconds if durability else 0)
    line.answer(7, *[2] * (len(data) - 1))
    assert await sent == [Confirmed(7, [2])]


# ── commands ──────────────────────────────────────────────────────────────────────────────────


@in_loop
async def test_a_command_is_looked_at_and_alone_and_its_error_is_raised() -> None:
    pool = Pool()
    line = await pool.with_line()
    asked = asyncio.ensure_future(pool.command(("CONFIG GET", "x")))
    await soon()
    assert line.said == [([packed(("CONFIG", "GET", "x"))], True, 0.0)]
    assert line.looked_at == [True]
    line.answer("y")
    assert await asked == "y"
    asked = asyncio.ensure_future(pool.command(("GET", "x")))
    await soon()
    line.answer(REFUSED)
    with pytest.raises(server.ResponseError, match="NOPERM"):
        await asked


@in_loop
async def test_a_call_is_not_looked_at() -> None:
    pool = Pool()
    line = await pool.with_line()
    pool.one(call())
    line.answer(0)
    sent = asyncio.ensure_future(pool.send([call()]))
    await soon()
    assert line.looked_at == [False, False]
    line.answer(0)
    await sent


@in_loop
async def test_a_look_and_lengths_share_a_connection() -> None:
    pool = Pool()
    line = await pool.with_line()
    got = asyncio.ensure_future(pool.get("k"))
    lengths = asyncio.ensure_future(pool.lengths(["a", "b"]))
    await soon()
    assert line.said == [
        ([packed(("GET", "k"))], False, 0.0),
        ([packed(("LLEN", "a")), packed(("LLEN", "b"))], False, 0.0),
    ]
    assert line.looked_at == [True], "while it is in use it need not be"
    line.answer("v", 1, 2)
    assert (await got, await lengths) == ("v", [1, 2])
    lengths = asyncio.ensure_future(pool.lengths(["a"]))
    await soon()
    assert line.looked_at == [True, True]
    line.answer(3)
    assert await lengths == [3]


@in_loop
async def test_lengths_come_soon_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_aio, "BRIEF", 0.001)
    pool = Pool()
    await pool.with_line()
    with pytest.raises(server.TimeoutError):
        await pool.lengths(["a"])


@in_loop
async def test_a_brief_call_is_looked_at_and_comes_soon_or_not_at_all() -> None:
    pool = Pool()
    line = await pool.with_line()
    soon_or_not = asyncio.ensure_future(pool.one(call(), 0.01))
    await soon()
    assert line.looked_at == [True]
    with pytest.raises(server.TimeoutError):
        await soon_or_not
    assert line.asked.pop().done(), "what comes late is for no task"
    answered = asyncio.ensure_future(pool.one(call(), 5.0))
    await soon()
    line.answer(3)
    assert await answered == 3


@in_loop
async def test_waits_are_ended_by_their_number_and_begin_on_a_connection_of_their_own() -> None:
    pool = Pool()
    line = await pool.with_line()
    ended = asyncio.ensure_future(pool.unblock([(None, 7), (None, 8)]))
    for number in (7, 8):
        await soon()
        assert line.said.pop()[0] == [packed(("CLIENT", "UNBLOCK", number, "ERROR"))]
        line.answer(number - 7)
    assert await ended == [0, 1]
    keys = ("a", "b")
    assert await pool.blocking(keys) == [(pool.connections[-1], ["a", "b"])]
    assert len(pool.connections) == 2


# ── how connections come and go ───────────────────────────────────────────────────────────────


@in_loop
async def test_what_rests_can_be_had_and_takes_no_more_calls() -> None:
    pool = Pool()
    assert (pool.give(), pool.idles) == (None, False)
    line = await pool.with_line()
    assert pool.idles
    for name, value in (("era", 1), ("asked", [1]), ("sound", False)):
        was = getattr(line, name)
        setattr(line, name, value)
        assert pool.give() is None
        setattr(line, name, was)
    assert line.looked_at == [True], "it is the caller's for long"
    assert (pool.give(), pool.idles, line.did) == ("its wire", False, [])


@in_loop
async def test_no_more_connections_than_there_may_be() -> None:
    pool = Pool(most=2)
    for _ in range(2):
        pool.one(call(large=True))
    await soon()
    one = pool.made[0]
    one.asked += [asyncio.Future(), asyncio.Future()]
    pool.one(call(large=True))
    pool.one(call())
    await soon()
    assert [line.under_way for line in pool.made] == [3, 3], "the least busy takes it"


@in_loop
async def test_what_cannot_open_another_waits_for_the_one_that_opens() -> None:
    pool = Pool(most=1)
    pool.one(call(large=True))
    pool.one(call())
    await soon()
    (line,) = pool.made
    assert len(pool.connections) == 1
    assert line.said == [([bytes(10)], False, 0.0), ([bytes(10)], True, 0.0)]


@in_loop
async def test_one_that_leaves_still_counts() -> None:
    pool = Pool(most=1)
    line = await pool.with_line()
    pool.one(call())
    line.leave()
    pool.one(call())
    await soon()
    assert (len(pool.made), pool.is_wanted) == (1, True)
    line.asked.clear()
    line.close()
    await soon()
    assert (len(pool.made), pool.is_wanted) == (2, False)


@in_loop
async def test_one_that_was_closed_by_the_server_is_replaced() -> None:
    pool = Pool()
    line = await pool.with_line()
    line.sound = False
    pool.one(call())
    assert line.did == ["close"]
    await soon()
    assert pool.made[1].under_way == 1


@in_loop
async def test_one_of_before_takes_no_more_calls() -> None:
    pool = Pool()
    line = await pool.with_line()
    pool.engine.era += 1
    pool.one(call())
    await soon()
    assert (line.did, line.said) == (["leave"], [])
    assert (pool.made[1].era, pool.made[1].under_way) == (1, 1)


@in_loop
async def test_where_none_can_be_opened_those_that_wait_hear_why() -> None:
    pool = Pool()
    pool.errors = [server.ConnectionError("away")] * 2
    gone, one, large = pool.one(call()), pool.one(call()), pool.one(call(large=True))
    gone.cancel()
    await soon()
    for each in (one, large):
        with pytest.raises(Unsent) as raised:
            await each
        assert isinstance(raised.value.cause, server.ConnectionError)
    assert gone.done()
    assert not pool.is_wanted


@in_loop
async def test_where_no_other_can_be_opened_those_there_are_take_it() -> None:
    pool = Pool()
    line = await pool.with_line()
    pool.one(call())
    pool.errors = [server.ConnectionError("away")] * 2
    pool.one(call(large=True))
    await soon()
    assert line.said == [([bytes(10)], False, 0.0), ([bytes(10)], True, 0.0)]
    assert pool.made == [line]


@in_loop
async def test_a_small_one_that_goes_to_a_full_connection_stays_small() -> None:
    pool = Pool()
    line = await pool.with_line()
    for _ in range(UNDER_WAY):
        pool.one(call())
    pool.errors = [server.ConnectionError("away")]
    pool.one(call())
    await soon()
    assert line.said == [([bytes(10)], False, 0.0)] * (UNDER_WAY + 1)


@in_loop
async def test_what_is_no_error_of_the_server_is_raised_as_it_is() -> None:
    pool = Pool()
    pool.errors = [ValueError("own")]
    with pytest.raises(ValueError, match="own"):
        await pool.one(call())


@in_loop
async def test_one_that_fails_while_another_opens_says_nothing() -> None:
    pool = Pool()
    pool.errors = [server.ConnectionError("away")]
    one, other = pool.one(call(large=True)), pool.one(call(large=True))
    await soon()
    await soon()
    assert len(pool.connections) == 3, "it is tried again for what waits"
    assert [line.under_way for line in pool.made] == [1, 1]
    assert not one.done()
    assert not other.done()


@in_loop
async def test_an_opening_that_the_end_of_the_loop_cancels_is_begun_again_for_what_waits() -> None:
    pool = Pool()
    pool.one(call())
    (opening,) = pool._opening
    opening.cancel()
    await soon()
    assert [line.under_way for line in pool.made] == [1]


@in_loop
async def test_what_waits_and_is_not_waited_for_is_left_out() -> None:
    pool = Pool()
    pool.one(call()).cancel()
    pool.one(call(11))
    await soon()
    assert pool.made[0].said == [([bytes(11)], False, 0.0)]


@in_loop
async def test_what_rests_takes_what_waits() -> None:
    pool = Pool(most=1)
    line = await pool.with_line()
    pool._opening.add(object())  # type: ignore[arg-type]
    pool.one(call())
    pool.one(call(large=True))
    assert (line.under_way, pool.is_wanted) == (1, True)
    line.answer(0)
    assert (line.under_way, pool.is_wanted) == (1, False)
    assert line.looked_at == [False, False]


@in_loop
async def test_one_that_had_a_large_call_takes_a_small_one_that_waits() -> None:
    pool = Pool(most=1)
    line = await pool.with_line()
    pool._opening.add(object())  # type: ignore[arg-type]
    pool.one(call(large=True))
    pool.one(call())
    assert (line.under_way, pool.is_wanted) == (1, True)
    line.answer(0)
    assert (line.under_way, pool.is_wanted) == (1, False)


@in_loop
async def test_serving_closes_what_is_dead_and_serves_each_once() -> None:
    pool = Pool()
    for _ in range(3):
        pool.one(call(large=True))
    await soon()
    lines = list(pool.made)
    pool._opening.add(object())  # type: ignore[arg-type]
    pool._most = 0
    asked = pool.command(("PING",))
    waits = asyncio.ensure_future(asked)
    await soon()
    for line in lines[1:]:
        line.sound = False
    pool._opening.clear()
    lines[1].answer(0)
    lines[2].answer(0)
    await soon()
    waits.cancel()
    said = [data for line in pool.made for data, _, _ in line.said]
    assert said.count([packed(("PING",))]) == 1


@in_loop
async def test_what_idles_beside_a_dead_one_is_closed_and_what_is_in_use_is_not() -> None:
    pool = Pool()
    for _ in range(2):
        pool.one(call(large=True))
    await soon()
    idle, busy = pool.made
    for line in pool.made:
        line.answer(0)
    busy.asked.append(asyncio.Future())
    pool.standing.verified = True
    pool.broke()
    assert (idle.did, busy.did) == (["close"], [])
    assert not pool.standing.verified


@in_loop
async def test_of_a_node_that_is_abandoned_all_are_given_up() -> None:
    pool = Pool()
    for _ in range(3):
        pool.one(call(large=True))
    await soon()
    rests, _occupied, leaves = pool.made
    rests.answer(0)
    leaves.leave()
    error = server.TimeoutError("gone")
    pool.abandon(error)
    assert [line.did for line in pool.made] == [[error], [error], ["leave", error]]


@in_loop
async def test_closing_leaves_those_that_rest_and_those_that_are_in_use() -> None:
    pool = Pool()
    for _ in range(2):
        pool.one(call(large=True))
    await soon()
    pool.made[0].answer(0)
    await asyncio.wait_for(pool.close(), 0.9)
    assert [line.did for line in pool.made] == [["leave"], ["leave"]]


@pytest.mark.parametrize(("how", "moves"), [("switched", 1), ("rotated", 0)])
@in_loop
async def test_another_master_or_other_credentials_replace_what_was_there(
    how: str, moves: int
) -> None:
    pool = Pool()
    for _ in range(3):
        pool.one(call(large=True))
    await soon()
    rests, _occupied, new = pool.made
    rests.answer(0)
    new.era = 1
    pool.standing.verified = True
    await asyncio.to_thread(getattr(pool, how))
    await soon()
    assert [line.did for line in pool.made] == [["leave"], ["leave"], []]
    assert (pool.engine.era, pool.engine.moves) == (1, moves)
    assert pool.standing.verified == (how == "rotated")


def test_of_a_loop_that_has_ended_nothing_is_replaced() -> None:
    pool = Pool()
    pool.rotated()
    asyncio.run(pool.with_line())
    assert pool.loop is not None
    pool.rotated()
    assert pool.engine.era == 2


# ── connecting ────────────────────────────────────────────────────────────────────────────────


def test_a_node_has_a_standing_of_its_own_and_its_pool_says_when_an_answer_is_late() -> None:
    said: list[Any] = []
    pool = Pool(place=NODE, late=lambda *args: said.append(args))
    assert pool.late is not None
    pool.late()
    assert said == [(pool, NODE)]
    assert pool.standing.outage.name == "the server a:1"
    assert Pool(place=NODE).late is None
    assert Pool(late=print).late is None
    alone = Pool()
    assert alone.standing.outage is outage_of("one")
    assert alone.everywhere() == [alone.standing]
    assert alone.standing_of(call()) is alone.standing
    assert alone.hopeless(0) is None


@in_loop
async def test_a_node_has_a_little_longer_after_each_try_that_failed() -> None:
    pool = Pool(place=NODE, socket_timeout=0.65, socket_connect_timeout=0.1)
    for within in (LONGER * HANDSHAKE, 0.65, 0.65):
        pool.errors = [OSError("refused")]
        with pytest.raises(OSError, match="refused"):
            await pool.fresh()
        assert pool._handshake == pytest.approx(within)
    await pool.fresh()
    assert pool._handshake == HANDSHAKE


@pytest.mark.parametrize("given", [{}, {"socket_timeout": 0.001}])
@in_loop
async def test_a_node_that_takes_a_connection_and_says_nothing_is_given_up_in_time(
    given: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    if given:
        given = {**given, "socket_connect_timeout": 0.001}
    pool = Pool(place=NODE, **given)
    if not given:
        pool._handshake = 0.001

    async def silent(_: Any) -> None:
        await asyncio.sleep(9)

    monkeypatch.setattr(Connection, "connect", silent)
    with pytest.raises(server.TimeoutError, match="Timeout connecting to server"):
        await pool.fresh()
    assert pool._handshake == pytest.approx(0.001 * (1 if given else LONGER))
    assert pool.connections[0].disconnected == [True]


@in_loop
async def test_redis_s_own_timeout_counts_as_one_too() -> None:
    pool = Pool(place=NODE)
    pool.errors = [server.TimeoutError("slow")]
    with pytest.raises(server.TimeoutError, match="slow"):
        await pool.fresh()
    assert pool._handshake == pytest.approx(LONGER * HANDSHAKE)


@in_loop
async def test_a_server_may_take_as_long_as_it_likes_unless_the_caller_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Any] = []

    async def connected(_: Any, within: float | None, after: float | None) -> None:
        given.append((within, after))

    monkeypatch.setattr(commands_aio, "connected", connected)
    await Pool(socket_timeout=3.0).fresh()
    await Pool(socket_timeout=3.0).fresh(within=2.0)
    await Pool(socket_timeout=3.0, socket_connect_timeout=1.0).fresh(within=9.0)
    await Pool(place=NODE, socket_timeout=3.0).fresh(within=2.0)
    await Pool(place=NODE, socket_timeout=3.0).fresh(within=0.1)
    assert given == [(None, 3.0), (2.0, 3.0), (3.0, 3.0), (HANDSHAKE, 3.0), (0.1, 3.0)]


@pytest.mark.parametrize(
    ("name", "version", "good"),
    [
        ("redis", "6.2.0", True),
        ("redis", "6.1.9", False),
        ("redis", "6.0.x", False),
        ("redis", "7.0.0", True),
        ("valkey", "7.2.4", True),
        ("valkey", "7.1.9", False),
        ("another", "0.1", True),
        ("redis", "", True),
        ("redis", "unstable", True),
    ],
)
def test_which_servers_are_too_old(name: str, version: str, good: bool) -> None:
    for hello in ({"server": name, "version": version}, {b"server": name, b"version": version}):
        with contextlib.nullcontext() if good else pytest.raises(ServerTooOld):
            check_version(hello)


@pytest.mark.parametrize("place", [None, NODE])
@in_loop
async def test_a_server_that_is_too_old_is_refused(place: Any) -> None:
    pool = Pool(place=place)
    pool.hello = {"server": "redis", "version": "5.0.0"}
    with pytest.raises(ServerTooOld):
        await pool.fresh()
    assert pool._handshake == (HANDSHAKE if place else None)


@in_loop
async def test_what_could_not_be_connected_is_closed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(wires, "opened", SimpleNamespace(add=opened.append))
    good: Any = Connection([], None)
    bad: Any = Connection([server.ConnectionError("away")], None)
    await connected(good)
    with pytest.raises(server.ConnectionError, match="away"):
        await connected(bad)
    assert opened == [good]
    assert (good.disconnected, bad.disconnected) == ([], [True])


@in_loop
async def test_a_connection_for_one_command_is_closed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Connection([], None)
    monkeypatch.setattr(connect, "async_connector", lambda _: lambda: one)
    monkeypatch.setattr(wires, "opened", set())
    address: Any = object()
    assert await asked(address, 1.0, "CLUSTER", "SLOTS") == "its answer"
    assert (one.commands, one.disconnected) == ([("CLUSTER", "SLOTS")], [True])
    one.errors.append(server.ConnectionError("away"))
    with pytest.raises(server.ConnectionError, match="away"):
        await asked(address, 1.0, "CLUSTER", "SLOTS")
    assert one.disconnected == [True] * 3, "of which one is of the handshake"


def test_the_one_server_is_missed_until_there_are_results() -> None:
    pool, said = Pool(), list[Any]()
    pool.standing.outage = SimpleNamespace(  # type: ignore[assignment]
        away=lambda *how: said.append(how),
        back=lambda: said.append("back"),
        left=lambda: said.append("replaced"),
    )
    report, error = OutageReport(pool, pool.standing), ServerUnavailable("refused")
    report.gave_up(error)
    report.ended([1])
    assert said == [(error, 0.0, 0.0), "back"]


@in_loop
async def test_a_cancellation_that_redis_py_swallows_is_raised() -> None:
    async def swallows() -> int:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(9)
        return 1

    task = asyncio.ensure_future(heeded(swallows()))
    await soon()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@in_loop
async def test_a_cancellation_of_another_task_is_a_lost_connection() -> None:
    async def cancelled() -> int:
        raise asyncio.CancelledError

    assert await heeded(asyncio.sleep(0, 7)) == 7
    with pytest.raises(server.ConnectionError, match="the event loop ends"):
        await heeded(cancelled())


@in_loop
async def test_a_cancellation_of_its_own_task_is_one_and_keeps_no_frames() -> None:
    task = asyncio.ensure_future(heeded(asyncio.sleep(9)))
    await soon()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@in_loop
async def test_what_was_cancelled_before_may_still_be_awaited() -> None:
    async def cleans_up() -> int:
        try:
            await asyncio.sleep(9)
        finally:
            assert await heeded(asyncio.sleep(0, 7)) == 7

    task = asyncio.ensure_future(cleans_up())
    await soon()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
