"""The channel: declares, binds, publishes and consumes, in Kombu's words.

Queues, leases, delays and dead letters are the engine's. What is here and below is what Kombu's
virtual channel asks of a transport, and the wire format that stock workers share: `declaring.py`,
on it `publishing.py`, on it `consuming.py`.
"""

from __future__ import annotations

import contextlib
from bisect import bisect
from collections.abc import Iterator
from typing import Any

from atomq.contrib.kombu.client import Client, Pool
from atomq.contrib.kombu.consuming import Consuming
from atomq.contrib.kombu.declaring import UnroutableMessage
from atomq.errors import AtomqError
from atomq.fork import once

__all__ = ["Channel", "UnroutableMessage"]


class Channel(Consuming):
    """A channel of our transport, with the names that programs use of stock's."""

    supports_fanout = True
    from_transport_options = ()

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.body_encoding = self.settings.body_encoding

    @once
    def pool(self) -> Pool:
        """Connections for `client`; closed with the channel."""
        return Pool(self.broker.address)

    @once
    def client(self) -> Client:
        """A client of redis-py's for the broker's server. It raises redis-py's exceptions."""
        return Client(self.pool, self.global_keyprefix)

    @contextlib.contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """The client that was given, or else `client`."""
        yield client or self.client

    @property
    def global_keyprefix(self) -> str:
        """What stands before every key."""
        return self.broker.engine.prefix

    @property
    def sep(self) -> str:
        """What stands between a queue's name and the priority of a list."""
        return self.broker.engine.options.sep

    @property
    def priority_steps(self) -> list[int]:
        """The priorities that have a list of their own."""
        return list(self.broker.engine.options.priority_steps)

    @property
    def keyprefix_fanout(self) -> str:
        """What stands before the names of broadcasts."""
        return self.settings.fanout_prefix

    @property
    def visibility_timeout(self) -> float:
        """Seconds after which a stock worker takes over what another one holds."""
        return self.broker.engine.options.visibility_timeout

    @property
    def unacked_key(self) -> str:
        """Where stock workers keep what they hold."""
        return self.settings.unacked_key

    @property
    def unacked_index_key(self) -> str:
        """Where they keep since when."""
        return self.settings.unacked_index_key

    def priority(self, n: int) -> int:
        """The priority whose list a message of priority `n` goes to."""
        steps = self.priority_steps
        return steps[bisect(steps, n) - 1]

    def _q_for_pri(self, queue: str, pri: int) -> str:
        priority = self.priority(pri)
        return f"{queue}{self.sep}{priority}" if priority else queue

    def drain_events(self, timeout: Any = None, callback: Any = None) -> Any:
        return self.connection.drain_events(self.connection, timeout=timeout)

    def close(self) -> None:
        if not self.closed and self.connection is not None:
            if not self.connection.lost:
                with contextlib.suppress(AtomqError):
                    for queue in list(self.auto_delete_queues & set(self.fanout_queues)):
                        self.queue_delete(queue)
            self._receiver.forget(self)
        super().close()
        if "pool" in self.__dict__:
            self.pool.disconnect()
