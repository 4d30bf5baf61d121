"""Where the acts play: a server, a scratch directory and worker processes, all removed at the end.

`Stage` cleans up when its `with` block is left, also by Ctrl-C, SIGTERM or SIGHUP. Should the demo
itself be killed, a watchman and the workers notice that their stdin has ended, and clean up in its
place.
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
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self
from urllib.parse import quote

from atomq import calls, embedded
from atomq.client import Engine
from atomq.errors import AtomqError, EmbeddedServerError

_PATIENCE = 5.0  # seconds a worker has to end by itself
_HURRY = 1.0  # seconds it has when the demo was interrupted
_ENDING = ("SIGTERM", "SIGHUP")


class Process:
    """A worker process, and all it starts: a process group of its own.

    What it is to know is its first line on stdin; when stdin ends, it ends.
    """

    def __init__(self, number: int, module: str, log: Path, argv: Sequence[str]) -> None:
        self.number = number
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for the demo alone
            )
        self.pid = self._process.pid
        self._swept = False

    def tell(self, settings: Mapping[str, Any]) -> None:
        """Hand it its settings. An address may hold a password, so not on the command line."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(settings).encode() + b"\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL for the whole group, and wait until it is gone."""
        if not self.ended:
            _kill_group(self.pid)
            self._process.wait()

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """The whole group is suspended; what is still alive afterwards goes on."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            if not self.ended:
                os.killpg(self.pid, signal.SIGCONT)

    def end(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def wait(self, deadline: float) -> None:
        """Wait until it is gone; after `deadline` (monotonic) it is killed."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
        self._sweep()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _sweep(self) -> None:
        """Its leader has ended: so must the group. At once, and once: the number may be reused."""
        if not self._swept:
            self._swept = True
            _kill_group(self.pid)

    @property
    def ended(self) -> str:
        """How it ended, in words; "" while it lives."""
        code = self._process.poll()
        if code is None:
            return ""
        self._sweep()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class Stage:
    """Use it in a `with` block. Raises `EmbeddedServerError` if no server can be started."""

    def __init__(self, url: str | None, directory: Path | None, *, keep: bool = False) -> None:
        self._given_url = url
        self._directory = directory
        self._keep = keep
        self._processes: list[Process] = []
        self._queues: list[tuple[Engine, str]] = []
        self._removals: list[Callable[[], object]] = []
        self._handlers: dict[int, Any] = {}
        self._server_pid: int | None = None
        self._asked_at = 0.0
        self.url = ""
        self.server = ""
        """What runs and where, in words."""
        self.log = Path()
        """What workers write on stderr."""

    def __enter__(self) -> Self:
        self._in_charge = threading.current_thread() is threading.main_thread()
        if self._in_charge:
            for name in _ENDING:
                number = getattr(signal, name)
                if signal.getsignal(number) == signal.SIG_DFL:  # `nohup` says otherwise
                    self._handlers[number] = signal.signal(number, _interrupted)
            self._hook, sys.unraisablehook = sys.unraisablehook, _tell_again
        self._scratch = Path(tempfile.mkdtemp(prefix="atomq-demo-"))
        self.log = self.file("workers.log")
        self._home = (self._directory or self._scratch / "server").absolute()
        self.url = self._given_url or f"embedded://{quote(str(self._home))}"
        # A server that ran before us goes on after us.
        self._ours = self._given_url is None and (
            self._directory is None or embedded.status(self._home) is None
        )
        # On a server that others use too, or that an earlier demo has used, our queues have names
        # of their own.
        shared = self._given_url is not None or self._directory is not None
        self.prefix = f"demo-{secrets.token_hex(3)}." if shared else ""
        self._watchman = Process(0, __name__, self.log, [*self._left_behind(), "watch"])
        return self

    def __exit__(self, *_: object) -> None:
        if self._in_charge:  # what follows ends soon, and must not be cut short
            self._handlers[signal.SIGINT] = signal.getsignal(signal.SIGINT)
            for number in self._handlers:
                signal.signal(number, signal.SIG_IGN)
            sys.unraisablehook = self._hook
        try:
            self.end_processes(_HURRY)
            self._end_server()
        finally:
            self._watchman.kill()
            if not self._keep:
                shutil.rmtree(self._scratch, ignore_errors=True)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    # ── what acts ask for ─────────────────────────────────────────────────────────────────────

    def processes(self, module: str, count: int) -> list[Process]:
        """Start so many worker processes of a module; they wait for what `tell` says."""
        for number in range(1, count + 1):
            self._processes.append(Process(number, module, self.log, self._left_behind()))
        return list(self._processes)

    def _left_behind(self) -> list[str]:
        """What whoever outlives the demo has to remove: the arguments of `sweep`."""
        return ["" if self._keep else str(self._scratch), str(self._home) if self._ours else ""]

    def open(self, engine: Engine) -> None:
        """Reach the server, started if it is the embedded one. Raises as `Engine.run` does."""
        from atomq.cli.nodes import places

        found = places(engine)[0]
        where = engine.address.safe_url if self._given_url else "embedded"
        self.server = f"{found.server.capitalize()} {found.version}, {where}"
        self.restarted()

    def restarted(self) -> bool:
        """Whether our server is another process than the last time this was asked."""
        if not self._ours or time.monotonic() < self._asked_at + 1:
            return False
        self._asked_at = time.monotonic()
        server = embedded.status(self._home)
        before, self._server_pid = self._server_pid, server.pid if server else self._server_pid
        return before not in (None, self._server_pid)

    def queue_name(self, engine: Engine, name: str) -> str:
        """The name of a queue on this stage; on a server not our own it is removed at the end."""
        named = self.prefix + name
        self._queues.append((engine, named))
        return named

    def file(self, name: str) -> Path:
        """A file that goes with the stage."""
        return self._scratch / name

    def at_end(self, remove: Callable[[], object]) -> None:
        """Call this when all processes have ended, where the server is one that others use too."""
        self._removals.append(remove)

    def kept(self) -> list[str]:
        """What is left after the demo, in words."""
        lines = [f"workers' log: {self.log}"] if self._keep else []
        if self._given_url is None and (self._keep or self._directory is not None):
            lines.append(f"server data: {self._home}")
            lines.append(f"look into it: atomq --url '{self.url}' queues")
        elif self._keep:
            lines.append(f"queues: {', '.join(name for _, name in self._queues)}")
        return lines

    def last_words(self) -> str:
        """The last line that a worker wrote on stderr."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "none"

    # ── cleaning up ───────────────────────────────────────────────────────────────────────────

    def end_processes(self, patience: float = _PATIENCE) -> None:
        """Ask all workers to end, and see to it that they do after `patience` seconds."""
        deadline = time.monotonic() + patience
        for process in self._processes:
            process.end()
        for process in self._processes:
            process.wait(deadline)
        self._processes = []

    def _end_server(self) -> None:
        if self._given_url and not self._keep:
            with contextlib.suppress(AtomqError):
                for remove in self._removals:
                    remove()
                for engine, name in self._queues:
                    purge = calls.purge(
                        engine.keys(name),
                        ready=True,
                        delayed=True,
                        unacked=True,
                        dead=True,
                        settings=True,
                    )
                    engine.run(purge)
        for engine, _ in self._queues:
            engine.close()
        if self._ours:
            embedded.stop(self._home)


def _interrupted(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _tell_again(ignored: sys.UnraisableHookArgs) -> None:
    """A signal that met a finalizer is lost with what it raised there: so send it once more."""
    raised = ignored.exc_value
    if isinstance(raised, KeyboardInterrupt):
        number = signal.SIGINT
    elif isinstance(raised, SystemExit) and isinstance(raised.code, int):
        number = signal.Signals(raised.code - 128)
    else:
        sys.__unraisablehook__(ignored)
        return
    # After the finalizer has ended.
    threading.Timer(0.01, os.kill, (os.getpid(), number)).start()


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: only zombies are left
        os.killpg(leader, signal.SIGKILL)


# ── in a worker ───────────────────────────────────────────────────────────────────────────────


def settings_of_worker() -> dict[str, Any]:
    """In a worker: what `Process.tell` said. From here on the process ends when the demo does."""
    scratch, home = sys.argv[1:3]
    line = b""
    while not line.endswith(b"\n"):
        read = os.read(0, 65536)
        if not read:
            _left_alone(scratch, home)
        line += read
    threading.Thread(target=_guard, args=(scratch, home), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings: dict[str, Any] = json.loads(line)
    return settings


def _guard(scratch: str, home: str) -> None:
    while os.read(0, 4096):
        pass
    _left_alone(scratch, home)


def _left_alone(scratch: str, home: str) -> NoReturn:
    # By a program outside this group: nothing of the group goes on that might start the server
    # once more, or be left over.
    module = [sys.executable, "-P", "-m", __name__, scratch, home]
    subprocess.Popen(module, stdin=subprocess.DEVNULL, start_new_session=True)
    if os.getpgrp() == os.getpid():
        _kill_group(os.getpid())
    os._exit(1)


def sweep(scratch: str, home: str) -> None:
    """Stop the server in `home` and remove `scratch`, where they are named."""
    time.sleep(0.5)  # until the other workers have noticed too
    if home:
        with contextlib.suppress(EmbeddedServerError):
            embedded.stop(home)
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    if "watch" in sys.argv[3:]:
        while os.read(0, 4096):
            pass
    sweep(*sys.argv[1:3])
