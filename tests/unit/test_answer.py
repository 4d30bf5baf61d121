"""Answers wake their tasks at once, and only where none runs."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from atomq.answer_aio import Answer


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The test, run in an event loop of its own."""

    @functools.wraps(test)
    def run() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(test())
        # Not `asyncio.run`, which cancels what is left and waits for it: here that may not end.
        done, _ = loop.run_until_complete(asyncio.wait([task], timeout=5))
        loop.close()
        assert done, "it waits for ever"
        task.result()

    return run


async def waiting() -> tuple[Answer, asyncio.Task[object]]:
    """An answer, and the task that waits for it."""
    answer = Answer(asyncio.get_running_loop())

    async def wait() -> object:
        return await answer

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    return answer, task


async def from_the_loop(do: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_soon(do)
    await asyncio.sleep(0)


@in_a_loop
async def test_the_task_goes_on_before_the_loop_turns() -> None:
    answer, task = await waiting()
    seen: list[bool] = []

    def come() -> None:
        answer.set_result("reply")
        seen.append(task.done())

    await from_the_loop(come)
    assert (seen, await task) == ([True], "reply")


@in_a_loop
async def test_within_a_step_of_another_task_it_waits_for_the_next_turn() -> None:
    answer, task = await waiting()
    answer.set_result("reply")
    assert not task.done()
    assert await task == "reply"


@in_a_loop
async def test_what_came_already_is_there() -> None:
    answer = Answer(asyncio.get_running_loop())
    answer.set_result("reply")
    assert await answer == "reply"


@in_a_loop
async def test_an_error_that_came_already_is_raised() -> None:
    answer = Answer(asyncio.get_running_loop())
    answer.set_exception(ValueError("gone"))
    with pytest.raises(ValueError, match="gone"):
        await answer


@in_a_loop
async def test_a_cancelled_task_hears_of_it_once_and_no_answer_comes_any_more() -> None:
    answer, task = await waiting()
    task.cancel("enough")
    assert answer.done()
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert not answer.cancel()
    fresh = Answer(asyncio.get_running_loop())
    assert fresh.cancel(), "as a future says that it is cancelled"
    assert fresh.done()


@in_a_loop
async def test_cancelled_after_its_answer_it_is_cancelled_all_the_same() -> None:
    answer, task = await waiting()
    answer.set_result("reply")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@in_a_loop
async def test_an_error_is_raised_and_keeps_nothing_alive() -> None:
    """Catches an exception that its own frame keeps: what was dropped lives until a collection."""

    class Held:
        pass

    async def wait(answer: Answer) -> weakref.ref[Held]:
        held = Held()
        seen = weakref.ref(held)
        with pytest.raises(ConnectionError, match="gone"):
            await answer
        return seen

    gc.disable()
    try:
        answer = Answer(asyncio.get_running_loop())
        task = asyncio.create_task(wait(answer))
        await asyncio.sleep(0)
        await from_the_loop(lambda: answer.set_exception(ConnectionError("gone")))
        seen = await task
        del task
        assert seen() is None
    finally:
        gc.enable()


@in_a_loop
async def test_the_context_is_that_of_the_task() -> None:
    name: ContextVar[str] = ContextVar("name", default="nobody")
    answer = Answer(asyncio.get_running_loop())

    async def wait() -> str:
        name.set("worker")
        await answer
        return name.get()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    await from_the_loop(lambda: answer.set_result(None))
    assert (await task, name.get()) == ("worker", "nobody")


@in_a_loop
async def test_one_that_asks_after_the_answer_hears_of_it_in_the_next_turn() -> None:
    """As `asyncio.gather` and `asyncio.wait` ask, which take it for a future."""
    answer, heard = Answer(asyncio.get_running_loop()), asyncio.Event()
    answer.set_result("reply")
    answer.add_done_callback(lambda _: heard.set())
    assert not heard.is_set()
    await heard.wait()


@in_a_loop
async def test_one_that_names_no_context_hears_of_the_answer_too() -> None:
    answer, heard = Answer(asyncio.get_running_loop()), asyncio.Event()
    answer.add_done_callback(lambda _: heard.set())
    await from_the_loop(lambda: answer.set_result("reply"))
    assert not heard.is_set()
    await heard.wait()
