"""The Celery app of a battle on a cluster; what it needs to know is in the environment.

Its task writes to the same ledger as the workers of the library: see `tests.battle.worker`.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from typing import Any

from celery import Celery, Task, signals


def make(broker: str, **transport_options: Any) -> Celery:
    """An app that sends tasks; in a worker that of the environment."""
    made = Celery("battle", broker=broker, set_as_default=False)
    made.conf.update(
        broker_transport_options=transport_options,
        broker_connection_retry_on_startup=True,
        task_acks_late=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=4,
        worker_hijack_root_logger=True,
    )
    made.task(bind=True, name="battle")(battle)
    return made


def note(what: str, n: str, deliveries: int) -> None:
    # The group of processes is the worker, in each child of its pool.
    words = f"{what} {n} {deliveries} {os.getpgrp()} {time.time():.3f}\n"
    ledger = os.open(os.environ["BATTLE_LEDGER"], os.O_WRONLY | os.O_APPEND)
    os.write(ledger, words.encode())
    os.close(ledger)


def battle(self: Task, n: str, seconds: float) -> None:
    deliveries = (self.request.properties or {}).get("x-delivery-count", 0) + 1
    note("start", n, deliveries)
    time.sleep(seconds)
    note("end", n, deliveries)


@signals.worker_init.connect
def _follow(**_: Any) -> None:
    """End with the process that started the worker."""
    parent = os.getppid()

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=follow, daemon=True).start()


if "BATTLE_LEDGER" in os.environ:
    app = make(os.environ["BATTLE_BROKER"], **json.loads(os.environ["BATTLE_OPTIONS"]))
