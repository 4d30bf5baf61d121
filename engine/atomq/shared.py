"""What several callers share: what is made once, and an answer that takes time.

Of that one caller asks, and the others share what it is answered. A lock around it would make them
ask one after another, each waiting for the turns of all before.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from atomq import fork
from atomq.cancellation import cancelling
from atomq.errors import ServerUnavailable

K = TypeVar("K")
T = TypeVar("T")


def members(weak: WeakSet[T]) -> list[T]:
    """Those alive in a set that other threads add to meanwhile."""
    while True:
        with suppress(RuntimeError):  # it has grown: the loop over it is written in Python
            return list(weak)


class OneEach(Generic[K, T]):
    """One for each key, made when it is first asked for; equal keys share it."""

    def __init__(self, make: Callable[[K], T]) -> None:
        self._make = make
        self._made: dict[K, T] = {}
        self._lock = fork.Lock()

    def __call__(self, key: K) -> T:
        """The one for this key."""
        with self._lock:
            found = self._made.get(key)
            if found is None:
                found = self._made[key] = self._make(key)
            return found

    def made(self) -> list[T]:
        """All that were asked for so far."""
        return list(self._made.values())


class Shared(Generic[T]):
    """Among threads. A call within a call of the same thread, in a finalizer, asks for itself."""

    def __init__(self) -> None:
        self.forked()
        fork.renew(self)

    def forked(self) -> None:
        """Begin anew in a child process."""
        self._gate = threading.RLock()  # never held while something is asked
        self._asked: Future[T] | None = None
        self._thread = 0

    def __call__(self, ask: Callable[[], T]) -> T:
        """What `ask` returns or raises: called here, or by the thread that is asking already."""
        mine = Future[T]()
        with self._gate:
            others = self._asked
            if others is None:
                self._asked, self._thread = mine, threading.get_ident()
        if others is not None:
            if self._thread == threading.get_ident():
                return ask()
            try:
                return others.result()
            finally:
                del mine, others  # with what it raised they would be a cycle that keeps the caller
        try:
            found = ask()
        except BaseException as error:
            known = isinstance(error, Exception)
            mine.set_exception(error if known else ServerUnavailable("interrupted while asking"))
            raise
        else:
            mine.set_result(found)
            return found
        finally:
            self._asked = None
            del mine


class AsyncShared(Generic[T]):
    """Among the tasks of one event loop. The one that asked may be cancelled: it is still asked."""

    def __init__(self) -> None:
        self._asked: asyncio.Future[T] | None = None

    async def __call__(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `ask` returns or raises: called here, or by the task that is asking already."""
        while True:
            if self._asked is None:
                self._asked = asyncio.ensure_future(ask())
                self._asked.add_done_callback(self._done)
            try:
                return await asyncio.shield(self._asked)
            except asyncio.CancelledError:
                if cancelling():
                    raise

    def _done(self, asked: asyncio.Future[T]) -> None:
        self._asked = None
        if not asked.cancelled():
            asked.exception()  # seen, should all that asked be gone
