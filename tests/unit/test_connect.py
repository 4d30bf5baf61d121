"""Connections of every kind, to real servers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
import redis

from atomq import embedded, wires
from atomq.address import Address
from atomq.connect import async_connector, connector
from atomq.conversation import PUSHED, Conversation, packed
from atomq.errors import EmbeddedServerError, InvalidOptions
from tests.servers import (
    NotAvailable,
    Sentinel,
    Server,
    find_binary,
    tls_options,
    wait_until,
)

ODD = "p@ss/w#r?d:;é %"


Connect = Callable[..., "_Sync | _Async"]


class _Sync:
    """Drives the sync connections of an address."""

    def __init__(self, address: Address) -> None:
        self.connection = connector(address)()

    def __call__(self, *command: object) -> Any:
        self.connection.send_command(*command)
        return self.connection.read_response()

    def connect(self) -> None:
        self.connection.connect()

    def close(self) -> None:
        self.connection.disconnect()


class _Async:
    """Drives the asyncio connections of an address, in a loop of its own."""

    def __init__(self, address: Address) -> None:
        self.loop = asyncio.new_event_loop()
        self.connection = async_connector(address)()

    def __call__(self, *command: object) -> Any:
        return self.loop.run_until_complete(self._run(*command))

    def connect(self) -> None:
        self.loop.run_until_complete(self.connection.connect())

    async def _run(self, *command: object) -> Any:
        await self.connection.send_command(*command)
        return await self.connection.read_response()

    def close(self) -> None:
        self.loop.run_until_complete(self.connection.disconnect())
        self.loop.close()


@pytest.fixture(params=[_Sync, _Async], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes a connection; what it returns runs one command."""
    made: list[_Sync | _Async] = []

    def connect(url: str, **options: Any) -> _Sync | _Async:
        run: _Sync | _Async = request.param(Address.parse(url, **options))
        made.append(run)
        return run

    yield connect
    for run in made:
        run.close()


def urls(server: Server) -> list[str]:
    return [server.url, server.tcp_url]


# ── one server ────────────────────────────────────────────────────────────────────────────────


def test_a_connection_speaks_resp3_in_the_database_and_does_not_decode(
    server: Server, connect: Connect
) -> None:
    for url in urls(server):
        run = connect(url.removesuffix("0") + "3")
        assert run("SET", "k", b"\xff") == b"OK"
        assert run("GET", "k") == b"\xff"
        assert run("HELLO")[b"proto"] == 3
        assert server.client(db=3).get("k") == b"\xff"


def test_connecting_says_hello_and_selects_and_nothing_else(
    server: Server, connect: Connect
) -> None:
    admin = server.client()
    for url in urls(server):
        run = connect(url.removesuffix("0") + "3")
        admin.config_resetstat()
        run("ECHO", "x")
        calls = {name: stat["calls"] for name, stat in admin.info("commandstats").items()}
        ours = {n: c for n, c in calls.items() if "config" not in n and "info" not in n}
        assert ours == {"cmdstat_hello": 2, "cmdstat_select": 1, "cmdstat_echo": 1}


def test_a_user_who_may_run_little_else_than_evalsha_can_connect(
    server: Server, connect: Connect
) -> None:
    admin = server.client()
    admin.execute_command("ACL SETUSER", "worker", "on", f">{ODD}", "~*", "+evalsha")
    sha = str(admin.script_load("return 'ran'"))
    for url in urls(server):
        named = url.replace("://", f"://worker:{quote(ODD, safe='')}@")
        for run in (connect(named), connect(url, username="worker", password=ODD)):
            assert run("EVALSHA", sha, 0) == b"ran"
            (client,) = [c for c in admin.client_list() if c["name"] == "atomq"]
            assert client["id"]
            admin.execute_command("CLIENT", "KILL", "ID", client["id"])


def test_a_refused_password_is_no_lost_connection(server: Server, connect: Connect) -> None:
    server.client().execute_command("ACL SETUSER", "worker", "on", ">right", "~*", "+@all")
    for url in urls(server):
        with pytest.raises(redis.AuthenticationError):
            connect(url, username="worker", password="wrong")("PING")


