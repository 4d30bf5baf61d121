"""The Celery app of these tests: what a worker process loads, and what a test sends.

Everything comes from the environment, so that one module serves every worker. Each start and end of
a task is a line in one ledger file: it outlives brokers, workers and connections.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import celery
from celery import Celery, Task, signals
from celery.exceptions import Ignore, Reject
from kombu import compression

LEDGER = os.environ.get("ATOMQ_TEST_LEDGER", os.devnull)


def make(broker: str, backend: str | None = None, **conf: Any) -> Celery:
    """An app with these tasks; in a worker that of the environment."""
    app = Celery("contrib", broker=broker, backend=backend, set_as_default=False)
    app.conf.update(
        worker_hijack_root_logger=True,
        broker_connection_retry_on_startup=True,
        worker_proc_alive_timeout=60,
        task_default_queue="celery",
    )
    app.conf.update(conf)
    for name, (function, options) in TASKS.items():
        app.task(function, name=name, **options)
    return app


def note(*words: Any) -> None:
    """One line in the ledger, in one write."""
    line = " ".join(_one(word) for word in (*words, os.getpid(), f"{time.time():.6f}")) + "\n"
    with Path(LEDGER).open("a") as file:
        file.write(line)


def _one(word: Any) -> str:
    """One word, whatever a message says its id is: `" "`, `""`."""
    text = str(word)
    return text if text.split() == [text] else quote(text, errors="replace") or "%"


def _quits(body: bytes) -> bytes:
    """Decompress: the worker that does it first is told to stop at once, in the midst of it."""
    if "quit" not in Path(LEDGER).read_text():
        note("quit")
        os.kill(os.getpid(), signal.SIGQUIT)
    return body


compression.register(bytes, _quits, "application/x-quits", ["quits"])


class _Slow:
    """What keeps a child of prefork while it reads its task, until the ledger says `go`."""

    def __reduce__(self) -> Any:
        return _read_slowly, ()


def _read_slowly() -> None:
    note("reads")
    while "go" not in Path(LEDGER).read_text().split():
        time.sleep(0.01)


@signals.task_received.connect
def _slowed(request: Any, **_: Any) -> None:
    if request.kwargs.get("value") == "slowly":
        request.request_dict["slow"] = _Slow()


TASKS: dict[str, tuple[Any, dict[str, Any]]] = {}


def task(**options: Any) -> Any:
    """Declare a task of every app made here."""

    def declared(function: Any) -> Any:
        TASKS[function.__name__] = (function, {"bind": True, **options})
        return function

    return declared


def started(self: Task) -> None:
    note("start", self.request.id, self.name)


def ended(self: Task) -> None:
    note("end", self.request.id, self.name)


@task(acks_late=True)
def work(self: Task, seconds: float = 0.0, value: Any = None) -> Any:
    """Sleep and return `value`; acked when done."""
    started(self)
    if seconds:
        time.sleep(seconds)
    ended(self)
    return value


@task(acks_late=False)
def early(self: Task, seconds: float = 0.0) -> None:
    """The same, acked before it starts."""
    started(self)
    if seconds:
        time.sleep(seconds)
    ended(self)


@task(acks_late=True)
def poison(self: Task) -> None:
    """Kills its worker with all its children, as an OOM killer does."""
    started(self)
    os.killpg(os.getpgrp(), signal.SIGKILL)


@task(acks_late=True)
def forks(self: Task) -> None:
    """Makes a process that ends at once."""
    started(self)
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    ended(self)


@task(acks_late=True)
def info(self: Task) -> dict[str, Any]:
    """What the request says of its delivery."""
    started(self)
    request = self.request
    return {
        "redelivered": (request.delivery_info or {}).get("redelivered"),
        "count": (request.properties or {}).get("x-delivery-count"),
        "headers": sorted(request.headers or ()),
        "retries": request.retries,
        "eta": request.eta,
    }


@task(acks_late=True, max_retries=3)
def retried(self: Task, times: int, countdown: float) -> int:
    """Retry `times` times, `countdown` seconds apart."""
    started(self)
    if self.request.retries < times:
        raise self.retry(countdown=countdown)
    ended(self)
    return int(self.request.retries)


@task(autoretry_for=(KeyError,), retry_backoff=False, default_retry_delay=0.5, max_retries=2)
def flaky(self: Task) -> str:
    """Fails with an error that Celery retries by itself, until the last time.

    Celery says that it retries after it has sent the retry: were that one sooner done, its result
    would be overwritten.
    """
    started(self)
    if self.request.retries < 2:
        raise KeyError("not yet")
    return "well"


@task()
def listens(self: Task, seconds: float) -> float:
    """Wait for a message that nobody sends; how long that took."""
    began = time.monotonic()
    with self.app.connection_for_read() as connection, connection.SimpleQueue("silent") as queue:
        try:
            queue.get(timeout=seconds)
        except queue.Empty:
            return time.monotonic() - began
    raise AssertionError("somebody sent one")


@task(acks_late=True)
def rejected(self: Task, requeue: bool) -> None:
    started(self)
    raise Reject("told to", requeue=requeue)


@task(acks_late=True)
def ignored(self: Task) -> None:
    started(self)
    raise Ignore


@task(acks_late=True)
def failing(self: Task) -> None:
    started(self)
    raise ValueError("a task that fails")


@task(acks_late=True)
def unsent(self: Task, what: str) -> None:
    """Its retry cannot be published."""
    started(self)
    raise self.retry(kwargs={what: 1})


@task(acks_late=True, acks_on_failure=False)
def refused(self: Task, what: str) -> None:
    """Celery rejects its message when it fails."""
    started(self)
    raise ValueError(what)


@task(acks_late=True, reject_on_worker_lost=True)
def deadly(self: Task, how: str = "exit") -> None:
    """Ends the process that runs it."""
    started(self)
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.SIGKILL)


@task(acks_late=True)
def leaving(self: Task, how: str = "exit") -> None:
    """Ends by what is no `Exception`, as what calls sys.exit() does."""
    started(self)
    if how == "exit":
        sys.exit(3)
    raise {"interrupt": KeyboardInterrupt, "cancel": asyncio.CancelledError}[how]


@task(acks_late=True)
def hungry(self: Task) -> None:
    """Celery's worker ends of what it raises."""
    started(self)
    raise MemoryError


