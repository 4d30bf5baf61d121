"""What is asked of one server, over a connection of its pool or a fresh one.

It is made from `commands_aio.py` by `make format`: edit that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions as server
from redis.connection import AbstractConnection

from atomq.actions import BRIEF
from atomq.conversation import packed, unblocking
from atomq.flight import Bare, Flight, Load
from atomq.keys import Place
from atomq.opening import connected
from atomq.pool_base import HANDSHAKE, LONGER, PoolBase, check_version

if TYPE_CHECKING:
    from atomq.calls import Call


class Commands(PoolBase):
    """What a pool is asked for; the pool itself has the connections."""

    def over(
        self, load: Load, *, looked_at: bool = False, within: float | None = None
    ) -> list[Any]:
        """The replies to packed commands, over a connection that idles, or a new one.

        `looked_at`: what is sent is not sent again, so the connection is looked at first. The
        replies have to come `within` so many seconds.
        """
        raise NotImplementedError

    def send(
        self,
        calls: Sequence[Call[Any]],
        loads: Sequence[Call[Any]] = (),
        within: float | None = None,
    ) -> list[Any]:
        """Send several calls in one go: replies and server errors in their order.

        Before them, those of SCRIPT LOAD of the scripts of `loads`.
        """
        flight = Flight(calls, loads)
        return flight.replies(self.over(flight, within=within))

    def command(self, args: Sequence[Any]) -> Any:
        """Any command. It is not sent again."""
        head, *rest = args
        return self._only(Bare([packed((*str(head).split(), *rest))]))

    def get(self, key: str) -> Any:
        """GET."""
        return self._only(Bare([packed(("GET", key))], large=False))

    def _only(self, load: Load) -> Any:
        reply = (self.over(load, looked_at=True))[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def lengths(self, keys: Sequence[str]) -> list[Any]:
        """LLEN of each list, in one go, soon or not at all."""
        load = Bare([packed(("LLEN", key)) for key in keys], large=False)
        return self.over(load, looked_at=True, within=BRIEF)

    def unblock(self, lines: Sequence[tuple[Place | None, int]]) -> list[Any]:
        """CLIENT UNBLOCK of each connection: its node, and its number. 1: it ended a wait."""
        return [self.command(unblocking(client_id)) for _, client_id in lines]

    # ── connections of the caller's own ───────────────────────────────────────────────────────

    def fresh(
        self, _channel: str | None = None, *, within: float | None = None
    ) -> AbstractConnection:
        """A connection of the caller's own, connected (`within` so many seconds)."""
        connection: AbstractConnection = self._connector()
        handshake = self._handshake
        if within is not None or handshake is not None:
            # A node that stands still takes connections and does not answer; another one may soon
            # serve what it did.
            within = min(within or 1e9, handshake or 1e9, self._longest)
        try:
            connected(connection, within, self.engine.options.socket_timeout)
        except (server.TimeoutError, OSError):
            if handshake is not None:
                self._handshake = min(LONGER * handshake, self._longest)
            raise
        if handshake is not None:
            self._handshake = HANDSHAKE
        check_version(getattr(connection, "handshake_metadata", None))
        return connection

    def blocking(self, keys: Sequence[str]) -> list[tuple[AbstractConnection, list[str]]]:
        """Connections to wait for these lists, each with those that are waited for on it."""
        return [(self.fresh(), list(keys))]
