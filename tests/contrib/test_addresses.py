"""Whatever a connection can be told, wherever it can be said: as stock Kombu reads it.

Each thing (user, password, port, virtual host, TLS) × each scheme × each place where it can be said
(the URL, its query, an argument, Celery's settings, a transport option), by way of the connection
itself, of its clones and of the URL that it fails over to. Where atomq differs, the table says why,
and so does docs/celery.md.
"""

from __future__ import annotations

import pickle
import ssl
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from celery import Celery
from kombu import Connection
from kombu.transport import redis as kombu_redis

from atomq.contrib.kombu.settings import Settings, UnknownOption
from tests.contrib.rig import taken_over
from tests.servers import ROOT

# ── two readings of one connection ────────────────────────────────────────────────────────────


class Where(NamedTuple):
    """Where a connection leads, and as whom."""

    place: str
    db: int
    user: str | None
    password: str | None
    tls: str | None
    """How the certificate is checked; None: no TLS."""


def stock(connection: Connection) -> Where:
    """As Kombu's own transport reads it, without connecting."""
    behind_sentinel = connection.transport_cls == "sentinel"
    kind = kombu_redis.SentinelChannel if behind_sentinel else kombu_redis.Channel
    channel = kind.__new__(kind)
    default_port = 26379 if behind_sentinel else 6379
    channel.connection = SimpleNamespace(client=connection, default_port=default_port)
    for name in kind.from_transport_options:
        if name in connection.transport_options:
            setattr(channel, name, connection.transport_options[name])
    found = channel._connparams()
    place = found.get("path") or f"{found['host']}:{found['port']}"
    if behind_sentinel and connection.alt:
        urls = map(kombu_redis._parse_url, connection.alt)
        place = " ".join(f"{url.hostname}:{url.port or default_port}" for url in urls)
    tls = None
    if "SSL" in found["connection_class"].__name__:
        tls = {ssl.CERT_NONE: "none", ssl.CERT_REQUIRED: "required", None: "none"}.get(
            found.get("ssl_cert_reqs", "required"), found.get("ssl_cert_reqs", "required")
        )
    return Where(place, found["db"], found.get("username"), found.get("password"), tls)


def ours(connection: Connection) -> Where:
    """As we read it."""
    address = Settings.of(connection).address
    hosts = " ".join(f"{node.host}:{node.port}" for node in address.nodes)
    place = (address.path or hosts).replace("localhost:", "127.0.0.1:")
    tls = address.tls["ssl_cert_reqs"] if address.tls else None
    return Where(place, address.db, address.username, address.password, tls)


def by_us(make: Callable[[], Connection]) -> Where:
    """Our reading of a connection, taken over where its scheme is stock's."""
    with taken_over(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownOption)
        return ours(make())


# ── the table ─────────────────────────────────────────────────────────────────────────────────

