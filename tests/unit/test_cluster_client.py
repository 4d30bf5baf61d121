"""What Celery's result backend asks of a cluster, by our engine. Without a server."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as server

from atomq.contrib import cluster_client
from atomq.contrib.cluster_client import ASIDE, STORE, Client, Ear, PatientClient
from atomq.errors import ScriptsNotLoaded, ServerUnavailable
from atomq.keys import SLOTS, hash_slot

AWAY = ServerUnavailable("away")


class Engine:
    """It has these values; what is an exception is raised, or answered where others go on."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.said: list[tuple[Any, ...]] = []
        self.patient: list[bool] = []
        self.asked_briefly: list[tuple[Any, ...]] = []
        self.wire: Any = None
        self.doubted: list[Any] = []
        self.slots: Any = SimpleNamespace(
            owner=lambda slot: ("node", slot), doubt=self.doubted.append
        )

    def command(self, *words: Any, patient: bool = False) -> Any:
        self.said.append(words)
        self.patient.append(patient)
        found = self.values.get(str(words[1]))
        if isinstance(found, Exception):
            raise found
        return found

    def reads(self, commands: Any) -> list[Any]:
        return [self.values.get(words[1]) for words in commands]

    def briefly(self, *commands: Any) -> list[Any]:
        self.asked_briefly += commands
        return [self.values.get(words[3] if words[0] == "EVAL" else words[1]) for words in commands]

    def connection(self) -> Any:
        if isinstance(self.wire, Exception):
            raise self.wire
        return self.wire


def client_of(**values: Any) -> tuple[Client, Engine]:
    engine: Any = Engine(**values)
    return Client(engine), engine


# ── values ────────────────────────────────────────────────────────────────────────────────────


def test_a_result_lies_aside_at_another_shard_than_its_own() -> None:
    """Two halves of the slots, and so of the shards, whatever the key is called."""
    halves = [hash_slot(f"celery-task-meta-x{tag}") * 2 // SLOTS for tag in ASIDE]
    assert halves == [0, 1]


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda client: client.get(b"k"), ("GET", "k")),
        (lambda client: client.set("k", "v"), ("SET", "k", "v")),
        (lambda client: client.set("k", "v", ex=7), ("SET", "k", "v", "EX", 7)),
        (lambda client: client.delete("k"), ("DEL", "k")),
        (lambda client: client.incr("k"), ("INCRBY", "k", 1)),
        (lambda client: client.incr("k", 3), ("INCRBY", "k", 3)),
        (lambda client: client.expire("k", 9.0), ("EXPIRE", "k", 9)),
        (lambda client: client.read("LLEN", "k"), ("LLEN", "k")),
        (lambda client: client.evaluate("s", [b"k"], [1]), ("EVAL", "s", 1, "k", 1)),
        (lambda client: client.store("k", "v", None), ("EVAL", STORE, 1, "k", "v", 0, "k")),
        (lambda client: client.store("k", "v", 5), ("EVAL", STORE, 1, "k", "v", 5, "k")),
    ],
)
def test_a_command_goes_to_the_node_of_its_key_and_is_repeated_there(ask: Any, words: Any) -> None:
    client, engine = client_of()
    ask(client)
    assert (engine.said, engine.patient) == ([words], [True])


def test_several_are_read_at_their_nodes_or_where_they_were_put_aside() -> None:
    aside = f"b{ASIDE[1]}"
    client, engine = client_of(a=b"1", b=AWAY, **{aside: b"2"})
    assert client.mget(["a", "b", b"none"]) == [b"1", b"2", None]
    assert [words[1] for words in engine.asked_briefly] == [
        *(f"b{tag}" for tag in ASIDE),
        *(f"none{tag}" for tag in ASIDE),
    ]
    engine.asked_briefly.clear()
    assert client.mget(["a"]) == [b"1"]
    assert engine.asked_briefly == []
    del engine.values[aside]
    with pytest.raises(ServerUnavailable):
        client.mget(["a", "b"])
    assert client.known(["a", b"b", "none"]) == {"a": b"1", "none": None}
    assert client.soon("a") == b"1"
    with pytest.raises(ServerUnavailable):
        client.soon("b")


def test_a_result_is_put_aside_where_its_shard_does_not_answer_soon() -> None:
    here, there = (f"k{tag}" for tag in ASIDE)
    client, engine = client_of(k=AWAY, **{here: AWAY})
    assert client.store_soon("k", "v", 3) is False
    assert client.store_aside("k", "v", 3) is True
    assert [words[3:] for words in engine.asked_briefly] == [
        ("k", "v", 3, "k"),
        (here, "v", 3, "k"),
        (there, "v", 3, "k"),
    ], "it is announced under its own name"
    engine.values[there] = AWAY
    assert client.store_aside("k", "v", 3) is False
    assert client.store_soon("other", "v", 3) is True
    engine.values["k"] = ScriptsNotLoaded("no")
    with pytest.raises(ScriptsNotLoaded):
        client.store_soon("k", "v", 3)


def test_what_is_forgotten_is_deleted_wherever_it_lies() -> None:
    client, engine = client_of()
    client.forget(b"k")
    assert engine.said == [("DEL", "k")]
    assert engine.asked_briefly == [("DEL", f"k{tag}") for tag in ASIDE]


