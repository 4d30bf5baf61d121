"""Which nodes of a cluster are asked, and several at once: by threads and tasks, without one."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as server
from redis.connection import DefaultParser

from atomq import AsyncEngine, Engine, calls
from atomq.actions import BRIEF, WAYS, Elsewhere, NoAnswer
from atomq.cluster import EVERY, FEW, NEAR
from atomq.conversation import packed
from atomq.keys import Place, QueueKeys, hash_slot
from atomq.shards import Shards
from atomq.shards_aio import AsyncShards
from atomq.wires import AsyncWire, Wire

A, B, C = PLACES = ("a", 1), ("b", 2), ("c", 3)
WHOLE: Any = [
    [0, 5000, [b"a", 1], [b"d", 4]],
    [5001, 10000, [b"b", 2]],
    [10001, 16383, [b"c", 3]],
]


def name_of(place: Place) -> str:
    """A name whose slot this node serves."""
    (first, last, *_) = WHOLE[PLACES.index(place)]
    return next(n for n in map(str, range(999)) if first <= hash_slot(n) <= last)


KEYS = {place: name_of(place) for place in PLACES}
QUEUES = {place: QueueKeys(KEYS[place], layout="cluster") for place in PLACES}


class Node:
    """The pool of one node. It answers with its name, or not at all."""

    def __init__(self, stage: Stage, place: Place) -> None:
        self._stage, self.name = stage, place[0]
        self.trouble: Exception | None = None
        self.idles = True
        self.standing = SimpleNamespace(verified=True, verifying=None)
        self.idle: Any = None
        self.replies: list[list[Any]] = []
        """What it answers first, instead of its name."""
        self.asked: list[tuple[list[bytes], bool, float | None]] = []
        self.large: list[bool] = []
        self.forgotten = self.abandoned = self.closed = 0

    def over(
        self,
        load: Any,
        *,
        looked_at: bool = False,
        within: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        self.asked.append((load.data, looked_at, within))
        self.large.append(load.large)
        if self._stage.is_async:
            return self._later(len(load.data))
        if self.trouble is not None:
            raise self.trouble
        self._stage.log.append(f"to {self.name}")
        if meanwhile is not None:
            meanwhile()
        self._stage.log.append(f"of {self.name}")
        return self.replies.pop(0) if self.replies else [self.name] * len(load.data)

    async def _later(self, many: int) -> list[Any]:
        self._stage.log.append(f"to {self.name}")
        await asyncio.sleep(0)
        if self.trouble is not None:
            raise self.trouble
        self._stage.log.append(f"of {self.name}")
        return self.replies.pop(0) if self.replies else [self.name] * many

    def one(self, call: Any, within: float | None = None) -> Any:
        self.asked.append(([call.packed()], within is not None, within))
        return self._stage.said(self.trouble or (self.replies.pop(0)[0] if self.replies else 1))

    def fresh(self) -> Any:
        return self._stage.said(self.trouble or f"line to {self.name}")

    def close(self) -> Any:
        self.closed += 1
        return self._stage.said(None)

    def give(self) -> Any:
        return self.idle

    def forget(self) -> None:
        self.forgotten += 1

    def abandon(self, error: Exception) -> None:
        assert isinstance(error, server.TimeoutError)
        self.abandoned += 1


class Stage:
    """A cluster of three nodes, each with a pool that is played."""

    def __init__(self, kind: str, loop: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_async, self._loop = kind == "tasks", loop
        url = "redis+cluster://127.0.0.1:1"
        self.shards: Any = AsyncShards(AsyncEngine(url)) if self.is_async else Shards(Engine(url))
        self.map = self.shards.map
        self.map.learn(A, WHOLE)
        self.log: list[str] = []
        self.looks = 0
        self.nodes = {place: Node(self, place) for place in PLACES}
        monkeypatch.setattr(self.shards, "_pools", self.nodes)
        self._real_look = self.shards._look
        monkeypatch.setattr(self.shards, "_look", self._look)

    def _look(self, _slot: int | None = None) -> Any:
        self.looks += 1
        return asyncio.sleep(0) if self.is_async else None

    def said(self, value: Any) -> Any:
        """What a node says. Errors of the connection are raised, those of the server replied."""

        def say() -> Any:
            if isinstance(value, server.ConnectionError | server.TimeoutError):
                raise value
            return value

        async def later() -> Any:
            return say()

        return later() if self.is_async else say()

    def asks(self, monkeypatch: pytest.MonkeyPatch, view: Any) -> list[Place]:
        """Have nodes asked for the map, which they say is this one; those that are."""
        asked: list[Place] = []

        def slots(place: Place, _within: float) -> Any:
            asked.append(place)
            return self.said(view)

        self.shards._look = self._real_look
        monkeypatch.setattr(self.shards, "_slots", slots)
        return asked

    def do(self, ask: Callable[[Any], Any]) -> Any:
        """What comes of it, in a loop if tasks do it."""

        async def main() -> Any:
            found = ask(self.shards)
            return await found if inspect.isawaitable(found) else found

        return self._loop.run(main()) if self.is_async else ask(self.shards)


@pytest.fixture(params=["threads", "tasks"])
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with asyncio.Runner() as loop:
        yield Stage(request.param, loop, monkeypatch)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with asyncio.Runner() as loop:
        yield Stage("threads", loop, monkeypatch)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with asyncio.Runner() as loop:
        yield Stage("tasks", loop, monkeypatch)


def acks(*places: Place) -> list[Any]:
    return [calls.ack(QUEUES[place], ["r-1.0.1"]) for place in places]


def get(place: Place) -> Callable[[Any], Any]:
    return lambda shards: shards.get(KEYS[place])


def parsed(text: str) -> Any:
    """An error as redis-py makes it of what a server says."""
    parser: Any = DefaultParser
    return parser.parse_error(text)


# ── which node ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("place", PLACES)
def test_a_call_or_a_command_goes_to_the_node_of_its_key(stage: Stage, place: Place) -> None:
    assert stage.do(get(place)) == place[0]
    assert stage.do(lambda shards: shards.command(("LLEN", KEYS[place]))) == place[0]
    assert stage.do(lambda shards: shards.one(acks(place)[0])) == 1
    assert stage.do(lambda shards: shards.fresh(KEYS[place])) == f"line to {place[0]}"
    assert [len(node.asked) for node in stage.nodes.values()].count(0) == 2
    assert stage.nodes[place].large == [False, True], "no task waits for what may be large"


def test_what_has_no_key_goes_to_a_node_that_is_well(stage: Stage) -> None:
    for place in (A, C):
        stage.map.doubt(place)
    assert stage.do(lambda shards: shards.command(("TIME",))) == "b"
    assert stage.do(lambda shards: shards.fresh()) == "line to b"


def test_a_command_is_sent_on_to_the_node_that_a_node_names(stage: Stage) -> None:
    slot, sent = hash_slot(KEYS[A]), packed(("GET", KEYS[A]))
    stage.nodes[A].replies = [[parsed(f"ASK {slot} b:2")], [parsed(f"MOVED {slot} c:3")]]
    stage.nodes[B].replies = [["OK", b"in B"]]
    assert stage.do(get(A)) == b"in B"
    assert (stage.map.owner(slot), stage.nodes[B].asked[0][0]) == (A, [packed(("ASKING",)), sent])
    assert stage.do(get(A)) == "c"
    assert (stage.map.owner(slot), stage.nodes[C].asked[0][0]) == (C, [sent])


def test_a_command_is_not_sent_on_for_ever(stage: Stage) -> None:
    slot = hash_slot(KEYS[A])
    stage.nodes[A].replies = [[parsed(f"MOVED {slot} b:2")] for _ in range(9)]
    stage.nodes[B].replies = [[parsed(f"MOVED {slot} a:1")] for _ in range(9)]
    with pytest.raises(server.ResponseError):
        stage.do(get(A))
    assert sum(len(node.asked) for node in stage.nodes.values()) == WAYS


@pytest.mark.parametrize("sound", [True, False])
def test_what_any_node_does_is_given_to_others_while_one_may_be_well(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, sound: bool
) -> None:
    if sound:  # as where nodes answer again, and fall silent
        monkeypatch.setattr(type(stage.map), "is_any_sound", True)
    for node in stage.nodes.values():
        node.trouble = server.TimeoutError("late")
    with pytest.raises(server.TimeoutError, match=r"[abc]:[123]: late"):
        stage.do(lambda shards: shards.command(("PUBLISH", "c", "m")))
    asked = [each for node in stage.nodes.values() for each in node.asked]
    assert [each[1:] for each in asked] == [(True, NEAR)] * (WAYS if sound else 3)


def test_what_one_node_does_is_asked_of_no_other(stage: Stage) -> None:
    stage.nodes[A].trouble = server.TimeoutError("late")
    with pytest.raises(server.TimeoutError, match="a:1: late"):
        stage.do(get(A))
    assert [len(node.asked) for node in stage.nodes.values()] == [1, 0, 0]
    assert stage.map.doubted == {A}


@pytest.mark.parametrize(
    "ask",
    [lambda shards: shards.one(acks(A)[0]), lambda shards: shards.fresh(KEYS[A])],
    ids=["call", "connection"],
)
def test_the_error_of_a_node_names_it_and_the_node_is_in_doubt(
    stage: Stage, ask: Callable[[Any], Any]
) -> None:
    stage.nodes[A].trouble = server.ConnectionError("gone")
    with pytest.raises(server.ConnectionError, match="a:1: gone"):
        stage.do(ask)
    assert stage.map.doubted == {A}


def test_the_map_learns_from_what_is_said_to_a_call(stage: Stage) -> None:
    slot = hash_slot(KEYS[A])
    stage.nodes[A].replies = [[parsed(f"MOVED {slot} b:2")]]
    assert isinstance(stage.do(lambda shards: shards.one(acks(A)[0])), Elsewhere)
    assert stage.map.owner(slot) == B
    stage.map.doubt(C)
    stage.do(lambda shards: shards.one(acks(C)[0]))
    assert not stage.map.doubted, "it answers"


def test_scripts_are_loaded_before_what_runs_them(stage: Stage) -> None:
    one, other = acks(A, A)
    stage.nodes[A].replies = [["sha", "first", "second"]]
    replies = stage.do(lambda shards: shards.send([one, other], [one.at(A)]))
    assert replies == ["sha", "first", "second"]
    ((data, *_),) = stage.nodes[A].asked
    assert data == [packed(("SCRIPT", "LOAD", one.script.text)), one.packed(), other.packed()]


def test_waits_are_ended_at_their_nodes(stage: Stage) -> None:
    stage.nodes[A].replies, stage.nodes[B].replies = [[1, 0]], [[1]]
    assert stage.do(lambda shards: shards.unblock([(A, 7), (B, 8), (A, 9)])) == [1, 1, 0]
    assert stage.nodes[A].asked == [
        ([packed(("CLIENT", "UNBLOCK", n, "ERROR")) for n in (7, 9)], True, BRIEF)
    ]
    stage.nodes[B].trouble = server.TimeoutError("late")
    with pytest.raises(server.TimeoutError, match="b:2: late"):
        stage.do(lambda shards: shards.unblock([(A, 7), (B, 8)]))


# ── over the connection of a consumer ─────────────────────────────────────────────────────────


class Carrier:
    """A consumer whose connection carries calls while it does not wait on it, of one node."""

    def __init__(self, stage: Stage, place: Place, trouble: Exception | None = None) -> None:
        self._stage, self._place, self._trouble = stage, place, trouble
        self.carried = 0
        stage.shards._engine.carriers.add(self)

    def carry(self, calls: Sequence[Any], loads: Sequence[Any] = ()) -> Any:
        if self._trouble is not None:
            return self._stage.said(self._trouble)
        if calls[0].queue.name != KEYS[self._place]:
            return self._stage.said(None)
        self.carried += 1
        return self._stage.said([*("sha" for _ in loads), *("carried" for _ in calls)])

    def lengths(self, keys: Any) -> Any:
        return self._stage.said({key: 7 for key in keys if key == KEYS[self._place]})


def test_where_no_connection_idles_a_call_goes_over_that_of_a_consumer(stage: Stage) -> None:
    carriers = [Carrier(stage, B), Carrier(stage, A)]
    stage.nodes[A].idles = False
    assert stage.do(lambda shards: shards.one(acks(A)[0])) == "carried"
    assert stage.do(lambda shards: shards.send(acks(A))) == ["carried"]
    assert stage.do(lambda shards: shards.send(acks(A), acks(A))) == ["sha", "carried"]
    assert ([each.carried for each in carriers], stage.nodes[A].asked) == ([0, 3], [])
    assert stage.do(lambda shards: shards.send(acks(A, A))) == ["a", "a"], "several go to all nodes"
    stage.nodes[C].idles = False
    assert stage.do(lambda shards: shards.one(acks(C)[0])) == 1, "which none of them carries"
    assert stage.do(lambda shards: shards.send(acks(C))) == ["c"]


def test_where_one_idles_or_many_consume_no_connection_of_a_consumer_is_looked_for(
    stage: Stage,
) -> None:
    _one = Carrier(stage, A)
    assert stage.do(lambda shards: shards.one(acks(A)[0])) == 1
    assert stage.do(lambda shards: shards.send(acks(A))) == ["a"]
    stage.nodes[A].idles = False
    _few = [Carrier(stage, A) for _ in range(FEW - 1)]
    assert stage.do(lambda shards: shards.one(acks(A)[0])) == "carried"
    _many = Carrier(stage, A)
    assert stage.do(lambda shards: shards.one(acks(A)[0])) == 1


def test_what_breaks_on_the_connection_of_a_consumer_is_the_trouble_of_the_node(
    stage: Stage,
) -> None:
    _one = Carrier(stage, A, server.ConnectionError("gone"))
    stage.nodes[A].idles = False
    with pytest.raises(server.ConnectionError, match="a:1: gone"):
        stage.do(lambda shards: shards.one(acks(A)[0]))
    assert (stage.map.doubted, stage.nodes[A].standing.verified) == ({A}, False)


def test_a_consumer_counts_the_lists_that_it_waits_for(stage: Stage) -> None:
    _one = Carrier(stage, A)
    keys = [KEYS[B], KEYS[A], KEYS[C]]
    assert stage.do(lambda shards: shards.lengths(keys)) == ["b", 7, "c"]
    assert stage.nodes[A].asked == []


@pytest.mark.parametrize(
    ("keys", "consumes", "idles", "given"),
    [
        ([KEYS[A], "more"], True, True, True),
        ([KEYS[A]], True, True, False),
        ([KEYS[A], "more"], False, True, False),
        ([KEYS[A], "more"], True, False, False),
    ],
)
def test_a_consumer_of_several_lists_waits_on_the_connection_that_its_calls_leave(
    stage: Stage, keys: list[str], consumes: bool, idles: bool, given: bool
) -> None:
    _one = Carrier(stage, B) if consumes else None
    wire = object.__new__(AsyncWire if stage.is_async else Wire)
    stage.nodes[A].idle = wire if idles else None
    found = stage.do(lambda shards: shards._to_wait_on(keys))
    assert found is wire if given else found == "line to a"


# ── the map ───────────────────────────────────────────────────────────────────────────────────


def test_the_map_is_asked_for_when_a_node_is_in_doubt_and_not_all_the_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = [100.0], stage.asks(monkeypatch, WHOLE)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for now[0], asks in ((100.0, 1), (100.0 + EVERY / 2, 1), (100.0 + EVERY, 2)):
        stage.map.doubt(A)
        assert stage.do(get(A)) == "a"
        assert len(asked) == asks
    assert stage.do(get(B)) == "b"
    assert len(asked) == 2


def test_connections_to_nodes_that_left_are_closed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = stage.nodes[C]
    stage.asks(monkeypatch, [*WHOLE[:2], [10001, 16383, [b"b", 2]]])
    stage.map.doubt(C)
    assert stage.do(get(C)) == "b"
    assert [node.closed for node in (stage.nodes[A], stage.nodes[B], left)] == [0, 0, 1]
    assert C not in stage.nodes


def test_a_node_is_in_doubt_until_it_answers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [server.TimeoutError("late"), WHOLE]
    monkeypatch.setattr(stage.shards, "_slots", lambda *_: stage.said(answers.pop(0)))
    stage.map.doubt(A)
    for doubted in ({A}, set()):
        stage.do(lambda shards: shards._knock(A))
        assert stage.map.doubted == doubted


def test_all_is_closed(stage: Stage) -> None:
    stage.do(lambda shards: shards.close())
    assert [node.closed for node in stage.nodes.values()] == [1, 1, 1]


# ── all at once ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("places", [[], [A], [A, B], [A, B, C], [C, A, C]])
def test_all_nodes_are_sent_to_before_any_is_heard(stage: Stage, places: list[Place]) -> None:
    replies = stage.do(lambda shards: shards.lengths([KEYS[place] for place in places]))
    names = [place[0] for place in places]
    assert replies == names
    nodes = len({*names})
    assert [each[:2] for each in stage.log] == ["to"] * nodes + ["of"] * nodes
    assert {each[3:] for each in stage.log} == {*names}
    assert len(stage.log) == 2 * nodes, "each of them once"


def test_what_is_brief_is_looked_at_and_a_call_may_be_sent_again(stage: Stage) -> None:
    """A connection that idled may be dead: what is not sent again is sent over one that lives."""
    stage.do(lambda shards: shards.lengths([KEYS[A]]))
    stage.do(lambda shards: shards.send(acks(A)))
    stage.do(lambda shards: shards.one(acks(A)[0], BRIEF))
    asked = [asked[1:] for asked in stage.nodes[A].asked]
    assert asked == [(True, BRIEF), (False, None), (True, BRIEF)]


@pytest.mark.parametrize("silent", PLACES)
def test_a_node_that_does_not_answer_is_in_doubt_and_others_are_asked(
    stage: Stage, silent: Place
) -> None:
    stage.nodes[silent].trouble = server.TimeoutError("late")
    replies = stage.do(lambda shards: shards.send(acks(*PLACES)))
    assert stage.map.doubted == {silent}
    for place, reply in zip(PLACES, replies, strict=True):
        if place == silent:
            assert isinstance(reply, NoAnswer)
            assert str(reply.error) == "{}:{}: late".format(*silent)
        else:
            assert reply == place[0]
    assert all(len(node.asked) == 1 for node in stage.nodes.values())


# ── an answer that is late ────────────────────────────────────────────────────────────────────


def test_a_late_answer_is_waited_for_as_long_as_no_other_node_serves_the_slots(
    threads: Stage,
) -> None:
    threads.shards._late(A)
    assert (threads.map.doubted, threads.looks) == ({A}, 1)
    with pytest.raises(server.TimeoutError, match="another node serves its slots"):
        threads.shards._late(("gone", 9))


def test_a_pool_of_tasks_is_abandoned_once_another_node_serves_its_slots(tasks: Stage) -> None:
    gone: Any = Node(tasks, ("gone", 9))

    async def late(node: Any, place: Place, times: int) -> None:
        for _ in range(times):
            tasks.shards._late(node, place)
        await tasks.shards._looking

    async def main(shards: Any) -> None:
        await late(tasks.nodes[A], A, 3)
        assert (tasks.looks, tasks.nodes[A].abandoned) == (1, 0), "it is looked at once at a time"
        assert shards.map.doubted == {A}
        await late(gone, ("gone", 9), 1)
        assert (tasks.looks, gone.abandoned) == (2, 1)

    tasks.do(main)


# ── whether a node answers again ──────────────────────────────────────────────────────────────


def test_a_node_is_knocked_at_once_at_a_time_and_no_more_once_all_is_closed(
    tasks: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    knocks: list[Place] = []
    gate = asyncio.Event()

    async def knock(place: Place) -> None:
        knocks.append(place)
        await gate.wait()

    async def main(shards: Any) -> None:
        monkeypatch.setattr(shards, "_knock", knock)
        monkeypatch.setattr(shards, "pools", list)
        for place in (A, A, B):
            shards.knock(place)
            await asyncio.sleep(0)
        assert knocks == [A, B]
        gate.set()
        await asyncio.sleep(0.001)
        gate.clear()
        shards.knock(A)
        await asyncio.sleep(0)
        assert knocks == [A, B, A]
        await shards.close()
        await asyncio.sleep(0)
        assert shards._knocking[A].cancelled()

    tasks.do(main)


# ── what only threads ask ─────────────────────────────────────────────────────────────────────


def test_each_command_goes_to_the_node_of_its_key(threads: Stage) -> None:
    many: Sequence[Any] = [("GET", KEYS[B]), ("LLEN", KEYS[A]), ("GET", KEYS[B])]
    assert threads.shards.commands(many) == ["b", "a", "b"]
    assert threads.nodes[B].asked == [([packed(many[0]), packed(many[2])], False, None)]
    assert threads.nodes[A].asked == [([packed(many[1])], False, None)]


def test_a_command_without_a_key_goes_to_a_node_that_is_well(threads: Stage) -> None:
    threads.map.doubt(A)
    threads.map.doubt(C)
    assert threads.shards.commands([("TIME",)]) == ["b"]


def test_commands_that_are_brief_ask_no_node_in_doubt(
    threads: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    knocks: list[Place] = []
    monkeypatch.setattr(threads.shards, "knock", knocks.append)
    threads.map.doubt(A)
    many: Sequence[Any] = [("GET", KEYS[A]), ("GET", KEYS[B])]
    none, found = threads.shards.commands(many, within=0.1)
    assert isinstance(none, NoAnswer)
    assert "a:1 gave no answer" in str(none.error)
    assert (found, knocks, threads.nodes[A].asked) == ("b", [A], [])
    assert threads.nodes[B].asked == [([packed(many[1])], True, 0.1)]
    assert threads.shards.commands(many) == ["a", "b"], "others look where its slots are now"
    assert (knocks, threads.looks) == ([A], 1)


def test_a_command_for_a_slot_that_no_node_serves_has_its_error(threads: Stage) -> None:
    threads.map.learn(B, WHOLE[1:])
    none, found = threads.shards.commands([("GET", KEYS[A]), ("GET", KEYS[B])])
    assert isinstance(none, NoAnswer)
    assert found == "b"


def test_primaries_and_the_other_nodes_have_a_name(
    threads: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads.nodes["d", 4] = Node(threads, ("d", 4))
    asked: list[int | None] = []
    monkeypatch.setattr(threads.shards, "_ask", asked.append)
    nodes = threads.nodes
    assert threads.shards.nodes() == [("a:1", nodes[A]), ("b:2", nodes[B]), ("c:3", nodes[C])]
    assert threads.shards.replicas() == [("d:4", nodes["d", 4])]
    assert asked == [None, None]


def test_a_forked_child_has_connections_of_its_own(threads: Stage) -> None:
    knocking = threads.shards._knocking
    threads.shards.forget()
    assert [node.forgotten for node in threads.nodes.values()] == [1, 1, 1]
    assert threads.shards._knocking is not knocking
