"""One queue of several partitions: what is put where, and what all are asked. Without a server."""

from __future__ import annotations

import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from atomq import Item, PartitionedQueue, Queue, partitioned_base
from atomq.calls import Counts, MessageStatus, Peeked, Published, QueueState, Verdict
from atomq.errors import (
    AtomqError,
    InvalidArgument,
    NotDurable,
    QueueInUse,
    ServerFull,
    ServerUnavailable,
    UnknownPartition,
    WrongType,
)
from atomq.flows import Flow
from atomq.partitioned_base import READ_AGAIN, ROUTES, TOGETHER
from atomq.partitions import PartitionMap
from tests.partitioned import Parts, engine_of


@pytest.fixture
def parts() -> Parts:
    """What the servers hold."""
    return Parts()


def queue_of(parts: Parts, scheme: str = "redis", count: int = 3, **options: Any) -> Any:
    """A queue `q` that has read its record."""
    queue: Any = Queue("q", engine_of(scheme, **options), partitions=count)
    parts.run(queue._loaded())
    parts.said.clear()
    queue._given = [float(at) / 10 for at in range(count)]  # whose turn it is, at first 0's
    return queue


@pytest.fixture
def q(parts: Parts) -> Any:
    """One of three partitions on one server."""
    return queue_of(parts)


@pytest.fixture
def wide(parts: Parts) -> Any:
    """One of four partitions on the two shards of a cluster."""
    return queue_of(parts, "redis+cluster", 4)


def said(parts: Parts) -> list[tuple[str, str]]:
    """The calls since: verb and queue."""
    found = [(call.script.name, call.queue.name) for call in parts.said]
    parts.said.clear()
    return found


def put(parts: Parts, queue: Any, *items: Any, durability: Any = None) -> list[int]:
    """Put these; the partition of each."""
    done = parts.run(queue._publish(items, durability))
    assert [each.id for each in done if not each.id] == []
    return [queue._parts.index(each.queue) for each in done]


def raised_elsewhere(parts: Parts, queue: Any, count: int) -> PartitionMap:
    """Another process has raised the number."""
    found: PartitionMap = queue._map.raised(count)
    parts.records |= dict.fromkeys(found.names, found.copy) | {"q": found.record}
    return found


# ── the record ────────────────────────────────────────────────────────────────────────────────


def test_the_record_is_read_once(parts: Parts) -> None:
    queue: Any = Queue("q", engine_of("redis"), partitions=3, tracked=True)
    found = parts.run(queue._loaded())
    assert [part.name for part in found] == list(PartitionMap.read("q", parts.records["q"]).names)
    assert [part._id_suffix for part in found] == ["#0", "#1", "#2"]
    for part in found:
        assert part.keys is queue.engine.partition_keys(part.name, "q")
        assert (part._writer, part._tracked) == (queue._writer, True)
    parts.said.clear()
    assert parts.run(queue._loaded()) is found
    assert not parts.said


def test_it_is_read_again_for_what_looks_unless_all_names_are_known(parts: Parts, q: Any) -> None:
    new: Any = Queue("q", engine_of("redis"), partitions=3)
    parts.run(new._current())
    assert said(parts)[0] == ("partitions", "q")
    parts.run(new._current())
    assert said(parts) == [("partitions", "q")]
    parts.run(q._current("x#2", "y"))
    assert said(parts) == []
    parts.run(q._current("x#2", "x#3"))
    assert said(parts) == [("partitions", "q")]
    more = raised_elsewhere(parts, q, 4)
    before = list(q._parts)
    found = parts.run(q._current("x#+3"))
    assert [part.name for part in found] == list(more.names)
    assert found[:3] == before, "the others stay"
    assert q._map.record == more.record


