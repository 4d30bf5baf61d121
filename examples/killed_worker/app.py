"""A Celery app whose worker is killed. Nothing in it knows what its broker is but the URL."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from celery import Celery, signals

VISIBILITY_TIMEOUT = 3  # seconds: after so long what a dead worker held may be handed out again

app = Celery("killed", broker=os.environ.get("BROKER_URL", "atomq://localhost:6379/0"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": VISIBILITY_TIMEOUT},
    task_acks_late=True,  # a task that was running when its worker died runs again:
    task_reject_on_worker_lost=True,  # Celery's own default is to forget it
    task_ignore_result=True,
)


@app.task(name="work")
def work(seconds: float) -> None:
    """What a task does here is to take so long."""
    time.sleep(seconds)


# Each worker notes what it receives, begins and ends, in a file that outlives workers and brokers.


def _note(what: str, task: str) -> None:
    words = {"worker": os.environ["WORKER"], "what": what, "task": task, "at": time.time()}
    with open(os.environ["NOTES"], "ab", buffering=0) as file:  # noqa: PTH123 - one write, at the end
        file.write(json.dumps(words).encode() + b"\n")


def _ready(**_: Any) -> None:
    _note("ready", "")


def _received(request: Any, **_: Any) -> None:
    _note("received", request.id)


def _began(task_id: str, **_: Any) -> None:
    _note("began", task_id)


def _ended(task_id: str, **_: Any) -> None:
    _note("ended", task_id)


if "NOTES" in os.environ:
    signals.worker_ready.connect(_ready)
    signals.task_received.connect(_received)
    signals.task_prerun.connect(_began)
    signals.task_postrun.connect(_ended)
