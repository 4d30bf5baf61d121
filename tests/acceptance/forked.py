"""Processes of the command line that start in a hundredth of a second.

One process has imported what the commands import, and forks for each of them: a process of its own,
with arguments, environment, directory and streams of its own, but without the second that Python
takes to load it all, and to take it apart in the end. What loads when is for tests that start
Python anew, marked `starts_anew`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from pathlib import Path
from typing import Any

from tests.servers import ROOT

# What they load besides, when they come to it.
MODULES = ("atomq", "atomq.cli", "redis", "rich.console", "rich.progress", "rich.table", "typer")
EXTRAS = ("atomq.__main__", "atomq.cli.__main__", "atomq.celery", "atomq.contrib", "atomq.web")


class Forks:
    """The process that forks, and how it is asked to."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
            # It outlives the test that needs it first, and the directory of that.
            env={name: value for name, value in os.environ.items() if name != "TMPDIR"},
        )
        theirs.close()
        self._answers = self._ours.makefile("rb")

    def run(
        self,
        arguments: tuple[str, ...],
        stdin: str,
        cwd: Path,
        env: dict[str, str],
        seconds: float,
        *,
        together: bool = False,
    ) -> tuple[int, str, str]:
        """Run `atomq` with these arguments: its exit code, stdout and stderr.

        `together`: stdout has both, line by line.
        """
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            streams[0].write(stdin.encode())
            streams[0].seek(0)
            asked = {"arguments": arguments, "cwd": str(cwd), "env": env, "seconds": seconds}
            line = json.dumps(asked).encode() + b"\n"
            given = [*streams[:2], streams[1 if together else 2]]
            socket.send_fds(self._ours, [line[:1]], [each.fileno() for each in given])
            self._ours.sendall(line[1:])
            code = int(self._answers.readline())
            said = []
            for each in streams[1:]:
                each.seek(0)
                said.append(each.read().decode())
        return code, said[0], said[1]

    def close(self) -> None:
        self._answers.close()
        self._ours.close()
        self._process.wait(10)


@cache
def forks() -> Forks:
    """The one of this process, which ends with it."""
    made = Forks()
    atexit.register(made.close)
    return made


def _load() -> None:
    for name in MODULES:
        module = importlib.import_module(name)
        if name.startswith("atomq"):
            found: list[Any] = list(pkgutil.iter_modules(module.__path__, f"{name}."))
            for each in found:
                if each.name not in EXTRAS:
                    importlib.import_module(each.name)
    # What reads a command line, and prints a table, loads some more when it first does.
    sys.argv = ["atomq", "scripts", "list"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        runpy.run_module("atomq.cli", run_name="__main__", alter_sys=True)
    gc.freeze()


def _become(asked: dict[str, Any], streams: list[int]) -> None:
    """In the fork: the process that was asked for."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    tempfile.tempdir = None
    signal.alarm(int(asked["seconds"]))
    sys.path[0] = asked["cwd"]
    sys.argv = ["atomq", *asked["arguments"]]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    code: Any = 0
    try:
        runpy.run_module("atomq.cli", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as Python ends
        traceback.print_exc()
        code = 1
    # As Python ends, but for the modules: to take them apart is two thirds of what a command costs.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _serve(connection: socket.socket) -> None:
    """Fork for each question, one after the other, until the connection is closed."""
    while True:
        first, streams, _, _ = socket.recv_fds(connection, 1, 3)
        if not first:
            return
        line = first
        while not line.endswith(b"\n"):
            line += connection.recv(1 << 16)
        child = os.fork()
        if not child:
            connection.close()
            _become(json.loads(line), streams)
        for stream in streams:
            os.close(stream)
        _, status = os.waitpid(child, 0)
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    asking = socket.socket(fileno=int(sys.argv[1]))
    _load()
    _serve(asking)
