"""All that may go wrong, at random, under all pools and kinds of task at once: nothing is lost."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from kombu.exceptions import OperationalError

from tests.contrib.rig import KIND, LONG, POOLS, Place, Worker
from tests.servers import KINDS, Server, wait_until

SECONDS = 200.0 if LONG else 12.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(SECONDS + 300),
    pytest.mark.parametrize("kind", KINDS if LONG else [KIND], indirect=True),
]

LEASE = 2
OPTIONS = {"lease": LEASE, "visibility_timeout": 3600, "max_deliveries": 3}
POISON = 0.2 if LONG else 0.0  # each costs some five workers, which take seconds to start
HUNG = 0.5 if LONG else 0.0  # each holds its place for four leases, or until its pool ends it
FORKS = 5 if LONG else 0
# In eventlet Celery acks a task that a cold shutdown kills, and says so nowhere.
KILLED_COLD = ("prefork", "threads", "solo", "gevent")
# What Celery says of its own pools: they cannot end a task, or may not wait in a signal handler.
OWN_TROUBLE = ("kill_job", "BlockingSwitchOutError")


class Chaos:
    """Workers of every pool on one queue, somebody who sends, and mishaps."""

    def __init__(self, at: Place, seed: int) -> None:
        self.at = at
        self.chance = random.Random(seed)
        self.sent: dict[str, str] = {}
        self.cancelled: set[str] = set()
        self.refused = self.poisoned = 0
        self.mishaps: Counter[str] = Counter()
        self.workers = [self.begun(pool) for pool in POOLS]
        self.gone: list[Worker] = []
        self._stop = threading.Event()
        self._sender = threading.Thread(target=self._send)

    def begun(self, pool: str) -> Worker:
        slots = 1 if pool == "solo" else 2
        return self.at.worker(pool, slots, broker_transport_options=OPTIONS)

    # ── who sends ─────────────────────────────────────────────────────────────────────────────

    def _send(self) -> None:
        chance = random.Random(self.chance.random())
        kinds: dict[str, Callable[[], str]] = {
            "plain": lambda: self.at.send("work"),
            "short": lambda: self.at.send("work", chance.uniform(0, 0.1)),
            "longer than a lease": lambda: self.at.send("work", LEASE * 1.5),
            "later": lambda: self.at.send("work", countdown=chance.uniform(0, 4)),
            "retried": lambda: self.at.send("retried", 2, 0.5),
            "with a priority": lambda: self.at.send("work", priority=chance.choice((0, 3, 6, 9))),
            "poison": lambda: self.at.send("poison"),
            "hung": lambda: self.at.send("work", LEASE * 4, time_limit=LEASE * 1.5),
            "forks": lambda: self.at.send("forks"),
        }
        weights = [20, 20, 1, 5, 5, 5, POISON, HUNG, FORKS]
        while not self._stop.is_set():
            (kind,) = chance.choices(list(kinds), weights)
            try:
                self.sent[kinds[kind]()] = kind
            except OperationalError:
                self.refused += 1
            self._stop.wait(chance.uniform(0, 0.03))

    # ── what goes wrong ───────────────────────────────────────────────────────────────────────

    def kill(self, worker: Worker) -> None:
        worker.kill()
        self._replace(worker)

    def stop(self, worker: Worker) -> None:
        worker.send_signal(signal.SIGTERM)
        self._replace(worker)

    def stop_cold(self, worker: Worker) -> None:
        worker.send_signal(signal.SIGQUIT if worker.pool in KILLED_COLD else signal.SIGTERM)
        self._replace(worker)

    def suspend(self, worker: Worker) -> None:
        worker.freeze()
        time.sleep(LEASE * 1.5)
        worker.thaw()

    def restart_server(self, _: Worker) -> None:
        self.at.server.kill()
        time.sleep(self.chance.uniform(0, 1.5))
        self.at.server.start()

    def cut_connections(self, _: Worker) -> None:
        for kind in ("normal", "pubsub"):
            with suppress(redis.ConnectionError):
                self.at.db.execute_command("CLIENT", "KILL", "TYPE", kind)

    def forget_scripts(self, _: Worker) -> None:
        self.at.db.script_flush()

    def cancel(self, _: Worker) -> None:
        """Revoke some tasks of late; one that runs is ended, where its pool can."""
        some = self.chance.sample([*self.sent][-20:], min(3, len(self.sent)))
        self.cancelled.update(some)
        with suppress(OperationalError):
            self.at.app.control.revoke(some, terminate=True, signal="SIGKILL")

    def supervise(self) -> None:
        """Begin anew what a poison message killed."""
        for worker in [one for one in self.workers if not one.alive]:
            self.poisoned += 1
            self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        self.gone.append(worker)
        self.workers[self.workers.index(worker)] = self.begun(worker.pool)

    # ── from begin to end ─────────────────────────────────────────────────────────────────────

    def run(self, seconds: float) -> None:
        for worker in self.workers:
            worker.ready()
        self._sender.start()
        mishaps = (
            self.kill,
            self.stop,
            self.stop_cold,
            self.suspend,
            self.restart_server,
            self.cut_connections,
            self.forget_scripts,
            *([self.cancel] if LONG else []),
        )
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(self.chance.uniform(0.5, 3))
                self.supervise()
                mishap = self.chance.choice(mishaps)
                mishap(self.chance.choice(self.workers))
                self.mishaps[mishap.__name__] += 1
        finally:
            self._stop.set()
            self._sender.join()
        for worker in self.gone:
            # As supervisors do. One that stops may wait for a lock that it holds itself (Celery's
            # threads), or half a minute for a child (billiard).
            with suppress(AssertionError):
                worker.ended(10)
            worker.kill()


@pytest.fixture
def own(own_server: Server, tmp_path: Path) -> Iterator[Place]:
    """A broker on a server that may be killed. Results lie elsewhere: a task whose result cannot be
    stored is forgotten by all pools but prefork, and runs again after a lease.
    """
    with Server(own_server.kind) as results:
        at = Place(own_server, tmp_path, backend=results.url)
        try:
            yield at
        finally:
            at.close()


def test_whatever_happens_no_task_is_lost(own: Place) -> None:
    seed = random.randrange(1 << 30)
    chaos = Chaos(own, seed)
    chaos.run(SECONDS)

    def worked_off() -> bool:
        chaos.supervise()
        state = own.state()
        return state.ready + state.unacked + state.delayed == 0

    wait_until("the queue to be empty", worked_off, 180 if LONG else 60)
    ends, starts = own.ledger.ends(), own.ledger.starts()
    print(f"seed {seed}: {len(chaos.sent)} sent, {chaos.refused} refused; {dict(chaos.mishaps)}")
    print(f"{chaos.poisoned} workers killed by poison; tasks by how often they ended:")
    print(dict(Counter(ends[one] for one in chaos.sent if chaos.sent[one] != "poison")))
    dead = {one.raw.partition(b'"id": "')[2][:36].decode(): one.reason for one in own.peek("dead")}
    for one, reason in dead.items():
        # When a retry cannot be sent, Celery rejects the task for good.
        assert (chaos.sent[one], reason) in (
            ("retried", "rejected"),
            ("poison", "max_deliveries"),
        ), own.peek("dead")
    over = {*ends, *dead, *chaos.cancelled}
    over |= {one for one, kind in chaos.sent.items() if kind == "hung" and starts[one]}
    left = [(one, kind) for one, kind in chaos.sent.items() if one not in over]
    assert left == []
    for worker in chaos.workers:
        assert worker.alive, worker.log[-3000:]
    for worker in chaos.gone:
        for line in worker.log.splitlines():
            assert "Unrecoverable" not in line or any(w in line for w in OWN_TROUBLE), worker.log
