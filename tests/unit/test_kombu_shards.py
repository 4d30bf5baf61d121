"""What Kombu's connection asks a cluster for, node by node. Each node is answered by hand."""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hiredis import PushNotification, Reader
from redis import exceptions as server

from atomq import calls, scripts, wires
from atomq.contrib.kombu import shards as module
from atomq.contrib.kombu.looks import LOOK
from atomq.contrib.kombu.rights import LISTEN, WAIT
from atomq.contrib.kombu.shards import ASK, DEAF, LAPSE, LATE, OPENING, PATIENCE, Shards
from atomq.errors import PermissionDenied, ServerError, ServerUnavailable
from atomq.keys import SLOTS
from tests.scripted import ScriptedEngine, Stage, claimed, push, raw
from tests.threads import rests_noted

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
        """What it was asked since the last look; of a script its name and its arguments."""
        try:
            self._reader.feed(self.far.recv(1 << 20))
        except BlockingIOError:
            return []
        found = []
        while command := self._reader.gets():
            words = tuple(word.decode() for word in command)
            if words[0] == "EVALSHA":
                words = (NAMES[words[1]], *words[3 + int(words[2]) :])
            found.append(words)
        return found

    def names(self) -> list[str]:
        return [words[0] for words in self.asked()]

    def say(self, *replies: Any) -> None:
        self.far.sendall(b"".join(map(resp, replies)))


class _Held:
    """A message that a consumer holds."""


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
        self.engine.nodes = lambda: None

    def slot(self, queue: str) -> int:
        return self.broker.keys(queue).slot

    def do(self, place: Any, what: str, job: Callable[[], None]) -> None:
        """As `NodeThreads` does, when the test says so."""
        self.jobs.append((place, what.split(maxsplit=1)[0], job))

    def work(self, *, hear: bool = True) -> None:
        """Let the threads do what they were given, and hear of it."""
        jobs, self.jobs = self.jobs, []
        for _, _, job in jobs:
            job()
        if hear:
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
    now = [1024.0]  # a fixed one: sums of it are the same whenever this runs
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for each in ("contrib.kombu.claims", "leases"):
        monkeypatch.setattr(f"atomq.{each}.clock", lambda: now[0])
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


@pytest.mark.usefixtures("now")  # it asks again in a moment
def test_what_no_node_is_known_to_serve_has_the_nodes_asked(stage: ClusterStage) -> None:
    stage.slots.learn(A, [])
    stage.consume("a")
    stage.shards.pump()
    assert [what for _, what, _ in stage.jobs] == ["map"]
    asked: list[bool] = []
    stage.engine.nodes = lambda: asked.append(True)
    stage.slots._owners[stage.slot("b")] = B
    stage.consume("b")
    stage.shards.pump()
    assert [(place, what) for place, what, _ in stage.jobs[1:]] == [(B, "open")], "it has one"
    stage.jobs.pop()
    stage.work()
    assert asked == [True]
    assert stage.nodes == []


def test_what_may_hold_more_is_claimed_while_another_claim_is_under_way(
    stage: ClusterStage, now: list[float]
) -> None:
    for queue in "ab":
        stage.consume(queue)
    stage.pump()
    assert stage.node(A).names() == ["CLIENT", "claim"]
    stage.node(B).asked()
    now[0] += LAPSE - 0.01
    stage.shards.pump()
    assert stage.node(B).asked() == [], "the room is still the other's"
    now[0] += 0.02
    stage.shards.pump()
    assert stage.node(B).names() == ["claim"], "that node may stand still"


def test_one_that_found_nothing_is_waited_for_and_a_token_brings_a_claim(
    stage: ClusterStage,
) -> None:
    idle(stage, "a")
    stage.shards.pump()
    assert stage.node(A).asked() == [], "nothing changed"
    stage.read(A, push(b"invalidate", [b"unknown", stage.broker.keys("a").wake.encode()]))
    stage.shards.pump()
    assert stage.node(A).asked() == [
        ("LPOP", stage.broker.keys("a").wake),
        ("CLIENT", "CACHING", "YES"),
        ("LLEN", stage.broker.keys("a").wake),
    ]
    stage.read(A, b"", "OK", 0)
    stage.shards.pump()
    assert stage.node(A).names() == ["claim"]
    assert len(stage.read(A, claimed("m"))) == 1


def test_another_consumer_was_quicker(stage: ClusterStage) -> None:
    idle(stage, "a")
    stage.read(A, push(b"invalidate", None))
    stage.shards.pump()
    assert stage.node(A).names() == WAITS, "all keys were removed, and with them this one"
    stage.read(A, None, "OK", 0)
    stage.shards.pump()
    assert stage.node(A).asked() == []


