"""The workers of one `Queue.work(concurrency=N)`: threads, or the tasks of an event loop.

Both have the same methods, for `queue.py` is made from `queue_aio.py`.
"""

from __future__ import annotations

import asyncio
import atexit
import time
import weakref
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread, current_thread
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from atomq.cancellation import to_the_end
from atomq.errors import MessageCancelled
from atomq.flows import Pace
from atomq.message_base import MessageBase
from atomq.receiver_base import Ending
from atomq.shared import members

M = TypeVar("M", bound=MessageBase[Any])


async def call_in_task(handler: Callable[[M], Awaitable[Any]], message: M) -> Any:
    """What the handler returns; cancelled with its message, it raises `MessageCancelled`."""
    with _Cancelling(message):
        return await handler(message)


def call_in_thread(handler: Callable[[M], Any], message: M) -> Any:
    """What the handler returns. Raises `MessageCancelled` if it was cancelled before."""
    if message.cancelled:
        raise MessageCancelled(f"{message!r} was cancelled before it was begun")
    return handler(message)


class _Cancelling:
    """A block of the task that works on a message: it is cancelled once the message is.

    As `asyncio.timeout` does, it leaves alone a cancellation that comes from elsewhere.
    """

    def __init__(self, message: MessageBase[Any]) -> None:
        self._message = message
        self._over = self._asked = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        loop = asyncio.get_running_loop()
        self._message._on_cancelled = partial(loop.call_soon_threadsafe, self._cancel)
        if self._message.cancelled:
            self._message._on_cancelled = None
            raise MessageCancelled(f"{self._message!r} was cancelled before it was begun")

    def _cancel(self) -> None:
        if not self._over and not self._asked:
            self._asked = True
            self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over, self._message._on_cancelled = True, None
        if self._asked and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise MessageCancelled(f"{self._message!r} was cancelled") from error


class Tasks(Generic[M]):
    """At most `most` tasks at once, which end with its block.

    What was handed to one that was cancelled before it began goes back.
    """

    def __init__(
        self,
        handle: Callable[[M], Awaitable[None]],
        give_back: Callable[[Collection[M]], Awaitable[None]],
        most: int,
        pace: Pace,
        ending: Ending,
    ) -> None:
        self._handle = handle
        self._give_back = give_back
        self._most = most
        self._pace = pace
        self._room = asyncio.Event()
        self._held: dict[asyncio.Task[None], M] = {}
        self.ending = ending

    async def one_is_free(self) -> bool:
        """Wait until another one may begin. True."""
        while len(self._held) >= self._most:
            self._room.clear()
            await self._room.wait()
        self._pace.free = self._most - len(self._held)
        return True

    async def all_are_free(self) -> bool:
        """Wait for all of them to end; whether there were any."""
        busy = bool(self._held)
        if busy:
            await asyncio.wait(list(self._held))
        return busy

    def begin(self, message: M) -> None:
        """Begin another one."""
        task = asyncio.create_task(self._work(message))
        self._held[task] = message
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():  # before it began: its message is to be given back
            del self._held[task]
        self._room.set()

    async def _work(self, message: M) -> None:
        began = time.monotonic()
        try:
            await self._handle(message)
        except BaseException as error:  # noqa: BLE001 - it is raised by the caller's task
            self.ending.error = error
        finally:
            self._pace.worked(time.monotonic() - began)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            for task in self._held:
                task.cancel()
        await to_the_end(self._end())

    async def _end(self) -> None:
        if self._held:
            await asyncio.wait(self._held)
            await self._give_back(self._held.values())


def interrupted(message: Any) -> None:
    """Leave the block of a message as Ctrl-C does."""
    message.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)


class Threads(Generic[M]):
    """At most `most` threads at once, which end with its block.

    It is no executor: what `multiprocessing` forks in a thread of one ends with exit code 1.
    What no thread could be started for goes back.
    """

    def __init__(
        self,
        handle: Callable[[M], None],
        give_back: Callable[[Collection[M]], None],
        most: int,
        pace: Pace,
        ending: Ending,
    ) -> None:
        self._handle = handle
        self._give_back = give_back
        self._most = most
        self._pace = pace
        self._threads: list[Thread] = []
        self._held: dict[Thread, M] = {}
        self._begun: SimpleQueue[M | None] = SimpleQueue()  # None: all threads end
        self._free: SimpleQueue[None] = SimpleQueue()  # one thing for each without a message
        for _ in range(most):
            self._free.put(None)
        self.ending = ending
        _open.add(self)

    def one_is_free(self) -> bool:
        """Wait until another one may begin. True."""
        self._free.get()
        self._pace.free = self._free.qsize() + 1
        return True

    def all_are_free(self) -> bool:
        """Wait for all of them, after one was found free for nothing; whether any was not."""
        busy = self._pace.free < self._most
        for _ in range(self._most - 1):
            self._free.get()
        for _ in range(self._most):
            self._free.put(None)
        return busy

    def begin(self, message: M) -> None:
        """Begin another one. Raises RuntimeError where the system has no thread left."""
        self._begun.put(message)
        if len(self._threads) <= self._most - self._pace.free:  # all of them have a message
            thread = Thread(target=self._work, name=f"atomq-work-{len(self._threads)}")
            self._threads.append(thread)  # first: Ctrl-C may end `start` when the thread runs
            thread.start()

    def _work(self) -> None:
        while (message := self._begun.get()) is not None:
            began = time.monotonic()
            self._held[current_thread()] = message
            try:
                self._handle(message)
            except BaseException as error:  # noqa: BLE001 - it is raised by the caller's thread
                self.ending.error = error
            finally:
                del message, self._held[current_thread()]
                self._pace.worked(time.monotonic() - began)
                self._free.put(None)
        self._begun.put(None)  # for the next one

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._begun.put(None)
        self._join()
        left: list[M] = []
        with suppress(Empty):
            while (message := self._begun.get_nowait()) is not None:
                left.append(message)
        self._begun.put(None)  # one that Ctrl-C hid, which begins late, finds this and ends,
        self._join()  # unless it took a message before: then it is seen here
        self._give_back(left)

    def _join(self) -> None:
        for thread in self._threads:
            if thread.is_alive():  # one that could not be started cannot be joined
                thread.join()

    def interrupt(self) -> None:
        """The process ends, and these threads with it: what they work on goes back."""
        for message in list(self._held.values()):
            with suppress(Exception):
                interrupted(message)


_open: weakref.WeakSet[Threads[Any]] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    # Python waits for threads first. If some still work, Ctrl-C ended that, or they are daemons.
    for workers in members(_open):
        workers.interrupt()
