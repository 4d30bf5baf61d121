"""A user who may do as little as possible: what it takes to run everything, and what goes without.

The scripts are loaded beforehand by somebody else (`atomq scripts load`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from atomq import (
    AsyncEngine,
    AsyncQueue,
    Engine,
    PermissionDenied,
    Queue,
    ScriptsNotLoaded,
    ServerUnavailable,
)
from tests.servers import Server, wait_until

# What the scripts run inside, by what they do with it.
INNER = (
    "+time +del +unlink +pexpire +set +publish "
    "+llen +lpush +rpush +rpop +lindex "
    "+hlen +hget +hmget +hgetall +hexists +hset +hdel +hincrby "
    "+zcard +zadd +zrem +zscore +zmscore +zcount +zrange +zrevrange +zrangebyscore "
    "+scard +smismember "
    "+xlen +xadd +xrange +xdel"
)
OUTER = "+evalsha +blpop +client|unblock +get +subscribe +unsubscribe"
KEYS = "~q ~q\x06\x16* ~_atomq.{q}.*"
CHANNELS = "resetchannels &_atomq.{q}.*"


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    with Engine(server.url) as engine:
        engine.nodes()[0].load()
    yield server.tcp_url.replace("redis://", "redis://worker:secret@")
    server.client().acl_deluser("worker")


def allow(server: Server, *rules: str, keys: str = KEYS, channels: str = CHANNELS) -> redis.Redis:
    words = " ".join(("on >secret -@all", keys, channels, *rules)).split()
    db = server.client()
    db.execute_command("ACL SETUSER", "worker", "reset", *words)
    return db


def every_verb(queue: Queue) -> None:
    sent = queue.put_many(range(8))
    queue.put("later", delay=60, id="later", ttl=90)
    waits: list[Any] = []
    thread = threading.Thread(target=lambda: waits.append(sent[0].wait(5)))
    thread.start()
    first = queue.claim()
    assert first is not None
    first.extend()
    first.complete("done")
    thread.join()
    assert waits == ["done"]
    queue.put("soon", delay=0.02)  # not before: once it is due it may be the first
    one, two, three = queue.claim_many(3)
    one.reject("bad")
    two.release()
    three.release(delay=0.01)
    for message in queue.consume(timeout=0.3):
        with message:
            pass
    assert queue.redrive() == 1
    assert queue.cancel("later")
    queue.pause()
    queue.resume()
    for part in ("ready", "delayed", "unacked", "dead"):
        queue.peek(part)
    assert queue.purge("ready", "delayed", "unacked", "dead").ready == 1
    assert queue.state().inconsistent == 0


def test_everything_works_with_the_least_rights(server: Server, url: str) -> None:
    allow(server, OUTER, INNER)
    with Engine(url) as engine:
        every_verb(Queue("q", engine))


def test_each_inner_right_is_needed_and_named_when_it_lacks(server: Server, url: str) -> None:
    rights = INNER.split()
    for missing in rights:
        allow(server, OUTER, *(right for right in rights if right != missing))
        with (
            Engine(url) as engine,
            pytest.raises(PermissionDenied, match=missing.replace("+", r"\+")),
        ):
            Queue("q", engine).put("x")
    assert server.client().keys() == []


@pytest.mark.alone
def test_who_may_not_wait_looks_once_a_second(server: Server, url: str) -> None:
    db = allow(server, INNER, "+evalsha")
    with Engine(url) as engine:
        queue = Queue("q", engine)
        db.config_resetstat()
        timer = threading.Timer(0.3, Queue("q", server.url).put, ["x"])
        timer.start()
        began = time.monotonic()
        message = queue.claim(timeout=5)
        assert message is not None
        message.ack()
        assert time.monotonic() - began < 1.3
        assert db.info("commandstats")["cmdstat_evalsha"]["calls"] < 10


def test_who_may_not_unblock_misses_nothing(server: Server, url: str) -> None:
    allow(server, INNER, OUTER.replace("+client|unblock", ""))
    with Engine(url) as engine:
        queue = Queue("q", engine)
        got = []

        def consume() -> None:
            for message in queue.consume(timeout=0.5):
                with message:
                    got.append(message.body)

        threads = [threading.Thread(target=consume) for _ in range(3)]
        for thread in threads:
            thread.start()
        for n in range(30):
            queue.put(n, delay=0.01 * (n % 3))
        for thread in threads:
            thread.join()
        assert sorted(got) == list(range(30))
        assert queue.state().stats["acked"] == 30


def test_who_may_not_listen_is_told_so(server: Server, url: str) -> None:
    allow(server, INNER, OUTER.replace("+subscribe", ""))
    with Engine(url) as engine:
        queue = Queue("q", engine)
        sent = queue.put("x")
        with pytest.raises(PermissionDenied):
            sent.wait(5)

    async def main() -> None:
        async with AsyncEngine(url) as aengine:
            with pytest.raises(PermissionDenied):
                await AsyncQueue("q", aengine).wait(sent.id, 5)

    asyncio.run(main())


def test_the_channels_of_results_belong_to_it(server: Server, url: str) -> None:
    allow(server, INNER, OUTER, channels="resetchannels &other.*")
    with Engine(url) as engine, pytest.raises(PermissionDenied, match="grant &_atomq"):
        Queue("q", engine).put("x")


def test_the_keys_of_other_queues_are_out_of_reach(server: Server, url: str) -> None:
    allow(server, INNER, OUTER)
    with Engine(url) as engine, pytest.raises(PermissionDenied):
        Queue("other", engine).put("x")


def test_scripts_that_nobody_loaded_are_asked_for(server: Server, url: str) -> None:
    db = allow(server, INNER, OUTER)
    with Engine(url, retry_budget=0.1) as engine:
        queue = Queue("q", engine)
        queue.put("x")
        db.script_flush()
        with pytest.raises(ServerUnavailable, match="atomq scripts load"):
            queue.put("y")  # they were there: somebody else may load them again
        with Engine(url) as new, pytest.raises(ScriptsNotLoaded, match="atomq scripts load"):
            Queue("q", new).put("y")
        with Engine(server.url) as admin:
            admin.nodes()[0].load()
        queue.put("y")
        assert queue.state().ready == 2


def test_a_wrong_password_is_no_reason_to_try_again(server: Server, url: str) -> None:
    allow(server, INNER, OUTER)
    began = time.monotonic()
    with (
        Engine(url.replace("secret", "wrong")) as engine,
        pytest.raises(PermissionDenied, match="user or password"),
    ):
        Queue("q", engine).put("x")
    assert time.monotonic() - began < 0.5


def test_rights_taken_away_meanwhile_move_nothing(server: Server, url: str) -> None:
    db = allow(server, INNER, OUTER)
    with Engine(url) as engine:
        queue = Queue("q", engine)
        queue.put_many(range(3))
        db.execute_command("ACL SETUSER", "worker", "-evalsha")
        with pytest.raises(PermissionDenied):
            queue.claim()
        db.execute_command("ACL SETUSER", "worker", "+evalsha")
        assert [m.body for m in queue.claim_many(5)] == [0, 1, 2]
        wait_until("nothing is left over", lambda: queue.state().unacked == 3)
