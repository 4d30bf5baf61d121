"""`atomq queues`, and all commands on a queue of several partitions."""

from __future__ import annotations

import json

import pytest

from atomq import Queue
from atomq.client import Engine
from tests.acceptance.conftest import Atomq
from tests.acceptance.given import CELERY, claim, publish
from tests.servers import Server

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


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


@pytest.mark.slow
def test_a_queue_of_partitions_is_one_queue(on: Atomq, server: Server, engine: Engine) -> None:
    orders = Queue("orders", engine, partitions=4)
    publish(engine, "other", 1)
    for i in range(8):
        orders.put(i)
    later = [orders.put("later", delay=60, id=f"{i}-later") for i in range(3)]
    assert len({sent.queue.name for sent in later}) > 1, "or choose other ids"
    for at, message in enumerate(orders.claim_many(6)):
        message.reject("bad" if at else "worse")
    found = {row["queue"]: row for row in on("queues", "--json").json("queues")}
    assert found.keys() == {"orders", "other"}
    row = found["orders"]
    assert (row["ready"], row["delayed"], row["dead"]) == (2, 3, 6)
    assert "4 partitions" in on("queues", "orders").out
    assert len(json.loads(on("peek", "orders", "--json").out)) == 2
    letters = json.loads(on("dead", "list", "orders", "--json").out)
    assert len(letters) == 6
    assert len({letter["queue"] for letter in letters}) > 1
    reasons = on("dead", "reasons", "orders", "--json").json("reasons")
    assert {(row["queue"], row["count"]) for row in reasons} == {("orders", 5), ("orders", 1)}
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
