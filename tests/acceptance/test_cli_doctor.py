"""`atomq doctor` against servers with every fault it looks for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from atomq import Queue, calls, scripts
from atomq.calls import Outgoing, Rejection
from atomq.client import Engine
from tests.acceptance.conftest import Atomq, Done
from tests.servers import Cluster, Sentinel, Server, assert_only_keys, wait_until

ONE_KIND = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
MESSAGE = '{"body": "1"}'


def lines(done: Done) -> dict[str, dict[str, Any]]:
    return {finding["check"]: finding for finding in done.json("doctor")}


def test_a_server_as_it_should_be(on: Atomq, server: Server) -> None:
    server.client().config_set("appendonly", "yes")
    done = on("doctor", "--json", "--strict")
    found = lines(done)
    allocator = found.pop(
        "allocator"
    )  # of the wheels: libc, where Debian's are built with jemalloc
    assert (allocator["status"] == "ok") == ("libc" not in allocator["found"])
    assert {line["status"] for line in found.values()} == {"ok"}, done.out
    assert done.code == int(allocator["status"] == "warn")
    assert {"version", "eviction", "persistence", "timeout", "scripts", "rights"} <= found.keys()
    assert_only_keys(server.client(), [])


@ONE_KIND
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru", "save": "60 1000"},
            {"eviction": "fail", "memory": "ok", "persistence": "warn"},
        ),
        (
            {"maxmemory-policy": "allkeys-lru", "min-replicas-to-write": "1", "timeout": "300"},
            {"eviction": "warn", "replicas": "fail", "writing": "fail", "timeout": "warn"},
        ),
        (
            {"maxmemory": "1", "appendonly": "yes", "appendfsync": "no"},
            {"memory": "fail", "persistence": "warn", "rights": "ok"},
        ),
        (
            {"maxmemory": "1gb", "maxmemory-policy": "volatile-ttl"},
            {"eviction": "warn", "persistence": "warn"},
        ),
    ],
)
def test_a_badly_configured_server(
    on: Atomq, server: Server, settings: dict[str, str], expected: dict[str, str]
) -> None:
    for name, value in settings.items():
        server.client().config_set(name, value)
    done = on("doctor", "--json")
    found = lines(done)
    assert {check: found[check]["status"] for check in expected} == expected, done.out
    assert done.code == int("fail" in expected.values())


@ONE_KIND
def test_one_subject_is_one_line(atomq: Atomq, own_server: Server) -> None:
    """Not that the AOF cannot be written in one line, and that all is well with it in the next."""
    admin = own_server.client()
    with failing_snapshot(own_server, admin):
        done = atomq("doctor", "--json", url=own_server.tcp_url)
    of_server = [f["check"] for f in done.json("doctor") if f.get("node")]
    assert len(of_server) == len(set(of_server)), done.out
    assert lines(done)["persistence"]["status"] == "fail"


@contextmanager
def failing_snapshot(server: Server, admin: Any) -> Iterator[None]:
    """The server's snapshot fails: there is a directory where its file should be."""
    file = server.directory / "dump.rdb"
    file.mkdir()
    admin.config_set("save", "60 1000")
    admin.bgsave()
    wait_until("the snapshot to fail", lambda: _failed(admin))
    yield
    file.rmdir()


def _failed(admin: Any) -> bool:
    info = admin.info("persistence")
    return info["rdb_last_bgsave_status"] == "err" and not info["rdb_bgsave_in_progress"]


@ONE_KIND
def test_a_cluster_that_one_shard_stops(atomq: Atomq, cluster: Cluster) -> None:
    url = cluster.url.replace("redis://", "redis+cluster://")
    said = lines(atomq("doctor", "--json", url=url))["cluster"]
    assert said["status"] == "warn"
    assert "cluster-require-full-coverage yes" in said["found"]
    cluster.nodes[0].client().config_set("cluster-require-full-coverage", "no")
    assert lines(atomq("doctor", "--json", url=url))["cluster"]["status"] == "ok"


