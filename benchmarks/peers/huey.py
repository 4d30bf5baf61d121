"""Huey."""

from __future__ import annotations

import time

from huey import RedisHuey

from benchmarks.peer import DAY, Peer, handled


class Huey(Peer):
    """A consumer with a thread for each that waits, and its scheduler."""

    def open(self) -> None:
        self._huey = RedisHuey("bench", url=self.url, results=False)
        self._task = self._huey.task(name="bench")(_handle)

    def publish(self, pad: str, count: int) -> None:
        for _ in range(count):
            self._task(time.monotonic(), pad)

    def delay(self, pad: str) -> None:
        self._task.schedule(args=(time.monotonic(), pad), delay=int(DAY))

    def consume(self, number: int) -> None:
        self.open()
        self._huey.create_consumer(workers=number).run()


def _handle(at: float, pad: str) -> None:
    handled(at)
