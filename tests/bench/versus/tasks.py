"""Tasks that a worker of these scenarios loads beside those of `tests.contrib.app`.

Each is as little as can be, so that what is measured is the broker.
"""

from __future__ import annotations

import importlib
import os
import time
from typing import Any

from celery import shared_task, signals

if os.environ.get("VERSUS_FILL"):
    importlib.import_module("tests.bench.versus.memory")  # its transport registers itself

_LEDGER = os.open(
    os.environ.get("ATOMQ_TEST_LEDGER", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT
)


@shared_task(name="noop", acks_late=True, ignore_result=True)
def noop() -> None:
    """Nothing."""


@shared_task(name="wait", acks_late=True, ignore_result=True)
def wait() -> None:
    """As a request to somebody else would."""
    time.sleep(0.1)


@shared_task(name="mark", bind=True, acks_late=True, ignore_result=True)
def mark(self: Any) -> None:
    """Its id, in one write: cheap enough for a busy queue."""
    _note(self)


def _note(task: Any) -> None:
    os.write(_LEDGER, f"start {task.request.id} {task.name} {os.getpid()} 0\n".encode())


@shared_task(name="hold", bind=True, acks_late=True, ignore_result=True)
def hold(self: Any) -> None:
    """As `mark`, but where VERSUS_HOLD is set it does not end."""
    _note(self)
    if os.environ.get("VERSUS_HOLD"):
        time.sleep(3600)


@signals.worker_ready.connect
def _say_so(**_: Any) -> None:
    print("versus: the worker is ready.", flush=True)
