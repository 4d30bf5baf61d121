"""What a channel declares, binds and deletes, and where a message is routed.

Bindings lie in stock Kombu's tables (`bindings.py`). A queue that expires (`x-expires`) lives on
while it is used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from typing import Any, ClassVar

from kombu.exceptions import KombuError
from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments

from atomq import calls
from atomq.contrib.kombu.bindings import LEAST_MS, stored
from atomq.contrib.kombu.broker import Broker
from atomq.contrib.kombu.reading import Base64
from atomq.contrib.kombu.settings import Settings
from atomq.errors import AtomqError, QueueInUse, ServerUnavailable
from atomq.keys import QueueKeys

log = logging.getLogger("atomq.kombu")

KEEP_EVERY = LEAST_MS / 3000  # seconds between two renewals of the bindings of queues that expire


class UnroutableMessage(KombuError, AtomqError):
    """No queue is bound for this exchange and routing key, and there is no `deadletter_queue`.

    Not one of the errors of a channel: those make Kombu connect anew, maybe to another broker.
    """


class TopicExchange(virtual.exchange.TopicExchange):
    """Delivers to `deadletter_queue` too, as the other exchanges do."""

    def deliver(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        for queue in self.channel._lookup(exchange, routing_key):
            self.channel._put(queue, message, **kwargs)


class Declaring(virtual.Channel):
    """Queues, exchanges and bindings of a channel."""

    codecs: ClassVar[Any] = {**virtual.Channel.codecs, "base64": Base64()}
    exchange_types: ClassVar[Any] = {
        **virtual.Channel.exchange_types,
        "topic": TopicExchange,
    }

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.settings: Settings = connection.settings
        self.broker: Broker = connection.broker
        self.deadletter_queue = self.settings.deadletter_queue
        # Kombu binds a queue once a connection; any channel of the connection may consume it then.
        self.fanout_queues: dict[str, tuple[str, str]] = connection.fanout_queues
        self.reply_queues: dict[str, None] = connection.reply_queues
        self.declared_queues: set[str] = connection.declared_queues
        self.auto_delete_queues: set[str] = set()
        self._expires: dict[str, int] = {}
        self._touched: dict[str, float] = {}
        self._kept_at = time.monotonic()
        self._declares = False

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:
        keys = self.broker.keys(queue)
        self.declared_queues.add(queue)
        if auto_delete:
            self.auto_delete_queues.add(queue)
        expires = (kwargs.get("arguments") or {}).get("x-expires")
        if auto_delete or expires:
            keys.noted = inf  # it passes by itself: the register does without its name
        if isinstance(expires, int | float) and expires > 0:
            self._expires[queue] = max(1, int(min(expires, calls.LONGEST_LIFE)))
        else:
            self._expires.pop(queue, None)

    def _partitions(self, queue: str) -> list[QueueKeys]:
        """The keys of the partitions of a queue; its own, if it has none. Raises our errors."""
        return [self.broker.keys(name) for name in self.broker.spread.all_names(queue)]

    def _has_queue(self, queue: str, **_kwargs: Any) -> bool:
        # An empty queue is nothing in the server: this connection remembers what it declared.
        return queue in self.declared_queues or any(
            self.broker.engine.command("EXISTS", *keys.ready, keys.delayed)
            for keys in self._partitions(queue)
        )

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str | None, queue: str) -> None:
        if self.typeof(exchange).type == "fanout":
            self.fanout_queues[queue] = (exchange, routing_key.replace("#", "*"))
            self._regroup()
        if self._needs_table(exchange):
            binding = routing_key, pattern, queue
            self.broker.bindings.bind(exchange, binding, self._expires.get(queue))

    def _needs_table(self, exchange: str) -> bool:
        """Whether it is written down what the exchange leads to.

        On a cluster the table would be one shard's, which broadcasts and replies do not need.
        """
        is_known = is_reply_exchange(exchange) or self.typeof(exchange).type == "fanout"
        return not (self.broker.on_cluster and is_known)

    def queue_unbind(
        self,
        queue: str,
        exchange: Any = None,
        routing_key: str = "",
        arguments: Any = None,
        **_: Any,
    ) -> None:
        self.state.binding_delete(queue, exchange, routing_key)
        if self._needs_table(exchange):
            kind = self.typeof(exchange)
            binding = kind.prepare_bind(queue, exchange, routing_key, arguments)
            self.broker.bindings.unbind(exchange, binding)

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any
    ) -> None:
        """Delete a queue that this connection declared.

        With `if_empty` only if nothing is ready or delayed: the server looks and deletes in one
        step, so that no message is lost which arrives meanwhile. Of several partitions each is
        deleted so, after a look at all of them.
        """
        if if_empty and any(self.state.queue_bindings(queue)):
            try:
                self._drop(queue, if_empty=True)
            except QueueInUse:
                return
        super().queue_delete(queue, if_unused, dropped=if_empty, **kwargs)
        self.declared_queues.discard(queue)

    def _drop(self, queue: str, *, if_empty: bool = False) -> None:
        parts = self._partitions(queue)
        if if_empty and len(parts) > 1 and any(s.ready or s.delayed for s in self._states(parts)):
            raise QueueInUse(f"messages are ready or delayed in {queue!r}")
        for keys in reversed(parts):  # the first has the record of them
            self.broker.engine.run(
                calls.purge(
                    keys,
                    ready=True,
                    delayed=True,
                    dead=True,
                    settings=True,
                    if_empty=if_empty,
                )
            )
        self.broker.spread.forget(queue)

    def consumer_left(self, queue: str) -> None:
        """A consumer of a queue left: if the queue is `auto_delete`, and idle, nothing of it stays.

        What it still holds stays, as in stock. Raises our exceptions.
        """
        passes = queue in self.auto_delete_queues and queue not in self._expires
        if not passes or queue in self.fanout_queues or is_reply_queue(queue):
            return
        self.broker.keeper.send()  # or what was acked just now still counts as held
        keys = self.broker.keys(queue)
        gone = calls.purge(
            keys, ready=True, delayed=True, unacked=True, dead=True, settings=True, if_idle=True
        )
        with suppress(QueueInUse):
            self.broker.engine.run(gone)
        keys.noted = inf

    def _delete(
        self,
        queue: str,
        exchange: str,
        routing_key: str,
        pattern: str | None,
        *_args: Any,
        dropped: bool,
        **_kwargs: Any,
    ) -> None:
        self.auto_delete_queues.discard(queue)
        if not self._needs_table(exchange):
            self.reply_queues.pop(queue, None)
            return
        self.broker.bindings.unbind(exchange, (routing_key, pattern, queue))
        if not dropped:
            self._drop(queue)

    def _regroup(self) -> None:
        """What this channel consumes, or how, has changed."""

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        return self.broker.bindings.table(exchange)

    def _lookup(self, exchange: str, routing_key: str, default: Any = None) -> list[str]:
        if not exchange:
            return [routing_key or default or self.deadletter_queue or ""]
        if self.broker.on_cluster and is_reply_exchange(exchange):
            return [f"{routing_key}.{exchange}"]  # as Kombu names it
        kind, tables = self.typeof(exchange), self.broker.bindings
        for look in (tables.table, tables.read, self._healed):
            if found := kind.lookup(look(exchange), exchange, routing_key, None):
                return list(found)
        if self.deadletter_queue:
            return [self.deadletter_queue]
        if is_reply_exchange(exchange):
            log.debug("no client waits for the reply %s any more", routing_key)
            return []
        raise UnroutableMessage(
            f"no queue is bound to exchange {exchange!r} for {routing_key!r}: declare the queue, "
            "or set the transport option deadletter_queue"
        )

    def _healed(self, exchange: str) -> list[tuple[str, ...]]:
        """The table, with what this connection bound and what is gone written once more."""
        table, kind = self.broker.bindings.table(exchange), self.typeof(exchange)
        for queue, source, routing_key in list(self.state.bindings):
            if source == exchange:
                binding = kind.prepare_bind(queue, exchange, routing_key, {})
                if stored(binding) not in table:
                    self._queue_bind(exchange, *binding)
        return self.broker.bindings.table(exchange)

    def _touch(self, queue: str) -> None:
        """A queue that expires is used: it lives on."""
        expires = self._expires.get(queue)
        if expires is not None:
            self._touched[queue] = time.monotonic()
            for keys in self._partitions(queue):
                self.broker.engine.run(calls.touch(keys, expires))

    def _touch_now_and_then(self, queue: str) -> None:
        since = time.monotonic() - self._touched.get(queue, -inf)
        if since * 4000 > self._expires[queue]:
            self._touch(queue)

    def maybe_refresh_binding_expiry(self) -> None:
        """Now and then: the bindings of consumed queues that expire live on, others are swept."""
        if not self._expires:
            return
        queues = [queue for queue in self._active_queues if queue in self._expires]
        now = time.monotonic()
        if not queues or now - self._kept_at < KEEP_EVERY:
            return
        self._kept_at = now
        for queue in queues:
            for exchange, routing_key, arguments in list(self.state.queue_bindings(queue)):
                kind = self.typeof(exchange)
                self._queue_bind(
                    exchange, *kind.prepare_bind(queue, exchange, routing_key, arguments)
                )
        self.sweep_bindings()

    def sweep_bindings(self, limit: int = 100) -> int:
        """Delete binding tables that no consumer spoke for in time; how many deadlines went."""
        return self.broker.bindings.sweep(limit)

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> Any:
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> Any:
        """Declare a queue. On a cluster that needs no answer from its shard, unless `passive`."""
        self._declares = not passive
        try:
            return super().queue_declare(queue, passive, **kwargs)
        finally:
            self._declares = False

    def _size(self, queue: str) -> int:
        if self.broker.on_cluster:
            return self._size_on_cluster(queue)
        parts = self._partitions(queue)
        if len(parts) == 1:
            return sum(self.broker.engine.command("LLEN", key) for key in parts[0].ready)
        return sum(state.ready for state in self._states(parts))

    def _states(self, parts: Sequence[QueueKeys]) -> list[calls.QueueState]:
        states = self.broker.engine.run_all(list(map(calls.inspect, parts)))
        for state in states:
            if isinstance(state, AtomqError):
                raise state
        return states

    def _size_on_cluster(self, queue: str) -> int:
        passes = self.auto_delete_queues.union(self.fanout_queues, self.reply_queues)
        if self._declares and queue in passes:
            return 0
        ready = 0
        names = self.broker.spread.names if self._declares else self.broker.spread.all_names
        for name in names(queue):
            asked = calls.inspect(self.broker.keys(name))
            asked.brief = True
            try:
                ready += self.broker.engine.run(asked).ready
            except ServerUnavailable:
                if not self._declares:
                    raise
        return ready

    def _purge(self, queue: str) -> int:
        count = 0
        for keys in self._partitions(queue):
            gone = self.broker.engine.run(calls.purge(keys, ready=True, delayed=True))
            count += gone.ready + gone.delayed
        return count


def is_reply_queue(queue: str) -> bool:
    """A queue that one client of Celery's remote control waits on: <oid>.reply.celery.pidbox."""
    return ".reply." in queue and queue.endswith(".pidbox")


def is_reply_exchange(exchange: str) -> bool:
    """Where such replies are sent: reply.celery.pidbox."""
    return exchange.startswith("reply.") and exchange.endswith(".pidbox")
