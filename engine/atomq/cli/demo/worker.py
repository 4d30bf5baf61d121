"""A worker of the demo: takes files from one queue and puts what it found on another."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from atomq import Engine, Message, Queue


def work(settings: dict[str, Any]) -> None:
    """Work until SIGTERM."""
    engine = Engine(settings["url"], **settings["options"])
    files = Queue(settings["files"], engine, backoff=lambda _: 0.5)
    results = Queue(settings["results"], engine)
    said = set[str]()  # by its holder the demo knows which worker holds what

    def handle(message: Message) -> None:
        """One file. When this returns, the message is acked; if it raises, it comes again later."""
        began, path = time.monotonic(), message.body["path"]
        whose = {"worker": settings["worker"], "holder": message.receipt.rpartition("-")[0]}
        if whose["holder"] not in said:
            said.add(whose["holder"])
            results.put(whose)
        with Path(settings["root"], path).open("rb") as file:
            found = {"path": path, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        wanted = message.body.get("seconds", settings["pace"])
        time.sleep(max(0.0, began + wanted - time.monotonic()))
        results.put(found | whose | {"deliveries": message.deliveries, "began": began})

    files.work(handle)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    work(json.load(sys.stdin))
