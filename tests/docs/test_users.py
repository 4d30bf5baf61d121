"""The users of docs/operations.md can do their work. What they cannot do: test_cli_acl.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from celery import Celery
from redis.exceptions import NoPermissionError

from atomq import Engine, PermissionDenied, Queue
from tests.acceptance.forked import forks
from tests.docs.pages import ROOT, Stage, blocks
from tests.servers import Server, denied

PAGE = "docs/operations.md"
USERS = {"deployer": "deploy", "emails-worker": "work", "celery-worker": "work"}
RESULTS = {"global_keyprefix": "celery:"}
ON_ONE_KIND = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def url(server: Server, user: str, scheme: str = "redis") -> str:
    return f"{scheme}://{user}:{USERS[user]}@127.0.0.1:{server.port}/0"


def ran(*words: str) -> tuple[int, str, str]:
    """The exit code of `atomq --json`, and what it prints."""
    return forks().run(("--json", *words), "", ROOT, {**os.environ}, 60)


@pytest.fixture
def users(server: Server, tmp_path: Path) -> Iterator[None]:
    stage = Stage(server, tmp_path)
    (deployer,) = [block for block in blocks(PAGE) if block.kind == "acl"]
    stage.play(deployer)
    for user, *more in (
        ("emails-worker", "emails"),
        ("celery-worker", "celery", "--celery", "--results", "celery:"),
    ):
        password = sha256(USERS[user].encode()).hexdigest()
        code, out, err = ran("acl", "worker", *more, "--user", user, "--password-hash", password)
        assert code == 0, err
        (row,) = json.loads(out)
        server.client().execute_command("ACL SETUSER", user, *row["rules"])
    yield
    for user in USERS:
        server.client().acl_deluser(user)


def preload(server: Server) -> None:
    code, _, err = ran("scripts", "load", "--url", url(server, "deployer"))
    assert code == 0, err


@pytest.mark.usefixtures("users")
def test_each_user_can_do_its_work(server: Server) -> None:
    """That of the library; and the deployer that of deploying. On every kind of server."""
    preload(server)
    server.client().execute_command("ACL LOG", "RESET")
    with Engine(url(server, "emails-worker")) as engine:
        queue = Queue("emails", engine)
        sent = queue.put({"n": 1}, delay=0.1)
        queue.put({"n": 2}, priority=9)
        waits: list[object] = []
        thread = threading.Thread(target=lambda: waits.append(sent.wait(5)))
        thread.start()
        for message in queue.consume(timeout=0.5):
            message.complete(message.body["n"])
        thread.join()
        assert waits == [1]
        assert denied(server.client(), *USERS) == []
        with pytest.raises(PermissionDenied):
            Queue("others", engine).put({})
    deployer = server.client(username="deployer", password="deploy")
    with pytest.raises(NoPermissionError):
        deployer.get("emails")


@pytest.mark.usefixtures("users")
def test_the_doctor_tells_a_worker_of_celery_from_one_of_the_library(server: Server) -> None:
    preload(server)
    found = {}
    for user, queue in (("emails-worker", "emails"), ("celery-worker", "celery")):
        _, out, _ = ran("doctor", queue, "--url", url(server, user))
        lines = {line["check"]: line for line in json.loads(out)}
        assert lines["rights"]["status"] == "ok", lines["rights"]
        found[user] = lines["celery"]
    assert found["celery-worker"]["status"] == "ok", found
    assert found["emails-worker"]["status"] == "warn"
    for lack in ("BRPOP (", "CLIENT TRACKING (", "PSUBSCRIBE ("):
        assert lack in found["emails-worker"]["found"]
    for grant in (
        "+brpop",
        "+client|tracking",
        "+client|caching",
        "+psubscribe",
        "&/0.celery.pidbox",
        "+srem",
    ):
        assert grant in found["emails-worker"]["advice"]


@pytest.mark.slow
@ON_ONE_KIND
@pytest.mark.usefixtures("users")
def test_a_celery_worker_can_do_its_work(server: Server, tmp_path: Path) -> None:
    preload(server)
    server.client().execute_command("ACL LOG", "RESET")
    (tmp_path / "acl_tasks.py").write_text(
        "from celery import Celery\n"
        f"app = Celery('acl_tasks', broker={url(server, 'celery-worker', 'atomq')!r},\n"
        f"             backend={url(server, 'celery-worker')!r})\n"
        f"app.conf.result_backend_transport_options = {RESULTS}\n"
        "@app.task(acks_late=True, name='add')\n"
        "def add(x, y): return x + y\n"
    )
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "acl_tasks", "worker", "-P", "solo"],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{ROOT / 'engine'}"},
            stdout=log,
            stderr=log,
        )
    app = Celery("acl_tasks", broker=url(server, "celery-worker", "atomq"), set_as_default=False)
    app.conf.result_backend = url(server, "celery-worker")
    app.conf.result_backend_transport_options = RESULTS
    try:
        assert app.send_task("add", (2, 3)).get(timeout=20) == 5
        assert app.send_task("add", (2, 3), countdown=0.3).get(timeout=10) == 5
        assert [*app.control.inspect(timeout=2).ping().values()] == [{"ok": "pong"}]
        time.sleep(1.2)  # the watch for stock producers, the registry, the restore
        stock = Celery("stock", broker=server.tcp_url, set_as_default=False)
        stock.conf.result_backend = url(server, "celery-worker")
        stock.conf.result_backend_transport_options = RESULTS
        assert stock.send_task("add", (4, 5)).get(timeout=10) == 9
    except Exception as error:
        raise AssertionError((tmp_path / "log").read_text()[-3000:]) from error
    finally:
        worker.terminate()
        worker.wait(20)
    # redis-py introduces the result backend, and goes on when it may not; what stock workers hold
    # is only for those with --stock.
    refused = [each for each in denied(server.client(), *USERS) if "client|setinfo" not in each]
    assert refused in ([], ["celery-worker: key unacked"])
