"""What a task waits for: the answer to one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any


class Answer:
    """A future that wakes its task as the answer comes, where one of asyncio lets the loop turn.

    One task may wait for it, once. An answer that comes within a step of another task, as those of
    memory:// do, wakes it in the next turn of the loop: one task runs at a time. So does the word
    that there is none, and that the task is cancelled.
    """

    # Here, and not in each that is made: most of it is never set in one.
    _asyncio_future_blocking = False  # a task asks for it, and for the loop
    _done = False
    _reply: Any = None
    _error: BaseException | None = None
    _wake: Callable[[Any], object] | None = None
    _context: Context | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def done(self) -> bool:
        """Whether there is an answer, or no task waits for it any more."""
        return self._done

    def set_result(self, reply: Any, /) -> None:
        """The answer."""
        self._done, self._reply = True, reply
        wake, context = self._wake, self._context
        if wake is None:
            return
        self._wake = None
        if context is None or asyncio.current_task(self._loop) is not None:
            self._loop.call_soon(wake, self, context=context)
        else:
            context.run(wake, self)

    def set_exception(self, error: BaseException, /) -> None:
        """There is no answer."""
        self._done, self._error = True, error
        wake, self._wake = self._wake, None
        if wake is not None:
            self._loop.call_soon(wake, self, context=self._context)

    # ── what a task calls ─────────────────────────────────────────────────────────────────────

    def cancel(self, msg: Any = None) -> bool:
        """Its task is cancelled; False if there is an answer."""
        if self._done:
            return False
        self.set_exception(asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))
        return True

    def add_done_callback(
        self, wake: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """Call this once there is an answer, or in the next turn of the loop if there is one."""
        if self._done:
            self._loop.call_soon(wake, self, context=context)
        else:
            self._wake, self._context = wake, context

    def result(self) -> Any:
        """The answer. Raises what stands in its place, once: kept, it would be garbage."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error
        return self._reply

    def __await__(self) -> Generator[Any, None, Any]:
        if not self._done:
            self._asyncio_future_blocking = True
            yield self
        return self._reply if self._error is None else self.result()
