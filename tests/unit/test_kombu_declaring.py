"""What a channel declares, binds and deletes, and where a message goes. Needs no server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from amqp.exceptions import ChannelError

from atomq import calls
from atomq.contrib.kombu import declaring as module
from atomq.contrib.kombu.bindings import LEAST_MS
from atomq.contrib.kombu.broker import Broker
from atomq.contrib.kombu.declaring import UnroutableMessage
from atomq.errors import QueueInUse, ServerUnavailable
from tests.scripted import Stage

REPLY, REPLIES = "abc.reply.celery.pidbox", "reply.celery.pidbox"


class Tables:
    """The tables of a server, with what was done to them."""

    def __init__(self, channel: Any) -> None:
        self.tables: dict[str, list[tuple[str, ...]]] = {}
        self.said: list[tuple[Any, ...]] = []
        self.hidden = 0  # how many reads of a table are of long ago
        channel.broker.bindings = self

    def table(self, exchange: str) -> list[tuple[str, ...]]:
        if self.hidden:
            self.hidden -= 1
            return []
        return self.tables.get(exchange, [])

    read = table

    def bind(self, exchange: str, binding: Any, expires_ms: int | None = None) -> None:
        binding = tuple(part or "" for part in binding)
        self.said.append(("bind", exchange, *binding, expires_ms))
        self.tables.setdefault(exchange, []).append(binding)

    def unbind(self, exchange: str, binding: Any) -> None:
        binding = tuple(part or "" for part in binding)
        self.said.append(("unbind", exchange, *binding))
        self.tables[exchange] = [one for one in self.tables.get(exchange, []) if one != binding]

    def sweep(self, limit: int) -> int:
        self.said.append(("sweep", limit))
        return 5


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    found = Stage(monkeypatch)
    yield found
    found.close()


@pytest.fixture
def tables(stage: Stage) -> Tables:
    for name in ("x", "y", REPLIES):
        stage.channel.exchange_declare(name, "direct")
    return Tables(stage.channel)


def declare(stage: Stage, name: str, kind: str) -> None:
    """Declare an exchange of another type than `tables` does."""
    stage.channel.state.exchanges.pop(name, None)
    stage.channel.exchange_declare(name, kind)


def on_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broker, "on_cluster", True)


# ── bindings ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "key", "pattern"), [("direct", "k", ""), ("direct", "", ""), ("topic", "k.*", None)]
)
def test_a_queue_is_bound_and_unbound_in_the_same_words(
    stage: Stage, tables: Tables, kind: str, key: str, pattern: str | None
) -> None:
    channel = stage.channel
    declare(stage, "x", kind)
    channel.queue_bind("q", "x", key)
    ((said, *what, expires),) = tables.said
    assert (said, what[0], what[1], what[3], expires) == ("bind", "x", key, "q", None)
    assert what[2] == pattern or pattern is None
    assert channel.get_table("x") == tables.tables["x"] == [tuple(what[1:])]
    channel.queue_unbind("q", "x", key)
    assert tables.said[1:] == [("unbind", *what)]
    channel.queue_bind("q", "x", key)
    channel.queue_delete("q")
    assert tables.said[3:] == [("unbind", *what)]
    assert (len(stage.engine.called("purge")), tables.tables) == (1, {"x": []})


def test_a_queue_that_expires_has_its_bindings_expire(stage: Stage, tables: Tables) -> None:
    stage.channel.queue_declare("q", arguments={"x-expires": 10_000})
    stage.channel.queue_bind("q", "x", "k")
    assert tables.said == [("bind", "x", "k", "", "q", 10_000)]


@pytest.mark.parametrize(
    ("expires", "ms"),
    [
        (1, 1),
        (0.5, 1),
        (2.7, 2),
        (10**18, calls.LONGEST_LIFE),
        (0, None),
        (-1, None),
        ("9", None),
        (None, None),
    ],
)
def test_when_a_queue_expires(stage: Stage, expires: Any, ms: int | None) -> None:
    stage.channel._new_queue("q", arguments={"x-expires": 7})
    stage.channel._new_queue("q", arguments={"x-expires": expires})
    stage.channel._touch("q")
    assert [list(call.args) for call in stage.engine.called("touch")] == ([[ms]] if ms else [])


def test_what_passes_by_itself_is_no_name_for_the_register(stage: Stage) -> None:
    channel = stage.channel
    channel._new_queue("kept", arguments=None)
    channel._new_queue("auto", auto_delete=True)
    channel._new_queue("expires", arguments={"x-expires": 7})
    noted = [stage.broker.keys(name).noted > 1e9 for name in ("kept", "auto", "expires")]
    assert noted == [False, True, True]
    assert channel.auto_delete_queues == {"auto"}


@pytest.mark.parametrize("exchange", ["x", REPLIES])
def test_on_a_cluster_broadcasts_and_replies_need_no_table(
    stage: Stage, tables: Tables, monkeypatch: pytest.MonkeyPatch, exchange: str
) -> None:
    channel = stage.channel
    declare(stage, "x", "fanout")
    declare(stage, "direct", "direct")
    on_cluster(monkeypatch)
    channel._new_queue(REPLY, auto_delete=True)
    channel.queue_bind(REPLY, exchange, "k.#")
    channel.queue_unbind(REPLY, exchange, "k.#")
    assert tables.said == []
    assert (REPLY in channel.fanout_queues) == (exchange == "x")
    channel.queue_bind(REPLY, exchange, "k.#")
    channel.queue_delete(REPLY)
    assert (tables.said, stage.engine.called("purge")) == ([], [])
    assert (channel.reply_queues, channel.auto_delete_queues) == ({}, set())
    channel.queue_bind("q", "direct", "k")
    assert tables.said == [("bind", "direct", "k", "", "q", None)]


def test_where_a_broadcast_is_listened_for_any_words_are_one_star(
    stage: Stage, tables: Tables
) -> None:
    declare(stage, "x", "fanout")
    stage.channel.queue_bind("q", "x", "a.#")
    assert stage.channel.fanout_queues == {"q": ("x", "a.*")}
    assert len(tables.said) == 1, "stock reads the table"


# ── where a message goes ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "default", "dead", "queue"),
    [
        ("q", "d", "lost", "q"),
        ("", "d", "lost", "d"),
        ("", None, "lost", "lost"),
        ("", None, None, ""),
    ],
)
def test_without_an_exchange_the_routing_key_is_the_queue(
    stage: Stage, key: str, default: str | None, dead: str | None, queue: str
) -> None:
    stage.channel.deadletter_queue = dead
    assert stage.channel._lookup("", key, default) == [queue]


def test_a_message_goes_where_its_exchange_leads(stage: Stage, tables: Tables) -> None:
    channel = stage.channel
    declare(stage, "x", "topic")
    for queue, key in (("one", "a.*"), ("all", "#")):
        channel.queue_bind(queue, "x", key)
    assert sorted(channel._lookup("x", "a.b")) == ["all", "one"]
    assert channel._lookup("x", "b") == ["all"]
    published: list[str] = []
    channel._put = lambda queue, *_, **__: published.append(queue)  # type: ignore[method-assign]
    channel.typeof("x").deliver({}, "x", "b")
    assert published == ["all"]


def test_a_table_that_is_not_fresh_is_read_before_a_message_has_no_way(
    stage: Stage, tables: Tables
) -> None:
    stage.channel.queue_bind("q", "x", "k")
    tables.hidden = 1
    assert stage.channel._lookup("x", "k") == ["q"]
    assert len(tables.said) == 1, "nothing was missing"


def test_bindings_of_this_connection_that_are_gone_are_written_again(
    stage: Stage, tables: Tables
) -> None:
    """As after FLUSHALL."""
    channel = stage.channel
    for queue, exchange, key in (("q", "x", "k"), ("p", "x", "other"), ("r", "y", "k")):
        channel.queue_bind(queue, exchange, key)
    kept = tables.tables["x"][1]
    tables.tables = {"x": [kept]}
    tables.said.clear()
    assert channel._lookup("x", "k") == ["q"]
    assert tables.said == [("bind", "x", "k", "", "q", None)], "and no other"


@pytest.mark.parametrize("dead", [None, "lost"])
def test_what_leads_nowhere_is_an_error_or_goes_to_the_deadletter_queue(
    stage: Stage, tables: Tables, caplog: pytest.LogCaptureFixture, dead: str | None
) -> None:
    stage.channel.deadletter_queue = dead
    stage.channel.queue_bind("q", "x", "k")
    if dead is not None:
        assert stage.channel._lookup("x", "unknown") == [dead]
        assert stage.channel._lookup(REPLIES, "gone") == [dead]
        return
    with pytest.raises(UnroutableMessage, match=r"exchange 'x' for 'unknown'.*deadletter_queue"):
        stage.channel._lookup("x", "unknown")
    with caplog.at_level(logging.DEBUG, "atomq.kombu"):
        assert stage.channel._lookup(REPLIES, "gone") == []
    assert "gone" in caplog.text


def test_on_a_cluster_a_reply_goes_to_its_client_without_a_table(
    stage: Stage, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.tables[REPLIES] = [("abc", "", "elsewhere")]
    assert stage.channel._lookup(REPLIES, "abc") == ["elsewhere"]
    on_cluster(monkeypatch)
    assert stage.channel._lookup(REPLIES, "abc") == [REPLY]
    tables.tables["x"] = [("abc", "", "q")]
    assert stage.channel._lookup("x", "abc") == ["q"]


# ── deleted queues ────────────────────────────────────────────────────────────────────────────


def purged(stage: Stage) -> list[tuple[str, tuple[Any, ...]]]:
    return [(call.queue.name, tuple(call.args)) for call in stage.engine.called("purge")]


def whole(stage: Stage, *, if_empty: bool = False) -> tuple[Any, ...]:
    """What a purge says that leaves nothing behind, but what is held."""
    parts = {"ready": True, "delayed": True, "dead": True, "settings": True}
    return tuple(calls.purge(stage.broker.keys("q"), if_empty=if_empty, **parts).args)


def test_a_queue_is_deleted_with_its_dead_letters_and_settings(
    stage: Stage, tables: Tables
) -> None:
    stage.spread("q", 7, 8)
    stage.channel.queue_bind("q", "x", "k")
    stage.channel.queue_delete("q")
    assert purged(stage) == [(name, whole(stage)) for name in ("q#2.8", "q#1.7", "q")]
    assert not stage.broker.spread.get("q").is_known  # type: ignore[union-attr]
    stage.engine.ran.clear()
    stage.channel.queue_delete("q")
    stage.channel.queue_delete("unknown", if_empty=True)
    assert purged(stage) == [], "only what this connection declared"


def test_a_queue_is_deleted_if_it_is_empty_in_one_step(stage: Stage, tables: Tables) -> None:
    stage.channel.queue_bind("q", "x", "k")
    stage.engine.answers["purge"] = QueueInUse("messages")
    stage.channel.queue_delete("q", if_empty=True)
    assert purged(stage) == [("q", whole(stage, if_empty=True))]
    assert len(tables.said) == 1, "it stays bound"
    stage.engine.answers["purge"] = [0, 0, 0]
    stage.channel.queue_delete("q", if_empty=True)
    assert purged(stage)[1:] == [("q", whole(stage, if_empty=True))], "and not once more, at last"
    assert tables.said[1:] == [("unbind", "x", "k", "", "q")]


@pytest.mark.parametrize("busy", [False, True])
def test_an_auto_delete_queue_goes_with_its_consumer_if_it_is_idle(
    stage: Stage, tables: Tables, busy: bool
) -> None:
    sent: list[bool] = []
    stage.broker.keeper.send = lambda: sent.append(True)  # type: ignore[method-assign]
    if busy:
        stage.engine.answers["purge"] = QueueInUse("messages")
    stage.channel._new_queue("q", auto_delete=True)
    stage.channel.consumer_left("q")
    parts = {"ready": True, "delayed": True, "unacked": True, "dead": True, "settings": True}
    expected = calls.purge(stage.broker.keys("q"), if_idle=True, **parts)  # type: ignore[arg-type]
    assert purged(stage) == [("q", tuple(expected.args))]
    assert sent == [True], "what was acked is not held"
    assert stage.broker.keys("q").noted > 1e9


def test_no_other_queue_goes_with_its_consumer(stage: Stage, tables: Tables) -> None:
    declare(stage, "fan", "fanout")
    channel = stage.channel
    channel._new_queue("kept")
    channel._new_queue("expires", auto_delete=True, arguments={"x-expires": 7})
    for name in ("f", REPLY):
        channel._new_queue(name, auto_delete=True)
    channel.queue_bind("f", "fan")
    for name in ("kept", "expires", "f", REPLY):
        channel.consumer_left(name)
    assert purged(stage) == []


class State:
    """A queue in numbers."""

    def __init__(self, ready: int, delayed: int = 0) -> None:
        self.ready, self.delayed = ready, delayed


@pytest.mark.parametrize("left", [State(1), State(0, 1), None])
def test_of_partitions_none_is_deleted_unless_all_are_empty(
    stage: Stage, tables: Tables, monkeypatch: pytest.MonkeyPatch, left: State | None
) -> None:
    """The last ones lost their dead letters, and then the first one was not empty."""
    stage.spread("q", 7)
    stage.channel.queue_bind("q", "x", "k")
    states = [left or State(0), State(0)]
    monkeypatch.setattr(stage.engine, "run_all", lambda _: states)
    stage.channel.queue_delete("q", if_empty=True)
    assert len(purged(stage)) == (0 if left else 2)
    stage.engine.ran.clear()
    stage.channel.queue_delete("q")
    assert len(purged(stage)) == (2 if left else 0)


def test_a_purge_takes_all_partitions(stage: Stage) -> None:
    stage.spread("q", 7)
    stage.engine.answers["purge"] = [2, 3, 0]
    assert stage.channel._purge("q") == 10


# ── how much is in a queue ────────────────────────────────────────────────────────────────────


def test_how_many_messages_are_ready(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = dict(zip(stage.broker.keys("q").ready, (1, 2, 3, 4), strict=True))
    stage.engine.answers["LLEN"] = lambda asked: lengths[asked[1]]
    assert stage.channel._size("q") == 10
    stage.spread("q", 7)
    answers: list[Any] = [State(2, 9), State(5)]
    monkeypatch.setattr(stage.engine, "run_all", lambda _: answers)
    assert stage.channel._size("q") == 7
    answers[1] = ServerUnavailable("away")
    with pytest.raises(ServerUnavailable):
        stage.channel._size("q")


def test_a_declared_queue_is_found_while_it_is_empty(stage: Stage) -> None:
    channel = stage.channel
    stage.engine.answers.update(EXISTS=0, LLEN=0)
    with pytest.raises(ChannelError):
        channel.queue_declare("q", passive=True)
    channel.queue_declare("q")
    assert channel.queue_declare("q", passive=True).message_count == 0
    assert channel.connection.create_channel(channel.connection)._has_queue("q")
    channel.queue_delete("q")
    with pytest.raises(ChannelError):
        channel.queue_declare("q", passive=True)


def test_on_a_cluster_a_declaration_needs_no_answer_of_a_shard(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, asked = stage.channel, []

    def run(call: Any) -> Any:
        asked.append((call.queue.name, call.brief))
        if call.queue.name == "q":
            raise ServerUnavailable("away")
        return State(3)

    stage.spread("q", 7)
    on_cluster(monkeypatch)
    monkeypatch.setattr(stage.engine, "run", run)
    with pytest.raises(ServerUnavailable):
        channel._size("q")
    asked.clear()
    assert channel.queue_declare("q").message_count == 3
    assert asked == [("q", True), ("q#1.7", True)]
    with pytest.raises(ServerUnavailable):
        channel._size("q")
    monkeypatch.setattr(channel, "_has_queue", lambda *_, **__: True)
    with pytest.raises(ServerUnavailable):
        channel.queue_declare("q", passive=True)
    asked.clear()
    declare(stage, "x", "fanout")
    channel.queue_bind("f", "x")
    for name, more in (("f", {}), (REPLY, {}), ("a", {"auto_delete": True})):
        assert channel.queue_declare(name, **more).message_count == 0  # type: ignore[arg-type]
        assert asked == [], "what passes with its consumer"
    assert channel._size("a") == 3


def test_on_a_cluster_a_declaration_reads_no_record_of_partitions(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cluster(monkeypatch)
    spread, asked = stage.broker.spread, []
    monkeypatch.setattr(stage.engine, "run", lambda _: State(1))
    for how in ("names", "all_names"):
        monkeypatch.setattr(spread, how, lambda queue, how=how: asked.append(how) or (queue,))
    stage.channel.queue_declare("q")
    assert stage.channel._size("q") == 1
    assert asked == ["names", "all_names"]


# ── queues that expire ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_each_partition_is_touched_after_a_quarter_of_its_time(
    stage: Stage, now: list[float]
) -> None:
    stage.spread("q", 7)
    now[0] = 0.1  # a machine that has just begun
    stage.channel._new_queue("q", arguments={"x-expires": 1000})
    for at, touches in ((0.125, 2), (0.375, 2), (0.37505, 4)):
        now[0] = at
        stage.channel._touch_now_and_then("q")
        assert len(stage.engine.called("touch")) == touches
    assert {call.queue.name for call in stage.engine.called("touch")} == {"q", "q#1.7"}


def test_bindings_are_said_again_for_queues_that_expire_and_are_consumed(
    stage: Stage, tables: Tables, now: list[float]
) -> None:
    assert 2 * module.KEEP_EVERY < LEAST_MS / 1000, "one time may be missed"
    channel = stage.transport.create_channel(stage.connection)
    for queue, expires in (("q", 1000), ("kept", None), ("not consumed", 1000)):
        channel.queue_declare(queue, arguments={"x-expires": expires})
        channel.queue_bind(queue, "x", "k")
    stage.consume("kept", channel=channel)
    now[0] += 2 * module.KEEP_EVERY
    tables.said.clear()
    channel.maybe_refresh_binding_expiry()
    assert tables.said == [], "none of them is consumed"
    stage.consume("q", channel=channel)
    for after, said in ((0.0, 2), (module.KEEP_EVERY / 2, 0), (module.KEEP_EVERY / 2, 2)):
        now[0] += after
        tables.said.clear()
        channel.maybe_refresh_binding_expiry()
        assert len(tables.said) == said
    assert tables.said == [("bind", "x", "k", "", "q", 1000), ("sweep", 100)]
    assert channel.sweep_bindings() == 5
