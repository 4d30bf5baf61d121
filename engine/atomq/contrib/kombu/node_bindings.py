"""The tables of a cluster: one key an exchange, which holds the deadlines too.

`_atomq.{<exchange>}.bindings` is a sorted set of bindings by deadline, in ms since 1970; those of
queues that do not expire have none (infinite). It shares the slot of the queue that is called like
the exchange, as Celery's are. Clocks of clients differ by less than a table lives.
"""

from __future__ import annotations

import logging
import time
from functools import partial

from atomq.client import Engine
from atomq.contrib.kombu.bindings import AGE, Binding, Bindings, lifetime_ms, stored
from atomq.errors import AtomqError, ServerUnavailable
from atomq.keys import hash_slot
from atomq.node_threads import NodeThreads

log = logging.getLogger("atomq.kombu")

PATIENCE = 1.0  # seconds that a declaration waits for the shard of its exchange
_PLAIN = str.maketrans({"{": "%7B", "}": "%7D", "%": "%25"})


class NodeBindings(Bindings):
    """The tables of one cluster."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._threads = NodeThreads()
        self._bound: set[str] = set()

    def key(self, exchange: str) -> str:
        """The table of an exchange."""
        return f"_atomq.{{{(self._engine.prefix + exchange).translate(_PLAIN)}}}.bindings"

    def read(self, exchange: str) -> list[tuple[str, ...]]:
        """The bindings of an exchange, as they are now; as they were, where its shard is away."""
        sep = self._engine.options.sep
        try:
            members = self._engine.command(
                "ZRANGEBYSCORE", self.key(exchange), _now_ms(), "+inf", patient=True
            )
        except ServerUnavailable:
            if exchange not in self._tables:
                raise
            _, found = self._tables[exchange]
        else:
            parts = (tuple(member.decode("utf-8", "replace").split(sep)) for member in members)
            found = [each for each in parts if len(each) == 3]
        self._tables[exchange] = (time.monotonic(), found)
        return found

    def bind(self, exchange: str, binding: Binding, expires_ms: int | None = None) -> None:
        """Add a binding; doing it again heals what was lost. `expires_ms` is that of the queue.

        Where the shard does not answer soon, a thread goes on trying.
        """
        deadline = "+inf" if expires_ms is None else str(_now_ms() + lifetime_ms(expires_ms))
        member = self._engine.options.sep.join(stored(binding))
        self._bound.add(exchange)
        trouble: list[AtomqError] = []
        job = partial(self._bind, exchange, member, deadline, trouble)
        slots, slot = self._engine.slots, hash_slot(self.key(exchange))
        place = slots.owner(slot) if slots is not None else None
        done = self._threads.do(place, f"bind {exchange} {member} {deadline == '+inf'}", job)
        if done is not None and not done.wait(PATIENCE):
            log.warning("the exchange %r is bound later: its shard does not answer", exchange)
        if trouble:
            raise trouble[0]
        self._tables.pop(exchange, None)

    def _bind(self, exchange: str, member: str, deadline: str, trouble: list[AtomqError]) -> None:
        began = time.monotonic()
        while time.monotonic() - began < lifetime_ms(0) / 1000:
            try:
                key = self.key(exchange)
                self._engine.command("ZADD", key, "GT", deadline, member)
                self._engine.command("ZREMRANGEBYSCORE", key, "-inf", f"({_now_ms()}")
            except ServerUnavailable as error:
                log.debug("binding %r: %s", exchange, error)
                time.sleep(AGE)
            except AtomqError as error:
                trouble.append(error)
                return
            else:
                return

    def unbind(self, exchange: str, binding: Binding) -> None:
        """Take a binding away."""
        member = self._engine.options.sep.join(stored(binding))
        self._engine.command("ZREM", self.key(exchange), member)
        self._tables.pop(exchange, None)

    def sweep(self, limit: int = 100) -> int:
        """Take out what this process' exchanges led to, and does not any more; how much went."""
        return sum(
            self._engine.command("ZREMRANGEBYSCORE", self.key(exchange), "-inf", f"({_now_ms()}")
            for exchange in list(self._bound)[:limit]
        )


def _now_ms() -> int:
    return int(time.time() * 1000)
