"""`atomq scripts`: the deploy step, against every arrangement of servers."""

from __future__ import annotations

import hashlib

import pytest

from atomq import scripts
from tests.acceptance.conftest import Atomq
from tests.servers import Cluster, Sentinel, Server

NAMES = list(scripts.names())
ONE_KIND = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def known(server: Server) -> bool:
    return all(server.client().script_exists(*(script.sha for script in scripts.every())))


def test_list_is_the_manifest_and_needs_no_server(atomq: Atomq) -> None:
    done = atomq("scripts", "list", "--json", url="redis://127.0.0.1:1")
    assert done.code == 0
    manifest = done.json(None, "manifest")
    assert [script["name"] for script in manifest["scripts"]] == NAMES
    table = atomq("scripts", "list")
    assert all(script["sha1"] in table.out for script in manifest["scripts"])


def test_show_prints_exactly_what_is_loaded(atomq: Atomq) -> None:
    done = atomq("scripts", "show", "claim")
    sha = scripts.get("claim").sha
    assert hashlib.sha1(done.out.encode()).hexdigest() == sha
    assert atomq("scripts", "show", sha[:8]).out == done.out


def test_show_contract_prints_the_tables_of_the_header(atomq: Atomq) -> None:
    done = atomq("scripts", "show", "ack", "--contract")
    for word in ("KEYS", "unacked", "ARGV", "receipt", "RETURNS", "ERRORS", "WRONGTYPE"):
        assert word in done.out


def test_an_unknown_script_is_wrong_usage(atomq: Atomq) -> None:
    done = atomq("scripts", "show", "clam")
    assert done.code == 2
    assert "did you mean claim?" in done.err


def test_load_then_verify(on: Atomq, server: Server) -> None:
    before = on("scripts", "verify", "--json")
    assert before.code == 1
    assert before.json(None, "manifest")["nodes"][0]["missing"] == NAMES
    assert "claim" in before.err

    loaded = on("scripts", "load", "--json")
    assert loaded.code == 0, loaded.err
    node = loaded.json(None, "manifest")["nodes"][0]
    assert (node["loaded"], node["present"]) == (NAMES, [])
    assert node["node"] == f"127.0.0.1:{server.port}"
    assert known(server)
    assert on("scripts", "verify").code == 0

    again = on("scripts", "load", "--json").json(None, "manifest")["nodes"][0]
    assert (again["loaded"], again["present"]) == ([], NAMES)


@ONE_KIND
def test_one_missing_script_is_named(on: Atomq, server: Server) -> None:
    for script in scripts.every():
        if script.name != "extend":
            server.client().script_load(script.text)
    done = on("scripts", "verify")
    assert done.code == 1
    assert done.err.splitlines()[0] == f"atomq: missing on 127.0.0.1:{server.port}: extend"


@ONE_KIND
def test_every_primary_of_a_cluster_is_loaded(atomq: Atomq, kind: str) -> None:
    with Cluster(kind, nodes=2) as cluster:
        url = cluster.url.replace("redis://", "redis+cluster://")
        assert atomq("scripts", "load", url=url).code == 0
        assert all(known(node) for node in cluster.nodes)
        cluster.nodes[1].client().script_flush()
        done = atomq("scripts", "verify", "--json", url=url)
        assert done.code == 1
        missing = {row["node"]: row["missing"] for row in done.json(None, "manifest")["nodes"]}
        assert missing == {
            f"127.0.0.1:{cluster.nodes[0].port}": [],
            f"127.0.0.1:{cluster.nodes[1].port}": NAMES,
        }
        # One node of it by its own name would leave the others without.
        done = atomq("scripts", "load", url=cluster.url)
        assert done.code == 2
        assert "redis+cluster://" in done.err
        assert "one node of a cluster" in atomq("doctor", url=cluster.url).out


@ONE_KIND
def test_behind_sentinels_the_master_and_its_replica_are_loaded(
    atomq: Atomq, sentinel: Sentinel
) -> None:
    url = f"{sentinel.url}?master_name={sentinel.master_name}"
    done = atomq("scripts", "load", "--json", url=url)
    assert done.code == 0, done.err
    nodes = [row["node"] for row in done.json(None, "manifest")["nodes"]]
    assert nodes == [f"127.0.0.1:{sentinel.master.port}", f"127.0.0.1:{sentinel.replica.port}"]
    assert known(sentinel.master)
    assert known(sentinel.replica)
    assert atomq("doctor", url=url).code == 0


@ONE_KIND
def test_a_deployer_loads_for_workers_who_may_not(atomq: Atomq, server: Server) -> None:
    admin = server.client()
    allowed = "+script|load", "+script|exists", "+hello", "+info"
    admin.execute_command("ACL SETUSER", "deployer", "on", ">pw", *allowed)
    inner = "@write", "@read", "-@dangerous", "+evalsha", "+time", "+publish", "-script|load"
    rights = [word if word[0] in "+-" else f"+{word}" for word in inner]
    admin.execute_command("ACL SETUSER", "worker", "on", ">pw", "~*", "&*", *rights)
    worker = f"redis://worker:pw@127.0.0.1:{server.port}"
    deployer = f"redis://deployer:pw@127.0.0.1:{server.port}"

    refused = atomq("scripts", "load", url=worker)
    assert refused.code == 4
    assert "+script" in refused.err
    too_early = atomq("put", "q", "1", url=worker)
    assert too_early.code == 4
    assert "atomq scripts load" in too_early.err

    assert atomq("scripts", "load", url=deployer).code == 0
    put = atomq("put", "q", "1", url=worker)
    assert put.code == 0, put.err
