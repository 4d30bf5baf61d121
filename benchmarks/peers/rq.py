"""RQ."""

from __future__ import annotations

import time
from datetime import timedelta

from redis import Redis
from rq import Queue, SimpleWorker

from benchmarks.peer import BATCH, DAY, Peer, handled


class Rq(Peer):
    """`SimpleWorker`, which works in its own process: the default one forks for each job."""

    def open(self) -> None:
        self._client = Redis.from_url(self.url)
        self._queue = Queue("bench", connection=self._client)
        self._client.ping()

    def publish(self, pad: str, count: int) -> None:
        for _ in range(count):
            self._queue.enqueue(handle, time.monotonic(), pad, result_ttl=0)

    def publish_many(self, pad: str, count: int) -> None:
        for _ in range(count // BATCH):
            self._queue.enqueue_many(
                [
                    Queue.prepare_data(handle, (time.monotonic(), pad), result_ttl=0)
                    for _ in range(BATCH)
                ]
            )

    def delay(self, pad: str) -> None:
        self._queue.enqueue_in(timedelta(seconds=DAY), handle, time.monotonic(), pad)

    def consume(self, number: int) -> None:
        self.open()
        SimpleWorker([self._queue], connection=self._client).work(logging_level="ERROR")


def handle(at: float, pad: str) -> None:
    handled(at)
