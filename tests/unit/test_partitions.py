"""Partitions: their names, where a message goes, and how answers become one. Without a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from atomq import Queue, calls, merging
from atomq.calls import Peeked, QueueOverview, QueueState
from atomq.errors import InvalidArgument, ServerError, ServerUnavailable
from atomq.keys import SLOTS, hash_slot
from atomq.partitions import MOST, PartitionMap, copies_of, jump, queue_of


def shard_of(slot: int) -> int:
    return slot * 3 // SLOTS


@pytest.mark.parametrize("queue", [f"orders{i}" for i in range(40)])
def test_they_lie_evenly_on_the_shards_whatever_the_name(queue: str) -> None:
    found = PartitionMap.spread(queue, 12, shards=range(3), shard_of=shard_of)
    slots = [hash_slot("{" + name + "}") for name in found.names]
    assert sorted(Counter(map(shard_of, slots)).values()) == [4, 4, 4]
    assert len(set(slots)) == 12
    assert found.names[0] == queue
    assert PartitionMap.read(queue, found.record).names == found.names


def test_the_prefix_of_keys_is_part_of_their_tags() -> None:
    found = PartitionMap.spread("q", 9, prefix="app:", shards=range(3), shard_of=shard_of)
    shards = Counter(shard_of(hash_slot("{app:" + name + "}")) for name in found.names)
    assert sorted(shards.values()) == [3, 3, 3]


def test_on_one_server_they_lie_evenly_over_the_slots() -> None:
    names = PartitionMap.spread("q", 12).names
    assert sorted(hash_slot("{" + name + "}") * 12 // SLOTS for name in names) == [*range(12)]


def test_slots_that_no_node_serves_are_left_alone() -> None:
    found = PartitionMap.spread(
        "q", 6, shards=["a"], shard_of=lambda slot: "a" if slot < 8000 else None
    )
    assert all(hash_slot("{" + name + "}") < 8000 for name in found.names[1:])
    assert PartitionMap.spread("q", 2, shards=[], shard_of=lambda _: None).names[1] == "q#1.0"


@pytest.mark.parametrize(
    "record", ["", "x", "3 1", "2 1 1", "0", "999 1", "2  1", "2 -1", "2/3 1", "2/0 1", "2/ 1"]
)
def test_a_damaged_record_is_said_to_be(record: str) -> None:
    with pytest.raises(ServerError, match="damaged"):
        PartitionMap.read("q", record)


def test_few_keys_move_when_there_are_more_buckets_and_only_to_the_new_ones() -> None:
    keys = [f"key{i}" for i in range(2000)]
    assert {jump(key, 1) for key in keys} == {0}
    shares = Counter(jump(key, 12) for key in keys)
    assert len(shares) == 12
    assert min(shares.values()) > 100
    moved = [key for key in keys if jump(key, 12) != jump(key, 13)]
    assert {jump(key, 13) for key in moved} == {12}
    assert 80 < len(moved) < 250


def test_where_a_key_goes_is_a_promise() -> None:
    """Processes of two releases must agree."""
    keys = ("a", "order-17", "ключ", "")
    assert [jump(key, 12) for key in keys] == [11, 3, 10, 5]
    # Keys that a quotient which is a trifle larger, or smaller, sends elsewhere.
    assert [jump("k67595", buckets) for buckets in (12, 64, 256)] == [5, 60, 233]
    assert jump("k220098", 256) == 177


def test_an_id_says_its_partition() -> None:
    found = PartitionMap("q", [0, 0])
    assert [found.of_letter(name) for name in ("5-0", "5-0#0", "5-0#2", "5-0#3")] == [
        *(None, 0, 2, None),
    ]
    assert found.of_id("abc-1#2") == 2
    assert found.marked("abc-1#3") is None  # there is none
    assert found.of_id("abc-1#3") == jump("abc-1#3", 3)
    assert found.marked("17") is None


def test_the_name_of_a_partition_says_its_queue() -> None:
    assert [queue_of(name) for name in ("q#1.0", "q#1.0#2.17", "q", "#1.0", "q#1", "q#1.x")] == [
        *("q", "q#1.0", "", "", "", ""),
    ]
    assert [*copies_of("q")][:4] == ["q#1.0", "q#2.0", "q#1.1", "q#2.1"]


def test_there_are_256_at_most() -> None:
    most = PartitionMap("q", [0] * (MOST - 1))
    assert len(PartitionMap.read("q", most.record).names) == MOST == 256
    with pytest.raises(ServerError, match="damaged"):
        PartitionMap.read("q", PartitionMap("q", [0] * MOST).record)


@pytest.mark.parametrize("shards", [range(3), ()])
def test_more_partitions_come_where_the_fewest_are_and_move_no_key(shards: range) -> None:
    where = {"shards": shards, "shard_of": shard_of} if shards else {}
    first = PartitionMap.spread("q", 5, **where)  # type: ignore[arg-type]
    more = first.raised(9, **where)  # type: ignore[arg-type]
    assert more.names[:5] == first.names
    if shards:
        slots = [hash_slot("{" + name + "}") for name in more.names]
        assert sorted(Counter(map(shard_of, slots)).values()) == [3, 3, 3]
    again = PartitionMap.read("q", more.record)
    assert (again.names, again.counts, again.keyed) == (more.names, (9, 5), 5)
    assert PartitionMap.names_of("q", more.record) == more.names
    assert again.raised(12).counts == (12, 9, 5)
    keys = [f"key{i}" for i in range(100)] + [f"key#{i}" for i in range(100)]
    assert [more.of_key(key) for key in keys] == [first.of_key(key) for key in keys]
    assert [more.of_id(key) for key in keys] == [first.of_id(key) for key in keys]
    marks = [first.mark(at) for at in range(5)]
    assert [more.marked("x" + more.mark(at)) for at in range(9)] == [*range(9)]
    assert [more.mark(at) for at in range(5)] == marks
    assert not first.knows("x" + more.mark(8))
    assert more.knows("x" + more.mark(8))
    assert (first.knows("x#5"), more.knows("x#+9"), more.marked("x#+9")) == (False, False, None)


@pytest.mark.parametrize("count", [0, -1, MOST + 1, "3", 2.5, True])
def test_the_number_is_checked(count: object) -> None:
    with pytest.raises(InvalidArgument, match="partitions"):
        Queue("q", "redis://localhost:1", partitions=count)  # type: ignore[arg-type]


def test_a_class_of_ones_own_says_what_to_derive_from() -> None:
    class Mine(Queue):
        pass

    with pytest.raises(InvalidArgument, match="derive"):
        Mine("q", "redis://localhost:1", partitions=3)


def letter(name: str, size: int = 1) -> Peeked:
    return Peeked(name, None, 1, 1, None, "bad", "", b"x" * size)


def test_dead_letters_are_paged_over_all_partitions() -> None:
    dead = {
        0: [letter("5-0"), letter("7-0"), letter("9-1")],
        1: [letter("5-0"), letter("6-0")],
        2: [letter("5-0"), letter("7-0"), letter("7-1")],
    }
    seen: list[str] = []
    after, last = "", None
    for _ in range(9):
        some = {}
        for at, letters in dead.items():
            behind = merging.behind(after, at, last) if after else "0-0"
            key = tuple(map(int, behind.split("-")))
            some[at] = [x for x in letters if tuple(map(int, x.name.split("-"))) > key][:2]
        page = merging.peeked("dead", some, 2, 0)
        if not page:
            break
        seen += [each.name for each in page]
        after, last = page[-1].name, int(page[-1].name.partition("#")[2])
    assert seen == ["5-0#0", "5-0#1", "5-0#2", "6-0#1", "7-0#0", "7-0#2", "7-1#2", "9-1#0"]


def test_nothing_is_shown_behind_what_a_cut_answer_saw() -> None:
    large = letter("5-0", size=1 << 20)  # of its partition, more may follow
    page = merging.peeked("dead", {0: [large], 1: [letter("4-0"), letter("6-0")]}, 10, 0)
    assert [each.name for each in page] == ["4-0#1", "5-0#0"]


@pytest.mark.parametrize(("size", "is_shown"), [(1 << 19, True), ((1 << 19) + 1, False)])
def test_an_answer_counts_as_cut_when_it_is_more_than_half_of_what_one_holds(
    size: int, is_shown: bool
) -> None:
    some = {0: [letter("5-0", size)], 1: [letter("6-0"), letter("6-1")], 2: [letter("7-0")]}
    shown = [each.name for each in merging.peeked("dead", some, 10, 0)]
    assert shown == (["5-0#0", "6-0#1", "6-1#1", "7-0#2"] if is_shown else ["5-0#0"])


def test_of_several_answers_that_are_cut_the_one_that_ends_first_counts() -> None:
    half = 1 << 19
    later = [letter("4-0"), letter("8-0", half), letter("9-0")]
    names = [each.name for each in merging.peeked("dead", {0: later}, 10, 0)]
    assert names == ["4-0#0", "8-0#0", "9-0#0"]
    for first, second in ((later, [letter("5-0", half + 1)]), ([letter("5-0", half + 1)], later)):
        page = merging.peeked("dead", {0: first, 1: second}, 10, 0)
        assert [each.name.partition("#")[0] for each in page] == ["4-0", "5-0"]


def peek_at(part: calls.Part, *partitions: Sequence[tuple[int, int | None]]) -> list[bytes]:
    """What is shown of messages of these steps and times; each is called by where it lies."""
    found = {
        at: [
            Peeked("", time_ms, 1, step, None, "", "", b"%d.%d" % (at, i))
            for i, (step, time_ms) in enumerate(some)
        ]
        for at, some in enumerate(partitions)
    }
    return [each.raw for each in merging.peeked(part, found, 10, 0)]


def test_ready_messages_are_shown_in_turn_within_their_step() -> None:
    first, second = [(1, None), (1, None), (2, None)], [(1, None), (2, None)]
    assert peek_at("ready", first, second) == [b"0.0", b"1.0", b"0.1", b"1.1", b"0.2"]


def test_what_has_a_time_is_shown_by_it_within_its_step() -> None:
    first, second = [(1, 30), (2, 5)], [(1, 20), (1, 40)]
    assert peek_at("delayed", first, second) == [b"1.0", b"0.0", b"1.1", b"0.1"]
    assert peek_at("unacked", [(1, 1)], [(1, None)]) == [b"1.0", b"0.0"]


@pytest.mark.parametrize(
    ("after", "at", "last", "behind"),
    [
        ("5-3#2", 1, 2, "5-3"),
        ("5-3#2", 2, 2, "5-3"),
        ("5-3#2", 3, 2, "5-2"),
        ("5-0#2", 3, 2, "4-18446744073709551615"),
        ("0-0#2", 3, 2, "0-18446744073709551615"),  # no id has less
        ("5-3", 3, None, "5-3"),
        ("x-3#2", 3, 2, "x-3"),  # which the server refuses
        ("5-x#2", 3, 2, "5-x"),
    ],
)
def test_a_partition_is_read_behind_a_dead_letter_of_another(
    after: str, at: int, last: int | None, behind: str
) -> None:
    assert merging.behind(after, at, last) == behind


def test_what_some_did_not_answer_is_said_with_how_many_did() -> None:
    answers = merging.Answers[int]("whole", ["a", "b", "c"])
    answers.found = {0: 7, 2: 8}
    assert answers.all("purged") == [7, 8]
    answers.missing["b"] = ServerUnavailable("away")
    with pytest.raises(ServerUnavailable, match=r"2 partitions of 'whole' are purged, .* b: away"):
        answers.all("purged")
    nothing = merging.Answers[QueueState]("whole", ["a"])
    nothing.missing["a"] = ServerUnavailable("away")
    with pytest.raises(ServerUnavailable, match="away"):
        merging.state_of(nothing)


COUNTS = ("unacked", "expired", "delayed", "due", "dead")


def in_numbers(name: str, times: int) -> dict[str, Any]:
    """What a partition answers for a state as for an overview: each number another one."""
    return {
        "name": name,
        "now_ms": 1000 + times,
        "ready_by_priority": {0: 7 * times, 9: times},
        **{count: times * 2**at for at, count in enumerate(COUNTS)},
        "next_due_ms": 500 // times,
        "paused": times == 2,
        "stats": {"acked": times, f"of {name}": 1},
    }


def test_the_numbers_of_partitions_are_added() -> None:
    both = {"a": in_numbers("a", 1), "b": in_numbers("b", 2)}
    answers = merging.Answers[QueueState]("whole", ["a", "b", "c"])
    answers.missing["c"] = ServerUnavailable("away")
    for at, (name, said) in enumerate(both.items()):
        rest = {"next_deadline_ms": None, "inconsistent": at, "oldest": b""}
        answers.found[at] = QueueState(**said, **rest)
        both[name] = {**said, "put_s": 60 - at, "dead_by_reason": {"rejected": at + 1}}
    views = {name: QueueOverview(**said) for name, said in both.items()}
    state, seen = merging.state_of(answers), merging.overview_of("whole", ["a", "b", "c"], views)
    for whole in (state, seen):
        assert [getattr(whole, count) for count in COUNTS] == [3, 6, 12, 24, 48]
        assert (whole.name, whole.now_ms, whole.next_due_ms) == ("whole", 1002, 250)
        assert whole.ready_by_priority == {0: 21, 9: 3}
        assert whole.stats == {"acked": 3, "of a": 1, "of b": 1}
        assert (whole.paused, whole.unanswered) == (True, ("c",))
    assert (state.ready, state.inconsistent, state.next_deadline_ms) == (24, 1, None)
    del answers.found[1]
    assert merging.state_of(answers).unacked == 1
    assert (seen.put_s, seen.dead_by_reason) == (59, {"rejected": 3})
    alone = merging.overview_of("whole", ["a", "b", "c"], {"a": views["a"]})
    assert (alone.name, alone.unacked, alone.unanswered) == ("whole", 1, ("b", "c"))


def test_the_next_message_is_the_one_that_was_put_first_whatever_others_say() -> None:
    """10**400 is valid JSON, and no float holds it."""
    times = (b'"soon"', b"1" + b"0" * 400, b"9", b"7", b"[]")
    answers: merging.Answers[QueueState] = merging.Answers("q", [f"q#{n}" for n in range(9)])
    for at, put in enumerate(times):
        oldest = b'{"properties": {"timestamp": %b}}' % put
        rest = {"next_deadline_ms": None, "inconsistent": 0, "oldest": oldest}
        answers.found[at] = QueueState(**in_numbers("q", 1), **rest)
    assert merging.state_of(answers).oldest == answers.found[3].oldest
