"""The tables of a cluster: one key an exchange, which has the deadlines too (`lua/bindings.lua`).

It shares the slot of the queue that is called like the exchange, as Celery's are.
"""

from __future__ import annotations

import logging
import time
from functools import partial

from atomq import calls
from atomq.client import Engine
from atomq.contrib.kombu.bindings import AGE, LEAST_MS, Binding, Bindings, lifetime_ms, stored
from atomq.errors import AtomqError, ServerUnavailable
from atomq.keys import ExchangeKeys
from atomq.node_threads import NodeThreads

log = logging.getLogger("atomq.kombu")

PATIENCE = 1.0  # seconds that a declaration waits for the shard of its exchange


class NodeBindings(Bindings):
    """The tables of one cluster."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._threads = NodeThreads()

    def keys(self, exchange: str) -> ExchangeKeys:
        """Where the table of an exchange is."""
        return ExchangeKeys(exchange, self._engine.prefix)

    def read(self, exchange: str) -> list[tuple[str, ...]]:
        """The bindings of an exchange, as they are now; as they were, where its shard is away."""
        sep = self._engine.options.sep
        try:
            members = self._engine.run(calls.bindings(self.keys(exchange)))
        except ServerUnavailable:
            if exchange not in self._tables:
                raise
            _, found = self._tables[exchange]
        else:
            parts = (tuple(member.split(sep)) for member in members)
            found = [each for each in parts if len(each) == 3]
        self._tables[exchange] = (time.monotonic(), found)
        return found

    def bind(self, exchange: str, binding: Binding, expires_ms: int | None = None) -> None:
        """Add a binding; doing it again heals what was lost. `expires_ms` is that of the queue.

        Where the shard does not answer soon, a thread goes on trying.
        """
        keys = self.keys(exchange)
        lives_ms = None if expires_ms is None else lifetime_ms(expires_ms)
        member = self._engine.options.sep.join(stored(binding))
        call = calls.bindings(keys, added=member, lives_ms=lives_ms)
        call.brief = True
        trouble: list[AtomqError] = []
        slots = self._engine.slots
        place = slots.owner(keys.slot) if slots is not None else None
        what = f"bind {exchange} {member} {lives_ms is None}"
        done = self._threads.do(place, what, partial(self._bind, exchange, call, trouble))
        if done is not None and not done.wait(PATIENCE):
            log.warning("the exchange %r is bound later: its shard does not answer", exchange)
        if trouble:
            raise trouble[0]
        self._tables.pop(exchange, None)

    def _bind(self, exchange: str, call: calls.Call[list[str]], trouble: list[AtomqError]) -> None:
        until = time.monotonic() + LEAST_MS / 1000
        while time.monotonic() < until:
            try:
                self._engine.run(call)
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
        self._engine.run(calls.bindings(self.keys(exchange), removed=member))
        self._tables.pop(exchange, None)

    def sweep(self, limit: int = 100) -> int:
        """Do nothing: each call takes out what is over, and what is not called for expires."""
        return 0
