"""Metrics for Prometheus: what the server knows of all queues, read when Prometheus asks.

    from atomq.metrics import AtomqCollector

    AtomqCollector("redis://localhost:6379/0").register()

Needs `atomq[metrics]`, which is prometheus-client. One process exports for the whole fleet: the
counters are the server's own, so there is nothing to add up over processes, and no multiprocess
mode. A scrape of 200 queues is two server calls, see `Engine.overview`. No label is an id.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from atomq import calls, flows, tracing
from atomq.arguments import shown, texts
from atomq.calls import QueueOverview
from atomq.client import Engine
from atomq.errors import (
    AtomqError,
    InvalidArgument,
    PermissionDenied,
    ScriptsNotLoaded,
)
from atomq.overview import Overview

try:
    from prometheus_client import CollectorRegistry, Histogram, make_wsgi_app
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import REGISTRY, Collector
except ImportError as error:
    raise ImportError('metrics need prometheus-client: pip install "atomq[metrics]"') from error

log = logging.getLogger("atomq.metrics")

EVENTS = (
    "published",
    "delivered",
    "expired",
    "acked",
    "released",
    "dead",
    "dropped",
    "redriven",
    "cancelled",
    "restored",
    "handed_back",
)
"""What the server counts of a queue, see `QueueState.stats`."""
LIMITS = frozenset(
    {"max_deliveries", "lease_seconds", "max_lease_seconds", "dead_max", "dead_ttl_seconds"}
)
"""What a consumer says that it holds messages to, see `Options.limits`."""
PATIENCE = 2.0  # seconds for which a scrape tries to reach the server, unless the options say


class AtomqCollector(Collector):
    """What a registry of prometheus-client asks for the metrics of all queues of a server.

    `engine` is an engine or a server's URL; options are those of an engine made of it. With
    `queues` only these are read, and no workers: for a user that may read no others. Any thread may
    scrape. While the server cannot be reached there is `atomq_up 0` and nothing else. Raises
    `InvalidArgument`, as `InvalidAddress` and `InvalidOptions` are; a scrape raises nothing.
    """

    def __init__(
        self, engine: Engine | str, *, queues: Sequence[str] | None = None, **options: Any
    ) -> None:
        if isinstance(engine, str):
            options.setdefault("retry_budget", PATIENCE)
            engine = Engine(engine, **options)
            engine.verified = True  # it only reads, and this user may do no more
        elif not isinstance(engine, Engine):
            raise InvalidArgument(f"a collector needs an Engine or a URL, got {shown(engine)}")
        elif options:
            raise InvalidArgument("options belong to the engine: give a URL, or them to Engine")
        self.engine = engine
        self._queues = None if queues is None else list(texts("queues", queues, "their names"))
        self._was_up = True

    def register(self, registry: CollectorRegistry = REGISTRY) -> AtomqCollector:
        """Have this registry ask here.

        Raises `InvalidArgument` if it has these metrics already.
        """
        try:
            registry.register(self)
        except ValueError as error:
            raise InvalidArgument(
                "this registry has the metrics of atomq already: one collector a registry, and for "
                f"another server a CollectorRegistry of its own ({error})"
            ) from error
        return self

    def describe(self) -> Iterable[Metric]:
        """The metrics without values: to register asks no server."""
        return _Families().all()

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        began, found = time.perf_counter(), None
        try:
            found = self.engine.overview(self._queues)
            self._was_up = True
        except AtomqError as error:
            level = logging.WARNING if self._was_up else logging.DEBUG
            log.log(level, "nothing could be read for a scrape: %s", error)
            self._was_up = False
        families = _Families()
        families.up.add_metric([], float(found is not None))
        families.seconds.add_metric([], time.perf_counter() - began)
        if found is not None:
            families.fill(found)
        yield from families.all()


class _Families:
    """The metrics, in the order in which they are printed."""

    def __init__(self) -> None:
        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        self.up = gauge("atomq_up", "Whether the server of the queues answered this scrape.")
        self.seconds = gauge("atomq_scrape_duration_seconds", "Time taken to read the server.")
        self.unreadable = gauge("atomq_unreadable_queues", "Queues that could not be read.")
        queue = ["queue"]
        self.messages = gauge(
            "atomq_queue_messages",
            "Messages by state, each in one: ready, due (delayed until now), delayed, held by a "
            "consumer, expired (held too long) and dead.",
            labels=["queue", "state"],
        )
        self.ready = gauge(
            "atomq_queue_ready_messages",
            "Messages that are ready, by priority; 0 goes first.",
            labels=["queue", "priority"],
        )
        self.backlog = gauge(
            "atomq_queue_backlog",
            "Messages that a consumer could claim now: ready, due and expired.",
            labels=queue,
        )
        self.oldest = gauge(
            "atomq_queue_oldest_seconds",
            "Age of the next ready message, where its producer says when it was put.",
            labels=queue,
        )
        self.next_due = gauge(
            "atomq_queue_next_due_seconds",
            "Time until the next delayed message is due; below 0 if it waits for a consumer.",
            labels=queue,
        )
        self.paused = gauge("atomq_queue_paused", "Whether the queue is paused.", labels=queue)
        self.consumers = gauge(
            "atomq_queue_consumers", "Processes that consume the queue.", labels=queue
        )
        self.limits = gauge(
            "atomq_queue_limit",
            "What the queue's consumers hold its messages to, as each says of itself; the lowest.",
            labels=["queue", "limit"],
        )
        self.events = counter(
            "atomq_queue_events",
            "What happened to messages, counted by the server since the queue began.",
            labels=["queue", "event"],
        )
        self.dead = counter(
            "atomq_queue_dead",
            "Messages that became dead letters, by reason.",
            labels=["queue", "reason"],
        )
        of = ["kind", "version"]
        self.workers = gauge("atomq_workers", "Processes that consume.", labels=of)
        self.slots = gauge("atomq_worker_slots", "Messages they work on at most.", labels=of)
        self.busy = gauge("atomq_worker_held_messages", "Messages they hold.", labels=of)

    def all(self) -> Iterable[Metric]:
        return list(vars(self).values())

    def fill(self, found: Overview) -> None:
        self.unreadable.add_metric([], len(found.unreadable))
        consumers = Counter(name for p in found.processes for name in found.consumed(p))
        for queue in found.queues:
            self._of_queue(queue, consumers[queue.name])
        read = {queue.name for queue in found.queues}
        limits: dict[tuple[str, str], float] = {}
        for process in found.processes:
            for name in read.intersection(found.consumed(process)):
                held_to = process.limits_of(name)
                for limit in LIMITS & held_to.keys():
                    at, value = (name, limit), held_to[limit]
                    if abs(value) < _MOST:
                        limits[at] = min(limits.get(at, value), value)
        for at, value in sorted(limits.items()):
            self.limits.add_metric(at, value)
        workers, slots, holds = Counter[Any](), Counter[Any](), Counter[Any]()
        for process in found.processes:
            entry = process.entry
            of = (str(entry.get("kind", "")), str(entry.get("version", "")))
            workers[of] += 1
            slots[of] += _whole(entry.get("concurrency"))
            holds[of] += _whole(entry.get("holds"))
        for of, count in workers.items():
            self.workers.add_metric(of, count)
            self.slots.add_metric(of, slots[of])
            self.busy.add_metric(of, holds[of])

    def _of_queue(self, queue: QueueOverview, consumers: int) -> None:
        name = queue.name
        for state, count in states(queue).items():
            self.messages.add_metric([name, state], count)
        for priority, count in queue.ready_by_priority.items():
            self.ready.add_metric([name, str(priority)], count)
        self.backlog.add_metric([name], queue.backlog)
        if queue.oldest_seconds is not None:
            self.oldest.add_metric([name], queue.oldest_seconds)
        if queue.next_due_seconds is not None:
            self.next_due.add_metric([name], queue.next_due_seconds)
        self.paused.add_metric([name], float(queue.paused))
        self.consumers.add_metric([name], consumers)
        if queue.unanswered:  # a counter that falls for a while would look as if it began anew
            return
        for event in EVENTS:
            self.events.add_metric([name, event], _whole(queue.stats.get(event)))
        for reason, count in queue.dead_by_reason.items():
            self.dead.add_metric([name, reason], _whole(count))


_MOST = 1 << 63  # what counts is less; of what others wrote no float may hold it


def _whole(value: Any) -> int:
    """A count as it was written; 0 for what is none."""
    return value if isinstance(value, int) and abs(value) < _MOST else 0


def states(queue: QueueOverview) -> dict[str, int]:
    """How many messages are in each state. Each message is in one: the sum is all of them."""
    return {
        "ready": queue.ready,
        "due": queue.due,
        "expired": queue.expired,
        "held": queue.unacked - queue.expired,
        "delayed": queue.delayed - queue.due,
        "dead": queue.dead,
    }


# ── what a consumer measures ──────────────────────────────────────────────────────────────────

RUN = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
WAIT = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Buckets, in seconds. An envelope says in whole seconds when it was put."""


