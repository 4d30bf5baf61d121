"""taskiq with the stream broker of taskiq-redis."""

from __future__ import annotations

import asyncio
import time

from taskiq.receiver import Receiver
from taskiq_redis import RedisStreamBroker

from benchmarks.peer import Cannot, Peer, handled


class Stream(Peer):
    """The broker that acknowledges. Its group reads from the stream's beginning.

    Emptying the server removes the group. At the default, a group made by the worker that comes
    next would never read what was published before.
    """

    async def open(self) -> None:
        self._broker = RedisStreamBroker(self.url, queue_name="bench", consumer_id="0-0")
        self._task = self._broker.task(task_name="bench")(_handle)
        await self._broker.startup()

    async def publish(self, pad: str, count: int) -> None:
        for _ in range(count):
            await self._task.kiq(time.monotonic(), pad)

    async def delay(self, pad: str) -> None:
        raise Cannot("delays are kept by a scheduler, a process beside the workers")

    async def consume(self, number: int) -> None:
        await asyncio.gather(*(self._consume() for _ in range(number)))

    async def _consume(self) -> None:
        broker = RedisStreamBroker(self.url, queue_name="bench", consumer_id="0-0")
        broker.task(task_name="bench")(_handle)
        broker.is_worker_process = True
        await Receiver(broker, max_async_tasks=100).listen(asyncio.Event())


async def _handle(at: float, pad: str) -> None:
    handled(at)
