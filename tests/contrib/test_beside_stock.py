"""What is right because stock does it: the same program over both transports, in one process."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock
from zoneinfo import ZoneInfo

import pytest
from celery import Celery, _state
from celery.app.task import Context
from celery.contrib.migrate import move
from celery.worker.control import Panel
from celery.worker.strategy import default as strategy
from kombu import Connection, Consumer, Exchange, Queue
from kombu.asynchronous.hub import Hub
from kombu.common import Broadcast
from kombu.transport import redis as kombu_redis

import atomq.celery
from atomq import Engine, calls
from atomq.arguments import LAST_MS
from atomq.contrib.kombu import control, due
from atomq.contrib.kombu.broker import eta_ms
from tests.contrib.rig import ON_ONE_KIND, ours
from tests.servers import ROOT, Server

EACH = pytest.mark.parametrize("side", ["stock", "atomq"])

_names = itertools.count()

atomq.celery.register()


def _noop() -> None:
    """A task that is looked at and never run."""


class Sides:
    """Apps and connections of both kinds to one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.db = server.client()
        self.engine = Engine(server.url)
        self._closing: list[Callable[[], Any]] = [self.engine.close]

    def url(self, side: str) -> str:
        return self.server.url if side == "stock" else ours(self.server.url)

    def app(self, side: str, **conf: Any) -> Celery:
        app = Celery("beside", broker=self.url(side), set_as_default=False, changes=conf)
        app.task(_noop, name="noop")
        self._closing.append(app.close)
        return app

    def connect(self, side: str, **options: Any) -> Connection:
        # By a name of its own, so that it shares no lines with tests before, which the server cut.
        name = f"beside-{next(_names)}"
        connection = Connection(self.url(side), transport_options={"client_name": name, **options})
        self._closing.append(connection.release)
        return connection

    def close(self) -> None:
        for close in reversed(self._closing):
            close()


@pytest.fixture
def sides(server: Server) -> Iterator[Sides]:
    found = Sides(server)
    yield found
    found.close()


# ── when a task starts ────────────────────────────────────────────────────────────────────────

SETTINGS = [
    pytest.param(zone, utc, id=f"{zone}, enable_utc={utc}")
    for zone, utc in itertools.product(
        (None, "UTC", "Asia/Kolkata", "America/New_York"), (True, False)
    )
]
SOON = timedelta(minutes=90)


def _ways(app: Celery, now: datetime) -> dict[str, dict[str, Any]]:
    """Options of apply_async that say when, and those that a retry would send."""
    soon, naive = now + SOON, datetime.fromtimestamp(now.timestamp() + 5400, UTC)
    zone = ZoneInfo("America/New_York")
    request = Context(id="again", retries=0, expires=None)
    task = app.tasks["noop"]
    task.push_request(**vars(request))
    try:
        again = {
            "retry, countdown": task.signature_from_request(countdown=5400, retries=1).options,
            "retry, eta": task.signature_from_request(eta=soon, retries=1).options,
        }
    finally:
        task.pop_request()
    return {
        "at once": {},
        "countdown": {"countdown": 5400},
        "countdown, past": {"countdown": -5},
        "aware": {"eta": soon},
        "aware, another zone": {"eta": soon.astimezone(zone)},
        "naive, utc": {"eta": naive.replace(tzinfo=None)},
        "naive, local": {"eta": soon.astimezone(zone).replace(tzinfo=None)},
        "text": {"eta": naive.replace(tzinfo=None).isoformat()},
        "text, Z": {"eta": f"{naive.replace(tzinfo=None).isoformat()}Z"},
        "past": {"eta": now - SOON},
        "before 1970": {"eta": datetime(1960, 1, 1, tzinfo=UTC)},
        "expires": {"countdown": 5400, "expires": 60},
        "expires, naive": {"expires": naive.replace(tzinfo=None)},
        "expired": {"eta": now - SOON, "expires": now - SOON},
        **{name: {k: v for k, v in o.items() if k != "task_id"} for name, o in again.items()},
    }