def test_a_connection_without_a_name(server: Server, connect: Connect) -> None:
    assert connect(server.url, client_name=None)("CLIENT", "GETNAME") is None
    assert connect(server.url, client_name="w1")("CLIENT", "GETNAME") == b"w1"


class _Provider(redis.CredentialProvider):
    def get_credentials(self) -> tuple[str, str]:
        return "worker", ODD


@pytest.mark.parametrize("by_path", [False, True])
def test_credentials_come_from_the_provider(
    server: Server, connect: Connect, by_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "credentials_of_test", sys.modules[__name__])
    server.client().execute_command("ACL SETUSER", "worker", "on", f">{ODD}", "~*", "+@all")
    provider = "credentials_of_test._Provider" if by_path else _Provider()
    run = connect(server.url, credential_provider=provider)
    assert run("ACL", "WHOAMI") == b"worker"


@pytest.mark.parametrize("path", ["nonsense", "no.such.module.Class", "socket.socket", "os.sep"])
def test_a_provider_that_cannot_be_had_is_named(path: str) -> None:
    with pytest.raises((InvalidOptions, TypeError), match=r"credential_provider|str"):
        connector(Address.parse("redis://", credential_provider=path))


def test_nothing_is_tried_twice(connect: Connect) -> None:
    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                accepted.append(peer)
                peer.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(redis.ConnectionError):
            connect(f"redis://127.0.0.1:{listener.getsockname()[1]}").connect()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(accepted) == 1


def test_a_silent_server_is_given_up_after_the_socket_timeout(
    own_server: Server, connect: Connect
) -> None:
    run = connect(own_server.tcp_url, socket_timeout=0.2)
    run("PING")
    own_server.pause()
    try:
        with pytest.raises(redis.TimeoutError):
            run("PING")
    finally:
        own_server.resume()


def test_keepalive_is_set_and_can_be_left_off(server: Server) -> None:
    def settings(**options: Any) -> tuple[int, int]:
        run = _Sync(Address.parse(server.tcp_url, **options))
        run("PING")
        sock: Any = run.connection._sock
        on = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        run.close()
        return on, idle

    assert settings() == (1, 30)
    given = {socket.TCP_KEEPIDLE: 77}
    assert settings(socket_keepalive_options=given) == (1, 77)
    assert settings(socket_keepalive=False)[0] == 0


def test_a_keepalive_setting_this_system_lacks_is_named() -> None:
    given = {"TCP_NO_SUCH_THING": 1}
    with pytest.raises(InvalidOptions, match=r"socket_keepalive_options: .*TCP_NO_SUCH_THING"):
        connector(Address.parse("redis://", socket_keepalive_options=given))


# ── sentinels ─────────────────────────────────────────────────────────────────────────────────


def sentinel_url(sentinel: Sentinel) -> str:
    return f"sentinel://nobody.invalid;sentinel://127.0.0.1:{sentinel.port}"


@pytest.mark.slow
def test_a_lost_connection_is_made_again_to_the_new_master(
    sentinel: Sentinel, connect: Connect
) -> None:
    run = connect(f"{sentinel_url(sentinel)}?db=2", master_name=sentinel.master_name)
    assert run("SET", "k", "v") == b"OK"
    assert sentinel.master.client(db=2).get("k") == b"v"
    wait_until("the replica to have it", lambda: sentinel.replica.client(db=2).get("k"))
    sentinel.fail_over()
    with pytest.raises(redis.ConnectionError):
        run("GET", "k")
    assert run("GET", "k") == b"v"
    assert run("ROLE")[0] == b"master"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_connections_of_a_process_share_their_sentinels(sentinel: Sentinel) -> None:
    assert sentinel.sentinel is not None
    admin = sentinel.sentinel.client()
    before = len(admin.client_list())
    address = Address.parse(sentinel_url(sentinel), master_name=sentinel.master_name)
    runs = [_Sync(address) for _ in range(3)]
    for run in runs:
        run("PING")
    assert len(admin.client_list()) == before + 1
    for run in runs:
        run.close()