@ONE_KIND
def test_a_master_that_may_write_alone(atomq: Atomq, sentinel: Sentinel) -> None:
    """One that was replaced and lives on would take what is lost."""
    url = f"{sentinel.url}?master_name={sentinel.master_name}"
    said = lines(atomq("doctor", "--json", url=url))["replicas"]
    assert said["status"] == "warn"
    assert "min-replicas-to-write" in said["found"]
    sentinel.master.client().config_set("min-replicas-to-write", 1)
    assert lines(atomq("doctor", "--json", url=url))["replicas"]["status"] == "ok"


@ONE_KIND
def test_what_a_server_confirms(on: Atomq, server: Server) -> None:
    assert "durability" not in lines(on("doctor", "--json"))
    option = ("--option", "durability=replicas=1", "--option", "durability_timeout=0.2")
    found = lines(on("doctor", "--json", *option))["durability"]
    assert found["status"] == "fail"
    assert "0 of 1 replicas confirmed it within 0.2 s" in found["found"]
    with Server(server.kind) as replica:
        replica.client().replicaof("127.0.0.1", str(server.port))
        done = on("doctor", "--json", "--option", "durability=replicas=1")
    assert lines(done)["durability"]["found"] == "replicas=1 is confirmed"


def follows(replica: Server) -> bool:
    return bool(replica.client().info("replication")["master_link_status"] == "up")


@ONE_KIND
def test_a_replica_that_joined_after_the_scripts_were_loaded(on: Atomq, server: Server) -> None:
    """SCRIPT LOAD is not replicated: users that may not load find none there after a failover."""

    def said() -> list[tuple[str, str]]:
        found = on("doctor", "--json").json("doctor")
        return [(f["status"], f["found"]) for f in found if f["check"] == "scripts"]

    on("scripts", "load")
    with Server(server.kind) as replica:
        replica.client().replicaof("127.0.0.1", str(server.port))
        wait_until("it to follow", lambda: follows(replica))
        _, (status, text) = said()
        assert status == "warn"
        assert text.startswith(f"the replica 127.0.0.1:{replica.port}: none of the")
        assert on("scripts", "verify").code == 1
        on("scripts", "load")
        assert [status for status, _ in said()] == ["ok"]


@ONE_KIND
def test_it_counts_scripts_as_scripts_load_does(on: Atomq, server: Server) -> None:
    (found,) = (
        f["found"] for f in on("doctor", "--json").json("doctor") if f["check"] == "scripts"
    )
    missing, total = map(int, re.findall(r"^(\d+) of (\d+) scripts not loaded", found)[0])
    report = json.loads(on("scripts", "load", "--json").out)["nodes"][0]
    assert (missing, total - missing) == (len(report["loaded"]), len(report["present"]))


@ONE_KIND
def test_what_lies_in_the_queues(on: Atomq, server: Server, engine: Engine) -> None:
    admin = server.client()
    dead, damaged, paused = (engine.keys(name) for name in ("dead", "damaged", "paused"))
    engine.run(calls.publish(dead, [Outgoing(MESSAGE, "m")]))
    taken = engine.run(calls.claim([dead], "c-1", limit=1, lease_ms=1000)).deliveries[0]
    engine.run(calls.reject(dead, [Rejection(taken.receipt, "m", "rejected")]))
    engine.run(calls.publish(damaged, [Outgoing(MESSAGE, "m", delay_ms=1000)]))
    admin.hdel(damaged.delayed_records, "m")
    admin.hset(damaged.meta, "steps", 9)
    engine.run(calls.pause(paused))
    admin.set(engine.keys("taken").ready[0], "by something else")
    admin.sadd(engine.keys("taken").meta, "by something else")
    admin.hset("unacked", "tag", "[]")

    done = on("doctor", "dead", "damaged", "paused", "taken", "--json")
    assert done.code == 1
    said = [(f["check"], f["status"], f["found"]) for f in done.json("doctor")]
    for check, status, words in [
        ("queue dead", "warn", "1 dead letter"),
        ("queue damaged", "fail", "1 entries have lost their other half"),
        ("queue damaged", "warn", "9 priority steps"),
        ("queue paused", "warn", "paused"),
        ("queue taken", "fail", "not of the type"),
        ("stock kombu", "warn", "1 message held by stock workers"),
    ]:
        assert any(c == check and s == status and words in f for c, s, f in said), (check, said)