def _asked(app: Celery, message: Any, now: datetime) -> str | float:
    """What Celery's worker does with a message: starts it, drops it, or puts it off.

    That is: until so many seconds after `now`, which was a while ago.
    """
    consumer = MagicMock(event_dispatcher=None, disable_rate_limits=True)
    consumer.task_buckets = {"noop": None}
    consumer.controller.state.revoked = {}
    found: list[str | float] = []
    consumer.on_task_request.side_effect = lambda _: found.append("now")
    ago = datetime.now(UTC).timestamp() - now.timestamp() - time.monotonic()
    consumer.timer.call_at.side_effect = lambda at, *_, **__: found.append(at + ago)
    payload = None if message.headers.get("task") else message.payload
    handler = strategy(app.tasks["noop"], app, consumer)
    handler(message, payload, message.ack_log_error, message.reject_log_error, ())
    return found[0] if found else "dropped"


def _begins(sides: Sides, side: str, app: Celery, now: datetime) -> dict[str, str | float]:
    """When a task starts, by how it was sent: "now", in so many seconds; or it is dropped."""
    ways = _ways(app, now)
    found: dict[str, str | float] = {}
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection, auto_declare=False)
        for way, options in ways.items():
            app.tasks["noop"].apply_async(**options, task_id=way, producer=producer)
        if side == "atomq":
            keys = sides.engine.keys("celery")
            for waiting in sides.engine.run(calls.peek(keys, "delayed")):
                found[waiting.name] = (waiting.time_ms or 0) / 1000 - now.timestamp()

        def on_message(message: Any) -> None:
            found[message.properties["correlation_id"]] = _asked(app, message, now)
            if not message.acknowledged:  # as Celery does what it drops
                message.ack()

        queue = app.amqp.queues["celery"]
        with Consumer(connection, [queue], on_message=on_message, accept=["json"]):
            while len(found) < len(ways):
                connection.drain_events(timeout=5)
    sides.engine.run(calls.purge(sides.engine.keys("celery"), delayed=True))
    return {w: "now" if isinstance(at, float) and at <= 0 else at for w, at in found.items()}


@ON_ONE_KIND
@pytest.mark.parametrize("protocol", [1, 2])
@pytest.mark.parametrize(("zone", "utc"), SETTINGS)
def test_a_task_starts_when_it_does_on_stock(
    sides: Sides, monkeypatch: pytest.MonkeyPatch, zone: str | None, utc: bool, protocol: int
) -> None:
    """Celery's own worker code is asked; on atomq the server, where it keeps the task back."""
    conf = {"timezone": zone, "enable_utc": utc, "task_protocol": protocol}
    always = {"broker_transport_options": {"delay_in_server": "always"}}
    now = datetime.now(UTC)
    stock = _begins(sides, "stock", sides.app("stock", **conf), now)
    app = sides.app("atomq", **conf, **always)
    monkeypatch.setattr(_state._tls, "current_app", app)  # by which no time may be read
    ours = _begins(sides, "atomq", app, now)
    passed = (datetime.now(UTC) - now).total_seconds()  # they were sent one after the other
    for way, at in stock.items():
        expected = at if isinstance(at, str) else pytest.approx(at, abs=1 + passed)
        assert ours[way] == expected, way


def test_a_time_that_no_server_counts_to_is_the_nearest_it_does() -> None:
    assert eta_ms("2500-01-01T00:00:00") == LAST_MS
    assert eta_ms("1960-01-01T00:00:00+00:00") == 0


# ── what a consumer raises ────────────────────────────────────────────────────────────────────


class _Stop(Exception):
    pass


@ON_ONE_KIND
@EACH
@pytest.mark.parametrize("how", ["by hand", "in a loop"])
def test_what_a_callback_raises_comes_out(sides: Sides, side: str, how: str) -> None:
    with sides.connect(side) as connection:
        for n in range(5):
            connection.Producer().publish(n, routing_key="q")
        taken: list[int] = []

        def callback(body: Any, message: Any) -> None:
            taken.append(body)
            if body == 0:
                message.ack()
            raise _Stop(body)

        with Consumer(connection, [Queue("q")], callbacks=[callback]):
            hub = Hub()
            if how == "in a loop":
                connection.transport.register_with_event_loop(connection.connection, hub)

            def turn(before: int) -> None:
                loop = hub.create_loop()
                while len(taken) == before:
                    if how == "in a loop":
                        next(loop)
                    else:
                        connection.drain_events(timeout=5)

            for n in range(2):
                with pytest.raises(_Stop) as raised:
                    turn(n)
                assert raised.value.args == (n,)
    assert taken == [0, 1]
    assert sides.db.llen("q") == 4, "what was not acked is given back when the connection closes"
    assert not sides.db.exists("_atomq.{q}.dead")
    if side == "atomq":
        state = sides.engine.run(calls.inspect(sides.engine.keys("q")))
        assert (state.unacked, state.delayed) == (0, 0)


