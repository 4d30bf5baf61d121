"""The command line while its server stands still, ends and comes back, or another takes over."""

from __future__ import annotations

import threading
import time

import pytest

from tests.acceptance.conftest import Atomq
from tests.servers import Sentinel, Server

pytestmark = [pytest.mark.parametrize("kind", ["valkey-9"], indirect=True), pytest.mark.slow]


def test_a_server_that_stands_still_is_given_up_in_time(own_server: Server, atomq: Atomq) -> None:
    options = ("socket_timeout=0.2", "socket_connect_timeout=0.2", "retry_budget=1")
    url, soon = own_server.tcp_url, [word for one in options for word in ("--option", one)]
    own_server.pause()
    try:
        began = time.monotonic()
        done = atomq("queues", "q", *soon, url=url)
        assert time.monotonic() - began < 8
        assert done.code == 3
        assert "Timeout" in done.err
    finally:
        own_server.resume()
    assert atomq("put", "q", "1", url=url).code == 0


def test_a_command_waits_for_a_server_that_comes_back(own_server: Server, atomq: Atomq) -> None:
    assert atomq("put", "q", "1", url=own_server.tcp_url).code == 0
    own_server.kill()
    soon = threading.Timer(1.0, own_server.start)
    soon.start()
    assert atomq("put", "q", "2", url=own_server.tcp_url).code == 0
    soon.join()


@pytest.mark.parametrize("frozen", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_command_follows_a_failover(sentinel: Sentinel, atomq: Atomq, *, frozen: bool) -> None:
    """Behind Sentinels, within the patience it is given."""
    url = f"{sentinel.url}?master_name={sentinel.master_name}"
    assert atomq("put", "q", "1", url=url).code == 0
    sentinel.master.client().execute_command("WAIT", 1, 1000)
    if frozen:
        sentinel.master.pause()
    else:
        sentinel.master.kill()
    done = atomq("put", "q", "2", "--option", "retry_budget=20", url=url)
    assert done.code == 0, done
    assert sentinel.replica.client().llen("q") == 2
    if frozen:
        sentinel.master.resume()
