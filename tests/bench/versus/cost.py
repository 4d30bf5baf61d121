"""What a task costs: round trips, commands and CPU of the server, tasks a second, CPU of a client."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

from tests.bench.stock import Stock
from tests.bench.versus.side import Group, Side, told
from tests.contrib.rig import Worker

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


def busy(side: Side, worker: Worker, queue: str, count: int) -> Spent:
    """Fill a queue, let the worker at it, and wait until it is done."""
    meter = side.meter
    marks = _marks(side)
    side.publish(count, queue=queue)
    worker_before, began = worker.cpu(), time.perf_counter()
    side.app.control.add_consumer(queue, reply=False)
    done, asked = side.drained(queue, 120)
    seconds = time.perf_counter() - began
    if not done:
        raise AssertionError(f"{side.name}: {side.left(queue)} of {count} tasks left\n{worker.log[-2000:]}")
    cpu = worker.cpu() - worker_before
    after = _marks(side)
    trips, commands, server = (a - b for a, b in zip(after, marks, strict=True))
    side.app.control.cancel_consumer(queue, reply=False)
    del meter
    return Spent(
        (trips - asked) / count,
        (commands - 2 * asked) / count,
        server * 1e6 / count,
        cpu * 1e6 / count,
        count / seconds,
    )


def _marks(side: Side) -> tuple[float, float, float]:
    info: Any = side.admin.info("stats")
    return info["total_reads_processed"], side.meter.commands(), side.meter.cpu()


def worker_cost(sides: list[Side], *, quick: bool, pools: Any = POOLS) -> list[Group]:
    """Round trips, commands and time of a no-op task, its publish included."""
    count, rounds = (1200, 1) if quick else (4000, 3)
    groups = {
        "trips": Group(
            "round trips a task",
            "requests the server reads for a task's whole life, its publish included",
        ),
        "commands": Group("commands a task", "commands the server runs for it, those in scripts too"),
        "server": Group("server CPU a task", "time of the server's main thread for it"),
        "worker": Group("worker CPU a task", "time of the worker's main process for it, without children"),
        "rate": Group("no-op tasks/s", "acks_late, one worker, a full queue; medians of alternating runs"),
    }
    for pool, slots in pools:
        found: dict[str, list[Spent]] = {side.name: [] for side in sides}
        workers = {}
        for side in sides:
            side.end()
            workers[side.name] = side.worker(pool, slots, queues="idle")
        for worker in workers.values():
            worker.ready()
        for turn in range(rounds + 1):
            for side in sides:
                # The first one warms up: children, scripts, bindings.
                size = count if turn else 200
                spent = busy(side, workers[side.name], f"q{turn}", size)
                if turn:
                    found[side.name].append(spent)
        for side in sides:
            side.end()
        name = f"{pool} -c{slots}"

        def of(what: str) -> tuple[list[float], list[float]]:
            return tuple([getattr(s, what) for s in found[side]] for side in ("stock", "atomq"))  # type: ignore[return-value] # noqa: B023

        stock, ours = of("trips")
        most = TRIPS.get((pool, slots), 1.3)
        groups["trips"].add(name, told(stock), told(ours), statistics.median(ours), most=most)
        stock, ours = of("commands")
        groups["commands"].add(name, told(stock), told(ours))
        stock, ours = of("server_us")
        ratio = _ratio(ours, stock)
        groups["server"].add(name, told(stock, "{:.0f} µs"), told(ours, "{:.0f} µs"), ratio, "×", most=0.4)
        stock, ours = of("worker_us")
        groups["worker"].add(
            name, told(stock, "{:.0f} µs"), told(ours, "{:.0f} µs"), _ratio(ours, stock), "×"
        )
        stock, ours = of("rate")
        groups["rate"].add(
            name,
            told(stock, "{:,.0f}"),
            told(ours, "{:,.0f}"),
            _ratio(ours, stock),
            "×",
            least=RATES.get((pool, slots)),
        )
    return list(groups.values())


def _ratio(ours: list[float], stock: list[float]) -> float:
    return statistics.median([a / b for a, b in zip(ours, stock, strict=True)])


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
                found[side.name].append([(b - a) * 1e6 / count for a, b in zip(marks, marks[1:], strict=False)])
    group = Group(
        "raw Kombu", "CPU of one client that publishes a message, consumes and acks it, without Celery"
    )
    parts = ("publish", "consume + ack")
    for i, part in enumerate(parts):
        stock, ours = ([one[i] for one in found[name]] for name in ("stock", "atomq"))
        group.add(part, told(stock, "{:.0f} µs"), told(ours, "{:.0f} µs"), _ratio(ours, stock), "×")
    stock, ours = ([sum(one) for one in found[name]] for name in ("stock", "atomq"))
    group.add("all of it", told(stock, "{:.0f} µs"), told(ours, "{:.0f} µs"), _ratio(ours, stock), "×", most=0.25)
    return [group]


def idle(sides: list[Side], *, quick: bool) -> list[Group]:
    """What lies in wait: connections of an idle worker, bytes of a queued task."""
    del quick
    group = Group("at rest", "an idle prefork worker's connections to the broker; memory of a task that waits")
    connections, size = {}, {}
    for side in sides:
        side.end()
        before = len(side.admin.client_list())
        worker = side.worker("prefork", 2, args=("-l", "WARNING"))
        worker.ready()
        side.publish(10)
        side.drained()
        time.sleep(1.5)
        own = len(side.app.pool._resource.queue) if hasattr(side.app.pool, "_resource") else 0
        del own
        mine = {os.getpid()}
        del mine
        connections[side.name] = len(side.admin.client_list()) - before
        side.end()
        side.publish(1)
        used = side.admin.info("memory")["used_memory"]
        side.publish(2000)
        size[side.name] = (side.admin.info("memory")["used_memory"] - used) / 2000
        side.end()
    group.add("connections", str(connections["stock"]), str(connections["atomq"]), connections["atomq"], most=3)
    group.add("bytes a queued task", f"{size['stock']:,.0f}", f"{size['atomq']:,.0f}")
    return [group]
