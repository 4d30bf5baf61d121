"""The connections of an engine to a cluster, for threads: a pool a node, chosen by `cluster.py`.

A call goes to the node that serves its slot, and what becomes of it is that node's affair: no other
is asked, waited for or closed. `shards_aio.py` is the twin for tasks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from redis import exceptions as server

from atomq import connect, wires
from atomq.actions import BRIEF, WAYS, Elsewhere, NoAnswer
from atomq.cluster import ANYWHERE, NEAR, Share, check_all, key_of, named, no_answers
from atomq.conversation import packed
from atomq.keys import Place, hash_slot
from atomq.node_threads import NodeThreads
from atomq.pool import Pool
from atomq.reach import Reach
from atomq.translating import SERVER_ERRORS

if TYPE_CHECKING:
    from atomq.calls import Call
    from atomq.engine_base import EngineBase


class Shards(Reach):
    """What `Pool` is for one server. See there for what is not said here."""

    def __init__(self, engine: EngineBase) -> None:
        super().__init__(engine, lambda place: Pool(engine, place, self._late))
        self._knocking = NodeThreads()

    # ── which node ────────────────────────────────────────────────────────────────────────────

    def _slots(self, place: Place, within: float) -> Any:
        connection = connect.connector(self._engine.address.of_node(*place))()
        wires.hurry(connection, within)
        try:
            connection.connect()
            connection.send_command("CLUSTER", "SLOTS", check_health=False)
            return connection.read_response()
        finally:
            connection.disconnect()

    def _late(self, place: Place) -> None:
        """An answer is late: see `Pool`."""
        self.map.doubt(place)
        if self.map.is_due(time.monotonic()):
            with contextlib.suppress(*SERVER_ERRORS):
                self._asking(lambda: self._ask(None))
        if place not in self.map.primaries:
            raise server.TimeoutError("Timeout reading from socket: another node serves its slots")

    def knock(self, place: Place) -> None:
        """See `Nodes`: a thread of its own does it."""
        self._knocking.do(place, "knock", partial(self._knock, place))

    # ── what is said ──────────────────────────────────────────────────────────────────────────

    def send(
        self,
        calls: Sequence[Call[Any]],
        loads: Sequence[Call[Any]] = (),
        within: float | None = None,
    ) -> list[Any]:
        """Send several, to all nodes at once. `NoAnswer` stands for what a node did not answer."""
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
        """Send to all nodes, then hear from all."""
        if not shares:
            return
        first, others = shares[0], list(shares[1:])

        def meanwhile() -> None:
            some = others.copy()
            others.clear()
            self._send(some, replies, within)

        try:
            heard = self.pool(first.place).over(
                first,
                looked_at=within is not None,  # what is brief is not sent again
                within=within,
                meanwhile=meanwhile,
            )
        except SERVER_ERRORS as error:
            self.map.doubt(first.place)
            first.failed(named(error, first.place), replies)
        else:
            first.answered(heard, self.map, replies)
        self._send(others, replies, within)

    def command(self, args: Sequence[Any]) -> Any:
        """Any command, to the node of its first key; to some node, if it has none.

        What any node does alike is given to another one where it is not done at once: a message to
        a channel may come twice then.
        """
        key = key_of(args)
        slot = None if key is None else hash_slot(key)
        head, *rest = args
        data = packed((*str(head).split(), *rest))
        asked: Place | None = None
        reply: Any = None
        within = NEAR if head in ANYWHERE else None
        for tried in range(WAYS):
            place = asked or self._place(slot)
            share = Share(place)
            share.say_packed(data, 0, asking=asked is not None)
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
            asked = reply.place
        if isinstance(reply, Exception):
            raise reply
        return reply

    def get(self, key: str) -> Any:
        """GET."""
        return self.command(("GET", key))

    def commands(self, many: Sequence[Sequence[Any]], within: float | None = None) -> list[Any]:
        """Several commands, to all nodes at once. What came instead of a reply stands for it.

        Those that are to be answered `within` so many seconds ask no node that is in doubt.
        """
        replies: list[Any] = [None] * len(many)
        shares: dict[Place, Share] = {}
        for at, args in enumerate(many):
            key = key_of(args)
            slot = None if key is None else hash_slot(key)
            try:
                if within is not None and (why := self.hopeless(slot)) is not None:
                    raise why
                place = self._place(slot)
            except SERVER_ERRORS as error:
                replies[at] = NoAnswer(error)
            else:
                shares.setdefault(place, Share(place)).say_packed(packed(args), at)
        self._send(list(shares.values()), replies, within)
        return replies

    def lengths(self, keys: Sequence[str]) -> list[Any]:
        """LLEN of each list, soon or not at all; None, or an error, where it is not known."""
        replies: list[Any] = [None] * len(keys)
        self._send(self.lengths_of(keys), replies, BRIEF)
        return replies

    # ── connections of the caller's own ───────────────────────────────────────────────────────

    def unblock(self, lines: Sequence[tuple[Place | None, int]]) -> None:
        """CLIENT UNBLOCK of each connection, its node and its number, to all nodes at once."""
        replies: list[Any] = [None] * len(lines)
        self._send(self.unblocking(lines), replies, BRIEF)
        check_all(replies)

    def nodes(self) -> list[tuple[str, Pool]]:
        """The primaries."""
        self._asking(lambda: self._ask(None))
        return [("{}:{}".format(*place), self.pool(place)) for place in self.map.primaries]

    def close(self) -> None:
        """Close what idles, to all nodes."""
        for pool in self.pools():
            pool.close()

    def forget(self) -> None:
        """Begin anew in a child process."""
        self.begin()
        self._knocking = NodeThreads()
        for pool in self.pools():
            pool.forget()
