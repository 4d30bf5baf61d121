"""What a publish survives once it is answered: WAIT and WAITAOF, sent behind its script.

Both ask the server of one connection for the last write of that connection. So they travel in the
same flight as the script, over a connection of which no other caller waits for an answer, and never
in a MULTI, where they confirm nothing. A script that writes nothing would be confirmed at once:
`publish` writes its call number also when it is repeated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from redis import exceptions as server

from atomq import arguments
from atomq.errors import (
    AtomqError,
    DurabilityUnavailable,
    InvalidArgument,
    NotDurable,
    PermissionDenied,
    ServerTooOld,
)

MEMORY = "memory"
FORMS = "'memory', 'replicas=N' with N from 1 to 99, or 'fsync'"


@dataclass(frozen=True, slots=True)
class Durability:
    """What has to be confirmed, and for how long that is waited for. See `of`."""

    name: str
    """As callers say it."""
    replicas: int
    """How many replicas have to have it; 0: the server's own disk."""
    timeout_ms: int
    verifying: bool = False
    """Whether it is also asked what the server's confirmation is worth."""

    @classmethod
    def of(cls, name: Any, seconds: float) -> Self | None:
        """What `durability` says, or None if nothing is to be confirmed.

        The server is given `seconds` to confirm it. Raises `InvalidArgument`.
        """
        if name == MEMORY:
            return None
        form = r"fsync|replicas=([1-9][0-9]?)"
        found = re.fullmatch(form, name) if isinstance(name, str) else None
        if found is None:
            raise InvalidArgument(f"durability must be {FORMS}; got {arguments.shown(name)}")
        return cls(name, int(found[1] or 0), max(1, round(seconds * 1000)))

    def to_verify(self) -> Self:
        """The same, with the questions that show what the confirmation is worth."""
        return replace(self, verifying=True)

    @property
    def seconds(self) -> float:
        """How long the server may take to answer."""
        return self.timeout_ms / 1000

    def commands(self) -> list[tuple[Any, ...]]:
        """What is sent behind the scripts; `judged` reads the answers."""
        if self.replicas:
            return [("WAIT", self.replicas, self.timeout_ms)]
        asks: list[tuple[Any, ...]] = [("WAITAOF", 1, 0, self.timeout_ms)]
        if self.verifying:
            asks = [("HELLO",), ("CONFIG", "GET", "appendfsync"), *asks]
        return asks

    def judged(self, said: Sequence[Any], where: str) -> AtomqError | None:
        """What is wrong by the answers to `commands`; None: it is confirmed.

        `where` names the call in the error's text.
        """
        *about, answer = said
        if isinstance(answer, Exception):
            return self._refused(answer, where)
        if about and (doubt := _of_early_answers(*about)):
            return DurabilityUnavailable(f"{doubt} ({where})")
        confirmed, asked = (answer, self.replicas) if self.replicas else (answer[0], 1)
        if confirmed >= asked:
            return None
        if self.replicas:
            text = f"{confirmed} of {asked} replicas confirmed it within {self.seconds:g} s"
        else:
            text = f"the server did not say within {self.seconds:g} s that it is on its disk"
            if about and _of(about[1], "appendfsync") == "no":
                text = "with appendfsync no the server never says that something is on its disk"
        if self.verifying:
            return DurabilityUnavailable(
                f"nothing was put: a trial write was not confirmed, {text} ({where})"
            )
        return NotDurable(f"the message is in the queue, but {text} ({where})", confirmed, asked)

    def _refused(self, error: Exception, where: str) -> AtomqError:
        verb, text = ("WAIT" if self.replicas else "WAITAOF"), str(error)
        if isinstance(error, server.NoPermissionError):
            why: AtomqError = PermissionDenied(
                f"{self.name} needs {verb}: grant +{verb.lower()} ({text})"
            )
        elif "unknown command" in text.lower():
            why = ServerTooOld(f"{self.name} needs Redis or Valkey 7.2 ({text})")
        else:
            why = DurabilityUnavailable(f"the server cannot confirm {self.name}: {text} ({where})")
        if self.verifying:
            return why
        return NotDurable(f"the message is in the queue, but {why}", 0, self.replicas or 1)


def _of_early_answers(hello: Any, policy: Any) -> str:
    """Why the server's WAITAOF cannot be believed; "" if it can.

    Redis 7.4 and Valkey from 8.0 on (9.1 was tried) answer it before the fsync, unless each write
    has one. Redis 8 does not: https://github.com/redis/redis/pull/13793
    """
    name, version = _of(hello, "server"), _of(hello, "version")
    if version.startswith("7.2.") or (name == "redis" and not version.startswith("7.4.")):
        return ""
    found = _of(policy, "appendfsync")
    if found == "always":
        return ""
    if isinstance(policy, Exception):
        found = f"it cannot be read: grant +config|get ({policy})"
    return (
        f"{name} {version} says of a write that it is on its disk before it is, unless appendfsync "
        f"is always; here: {found or 'unknown'}"
    )


def _of(answered: Any, name: str) -> str:
    """One value of a map that the server answered; "" where there is none."""
    if not isinstance(answered, dict):
        return ""
    value = answered.get(name.encode(), answered.get(name, ""))
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class Confirmed(NamedTuple):
    """The reply to a script, and what came to the commands behind it."""

    reply: Any
    said: Sequence[Any]
