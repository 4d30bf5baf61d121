"""What drives the rules of waiting, for a thread and for a task. Over socket pairs, no server."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from redis import exceptions as server

from atomq import calls
from atomq.errors import PermissionDenied
from atomq.keys import QueueKeys
from atomq.listening_aio import Listener
from atomq.waiter import Waiter
from atomq.waiter import _hear as heard_by_thread
from atomq.waiter_aio import MOST_HEARD, AsyncWaiter, _hear, _Heard
from atomq.waiting import LATE, Rest
from tests.threads import rests_noted

T = TypeVar("T")
TOKEN = b"*2\r\n$1\r\na\r\n$1\r\n1\r\n"
A, B = ("a", 1), ("b", 2)


def pushed(*words: str) -> bytes:
    return b">%d\r\n" % len(words) + b"".join(
        b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words
    )


def heard(said: bytes) -> list[list[str]]:
    """The commands in what was sent."""
    found = []
    lines = said.split(b"\r\n")
    while len(lines) > 1:
        many = 2 * int(lines[0][1:])
        found.append([word.decode() for word in lines[2 : many + 1 : 2]])
        lines = lines[many + 1 :]
    return found


class Pool:
    """Connections as redis-py leaves them, each half of a socket pair; the others are `far`."""

    def __init__(self) -> None:
        self.far: list[socket.socket] = []
        self.before: list[bytes] = []  # what the next connections are answered
        self.unblocked: list[Any] = []
        self.together = True
        self.nodes: list[tuple[str, int]] = []  # of the next connections
        self.fails: Exception | None = None

    def fresh(self, _channel: str | None = None) -> Any:
        if self.fails is not None:
            raise self.fails
        near, far = socket.socketpair()
        near.settimeout(2)
        far.settimeout(2)
        self.far.append(far)
        if self.before:
            far.sendall(self.before.pop(0))
        host, port = self.nodes.pop(0) if self.nodes else A
        return SimpleNamespace(
            handshake_metadata={b"id": 6 + len(self.far)},
            host=host,
            port=port,
            credential_provider=None,
            _parser=SimpleNamespace(_reader=SimpleNamespace(has_data=lambda: False)),
            _sock=near,
        )

    def blocking(self, names: Sequence[str]) -> list[tuple[Any, list[str]]]:
        groups = [list(names)] if self.together else [[name] for name in names]
        return [(self.fresh(), group) for group in groups]

    def unblock(self, lines: Any) -> list[int]:
        self.unblocked.append(lines)
        for _, number in lines:
            self.far[number - 7].sendall(b"_\r\n")
        return [1] * len(lines)

    def said(self, at: int = -1) -> list[list[str]]:
        return heard(self.far[at].recv(65536))

    def is_closed(self, at: int) -> bool:
        """Whether the near end is closed, all that was sent before aside."""
        while data := self.far[at].recv(65536):
            assert data
        return True

    def close(self) -> None:
        for each in self.far:
            each.close()


@pytest.fixture
def pool() -> Iterator[Pool]:
    found = Pool()
    yield found
    found.close()


def engine(pool: Any, **more: Any) -> Any:
    about = {"era": 0, "slots": None, "may_unblock": True, "carriers": set(), **more}
    return SimpleNamespace(address=SimpleNamespace(kind="tcp"), _pool=pool, **about)


# ── of a thread ───────────────────────────────────────────────────────────────────────────────


def test_of_several_lines_the_one_that_has_news_is_heard_and_none_is_waited_for() -> None:
    asked: list[float] = []
    fed: list[bytes] = []

    def line(*, has_news: bool) -> Any:
        wire = SimpleNamespace(readable=lambda s: asked.append(s) or has_news, receive=bytes)
        return SimpleNamespace(wire=wire, talk=SimpleNamespace(feed=fed.append))

    silent, speaks = line(has_news=False), line(has_news=True)
    assert heard_by_thread([silent, speaks], 5) is speaks
    assert (asked, fed) == ([0, 0], [b""])


def test_what_else_comes_makes_no_one_listen_longer(pool: Pool) -> None:
    waiter = Waiter(engine(pool))
    pool.before = [CONFIRMED]
    assert waiter.listen("c", 0) is None
    asked: list[float] = []

    def readable(seconds: float) -> bool:
        asked.append(seconds)
        assert len(asked) < 9
        time.sleep(0.03)
        return len(asked) == 1

    ear: Any = waiter._ear
    ear.wire.readable = readable
    ear.wire.receive = lambda: pushed("invalidate", "c", "x")
    assert waiter.listen("c", 0.02) is None
    assert 0 < asked[0] <= 0.02
    assert asked[1:] == [0.0], "the system takes a negative one for ever"
    waiter.close()


@pytest.fixture
def waiter(pool: Pool) -> Iterator[Waiter]:
    found = Waiter(engine(pool))
    yield found
    found.close()


def test_nothing_is_open_until_it_waits(pool: Pool, waiter: Waiter) -> None:
    assert not waiter.connected
    waiter.close()
    began = time.monotonic()
    assert waiter.wait(("a",), 0.01) is None
    assert time.monotonic() - began >= 0.01
    assert waiter.connected
    assert pool.said() == [["BLPOP", "a", "0.000"]]
    lines = waiter._waiting.lines  # what is not collected is not closed by that
    waiter.close()
    assert not waiter.connected
    assert pool.is_closed(0)
    assert len(lines) == 1


def test_one_that_waits_with_a_claim_behind_it_waits_as_long_as_it_says(
    pool: Pool, waiter: Waiter
) -> None:
    claim: Any = calls.ack(QueueKeys("a"), ["r1"])
    assert waiter.wait(("a",), 0.01, claim) is None
    assert pool.said()[0] == ["BLPOP", "a", f"{0.01 + LATE:.3f}"]


def test_a_token_is_heard_and_taken_back_with_what_was_left_behind(
    pool: Pool, waiter: Waiter
) -> None:
    pool.before = [TOKEN]
    assert waiter.wait(("a", "b"), 5) == "a"
    assert waiter.wait(("a", "b"), 0) is None
    assert waiter.withdraw() == []
    assert pool.unblocked == [[(A, 7)]]


def test_what_it_may_wait_for_on_several_lines_is_heard_on_each(pool: Pool, waiter: Waiter) -> None:
    pool.together = False
    assert waiter.wait(("a", "b"), 0.01) is None
    assert [pool.said(at) for at in (0, 1)] == [[["BLPOP", name, "0.000"]] for name in ("a", "b")]
    for at, name in ((1, "b"), (0, "a"), (1, "b")):
        pool.far[at].sendall(b"*2\r\n$1\r\n%s\r\n$1\r\n1\r\n" % name.encode())
        began = time.monotonic()
        assert waiter.wait(("a", "b"), 5) == name
        assert time.monotonic() - began < 2, "none is waited for that is silent"


def test_what_comes_while_it_waits_on_several_lines_is_heard(pool: Pool, waiter: Waiter) -> None:
    pool.together = False
    assert waiter.wait(("a", "b"), 0.0) is None
    later = threading.Timer(0.05, pool.far[1].sendall, [TOKEN.replace(b"a", b"b")])
    later.daemon = True
    later.start()
    began = time.monotonic()
    assert waiter.wait(("a", "b"), 10) == "b"
    assert time.monotonic() - began < 8
    later.join(5)


def test_a_connection_that_cannot_be_made_or_breaks_is_as_no_token(
    pool: Pool, waiter: Waiter
) -> None:
    pool.fails = server.ConnectionError("gone")
    began = time.monotonic()
    assert waiter.wait(("a",), 5) is None
    assert 0.04 < time.monotonic() - began < 2, "it is not tried again at once"
    pool.fails = None
    assert waiter.wait(("a",), 0.0) is None
    pool.far[0].close()
    assert waiter.wait(("a",), 5) is None
    assert not waiter.connected


def test_what_is_interrupted_while_it_is_sent_is_said_no_more(pool: Pool, waiter: Waiter) -> None:
    assert waiter.wait(("a",), 0.0) is None
    (line,) = waiter._waiting.lines

    def send(_: bytes) -> None:
        raise KeyboardInterrupt

    line.waits = False
    line.wire.send = send
    with pytest.raises(KeyboardInterrupt):
        waiter.wait(("a",), 0.0)
    assert pool.is_closed(0), "part of a command may be on its way"


# ── a thread that listens ─────────────────────────────────────────────────────────────────────

CONFIRMED = pushed("subscribe", "c", "1")
MESSAGE = pushed("message", "c", "told")


def test_it_listens_and_hears_the_next_message(pool: Pool, waiter: Waiter) -> None:
    pool.before = [CONFIRMED]
    began = time.monotonic()
    assert waiter.listen("c", 0) is None
    assert pool.said() == [["SUBSCRIBE", "c"]]
    assert waiter.connected
    pool.far[0].sendall(pushed("invalidate", "c", "x") + MESSAGE + MESSAGE)
    assert waiter.listen("c", 5) == b"told"
    assert waiter.listen("c", 5) == b"told", "it came with the other one"
    assert time.monotonic() - began < 4
    began = time.monotonic()
    assert waiter.listen("c", 0.02) is None
    assert 0.02 <= time.monotonic() - began < 4
    assert len(pool.far) == 1


def test_what_lies_there_is_left_by_one_that_only_begins_to_listen(
    pool: Pool, waiter: Waiter
) -> None:
    pool.before = [CONFIRMED + MESSAGE]
    assert waiter.listen("c", 0) is None
    assert waiter.listen("c", 0.01) == b"told"


def test_another_channel_and_another_era_have_another_connection(
    pool: Pool, waiter: Waiter
) -> None:
    pool.before = [CONFIRMED, pushed("subscribe", "d", "1"), pushed("subscribe", "d", "1")]
    waiter.listen("c", 0)
    waiter.listen("d", 0)
    assert pool.is_closed(0)
    waiter._engine.era += 1
    waiter.listen("d", 0)
    assert pool.is_closed(1)
    waiter.listen("d", 0)
    assert len(pool.far) == 3
    waiter.close()
    assert pool.is_closed(2)


def test_one_that_may_not_listen_says_so(pool: Pool, waiter: Waiter) -> None:
    pool.before = [b"-NOPERM this user has no permissions to access one of the channels\r\n"]
    with pytest.raises(PermissionDenied):
        waiter.listen("c", 5)
    assert not waiter.connected


@pytest.mark.parametrize("seconds", [0.0, 0.01, 5.0])
def test_a_subscription_that_breaks_is_as_no_message(
    pool: Pool, waiter: Waiter, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests = rests_noted(monkeypatch)
    pool.before = [CONFIRMED]
    waiter.listen("c", 0)
    pool.far[0].close()
    assert waiter.listen("c", seconds) is None
    assert rests == [min(seconds, 0.05)] * (seconds > 0)
    assert waiter.connected == (seconds == 0), "which is heard when something is waited for"
    rests.clear()
    pool.fails = server.ConnectionError("gone")
    waiter.close()
    assert waiter.listen("c", seconds) is None
    assert rests == [min(seconds, 0.05)]


class Slots:
    """Of a cluster in which one node serves all."""

    doubted = ()

    def __init__(self) -> None:
        self.node = A

    def serves(self, node: Any, _key: str) -> bool:
        return bool(node == self.node)


@pytest.mark.parametrize("may", [True, False])
def test_in_a_cluster_it_listens_at_the_node_that_serves_the_channel(pool: Pool, may: bool) -> None:
    slots = Slots()
    waiter = Waiter(engine(pool, slots=slots))
    first = pushed("ssubscribe", "c", "1") if may else b"-NOPERM no\r\n"
    pool.before = [first + CONFIRMED] * 3
    pool.nodes = [A, B]
    assert waiter.listen("c", 0) is None
    assert pool.said() == [["SSUBSCRIBE", "c"], ["SUBSCRIBE", "c"]]
    pool.far[0].sendall(pushed("smessage", "c", "told"))
    assert waiter.listen("c", 5) == b"told"
    slots.node = B
    assert waiter.listen("c", 0) is None
    assert len(pool.far) == 2
    pool.far[1].sendall(pushed("sunsubscribe", "c", "0"))
    assert waiter.listen("c", 5) is None, "the slot has moved on"
    assert not waiter.connected


# ── of a task ─────────────────────────────────────────────────────────────────────────────────


class AsyncPool:
    """The same for asyncio. What subscribes is confirmed, unless it is refused."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.said: list[list[str]] = []
        self.refusal = b""
        self.answers = True
        self._answering: set[asyncio.Task[None]] = set()

    async def fresh(self, channel: str | None = None) -> Any:
        found = self.pool.fresh(channel)
        found._reader, found._writer = await asyncio.open_connection(sock=found._sock)
        self.pool.far[-1].setblocking(False)
        self._answering.add(asyncio.ensure_future(self._answer(self.pool.far[-1])))
        return found

    async def _answer(self, far: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while said := await loop.sock_recv(far, 65536):
            for command in heard(said):
                self.said.append(command)
                verb, *names = command
                if verb.endswith("SUBSCRIBE") and self.answers:
                    for name in names:
                        far.sendall(self.refusal or pushed(verb.lower(), name, "1"))

    async def blocking(self, names: Sequence[str]) -> list[tuple[Any, list[str]]]:
        groups = [list(names)] if self.pool.together else [[name] for name in names]
        return [(await self.fresh(), group) for group in groups]

    async def unblock(self, lines: Any) -> list[int]:
        return self.pool.unblock(lines)

    def close(self) -> None:
        for each in self._answering:
            each.cancel()


def run(pool: Pool, main: Callable[[AsyncWaiter], Coroutine[Any, Any, T]], **more: Any) -> T:
    """With a waiter of a loop of its own; what never comes is not waited for for ever."""

    async def within() -> T:
        connections = AsyncPool(pool)
        about = engine(connections, **more)
        listener = Listener(about)
        about.listener = lambda _: listener
        waiter = AsyncWaiter(about)
        try:
            async with asyncio.timeout(10):
                return await main(waiter)
        finally:
            await waiter.close()
            listener.close()
            connections.close()

    return asyncio.run(within())


def test_what_has_come_over_a_line_is_fed_to_it_without_a_wait() -> None:
    """And one that only looks leaves the loop no turn; one that waits does wait."""

    async def main() -> None:
        turns: list[int] = []
        wires = [SimpleNamespace(has_come=at == 1, take=lambda: [b"x", b"y"]) for at in (0, 1)]
        fed: list[bytes] = []
        lines: Any = [
            SimpleNamespace(wire=wire, talk=SimpleNamespace(feed=fed.append)) for wire in wires
        ]
        asyncio.get_running_loop().call_soon(turns.append, 1)
        assert await _hear(lines, 5) is lines[1]
        assert fed == [b"x", b"y"]
        wires[1].has_come = False
        assert await _hear(lines, 0) is None
        assert turns == []
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_hear(lines, 1), 0.01)
        assert turns == [1]

    asyncio.run(main())


