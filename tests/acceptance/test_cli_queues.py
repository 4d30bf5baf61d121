"""The commands that look into queues and move what lies there."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from atomq import Queue, calls, scripts
from atomq.calls import Outgoing, Rejection
from atomq.client import Engine
from atomq.message import Writer
from tests.acceptance.conftest import Atomq
from tests.proxy import Proxy
from tests.servers import Server

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)

CELERY = {
    "body": "W1sxXSwge30sIHt9XQ==",  # [[1], {}, {}]
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {"task": "proj.add", "id": "task-1"},
    "properties": {"body_encoding": "base64", "delivery_tag": "tag-1", "priority": 0},
}
PICKLED = CELERY | {
    "content-type": "application/x-python-serialize",
    "content-encoding": "binary",
    "body": "gASVCg==",
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


# ── look ──────────────────────────────────────────────────────────────────────────────────────


def test_queues_finds_ours_and_those_of_stock_kombu(
    on: Atomq, server: Server, engine: Engine
) -> None:
    publish(engine, "later", 2, delay_ms=60_000)
    publish(engine, "now", 3, step=2)
    claim(engine, "now", 1, lease_ms=1)
    admin = server.client()
    admin.sadd("_kombu.binding.celery", "celery\x06\x16\x06\x16celery")
    admin.sadd("_kombu.binding.celery.pidbox", "\x06\x16\x06\x16w@h.celery.pidbox")
    admin.lpush("celery", json.dumps(CELERY))
    admin.set("_atomq.{now}.result.x", "a result is no queue")

    rows = {row["queue"]: row for row in on("queues", "--scan", "--json").json("queues")}
    assert rows.keys() == {"later", "now", "celery"}
    assert rows["later"]["delayed"] == 2
    assert rows["now"]["ready_by_priority"]["3"] == 2
    assert (rows["now"]["unacked"], rows["now"]["expired"]) == (1, 1)
    assert rows["now"]["oldest_seconds"] is not None
    assert rows["celery"]["ready"] == 1
    assert [row["queue"] for row in on("queues", "now", "--json").json("queues")] == ["now"]


def test_queues_watch_goes_on_until_it_is_interrupted(server: Server, engine: Engine) -> None:
    import os
    import signal
    import subprocess
    import sys

    publish(engine, "q")
    command = [sys.executable, "-m", "atomq.cli", "queues", "--watch", "--interval", "0.1"]
    process = subprocess.Popen(
        [*command, "--json", "--url", server.tcp_url],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    assert process.stdout is not None
    looks = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [rows[0]["ready"] for rows in looks] == [1, 1, 1]
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    process.stdout.close()


def test_a_wrong_key_is_told_and_the_others_are_shown(
    on: Atomq, server: Server, engine: Engine
) -> None:
    publish(engine, "good")
    server.client().set("bad", "text")
    done = on("queues", "bad", "good", "--json")
    assert done.code == 1
    assert done.err.startswith("atomq: bad: ")
    assert [row["queue"] for row in done.json("queues")] == ["good"]


def test_peek_reads_celery_and_survives_what_nobody_can_read(on: Atomq, server: Server) -> None:
    admin = server.client()
    strange: list[Any] = [
        json.dumps(CELERY),
        json.dumps(PICKLED),
        b"\xff\xfe not json",
        '{"body": NaN, "headers": [], "properties": 5}',
        '{"a":' * 5000,
        '{"body": "[' + "[" * 900 + "]" * 900 + ']", "content-type": "application/json"}',
        '{"body": "\\ud800", "headers": {"task": 7}}',
    ]
    for message in strange:
        admin.lpush("q", message)
    rows = on("peek", "q", "--json", "--body").json("peek")
    assert len(rows) == len(strange)
    assert rows[0]["task"] == "proj.add"
    assert rows[0]["id"] == "task-1"
    assert rows[0]["body"] == [[1], {}, {}]
    assert rows[1]["body"].startswith("base64:")
    assert rows[2]["id"] is None
    assert on("peek", "q", "--body").code == 0
    assert "proj.add" in on("peek", "q", "--limit", "1").out


def test_no_message_steers_the_terminal(on: Atomq, server: Server) -> None:
    task = "\x1b[2J[red]\u009bevil"
    server.client().lpush("q", json.dumps(CELERY | {"headers": {"task": task, "id": "\x07"}}))
    out = on("peek", "q").out
    assert "\x1b" not in out
    assert "\x9b" not in out
    assert r"\x1b[2J[red]\x9bevil" in out


def test_unacked_tells_who_holds_what(on: Atomq, engine: Engine) -> None:
    publish(engine, "a", 2)
    publish(engine, "b")
    claim(engine, "a", 1)
    claim(engine, "b", 1, lease_ms=1)
    rows = on("unacked", "--json").json("unacked")
    assert {row["queue"] for row in rows} == {"a", "b"}
    assert rows[0]["holder"] == "c" * 24
    assert rows[0]["deliveries"] == 1
    assert on("unacked", "a").out.count("a-0") == 1


def test_pages_go_on_beyond_one_call(on: Atomq, engine: Engine) -> None:
    publish(engine, "q", 450)
    rows = on("peek", "q", "--json", "--limit", "430", "--offset", "10").json("peek")
    assert [row["id"] for row in rows] == [f"q-{i}" for i in range(10, 440)]


# ── put ───────────────────────────────────────────────────────────────────────────────────────


def test_put_with_everything(on: Atomq, engine: Engine) -> None:
    options = ["--priority", "9", "--id", "me", "--ttl", "1h", "--header", "n=5", "--header", "t=x"]
    done = on("put", "q", '{"to": "ann"}', *options, "--json")
    assert done.json("put") == [{"queue": "q", "published": 1, "known": 0, "id": "me"}]
    (found,) = claim(engine, "q", 1)
    assert found.envelope.body() == {"to": "ann"}
    assert found.envelope.headers == {"n": 5, "t": "x"}
    assert found.envelope.expires_ms > time.time() * 1000 + 3_000_000
    assert found.step == 4
    again = on("put", "q", "1", "--id", "me")
    assert again.code == 1
    assert "nothing was put" in again.err


def test_put_says_what_was_not_confirmed(on: Atomq, server: Server) -> None:
    alone = ("--option", "durability_timeout=0.1", "--durability")
    done = on("put", "q", "1", *alone, "replicas=1")
    assert (done.code, done.out) == (1, "")
    assert "nothing was put: a trial write was not confirmed, 0 of 1 replicas" in done.err
    assert on("put", "q", "1", *alone, "both").code == 2
    assert server.client().llen("q") == 0
    with Server(server.kind) as replica:
        replica.client().replicaof("127.0.0.1", str(server.port))
        done = on("put", "q", "1", "--durability", "replicas=1")
    assert done.code == 0, done.err
    assert server.client().llen("q") == 1


def test_put_later_and_cancel(on: Atomq, engine: Engine) -> None:
    assert on("put", "q", "1", "--delay", "10m").code == 0
    assert on("put", "q", "-", "--at", "2100-01-01T00:00Z", stdin='"x"').code == 0
    rows = on("delayed", "list", "q", "--json").json("delayed")
    assert [row["due_ms"] > time.time() * 1000 + 500_000 for row in rows] == [True, True]
    assert rows[1]["due_ms"] == 4_102_444_800_000
    ids = "".join(f"{row['id']}\n" for row in rows)
    done = on("delayed", "cancel", "q", "-", "--json", stdin=ids)
    assert done.code == 0
    assert done.json("moved")[0]["done"] == 2
    gone = on("delayed", "cancel", "q", rows[0]["id"])
    assert gone.code == 1
    assert "not delayed" in gone.err


def test_a_put_with_an_id_may_be_repeated(atomq: Atomq, server: Server, engine: Engine) -> None:
    """Its answer is lost: it was put, and the same command does not put it once more."""
    command = ("put", "q", '"x"', "--id", "one", "--option", "retry_attempts=0")
    engine.nodes()[0].load()
    with Proxy(server.socket) as proxy:
        proxy.drop_reply(matching=scripts.get("publish").sha.encode())
        assert atomq(*command, url=proxy.url).code == 3
        assert "one is known in q" in atomq(*command, url=proxy.url).err
    assert engine.run(calls.inspect(engine.keys("q"))).ready == 1


def test_put_lines(on: Atomq, engine: Engine) -> None:
    done = on("put", "q", "--lines", "--json", stdin="".join(f"{i}\n" for i in range(2500)))
    assert done.json("put") == [{"queue": "q", "published": 2500, "known": 0}]
    assert [d.envelope.body() for d in claim(engine, "q", 3)] == [0, 1, 2]
    bad = on("put", "other", "--lines", stdin="1\n" * 1000 + "x\n")
    assert bad.code == 2
    assert "line 1001" in bad.err
    assert "1,000 messages were put before" in bad.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["put", "q", "not json"],
        ["put", "q", "1", "--delay", "soon"],
        ["put", "q", "1", "--delay", "1", "--at", "1900000000"],
        ["dead", "redrive", "q"],
        ["dead", "purge", "q", "--all"],
        ["hand-back"],
    ],
)
def test_what_makes_no_sense_is_refused(on: Atomq, server: Server, arguments: list[str]) -> None:
    done = on(*arguments)
    assert done.code == 2, done.err
    assert server.client().dbsize() == 0


# ── move ──────────────────────────────────────────────────────────────────────────────────────


def test_dead_letters_are_shown_redriven_and_purged(on: Atomq, engine: Engine) -> None:
    kill(engine, "q", ["rejected", "expired", "rejected", "expired"])
    rows = on("dead", "list", "q", "--oldest", "--json").json("dead")
    assert [row["reason"] for row in rows] == ["rejected", "expired", "rejected", "expired"]
    only = ["--oldest", "--reason", "expired", "--limit", "1"]
    page = on("dead", "list", "q", "--json", *only).json("dead")
    assert [row["dead_id"] for row in page] == [rows[1]["dead_id"]]

    shown = on("dead", "show", "q", rows[2]["dead_id"], "--json").json("dead")
    assert shown[0]["detail"] == "ValueError: no\nline 2"
    assert shown[0]["body"] == {"n": 2}
    assert on("dead", "show", "q", rows[2]["dead_id"], "1-1").code == 1
    assert '{"n": 2}' in on("dead", "show", "q", rows[2]["dead_id"]).out

    some = on("dead", "redrive", "q", rows[0]["dead_id"], "1-1", "--json")
    assert some.code == 1
    assert some.json("moved")[0]["not_done"] == [{"id": "1-1", "why": "no such dead letter"}]
    by_reason = on("dead", "redrive", "q", "--reason", "expired", "--json")
    assert by_reason.json("moved")[0]["done"] == 2
    purged = on("dead", "purge", "q", rows[2]["dead_id"], "--yes", "--json")
    assert purged.json("moved")[0]["done"] == 1
    state = engine.run(calls.inspect(engine.keys("q")))
    assert (state.ready, state.dead) == (3, 0)


def test_all_dead_letters_go_back_but_for_the_undecodable(
    on: Atomq, server: Server, engine: Engine
) -> None:
    server.client().lpush("q", "garbage")
    claim(engine, "q", 1)
    kill(engine, "q", ["rejected"] * 3)
    done = on("dead", "redrive", "q", "--all")
    assert done.code == 1
    assert done.out == "q: put 3 messages back to ready\n"
    assert "1 dead letter: cannot be decoded, stay" in done.err
    assert on("dead", "purge", "q", "--all", "--yes").code == 0
    assert engine.run(calls.inspect(engine.keys("q"))).dead == 0


def test_pause_and_resume(on: Atomq, engine: Engine) -> None:
    publish(engine, "q")
    assert on("pause", "q", "--json").json("pause") == [
        {"queue": "q", "paused": True, "changed": True}
    ]
    assert claim(engine, "q", 1) == []
    assert "paused" in on("queues").out
    assert on("resume", "q").out == "q: running\n"
    assert len(claim(engine, "q", 1)) == 1


def test_purge_throws_away_the_parts_named(on: Atomq, engine: Engine, server: Server) -> None:
    kill(engine, "q", ["rejected"])
    publish(engine, "q", 3)
    publish(engine, "q", 2, delay_ms=60_000)
    claim(engine, "q", 1)
    done = on("purge", "q", "--ready", "--delayed", "--yes", "--json")
    assert done.json("purge") == [{"queue": "q", "ready": 2, "delayed": 2, "unacked": 0, "dead": 0}]
    done = on("purge", "q", "--all", "--settings", "--yes")
    assert done.code == 0
    assert "1 unacked, 1 dead" in done.out
    assert server.client().keys() == []


def test_hand_back_gives_stock_workers_everything(
    on: Atomq, engine: Engine, server: Server
) -> None:
    publish(engine, "q", 3)
    publish(engine, "p", 2, delay_ms=60_000)
    claim(engine, "q", 2)
    done = on("hand-back", "--all", "--json")
    assert done.code == 0
    assert "2 messages still held" in done.err
    rows = {row["queue"]: row for row in done.json("hand_back")}
    assert (rows["q"]["unacked"], rows["p"]["delayed"]) == (2, 2)
    assert (server.client().llen("q"), server.client().llen("p")) == (3, 2)


# ── queues of several partitions ──────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_queue_of_partitions_is_one_queue(on: Atomq, server: Server, engine: Engine) -> None:
    orders = Queue("orders", engine, partitions=4)
    publish(engine, "other", 1)
    for i in range(8):
        orders.put(i)
    later = [orders.put("later", delay=60, id=f"{i}-later") for i in range(3)]
    assert len({sent.queue.name for sent in later}) > 1, "or choose other ids"
    for message in orders.claim_many(6):
        message.reject("bad" if message.body else "worse")
    found = {row["queue"]: row for row in on("queues", "--json").json("queues")}
    assert found.keys() == {"orders", "other"}
    row = found["orders"]
    assert (row["ready"], row["delayed"], row["dead"]) == (2, 3, 6)
    assert "4 partitions" in on("queues", "orders").out
    assert len(json.loads(on("peek", "orders", "--json").out)) == 2
    letters = json.loads(on("dead", "list", "orders", "--json").out)
    assert len(letters) == 6
    assert len({letter["queue"] for letter in letters}) > 1
    one = letters[0]
    assert on("dead", "redrive", one["queue"], one["dead_id"]).code == 0
    assert "put 5 messages back" in on("dead", "redrive", "orders", "--all").out
    assert "cancelled 3 messages" in on("delayed", "cancel", "orders", *(s.id for s in later)).out
    assert on("pause", "orders").out == "orders: paused\n"
    assert orders.claim() is None
    assert on("resume", "orders").code == 0
    assert "threw away 8 ready" in on("purge", "orders", "--all", "--settings", "--yes").out
    assert orders.state().stats == {}
    assert Queue("orders", engine).state().partitions == ()
