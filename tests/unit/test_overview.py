"""All queues in numbers: pages of the register, calls to read them, and rows. Without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from atomq import calls
from atomq.calls import Call, Process, QueueOverview
from atomq.errors import AtomqError, InvalidArgument, ServerUnavailable, WrongType
from atomq.flows import Together
from atomq.keys import Layout, QueueKeys, RegisterKeys, is_queue_key
from atomq.overview import AT_ONCE, Overview, overview
from atomq.partitions import COPY, PartitionMap

PARTS = PartitionMap.spread("q", 3)
NAMES = list(PARTS.names)
AWAY = ServerUnavailable("away")


def row(name: str, ready: int = 1, partitions: Sequence[str] = ()) -> QueueOverview:
    return QueueOverview(
        name=name,
        now_ms=0,
        ready_by_priority={0: ready},
        **dict.fromkeys(("unacked", "expired", "delayed", "due", "dead"), 0),
        next_due_ms=None,
        put_s=None,
        paused=False,
        stats={},
        dead_by_reason={},
        partitions=tuple(partitions),
    )


class World:
    """What the register names, and what is answered of each queue."""

    def __init__(self, *register: str, layout: Layout = "stock") -> None:
        self.register = sorted(register, key=str.encode)
        self.layout = layout
        self.rows: dict[str, QueueOverview | AtomqError] = {}
        self.records: dict[str, str] = {}
        self.pages: list[tuple[str, int]] = []
        self.read: list[list[str]] = []
        """The queues of each call."""
        self.at_once: list[int] = []
        """How many calls were sent together."""
        self.whole: set[str] = set()
        """Of which no partitions were asked for."""
        self.fails: dict[int, AtomqError] = {}
        """What is raised of calls that are sent together, by how many were sent before."""

    def __call__(
        self, names: Sequence[str] | None = None, after: str = "", limit: int | None = None
    ) -> Overview:
        flow = overview(self.keys, RegisterKeys(), names, after, limit)
        answer: Any = None
        while True:
            try:
                raised = isinstance(answer, AtomqError)
                effect = flow.throw(answer) if raised else flow.send(answer)
            except StopIteration as stop:
                found: Overview = stop.value
                return found
            answer = self.answer(effect)

    def keys(self, name: str) -> QueueKeys:
        return QueueKeys(name, layout=self.layout)

    def answer(self, effect: Any) -> Any:
        if isinstance(effect, Together):
            self.at_once.append(len(effect.calls))
            at = len(self.at_once) - 1
            return self.fails.get(at) or [self.of(call) for call in effect.calls]
        if effect.script.name == "roster":
            after, limit = effect.args
            self.pages.append((after, limit))
            behind = [name for name in self.register if name.encode() > after.encode()]
            entries = [Process("p", 0, {"queues": [*NAMES, "other"]})]
            return calls.Roster(0, behind[:limit], entries, 7)
        assert effect.script.name == "partitions", effect
        return self.records.get(effect.queue.name, "")

    def of(self, call: Call[Any]) -> Any:
        spread = str(call.args[1])
        names = [str(is_queue_key(key)) for key in call.keys[: 2 * len(spread) : 2]]
        self.read.append(names)
        self.whole |= {name for name, asked in zip(names, spread, strict=True) if asked == "0"}
        found = [self.rows.get(name) or row(name) for name in names]
        alone = self.layout == "cluster" and isinstance(found[0], AtomqError)
        return found[0] if alone else found


def names_of(found: Overview) -> list[str]:
    return [each.name for each in found.queues]


def spread_out(layout: Layout = "stock", *more: str) -> World:
    """`q` of three partitions, which the register names as it names `more`."""
    world = World(*NAMES, *more, layout=layout)
    for at, name in enumerate(NAMES):
        world.rows[name] = row(name, 10**at, NAMES if not at or layout == "cluster" else ())
    return world


# ── pages, and calls ──────────────────────────────────────────────────────────────────────────


def test_all_queues_are_read_200_in_a_call() -> None:
    world = World(*(f"q{n:04}" for n in range(2 * AT_ONCE + 1)))
    found = world()
    assert names_of(found) == world.register
    assert [len(names) for names in world.read] == [200, 200, 1]
    assert (found.next, found.alive, len(found.processes)) == ("", 7, 1)
    assert world.pages == [("", 1000)]
    assert Overview().alive == 0


def test_a_thousand_names_and_then_the_next_ones() -> None:
    world = World(*(f"q{n:04}" for n in range(1000)))
    assert len(world().queues) == 1000
    assert world.pages == [("", 1000), ("q0999", 1000)]


def test_a_page_says_where_the_next_one_begins() -> None:
    world = World("a", "b", "c")
    pages, after = [], ""
    while not pages or after:
        found = world(after=after, limit=2)
        pages.append(names_of(found))
        after = found.next
    assert pages == [["a", "b"], ["c"]]
    assert world.pages == [("", 2), ("b", 2)]
    assert names_of(world(limit=1)) == ["a"]
    for wrong in (0, 1001):
        with pytest.raises(InvalidArgument, match="limit must be"):
            world(limit=wrong)
    assert World()().queues == []


def test_queues_that_are_named_come_in_that_order_and_nothing_else_is_read() -> None:
    world = World("a", "b", "c")
    assert names_of(world(["c", "a", "c"])) == ["c", "a"]
    assert (world.pages, world.read) == ([], [["c", "a"]])


def test_on_a_cluster_each_is_a_call_of_its_own_and_they_go_together() -> None:
    world = World("a", "b", "c", layout="cluster")
    assert names_of(world()) == ["a", "b", "c"]
    assert (world.read, world.at_once) == ([["a"], ["b"], ["c"]], [3])


# ── what cannot be read ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("layout", ["stock", "cluster"])
def test_a_queue_that_cannot_be_read_is_named_with_the_reason(layout: Layout) -> None:
    world = World("a", "b", "c", layout=layout)
    world.rows["b"] = WrongType("b")
    found = world()
    assert names_of(found) == ["a", "c"]
    assert {name: type(error) for name, error in found.unreadable.items()} == {"b": WrongType}
    with pytest.raises(WrongType):
        world(["b"])


def test_a_name_of_another_layout_is_one_of_them_and_no_error() -> None:
    world = World("a", "b{", "c", layout="cluster")
    assert (names_of(world()), [*world().unreadable]) == (["a", "c"], ["b{"])
    assert names_of(world(["b{"])) == []


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_server_that_is_away_is_an_error(names: list[str]) -> None:
    world = World(*names)
    world.fails[0] = AWAY
    with pytest.raises(ServerUnavailable):
        world()


@pytest.mark.parametrize("layout", ["stock", "cluster"])
def test_a_server_that_leaves_between_two_calls_is_an_error_and_a_node_is_none(
    layout: Layout,
) -> None:
    world = World(*(f"q{n:04}" for n in range(202)), layout=layout)
    world.fails[1] = AWAY
    if layout == "stock":
        with pytest.raises(ServerUnavailable):
            world()
    else:
        found = world()
        assert (len(found.queues), [*found.unreadable]) == (200, ["q0200", "q0201"])


def test_of_nodes_that_are_away_the_others_answer_and_if_none_does_it_is_an_error() -> None:
    world = World("a", "b", layout="cluster")
    world.rows["a"] = AWAY
    found = world()
    assert (names_of(found), found.unreadable) == (["b"], {"a": AWAY})
    world.rows["b"] = AWAY
    with pytest.raises(ServerUnavailable):
        world()


# ── queues with partitions ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("layout", ["stock", "cluster"])
def test_partitions_are_one_row(layout: Layout) -> None:
    world = spread_out(layout, "p", "r")
    found = world()
    read = [name for names in world.read for name in names]
    assert sorted(read) == sorted(world.register), "each is read once"
    assert names_of(found) == ["p", "q", "r"]
    one = found.queues[1]
    assert (one.ready, one.partitions) == (111, tuple(NAMES))
    assert found.wholes == dict.fromkeys(NAMES[1:], "q")
    assert all(each.partitions == () for each in (found.queues[0], found.queues[2]))
    process = found.processes[0]
    assert found.consumed(process) == {"q", "other"}
    assert [found.consumers_of(name) for name in ("q", "other", "p")] == [[process], [process], []]


@pytest.mark.parametrize("layout", ["stock", "cluster"])
def test_a_partition_that_is_named_has_a_row_of_its_own(layout: Layout) -> None:
    world = spread_out(layout)
    found = world(["q", NAMES[1]])
    assert [(each.name, each.ready) for each in found.queues] == [("q", 111), (NAMES[1], 10)]
    alone = world([NAMES[1]])
    assert [(each.name, each.ready, each.partitions) for each in alone.queues] == [
        (NAMES[1], 10, ())
    ]


def test_partitions_on_other_pages_and_those_that_the_register_lacks_are_read_too() -> None:
    world = spread_out("stock", "p", "r")
    for removed in ([], [NAMES[1]], NAMES[:1]):
        world.register = sorted({*NAMES, "p", "r"} - {*removed}, key=str.encode)
        rows, after, begun = [], "", False
        while after or not begun:
            begun = True
            found = world(after=after, limit=1)
            rows += [(each.name, each.ready) for each in found.queues]
            after = found.next
        assert rows == [("p", 1), ("q", 111), ("r", 1)], removed


def test_a_name_that_looks_like_a_partition_and_is_none_is_a_queue() -> None:
    world = World("a#1.0", "a")
    assert names_of(world()) == ["a", "a#1.0"]


def test_of_a_queue_whose_partitions_would_follow_none_are_asked_for() -> None:
    """They stand between `name#` and `name$`; of the last name of a page it is not known."""
    world = spread_out("stock", "p", "q$", "r")
    world()
    assert world.whole == {"p", "q$"}
    pair = World("p", "p$")
    pair()
    assert pair.whole == {"p"}


def test_a_row_names_the_partition_that_is_away() -> None:
    world = spread_out("cluster")
    world.rows[NAMES[2]] = AWAY
    found = world()
    assert [(each.name, each.ready, each.unanswered) for each in found.queues] == [
        ("q", 11, (NAMES[2],))
    ]


@pytest.mark.parametrize("layout", ["stock", "cluster"])
def test_partitions_are_found_by_a_copy_of_their_record_while_the_first_is_away(
    layout: Layout,
) -> None:
    world = spread_out(layout)
    world.rows["q"] = AWAY if layout == "cluster" else WrongType("q")
    for name in NAMES[1:]:
        world.rows[name] = row(name, 5)
        world.records[name] = COPY + PARTS.record
    if layout == "stock":  # there is one node: what failed is the key
        with pytest.raises(WrongType):
            world(["q"])
        return
    found = world(["q"])
    assert [(each.name, each.ready, each.unanswered) for each in found.queues] == [
        ("q", 10, ("q",))
    ]
    for name in NAMES[1:]:
        world.rows[name] = AWAY
    with pytest.raises(ServerUnavailable):
        world(["q"])
