"""One call and its answer, without I/O: what is sent again, when, for how long; NOSCRIPT healing.

`calling` is a generator. It yields what to do next (`Send`, `Ask`, `Pause`) and is sent the
answer; the sync and the async engine drive it alike.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from redis import exceptions as server

from atomq.actions import WAYS, Actions, Ask, Elsewhere, NoAnswer, Pause, Replaced, Send
from atomq.calls import Call
from atomq.durability import Confirmed
from atomq.errors import AtomqError, ScriptsNotLoaded, ServerUnavailable
from atomq.translating import (
    AWAY,
    REFUSED,
    Unsent,
    bare,
    is_away,
    named_call,
    passes,
    translated,
    unavailable,
)

HEALS = 10  # times that scripts are loaded for one call: they may be flushed without end
GIVEN = 5  # times that a call waits for another user to load what its own may not: some 0.8 s


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to go on when the server is in trouble.

    What the server surely did not do (it was not reached, or says that it cannot serve yet) is
    tried for `budget` seconds. What may have been done, since its answer was lost, is sent
    `attempts` more times within them. No `attempts`: nothing is tried again.
    """

    attempts: int = 3
    budget: float = 10.0
    longest: float = 1.0
    """Seconds, at most, between two tries."""
    loaded: bool = False
    """Whether scripts were run there before: a server that lacks them has begun anew, and is in
    trouble until a user that may load them has done so. Else to lack them is an error at once."""

    def after(self, seconds: float) -> Retry:
        """What is left of it."""
        return replace(self, budget=max(0.0, self.budget - seconds))

    def longer(self, seconds: float) -> Retry:
        """The same, where the server may take so many seconds over each answer."""
        return replace(self, budget=self.budget + seconds)

    def pause(self, attempt: int) -> float:
        """Seconds before attempt 1, 2, …: 50 ms, doubling up to `longest`, with "full jitter".

        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        return random.uniform(0.01, min(self.longest, 0.05 * 2**attempt))


class Patience:
    """What is left of a `Retry`."""

    def __init__(self, retry: Retry) -> None:
        self.retry = retry
        self._began = time.monotonic()
        self._tries = self._lost = 0

    def pause(
        self, trouble: Exception, what: str, *, lost: bool, call: Call[Any] | None = None
    ) -> Pause:
        """The pause before the next try; raises `ServerUnavailable` if there is to be none.

        `lost`: an answer was lost, the server may have done what it was asked for.
        """
        self._tries += 1
        self._lost += lost
        spent, retry = time.monotonic() - self._began, self.retry
        if not retry.attempts or self._lost > retry.attempts or spent >= retry.budget:
            tried = f"{self._tries} {'attempt' if self._tries == 1 else 'attempts'}"
            text = f"{trouble} ({what}, {tried} in {spent:.1f} s)"
            raise unavailable(text, unsent=not self._lost) from trouble
        return Pause(min(retry.pause(self._tries), retry.budget - spent), spent, trouble, call)


def _lost(error: Exception) -> bool:
    """Whether the server may have done what it was asked for."""
    return not (isinstance(error, Unsent) or passes(error))


def calling(
    calls: Sequence[Call[Any]], retry: Retry, *, single: bool = True, within: float | None = None
) -> Actions:
    """Carry out calls. Answers their results; with `single`, the first error is raised instead.

    Raises `ServerUnavailable` once `retry` is used up. Without `single`, an error of one call takes
    the place of its result and the others go on.
    """
    return carried_out(Batch(calls, single=single), Patience(retry), within)


def carried_out(batch: Batch, patience: Patience, within: float | None) -> Actions:
    """Send what a batch has left, again and again, until it is answered or patience ends."""
    while batch.left:
        trouble: Exception | None
        lost = False
        try:
            replies = yield Send(batch.unanswered(), batch.loads, within)
            trouble, lost = batch.answered(replies, waits=patience.retry.loaded)
        except REFUSED as error:
            raise translated(error) from error
        except AWAY as error:
            trouble, lost = bare(error), _lost(error)
            if lost:
                batch.again()
        except (server.RedisError, UnicodeEncodeError) as error:
            raise translated(error) from error
        if trouble is not None:
            call = batch.calls[batch.left[0]]
            try:
                counts = lost and not isinstance(trouble, Replaced)
                pause = patience.pause(trouble, named_call(call), lost=counts, call=call)
            except ServerUnavailable as error:
                if isinstance(trouble, ScriptsNotLoaded) and not patience.retry.loaded:
                    raise trouble from trouble.__cause__
                if not batch.gave_up(error):
                    raise
                break
            trouble = None
            yield pause
    return batch.results


def asking(args: Sequence[Any], retry: Retry, *, reads: bool = False) -> Actions:
    """Carry out one command, and try it again for as long as the server surely did not do it.

    One that only `reads` is tried again, too, where its answer was lost.
    """
    patience = Patience(retry)
    while True:
        try:
            return [(yield Ask(args))]
        except (*AWAY, server.RedisError, UnicodeEncodeError) as error:
            lost = _lost(error)
            if lost and not (reads and is_away(error)):
                raise translated(error) from error
            yield patience.pause(bare(error), str(args[0]), lost=lost)


class Batch:
    """Calls on their way: which are left to be answered, and what the others answered."""

    def __init__(self, calls: Sequence[Call[Any]], *, single: bool) -> None:
        self.calls = list(calls)
        self.left = list(range(len(self.calls)))
        self.results: list[Any] = [None] * len(self.calls)
        self._single = single
        self.loads: list[Call[Any]] = []
        """One call for each script that a server did not know."""
        self._heals = HEALS  # then NOSCRIPT is an error like others
        self._given = GIVEN
        self._ways = WAYS
        self._on_cluster = False  # as far as a node that lacks a script has said

    def unanswered(self) -> list[Call[Any]]:
        """What is left to be answered."""
        return [self.calls[i] for i in self.left]

    def answered(self, replies: Sequence[Any], *, waits: bool) -> tuple[Exception | None, bool]:
        """Sort the replies; the trouble of those that are left, if any, and whether it is a loss.

        What passes by itself is none: the server surely did not do what it was asked for. That is
        so, if the call `waits`, of a server that lacks a script which this user may not load. In a
        cluster it is so for a moment in any case: a replica may have become the primary before a
        consumer looked at it (`heirs.py`).
        """
        trouble: Exception | None = None
        denied: Exception | None = None
        lost = went_on = False
        left = []
        loads, self.loads = self.loads, []
        for call, reply in zip(loads, replies, strict=False):
            try:
                _check_loaded(call, reply)
            except ScriptsNotLoaded as error:
                if not (waits or (self._on_cluster and self._given > 0)):
                    raise
                denied, self._given = error, self._given - 1
        unloaded: dict[tuple[str, Any], Call[Any]] = {}
        for i, reply in zip(self.left, replies[len(loads) :], strict=True):
            call = self.calls[i]
            if not isinstance(reply, Exception) and type(reply) is not Confirmed:
                self.results[i] = call.parse(reply, call.repeated)
                continue
            again = _again(call, reply, heals=self._heals > 0)
            if again is None:
                self.results[i] = self._last(call, reply)
                continue
            left.append(i)
            self.calls[i] = again.call
            trouble, lost = again.trouble or trouble, lost or again.lost
            went_on = went_on or again.went_on
            if again.unloaded:
                place = getattr(reply, "place", None)
                unloaded.setdefault((call.script.name, place), call)
                self._on_cluster = place is not None
        self.left = left
        self.loads = list(unloaded.values())
        self._heals -= bool(unloaded) and denied is None
        trouble = trouble or (denied if unloaded else None)
        self._ways -= went_on
        if trouble is None and self._ways < 0:
            trouble, self._ways = server.ClusterDownError("its nodes do not agree on a slot"), WAYS
        return trouble, lost

    def _last(self, call: Call[Any], reply: Confirmed | Exception) -> Any:
        """The result of a call that is not sent again."""
        return (
            self._failed(call, reply) if isinstance(reply, Exception) else self._judged(call, reply)
        )

    def _failed(self, call: Call[Any], reply: Exception) -> AtomqError:
        """The result of a call that will not be carried out; raised if it is single."""
        error = reply.error if isinstance(reply, NoAnswer) else reply
        if self._single:
            raise translated(error, call) from error
        return translated(error, call)

    def _judged(self, call: Call[Any], reply: Confirmed) -> Any:
        """The result of a call that was carried out, if it is also confirmed."""
        result = call.parse(reply.reply, call.repeated)
        durability = call.durability
        error = durability.judged(reply.said, named_call(call)) if durability is not None else None
        if error is not None and self._single:
            raise error
        return result if error is None else error

    def again(self) -> None:
        """What is left may have been carried out without an answer."""
        for i in self.left:
            self.calls[i] = self.calls[i].again()

    def gave_up(self, error: ServerUnavailable) -> bool:
        """Put the error in the place of what is left; False if nothing at all was answered."""
        if self._single or len(self.left) == len(self.calls):
            return False
        for i in self.left:
            self.results[i] = error
        return True


class _Again(NamedTuple):
    """A call that is to be sent again."""

    call: Call[Any]
    trouble: Exception | None = None
    """What has to pass first."""
    lost: bool = False
    """Whether it may have been carried out."""
    went_on: bool = False
    """Whether another node is to be asked."""
    unloaded: bool = False
    """Whether its script is to be loaded."""


def _again(call: Call[Any], reply: Any, *, heals: bool) -> _Again | None:
    """How a call is sent again after such a reply; None: the reply is the last one."""
    if type(reply) is Confirmed:
        passing = next(filter(_interrupted, reply.said), None)
        return None if passing is None else _Again(call.again(), passing)
    if isinstance(reply, server.NoScriptError) and heals:
        return _Again(call, unloaded=True)
    if isinstance(reply, Elsewhere):
        return _Again(call.at(reply.place), went_on=True)
    error = reply.error if isinstance(reply, NoAnswer) else None
    if not (passes(reply) or (error is not None and is_away(error))):
        return None
    if error is not None and _lost(error):
        return _Again(call.again(), bare(error), lost=True)
    # Of a slot that moves its owner says where to ask the next time.
    return _Again(call if call.place is None else call.at(None), bare(error or reply))


def _check_loaded(call: Call[Any], reply: Any) -> None:
    """Raise what is wrong with a SCRIPT LOAD, unless it passes: its call meets the same."""
    if isinstance(reply, server.NoPermissionError):
        raise ScriptsNotLoaded(
            f"the server does not know the script {call.script.name} ({call.script.sha}) and this "
            "user may not load it: run `atomq scripts load --url ...` as a user that may"
        ) from reply
    goes_again = isinstance(reply, NoAnswer | Elsewhere)
    if isinstance(reply, Exception) and not (goes_again or passes(reply)):
        raise translated(reply, call) from reply


def _interrupted(said: Any) -> bool:
    """Whether a WAIT was ended by what passes: the server became a replica meanwhile."""
    return isinstance(said, Exception) and (passes(said) or "replica instances" in str(said))


def leads_astray(reply: Exception) -> bool:
    """Whether the connection leads to a replica now, or is about to end: a new one may not."""
    gone = isinstance(reply, server.ReadOnlyError | server.ConnectionError)
    return gone or str(reply).startswith("UNBLOCKED")