@ON_ONE_KIND
@EACH
def test_celerys_migrate_moves_as_many_as_it_is_told(sides: Sides, side: str) -> None:
    app = sides.app(side)
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection, auto_declare=False)
        for _ in range(5):
            app.tasks["noop"].apply_async(producer=producer)
        move(
            lambda _body, _message: Queue("there", Exchange("there"), "there"),
            connection=connection,
            app=app,
            source=["celery"],
            limit=2,
        )
    assert (sides.db.llen("celery"), sides.db.llen("there")) == (3, 2)


# ── broadcasts and queues that nobody acks ────────────────────────────────────────────────────


@ON_ONE_KIND
@EACH
@pytest.mark.parametrize("kind_of", ["broadcast", "no_ack", "no_ack, always"])
def test_celery_itself_puts_off_what_comes_without_a_lease(
    sides: Sides, side: str, kind_of: str
) -> None:
    """Also once a task of another queue has met the server's own delay."""
    always = {"delay_in_server": "always"} if "always" in kind_of and side == "atomq" else {}
    app = sides.app(side, broker_transport_options=always)
    app.conf.task_queues = [Queue("na", no_ack=True), Broadcast("bc")]
    queue = app.amqp.queues["na" if "no_ack" in kind_of else "bc"]
    due.install()  # as such a task does
    found: list[str | float] = []
    with app.connection_for_write() as connection, connection.channel() as channel:
        producer = app.amqp.Producer(connection, auto_declare=False)
        with Consumer(
            channel,
            [queue],
            on_message=lambda message: found.append(_asked(app, message, datetime.now(UTC))),
            accept=["json"],
            no_ack="no_ack" in kind_of,
        ):
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.2)  # it listens
            app.tasks["noop"].apply_async(countdown=5400, producer=producer, queue=queue)
            while not found:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.2)
    assert found == [pytest.approx(5400, abs=5)]


# ── scaling to zero ───────────────────────────────────────────────────────────────────────────


@ON_ONE_KIND
@EACH
def test_delayed_tasks_are_in_the_list_when_no_worker_is_left(sides: Sides, side: str) -> None:
    app = sides.app(side)
    with sides.connect(side) as first, sides.connect(side) as second:
        producer = app.amqp.Producer(first, auto_declare=False)

        def send() -> None:
            app.tasks["noop"].apply_async(countdown=5400, producer=producer)

        def drain(connection: Connection) -> None:
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.2)

        held = []
        one = Consumer(first, [Queue("celery")], on_message=held.append)
        two = Consumer(second.channel(), [Queue("celery")], on_message=held.append)
        one.consume()
        drain(first)
        send()
        two.consume()
        drain(second)
        drain(first)
        assert sides.db.llen("celery") == 0
        if side == "atomq":
            assert second.default_channel.queue_declare("celery", passive=True).queue == "celery"
        first.close()
        if side == "atomq":  # on stock the one that is closed held it
            assert sides.db.llen("celery") == 0
        second.close()
        assert sides.db.llen("celery") == 1
        producer = app.amqp.Producer(sides.connect(side), auto_declare=False)
        send()
        assert sides.db.llen("celery") == 2
    last = sides.connect("stock")  # stock's workers delay them by themselves

    def on_message(message: Any) -> None:
        held.append(_asked(app, message, datetime.now(UTC)))

    with Consumer(last, [Queue("celery")], on_message=on_message):
        while len(held) < 2 or not isinstance(held[-1], float):
            last.drain_events(timeout=5)
    assert held[-1] == pytest.approx(5400, abs=10)


# ── what packages ask a channel for ───────────────────────────────────────────────────────────


