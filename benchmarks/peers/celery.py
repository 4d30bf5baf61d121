"""Celery: on its own Redis transport, on celery-redis-plus, on atomq."""

from __future__ import annotations

import time
from typing import ClassVar

from celery import Celery

from benchmarks.peer import DAY, Peer, handled


class Stock(Peer):
    """`redis://`, a solo worker."""

    scheme = "redis"
    pool = "solo"
    settings: ClassVar[dict[str, str]] = {}

    def open(self) -> None:
        url = self.url.replace("redis", self.scheme, 1)
        self._app = Celery("bench", broker=url)
        self._app.conf.update(
            broker_connection_retry_on_startup=True,
            task_acks_late=True,
            task_ignore_result=True,
            worker_hijack_root_logger=False,
            worker_redirect_stdouts=False,
            **self.settings,
        )
        self._task = self._app.task(_handle, name="bench")
        self._app.connection_for_write().ensure_connection(max_retries=1)

    def publish(self, pad: str, count: int) -> None:
        for _ in range(count):
            self._task.apply_async((time.monotonic(), pad))

    def delay(self, pad: str) -> None:
        self._task.apply_async((time.monotonic(), pad), countdown=DAY)

    def consume(self, number: int) -> None:
        self.open()
        worker = self._app.Worker(
            pool=self.pool,
            concurrency=1,
            loglevel="WARNING",
            without_gossip=True,
            without_heartbeat=True,
            without_mingle=True,
        )
        worker.start()


class StockPrefork(Stock):
    """`redis://`, a prefork worker with one child."""

    pool = "prefork"


class Plus(Stock):
    """celery-redis-plus, a solo worker."""

    settings: ClassVar = {"broker_transport": "celery_redis_plus.transport:Transport"}


class Atomq(Stock):
    """`atomq://`, and nothing else changed."""

    scheme = "atomq"


class AtomqPrefork(Atomq):
    """`atomq://`, a prefork worker with one child."""

    pool = "prefork"


def _handle(at: float, pad: str) -> None:
    handled(at)
