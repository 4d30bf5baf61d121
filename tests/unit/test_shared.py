"""What several callers share."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import pytest

from atomq.errors import ServerUnavailable
from atomq.shared import AsyncShared, OneEach, Shared, members
from tests.servers import wait_until
from tests.threads import running


class One:
    """Takes weak references."""


@pytest.fixture
def short_turns() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("short_turns")
def test_members_are_listed_while_a_thread_adds_some() -> None:
    """Catches a loop over the set: "Set changed size during iteration"."""
    kept, stop = [One() for _ in range(100)], threading.Event()
    weak = WeakSet(kept)

    def add() -> None:
        while not stop.is_set():
            weak.add(One())  # and at once it is gone

    with running(add, stop=stop):
        for _ in range(3000):
            assert set(kept) <= set(members(weak))


def test_members_are_those_alive() -> None:
    one, other = One(), One()
    weak = WeakSet([one, other])
    del other
    assert members(weak) == [one]


def test_one_is_made_for_each_key() -> None:
    made: list[str] = []
    one_each: OneEach[str, list[str]] = OneEach(lambda key: made.append(key) or [key])  # type: ignore[func-returns-value]
    assert one_each("a") is one_each("a") is not one_each("b")
    assert (made, one_each.made()) == (["a", "b"], [["a"], ["b"]])


# ── among threads ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("came", "raises"), [(None, None), (ValueError, ValueError), (SystemExit, ServerUnavailable)]
)
def test_of_threads_one_asks_and_the_others_share_what_comes(came: Any, raises: Any) -> None:
    """But for what ends the one that asks, which is no answer."""
    shared: Shared[str] = Shared()
    asking, told = threading.Event(), list[Any]()

    def ask() -> str:
        asking.set()
        waiters: Any = shared._asked
        wait_until("the other one waits", lambda: waiters._condition._waiters)
        if came is not None:
            raise came
        return "answer"

    def other() -> None:
        asking.wait(5)
        try:
            told.append(shared(lambda: "its own"))
        except BaseException as error:  # noqa: BLE001 - it is compared
            told.append(type(error))

    with running(other):
        if came is None:
            assert shared(ask) == "answer"
        else:
            with pytest.raises(came):
                shared(ask)
        wait_until("the other one is answered", lambda: told)
    assert told == [raises or "answer"]
    assert shared(lambda: "anew") == "anew"


def test_a_call_within_a_call_asks_for_itself() -> None:
    shared: Shared[str] = Shared()
    assert shared(lambda: "outer " + shared(lambda: "inner")) == "outer inner"


# ── among tasks ───────────────────────────────────────────────────────────────────────────────


def test_of_tasks_one_asks_and_may_be_cancelled() -> None:
    async def main() -> None:
        shared: AsyncShared[str] = AsyncShared()
        asked, go = list[str](), asyncio.Event()

        async def ask() -> str:
            asked.append("")
            await go.wait()
            return "answer"

        first, second = (asyncio.ensure_future(shared(ask)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.set()
        assert (await second, len(asked)) == ("answer", 1)
        assert (await shared(ask), len(asked)) == ("answer", 2)

    asyncio.run(main())


def test_what_was_cancelled_by_others_is_asked_for_again() -> None:
    async def main() -> None:
        shared: AsyncShared[str] = AsyncShared()
        asked: list[str] = []

        async def ask() -> str:
            asked.append("")
            if len(asked) == 1:
                raise asyncio.CancelledError
            return "answer"

        assert (await shared(ask), len(asked)) == ("answer", 2)

    asyncio.run(main())


def test_an_error_of_which_nobody_is_left_to_hear_is_not_complained_of() -> None:
    async def main() -> list[Any]:
        said: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: said.append(what))
        shared: AsyncShared[str] = AsyncShared()

        async def ask() -> str:
            await asyncio.sleep(0)
            raise ValueError

        one = asyncio.ensure_future(shared(ask))
        await asyncio.sleep(0)
        one.cancel()
        with suppress(asyncio.CancelledError):
            await one
        asked = shared._asked
        assert asked is not None
        await asyncio.wait([asked])
        del asked
        gc.collect()
        await asyncio.sleep(0)
        return said

    assert asyncio.run(main()) == []
