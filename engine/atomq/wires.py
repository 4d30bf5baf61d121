"""The wires under a conversation: sockets taken out of connections that redis-py has opened.

redis-py opens a connection (TLS, Sentinel, credentials, the handshake). `taken` and `taken_async`
take its socket out; from there on it is ours, and the connection is of no use any more. This is the
one file that reads private attributes of redis-py.
"""

from __future__ import annotations

import _socket
import asyncio
import contextlib
import os
import select
import socket
import struct
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from hiredis import PushNotification
from redis import exceptions as server
from redis.asyncio.connection import AbstractConnection as AsyncConnection
from redis.connection import AbstractConnection

from atomq import fork

READ_AT_ONCE = 65536  # bytes
_LATE = (TimeoutError, BlockingIOError)  # by Python's clock, or by the kernel's
_CLOSED = "Connection closed by server."
_PUSHES = frozenset(
    {b"message", b"pmessage", b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe"}
)


def taken(connection: AbstractConnection) -> Wire | MemoryWire:
    """Take the socket out of a connected connection.

    Raises redis-py's exceptions if what the server said beyond the handshake is not the protocol.
    """
    return MemoryWire(connection) if _is_memory(connection) else Wire(connection)


def taken_async(
    connection: AsyncConnection,
    received: Callable[[Any], None],
    lost: Callable[[Exception], None],
) -> AsyncWire | AsyncMemoryWire:
    """The asyncio twin of `taken`; call it in the event loop that opened the connection.

    The loop calls `received` with what came (see `Wire.receive`), and `lost`, once, with redis-py's
    `ConnectionError` if the server closes the connection or it breaks.
    """
    wire = AsyncMemoryWire if _is_memory(connection) else AsyncWire
    return wire(connection, received, lost)


class Wire:
    """A socket. Reading and writing raise redis-py's `ConnectionError` where it is broken.

    They raise redis-py's `TimeoutError` after the `socket_timeout` of the address. A wire belongs
    to one thread at a time.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self.hello: Mapping[Any, Any] = connection.handshake_metadata or {}
        """The server's answer to HELLO."""
        self.node = _node(connection)
        """Host and port; None: it has none, as a socket file."""
        self.credential_provider: Any = connection.credential_provider
        untyped: Any = connection
        self.read_before: list[Any] = []
        """Replies that came with those of the handshake, to be fed to the conversation first."""
        while _has_data(untyped._parser._reader):
            self.read_before.append(untyped.read_response(push_request=True))
        # To redis-py a connection without a socket is closed: it leaves this one alone.
        self._socket, untyped._sock = untyped._sock, None
        self._pending: Callable[[], int] | None = getattr(self._socket, "pending", None)
        """How much TLS has decrypted that is not read yet; None: this is no TLS."""
        self._looks = _looking_at(self._socket)
        self._kernel_has_time = _leave_time_to_kernel(self._socket)
        opened.add(self)

    def fileno(self) -> int:
        """The socket's number, for a selector; -1: it is closed."""
        return int(self._socket.fileno())

    def send(self, data: bytes) -> None:
        """Send all of it."""
        try:
            self._socket.sendall(data)
        except _LATE as error:
            raise server.TimeoutError("Timeout writing to socket") from error
        except OSError as error:
            raise server.ConnectionError(f"Error while writing to socket: {error}") from error

    def readable(self, seconds: float) -> bool:
        """Whether something comes within so many seconds, if it is only that the server hung up."""
        if self._pending is not None and self._pending():
            return True
        try:
            return bool(self._looks(seconds))
        except (OSError, ValueError):  # it is closed, as reading from it will say
            return True

    def receive(self) -> bytes:
        """What has come, a byte at least: it waits for that. All that TLS has decrypted."""
        try:
            received: bytes = self._socket.recv(READ_AT_ONCE)
            while self._pending is not None and received and self._pending():
                received += self._socket.recv(READ_AT_ONCE)
        except _LATE as error:
            raise server.TimeoutError("Timeout reading from socket") from error
        except OSError as error:
            raise server.ConnectionError(f"Error while reading from socket: {error}") from error
        if not received:
            raise server.ConnectionError(_CLOSED)
        return received

    def be_impatient(self, seconds: float) -> bool:
        """Have `receive` raise after so many seconds already. False: that is not to be had here."""
        if self._kernel_has_time:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))
        return self._kernel_has_time

    def close(self) -> None:
        """Close it. Never raises."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._socket.close()

    def __del__(self) -> None:
        # Without `contextlib`: when Python ends it may have emptied this module before.
        try:  # noqa: SIM105
            self.close()
        except AttributeError:
            pass


def hurry(connection: Any, seconds: float | None) -> None:
    """Connect within so many seconds, and hear within so many what the handshake is answered."""
    connection.socket_timeout = connection.socket_connect_timeout = seconds


def relax(connection: AbstractConnection, seconds: float | None) -> None:
    """From here on wait so long for what is read and written."""
    untyped: Any = connection
    untyped.socket_timeout = seconds
    untyped._sock.settimeout(seconds)


def _leave_time_to_kernel(sock: Any) -> bool:
    """Have the kernel end what takes longer than the socket's timeout; whether it can.

    Python would poll before each read and each write: two system calls a trip, and the lock of the
    interpreter given away twice. Not where the socket is another one's (TLS, gevent).
    """
    seconds = sock.gettimeout()
    is_plain = getattr(type(sock), "recv", None) is _socket.socket.recv
    can = is_plain and sys.platform == "linux" and struct.calcsize("l") == 8
    if seconds and can:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(seconds))
        sock.settimeout(None)
    return can


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), max(1, int(seconds % 1 * 1e6)))


def _looking_at(sock: Any) -> Callable[[float], Any]:
    """What looks whether a socket is readable: for so many seconds."""
    if not hasattr(select, "poll"):  # eventlet and Windows have none
        return lambda seconds: select.select([sock], [], [], seconds)[0]
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return lambda seconds: poller.poll(seconds * 1000)


def _has_data(reader: Any) -> bool:
    has_data = getattr(reader, "has_data", None)  # older versions of hiredis have none
    return bool(has_data()) if has_data is not None else False


class MemoryWire:
    """The same for memory://, where there are no bytes: `receive` answers a list of replies."""

    def __init__(self, connection: Any) -> None:
        self.hello: Mapping[Any, Any] = connection.handshake_metadata or {}
        self.node = None
        self.credential_provider: Any = None
        self.read_before: list[Any] = []
        self._connection = connection

    def fileno(self) -> int:
        """It has no number: -1."""
        return -1

    def send(self, data: bytes) -> None:
        """Send all of it. A command that blocks is over when this returns."""
        self._connection.send_packed_command([data], check_health=False)

    def readable(self, seconds: float) -> bool:
        """Whether there is a reply within so many seconds."""
        return bool(self._connection.can_read(seconds))

    def receive(self) -> list[Any]:
        """The next reply."""
        try:
            return [_pushed(self._connection.read_response(push_request=True))]
        except server.ResponseError as error:
            return [error.with_traceback(None)]

    def be_impatient(self, _seconds: float) -> bool:
        """Not to be had here: False."""
        return False

    def close(self) -> None:
        """Close it."""
        self._connection.disconnect()


