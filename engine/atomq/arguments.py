"""What callers pass, checked: the one place that says what text, seconds and whole numbers may be.

Whatever is passed, the answer is a value that can be sent, or `InvalidArgument` in one line.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from atomq.errors import InvalidArgument

Seconds = float | timedelta
"""A span of time: seconds, or a `timedelta`."""

LONGEST = 100 * 365 * 86_400.0  # seconds: what is longer is a mistake
LARGEST = (512 << 20) - 4096  # bytes of one value: what every server takes, less a head
LAST_MS = (1 << 42) - 1  # of the server's clock: the year 2109, the last that a score can hold

_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = 80


def shown(value: Any) -> str:
    """A value in an error's text: short, in one line, and whatever its own `__repr__` does."""
    try:
        text = _shortener.repr(value)
    except Exception:  # noqa: BLE001 - an int of 5,000 digits has no text either
        text = f"<{type(value).__name__}>"
    return " ".join(text.split())


def expect(name: str, value: Any, met: bool, what: str) -> None:
    """Raise `InvalidArgument`, saying `what` it must be, unless that is met."""
    if not met:
        raise InvalidArgument(f"{name} must be {what}, got {shown(value)}")


def flag(name: str, value: Any) -> int:
    """True or False, as 1 or 0."""
    expect(name, value, isinstance(value, int), "True or False")
    return int(bool(value))


def seconds(name: str, value: Any, *, least: float = 0.0, most: float = LONGEST) -> float:
    """Seconds, of a number or a `timedelta`, within bounds."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    known = isinstance(number, int | float) and not isinstance(number, bool)
    if not known or not least <= number <= most:
        raise InvalidArgument(
            f"{name} must be seconds from {least:.0f} to {most:.0f}, or a timedelta; "
            f"got {shown(value)}"
        )
    return float(number)


def milliseconds(name: str, value: Any, *, most: float = LONGEST) -> int:
    """The same in ms; more than nothing is 1 ms at least."""
    number = seconds(name, value, most=most)
    return round(number * 1000) or int(number > 0)


def timeout(value: Any) -> float | None:
    """How long to wait, in seconds; None: for ever. Less than 0 is 0."""
    if value is None or (type(value) is int and 0 <= value <= LONGEST):  # as nearly always
        return value
    number = value.total_seconds() if isinstance(value, timedelta) else value
    known = isinstance(number, int | float) and not isinstance(number, bool)
    if number is not None and (not known or number != number):  # noqa: PLR0124 - NaN
        raise InvalidArgument(f"timeout must be seconds, a timedelta or None, got {shown(value)}")
    if number is None or number > LONGEST:
        return None
    return float(number) if number > 0 else 0.0


def moment_ms(value: Any) -> int:
    """A time as ms since 1970: of an aware datetime, or of seconds."""
    number = value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidArgument(f"at must say its time zone: {value!r} does not")
        try:
            number = value.timestamp()
        except (ValueError, OverflowError) as error:
            raise InvalidArgument(f"at: {value!r} is no time since 1970: {error}") from error
    known = isinstance(number, int | float) and not isinstance(number, bool)
    if not known or not 0 <= number * 1000 <= LAST_MS:
        raise InvalidArgument(
            "at must be an aware datetime from 1970 to 2109, or seconds since 1970; "
            f"got {shown(value)}"
        )
    return max(1, round(float(number) * 1000))


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number within bounds."""
    if type(value) is int and low <= value <= high:  # as nearly always
        return value
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidArgument(
            f"{name} must be a whole number from {low} to {high}, got {shown(value)}"
        )
    return int(value)


def command(given: Sequence[Any]) -> None:
    """The words of a command: text, bytes, numbers of 64 bits.

    To be asked for what a caller composed: hiredis 3.5.0 ends the process over some things that it
    cannot write, where it should raise.
    """
    for word in given:
        if isinstance(word, str):
            text("a command's argument", word, LARGEST)
        elif isinstance(word, int) and not isinstance(word, bool):
            whole("a command's argument", word, -(1 << 63), (1 << 64) - 1)
        elif not isinstance(word, bytes | memoryview | float):
            raise InvalidArgument(
                f"a command's argument must be text, bytes or a number, got {shown(word)}"
            )


def text(name: str, value: Any, most: int, *, least: int = 0) -> str:
    """Text of so many characters, that can be written as UTF-8: no half of a surrogate pair."""
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise InvalidArgument(
            f"{name} must be text of {least} to {most} characters, got {shown(value)}"
        )
    if not (value.isascii() or is_utf_8(value)):  # isascii: one call less, for nearly all
        raise InvalidArgument(f"{name} cannot be written as UTF-8: {shown(value)}")
    return value


def is_utf_8(value: str) -> bool:
    """Whether text can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def texts(name: str, given: Any, what: str) -> Collection[str]:
    """Texts, as a list or a set; one alone is none, for its characters would be taken for them."""
    known = isinstance(given, Collection) and not isinstance(given, str | bytes)
    known = known and all(isinstance(each, str) for each in given)
    expect(name, given, known, f"a list of {what}")
    return given  # type: ignore[no-any-return]


def readable(given: str, most: int) -> str:
    """Text that is only to be read by a person: cut, and what UTF-8 has not is escaped."""
    if given.isascii():
        return given[:most]
    return given[:most].encode("utf-8", "backslashreplace").decode()[:most]


def words(error: BaseException, most: int = 4000) -> str:
    """An exception as it stands at the end of its traceback, whatever its `__str__` does."""
    try:
        said = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - what failed must still be settled
        said = f"{type(error).__name__}: it has no text"
    return readable(said, most)
