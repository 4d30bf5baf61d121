"""Tasks that are cancelled, and what is carried out all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

PROMPT = 5.0  # seconds: an answer that is on its way does not take longer


def cancelling() -> int:
    """How often this task was cancelled.

    A `CancelledError` that comes while this is 0 is of another task that it awaits: `asyncio.run`
    cancels all there are, also those that redis-py makes (by `asyncio.wait_for`, before Python
    3.12). A frame that has its task as a local keeps what the task was cancelled in, which keeps
    the frame, and what is dropped.
    """
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


class Unhurried(asyncio.Task[T]):
    """A task that goes on for `PROMPT` seconds after it was cancelled.

    To the task that awaits it `cancel` says that it did nothing, so that task is cancelled once
    this one has ended, however often it is cancelled meanwhile.
    """

    _end: asyncio.TimerHandle | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        """End it in `PROMPT` seconds, if it goes on for so long."""
        if self._end is None and not self.done():
            end = self._end = self.get_loop().call_later(PROMPT, super().cancel, msg)
            self.add_done_callback(lambda _: end.cancel())
        return False


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end, though cancelled meanwhile; the cancellation is raised afterwards.

    This is for what gives back messages, or the server's attention: interrupted, it would leave
    them to the end of their leases. anyio (Starlette, FastAPI) cancels again at every await of a
    cleanup, and `asyncio.run` cancels all tasks when the first one ends. If the server does not
    answer, it is given up `PROMPT` seconds after the first cancellation.
    """
    if isinstance(asyncio.current_task(), Unhurried | None):
        return await work
    inner = Unhurried(work, loop=asyncio.get_running_loop())
    if cancelling():
        inner.cancel()
    try:
        return await inner
    finally:
        del inner  # which keeps what it raised, and that this frame, and what is dropped
