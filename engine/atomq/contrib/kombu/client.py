"""A plain redis-py client of the broker's server, for programs that ask a channel for one.

Autoscalers, exporters and scripts read `channel.client.llen(queue)`, as on stock. Nothing of the
transport itself goes this way.
"""

from __future__ import annotations

from typing import Any, ClassVar

from redis import Redis
from redis.client import Pipeline
from redis.connection import ConnectionPool

from atomq import connect
from atomq.address import Address


class Pool(ConnectionPool):
    """Connections to the server of an address. They raise redis-py's exceptions."""

    def __init__(self, address: Address) -> None:
        super().__init__()
        self._connector = connect.connector(address)

    def make_connection(self) -> Any:
        self._created_connections += 1
        return self._connector()


class _Prefixed:
    """Puts the `global_keyprefix` in front of keys, of the commands for which stock's does."""

    SIMPLE: ClassVar[frozenset[str]] = frozenset(
        {
            *("HDEL", "HGET", "HLEN", "HSET", "LLEN", "LPUSH", "PUBLISH", "RPUSH", "RPOP"),
            *("SADD", "SREM", "SET", "SMEMBERS", "ZADD", "ZRANGE", "ZREM", "PEXPIRE"),
        }
    )
    SEVERAL: ClassVar[dict[str, slice]] = {
        "DEL": slice(1, None),
        "BRPOP": slice(1, -1),
        "EVALSHA": slice(3, 4),
        "WATCH": slice(1, None),
    }

    global_keyprefix = ""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        given = list(args)
        keys = slice(1, 2) if given[0] in self.SIMPLE else self.SEVERAL.get(given[0], slice(0))
        given[keys] = [f"{self.global_keyprefix}{_text(key)}" for key in given[keys]]
        return super().execute_command(*given, **options)  # type: ignore[misc] # of redis-py

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[misc]
        if command_name == "BRPOP" and answer:
            return answer[0][len(self.global_keyprefix.encode()) :], answer[1]
        return answer


class _Pipeline(_Prefixed, Pipeline):
    """A pipeline of such a client."""


class Client(_Prefixed, Redis):
    """A client of this server."""

    def __init__(self, pool: Pool, prefix: str) -> None:
        super().__init__(connection_pool=pool)
        self.global_keyprefix = prefix

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        made = _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.global_keyprefix = self.global_keyprefix
        return made


def _text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)