def test_a_line_over_which_nothing_came_has_nothing(pool: Pool) -> None:
    async def main(waiter: AsyncWaiter) -> None:
        ((connection, _),) = await waiter._engine._pool.blocking(["a"])
        wire = _Heard(connection)
        assert not wire.has_come
        assert wire.take() == []
        wire._received(b"x")
        assert wire.has_come
        assert wire.take() == [b"x"]
        wire._lost(server.ConnectionError("gone"))
        assert wire.has_come
        with pytest.raises(server.ConnectionError, match="gone"):
            wire.take()
        wire.close()

    run(pool, main)


def test_a_task_hears_a_token_on_each_of_its_lines(pool: Pool) -> None:
    async def main(waiter: AsyncWaiter) -> None:
        pool.together = False
        assert not waiter.connected
        began = time.monotonic()
        assert await waiter.wait(("a", "b"), 0.01) is None
        assert 0.01 <= time.monotonic() - began < 4
        assert waiter.connected
        for at, name in ((1, b"b"), (0, b"a"), (1, b"b")):
            pool.far[at].sendall(b"*2\r\n$1\r\n%s\r\n$1\r\n1\r\n" % name)
            assert await waiter.wait(("a", "b"), 5) == name.decode()
        assert await waiter.wait(("a", "b"), 0) is None
        assert await waiter.withdraw() == []
        assert pool.unblocked == [[(A, 7), (A, 8)]]

    run(pool, main)


