"""What may handle messages, and what it may return."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from atomq import arguments
from atomq.errors import (
    InvalidArgument,
)


def check_handler(
    handler: Any,
    *,
    awaited: bool,
    what: str = "a handler",
    instead: str = "use AsyncQueue, or a plain function",
) -> None:
    """Raises `InvalidArgument` for what would not do the work when it is called (and awaited).

    An error says `what` it was given as, and what to do `instead` of giving a coroutine function.
    """
    arguments.expect(what, handler, callable(handler), "a function, or what is called like one")
    bare = handler
    while isinstance(bare, partial):
        bare = bare.func
    kinds = [bare, bare.__call__]  # the second of an object that is called like a function
    if any(inspect.isgeneratorfunction(k) or inspect.isasyncgenfunction(k) for k in kinds):
        raise InvalidArgument(f"{handler!r} is a generator function: a call of it runs nothing")
    if awaited:
        # A plain function around a coroutine function may well hand on what is to be awaited.
        kinds.append(inspect.unwrap(bare))
    if any(map(inspect.iscoroutinefunction, kinds)) != awaited:
        raise InvalidArgument(
            f"AsyncQueue needs a coroutine function (async def), got {handler!r}"
            if awaited
            else f"{what} is called here, and not awaited, as {handler!r} has to be: {instead}"
        )


def check_result(result: Any) -> None:
    """Raises `InvalidArgument` if what a handler returned says that its work is not done.

    A coroutine or a generator is closed first. Whatever else it returned is of no account.
    """
    if inspect.iscoroutine(result) or inspect.isgenerator(result):
        result.close()
    elif not (inspect.isawaitable(result) or inspect.isasyncgen(result)):
        return
    raise InvalidArgument(
        f"the handler returned {result!r:.200}, which nothing awaits: its work is not done"
    )
