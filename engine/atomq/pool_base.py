"""What a pool knows of its server without a connection, alike for threads and for tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from atomq.address import Address
from atomq.errors import ServerTooOld
from atomq.keys import Place
from atomq.outage import Outage, Standing, outage_of_node

if TYPE_CHECKING:
    from atomq.calls import Call
    from atomq.engine_base import EngineBase

FRESH = 0.5  # seconds for which a connection that was used is not looked at before it is used again
LATE = 0.5  # seconds after which an answer is late enough to ask whether another node serves now
HANDSHAKE = 0.6  # seconds for the first try to connect to a node of a cluster
LONGER = 1.05  # times as many for the next one: meanwhile another node may come to serve its slots


class PoolBase:
    """One server: what is known of it, and how long it may take to connect to it.

    For a node of a cluster `place` is where it listens. `connector` is one of `connect.py`.
    """

    def __init__(
        self, engine: EngineBase, place: Place | None, connector: Callable[[Address, Any], Any]
    ) -> None:
        self.engine = engine
        self.place = place
        address, outage = engine.reached, engine.outage
        if place is not None:
            address, outage = address.of_node(*place), outage_of_node(place)
        self.standing = Standing(outage)
        self._handshake = None if place is None else HANDSHAKE
        self._connector = connector(address, self)

    @property
    def _longest(self) -> float:
        options = self.engine.options
        return max(options.socket_timeout or 1e9, options.socket_connect_timeout or 1e9)

    # ── what is known of the server ───────────────────────────────────────────────────────────

    def hopeless(self, _slot: int) -> Exception | None:
        """Why a brief call is not worth a try now."""
        return None

    def standing_of(self, _call: Call[Any]) -> Standing:
        """What is known of the server that carries out a call."""
        return self.standing

    def outage_of(self, _args: Sequence[Any]) -> Outage:
        """The outage of the server that carries out a command."""
        return self.standing.outage

    def in_doubt(self, _outage: Outage) -> bool:
        """Whether a server gave no answer the last time: there is one, and what answers is that."""
        return False

    def has_left(self, _outage: Outage) -> bool:
        """Whether another server has taken the place of one."""
        return False

    def everywhere(self) -> list[Standing]:
        """What is known of each server."""
        return [self.standing]

    # ── what sentinels and credential providers say, in a thread of theirs ────────────────────

    def switched(self) -> None:
        """There is another master: what is in use is closed when its answer has come."""
        self.engine.moves += 1
        self.standing.verified = False
        self.rotated()

    def rotated(self) -> None:
        """There are other credentials: what is in use is closed when its answer has come."""
        self.engine.era += 1
        self._leave_old()

    def _leave_old(self) -> None:
        """Close what idles and was opened before, and the rest when its answer has come."""
        raise NotImplementedError


def check_version(hello: Any) -> None:
    """Refuse a server that is too old, by its answer to HELLO. Raises `ServerTooOld`."""
    if not isinstance(hello, dict):
        return
    known = {_text(name): _text(value) for name, value in hello.items()}
    name, version = known.get("server", ""), known.get("version", "")
    least = {"redis": (6, 2), "valkey": (7, 2)}.get(name, (0,))
    try:
        found = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        return
    if found < least:
        needed = ".".join(map(str, least))
        raise ServerTooOld(f"this is {name} {version}: atomq needs {needed} or newer")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