@ON_ONE_KIND
@pytest.mark.parametrize("options", [{}, {"global_keyprefix": "app1:"}], ids=["plain", "prefixed"])
@EACH
def test_a_channel_has_a_client_of_the_server(
    sides: Sides, side: str, options: dict[str, Any]
) -> None:
    connection = sides.connect(side, **options)
    channel = connection.default_channel
    for priority in (0, 0, 9):
        connection.Producer().publish("one", routing_key="q", priority=priority)
    client = channel.client
    assert client.llen("q") == 2
    with client.pipeline() as pipe:  # HireFire
        sizes = [pipe.llen(channel._q_for_pri("q", step)) for step in channel.priority_steps]
        assert [*sizes[0].execute()] == [2, 0, 0, 1]
    with channel.conn_or_acquire() as found:
        assert found.lrange(f"{channel.global_keyprefix}q", 0, -1) == client.lrange(
            f"{channel.global_keyprefix}q", 0, -1
        )
        key, raw = found.brpop(["q"], timeout=1)
        assert (key, b"content-type" in raw) == (b"q", True)
    with channel.conn_or_acquire(client) as found:
        assert found is client
    assert client.delete("q") == 1
    assert client.ping() is True
    assert channel.pool.get_connection()
    connection.release()


@ON_ONE_KIND
@pytest.mark.parametrize(
    "options",
    [{}, {"global_keyprefix": "a:", "sep": "::", "priority_steps": [0, 5], "fanout_prefix": "/x."}],
    ids=["defaults", "told"],
)
def test_the_settings_of_a_channel_are_seen(sides: Sides, options: dict[str, Any]) -> None:
    stock, ours = (sides.connect(side, **options).default_channel for side in ("stock", "atomq"))
    for name in (
        "sep",
        "priority_steps",
        "global_keyprefix",
        "visibility_timeout",
        "unacked_key",
        "unacked_index_key",
        "body_encoding",
        "deadletter_queue",
    ):
        assert getattr(ours, name) == getattr(stock, name), name
    assert ours.keyprefix_fanout == stock.keyprefix_fanout.format(db=0)
    for priority in range(10):
        assert ours._q_for_pri("q", priority) == stock._q_for_pri("q", priority)


# ── messages too large for a connection that hears broadcasts ─────────────────────────────────


@ON_ONE_KIND
@EACH
@pytest.mark.parametrize("how", ["by hand", "in a loop"])
def test_a_message_larger_than_a_subscriber_may_be_sent(sides: Sides, side: str, how: str) -> None:
    limit = 256 * 1024
    sides.db.config_set("client-output-buffer-limit", f"pubsub {limit} {limit} 60")
    taken: list[int] = []
    with sides.connect(side) as connection:
        producer = connection.Producer(serializer="json", compression=None)
        for size in (4 * limit, 1, 8 * limit, 2):
            producer.publish("x" * size, routing_key="q")
        heard = Queue("f", Exchange("f", type="fanout"))

        def callback(body: str, message: Any) -> None:
            taken.append(len(body))
            message.ack()

        with Consumer(connection.channel(), [heard], callbacks=[callback], accept=["json"]):
            channel = connection.channel()
            channel.basic_qos(0, 2, False)
            with Consumer(channel, [Queue("q")], callbacks=[callback], accept=["json"]):
                hub = Hub()
                if how == "in a loop":
                    connection.transport.register_with_event_loop(connection.connection, hub)
                loop = hub.create_loop()
                while len(taken) < 4:
                    if how == "in a loop":
                        next(loop)
                    else:
                        connection.drain_events(timeout=5)
    assert taken == [4 * limit, 1, 8 * limit, 2]
    if side == "atomq":
        sides.engine.close()
        state = sides.engine.run(calls.inspect(sides.engine.keys("q")))
        assert (state.ready, state.stats.get("released", 0), state.dead) == (0, 0, 0)


