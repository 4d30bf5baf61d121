"""Locks on files, which the kernel frees when the process that holds one ends, however it ends."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from atomq.errors import EmbeddedServerError

if sys.platform != "win32":
    import fcntl

# A lock belongs to the open file, which a forked child shares: it would keep a lock alive that its
# parent gave up or died with. So children close these descriptors, and no fork comes in between.
_descriptors: set[int] = set()
_no_fork = threading.RLock()


def take(path: Path) -> int | None:
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
        drop(descriptor)
        return None
    return descriptor


def give_back(descriptor: int) -> None:
    """Free the lock, for all that share it too, and close it."""
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    drop(descriptor)


def drop(descriptor: int) -> None:
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
