"""`atomq acl`: each user can do his work, and nothing to the queues of others.

That workers of Celery can do theirs is in `tests/docs/test_users.py`.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from atomq import Engine, PermissionDenied, Queue, scripts
from atomq.keys import RegisterKeys
from tests.acceptance.conftest import Atomq
from tests.servers import Cluster, Server, denied
from tests.threads import running

HASH = hashlib.sha256(b"work").hexdigest()
MINE = "e*[m]?\\ils"  # every character that a pattern reads in its own way
OTHERS = ("emails", "em", "e*", "other", MINE + "2")
ROLES = ("producer", "worker", "operator", "monitor")
FLAVOURS = (
    ("--no-register",),
    ("--celery", "--results", "mine:"),
    ("--celery", "--stock", "--no-control"),
)


def words(line: str) -> list[str]:
    """A line as redis-cli splits it."""
    return [
        re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), word)
        for word in shlex.split(line)
    ]


REGISTER = {key.encode() for key in RegisterKeys().every}


@pytest.fixture
def world(server: Server) -> Iterator[redis.Redis]:
    """Queues, bindings and results of others, and the scripts."""
    db = server.client()
    with Engine(server.url) as engine:
        engine.nodes()[0].load()
        for name in OTHERS:
            queue = Queue(name, engine)
            queue.put_many(["secret", "held", "dead", "done"])
            queue.put("later", delay=600)
            for message in queue.claim_many(3):
                {"dead": message.reject, "done": message.complete}.get(message.body, bool)()
                message.settled = True
            queue.put("more", priority=9)
    for key in ("unacked", "unacked_index", "celery-task-meta-1", "their:celery-task-meta-1"):
        db.set(key, "secret")
    db.sadd("_kombu.binding.other", "secret")
    before = {key: db.dump(key) for key in db.scan_iter() if key not in REGISTER}
    yield db
    after = {key: db.dump(key) for key in before}
    assert after == before, "what belongs to others was changed"
    for user in db.acl_users():
        if user != "default":
            db.acl_deluser(user)


def as_user(server: Server, name: str) -> redis.Redis:
    return server.client(username=name, password="work")


ONE_KIND = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


@ONE_KIND
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("more", FLAVOURS)
def test_nobody_reaches_the_queues_of_others(
    role: str, more: tuple[str, ...], on: Atomq, server: Server, world: redis.Redis
) -> None:
    done = on("acl", role, MINE, "--user", "me", "--password-hash", HASH, *more)
    assert done.code == 0, done.err
    world.execute_command(*words(done.out))
    shared = {b"unacked", b"unacked_index"} if "--stock" in more and role == "worker" else set()
    shared |= set() if "--no-register" in more else REGISTER
    asked = [
        (name, key, *rest)
        for key in set(world.scan_iter()) - shared
        for name, *rest in (
            *(("TYPE",), ("DUMP",), ("GET",), ("LRANGE", 0, -1), ("HGETALL",)),
            *(("XRANGE", "-", "+"), ("LLEN",), ("RPOP",), ("LPUSH", "x"), ("SET", "x"), ("DEL",)),
            *(("SADD", "x"), ("ZADD", 1, "x"), ("HSET", "f", "x"), ("XADD", "*", "f", "x")),
            *(("SMEMBERS",), ("LINDEX", 0), ("HGET", "f"), ("ZRANGE", 0, -1), ("EXPIRE", 1)),
            ("RENAME", key),
        )
    ]
    with as_user(server, "me").pipeline(transaction=False) as me:
        for command in asked:
            me.execute_command(*command)
        answers = me.execute(raise_on_error=False)
    refused = redis.exceptions.NoPermissionError
    said = zip(asked, answers, strict=True)
    assert [one for one in said if not isinstance(one[1], refused)] == []
    assert len(asked) > 500
    for command in (
        *(("SCRIPT LOAD", "return 1"), ("EVAL", "return 1", 0), ("KEYS", "*"), ("SCAN", 0)),
        *(("CONFIG GET", "*"), ("FLUSHALL",), ("ACL LIST",), ("CLIENT LIST",), ("MONITOR",)),
        *(
            ("SUBSCRIBE", "_atomq.{other}.result.1"),
            ("PSUBSCRIBE", "_atomq.*"),
            ("PSUBSCRIBE", "*"),
        ),
        *(("PUBLISH", "_atomq.{other}.result.1", "x"), ("SUBSCRIBE", "celery-task-meta-1")),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            as_user(server, "me").execute_command(*command[0].split(), *command[1:])
    url = server.tcp_url.replace("redis://", "redis://me:work@")
    with Engine(url) as engine:
        engine.verified = True  # else the probe fails before anything is tried
        for name in OTHERS:
            queue = Queue(name, engine)
            for use in (queue.claim, queue.state, queue.purge, queue.redrive, lambda: queue.put(1)):  # noqa: B023
                with pytest.raises(PermissionDenied):
                    use()


def test_each_can_do_its_work_and_a_monitor_changes_nothing(
    on: Atomq, atomq: Atomq, server: Server, world: redis.Redis
) -> None:
    for role in ROLES:
        done = on("acl", role, MINE, "--password-hash", HASH, "--user", role)
        world.execute_command(*words(done.out))
    world.execute_command("ACL LOG", "RESET")
    urls = {role: server.tcp_url.replace("redis://", f"redis://{role}:work@") for role in ROLES}
    with Engine(urls["producer"]) as put, Engine(urls["worker"]) as work:
        sent = Queue(MINE, put).put("x")
        Queue(MINE, put).put("bad", priority=9)
        for message in Queue(MINE, work).consume(timeout=0.2):
            message.complete(1) if message.body == "x" else message.reject("bad")
        assert sent.wait(5) == 1
    for role in ("operator", "monitor"):
        shown = atomq("queues", MINE, "--json", url=urls[role])
        assert shown.json("queues")[0]["dead"] == 1, shown.err
    assert atomq("dead", "redrive", MINE, "--all", url=urls["operator"]).code == 0
    assert atomq("peek", MINE, "--json", url=urls["operator"]).json("peek")[0]["priority"] == 9
    assert denied(world, *ROLES) == []
    with Engine(urls["monitor"]) as watch:
        watch.verified = True
        queue = Queue(MINE, watch)
        for use in (queue.claim, queue.purge, queue.pause, lambda: queue.put("x")):
            with pytest.raises(PermissionDenied):
                use()
        assert queue.state().ready == 1
    Queue(MINE, server.url).delete(force=True)


def test_a_line_for_an_aclfile_is_the_same_user(
    kind: str, on: Atomq, world: redis.Redis, tmp_path: Path
) -> None:
    """Nothing can be quoted there: the server is the judge, for it starts with the file."""
    lines, expected = [], {}
    chosen = (("monitor", ()), ("producer", FLAVOURS[1]), ("worker", FLAVOURS[2]))
    for number, (role, more) in enumerate(chosen):
        command = (
            "acl",
            role,
            MINE,
            "other",
            *more,
            "--user",
            f"u{number}",
            "--password-hash",
            HASH,
        )
        world.execute_command(*words(on(*command).out))
        expected[f"u{number}"] = world.execute_command("ACL GETUSER", f"u{number}")
        lines.append(on(*command, "--aclfile").out)
    path = tmp_path / "users.acl"
    path.write_text("user default on nopass ~* &* +@all\n" + "".join(lines), newline="")
    with Server(kind, options={"aclfile": str(path)}) as server:
        found = {user: server.client().execute_command("ACL GETUSER", user) for user in expected}
    for user, rights in expected.items():
        # The order of commands is the server's.
        assert {k: sorted(v) if k == "commands" else v for k, v in found[user].items()} == {
            k: sorted(v) if k == "commands" else v for k, v in rights.items()
        }, user


def test_what_makes_no_rule_is_refused(atomq: Atomq) -> None:
    for arguments in (
        ("worker", "two words"),
        ("worker", "q", "--user", "a b"),
        ("worker", "q", "--results", "x:"),
        ("worker", "q", "--password-hash", "secret"),
        ("worker", "_atomq.x"),
    ):
        assert atomq("acl", *arguments).code == 2, arguments
    done = atomq("acl", "worker", "q", "--json")
    assert done.json("acl")[0]["rules"][:3] == ["reset", "on", "~q"]
    assert "no password yet" in done.err
    prefixed = atomq("--option", "global_keyprefix=app:", "acl", "producer", "q", "--celery")
    assert "~app:_kombu.binding.q " in prefixed.out
    assert " ~_atomq.{app:q}.* " in prefixed.out


def test_the_rights_of_a_monitor_are_those_of_the_scripts_that_read_numbers(atomq: Atomq) -> None:
    rules: list[Any] = atomq("acl", "monitor", "q", "--json").json("acl")[0]["rules"]
    granted = {rule[1:].upper() for rule in rules if rule.startswith("+")} - {"EVALSHA"}
    texts = [scripts.get(name).text for name in ("inspect", "overview", "roster")]
    assert granted == set(re.findall(r'call\("([A-Z]+)"', "".join(texts)))


def test_who_publishes_durably_may_wait(atomq: Atomq) -> None:
    def granted(role: str, durability: str) -> set[str]:
        option = f"durability={durability}"
        return set(atomq("acl", role, "q", "--option", option, "--json").json("acl")[0]["rules"])

    plain = granted("producer", "memory")
    assert granted("producer", "replicas=1") - plain == {"+wait"}
    assert granted("producer", "fsync") - plain == {"+waitaof", "+hello", "+config|get"}
    assert granted("monitor", "fsync") == granted("monitor", "memory")


@ONE_KIND
def test_on_a_cluster_results_stay_on_one_node(atomq: Atomq, cluster: Cluster) -> None:
    """What a script may not run it does without, so nothing but the server's log would say so."""
    db = cluster.nodes[0].client()
    url = cluster.url.replace("redis://", "redis+cluster://")
    done = atomq("acl", "worker", "q", "--user", "me", "--password-hash", HASH, "--url", url)
    assert "for it leave out +spublish, +ssubscribe, +sunsubscribe" in done.err
    db.execute_command(*words(done.out))
    for script in scripts.every():
        db.script_load(script.text)
    db.execute_command("ACL LOG", "RESET")
    db.config_resetstat()
    stop, got = threading.Event(), []

    def work() -> None:
        for message in queue.consume(stop=stop):
            got.append(message.body)
            message.complete("done")

    with Queue("q", url.replace("//", "//me:work@")) as queue, running(work, stop=stop):
        assert queue.put("x").wait(5) == "done"
    assert (got, denied(db, "me")) == (["x"], [])
    assert db.info("commandstats")["cmdstat_spublish"]["calls"]
    db.acl_deluser("me")
