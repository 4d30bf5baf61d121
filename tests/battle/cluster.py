"""One trial on a cluster: workers of the library and of Celery, producers, and mishaps at random.

There is a queue of the library and one of Celery in the slots of each shard, and one of Celery with
partitions on all of them. Afterwards every
message whose put was confirmed, by a replica too, must have been worked on to its end; and each
start beyond the first must have a mishap that explains it. Moves of slots, planned failovers, nodes
that join, shards that stand still or end and come back, cut connections and forgotten scripts
explain none.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomq import AsyncEngine, AsyncQueue, Engine, Queue
from atomq.errors import AtomqError, DurabilityUnavailable, NotDurable, ServerUnavailable
from atomq.keys import QueueKeys
from atomq.partitions import PartitionMap
from tests.battle import celery_app, pools
from tests.battle.judge import LEASE, Judge, Outcome
from tests.battle.ledger import Event, read
from tests.battle.shards import Shards
from tests.battle.trial import Process, library, send, spawn
from tests.servers import wait_until
from tests.threads import running

LIBRARY = ("sync", "async")
POOLS = ("prefork", "threads", "gevent")
PARTITIONS = {"spread": 6}
CELERY_OPTIONS: dict[str, Any] = {
    "lease": LEASE,
    "max_deliveries": 20,
    "durability": "replicas=1",
    "partitions": PARTITIONS,
}
PAUSE = 0.05  # between two puts of a producer, on average
UPSET = "its shard failed over, and the new primary had not heard of all"
UNASKED = "the same, and no mishap had asked for it"
AWAY = (ServerUnavailable, NotDurable, DurabilityUnavailable)


@dataclass
class Put:
    """A message whose put was confirmed."""

    queue: str
    kind: str


class ClusterTrial:
    """A cluster of its own, workers, producers and mishaps."""

    def __init__(
        self,
        kind: str,
        directory: Path,
        seed: int,
        modes: tuple[str, ...] = (*LIBRARY, *LIBRARY, *POOLS),
        calm: float = 1.0,
        event: str | None = None,
    ) -> None:
        """`event` is the one mishap of the cluster that befalls it; by default any of them does."""
        self.outcome = Outcome()
        self.chance = random.Random(seed)
        self._calm = calm
        self._directory = directory
        self._ledger = directory / "ledger"
        self._ledger.touch()
        self._put: dict[str, Put] = {}
        self._judge = Judge()
        self._modes, self._workers = list(modes), list[Process]()
        self._stop = threading.Event()
        self.names = _spread("l") if {*LIBRARY} & {*modes} else []
        self.celery_names = [*_spread("c"), *PARTITIONS] if {*POOLS} & {*modes} else []
        self._slots_of = {name: _slots(name) for name in self.names + self.celery_names}
        slots = [*itertools.chain(*self._slots_of.values())]
        self._shards = Shards(kind, slots, self.chance, directory)
        self._judge.late = POOLS
        self._judge.away = self._away
        mishaps = self._shards.mishaps()
        self._mishaps = [m for m in mishaps if event in (None, m.__name__)]
        self._lock = threading.Lock()

    # ── workers, as a supervisor keeps them ───────────────────────────────────────────────────

    def _url(self, scheme: str) -> str:
        return ";".join(f"{scheme}://127.0.0.1:{port}" for port in self._shards.ports)

    def _begun(self, mode: str) -> Process:
        log = self._directory / f"{mode}.log"
        if mode in POOLS:
            url, queues = self._url("atomq-cluster"), self.celery_names
            worker = pools.begin(mode, url, CELERY_OPTIONS, self._ledger, queues, log)
        else:
            url = self._url("redis+cluster")
            worker = spawn(library(mode, url, self._ledger, self.names), log)
        self._judge.mode_of[worker.pid] = mode
        return worker

    def _supervise(self) -> None:
        for i, worker in enumerate(self._workers):
            if worker.poll() is not None:
                if worker.pid not in self._judge.died:  # none of our mishaps
                    self._judge.has_died(worker.pid)
                    self.outcome.unexplained.append(
                        f"a worker ({self._modes[i]}) ended by itself: {worker.returncode}"
                    )
                self.outcome.deaths += 1
                self._workers[i] = self._begun(self._modes[i])

    def kill_worker(self) -> None:
        worker = self.chance.choice(self._workers)
        self._judge.has_died(worker.pid)
        send(worker, signal.SIGKILL)
        worker.wait()

    def freeze_worker(self) -> None:
        """For longer than a lease."""
        worker, began = self.chance.choice(self._workers), time.time()
        send(worker, signal.SIGSTOP)
        time.sleep(1.5 * LEASE)
        send(worker, signal.SIGCONT)
        self._judge.frozen.append((worker.pid, began, time.time()))

    # ── the producers ─────────────────────────────────────────────────────────────────────────

    def _message(self, prefix: str, n: int) -> dict[str, Any]:
        kinds = {"plain": 200, "short": 60, "longer than a lease": 3, "fails once": 8}
        (kind,) = random.choices(list(kinds), list(kinds.values()))
        return {"n": f"{prefix}{n}", "kind": kind}

    def _delay(self) -> float:
        return random.choice([0, 0, 0, random.uniform(0, 3)])

    def _sync(self, engine: Engine, name: str) -> None:
        queue = Queue(name, engine, durability="replicas=1")
        for n in itertools.count():
            body, delay = self._message(f"sync.{name}.", n), self._delay()
            while not self._stop.wait(random.uniform(0, 2 * PAUSE)):
                with suppress(*AWAY):  # the next try is under the same id
                    queue.put(body, id=body["n"], delay=delay)
                    self._put[body["n"]] = Put(name, body["kind"])
                    break
            else:
                return

    def _async(self) -> None:
        async def produce(engine: AsyncEngine, name: str) -> None:
            queue, n, again = AsyncQueue(name, engine, durability="replicas=1"), 0, None
            while not self._stop.is_set():
                body, delay = again or (self._message(f"async.{name}.", n), self._delay())
                try:
                    await queue.put(body, id=body["n"], delay=delay)
                    self._put[body["n"]] = Put(name, body["kind"])
                    again, n = None, n + 1
                except AWAY:
                    again = body, delay
                await asyncio.sleep(random.uniform(0, 2 * PAUSE))

        async def all_of_them() -> None:
            engine = AsyncEngine(self._url("redis+cluster"), lease=LEASE, durability_timeout=1)
            async with engine, asyncio.TaskGroup() as tasks:
                for name in self.names:
                    tasks.create_task(produce(engine, name))

        asyncio.run(all_of_them())

    def _celery(self, name: str) -> None:
        url = self._url("atomq-cluster")
        app = celery_app.make(url, **CELERY_OPTIONS, durability_timeout=1)
        kinds = {"plain": 200, "short": 60, "longer than a lease": 3}
        n = 0
        while not self._stop.wait(random.uniform(0, 2 * PAUSE)):
            (kind,) = random.choices(list(kinds), list(kinds.values()))
            n += 1
            body = f"celery.{name}.{n}"
            # A task that was refused, or may have been taken, is not sent again nor counted.
            with suppress(Exception):
                task, more = app.tasks["battle"], {"countdown": d} if (d := self._delay()) else {}
                task.apply_async(
                    (body, kind, pools.SECONDS.get(kind, 0)), queue=name, retry=False, **more
                )
                self._put[body] = Put(name, "celery")
        app.close()

    # ── from begin to end ─────────────────────────────────────────────────────────────────────

    def run(self, seconds: float, say: Callable[[str], None] = lambda _: None) -> Outcome:
        with self._shards:
            try:
                self._workers = [self._begun(mode) for mode in self._modes]
                with Engine(
                    self._url("redis+cluster"), lease=LEASE, durability_timeout=1
                ) as engine:
                    self._run(engine, seconds, say)
            finally:
                self._stop.set()
                for worker in self._workers:
                    send(worker, signal.SIGKILL)
                    worker.wait()
        return self.outcome

    def _run(self, engine: Engine, seconds: float, say: Callable[[str], None]) -> None:
        self._states(engine)  # which partitions there are is written down
        end = time.monotonic() + seconds
        producers: list[Callable[[], object]] = [self._async]
        producers += [lambda name=name: self._sync(engine, name) for name in self.names]
        producers += [lambda name=name: self._celery(name) for name in self.celery_names]

        def trouble_workers() -> None:
            while time.monotonic() < end and not self._stop.wait(self._rest(1, 3)):
                self._befall(self.chance.choice([self.kill_worker, self.freeze_worker]))

        with running(*producers, trouble_workers, stop=self._stop, seconds=60):
            while time.monotonic() < end:
                mishap = self._befall(self.chance.choice(self._mishaps))
                self._shards.await_whole()
                left, done = end - time.monotonic(), sum(self.outcome.mishaps.values())
                say(f"{left:4.0f} s left, {len(self._put)} put, {done} mishaps, last {mishap}")
                self._supervise()
                time.sleep(self._rest(0.1, 1))
        self.outcome.put = len(self._put)
        say("the rest is worked off")
        try:
            wait_until("the queues to be empty", lambda: self._is_empty(engine), 60)
        except AssertionError as error:
            self.outcome.unexplained.append(f"{error}: {self._states(engine)}")
        self._count(engine)

    def _rest(self, least: float, most: float) -> float:
        return self.chance.uniform(least, most) * self._calm

    def _befall(self, mishap: Callable[[], None]) -> str:
        name = mishap.__name__
        self._judge.mishaps.append((name, time.time()))
        mishap()
        self.outcome.mishaps[name] += 1
        return name

    def _is_empty(self, engine: Engine) -> bool:
        self._supervise()
        try:
            return not self._states(engine)
        except AtomqError:
            return False

    def _states(self, engine: Engine) -> dict[str, Any]:
        """Of the queues that are not empty, as far as they answer."""
        states = {name: _queue(name, engine).state() for name in self._slots_of}
        return {
            name: at
            for name, at in states.items()
            if at.ready + at.delayed + at.unacked or at.unanswered
        }

    # ── the ledger ────────────────────────────────────────────────────────────────────────────

    def _count(self, engine: Engine) -> None:
        out = self.outcome
        failovers = self._shards.judge()
        events = read(self._ledger)
        dead = [letter for name in self._slots_of for letter in _queue(name, engine).peek("dead")]
        out.unexplained += [f"a dead letter: {letter.name} {letter.reason}" for letter in dead]
        done = {n for n, seen in events.items() if any(event.what == "end" for event in seen)}
        out.lost = sorted(n for n in self._put if n not in done)
        self._judge.count(events, out, self._why)
        if out.lost or out.unexplained:
            self._shards.keep_logs()
            (self._directory / "failovers").write_text("\n".join(failovers))

    def _slots_of_message(self, n: str) -> list[int]:
        return self._slots_of[n.split(".")[1]]

    def _away(self, n: str) -> list[tuple[float, float]]:
        """When the slots of a message took no acks: of those with partitions, some of them."""
        slots = self._slots_of_message(n)
        return [(a.since, a.until) for a in self._shards.away if a.slots.intersection(slots)]

    def _why(self, seen: list[Event], second: Event, _: int) -> str | None:
        """What else explains that a message was started again: a failover."""
        first = seen[0]
        slots = self._slots_of_message(first.n)
        for upset in self._shards.upsets:
            if (
                upset.slots.intersection(slots)
                and upset.began <= second.at
                and first.at - LEASE <= upset.ended
            ):
                return UPSET if upset.is_mishap else UNASKED
        return None


def _queue(name: str, engine: Engine) -> Queue:
    count = PARTITIONS.get(name)
    return Queue(name, engine) if count is None else Queue(name, engine, partitions=count)


def _slots(name: str) -> list[int]:
    """That of a queue, or of each of its partitions, as long as no slot has moved."""
    found = PartitionMap.spread(
        name, PARTITIONS.get(name, 1), shards=range(3), shard_of=lambda slot: slot * 3 // 16384
    )
    return [_slot(each) for each in found.names]


def _slot(name: str) -> int:
    return QueueKeys(name, layout="cluster").slot


def _spread(prefix: str) -> list[str]:
    """A name for the slots of each of three shards."""
    names = [f"{prefix}{n}" for n in range(64)]
    return [next(name for name in names if _slot(name) * 3 // 16384 == i) for i in range(3)]
