"""Opens connections: from an `Address` to redis-py's connection objects.

`connector(address)` and `async_connector(address)` return a function; each call of it makes one
fresh connection that is not connected yet. Each node of a cluster has an address of its own.

All of them speak RESP3, never decode, and never retry: when to try again is the engine's to decide.
redis-py's health check is off too, because its PING fails for users that may run little else than
EVALSHA; the engine replaces a connection that idled longer than `health_check_interval`.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import socket
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary, WeakSet

from redis.asyncio import connection as aio_connection
from redis.asyncio import sentinel as aio_sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.credentials import StreamingCredentialProvider
from redis.retry import Retry
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from atomq import fork
from atomq.address import Address
from atomq.embedded import check, start
from atomq.errors import InvalidOptions
from atomq.keys import Place
from atomq.sentinels import AsyncMaster, Audience, Master

Connector = Callable[[], AbstractConnection]
AsyncConnector = Callable[[], aio_connection.AbstractConnection]

# A sentinel that does not answer within this many seconds is passed over for the next.
_SENTINEL_PATIENCE = 1.0
# What redis-py 8 sets by itself and older ones do not.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


def connector(address: Address, audience: Audience | None = None) -> Connector:
    """A function that makes fresh, unconnected sync connections.

    Behind Sentinels, `audience` is notified when there is another master; and with a streaming
    credential provider, when that has a new token.

    Not for kind `cluster`. Raises `InvalidOptions` where an option cannot be used, ImportError
    where memory:// lacks its extra. The connections raise redis-py's exceptions, and
    `EmbeddedServerError` where the embedded server does not start.
    """
    kwargs = _kwargs(address, Retry(NoBackoff(), 0))
    _hear_of_tokens(kwargs, audience)
    kwargs["redis_connect_func"] = _Hello(address.options.client_name)
    match address.kind:
        case "tcp":
            tcp: Any = SSLConnection if address.tls else Connection
            node = address.nodes[0]
            return lambda: cast(AbstractConnection, tcp(host=node.host, port=node.port, **kwargs))
        case "unix":
            return lambda: _UnixConnection(path=address.path, **kwargs)
        case "embedded":
            return lambda: _EmbeddedConnection(path=address.path, **kwargs)
        case "sentinel":
            managed: Any = _SentinelSSLConnection if address.tls else _SentinelConnection
            return lambda: cast(
                AbstractConnection,
                managed(connection_pool=_found_by_threads(address, audience), **kwargs),
            )
        case "memory":
            fakeredis, server = _memory(address.path)
            return lambda: cast(
                AbstractConnection, fakeredis.FakeRedisConnection(server=server, **kwargs)
            )
    raise TypeError(f"{address} is a cluster: connect to its nodes (address.of_node)")


def async_connector(address: Address, audience: Audience | None = None) -> AsyncConnector:
    """The asyncio twin of `connector`. Call the function it returns inside one event loop only."""
    kwargs = _kwargs(address, AsyncRetry(NoBackoff(), 0))
    _hear_of_tokens(kwargs, audience)
    kwargs["redis_connect_func"] = _AsyncHello(address.options.client_name).connected
    match address.kind:
        case "tcp":
            tcp = aio_connection.SSLConnection if address.tls else aio_connection.Connection
            node = address.nodes[0]
            return lambda: tcp(host=node.host, port=node.port, **kwargs)
        case "unix":
            return lambda: _AsyncUnixConnection(path=address.path, **kwargs)
        case "embedded":
            return lambda: _AsyncEmbeddedConnection(path=address.path, **kwargs)
        case "sentinel":
            managed: Any = _AsyncSentinelSSLConnection if address.tls else _AsyncSentinelConnection
            master = AsyncMaster(address, _sentinel_kwargs(address, AsyncRetry(NoBackoff(), 0)))
            return lambda: cast(
                aio_connection.AbstractConnection,
                managed(connection_pool=_found_by_tasks(master, audience), **kwargs),
            )
        case "memory":
            fakeredis, server = _memory(address.path)
            return lambda: cast(
                aio_connection.AbstractConnection,
                fakeredis.FakeAsyncRedisConnection(server=server, **kwargs),
            )
    raise TypeError(f"{address} is a cluster: connect to its nodes (address.of_node)")


# ── keyword arguments ─────────────────────────────────────────────────────────────────────────


def _kwargs(address: Address, retry: object) -> dict[str, Any]:
    """What every connection of this address is made with, apart from where it leads."""
    options = address.options
    kwargs: dict[str, Any] = {
        "db": address.db,
        "protocol": 3,
        "decode_responses": False,
        "retry": retry,
        "retry_on_timeout": False,
        "health_check_interval": 0,
        "socket_timeout": options.socket_timeout,
        "socket_connect_timeout": options.socket_connect_timeout,
        **_credentials(address),
        **_unintroduced(AbstractConnection),
    }
    if address.kind in ("tcp", "sentinel"):
        kwargs["socket_keepalive"] = options.socket_keepalive
        kwargs["socket_keepalive_options"] = _keepalive(options.socket_keepalive_options)
    if address.tls:
        kwargs.update(_tls(address.tls))
    return kwargs


def _credentials(address: Address) -> dict[str, Any]:
    provider = address.options.credential_provider
    if provider is None:
        return {"username": address.username, "password": address.password}
    if isinstance(provider, str):
        provider = _imported(provider)()
        if not hasattr(provider, "get_credentials"):
            raise InvalidOptions(["credential_provider: its class has no get_credentials()"])
    return {"credential_provider": provider}


# By provider, as some can tell only one. Both ends may be garbage: then there is nothing to tell.
_rotating: WeakKeyDictionary[StreamingCredentialProvider, WeakSet[Audience]] = WeakKeyDictionary()
_rotating_lock = fork.Lock()


def _hear_of_tokens(kwargs: Mapping[str, Any], audience: Audience | None) -> None:
    """Notify `audience`, while it is alive, of each new token of its provider."""
    provider = kwargs.get("credential_provider")
    if audience is None or not isinstance(provider, StreamingCredentialProvider):
        return
    with _rotating_lock:
        known = _rotating.get(provider)
        audiences = _rotating.setdefault(provider, WeakSet())
        audiences.add(audience)
    if known is None:
        provider.on_next(partial(_rotated, audiences))


def _rotated(audiences: WeakSet[Audience], _token: Any) -> None:
    with _rotating_lock:
        hearers = list(audiences)
    for one in hearers:
        one.rotated()


def _imported(path: str) -> Any:
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidOptions([f"credential_provider: cannot import it: {error}"]) from error


def _keepalive(given: Mapping[str, int] | None) -> dict[int, int]:
    found: dict[int, int] = {}
    for name, value in (_KEEPALIVE if given is None else given).items():
        number = int(name) if name.isdigit() else getattr(socket, name, None)
        if number is not None:
            found[number] = value
        elif given is not None:
            raise InvalidOptions([f"socket_keepalive_options: this system has no {name}"])
    return found


def _tls(settings: Mapping[str, Any]) -> dict[str, Any]:
    kwargs = dict(settings)
    if kwargs.get("ssl_min_version"):
        import ssl

        kwargs["ssl_min_version"] = ssl.TLSVersion[kwargs["ssl_min_version"].replace(".", "_")]
    return kwargs


@cache
def _parameters(callee: Callable[..., object]) -> set[str]:
    return set(inspect.signature(callee).parameters)


def _unintroduced(callee: Callable[..., object]) -> dict[str, Any]:
    """Switches off the CLIENT SETINFO pair that redis-py sends on every connect."""
    if "driver_info" in _parameters(callee):
        return {"driver_info": None}
    return {"lib_name": None, "lib_version": None}


# ── what is said on a fresh connection ────────────────────────────────────────────────────────


class _Hello:
    """redis-py's handshake, then the client's name by HELLO.

    Any user may run HELLO; CLIENT SETNAME, which redis-py would use, is refused to a user that may
    run little else than EVALSHA.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name

    def __call__(self, connection: AbstractConnection) -> None:
        connection.on_connect_check_health(check_health=False)
        if self.name:
            connection.send_command("HELLO", 3, "SETNAME", self.name, check_health=False)
            connection.read_response()