def test_a_record_that_is_lost_is_written_by_what_puts_and_not_by_what_looks(
    parts: Parts, q: Any
) -> None:
    before = list(q._parts)
    for lost in ({}, {"q": ""}):
        parts.records = dict(lost)
        assert parts.run(q._current()) == before
        assert parts.records == lost
    assert parts.run(q._current_or_anew()) == before
    assert parts.records["q"] == q._map.record
    parts.away.add("q")
    for look in (q._current, q._current_or_anew):
        assert parts.run(look()) == before, "what fails changes nothing"


def test_what_is_the_same_as_before_is_not_learned_anew(
    parts: Parts, q: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[str] = []
    monkeypatch.setattr(q, "_learn", lambda found: learned.append(found.record))
    parts.run(q._refreshed(anew=False))
    assert learned == []
    q._parts = []
    parts.run(q._refreshed(anew=False))
    assert learned == [q._map.record]


def test_one_that_has_fewer_than_this_queue_was_said_to_have_is_raised(
    parts: Parts, q: Any
) -> None:
    two = PartitionMap("q", q._map.numbers[:1])
    parts.records = {"q": two.record}
    parts.run(q._refreshed(anew=False))
    assert parts.records["q"].startswith("3")
    assert len(q._parts) == 3
    said(parts)
    parts.run(q._refreshed(anew=False))
    assert said(parts) == [("partitions", "q")], "as many as that are asked for no more"


def test_a_consumer_looks_from_time_to_time(
    parts: Parts, q: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [part.name for part in q._parts]
    q._read_at = now = time.monotonic()
    monkeypatch.setattr(partitioned_base, "time", SimpleNamespace(monotonic=lambda: now))
    more = raised_elsewhere(parts, q, 4)
    now += READ_AGAIN - 0.1
    assert parts.run(q._grown(names)) is None
    assert not parts.said
    now += 0.2
    assert [part.name for part in parts.run(q._grown(names))] == list(more.names)
    assert parts.run(q._grown(list(more.names))) is None
    parts.records.clear()
    now += READ_AGAIN + 0.1
    parts.run(q._grown(names))
    assert parts.records["q"] == more.record, "what consumes writes one that is lost"
    assert [part.name for part in parts.run(q._grown(names))] == list(more.names)
    q._parts = []
    assert parts.run(q._grown(names)) is None


def test_new_partitions_begin_with_as_much_as_the_one_that_got_the_fewest(
    parts: Parts, q: Any
) -> None:
    q._given, q._turn = [7.0, 5.0, 9.0], 2
    raised_elsewhere(parts, q, 6)
    parts.run(q._current())
    assert q._given[:3] == [7.0, 5.0, 9.0]
    assert len(q._given) == 6
    assert all(5.0 <= given < 6.0 for given in q._given[3:])
    assert len({*q._given[3:]}) == 3, "each has a place in their order"
    q._turn = 5
    q._learn(PartitionMap("q", q._map.numbers[:1]))
    assert (q._given, q._turn) == ([7.0, 5.0], 1)


def test_the_order_in_which_partitions_are_begun_differs_from_process_to_process(
    parts: Parts,
) -> None:
    firsts = {queue_of_order(parts) for _ in range(200)}
    assert firsts == {(0, 1, 2), (1, 2, 0), (2, 0, 1)}


def queue_of_order(parts: Parts) -> tuple[int, ...]:
    queue: Any = Queue("q", engine_of("redis"), partitions=3)
    parts.run(queue._loaded())
    parts.said.clear()
    assert sorted(queue._given) == pytest.approx([0, 1 / 3, 2 / 3])
    return tuple(sorted(range(3), key=queue._given.__getitem__))


def test_one_partition_is_a_queue_with_partitions_too(parts: Parts) -> None:
    one = queue_of(parts, count=1)
    assert [put(parts, one, i) for i in range(2)] == [[0], [0]]
    assert (one.is_partitioned, one._parts[0].is_partitioned) == (True, False)


def test_a_partition_that_there_is_no_more_is_named(parts: Parts, q: Any) -> None:
    assert q._part(2).name == q._map.names[2]
    with pytest.raises(UnknownPartition, match="'q' has 3 partitions now: not put"):
        q._part(3)


# ── publish ───────────────────────────────────────────────────────────────────────────────────


def test_what_names_nothing_goes_to_the_one_that_got_the_fewest(parts: Parts, q: Any) -> None:
    assert [put(parts, q, i) for i in range(4)] == [[0], [1], [2], [0]]
    assert put(parts, q, *"abc") == [1, 1, 1]
    assert [put(parts, q, i)[0] for i in range(5)] == [2, 0, 2, 0, 2]
    assert parts.put[4] == (q._map.names[1], 3)


def test_a_key_or_an_id_says_where_and_the_rest_stays_together(parts: Parts, q: Any) -> None:
    home = q._map.of_key("k")
    assert put(parts, q, Item(1, key="k"), Item(2, id="x#1", key="k")) == [home, home]
    assert put(parts, q, Item(1, id="x#1"), Item(2, id="x#2"), Item(3, id="x#1")) == [1, 2, 1]
    assert put(parts, q, Item(1, id="x")) == [q._map.of_id("x")]
    free = put(parts, q, "a", Item(1, id="x#1"), "b", Item("c", delay=5))
    assert (len({free[0], free[2], free[3]}), free[1]) == (1, 1)


@pytest.mark.parametrize(
    ("item", "why"),
    [(Item(1, key=""), "key"), (Item(1, id=""), "id"), (Item(1, id="x" * 257), "id")],
)
def test_an_item_that_cannot_be_put_is_named(parts: Parts, q: Any, item: Item, why: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^message 1: {why}"):
        put(parts, q, "x", item)
    with pytest.raises(InvalidArgument, match=r"^message 2: "):
        put(parts, q, Item(1, id="x#1"), "x", object())
    assert not parts.put


def test_more_than_a_call_holds_goes_on_in_turn(parts: Parts, q: Any) -> None:
    assert put(parts, q, *range(2500)) == [0] * 1000 + [1] * 1000 + [2] * 500
    assert [many for _, many in parts.put] == [1000, 1000, 500]
    q._given, parts.put[:] = [0.0, 0.1, 0.2], []
    small = queue_of(parts, max_bytes=1 << 10)
    assert put(parts, small, *("x" * 400 for _ in range(5))) == [0] * 5
    assert sum(many for _, many in parts.put) == 5
    assert len(parts.put) > 1


def test_what_was_put_before_an_error_is_named_in_the_order_given(parts: Parts, q: Any) -> None:
    fails: list[AtomqError] = [WrongType("no"), NotDurable("late", 0, 1)]

    def publish(call: Any) -> Any:
        return Published(1) if call.queue.name != q._map.names[2] else fails.pop(0)

    parts.answers["publish"] = publish
    items = [Item(i, id=name) for i, name in enumerate(("b#1", "a#0", "c#2", "d#1", "e#0"))]
    with pytest.raises(WrongType) as raised:
        put(parts, q, *items)
    assert raised.value.ids == ["b#1", "a#0", "d#1", "e#0"]
    with pytest.raises(NotDurable) as late:
        put(parts, q, *items)
    assert late.value.ids == ["b#1", "a#0", "d#1", "e#0", "c#2"]


def unknown(name: str) -> UnknownPartition:
    error = UnknownPartition(f"{name} is none")
    error.partition = name
    return error


def test_what_its_partition_refuses_is_put_where_the_record_says(parts: Parts, q: Any) -> None:
    other = PartitionMap("q", [n + 1 for n in q._map.numbers])
    parts.answers["publish"] = lambda call: (
        Published(1) if call.queue.name in other.names else unknown(call.queue.name)
    )
    parts.records = {"q": other.record}
    assert put(parts, q, Item(1, id="x#0"), Item(2, id="x#1")) == [0, 1]
    assert [part.name for part in q._parts] == list(other.names)
    assert [name for verb, name in said(parts) if verb == "publish"] == [
        *("q", PartitionMap("q", [n - 1 for n in other.numbers]).names[1], other.names[1]),
    ], "the first was put, and is not put again"


def test_a_partition_that_was_never_put_into_is_entered_and_put_into(parts: Parts, q: Any) -> None:
    name = q._map.names[1]
    del parts.records[name]
    parts.answers["publish"] = lambda call: (
        Published(1) if parts.records.get(call.queue.name) else unknown(name)
    )
    assert put(parts, q, Item(1, id="x#1")) == [1]
    assert parts.records[name] == q._map.copy
    assert [call.queue.name for call in parts.said if call.args[0] == q._map.copy] == [name]


def test_what_is_put_into_a_queue_that_was_deleted_has_its_record_written(
    parts: Parts, q: Any
) -> None:
    parts.records.clear()
    parts.answers["publish"] = lambda call: (
        Published(1) if parts.records.get("q") else unknown(call.queue.name)
    )
    assert put(parts, q, Item(1, id="x#1")) == [1]
    assert parts.records["q"] == q._map.record


def test_it_is_refused_four_times_at_most(parts: Parts, q: Any) -> None:
    parts.answers["publish"] = lambda call: unknown(call.queue.name)
    with pytest.raises(UnknownPartition):
        put(parts, q, Item(1, id="x#1"))
    assert [verb for verb, _ in said(parts)].count("publish") == ROUTES == 4


def test_one_message_that_is_refused_goes_where_it_belongs_now(parts: Parts, q: Any) -> None:
    name = q._map.names[1]
    share = q._share(1, [Item("x", id="x#1")], (0,))
    done = parts.run(q._put_routed(share, None))
    assert (done.id, done.queue, done.new) == ("x#1", q._parts[1], True)
    refusals = [unknown(name)]
    parts.answers["publish"] = lambda _: refusals.pop() if refusals else Published(0, (0,))
    done = parts.run(q._put_routed(share, None))
    assert (done.id, done.queue.name, done.new) == ("x#1", name, False)


# ── publish on a cluster ──────────────────────────────────────────────────────────────────────


def test_what_is_put_at_a_time_goes_together_some_messages_at_least(wide: Any) -> None:
    assert [wide._next_turn() for _ in range(5)] == [0, 1, 2, 3, 0]
    wide._under_way = 1
    wide._joined = 0
    turn = wide._turn
    assert {wide._next_turn() for _ in range(TOGETHER)} == {turn}
    assert (wide._next_turn(), wide._joined) == (1, 1), "then it is the next one's turn"
    wide.engine.gathers = lambda keys: keys is wide._parts[1].keys  # they go in one call
    assert {wide._next_turn() for _ in range(2 * TOGETHER)} == {1}
    wide._turn = 4
    assert wide._next_turn() == 2, "one that is there"
    wide._turn, wide._parts, wide._given = 3, wide._parts[:3], [0.0, 9.0, 9.0, 9.0]
    assert wide._next_turn() == 0


def test_calls_under_way_are_counted_and_counted_off(parts: Parts, wide: Any) -> None:
    under_way: list[int] = []

    def publish(_: Any) -> Any:
        under_way.append(wide._under_way)
        return Published(1) if len(under_way) < 2 else WrongType("no")

    parts.answers["publish"] = publish
    put(parts, wide, "x")
    with pytest.raises(WrongType):
        put(parts, wide, "x")
    assert (under_way, wide._under_way) == ([1, 1], 0)
    assert all(call.brief for call in parts.said)
    parts.said.clear()
    parts.answers["publish"] = lambda _: Published(1)
    put(parts, wide, Item(1, id="x#1"))
    assert [call.brief for call in parts.said] == [False], "one that goes nowhere else is patient"


def test_a_message_whose_partition_is_away_goes_to_the_next_one(parts: Parts, wide: Any) -> None:
    parts.away |= {wide._map.names[0], wide._map.names[1]}
    assert put(parts, wide, "x", "y") == [2, 2]
    assert [many for _, many in parts.put] == [2]
    parts.away = {wide._map.names[3], wide._map.names[0]}
    wide._given = [9.0, 9.0, 9.0, 0.0]
    assert put(parts, wide, "x") == [1]
    assert parts.slept == []


def test_its_id_says_where_it_was_put(parts: Parts, wide: Any) -> None:
    parts.away.add("q")
    (done,) = parts.run(wide._publish(["x"], None))
    assert wide._map.marked(done.id) == 1


def test_what_may_have_been_put_is_put_nowhere_else(parts: Parts, wide: Any) -> None:
    parts.answers["publish"] = lambda _: ServerUnavailable("no answer")
    with pytest.raises(ServerUnavailable, match="no answer"):
        put(parts, wide, "x")
    assert said(parts) == [("publish", "q")] * 2  # again, as the same call


def test_where_all_are_full_it_is_said_at_once(parts: Parts, wide: Any) -> None:
    parts.answers["publish"] = lambda _: ServerFull("full")
    with pytest.raises(ServerFull):
        put(parts, wide, "x")
    assert len(said(parts)) == 4
    assert parts.slept == []


def test_where_all_are_away_it_is_tried_for_as_long_as_a_call_is(
    parts: Parts, wide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(partitioned_base, "time", SimpleNamespace(monotonic=lambda: now))
    parts.away |= {*wide._map.names}

    def sleeps(flow: Flow[Any], seconds: float) -> None:
        nonlocal now
        at = len(parts.slept)
        answer: Any = None
        while True:
            effect: Any = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
            answer = parts.answer(effect)
            if len(parts.slept) > at:
                at, now = len(parts.slept), now + seconds

    budget = wide.engine.retry.budget
    with pytest.raises(ServerUnavailable):
        sleeps(wide._publish(["x"], None), budget / 4)
    assert len(parts.slept) == 4
    assert all(0.05 <= seconds <= 0.3 for seconds in parts.slept)
    assert len(parts.said) == 5 * 4
    hasty = queue_of(Parts(), "redis+cluster", 4, retry_attempts=0)
    parts.slept.clear()
    with pytest.raises(ServerUnavailable):
        parts.run(hasty._publish(["x"], None))
    assert parts.slept == []


def test_where_the_queue_has_no_partitions_any_more_it_is_refused(parts: Parts, wide: Any) -> None:
    share = wide._share(0, ["x"], (0,))._replace(free=True)
    wide._parts = []
    with pytest.raises(UnknownPartition, match="no partitions now"):
        parts.run(wide._put_anywhere(share, None))


def test_those_whose_node_is_in_doubt_come_last(parts: Parts, wide: Any) -> None:
    places = [wide.engine.slots.owner(part.keys.slot) for part in wide._parts]
    assert Counter(places) == {"a": 2, "b": 2}
    assert wide._at_hand(2) == [2, 3, 0, 1]
    wide.engine.slots.doubted.add("a")
    doubted = [at for at, place in enumerate(places) if place == "a"]
    assert [wide._is_doubted(at) for at in range(5)] == [*(at in doubted for at in range(4)), False]
    assert {*wide._at_hand(1)[2:]} == {*doubted}
    assert wide._at_hand(7) == sorted(range(4), key=lambda at: (at in doubted, at))
    wide.engine.slots = None
    assert wide._at_hand(1) == [1, 2, 3, 0]
    assert not any(map(wide._is_doubted, range(4)))


def test_a_node_in_doubt_is_asked_whether_it_is_back_and_the_message_goes_elsewhere(
    parts: Parts, wide: Any
) -> None:
    places = [wide.engine.slots.owner(part.keys.slot) for part in wide._parts]
    wide.engine.slots.doubted.add(places[0])
    for away in (set[str](), {"q"}):
        parts.away, wide._given = away, [0.0, 9.0, 9.0, 9.0]
        (at,) = put(parts, wide, "x")
        assert places[at] != places[0]
        assert said(parts)[0] == ("partitions", "q")
    wide._given = [9.0] * 4
    wide._given[at] = 0.0
    put(parts, wide, "x")
    assert [verb for verb, _ in said(parts)] == ["publish"]


def test_an_id_that_is_known_is_not_new(parts: Parts, wide: Any) -> None:
    parts.answers["publish"] = lambda _: Published(1, (1,))
    done = parts.run(wide._publish(["x", "y"], None))
    assert [each.new for each in done] == [True, False]


# ── consume, operate ──────────────────────────────────────────────────────────────────────────


def test_messages_are_told_apart_by_their_partition(q: Any) -> None:
    first, second = q._parts[:2]
    messages = [SimpleNamespace(_queue=each) for each in (second, first, second)]
    assert q._by_partition(messages) == [(second, [0, 2]), (first, [1])]


def test_a_message_is_sought_by_its_key_or_else_its_id(parts: Parts, q: Any) -> None:
    home = q._map.of_key("k")
    other = f"x#{(home + 1) % 3}"
    assert parts.run(q._with(other, "k")) is q._parts[home]
    assert parts.run(q._with(other, None)) is q._parts[(home + 1) % 3]
    with pytest.raises(InvalidArgument, match="message_id"):
        parts.run(q._with(5, None))
    with pytest.raises(InvalidArgument, match="key"):
        parts.run(q._with("x", ""))


def state_of(name: str, unacked: int = 0) -> QueueState:
    numbers = dict.fromkeys(("expired", "delayed", "due", "dead", "inconsistent"), 0)
    times = dict.fromkeys(("next_due_ms", "next_deadline_ms"))
    rest: dict[str, Any] = {**numbers, **times, "paused": False, "stats": {}, "oldest": b""}
    return QueueState(name=name, now_ms=1, ready_by_priority={0: 1}, unacked=unacked, **rest)


def test_what_does_not_answer_is_named_and_the_others_are_asked(parts: Parts, q: Any) -> None:
    parts.answers["inspect"] = lambda call: state_of(call.queue.name)
    name = q._map.names[1]
    parts.away.add(name)
    found = parts.run(q._state())
    assert (found.name, found.ready, found.unanswered) == ("q", 2, (name,))
    assert found.partitions == q._map.names
    assert [verb for verb, _ in said(parts)] == ["partitions"] + ["inspect"] * 3
    with pytest.raises(ServerUnavailable, match=f"2 partitions of 'q' are paused, .* {name}: "):
        parts.run(q._pause(paused=True))
    with pytest.raises(ServerUnavailable, match="are resumed"):
        parts.run(q._pause(paused=False))
    assert parts.paused == set()


def test_on_a_cluster_a_node_that_is_away_is_waited_for_briefly(parts: Parts, wide: Any) -> None:
    parts.answers["inspect"] = lambda call: state_of(call.queue.name)
    parts.away.add(wide._map.names[1])
    assert parts.run(wide._state()).ready == 3
    asked = [call for call in parts.said if call.queue.name in parts.away]
    assert [(call.script.name, call.brief) for call in asked] == [("partitions", True)]


def test_parts_are_purged_of_all_and_added(parts: Parts, q: Any) -> None:
    counts = {name: Counts(at, 10, 0, at) for at, name in enumerate(q._map.names, 1)}
    parts.answers["purge"] = lambda call: counts[call.queue.name]
    assert parts.run(q._purge(["ready", "delayed"])) == Counts(6, 30, 0, 6)
    parts.away.add(q._map.names[2])
    with pytest.raises(ServerUnavailable, match="2 partitions of 'q' are purged"):
        parts.run(q._purge([]))


def letter(name: str) -> Peeked:
    return Peeked(name, None, 1, 1, None, "bad", "", b"x")


def test_of_each_partition_as_much_is_read_as_may_be_shown(parts: Parts, q: Any) -> None:
    at = q._map.names.index
    parts.answers["peek"] = lambda call: [letter(f"{1 + at(call.queue.name)}-0")]

    def asked() -> list[Any]:
        """Behind what, from where, and how many, by partition."""
        found = [call.args[1:4] for call in parts.said if call.script.name == "peek"]
        parts.said.clear()
        return found

    page = parts.run(q._peek("dead", 2, 1, ""))
    assert [each.name for each in page] == ["1-0#0", "2-0#1"], "dead letters have no offset"
    assert asked() == [["", 0, 2]] * 3
    assert len(parts.run(q._peek("ready", 1, 1, ""))) == 1
    assert asked() == [["", 0, 2]] * 3
    parts.run(q._peek("dead", 2, 0, "2-1#1"))
    assert asked() == [["2-1", 0, 2], ["2-1", 0, 2], ["2-0", 0, 2]]


def test_a_page_is_within_bounds(parts: Parts, q: Any) -> None:
    parts.answers["peek"] = lambda _: []
    assert parts.run(q._peek("ready", 400, 600, "")) == []
    for part in ("ready", "dead"):
        for limit, offset in ((0, 0), (1001, 0), (400, 601), (2, -1)):
            with pytest.raises(InvalidArgument):
                parts.run(q._peek(part, limit, offset, ""))
    with pytest.raises(InvalidArgument, match="after must be text"):
        parts.run(q._peek("dead", 1, 0, 5))


def found_in(queue: Any, states: dict[int, tuple[str, str]]) -> list[int]:
    """Have the partitions say these states, with the dead letter of each; which were asked."""
    asked: list[int] = []

    def answer(at: int, message_id: str) -> Flow[MessageStatus]:
        asked.append(at)
        state, letter = states.get(at, ("unknown", ""))
        return MessageStatus(message_id, state, 1, letter=letter)  # type: ignore[arg-type]
        yield

    for at, part in enumerate(queue._parts):
        part._get = lambda message_id, at=at: answer(at, message_id)
    return asked


@pytest.mark.parametrize(
    ("message_id", "states", "state", "asked", "letter"),
    [
        ("x#1", {}, "unknown", [1], ""),
        ("x#1", {1: ("dead", "5-0"), 2: ("ready", "")}, "dead", [1], "5-0#1"),
        ("id", {}, "unknown", [0, 1, 2], ""),
        ("id", {0: ("ready", ""), 1: ("held", "")}, "ready", [0], ""),
        ("id", {1: ("held", ""), 2: ("ready", "")}, "held", [0, 1], ""),
        ("id", {0: ("gone", ""), 2: ("dead", "7-1")}, "dead", [0, 1, 2], "7-1#2"),
        ("id", {0: ("gone", "")}, "gone", [0, 1, 2], ""),
        ("id", {1: ("gone", "")}, "gone", [0, 1, 2], ""),
    ],
)
def test_a_message_is_sought_in_all_unless_its_id_says_where(
    parts: Parts, q: Any, message_id: str, states: Any, state: str, asked: list[int], letter: str
) -> None:
    home = q._map.of_id("id")
    turn = [home, *(at for at in range(3) if at != home)]  # the home first
    if message_id == "id":
        states = {turn[at]: said for at, said in states.items()}
        asked = [turn[at] for at in asked]
        letter = letter and letter.replace("#2", f"#{turn[2]}")
    were_asked = found_in(q, states)
    found = parts.run(q._get(message_id))
    assert (found.state, were_asked, found.letter) == (state, asked, letter)


def test_a_letter_says_where_it_lies_whatever_another_thread_learns_meanwhile(
    parts: Parts, q: Any
) -> None:
    found_in(q, {1: ("dead", "5-0")})
    chosen = q._part

    def part(at: int) -> Any:
        found = chosen(at)
        q._parts = []  # another thread has deleted the queue
        return found

    q._part = part
    assert parts.run(q._get("x#1")).letter == "5-0#1"


def test_what_is_asked_while_another_thread_learns_goes_where_the_id_says(parts: Parts) -> None:
    asked: list[str] = []

    def verb(keys: Any, ids: Any) -> Flow[list[Verdict]]:
        asked.append(keys.name)
        return [Verdict.DONE for _ in ids]
        yield

    class Looked(PartitionedQueue):
        looks = False

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if self.looks and name in ("_map", "_parts"):
                type(self).looks = False
                parts.run(self._in_turn(["x#+3"], verb))
                type(self).looks = True

    queue: Any = Looked("q", engine_of("redis"), partitions=3)
    parts.run(queue._loaded())
    more = raised_elsewhere(parts, queue, 4)
    Looked.looks = True
    parts.run(queue._current())
    assert len(asked) == 3
    assert {*asked} == {more.names[3]}


def test_ids_are_sought_first_where_they_should_be_and_then_in_the_others(
    parts: Parts, q: Any
) -> None:
    home = q._map.of_id("id")
    lies = {"x#1": 1, "id": (home + 2) % 3, "other": q._map.of_id("other")}
    asked: list[tuple[int, list[str]]] = []

    def verb(keys: Any, ids: Any) -> Flow[list[Verdict]]:
        at = [part.keys for part in q._parts].index(keys)
        asked.append((at, list(ids)))
        return [Verdict.DONE if lies.get(each) == at else Verdict.LOST for each in ids]
        yield

    found = parts.run(q._in_turn(["x#1", "id", "x#2", "other", "nowhere"], verb))
    lost, done = Verdict.LOST, Verdict.DONE
    assert found == [done, done, lost, done, lost]
    times = Counter(each for _, ids in asked for each in ids)
    assert times == {"x#1": 1, "x#2": 1, "id": 3, "other": 1, "nowhere": 3}
    where = [at for at, ids in asked if "id" in ids]
    assert where == [home, (home + 1) % 3, (home + 2) % 3]
    with pytest.raises(InvalidArgument, match="an id"):
        parts.run(q._in_turn(["x", 5], verb))


def test_letters_are_put_back_where_they_lie(parts: Parts, q: Any) -> None:
    redriven: list[Any] = []

    def answer(at: int, names: Any, reason: str) -> Flow[int]:
        redriven.append((at, names, reason))
        return 2
        yield

    for at, part in enumerate(q._parts):
        part._redrive = lambda names, reason, at=at: answer(at, names, reason)
    assert parts.run(q._redrive(["5-0#1", "6-0", "7-0#1", "8-0#2"], "bad")) == 6
    assert redriven == [(1, ["5-0", "7-0"], "bad"), (0, ["6-0"], "bad"), (2, ["8-0"], "bad")]
    redriven.clear()
    assert parts.run(q._redrive(None, "")) == 6
    assert redriven == [(at, None, "") for at in range(3)]
    assert parts.run(q._redrive([], "")) == 0


def test_a_queue_is_deleted_from_the_last_partition_to_the_record(parts: Parts, q: Any) -> None:
    held = {q._map.names[1]: 2}
    names = q._map.names
    parts.answers["inspect"] = lambda call: state_of(call.queue.name, held.get(call.queue.name, 0))
    parts.answers["purge"] = lambda _: Counts(1, 2, 3, 4)
    with pytest.raises(QueueInUse, match="2 messages of 'q' are unacked"):
        parts.run(q._delete(False))
    parts.away.add(names[2])
    with pytest.raises(ServerUnavailable, match=f"not deleted: {names[2]} are away"):
        parts.run(q._delete(False))
    parts.away.clear()
    said(parts)
    assert parts.run(q._delete(True)) == Counts(3, 6, 9, 12)
    assert [name for verb, name in said(parts) if verb == "purge"] == [*reversed(names)]
    assert q._parts == []
    held.clear()
    assert parts.run(q._delete(False)) == Counts(3, 6, 9, 12)


def test_acks_of_all_partitions_are_sent(parts: Parts, q: Any) -> None:
    flushed: list[str] = []

    def flush(name: str) -> Flow[None]:
        flushed.append(name)
        return
        yield

    for part in q._parts:
        part._flush = lambda name=part.name: flush(name)
    parts.run(q._flush())
    assert flushed == list(q._map.names)
