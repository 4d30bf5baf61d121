"""What an engine makes of the answers of its connections, for threads and for tasks. No server."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as server

from atomq import calls, flows
from atomq.aio import AsyncEngine
from atomq.calls import Call, Outgoing
from atomq.client import Engine
from atomq.durability import Confirmed, Durability
from atomq.errors import (
    AtomqError,
    InvalidArgument,
    NotDurable,
    ScriptsNotLoaded,
    ServerUnavailable,
)
from atomq.flows import Filled, Get, Listen, Sleep, Together, Wait, Withdraw
from atomq.ids import CallId
from atomq.keys import QueueKeys
from atomq.outage import Standing
from tests.threads import rests_noted

AWAY = server.ConnectionError("away")
REFUSED = server.ResponseError("NOPERM this user has no permissions")


class Pool:
    """What the engine asked of its connections, and the replies it is given one after another."""

    def __init__(self, outage: Any) -> None:
        self.asked: list[Any] = []
        self.replies: list[Any] = []
        self.standing = Standing(outage)
        self.standing.verified = True

    def standing_of(self, _call: Call[Any]) -> Standing:
        return self.standing

    def outage_of(self, _args: Any) -> Any:
        return self.standing.outage

    def in_doubt(self, _outage: Any) -> bool:
        return False

    has_left = in_doubt

    def hopeless(self, _call: Call[Any]) -> None:
        return None

    def answer(self, asked: Any) -> Any:
        self.asked.append(asked)
        reply = self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply(asked) if callable(reply) else reply

    def one(self, call: Call[Any], within: float | None) -> Any:
        return self.answer(call if within is None else ([call.script.name], within))

    def send(self, sent: Any, loads: Any, within: float | None) -> Any:
        loaded = [f"load {call.script.name}" for call in loads]
        return self.answer((loaded + [call.script.name for call in sent], within))

    def command(self, args: Any) -> Any:
        return self.answer(args)

    def get(self, key: str) -> Any:
        return self.answer(("GET", key))

    def lengths(self, keys: Any) -> Any:
        return self.answer(keys)


class InTasks:
    """The same pool for asyncio."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._pool, name)
        if name not in ("one", "send", "command", "get", "lengths"):
            return found

        async def later(*args: Any) -> Any:
            return found(*args)

        return later


class Waiter:
    """Notes what it is asked to wait for."""

    def __init__(self, later: Callable[[Any], Any]) -> None:
        self.asked: list[Any] = []
        self._later = later

    def wait(self, *args: Any, **more: Any) -> Any:
        self.asked.append((*args, more))
        return self._later("token")

    def withdraw(self) -> Any:
        return self._later(["q"])

    def listen(self, *args: Any) -> Any:
        self.asked.append(args)
        return self._later(b"heard")


class Stage:
    """An engine of either kind whose connections are a script."""

    def __init__(self, make: str, loop: asyncio.Runner, **options: Any) -> None:
        self.is_async, self._loop = make == "asyncio", loop
        kind: Any = AsyncEngine if self.is_async else Engine
        self.engine = kind("redis://nowhere.invalid", **options)
        self.pool = Pool(SimpleNamespace(away=self._away, back=self._back))
        self.engine._pool = InTasks(self.pool) if self.is_async else self.pool
        self.said: list[Any] = []
        self.waiter = Waiter(self._later)

    def _away(self, error: Exception, _: float = 0.0, more: float = 0.0) -> None:
        assert str(error)
        self.said.append("waits" if more else "away")

    def _back(self) -> None:
        self.said.append("back")

    def _later(self, value: Any) -> Any:
        async def later() -> Any:
            return value

        return later() if self.is_async else value

    def do(self, ask: Callable[[Any], Any]) -> Any:
        """What comes of it, in the loop if the engine is asyncio's."""

        async def main() -> Any:
            found = ask(self.engine)
            return await found if inspect.isawaitable(found) else found

        return self._loop.run(main()) if self.is_async else ask(self.engine)

    def run(self, work: Any, *replies: Any) -> Any:
        self.pool.replies += replies
        return self.do(lambda engine: engine.run(work, self.waiter))


