"""The Celery app of a battle; what a worker needs to know is in the environment.

Its task does what its kind says, as the workers of the library do, and writes to the same ledger.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from typing import Any

from celery import Celery, Task, signals

from tests.battle.ledger import Ledger

RETRIES = 2  # of each task that is retried


def make(broker: str, **transport_options: Any) -> Celery:
    """An app that sends tasks; in a worker that of the environment."""
    made = Celery("battle", broker=broker, set_as_default=False)
    made.conf.update(
        broker_transport_options=transport_options,
        broker_connection_retry_on_startup=True,
        task_acks_late=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=4,
        worker_proc_alive_timeout=60,
        worker_hijack_root_logger=True,
    )
    made.task(bind=True, name="battle", max_retries=RETRIES)(battle)
    return made


def battle(self: Task, n: str, kind: str, seconds: float) -> None:
    """What is retried goes on under a name of its own: each try is a message."""
    deliveries = (self.request.properties or {}).get("x-delivery-count", 1)
    ledger.note("start", n, deliveries)
    if kind == "poison":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    if kind == "forks":
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
    if kind == "hangs once" and deliveries > 1:
        seconds = 0.0
    if kind == "retried" and self.request.retries < RETRIES:
        after = f"{n}+"
        again = self.retry(args=(after, kind, seconds), countdown=0.5, throw=False)
        ledger.note("put", after, 0)
        ledger.note("end", n, deliveries)
        raise again
    if kind == "short":
        seconds = random.uniform(0, 0.1)
    if seconds:
        time.sleep(seconds)
    ledger.note("end", n, deliveries)


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
    ledger = Ledger(os.environ["BATTLE_LEDGER"])
    app = make(os.environ["BATTLE_BROKER"], **json.loads(os.environ["BATTLE_OPTIONS"]))
