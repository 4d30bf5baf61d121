"""What Kombu's connection asks a cluster for, node by node. Each node is answered by hand."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hiredis import PushNotification, Reader
from redis import exceptions as server

from atomq import scripts, wires
from atomq.contrib.kombu.shards import Shards
from atomq.keys import SLOTS
from tests.scripted import ScriptedEngine, Stage, claimed

A, B = ("a.invalid", 1), ("b.invalid", 2)
AWAY = server.ConnectionError("away")


def resp(reply: Any) -> bytes:
    """A reply as a server says it."""
    if isinstance(reply, Exception):
        return f"-{reply}\r\n".encode()
    if reply is None:
        return b"_\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, str):
        return f"+{reply}\r\n".encode()
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    sign = b">" if isinstance(reply, PushNotification) else b"*"
    return sign + b"%d\r\n" % len(reply) + b"".join(map(resp, reply))


class Node:
    """A node of the cluster over one connection, which a test answers."""

    def __init__(self, place: Any) -> None:
        self.near, self.far = socket.socketpair()
        self.far.setblocking(False)
        self.node = place
        self.read_before: list[bytes] = []
        self.closed = False
        self._reader = Reader()

    def fileno(self) -> int:
        return self.near.fileno()

    def send(self, data: bytes) -> None:
        self.near.sendall(data)

    def receive(self) -> bytes:
        if data := self.near.recv(65536):
            return data
        raise AWAY

    def close(self) -> None:
        self.closed = True
        self.near.close()

    def asked(self) -> list[tuple[str, ...]]:
        """What it was asked since the last look; of a script its name and the first key."""
        try:
            self._reader.feed(self.far.recv(1 << 20))
        except BlockingIOError:
            return []
        found = []
        while command := self._reader.gets():
            words = tuple(word.decode() for word in command)
            if words[0] == "EVALSHA":
                words = (NAMES[words[1]], *words[3:])
            found.append(words)
        return found

    def names(self) -> list[str]:
        return [words[0] for words in self.asked()]

    def say(self, *replies: Any) -> None:
        self.far.sendall(b"".join(map(resp, replies)))


NAMES = {scripts.get(name).sha: name for name in ("claim", "look")}


class ClusterStage(Stage):
    """The same on a cluster of two nodes; the queue `a` lies on the first, `b` on the other."""

    url = "atomq-cluster://a.invalid:1"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.jobs: list[tuple[Any, str, Callable[[], None]]] = []
        self.nodes: list[Node] = []
        self.away: set[Any] = set()
        monkeypatch.setattr(ScriptedEngine, "connection", lambda _, place: self._opened(place))
        super().__init__(monkeypatch, **options)
        self.shards: Shards = self.poller._intake
        self.lines = self.shards.lines
        self.lines.threads = self  # type: ignore[assignment]
        self.broker.attendance._do = lambda *_: None  # type: ignore[method-assign,assignment]
        self.slots = self.shards._slots
        half = self.slot("a") + 1 if self.slot("a") < self.slot("b") else self.slot("b") + 1
        first, other = (A, B) if self.slot("a") < self.slot("b") else (B, A)
        parts = [[0, half - 1, [*first]], [half, SLOTS - 1, [*other]]]
        self.slots.learn(A, parts)
        self.wakes: list[float] = []
        monkeypatch.setattr(self.transport, "wake_in", self.wakes.append)

    def slot(self, queue: str) -> int:
        return self.broker.keys(queue).slot

    def do(self, place: Any, what: str, job: Callable[[], None]) -> None:
        """As `NodeThreads` does, when the test says so."""
        self.jobs.append((place, what.split(maxsplit=1)[0], job))

    def work(self) -> None:
        """Let the threads do what they were given, and hear of it."""
        jobs, self.jobs = self.jobs, []
        for _, _, job in jobs:
            job()
        self.lines.hear()

    def _opened(self, place: Any) -> Node:
        if place in self.away:
            raise AWAY
        self.nodes.append(Node(place))
        return self.nodes[-1]

    def node(self, place: Any) -> Node:
        """The newest connection to it."""
        return next(node for node in reversed(self.nodes) if node.node == place)

    def pump(self) -> None:
        """Send what there is to send, once the lines that it needs are open."""
        self.shards.pump()
        if any(what == "open" for _, what, _ in self.jobs):
            self.work()
            self.shards.pump()

    def read(self, place: Any, *replies: Any) -> list[Any]:
        """Let a node answer; what was handed over."""
        before = len(self.got)
        self.node(place).say(*replies)
        while self.lines.readable(0):
            self.shards.hear()
            while self.shards.has_answer:
                self.shards.read()
        while self.poller._buffer.waiting:
            self.poller._hand_over()
        return self.got[before:]

    def close(self) -> None:
        super().close()
        self.lines.close()
        for node in self.nodes:
            node.near.close()
            node.far.close()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterStage]:
    monkeypatch.setattr(wires, "taken", lambda wire: wire)
    found = ClusterStage(monkeypatch)
    found.channel.basic_qos(0, 10, False)
    yield found
    found.close()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("atomq.contrib.kombu.claims.clock", lambda: now[0])
    return now


WAITS = ["LPOP", "CLIENT", "LLEN"]


def idle(stage: ClusterStage, *queues: str) -> None:
    """Consume these, and have a first claim find nothing in any of them."""
    for queue in queues:
        stage.consume(queue)
    for _ in range(3):
        stage.pump()
        for queue in queues:
            place = stage.slots.owner(stage.slot(queue))
            for name in stage.node(place).names():
                stage.read(place, {"claim": claimed(), "look": b"", "LPOP": None}.get(name, 0))
    assert all(one._armed for one in stage.shards._claimed.values())


# ── claims ────────────────────────────────────────────────────────────────────────────────────


def test_each_queue_is_claimed_at_its_node_and_one_claim_has_the_room(stage: ClusterStage) -> None:
    for queue in "ab":
        stage.consume(queue)
    stage.pump()
    asked = {place: stage.node(place).asked() for place in (A, B)}
    assert [words[0] for words in asked[A]] == ["CLIENT", "claim"], "it tracks, and claims"
    assert [words[0] for words in asked[B]] == ["CLIENT"], "the room is the other's"
    (message,) = stage.read(A, "OK", claimed("m"))
    assert message.delivery_tag == "m"
    stage.pump()
    assert stage.node(B).names() == ["claim"], "each in its turn"


def test_what_no_node_is_known_to_serve_has_the_nodes_asked(stage: ClusterStage) -> None:
    stage.slots.learn(A, [])
    stage.consume("a")
    stage.shards.pump()
    assert [what for _, what, _ in stage.jobs] == ["map"]
    asked: list[bool] = []
    stage.engine.nodes = lambda: asked.append(True)
    stage.work()
    assert asked == [True]
    assert stage.nodes == []
