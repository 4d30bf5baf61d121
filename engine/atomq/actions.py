"""What retries ask of connections, and what connections answer in the place of a reply."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from redis import exceptions as server

from atomq.calls import Call
from atomq.keys import Place


@dataclass(frozen=True, slots=True)
class Send:
    """Send these calls in one go. Answer: a list, replies and server errors in the calls' order.

    Before them, and before their answers: SCRIPT LOAD of the script of each of `loads`, on the node
    that serves it. One flight takes both, so that a server whose scripts are flushed again and
    again, or that restarts, has hardly a moment to forget a script between the two.
    """

    calls: Sequence[Call[Any]]
    loads: Sequence[Call[Any]] = ()
    within: float | None = None
    """Seconds that a thread waits for the answer; a task that waits has a time limit of its own."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Send this command. Answer: the reply."""

    args: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds. Answer: None."""

    seconds: float
    spent: float
    """Seconds for which the server has been tried before this."""
    trouble: Exception
    call: Call[Any] | None = None
    """The first that is left; its server is the one in trouble."""


class Replaced(server.ConnectionError):
    """Another server has become the master: what waits for a confirmation is sent to that one.

    Such an answer is given up, not lost: only the budget bounds how often.
    """


class Elsewhere(server.ResponseError):
    """In the place of a reply: this node of a cluster does not serve the slot, another one does.

    It is to be asked at once: the one that the slot map names now, or with `place` that one, for
    this call alone.
    """

    def __init__(self, text: str, place: Place | None = None) -> None:
        self.place = place
        super().__init__(text)


class NotLoaded(server.NoScriptError):
    """In the place of a reply: the node at `place` does not know the script."""

    def __init__(self, place: Place) -> None:
        self.place = place
        super().__init__("No matching script.")


class NoAnswer(Exception):
    """In the place of a reply: one node of several gave none. `error` is what came instead."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(str(error))


BRIEF = 0.6  # seconds for a brief call
WAYS = 5  # times that nodes of a cluster send a call on to another, at once


Action = Send | Ask | Pause
Actions = Generator[Action, Any, list[Any]]
