"""Where the demo plays: a server, a scratch directory and worker processes, all removed at the end.

`Stage` cleans up when its `with` block is left, also after Ctrl-C, SIGTERM or SIGHUP. Should the
demo itself be killed, a watchman notices that its stdin has ended, and cleans up in its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, Self, cast
from urllib.parse import quote

from atomq import Engine, Queue, embedded
from atomq.errors import AtomqError, EmbeddedServerError

_PATIENCE = 2.0  # seconds a worker has to end by itself
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stage:
    """Use it in a `with` block. Raises `EmbeddedServerError` if no server can be started."""

    def __init__(self, url: str | None, directory: Path | None) -> None:
        self._given, self._directory = url, directory
        self._queues: list[Queue] = []
        self._signal: int | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as under `nohup`
                signal.signal(number, self._interrupted)
        self._scratch = tempfile.mkdtemp(prefix="atomq-demo-")
        home = (self._directory or Path(self._scratch, "server")).absolute()
        self.url = self._given or f"embedded://{quote(str(home))}"
        # A server that ran before goes on afterwards.
        ours = self._given is None and (self._directory is None or embedded.status(home) is None)
        self._home = str(home) if ours else ""
        # Where others have queues, those of the demo have names of their own.
        self._prefix = f"demo-{secrets.token_hex(3)}." if self._given or self._directory else ""
        self._watchman = _python(__name__, self._scratch, self._home)
        return self

    def __exit__(self, *_: object) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # what follows ends soon, and is not cut short
        for worker in self.workers:
            worker.terminate()
        deadline = time.monotonic() + _PATIENCE
        for worker in self.workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(max(0.0, deadline - time.monotonic()))
            worker.kill()
            worker.wait()
        with contextlib.suppress(AtomqError):
            for queue in self._queues if self._given else ():
                queue.delete(force=True)
        for queue in self._queues:
            queue.engine.close()
        self._watchman.kill()
        _remove(self._scratch, self._home)

    def _interrupted(self, number: int, _frame: object) -> None:
        if self._signal is not None:  # the second time: wherever it is
            raise SystemExit(128 + number)
        self._signal = number

    def rest(self, seconds: float) -> None:
        """Wait between two looks. Raises SystemExit after a signal that ends the demo."""
        if self._signal is None:
            time.sleep(max(0.0, seconds))
        if self._signal is not None:
            raise SystemExit(128 + self._signal)

    def queue(self, name: str, engine: Engine) -> Queue:
        """A queue on this stage; on a server of others it is removed at the end."""
        self._queues.append(Queue(self._prefix + name, engine))
        return self._queues[-1]

    def start_workers(self, count: int, settings: dict[str, Any]) -> None:
        """Start worker processes. Their settings go to stdin: an address may hold a password."""
        for number in range(count):
            self.workers.append(_python("atomq.cli.demo.worker"))
            watchman = cast("IO[bytes]", self._watchman.stdin)
            watchman.write(b"%d\n" % self.workers[-1].pid)
            watchman.flush()
            with cast("IO[bytes]", self.workers[-1].stdin) as stdin:
                stdin.write(json.dumps(settings | {"worker": number}).encode())


def _python(*module_and_arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", *module_and_arguments]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    # A session of its own: Ctrl-C is for the demo alone.
    return subprocess.Popen(command, stdin=pipe, stdout=null, stderr=null, start_new_session=True)


def _remove(scratch: str, home: str) -> None:
    """Stop the server in `home`, where one is named, and remove `scratch`."""
    if home:
        with contextlib.suppress(EmbeddedServerError):
            embedded.stop(home)
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":  # the watchman: stdin names workers, and ends when the demo does
    for pid in [int(line) for line in sys.stdin]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    _remove(*sys.argv[1:3])
