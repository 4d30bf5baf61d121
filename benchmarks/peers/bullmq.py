"""BullMQ's Python package."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

from bullmq import Queue, Worker

from benchmarks.peer import BATCH, DAY, Peer, handled


class Bullmq(Peer):
    """One job at once a worker. Ids are UUIDs, so that `deep` finds them."""

    async def open(self) -> None:
        self._queue = Queue("bench", {"connection": self.url})

    async def publish(self, pad: str, count: int) -> None:
        for _ in range(count):
            await self._queue.add("bench", _data(pad), _options())

    async def publish_many(self, pad: str, count: int) -> None:
        for _ in range(count // BATCH):
            await self._queue.addBulk(
                [{"name": "bench", "data": _data(pad), "opts": _options()} for _ in range(BATCH)]
            )

    async def delay(self, pad: str) -> None:
        await self._queue.add("bench", _data(pad), {**_options(), "delay": int(DAY * 1000)})

    async def consume(self, number: int) -> None:
        workers = [Worker("bench", _handle, {"connection": self.url}) for _ in range(number)]
        await asyncio.Event().wait()
        assert workers


def _data(pad: str) -> dict[str, Any]:
    return {"at": time.monotonic(), "pad": pad}


def _options() -> dict[str, Any]:
    return {"jobId": str(uuid.uuid4()), "removeOnComplete": True}


async def _handle(job: Any, token: str) -> None:
    handled(job.data["at"])
