"""The directory of an embedded server: whose it is, what lies in it, and what its server says.

What lies there is believed only while no other user can have put it there: the directory must be
ours and writable by its owner alone, and the kernel must say that the socket's server runs as our
user. Otherwise a socket of another user would be sent the password.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from atomq.arguments import shown
from atomq.errors import EmbeddedServerError, InvalidArgument
from atomq.file_locks import give_back, take

# A socket's address holds 108 bytes on Linux and 104 on macOS.
_LONGEST_SOCKET_PATH = 100
_PING_SECONDS = 1.0
_BIRTH_SECONDS = 3.0  # in which a server that was just started answers


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


def resolved(directory: str | os.PathLike[str]) -> Path:
    """Return `directory`, absolute: two names of one directory are one server.

    Raises `EmbeddedServerError` where no directory can be meant: the home of a user that is not
    there, as in `~stranger/q`, a relative path in a current directory that was removed, a loop of
    symlinks, a NUL. Raises `InvalidArgument` for what is no path.
    """
    try:
        return Path(os.path.realpath(Path(directory).expanduser()))
    except TypeError:
        given = shown(directory)
        raise InvalidArgument(f"directory must be text or an os.PathLike, got {given}") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise EmbeddedServerError(f"{str(directory)!r} is no directory: {error}") from error


class Home:
    """The directory of one server: `lock`, `server.lock`, `server.log`, `server.pid`, `socket`."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = resolved(directory)

    def create(self) -> None:
        """Make the directory. Raises `EmbeddedServerError` if it cannot be used, or is not ours."""
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
        if (lock := take(self.path / "server.lock")) is None:
            return True
        give_back(lock)
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
