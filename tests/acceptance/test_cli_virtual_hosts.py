"""The command line in a virtual host of a cluster: a namespace, where that has no databases."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from atomq import Engine, Queue, scripts
from atomq.errors import PermissionDenied
from atomq.keys import RegisterKeys, namespace
from tests.acceptance.conftest import Atomq, Done
from tests.faults.test_cluster import url_of
from tests.servers import Cluster

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def of(cluster: Cluster, host: int) -> str:
    return url_of(cluster) + (f"/{host}" if host else "")


def test_it_shows_and_moves_what_lies_in_its_own_alone(cluster: Cluster, atomq: Atomq) -> None:
    for host in (0, 1, 2):
        with Queue(f"of{host}", of(cluster, host)) as queue, Queue("all", queue.engine) as other:
            other.put(host)
            queue.put_many(["bad", "x"])
            queue.claim().reject("no")  # type: ignore[union-attr]

    def say(host: int, *words: str) -> Done:
        done = atomq(*words, url=of(cluster, host))
        assert done.code == 0, done.err
        return done

    for host in (0, 1, 2):
        rows = say(host, "queues", "--json", "--scan").json("queues")
        assert [row["queue"] for row in rows] == ["all", f"of{host}"]
    letters = say(1, "dead", "list", "of1", "--json").json("dead")
    assert [letter["reason"] for letter in letters] == ["no"]
    say(1, "dead", "redrive", "of1", "--all")
    say(2, "purge", "all", "--all", "--yes")
    with Engine(of(cluster, 0)) as zero:
        assert Queue("all", zero).state().ready == 1
        assert Queue("of0", zero).state().dead == 1
    with Engine(of(cluster, 1)) as one:
        assert Queue("all", one).state().ready == 1
        assert Queue("of1", one).state().dead == 0
    assert "of1" not in say(2, "metrics").out
    say(1, "scripts", "load")
    say(2, "scripts", "verify")


def test_workers_of_another_one_are_none_of_its_business(cluster: Cluster, atomq: Atomq) -> None:
    cluster.nodes[0].client().set("_atomq.worker.old", json.dumps({"host": "old", "pid": 1}))
    began, done = threading.Event(), threading.Event()
    with Queue("q", of(cluster, 1)) as queue:

        def work() -> None:
            for message in queue.consume(timeout=5):
                with message:
                    began.set()
                    done.wait(20)
                break

        queue.put("x")
        thread = threading.Thread(target=work)
        thread.start()
        assert began.wait(5)

        def seen(host: int) -> list[Any]:
            return atomq("workers", "--scan", "--json", url=of(cluster, host)).json("workers")

        try:
            assert [row["queues"] for row in seen(1)] == [["q"]]
            assert seen(2) == []
            assert [row["host"] for row in seen(0)] == ["old"]
        finally:
            done.set()
            thread.join()


def doctor(atomq: Atomq, url: str, check: str) -> list[tuple[str, str]]:
    rows = atomq("doctor", "--json", url=url).json("doctor")
    return [(row["status"], row["found"]) for row in rows if row["check"] == check]


def test_doctor_says_which_it_is(cluster: Cluster, kind: str, atomq: Atomq) -> None:
    assert doctor(atomq, of(cluster, 0), "database") == []
    (found,) = doctor(atomq, of(cluster, 1), "database")
    text = "virtual_host 1 is a namespace, as this cluster has no databases: "
    assert found == ("ok", f"{text}names in it begin with _atomq.1:")
    with Cluster(kind, options={"cluster-databases": "2"}) as able:
        one = ("ok", "virtual_host 1 is a database of the cluster")
        assert doctor(atomq, of(able, 1), "database") == [one]
        # as if it had had none when this was put
        with Queue("q", of(able, 0), global_keyprefix=namespace(1)) as queue:
            queue.put("x")
        first, left = doctor(atomq, of(able, 1), "database")
        assert first == one
        text = "queues of virtual_host 1 from when the cluster had no databases are left"
        assert left == ("warn", text)


def test_doctor_compares_the_workers_of_one_virtual_host(cluster: Cluster, atomq: Atomq) -> None:
    for host, timeout in ((0, 10), (1, 20), (2, 30)):
        said = json.dumps({"visibility_timeout": timeout, "host": f"h{host}", "pid": 1})
        register = RegisterKeys(namespace(host))
        node = cluster.nodes[0].client()
        node.hset(register.processes, "one", f"1 {said}")
        node.zadd(register.alive, {"one": 2**42})
    for host in (0, 1, 2):
        assert doctor(atomq, of(cluster, host), "workers") == [
            ("ok", "1 Celery worker, of one mind")
        ]


def test_the_rules_of_acl_hold_for_its_own_alone(cluster: Cluster, atomq: Atomq) -> None:
    (found,) = atomq("acl", "worker", "q", "--json", url=of(cluster, 1)).json("acl")
    assert "+select" in found["rules"]
    assert "~_atomq.{_atomq.1:q}.*" in found["rules"]
    more = ("--celery", "--results", "app:", "--json")
    (celery,) = atomq("acl", "worker", "q", *more, url=of(cluster, 1)).json("acl")
    assert set(celery["rules"]) >= {
        "&_atomq.1:/1.celery.pidbox",
        "~_atomq.1:app:celery-task-meta-*",
        "~_atomq.{_atomq.1:q}.bindings",
    }
    admin = cluster.nodes[0].client()
    admin.execute_command("ACL", "SETUSER", "one", *found["rules"], ">secret")
    for script in scripts.every():
        admin.script_load(script.text)
    try:
        for host in (0, 1, 2):
            url = of(cluster, host).replace("//", "//one:secret@")
            with Queue("q", url) as queue:
                if host == 1:
                    queue.put("x")
                    with queue.claim(2) as message:  # type: ignore[union-attr]
                        assert message.body == "x"
                else:
                    with pytest.raises(PermissionDenied):
                        queue.put("x")
    finally:
        admin.acl_deluser("one")