def test_no_master_is_said_without_the_sentinels_password(connect: Connect) -> None:
    run = connect(
        "sentinel://127.0.0.1:1", master_name="nobody", sentinel_kwargs={"password": "hunter2"}
    )
    with pytest.raises(redis.ConnectionError, match=r"no sentinel of .*'nobody'") as caught:
        run("PING")
    assert "hunter2" not in str(caught.value)


def test_a_sentinel_that_sees_too_few_others_is_not_believed(
    sentinel: Sentinel, connect: Connect
) -> None:
    run = connect(sentinel.url, master_name=sentinel.master_name, min_other_sentinels=0)
    assert run("PING") == b"PONG"
    run = connect(sentinel.url, master_name=sentinel.master_name, min_other_sentinels=1)
    with pytest.raises(redis.ConnectionError, match="no sentinel"):
        run("PING")


def test_sentinels_have_settings_of_their_own(sentinel: Sentinel, connect: Connect) -> None:
    assert sentinel.sentinel is not None
    admin = sentinel.sentinel.client()
    admin.execute_command("ACL SETUSER", "asker", "on", f">{ODD}", "+@all", "&*")
    admin.execute_command("ACL SETUSER", "default", "resetpass", "on", ">other")
    name = sentinel.master_name
    with pytest.raises(redis.ConnectionError, match="no sentinel"):
        connect(sentinel.url, master_name=name)("PING")
    kwargs = {"username": "asker", "password": ODD}
    assert connect(sentinel.url, master_name=name, sentinel_kwargs=kwargs)("PING") == b"PONG"


# ── cluster ───────────────────────────────────────────────────────────────────────────────────


def test_cluster_and_single_server_are_not_confused() -> None:
    for make in (connector, async_connector):
        with pytest.raises(TypeError, match="is a cluster"):
            make(Address.parse("redis+cluster://h"))


# ── embedded ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    try:
        embedded.find_binary()
    except EmbeddedServerError as reason:
        pytest.skip(str(reason))
    yield tmp_path / "embedded"
    embedded.stop(tmp_path / "embedded")


def test_the_embedded_server_is_started_and_started_again(
    directory: Path, connect: Connect
) -> None:
    run = connect(f"embedded://{directory}?db=1")
    assert run("SET", "k", "v") == b"OK"
    server = embedded.status(directory)
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_until("the server to be gone", lambda: embedded.status(directory) is None)
    with pytest.raises(redis.ConnectionError):
        run("GET", "k")
    assert run("PING") == b"PONG"


def test_an_embedded_server_that_cannot_start_says_so(tmp_path: Path, connect: Connect) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedServerError):
        connect(f"embedded://{tmp_path}/file")("PING")


# ── memory ────────────────────────────────────────────────────────────────────────────────────


def test_memory_is_shared_by_name_in_the_process(connect: Connect) -> None:
    one, same, other = (connect(url) for url in ("memory://a/1", "memory://a/1", "memory://b/1"))
    one("SET", "k", "v")
    assert same("GET", "k") == b"v"
    assert other("GET", "k") is None
    assert same("EVAL", "return redis.call('GET', KEYS[1])", 1, "k") == b"v"
    assert _Sync(Address.parse("memory://a/1"))("GET", "k") == b"v"
    one("FLUSHALL")


@pytest.mark.parametrize("missing", ["fakeredis", "lupa"])
def test_memory_without_its_extra_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'pip install "atomq\[memory\]"'):
        connector(Address.parse(f"memory://without-{missing}"))


# ── TLS ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """The directory with ca.crt and the port of a server whose certificate is for `localhost`."""
    try:
        find_binary("redis-7")
    except NotAvailable as reason:
        pytest.skip(f"of the servers here only Debian's speaks TLS: {reason}")
    home = tmp_path_factory.mktemp("tls")
    options, port = tls_options(home, "localhost")
    with Server("redis-7", options=options):
        yield home, port


