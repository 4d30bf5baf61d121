"""How a broker is named, and what its options may be."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import ssl
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Exchange, Queue, pools
from kombu.transport import redis as kombu_redis

from atomq.contrib.kombu.settings import Settings, UnknownOption
from atomq.contrib.kombu.transport import Transport
from atomq.errors import InvalidArgument, InvalidOptions
from tests.conftest import LONG
from tests.contrib.rig import ON_ONE_KIND, Place, ours, place, taken_over
from tests.servers import ROOT, Sentinel, Server, tls_options

ODD = "p@ss:w/ör d?#%&;"
QUOTED = "p%40ss%3Aw%2F%C3%B6r%20d%3F%23%25%26%3B"


def settings(url: str, **options: Any) -> Settings:
    said = options.pop("ssl", False)
    return Settings.of(Connection(url, transport_options=options, ssl=said))


# ── URLs ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme", ["atomq", "valkey"])
def test_urls(scheme: str) -> None:
    address = settings(f"{scheme}://").address
    assert (address.kind, address.host, address.port, address.db) == ("tcp", "localhost", 6379, 0)
    address = settings(f"{scheme}://user:{QUOTED}@host:7000/3").address
    assert (address.host, address.port, address.db) == ("host", 7000, 3)
    assert (address.username, address.password) == ("user", ODD)
    address = settings(f"{scheme}://:{QUOTED}@host").address
    assert (address.username, address.password, address.tls) == (None, ODD, None)
    address = settings(f"{scheme}+socket:///run/redis.sock?virtual_host=4").address
    assert (address.kind, address.path, address.db) == ("unix", "/run/redis.sock", 4)
    address = settings(f"{scheme}+socket:///run/redis.sock").address
    assert address.db == 0
    secure = settings(f"{scheme}s://host:7000").address
    assert secure.tls is not None
    assert secure.tls["ssl_cert_reqs"] == "required"
    assert secure.tls["ssl_check_hostname"] is True
    lax = settings(f"{scheme}s://host?ssl_cert_reqs=none").address
    assert lax.tls is not None
    assert lax.tls["ssl_cert_reqs"] == "none"


def test_tls_by_option() -> None:
    for said in (True, {"ssl_ca_certs": "/ca.pem"}, {"ssl_cert_reqs": "required"}):
        address = settings("atomq://host", ssl=said).address
        assert address.tls is not None, said
        assert address.tls["ssl_cert_reqs"] == "required"


class _Provider:
    def get_credentials(self) -> tuple[str, str]:
        return "user", "secret"


def test_a_credential_provider_stands_for_user_and_password() -> None:
    """Among the options, or as an argument; the URL's own user is dropped then."""
    path = "tests.contrib.test_settings._Provider"
    for url in ("atomq://u:p@host", "atomq+socket:///s?virtual_host=1"):
        address = settings(url, credential_provider=path).address
        assert address.options.credential_provider == path
        assert (address.username, address.password) == (None, None)
    mine = _Provider()
    address = Settings.of(Connection("atomq://u:p@host", credential_provider=mine)).address
    assert address.options.credential_provider is mine


