"""The verbs of a queue of several partitions: what its users call. Without a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from atomq import Item, Queue, tracing
from atomq.calls import Outgoing, Published, Verdict
from atomq.errors import InvalidArgument, ServerFull, ServerUnavailable, UnknownPartition, WrongType
from atomq.message import Envelope
from tests.partitioned import Parts, engine_of


@pytest.fixture
def parts() -> Parts:
    """What the servers hold."""
    return Parts()


class Put(list[Any]):
    """What the engine was given to put: key names, message, and whether briefly."""

    def __init__(self) -> None:
        self.raises: list[Exception] = []
        self.queue: Any = None
        self.under_way: list[int] = []

    def __call__(self, keys: Any, message: Outgoing, *, brief: bool = False) -> bool:
        self.append((keys.name, message, brief))
        self.under_way.append(self.queue._under_way)
        if self.raises:
            raise self.raises.pop(0)
        return message.id != "known"


def queue_of(parts: Parts, scheme: str = "redis", count: int = 3) -> tuple[Any, Put]:
    """A queue `q`, not loaded yet, and what is put."""
    queue: Any = Queue("q", engine_of(scheme), partitions=count)
    put = Put()
    put.queue = queue
    queue.engine.run = lambda work, _=None: parts.run(work)
    queue.engine.publish = put
    return queue, put


def in_order(queue: Any) -> Any:
    """It has read its record, and it is the first one's turn."""
    queue.partitions()
    queue._given = [at / 10 for at in range(len(queue._parts))]
    return queue


def unsent() -> ServerUnavailable:
    error = ServerUnavailable("away")
    error.unsent = True
    return error


def unknown(name: str) -> UnknownPartition:
    error = UnknownPartition(f"{name} is none")
    error.partition = name
    return error


# ── put ───────────────────────────────────────────────────────────────────────────────────────


def test_what_is_put_says_what_it_is_and_where(parts: Parts) -> None:
    queue, put = queue_of(parts)
    sent = queue.put("x")
    assert [part.name for part in queue._parts].index(put[0][0]) == queue._map.of_id(sent.id)
    assert (sent.id, sent.queue.name, sent.new) == (put[0][1].id, put[0][0], True)
    assert put[0][1].is_plain
    parts.said.clear()
    queue.put("x")
    assert not parts.said, "the record is read once"
    assert queue.put("x", id="known").new is False
    assert put.under_way == [1, 1, 0], "what has an id goes to one place in any case"
    assert queue._under_way == 0


@pytest.mark.parametrize(
    ("how", "meant"),
    [
        ({"delay": 5}, {"delay_ms": 5000}),
        ({"delay": 1}, {"delay_ms": 1000}),
        ({"at": 1_800_000_000.0}, {"at_ms": 1_800_000_000_000}),
        ({"priority": 9}, {"step": 4}),
        ({"id": "mine"}, {"id": "mine", "dedup": True}),
        ({"ttl": 7}, {"ttl_ms": 7000}),
        ({"tracked": True}, {"tracked": True}),
    ],
    ids=str,
)
def test_each_setting_is_that_of_the_message(parts: Parts, how: Any, meant: Any) -> None:
    queue, put = queue_of(parts)
    queue.put("x", **how)
    assert {name: getattr(put[0][1], name) for name in meant} == meant
    assert not put[0][1].is_plain


@pytest.mark.parametrize("priority", [0, 1, 2])
def test_a_priority_is_written_into_the_message(parts: Parts, priority: int) -> None:
    queue, put = queue_of(parts)
    queue.put("x", priority=priority)
    if not priority:
        queue.put("x")
    found = [Envelope(str(message.message).encode()) for _, message, _ in put]
    assert {each.properties.get("priority", 0) for each in found} == {priority}


@pytest.mark.parametrize("wrong", [{"delay": -1}, {"priority": -1}, {"priority": 10}])
def test_a_setting_that_is_none_is_refused(parts: Parts, wrong: Any) -> None:
    queue, put = queue_of(parts)
    with pytest.raises(InvalidArgument):
        queue.put("x", **wrong)
    assert not put


