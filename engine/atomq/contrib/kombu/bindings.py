"""Which queues an exchange leads to, in the tables that stock Kombu keeps.

A table is a set of bindings. One with queues that expire (`x-expires`: Celery's remote control) has
a deadline, which their consumers push on; past it the table is deleted, unless a queue that does
not expire is bound too.
"""

from __future__ import annotations

import time

from redis import exceptions as server

from atomq.client import Engine
from atomq.translating import translated

AGE = 2.0  # seconds a table is believed
LEAST_MS = 60 * 60 * 1000  # a table lives for so long at least: a solo worker may be busy meanwhile

Binding = tuple[str | None, str | None, str]
"""Routing key, pattern and queue, as Kombu's exchanges make it."""


def stored(binding: Binding) -> tuple[str, ...]:
    """A binding as a table has it."""
    return tuple(part or "" for part in binding)


class Bindings:
    """The tables of one server."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tables: dict[str, tuple[float, list[tuple[str, ...]]]] = {}
        prefix = engine.options.global_keyprefix  # a namespace is of a cluster: see `NodeBindings`
        self._table = prefix + "_kombu.binding."
        self._permanent = prefix + "_kombu.binding_permanent."
        self._deadlines = prefix + "_kombu.binding_deadlines"

    def table(self, exchange: str) -> list[tuple[str, ...]]:
        """The bindings of an exchange: (routing key, pattern, queue)."""
        at, found = self._tables.get(exchange, (0.0, []))
        return found if time.monotonic() - at < AGE else self.read(exchange)

    def read(self, exchange: str) -> list[tuple[str, ...]]:
        """The same, as it is now."""
        sep = self._engine.options.sep
        members = self._engine.command("SMEMBERS", self._table + exchange, patient=True)
        parts = (tuple(member.decode("utf-8", "replace").split(sep)) for member in members)
        found: list[tuple[str, ...]] = [each for each in parts if len(each) == 3]
        self._tables[exchange] = (time.monotonic(), found)
        return found

    def bind(self, exchange: str, binding: Binding, expires_ms: int | None = None) -> None:
        """Add a binding; doing it again heals what was lost. `expires_ms` is that of the queue."""
        member = self._engine.options.sep.join(stored(binding))
        # The table comes last: it is never there without what keeps it from being swept.
        if expires_ms is None:
            self._engine.command("SADD", self._permanent + exchange, member, patient=True)
        else:
            deadline = self._now_ms() + lifetime_ms(expires_ms)
            self._engine.command("ZADD", self._deadlines, "GT", deadline, exchange, patient=True)
        self._engine.command("SADD", self._table + exchange, member, patient=True)
        self._tables.pop(exchange, None)

    def unbind(self, exchange: str, binding: Binding) -> None:
        """Take a binding away."""
        member = self._engine.options.sep.join(stored(binding))
        for key in (self._table, self._permanent):
            self._engine.command("SREM", key + exchange, member)
        self._tables.pop(exchange, None)

    def sweep(self, limit: int = 100) -> int:
        """Delete tables whose deadline has passed; how many deadlines went."""
        now = self._now_ms()
        found = self._engine.command(
            "ZRANGEBYSCORE", self._deadlines, "-inf", now, "LIMIT", 0, limit
        )
        return sum(self._sweep(exchange.decode(), now) for exchange in found)

    def _sweep(self, exchange: str, now_ms: int) -> bool:
        table, permanent = self._table + exchange, self._permanent + exchange
        line = self._engine.connection()

        def ask(*command: object) -> object:
            line.send_command(*command)
            return line.read_response()

        try:
            # A consumer may come back at this moment: then nothing is deleted.
            ask("WATCH", self._deadlines, permanent)
            deadline = ask("ZSCORE", self._deadlines, exchange)
            if deadline is None or float(deadline) > now_ms:  # type: ignore[arg-type] # a number
                return False
            kept = ask("EXISTS", permanent)
            ask("MULTI")
            if not kept:
                ask("DEL", table)
            ask("ZREM", self._deadlines, exchange)
            done = ask("EXEC")
        except (server.RedisError, OSError) as error:
            raise translated(error) from error
        finally:
            line.disconnect()
        self._tables.pop(exchange, None)
        return done is not None

    def _now_ms(self) -> int:
        seconds, micros = self._engine.command("TIME", patient=True)
        return int(seconds) * 1000 + int(micros) // 1000


def lifetime_ms(expires_ms: int) -> int:
    """How long a table is kept after the last word of a consumer of a queue that expires."""
    return max(2 * expires_ms, LEAST_MS)
