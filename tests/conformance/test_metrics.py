"""Metrics: a scrape as Prometheus' own parsers read it, and what a scaler reads."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref import simple_server

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed_open
from prometheus_client.parser import text_string_to_metric_families as parsed
from prometheus_client.registry import Collector

from atomq import AsyncQueue, Engine, InvalidAddress, InvalidArgument, Queue, calls
from atomq.metrics import EVENTS, AtomqCollector, WorkHistograms, wsgi_app
from tests.conformance.test_overview import ONE, fleet
from tests.conformance.test_register import of
from tests.servers import Cluster, Server, wait_until

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class _Read(Collector):
    """Metrics as they were read."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def scrape(collector: AtomqCollector, **labels: str) -> Samples:
    """The samples as both parsers of prometheus-client read them, of these labels alone."""
    registry = CollectorRegistry()
    read = list(collector.collect())  # once: a worker may come between two scrapes
    registry.register(_Read(read))
    texts = [
        (generate_latest(registry).decode(), parsed),
        (open_metrics(registry).decode(), parsed_open),
    ]
    found: list[Samples] = [
        {
            (s.name, tuple(sorted(s.labels.items()))): s.value
            for family in parse(text)
            for s in family.samples
            if labels.items() <= s.labels.items()
        }
        for text, parse in texts
    ]
    assert found[0].keys() == found[1].keys()
    return found[1]


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


@ONE
def test_a_scrape_as_prometheus_reads_it(server: Server) -> None:
    with Engine(server.url) as engine:
        fleet(server, engine, 5, busy=2)
        wait_until("this process is there", lambda: engine.overview().processes)
        samples = scrape(AtomqCollector(engine), queue="queue-0000")
        states = {
            dict(labels)["state"]: count
            for (name, labels), count in samples.items()
            if name == "atomq_queue_messages"
        }
        assert states == {"ready": 1, "due": 0, "expired": 0, "held": 3, "delayed": 1, "dead": 1}

        def one(name: str, **labels: str) -> float:
            return value(samples, name, queue="queue-0000", **labels)

        assert one("atomq_queue_backlog") == 1
        assert one("atomq_queue_ready_messages", priority="0") == 1
        assert one("atomq_queue_events_total", event="published") == 7
        assert one("atomq_queue_events_total", event="acked") == 1
        assert one("atomq_queue_dead_total", reason="boom") == 1
        assert one("atomq_queue_consumers") == 1
        assert one("atomq_queue_paused") == 0
        assert 50 < one("atomq_queue_next_due_seconds") <= 60
        assert 0 <= one("atomq_queue_oldest_seconds") < 60
        assert {dict(k[1])["event"] for k in samples if "events" in k[0]} == set(EVENTS)
        everything = scrape(AtomqCollector(engine))
        assert value(everything, "atomq_up") == 1
        assert value(everything, "atomq_unreadable_queues") == 0
        assert sum(n for (name, _), n in everything.items() if name == "atomq_workers") == 1
        assert [name for name, _ in everything if name == "atomq_worker_held_messages"]


@ONE
def test_a_queue_of_partitions_is_one_queue(server: Server) -> None:
    with Engine(server.url) as engine:
        orders: Any = Queue("orders", engine, partitions=3)
        orders.put_many([1, 2])
        for n in range(3):
            orders.put(n)
        with orders.claim_many(5)[0] as message:
            names = [part.name for part in orders.partitions()]
            engine.run(calls.register(engine.register.keys, names))
            wait_until("this process is there", lambda: engine.overview().processes)
            samples = scrape(AtomqCollector(engine))
            assert message is not None
        queues = {dict(labels).get("queue") for _, labels in samples} - {None}
        assert queues == {"orders"}
        assert value(samples, "atomq_queue_events_total", queue="orders", event="published") == 5
        assert value(samples, "atomq_queue_consumers", queue="orders") == 1
        server.client().set(engine.keys(names[1]).dead, "text")
        samples = scrape(AtomqCollector(engine))
        assert value(samples, "atomq_unreadable_queues") == 1
        assert not [name for name, _ in samples if "events" in name]


@ONE
def test_no_label_is_an_id_and_odd_names_are_read_back(server: Server) -> None:
    with Engine(server.url) as engine:
        for name in ('a "b"\\n', "ünï{c}", "two\nlines"):
            queue = Queue(name, engine)
            queue.put(1, id="an-id-of-mine")
            queue.put_many([2, 3])
            message = queue.claim()
            assert message is not None
            message.reject('odd "reason"\\')
            assert queue.claim() is not None
        samples = scrape(AtomqCollector(engine))
        labels = {label for _, labels in samples for label, _ in labels}
        assert labels - {"kind", "version", "limit"} == {
            "queue",
            "state",
            "priority",
            "event",
            "reason",
        }
        assert value(samples, "atomq_queue_backlog", queue="two\nlines") == 1
        assert value(samples, "atomq_queue_dead_total", queue='a "b"\\n', reason='odd "reason"\\')
        assert "an-id-of-mine" not in str(samples)


