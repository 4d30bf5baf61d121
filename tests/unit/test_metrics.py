"""Metrics of what an overview says, of the work on messages, and what a scaler reads. No server."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from atomq import tracing
from atomq.calls import Process, QueueOverview, QueueState
from atomq.errors import AtomqError, PermissionDenied, ServerUnavailable
from atomq.message import Envelope
from atomq.overview import Overview
from tests.partitioned import engine_of

pytest.importorskip("prometheus_client")
from prometheus_client import CollectorRegistry, generate_latest

from atomq.metrics import EVENTS, AtomqCollector, WorkHistograms, wsgi_app

TOO_MUCH = 10**400  # no float holds it


def numbers(name: str, **more: Any) -> dict[str, Any]:
    """A queue without anything, and what there is `more`."""
    return {
        "name": name,
        "now_ms": 1_000_000,
        "ready_by_priority": {0: 0},
        **dict.fromkeys(("unacked", "expired", "delayed", "due", "dead"), 0),
        "next_due_ms": None,
        "paused": False,
        "stats": {},
        **more,
    }


def row(name: str = "q", **more: Any) -> QueueOverview:
    return QueueOverview(**numbers(name, **{"put_s": None, "dead_by_reason": {}, **more}))


def state(name: str = "q", **more: Any) -> QueueState:
    rest = {"next_deadline_ms": None, "inconsistent": 0, "oldest": b"", **more}
    return QueueState(**numbers(name, **rest))


class Server:
    """The engine of a collector, answered by hand."""

    def __init__(self, collector: AtomqCollector) -> None:
        self.found: Overview | AtomqError = Overview()
        self.asked: list[Any] = []
        self.states: dict[str, Any] = {}
        self.known: Any = ()
        engine: Any = collector.engine
        engine.overview = self.overview
        engine.run, engine.run_all = self.run, lambda calls: [self.state(call) for call in calls]

    def overview(self, queues: Any) -> Overview:
        self.asked.append(queues)
        if isinstance(self.found, AtomqError):
            raise self.found
        return self.found

    def run(self, work: Any) -> Any:
        if hasattr(work, "script"):
            found = self.state(work)
        else:
            work.close()
            found = (
                self.known
                if isinstance(self.known, Exception)
                else SimpleNamespace(queues=self.known)
            )
        if isinstance(found, Exception):
            raise found
        return found

    def state(self, call: Any) -> Any:
        return self.states.get(call.queue.name) or state(call.queue.name)


def collector_of(**how: Any) -> tuple[AtomqCollector, Server]:
    collector = AtomqCollector(engine_of("redis"), **how)
    return collector, Server(collector)


def scraped(collector: AtomqCollector) -> dict[tuple[str, ...], float]:
    """The samples by their names and the values of their labels, once they were printed."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    generate_latest(registry)
    return {
        (sample.name.removeprefix("atomq_"), *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


# ── a scrape ──────────────────────────────────────────────────────────────────────────────────


def test_it_tries_two_seconds_to_reach_a_server_and_verifies_nothing() -> None:
    """A scrape has ten seconds; its user may do no more than read."""
    found = AtomqCollector("redis://nowhere.invalid").engine
    assert (found.options.retry_budget, found.verified) == (2.0, True)
    own = AtomqCollector("redis://nowhere.invalid", retry_budget=1).engine
    assert own.options.retry_budget == 1


@pytest.mark.parametrize(("queues", "asked"), [(None, None), (("a", "b"), ["a", "b"])])
def test_it_reads_all_queues_or_those_that_are_named(queues: Any, asked: Any) -> None:
    collector, server = collector_of(queues=queues)
    began = time.perf_counter()
    found = scraped(collector)
    assert server.asked[-1] == asked
    assert found["up",] == 1
    assert 0 <= found["scrape_duration_seconds",] <= time.perf_counter() - began


def test_a_server_that_goes_away_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    collector, server = collector_of()
    caplog.set_level(logging.DEBUG, "atomq.metrics")
    levels = []
    for found in (*[ServerUnavailable("away")] * 2, Overview(), ServerUnavailable("away")):
        server.found = found
        caplog.clear()
        samples = {sample.name for family in collector.collect() for sample in family.samples}
        assert ("atomq_unreadable_queues" in samples) == isinstance(found, Overview)
        levels += [record.levelname for record in caplog.records] or ["none"]
    assert levels == ["WARNING", "DEBUG", "none", "WARNING"]


def test_a_queue_in_numbers() -> None:
    collector, server = collector_of()
    full = row(
        ready_by_priority={0: 5, 3: 6},
        unacked=9,
        expired=2,
        delayed=7,
        due=3,
        dead=4,
        put_s=990,
        next_due_ms=1_001_000,
        paused=True,
        stats={"published": 50, "acked": 20},
        dead_by_reason={"rejected": 4},
    )
    server.found = Overview(queues=[full, row("idle")], unreadable={"x": AtomqError()})
    found = scraped(collector)
    states = {"ready": 11, "due": 3, "expired": 2, "held": 7, "delayed": 4, "dead": 4}
    assert {of: found["queue_messages", "q", of] for of in states} == states
    assert (found["queue_ready_messages", "q", "0"], found["queue_ready_messages", "q", "3"]) == (
        5,
        6,
    )
    names = ("backlog", "oldest_seconds", "next_due_seconds", "paused")
    assert [found[f"queue_{name}", "q"] for name in names] == [16, 10, 1, 1]
    assert [found.get((f"queue_{name}", "idle")) for name in names] == [0, None, None, 0]
    events = {event: found["queue_events_total", "q", event] for event in EVENTS}
    assert events == {**dict.fromkeys(EVENTS, 0), "published": 50, "acked": 20}
    assert found["queue_dead_total", "q", "rejected"] == 4
    assert found["unreadable_queues",] == 1


def test_counters_do_not_fall_while_a_partition_is_away() -> None:
    collector, server = collector_of()
    server.found = Overview(queues=[row(unanswered=("q#1",), stats={"acked": 1}, dead=3)])
    found = scraped(collector)
    assert found["queue_messages", "q", "dead"] == 3
    assert not [name for name, *_ in found if name in ("queue_events_total", "queue_dead_total")]


def test_workers_by_kind_and_version_and_the_lowest_of_their_limits() -> None:
    collector, server = collector_of()
    of = {"kind": "celery", "version": "1"}
    entries: list[dict[str, Any]] = [
        {**of, "queues": ["q"], "concurrency": 4, "holds": 3, "limits": {"max_deliveries": 5}},
        {**of, "queues": ["q", "r"], "concurrency": 2, "holds": 1, "limits": {"max_deliveries": 3}},
        {"queues": ["unread"], "concurrency": "many", "limits": {"dead_max": 1, "other": 1}},
    ]
    processes = [Process(f"p{at}", 0, entry) for at, entry in enumerate(entries)]
    server.found = Overview(queues=[row("q"), row("r")], processes=processes)
    found = scraped(collector)
    names = ("workers", "worker_slots", "worker_held_messages")
    assert [found[name, "celery", "1"] for name in names] == [2, 6, 4]
    assert [found[name, "", ""] for name in names] == [1, 0, 0]
    assert [found["queue_consumers", name] for name in "qr"] == [2, 1]
    limits = {key[1:]: value for key, value in found.items() if key[0] == "queue_limit"}
    assert limits == {("q", "max_deliveries"): 3, ("r", "max_deliveries"): 3}


def test_numbers_of_others_that_no_float_holds_fail_no_scrape() -> None:
    collector, server = collector_of()
    entry = {"queues": ["q"], "concurrency": TOO_MUCH, "holds": -TOO_MUCH}
    limits = {"lease_seconds": TOO_MUCH, "dead_max": 7}
    stats = {"acked": TOO_MUCH, "published": 2}
    server.found = Overview(
        queues=[row(stats=stats, dead_by_reason={"x": TOO_MUCH})],
        processes=[Process("p", 0, {**entry, "limits": limits})],
    )
    found = scraped(collector)
    assert (found["worker_slots", "", ""], found["worker_held_messages", "", ""]) == (0, 0)
    assert {key[1:]: n for key, n in found.items() if key[0] == "queue_limit"} == {
        ("q", "dead_max"): 7
    }
    assert found["queue_events_total", "q", "published"] == 2
    assert found["queue_events_total", "q", "acked"] == 0


# ── what a consumer measures ──────────────────────────────────────────────────────────────────


class Work:
    """Messages of `q` that are worked on, and what was measured of it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.measured = WorkHistograms(self.registry)

    def __call__(self, put: Any = None, deliveries: int = 1, error: Exception | None = None) -> Any:
        properties = {} if put is None else {"timestamp": put}
        envelope = Envelope(json.dumps({"properties": properties}).encode())
        message = SimpleNamespace(
            _delivery=SimpleNamespace(envelope=envelope),
            deliveries=deliveries,
            _queue=SimpleNamespace(name="q"),
        )
        tracing.end(message, tracing.begin(message), error)

    def found(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"atomq_message_{name}", {"queue": "q", **labels})


@pytest.fixture
def work() -> Iterator[Work]:
    found = Work()
    yield found
    found.measured.close()


def test_work_is_timed_by_how_it_ended(work: Work) -> None:
    work()
    work(error=ValueError())
    work(error=ValueError())
    assert work.found("run_seconds_count", outcome="done") == 1
    assert work.found("run_seconds_count", outcome="failed") == 2
    took = work.found("run_seconds_sum", outcome="done")
    assert took is not None
    assert 0 <= took < 5
    work.measured.close()
    assert work.found("run_seconds_count", outcome="done") is None
    WorkHistograms(work.registry).close()  # there is room for others again


def test_the_buckets_are_those_that_dashboards_have(work: Work) -> None:
    work(time.time())
    found: dict[str, list[float]] = {}
    for family in work.registry.collect():
        for sample in family.samples:
            if "le" in sample.labels:
                found.setdefault(sample.name, []).append(float(sample.labels["le"]))
    fractions = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
    run, wait = (
        found["atomq_message_run_seconds_bucket"],
        found["atomq_message_wait_seconds_bucket"],
    )
    assert run == [*fractions, 10, 30, 60, 300, 1800, float("inf")]
    assert wait == [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, float("inf")]


def test_the_wait_is_that_for_the_first_delivery_of_what_says_when_it_was_put(work: Work) -> None:
    for put, deliveries in ((None, 1), (time.time() - 100, 2), (time.time() + 100, 1)):
        work(put, deliveries)
    assert (work.found("wait_seconds_count"), work.found("wait_seconds_sum")) == (1, 0)
    work(time.time() - 100)
    took = work.found("wait_seconds_sum")
    assert took is not None
    assert 100 <= took < 105


@pytest.mark.parametrize("put", ["soon", [], TOO_MUCH, "inf", "nan"], ids=lambda put: str(put)[:9])
def test_a_time_that_others_wrote_stops_no_work(work: Work, put: Any) -> None:
    work(put)
    assert work.found("run_seconds_count", outcome="done") == 1
    assert not work.found("wait_seconds_count")


# ── what a scaler reads ───────────────────────────────────────────────────────────────────────


def fetched(collector: AtomqCollector, path: str, method: str = "GET") -> tuple[int, Any]:
    said: list[tuple[int, Mapping[str, str]]] = []

    def start(status: str, head: list[tuple[str, str]], *_: Any) -> None:
        said.append((int(status.split(maxsplit=1)[0]), dict(head)))

    body = b"".join(wsgi_app(collector)({"PATH_INFO": path, "REQUEST_METHOD": method}, start))
    code, head = said[0]
    if head["Content-Type"] != "application/json":
        return code, body.decode()
    assert (int(head["Content-Length"]), body[-1:]) == (len(body), b"\n")
    return code, json.loads(body)


def test_what_there_is_to_fetch() -> None:
    collector, server = collector_of()
    assert "atomq_up 1.0" in fetched(collector, "/metrics")[1]
    assert fetched(collector, "/metrics", "POST")[0] == 405
    assert [fetched(collector, "/else", method)[0] for method in ("GET", "HEAD")] == [404, 404]
    server.states["a b"] = state("a b", ready_by_priority={0: 1, 3: 1}, due=2, unacked=7, expired=3)
    for path in ("/backlog/a%20b", "/backlog/a b/"):
        assert fetched(collector, path) == (200, {"queue": "a b", "backlog": 7, "busy": 11})


@pytest.mark.parametrize(
    "there",
    [
        {"stats": {"acked": 1}},
        {"paused": True},
        {"partitions": ("q",)},
        {"delayed": 1},
        {"dead": 1},
    ],
    ids=str,
)
def test_a_queue_that_was_ever_used_has_a_backlog_of_0(there: Any) -> None:
    collector, server = collector_of()
    assert fetched(collector, "/backlog/q")[0] == 404
    server.states["q"] = state(**there)
    assert fetched(collector, "/backlog/q") == (200, {"queue": "q", "backlog": 0, "busy": 0})


def test_a_queue_is_there_if_the_register_has_it_or_may_not_be_read() -> None:
    collector, server = collector_of()
    codes = []
    for server.known in ((), ("other",), ("q",), PermissionDenied("no"), ServerUnavailable("away")):
        codes.append(fetched(collector, "/backlog/q")[0])
    assert codes == [404, 404, 200, 200, 503]


def test_a_backlog_is_that_of_all_partitions_or_there_is_none() -> None:
    collector, server = collector_of()
    server.states = {
        "q": state(partitions=("q", "q#1"), ready_by_priority={0: 2}),
        "q#1": state("q#1", ready_by_priority={0: 3}, unacked=1),
    }
    assert fetched(collector, "/backlog/q") == (200, {"queue": "q", "backlog": 5, "busy": 6})
    server.states["q#1"] = ServerUnavailable("away")
    assert fetched(collector, "/backlog/q")[0] == 503
    assert fetched(collector, "/backlog/_atomq.x")[0] == 404
