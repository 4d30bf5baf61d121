"""One worker process of the battle: `python -m tests.battle.worker URL LEDGER MODE LEASE QUEUE…`.

It writes to the ledger what it does: see `tests.battle.ledger`. What a message asks for is in its
body: some kill the process, some hang, some fork, some fail the first time.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from atomq import AsyncEngine, AsyncQueue, Engine, Queue, Receiver
from atomq.errors import LeaseLost, ServerUnavailable
from tests.battle.ledger import Ledger

MODES = ("sync", "threads", "async", "cancelled")
MAX_DELIVERIES = 5
NAME = "battle"


class Work:
    """What is done with a message, and what the ledger hears of it."""

    def __init__(self, ledger: Ledger, lease: float) -> None:
        self._ledger = ledger
        self._lease = lease

    def note(self, what: str, message: Any) -> None:
        self._ledger.note(what, message.body["n"], message.deliveries)

    def seconds(self, body: dict[str, Any]) -> float:
        if body["kind"] == "longer than a lease":
            return 1.5 * self._lease
        return random.uniform(0, 0.1) if body["kind"] == "short" else 0.0

    def begin(self, message: Any) -> bool:
        """Do the part that does not wait; whether it hangs afterwards."""
        self.note("start", message)
        kind = message.body["kind"]
        if kind == "poison":
            os._exit(139)
        if kind == "forks":
            pid = os.fork()
            if pid == 0:
                gc.collect()
                os._exit(0)
            os.waitpid(pid, 0)
        if kind == "fails once" and message.deliveries == 1:
            self.note("failed", message)
            raise ValueError(message.body["n"])
        return bool(kind == "hangs once" and message.deliveries == 1)

    def handle(self, message: Any) -> None:
        if self.begin(message):
            time.sleep(3600)
        time.sleep(self.seconds(message.body))
        self.note("end", message)

    async def handle_async(self, message: Any) -> None:
        try:
            await asyncio.sleep(3600 if self.begin(message) else self.seconds(message.body))
        except asyncio.CancelledError:
            self.note("cancelled", message)
            raise
        self.note("end", message)


def options(lease: float) -> dict[str, Any]:
    return {
        "lease": lease,
        "max_lease": 4 * lease,
        "max_deliveries": MAX_DELIVERIES,
        "backoff": lambda _: 0.2,
    }


def sync(url: str, work: Work, lease: float, concurrency: int) -> None:
    queue = Queue(NAME, url, **options(lease))
    while True:
        try:
            queue.work(work.handle, concurrency=concurrency)
        except ServerUnavailable:
            time.sleep(0.1)


async def asynchronous(url: str, work: Work, lease: float, *, cancelled: bool) -> None:
    async with AsyncQueue(NAME, url, **options(lease)) as queue:
        while True:
            try:
                async with asyncio.timeout(random.uniform(0.1, 6) if cancelled else None):
                    await queue.work(work.handle_async, concurrency=4)
            except (TimeoutError, ServerUnavailable):
                await asyncio.sleep(0.05)


def several(url: str, names: list[str], work: Work, lease: float) -> None:
    """One receiver of all these queues."""
    made = options(lease)
    backoff = made.pop("backoff")
    engine = Engine(url, **made)
    queues = [Queue(name, engine, backoff=backoff) for name in names]
    while True:
        try:
            with Receiver(queues) as receiver:
                while True:
                    for message in receiver.receive(4, 5):
                        with suppress(ValueError, LeaseLost):
                            message.extend()  # those before it took their time
                            with message:
                                work.handle(message)
        except ServerUnavailable:
            time.sleep(0.1)


async def several_async(url: str, names: list[str], work: Work, lease: float) -> None:
    """A consumer each of these queues, in one event loop."""
    made = options(lease)
    backoff = made.pop("backoff")
    async with AsyncEngine(url, **made) as engine, asyncio.TaskGroup() as tasks:
        for name in names:
            queue = AsyncQueue(name, engine, backoff=backoff)
            tasks.create_task(forever(queue, work))


async def forever(queue: AsyncQueue, work: Work) -> None:
    while True:
        try:
            await queue.work(work.handle_async, concurrency=2)
        except ServerUnavailable:
            await asyncio.sleep(0.05)


def main() -> None:
    url, ledger, mode, lease = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
    names = sys.argv[5:]
    work = Work(Ledger(ledger), lease)
    parent = os.getppid()

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    if names and mode == "sync":
        several(url, names, work, lease)
    elif names:
        asyncio.run(several_async(url, names, work, lease))
    elif mode in ("sync", "threads"):
        sync(url, work, lease, 4 if mode == "threads" else 1)
    else:
        asyncio.run(asynchronous(url, work, lease, cancelled=mode == "cancelled"))


if __name__ == "__main__":
    main()
