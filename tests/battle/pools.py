"""The same trial with Celery: a worker of each of its pools on one queue.

They are stopped too, warm and cold, and tasks are cancelled.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Any

from kombu.exceptions import OperationalError

from atomq.calls import Peeked
from tests.battle import celery_app
from tests.battle.judge import ACKED_LATE, LEASE
from tests.battle.ledger import Event
from tests.battle.trial import Process, Trial, environment, send, spawn
from tests.battle.worker import MAX_DELIVERIES, NAME
from tests.contrib.nursery import FORKS, Forked
from tests.servers import Server, wait_until

POOLS = ("prefork", "threads", "solo", "gevent", "eventlet")
MAX_LEASE = 3 * LEASE
OPTIONS = {
    "lease": LEASE,
    "max_lease": MAX_LEASE,
    "max_deliveries": MAX_DELIVERIES,
    "visibility_timeout": 3600,
}
SHORT = {  # how often of each; a task that is retried is three
    "plain": 200,
    "short": 200,
    "longer than a lease": 10,
    "later": 50,
    "retried": 50,
    "with a priority": 50,
    "forks": 50,
}
LONG = {**SHORT, "hangs once": 5, "poison": 1}
SECONDS = {"longer than a lease": 1.5 * LEASE, "hangs once": 4 * LEASE}
# In eventlet Celery acks a task that a cold shutdown kills, and says so nowhere.
STOPPED_COLD = ("prefork", "threads", "solo", "gevent")
# What Celery says of its own pools: they cannot end a task, or may not wait in a signal handler.
OWN_TROUBLE = ("kill_job", "BlockingSwitchOutError")
COLD = "its worker was stopped cold"
SENT_AGAIN = "the try before it was started again, and sent it again"
# What Celery 5.7 does, on any broker.
# AsynPool.flush: a connection that is lost has it forget each task whose begin it has not read yet.
UNREAD = "Celery lost its connection before its prefork pool had read that the task began"
# Its event loop, which acks what prefork and threads have done, stands still meanwhile.
CUT_OFF = "its process died or was frozen before Celery was connected again and had acked it"
# Consumer.call_soon_ack leaves acks to the event loop, which waits for TaskPool.on_stop.
UNACKED = "its worker stopped: Celery acks what threads have done once all of them are done"
_CONNECTION = re.compile(
    r"^\[([\d-]+ [\d:,]+): [^\]]+\] (?:consumer: Connection to broker (lost)|Connected to)",
    re.MULTILINE,
)
_numbers = itertools.count(1)


def begin(
    pool: str, broker: str, options: dict[str, Any], ledger: Path, queues: list[str], log: Path
) -> Process:
    """Start a Celery worker of two slots; in the pool solo there is one."""
    words = ["-A", "tests.battle.celery_app", "--skip-checks", "worker", "-P", pool]
    words += ["-c", "1" if pool == "solo" else "2", "-l", "INFO", "-Q", ",".join(queues)]
    words += ["-n", f"{log.stem}@battle", "--without-mingle"]
    about = {
        "BATTLE_LEDGER": str(ledger),
        "BATTLE_BROKER": broker,
        "BATTLE_OPTIONS": json.dumps(options),
    }
    if FORKS:
        return Forked(pool, words, environment(**about), log.parent, log)
    return spawn(["celery", *words], log, **about)


class CeleryTrial(Trial):
    """A worker of each pool; what it works off in the short form kills and hangs no worker."""

    MODES = POOLS
    REST = (0.5, 3)

    def __init__(
        self, server: Server, directory: Path, seed: int, kinds: dict[str, float] | None = None
    ) -> None:
        super().__init__(server, directory, seed)
        self.max_lease = MAX_LEASE
        self.judge.late = POOLS
        self.often = LONG if kinds is None else kinds
        self._url = server.url.replace("redis", "atomq", 1)
        self._app = celery_app.make(self._url)
        self.cold: dict[int, float] = {}  # which worker was asked to stop so, and when
        self.warm: dict[int, float] = {}
        self._leaving: list[tuple[Process, float]] = []  # and since when
        self._cancelled: set[str] = set()
        self._refused: dict[str, str] = {}  # what kinds
        self.logs: dict[int, Path] = {}

    # ── workers ───────────────────────────────────────────────────────────────────────────────

    def begin(self, mode: str) -> Process:
        log = self.directory / f"{mode}{next(_numbers)}.log"
        worker = begin(mode, self._url, OPTIONS, self.ledger, [NAME], log)
        self.logs[worker.pid] = log
        return worker

    def await_workers(self) -> None:
        for worker in self.workers:
            wait_until("a worker to be ready", lambda at=worker: " ready." in self._log(at.pid), 60)

    def _log(self, worker: int) -> str:
        return self.logs[worker].read_text(errors="replace")

    def supervise(self) -> None:
        super().supervise()
        for worker, since in [*self._leaving]:
            # As supervisors do. One that stops may wait for a lock that it holds itself (Celery's
            # threads), or half a minute for a child (billiard).
            if worker.poll() is None and time.time() - since > 10:
                self.judge.has_died(worker.pid)
                send(worker, signal.SIGKILL)
                worker.wait()
            if worker.poll() is not None:
                send(worker, signal.SIGKILL)  # what it left behind
                self._leaving.remove((worker, since))

    def close(self) -> None:
        self.workers += [worker for worker, _ in self._leaving]
        super().close()
        self._app.close()

    # ── what goes wrong ───────────────────────────────────────────────────────────────────────

    def mishaps(self) -> list[Callable[[], None]]:
        return [
            *(self.kill, self.stop_warm, self.stop_cold, self.freeze, self.restart_server),
            *(self.cut_connections, self.forget_scripts, self.cancel),
        ]

    def freeze_one(self, worker: Process) -> None:
        """With its children, or without them."""
        if self.chance.random() < 0.5:
            super().freeze_one(worker)
        else:
            worker.send_signal(signal.SIGSTOP)
            time.sleep(1.5 * LEASE)
            worker.send_signal(signal.SIGCONT)

    def stop_warm(self) -> None:
        worker = self.chance.choice(self.workers)
        self.warm[worker.pid] = time.time()
        self._stop(worker, signal.SIGTERM)

    def stop_cold(self) -> None:
        some = [w for w in self.workers if self.judge.mode_of[w.pid] in STOPPED_COLD]
        worker = self.chance.choice(some)
        self.cold[worker.pid] = time.time()
        self._stop(worker, signal.SIGQUIT)

    def _stop(self, worker: Process, number: int) -> None:
        worker.send_signal(number)  # to the parent of its pool alone
        self._leaving.append((worker, time.time()))
        self.replace(worker)

    def cancel(self) -> None:
        """Revoke some tasks of late; one that runs is ended, where its pool can."""
        some = self.chance.sample([*self.kinds][-20:], min(3, len(self.kinds)))
        self._cancelled.update(some)
        with suppress(OperationalError):
            self._app.control.revoke(some, terminate=True, signal="SIGKILL")

    # ── the producer ──────────────────────────────────────────────────────────────────────────

    def produce(self, chance: random.Random) -> None:
        for n in map(str, itertools.count()):
            if self.stop.wait(chance.uniform(0, 0.03)):
                return
            kind, more = self.kind(chance), dict[str, Any]()
            if kind == "later":
                more["countdown"] = chance.uniform(0, 4)
            elif kind == "with a priority":
                more["priority"] = chance.choice((0, 3, 6, 9))
            elif kind == "hangs once":
                more["time_limit"] = 1.5 * LEASE
            args = (n, kind, SECONDS.get(kind, 0.0))
            try:
                self._app.tasks["battle"].apply_async(args, task_id=n, queue=NAME, **more)
            except OperationalError:
                self._refused[n] = kind  # and maybe taken; it is not sent again
            else:
                self.kinds[n] = kind

    # ── what the ledger says ──────────────────────────────────────────────────────────────────

    def kind_of(self, n: str) -> str:
        first = n.rstrip("+")
        return super().kind_of(first) or self._refused.get(first, "")

    def message_of(self, letter: Peeked) -> str:
        body = json.loads(base64.b64decode(json.loads(letter.raw)["body"]))
        return str(body[0][0])

    def may_die(self, n: str, letter: Peeked) -> bool:
        """Celery rejects a task whose retry it could not send."""
        is_unsent = self.kind_of(n) == "retried" and letter.reason == "rejected"
        return is_unsent or super().may_die(n, letter)

    def may_be_lost(self, n: str, seen: list[Event]) -> bool:
        """What was cancelled, or begun and ended at its time limit."""
        is_begun = any(event.what == "start" for event in seen)
        return n.rstrip("+") in self._cancelled or (is_begun and self.hung(n))

    def why(
        self, events: dict[str, list[Event]], seen: list[Event], second: Event, count: int
    ) -> str | None:
        first, last = seen[0], self.judge.last_moment(seen, second)
        before = events.get(first.n.removesuffix("+"), [])
        if self.cold.get(first.worker, last + 1) <= last:
            return COLD
        if first.n.endswith("+") and count < sum(e.what == "start" for e in before):
            return SENT_AGAIN
        mode, away = self.judge.mode_of[first.worker], self._away(first.worker)
        if mode == "prefork" and any(-0.1 < since - first.at < 0.5 for since, _ in away):
            return UNREAD
        died = self.judge.died.get(first.worker, second.at + 1)
        frozen = [since for worker, since, _ in self.judge.frozen if worker == first.worker]
        ends = [e.at for e in seen if e.what == "end" and e.pid == first.pid]
        for end, (since, until) in itertools.product(ends, away):
            late = min(second.at, until + ACKED_LATE)
            if since <= end <= until and any(end <= at <= late for at in (died, *frozen)):
                return CUT_OFF
        is_over = died <= second.at or second.at - first.at > self.max_lease - 0.5
        if is_over and mode == "threads" and self.warm.get(first.worker, last + 1) <= last:
            return UNACKED
        return super().why(events, seen, second, count)

    def _away(self, worker: int) -> list[tuple[float, float]]:
        """From when to when a worker had no connection, as it says itself."""
        found, since = [], None
        for words, is_lost in _CONNECTION.findall(self._log(worker)):
            at = datetime.strptime(words, "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()
            if is_lost:
                since = at
            elif since is not None:
                found.append((since, at))
                since = None
        return found if since is None else [*found, (since, inf)]

    def _count(self) -> None:
        super()._count()
        for worker, mode in self.judge.mode_of.items():
            for line in self._log(worker).splitlines():
                if "Unrecoverable" in line and not any(words in line for words in OWN_TROUBLE):
                    self.outcome.unexplained.append(f"{mode}: {line}")
