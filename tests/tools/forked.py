"""Runs of tests that begin where pytest has loaded itself, its plugins and `tests/conftest.py`.

One process comes as far as that, and forks for each run: most of what a small test file takes is
what comes before its first test.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest


class Runs:
    """Runs of the tests of one checkout, one after another. A context manager."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self._folder, self._arguments = folder, [*arguments]
        self._here, self._there = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("fork").Process(target=self._main, daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()  # and a run under way with it
        self._process.join()

    def run(self, tests: Sequence[str], seconds: float) -> tuple[int | None, str]:
        """Run these files; pytest's exit code, None if time was up, and what it printed.

        Modules are compiled where no compiled one lies there, and nothing compiled is written
        while `sys.dont_write_bytecode` is set here.
        """
        self._here.send((tests, seconds, sys.dont_write_bytecode))
        said: tuple[int | None, str] = self._here.recv()
        return said

    # ── in the process that forks ─────────────────────────────────────────────────────────────

    def _main(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until there is a run that it ends too
        os.chdir(self._folder)
        engine = str(self._folder / "engine")
        sys.path.insert(0, engine)
        os.environ["PYTHONPATH"] = engine
        code = pytest.main(self._arguments, plugins=[self])
        sys.stdout.flush()
        os._exit(code)  # not what the parent is to do at its end

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        """Fork for each run: there the tests are collected and run."""
        if "atomq" in sys.modules:
            raise pytest.UsageError("tests/conftest.py imports atomq: a run would not see a change")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        while True:
            try:
                session.config.args, seconds, sys.dont_write_bytecode = self._there.recv()
            except KeyboardInterrupt:
                os._exit(0)
            with tempfile.TemporaryFile() as said:
                process = os.fork()
                if process == 0:
                    _become(said.fileno())
                    return
                code = _wait(process, seconds)
                said.seek(0)
                self._there.send((code, said.read().decode(errors="replace")))


def _become(output: int) -> None:
    os.setsid()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.default_int_handler)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1" if sys.dont_write_bytecode else ""
    for stream in (1, 2):
        os.dup2(output, stream)


def _wait(process: int, seconds: float) -> int | None:
    until = time.monotonic() + seconds
    ended: tuple[int, int] | None = None
    try:
        while time.monotonic() < until:
            ended = os.waitpid(process, os.WNOHANG)
            if ended[0]:
                return abs(os.waitstatus_to_exitcode(ended[1]))
            time.sleep(0.005)
        return None
    finally:
        if ended is None or not ended[0]:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
