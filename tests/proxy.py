"""A proxy between a client and a server that loses replies, delays them or parts the two.

It speaks no protocol: bytes go through as they come. What the fault tests need is the one moment
a client cannot tell from outside: the server did the work, and the answer never arrived.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from atomq import scripts

_CHUNK = 1 << 16
_BESIDE = scripts.get("register").sha.encode()


class Proxy:
    """Listens on a unix socket and a loopback port, and forwards to `target`.

    `target` is the path of a unix socket or a (host, port). Use it as a context manager.
    """

    def __init__(self, target: str | tuple[str, int]) -> None:
        self.target = target
        self.directory = tempfile.mkdtemp(prefix="atomq-proxy-")
        self.socket = str(Path(self.directory) / "s")
        self._listeners = [socket.socket(socket.AF_UNIX), socket.socket()]
        self._listeners[0].bind(self.socket)
        self._listeners[1].bind(("127.0.0.1", 0))
        self.port: int = self._listeners[1].getsockname()[1]
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._faults: list[tuple[str | float, bytes]] = []
        self.open = threading.Event()
        self.open.set()
        self.seconds = 0.0
        self.dropped = 0
        """How many replies or requests were lost so far."""
        self.connections = 0
        """How many connections were made so far."""

    def __enter__(self) -> Self:
        for listener in self._listeners:
            listener.listen(128)
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.open.set()
        for listener in self._listeners:
            _close(listener)
        self.cut()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"redis+socket://{self.socket}?virtual_host=0"

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> redis.Redis:
        """Return a client through the proxy. It never retries: a test sees every failure."""
        options = {"retry": Retry(NoBackoff(), 0)} | options
        return redis.Redis(unix_socket_path=self.socket, **options)

    # faults

    def drop_reply(self, n: int = 1, matching: bytes = b"EVALSHA") -> None:
        """Lose the replies of the next `n` requests that contain `matching`.

        The server executes each of them, then the client's connection is cut. `matching=b""`
        takes any request, the handshake of a new connection included. What a process says in the
        register, at a moment of its own, is passed over.
        """
        with self._lock:
            self._faults += [("reply", matching)] * n

    def drop_request(self, n: int = 1, matching: bytes = b"EVALSHA") -> None:
        """Lose the next `n` requests that contain `matching`, and cut their connections."""
        with self._lock:
            self._faults += [("request", matching)] * n

    def hold_request(self, seconds: float, matching: bytes) -> None:
        """Hold the next request that contains `matching` for so long before it goes on."""
        with self._lock:
            self._faults.append((seconds, matching))

    def cut(self) -> None:
        """Cut all connections there are now; new ones go through."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()

    def delay(self, milliseconds: float) -> None:
        """Hold every reply for so long before it goes on. 0 ends it."""
        self.seconds = milliseconds / 1000

    def block(self) -> None:
        """Part client and server: connections stay, nothing goes through in either direction."""
        self.open.clear()

    def silence(self) -> None:
        """Forget the connections there are now, as a router does: they stay, nothing goes through.

        New ones go through.
        """
        with self._lock:
            for link in self._links:
                link.silent = True

    def unblock(self) -> None:
        """End `block()`. What was sent meanwhile goes through now, as TCP would do."""
        self.open.set()

    # forwarding

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # the proxy was closed
            try:
                link = _Link(self, client)
            except OSError:  # the server is down: so is the connection to it
                _close(client)
                continue
            with self._lock:
                self.connections += 1
                self._links.add(link)
            link.start()

    def forget(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)

    def take_fault(self, data: bytes) -> str | float:
        """The next fault, "reply", "request" or seconds, if it is for these bytes, else ""."""
        with self._lock:
            if self._faults and self._faults[0][1] in data and _BESIDE not in data:
                self.dropped += 1
                return self._faults.pop(0)[0]
        return ""


class _Link:
    """One client's connection and the one to the server that stands behind it."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        if isinstance(proxy.target, str):
            self.server = socket.socket(socket.AF_UNIX)
            self.server.connect(proxy.target)
        else:
            self.server = socket.create_connection(proxy.target)
        for each in (self.client, self.server):
            if each.family != socket.AF_UNIX:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.swallow = False
        self.silent = False

    def start(self) -> None:
        for run in (self._requests, self._replies):
            threading.Thread(target=self._guard, args=(run,), daemon=True).start()

    def cut(self) -> None:
        self.proxy.forget(self)
        _close(self.client)
        _close(self.server)

    def _guard(self, run: Callable[[], None]) -> None:
        try:
            run()
        except OSError:
            pass  # the other direction, or the test, closed the connection
        finally:
            self.cut()

    def _requests(self) -> None:
        tail = b""  # a match may lie across two chunks
        while data := self.client.recv(_CHUNK):
            if self.silent:
                continue
            self.proxy.open.wait()
            fault = self.proxy.take_fault(tail + data)
            if fault == "request":
                return
            if fault == "reply":
                self.swallow = True  # before the request goes out, so its reply cannot slip by
            if isinstance(fault, float):
                time.sleep(fault)
            tail = b"" if fault else data[-32:]
            self.server.sendall(data)

    def _replies(self) -> None:
        while data := self.server.recv(_CHUNK):
            if self.swallow:
                return
            if self.silent:
                continue
            if self.proxy.seconds:
                time.sleep(self.proxy.seconds)
            self.proxy.open.wait()
            self.client.sendall(data)


def _close(sock: socket.socket) -> None:
    """Close a socket that another thread may be waiting on: only shutdown wakes that one."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
