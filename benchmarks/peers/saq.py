"""saq."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from saq import Queue, Worker

from benchmarks.peer import DAY, Peer, handled


class Saq(Peer):
    """Workers at their defaults: ten jobs at once."""

    async def open(self) -> None:
        self._queue = Queue.from_url(self.url, name="bench")
        await self._queue.connect()

    async def publish(self, pad: str, count: int) -> None:
        for _ in range(count):
            await self._queue.enqueue("bench", at=time.monotonic(), pad=pad, ttl=-1)

    async def delay(self, pad: str) -> None:
        due = time.time() + DAY
        await self._queue.enqueue("bench", at=time.monotonic(), pad=pad, ttl=-1, scheduled=due)

    async def consume(self, number: int) -> None:
        workers = [
            Worker(Queue.from_url(self.url, name="bench"), functions=[("bench", _handle)])
            for _ in range(number)
        ]
        await asyncio.gather(*(worker.start() for worker in workers))


async def _handle(context: Any, *, at: float, pad: str) -> None:
    handled(at)