class AsyncWire:
    """A transport of an event loop. See `taken_async`, and `Wire`."""

    def __init__(
        self,
        connection: AsyncConnection,
        received: Callable[[Any], None],
        lost: Callable[[Exception], None],
    ) -> None:
        self.hello: Mapping[Any, Any] = getattr(connection, "handshake_metadata", None) or {}
        self.node = _node(connection)
        self.received = received
        self.lost = lost
        untyped: Any = connection
        reader, parsed = untyped._reader, untyped._parser._reader
        self._writer = untyped._writer  # it closes its transport when it is collected
        self._transport: asyncio.Transport = self._writer.transport
        self.write: Callable[[bytes], None] = self._transport.write
        """Send it, as soon as the system takes it."""
        self._loop = asyncio.get_running_loop()
        self._protocol = _Protocol(self)
        # To redis-py a connection without them is closed: it leaves the transport alone.
        untyped._reader = untyped._writer = None
        self._transport.set_protocol(self._protocol)
        if _has_data(parsed) or reader.at_eof():
            refused = server.ConnectionError("the server said what was not asked for, or hung up")
            self._loop.call_soon(self._protocol.connection_lost, refused)
        elif reader._buffer:
            self._loop.call_soon(self._protocol.data_received, bytes(reader._buffer))
        self._transport.resume_reading()
        opened.add(self)

    def fileno(self) -> int:
        """The socket's number; -1: it is closed."""
        sock = self._transport.get_extra_info("socket")
        return int(sock.fileno()) if sock is not None else -1

    async def flushed(self) -> None:
        """Wait for as long as too much that was written lies in this process."""
        if self._protocol.resumed is not None:
            await self._protocol.resumed.wait()

    def read(self, reads: bool) -> None:
        """Read what comes, or leave it to the system and the server. That it is lost is read."""
        if reads:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def close(self) -> None:
        """Close it. Neither `received` nor `lost` is called any more."""
        self._protocol.wire = _no_wire
        self._transport.abort()

    def __del__(self) -> None:
        try:  # as above
            if asyncio.get_running_loop() is self._loop:
                self._transport.abort()
        except (RuntimeError, AttributeError):
            pass