class WorkHistograms:
    """How long messages waited, and how long the work on them took, in consumers of this process.

    It hears of each `with` block of a message, which is what `work` has, sync and asyncio, from the
    moment it is made, in all queues; `close` ends that. `atomq_message_run_seconds` has the queue
    and how it ended, "done" or "failed" (the block raised). `atomq_message_wait_seconds` is the
    time from its put to its first delivery, a delay included.

    These are counted in each process: scrape the workers, or use prometheus-client's multiprocess
    mode. Raises `InvalidArgument` if the registry has them already.
    """

    def __init__(
        self,
        registry: CollectorRegistry = REGISTRY,
        *,
        run_buckets: Sequence[float] = RUN,
        wait_buckets: Sequence[float] = WAIT,
    ) -> None:
        try:
            self._run = Histogram(
                "atomq_message_run_seconds",
                "Time that the work on a message took.",
                ["queue", "outcome"],
                registry=registry,
                buckets=run_buckets,
            )
            self._wait = Histogram(
                "atomq_message_wait_seconds",
                "Time from the put of a message to its first delivery.",
                ["queue"],
                registry=registry,
                buckets=wait_buckets,
            )
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"these histograms cannot be made: {error}") from error
        self._registry = registry
        tracing.watch(self)

    def close(self) -> None:
        """Measure no more, and take the histograms out of the registry."""
        tracing.watch_no_more(self)
        for each in (self._run, self._wait):
            with suppress(KeyError):
                self._registry.unregister(each)

    def began(self, message: Any) -> float:
        """See `Watcher`."""
        put = message._delivery.envelope.put_s
        if put is not None and message.deliveries == 1:
            self._wait.labels(message._queue.name).observe(max(0.0, time.time() - put))
        return time.perf_counter()

    def ended(self, message: Any, begun: float, error: BaseException | None) -> None:
        """See `Watcher`."""
        outcome = "done" if error is None else "failed"
        self._run.labels(message._queue.name, outcome).observe(time.perf_counter() - begun)


