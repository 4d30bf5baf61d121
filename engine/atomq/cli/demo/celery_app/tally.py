"""What the second act counts: tasks sent, started and done."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from atomq import Peeked
from atomq.cli.demo.celery_app.plan import MEASURES, Job
from atomq.message import Envelope

PUNCTUAL = 0.005  # seconds by which two clocks of one machine may differ in what they round


def task_of(peeked: Peeked) -> str:
    """The id of the task a message is about."""
    return str(Envelope(peeked.raw).headers["id"])


class Clocks:
    """By how much the server's clock is ahead of ours."""

    def __init__(self) -> None:
        self._took = float("inf")
        self._ahead = 0.0

    def asked(self, before: float, now_ms: int, after: float) -> None:
        """Between two times of ours it was `now_ms` there. The quickest answer is believed."""
        if after - before < self._took:
            self._took = after - before
            self._ahead = now_ms / 1000 - (before + after) / 2

    def server(self, at: float) -> float:
        """A time of ours, by the server's clock."""
        return at + self._ahead


@dataclass(frozen=True)
class Start:
    """One time that a task was started."""

    worker: int
    at: float
    """Seconds since 1970 by the server's clock."""
    deliveries: int


class Tally:
    """Notes of workers and results, as they come."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        """What was sent, by task id."""
        self.due: dict[str, float] = {}
        """When tasks with an ETA were due, by the server's clock."""
        self.starts: dict[str, list[Start]] = {}
        self.results: dict[str, Any] = {}
        self.failed: dict[str, str] = {}
        """Tasks that raised, and what."""
        self.first_at = self.last_at = 0.0
        self.publishing = 0.0
        """Tasks sent a second."""
        self.wrong = 0
        """Results that are not what is computed here, and tasks that failed."""
        self._right: dict[Job, Any] = {}
        self._unchecked: list[str] = []

    def start(self, task: str, start: Start) -> None:
        """A worker has started a task."""
        self.starts.setdefault(task, []).append(start)

    def finish(self, task: str, state: str, result: Any) -> None:
        """A task has ended."""
        if self.jobs[task].task in MEASURES:
            self.last_at = time.monotonic()
            self.first_at = self.first_at or self.last_at
        if state == "SUCCESS":
            self.results[task] = result
            self._unchecked.append(task)
        else:
            self.failed[task] = f"{state}: {result}"
            self.wrong += 1

    @property
    def by_worker(self) -> Counter[int]:
        """Results by the number of the worker."""
        done = self.starts.keys() & self.results.keys()
        return Counter(self.starts[task][-1].worker for task in done)

    @property
    def completed(self) -> int:
        """Tasks that have ended."""
        return len(self.results) + len(self.failed)

    @property
    def pending(self) -> set[str]:
        """Tasks that have not."""
        return self.jobs.keys() - self.results.keys() - self.failed.keys()

    def check(self, seconds: float | None = None) -> None:
        """Compute here what the workers computed, and compare; for so long at most."""
        from atomq.cli.demo.celery_app import tasks

        until = time.monotonic() + seconds if seconds is not None else float("inf")
        while self._unchecked and time.monotonic() < until:
            task = self._unchecked.pop()
            job = self.jobs[task]
            if job.task == "wait":
                right = job.args[0]
            else:
                key = Job(job.task, job.args)
                if key not in self._right:
                    self._right[key] = getattr(tasks, job.task).run(*job.args)
                right = self._right[key]
            self.wrong += self.results[task] != right

    @property
    def redelivered(self) -> set[str]:
        """Tasks that were handed out more than once, or started more than once."""
        return {
            task
            for task, starts in self.starts.items()
            if len(starts) > 1 or any(start.deliveries > 1 for start in starts)
        }

    @property
    def restarted(self) -> set[str]:
        """Tasks that were started more than once."""
        return {task for task, starts in self.starts.items() if len(starts) > 1}

    def late(self, apart: set[str]) -> dict[str, float]:
        """By how many seconds each task with an ETA started after it, without those `apart`."""
        return {
            task: starts[0].at - due
            for task, due in self.due.items()
            if task not in apart and (starts := self.starts.get(task))
        }

    @property
    def per_second(self) -> float:
        """Tasks a second, from the first result to the last, the long task's apart."""
        span = self.last_at - self.first_at
        return self.completed / span if span > 0 else 0.0