def _no_wire() -> None:
    return None


class _Protocol(asyncio.Protocol):
    """What the event loop holds. It does not keep the wire, which may be dropped without a word."""

    def __init__(self, wire: AsyncWire) -> None:
        self.wire: Callable[[], AsyncWire | None] = weakref.ref(wire)
        self.resumed: asyncio.Event | None = None

    def data_received(self, data: bytes) -> None:
        wire = self.wire()
        if wire is not None:
            wire.received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.resume_writing()
        wire, self.wire = self.wire(), _no_wire
        if wire is not None:
            text = f"Error while reading from socket: {error}" if error else _CLOSED
            wire.lost(server.ConnectionError(text))

    def pause_writing(self) -> None:
        self.resumed = asyncio.Event()

    def resume_writing(self) -> None:
        if self.resumed is not None:
            self.resumed.set()
            self.resumed = None


class AsyncMemoryWire:
    """The same for memory://, where `received` is called with a list of replies."""

    def __init__(
        self,
        connection: Any,
        received: Callable[[Any], None],
        lost: Callable[[Exception], None],
    ) -> None:
        self.hello: Mapping[Any, Any] = getattr(connection, "handshake_metadata", None) or {}
        self.node = None
        self._connection = connection
        self._reading = asyncio.ensure_future(_read(connection, received, lost))

    def fileno(self) -> int:
        """It has no number: -1."""
        return -1

    def write(self, data: bytes) -> None:
        """Send it."""
        if self._connection._writer is not None:
            self._connection._writer.writelines([data])

    async def flushed(self) -> None:
        """It is sent already."""

    def read(self, reads: bool) -> None:
        """It is read always: a server in this process keeps as much as its client."""

    def close(self) -> None:
        """Close it."""
        self._reading.cancel()


async def _read(
    connection: Any, received: Callable[[Any], None], lost: Callable[[Exception], None]
) -> None:
    while True:
        try:
            reply = await connection.read_response(push_request=True)
        except server.ConnectionError as error:
            lost(error)
            return
        except server.ResponseError as error:
            reply = error.with_traceback(None)
        received([_pushed(reply)])


def _pushed(reply: Any) -> Any:
    """To fakeredis a push is a list like others."""
    if isinstance(reply, list) and len(reply) > 2 and reply[0] in _PUSHES:
        return PushNotification(reply)
    return reply


def _is_memory(connection: object) -> bool:
    return type(connection).__module__.partition(".")[0] == "fakeredis"


def _node(connection: Any) -> tuple[str, int] | None:
    host, port = getattr(connection, "host", None), getattr(connection, "port", None)
    return None if host is None or port is None else (str(host), int(port))


# ── in a forked child ─────────────────────────────────────────────────────────────────────────


class Opened:
    """Connections and wires of this process. A child that it forks lets go of them without a word.

    They are not closed there: that would take asyncio's out of the epoll instance that both
    processes share. Their descriptors lead to /dev/null instead, so whatever becomes of them in the
    child the parent does not notice, and when it closes one, or dies, the server does.
    """

    def __init__(self) -> None:
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        fork.renew(self)

    def add(self, connection: Any) -> None:
        """One that is connected now."""
        self._connections.add(connection)

    def forked(self) -> None:
        """In a child process: they are the parent's."""
        connections, self._connections = list(self._connections), weakref.WeakSet()
        fork.leak(*connections)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for connection in connections:
            number = descriptor(connection)
            if number >= 0:
                os.dup2(null, number, inheritable=False)
        os.close(null)


def descriptor(connection: Any) -> int:
    """The number of its socket; -1: it has none, or it is one of memory://."""
    if isinstance(connection, Wire | AsyncWire):
        return connection.fileno()
    writer = getattr(connection, "_writer", None)
    sock = writer.get_extra_info("socket") if writer else getattr(connection, "_sock", None)
    try:
        return int(sock.fileno()) if sock is not None else -1
    except (AttributeError, OSError):  # of memory://
        return -1


opened = Opened()
