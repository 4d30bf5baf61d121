"""atomq's library, through what a user of it holds."""

from __future__ import annotations

import asyncio
import threading
import time

from atomq import AsyncQueue, Queue
from benchmarks.peer import BATCH, DAY, Peer, handled


def _body(pad: str) -> dict[str, object]:
    return {"at": time.monotonic(), "pad": pad}


class Sync(Peer):
    """`Queue`, one message a claim."""

    prefetch = 1

    def open(self) -> None:
        self._queue = Queue("bench", self.url)
        self._queue.state()

    def publish(self, pad: str, count: int) -> None:
        for _ in range(count):
            self._queue.put(_body(pad))

    def publish_many(self, pad: str, count: int) -> None:
        for _ in range(count // BATCH):
            self._queue.put_many([_body(pad) for _ in range(BATCH)])

    def delay(self, pad: str) -> None:
        self._queue.put(_body(pad), delay=DAY)

    def consume(self, number: int) -> None:
        self.open()
        for _ in range(number):
            threading.Thread(target=self._consume, daemon=True).start()
        threading.Event().wait()

    def _consume(self) -> None:
        for message in self._queue.consume(prefetch=self.prefetch):
            with message:
                handled(message.body["at"])


class Batches(Sync):
    """`Queue`, up to 64 messages a claim."""

    prefetch = 64


class Async(Peer):
    """`AsyncQueue`, up to 64 messages a claim."""

    async def open(self) -> None:
        self._queue = AsyncQueue("bench", self.url)
        await self._queue.state()

    async def publish(self, pad: str, count: int) -> None:
        for _ in range(count):
            await self._queue.put(_body(pad))

    async def publish_many(self, pad: str, count: int) -> None:
        for _ in range(count // BATCH):
            await self._queue.put_many([_body(pad) for _ in range(BATCH)])

    async def delay(self, pad: str) -> None:
        await self._queue.put(_body(pad), delay=DAY)

    async def consume(self, number: int) -> None:
        await self.open()
        await asyncio.gather(*(self._consume() for _ in range(number)))

    async def _consume(self) -> None:
        async for message in self._queue.consume(prefetch=64):
            async with message:
                handled(message.body["at"])
