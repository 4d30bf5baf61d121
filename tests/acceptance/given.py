"""Queues as the tests of the command line find them: published, claimed, dead."""

from __future__ import annotations

import time
from typing import Any

from atomq import calls
from atomq.calls import Outgoing, Rejection
from atomq.client import Engine
from atomq.message import Writer

CELERY = {
    "body": "W1sxXSwge30sIHt9XQ==",  # [[1], {}, {}]
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {"task": "proj.add", "id": "task-1"},
    "properties": {"body_encoding": "base64", "delivery_tag": "tag-1", "priority": 0},
}


def publish(engine: Engine, queue: str, count: int = 1, **settings: Any) -> None:
    writer = Writer(queue)
    messages = [
        Outgoing(writer.write({"n": i}, f"{queue}-{i}"), f"{queue}-{i}", **settings)
        for i in range(count)
    ]
    engine.run(calls.publish(engine.keys(queue), messages))


def claim(engine: Engine, queue: str, limit: int, lease_ms: int = 60_000) -> list[Any]:
    keys = engine.keys(queue)
    name = f"{'c' * 24}-{time.monotonic_ns()}"
    return engine.run(calls.claim([keys], name, limit=limit, lease_ms=lease_ms)).deliveries


def kill(engine: Engine, queue: str, reasons: list[str]) -> None:
    publish(engine, queue, len(reasons))
    rejected = [
        Rejection(taken.receipt, taken.envelope.id, reason, "ValueError: no\nline 2")
        for taken, reason in zip(claim(engine, queue, len(reasons)), reasons, strict=True)
    ]
    engine.run(calls.reject(engine.keys(queue), rejected))
