"""Workers that are forked from a process which has loaded Celery and atomq, and is idle otherwise.

To load them is two thirds of what a worker's start costs, and the tests start workers by the
hundred. A forked one runs Celery's command line like any other, in a session of its own; what its
pool loads, it loads itself. At full length, and by what is no test (`make battle-celery`,
`make versus-stock`), workers are started as by users.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]  # nothing is imported here that would be patched too late
GREEN = ("gevent", "eventlet")
FORKS = "PYTEST_VERSION" in os.environ and os.environ.get("ATOMQ_LONG") != "1"
"""Whether workers are forked here."""
# What a worker has loaded when it is ready, but for its pool: the engine asks which pool that is.
LOADED = (
    *("celery.bin.celery", "celery.apps.worker", "celery.worker.autoscale", "celery.worker.worker"),
    *("celery.worker.components", "celery.worker.control", "celery.worker.loops"),
    *("celery.worker.request", "celery.worker.strategy", "celery.worker.consumer"),
    *("celery.worker.consumer.delayed_delivery", "celery.app.amqp", "celery.app.control"),
    *("celery.app.events", "celery.app.log", "celery.app.trace", "celery.app.builtins"),
    *("celery.backends.redis", "celery.events.state", "celery.fixups.django"),
    *("celery.loaders.app", "celery.contrib.abortable", "celery.utils.static"),
    *("billiard.pool", "billiard.popen_fork", "billiard.queues", "billiard.synchronize"),
    *("kombu.asynchronous.hub", "kombu.pidbox", "kombu.transport.redis", "kombu.utils.eventio"),
    *("atomq.celery", "atomq.contrib.kombu.transport", "atomq.contrib.kombu.poller"),
    *("atomq.contrib.kombu.worker_hooks", "atomq.contrib.fleet"),
)


class Nursery:
    """The process that forks them, patched for a green pool if one is named. It ends with the one
    that made it.
    """

    def __init__(self, green: str = "") -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "engine")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.contrib.nursery", green],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.lock = threading.RLock()

    def ask(self, *words: Any) -> Any:
        """Have it do one thing; its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self.lock:
            self._process.stdin.write(json.dumps(words).encode() + b"\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())


nursery = functools.cache(Nursery)  # those of this process; they live as long


class Forked:
    """A process of the nursery, as `subprocess.Popen` shows one.

    `celery` is run with these arguments, in this environment and directory, in this pool; what it
    prints is written to `log`.
    """

    def __init__(
        self, pool: str, args: list[str], env: dict[str, str], cwd: Path, log: Path
    ) -> None:
        self._nursery = nursery(pool if pool in GREEN else "")
        self.pid = int(
            self._nursery.ask("fork", args, env, str(cwd.absolute()), str(log.absolute()))
        )
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The return code; None while it runs."""
        with self._nursery.lock:
            if self.returncode is None:
                self.returncode = self._nursery.ask("poll", self.pid)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, when it has ended; raises `subprocess.TimeoutExpired` after so many seconds."""
        began, pause = time.monotonic(), 0.001
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - began > timeout:
                raise subprocess.TimeoutExpired(f"the worker {self.pid}", timeout)
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


# ── in the process that forks ─────────────────────────────────────────────────────────────────


def main() -> None:
    """Fork, or tell what became of a child, line by line until there is no more."""
    fork, waitpid = os.fork, os.waitpid  # not as gevent has them
    if sys.argv[1]:  # before Celery is there: eventlet looks at all it has, and so loads all of it
        _patch(sys.argv[1])
    for name in LOADED:
        importlib.import_module(name)
    assert not {f"celery.concurrency.{one}" for one in ("prefork", "solo", "thread")} & {
        *sys.modules
    }
    gc.collect()
    gc.freeze()  # else each child copies all of it when it first collects garbage
    while line := sys.stdin.buffer.readline():
        what, *words = json.loads(line)
        if what == "fork":
            ends = os.pipe()
            answer = fork()
            if answer == 0:
                _become(ends, *words)
            os.close(ends[1])
            os.read(ends[0], 1)  # until it has a session of its own, which a signal may go to
            os.close(ends[0])
        else:
            process, status = waitpid(words[0], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if process else None
        print(json.dumps(answer), flush=True)


def _patch(green: str) -> None:
    """As Celery does it."""
    if green == "gevent":
        import gevent.monkey

        gevent.monkey.patch_all()
    else:
        import eventlet.debug

        eventlet.monkey_patch()


def _become(
    ends: tuple[int, int], args: list[str], env: dict[str, str], cwd: str, log: str
) -> NoReturn:
    """Be the command `celery`, run in that directory."""
    os.setsid()
    if "eventlet" in sys.modules:  # its loop was made at an import: its siblings would share it
        importlib.import_module("eventlet.hubs").use_hub()
    with contextlib.suppress(AttributeError):  # not on Linux
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # when its parent ends
    for file in ends:
        os.close(file)
    for number, (path, mode) in enumerate(
        [(os.devnull, os.O_RDONLY), *[(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)] * 2]
    ):
        file = os.open(path, mode, 0o644)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[0] = cwd
    sys.argv = ["celery", *args]
    from celery.__main__ import main as run

    run()
    sys.exit()


if __name__ == "__main__":
    main()
