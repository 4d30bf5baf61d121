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
    one that was answered long ago. So the number never changes: what is remembered of a call that
    seemed lost may be said again after its answer has come.

    The next call takes the `names` of the keys along, for one into the same `queue`: what is alike
    in both is packed once.
    """

    __slots__ = ("_idle", "names", "number", "producer", "queue")

    def __init__(self, producer: str, number: int = 1, idle: deque[CallId] | None = None) -> None:
        self.producer, self.number = producer, number
        self._idle = idle
        self.queue: object = None
        self.names: tuple[str, ...] = ()

    def answered(self) -> None:
        """The server has carried it out: its producer may go on to the next call, once."""
        idle, self._idle = self._idle, None
        if idle is not None:
            following = CallId.__new__(CallId)  # a put is short: by no function of Python
            following.producer, following.number = self.producer, self.number + 1
            following._idle, following.queue, following.names = idle, self.queue, self.names
            idle.append(following)

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
