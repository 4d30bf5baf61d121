"""What goes over one connection at once, and which of the replies is whose. Without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atomq.calls import Call
from atomq.conversation import packed
from atomq.durability import Confirmed


class Flight:
    """Some calls, before them SCRIPT LOAD of the scripts of `loads`, behind them what confirms.

    One WAIT behind several scripts is for all of them. Raises redis-py's `DataError` for what
    cannot be sent.
    """

    __slots__ = ("_calls", "_loads", "_order", "data", "patience")

    def __init__(self, calls: Sequence[Call[Any]], loads: Sequence[Call[Any]] = ()) -> None:
        self._calls, self._loads = calls, len(loads)
        self.data = [packed(("SCRIPT", "LOAD", each.script.text)) for each in loads]
        self.data += [call.packed() for call in calls]
        wanted = dict.fromkeys(call.durability for call in calls if call.durability is not None)
        self._order = list(wanted)
        self.patience = 0.0
        """Seconds for which the server may take its time, beyond those that others have."""
        for durability in self._order:
            self.data += map(packed, durability.commands())
            self.patience += durability.seconds

    def replies(self, answers: Sequence[Any]) -> list[Any]:
        """One for each of `loads`, then one a call: with what confirms it, if it asks for that."""
        end = self._loads + len(self._calls)
        found = list(answers[:end])
        said, at = {}, end
        for durability in self._order:
            count = len(durability.commands())
            said[durability] = answers[at : at + count]
            at += count
        for i, call in enumerate(self._calls, self._loads if said else end):
            if call.durability is not None and not isinstance(found[i], Exception):
                found[i] = Confirmed(found[i], said[call.durability])
        return found
