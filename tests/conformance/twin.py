"""The asyncio queue seen as a sync one, so that each test is written once and run for both.

Coroutine functions become functions that wait for them, asynchronous generators become iterators,
and what they hand out (messages, sent messages) is seen through the same glasses.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Self


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def run(queue: Any, call: Any) -> Any:
    """Carry out a call on the engine of a queue, be it a sync one or an asyncio one."""
    done = queue.engine.run(call)
    return queue.loop.run(done) if isinstance(queue, Twin) else done


class Twin:
    """Anything of the asyncio library, with the face of its sync twin."""

    def __init__(self, loop: Loop, target: Any) -> None:
        self.loop = loop
        self.target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.target, name)
        if name == "consume":
            return lambda *args, **kwargs: self._each(value(*args, **kwargs))
        if inspect.iscoroutinefunction(value):
            return lambda *args, **kwargs: self._call(value, args, kwargs)
        return value

    def __enter__(self) -> Self:
        self.loop.run(self.target.__aenter__())
        return self

    def __exit__(self, *trouble: object) -> None:
        self.loop.run(self.target.__aexit__(*trouble))

    def __iter__(self) -> Iterator[Any]:
        return self._each(aiter(self.target))

    def _call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        bare = [self._bare(value) for value in args]
        return self._seen(self.loop.run(function(*bare, **kwargs)))

    def _each(self, messages: Any) -> Iterator[Any]:
        end = object()

        async def following() -> Any:
            return await anext(messages, end)

        try:
            while (message := self.loop.run(following())) is not end:
                yield self._seen(message)
                del message
        finally:
            self.loop.run(messages.aclose())

    def _bare(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(self._bare(each) for each in value)
        if isinstance(value, Twin):
            return value.target
        if inspect.isfunction(value):  # a handler: the library awaits it, and it may block
            return self._handler(value)
        return value

    def _handler(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def handler(message: Any) -> Any:
            return await asyncio.to_thread(function, self._seen(message))

        return handler

    def _seen(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._seen(each) for each in value]
        if type(value).__name__.startswith("Async"):
            return Twin(self.loop, value)
        return value
