"""One process of a peer, in the peer's own environment: a publisher, or consumers.

    python -m benchmarks.agent ADAPTER URL publish
    python -m benchmarks.agent ADAPTER URL consume NUMBER

ADAPTER is `module:Class` below `benchmarks.peers`. A publisher reads requests as lines of JSON and
answers each with one; whatever else is printed goes to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import inspect
import json
import os
import random
import signal
import string
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.peer import RECORD, Cannot, Peer

PR_SET_PDEATHSIG = 1
LARGEST = 100_000
FEWEST = 5
"""So many messages wake a consumer at least."""


class Publisher:
    """Carries out one request after another."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        letters = string.ascii_letters + string.digits  # that none may compress to nothing
        self._text = "".join(random.Random(0).choices(letters, k=LARGEST))
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)

    def wait(self, result: Any) -> None:
        """Run a coroutine to its end."""
        if inspect.isawaitable(result):
            self._loop.run_until_complete(result)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        do, pad = request["do"], self._text[: request.get("size", 0)]
        if do == "versions":
            return {name: _version(name) for name in request["names"]}
        if do == "open":
            self.wait(self._peer.open())
            return {}
        if do == "delay":
            self.wait(self._peer.delay(pad))
            return {}
        if do == "ticks":
            return self._tick(pad, request["most"], request["during"])
        publish = {"publish": self._peer.publish, "batch": self._peer.publish_many}[do]
        cpu, began = time.process_time(), time.perf_counter()
        self.wait(publish(pad, request["count"]))
        return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}

    def _tick(self, pad: str, most: int, seconds: float) -> dict[str, Any]:
        """Publish one message each time that the one before has reached its handler."""
        file, count = int(os.environ["BENCH_HANDLED"]), 0
        until, latest = time.monotonic() + seconds, time.monotonic() + seconds + 10
        while count < most and time.monotonic() < (until if count >= FEWEST else latest):
            size = os.fstat(file).st_size + RECORD.size
            self.wait(self._peer.publish(pad, 1))
            count += 1
            while os.fstat(file).st_size < size and time.monotonic() < latest:
                time.sleep(0.000_3)
            time.sleep(0.015)  # for the ack, and until the consumer waits again
        return {"count": count}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def main(adapter: str, url: str, role: str, number: str = "1") -> None:
    """Be a publisher, or consumers."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nothing outlives the run
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, _, name = adapter.partition(":")
    peer: Peer = getattr(importlib.import_module(f"benchmarks.peers.{module}"), name)(url)
    if role == "consume":
        result = peer.consume(int(number))
        if inspect.isawaitable(result):
            asyncio.run(result)  # type: ignore[arg-type]
        return
    publisher = Publisher(peer)
    for line in sys.stdin:
        try:
            answer = publisher.answer(json.loads(line))
        except Cannot as reason:
            answer = {"cannot": str(reason)}
        except Exception as error:  # noqa: BLE001 - the row says what happened
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
