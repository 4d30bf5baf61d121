"""How several nodes of a cluster are asked at once, by threads and by tasks. Needs no server."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as server

from atomq import AsyncEngine, Engine, calls
from atomq.actions import BRIEF, NoAnswer
from atomq.conversation import packed
from atomq.keys import Place, QueueKeys, hash_slot
from atomq.shards import Shards
from atomq.shards_aio import AsyncShards

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
        self.asked: list[tuple[list[bytes], bool, float | None]] = []
        self.forgotten = self.abandoned = 0

    def over(
        self,
        load: Any,
        *,
        looked_at: bool = False,
        within: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        self.asked.append((load.data, looked_at, within))
        if self._stage.is_async:
            return self._later(len(load.data))
        if self.trouble is not None:
            raise self.trouble
        self._stage.log.append(f"to {self.name}")
        if meanwhile is not None:
            meanwhile()
        self._stage.log.append(f"of {self.name}")
        return [self.name] * len(load.data)

    async def _later(self, many: int) -> list[Any]:
        self._stage.log.append(f"to {self.name}")
        await asyncio.sleep(0)
        if self.trouble is not None:
            raise self.trouble
        self._stage.log.append(f"of {self.name}")
        return [self.name] * many

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
        monkeypatch.setattr(self.shards, "_look", self._look)

    def _look(self, _slot: int | None = None) -> Any:
        self.looks += 1
        return asyncio.sleep(0) if self.is_async else None

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
    assert [asked[1:] for asked in stage.nodes[A].asked] == [(True, BRIEF), (False, None)]


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
    for node in threads.nodes.values():
        node.standing = SimpleNamespace(verified=True, verifying=None)  # type: ignore[attr-defined]
    knocking = threads.shards._knocking
    threads.shards.forget()
    assert [node.forgotten for node in threads.nodes.values()] == [1, 1, 1]
    assert threads.shards._knocking is not knocking
