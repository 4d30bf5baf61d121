"""Which node of a cluster a call goes to, and what becomes known of the nodes on the way.

What becomes of a call is its node's affair: no other node is asked, waited for or closed.

It is made from `reach_aio.py` by `make format`: edit that.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis.connection import AbstractConnection

from atomq.actions import BRIEF, WAYS, Elsewhere, NoAnswer
from atomq.cluster import (
    ANYWHERE,
    FEW,
    NEAR,
    Nodes,
    Share,
    check_all,
    key_of,
    named,
    no_answers,
)
from atomq.conversation import packed
from atomq.drive import drive
from atomq.keys import Place, hash_slot
from atomq.opening import asked
from atomq.pool import Pool
from atomq.shared import Shared, members
from atomq.translating import SERVER_ERRORS
from atomq.wires import Wire

if TYPE_CHECKING:
    from atomq.calls import Call
    from atomq.engine_base import EngineBase


class Reach(Nodes[Pool]):
    """What `Pool` is for one server: the nodes of a cluster, each with its pool.

    See there for what is not said here.
    """

    def __init__(self, engine: EngineBase, make: Callable[[Place], Pool]) -> None:
        super().__init__(engine, make)
        self._asking = Shared[None]()

    # ── which node ────────────────────────────────────────────────────────────────────────────

    def _known(self, slot: int | None) -> Place | None:
        """The node that serves a slot, unless that is in doubt; None for `slot`: any node."""
        place = self.map.owner(slot)
        return None if place in self.map.doubted else place

    def _place(self, slot: int | None) -> Place:
        """The node that serves a slot; None: some node that lives."""
        place = self._known(slot)
        if place is None:
            self._look(slot)
            place = self.map.owner(slot)
        if place is None:
            raise self.unserved(slot)
        return place

    def _look(self, slot: int | None = None) -> None:
        """Ask the nodes for the map, unless they were asked a moment ago."""
        if self.map.is_due(time.monotonic()):
            self._asking(lambda: self._ask(slot))

    def _ask(self, slot: int | None) -> None:
        """Ask the nodes for the map: see `Nodes.asking`."""
        drive(self.asking(slot), lambda place: self._slots(place, self.map.within))
        for pool in self.gone():
            pool.close()

    def _slots(self, place: Place, within: float) -> Any:
        return asked(self._engine.reached.of_node(*place), within, "CLUSTER", "SLOTS")

    def _knock(self, place: Place) -> None:
        """Find out whether a node answers again."""
        with contextlib.suppress(*SERVER_ERRORS):
            self._slots(place, BRIEF)
            self.map.doubted.discard(place)

    def _look_again(self) -> None:
        """Find out whether other nodes serve what did one that is in doubt."""
        with contextlib.suppress(*SERVER_ERRORS):
            self._look()

    def _is_replaced(self, place: Place) -> bool:
        """An answer of a node is late: whether others serve its slots now."""
        with contextlib.suppress(*SERVER_ERRORS):
            self._look()
        return place not in self.map.primaries

    # ── what is said ──────────────────────────────────────────────────────────────────────────

    def one(self, call: Call[Any], within: float | None = None) -> Any:
        """Send one call."""
        slot = call.queue.slot
        place = self._known(slot) or self._place(slot)
        pool = self._pools[place]
        try:
            carried = None if pool.idles else self._carried(pool, (call,))
            reply = pool.one(call, within) if carried is None else carried[0]
        except SERVER_ERRORS as error:
            self.map.doubt(place)
            raise named(error, place) from error
        if isinstance(reply, Exception) or self.map.doubted:
            reply = self.map.judged(place, reply)
        return reply

    def _carried(
        self, pool: Pool, calls: Sequence[Call[Any]], loads: Sequence[Call[Any]] = ()
    ) -> list[Any] | None:
        """The replies over a connection that a consumer waits on at other times; None: none can."""
        for waiter in self._carriers():
            try:
                replies: list[Any] | None = waiter.carry(calls, loads)
            except SERVER_ERRORS:
                pool.standing.verified = False
                raise
            if replies is not None:
                return replies
        return None

    def _carriers(self) -> Sequence[Any]:
        """Not of many consumers: a connection that all share is found sooner."""
        carriers = self._engine.carriers
        return members(carriers) if 0 < len(carriers) <= FEW else ()

    def send(
        self,
        calls: Sequence[Call[Any]],
        loads: Sequence[Call[Any]] = (),
        within: float | None = None,
    ) -> list[Any]:
        """Send several, to all nodes at once. `NoAnswer` stands for what a node did not answer."""
        place = self._known(calls[0].queue.slot) if len(calls) == 1 else None
        if place is not None and not (pool := self.pool(place)).idles:
            carried = self._carried(pool, calls, loads)
            if carried is not None:
                return carried
        replies: list[Any] = [None] * (len(loads) + len(calls))
        shares: dict[Place, Share] = {}
        for at, call in enumerate((*loads, *calls)):
            try:
                place = call.place or self._place(call.queue.slot)
            except SERVER_ERRORS as error:
                replies[at] = NoAnswer(error)
            else:
                shares.setdefault(place, Share(place)).say(call, at, load=at < len(loads))
        self._send(list(shares.values()), replies, within)
        return no_answers(replies)

    def _send(self, shares: Sequence[Share], replies: list[Any], within: float | None) -> None:
        """Send to all nodes, then hear from all; what is to be heard `within` is not sent again."""
        raise NotImplementedError

    def command(self, args: Sequence[Any]) -> Any:
        """Any command, to the node of its first key; to some node, if it has none.

        What any node does alike is given to another one where it is not done at once: a message to
        a channel may come twice then.
        """
        return self._command(args, large=True)

    def get(self, key: str) -> Any:
        """GET."""
        return self._command(("GET", key), large=False)

    def _command(self, args: Sequence[Any], *, large: bool) -> Any:
        key = key_of(args)
        slot = None if key is None else hash_slot(key)
        head, *rest = args
        data = packed((*str(head).split(), *rest))
        asking: Place | None = None
        reply: Any = None
        within = NEAR if head in ANYWHERE else None
        for tried in range(WAYS):
            place = asking or self._place(slot)
            share = Share(place, large=large)
            share.say_packed(data, 0, asking=asking is not None)
            try:
                heard = self.pool(place).over(share, looked_at=True, within=within)
            except SERVER_ERRORS as error:
                self.map.doubt(place)
                if within is not None and tried + 1 < WAYS and self.map.is_any_sound:
                    continue
                raise named(error, place) from error
            reply = self.map.judged(place, heard[-1])
            if not isinstance(reply, Elsewhere):
                break
            asking = reply.place
        if isinstance(reply, Exception):
            raise reply
        return reply

    def lengths(self, keys: Sequence[str]) -> list[Any]:
        """LLEN of each list, soon or not at all; None, or an error, where it is not known."""
        found: dict[str, Any] = {}
        for waiter in self._carriers():
            found |= waiter.lengths({*keys}.difference(found))
        others = [key for key in keys if key not in found]
        replies: list[Any] = [None] * len(others)
        self._send(self.lengths_of(others), replies, BRIEF)
        found |= zip(others, replies, strict=True)
        return [found[key] for key in keys]

    def unblock(self, lines: Sequence[tuple[Place | None, int]]) -> list[Any]:
        """CLIENT UNBLOCK of each connection, its node and its number, to all nodes at once."""
        replies: list[Any] = [None] * len(lines)
        self._send(self.unblocking(lines), replies, BRIEF)
        check_all(replies)
        return replies

    # ── connections of the caller's own ───────────────────────────────────────────────────────

    def fresh(self, channel: str | None = None) -> AbstractConnection:
        """A connection to the node that serves the key called like a channel; None: to some node.

        In a cluster a message to a channel reaches all nodes.
        """
        return self.fresh_at(self._place(None if channel is None else hash_slot(channel)))

    def fresh_at(self, place: Place) -> AbstractConnection:
        """A connection to this node."""
        try:
            return self.pool(place).fresh()
        except SERVER_ERRORS as error:
            self.map.doubt(place)
            raise named(error, place) from error

    def blocking(self, keys: Sequence[str]) -> list[tuple[AbstractConnection | Wire, list[str]]]:
        """Connections to wait for these lists: see `Nodes.opening`."""
        return drive(self.opening(keys), self._to_wait_on)

    def _to_wait_on(self, keys: Sequence[str]) -> AbstractConnection | Wire:
        """One that idles, where the calls that it was for travel over it from here on."""
        idle = None
        if len(keys) > 1 and self._carriers():
            idle = self.pool(self._place(hash_slot(keys[0]))).give()
        return idle if isinstance(idle, Wire) else self.fresh(keys[0])

    def close(self) -> None:
        """Close what is not in use, to all nodes."""
        for pool in self.pools():
            pool.close()