@ON_ONE_KIND
def test_a_delayed_task_is_found_by_its_id(sides: Sides) -> None:
    """On stock a worker holds it and calls it scheduled."""
    app = sides.app("atomq", broker_transport_options={"delay_in_server": "always"})
    with app.connection_for_write() as connection:
        app.tasks["noop"].apply_async(countdown=5400, task_id="one", connection=connection)
        consumer = SimpleNamespace(
            connection=connection, task_consumer=SimpleNamespace(queues=[Queue("celery")])
        )
        state = SimpleNamespace(hostname="w", consumer=consumer)
        control.install()
        (found,) = Panel.data["query_task"](state, ["one", "other"]).items()
    one, (where, request) = found
    assert (one, where) == ("one", "scheduled")
    assert (request["id"], request["name"], request["args"]) == ("one", "noop", [])


# ── one table: what a program does with a channel ─────────────────────────────────────────────

Case = Callable[[Connection], Any]


def _got(connection: Connection, queue: str = "q") -> Any:
    return connection.default_channel.basic_get(queue)


def _left(connection: Connection, *queues: str) -> list[int]:
    """What lies in the queues once the connection is closed."""
    connection.close()
    return [connection.default_channel._size(queue) for queue in queues or ("q",)]


def _published(connection: Connection, *bodies: Any, **said: Any) -> None:
    for body in bodies:
        connection.Producer().publish(body, routing_key="q", **said)


def _settled(how: str, **said: Any) -> Case:
    def case(connection: Connection) -> Any:
        _published(connection, "a", "b")
        getattr(_got(connection), how)(**said)
        left = _left(connection)
        again = [_got(connection) for _ in range(left[0])]
        return [(m.payload, m.headers, m.delivery_info.get("redelivered")) for m in again]

    return case


def _raised(do: Case) -> Case:
    def case(connection: Connection) -> Any:
        try:
            return do(connection)
        except Exception as error:  # noqa: BLE001 - which one is the question
            handled = (connection.connection_errors, connection.channel_errors)
            return type(error).__name__, *(isinstance(error, kinds) for kinds in handled)

    return case


def _properties(connection: Connection) -> Any:
    _published(
        connection,
        {"n": 1},
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration=60,
        headers={"h": [1, None]},
        compression="zlib",
        message_id="m",
    )
    message = _got(connection)
    found = {k: v for k, v in message.properties.items() if k != "delivery_tag"}
    return message.payload, found, message.headers, message.content_type, message.delivery_info


def _deleted(**flags: Any) -> Case:
    def case(connection: Connection) -> Any:
        channel = connection.default_channel
        channel.queue_declare("q")
        _published(connection, 1)
        channel.queue_delete("q", **flags)
        return _left(connection)

    return case


def _delayed(connection: Connection) -> Any:
    _published(connection, 1, headers={"eta": "2100-01-01T00:00:00", "id": "i"})
    return _left(connection)


def _purged(connection: Connection) -> Any:
    _published(connection, 1, 2, 3, priority=6)
    return connection.default_channel.queue_purge("q"), _left(connection)


def _declared(connection: Connection) -> Any:
    _published(connection, 1, 2)
    return tuple(connection.default_channel.queue_declare("q", passive=True))


def _declared_and_empty(connection: Connection) -> Any:
    connection.default_channel.queue_declare("q")
    return tuple(connection.default_channel.queue_declare("q", passive=True))


def _attributes(connection: Connection) -> Any:
    """Those of stock's that are there."""
    stock = {name for name in dir(kombu_redis.Channel) if not name.startswith("_")}
    return sorted(stock & set(dir(connection.default_channel)))


def _twice(connection: Connection) -> Any:
    _published(connection, 1)
    message = _got(connection)
    message.ack()
    message.reject()


CASES: dict[str, Case] = {
    "publish": lambda c: (_published(c, 1, 2), _left(c)),
    "properties": _properties,
    "get from an empty queue": _got,
    "ack": _settled("ack"),
    "reject": _settled("reject"),
    "reject, requeue": _settled("reject", requeue=True),
    "requeue": _settled("requeue"),
    "settle twice": _raised(_twice),
    "close with one unacked": lambda c: (_published(c, 1, 2), _got(c) and _left(c)),
    "delete": _deleted(),
    "delete if_empty": _deleted(if_empty=True),
    "delete if_unused": _deleted(if_unused=True),
    "purge": _purged,
    "delayed, nobody consumes": _delayed,
    "passive declare": _declared,
    "passive declare of what is empty": _raised(_declared_and_empty),
    "passive declare of none": _raised(
        lambda c: c.default_channel.queue_declare("none", passive=True)
    ),
    "drain nothing": _raised(lambda c: c.drain_events(timeout=0.05)),
    "publish to no queue": _raised(
        lambda c: c.Producer().publish(1, exchange="none", routing_key="none")
    ),
    "no such exchange type": _raised(lambda c: c.default_channel.exchange_declare("x", "no")),
    "attributes": _attributes,
}


