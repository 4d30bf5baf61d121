"""Queues with partitions as Kombu names them: what is learned, and put where. No server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from atomq.calls import Call, Outgoing, Published, publish
from atomq.contrib.kombu import spread as module
from atomq.contrib.kombu.spread import BEGINNING, Spread, key_of
from atomq.durability import Durability
from atomq.errors import (
    InvalidArgument,
    ServerError,
    ServerFull,
    ServerUnavailable,
    UnknownPartition,
)
from atomq.keys import QueueKeys
from atomq.partitioned_base import READ_AGAIN, ROUTES
from atomq.partitions import PartitionMap
from tests.partitioned import Parts, engine_of


@pytest.fixture
def parts() -> Parts:
    """What the servers hold."""
    return Parts()


def spread_of(parts: Parts, scheme: str = "redis", **counts: int) -> Spread:
    """Queues of so many partitions each."""
    engine: Any = engine_of(scheme)
    engine.run = parts.run
    found = Spread(engine)
    found.declare(counts)
    return found


def queue_of(parts: Parts, scheme: str = "redis", count: int = 3) -> Any:
    """A queue `q` of so many partitions that are known, with the first one's turn."""
    found: Any = spread_of(parts, scheme, q=count).get("q")
    parts.run(found.learn())
    found._given = [at / 10 for at in range(count)]
    parts.said.clear()
    return found


def call_for(keys: QueueKeys) -> Call[Published]:
    return publish(keys, [Outgoing("{}", "id")])


def put(parts: Parts, queue: Any, key: str | None = None, at: str = "") -> list[str]:
    """Put one; where it was tried."""
    before = len(parts.said)
    parts.run(queue.put(call_for, key, at))
    return [call.queue.name for call in parts.said[before:] if call.script.name == "publish"]


def refuse(parts: Parts, *answers: Any) -> None:
    """These are answered to publishes, then they are put."""
    left = [*answers]
    parts.answers["publish"] = lambda _: left.pop(0) if left else Published(1)


def unsent(text: str = "away") -> ServerUnavailable:
    error = ServerUnavailable(text)
    error.unsent = True
    return error


def unknown(name: str) -> UnknownPartition:
    error = UnknownPartition(f"{name} is none")
    error.partition = name
    return error


# ── what is put where ─────────────────────────────────────────────────────────────────────────


def test_what_has_no_key_takes_turns_and_what_has_one_stays_together(parts: Parts) -> None:
    queue = queue_of(parts)
    assert [put(parts, queue)[0] for _ in range(4)] == [*queue.names, "q"]
    home = queue.names[queue._map.of_key("k")]
    assert [put(parts, queue, "k") for _ in range(3)] == [[home]] * 3
    assert not any(call.brief for call in parts.said)


def test_on_a_cluster_the_next_partition_takes_what_one_surely_has_not(parts: Parts) -> None:
    queue = queue_of(parts, "redis+cluster", 4)
    a, b, c, d = queue.names
    refuse(parts, unsent(), ServerFull("full"))
    assert put(parts, queue) == [a, b, c]
    assert [call.brief for call in parts.said] == [True] * 3
    refuse(parts, *(ServerFull("full") for _ in range(4)))
    assert put(parts, queue) == [b, c, d, a, b]
    assert [call.brief for call in parts.said[-5:]] == [True] * 4 + [False], "the last is patient"
    refuse(parts, ServerUnavailable("no answer"))
    parts.said.clear()
    assert put(parts, queue) == [c, c]
    assert [call.repeated for call in parts.said] == [False, True], "it may have it"


def test_what_is_to_be_confirmed_is_not_asked_for_briefly(parts: Parts) -> None:
    queue = queue_of(parts, "redis+cluster")

    def confirmed(keys: QueueKeys) -> Call[Published]:
        call = call_for(keys)
        call.durability = Durability.of("fsync", 1)
        return call

    parts.run(queue.put(confirmed, None))
    assert [call.brief for call in parts.said] == [False]


