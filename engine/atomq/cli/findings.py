"""What `atomq doctor` finds, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from atomq.cli.session import WHERE
from atomq.errors import (
    AtomqError,
    EmbeddedServerError,
    InvalidArgument,
    PermissionDenied,
    ServerUnavailable,
)

if TYPE_CHECKING:
    pass

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    check: str
    status: Status
    found: str
    advice: str = ""
    node: str = ""

    def row(self) -> dict[str, str]:
        """It as a row of `schemas/cli.schema.json`."""
        made = {
            "check": self.check,
            "status": self.status,
            "found": self.found,
            "advice": self.advice,
        }
        return made | ({"node": self.node} if self.node else {})


Findings = Iterator[Finding]
Checks = tuple[tuple[str, Callable[..., Findings], str], ...]
"""What each is called, the function, and the rights that it needs."""


def advice_for(error: AtomqError) -> str:
    """What to do where the server cannot be talked to at all."""
    if isinstance(error, ServerUnavailable):
        return WHERE
    if isinstance(error, PermissionDenied):
        return "check user and password in the URL"
    if isinstance(error, EmbeddedServerError):
        return "mend that, or name a server that runs: --url"
    if isinstance(error, InvalidArgument):
        return "correct the URL or the options"
    return "nothing else could be checked"


def part_of(text: str, name: str) -> str | None:
    """The value of `name` in a line of INFO such as `keys=3,expires=1`."""
    pairs = dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
    return pairs.get(name)