def test_a_token_that_comes_before_the_server_watches_is_taken(stage: ClusterStage) -> None:
    idle(stage, "a")
    stage.read(A, push(b"invalidate", None))
    stage.shards.pump()
    assert stage.node(A).names() == WAITS
    stage.read(A, None, "OK", 1)
    stage.shards.pump()
    assert stage.node(A).names() == WAITS, "it asks anew"


def test_what_came_while_the_connection_is_read_is_not_waited_for(stage: ClusterStage) -> None:
    stage.consume("a")
    stage.pump()
    stage.node(A).asked()
    assert not stage.shards.has_answer
    stage.node(A).say("OK", claimed("m"))
    stage.shards.hear()
    assert stage.shards.has_answer
    assert stage.shards.read_on() is False
    assert stage.poller._buffer.waiting, "one message waits here to be handed over"


def test_a_program_that_drains_by_hand_is_given_one_message(stage: ClusterStage) -> None:
    stage.consume("a")
    stage.pump()
    stage.node(A).say("OK", claimed("m", "n"))
    assert stage.poller.receive(0.5)
    assert [message.delivery_tag for message in stage.got] == ["m"]


def test_acks_ride_with_the_next_claim(stage: ClusterStage) -> None:
    """They reach the node also where what the claim brings is read late."""
    stage.consume("a")
    stage.pump()
    stage.node(A).asked()
    (message,) = stage.read(A, "OK", claimed("m"))
    message.ack()
    stage.shards.pump()
    assert stage.node(A).names() == WAITS
    stage.read(A, b"", "OK", 0)
    stage.shards.pump()
    ((name, *words),) = stage.node(A).asked()
    assert (name, words[-2:]) == ("claim", ["1", "m"])


def test_once_a_second_it_is_looked_for_what_no_token_tells_of(
    stage: ClusterStage, now: list[float]
) -> None:
    idle(stage, "a")
    now[0] += LOOK + 0.5
    stage.shards.pump()
    assert stage.node(A).names() == ["look"]
    now[0] += LOOK + 0.1
    stage.shards.pump()
    assert stage.node(A).asked() == [], "one look at a time"
    now[0] -= LOOK + 0.1
    stage.read(A, b"")
    stage.shards.pump()
    assert stage.node(A).asked() == []
    now[0] += LOOK + 0.1
    stage.shards.pump()
    assert stage.node(A).names() == ["look"]
    stage.read(A, b"1")
    stage.shards.pump()
    assert stage.node(A).names() == ["claim"], "there is something"


def test_a_look_that_a_line_took_along_is_made_again(stage: ClusterStage, now: list[float]) -> None:
    idle(stage, "a")
    now[0] += LOOK + 0.5
    stage.shards.pump()
    assert stage.node(A).names() == ["look"]
    stage.node(A).far.close()
    stage.lines.hear()
    now[0] += 0.1
    stage.pump()
    assert stage.node(A).names() == ["CLIENT", "claim"]
    stage.read(A, "OK", claimed())
    stage.shards.pump()
    assert stage.node(A).names() == WAITS
    stage.read(A, None, "OK", 0)
    now[0] += LOOK + 0.5
    stage.shards.pump()
    assert stage.node(A).names() == ["look"]