@task(acks_late=True)
def fatal(self: Task) -> None:
    """Ends the worker and all its children, as who runs out of memory may."""
    started(self)
    os.killpg(os.getpgrp(), signal.SIGKILL)


@task(acks_late=True, rate_limit="5/s")
def limited(self: Task) -> None:
    started(self)


@task()
def collected(self: Task, values: list[Any]) -> list[Any]:
    """The end of a chord."""
    started(self)
    return values


@task()
def tick(self: Task) -> None:
    started(self)


@task()
def vitals(self: Task) -> dict[str, Any]:
    """What this worker process holds open. Meant for pools that run tasks in it."""
    from kombu.asynchronous import get_event_loop

    loop = get_event_loop()
    return {
        "fds": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "on_tick": len(loop.on_tick) if loop is not None else 0,
        "timers": len(loop.timer.queue) if loop is not None else 0,
    }


@signals.worker_init.connect
def _vitals_by_signal(**_: Any) -> None:
    """SIGUSR2: write the vitals of the worker's own process into the ledger."""

    def write(*_: Any) -> None:
        note("vitals", json.dumps(vitals(None), separators=(",", ":")))

    signal.signal(signal.SIGUSR2, write)


if os.environ.get("ATOMQ_TEST_WORKER"):
    app = make(
        os.environ["ATOMQ_TEST_BROKER"],
        os.environ.get("ATOMQ_TEST_BACKEND"),
        **json.loads(os.environ.get("ATOMQ_TEST_CONF", "{}")),
    )
    if os.environ.get("ATOMQ_TEST_WORKER") == "beat":
        app.conf.beat_schedule = {"every-second": {"task": "tick", "schedule": 1.0}}
    __all__ = ["app", "celery"]
