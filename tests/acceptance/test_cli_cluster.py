"""The command line on a cluster of which one shard is in trouble: what is told, and how soon."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from atomq import Engine, Queue, scripts
from atomq.keys import QueueKeys
from tests.acceptance.conftest import Atomq
from tests.conftest import LONG, ON_CLUSTERS
from tests.faults.test_cluster import PARTIAL, Moving, in_trouble, name_on, url_of
from tests.servers import Cluster, wait_until

pytestmark = [
    ON_CLUSTERS,
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def three(kind: str) -> Iterator[Cluster]:
    """Three primaries. A fourth serves no slots."""
    with Cluster(kind, nodes=3, spare=True, options=PARTIAL) as cluster:
        yield cluster


@contextmanager
def half_moved(cluster: Cluster, slot: int) -> Iterator[None]:
    assert cluster.spare is not None
    moving = Moving(cluster, slot, cluster.spare)
    moving.begin()
    moving.keys(0.5)
    yield
    moving.end()


@pytest.mark.long
@pytest.mark.parametrize("how", ["frozen", "half moved", "dead"])
def test_a_shard_in_trouble_is_named_and_the_others_are_shown(
    three: Cluster, atomq: Atomq, how: str
) -> None:
    """`dead` is also what lost for good is, until the next time the node is started."""
    url, well, troubled = url_of(three), name_on(three, 0), name_on(three, 1)
    with Engine(url) as engine:
        for name in (well, troubled):
            Queue(name, engine).put("x")
        Queue(troubled, engine).put("later", delay=60)
        slot = engine.keys(troubled).slot
    node = three.owner(slot)
    with half_moved(three, slot) if how == "half moved" else in_trouble(node, how):
        began = time.monotonic()
        done = atomq("queues", "--json", well, troubled, url=url)
        assert time.monotonic() - began < 15
        assert [row["queue"] for row in done.json("queues")] == [well]
        assert done.code == 3
        reason = "rehashing of slot" if how == "half moved" else f"127.0.0.1:{node.port}"
        assert f"{troubled}: " in done.err
        assert reason in done.err
        assert atomq("put", well, '"y"', url=url).code == 0
        if how != "half moved":
            said = atomq("doctor", "--json", url=url)
            assert said.code == 1
            rows = {(row["check"], row.get("node")): row for row in said.json("doctor")}
            assert rows["connection", f"127.0.0.1:{node.port}"]["status"] == "fail"
            others = {f"127.0.0.1:{other.port}" for other in three.nodes if other is not node}
            assert {where for check, where in rows if check == "scripts"} >= others
    wait_until("it to take messages", lambda: atomq("put", troubled, '"y"', url=url).code == 0)


@pytest.mark.parametrize("how", ["dead", pytest.param("frozen", marks=pytest.mark.long)])
def test_of_a_queue_what_answers_is_shown_and_what_did_not_is_named(
    three: Cluster, atomq: Atomq, how: str
) -> None:
    """Its first partition is away, which has the record of the others."""
    name, url, soon = name_on(three, 1), url_of(three), ("--option", "retry_budget=0.2")
    with Engine(url) as engine:
        orders: Any = Queue(name, engine, partitions=3)
        parts = {three.owner(part.keys.slot): part for part in orders.partitions()}
        sent = []
        for part in parts.values():
            part.put("dead")
            part.claim().reject("bad")
            sent.append(part.put("ready"))
            part.put("later", delay=60)
        node = three.owner(engine.keys(name).slot)
        there = [each for each in sent if each.id[-1] != "0"]
    del parts[node]

    def on(*arguments: str) -> str:
        """What it prints, where a shard is away."""
        done = atomq(*arguments, *soon, url=url)
        assert done.code == 3, done
        assert f"{name}: " in done.err
        assert str(node.port) in done.err
        return done.out

    with in_trouble(node, how):
        (row,) = json.loads(on("queues", "--json", name))
        assert (row["queue"], row["ready"], row["unanswered"]) == (name, 2, [name])
        assert len(json.loads(on("peek", name, "--json"))) == 2
        assert len(json.loads(on("dead", "list", name, "--json"))) == 2
        assert on("pause", name) == f"{name}: paused\n"
        if LONG:
            assert f"without {name}" in on("queues", name)
            assert on("resume", name) == f"{name}: running\n"
            assert len(json.loads(on("delayed", "list", name, "--json"))) == 2
            assert json.loads(on("dead", "reasons", name, "--json"))[0]["count"] == 2
            found = atomq("get", name, there[0].id, "--json", *soon, url=url)
            assert (found.code, found.json("get")[0]["state"]) == (0, "ready")
            assert "cancelled 2 messages" in on("cancel", name, *(each.id for each in there))
            assert "put 2 messages back" in on("dead", "redrive", name, "--all")
        assert "threw away 2 ready" in on("purge", name, "--ready", "--yes")
        assert on("purge", name, "--all", "--settings", "--yes") == ""
    wait_until("the shard", lambda: atomq("queues", name, url=url).code == 0)


def test_the_demo_holds_on_three_nodes_and_leaves_no_queue(three: Cluster, atomq: Atomq) -> None:
    short = ("--files", "50", "--seconds", "1", "--lease", "1")
    done = atomq("demo", *short, "--json", "--url", url_of(three))
    assert done.code == 0, done
    facts = json.loads(done.out)
    assert (facts["lost"], facts["left_over"], facts["faults"]) == (0, 0, [])
    left = atomq("queues", "--json", "--scan", url=url_of(three)).json("queues")
    assert not [row for row in left if row["queue"].startswith("demo-")]


def test_dead_letters_on_three_nodes(three: Cluster, atomq: Atomq) -> None:
    """Of queues of two nodes, and of one whose partitions lie on all."""
    url, names = url_of(three), [name_on(three, 0), name_on(three, 1), name_on(three, 2)]
    with Engine(url) as engine:
        queues = [Queue(names[0], engine), Queue(names[1], engine)]
        queues.append(Queue(names[2], engine, partitions=3))
        for queue in queues:
            queue.put_many(range(3))
            queue.put(3)
            for message in queue.claim_many(4):
                message.reject("odd" if message.body % 2 else "even")
    letters = atomq("dead", "list", *names, "--json", url=url).json("dead")
    assert len(letters) == 12
    reasons = atomq("dead", "reasons", *names, "--json", url=url).json("reasons")
    assert sorted((row["queue"], row["reason"]) for row in reasons) == sorted(
        (name, reason) for name in names for reason in ("odd", "even")
    )
    one = letters[0]
    assert atomq("dead", "show", one["queue"], one["dead_id"], url=url).code == 0
    for name in names:
        said = atomq("dead", "redrive", name, "--reason", "odd", url=url).out
        assert said == f"{name}: put 2 messages back to ready\n"
        said = atomq("dead", "purge", name, "--all", "--yes", url=url).out
        assert said == f"{name}: threw away 2 dead letters\n"


@pytest.mark.long
def test_a_slot_that_moved_is_found(three: Cluster, atomq: Atomq) -> None:
    assert three.spare is not None
    url, name = url_of(three), name_on(three, 2)
    assert atomq("put", name, '"x"', url=url).code == 0
    with Engine(url) as engine:
        Moving(three, engine.keys(name).slot, three.spare).at_once()
    (row,) = atomq("queues", "--json", name, url=url).json("queues")
    assert row["ready"] == 1


@pytest.mark.long
@pytest.mark.parametrize("how", ["dead", "frozen", "manual"])
def test_a_command_waits_for_a_failover(kind: str, atomq: Atomq, how: str) -> None:
    """Within the patience it is given."""
    with Cluster(kind, nodes=3, replicas=True, options=PARTIAL) as cluster:
        url, name = url_of(cluster, *cluster.everyone), name_on(cluster, 0)
        patient = ("--option", "retry_budget=15")
        assert atomq("put", name, '"x"', url=url).code == 0
        _fail_over(cluster, how)
        assert atomq("put", *patient, name, '"x"', url=url).code == 0
        if how == "frozen":
            cluster.nodes[0].resume()


@pytest.mark.long
def test_a_replica_that_joined_after_the_scripts_were_loaded_takes_over(
    kind: str, atomq: Atomq
) -> None:
    """Users that may not load need what `doctor` advises; one that may helps them too."""
    with Cluster(kind, nodes=3, replicas=True, options=PARTIAL) as cluster:
        url, name = url_of(cluster, *cluster.everyone), name_on(cluster, 0)
        heir = cluster.replicas[0]

        def known() -> list[bool]:
            return [bool(each) for each in heir.client().script_exists(*shas)]

        def said() -> list[str]:
            rows = atomq("doctor", "--json", url=url).json("doctor")
            return [
                row["found"] for row in rows if (row["check"], row["status"]) == ("scripts", "warn")
            ]

        shas = [script.sha for script in scripts.every()]
        assert atomq("scripts", "load", url=url).code == 0
        for node in cluster.everyone:
            node.client().execute_command(
                "ACL SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-script|load"
            )
        heir.client().script_flush()  # as one that joined just now
        (found,) = said()
        assert found.startswith(f"the replica 127.0.0.1:{heir.port}: none of the")
        assert atomq("scripts", "verify", url=url).code == 1
        plain = url.replace("//", "//plain:secret@")
        assert atomq("put", name, '"x"', url=plain).code == 0

        cluster.fail_over(heir)
        slot = QueueKeys(name, layout="cluster").slot
        wait_until("it to take over", lambda: cluster.owns(heir, slot))
        done = atomq("put", name, '"x"', url=plain)
        assert done.code != 0
        assert "run `atomq scripts load" in done.err
        assert atomq("put", name, '"x"', url=url).code == 0  # this user may load
        assert any(known())
        assert atomq("put", name, '"x"', url=plain).code == 0
        assert atomq("scripts", "load", url=url).code == 0
        assert all(known())
        assert said() == []
        assert Queue(name, url).state().ready == 3


def _fail_over(cluster: Cluster, how: str) -> None:
    primary = cluster.nodes[0]
    primary.client().execute_command("WAIT", 1, 1000)
    if how == "manual":
        cluster.fail_over(cluster.replicas[0])
    elif how == "frozen":
        primary.pause()
    else:
        primary.kill()
