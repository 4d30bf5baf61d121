"""Driving a generator that says what to do next: the rules are its own, the bytes are the driver's.

`drive.py` is made from this file: edit this, `make format` does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

A = TypeVar("A")
T = TypeVar("T")


async def drive(rules: Generator[A, Any, T], perform: Callable[[A], Awaitable[Any]]) -> T:
    """What the generator returns. It is sent what `perform` answers to each action, or thrown that.

    Raises what the generator raises.
    """
    answer: Any = None
    trouble: BaseException | None = None
    while True:
        try:
            action = rules.send(answer) if trouble is None else rules.throw(trouble)
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            trouble = None  # kept in this frame, it would keep the frame, and what is dropped
        try:
            answer = await perform(action)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised again there
            trouble = error