def test_the_node_of_a_key_as_far_as_it_is_known() -> None:
    client, engine = client_of()
    assert client.place(b"k") == ("node", hash_slot("k"))
    engine.slots = None
    assert client.place("k") is None


def test_a_pipeline_says_one_after_another_and_each_once() -> None:
    client, engine = client_of(k=[b"1"])
    with client.pipeline() as pipe:
        assert pipe.zrange("k", 0, -1).lrange(b"k", 1, 2).execute() == [[b"1"], [b"1"]]
        assert pipe.execute() == []
        pipe.lrange("k", 0, 0)
    assert pipe.execute() == []
    assert engine.said == [("ZRANGE", "k", 0, -1), ("LRANGE", "k", 1, 2)]


def test_a_patient_one_asks_until_there_is_an_answer() -> None:
    engine: Any = Engine(k=b"1")
    tries: list[Any] = []

    def ensure(function: Any, args: Any) -> Any:
        tries.append(args)
        return function(*args)

    client = PatientClient(engine, ensure)
    found = [client.get("k"), client.mget(["k"]), client.read("LLEN", "k"), client.delete("k")]
    assert found == [b"1", [b"1"], b"1", b"1"]
    assert tries == [("k",), (["k"],), ("LLEN", "k"), ("k",)]
    client.incr("k")
    assert len(tries) == 4, "what counts is not said again"


# ── what is heard ─────────────────────────────────────────────────────────────────────────────


class Wire:
    """What comes from a node."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.sent: list[bytes] = []
        self.looks: list[float] = []
        self.node = ("host", 1)
        self.closed = False
        self.read_before: list[Any] = []
        self.credential_provider: Any = None

    def fileno(self) -> int:
        return 3

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def readable(self, seconds: float) -> bool:
        self.looks.append(seconds)
        return bool(self.pieces)

    def receive(self) -> bytes:
        return self.pieces.pop(0)

    def close(self) -> None:
        self.closed = True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(cluster_client, "time", SimpleNamespace(monotonic=found.monotonic))
    assert time.monotonic is not found.monotonic
    return found


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    monkeypatch.setattr(cluster_client.wires, "taken", lambda connection: connection)
    return Wire()


def pushed(*words: bytes) -> bytes:
    return b">%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


def ear_of(wire: Wire) -> tuple[Ear, Engine]:
    engine: Any = Engine()
    engine.wire = wire
    return Ear(engine), engine


def test_results_are_heard_in_their_order(wire: Wire) -> None:
    ear, _ = ear_of(wire)
    assert (ear.subscribed, ear.connection, ear._sock) == (False, None, None)
    assert ear.get_message() is None
    assert not ear.can_read()
    ear.subscribe("a", b"b")
    assert (ear.subscribed, ear.connection, ear._sock) == (True, ear, wire)
    assert ear.subscribed_event.is_set()
    assert b"SUBSCRIBE" in wire.sent[0]
    wire.pieces.append(
        pushed(b"message", b"a", b"1")
        + pushed(b"other", b"a", b"0")
        + pushed(b"message", b"b", b"2")
    )
    assert ear.can_read()
    found = [ear.get_message(0.1) for _ in range(2)]
    assert [(each["type"], each["channel"], each["data"]) for each in found if each] == [
        ("message", b"a", b"1"),
        ("message", b"b", b"2"),
    ]
    assert ear.get_message() is None
    ear.check()
    assert not ear.can_read()
    assert wire.looks == [0, 0.1, 0, 0, 0], "it waits for as long as it is told"
    ear.unsubscribe("a")
    assert ear.subscribed
    ear.unsubscribe("b")
    assert not ear.subscribed
    assert len(wire.sent) == 3
    ear.close()
    ear.close()
    assert (wire.closed, ear.connection) == (True, None)
    ear.unsubscribe("b")


def test_a_node_that_cannot_be_reached_is_an_error_of_redis_py() -> None:
    ear, engine = ear_of(Wire())
    engine.wire = AWAY
    with pytest.raises(server.ConnectionError, match="away"):
        ear.subscribe("a")
    ear.check()  # it is not connected: there is nothing to ask


def test_a_node_is_asked_once_a_second_and_one_that_says_nothing_is_given_up(
    wire: Wire, clock: Clock
) -> None:
    ear, engine = ear_of(wire)
    ear.subscribe("a")
    asked = []
    for now in (100.5, 101.0, 101.1, 101.9, 102.0):
        clock.now = now
        ear.check()
        asked.append(sum(b"PING" in each for each in wire.sent))
    assert asked == [0, 0, 1, 1, 1]
    wire.pieces.append(pushed(b"pong", b"") + pushed(b"message", b"a", b"1"))
    clock.now = 102.2
    ear.check()
    assert ear.get_message() is not None, "what came with the answer is kept"
    for now in (103.3, 104.4, 105.2):
        clock.now = now
        ear.check()
    assert engine.doubted == []
    clock.now = 105.6
    ear._said_at = 104.4
    with pytest.raises(server.ConnectionError, match="does not answer"):
        ear.check()
    assert engine.doubted == [("host", 1)]
    for unknown in ("slots", "node"):
        engine.doubted.clear()
        if unknown == "slots":
            engine.slots = None
        else:
            engine.slots, wire.node = SimpleNamespace(doubt=engine.doubted.append), None  # type: ignore[assignment]
        with pytest.raises(server.ConnectionError):
            ear.check()
        assert engine.doubted == []
