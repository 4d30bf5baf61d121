"""The example app runs with one command; and Celery's own run with another URL."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contrib.rig import ON_ONE_KIND, ours
from tests.servers import ROOT, Server, wait_until
from tests.suites.chosen import CELERY
from tests.suites.run import NotThere, unpacked

pytestmark = pytest.mark.slow

ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    "PYTHONPATH": str(ROOT / "engine"),
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


def test_our_example(tmp_path: Path) -> None:
    """A copy elsewhere: it uses nothing of the checkout."""
    shutil.copytree(ROOT / "examples" / "celery_app", tmp_path / "app")
    done = subprocess.run(
        ["make", "run", f"PYTHON={sys.executable}"],
        cwd=tmp_path / "app",
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ files counted in", done.stdout)
    assert "worked after 2 retries" in done.stdout
    said = re.search(r"'time is up' was said ([\d.]+) s after", done.stdout)
    assert said
    assert float(said[1]) >= 2.0


def test_the_only_mention_of_atomq_is_the_url() -> None:
    source = (ROOT / "examples" / "celery_app" / "words.py").read_text()
    strings = [n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant)]
    assert [s for s in strings[1:] if "atomq" in str(s)] == ["atomq://localhost:6379/0"]
    assert "import atomq" not in source


@pytest.fixture(scope="module")
def examples() -> Path:
    try:
        return unpacked(CELERY) / "examples"
    except NotThere as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=["atomq://", "redis:// taken over"])
def url(request: pytest.FixtureRequest, server: Server) -> str:
    """What the app's URL is changed to; or not even that is ours."""
    return ours(server.tcp_url) if request.param == "atomq://" else server.tcp_url


@ON_ONE_KIND
@pytest.mark.parametrize(
    ("path", "module", "task", "args", "answer"),
    [
        ("tutorial", "tasks", "tasks.add", "[16, 16]", 32),
        ("next-steps", "proj", "proj.tasks.xsum", "[[1, 2, 3]]", 6),
    ],
    ids=["tutorial", "next-steps"],
)
def test_celerys_own_example(
    examples: Path,
    tmp_path: Path,
    url: str,
    path: str,
    module: str,
    task: str,
    args: str,
    answer: int,
) -> None:
    """The sources as they are, but for the URLs of the broker and of results."""
    shutil.copytree(examples / path, tmp_path / "app")
    for source in (tmp_path / "app").rglob("*.py"):
        text = source.read_text()
        source.write_text(re.sub(r"'(amqp|rpc|redis)://[^']*'", repr(url), text))
    environment = {**ENVIRONMENT, "CELERY_RESULT_BACKEND": url}
    if url.startswith("redis:"):
        environment["ATOMQ_TAKE_OVER"] = "1"
    celery = [sys.executable, "-m", "celery", "-A", module]

    def ask(*words: str) -> str:
        done = subprocess.run(
            [*celery, *words],
            cwd=tmp_path / "app",
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    log = tmp_path / "log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [*celery, "worker", "-c", "2", "-l", "INFO"],
            cwd=tmp_path / "app",
            env=environment,
            stdout=out,
            stderr=out,
        )
    try:
        wait_until("the worker", lambda: " ready." in log.read_text(), 40)
        task_id = ask("call", task, "--args", args).strip()
        wait_until("the task", lambda: f"{task}[{task_id}] succeeded" in log.read_text(), 20)
        assert f": {answer}" in log.read_text()
        assert "1 node online" in ask("status")
        assert task in ask("inspect", "registered")
        keys = {key.decode() for key in server_keys(url)}
        assert any(key.startswith("_atomq.{celery}.") for key in keys), keys
    finally:
        worker.terminate()
        worker.wait(30)
    assert worker.returncode == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def server_keys(url: str) -> list[bytes]:
    import redis

    with redis.Redis.from_url(url.replace("atomq:", "redis:")) as client:
        found: list[bytes] = client.keys("*")
        return found
