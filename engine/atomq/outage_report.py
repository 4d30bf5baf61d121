"""What an engine reports of the servers that are in trouble while it carries out a call."""

from __future__ import annotations

from typing import Any

from redis import exceptions as server

from atomq.actions import Pause
from atomq.calls import Call
from atomq.errors import ServerUnavailable
from atomq.outage import Outage, Standing, outage_of_slot


class OutageReport:
    """What a driver reports of the servers that are in trouble while it runs a call."""

    def __init__(self, lines: Any, standing: Standing) -> None:
        self._pool = lines
        self._standing = standing
        self._troubled = {standing}
        self._moving: set[Outage] = set()

    def pauses(self, pause: Pause) -> None:
        """It waits for a server, or for a slot that moves: then its node is well."""
        if isinstance(pause.trouble, server.TryAgainError) and pause.call is not None:
            outage = outage_of_slot(pause.call.queue.slot)
            self._moving.add(outage)
            outage.away(pause.trouble, pause.spent, pause.seconds)
        else:
            self._standing = self._missed(pause.trouble, pause.call)
            self._troubled.add(self._standing)
            self._away(pause.trouble, pause.spent, pause.seconds)

    def _away(self, trouble: Exception, seconds: float = 0.0, more: float = 0.0) -> None:
        outage = self._standing.outage
        if not self._pool.has_left(outage):  # else no caller misses the answer that never came
            outage.away(trouble, seconds, more)

    def _missed(self, trouble: BaseException | None, call: Call[Any] | None = None) -> Standing:
        """Of a cluster the node that was asked: by now another one may serve the slot."""
        place, found = getattr(trouble, "place", None), self._standing
        if place is not None:
            found = self._pool.standing_at(place)
        elif call is not None:
            found = self._pool.standing_of(call)
        return found

    def gave_up(self, error: Exception) -> None:
        """It waits no longer: the next call looks at the server anew."""
        if not isinstance(error.__cause__, server.TryAgainError):
            self._standing = self._missed(error.__cause__)
            self._standing.verified = False
            self._away(error)

    def ended(self, results: list[Any]) -> None:
        """There are results; of a batch some may be missing.

        A node that is still in doubt has not answered: another one did, which serves the slot now.
        """
        for result in results:
            if isinstance(result, ServerUnavailable):
                self.gave_up(result)
                self._troubled.discard(self._standing)
                break
        for outage in self._moving:
            outage.back()
        for outage in (standing.outage for standing in self._troubled):
            if self._pool.has_left(outage):
                outage.left()
            elif not self._pool.in_doubt(outage):
                outage.back()
