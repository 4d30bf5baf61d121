"""The record of a queue's partitions: read, raised, copied, written anew. Without a server."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from atomq import Engine
from atomq.errors import InvalidArgument, ServerUnavailable
from atomq.partition_record import PartitionRecord
from atomq.partitions import COPY, PartitionMap
from tests.partitioned import Parts, engine_of


def record(engine: Engine, count: int) -> PartitionRecord:
    return PartitionRecord("q", engine, count)


def map_of(*numbers: int, before: tuple[int, ...] = ()) -> PartitionMap:
    return PartitionMap("q", numbers, before)


@pytest.fixture
def parts() -> Parts:
    """What the servers hold."""
    return Parts()


@pytest.fixture
def engine() -> Engine:
    """That of one server."""
    return engine_of("redis")


@pytest.fixture
def on_shards() -> Engine:
    """That of a cluster of two shards."""
    return engine_of("redis+cluster")


def said(parts: Parts) -> list[Any]:
    """The calls since, each as its verb, its queue and what it writes."""
    found = [
        (call.script.name, call.queue.name, *(arg for arg in call.args if arg != ""))
        for call in parts.said
    ]
    parts.said.clear()
    return found


def test_the_first_writes_it_and_its_copies_from_the_last(parts: Parts, engine: Engine) -> None:
    found = parts.run(record(engine, 4).agreed())
    assert parts.records["q"] == found.record
    a, b, c = found.names[1:]
    assert said(parts) == [
        ("partitions", "q"),
        ("partitions", "q", found.record),
        ("partitions", a),
        ("partitions", b),
        ("partitions", c, found.copy),
        ("partitions", b, found.copy),
        ("partitions", a, found.copy),
    ]
    assert {name: parts.records[name] for name in (a, b, c)} == dict.fromkeys((a, b, c), found.copy)
    assert parts.run(record(engine, 4).agreed()).record == found.record
    assert said(parts) == [("partitions", "q"), ("partitions", a), ("partitions", b)]
    assert not any(call.brief for call in parts.said), "one server is waited for"


def test_a_copy_is_no_reason_to_enter_a_partition_into_the_register(
    parts: Parts, engine: Engine
) -> None:
    parts.run(record(engine, 2).agreed())
    writes = [(call.queue.name, bool(call.noted)) for call in parts.said if call.args[0]]
    assert [noted for _, noted in writes] == [True, False]


def test_one_of_a_single_partition_has_no_copy(parts: Parts, engine: Engine) -> None:
    found = parts.run(record(engine, 1).agreed())
    assert found.names == ("q",)
    assert said(parts) == [("partitions", "q"), ("partitions", "q", "1")]


def test_it_is_spread_as_prefix_and_shards_say(parts: Parts, on_shards: Engine) -> None:
    found = parts.run(record(on_shards, 4).agreed())
    slots = [on_shards.keys(name).slot for name in found.names]
    assert sorted(map(on_shards.slots.owner, slots)) == ["a", "a", "b", "b"]  # type: ignore[union-attr, type-var]
    again = parts.run(record(engine_of("redis+cluster", global_keyprefix="app:"), 6).agreed())
    assert again.names[:4] == found.names
    spread = PartitionMap.read("q", found.record).raised(
        6,
        prefix="app:",
        shards=on_shards.slots.primaries,
        shard_of=on_shards.slots.owner,  # type: ignore[union-attr, arg-type]
    )
    assert again.names == spread.names


def test_one_that_wants_more_raises_it_and_pauses_them_before_and_after(
    parts: Parts, engine: Engine
) -> None:
    old = map_of(7)
    parts.records |= {"q": old.record, "q#1.7": old.copy}
    found = parts.run(record(engine, 4).agreed())
    new = found.names[2:]
    assert (found.names[:2], found.counts) == (old.names, (4, 2))
    assert said(parts) == [
        ("partitions", "q"),
        ("partitions", "q#1.7"),
        ("inspect", "q"),
        *(("pause", name, 0) for name in new),
        ("partitions", "q", found.record, old.record),
        ("inspect", "q"),
        ("partitions", "q#1.7"),
        ("partitions", new[0]),
        *(("partitions", name, found.copy) for name in reversed(new)),
        ("partitions", "q#1.7", found.copy),
        ("partitions", "q#1.7", found.copy, old.copy),
    ]


def test_partitions_that_come_are_paused_as_the_queue_is_when_they_are_there(
    parts: Parts, engine: Engine
) -> None:
    parts.records["q"] = map_of(7).record
    parts.paused.add("q")
    found = parts.run(record(engine, 4).agreed())
    assert parts.paused == {"q", *found.names[2:]}
    assert [call[0] for call in said(parts)].count("pause") == 2
    parts.at_write = lambda: parts.paused.discard("q")  # resumed between the two
    found = parts.run(record(engine, 6).agreed())
    assert not parts.paused & {*found.names[4:]}
    parts.at_write = lambda: parts.paused.add("q")
    found = parts.run(record(engine, 8).agreed())
    assert {*found.names[6:]} < parts.paused


def test_what_must_be_paused_is_and_what_need_not_be_resumed_may_be_away(
    parts: Parts, engine: Engine
) -> None:
    old = map_of(7)
    parts.records = {"q": old.record}
    name = old.raised(3).names[2]
    parts.away.add(name)
    assert parts.run(record(engine, 3).agreed()).names[2] == name
    parts.records = {"q": old.record}
    parts.paused.add("q")
    with pytest.raises(ServerUnavailable):
        parts.run(record(engine, 3).agreed())
    parts.records, parts.paused = {"q": old.record}, set()
    parts.at_write = lambda: parts.paused.add("q")
    with pytest.raises(ServerUnavailable):
        parts.run(record(engine, 3).agreed())


def test_another_that_writes_first_is_followed(
    parts: Parts, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = map_of(7)
    parts.at_write = lambda: parts.records.__setitem__("q", first.record)
    assert parts.run(record(engine, 2).agreed()).record == first.record
    assert not caplog.messages
    more = first.raised(3)
    parts.at_write = lambda: parts.records.__setitem__("q", more.record)
    found = parts.run(record(engine, 4).agreed())
    assert (found.names[:3], found.counts) == (more.names, (4, 3, 2))
    assert [each for each in caplog.messages if "has" in each] == [
        f"'q' has 4 partitions now: {found.record}"
    ]


@pytest.mark.parametrize("count", [3, 1, 5])
def test_fewer_are_in_order_if_there_ever_were_so_few(
    parts: Parts, engine: Engine, count: int
) -> None:
    found = map_of(7, 8, 9, 4, before=(3, 1))
    parts.records |= dict.fromkeys(found.names, found.copy) | {"q": found.record}
    assert parts.run(record(engine, count).agreed()).record == found.record
    for other in (2, 4):
        with pytest.raises(InvalidArgument, match=f"has 5 partitions, not {other}: "):
            parts.run(record(engine, other).agreed())


def test_a_longer_one_that_is_known_or_copied_replaces_one_that_was_lost(
    parts: Parts, engine: Engine
) -> None:
    old = map_of(7)
    more = old.raised(3)
    parts.records["q"] = old.record
    assert parts.run(record(engine, 2).agreed(more)).record == more.record
    parts.records |= {"q": old.record, "q#1.7": more.copy}
    assert parts.run(record(engine, 2).agreed()).record == more.record
    assert parts.records["q"] == more.record
    before = map_of(7, 8, before=(2,))
    parts.records = {"q": before.record, "q#1.7": map_of(7, 8).copy}  # of the same partitions
    assert parts.run(record(engine, 2).agreed()).record == before.record
    parts.records = {"q": old.record, "q#1.7": map_of(8, 9).copy}  # it goes on from another one
    assert parts.run(record(engine, 2).agreed(map_of(8, 9))).record == old.record


def test_copies_are_sought_beside_two_and_nodes_that_are_away_are_passed_over(
    parts: Parts, engine: Engine
) -> None:
    old = map_of(7, 8, 9)
    more = old.raised(5)
    parts.records |= {"q": old.record, old.names[2]: more.copy, old.names[3]: "not asked"}
    parts.away.add(old.names[1])
    assert parts.run(record(engine, 4).agreed()).record == more.record


def test_on_a_cluster_a_copy_is_read_while_the_first_is_away(
    parts: Parts, on_shards: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    old = map_of(3, 4, before=(2,))
    parts.away.add("q")
    parts.records["q#1.3"] = old.copy
    assert parts.run(record(on_shards, 3).agreed()).record == old.record
    assert caplog.messages == ["the partitions of 'q' are read from a copy: q is away"]
    assert all(call.brief for call in parts.said)
    assert parts.run(record(on_shards, 9).agreed()).record == old.record, "raised once it is back"
    with pytest.raises(InvalidArgument, match="3 partitions, not 1"):
        parts.run(record(on_shards, 1).agreed())


def test_where_no_copy_is_found_the_first_is_waited_for(
    parts: Parts, engine: Engine, on_shards: Engine
) -> None:
    parts.away.add("q")
    parts.records["q#1.0"] = map_of(0).copy
    with pytest.raises(ServerUnavailable):
        parts.run(record(engine, 3).agreed())
    assert [(call.queue.name, call.brief) for call in parts.said] == [("q", False)] * 2
    parts.records.clear()
    parts.said.clear()
    with pytest.raises(ServerUnavailable):
        parts.run(record(on_shards, 3).agreed())
    asked = [(call.queue.name, call.brief) for call in parts.said]
    assert (asked[0], asked[-1]) == (("q", True), ("q", False))


def test_on_a_cluster_a_record_that_was_lost_alone_is_written_as_a_copy_has_it(
    parts: Parts, engine: Engine, on_shards: Engine
) -> None:
    old = map_of(0, 4)
    parts.records["q#1.0"] = old.copy
    assert parts.run(record(on_shards, 3).agreed()).record == old.record
    assert parts.records["q"] == old.record
    del parts.records["q"]
    found = parts.run(record(engine, 2).agreed())
    assert found.record != old.record, "one server loses all or none"


def test_one_of_few_shards_asks_each_briefly_but_to_write(parts: Parts, on_shards: Engine) -> None:
    found = parts.run(record(on_shards, 2).agreed())
    assert [(call.queue.name, call.brief) for call in parts.said if call.args[0]] == [
        ("q", False),
        (found.names[1], True),
    ]


def test_a_copy_that_cannot_be_written_is_done_without(
    parts: Parts, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = map_of(7, 8)
    parts.away.add("q#1.7")
    parts.run(record(engine, 3)._copy(found))
    assert parts.records == {"q#2.8": found.copy}
    assert caplog.messages == ["'q#1.7' has no copy of the record of its partitions: q#1.7 is away"]


def test_a_copy_that_is_as_long_is_left_and_one_that_is_another_replaced(
    parts: Parts, engine: Engine
) -> None:
    found = map_of(7, 8)
    longer = found.raised(5).copy
    for lies, then in (("", found.copy), (map_of(7).copy, found.copy), (longer, longer)):
        parts.records = {"q#1.7": lies}
        parts.run(record(engine, 3).copy(found, "q#1.7"))
        assert parts.records == {"q#1.7": then}
    parts.records = {"q#1.7": COPY + "damaged"}
    parts.refuses.add("q#1.7")  # whatever is said: it is not asked without end
    parts.said.clear()
    parts.run(record(engine, 3).copy(found, "q#1.7"))
    assert len(parts.said) == 2


def test_what_is_written_down_is_read(parts: Parts, on_shards: Engine) -> None:
    assert parts.run(record(on_shards, 3).read()) == ""
    parts.records["q"] = "2 7"
    assert parts.run(record(on_shards, 3).read()) == "2 7"
    assert all(call.brief for call in parts.said)
