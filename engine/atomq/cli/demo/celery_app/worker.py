"""What the workers load: `celery -A atomq.cli.demo.celery_app.worker worker`.

The app, and a note of each task that starts, in a file: it outlives workers, connections and
servers, so nothing that is started twice goes unseen.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from celery import signals

from atomq.cli.demo.celery_app.app import build
from atomq.cli.demo.celery_app.minder import SETTINGS

_settings: dict[str, Any] = json.loads(os.environ[SETTINGS])
app = build(**_settings["app"])


def _note(**words: Any) -> None:
    line = json.dumps({"worker": _settings["worker"], "at": time.time(), **words}) + "\n"
    with open(_settings["notes"], "ab", buffering=0) as file:  # noqa: PTH123 - one write, at the end
        file.write(line.encode())


def _ready(**_: Any) -> None:
    _note(ready=os.getpid())


def _starts(task_id: str, task: Any, **_: Any) -> None:
    properties = task.request.properties
    _note(
        start=task_id,
        deliveries=properties["x-delivery-count"],
        holder=properties["delivery_tag"].rpartition("-")[0],
    )


signals.worker_ready.connect(_ready)
signals.task_prerun.connect(_starts)
