"""One asks, the others share its answer: for what takes time and is the same for all who ask.

A lock around it would make them ask one after another, each waiting for the turns of all before.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from atomq.errors import ServerUnavailable

T = TypeVar("T")


class Shared(Generic[T]):
    """Among threads. Make another one in a forked child."""

    def __init__(self) -> None:
        self._gate = threading.Lock()  # never held while something is asked
        self._asked: Future[T] | None = None

    def __call__(self, ask: Callable[[], T]) -> T:
        """What `ask` returns or raises: called here, or by the thread that is asking already."""
        mine = Future[T]()
        with self._gate:
            others = self._asked
            if others is None:
                self._asked = mine
        if others is not None:
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
        if self._asked is None:
            self._asked = asyncio.ensure_future(ask())
            self._asked.add_done_callback(self._done)
        return await asyncio.shield(self._asked)

    def _done(self, asked: asyncio.Future[T]) -> None:
        self._asked = None
        if not asked.cancelled():
            asked.exception()  # seen, should all that asked be gone
