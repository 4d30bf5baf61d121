"""What a task costs: round trips, server commands and CPU, client CPU, tasks a second."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.stock import Stock
from tests.bench.versus.side import BARE, SIDES, Group, Side, told, until
from tests.contrib.rig import Ledger, Worker

POOLS = (("prefork", 1), ("prefork", 8), ("threads", 8), ("solo", 1))
TRIPS = {("prefork", 1): 1.6}  # 1.3 in the others
RATES = {("prefork", 1): 2.2, ("threads", 8): 4.0, ("solo", 1): 4.0}


@dataclass
class Spent:
    """What one run of so many tasks took, each figure a task."""

    trips: float
    commands: float
    server_us: float
    worker_us: float
    rate: float


def busy(side: Side, worker: Worker, queue: str, count: int, task: str = "noop") -> Spent:
    """Fill a queue, let the worker at it, and wait until it is done."""
    marks = _marks(side)
    side.publish(count, task, queue=queue)
    worker_before, began = worker.cpu(), time.perf_counter()
    side.app.control.add_consumer(queue, reply=False)
    done, requests, asked = side.drained(queue, 120)
    seconds = time.perf_counter() - began
    if not done:
        left = side.left(queue)
        raise AssertionError(f"{side.name}: {left} of {count} tasks left\n{worker.log[-2000:]}")
    cpu = worker.cpu() - worker_before
    trips, commands, server = (b - a for a, b in zip(marks, _marks(side), strict=True))
    side.app.control.cancel_consumer(queue, reply=False)
    return Spent(
        (trips - requests) / count,
        (commands - asked) / count,
        server * 1e6 / count,
        cpu * 1e6 / count,
        count / seconds,
    )


def _marks(side: Side) -> tuple[float, float, float]:
    info: Any = side.admin.info("stats")
    return info["total_reads_processed"], side.meter.commands(), side.meter.cpu()


def unbound(pool: str, slots: int, count: int, directory: Path) -> float:
    """Tasks a second of the same worker with no server at all: see `memory.py`."""
    directory.mkdir(exist_ok=True)
    worker = Worker(
        "versus-memory://",
        directory,
        Ledger(directory / "ledger"),
        pool=pool,
        concurrency=slots,
        args=(*BARE, "-I", "tests.bench.versus.tasks"),
        env={"VERSUS_FILL": str(count)},
    )
    try:
        worker.await_log("versus: .* s, CPU", 90)
        found = re.search(r"versus: ([\d.]+) s, CPU", worker.log)
        assert found is not None
        return count / float(found[1])
    finally:
        worker.kill()


def worker_cost(
    sides: list[Side], *, quick: bool, pools: Sequence[tuple[str, int]] = POOLS
) -> list[Group]:
    """Round trips, commands and time of a no-op task, its publish included."""
    count, rounds = (1200, 1) if quick else (2500, 5)
    trips = Group(
        "round trips", "requests the server reads for a task's whole life, its publish included"
    )
    commands = Group("commands", "commands the server runs for a task, those inside scripts too")
    server = Group(
        "server CPU",
        "time of the server's main thread for a task, its publish included, which is two thirds of "
        "ours: a script that checks, remembers its call and wakes a consumer, beside a bare LPUSH",
    )
    client = Group(
        "worker CPU", "time of the worker's main process for a task, without its children"
    )
    rates = Group(
        "no-op tasks/s", "acks_late, one worker, a full queue; medians of alternating runs"
    )
    ceiling = Group(
        "ceiling",
        "stock: a transport in the worker's own memory, without a server: what Celery itself "
        "takes; a solo worker waits for the server once in four tasks, it may hold no more",
    )
    for pool, slots in pools:
        name = f"{pool} -c{slots}"
        found: dict[str, list[Spent]] = {side.name: [] for side in sides}
        best: list[float] = []
        workers = {}
        for side in sides:
            side.end()
            workers[side.name] = side.worker(pool, slots, queues="idle")
        for worker in workers.values():
            worker.ready()
        for turn in range(rounds + 1):
            for side in sides:
                # The first one warms up: children, scripts, bindings.
                spent = busy(side, workers[side.name], f"q{turn}", count if turn else 200)
                if turn:
                    found[side.name].append(spent)
            if turn and not quick:
                best.append(unbound(pool, slots, count, sides[0].directory / "memory"))
        for side in sides:
            side.end()

        _compare(trips, name, found, "trips", "{:.2f}", most=TRIPS.get((pool, slots), 1.3))
        _compare(commands, name, found, "commands", "{:.1f}")
        _compare(server, name, found, "server_us", "{:.0f} µs", ratio=True, most=0.4)
        _compare(client, name, found, "worker_us", "{:.0f} µs", ratio=True)
        _compare(rates, name, found, "rate", "{:,.0f}", ratio=True, least=RATES.get((pool, slots)))
        if best and "atomq" in found:
            ours = [one.rate for one in found["atomq"]]
            least = 0.75 if (pool, slots) in RATES else None
            ceiling.add(
                name,
                told(best, "{:,.0f}"),
                told(ours, "{:,.0f}"),
                _ratio(ours, best),
                "×",
                least=least,
            )
    return [group for group in (trips, commands, server, client, rates, ceiling) if group.rows]


def _compare(
    group: Group,
    name: str,
    found: dict[str, list[Spent]],
    what: str,
    form: str,
    *,
    ratio: bool = False,
    most: float | None = None,
    least: float | None = None,
) -> None:
    values = {side: [getattr(one, what) for one in some] for side, some in found.items()}
    texts = [told(values[side], form) if side in values else "" for side in SIDES]
    value: float | None = None
    if not ratio:
        value = statistics.median(values["atomq"]) if "atomq" in values else None
    elif len(values) == len(SIDES):
        value = _ratio(values["atomq"], values["stock"])
    group.add(name, texts[0], texts[1], value, "×" if ratio else "", most=most, least=least)


def _ratio(ours: list[float], stock: list[float]) -> float:
    return statistics.median([a / b for a, b in zip(ours, stock, strict=True)])


def green(sides: list[Side], *, quick: bool) -> list[Group]:
    """Tasks that wait, in the pools that are made for them."""
    count, rounds = (50, 1) if quick else (150, 3)
    group = Group(
        "waiting tasks/s",
        "acks_late, tasks that wait for 0.1 s, ten places, `worker_prefetch_multiplier=1`: 100 a "
        "second at best; Celery acks there between two waits for messages only, and a worker that "
        "is full gets none; medians of alternating runs",
    )
    for pool in ("gevent", "eventlet"):
        found: dict[str, list[Spent]] = {side.name: [] for side in sides}
        options = {"queues": "idle", "worker_prefetch_multiplier": 1}
        workers = {side.name: side.worker(pool, 10, **options).ready() for side in sides}
        for side in sides:
            # A greenlet of its own listens for `add_consumer`: it begins once the worker is ready.
            assert until(partial(side.app.control.ping, timeout=0.5), 30), f"{side.name} is deaf"
        for turn in range(rounds):
            for side in sides:
                spent = busy(side, workers[side.name], f"q{turn}", count, "wait")
                found[side.name].append(spent)
        for side in sides:
            side.end()
        _compare(group, f"{pool} -c10", found, "rate", "{:,.0f}", ratio=True)
    return [group]


def raw(sides: list[Side], *, quick: bool) -> list[Group]:
    """Kombu without Celery: CPU of the client that publishes, consumes and acks."""
    count, rounds = (1000, 3) if quick else (3000, 7)
    found: dict[str, list[list[float]]] = {side.name: [] for side in sides}
    for turn in range(rounds + 1):
        for side in sides:
            with Stock(side.url, "raw") as peer:
                peer.publish({"n": 1}, 20)
                peer.consume()
                marks = [time.process_time()]
                peer.publish({"n": 1, "text": "x" * 200}, count)
                marks.append(time.process_time())
                peer.consume()
                marks.append(time.process_time())
            if turn:
                spent = [(b - a) * 1e6 / count for a, b in pairwise(marks)]
                found[side.name].append([*spent, sum(spent)])
    group = Group(
        "raw Kombu", "CPU of a client without Celery that publishes a message, consumes and acks it"
    )
    for i, (part, most) in enumerate(
        (("publish", None), ("consume + ack", None), ("all of it", 0.25))
    ):
        stock, ours = ([one[i] for one in found[name]] for name in SIDES)
        told_stock, told_ours = told(stock, "{:.0f} µs"), told(ours, "{:.0f} µs")
        group.add(part, told_stock, told_ours, _ratio(ours, stock), "×", most=most)
    return [group]


def idle(sides: list[Side], *, quick: bool) -> list[Group]:
    """What lies in wait: connections of an idle worker, bytes of a queued task."""
    del quick
    group = Group(
        "at rest",
        "connections to the broker of an idle prefork worker; memory of a task that waits",
    )
    connections, size = {}, {}
    for side in sides:
        side.end()
        side.publish(1)  # our own connections are there now
        before = len(side.admin.client_list())
        worker = side.worker("prefork", 2, args=("-l", "WARNING")).ready()
        side.drained()
        time.sleep(1.5)
        connections[side.name] = len(side.admin.client_list()) - before
        worker.kill()
        side.end()
        side.publish(1)
        used = side.admin.info("memory")["used_memory"]  # type: ignore[index]
        side.publish(2000)
        size[side.name] = (side.admin.info("memory")["used_memory"] - used) / 2000  # type: ignore[index]
        side.end()
    texts = [str(connections.get(side, "")) for side in SIDES]
    group.add("connections of an idle worker", *texts, connections.get("atomq"), most=3)
    texts = [f"{size[side]:,.0f}" if side in size else "" for side in SIDES]
    group.add("bytes of a queued task", *texts)
    return [group]