def test_a_task_does_not_wait_for_what_has_come(pool: Pool) -> None:
    async def main(waiter: AsyncWaiter) -> None:
        assert await waiter.wait(("a",), 0.01) is None
        pool.far[0].sendall(TOKEN)
        await asyncio.sleep(0.02)
        assert await waiter.withdraw() == ["a"], "without a turn of the loop in between"
        assert pool.unblocked == []
        assert await waiter.wait(("a",), 0.01) is None
        pool.far[0].sendall(TOKEN)
        await asyncio.sleep(0.02)
        began = time.monotonic()
        assert await waiter.wait(("a",), 5) == "a"
        assert time.monotonic() - began < 4

    run(pool, main)


def test_a_task_whose_connection_breaks_hears_no_token(pool: Pool) -> None:
    async def main(waiter: AsyncWaiter) -> None:
        assert await waiter.wait(("a",), 0.01) is None
        pool.far[0].sendall(TOKEN)
        pool.far[0].shutdown(socket.SHUT_RDWR)
        await asyncio.sleep(0.05)
        lines = waiter._waiting.lines
        assert await waiter.wait(("a",), 5) == "a", "what came before is taken first"
        began = time.monotonic()
        assert await waiter.wait(("a",), 5) is None
        assert 0.04 < time.monotonic() - began < 2
        assert not waiter.connected
        assert len(lines) == 1

    run(pool, main)


