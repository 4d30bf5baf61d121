"""The transport: one Kombu connection, in an event loop or drained by hand."""

from __future__ import annotations

import logging
import sys
from typing import Any

import redis
from kombu.transport import virtual
from redis import exceptions as server

from atomq import __version__
from atomq.address import Address
from atomq.contrib.kombu.broker import broker_of
from atomq.contrib.kombu.channel import Channel
from atomq.contrib.kombu.consuming import Receiver
from atomq.contrib.kombu.poller import Poller, let_go
from atomq.contrib.kombu.registry import STOCK_SCHEMES
from atomq.contrib.kombu.settings import Settings
from atomq.contrib.kombu.waker import Alarm, Waker
from atomq.errors import AtomqError, ServerError, ServerUnavailable

log = logging.getLogger("atomq.kombu")

_introduced: set[Address] = set()


class Transport(virtual.Transport):
    """Kombu on the engine.

    `driver_type` is "redis": Celery turns on mingle, gossip and events by that name.
    """

    Channel = Channel
    polling_interval = None
    default_port = 6379
    driver_type = "redis"
    driver_name = "atomq"

    implements = virtual.Transport.implements.extend(
        asynchronous=True,
        batch_publish=True,
        exchange_type=frozenset(["direct", "topic", "fanout"]),
    )

    connection_errors = (
        *virtual.Transport.connection_errors,
        ServerUnavailable,
        server.ConnectionError,
        server.TimeoutError,
        OSError,
    )
    channel_errors = (*virtual.Transport.channel_errors, server.ResponseError, ServerError)

    def __init__(self, client: Any, **kwargs: Any) -> None:
        self.settings = Settings.of(client)
        self.broker = broker_of(self.settings.address)
        self.broker.spread.declare(self.settings.partitions or {})
        if ends := self.settings.terminate_cancelled:
            self.broker.terminate_cancelled = "SIGTERM" if ends is True else ends
        self.lost = False
        self.fanout_queues: dict[str, tuple[str, str]] = {}
        """Exchange and routing key of the queues bound to fanout exchanges."""
        self.declared_queues: set[str] = set()
        self.reply_queues: dict[str, None] = {}
        """Queues of replies that come as broadcasts do: on a cluster all of them."""
        self._loop: Any = None
        self._timer: Any = None
        self._waker: Waker | None = None
        self._alarm: Alarm | None = None
        super().__init__(client, **kwargs)
        self.poller = Poller(self)
        self.receiver: Receiver = self.poller
        """Hears from its channels what they consume."""

    def driver_version(self) -> str:
        """Of atomq: `celery report` shows it beside the driver's name."""
        return __version__

    @property
    def supports_batch_publish(self) -> bool:
        """Not with `retry_on_timeout`, as in Kombu's own: then each message is sent at once."""
        return not (self.client.transport_options or {}).get("retry_on_timeout")

    def establish_connection(self) -> Any:
        try:
            self.broker.engine.command("PING")
            self.broker.reap()
        except AtomqError as error:
            # The exception of redis-py, as apps know it: wrong password, refused, too late.
            if isinstance(error.__cause__, OSError | server.RedisError):
                raise error.__cause__ from None
            raise
        if "celery.worker.control" in sys.modules:
            from atomq.contrib.kombu import control, worker_hooks

            self._introduce()
            control.install()
            worker_hooks.note_failures()
            worker_hooks.fail_what_no_exception_ends()
            worker_hooks.note_revoked()
            worker_hooks.ask_before_work()
            worker_hooks.ack_at_once()
            worker_hooks.when_stopping(let_go)
            worker_hooks.let_greenlets_run()
        return super().establish_connection()

    def _introduce(self) -> None:
        """Say once in a worker what carries its messages: the URL of stock's does not show it."""
        address = self.broker.address
        if address not in _introduced:
            _introduced.add(address)
            how = "has taken over" if self.client.transport_cls in STOCK_SCHEMES else "carries"
            url = self.client.as_uri()
            log.info("atomq %s %s %s (redis-py %s)", __version__, how, url, redis.__version__)

    def close_connection(self, connection: Any) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.on_tick.discard(self._on_tick)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self.poller.close()
        if self._waker is not None:
            loop.remove(self._waker)
            self._waker.close()
            self._waker = None
        for channels in (self._avail_channels, self.channels):
            while channels:
                channels.pop().close()

    # ── drained by hand ───────────────────────────────────────────────────────────────────────

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Hand over one message. Raises `TimeoutError` if none comes."""
        self._keep_bindings()
        if not self.poller.receive(timeout):
            raise TimeoutError("timed out")

    # ── in an event loop ──────────────────────────────────────────────────────────────────────

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let Kombu's event loop watch the socket."""
        self._loop = loop
        watched: list[int] = []

        def on_socket(number: int | None) -> None:
            while watched:
                loop.remove(watched.pop())
            if number is not None and self._loop is loop:
                watched.append(number)
                loop.add_reader(number, self.poller.on_readable)

        if self._waker is None:
            self._waker = Waker()
        loop.add_reader(self._waker, self.poller.on_waker)
        self._alarm = Alarm(loop.call_later, self._on_tick)
        self.poller.watch(on_socket, self._waker, self._alarm)
        loop.on_tick.add(self._on_tick)
        self._timer = loop.call_repeatedly(1.0, self._every_second)

    @property
    def in_loop(self) -> bool:
        """Whether an event loop drives it; else a program drains it by hand."""
        return self._loop is not None

    def _every_second(self) -> None:
        self._on_tick()
        if self._loop is not None:
            self._keep_bindings()

    def _keep_bindings(self) -> None:
        for channel in list(self.channels):
            try:
                channel.look_for_partitions()
                channel.maybe_refresh_binding_expiry()
            except AtomqError as error:
                # The server is gone, which is found out elsewhere; or this user may not.
                log.debug("bindings of queues that expire: %s", error)

    def _on_tick(self) -> None:
        if self._loop is not None:
            self.poller.tick()

    # ── what Kombu shows ──────────────────────────────────────────────────────────────────────

    def verify_connection(self, connection: Any) -> bool:
        return not self.lost


class SentinelTransport(Transport):
    """The same behind Sentinels: a clone of a connection takes the default port from here."""

    default_port = 26379