def test_headers_and_a_key_are_those_of_the_message(parts: Parts) -> None:
    queue, put = queue_of(parts)
    queue.put("x", headers={"a": "b"})
    assert '"a":"b"' in str(put[0][1].message).replace('": "', '":"')
    for _ in range(3):
        queue.put("x", key="k")
    home = in_order(queue)._map.of_key("k")
    assert {name for name, _, _ in put[1:]} == {queue._parts[home].name}


def test_an_item_is_for_put_many(parts: Parts) -> None:
    queue, put = queue_of(parts)
    with pytest.raises(InvalidArgument):
        queue.put(Item("x"))
    assert not put


def test_on_a_cluster_what_names_nothing_is_put_briefly_and_elsewhere_if_it_must(
    parts: Parts,
) -> None:
    queue, put = queue_of(parts, "redis+cluster", 4)
    in_order(queue)
    parts.said.clear()
    for at, error in enumerate((unsent(), ServerFull("full"))):
        put.raises = [error]
        name = queue._map.names[at]
        parts.away = {name}
        sent = queue.put("x")
        assert put[-1][0] == name
        assert put[-1][2], "briefly"
        assert sent.queue.name == queue._map.names[at + 1]
    put.raises = [ServerUnavailable("no answer")]
    with pytest.raises(ServerUnavailable, match="no answer"):
        queue.put("x")
    put.raises = [unsent()]
    with pytest.raises(ServerUnavailable, match="away"):
        queue.put("x", key="k")
    assert put[-1][2] is False, "one that goes nowhere else is waited for"
    assert queue._under_way == 0


def test_on_one_server_what_failed_is_raised(parts: Parts) -> None:
    queue, put = queue_of(parts)
    in_order(queue)
    for error in (unsent(), ServerFull("full"), WrongType("no")):
        put.raises = [error]
        with pytest.raises(type(error)):
            queue.put("x")
    assert not parts.put
    assert not any(brief for _, _, brief in put)


def test_a_node_in_doubt_is_asked_and_the_message_goes_elsewhere(parts: Parts) -> None:
    queue, _ = queue_of(parts, "redis+cluster", 4)
    in_order(queue)
    slots = queue.engine.slots
    places = [slots.owner(part.keys.slot) for part in queue._parts]
    slots.doubted.add(places[0])
    parts.said.clear()
    sent = queue.put("x")
    assert slots.owner(sent.queue.keys.slot) != places[0]
    assert [(call.script.name, call.queue.name) for call in parts.said] == [("partitions", "q")]
    parts.said.clear()
    assert queue.put("x", id="x#0").queue.name == "q", "it belongs there"
    assert queue._map.of_id("y#1") == 1
    assert queue.put("x", id="y#1").queue.name == queue._map.names[1]
    assert not parts.said


def test_what_its_partition_refuses_is_put_where_the_record_says(parts: Parts) -> None:
    queue, put = queue_of(parts)
    in_order(queue)
    put.raises = [unknown("q")]
    sent = queue.put("x", id="mine")
    home = queue._map.names[queue._map.of_id("mine")]
    assert (sent.id, sent.queue.name) == ("mine", home)
    assert parts.put == [(home, 1)]
    assert queue._under_way == 0
    queue._given.append(-1.0)  # the turn of one that another thread has seen and this one has not
    sent = queue.put("x")
    assert len(parts.put) == 2
    assert len(put) == 1


def test_what_is_to_be_confirmed_is_confirmed(parts: Parts) -> None:
    queue, put = queue_of(parts, "redis+cluster", 4)
    in_order(queue)
    sent = queue.put("x", durability="fsync")
    (call,) = (call for call in parts.said if call.script.name == "publish")
    assert (call.durability.name, call.queue.name) == ("fsync", sent.queue.name)
    assert not put
    parts.away.add(queue._map.names[1])
    assert queue.put("x", durability="fsync").queue.name == queue._map.names[2], "it is free"
    with pytest.raises(ServerUnavailable):
        queue.put("x", id="x#1", durability="fsync")
    queue.put_many(["x"], durability="fsync")
    assert parts.said[-1].durability.name == "fsync"


