"""A server that is restored from an older copy: what docs/guides/backup.md says of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from atomq import Engine, LeaseLost, Queue, ResultTimeout
from tests.servers import Server

# What is tested here lies in the data, whatever server reads it back.
pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


@pytest.fixture
def restored(kind: str) -> Iterator[Server]:
    """A server for this test alone, without persistence but by a copy."""
    with Server(kind) as server:
        yield server


def copy(server: Server) -> None:
    server.client().save()
    shutil.copy(server.directory / "dump.rdb", server.directory / "copy")


def restore(server: Server) -> None:
    """The server dies, and serves what it had at the copy."""
    server.kill()
    shutil.copy(server.directory / "copy", server.directory / "dump.rdb")
    server.start()


def age(server: Server, queue: Queue, ms: int) -> None:
    """Let what the server notes of a queue be so much older."""
    client = server.client()
    for receipt in client.zrange(queue.keys.unacked, 0, -1):
        client.zincrby(queue.keys.unacked, -ms, receipt)
    for field in ("seen", "quiet"):
        client.hincrby(queue.keys.meta, field, -ms)


def take(queue: Queue, name: str) -> Any:
    """The next message, which must have this id."""
    message = queue.claim(timeout=5)
    assert message is not None
    assert message.id == name
    return message


def test_an_older_copy_holds_what_the_page_says(restored: Server) -> None:
    url = restored.url
    with Engine(url, lease=6) as engine, Engine(url, lease=6) as killed:
        queue = Queue("q", engine, tracked=True)
        queue.put(0, id="early")
        take(queue, "early").complete("done before")
        queue.put(0, id="letter")
        take(queue, "letter").reject("unwanted")
        queue.put(0, id="alive")
        alive = take(queue, "alive")
        queue.put(0, id="killed")
        take(Queue("q", killed), "killed").settled = True  # it is renewed no more
        done, _ = queue.put(0, id="done"), queue.put(0, id="taken")
        queue.put(0, id="later", delay=0.3)
        age(restored, queue, 10_000)  # the copy is ten seconds old
        copy(restored)

        take(queue, "done").complete("done since")
        assert done.wait(1) == "done since"
        taken = take(queue, "taken")
        queue.put(0, id="new")
        assert queue.redrive() == 1
        restore(restored)

        then = time.monotonic()
        assert queue.state().expired == 2, "by their deadlines"
        states = {
            "early": "done",
            "done": "ready",
            "alive": "held",
            "killed": "held",
            "taken": "ready",
            "letter": "dead",
            "later": "delayed",
            "new": "unknown",
        }
        assert {name: queue.get(name).state for name in states} == states
        assert queue.get("early").result == "done before"
        with pytest.raises(ResultTimeout):
            done.wait(0.01)
        with pytest.raises(LeaseLost):
            taken.ack()
        assert not queue.put(0, id="early").new
        assert queue.put(0, id="new").new
        got = {queue.claim(timeout=1).id for _ in range(4)}  # type: ignore[union-attr]
        assert got == {"done", "taken", "new", "later"}
        assert queue.claim() is None, "no lease ends in the first renewal period"
        alive.ack()
        take(queue, "killed")
        assert time.monotonic() - then > 1.5
        assert queue.state().dead == 1


def test_a_copy_beside_an_append_only_file_is_ignored(restored: Server) -> None:
    """Why a restore begins without it."""
    queue = Queue("q", restored.url)
    queue.put(1)
    copy(restored)
    restored._options["appendonly"] = "yes"
    restore(restored)
    assert queue.state().ready == 0
    restored._options["appendonly"] = "no"
    restore(restored)
    restored.client().config_set("appendonly", "yes")
    assert queue.state().ready == 1
    queue.engine.close()
