"""The command line as users run it: a process of its own, its exit code, stdout and stderr.

The process is forked from one that has loaded the package already: see `forked.py`. Python starts
anew in tests marked `starts_anew`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from atomq.client import Engine
from tests.acceptance.forked import forks
from tests.schemas import validator
from tests.servers import Server


@dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def json(self, part: str | None, name: str = "cli") -> Any:
        """What it printed with --json, once it meets the schema."""
        value = json.loads(self.out)
        validator(name, part).validate(value)
        return value


Atomq = Callable[..., Done]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "starts_anew: each command in a Python that starts anew")


@pytest.fixture
def atomq(request: pytest.FixtureRequest, tmp_path: Path) -> Atomq:
    """Run `atomq` with these arguments, in an empty directory."""
    anew = request.node.get_closest_marker("starts_anew") is not None

    def run(*arguments: str, url: str | None = None, stdin: str = "") -> Done:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ATOMQ_")}
        if url is not None:
            environment["ATOMQ_URL"] = url
        path = [str(Path(p).resolve()) for p in os.environ.get("PYTHONPATH", "").split(":") if p]
        environment["PYTHONPATH"] = ":".join(path)
        if not anew:
            found = Done(*forks().run(arguments, stdin, tmp_path, environment, 60))
            assert "Traceback" not in found.err, found.err
            return found
        done = subprocess.run(
            [sys.executable, "-m", "atomq.cli", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def on(atomq: Atomq, server: Server) -> Atomq:
    """Run `atomq` against the test's server, named by ATOMQ_URL."""

    def run(*arguments: str, stdin: str = "") -> Done:
        return atomq(*arguments, url=server.tcp_url, stdin=stdin)

    return run


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where commands make their temporary directories. Its name is short: a server is found by the
    socket in its title, and that of a directory with a long name lies elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix="atomq-test-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def broken(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Have every Python process that is started run this code before anything else."""
    assert request.node.get_closest_marker("starts_anew"), "a fork would not run it"

    def written(code: str) -> None:
        folder = tmp_path / "broken"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(code)
        path = os.environ.get("PYTHONPATH")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *([path] if path else [])]))

    return written


@pytest.fixture
def engine(server: Server) -> Iterator[Engine]:
    """An engine on the test's server, to arrange what a command will meet."""
    with Engine(server.url) as engine:
        yield engine