@ONE_KIND
@pytest.mark.parametrize("named", [[], ["orders", "mails"]])
def test_partitions_are_said_as_they_are(on: Atomq, server: Server, named: list[str]) -> None:
    """And a message that lies where the record says that there is none."""
    with Queue("orders", server.url, partitions=3) as orders:
        for n in range(6):
            orders.put(n)
        Queue("mails", orders.engine).put(1)
        Queue("orders#7.0", orders.engine).put(1)
        said = {f["check"]: f for f in on("doctor", *named, "--json").json("doctor")}
        count = 7 if named else 8
        queues = f"{2 if named else 3} queues, 1 of them in 3 partitions: {count} ready"
        assert said["queues"]["found"].startswith(queues)
        assert ", 2 queues" in said["database"]["found"]
        if not named:
            stray = said["queue orders#7.0"]
            assert stray["status"] == "warn"
            assert stray["found"] == "1 message, and 'orders' has no such partition"


@ONE_KIND
def test_a_consumer_that_overlooks_partitions(on: Atomq, server: Server) -> None:
    orders: Any = Queue("orders", server.url, partitions=3)
    with orders:
        parts = [part.name for part in orders.partitions()]
        plain = {"pid": 7, "host": "a", "queues": ["orders", "mails"]}
        told = {**plain, "pid": 8, "partitions": {"orders": 3}}
        older = {**plain, "pid": 9, "queues": parts}
        for entry in (plain, told, older):
            call = calls.register(
                orders.engine.register.keys,
                ["orders", "mails"],
                process=f"p{entry['pid']}",
                alive_ms=9_999,
                entry=json.dumps(entry),
            )
            orders.engine.run(call)
        (found,) = (
            f for f in on("doctor", "--json").json("doctor") if f["check"] == "queue orders"
        )
        assert found["status"] == "warn"
        assert found["found"] == "of its 3 partitions only the first is consumed by a (pid 7)"
        assert 'broker_transport_options={"partitions": {"orders": 3}}' in found["advice"]


def test_a_restricted_user_is_told_what_was_skipped_and_what_is_missing(
    atomq: Atomq, server: Server
) -> None:
    for script in scripts.every():
        server.client().script_load(script.text)
    groups = "+@read", "+@write", "-@dangerous", "+evalsha", "+time", "+publish", "+hello", "+ping"
    rights = [*groups, "-scan", "-hincrby"]
    server.client().execute_command("ACL SETUSER", "app", "on", ">pw", "~*", "&*", *rights)
    url = f"redis://app:pw@127.0.0.1:{server.port}"
    done = atomq("doctor", "--json", url=url)
    found = lines(done)
    assert done.code == 1
    for check, needs in [("memory", "+info"), ("timeout", "+config|get"), ("queues", "+scan")]:
        assert found[check]["status"] in ("skip", "ok")
        if found[check]["status"] == "skip":
            assert needs in found[check]["found"]
    assert found["memory"]["status"] == "skip"
    assert found["rights"]["status"] == "fail"
    assert "+hincrby" in found["rights"]["advice"]
    assert "+client|unblock" in found["rights"]["advice"]
    assert "pw" not in done.out.split()


@ONE_KIND
def test_no_server_is_a_finding_too(atomq: Atomq, kind: str) -> None:
    done = atomq("doctor", "--json", url="redis://127.0.0.1:1")
    assert done.code == 3
    assert [f["check"] for f in done.json("doctor")] == ["connection"]


@ONE_KIND
def test_memory_is_told_to_keep_nothing(atomq: Atomq, kind: str) -> None:
    pytest.importorskip("fakeredis")
    done = atomq("doctor", "--json", url="memory://")
    assert done.code == 0
    assert lines(done)["storage"]["status"] == "warn"
