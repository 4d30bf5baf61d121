"""What is measured, one function a workload: each returns figures a message, or a second."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import redis

from benchmarks import deep
from benchmarks.field import Entrant
from benchmarks.meter import Meter, Reading
from benchmarks.peer import BATCH, Cannot
from benchmarks.processes import Consumers, Failed, Handled, Publisher

Figures = dict[str, float]


@dataclass(frozen=True)
class Scale:
    """How long each part goes on."""

    rounds: int
    publish: float
    """Seconds that a series of publishes should take; the others likewise."""
    consume: float
    tick: float
    ticks: int
    idle: float
    backlog: int
    sizes: tuple[int, ...]
    workloads: tuple[str, ...]
    minutes: float
    """When so many have passed, nothing more is begun."""


ALL = (
    "publish",
    "consume 1",
    "consume 4",
    "wait 1",
    "wait 16",
    "wait 64",
    "deep ready",
    "deep delayed",
)
FULL = Scale(
    rounds=3,
    publish=0.5,
    consume=1.0,
    tick=1.5,
    ticks=60,
    idle=2.05,
    backlog=1_000_000,
    sizes=(100, 1_000, 100_000),
    workloads=ALL,
    minutes=27.5,
)
QUICK = Scale(
    rounds=1,
    publish=0.2,
    consume=0.4,
    tick=0.5,
    ticks=20,
    idle=2.05,
    backlog=10_000,
    sizes=(100, 100_000),
    workloads=("publish", "consume 1", "wait 1", "deep ready"),
    minutes=2.7,
)


class Bench:
    """One peer on the server, for one workload."""

    def __init__(
        self,
        entrant: Entrant,
        admin: redis.Redis,
        meter: Meter,
        handled: Handled,
        publisher: Publisher,
        consumers: Callable[[], Consumers],
        scale: Scale,
    ) -> None:
        self.entrant, self.scale = entrant, scale
        self._admin, self._meter, self._handled = admin, meter, handled
        self._publisher, self._consumers = publisher, consumers

    def run(self, workload: str) -> Mapping[str, Figures | str]:
        """The figures of this workload, by the name of its part, or why there are none.

        Raises `Cannot` and `Failed`.
        """
        if workload in self.entrant.cannot:
            raise Cannot(self.entrant.cannot[workload])
        self._handled.clear()
        self._flush()
        self._publisher.ask("publish", size=1, count=0)
        name, _, argument = workload.partition(" ")
        parts: dict[str, Callable[[], Mapping[str, Figures | str]]] = {
            "publish": self._publish,
            "consume": partial(self._consume, argument),
            "wait": partial(self._wait, argument),
            "deep": partial(self._deep, argument),
        }
        return parts[name]()

    def _flush(self) -> None:
        """Forget all, and have the memory back at once."""
        self._admin.execute_command("FLUSHALL", "SYNC")

    # publish

    def _publish(self) -> dict[str, Figures | str]:
        found: dict[str, Figures | str] = {
            f"publish {size}": self._series("publish", size, most=20_000_000 // max(size, 1000))
            for size in self.scale.sizes
        }
        try:
            found["batch 100"] = self._series("batch", 100, most=100_000)
        except Cannot as reason:
            found["batch 100"] = str(reason)
        return found

    def _series(self, do: str, size: int, most: int) -> Figures:
        self._flush()
        few = BATCH if do == "batch" else 40
        warm = self._publisher.ask(do, size=size, count=few)
        count = int(few / warm["seconds"] * self.scale.publish)
        fewest = 1000 if size <= 1000 else BATCH  # a message's share of what grows in steps
        count = max(fewest, min(most, count) // BATCH * BATCH)
        self._flush()
        self._publisher.ask(do, size=size, count=few)
        begin = self._meter.read()
        answer = self._publisher.ask(do, size=size, count=count, seconds=60)
        spent = self._meter.spent(begin)
        return {
            **_each(spent, count),
            "rate": count / answer["seconds"],
            "client_us": answer["cpu"] * 1e6 / count,
            "memory": spent.memory / count,
        }

    # consume

    @contextlib.contextmanager
    def _running(self, *shares: int) -> Iterator[Consumers]:
        """Consumers that have handled a first message and wait for more."""
        consumers = self._consumers()
        try:
            consumers.run(shares)
            self._publisher.ask("publish", size=100, count=1)
            self._handled.wait(1, 20)
            if sum(shares) > 1:
                consumers.settle(20)
            yield consumers
        finally:
            consumers.end()

    def _consume(self, number: str) -> dict[str, Figures]:
        found: dict[str, Figures] = {}
        with self._running(*[1] * int(number)) as consumers:
            count = self._gauge(30 * int(number))
            with consumers.stopped():
                self._publisher.ask("publish", size=100, count=count, seconds=60)
                self._handled.clear()
                begin = self._meter.read(consumers.sessions)
            self._handled.wait(count, 20 + 3 * self.scale.consume)
            time.sleep(0.05)  # the last acks
            found[f"consume {number}"] = {
                **_each(self._meter.spent(begin, consumers.sessions), count),
                "rate": _rate(self._handled),
            }
            if number == "1":
                found["tasks"] = self._tasks(consumers, count)
        return found

    def _gauge(self, few: int) -> int:
        """How many messages these consumers handle in the seconds they are to be measured."""
        self._publisher.ask("publish", size=100, count=few)  # what is done once, is done now
        self._handled.wait(1 + few, 20)
        self._handled.clear()
        began = time.monotonic()
        self._publisher.ask("publish", size=100, count=few)
        self._handled.wait(few, 20)
        reached = few / (time.monotonic() - began)
        return int(max(40, min(20_000, reached * self.scale.consume)))

    def _tasks(self, consumers: Consumers, count: int) -> Figures:
        """From the first publish to the last handler, with the consumer running."""
        self._handled.clear()
        sessions = consumers.sessions + self._publisher.sessions
        begin, began = self._meter.read(sessions), time.monotonic()
        self._publisher.ask("publish", size=100, count=count, seconds=60)
        self._handled.wait(count, 20 + 3 * self.scale.consume)
        last = self._handled.read()[-1][1]
        time.sleep(0.05)
        spent = self._meter.spent(begin, sessions)
        return {**_each(spent, count), "rate": count / (last - began)}

    # wait

    def _wait(self, number: str) -> dict[str, Figures]:
        left, shares = int(number), []
        while left:
            shares.append(min(left, self.entrant.most))
            left -= shares[-1]
        with self._running(*shares) as consumers:
            time.sleep(0.3)
            begin, began = self._meter.read(consumers.sessions), time.monotonic()
            time.sleep(self.scale.idle)
            seconds = time.monotonic() - began
            idle = _each(self._meter.spent(begin, consumers.sessions), seconds)
            self._handled.clear()
            begin, began = self._meter.read(consumers.sessions), time.monotonic()
            self._publisher.ask("ticks", size=100, most=self.scale.ticks, during=self.scale.tick)
            seconds = time.monotonic() - began
            spent = self._meter.spent(begin, consumers.sessions)
            taken = sorted((came - sent) * 1e3 for sent, came in self._handled.read())
        if len(taken) < 2:
            raise Failed(f"handled {len(taken)} messages within {seconds:.0f} s")
        count = len(taken)
        return {
            f"idle {number}": idle,
            f"wake {number}": {
                "p50": statistics.median(taken),
                "p95": taken[int(count * 0.95)],
                "commands": spent.commands / count - idle["commands"] * seconds / count,
                "round_trips": spent.round_trips / count - idle["round_trips"] * seconds / count,
            },
        }

    # a deep backlog

    def _deep(self, kind: str) -> dict[str, Figures]:
        """A million messages that are ready, or due in a day, while others go through."""
        if self.entrant.stored_as:
            raise Cannot(f"stored as {self.entrant.stored_as}")
        memory = self._meter.read().memory
        if kind == "delayed":
            self._publisher.ask("delay", size=100)
        else:
            self._publisher.ask("publish", size=100, count=1)
        until = time.monotonic() + 40
        number = deep.fill(
            self._admin,
            self.scale.backlog,
            later=kind == "delayed",
            ended=lambda: time.monotonic() > until,
        )
        memory = self._meter.read().memory - memory
        few, begin = 100, self._meter.read()
        self._publisher.ask("publish", size=100, count=few)
        publish = self._meter.spent(begin)
        with self._running(1) as consumers:
            if kind == "ready":
                self._handled.wait(few, 10)
                before, begin = self._handled.count(), self._meter.read(consumers.sessions)
                time.sleep(self.scale.consume)
                self._handled.wait(before + 20, 10)
                count = self._handled.count() - before
            else:
                self._handled.wait(1 + few, 10)
                count = self._gauge(30)
                with consumers.stopped():
                    self._publisher.ask("publish", size=100, count=count)
                    self._handled.clear()
                    begin = self._meter.read(consumers.sessions)
                self._handled.wait(count, 20)
            spent = self._meter.spent(begin, consumers.sessions)
        return {
            f"deep {kind}": {
                **_each(spent, count),
                "publish_us": publish.server_us / few,
                "messages": number,
                "memory": memory / number,
            }
        }


def _each(spent: Reading, count: float) -> Figures:
    return {
        "commands": spent.commands / count,
        "round_trips": spent.round_trips / count,
        "bytes": spent.bytes / count,
        "server_us": spent.server_us / count,
        "client_us": spent.client_us / count,
    }


def _rate(handled: Handled) -> float:
    times = [came for _, came in handled.read()]
    return (len(times) - 1) / max(times[-1] - times[0], 1e-6)