@pytest.mark.parametrize("scheme", ["rediss", "atomqs"])
def test_a_trusted_certificate_for_the_right_host_is_accepted(
    tls_server: tuple[Path, int], connect: Connect, scheme: str
) -> None:
    home, port = tls_server
    run = connect(f"{scheme}://localhost:{port}/1?ssl_ca_certs={home}/ca.crt")
    assert run("PING") == b"PONG"
    run = connect(f"redis://localhost:{port}", ssl={"ssl_ca_certs": f"{home}/ca.crt"})
    assert run("PING") == b"PONG"


def test_an_unknown_certificate_is_refused_unless_told_otherwise(
    tls_server: tuple[Path, int], connect: Connect
) -> None:
    _, port = tls_server
    with pytest.raises(redis.ConnectionError, match=r"(?i)certificate"):
        connect(f"rediss://localhost:{port}")("PING")
    assert connect(f"rediss://localhost:{port}?ssl_cert_reqs=none")("PING") == b"PONG"


def test_a_certificate_for_another_host_is_refused_unless_told_otherwise(
    tls_server: tuple[Path, int], connect: Connect
) -> None:
    home, port = tls_server
    url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={home}/ca.crt"
    with pytest.raises(redis.ConnectionError, match=r"(?i)certificate"):
        connect(url)("PING")
    assert connect(f"{url}&ssl_check_hostname=false")("PING") == b"PONG"


# ── wires: taken out of redis-py's hands ──────────────────────────────────────────────────────


class _Taken:
    """Drives a wire and a conversation over it."""

    def __init__(self, address: Address) -> None:
        connection = connector(address)()
        connection.connect()
        self.wire = wires.taken(connection)
        self.talk = Conversation()
        self.talk.feed(self.wire.read_before)

    def send(self, data: bytes) -> None:
        self.wire.send(data)

    def answers(self, many: int) -> list[tuple[Any, Any]]:
        found: list[tuple[Any, Any]] = []
        while len(found) < many:
            assert self.wire.readable(5)
            found += self.talk.feed(self.wire.receive())
        return found

    def close(self) -> None:
        self.wire.close()


class _TakenAsync:
    """The same in an event loop."""

    def __init__(self, address: Address) -> None:
        self.loop = asyncio.new_event_loop()
        self.talk, self.found = Conversation(), list[tuple[Any, Any]]()
        self.lost: list[Exception] = []
        self.came = asyncio.Event()
        self.loop.run_until_complete(self._open(address))

    async def _open(self, address: Address) -> None:
        connection = async_connector(address)()
        await connection.connect()
        self.wire = wires.taken_async(connection, self._received, self._lost)

    def _received(self, data: Any) -> None:
        self.found += self.talk.feed(data)
        self.came.set()

    def _lost(self, error: Exception) -> None:
        self.lost.append(error)
        self.came.set()

    def send(self, data: bytes) -> None:
        async def write() -> None:
            self.wire.write(data)
            await self.wire.flushed()

        self.loop.run_until_complete(write())

    def answers(self, many: int) -> list[tuple[Any, Any]]:
        async def come() -> None:
            async with asyncio.timeout(5):
                while len(self.found) < many and not self.lost:
                    self.came.clear()
                    await self.came.wait()

        self.loop.run_until_complete(come())
        if self.lost:
            raise self.lost[0]
        found, self.found = self.found, []
        return found

    def close(self) -> None:
        async def leave() -> None:
            self.wire.close()
            await asyncio.sleep(0)

        self.loop.run_until_complete(leave())
        self.loop.close()


@pytest.fixture(params=[_Taken, _TakenAsync], ids=["sync", "async"])
def take(request: pytest.FixtureRequest) -> Iterator[Callable[[str], _Taken | _TakenAsync]]:
    """Opens a connection and takes its socket out."""
    made: list[_Taken | _TakenAsync] = []

    def take(url: str) -> _Taken | _TakenAsync:
        found: _Taken | _TakenAsync = request.param(Address.parse(url))
        made.append(found)
        return found

    yield take
    for one in made:
        one.close()