def test_many_are_put_by_one_call_a_partition(parts: Parts) -> None:
    queue, put = queue_of(parts)
    parts.answers["publish"] = lambda _: Published(1, (1,))
    sent = queue.put_many(iter(["x", "y"]))
    assert [(each.new, each.queue is sent[0].queue) for each in sent] == [
        (True, True),
        (False, True),
    ]
    assert not put
    parts.said.clear()
    assert queue.put_many([]) == queue.put_many(iter(())) == []
    for wrong in ({"a": 1}, 5):
        with pytest.raises(InvalidArgument, match="put_many takes messages"):
            queue.put_many(wrong)
    assert not parts.said


def test_what_is_put_is_traced(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, _ = queue_of(parts)
    traced: list[Any] = []

    class Traces:
        @contextmanager
        def sending(self, *what: Any) -> Iterator[Any]:
            traced.append(what)
            yield traced.append

        def injected(self, headers: Any) -> Any:
            return headers

    monkeypatch.setattr(tracing, "active", Traces())
    one = queue.put("x")
    assert traced == [(queue,), one.id]
    queue.put_many(["x", "y"])
    assert traced[2:] == [(queue, 2)]


# ── consume, settle ───────────────────────────────────────────────────────────────────────────


def messages(monkeypatch: pytest.MonkeyPatch, queue: Any, *ats: int) -> list[Any]:
    """Messages of these partitions."""
    monkeypatch.setattr("atomq.partitioned.messages_of", list)
    return [SimpleNamespace(_queue=queue._parts[at], at=(at, i)) for i, at in enumerate(ats)]


def test_each_partition_is_told_of_its_acks(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, _ = queue_of(parts)
    given = messages(monkeypatch, in_order(queue), 1, 0, 1)
    told: list[Any] = []

    def ack(part: Any, some: Any) -> list[Verdict]:
        told.append((queue._parts.index(part), [each.at for each in some]))
        return [Verdict.DONE if each.at[1] else Verdict.UNKNOWN for each in some]

    monkeypatch.setattr(Queue, "ack_many", ack)
    assert queue.ack_many(given) == [Verdict.UNKNOWN, Verdict.DONE, Verdict.DONE]
    assert told == [(1, [(1, 0), (1, 2)]), (0, [(0, 1)])]
    assert queue.ack_many([]) == []


def test_each_partition_has_its_messages_back(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, _ = queue_of(parts)
    given = messages(monkeypatch, in_order(queue), 1, 0, 1)
    told: list[Any] = []
    monkeypatch.setattr(Queue, "give_back", lambda part, some: told.append((part, some)))
    queue.give_back(iter(given))
    assert told == [(queue._parts[1], [given[0], given[2]]), (queue._parts[0], [given[1]])]


def test_a_result_is_waited_for_where_the_message_is(parts: Parts) -> None:
    queue, _ = queue_of(parts)
    in_order(queue)
    for at, part in enumerate(queue._parts):
        part.wait = lambda *given, at=at, **more: (at, given, more)
    assert queue.wait("x#2", 5) == (2, ("x#2", 5), {"on_progress": None})
    home = queue._map.of_key("k")
    assert queue.wait("x#2", key="k", on_progress=print) == (
        *(home, ("x#2", None), {"on_progress": print}),
    )


def test_a_receiver_takes_from_all_in_turn_and_looks_for_more(parts: Parts) -> None:
    queue, _ = queue_of(parts)
    receiver = queue._receiver(2)
    assert receiver.grown == queue._grown
    assert [*receiver._by_name.values()] == queue._parts
    assert (receiver._fair, receiver._workers) == (True, 2)
    assert queue._receiver()._workers == 1
