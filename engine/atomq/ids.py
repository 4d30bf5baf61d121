"""Names that no server gives: of messages, consumers, producers and their calls."""

from __future__ import annotations

import itertools
from collections import deque

from atomq import fork


class Ids:
    """Unique names without a system call each: one of its own (new after a fork), a counter.

    Its own begins with the name of the process: see `fork.process`.
    """

    def __init__(self) -> None:
        self.forked()
        fork.renew(self)

    def forked(self) -> None:
        """Begin anew with another name, of letters and digits."""
        self.prefix = fork.unique()
        self._count = itertools.count(1)

    def next(self) -> str:
        """`<prefix>-<counter>`."""
        return f"{self.prefix}-{next(self._count)}"


message_ids = Ids()


class CallId:
    """One publish call: its producer, and its number among the calls of that.

    A producer has one call under way at a time. So the server, which remembers the number of a
    producer's last call, knows of each call whether it was carried out, and be it a late twin of
    one that was answered long ago. Once it is answered this is the id of the producer's next call.

    A producer keeps the `names` of the keys that its last call took, for the next one into the same
    `queue`: what is alike in both is packed once.
    """

    __slots__ = ("_idle", "names", "number", "producer", "queue")

    def __init__(self, producer: str, number: int = 1, idle: deque[CallId] | None = None) -> None:
        self.producer, self.number = producer, number
        self._idle = idle
        self.queue: object = None
        self.names: tuple[str, ...] = ()

    def answered(self, number: int) -> None:
        """The server has carried out the call of this number: its producer may go on, once."""
        if number == self.number and self._idle is not None:
            self.number = number + 1
            self._idle.append(self)

    def __repr__(self) -> str:
        return f"CallId({self.producer!r}, {self.number})"


class Producers:
    """The producers of an engine: as many as it has calls under way at once.

    One whose call was given up without an answer is not used again, since that call may still be
    carried out; so nothing has to be noted of it. Threads, tasks and finalizers may ask at any
    moment: there is no lock. A child process has producers of its own.
    """

    _MOST_IDLE = 256

    def __init__(self) -> None:
        self._names = Ids()
        self.forked()
        fork.renew(self)

    def forked(self) -> None:
        """Begin anew: those that idle here idle in the parent too."""
        self._idle: deque[CallId] = deque(maxlen=self._MOST_IDLE)

    def next(self) -> CallId:
        """The id of a call that is about to be made."""
        idle = self._idle
        try:
            return idle.pop()
        except IndexError:
            return CallId(self._names.next(), 1, idle)