# ── over HTTP ─────────────────────────────────────────────────────────────────────────────────

_BACKLOG = re.compile(r"/backlog/([^/]+)/?")


def wsgi_app(collector: AtomqCollector) -> Callable[..., Iterable[bytes]]:
    """A WSGI app: `/metrics` for Prometheus, `/backlog/<queue>` as JSON for KEDA's metrics-api.

    `/backlog/<queue>` answers `{"queue": …, "backlog": …, "busy": …}`; `busy` are the backlog and
    what consumers hold, which is 0 when no worker is needed. All partitions of a queue are counted.
    While the server is away, or a partition does not answer, it answers 503, and of a queue that is
    neither there nor in the register 404: never a 0 on which a fleet would be scaled down.
    """
    if not isinstance(collector, AtomqCollector):
        raise InvalidArgument(f"the app needs an AtomqCollector, got {shown(collector)}")
    registry = CollectorRegistry(auto_describe=False)
    collector.register(registry)
    metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            status, answer = "405 Method Not Allowed", {"error": "only GET"}
        elif path == "/metrics":
            return metrics(environ, start_response)
        elif match := _BACKLOG.fullmatch(path.encode("latin-1").decode("utf-8", "replace")):
            status, answer = _backlog(collector.engine, unquote(match[1]))
        else:
            status, answer = "404 Not Found", {"error": "there are /metrics and /backlog/<queue>"}
        body = json.dumps(answer).encode() + b"\n"
        head = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(status, head)
        return [body]

    return app


def _backlog(engine: Engine, name: str) -> tuple[str, dict[str, Any]]:
    try:
        state = engine.run(calls.inspect(engine.keys(name)))
        others = [calls.inspect(engine.keys(part)) for part in state.partitions if part != name]
        states = [state, *engine.run_all(others)]
        backlog = busy = 0
        for each in states:
            if isinstance(each, AtomqError):
                raise each  # a sum without it is too small
            backlog += each.backlog
            busy += each.ready + each.due + each.unacked
        there = state.stats or state.paused or state.partitions or busy or state.delayed
        if not (there or state.dead or _is_known(engine, name)):
            text = f"there is no queue {name!r}: its first message or consumer makes it known"
            return "404 Not Found", {"error": text}
    except InvalidArgument as error:
        return "404 Not Found", {"error": str(error)}
    except AtomqError as error:
        return "503 Service Unavailable", {"error": str(error)}
    return "200 OK", {"queue": name, "backlog": backlog, "busy": busy}


def _is_known(engine: Engine, name: str) -> bool:
    """Whether the register has this queue; True where this user may not read it."""
    try:
        return name in engine.run(flows.whole_roster(engine.register.keys)).queues
    except (PermissionDenied, ScriptsNotLoaded):
        return True
