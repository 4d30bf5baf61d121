"""What the query of an address says to a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request

from atomq.cli.messages import PARTS

if TYPE_CHECKING:
    from atomq.calls import Part

# What was done, as the page says it afterwards: only the number comes from the address.
DID = {
    "pause": "Paused.",
    "resume": "Resumed.",
    "redrive": "{} put back to ready.",
    "discard": "{} thrown away.",
    "purge": "{} thrown away.",
    "cancel": "{} cancelled.",
    "run": "{} due now.",
    "release": "{} given back to ready.",
}


def did(request: Request) -> str:
    """What was done a moment ago, in words."""
    words = DID.get(request.query_params.get("did", ""), "")
    count, left = (number(request, name) for name in ("n", "left"))
    said = words.format(f"{count:,} message{'' if count == 1 else 's'}")
    rest = (
        f" {left:,} not: no longer there, or not to be found or decoded." if words and left else ""
    )
    return said + rest


def number(request: Request, name: str) -> int:
    """A whole number of at most 12 digits; 0 if it is none."""
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else 0


def part_of(name: str) -> Part:
    """The part of a queue of this name. Raises `HTTPException` (404) if there is none."""
    if name not in PARTS:
        raise HTTPException(404, f"A queue has no part {name!r}: {', '.join(PARTS)}.")
    return cast("Part", name)
