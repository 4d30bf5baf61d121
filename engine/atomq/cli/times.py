"""Times as they are typed: how long, and when."""

from __future__ import annotations

import re
from datetime import datetime

from atomq import arguments
from atomq.cli.session import Usage
from atomq.errors import InvalidArgument

_UNITS = {"ms": 0.001, "s": 1, "": 1, "m": 60, "h": 3600, "d": 86400}
_LENGTH = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|)")


def milliseconds(option: str, text: str | None) -> int:
    """`90`, `1.5s`, `10m`, `2h` or `7d` in milliseconds; 0 for None. Raises `Usage`."""
    if text is None:
        return 0
    match = _LENGTH.fullmatch(text.strip())
    if match is None:
        raise Usage(f"{option} takes seconds, or a number with ms, s, m, h or d; got {text!r}")
    return arguments.milliseconds(option, float(match[1]) * _UNITS[match[2]])


def moment(option: str, text: str | None) -> int:
    """`2030-01-31T12:00+01:00` or seconds since 1970 in milliseconds since; 0 for None."""
    if text is None:
        return 0
    try:
        if re.fullmatch(r"[0-9]{9,11}(\.[0-9]+)?", text):
            return arguments.moment_ms(float(text))
        return arguments.moment_ms(datetime.fromisoformat(text).timestamp())
    except InvalidArgument:
        raise
    except (ValueError, OverflowError, OSError) as error:
        raise Usage(
            f"{option} takes 2030-01-31T12:00+01:00 or seconds since 1970: {error}"
        ) from None


def since(option: str, text: str | None, now_ms: int) -> int:
    """A length of time before `now_ms`, or a moment, in milliseconds since 1970; 0 for None."""
    if text is not None and _LENGTH.fullmatch(text.strip()) and not re.match(r"[0-9]{9}", text):
        return max(0, now_ms - milliseconds(option, text))
    return moment(option, text)
