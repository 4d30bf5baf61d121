"""The servers that other tests stand on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import redis

from tests.servers import (
    ROOT,
    Cluster,
    NotAvailable,
    Sentinel,
    Server,
    assert_only_keys,
    choose_kinds,
    full_memory,
    wait_until,
)


def test_server_answers_on_socket_and_port(server: Server) -> None:
    assert server.client().ping()
    assert redis.Redis.from_url(server.tcp_url).ping()
    wanted = tuple(int(part) for part in server.kind.split("-")[1].split("."))
    assert server.version[: len(wanted)] == wanted


def test_reset_undoes_what_a_test_did(server: Server) -> None:
    client = server.client()
    client.set("left", "behind")
    sha = client.script_load("return 1")
    client.config_set("maxmemory", "12345678")
    client.acl_setuser("guest", enabled=True, nopass=True, commands=["+ping"])
    client.acl_setuser("default", commands=["-get"])
    client.client_pause(60_000, all=False)

    server.reset()

    client = server.client()
    assert client.get("left") is None
    assert client.script_exists(sha) == [False]
    assert client.config_get("maxmemory") == {"maxmemory": "0"}
    assert client.acl_users() == ["default"]


def test_reset_replaces_a_dead_and_a_stuck_server(server: Server) -> None:
    for break_it in (server.kill, server.pause):
        break_it()
        server.reset()
        assert server.client().ping()


def test_own_server_keeps_its_data_over_a_kill(own_server: Server) -> None:
    own_server.client().set("a", 1)
    own_server.restart()
    assert own_server.client().get("a") == b"1"


def test_a_thread_may_restart_a_server_and_end(own_server: Server) -> None:
    thread = threading.Thread(target=own_server.restart)
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert own_server.client().ping()


def test_full_memory_refuses_growth(server: Server) -> None:
    client = server.client()
    with full_memory(client), pytest.raises(redis.exceptions.OutOfMemoryError):
        client.set("a", 1)
    assert client.set("a", 1)


def test_cluster_of_one_serves_every_slot(cluster: Cluster) -> None:
    client = cluster.client()
    for number in range(50):
        client.set(f"key{number}", number)
    assert cluster.nodes[0].client().dbsize() == 50


@pytest.mark.slow
def test_cluster_of_three_shares_the_slots(kind: str) -> None:
    with Cluster(kind, nodes=3) as cluster:
        client = cluster.client()
        for number in range(60):
            client.set(f"key{number}", number)
        sizes = [node.client().dbsize() for node in cluster.nodes]
        assert sum(sizes) == 60
        assert min(sizes) > 0


@pytest.mark.slow
def test_sentinel_fails_over(sentinel: Sentinel) -> None:
    client = sentinel.client()
    client.set("a", 1)
    client.wait(1, 1000)
    assert sentinel.fail_over() is sentinel.replica
    assert sentinel.client().get("a") == b"1"


def test_servers_die_with_their_process(server: Server) -> None:
    program = f"""
        from tests.servers import Server
        server = Server({server.kind!r})
        server.start()
        print(server.pid, server.directory, flush=True)
        input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        pid, directory = process.stdout.readline().split()
        process.send_signal(signal.SIGKILL)
    wait_until("the orphan to end", lambda: not _alive(int(pid)))
    subprocess.run(["rm", "-rf", directory], check=True)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_key_left_behind_is_named(server: Server) -> None:
    client = server.client()
    client.mset({"celery": 1, "_atomq.{celery}.meta": 1})
    assert_only_keys(client, ["celery", "_atomq.{celery}.*"])
    with pytest.raises(AssertionError, match="meta"):
        assert_only_keys(client, ["celery"])


def test_a_kind_asked_for_by_name_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAvailable, match="unknown"):
        choose_kinds("redis-5")
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr("tests.servers.ROOT", ROOT / "nowhere")
    with pytest.raises(NotAvailable, match="redis-7"):
        choose_kinds("redis-7")
    run, left_out = choose_kinds()
    assert "redis-7" in left_out
    assert "redis-7" not in run
