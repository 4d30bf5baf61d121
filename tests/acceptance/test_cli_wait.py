"""`atomq scripts load --wait`: a deploy step that is begun before its servers serve."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from atomq import scripts
from tests.acceptance.conftest import Atomq
from tests.servers import Cluster, Sentinel, Server

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def loads_once(url: str, serve: Callable[[], object]) -> str:
    """What a load says that waits until `serve` is called, which is once it waits."""
    command = [sys.executable, "-m", "atomq", "scripts", "load", "--wait", "60", "--url", url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert said.startswith("waiting for the server: "), said
    serve()
    out, rest = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert f"All {len(scripts.names())} scripts" in out
    return said + rest


def test_it_waits_for_a_server_that_starts(own_server: Server) -> None:
    own_server.kill()
    said = loads_once(own_server.tcp_url, own_server.start)
    assert "refused" in said
    assert said.count("\n") == 1, "each reason once"


def test_it_waits_for_a_server_that_reads_its_data(kind: str) -> None:
    # The delay is for each key; between so many bytes of its file the server answers.
    options = {"loading-process-events-interval-bytes": "1024", "key-load-delay": "0"}
    with Server(kind, options=options) as server:
        server.client().mset({f"key-{number}": "x" for number in range(20_000)})
        server.client().save()
        server.kill()
        server._options["key-load-delay"] = "2000"
        starting = threading.Thread(target=server.start)
        starting.start()
        slow = server.client()
        said = loads_once(server.tcp_url, lambda: slow.config_set("key-load-delay", "0"))
        starting.join()
    assert "loading" in said.lower()


def test_it_waits_for_a_cluster_to_serve_all_slots(cluster: Cluster) -> None:
    admin = cluster.nodes[0].client()
    admin.execute_command("CLUSTER DELSLOTS", 7)
    url = cluster.url.replace("redis://", "redis+cluster://")
    said = loads_once(url, lambda: admin.execute_command("CLUSTER ADDSLOTS", 7))
    assert "the cluster's state is fail" in said


def test_it_waits_for_sentinels_to_know_a_master(sentinel: Sentinel) -> None:
    where = ("127.0.0.1", sentinel.master.port, 1)
    loads_once(
        f"{sentinel.url}?master_name=late",
        lambda: sentinel._connect().execute_command("SENTINEL MONITOR", "late", *where),
    )


def test_it_ends_with_the_reason(atomq: Atomq, kind: str) -> None:
    done = atomq("scripts", "load", "--wait", "0.5", url="redis://127.0.0.1:1")
    assert done.code == 3
    first, last = done.err.splitlines()
    assert first.startswith("waiting for the server: Error 111")
    assert last.startswith("atomq: no server to load them into within 0.5 s: Error 111")


def test_what_no_wait_mends_ends_it_at_once(atomq: Atomq, server: Server) -> None:
    server.client().execute_command("ACL SETUSER", "none", "on", ">pw", "+hello")
    url = f"redis://none:pw@127.0.0.1:{server.port}"
    done = atomq("scripts", "load", "--wait", "60", url=url)
    assert done.code == 4
    assert "waiting" not in done.err