@ONE
def test_limits_are_the_lowest_that_its_consumers_name(server: Server) -> None:
    limited = Queue("q", server.url, lease=30, max_deliveries=5, dead_max=1000, dead_ttl=3600)
    with limited:
        limited.claim_many(1)
        engine, other = limited.engine, "another process of its own"
        wait_until("it is in the register", lambda: engine.overview().processes)
        said: Any = {"max_deliveries": 3, "lease_seconds": 60, "dead_max": None, "of a": 1}
        for process, limits in ((other, said), ("an older one", None), ("odd", ["lease"])):
            entry = json.dumps({"queues": ["q", "unread"], "limits": limits})
            engine.run(
                calls.register(
                    engine.register.keys, ["q"], process=process, alive_ms=60_000, entry=entry
                )
            )
        samples = scrape(AtomqCollector(engine))
    limits = {labels: count for (name, labels), count in samples.items() if "_limit" in name}
    assert {dict(labels)["queue"] for labels in limits} == {"q"}
    assert {dict(labels)["limit"]: count for labels, count in limits.items()} == {
        "max_deliveries": 3,
        "lease_seconds": 30,
        "dead_max": 1000,
        "dead_ttl_seconds": 3600,
    }


@ONE
def test_only_some_queues(server: Server) -> None:
    with Engine(server.url) as engine:
        fleet(server, engine, 3, busy=0)
        samples = scrape(AtomqCollector(engine, queues=["queue-0001"]))
        assert {dict(k[1]).get("queue") for k in samples} == {None, "queue-0001"}


def test_a_cluster(cluster: Cluster) -> None:
    with Engine(of(cluster)) as engine:
        for i in range(6):
            Queue(f"q{i}", engine).put(i)
        wait_until("all are in the register", lambda: len(engine.overview().queues) == 6)
        samples = scrape(AtomqCollector(engine))
        assert sum(n for (name, _), n in samples.items() if name == "atomq_queue_backlog") == 6