@pytest.mark.parametrize("how", ["found", "time to look", "neither"])
def test_where_there_is_little_room_a_queue_is_asked_if_it_is_time_or_it_has_something(
    stage: ClusterStage, now: list[float], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    idle(stage, "a")
    monkeypatch.setattr("atomq.contrib.kombu.worker.waiting", lambda: True)
    stage.channel.qos._delivered.update({str(n): _Held() for n in range(8)})
    one = stage.shards._claimed["a"]
    stage.shards._chores_at = now[0] + 60
    if how == "found":
        one.claims.found(["a"])
    else:
        now[0] += LOOK + 0.1 if how == "time to look" else 0.1
    stage.shards.pump()
    asked = {"found": ["claim"], "time to look": ["look"], "neither": []}
    assert stage.node(A).names() == asked[how]


@pytest.mark.parametrize("error", ["ERR no", "NOPERM look", "NOSCRIPT no"])
def test_what_cannot_be_looked_at_is_claimed(
    stage: ClusterStage, now: list[float], error: str
) -> None:
    idle(stage, "a")
    now[0] += LOOK + 0.1
    stage.shards.pump()
    assert stage.node(A).names() == ["look"]
    stage.jobs.clear()
    stage.read(A, server.ResponseError(error))
    assert [(place, what) for place, what, _ in stage.jobs] == (
        [(A, "load")] if error.startswith("NOSCRIPT") else []
    )
    stage.work()
    assert len(stage.engine.called("look")) == int(error.startswith("NOSCRIPT"))
    stage.shards.pump()
    assert stage.node(A).names() == ["claim"]


def test_what_falls_due_is_claimed_in_time(stage: ClusterStage, now: list[float]) -> None:
    stage.consume("a")
    stage.pump()
    stage.node(A).asked()
    stage.read(A, "OK", claimed(wait_ms=300))
    stage.shards.pump()
    assert stage.node(A).names() == WAITS
    stage.read(A, None, "OK", 0)
    now[0] += 0.29
    stage.shards.pump()
    assert stage.node(A).asked() == []
    now[0] += 0.02
    stage.shards.pump()
    assert stage.node(A).names() == ["claim"]


def test_what_falls_due_where_there_is_no_room_is_left_to_another(
    stage: ClusterStage, now: list[float]
) -> None:
    stage.channel.basic_qos(0, 1, False)
    idle(stage, "a", "b")
    for place, queue, answer in ((A, "a", claimed(wait_ms=300)), (B, "b", claimed("m"))):
        stage.shards._claimed[queue].claims.found([queue])
        stage.shards.pump()
        assert stage.node(place).names() == ["claim"]
        stage.read(place, answer)
    assert len(stage.got) == 1
    now[0] += 0.31
    stage.shards.pump()
    (claim,) = [words for words in stage.node(A).asked() if words[0] == "claim"]
    assert claim[3] == "0", "of no message: it leaves a token"
    stage.shards.pump()
    assert "claim" not in stage.node(A).names()


def test_what_falls_due_behind_another_queue_is_claimed_after_it(
    stage: ClusterStage, now: list[float]
) -> None:
    idle(stage, "a", "b")
    for place, queue in ((A, "a"), (B, "b")):
        stage.shards._claimed[queue].claims.found([queue])
        stage.shards.pump()
        assert stage.node(place).names() == ["claim"]
        stage.read(place, claimed(wait_ms=300))
    now[0] += 0.31
    for place in (A, B):
        stage.shards.pump()
        said = {one: stage.node(one).asked() for one in (A, B)}
        claims = [(one, words[3]) for one in said for words in said[one] if words[0] == "claim"]
        assert claims == [(place, "10")], "one at a time has the room, and none is left to others"
        stage.read(place, claimed())


def test_what_falls_due_while_a_task_runs_is_left_to_another(
    stage: ClusterStage, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    keeper = stage.broker.keeper
    monkeypatch.setattr(keeper, "watch", lambda _, patience: asked.append(patience))
    stage.consume("a")
    stage.consume("b")
    stage.pump()
    stage.node(A).asked()
    stage.read(A, "OK", claimed(wait_ms=300))
    stage.shards.begin_task()
    assert asked == [pytest.approx(0.3)]
    now[0] += 0.31
    found = stage.shards._claimed["a"].claims
    assert found.waits_until() <= now[0]
    stage.shards.end_task()
    assert found.waits_until() == math.inf


def test_it_says_when_there_is_something_to_do(stage: ClusterStage, now: list[float]) -> None:
    def seconds() -> float:
        stage.shards.pump()
        return stage.shards.next_at - now[0]

    stage.consume("a")
    assert seconds() == pytest.approx(LAPSE), "a line is to be opened"
    assert stage.slots.doubted == set()
    stage.work()
    stage.shards.pump()
    stage.read(A, "OK", claimed(wait_ms=500))
    stage.shards.pump()
    stage.read(A, None, "OK", 0)
    now[0] += LAPSE
    assert seconds() == pytest.approx(0.3), "what falls due"
    now[0] += 0.31
    assert seconds() == pytest.approx(LAPSE), "an answer is to come"
    assert stage.node(A).names()[-1] == "claim"


def test_a_worker_that_stops_claims_nothing(
    stage: ClusterStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.consume("a")
    monkeypatch.setattr(module, "stopping", lambda: True)
    stage.pump()
    assert stage.node(A).names() == ["CLIENT"]


def test_what_an_old_node_says_of_tokens_changes_nothing(stage: ClusterStage) -> None:
    idle(stage, "a")
    stage.read(A, push(b"invalidate", None))
    stage.shards.pump()
    assert stage.node(A).names() == WAITS
    stage.slots.learn(B, [[0, SLOTS - 1, [*B]]])
    stage.pump()
    stage.node(B).asked()
    stage.read(B, "OK", claimed())
    stage.shards.pump()
    assert stage.node(B).names() == WAITS
    stage.read(B, None, "OK", 0)
    stage.read(A, None, "OK", 1)
    stage.shards.pump()
    assert stage.node(B).asked() == []


@pytest.mark.parametrize("could", [False, True])
def test_who_may_not_take_tokens_is_told_unless_it_could_before(
    stage: ClusterStage, could: bool
) -> None:
    idle(stage, "a")
    stage.broker.rights._granted.discard(WAIT)
    if could:
        stage.broker.rights.grant(WAIT)
    stage.read(A, push(b"invalidate", None))
    stage.shards.pump()
    assert stage.node(A).names() == WAITS
    denied = server.ResponseError("NOPERM no LPOP")
    if could:
        stage.read(A, denied, "OK", 0)
        stage.shards.pump()
        assert stage.node(A).names() == WAITS, "it is tried again"
    else:
        with pytest.raises(PermissionDenied, match=r"may not wait.*no LPOP"):
            stage.read(A, denied, "OK", 0)


# ── claims without an answer ──────────────────────────────────────────────────────────────────


def claim_under_way(stage: ClusterStage) -> None:
    stage.consume("a")
    stage.pump()
    assert stage.node(A).names() == ["CLIENT", "claim"]
    stage.read(A, "OK")
    stage.jobs.clear()


def test_a_claim_whose_line_breaks_is_asked_for_by_the_engine(
    stage: ClusterStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_under_way(stage)
    stage.node(A).far.close()
    stage.lines.hear()
    assert [what for _, what, _ in stage.jobs] == ["ask"]
    assert stage.slots.doubted == {A}
    answers: list[Any] = [ServerUnavailable("away"), claimed("m")]
    rests = rests_noted(monkeypatch)

    def answer(_: Any) -> Any:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    stage.engine.answers["claim"] = answer
    stage.work()
    tries = [call.args[1] for call in stage.engine.called("claim")]
    assert (tries, rests) == ([1, 2], [module.REST]), "the same claim, as another try"
    stage.poller._hand_over()
    assert [message.delivery_tag for message in stage.got] == ["m"]


def test_a_line_that_breaks_is_no_affair_of_claims_at_other_nodes(stage: ClusterStage) -> None:
    for queue in "ab":
        stage.consume(queue)
    stage.pump()
    assert stage.node(A).names() == ["CLIENT", "claim"]
    stage.node(B).far.close()
    stage.lines.hear()
    assert stage.jobs == []
    (message,) = stage.read(A, "OK", claimed("m"))
    assert message.delivery_tag == "m"


@pytest.mark.parametrize("error", [ServerError("broken"), KeyError("x")])
def test_what_the_engine_raises_for_a_claim_is_raised_where_the_connection_is_asked(
    stage: ClusterStage, error: Exception
) -> None:
    claim_under_way(stage)
    stage.node(A).far.close()
    stage.lines.hear()
    stage.engine.answers["claim"] = error
    stage.work()
    with pytest.raises(type(error)):
        stage.shards.pump()
    stage.shards.pump()
    assert len(stage.broker.unanswered) == 1


def test_no_claim_is_asked_for_once_the_connection_is_closed(stage: ClusterStage) -> None:
    claim_under_way(stage)
    stage.node(A).far.close()
    stage.lines.hear()
    stage.engine.answers["claim"] = ServerUnavailable("away")
    (job, *_) = (job for _, what, job in stage.jobs if what == "ask")
    stage.shards.close()
    job()
    assert len(stage.engine.called("claim")) == 1
    assert len(stage.broker.unanswered) == 1, "the next connection asks"


@pytest.mark.parametrize("error", ["MOVED 1 b.invalid:2", "ASK 1 b.invalid:2", "ERR no"])
def test_a_claim_that_its_node_refuses(stage: ClusterStage, error: str) -> None:
    claim_under_way(stage)
    moved = error.replace(" 1 ", f" {stage.slot('a')} ")
    stage.read(A, server.ResponseError(moved))
    if error.startswith("MOVED"):
        stage.pump()
        assert stage.node(B).names() == ["CLIENT", "claim"], "it goes to the one that serves it"
    else:
        assert [what for _, what, _ in stage.jobs] == ["ask"], "the engine knows what to do"
        stage.engine.answers["claim"] = claimed("m")
        stage.work()
        stage.poller._hand_over()
        assert len(stage.got) == 1


def test_an_answer_that_comes_after_another_was_asked_is_nothing(stage: ClusterStage) -> None:
    claim_under_way(stage)
    one = stage.shards._claimed["a"]
    line = one.line
    one.disconnected(line)
    assert not one.is_sent
    one._answered(line, claimed("m"))
    assert stage.read(A, claimed("m")) == []


# ── nodes that are silent, and lines that are lost ────────────────────────────────────────────


def test_a_node_that_is_silent_is_in_doubt_and_then_given_up(
    stage: ClusterStage, now: list[float]
) -> None:
    claim_under_way(stage)
    began, jobs = now[0], []
    for after, doubted, asked in (
        (LATE, False, 0),
        (LATE + 0.01, True, 0),  # they were asked when the line was opened
        (ASK, True, 1),
        (2 * ASK - 0.01, True, 1),
        (2 * ASK, True, 2),
        (PATIENCE, True, 3),
    ):
        now[0] = began + after
        stage.shards.pump()
        jobs = [what for _, what, _ in stage.jobs]
        assert (stage.slots.doubted, jobs) == ({A} if doubted else set(), asked * ["map"])
    assert not stage.node(A).closed
    now[0] = began + PATIENCE + 0.01
    stage.shards.pump()
    assert stage.node(A).closed
    assert [what for _, what, _ in stage.jobs][3:] == ["ask"], "the engine asks for the claim"


def test_a_node_that_answers_is_in_doubt_no_more(stage: ClusterStage, now: list[float]) -> None:
    """It was for as long as no other connection of the process asked it."""
    claim_under_way(stage)
    now[0] += LATE + 0.01
    stage.shards.pump()
    assert stage.slots.doubted == {A}
    stage.read(A, claimed())
    assert stage.slots.doubted == set()


def test_a_silent_node_that_serves_nothing_any_more_is_given_up_at_once(
    stage: ClusterStage, now: list[float]
) -> None:
    claim_under_way(stage)
    line = stage.shards._claimed["a"].line
    stage.slots.learn(B, [[0, SLOTS - 1, [*B]]])
    now[0] += LATE + 0.01
    stage.shards.pump()
    assert stage.nodes[0].closed
    assert stage.shards._claimed["a"].line is not line


def test_a_line_that_no_queue_needs_is_hung_up_once_it_is_answered(stage: ClusterStage) -> None:
    claim_under_way(stage)
    stage.slots.learn(B, [[0, SLOTS - 1, [*B]]])
    stage.pump()
    assert not stage.node(A).closed, "an answer is to come"
    stage.read(A, claimed())
    stage.pump()
    assert stage.node(A).closed
    assert stage.lines.every()[:-1] == [stage.lines.to(B)]


def test_a_queue_that_moves_is_claimed_and_waited_for_at_its_new_node(
    stage: ClusterStage,
) -> None:
    idle(stage, "a")
    stage.slots.learn(B, [[0, SLOTS - 1, [*B]]])
    stage.pump()
    assert stage.node(B).names() == ["CLIENT", "claim"]
    stage.read(B, "OK", claimed())
    stage.shards.pump()
    assert stage.node(B).names() == WAITS


def test_when_a_line_is_made_anew_its_queues_are_claimed(stage: ClusterStage) -> None:
    idle(stage, "a")
    stage.node(A).far.close()
    stage.lines.hear()
    stage.shards._claimed["a"].line._not_before = 0.0
    stage.pump()
    assert stage.node(A).names() == ["CLIENT", "claim"], "a token may be lost"
    stage.read(A, "OK", claimed())
    stage.shards.pump()
    assert stage.node(A).names() == WAITS


def test_nodes_are_asked_for_the_map_where_one_is_away_and_not_where_all_are_well(
    stage: ClusterStage, now: list[float]
) -> None:
    idle(stage, "a")
    for _ in range(3):
        now[0] += ASK
        stage.shards.pump()
        if "look" in stage.node(A).names():
            stage.read(A, b"")
    assert stage.jobs == []
    stage.away = {A}
    stage.node(A).far.close()
    stage.lines.hear()
    stage.jobs.clear()
    now[0] += ASK + 0.01
    stage.shards.pump()
    assert sorted(what for _, what, _ in stage.jobs) == ["map", "open"]


def test_a_node_that_cannot_be_reached_keeps_no_other_waiting(stage: ClusterStage) -> None:
    stage.away = {A}
    for queue in "ab":
        stage.consume(queue)
    stage.pump()
    assert stage.node(B).names() == ["CLIENT", "claim"]


def test_who_may_not_wait_is_told_unless_it_could_before(stage: ClusterStage) -> None:
    stage.consume("a")
    stage.pump()
    denied = server.ResponseError("NOPERM no CLIENT")
    with pytest.raises(PermissionDenied, match="may not wait"):
        stage.read(A, denied)
    stage.broker.rights.grant(WAIT)
    stage.shards._track(stage.shards._claimed["a"].line)
    stage.read(A, claimed(), denied)
    assert WAIT in stage.broker.rights.denied
    stage.shards._track(stage.shards._claimed["a"].line)
    stage.read(A, server.ResponseError("ERR no"))
    assert WAIT in stage.broker.rights.denied, "that says nothing of rights"
    stage.shards._track(stage.shards._claimed["a"].line)
    stage.read(A, "OK")
    assert WAIT not in stage.broker.rights.denied


# ── consumers without acks ────────────────────────────────────────────────────────────────────


def lists(stage: ClusterStage) -> tuple[str, ...]:
    return stage.broker.keys("a").ready


def pop(stage: ClusterStage, *replies: Any) -> list[Any]:
    """Let the node answer each question in turn; what was popped from, or waited for."""
    asked = []
    for reply in replies:
        stage.shards.pump()
        words = [words for words in stage.node(A).asked() if words[0] != "CLIENT"]
        asked += words
        stage.read(A, *([reply] if words[0][0] == "RPOP" else ["OK", reply]))
    return asked


def test_without_acks_lists_are_popped_by_priority_and_then_waited_for(
    stage: ClusterStage, now: list[float]
) -> None:
    stage.consume("a", no_ack=True)
    stage.pump()
    assert stage.node(A).asked() == [
        ("CLIENT", "TRACKING", "ON", "OPTIN"),
        ("RPOP", lists(stage)[0]),
    ]
    stage.shards.pump()
    assert stage.node(A).asked() == [], "one at a time"
    (message,) = stage.read(A, "OK", raw("one"))
    assert message.payload == "one"
    assert pop(stage, None, None, raw("low"), None) == [
        ("RPOP", lists(stage)[at]) for at in (0, 1, 2, 0)
    ], "what has come may be followed by what is more urgent"
    assert pop(stage, None, None, None, 0)[-1] == ("EXISTS", *lists(stage))
    stage.shards.pump()
    assert stage.node(A).asked() == [], "it is told"
    stage.read(A, push(b"invalidate", [lists(stage)[2].encode()]))
    assert pop(stage, None)[0] == ("RPOP", lists(stage)[0])


def test_without_acks_it_is_looked_once_a_second(stage: ClusterStage, now: list[float]) -> None:
    stage.consume("a", no_ack=True)
    stage.pump()
    stage.node(A).asked()
    stage.read(A, "OK", None)
    pop(stage, None, None, None, 0)
    now[0] += LOOK - 0.01
    stage.shards.pump()
    assert stage.node(A).asked() == []
    now[0] += 0.02
    assert pop(stage, 1) == [("EXISTS", *lists(stage))]
    assert pop(stage, raw("x"))[0] == ("RPOP", lists(stage)[0])


def test_without_acks_what_an_old_node_has_is_no_answer_of_the_new_one(
    stage: ClusterStage, now: list[float]
) -> None:
    """A message of the first list was then taken for one of the second."""
    stage.consume("a", no_ack=True)
    stage.pump()
    stage.read(A, "OK")
    stage.slots.learn(B, [[0, SLOTS - 1, [*B]]])
    stage.pump()
    assert stage.node(B).names() == ["CLIENT", "RPOP"]
    stage.read(A, None)
    stage.shards.pump()
    assert stage.node(B).asked() == []
    del stage.transport._callbacks["a"]
    stage.read(B, "OK", raw("one"))
    (call,) = stage.engine.called("put_back")
    expected = calls.put_back(stage.broker.keys("a"), raw("one"), step=1)
    assert (call.keys, call.args) == (expected.keys, expected.args)


def test_a_drain_does_not_end_with_what_a_node_reports(stage: ClusterStage) -> None:
    idle(stage, "a")
    stage.node(A).say(push(b"invalidate", None))
    stage.shards.hear()
    assert stage.shards.has_answer
    assert stage.shards.read_on() is False


def test_a_drain_ends_with_what_was_popped_and_not_with_an_empty_list(
    stage: ClusterStage,
) -> None:
    stage.consume("a", no_ack=True)
    stage.pump()
    for reply, is_done in ((None, False), (raw("x"), True)):
        stage.node(A).say("OK", reply) if reply is None else stage.node(A).say(reply)
        stage.shards.hear()
        if reply is None:
            assert stage.shards.read() is False
        assert stage.shards.read() is is_done
        stage.shards.pump()


def test_without_acks_an_error_is_asked_anew(stage: ClusterStage, now: list[float]) -> None:
    stage.consume("a", no_ack=True)
    stage.pump()
    stage.node(A).asked()
    stage.read(A, "OK", server.ResponseError("ERR no"))
    assert pop(stage, None, None, None, None) == [("RPOP", one) for one in lists(stage)]
    assert pop(stage, server.ResponseError("ERR no"), 0) == 2 * [("EXISTS", *lists(stage))]


def test_without_acks_a_queue_that_moves_is_popped_at_its_new_node(
    stage: ClusterStage, now: list[float]
) -> None:
    stage.consume("a", no_ack=True)
    stage.pump()
    stage.read(A, "OK")
    stage.slots.learn(B, [[0, SLOTS - 1, [*B]]])
    stage.pump()
    assert stage.node(B).names() == ["CLIENT", "RPOP"]
    assert len(stage.read(A, raw("of the old one"))) == 1, "what was popped is handed over"
    stage.shards.pump()
    assert stage.node(B).asked() == [], "its own answer is to come"
    stage.read(B, "OK", None)
    stage.shards.pump()
    assert stage.node(B).asked() == [("RPOP", lists(stage)[1])]
    stage.node(B).far.close()
    stage.lines.hear()
    stage.lines.to(B)._not_before = 0.0
    stage.pump()
    assert stage.node(B).asked()[1:] == [("RPOP", lists(stage)[0])], "from the first again"


# ── consumers that come and go ────────────────────────────────────────────────────────────────


def test_a_consumer_that_goes_passes_a_token_on(stage: ClusterStage) -> None:
    idle(stage, "a")
    stage.read(A, push(b"invalidate", None))
    stage.shards.pump()
    stage.read(A, b"", "OK", 0)
    stage.node(A).asked()
    stage.channel.basic_cancel(f"tag-a-{id(stage.channel)}")
    ((name, _, _, room, *_),) = stage.node(A).asked()
    assert (name, room) == ("claim", "0")
    stage.read(A, claimed())
    stage.pump()
    assert stage.node(A).closed, "no queue needs it"


def test_a_consumer_that_goes_and_took_no_token_says_nothing(stage: ClusterStage) -> None:
    idle(stage, "a", "b")
    stage.channel.basic_cancel(f"tag-a-{id(stage.channel)}")
    assert stage.node(A).asked() == []
    other = stage.transport.create_channel(stage.connection)
    stage.consume("b", channel=other)
    stage.channel.basic_cancel(f"tag-b-{id(stage.channel)}")
    assert stage.node(B).asked() == [], "another channel consumes it"
    assert "b" in stage.shards._claimed


def test_a_consumer_without_acks_that_goes_is_popped_for_no_more(stage: ClusterStage) -> None:
    stage.consume("b")
    stage.consume("a", no_ack=True)
    stage.pump()
    stage.node(A).asked()
    stage.read(A, "OK")
    stage.channel.basic_cancel(f"tag-a-{id(stage.channel)}")
    stage.shards.pump()
    assert not stage.node(A).closed, "an answer is to come"
    stage.read(A, raw("m"))
    (call,) = stage.engine.called("put_back")
    assert call.queue.name == "a", "and goes back"
    stage.shards.pump()
    stage.shards.pump()
    assert stage.node(A).asked() == []
    assert stage.node(A).closed


def test_what_a_consumer_that_went_was_claimed_goes_back(stage: ClusterStage) -> None:
    claim_under_way(stage)
    stage.channel.basic_cancel(f"tag-a-{id(stage.channel)}")
    stage.shards.pump()
    assert stage.read(A, claimed("m")) == []
    assert [one[0] for one in stage.released()] == ["m"]
    stage.shards.pump()
    assert stage.shards._claimed == {}


def test_a_consumer_that_comes_has_its_queue_claimed(stage: ClusterStage) -> None:
    idle(stage, "a")
    other = stage.transport.create_channel(stage.connection)
    stage.consume("a", channel=other)
    stage.shards.pump()
    assert stage.node(A).names() == ["claim"]


def test_closing_waits_for_claims_and_gives_back_what_they_brought(
    stage: ClusterStage,
) -> None:
    claim_under_way(stage)
    stage.node(A).say(claimed("m"))
    numbers: list[Any] = []
    stage.shards.attach(numbers.append)
    stage.shards.close()
    assert [one[0] for one in stage.released()] == ["m"]
    assert (stage.node(A).closed, stage.lines.is_closed) == (True, True)
    assert numbers[1:] == [None]
    assert stage.broker.unanswered == []
    assert (stage.shards.has_news(), stage.shards.can_read(0)) == (False, False)
    stage.shards.pump()
    stage.shards.close()


def test_closing_passes_a_token_on(stage: ClusterStage) -> None:
    idle(stage, "a")
    stage.read(A, push(b"invalidate", None))
    stage.shards.pump()
    stage.read(A, b"", "OK", 0)
    node = stage.node(A)
    node.asked()
    stage.shards.close()
    assert node.names()[0] == "claim"


def test_closing_waits_for_a_second_at_most(stage: ClusterStage, now: list[float]) -> None:
    claim_under_way(stage)

    def readable(seconds: float) -> bool:
        now[0] += 0.1
        return False

    began = now[0]
    stage.lines.readable = readable  # type: ignore[method-assign]
    stage.shards.close()
    assert 1.0 <= now[0] - began <= 1.2
    assert len(stage.broker.unanswered) == 1


def test_a_connection_that_is_lost_asks_for_nothing_more(stage: ClusterStage) -> None:
    claim_under_way(stage)
    stage.transport.lost = True
    stage.lines.readable = pytest.fail  # type: ignore[method-assign,assignment]
    stage.shards.close()
    assert stage.node(A).asked() == []
    assert len(stage.broker.unanswered) == 1


# ── broadcasts ────────────────────────────────────────────────────────────────────────────────


def listen(stage: ClusterStage, queue: str = "f", exchange: str = "x") -> None:
    stage.channel.fanout_queues[queue] = (exchange, "")
    stage.consume(queue)


def confirms(stage: ClusterStage, monkeypatch: pytest.MonkeyPatch, *replies: Any) -> None:
    """Have threads work at once, and the node that listens answer so."""
    readable = stage.lines.readable
    left = list(replies)

    def wait(seconds: float) -> bool:
        stage.work(hear=False)
        node = stage.lines.ear.line
        if node is not None and left:
            node.wire.say(left.pop(0))  # type: ignore[union-attr]
        return readable(0)

    monkeypatch.setattr(stage.lines, "readable", wait)


PATTERN = b"/0.x"


def test_a_consumer_of_broadcasts_begins_once_a_node_has_confirmed(
    stage: ClusterStage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    both = push(b"psubscribe", PATTERN, 1), push(b"psubscribe", b"/0.y", 2)
    confirms(stage, monkeypatch, both[0])
    listen(stage)
    ear: Any = stage.lines.ear.line
    assert ear.wire.asked() == [("PSUBSCRIBE", "/0.x")]
    assert stage.shards._listens
    ear.wire.say(push(b"pmessage", PATTERN, b"/0.its topic", raw("news")))
    stage.shards.hear()
    assert stage.shards.read() is True
    assert [message.payload for message in stage.got] == ["news"]
    ear.wire.say(push(b"pmessage", PATTERN, b"/0.its topic", b"no JSON"))
    with caplog.at_level(logging.WARNING, "atomq.kombu"):
        stage.shards.hear()
        assert stage.shards.read() is False
    assert "on b'/0.its topic' was dropped" in caplog.text
    confirms(stage, monkeypatch, both[1])
    listen(stage, "g", "y")
    assert ear.wire.asked() == [("PSUBSCRIBE", "/0.y")]
    stage.channel.basic_cancel(f"tag-f-{id(stage.channel)}")
    assert ear.wire.asked() == [("PUNSUBSCRIBE", "/0.x")]


def test_what_is_broadcast_while_another_is_subscribed_is_handed_over(
    stage: ClusterStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirms(
        stage,
        monkeypatch,
        push(b"psubscribe", PATTERN, 1),
        push(b"pmessage", PATTERN, PATTERN, raw("news")),
        push(b"psubscribe", b"/0.y", 2),
    )
    listen(stage)
    listen(stage, "g", "y")
    assert [message.payload for message in stage.got] == ["news"]


def test_a_consumer_of_broadcasts_waits_for_a_second_at_most(
    stage: ClusterStage, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.away = {None}

    def readable(_: float) -> bool:
        now[0] += 0.1
        stage.work()
        return False

    monkeypatch.setattr(stage.lines, "readable", readable)
    began = now[0]
    listen(stage)
    assert OPENING <= now[0] - began < OPENING + 0.2
    monkeypatch.undo()


def test_the_line_that_listens_is_subscribed_anew_where_it_is_made_anew(
    stage: ClusterStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirms(stage, monkeypatch, push(b"psubscribe", PATTERN, 1))
    listen(stage)
    first: Any = stage.lines.ear.line
    first.wire.far.close()
    stage.lines.hear()
    assert not stage.lines.ear.is_open
    stage.lines.ear._not_before = 0.0
    stage.pump()
    second: Any = stage.lines.ear.line
    assert second is not first
    assert second.wire.asked() == [("PSUBSCRIBE", "/0.x")]


def test_who_may_not_listen_is_told(stage: ClusterStage, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = server.ResponseError("NOPERM no channels")
    confirms(stage, monkeypatch, denied)
    with pytest.raises(PermissionDenied, match="may not listen"):
        listen(stage)
    stage.broker.rights.grant(LISTEN)
    assert stage.shards._on_listen(denied) is False
    assert not stage.lines.ear.is_open, "another line is tried"
    assert stage.shards._on_listen([]) is True
    assert LISTEN not in stage.broker.rights.denied


@pytest.mark.parametrize("in_doubt", [False, True])
def test_a_line_that_listens_and_is_silent_is_left_for_another_node(
    stage: ClusterStage,
    now: list[float],
    monkeypatch: pytest.MonkeyPatch,
    in_doubt: bool,
) -> None:
    with monkeypatch.context() as patch:
        confirms(stage, patch, push(b"psubscribe", PATTERN, 1))
        listen(stage)
    ear: Any = stage.lines.ear.line
    ear.wire.node = B
    ear.wire.asked()
    stage.shards.pump()
    assert ear.wire.asked() == [("PING",)], "it is asked about once a second"
    stage.shards.pump()
    assert ear.wire.asked() == []
    if in_doubt:
        stage.slots.doubt(B)
    patience = LATE if in_doubt else DEAF
    now[0] += patience
    stage.shards.pump()
    assert not ear.wire.closed
    now[0] += 0.01
    stage.shards.pump()
    assert ear.wire.closed
    assert B in stage.slots.doubted
