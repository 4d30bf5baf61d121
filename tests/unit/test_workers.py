"""Threads and tasks that work on messages side by side, and a task whose message is cancelled."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Collection, Coroutine
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest

from atomq import workers as module
from atomq.errors import MessageCancelled
from atomq.flows import Pace
from atomq.receiver_base import Ending
from atomq.workers import Tasks, Threads, call_in_task, call_in_thread


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**given: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**given), 5.0))

    return run


def message(*, cancelled: bool = False) -> Any:
    return SimpleNamespace(cancelled=cancelled, _on_cancelled=None)


class Noted(Pace):
    """A pace that notes how long the work took."""

    def __init__(self, workers: int) -> None:
        super().__init__(10, workers)
        self.seconds: list[float] = []

    def worked(self, seconds: float) -> None:
        self.seconds.append(seconds)


# ── one message ───────────────────────────────────────────────────────────────────────────────


async def returned(one: Any) -> Any:
    return one


@in_loop
async def test_what_was_cancelled_before_is_not_begun() -> None:
    one, other = message(), message(cancelled=True)
    assert call_in_thread(lambda got: got, one) is one
    assert await call_in_task(returned, one) is one
    with pytest.raises(MessageCancelled, match="before it was begun"):
        call_in_thread(pytest.fail, other)
    with pytest.raises(MessageCancelled, match="before it was begun"):
        await call_in_task(pytest.fail, other)
    assert (one._on_cancelled, other._on_cancelled) == (None, None)


@in_loop
async def test_a_task_ends_once_its_message_is_cancelled_and_may_go_on() -> None:
    one = message()

    async def handler(got: Any) -> None:
        got._on_cancelled()
        got._on_cancelled()
        await asyncio.Event().wait()

    with pytest.raises(MessageCancelled, match=r"was cancelled$"):
        await call_in_task(handler, one)
    assert one._on_cancelled is None
    await asyncio.sleep(0)  # no cancellation is left


@in_loop
async def test_what_is_cancelled_at_its_end_has_ended() -> None:
    one = message()

    async def handler(got: Any) -> int:
        got._on_cancelled()
        return 5

    assert await call_in_task(handler, one) == 5
    await asyncio.sleep(0)  # the task is cancelled no more


@in_loop
async def test_an_error_of_a_handler_that_was_cancelled_is_its_own() -> None:
    async def handler(got: Any) -> None:
        got._on_cancelled()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        await call_in_task(handler, message())


@pytest.mark.parametrize("both", [True, False])
@in_loop
async def test_a_cancellation_from_elsewhere_stays_one(both: bool) -> None:
    one, begun = message(), asyncio.Event()

    async def handler(_: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(call_in_task(handler, one))
    await begun.wait()
    if both:
        one._on_cancelled()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ── tasks ─────────────────────────────────────────────────────────────────────────────────────


class Shop:
    """Work that ends when it is told to, and what was given back of it."""

    def __init__(self, most: int) -> None:
        self.pace, self.ending = Noted(most), Ending(None)
        self.begun: list[Any] = []
        self.back: list[Any] = []
        self.go = asyncio.Event()
        self.tasks: Tasks[Any] = Tasks(self.work, self.give_back, most, self.pace, self.ending)

    async def __aenter__(self) -> Tasks[Any]:
        return await self.tasks.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, AssertionError):
            self.go.set()  # so that what a test found is said, and not waited for
        await self.tasks.__aexit__(kind, error, trace)

    async def work(self, one: Any) -> None:
        self.begun.append(one)
        await self.go.wait()
        if isinstance(one, Exception):
            raise one

    async def give_back(self, messages: Collection[Any]) -> None:
        self.back += messages


@in_loop
async def test_so_many_tasks_work_at_once_and_all_end_with_the_block() -> None:
    shop = Shop(2)
    pace = shop.pace
    async with shop as tasks:
        assert not await tasks.all_are_free()
        assert await tasks.one_is_free()
        assert pace.free == 2
        tasks.begin("a")
        assert await tasks.one_is_free()
        assert pace.free == 1
        tasks.begin("b")
        third = asyncio.create_task(tasks.one_is_free())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (third.done(), shop.begun) == (False, ["a", "b"])
        shop.go.set()
        assert await third
        assert not await tasks.all_are_free()
        for many in (3, 4):
            shop.go.clear()
            tasks.begin("c")
            asyncio.get_running_loop().call_later(0.01, shop.go.set)
            if many == 3:
                assert await tasks.all_are_free()
                assert len(pace.seconds) == 3
    assert (shop.begun, shop.back, len(pace.seconds)) == (["a", "b", "c", "c"], [], 4)
    assert all(0 <= seconds < 5 for seconds in pace.seconds)
    assert pace.seconds[-1] >= 0.009


@in_loop
async def test_the_error_of_a_task_is_for_its_caller() -> None:
    shop, error = Shop(1), ValueError("x")
    shop.go.set()
    async with shop as tasks:
        tasks.begin(error)
    assert shop.ending.error is error
    assert shop.back == []


@in_loop
async def test_what_was_handed_to_a_task_that_was_cancelled_first_goes_back() -> None:
    shop = Shop(3)

    async def all_of_it() -> None:
        async with shop as tasks:
            tasks.begin("a")
            await asyncio.sleep(0)
            tasks.begin("b")
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await all_of_it()
    assert (shop.begun, shop.back) == (["a"], ["b"])


@in_loop
async def test_an_error_of_the_block_lets_tasks_end() -> None:
    shop = Shop(3)
    asyncio.get_running_loop().call_later(0.01, shop.go.set)

    async def all_of_it() -> None:
        async with shop as tasks:
            tasks.begin("a")
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        await all_of_it()
    assert (shop.begun, shop.back, shop.ending.error) == (["a"], [], None)


# ── threads ───────────────────────────────────────────────────────────────────────────────────


class Hall:
    """The same with threads."""

    def __init__(self, most: int) -> None:
        self.pace, self.ending = Noted(most), Ending(None)
        self.begun: list[Any] = []
        self.back: list[Any] = []
        self.go = threading.Semaphore(0)
        self.threads: Threads[Any] = Threads(
            self.work, self.back.extend, most, self.pace, self.ending
        )

    def __enter__(self) -> Threads[Any]:
        return self.threads.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.go.release(100)  # so that what a test found is said, and not waited for
        self.threads.__exit__(kind, error, trace)

    def work(self, one: Any) -> None:
        self.begun.append(one)
        self.go.acquire()
        if isinstance(one, BaseException):
            raise one


def test_so_many_threads_work_at_once_as_there_are_messages() -> None:
    hall = Hall(3)
    with hall as threads:
        assert threads._free.qsize() == 3
        for many in (1, 2):
            assert threads.one_is_free()
            assert hall.pace.free == 4 - many
            threads.begin(many)
            assert len(threads._threads) == many
        hall.go.release(2)
        assert threads.one_is_free()
        threads.all_are_free()
        assert threads._free.qsize() == 3
        for many in (3, 4, 5):
            assert threads.one_is_free()
            threads.begin(many)
            assert len(threads._threads) == max(2, many - 2), "one that is free takes it"
        assert threads._free.empty()
        hall.go.release()
        assert threads.one_is_free()
        threading.Timer(0.02, hall.go.release, (2,)).start()
        assert threads.all_are_free()
        assert threads._free.qsize() == 3
        assert threads.one_is_free()
        assert not threads.all_are_free()
    assert (sorted(hall.begun), hall.back) == ([1, 2, 3, 4, 5], [])
    assert all(0 <= seconds < 5 for seconds in hall.pace.seconds)
    assert max(hall.pace.seconds) >= 0.01
    assert not any(thread.is_alive() for thread in threads._threads)


def test_the_error_of_a_thread_is_for_its_caller() -> None:
    hall, error = Hall(1), KeyboardInterrupt()
    hall.go.release()
    with hall as threads:
        assert threads.one_is_free()
        threads.begin(error)
        assert threads.one_is_free(), "it goes on"
    assert hall.ending.error is error


class Left:
    """A message that notes how its block was left, and fails there if it has to."""

    def __init__(self, left: list[Any], error: Exception | None = None) -> None:
        self.left, self.error = left, error

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.left.append((self, kind, type(error), trace))
        if self.error is not None:
            raise self.error


def test_what_threads_still_work_on_at_the_end_of_the_process_is_interrupted() -> None:
    hall, left = Hall(3), []  # type: ignore[var-annotated]
    done, fails, works = Left(left), Left(left, AttributeError()), Left(left)
    hall.go.release()
    with hall as threads:
        assert threads.one_is_free()
        threads.begin(done)
        assert threads.one_is_free()
        threads.all_are_free()
        for many, one in enumerate((fails, works)):
            assert threads.one_is_free()
            threads.begin(one)
            while len(threads._held) <= many:
                pass
        module._at_exit()
        hall.go.release(2)
    how = (KeyboardInterrupt, KeyboardInterrupt, None)
    assert left == [(fails, *how), (works, *how)]
    module._at_exit()
    assert len(left) == 2


def test_what_no_thread_could_be_started_for_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module.Thread, "start", start)
    hall = Hall(2)

    def all_of_it() -> None:
        with hall as threads:
            assert threads.one_is_free()
            threads.begin("a")

    with pytest.raises(RuntimeError):
        all_of_it()
    assert (hall.begun, hall.back) == ([], ["a"])


@pytest.mark.parametrize("runs", [True, False])
def test_ctrl_c_while_a_thread_starts_leaves_none_that_waits(
    monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    start, started = threading.Thread.start, list[threading.Thread]()

    def interrupted(thread: threading.Thread) -> None:
        if runs or not started:
            start(thread)
            started.append(thread)
        if len(started) == 2 or thread not in started:
            raise KeyboardInterrupt

    hall = Hall(3)
    hall.go.release(3)

    def all_of_it() -> None:
        with hall as threads:
            for many in (1, 2, 3):
                assert threads.one_is_free()
                threads._pace.free = 3 - len(threads._threads)  # as if all had a message
                threads.begin(many)

    monkeypatch.setattr(module.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        all_of_it()
    for thread in started:
        thread.join(5.0)
        assert not thread.is_alive()
    assert sorted(hall.begun + hall.back) == [1, 2]


def test_one_that_begins_after_the_block_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[threading.Thread] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        late.append(thread)
        raise KeyboardInterrupt

    hall = Hall(2)

    def all_of_it() -> None:
        with hall as threads:
            assert threads.one_is_free()
            threads.begin("a")

    monkeypatch.setattr(module.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        all_of_it()
    (thread,) = late
    start(thread)
    thread.join(5.0)
    assert not thread.is_alive()
    assert (hall.begun, hall.back) == ([], ["a"])
