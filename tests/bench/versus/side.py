"""The sides: fresh servers each, an app that sends, workers to start and to kill.

A third one is atomq on a cluster: what becomes of tasks is looked at there too.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from atomq.keys import QueueKeys
from tests.bench.core import Meter
from tests.contrib.rig import Place, Worker
from tests.servers import Cluster, Server

SIDES = ("stock", "atomq")
CLUSTER = "cluster"
BARE = ("--without-mingle", "--without-gossip", "--without-heartbeat", "-l", "WARNING")


@dataclass
class Row:
    """One line of the table."""

    what: str
    stock: str
    atomq: str
    cluster: str = ""
    value: float | None = None
    """What the target is about."""
    unit: str = ""
    target: str = ""
    met: bool | None = None


@dataclass
class Group:
    """One scenario: its rows, and what they mean, in a line."""

    name: str
    meaning: str
    rows: list[Row] = field(default_factory=list)

    def add(
        self,
        what: str,
        stock: str,
        atomq: str,
        value: float | None = None,
        unit: str = "",
        *,
        most: float | None = None,
        least: float | None = None,
    ) -> None:
        """A line, held against the most or the least that `value` may be."""
        target, met = "", None
        if value is not None and most is not None:
            target, met = f"≤ {most:g}{unit}", value <= most
        elif value is not None and least is not None:
            target, met = f"≥ {least:g}{unit}", value >= least
        self.rows.append(Row(what, stock, atomq, "", value, unit, target, met))


class Side(Place):
    """Stock or atomq: a broker on servers of its own, and its workers."""

    def __init__(self, name: str, kind: str, directory: Path) -> None:
        self._stack = ExitStack()
        self._cluster: Cluster | None = None
        if name == CLUSTER:
            options = {"cluster-require-full-coverage": "no"}
            self._cluster = self._stack.enter_context(Cluster(kind, nodes=3, options=options))
        else:
            self._server = self._stack.enter_context(Server(kind))
        super().__init__(self._server_of("celery"), directory)
        self.name = name
        self.meter = Meter(self.server)
        self.admin: redis.Redis = self.meter.admin
        """A client of the server that has the queue `celery`."""
        self.url = self.speak(self.server.url)
        if self._cluster is not None:
            ports = [node.port for node in self._cluster.nodes]
            self.url = ";".join(f"atomq-cluster://127.0.0.1:{port}" for port in ports)
            self.engine_url = self.url
        self.app = self.make_app()

    @property
    def is_ours(self) -> bool:
        """Whether it is atomq."""
        return self.name != "stock"

    def _server_of(self, queue: str) -> Server:
        if self._cluster is None:
            return self._server
        return self._cluster.owner(QueueKeys(queue, layout="cluster").slot)

    @property
    def admins(self) -> list[redis.Redis]:
        """A client of each server."""
        nodes = [self.server] if self._cluster is None else self._cluster.nodes
        return [node.client() for node in nodes]

    def speak(self, url: str) -> str:
        """A URL in this side's scheme."""
        return url.replace("redis", "atomq", 1) if self.name == "atomq" else url

    def worker(self, pool: str = "solo", concurrency: int = 1, **more: Any) -> Worker:
        """A worker that logs and says as little as can be."""
        more = {"args": BARE, "backend": None, **more}
        more["args"] = (*more["args"], "-I", "tests.bench.versus.tasks")
        return super().worker(pool, concurrency, **more)

    def publish(
        self, count: int, name: str = "noop", queue: str = "celery", **options: Any
    ) -> list[str]:
        """Send so many tasks over one connection; their ids."""
        with self.app.producer_pool.acquire(block=True) as producer:
            return [
                str(self.app.send_task(name, queue=queue, producer=producer, **options).id)
                for _ in range(count)
            ]

    def flood(self, count: int, name: str = "mark", queue: str = "celery") -> list[str]:
        """The same at once, as a crowd of stock producers would: copies of one message."""
        (first,) = self.publish(1, name, "versus-template")
        there = self._server_of("versus-template").client()
        (raw,) = there.lrange("versus-template", 0, 0)  # type: ignore[misc]
        there.delete("versus-template")
        tag = json.loads(raw)["properties"]["delivery_tag"]
        text = raw.decode().replace("versus-template", queue)
        ids = [str(uuid.uuid4()) for _ in range(count)]
        copies = [text.replace(first, one).replace(tag, str(uuid.uuid4())) for one in ids]
        self.admin.lpush(queue, *copies)
        return ids + self.publish(1, name, queue)  # with a token, so that nobody sleeps on

    def _places(self, queue: str) -> list[tuple[str, str]]:
        """Where messages are that are not done with: how to ask, and whom."""
        held = ("HLEN", "unacked" if not self.is_ours else f"_atomq.{{{queue}}}.records")
        later = [("ZCARD", f"_atomq.{{{queue}}}.delayed")] if self.is_ours else []
        return [("LLEN", queue), held, *later]

    def ready(self, queue: str = "celery") -> int:
        """Messages that wait."""
        return int(self.admin.execute_command(*self._places(queue)[0]))

    def held(self, queue: str = "celery") -> int:
        """Messages that workers have and did not ack."""
        return int(self.admin.execute_command(*self._places(queue)[1]))

    def left(self, queue: str = "celery") -> int:
        """Messages that are not done with."""
        with self.admin.pipeline(transaction=False) as pipe:
            for command in self._places(queue):
                pipe.execute_command(*command)
            return sum(pipe.execute())

    def drained(self, queue: str = "celery", seconds: float = 60) -> tuple[bool, int, int]:
        """Wait until nothing is left; whether that came about, requests and commands it took."""
        deadline, asked, places = time.monotonic() + seconds, 0, len(self._places(queue))
        while time.monotonic() < deadline:
            asked += 1
            if not self.left(queue):
                return True, asked, asked * places
            time.sleep(0.02)
        return False, asked, asked * places

    def end(self) -> None:
        """Kill the workers there are, and forget everything in the server."""
        for worker in self.workers:
            worker.kill()
        self.workers.clear()
        self.ledger.path.write_text("")
        for admin in self.admins:
            admin.flushall()

    def close(self) -> None:
        """End everything; no log is shown."""
        for worker in self.workers:
            worker.kill()
        for app in self._apps:
            app.close()
        for engine in self._engines.values():
            engine.close()
        self._stack.close()


@contextlib.contextmanager
def both(kind: str, only: str | None = None, names: Sequence[str] = SIDES) -> Iterator[list[Side]]:
    """Stock and atomq (or one of them), each with fresh servers. Nothing is left behind."""
    with tempfile.TemporaryDirectory(prefix="atomq-versus-") as root, ExitStack() as stack:
        sides = []
        for name in [only] if only else names:
            directory = Path(root) / name
            directory.mkdir()
            side = Side(name, kind, directory)
            stack.callback(side.close)
            sides.append(side)
        yield sides


def told(values: Sequence[float], form: str = "{:,.2f}") -> str:
    """The median, as text."""
    return form.format(statistics.median(values))


def until(test: Callable[[], object], seconds: float, pause: float = 0.02) -> bool:
    """Wait until `test` is true; whether it became so."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if test():
            return True
        time.sleep(pause)
    return bool(test())
