"""The example app runs with one command; and Celery's own run with another URL."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.watch import processes, until
from tests.contrib.rig import LONG, ON_ONE_KIND, ours
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


class Kill:
    """`examples/killed_worker`, copied elsewhere, and what it has printed so far."""

    def __init__(self, folder: Path, code: str = "") -> None:
        """`code`: what its processes run before anything else."""
        shutil.copytree(ROOT / "examples" / "killed_worker", folder / "app")
        (folder / "sitecustomize.py").write_text(code)
        self.scratch, self.said = folder / "tmp", folder / "said"
        self.scratch.mkdir()
        path = f"{folder}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"
        with self.said.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "run.py", "--wait", "5"],
                cwd=folder / "app",
                env={**ENVIRONMENT, "PYTHONPATH": path, "TMPDIR": str(self.scratch)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def row(self, name: str) -> list[str]:
        """A line of the table: stock's cell and ours."""
        (line,) = [n for n in self.said.read_text().splitlines() if n.startswith(name + "  ")]
        return re.split(r"\s{2,}", line.strip())[1:]

    def nothing_is_left(self) -> None:
        """No process, and nothing of its files."""
        until(lambda: not processes(self.scratch) and not list(self.scratch.iterdir()), 20)


def test_a_kill_on_both_sides(tmp_path: Path) -> None:
    kill = Kill(tmp_path)
    assert kill.process.wait(100) == 0, kill.said.read_text()
    assert "On atomq everything holds." in kill.said.read_text()
    assert kill.row("tasks sent") == ["489", "489"]
    assert kill.row("done")[1] == "489"
    assert all(int(held) > 0 for held in kill.row("held by the worker that was killed"))
    assert kill.row("begun again, while their worker lived")[1] == "0"
    kill.nothing_is_left()


WITHOUT_RENEWAL = """
from atomq.renewal import Renewal
Renewal.renew = lambda self: 3600.0
"""


@pytest.mark.long
def test_a_kill_on_a_broken_transport_says_so(tmp_path: Path) -> None:
    kill = Kill(tmp_path, WITHOUT_RENEWAL)
    assert kill.process.wait(100) == 1, kill.said.read_text()
    assert "On atomq not everything holds." in kill.said.read_text()


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "starting"),
        pytest.param(signal.SIGTERM, "atomq: sent", marks=pytest.mark.long),
    ],
)
def test_a_kill_that_is_interrupted_leaves_nothing(
    number: signal.Signals, moment: str, tmp_path: Path
) -> None:
    kill = Kill(tmp_path)
    until(lambda: moment in kill.said.read_text(), 60)
    kill.process.send_signal(number)
    assert kill.process.wait(20) == 128 + number
    kill.nothing_is_left()


@pytest.mark.parametrize("path", ["celery_app/words.py", "killed_worker/app.py"])
def test_the_only_mention_of_atomq_is_the_url(path: str) -> None:
    source = (ROOT / "examples" / path).read_text()
    strings = [n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant)]
    assert [s for s in strings[1:] if "atomq" in str(s)] == ["atomq://localhost:6379/0"]
    assert "import atomq" not in source


@pytest.fixture(scope="module")
def examples() -> Path:
    try:
        return unpacked(CELERY) / "examples"
    except NotThere as reason:
        pytest.skip(str(reason))


class App:
    """One of Celery's examples: its sources as they are, but for the URLs of broker and results."""

    def __init__(self, source: Path, there: Path, url: str) -> None:
        shutil.copytree(source, there)
        for each in there.rglob("*.py"):
            text = each.read_text()
            each.write_text(re.sub(r"'(amqp|rpc|redis)://[^']*'", repr(url), text))
        self.directory = there
        self.environment = {**ENVIRONMENT, "CELERY_RESULT_BACKEND": url}
        if url.startswith("redis:"):
            self.environment["ATOMQ_TAKE_OVER"] = "1"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @contextmanager
    def running(self, *command: str) -> Iterator[None]:
        """Its worker, which must end well."""
        with (self.directory / "log").open("wb") as out:
            worker = subprocess.Popen(
                [sys.executable, "-m", "celery", *command],
                cwd=self.directory,
                env=self.environment,
                stdout=out,
                stderr=out,
            )
        try:
            wait_until("the worker", lambda: " ready." in self.log, 40)
            yield
        finally:
            worker.terminate()
            worker.wait(30)
        assert worker.returncode == 0, self.log
        assert "Traceback" not in self.log

    def ask(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "celery", *words],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@ON_ONE_KIND
@pytest.mark.parametrize("scheme", ["atomq://", "redis:// taken over"])
@pytest.mark.parametrize(
    ("path", "module", "task", "args", "answer"),
    [
        ("tutorial", "tasks", "tasks.add", "[16, 16]", 32),
        # To a broker these are the same: other apps, whose tasks are called alike.
        pytest.param(
            *("next-steps", "proj", "proj.tasks.xsum", "[[1, 2, 3]]", 6), marks=pytest.mark.long
        ),
        pytest.param("stamping", "myapp", "tasks.mul", "[6, 7]", 42, marks=pytest.mark.long),
    ],
    ids=["tutorial", "next-steps", "stamping"],
)
def test_celerys_own_example(
    examples: Path,
    tmp_path: Path,
    server: Server,
    scheme: str,
    path: str,
    module: str,
    task: str,
    args: str,
    answer: int,
) -> None:
    """With its URL changed; or not even that, and atomq taken over by the environment."""
    url = ours(server.tcp_url) if scheme == "atomq://" else server.tcp_url
    app = App(examples / path, tmp_path / "app", url)
    with app.running("-A", module, "worker", "-c", "2", "-l", "INFO"):
        task_id = app.ask("-A", module, "call", task, "--args", args).strip()
        wait_until("the task", lambda: f"{task}[{task_id}] succeeded" in app.log, 20)
        assert f": {answer}" in app.log
        if LONG or scheme == "atomq://":  # Celery's own commands, however its URL is understood
            assert "1 node online" in app.ask("-A", module, "status")
            assert task in app.ask("-A", module, "inspect", "registered")
        keys = {key.decode() for key in server_keys(url)}
        assert any(key.startswith("_atomq.{celery}.") for key in keys), keys


@ON_ONE_KIND
def test_celerys_own_example_of_periodic_tasks(
    examples: Path, tmp_path: Path, server: Server
) -> None:
    """With beat inside the worker; it says hello every ten seconds."""
    app = App(examples / "periodic-tasks", tmp_path / "app", ours(server.tcp_url))
    with app.running("-A", "myapp", "worker", "-B", "-l", "INFO"):
        wait_until("hello", lambda: re.search(r"myapp\.say\[.*succeeded", app.log), 25)
    assert "hello" in app.log


def server_keys(url: str) -> list[bytes]:
    import redis

    with redis.Redis.from_url(url.replace("atomq:", "redis:")) as client:
        found: list[bytes] = client.keys("*")
        return found
