"""One call and its answer, without I/O: retry, NOSCRIPT healing and the translation of errors.

`exchange` is a generator. It yields what to do next (`Send`, `Load`, `Pause`) and is sent the
answer; the sync and the async engine drive it alike. This is the one place where redis-py's
exceptions become ours.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from redis import exceptions as server

from atomq.calls import Call, probe
from atomq.errors import (
    AtomqError,
    InvalidArgument,
    PermissionDenied,
    ScriptFault,
    ScriptsNotLoaded,
    ServerError,
    ServerFull,
    ServerTooOld,
    ServerUnavailable,
    WrongType,
)
from atomq.scripts import Script


@dataclass(frozen=True, slots=True)
class Send:
    """Send these calls in one go. Answer: a list, replies and server errors in the calls' order."""

    calls: Sequence[Call[Any]]


@dataclass(frozen=True, slots=True)
class Load:
    """SCRIPT LOAD, on the node that serves `call`. Answer: the reply."""

    script: Script
    call: Call[Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds. Answer: None."""

    seconds: float


Step = Send | Load | Pause
Exchange = Generator[Step, Any, list[Any]]


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to go on after a lost connection: `attempts` more, within `budget` seconds."""

    attempts: int = 3
    budget: float = 10.0

    def pause(self, attempt: int) -> float:
        """Seconds before attempt 1, 2, …: 50 ms, doubling up to 1 s, with "full jitter".

        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        return random.uniform(0.01, min(1.0, 0.05 * 2**attempt))


# What passes by itself: the server loads, fails over, or is busy with somebody else's script.
_PASSING = (
    server.BusyLoadingError,
    server.ReadOnlyError,
    server.MasterDownError,
    server.ClusterDownError,
    server.TryAgainError,
)
_PASSING_CODES = frozenset({"UNBLOCKED", "BUSY", "LOADING", "MASTERDOWN", "READONLY", "NOREPLICAS"})
_REFUSED = (server.AuthenticationError, server.AuthenticationWrongNumberOfArgsError)


def exchange(calls: Sequence[Call[Any]], retry: Retry, *, single: bool = True) -> Exchange:
    """Carry out calls. Answers their results; with `single`, the first error is raised instead.

    Raises `ServerUnavailable` once `retry` is used up. Without `single`, an error of one call takes
    the place of its result and the others go on.
    """
    calls = list(calls)
    results: list[Any] = [None] * len(calls)
    pending = list(range(len(calls)))
    attempt, healed, began = 0, 0, time.monotonic()
    while pending:
        trouble: Exception | None = None
        replies: list[Any] = []
        try:
            replies = yield Send([calls[i] for i in pending])
        except _REFUSED as error:
            raise PermissionDenied(f"the server refused user or password: {error}") from error
        except (server.ConnectionError, server.TimeoutError, OSError) as error:
            trouble = error
        left: list[int] = []
        unknown: dict[str, int] = {}
        for i, reply in zip(pending, replies, strict=False):
            if isinstance(reply, server.NoScriptError) and healed < 3:
                unknown.setdefault(calls[i].script.name, i)
                left.append(i)
            elif isinstance(reply, Exception):
                if _passes(reply):
                    trouble = reply
                    left.append(i)
                elif single:
                    raise translated(reply, calls[i]) from reply
                else:
                    results[i] = translated(reply, calls[i])
            else:
                results[i] = calls[i].parse(reply, calls[i].repeated)
        if trouble is not None and not replies:
            left = pending
        if trouble is not None:
            attempt += 1
            spent = time.monotonic() - began
            if attempt > retry.attempts or spent > retry.budget:
                raise ServerUnavailable(
                    f"{trouble} ({calls[left[0]]}, {attempt} attempts in {spent:.1f} s)"
                ) from trouble
            for i in left:
                calls[i] = calls[i].again()
            yield Pause(retry.pause(attempt))
        for i in unknown.values():
            yield from _heal(calls[i])
        healed += bool(unknown)
        pending = left
    return results


def _heal(call: Call[Any]) -> Generator[Step, Any, None]:
    try:
        yield Load(call.script, call)
    except server.NoPermissionError as error:
        raise ScriptsNotLoaded(
            f"the server does not know the script {call.script.name} ({call.script.sha}) and this "
            "user may not load it: run `atomq scripts load --url ...` as a user who may"
        ) from error
    except (server.ConnectionError, server.TimeoutError, OSError):
        return  # the call comes next and meets the same trouble, with its retries


def probing(call: Call[Any], retry: Retry) -> Exchange:
    """Find out whether this user may run what the scripts run. Raises `PermissionDenied` if not."""
    results = yield from exchange([probe(call.queue)], retry)
    refused: dict[str, str] = results[0]
    if refused and all("unknown" in words.lower() for words in refused.values()):
        raise ServerTooOld(
            f"the server does not know {', '.join(refused)}: atomq needs Redis 6.2 or Valkey 7.2"
        )
    if refused:
        grants = " ".join(f"+{name.lower()}" for name in refused)
        raise PermissionDenied(
            f"this user may not run {', '.join(refused)} inside a script: grant {grants} "
            f"(the server says: {next(iter(refused.values()))})"
        )
    return []


def _passes(error: Exception) -> bool:
    return isinstance(error, _PASSING) or str(error).partition(" ")[0] in _PASSING_CODES


# Codes our scripts answer with, and what they are in Python.
_CODES: dict[str, type[AtomqError]] = {
    "WRONGTYPE": WrongType,
    "BADARG": InvalidArgument,
    "OOM": ServerFull,
    "NOPERM": PermissionDenied,
}


def translated(error: Exception, call: Call[Any] | None = None) -> AtomqError:
    """The exception of ours that says what this one of redis-py means."""
    text = str(error)
    where = f" ({call})" if call is not None else ""
    if call is not None:
        text = call.script.locate(text)
    if isinstance(error, server.OutOfMemoryError) or "OOM command not allowed" in text:
        return ServerFull(f"the server is at maxmemory and refused to grow{where}")
    if isinstance(error, server.NoPermissionError) or "ACL failure in script" in text:
        return PermissionDenied(f"{text}{where}")
    if isinstance(error, _REFUSED):
        return PermissionDenied(f"the server refused user or password: {text}")
    if isinstance(error, server.ConnectionError | server.TimeoutError | OSError) or _passes(error):
        return ServerUnavailable(f"{text}{where}")
    code, _, detail = text.partition(" ")
    if code in _CODES:
        return _CODES[code](f"{detail}{where}")
    if "unknown command" in text.lower() or "Unknown Redis command" in text:
        return ServerTooOld(f"{text}{where}: atomq needs Redis 6.2 or Valkey 7.2")
    if "lua/" in text or "user_script" in text:
        return ScriptFault(f"{text}{where}")
    return ServerError(f"{text}{where}")