@ONE
def test_while_the_server_is_away_up_is_0(
    own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    collector = AtomqCollector(own_server.url, retry_budget=0.1)
    with collector.engine as engine:
        Queue("q", engine).put(1)
        assert value(scrape(collector), "atomq_up") == 1
        own_server.kill()
        with caplog.at_level(logging.WARNING, "atomq.metrics"):
            samples = scrape(collector)
        assert value(samples, "atomq_up") == 0
        assert {name for name, _ in samples} == {"atomq_up", "atomq_scrape_duration_seconds"}
        assert len([r for r in caplog.records if r.name == "atomq.metrics"]) == 1  # said once
        own_server.start()
        wait_until("it is back", lambda: value(scrape(collector), "atomq_up") == 1)


def test_mistakes_are_errors_of_ours() -> None:
    registry = CollectorRegistry(auto_describe=True)
    collector = AtomqCollector("redis://127.0.0.1:1/0")
    collector.register(registry)  # asks no server
    with pytest.raises(InvalidArgument, match="has the metrics of atomq already"):
        AtomqCollector("redis://127.0.0.1:2/0").register(registry)
    with pytest.raises(InvalidAddress):
        AtomqCollector("http://example.org")
    with pytest.raises(InvalidArgument, match="options belong to the engine"):
        AtomqCollector(collector.engine, retry_budget=1)


def test_without_the_extra_it_says_what_is_missing() -> None:
    program = """
import sys
sys.modules["prometheus_client"] = None
try:
    import atomq.metrics
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert 'pip install "atomq[metrics]"' in done.stdout


# ── what a consumer measures ──────────────────────────────────────────────────────────────────


@ONE
def test_work_is_measured_sync_and_asyncio(server: Server) -> None:
    registry = CollectorRegistry()
    measured = WorkHistograms(registry, run_buckets=(0.05, 1))

    def found(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"atomq_message_{name}", {"queue": "mails", **labels})

    def handle(message: Any) -> None:
        if message.body == "bad":
            raise ValueError

    try:
        with pytest.raises(InvalidArgument):
            WorkHistograms(registry)
        with Queue("mails", server.url, backoff=lambda _: 0) as queue:
            queue.put_many(["fast", "bad"])
            queue.work(handle, timeout=0.1)
            assert found("run_seconds_count", outcome="done") == 1
            failures = found("run_seconds_count", outcome="failed")
            assert failures is not None
            assert failures >= 2
            assert found("wait_seconds_count") == 2  # not of a second delivery
            queue.purge()
            queue.put("slow")
            fast = found("run_seconds_bucket", outcome="done", le="0.05")

            async def main() -> None:
                async with AsyncQueue("mails", server.url) as other:
                    async for message in other.consume():
                        async with message:
                            await asyncio.sleep(0.06)
                        break

            asyncio.run(main())
            assert found("run_seconds_bucket", outcome="done", le="0.05") == fast
            assert found("run_seconds_count", outcome="done") == 2
            measured.close()
            queue.put("unseen")
            queue.work(handle, timeout=0.1)
            assert found("run_seconds_count", outcome="done") is None
    finally:
        measured.close()


# ── what a scaler reads ───────────────────────────────────────────────────────────────────────


@contextmanager
def served(collector: AtomqCollector) -> Iterator[str]:
    app: Any = wsgi_app(collector)
    server = simple_server.make_server("127.0.0.1", 0, app, handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Quiet(simple_server.WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def fetched(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            text = reply.read().decode()
            return reply.status, json.load(io.StringIO(text)) if text[:1] == "{" else text
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@ONE
def test_backlog_as_json(own_server: Server) -> None:
    collector = AtomqCollector(own_server.url, retry_budget=0.1)
    with collector.engine as engine, served(collector) as at:
        queue = Queue("a b", engine)
        queue.put_many([1, 2])
        queue.put(3, delay=60)
        assert queue.claim() is not None
        answer = {"queue": "a b", "backlog": 1, "busy": 2}
        assert fetched(f"{at}/backlog/a%20b") == (200, answer)
        code, said = fetched(f"{at}/backlog/typo")
        assert (code, "there is no queue 'typo'" in said["error"]) == (404, True)
        nothing = {"queue": "consumed", "backlog": 0, "busy": 0}
        engine.run(calls.register(engine.register.keys, ["consumed"]))
        assert fetched(f"{at}/backlog/consumed") == (200, nothing)
        Queue("emptied", engine).put(1)
        Queue("emptied", engine).purge("ready")
        assert fetched(f"{at}/backlog/emptied")[0] == 200
        assert fetched(f"{at}/backlog/_atomq.x")[0] == 404
        assert fetched(f"{at}/else")[0] == 404
        assert 'atomq_queue_backlog{queue="a b"} 1.0' in fetched(f"{at}/metrics")[1]
        with Queue("apart", engine, partitions=3) as apart:
            apart.put_many(range(4))
            held = apart.claim()
            assert held is not None
            answer = {"queue": "apart", "backlog": 3, "busy": 4}
            assert fetched(f"{at}/backlog/apart") == (200, answer)
        own_server.stop()
        status, said = fetched(f"{at}/backlog/a%20b")
        assert (status, list(said)) == (503, ["error"])  # and no 0, on which a fleet would go


_WORKER = """
import sys, time
from atomq import Queue
for message in Queue("mails", sys.argv[1], lease=1).consume():
    with message:
        time.sleep(float(message.body))
"""


@ONE
@pytest.mark.slow
def test_from_zero_workers_and_back(server: Server) -> None:
    """What a scaler that asks for `busy` does: no worker is started in vain, none is missing."""
    collector = AtomqCollector(server.url)

    def number(field: str) -> int:
        found: int = fetched(f"{at}/backlog/mails")[1][field]
        return found

    def scraped() -> float:
        return value(scrape(collector, queue="mails"), "atomq_queue_backlog", queue="mails")

    def worker() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _WORKER, server.url])

    with collector.engine as engine, served(collector) as at:
        queue = Queue("mails", engine)
        assert fetched(f"{at}/backlog/mails")[0] == 404  # no message yet: KEDA changes nothing
        queue.put(60, delay=0.3)
        assert (number("backlog"), number("busy")) == (0, 0)  # not due: none is needed
        wait_until("it is due", lambda: number("backlog") == 1)
        assert scraped() == 1
        assert server.client().llen("mails") == 0  # which a scaler on LLEN never sees
        first = worker()
        try:
            wait_until("it is held", lambda: (number("backlog"), number("busy")) == (0, 1))
        finally:
            first.kill()
            first.wait(10)
        # The lease ends with no worker there, and nothing but the backlog says so.
        wait_until("its lease ended", lambda: number("backlog") == 1)
        assert scraped() == 1
        assert server.client().llen("mails") == 0
        held = queue.claim()
        assert held is not None
        held.ack()
        assert (number("backlog"), number("busy")) == (0, 0)
        queue.put(0)
        second = worker()
        try:
            wait_until("it is done", lambda: number("busy") == 0)
        finally:
            second.terminate()
            second.wait(10)
