"""What is read, written, waited for and closed on a wire. Over socket pairs, no server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hiredis import PushNotification
from redis import exceptions as server

from atomq import wires
from atomq.wires import AsyncMemoryWire, AsyncWire, MemoryWire, Opened, Wire, descriptor

BY_KERNEL = sys.platform == "linux" and struct.calcsize("l") == 8
MUCH = b"x" * 10_000_000  # more than a socket takes that is not read


class Reader:
    """What redis-py's parser has read and not answered."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)

    def has_data(self) -> bool:
        return bool(self.replies)

    def read_response(self, push_request: bool) -> Any:
        assert push_request
        return self.replies.pop(0)


def connection(sock: Any = None, *replies: Any, **more: Any) -> Any:
    """A connection as redis-py leaves it."""
    reader = Reader(*replies)
    about = {"handshake_metadata": {b"id": 7}, "host": "h", "port": 1, "credential_provider": "me"}
    return SimpleNamespace(
        **{**about, **more},
        _sock=sock,
        _parser=SimpleNamespace(_reader=reader),
        read_response=reader.read_response,
    )


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    far.settimeout(5)
    yield near, far
    near.close()
    far.close()


# ── of a thread ───────────────────────────────────────────────────────────────────────────────


def test_a_wire_takes_the_socket_and_what_is_known_of_it(pair: Any) -> None:
    taken_from = connection(pair[0], b"one", b"two")
    wire = wires.taken(taken_from)
    assert isinstance(wire, Wire)
    assert (wire.hello, wire.node, wire.credential_provider) == ({b"id": 7}, ("h", 1), "me")
    assert wire.read_before == [b"one", b"two"]
    assert taken_from._sock is None, "to redis-py it is closed"
    assert wire.fileno() == pair[0].fileno()
    wire.close()
    assert wire.fileno() == -1


@pytest.mark.parametrize("more", [{"host": None}, {"port": None}])
def test_a_wire_may_lead_to_no_node_and_know_nothing(pair: Any, more: dict[str, Any]) -> None:
    wire = Wire(connection(pair[0], handshake_metadata=None, **more))
    assert (wire.hello, wire.node, wire.read_before) == ({}, None, [])


def test_an_older_parser_does_not_say_what_it_has(pair: Any) -> None:
    taken_from = connection(pair[0])
    taken_from._parser._reader = object()
    assert Wire(taken_from).read_before == []


def test_what_is_sent_arrives_and_what_arrives_is_received(pair: Any) -> None:
    wire = Wire(connection(pair[0]))
    wire.send(b"ping")
    assert pair[1].recv(10) == b"ping"
    began = time.monotonic()
    assert not wire.readable(0)
    assert not wire.readable(0.02)
    assert 0.02 <= time.monotonic() - began < 2
    pair[1].sendall(b"pong")
    assert wire.readable(0)
    assert wire.receive() == b"pong"


def test_a_server_that_hangs_up_is_readable_and_no_more(pair: Any) -> None:
    wire = Wire(connection(pair[0]))
    pair[1].close()
    assert wire.readable(0)
    with pytest.raises(server.ConnectionError, match="closed by server"):
        wire.receive()
    with pytest.raises(server.ConnectionError, match="writing"):
        wire.send(b"ping")
    wire.close()
    with pytest.raises(server.ConnectionError, match="reading"):
        wire.receive()
    wire.close()


def test_what_takes_longer_than_its_timeout_is_a_timeout(pair: Any) -> None:
    pair[0].settimeout(0.02)
    wire = Wire(connection(pair[0]))
    began = time.monotonic()
    with pytest.raises(server.TimeoutError, match="reading"):
        wire.receive()
    with pytest.raises(server.TimeoutError, match="writing"):
        wire.send(MUCH)
    assert 0.04 <= time.monotonic() - began < 2
    assert (pair[0].gettimeout() is None) == BY_KERNEL


def test_without_a_timeout_it_waits(pair: Any) -> None:
    pair[0].settimeout(None)
    wire = Wire(connection(pair[0]))
    assert pair[0].gettimeout() is None
    if BY_KERNEL:
        found = pair[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)
        assert found == bytes(16), "for ever"
    pair[1].sendall(b"pong")
    assert wire.receive() == b"pong"


@pytest.mark.skipif(not BY_KERNEL, reason="Python ends it there")
def test_one_may_be_more_impatient_for_what_it_reads(pair: Any) -> None:
    pair[0].settimeout(2)
    wire = Wire(connection(pair[0]))
    assert wire.be_impatient(0.02)
    began = time.monotonic()
    with pytest.raises(server.TimeoutError):
        wire.receive()
    assert 0.02 <= time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("seconds", "said"), [(2.25, (2, 250_000)), (0.5, (0, 500_000)), (3.0, (3, 1)), (1e-9, (0, 1))]
)
def test_what_the_kernel_is_told_is_never_for_ever(seconds: float, said: Any) -> None:
    assert struct.unpack("ll", wires._timeval(seconds)) == said


