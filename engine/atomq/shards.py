"""The connections of an engine to a cluster, for threads, asked by `reach.py`.

`shards_aio.py` is the twin for tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from redis import exceptions as server

from atomq.actions import NoAnswer
from atomq.cluster import Share, key_of, named
from atomq.conversation import packed
from atomq.keys import Place, hash_slot
from atomq.node_threads import NodeThreads
from atomq.pool import Pool
from atomq.reach import Reach
from atomq.translating import SERVER_ERRORS

if TYPE_CHECKING:
    from atomq.engine_base import EngineBase


class Shards(Reach):
    """The nodes of a cluster, for threads: what takes time has a thread for its node."""

    def __init__(self, engine: EngineBase) -> None:
        super().__init__(engine, lambda place: Pool(engine, place, self._late))
        self._knocking = NodeThreads()

    def _late(self, place: Place) -> None:
        """An answer is late: see `Pool`."""
        self.map.doubt(place)
        if self._is_replaced(place):
            raise server.TimeoutError("Timeout reading from socket: another node serves its slots")

    def knock(self, place: Place) -> None:
        """See `Nodes`: a thread of its own does it. The map is not kept waiting by the node."""
        self._knocking.do(None, "look", self._look_again)
        self._knocking.do(place, "knock", partial(self._knock, place))

    def _send(self, shares: Sequence[Share], replies: list[Any], within: float | None) -> None:
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

    def nodes(self) -> list[tuple[str, Pool]]:
        """The primaries."""
        self._asking(lambda: self._ask(None))
        return self._named(self.map.primaries)

    def replicas(self) -> list[tuple[str, Pool]]:
        """The other nodes."""
        self._asking(lambda: self._ask(None))
        primaries = {*self.map.primaries}
        return self._named([place for place in self.map.nodes if place not in primaries])

    def _named(self, places: Sequence[Place]) -> list[tuple[str, Pool]]:
        return [("{}:{}".format(*place), self.pool(place)) for place in places]

    def forget(self) -> None:
        """Begin anew in a child process."""
        self.begin()
        self._knocking = NodeThreads()
        for pool in self.pools():
            pool.forget()
