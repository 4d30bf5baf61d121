"""`atomq peek` and `atomq unacked`: messages looked at, whatever lies there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from atomq.client import Engine
from tests.acceptance.conftest import Atomq
from tests.acceptance.given import CELERY, claim, publish
from tests.servers import Server

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)

PICKLED = CELERY | {
    "content-type": "application/x-python-serialize",
    "content-encoding": "binary",
    "body": "gASVCg==",
}


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