def test_on_a_cluster_what_has_a_key_waits_for_its_partition(parts: Parts) -> None:
    queue = queue_of(parts, "redis+cluster")
    refuse(parts, unsent())
    with pytest.raises(ServerUnavailable):
        put(parts, queue, "k")
    assert [call.brief for call in parts.said] == [False]


def test_on_one_server_what_failed_is_tried_nowhere_else(parts: Parts) -> None:
    queue = queue_of(parts)
    refuse(parts, unsent())
    with pytest.raises(ServerUnavailable):
        put(parts, queue)
    assert len(parts.said) == 1


def test_a_publish_again_goes_to_its_partition_and_elsewhere_if_that_is_none(parts: Parts) -> None:
    queue = queue_of(parts)
    last = queue.names[2]
    assert put(parts, queue, None, last) == [last]
    refuse(parts, unknown("q#9.9"))
    assert put(parts, queue, None, "q#9.9") == ["q#9.9", "q"]
    refuse(parts, *(unknown("q#9.9") for _ in range(9)))
    with pytest.raises(UnknownPartition):
        put(parts, queue)
    assert [call.script.name for call in parts.said].count("publish") == 1 + 2 + ROUTES
    refuse(parts, *(unknown("q#9.9") for _ in range(ROUTES - 1)))
    assert len(put(parts, queue)) == ROUTES


def test_a_node_in_doubt_is_passed_by(parts: Parts) -> None:
    queue = queue_of(parts, "redis+cluster", 4)
    slots = queue.engine.slots
    doubted = slots.owner(queue.keys.slot)
    slots.doubted.add(doubted)
    at = parts.run(queue.home(None))
    assert slots.owner(queue._parts[at].keys.slot) != doubted
    assert queue.keys_at(at) is queue._parts[at].keys
    queue.forget()
    with pytest.raises(UnknownPartition):
        queue.keys_at(0)


@pytest.mark.parametrize("key", ["", "x" * 257, 5])
def test_a_key_that_can_be_none_is_refused(key: Any) -> None:
    with pytest.raises(InvalidArgument, match="key"):
        key_of({"headers": {"partition_key": key}})
    assert key_of({"headers": {"partition_key": "k"}}) == "k"
    assert [key_of(each) for each in ({}, {"headers": None}, {"headers": {}})] == [None] * 3


# ── which there are ───────────────────────────────────────────────────────────────────────────


def test_the_highest_number_that_was_said_counts(parts: Parts) -> None:
    spread = spread_of(parts, q=3)
    first = spread.get("q")
    spread.declare({"q": 3, "p": 2})
    spread.declare({"q": 2})
    assert spread.get("q") is first
    spread.declare({"q": 5})
    assert [found and found.count for found in map(spread.get, "qpo")] == [5, 2, None]