# What is said, by place: `@` is the URL's user, `:7` a port, `/3` a path, `?…` the query, and the
# rest are arguments of Connection, of which Celery has settings of its own.
SAID: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "user and password in the URL": ({"login": "u:p%40@"}, {}),
    "password in the URL": ({"login": ":p@"}, {}),
    "user in the URL, password as an argument": ({"login": "u@"}, {"password": "p"}),
    "password in the URL and as an argument": ({"login": ":p@"}, {"password": "other"}),
    "user and password as arguments": ({}, {"userid": "u", "password": "p@/:"}),
    "password as an argument": ({}, {"password": "p"}),
    "port in the URL": ({"port": ":7001"}, {}),
    "port as an argument": ({}, {"port": 7001}),
    "port in the URL and as an argument": ({"port": ":7001"}, {"port": 7002}),
    "virtual host in the URL": ({"path": "3"}, {}),
    "virtual host as an argument": ({}, {"virtual_host": "7"}),
    "virtual host as a number": ({}, {"virtual_host": 7}),
    "virtual host with a slash": ({}, {"virtual_host": "/7"}),
    "virtual host in the URL and as an argument": ({"path": "3"}, {"virtual_host": "7"}),
    "virtual host 0 in the URL and an argument": ({"path": "0"}, {"virtual_host": "7"}),
    "virtual host as a transport option": ({}, {"transport_options": {"virtual_host": 7}}),
    "database as a transport option": ({}, {"transport_options": {"db": 7}}),
    "everything as arguments": (
        {},
        {"userid": "u", "password": "p", "port": 7001, "virtual_host": "7"},
    ),
    "TLS with a certificate to check": ({}, {"ssl": {"ssl_ca_certs": "/ca.pem"}}),
    "TLS, required": ({}, {"ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED}}),
    "TLS, CERT_NONE": ({}, {"ssl": {"ssl_cert_reqs": ssl.CERT_NONE}}),
    "TLS, None": ({}, {"ssl": {"ssl_cert_reqs": None}}),
    "TLS, 0": ({}, {"ssl": {"ssl_cert_reqs": 0}}),
    "TLS, none": ({}, {"ssl": {"ssl_cert_reqs": "none"}}),
    "TLS, nothing more": ({}, {"ssl": {}}),
    "TLS, in the query": ({"query": "ssl_cert_reqs=none"}, {}),
    "TLS, required in the query": ({"query": "ssl_cert_reqs=required"}, {}),
}

SCHEMES = {
    "redis": ("redis", "atomq", "valkey"),
    "rediss": ("rediss", "atomqs", "valkeys"),
    "redis+socket": ("redis+socket", "atomq+socket", "valkey+socket"),
    "sentinel": ("sentinel", "atomq-sentinel"),
}
MASTER = {"master_name": "m"}


def url(scheme: str, parts: dict[str, str], host: str = "h") -> str:
    login, port, path = (parts.get(part, "") for part in ("login", "port", "path"))
    query = parts.get("query", "")
    if scheme.endswith("+socket"):
        query = "&".join(filter(None, (f"virtual_host={path}" if path else "", query)))
        return f"{scheme}://{login}/run/{host}.sock" + (f"?{query}" if query else "")
    return f"{scheme}://{login}{host}{port}/{path}" + (f"?{query}" if query else "")


def made(scheme: str, said: str, more_hosts: str = "") -> Connection:
    parts, arguments = SAID[said]
    urls = [url(scheme, parts), *(url(scheme, parts, host) for host in more_hosts)]
    options = {**MASTER, **arguments.get("transport_options", {})}
    rest = {name: value for name, value in arguments.items() if name != "transport_options"}
    return Connection(";".join(urls), transport_options=options, **rest)


SETTINGS = {
    "userid": "broker_user",
    "password": "broker_password",
    "port": "broker_port",
    "virtual_host": "broker_vhost",
    "ssl": "broker_use_ssl",
}


def by_settings(scheme: str, said: str) -> Connection:
    """The same, said in Celery's settings."""
    parts, arguments = SAID[said]
    app = Celery("x", broker=url(scheme, parts), set_as_current=False)
    app.conf.broker_transport_options = {**MASTER, **arguments.get("transport_options", {})}
    for name, value in arguments.items():
        if name in SETTINGS:
            setattr(app.conf, SETTINGS[name], value)
    return app.connection_for_write()


def _pooled(connection: Connection) -> Connection:
    with connection.Pool(1) as pool:
        return pool.acquire().clone()


WAYS: dict[str, Callable[[Connection], Connection]] = {
    "itself": lambda connection: connection,
    "its clone": lambda connection: connection.clone(),
    "a clone of its clone": lambda connection: connection.clone().clone(),
    "of its pool": lambda connection: connection.Pool(1).new(),
    "unpickled": lambda connection: pickle.loads(pickle.dumps(connection)),
}

# ── where we differ, and why ──────────────────────────────────────────────────────────────────


def expected(family: str, scheme: str, said: str, theirs: Where) -> Where:
    """What we make of what stock makes of it. Each difference is listed in docs/celery.md."""
    parts, arguments = SAID[said]
    # Stock checks no certificate of a bare rediss://.
    if family == "rediss" and not arguments.get("ssl") and "ssl" not in parts.get("query", ""):
        theirs = theirs._replace(tls="required")
    # Stock drops user and password that stand beside the URL of a socket.
    if family == "redis+socket":
        user, password = arguments.get("userid"), arguments.get("password")
        theirs = theirs._replace(user=theirs.user or user, password=theirs.password or password)
    # Stock ignores a database among the transport options; so do we with its own schemes.
    if "transport option" in said and scheme != family:
        theirs = theirs._replace(db=7)
    # Stock forgets the user and password that stand beside a list of Sentinels.
    return theirs


CASES = [
    pytest.param(family, scheme, said, id=f"{scheme}-{said}")
    for family, schemes in SCHEMES.items()
    for scheme in schemes
    for said in SAID
    if not (family == "redis+socket" and ("TLS" in said or "port" in said))
]


@pytest.mark.parametrize(("family", "scheme", "said"), CASES)
def test_everything_said_counts_as_in_stock(family: str, scheme: str, said: str) -> None:
    theirs = expected(family, scheme, said, stock(made(family, said)))
    for way, through in WAYS.items():
        found = by_us(lambda through=through: through(made(scheme, said)))  # type: ignore[misc]
        assert found == theirs, way
    assert by_us(lambda: by_settings(scheme, said)) == theirs, "Celery's settings"


# ── failing over to the next URL ──────────────────────────────────────────────────────────────


def switched(connection: Connection) -> Connection:
    connection.maybe_switch_next()
    return connection


@pytest.mark.parametrize(
    ("family", "scheme", "said"),
    [case for case in CASES if case.values[0] != "redis+socket"],  # to which stock cannot fail over
)
def test_the_next_url_is_read_as_in_stock(family: str, scheme: str, said: str) -> None:
    theirs = expected(family, scheme, said, stock(switched(made(family, said, "i"))))
    if family == "sentinel":  # stock forgets what stands beside the list, or in its first URL
        at_first = stock(made(family, said, "i"))
        theirs = theirs._replace(user=at_first.user, password=at_first.password)
    for way, through in WAYS.items():
        found = by_us(lambda way=through: switched(way(made(scheme, said, "i"))))  # type: ignore[misc]
        assert found == theirs, f"{way}, then the next URL"
        found = by_us(lambda way=through: way(switched(made(scheme, said, "i"))))  # type: ignore[misc]
        assert found == theirs, f"the next URL, then {way}"


@pytest.mark.parametrize("scheme", SCHEMES["redis+socket"])
def test_failing_over_to_a_socket_and_back(scheme: str) -> None:
    """Stock raises a KeyError: Kombu's own switch knows no scheme with a `+`."""
    plain = scheme.removesuffix("+socket")
    for way, through in WAYS.items():

        def turns(count: int, way: Callable[[Connection], Connection] = through) -> Connection:
            urls = f"{scheme}:///run/a.sock;{scheme}:///run/b%20b.sock;{plain}://h:7001/3"
            connection = Connection(urls, virtual_host="7")
            for _ in range(count):
                ours(connection)  # as every try to connect does
                switched(connection)
            return way(connection)

        places = [by_us(lambda count=count: turns(count)) for count in range(4)]  # type: ignore[misc]
        assert [place[:2] for place in places] == [
            ("/run/a.sock", 7),
            ("/run/b b.sock", 7),
            ("h:7001", 3),
            ("/run/a.sock", 7),
        ], way


def test_one_url_that_is_unchecked_says_nothing_of_the_next() -> None:
    for urls, checks in (
        ("rediss://a;rediss://b?ssl_cert_reqs=none", ["required", "none", "required"]),
        ("rediss://a;redis://b", ["required", None, "required"]),
    ):
        for way, through in WAYS.items():

            def turns(count: int, way: Callable[[Connection], Connection] = through) -> Connection:
                connection = way(Connection(urls))  # noqa: B023 - called in this turn
                for _ in range(count):
                    ours(connection)
                    switched(connection)
                return way(connection)

            found = [by_us(lambda count=count: turns(count)).tls for count in range(3)]  # type: ignore[misc]
            assert found == checks, way


# ── and what is said to no avail ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["db", "virtual_host"])
def test_a_database_that_stock_does_not_see_is_a_warning(name: str) -> None:
    with taken_over(), pytest.warns(UnknownOption, match=f"^{name}: .* put it in the URL"):
        assert ours(Connection("redis://h", transport_options={name: 7})).db == 0
    socket = "redis+socket:///s?db=7&lease=5&virtual_host=3"
    with taken_over(), pytest.warns(UnknownOption, match="^db: "):
        address = Settings.of(Connection(socket)).address
    assert (address.db, address.options.lease) == (3, 5)


def test_what_differs_is_documented() -> None:
    page = (ROOT / "docs" / "celery.md").read_text()
    for words in (
        "checks no certificate of a bare `rediss://`",
        "ignores `db` and `virtual_host` among the transport options",
        "drops user and password beside a socket's URL",
        "forgets user and password beside a list of Sentinels",
        "cannot fail over to a socket",
    ):
        assert words in page, words