class Decrypting:
    """A socket over which TLS speaks: it may hold what the system no longer has."""

    def __init__(self, sock: socket.socket, *parts: bytes) -> None:
        self._sock = sock
        self.parts = list(parts)

    def recv(self, _size: int) -> bytes:
        return self.parts.pop(0)

    def pending(self) -> int:
        return len(self.parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def test_all_that_tls_has_decrypted_is_received_at_once(pair: Any) -> None:
    pair[0].settimeout(30)
    wire = Wire(connection(Decrypting(pair[0], b"a", b"b", b"c")))
    assert wire.readable(0), "the system knows nothing of it"
    assert wire.receive() == b"abc"
    assert not wire.readable(0)
    assert not wire.be_impatient(0.01)
    assert pair[0].gettimeout() == 30, "Python's clock, as before"


def test_without_poll_it_selects(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "poll")
    wire = Wire(connection(pair[0]))
    assert not wire.readable(0.01)
    pair[1].sendall(b"pong")
    assert wire.readable(0)
    wire.close()
    assert wire.readable(0), "that it is closed is read"


@pytest.mark.parametrize("way", ["close", "drop"])
def test_a_wire_that_is_closed_or_dropped_hangs_up(pair: Any, way: str) -> None:
    wire: Any = Wire(connection(pair[0]))
    same = pair[0].dup()  # what another process may hold
    if way == "close":
        wire.close()
    del wire
    gc.collect()
    assert pair[1].recv(10) == b""
    same.close()


def test_a_connection_is_in_a_hurry_and_relaxes(pair: Any) -> None:
    found = connection(pair[0])
    wires.hurry(found, 0.5)
    assert (found.socket_timeout, found.socket_connect_timeout) == (0.5, 0.5)
    wires.relax(found, 3.0)
    assert (found.socket_timeout, pair[0].gettimeout()) == (3.0, 3.0)


# ── of memory:// ──────────────────────────────────────────────────────────────────────────────


class Memory:
    """A connection to a server in this process: it answers with lists, pushes too."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.sent: list[bytes] = []
        self.closed = False
        self._writer: Any = SimpleNamespace(writelines=self.sent.extend)

    def send_packed_command(self, parts: list[bytes], check_health: bool) -> None:
        assert not check_health
        self.sent += parts

    def can_read(self, _seconds: float) -> bool:
        return bool(self.replies)

    def read_response(self, push_request: bool) -> Any:
        assert push_request
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def disconnect(self) -> None:
        self.closed = True


Memory.__module__ = "fakeredis._connection"
MESSAGE = [b"message", b"c", b"x"]


def test_a_wire_of_memory_answers_replies_errors_and_pushes() -> None:
    refused = server.ResponseError("no")
    memory = Memory(b"one", refused, MESSAGE, [b"message", b"c"], [b"a", b"b", b"c"])
    memory.handshake_metadata = None  # type: ignore[attr-defined]
    wire = wires.taken(memory)  # type: ignore[arg-type]
    assert isinstance(wire, MemoryWire)
    assert (wire.hello, wire.node, wire.read_before) == ({}, None, [])
    assert (wire.fileno(), wire.be_impatient(1)) == (-1, False)
    wire.send(b"ping")
    assert memory.sent == [b"ping"]
    assert wire.readable(0)
    replies = [reply for _ in range(5) for reply in wire.receive()]
    assert replies == [b"one", refused, MESSAGE, [b"message", b"c"], [b"a", b"b", b"c"]]
    assert refused.__traceback__ is None
    assert [type(each) is PushNotification for each in replies] == [False] * 2 + [True] + [
        False
    ] * 2
    assert not wire.readable(0)
    wire.close()
    assert memory.closed


# ── of asyncio ────────────────────────────────────────────────────────────────────────────────


class Hears:
    """A wire of asyncio, what came over it and what it was lost by."""

    def __init__(self, pair: Any, *replies: Any) -> None:
        self.near, self.far = pair
        self.far.setblocking(False)
        self.replies = replies
        self.got: list[Any] = []
        self.lost: list[Exception] = []

    async def take(self, before: bytes = b"", **more: Any) -> AsyncWire:
        self.connection = connection(None, *self.replies, **more)
        reader, writer = await asyncio.open_connection(sock=self.near)
        reader._buffer.extend(before)  # type: ignore[attr-defined]
        self.connection._reader, self.connection._writer = reader, writer
        found = wires.taken_async(self.connection, self.got.append, self.lost.append)
        assert isinstance(found, AsyncWire)
        return found

    async def until(self, happened: Callable[[], Any]) -> None:
        async with asyncio.timeout(5):
            while not happened():  # noqa: ASYNC110 - what happens is of sockets
                await asyncio.sleep(0.001)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_asyncio_hears_what_comes_and_that_the_server_hangs_up(pair: Any) -> None:
    async def main() -> None:
        hears = Hears(pair)
        wire = await hears.take(b"before")
        assert (wire.hello, wire.node) == ({b"id": 7}, ("h", 1))
        assert (hears.connection._reader, hears.connection._writer) == (None, None)
        assert wire.fileno() == pair[0].fileno()
        await hears.until(lambda: hears.got)
        assert hears.got == [b"before"]
        wire.write(b"ping")
        await hears.until(lambda: select.select([pair[1]], [], [], 0)[0])
        assert pair[1].recv(10) == b"ping"
        pair[1].sendall(b"pong")
        await hears.until(lambda: len(hears.got) > 1)
        assert (hears.got[1:], hears.lost) == ([b"pong"], [])
        pair[1].close()
        await hears.until(lambda: hears.lost)
        (error,) = hears.lost
        assert isinstance(error, server.ConnectionError)
        assert str(error) == "Connection closed by server."

    run(main())


@pytest.mark.parametrize("why", ["data", "end"])
def test_what_was_not_asked_for_is_the_end_of_it(pair: Any, why: str) -> None:
    async def main() -> None:
        hears = Hears(pair, *([b"nonsense"] if why == "data" else []))
        if why == "end":
            pair[1].close()
            reader, writer = await asyncio.open_connection(sock=pair[0])
            await reader.read()
            hears.connection = connection(handshake_metadata=None)
            hears.connection._reader, hears.connection._writer = reader, writer
            wire = wires.taken_async(hears.connection, hears.got.append, hears.lost.append)
            assert wire.hello == {}
        else:
            wire = await hears.take(b"more")
        await hears.until(lambda: hears.lost)
        assert "not asked for" in str(hears.lost[0])
        assert hears.got == []
        wire.close()

    run(main())


def test_asyncio_hears_nothing_once_it_is_closed_or_dropped(pair: Any) -> None:
    async def main() -> None:
        hears = Hears(pair)
        wire = await hears.take()
        pair[1].sendall(b"pong")
        wire.close()
        await asyncio.sleep(0.01)
        assert (hears.got, hears.lost) == ([], [])
        assert wire.fileno() == -1
        with contextlib.suppress(ConnectionResetError):
            assert pair[1].recv(10) == b""

    run(main())


def test_a_wire_of_asyncio_that_is_dropped_hangs_up(pair: Any) -> None:
    async def main() -> None:
        hears = Hears(pair)
        wire: Any = await hears.take()
        del wire
        gc.collect()
        await hears.until(lambda: select.select([pair[1]], [], [], 0)[0])
        assert hears.lost == []
        with contextlib.suppress(ConnectionResetError):
            assert pair[1].recv(10) == b""

    run(main())


def test_a_wire_of_asyncio_that_is_dropped_ends_its_transport_in_its_own_loop_only(
    pair: Any,
) -> None:
    ended: list[str] = []

    async def make(where: str) -> AsyncWire:
        hears = Hears(socket.socketpair())
        wire = await hears.take()
        wire.close()
        ends: Any = SimpleNamespace(abort=lambda: ended.append(where))
        wire._transport = ends
        return wire

    async def drop(made: list[AsyncWire]) -> None:
        made.clear()
        gc.collect()

    async def main() -> None:
        await drop([await make("here")])

    run(main())
    assert ended == ["here"]
    made: list[AsyncWire] = []

    async def begin() -> None:
        made.append(await make("elsewhere"))

    run(begin())
    run(drop(made))
    assert ended == ["here"]


def test_a_transport_that_knows_no_socket_any_more_has_no_number(pair: Any) -> None:
    """As that of TLS once it is lost."""

    async def main() -> None:
        wire = await Hears(pair).take()
        wire.close()
        gone: Any = SimpleNamespace(get_extra_info=lambda _: None, abort=int)
        wire._transport = gone
        assert wire.fileno() == -1

    run(main())


def test_asyncio_leaves_to_the_system_what_it_does_not_read(pair: Any) -> None:
    async def main() -> None:
        hears = Hears(pair)
        wire = await hears.take()
        wire.read(False)
        pair[1].sendall(b"pong")
        await asyncio.sleep(0.01)
        assert hears.got == []
        wire.read(True)
        await hears.until(lambda: hears.got)

    run(main())


def test_asyncio_waits_while_too_much_that_was_written_lies_here(pair: Any) -> None:
    async def main() -> None:
        hears = Hears(pair)
        wire = await hears.take()
        await asyncio.wait_for(wire.flushed(), 5)
        wire.write(MUCH)
        flushed = asyncio.ensure_future(wire.flushed())
        await asyncio.sleep(0.01)
        assert not flushed.done()
        read = 0
        while read < len(MUCH):
            await asyncio.sleep(0)
            with contextlib.suppress(BlockingIOError):
                read += len(pair[1].recv(1_000_000))
        await asyncio.wait_for(flushed, 5)
        assert wire._protocol.resumed is None
        wire.write(MUCH)
        flushed = asyncio.ensure_future(wire.flushed())
        await asyncio.sleep(0.01)
        pair[1].close()
        await asyncio.wait_for(flushed, 5)
        assert "Error while reading" in str(hears.lost[0])

    run(main())


class AsyncMemory(Memory):
    """The same for asyncio."""

    async def read_response(self, push_request: bool) -> Any:
        if not self.replies:
            await asyncio.Event().wait()
        return super().read_response(push_request)


AsyncMemory.__module__ = "fakeredis.aioredis"


def test_a_wire_of_memory_hears_until_it_is_lost_or_closed() -> None:
    async def main() -> None:
        refused, gone = server.ResponseError("no"), server.ConnectionError("gone")
        got: list[Any] = []
        lost: list[Any] = []
        memory = AsyncMemory(refused, MESSAGE, gone, b"after")
        wire: Any = wires.taken_async(memory, got.append, lost.append)  # type: ignore[arg-type]
        assert isinstance(wire, AsyncMemoryWire)
        assert (wire.hello, wire.node, wire.fileno()) == ({}, None, -1)
        await wire._reading
        assert (got, lost) == ([[refused], [MESSAGE]], [gone])
        assert type(got[1][0]) is PushNotification
        wire.write(b"ping")
        assert memory.sent == [b"ping"]
        memory._writer = None
        wire.write(b"ping")
        wire.read(False)
        await wire.flushed()
        memory = AsyncMemory()
        memory.handshake_metadata = {b"id": 1}  # type: ignore[attr-defined]
        wire = AsyncMemoryWire(memory, got.append, lost.append)
        assert wire.hello == {b"id": 1}
        wire.close()
        with pytest.raises(asyncio.CancelledError):
            await wire._reading

    run(main())


# ── when Python ends ──────────────────────────────────────────────────────────────────────────

LEFT = """
import asyncio, gc, socket
from types import SimpleNamespace as Made
from atomq import aio, client, fork, wires

about = {"handshake_metadata": {}, "credential_provider": None}
parser = Made(_reader=None)

async def open_one(sock):
    reader, writer = await asyncio.open_connection(sock=sock)
    taken = Made(**about, _parser=parser, _reader=reader, _writer=writer)
    return wires.taken_async(taken, print, print)

gc.disable()
near, far = socket.socketpair()
one, other = socket.socketpair()
fork.leak(wires.taken(Made(**about, _parser=parser, _sock=near)), asyncio.run(open_one(one)))
"""


def test_a_wire_that_is_left_when_python_ends_says_nothing() -> None:
    ended = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, check=True)
    assert (ended.stdout, ended.stderr) == (b"", b"")


# ── in a forked child ─────────────────────────────────────────────────────────────────────────


def test_a_child_lets_go_of_what_its_parent_has_open(pair: Any) -> None:
    opened = Opened()
    wire = Wire(connection(pair[0]))
    closed = connection(None)
    unwritten, written = socket.socketpair()
    written.settimeout(1)
    other = SimpleNamespace(_sock=unwritten)
    for each in (wire, SimpleNamespace(), SimpleNamespace(_sock=object())):
        assert descriptor(each) == (pair[0].fileno() if each is wire else -1)

    class Connection:
        def __init__(self, **about: Any) -> None:
            self.__dict__.update(about)

    kept = [Connection(**vars(closed)), Connection(**vars(other))]
    for each in (wire, *kept):
        opened.add(each)
    number = wire.fileno()
    opened.forked()
    assert wire.fileno() == number, "nothing is closed"
    assert os.fstat(number).st_rdev == Path(os.devnull).stat().st_rdev
    assert pair[1].recv(10) == written.recv(10) == b"", "nothing else has it open"
    assert not os.get_inheritable(number)
    opened.forked()
    written.close()


def test_the_descriptor_of_a_connection_that_is_not_taken(pair: Any) -> None:
    writer = SimpleNamespace(get_extra_info={"socket": pair[0]}.get)
    assert descriptor(SimpleNamespace(_writer=writer, _sock=None)) == pair[0].fileno()
    assert descriptor(connection(pair[1])) == pair[1].fileno()
    assert descriptor(connection(None)) == -1