def test_names_are_read_first_and_again_if_it_is_time(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr("atomq.partitioned_base.time", clock)
    spread = spread_of(parts, q=3)
    queue: Any = spread.get("q")
    assert spread.names("q") == ("q",)
    queue._read_at = now  # just then, and in vain
    names = spread.all_names("q")
    assert spread.names("q") == names == queue.names
    assert [spread.whole(name) for name in (*names, "other")] == ["q", "q", "q", "other"]
    more = queue._map.raised(4)
    parts.records |= dict.fromkeys(more.names, more.copy) | {"q": more.record}
    now += READ_AGAIN - 0.1
    assert spread.all_names("q") == names
    now += 0.2
    assert spread.all_names("q") == more.names
    assert spread.all_names("other") == spread.names("other") == ("other",)


def test_one_of_which_no_number_was_said_follows_its_record(parts: Parts) -> None:
    spread, record = spread_of(parts), PartitionMap("q", [7, 8])
    for nothing in ("", "1", "copy 2 7"):
        spread.found("q", nothing)
        assert spread.get("q") is None
    with pytest.raises(ServerError, match="damaged"):
        spread.found("q", "3 7")
    spread.found("q", record.record)
    found: Any = spread.get("q")
    assert (found.count, found.is_found) == (3, True)
    parts.records["q"] = record.record
    assert spread.all_names("q") == record.names
    for now, names in (("2 9", ("q", "q#1.9")), ("", ("q",)), (record.record, record.names)):
        parts.records["q"] = now
        found._read_at = 0.0
        assert spread.all_names("q") == names
        assert parts.records["q"] == now, "it is followed, and not written"
    spread.found("q", PartitionMap("q", [7, 8, 9]).record)
    assert spread.get("q") is found
    spread.forget("q")
    assert spread.get("q") is None
    spread.forget("q")


def test_two_partitions_are_several(parts: Parts) -> None:
    spread = spread_of(parts)
    spread.found("q", "2 7")
    assert spread.get("q") is not None


def test_one_of_which_a_number_was_said_keeps_it(parts: Parts) -> None:
    spread = spread_of(parts, q=3)
    spread.found("q", "2 7")
    found: Any = spread.get("q")
    assert (found.count, found.is_found) == (3, False)
    spread.all_names("q")
    assert parts.records["q"].startswith("3 "), "it is written"
    spread.forget("q")
    assert spread.get("q") is found
    assert not found.is_known


# ── a consumer comes ──────────────────────────────────────────────────────────────────────────


class Threads:
    """Threads that a test has end by hand, or at once."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.jobs: list[tuple[Any, str]] = []
        self.waited: list[float] = []
        self.is_busy = False
        self._at_once = at_once

    def do(self, place: Any, what: str, job: Callable[[], None]) -> Any:
        self.jobs.append((place, what))
        if self.is_busy:
            return None
        if self._at_once:
            job()
        return SimpleNamespace(wait=self.waited.append)


def test_on_one_server_a_consumer_learns_at_once_and_hears_of_any_fault(parts: Parts) -> None:
    spread = spread_of(parts, q=3)
    queue: Any = spread.get("q")
    parts.away.add("q")
    with pytest.raises(ServerUnavailable):
        spread.begin("q")
    parts.away.clear()
    queue._read_at = 0.0
    spread.begin("q")
    assert (len(spread.names("q")), queue.fault) == (3, None)
    parts.said.clear()
    spread.begin("q")
    spread.begin("other")
    spread.look("other")
    assert not parts.said, "it was read just now"
    queue._read_at, parts.records["q"] = 0.0, "damaged"
    spread.look("q")  # raises nothing
    assert len(spread.names("q")) == 3


def test_on_a_cluster_a_thread_of_the_node_learns_and_is_waited_for_at_the_beginning(
    parts: Parts,
) -> None:
    spread = spread_of(parts, "redis+cluster", q=3)
    queue: Any = spread.get("q")
    threads: Any = Threads()
    spread._threads = threads
    spread.begin("q")
    place = queue.engine.slots.owner(queue.keys.slot)
    assert threads.jobs == [(place, "partitions q")]
    assert threads.waited == [BEGINNING] == [1.0]
    assert len(spread.names("q")) == 3
    queue._read_at = 0.0
    spread.look("q")
    assert (len(threads.jobs), len(threads.waited)) == (2, 1), "it does not wait"
    threads.is_busy, queue._read_at = True, 0.0
    spread.begin("q")
    spread.look("q")
    assert len(threads.waited) == 1


def test_on_a_cluster_a_consumer_hears_of_what_no_node_is_the_cause_of(parts: Parts) -> None:
    spread = spread_of(parts, "redis+cluster", q=2)
    queue: Any = spread.get("q")
    spread._threads = Threads()  # type: ignore[assignment]
    queue.engine.retry = queue.engine.retry.after(99)
    parts.away |= {"q"}
    spread.begin("q")
    assert isinstance(queue.fault, ServerUnavailable)
    parts.away.clear()
    parts.records["q"] = PartitionMap("q", [7, 8]).record
    queue._read_at = 0.0
    with pytest.raises(InvalidArgument, match="3 partitions, not 2"):
        spread.begin("q")


def test_a_real_thread_learns(parts: Parts) -> None:
    spread = spread_of(parts, "redis+cluster", q=3)
    here = threading.get_ident()
    seen: list[int] = []
    parts.at_write = lambda: seen.append(threading.get_ident())
    spread.begin("q")
    assert len(spread.names("q")) == 3
    assert seen
    assert here not in seen
