"""streaQ."""

from __future__ import annotations

import time
from typing import Any

from anyio import create_task_group
from streaq import Worker

from benchmarks.peer import BATCH, DAY, Peer, handled


class Streaq(Peer):
    """Workers at their defaults: 16 tasks at once."""

    async def open(self) -> None:
        self._worker, self._task = self._make()
        await self._worker.__aenter__()

    def _make(self) -> tuple[Any, Any]:
        worker: Any = Worker(redis_url=self.url, queue_name="bench", handle_signals=False)
        return worker, worker.task(name="bench", silent=True, ttl=0)(_handle)

    async def publish(self, pad: str, count: int) -> None:
        for _ in range(count):
            await self._task.enqueue(time.monotonic(), pad)

    async def publish_many(self, pad: str, count: int) -> None:
        for _ in range(count // BATCH):
            tasks = [self._task.enqueue(time.monotonic(), pad) for _ in range(BATCH)]
            await self._worker.enqueue_many(tasks)

    async def delay(self, pad: str) -> None:
        await self._task.enqueue(time.monotonic(), pad).start(delay=int(DAY))

    async def consume(self, number: int) -> None:
        async with create_task_group() as group:
            for _ in range(number):
                group.start_soon(self._make()[0].run_async)


async def _handle(at: float, pad: str) -> None:
    handled(at)
