"""A worker of the first act: takes files from one queue and puts what it found on another.

This is all a program needs to be a worker. The lease of what it holds is renewed behind its back,
also while it sits at one file for longer than a lease lasts.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from atomq import Engine, Message, Queue
from atomq.cli.demo.stage import settings_of_worker


def digest(path: Path) -> tuple[str, int]:
    """SHA-256 and number of lines of a file."""
    sha, lines = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
            lines += block.count(b"\n")
    return sha.hexdigest(), lines


class Worker:
    """One worker process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.number: int = settings["worker"]
        self.root = Path(settings["root"])
        self.pace: float = settings["pace"]
        self.retry: float = settings["retry"]
        engine = Engine(settings["url"], **settings["options"])
        self.files = Queue(settings["files"], engine, backoff=lambda _: self.retry)
        self.results = Queue(settings["results"], engine)
        self.holder = ""

    def run(self) -> None:
        """Work until told to end."""
        self.files.work(self.handle)

    def handle(self, message: Message) -> None:
        """One file. When this returns, the message is acked; if it raises, it comes again later."""
        began = time.monotonic()
        body = message.body
        if not self.holder:  # so that the demo can tell who holds what
            self.holder = message.receipt.rpartition("-")[0]
            self.results.put({"worker": self.number, "holder": self.holder, "at": body["path"]})
        sha, lines = digest(self.root / body["path"])
        wanted = body.get("seconds", self.pace)
        time.sleep(max(0.0, began + wanted - time.monotonic()))
        self.results.put(
            {
                "worker": self.number,
                "path": body["path"],
                "sha256": sha,
                "lines": lines,
                "deliveries": message.deliveries,
                "began": began,
            }
        )


if __name__ == "__main__":
    Worker(settings_of_worker()).run()