def test_a_task_that_waits_hears_of_the_looks_of_others(pool: Pool) -> None:
    async def main(waiter: AsyncWaiter) -> None:
        assert not await waiter.wait(("a",), 0.05, channels={"a": "looked"})
        pool.far[0].sendall(pushed("message", "looked", "another"))
        (looked,) = await waiter.wait(("a",), 5, channels={"a": "looked"})
        assert (looked.channel, looked.consumer) == ("looked", "another")
        assert ["SUBSCRIBE", "looked"] in waiter._engine._pool.said
        (line,) = waiter._waiting.lines
        await waiter.close()
        assert not waiter.connected
        transport: Any = line.wire
        assert transport._wire._transport.is_closing()

    run(pool, main)


def test_a_task_that_waits_with_a_claim_behind_it_waits_as_long_as_it_says(pool: Pool) -> None:
    async def main(waiter: AsyncWaiter) -> None:
        claim: Any = calls.ack(QueueKeys("a"), ["r1"])
        assert await waiter.wait(("a",), 0.01, claim) is None
        async with asyncio.timeout(5):
            while not waiter._engine._pool.said:  # noqa: ASYNC110 - it is read off a socket
                await asyncio.sleep(0.001)
        assert waiter._engine._pool.said[0] == ["BLPOP", "a", f"{0.01 + LATE:.3f}"]
        pool.far[0].shutdown(socket.SHUT_RDWR)

    run(pool, main)


