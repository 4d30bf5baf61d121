"""What the command line knows from the register: queues without a scan, workers, holders."""

from __future__ import annotations

import json
import os
import socket

import pytest

from atomq import Queue, calls
from atomq.contrib import fleet
from atomq.keys import RegisterKeys
from tests.acceptance.conftest import Atomq
from tests.servers import Server, wait_until

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def scans(server: Server) -> int:
    stats = server.client().info("commandstats")
    return int(stats.get("cmdstat_scan", {"calls": 0})["calls"])


def test_queues_are_listed_without_a_scan(on: Atomq, server: Server) -> None:
    with Queue("mails", server.url) as mails, Queue("sms", mails.engine) as sms:
        mails.put(1)
        sms.put(1)
        assert [row["queue"] for row in on("queues", "--json").json("queues")] == ["mails", "sms"]
        assert on("unacked").code == 0
        assert scans(server) == 0


def test_older_queues_are_found_by_a_scan_and_known_from_then_on(on: Atomq, server: Server) -> None:
    with Queue("older", server.url) as older, Queue("newer", older.engine) as newer:
        older.put(1)
        server.client().delete(RegisterKeys().queues)
        assert "older" in on("queues").out  # nothing is in the register: the database is scanned
        newer.put(1)
        assert [row["queue"] for row in on("queues", "--json").json("queues")] == ["newer"]
        doctor = on("doctor", "--json").json("doctor")
        (finding,) = (each for each in doctor if each["check"] == "register")
        assert "lacks 1 queue, as older" in finding["found"]
        assert "older" in on("queues", "--scan").out
        assert [r["queue"] for r in on("queues", "--json").json("queues")] == ["newer", "older"]
        assert on("queues", "mails", "--scan").code == 2


def test_a_queue_that_is_gone_is_forgotten(on: Atomq, server: Server) -> None:
    with Queue("mails", server.url) as queue:
        queue.put(1)
        db = server.client()
        for key in queue.keys.every():
            db.delete(key)  # as a queue that expires does
        assert "no queues" in on("queues").err
        assert db.exists(RegisterKeys().queues) == 0


def test_workers_and_holders_are_named(on: Atomq, server: Server) -> None:
    with Queue("mails", server.url) as queue:
        register = queue.engine.register.keys
        other = calls.register(register, process="other", alive_ms=9_999, entry='{"pid": 1}')
        queue.engine.run(other)
        sent = queue.put(1)
        message = queue.claim()
        assert message is not None
        wait_until(
            "this process is there",
            lambda: len(queue.engine.run(calls.roster(register)).processes) == 2,
        )
        row = next(r for r in on("workers", "--json").json("workers") if r["pid"] != 1)
        host = socket.gethostname()
        assert (row["host"], row["pid"]) == (host, os.getpid())
        assert (row["queues"], row["concurrency"]) == (["mails"], 1)
        assert str(os.getpid()) in on("workers").out
        for command in (["unacked"], ["peek", "mails", "--part", "unacked"]):
            (held,) = on(*command, "--json").json("unacked")
            assert (held["id"], held["host"], held["pid"]) == (sent.id, host, os.getpid())
            assert f"(pid {os.getpid()})" in on(*command).out
        (held,) = on("get", "mails", sent.id, "--json").json("get")
        assert (held["host"], held["pid"]) == (host, os.getpid())
        assert f"(pid {os.getpid()})" in on("get", "mails", sent.id).out
        message.ack()


def test_workers_of_older_releases_are_found_by_a_scan(on: Atomq, server: Server) -> None:
    """As the build 14144c1 writes them: one key each, which passes."""
    entry = {"host": "a", "pid": 7, "queues": ["q"], "clock_ms": 1, "server_ms": 1}
    server.client().set(f"{fleet.PREFIX}w1", json.dumps(entry), px=60_000)
    assert "no process" in on("workers").err
    (row,) = on("workers", "--scan", "--json").json("workers")
    assert (row["host"], row["pid"], row["queues"]) == ("a", 7, ["q"])
    assert on("workers", "--scan").code == 0


def test_what_is_shown_with_its_queue_or_expires_is_not_missing(on: Atomq, server: Server) -> None:
    with Queue("spread", server.url, partitions=6) as spread:
        spread.put(1)  # into one of them: the others are made and have no message yet
        short = spread.engine.keys("short")
        spread.engine.run(calls.touch(short, 60_000))
        assert len(spread.engine.run(calls.roster(spread.engine.register.keys)).queues) < 6
        assert "queue short" not in on("doctor").out
        assert "register" not in on("doctor").out
        server.client().delete(RegisterKeys().queues)
        Queue("newer", spread.engine).put(1)
        doctor = on("doctor", "--json").json("doctor")
        (finding,) = (each for each in doctor if each["check"] == "register")
        assert "lacks 1 queue, as spread" in finding["found"]