def _without_count(found: Any) -> Any:
    body, properties, *rest = found
    assert properties.pop("x-delivery-count") == 1
    return (body, properties, *rest)


NOT_HERE = {
    "ack_emulation",
    "active_queues",
    "async_pool",
    "client_name",
    "connection_class",
    "connection_class_ssl",
    "fanout_patterns",
    "fanout_prefix",
    "health_check_interval",
    "keyprefix_binding_deadlines",
    "keyprefix_binding_permanent",
    "keyprefix_queue",
    "max_connections",
    "maybe_reauth",
    "queue_order_strategy",
    "retry_on_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_keepalive_options",
    "socket_timeout",
    "subclient",
    "unacked_mutex_expire",
    "unacked_mutex_key",
    "unacked_restore_interval",
    "unacked_restore_limit",
    "unacked_restore_throttle",
}

# Where atomq differs on purpose: the row of docs/celery.md that says so, and what makes of our
# answer the one of stock.
DIFFERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "passive declare of what is empty": (
        "does not find a queue that the same connection declared, once it is empty: 404",
        lambda found: ("ChannelError", False, True) if found == ("q", 0, 0) else found,
    ),
    "properties": ("does not say how often a message was delivered", _without_count),
    "publish to no queue": (
        "drops what it publishes to an exchange without a queue",
        lambda found: None if found[0] == "UnroutableMessage" else found,
    ),
    "attributes": (
        "has attributes of a channel for its polling, its pools and its restoring",
        lambda found: sorted({*found, *NOT_HERE}),
    ),
}
# And those that test_addresses.py compares, or other tests name.
ELSEWHERE = {
    "checks no certificate of a bare `rediss://`",
    "connects in plain text with `broker_use_ssl=True`",
    "turns `ssl_check_hostname=True` off with `ssl_cert_reqs='none'`",
    "imports the `credential_provider` that a URL names",
    "drops user and password beside a socket's URL",
    "forgets user and password beside a list of Sentinels, once it fails over",
    "cannot fail over to a socket (`KeyError`)",
    "ignores `db` and `virtual_host` among the transport options",
    "ignores `ssl`, user, password and `credential_provider` among the transport options",
    "cannot hear broadcasts under a `fanout_prefix` that is not like `/….` (`KeyError`)",
    "calls no callable `password`",
    "takes any `visibility_timeout`, also text and fractions, and fails later",
    "`priority_steps` need not begin with 0",
    (
        "forgets a task that ends by `sys.exit()` in a thread or greenlet: it has no result, "
        "and stays unacked while the worker lives"
    ),
    (
        "forgets a task, when a prefork worker stops or loses its connection, that a child was "
        "written and has not said that it begins: it runs twice, and a stop takes 30 s"
    ),
    (
        "leaves acks to the event loop, which stands still while solo runs the next task, while "
        "the worker connects anew, and while threads are joined"
    ),
}


@ON_ONE_KIND
@pytest.mark.parametrize("name", CASES)
def test_a_program_finds_what_it_finds_on_stock(sides: Sides, name: str) -> None:
    found = {}
    for side in ("stock", "atomq"):
        sides.db.flushdb()
        with sides.connect(side) as connection:
            found[side] = CASES[name](connection)
    ours = found["atomq"]
    if name in DIFFERS:
        assert ours != found["stock"], "no difference any more: take it out of the list"
        ours = DIFFERS[name][1](ours)
    assert ours == found["stock"]


def test_the_page_lists_the_differences_and_no_others() -> None:
    page = (ROOT / "docs" / "celery.md").read_text()
    section = page.partition("### Differences to stock\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("|")]
    assert sorted(rows[2:]) == sorted({*ELSEWHERE, *(row for row, _ in DIFFERS.values())})
    assert set(re.findall(r"`(\w+)`", section)) >= NOT_HERE