@pytest.fixture(params=["threads", "asyncio"])
def make(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def stage(make: str, loop: asyncio.Runner) -> Stage:
    return Stage(make, loop)


@pytest.fixture(autouse=True)
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds it rested, without a rest."""
    found = rests_noted(monkeypatch)
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        found.append(seconds)
        await real(0)

    monkeypatch.setattr(
        "atomq.runner_aio.asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep})
    )
    return found


def ack() -> Call[Any]:
    return calls.ack(QueueKeys("q"), ["r1", "r2"])


def put(durability: str | None = None) -> Call[Any]:
    wanted = Durability.of(durability, 1.5) if durability else None
    message = Outgoing("{}", "i")
    return calls.publish(QueueKeys("q"), [message], call_id=CallId("p", 1), durability=wanted)


def names(stage: Stage) -> list[Any]:
    """The scripts of what was sent, one by one or together."""
    return [each.script.name if isinstance(each, Call) else each[0] for each in stage.pool.asked]


# ── one call ──────────────────────────────────────────────────────────────────────────────────


def test_a_call_that_is_answered_is_one_trip(stage: Stage, rests: list[float]) -> None:
    call = ack()
    assert stage.run(call, [2]) == call.parse([2], False)
    assert (stage.pool.asked, rests, stage.said) == ([call], [], [])


@pytest.mark.parametrize("way", ["raised", "answered"])
def test_what_passes_is_waited_for_and_asked_again(
    stage: Stage, rests: list[float], way: str
) -> None:
    if way == "raised":
        stage.run(ack(), AWAY, AWAY, [[2]])
    else:
        busy = server.BusyLoadingError("LOADING")
        stage.run(ack(), busy, [busy], [[2]])
    assert names(stage) == ["ack", ["ack"], ["ack"]]
    assert len(rests) == 2
    assert stage.said == ["waits", "waits", "back"]


def test_where_a_script_was_loaded_the_register_looks_at_the_nodes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(stage.engine.register, "look", lambda: looked.append(1))
    unknown, refused = server.NoScriptError("no"), server.NoPermissionError("NOPERM no")
    stage.run(ack(), AWAY, [[2]])
    assert looked == [], "none was loaded"
    stage.run(ack(), lambda _: unknown, [b"its sha", [2]])
    assert names(stage)[-1] == ["load ack", "ack"]
    assert looked == [1]
    with pytest.raises(ScriptsNotLoaded):
        stage.run(ack(), lambda _: unknown, [refused, unknown])
    assert looked == [1], "this user may load none"


def test_what_the_server_refuses_is_raised_as_ours(stage: Stage, rests: list[float]) -> None:
    with pytest.raises(AtomqError, match="what"):
        stage.run(ack(), server.ResponseError("what?"))
    assert (len(stage.pool.asked), rests) == (1, [])


def test_when_patience_ends_the_server_is_away_and_looked_at_anew(
    make: str, loop: asyncio.Runner
) -> None:
    stage = Stage(make, loop, retry_attempts=0)
    with pytest.raises(ServerUnavailable):
        stage.run(ack(), AWAY)
    assert not stage.pool.standing.verified
    assert stage.said == ["away"]


def test_what_puts_is_noted_once_in_the_register(stage: Stage) -> None:
    keys = QueueKeys("q")

    def again(number: int) -> Any:
        return calls.publish(keys, [Outgoing("{}", "i")], call_id=CallId("p", number))

    stage.run(again(1), 1, [1])
    assert names(stage) == ["publish", ["register"]]
    stage.run(again(2), 1)
    assert names(stage)[2:] == ["publish"]
    keys.noted = 0.0
    stage.run(again(3), AWAY, [1], [1])
    assert names(stage)[3:] == ["publish", ["publish"], ["register"]], "also after trouble"


def test_what_goes_is_noted_each_time(stage: Stage) -> None:
    keys = QueueKeys("q")
    keys.noted = time.monotonic() + 60
    everything = dict.fromkeys(("ready", "delayed", "unacked", "dead", "settings"), True)
    stage.run(calls.purge(keys, **everything), [0, 0, 0, 0], [1])  # type: ignore[arg-type]
    assert names(stage)[1] == ["register"]


def test_a_register_that_cannot_be_written_harms_no_call(stage: Stage) -> None:
    call = put()
    stage.run(call, 1, server.NoPermissionError("no"))
    assert call.queue.noted > time.monotonic() + 300, "it is tried again much later"


def test_the_register_is_not_waited_for(stage: Stage, rests: list[float]) -> None:
    stage.run(put(), 1, server.BusyLoadingError("LOADING"))
    assert (names(stage), rests) == (["publish", ["register"]], [])


# ── what is confirmed ─────────────────────────────────────────────────────────────────────────


def test_the_server_is_asked_once_whether_it_confirms(stage: Stage) -> None:
    call = put("replicas=2")
    stage.pool.standing.confirming.add(call.durability)
    stage.run(call, [Confirmed(1, [2])], [1])
    assert names(stage) == [["publish"], ["register"]]


def test_one_that_was_not_confirmed_has_the_next_ask_first(stage: Stage) -> None:
    call = put("replicas=2")
    stage.pool.standing.confirming.add(call.durability)
    with pytest.raises(NotDurable):
        stage.run(call, [Confirmed(1, [1])])
    assert call.durability not in stage.pool.standing.confirming
    stage.pool.standing.confirming.add(call.durability)
    stage.pool.replies += [[Confirmed(1, [1]), [2]]]
    first, second = stage.do(lambda engine: engine.run_all([call, ack()]))
    assert isinstance(first, NotDurable)
    assert not isinstance(second, Exception)
    assert call.durability not in stage.pool.standing.confirming
    assert stage.pool.asked[-1][0] == ["publish", "ack"], "and is not noted"


# ── many calls ────────────────────────────────────────────────────────────────────────────────


def test_many_calls_are_one_trip_and_an_error_takes_its_place(stage: Stage) -> None:
    assert stage.do(lambda engine: engine.run_all([])) == []
    stage.pool.replies += [[1, server.ResponseError("what?"), [2]], [1]]
    found = stage.do(lambda engine: engine.run_all([put(), put(), ack()]))
    assert isinstance(found[1], AtomqError)
    assert not isinstance(found[0], Exception)
    assert names(stage) == [["publish", "publish", "ack"], ["register"]]


class Nodes:
    """Each call has a node of its own; what is said of one is noted with its number."""

    def __init__(self, stage: Stage, *standings: Standing | None) -> None:
        self.calls: list[Call[Any]] = [ack() for _ in standings]
        self.said: list[tuple[int, Any]] = []
        self.standings = [each or self._standing(at) for at, each in enumerate(standings)]
        self._at = {id(call.queue): at for at, call in enumerate(self.calls)}
        stage.pool.standing_of = self._standing_of  # type: ignore[method-assign]

    def _standing(self, at: int) -> Standing:
        outage: Any = SimpleNamespace(
            away=lambda *_: self.said.append((at, "away")),
            back=lambda: self.said.append((at, "back")),
        )
        return Standing(outage)

    def _standing_of(self, call: Call[Any]) -> Standing:
        return self.standings[self._at[id(call.queue)]]


def test_of_many_calls_one_node_that_is_verified_will_do(stage: Stage) -> None:
    nodes = Nodes(stage, None, None)
    nodes.standings[1].verified = True
    stage.pool.replies += [[[2], [2]], [[2]]]
    stage.do(lambda engine: engine.run_all(nodes.calls))
    assert names(stage) == [["ack", "ack"]]
    assert nodes.said == [(0, "back")]
    stage.do(lambda engine: engine.run_all(nodes.calls[1:]))
    assert nodes.said == [(0, "back"), (1, "back")]


@pytest.mark.parametrize("many", [1, 2])
def test_of_many_calls_the_first_is_for_the_server_that_is_asked_for_rights(
    stage: Stage, many: int
) -> None:
    nodes = Nodes(stage, *[None] * many)
    stage.pool.replies += [[[]], [[2]] * many]
    stage.do(lambda engine: engine.run_all(nodes.calls))
    assert names(stage) == [["probe"], ["ack"] * many]
    assert [each.verified for each in nodes.standings] == [True, False][:many]


def test_while_the_server_is_away_many_calls_raise_and_in_a_cluster_each_has_its_error(
    make: str, loop: asyncio.Runner
) -> None:
    for slots in (None, object()):
        stage = Stage(make, loop, retry_attempts=0)
        nodes = Nodes(stage, None, None)
        stage.engine.slots = slots
        stage.pool.replies += [AWAY] * 4
        if slots is None:
            with pytest.raises(ServerUnavailable):
                stage.do(lambda engine, calls=nodes.calls: engine.run_all(calls))
        else:
            found = stage.do(lambda engine, calls=nodes.calls: engine.run_all(calls))
            assert [type(each) for each in found] == [ServerUnavailable] * 2


def test_in_a_cluster_each_silent_node_is_asked_for_rights_once(stage: Stage) -> None:
    nodes = Nodes(stage, None, None, None)
    nodes.standings[1] = nodes.standings[0]
    stage.engine.slots = object()
    stage.pool.replies += [AWAY, [[]], [[2]] * 3]
    stage.do(lambda engine: engine.run_all(nodes.calls))
    assert names(stage)[0] == ["probe"]
    assert names(stage)[-1] == ["ack"] * 3
    assert [each.verified for each in nodes.standings] == [False, False, True]


def test_one_that_was_confirmed_is_not_asked_for_again(stage: Stage) -> None:
    call = put("replicas=2")
    stage.pool.replies += [[[]], [Confirmed(1, [2])], [1]]
    stage.do(lambda engine: engine.run_all([call]))
    assert names(stage) == [["probe"], ["publish"], ["register"]]
    assert call.durability in stage.pool.standing.confirming


# ── commands ──────────────────────────────────────────────────────────────────────────────────


def test_a_command_is_not_tried_again_but_with_patience(stage: Stage, rests: list[float]) -> None:
    stage.pool.replies += [b"PONG"]
    assert stage.do(lambda engine: engine.command("PING")) == b"PONG"
    stage.pool.replies += [server.BusyLoadingError("LOADING")]
    busy = server.BusyLoadingError("LOADING")
    with pytest.raises(ServerUnavailable):
        stage.do(lambda engine: engine.command("PING"))
    stage.pool.replies += [busy, b"PONG"]
    assert stage.do(lambda engine: engine.command("PING", patient=True)) == b"PONG"
    assert stage.pool.asked == [("PING",)] * 4
    assert len(rests) == 1


def test_a_string_that_is_read_with_patience_is_tried_again(
    make: str, loop: asyncio.Runner, rests: list[float]
) -> None:
    """Also where an answer was lost, as reading changes nothing; else it is tried once."""
    stage = Stage(make, loop, retry_attempts=1)

    def read(patience: float) -> Any:
        def flow() -> Iterator[Any]:
            return (yield Get("k", patience))

        return stage.do(lambda engine: engine.run(flow()))

    stage.pool.replies += [server.ClusterDownError("down"), AWAY, b"v"]
    assert read(5.0) == b"v"
    assert len(rests) == 2
    stage.pool.replies += [AWAY, AWAY]
    with pytest.raises(ServerUnavailable, match="2 attempts"):
        read(5.0)
    for patience, tried in ((0.0, 1), (1e-9, 1)):
        stage.pool.replies[:] = [AWAY] * 2
        with pytest.raises(ServerUnavailable):
            read(patience)
        assert len(stage.pool.replies) == 2 - tried
    stage.pool.replies[:] = [server.ResponseError("WRONGTYPE no")]
    with pytest.raises(AtomqError, match="no"):
        read(5.0)
    assert set(stage.pool.asked) == {("GET", "k")}


# ── flows ─────────────────────────────────────────────────────────────────────────────────────


class Host:
    """A virtual host that is not known to be a namespace until the cluster is asked."""

    def __init__(self, pool: Pool) -> None:
        self.namespace: str | None = None
        self.asked: list[int] = []
        self._pool = pool

    def find(self, _retry: Any) -> str:
        self.asked.append(len(self._pool.asked))
        self.namespace = "1:"
        return self.namespace


@pytest.mark.parametrize("is_flow", [True, False])
def test_what_all_names_begin_with_is_found_out_once_and_before_anything_is_sent(
    stage: Stage, is_flow: bool
) -> None:
    host = stage.engine.virtual_host = Host(stage.pool)
    for _ in range(2):
        stage.pool.replies.append([])
        if is_flow:
            stage.run(flows.ask(ack()))
        else:
            stage.do(lambda engine: engine.command("LRANGE", "k", 0, -1))
    assert host.asked == [0]


def test_the_effects_of_a_flow_are_carried_out(stage: Stage, rests: list[float]) -> None:
    def flow() -> Iterator[Any]:
        found = [(yield ack()), (yield Get("k")), (yield Filled(("a", "b", "c")))]
        found.append((yield Together((ack(), ack()))))
        found.append((yield Sleep(1.5)))
        found.append((yield Wait(("k",), 2.0, None, 3.0, {"c": "q"})))
        found += [(yield Withdraw()), (yield Listen("c", 4.0))]
        return found

    found = stage.run(flow(), [2], b"v", [1, 0, server.ResponseError("no")], [[2], [2]])
    assert found[1:3] == [b"v", ["a"]]
    assert len(found[3]) == 2
    assert found[4:] == [None, "token", ["q"], b"heard"]
    assert rests == [1.5]
    assert stage.waiter.asked == [
        (("k",), 2.0, None, {"lasts": 3.0, "channels": {"c": "q"}}),
        ("c", 4.0),
    ]


def test_lists_that_cannot_be_counted_are_not_known_to_be_filled(stage: Stage) -> None:
    def flow() -> Iterator[Any]:
        return (yield Filled(("a",)))

    assert stage.run(flow(), AWAY) == []


def test_trouble_is_raised_in_the_flow_and_what_the_flow_raises_outside(stage: Stage) -> None:
    def flow() -> Iterator[Any]:
        for work in (ack(), "nonsense"):
            with pytest.raises(AtomqError):
                yield work
        assert (yield Sleep(0.0)) is None, "and is over"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        stage.run(flow(), server.ResponseError("what?"))


def test_a_flow_that_waits_needs_a_waiter_and_what_is_run_is_a_call_or_a_flow(
    stage: Stage,
) -> None:
    def flow() -> Iterator[Any]:
        yield Withdraw()

    with pytest.raises(InvalidArgument, match="needs a waiter"):
        stage.do(lambda engine: engine.run(flow()))
    with pytest.raises(InvalidArgument, match="a call or a flow"):
        stage.do(lambda engine: engine.run(["neither"]))


# ── brief calls ───────────────────────────────────────────────────────────────────────────────


def test_a_brief_call_that_could_not_be_probed_was_not_sent(stage: Stage) -> None:
    call = ack()
    call.brief = True
    stage.pool.standing.verified = False
    with pytest.raises(ServerUnavailable) as raised:
        stage.run(call, AWAY)
    assert raised.value.unsent
    assert [within is not None for _, within in stage.pool.asked] == [True]


def test_a_brief_call_is_tried_once_and_its_node_is_not_looked_at_again(stage: Stage) -> None:
    call = ack()
    call.brief = True
    with pytest.raises(ServerUnavailable):
        stage.run(call, AWAY)
    assert [asked[0] for asked in stage.pool.asked] == [["ack"]]


def test_a_node_that_is_not_verified_is_before_its_first_call(stage: Stage) -> None:
    stage.pool.standing.verified = False
    stage.run(ack(), [[]], [2])
    assert names(stage) == [["probe"], "ack"]
    assert stage.pool.standing.verified
