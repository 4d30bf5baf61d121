"""Puts of one turn of an event loop: which go together, and whose answer and error is whose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pytest

from atomq.calls import Outgoing
from atomq.errors import AtomqError, ServerFull, ServerUnavailable
from atomq.gathering import TOGETHER, Gathering

T = TypeVar("T")


class Server:
    """What takes the calls: the messages of each, with its place, answered when it is told so."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.answers: list[asyncio.Future[None]] = []

    async def publish(self, place: str, messages: Sequence[Outgoing]) -> None:
        self.calls.append((place, [message.id for message in messages]))
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]


def plain(name: str, size: int = 10) -> Outgoing:
    return Outgoing("x" * size, name)


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What never comes is not waited for for ever."""
    return asyncio.run(asyncio.wait_for(main(), 10))


async def turns(many: int = 3) -> None:
    for _ in range(many):
        await asyncio.sleep(0)


def test_what_is_put_in_one_turn_is_one_call_and_the_next_waits_for_no_answer() -> None:
    async def main() -> None:
        server = Server()
        gathering = Gathering(server.publish)
        first = [gathering.put("q", plain(name)) for name in "abc"]
        await turns()
        second = gathering.put("q", plain("d"))
        await turns()
        assert server.calls == [("q", ["a", "b", "c"]), ("q", ["d"])]
        assert gathering.under_way == 2
        server.answers[1].set_result(None)
        await second
        assert not any(each.done() for each in first)
        server.answers[0].set_result(None)
        await asyncio.gather(*first)
        assert gathering.under_way == 0

    run(main)


def test_a_call_holds_as_much_as_may_share_a_connection() -> None:
    async def main() -> list[tuple[str, list[str]]]:
        server = Server()
        gathering = Gathering(server.publish)
        for name in "abcde":
            gathering.put("q", plain(name, TOGETHER // 2))
        await turns()
        return server.calls

    assert run(main) == [("q", ["a", "b"]), ("q", ["c", "d"]), ("q", ["e"])]


def test_what_is_put_in_one_turn_is_one_call_for_each_place() -> None:
    async def main() -> None:
        server = Server()
        gathering = Gathering(server.publish)
        puts = [gathering.put(place, plain(name)) for place, name in ("1a", "2b", "1c")]
        assert (gathering.waits("1"), gathering.waits("2"), gathering.waits("3")) == (1, 1, 0)
        await turns()
        assert not gathering.waits("1")
        assert server.calls == [("1", ["a", "c"]), ("2", ["b"])]
        assert gathering.under_way == 2
        server.answers[1].set_exception(ServerFull("full"))
        server.answers[0].set_result(None)
        found = await asyncio.gather(*puts, return_exceptions=True)
        assert [type(one) for one in found] == [type(None), ServerFull, type(None)]

    run(main)


def test_one_that_is_cancelled_withdraws_only_its_own() -> None:
    async def main() -> None:
        server = Server()
        gathering = Gathering(server.publish)
        a, b, c = [gathering.put("q", plain(name)) for name in "abc"]
        b.cancel()
        await turns()
        assert server.calls == [("q", ["a", "c"])]
        c.cancel()  # it is sent: its message may be there
        server.answers[0].set_result(None)
        await a
        alone = gathering.put("q", plain("d"))
        alone.cancel()
        await turns()
        assert server.calls == [("q", ["a", "c"])]

    run(main)


@pytest.mark.parametrize("error", [ServerFull("full"), ServerUnavailable("gone")], ids=repr)
def test_each_has_an_error_of_its_own(error: AtomqError) -> None:
    async def main() -> None:
        server = Server()
        gathering = Gathering(server.publish)
        puts = [gathering.put("q", plain(name)) for name in "abc"]
        await turns()
        error.__cause__ = OSError("why")
        server.answers[0].set_exception(error)
        found = await asyncio.gather(*puts, return_exceptions=True)
        assert [(type(one), str(one)) for one in found] == [(type(error), str(error))] * 3
        assert len({id(one) for one in found}) == 3
        assert {one.__cause__ for one in found if isinstance(one, Exception)} == {error.__cause__}

    run(main)


def test_where_the_call_is_cancelled_so_are_its_callers() -> None:
    """As `asyncio.run` does it when the first task ends."""

    async def main() -> None:
        server = Server()
        gathering = Gathering(server.publish)
        puts = [gathering.put("q", plain(name)) for name in "ab"]
        await turns()
        server.answers[0].cancel()
        found = await asyncio.gather(*puts, return_exceptions=True)
        assert [type(one) for one in found] == [asyncio.CancelledError] * 2

    run(main)