class _AsyncHello:
    """The asyncio twin of `_Hello`."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    async def connected(self, connection: aio_connection.AbstractConnection) -> None:
        await connection.on_connect_check_health(check_health=False)
        # redis-py says HELLO too, and drops the answer.
        naming = ("SETNAME", self.name) if self.name else ()
        await connection.send_command("HELLO", 3, *naming, check_health=False)
        untyped: Any = connection
        untyped.handshake_metadata = await connection.read_response()


if TYPE_CHECKING:

    class _UnixConnection(UnixDomainSocketConnection):
        """redis-py's class as it is: concrete, though its annotations call it abstract."""

        host: Any = None

        def __init__(self, path: str, **kwargs: Any) -> None: ...
        def _connect(self) -> socket.socket: ...

else:
    _UnixConnection = UnixDomainSocketConnection


class _AsyncUnixConnection(aio_connection.UnixDomainSocketConnection):
    async def on_connect(self) -> None:
        """Do nothing. redis-py calls this inside `_connect`, where a refused password would come
        out as a broken connection; `_AsyncHello` does the handshake.
        """


# ── the embedded server ───────────────────────────────────────────────────────────────────────


def _start(directory: str) -> str:
    """The socket of the directory's server, which is started if it does not run."""
    return str(start(directory).socket)