def test_what_a_task_does_not_take_stays_with_the_server(pool: Pool) -> None:
    """A consumer that works for hours hears all the while of the looks of others."""

    async def main(waiter: AsyncWaiter) -> None:
        assert await waiter.wait(("a",), 0.0) is None
        (line,) = waiter._waiting.lines
        wire: Any = line.wire
        for n in range(1, MOST_HEARD + 1):
            assert wire._wire._transport.is_reading()
            wire._received(pushed("message", "looked", str(n)))
        assert not wire._wire._transport.is_reading()
        assert len(wire.take()) == MOST_HEARD
        assert wire._wire._transport.is_reading()
        wire._received(b"x")
        wire._wire.read(False)
        wire.take()
        assert not wire._wire._transport.is_reading(), "less than that is no reason to read on"

    run(pool, main)


def test_a_task_listens_and_hears_the_next_message(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(waiter: AsyncWaiter) -> None:
        assert await waiter.listen("c", 0) is None
        assert waiter.connected
        pool.far[0].sendall(pushed("invalidate", "c", "x") + MESSAGE + MESSAGE)
        assert await waiter.listen("c", 5) == b"told"
        assert await waiter.listen("c", 5) == b"told"
        assert await waiter.listen("c", 0.01) is None
        assert waiter._engine._pool.said == [["SUBSCRIBE", "c"]]
        pool.far[0].shutdown(socket.SHUT_RDWR)
        assert await waiter.listen("c", 5) is None
        assert not waiter.connected
        pool.fails = server.ConnectionError("gone")
        rests = list[float]()
        real = asyncio.sleep

        async def sleep(seconds: float) -> None:
            rests.append(seconds)
            await real(0)

        same = SimpleNamespace(**{**vars(asyncio), "sleep": sleep})
        monkeypatch.setattr("atomq.waiter_aio.asyncio", same)
        for seconds in (5, 0.01):
            assert await waiter.listen("c", seconds) is None
        assert rests == [0.05, 0.01]

    run(pool, main)


def test_a_task_that_listens_elsewhere_leaves_what_it_heard_before(pool: Pool) -> None:
    async def main(waiter: AsyncWaiter) -> None:
        for channel in ("c", "d", "d"):
            assert await waiter.listen(channel, 0) is None
        assert waiter._engine._pool.said == [
            ["SUBSCRIBE", "c"],
            ["UNSUBSCRIBE", "c"],
            ["SUBSCRIBE", "d"],
        ]
        listener = waiter._engine.listener("d")
        assert set(listener._audience) == {"d"}
        waiter._engine.era += 1
        assert await waiter.listen("d", 0) is None
        assert len(pool.far) == 2
        await waiter.close()
        assert set(listener._audience) == set()

    run(pool, main)


def test_one_that_may_not_listen_and_what_is_not_of_a_channel_disturb_no_other(pool: Pool) -> None:
    async def main(waiter: AsyncWaiter) -> None:
        listener = waiter._engine.listener("c")
        ear = await listener.listen("c")
        other = await listener.listen("c")
        for _ in range(2):
            listener.leave(other)
        assert await ear.next(0.01) is None
        assert waiter._engine._pool.said == [["SUBSCRIBE", "c"]] * 2, "another one still listens"
        waiter._engine._pool.refusal = b"-NOPERM this user has no permissions\r\n"
        with pytest.raises(server.NoPermissionError):
            await listener.listen("d")
        listener._received(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nc\r\n")
        pool.far[0].sendall(MESSAGE)
        assert await ear.next(5) == b"told"
        assert len(pool.far) == 1

    run(pool, main)


def test_a_server_that_is_silent_is_left_by_all_and_a_task_that_is_cancelled_harms_none(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atomq.listening_aio.PROMPT", 0.02)

    async def main(waiter: AsyncWaiter) -> None:
        listener = waiter._engine.listener("c")
        ear = await listener.listen("c")
        waiter._engine._pool.answers = False
        task = asyncio.ensure_future(listener.listen("d"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await ear.next(0.01) is None
        with pytest.raises(TimeoutError):
            await listener.listen("d")
        with pytest.raises(server.ConnectionError):
            await ear.next(5)

    run(pool, main)


def test_a_task_that_may_not_listen_says_so(pool: Pool) -> None:
    async def main(waiter: AsyncWaiter) -> None:
        waiter._engine._pool.refusal = b"-NOPERM this user has no permissions\r\n"
        with pytest.raises(PermissionDenied):
            await waiter.listen("c", 5)

    run(pool, main)


def test_in_a_cluster_a_task_hears_of_a_slot_that_moves(pool: Pool) -> None:
    async def main(waiter: AsyncWaiter) -> None:
        assert await waiter.listen("c", 0) is None
        assert waiter._engine._pool.said == [["SSUBSCRIBE", "c"], ["SUBSCRIBE", "c"]]
        pool.far[0].sendall(pushed("smessage", "c", "told"))
        assert await waiter.listen("c", 5) == b"told"
        pool.far[0].sendall(pushed("sunsubscribe", "c", "0"))
        assert await waiter.listen("c", 5) is None
        assert not waiter.connected

    run(pool, main, slots=Slots())


# ── calls over a connection that is waited on at other times ──────────────────────────────────


class Played:
    """Rules that say what the test says; `at` is called in their midst."""

    def __init__(self, at: Callable[[], Any]) -> None:
        self.at = at
        self.lines: list[Any] = []

    def carry(self, *_: Any) -> Any:
        self.at()
        yield Rest(0)
        return ["answered"]

    def lengths(self, *_: Any) -> Any:
        yield Rest(0)
        return {"a": 1}

    def wait(self, *_: Any, **__: Any) -> Any:
        self.at()
        yield Rest(0)
        return "token"

    def close(self) -> Any:
        yield Rest(0)


@pytest.mark.parametrize("slots", [None, Slots()])
def test_in_a_cluster_calls_may_travel_where_a_thread_waits_until_it_closes(
    pool: Pool, slots: Slots | None
) -> None:
    waiter = Waiter(engine(pool, slots=slots))
    carriers = waiter._engine.carriers
    assert not carriers
    assert waiter.wait(("a",), 0.01) is None
    assert carriers == ({waiter} if slots else set())
    waiter.close()
    assert not carriers


@pytest.mark.parametrize("slots", [None, Slots()])
def test_in_a_cluster_calls_may_travel_where_a_task_waits_until_it_closes(
    pool: Pool, slots: Slots | None
) -> None:
    async def main(waiter: AsyncWaiter) -> None:
        carriers = waiter._engine.carriers
        assert not carriers
        assert await waiter.wait(("a",), 0.01) is None
        assert carriers == ({waiter} if slots else set())
        await waiter.close()
        assert not carriers

    run(pool, main, slots=slots)


def test_while_a_thread_waits_calls_of_others_do_not_travel_there(pool: Pool) -> None:
    waiter = Waiter(engine(pool))
    found: list[Any] = []
    thread = (lambda: waiter.carry((), ())), (lambda: waiter.lengths(()))

    def others() -> None:
        for call in thread:
            each = threading.Thread(target=lambda call=call: found.append(call()))
            each.start()
            each.join(5)

    waiter._waiting = Played(others)  # type: ignore[assignment]
    assert waiter.wait(("a",), 1) == "token"
    assert found == [None, {}]
    found.clear()
    assert waiter.carry((), ()) == ["answered"]
    assert found == [None, {}], "one at a time"
    assert waiter.lengths(()) == {"a": 1}


def test_a_thread_that_was_interrupted_as_it_came_keeps_no_other_from_waiting_for_ever(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atomq.waiter.LOST", 0.01)
    waiter = Waiter(engine(pool))
    waiter._waiting = Played(lambda: None)  # type: ignore[assignment]
    waiter._free.get()
    assert waiter.carry((), ()) is None
    assert waiter.wait(("a",), 1) == "token"
    assert waiter.carry((), ()) == ["answered"]


def test_a_call_that_is_interrupted_closes_the_connections_and_an_error_does_not(
    pool: Pool,
) -> None:
    closed: list[int] = []
    waiter, errors = Waiter(engine(pool)), [server.TimeoutError("silent"), KeyboardInterrupt()]

    def fails() -> None:
        raise errors.pop(0)

    played = waiter._waiting = Played(fails)  # type: ignore[assignment]
    played.lines = [SimpleNamespace(wire=SimpleNamespace(close=lambda: closed.append(1)))]
    with pytest.raises(server.TimeoutError):
        waiter.carry((), ())
    assert closed == []
    with pytest.raises(KeyboardInterrupt):
        waiter.carry((), ())
    assert closed == [1], "a part of the answer may be lost"
    assert waiter.lengths(()) == {"a": 1}


def test_while_a_task_waits_calls_of_others_do_not_travel_there(pool: Pool) -> None:
    async def tries() -> None:
        waiter, gate = AsyncWaiter(engine(pool)), asyncio.Event()
        played: Any = waiter
        played._waiting = Played(lambda: None)
        perform = waiter._perform

        async def slowly(action: Any) -> Any:
            await gate.wait()
            return await perform(action)

        played._perform = slowly
        waits = asyncio.ensure_future(waiter.wait(("a",), 1))
        await asyncio.sleep(0)
        assert (await waiter.carry((), ()), await waiter.lengths(())) == (None, {})
        gate.set()
        assert await waits == "token"
        gate.clear()
        carries = asyncio.ensure_future(waiter.carry((), ()))
        await asyncio.sleep(0)
        assert await waiter.carry((), ()) is None, "one at a time"
        waits = asyncio.ensure_future(waiter.wait(("a",), 1))
        await asyncio.sleep(0)
        gate.set()
        assert (await carries, await waits) == (["answered"], "token")
        assert await waiter.lengths(()) == {"a": 1}

    asyncio.run(asyncio.wait_for(tries(), 5))
