"""What an engine reports of the servers that are in trouble while it carries out a call."""

from __future__ import annotations

from typing import Any

from redis import exceptions as server

from atomq.actions import Pause
from atomq.errors import ServerUnavailable
from atomq.outage import PATIENCE, Outage, Standing, outage_of_slot


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
        else:
            self._standing = self._missed(pause)
            self._troubled.add(self._standing)
            outage = self._standing.outage
        if pause.spent + pause.seconds > PATIENCE:
            outage.away(pause.trouble, pause.spent)

    def _missed(self, pause: Pause) -> Standing:
        """Of a cluster the node that was asked: by now another one may serve the slot."""
        found: Standing = self._standing
        if pause.call is not None:
            place = getattr(pause.trouble, "place", None)
            lines = self._pool
            found = lines.standing_of(pause.call) if place is None else lines.standing_at(place)
        return found

    def gave_up(self, error: Exception) -> None:
        """It waits no longer."""
        if not isinstance(error.__cause__, server.TryAgainError):
            self._standing.gave_up(error)

    def ended(self, results: list[Any]) -> None:
        """There are results; of a batch some may be missing."""
        for result in results:
            if isinstance(result, ServerUnavailable):
                self._troubled.discard(self._standing)
                self.gave_up(result)
                break
        for outage in (*self._moving, *(standing.outage for standing in self._troubled)):
            outage.back()
