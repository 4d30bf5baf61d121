"""Stands beside one `celery worker`: starts it, stops it, and does not let it outlive the demo.

Both are one process group, so one signal takes them and the worker's children away.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from atomq.cli.demo.stage import settings_of_worker

SETTINGS = "ATOMQ_DEMO_WORKER"  # in the environment of the worker: a URL may hold a password
SLOTS = 2  # tasks that a worker runs at once


def without_celerys(environment: dict[str, str]) -> dict[str, str]:
    """An environment in which nothing says that Celery should use another server."""
    return {name: value for name, value in environment.items() if not name.startswith("CELERY_")}


def _mind(settings: dict[str, Any]) -> int:
    """Until the worker has ended; its exit code."""
    number = settings["worker"]
    command = ["worker", "-c", str(SLOTS), "-n", f"worker{number}@%h", "-l", "WARNING"]
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "celery", "-A", "atomq.cli.demo.celery_app.worker", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=without_celerys(dict(os.environ))
        # A worker that is killed leaves its temporary files behind: in what the stage removes.
        | {SETTINGS: json.dumps(settings), "TMPDIR": str(Path(settings["notes"]).parent)},
    )
    signal.signal(signal.SIGTERM, lambda *_: worker.terminate())
    return worker.wait()


if __name__ == "__main__":
    code = _mind(settings_of_worker())
    if code < 0:  # by a signal: so does the minder, and the demo sees what it was
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