@pytest.mark.parametrize("url", ["atomq://host", "redis+socket:///s", "atomq-sentinel://a"])
def test_a_url_imports_no_credential_provider(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To import a module is to run it."""
    path = "tests.contrib.test_settings._Provider"
    named = f"{url}?credential_provider={path}"
    with taken_over(), pytest.raises(InvalidOptions, match="ATOMQ_CREDENTIAL_PROVIDERS"):
        settings(named, master_name="m")
    with taken_over():
        beside = settings(named, master_name="m", credential_provider=path)
        monkeypatch.setenv("ATOMQ_CREDENTIAL_PROVIDERS", path)
        assert settings(named, master_name="m").address == beside.address


@ON_ONE_KIND
def test_who_connects_by_a_provider(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "credentials_of_test", sys.modules[__name__])
    monkeypatch.setenv("ATOMQ_CREDENTIAL_PROVIDERS", "credentials_of_test._Provider")
    server.client().execute_command("ACL SETUSER", "user", "on", ">secret", "~*", "&*", "+@all")
    url = f"{ours(server.tcp_url)}?credential_provider=credentials_of_test._Provider"
    with Connection(url) as connection:
        connection.connect()
        engine = connection.default_channel.broker.engine
        assert engine.command("ACL WHOAMI") == b"user"
        engine.close()


@ON_ONE_KIND
def test_a_callable_password_is_called_at_every_connect(server: Server) -> None:
    """For passwords that change. Clones share it, and with it one engine."""
    db, words = server.client(), iter(["one", "two"])

    def password() -> str:
        word = next(words)
        db.execute_command("ACL SETUSER", "turns", "reset", "on", f">{word}", "~*", "&*", "+@all")
        return word

    url = ours(server.tcp_url)
    with Connection(url, userid="turns", password=password) as connection:
        connection.connect()
        engine = connection.default_channel.broker.engine
        assert engine.command("ACL WHOAMI") == b"turns"
        engine.close()
        assert engine.command("ACL WHOAMI") == b"turns"
        assert list(words) == []
        assert Settings.of(connection.clone()).address == Settings.of(connection).address
        engine.close()


def test_sentinel_urls() -> None:
    url = f"atomq-sentinel://:{QUOTED}@a:26380/2;atomq-sentinel://b;atomq-sentinel://c:26381"
    connection = Connection(url, transport_options={"master_name": "m"})
    for _ in range(4):  # also after a failover to the next URL
        address = Settings.of(connection).address
        assert [tuple(node) for node in address.nodes] == [
            ("a", 26380),
            ("b", 26379),
            ("c", 26381),
        ]
        assert (address.db, address.password, address.master_name) == (2, ODD, "m")
        connection.maybe_switch_next()


def test_failover_keeps_the_transport() -> None:
    connection = Connection("atomq://a:7001/1;atomqs://b:7002/2")
    assert Settings.of(connection).address.port == 7001
    connection.maybe_switch_next()
    address = Settings.of(connection).address
    assert (address.host, address.port, address.db) == ("b", 7002, 2)
    assert address.tls is not None
    assert isinstance(connection.transport, Transport)


# ── options ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("visibility_timeout", "3600"),
        ("visibility_timeout", 0),
        ("visibility_timeout", 1.5),
        ("lease", -1),
        ("max_deliveries", 0),
        ("priority_steps", [3, 6]),
        ("priority_steps", ["0"]),
        ("fanout_prefix", 3),
        ("fanout_prefix", "{database}."),
        ("fanout_prefix", "{"),
        ("fanout_prefix", "{{db}}"),
        ("fanout_patterns", "yes"),
        ("delay_in_server", "sometimes"),
        ("queue_order_strategy", 3),
        ("sep", ""),
        ("socket_timeout", "5"),
        ("master_name", 3),
        ("max_connections", -1),
        ("max_connections", False),
        ("body_encoding", "rot13"),
        ("queue_order_strategy", "alphabetical"),
        ("unacked_key", 3),
        ("deadletter_queue", True),
    ],
)
def test_a_wrong_value_is_one_clear_error_at_connect(name: str, value: Any) -> None:
    connection = Connection("atomq://127.0.0.1:1", transport_options={name: value})
    with pytest.raises(InvalidOptions, match=f"^{name}: ") as told:
        connection.connect()
    assert len(told.value.faults) == 1


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("visibility_timeout", timedelta(hours=12).total_seconds(), 43200),
        ("priority_steps", range(10), tuple(range(10))),
        ("priority_steps", list(range(11)), tuple(range(10))),  # no message has priority 10
        ("priority_steps", [6, 0, 3, 3], (0, 3)),  # no message is put where 6 is
        ("fanout_prefix", "myapp.", "myapp."),
        ("fanout_prefix", "/mine-{db}.", "/mine-0."),
        ("fanout_prefix", "", ""),
        ("fanout_patterns", 1, True),
        ("max_connections", 0, None),
    ],
)
@ON_ONE_KIND
def test_values_that_stock_takes(name: str, value: Any, read: Any, server: Server) -> None:
    """By both, and each hears and gets what the other sends, directly and to all."""
    options = {name: value}
    urls = (server.url, ours(server.url))
    # A stock worker loses its connection over a broadcast whose prefix has another form.
    deaf = name == "fanout_prefix" and not re.fullmatch(r"(/.*\.)?", value)
    with Connection(urls[1], transport_options=options) as connection:
        at = Settings.of(connection)
        assert getattr(at, name, getattr(at.address.options, name, None)) == read
    for sender, receiver in (urls, urls[::-1], (urls[1], urls[1])):
        expected = ["0", "5", "9"] if deaf and receiver == urls[0] else ["0", "5", "9", "all"]
        with (
            Connection(sender, transport_options=options) as one,
            Connection(receiver, transport_options=options) as other,
        ):
            heard: list[str] = []
            to_all = Exchange("all", type="fanout")
            consumer = other.Consumer([Queue("q", max_priority=9), Queue("mine", to_all)])
            consumer.register_callback(lambda body, m: (heard.append(str(body)), m.ack()))  # noqa: B023
            with consumer:
                while not server.client().pubsub_numpat():
                    with contextlib.suppress(TimeoutError):
                        other.drain_events(timeout=0.01)
                producer = one.Producer()
                for priority in (0, 5, 9):
                    producer.publish(priority, routing_key="q", priority=priority)
                if "all" in expected:
                    producer.publish("all", exchange=to_all, declare=[to_all])
                while len(heard) < len(expected):
                    other.drain_events(timeout=5)
            assert sorted(heard) == expected, (sender, receiver)


@pytest.mark.parametrize("prefix", ["{celery}:", "100%{", "a{}b", "%s{0}"])
@ON_ONE_KIND
def test_a_prefix_with_braces(prefix: str, server: Server) -> None:
    """A hash tag is the usual way to put Celery where all keys must share a slot."""
    test_values_that_stock_takes("global_keyprefix", prefix, prefix, server)
    keys = [key.decode() for key in server.client().scan_iter()]
    assert all(key.startswith((prefix, "_atomq.{", "_atomq.register{")) for key in keys), keys


def test_wrong_urls_are_told_at_connect() -> None:
    for url in ("atomq://host/word", "atomq+socket:///run/x?virtual_host=-1"):
        with pytest.raises(InvalidArgument, match="whole number"):
            Connection(url).connect()
    with pytest.raises(InvalidOptions, match="master_name"):
        Connection("atomq-sentinel://host").connect()


def test_an_unknown_option_is_a_warning_with_the_nearest_name() -> None:
    with pytest.warns(UnknownOption, match="visibility_timeout"):
        settings("atomq://", visibilty_timeout=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Kombu's own that have no meaning here.
        settings("atomq://", unacked_restore_limit=10, max_retries=3, retry_on_timeout=True)


def test_every_option_of_kombus_own_transport_is_known_and_documented() -> None:
    theirs = set(kombu_redis.SentinelChannel.from_transport_options)
    read = re.findall(r"transport_options\.get\(\s*'(\w+)'", inspect.getsource(kombu_redis))
    page = (ROOT / "docs" / "celery.md").read_text()
    for name in sorted(theirs | set(read)):
        assert f"`{name}`" in page, name
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnknownOption)
            settings("atomq://", **{name: None})


# ── taking over ───────────────────────────────────────────────────────────────────────────────


def test_unmodified_urls_when_taken_over() -> None:
    with taken_over():
        check_unmodified_urls()


def check_unmodified_urls() -> None:
    for url in ("redis://", "redis+socket:///s", "redis://a;redis://b", "sentinel://a"):
        connection = Connection(url, transport_options={"master_name": "m"})
        assert isinstance(connection.transport, Transport), url
        assert connection.transport.driver_type == "redis"
        connection.maybe_switch_next()
    # Kombu would not check certificates here; nobody said so.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        address = settings("rediss://host").address
        assert address.tls is not None
        assert address.tls["ssl_cert_reqs"] == "required"
        said = settings("rediss://host?ssl_cert_reqs=none").address
        assert said.tls is not None
        assert said.tls["ssl_cert_reqs"] == "none"


def _python(code: str, **env: str) -> str:
    found = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'engine'}", **env}
    done = subprocess.run([sys.executable, "-c", code], env=found, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_celery_costs_next_to_nothing_and_registers() -> None:
    told = _python(
        "import sys, kombu.serialization\n"
        "print('redis' in sys.modules, 'atomq.client' in sys.modules)\n"
        "from kombu import Connection; print(type(Connection('atomq://').transport).__module__)"
    )
    assert told == "False False\natomq.contrib.kombu.transport"


def test_without_kombu_it_says_what_to_install() -> None:
    told = _python(
        "import sys; sys.modules['kombu'] = None\n"
        "try: import atomq.celery\n"
        "except ImportError as error: print(error)"
    )
    assert told == 'atomq.celery needs Celery, or Kombu: pip install "atomq[celery]"'


def test_an_older_kombu_is_named_and_no_app_that_does_without_us_ends() -> None:
    told = _python(
        "import kombu; kombu.VERSION = kombu.VERSION._replace(minor=6)\n"
        "kombu.__version__ = '5.6.2'\n"
        "import celery, kombu.serialization\n"  # of an app on redis://
        "import atomq.celery\n"
        "try: atomq.celery.take_over()\n"
        "except ImportError as error: print(error)"
    )
    assert told == "atomq needs Kombu 5.7 or newer, this is 5.6.2"


def test_taking_over_by_environment_also_in_spawned_children(tmp_path: Path) -> None:
    code = (
        "import multiprocessing, sys\n"
        "def look():\n"
        "    import celery\n"
        "    app = celery.Celery(broker='redis://127.0.0.1:1')\n"
        "    print(type(app.connection().transport).__module__, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    look()\n"
        "    child = multiprocessing.get_context('spawn').Process(target=look)\n"
        "    child.start(); child.join()\n"
    )
    script = tmp_path / "look.py"
    script.write_text(code)
    env = {"ATOMQ_TAKE_OVER": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'engine'}"}
    done = subprocess.run(
        [sys.executable, str(script)], env={**os.environ, **env}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["atomq.contrib.kombu.transport"] * 2, done.stderr


@pytest.mark.slow
@ON_ONE_KIND
def test_a_taken_over_worker_runs_unmodified_urls(at: Place) -> None:
    url = at.server.url
    worker = at.worker("prefork", broker=url, env={"ATOMQ_TAKE_OVER": "1"}).ready()
    one = at.send("work", countdown=60)
    at.await_state(lambda s: s.delayed == 1)  # so it is ours that runs
    assert at.ledger.starts()[one] == 0
    two = at.send("work")
    at.ledger.await_starts(two)
    at.await_state(lambda s: s.unacked == 0)
    assert worker.stop() == 0


# ── real servers ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@ON_ONE_KIND
def test_a_password_with_odd_characters(at: Place) -> None:
    at.db.execute_command("ACL SETUSER", "odd", "on", f">{ODD}", "~*", "&*", "+@all")
    url = at.server.tcp_url.replace("redis://", f"atomq://odd:{QUOTED}@")
    worker = at.worker("threads", broker=url).ready()
    one = at.send("work", app=at.make_app(url))
    at.ledger.await_starts(one)
    assert ODD not in worker.log
    assert QUOTED not in worker.log


@pytest.mark.slow
@pytest.mark.timeout(180)
@ON_ONE_KIND
@pytest.mark.parametrize("frozen", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_sentinel_fails_over(sentinel: Sentinel, tmp_path: Path, frozen: bool) -> None:
    url = sentinel.url.replace("sentinel://", "atomq-sentinel://")
    options = {"broker_transport_options": {"master_name": sentinel.master_name, "lease": 5}}
    with place(sentinel.replica, tmp_path) as at:
        pools = ("prefork", "gevent", *(["threads"] if LONG else []))
        workers = [
            at.worker(pool, 1, queues=pool, broker=url, backend=None, **options) for pool in pools
        ]
        app = at.make_app(url, **options)
        for worker in workers:
            worker.ready()
        at.ledger.await_starts([at.send("work", queue=pool, app=app) for pool in pools])
        sentinel.fail_over(frozen=frozen)
        ids = [at.send("work", queue=pool, app=app) for pool in pools]
        at.ledger.await_starts(ids, 20)
        assert all(worker.alive for worker in workers)
        if frozen:
            sentinel.master.resume()


@pytest.fixture
def tls(kind: str, tmp_path: Path) -> Iterator[tuple[Server, str, Path]]:
    """A server that speaks TLS too, its host and port there, and the authority to trust."""
    options, port = tls_options(tmp_path, "localhost", "127.0.0.1")
    with Server(kind, options=options) as server:
        yield server, f"127.0.0.1:{port}", tmp_path / "ca.crt"


def _reaches(connection: Connection) -> bool:
    """Whether it connects; False: the certificate is refused."""
    try:
        connection.transport.establish_connection()
    except connection.connection_errors as error:
        if "certificate" not in str(error).lower():
            raise
        return False
    connection.transport.broker.engine.close()
    return True


@pytest.mark.parametrize("kind", ["redis-7"], indirect=True)
def test_a_certificate_is_unchecked_only_where_the_user_said_so(
    tls: tuple[Server, str, Path],
) -> None:
    _, where, certificate = tls
    said: list[dict[str, Any]] = [
        *[{"ssl": {"ssl_cert_reqs": value}} for value in (None, 0, "none")],
        {"transport_options": {"ssl": {"ssl_cert_reqs": None}}},
        {"ssl": {"ssl_ca_certs": str(certificate)}},
    ]
    with taken_over():
        for scheme in ("rediss", "atomqs"):
            url = f"{scheme}://{where}/0"
            for more in said:
                assert _reaches(Connection(url, **more)), more
            assert not _reaches(Connection(url))
            assert not _reaches(Connection(url).clone().clone())
            assert _reaches(Connection(url, ssl={"ssl_cert_reqs": ssl.CERT_NONE}).clone())
            pools.reset()  # Kombu takes connections that differ in TLS alone for the same
            app = Celery("x", broker=url, set_as_current=False)
            assert not _reaches(app.pool.acquire())
            pools.reset()
            app = Celery("x", broker=url, set_as_current=False)
            app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_NONE}
            assert _reaches(app.pool.acquire())
            pools.reset()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["redis-7"], indirect=True)
def test_tls(tls: tuple[Server, str, Path], tmp_path: Path) -> None:
    server, where, certificate = tls
    with place(server, tmp_path) as at:
        plain = f"atomqs://{where}/0"
        with pytest.raises(Exception, match=r"(?i)certificate"):
            at.send("work", app=at.make_app(plain), retry=False)
        pools.reset()  # Kombu takes connections that differ in TLS alone for the same
        url = f"{plain}?ssl_ca_certs={certificate}"
        by_setting = {"broker_use_ssl": {"ssl_ca_certs": str(certificate)}}
        workers = [
            at.worker("prefork", 1, queues="prefork", broker=url).ready(),
            at.worker("gevent", 1, queues="gevent", broker=plain, **by_setting).ready(),
        ]
        ids = [
            at.send("work", queue="prefork", app=at.make_app(plain, **by_setting)),
            at.send("work", queue="gevent", app=at.make_app(url)),
        ]
        at.ledger.await_starts(ids)
        assert all(worker.stop() == 0 for worker in workers)


def test_a_transport_is_made_while_its_cluster_is_away() -> None:
    """In a virtual host too, though the cluster says what that is."""
    with Connection("atomq-cluster://127.0.0.1:1/1") as connection:
        assert connection.transport.broker.engine.virtual_host.namespace is None
        connection.clone()