class _EmbeddedConnection(_UnixConnection):
    """A connection to the server of a directory, which is started whenever it does not answer."""

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(path="", **kwargs)
        self.directory = path

    def _connect(self) -> socket.socket:
        try:
            if self.path:
                check(self.directory)  # a password is sent next
                return super()._connect()
        except OSError:
            pass
        self.path = _start(self.directory)
        return super()._connect()


class _AsyncEmbeddedConnection(_AsyncUnixConnection):
    """The asyncio twin of `_EmbeddedConnection`. Starts in a thread, before it connects."""

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(path="", **kwargs)
        self.directory = path

    async def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        # Not in `_connect`: there redis-py would turn our error into a broken connection.
        if not self.is_connected:
            self.path = await asyncio.to_thread(_start, self.directory)
        await super().connect_check_health(*args, **kwargs)


# ── sentinels ─────────────────────────────────────────────────────────────────────────────────


@cache
def _master(address: Address, _pid: int) -> Master:
    """One for the process: its connections to the sentinels are shared, but not with a fork."""
    return Master(address, _sentinel_kwargs(address, Retry(NoBackoff(), 0)))


def replicas(address: Address) -> list[Place]:
    """The replicas of the master that living sentinels name; none if no sentinel says so."""
    return _master(address, os.getpid()).replicas()


def _found_by_threads(address: Address, audience: Audience | None) -> Master:
    master = _master(address, os.getpid())
    return master if audience is None else master.watched_by(audience)


def _found_by_tasks(master: AsyncMaster, audience: Audience | None) -> AsyncMaster:
    master.heard = _found_by_threads(master.address, audience)
    return master


def _sentinel_kwargs(address: Address, retry: object) -> dict[str, Any]:
    options = address.options
    # All of them may be silent, and a look-up is to end while there is patience left.
    patience = min(_SENTINEL_PATIENCE, max(0.1, options.retry_budget / len(address.nodes)))
    kwargs: dict[str, Any] = {
        name: min(patience, getattr(options, name) or patience)
        for name in ("socket_timeout", "socket_connect_timeout")
    }
    kwargs["retry"] = retry
    if address.sentinel_tls and address.tls:
        kwargs.update(ssl=True, **_tls(address.tls))
    return {**kwargs, **(options.sentinel_kwargs or {})}


class _SentinelConnection(SentinelManagedConnection):
    """A connection that asks for the master whenever it is made.

    redis-py's own does so in `connect()` only: when a lost connection is made again by sending a
    command, it would go to the old master. Nor does it notice by itself that it was lost.
    """

    def connect(self) -> None:
        self.connect_check_health(check_health=False)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        return super().read_response(*args, **{"disconnect_on_error": True, **kwargs})

    def _connect(self) -> socket.socket:
        self.host, self.port = self.connection_pool.get_master_address()
        untyped: Any = super()
        return cast(socket.socket, untyped._connect())


class _SentinelSSLConnection(_SentinelConnection, SentinelManagedSSLConnection):
    """The same over TLS."""


class _AsyncSentinelConnection(aio_sentinel.SentinelManagedConnection):
    """The asyncio twin of `_SentinelConnection`."""

    async def connect(self) -> None:
        await self.connect_check_health(check_health=False)

    async def _connect(self) -> None:
        self.host, self.port = await self.connection_pool.get_master_address()
        untyped: Any = super()
        await untyped._connect()


class _AsyncSentinelSSLConnection(
    _AsyncSentinelConnection, aio_sentinel.SentinelManagedSSLConnection
):
    """The same over TLS."""


# ── memory:// ─────────────────────────────────────────────────────────────────────────────────


@cache
def _memory(_name: str) -> tuple[Any, Any]:
    """The module fakeredis, and the one server of this name in this process."""
    try:
        import lupa  # noqa: F401, I001  (imported without it, fakeredis runs no scripts for ever)
        import fakeredis
    except ImportError as error:
        raise ImportError('memory:// needs fakeredis: pip install "atomq[memory]"') from error
    return fakeredis, fakeredis.FakeServer(version=(7, 4))
