"""How much a consumer claims at once."""

from __future__ import annotations

from collections import deque

from atomq import arguments, calls

AT_ONCE = 0.5  # seconds of work that are claimed at once


class Pace:
    """How much a consumer claims at once: half a second of work at the pace seen so far.

    It begins with one message and at most doubles from claim to claim, up to `most`. Of several
    `workers` each one that is free may have one message, whatever the pace. Raises
    `InvalidArgument` if `most` or `workers` is no number from 1 to 1,000.
    """

    def __init__(self, most: int, workers: int = 1) -> None:
        calls.check_limit(most)
        self._most = most
        self._workers = arguments.whole("concurrency", workers, 1, calls.MOST)
        self._worked: deque[float] = deque()
        self._seconds: float | None = None  # a message takes; of this the last batch is a half
        self._fit = 1
        self.is_fixed = most == workers == 1
        """Whether it is one message at a time, whatever the pace."""
        self.free = workers
        """How many workers have nothing to do."""

    @property
    def workers(self) -> int:
        """How many messages are worked on at once."""
        return self._workers

    @property
    def limit(self) -> int:
        """How many messages to claim now."""
        return min(self._most, max(self.free, self._fit))

    def worked(self, seconds: float) -> None:
        """One of several workers worked for so long on one message. Any thread may say so."""
        self._worked.append(seconds)

    def took(self, seconds: float, messages: int) -> None:
        """So many messages were handed out, and the next one was asked for after so many seconds.

        Of several workers that tells little: what they `worked` counts.
        """
        if self.is_fixed:
            return
        if self._workers > 1:
            worked = [self._worked.popleft() for _ in range(len(self._worked))]
            seconds, messages = sum(worked) / self._workers, len(worked)
        if messages:
            last = seconds / messages
            self._seconds = last if self._seconds is None else (self._seconds + last) / 2
            most = min(self._most, 2 * max(self.free, self._fit))
            self._fit = max(1, min(most, int(AT_ONCE / max(self._seconds, 1e-6))))
