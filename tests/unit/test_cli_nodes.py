"""What commands learn of the servers behind an address, from answers that are played."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as server

from atomq import client, connect
from atomq.address import Address
from atomq.cli.nodes import Place, Unreached, place_of, places, replicas, words
from atomq.errors import PermissionDenied, ServerError, ServerUnavailable

HELLO = [b"server", b"valkey", b"version", b"9.1.0", b"mode", b"standalone", b"role", b"master"]


class Node:
    """Answers as it is given, by command."""

    def __init__(self, name: str = "named:1", **answers: Any) -> None:
        self.name = name
        self.answers: dict[str, Any] = {"HELLO": HELLO, **answers}
        self.asked: list[Any] = []

    def command(self, name: str, *args: Any) -> Any:
        self.asked.append((name, *args))
        answer = self.answers[name.split(maxsplit=1)[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer


def engine(*nodes: Node, url: str = "redis://host:7", **options: Any) -> Any:
    address = Address.parse(url, **options)
    return SimpleNamespace(address=address, reached=address, nodes=lambda: list(nodes))


# ── one server ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("hello", "replica", "in_cluster"),
    [
        (HELLO, False, False),
        ({b"server": b"valkey", b"version": b"9.1.0", b"mode": b"cluster"}, False, True),
        ([*HELLO[:6], b"role", b"slave"], True, False),
        ([*HELLO[:6], b"role", b"replica"], True, False),
    ],
)
def test_a_server_says_what_it_is(hello: Any, replica: bool, in_cluster: bool) -> None:
    (found,) = places(engine(Node(HELLO=hello)))
    assert (found.name, found.server, found.version) == ("host:7", "valkey", "9.1.0")
    assert (found.replica, found.in_cluster) == (replica, in_cluster)


def test_one_that_says_nothing_is_a_redis_of_no_version() -> None:
    node = Node(HELLO=[])
    assert (place_of(engine(node), node).server, place_of(engine(node), node).version) == (
        "redis",
        "?",
    )


def test_each_node_of_a_cluster_has_its_own_name() -> None:
    one, other = Node("a:1"), Node("b:2")
    found = places(engine(one, other, url="redis+cluster://a:1"))
    assert [place.name for place in found] == ["a:1", "b:2"]


def test_a_server_without_host_and_port_is_named_by_its_address() -> None:
    (found,) = places(engine(Node(), url="unix:///run/redis.sock"))
    assert found.name.startswith("unix:///run/redis.sock")


class Connection:
    """To the master of this moment."""

    def __init__(self, error: Exception | None = None) -> None:
        self.host, self.port, self.error = "", 0, error
        self.did: list[str] = []

    def connect(self) -> None:
        if self.error is not None:
            raise self.error
        self.host, self.port = "master", 9

    def disconnect(self) -> None:
        self.did.append("disconnected")


def test_behind_sentinels_it_is_the_master_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Connection()
    monkeypatch.setattr(connect, "connector", lambda _: lambda: given)
    one = engine(Node(), url="sentinel://s:1", master_name="mymaster")
    assert places(one)[0].name == "master:9"
    given = Connection(server.ConnectionError("gone"))
    with pytest.raises(ServerUnavailable):
        places(one)
    assert given.did == ["disconnected"]


# ── what it answers ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ({b"a": b"1", "b": 2}, {"a": "1", "b": "2"}),
        ([b"a", b"1", b"b", 2], {"a": "1", "b": "2"}),
        ([b"a", b"1", b"odd"], {"a": "1"}),
        ([], {}),
        (b"# Section\r\na:1 \r\n\r\nb:h:2\r\nnothing\r\n", {"a": "1", "b": "h:2"}),
        ({"slave0": {"ip": "h", "port": 1}}, {"slave0": "ip=h,port=1"}),
        ({"a": b"\xff"}, {"a": "�"}),
    ],
)
def test_words_are_read_whatever_the_protocol(reply: Any, found: dict[str, str]) -> None:
    assert words(reply) == found


def test_settings_and_sections_are_asked_for_by_name() -> None:
    node = Node(INFO=b"role:master\r\n", CONFIG=[b"maxmemory", b"5"])
    place: Any = Place("h:1", node, "valkey", "9", replica=False, in_cluster=False)  # type: ignore[arg-type]
    assert place.info("replication") == {"role": "master"}
    assert (place.config("maxmemory"), place.config("other")) == ("5", None)
    assert node.asked[0] == ("INFO", "replication")
    assert node.asked[1] == ("CONFIG GET", "maxmemory")


# ── replicas ──────────────────────────────────────────────────────────────────────────────────


class Opened:
    """An engine to one replica."""

    made: list[Any]

    def __init__(self, address: Address) -> None:
        self.address = address
        self.made.append(self)
        self.is_open = True

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False

    def nodes(self) -> list[Node]:
        if self.address.port == 6:
            raise ServerUnavailable("nothing there")
        return [Node(HELLO=[*HELLO[:6], b"role", b"slave"])]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []
    monkeypatch.setattr(client, "Engine", type("Opened", (Opened,), {"made": made}))
    return made


def primary(info: Any) -> Any:
    return Place("host:7", Node(INFO=info), "valkey", "9", replica=False, in_cluster=False)  # type: ignore[arg-type]


REPLICATION = (
    b"role:master\r\nconnected_slaves:2\r\nslave_read_repl_offset:9\r\n"
    b"slave0:ip=a,port=5,state=online,odd,more=a=b\r\nslave12:ip=b,port=6\r\n"
)


def test_the_replicas_of_a_server_are_those_it_names(opened: list[Any]) -> None:
    found = list(replicas(engine(socket_connect_timeout=9.0), primary(REPLICATION)))
    assert [each.name for each in found] == ["a:5", "b:6"]
    assert isinstance(found[0], Place)
    assert found[0].replica
    assert found[1] == Unreached("b:6", "nothing there")
    assert [one.is_open for one in opened] == [False, False]


@pytest.mark.parametrize(("given", "within"), [(9.0, 2.0), (0.5, 0.5), (None, 2.0)])
def test_a_replica_is_not_waited_for_long(
    opened: list[Any], given: float | None, within: float
) -> None:
    list(replicas(engine(socket_connect_timeout=given), primary(REPLICATION)))
    assert [one.address.options.socket_connect_timeout for one in opened] == [within] * 2


def test_a_replica_without_an_address_is_not_reached(opened: list[Any]) -> None:
    list(replicas(engine(), primary(b"slave0:port=\r\n")))
    assert [(one.address.host, one.address.port) for one in opened] == [("", 0)]


@pytest.mark.parametrize("error", [PermissionDenied("no"), ServerError("INFO?")])
def test_where_this_user_may_not_ask_there_is_none(opened: list[Any], error: Exception) -> None:
    assert list(replicas(engine(), primary(error))) == []
