"""Driving a generator that says what to do next: the rules are its own, the bytes are the driver's.

It is made from `drive_aio.py` by `make format`: edit that.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

A = TypeVar("A")
T = TypeVar("T")


def drive(rules: Generator[A, Any, T], perform: Callable[[A], Any]) -> T:
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
            answer = perform(action)
        except BaseException as error:  # noqa: BLE001 - raised again there
            trouble = error
