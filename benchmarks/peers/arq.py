"""arq."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func

from benchmarks.peer import DAY, Peer, handled


class Arq(Peer):
    """Workers at their defaults, which look twice a second and run ten jobs at once."""

    async def open(self) -> None:
        self._pool = await create_pool(RedisSettings.from_dsn(self.url))

    async def publish(self, pad: str, count: int) -> None:
        for _ in range(count):
            await self._pool.enqueue_job("bench", time.monotonic(), pad)

    async def delay(self, pad: str) -> None:
        await self._pool.enqueue_job("bench", time.monotonic(), pad, _defer_by=DAY)

    async def consume(self, number: int) -> None:
        workers = [
            Worker(
                [func(_handle, name="bench")],
                redis_settings=RedisSettings.from_dsn(self.url),
                handle_signals=False,
                keep_result=0,
            )
            for _ in range(number)
        ]
        await asyncio.gather(*(worker.async_run() for worker in workers))


async def _handle(context: Any, at: float, pad: str) -> None:
    handled(at)