def talk_over(line: _Taken | _TakenAsync) -> None:
    """Several commands in one go, one of them large, one refused, one that a push answers."""
    talk, large = line.talk, b"x" * 3_000_000
    line.send(
        talk.say(("SET", "k", large), 1) + talk.say(("GET", "k"), 2) + talk.say(("LPOP", "k"), 3)
    )
    (one, two, three) = line.answers(3)
    assert (one, two[0], len(two[1]), three[0]) == ((1, b"OK"), 2, len(large), 3)
    assert isinstance(three[1], redis.ResponseError)
    assert isinstance(line.wire.hello[b"id"], int)
    line.send(talk.subscribe("SUBSCRIBE", ["c", "d"], 4))
    ((four, confirmed),) = line.answers(1)
    assert (four, confirmed) == (4, [b"subscribe", b"d", 2])


def test_a_conversation_over_a_wire(
    server: Server, take: Callable[[str], _Taken | _TakenAsync]
) -> None:
    for url in urls(server):
        line = take(url)
        talk_over(line)
        server.client().publish("d", "hello")
        assert line.answers(1) == [(PUSHED, [b"message", b"d", b"hello"])]
        server.client().client_kill_filter(_id=str(line.wire.hello[b"id"]))
        with pytest.raises(redis.ConnectionError, match=r"(?i)clos|reset"):
            line.answers(1)


def test_a_conversation_over_a_wire_of_memory(
    take: Callable[[str], _Taken | _TakenAsync], request: pytest.FixtureRequest
) -> None:
    line = take(f"memory://{request.node.name}")
    talk = line.talk
    line.send(talk.say(("SET", "k", "v"), 1) + talk.say(("LPOP", "k"), 2))
    (one, (two, refused)) = line.answers(2)
    assert (one[0], two, type(refused)) == (1, 2, redis.ResponseError)
    line.send(talk.subscribe("SUBSCRIBE", ["c", "d"], 3))
    assert line.answers(1) == [(3, [b"subscribe", b"d", 2])]
    assert line.wire.fileno() == -1


def test_a_conversation_over_a_wire_with_tls(
    tls_server: tuple[Path, int], take: Callable[[str], _Taken | _TakenAsync]
) -> None:
    home, port = tls_server
    talk_over(take(f"rediss://localhost:{port}?ssl_ca_certs={home}/ca.crt"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Python counts the time")
def test_the_kernel_ends_what_takes_longer_than_the_socket_timeout(own_server: Server) -> None:
    """Python would poll before each read and each write, giving its lock away each time."""
    wire = _Taken(Address.parse(own_server.url, socket_timeout=0.2)).wire
    assert isinstance(wire, wires.Wire)
    assert wire._socket.gettimeout() is None
    own_server.pause()
    try:
        wire.send(packed(("PING",)))
        with pytest.raises(redis.TimeoutError, match="reading"):
            wire.receive()
        with pytest.raises(redis.TimeoutError, match="writing"):
            wire.send(b"x" * 10_000_000)
    finally:
        own_server.resume()
        wire.close()


def test_a_wire_that_is_dropped_is_closed(
    server: Server, take: Callable[[str], _Taken | _TakenAsync]
) -> None:
    line, admin = take(server.url), server.client()
    name = str(line.wire.hello[b"id"])
    assert admin.client_list(client_id=[name])

    async def drop() -> None:
        line.wire = take_none
        await asyncio.sleep(0)

    take_none: Any = wires.MemoryWire(SimpleNamespace(handshake_metadata={}, disconnect=int))
    if isinstance(line, _TakenAsync):
        line.loop.run_until_complete(drop())
    else:
        asyncio.run(drop())
    wait_until("it is closed", lambda: not admin.client_list(client_id=[name]))
