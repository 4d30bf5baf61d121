"""Consumers that wait idle, threads of a process of their own, and say how long a message took.

A message is the `time.monotonic()` of its publisher: one clock for all processes on Linux.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

_spawn = multiprocessing.get_context("spawn")


class Waiters:
    """`number` of them on one queue: "atomq" through `Queue.consume`, "brpop" on the bare list."""

    def __init__(self, kind: str, url: str, queue: str, number: int) -> None:
        self._pipe, theirs = _spawn.Pipe()
        args = (kind, url, queue, number, theirs)
        self._process = _spawn.Process(target=_main, args=args, daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        if not self._pipe.poll(30):
            raise AssertionError("the waiters do not begin")
        self._pipe.recv()
        time.sleep(0.3)  # all of them block now
        return self

    def next(self) -> float:
        """Seconds the next message took to its handler."""
        if not self._pipe.poll(10):
            raise AssertionError("a message reached nobody within 10 s")
        seconds: float = self._pipe.recv()
        return seconds

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _main(kind: str, url: str, queue: str, number: int, pipe: Connection) -> None:
    wait, lock = {"atomq": _consume, "brpop": _brpop}[kind](url, queue), threading.Lock()

    def took(published: float) -> None:
        seconds = time.monotonic() - published
        with lock:
            pipe.send(seconds)

    for _ in range(number):
        threading.Thread(target=wait, args=(took,), daemon=True).start()
    pipe.send(0.0)
    threading.Event().wait()


def _consume(url: str, name: str) -> Callable[[Callable[[float], None]], None]:
    from atomq.queue import Queue

    queue = Queue(name, url)

    def wait(took: Callable[[float], None]) -> None:
        for message in queue.consume(prefetch=1):
            with message:
                took(message.body)

    return wait


def _brpop(url: str, name: str) -> Callable[[Callable[[float], None]], None]:
    import redis

    path = url.removeprefix("redis+socket://").partition("?")[0]
    client = redis.Redis(unix_socket_path=path, socket_timeout=None)

    def wait(took: Callable[[float], None]) -> None:
        while True:
            found: Any = client.brpop([name], timeout=0)
            took(float(found[1]))

    return wait
