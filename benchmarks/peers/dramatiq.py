"""Dramatiq's Redis broker."""

from __future__ import annotations

import threading
import time

from dramatiq import Actor, Worker, actor
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peer import DAY, Peer, handled


class Dramatiq(Peer):
    """One worker has its eight threads; where several wait, each has one."""

    def open(self) -> None:
        self._broker = RedisBroker(url=self.url)
        self._actor: Actor = actor(_handle, actor_name="bench", broker=self._broker)

    def publish(self, pad: str, count: int) -> None:
        for _ in range(count):
            self._actor.send(time.monotonic(), pad)

    def delay(self, pad: str) -> None:
        self._actor.send_with_options(args=(time.monotonic(), pad), delay=int(DAY * 1000))

    def consume(self, number: int) -> None:
        self.open()
        for _ in range(number):
            Worker(self._broker, worker_threads=8 if number == 1 else 1).start()
        threading.Event().wait()


def _handle(at: float, pad: str) -> None:
    handled(at)
