"""The proxy that fault tests stand on: each fault is exactly the one that was asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis

from tests.proxy import Proxy
from tests.servers import Server

GONE = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)


@pytest.fixture(params=["unix", "tcp"])
def proxy(server: Server, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    target = server.socket if request.param == "unix" else ("127.0.0.1", server.port)
    with Proxy(target) as proxy:
        yield proxy


def test_goes_through_unchanged(proxy: Proxy) -> None:
    big = b"x" * 3_000_000
    client = proxy.client()
    client.set("big", big)
    assert client.get("big") == big
    assert redis.Redis.from_url(proxy.tcp_url).get("big") == big


def test_a_dropped_reply_was_executed_once(proxy: Proxy, server: Server) -> None:
    client = proxy.client()
    assert client.ping()
    proxy.drop_reply(matching=b"INCR")
    with pytest.raises(GONE):
        client.incr("n")
    assert server.client().get("n") == b"1"
    assert client.incr("n") == 2
    assert proxy.dropped == 1


def test_a_match_may_lie_across_two_chunks(proxy: Proxy, server: Server) -> None:
    client = proxy.client()
    assert client.ping()
    proxy.drop_reply(matching=b"the-end")
    with pytest.raises(GONE):
        client.set("big", b"x" * (65536 - 40) + b"the-end" + b"x" * 65536)
    assert server.client().strlen("big") == 65536 - 40 + 7 + 65536


def test_a_dropped_request_was_not_executed(proxy: Proxy, server: Server) -> None:
    client = proxy.client()
    proxy.drop_request(n=2, matching=b"INCR")
    for _ in range(2):
        with pytest.raises(GONE):
            client.incr("n")
    assert server.client().get("n") is None
    assert client.incr("n") == 1


def test_cut_ends_a_waiting_call(proxy: Proxy) -> None:
    client = proxy.client()
    assert client.ping()
    threading.Timer(0.1, proxy.cut).start()
    with pytest.raises(GONE):
        client.blpop(["nothing"], 30)
    assert client.ping()


def test_delay_holds_replies(proxy: Proxy) -> None:
    client = proxy.client()
    assert client.ping()
    proxy.delay(50)
    before = time.monotonic()
    assert client.ping()
    assert time.monotonic() - before >= 0.05


def test_block_parts_and_unblock_delivers(proxy: Proxy, server: Server) -> None:
    client = proxy.client(socket_timeout=1)
    assert client.ping()
    proxy.block()
    with pytest.raises(GONE):
        client.incr("n")
    assert server.client().get("n") is None
    proxy.unblock()
    assert client.ping()


def test_silence_is_for_the_connections_there_are(proxy: Proxy) -> None:
    old = proxy.client(socket_timeout=1)
    assert old.ping()
    proxy.silence()
    with pytest.raises(redis.TimeoutError):
        old.ping()
    assert proxy.client().ping()


def test_a_dead_server_is_a_dead_connection(proxy: Proxy, server: Server) -> None:
    client = proxy.client()
    server.kill()
    with pytest.raises(GONE):
        client.ping()
    server.start()
    assert client.ping()
