"""What is done to whole queues: pause, resume, purge, hand-back."""

from __future__ import annotations

import pytest

from atomq.client import Engine
from tests.acceptance.conftest import Atomq
from tests.acceptance.given import claim, kill, publish
from tests.servers import Server

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


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
