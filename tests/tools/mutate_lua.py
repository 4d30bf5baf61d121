"""The mutants of a Lua script: one small change each, that a test should see.

Operators are exchanged, whole numbers become one more and one less, conditions are negated, and
statements of one line are left out. Comments, strings and headers stay. (There is no tool for Lua.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<skip>--\[\[.*?\]\]|--[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\[\[.*?\]\])"""
    r"""|(?P<number>\b\d+(?:\.\d+)?\b)|(?P<word>[A-Za-z_]\w*)|(?P<op>[<>=~]=|\.\.\.?|[-+*/%^<>=#])""",
    re.DOTALL,
)
_OTHER = {
    "==": "~=", "~=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "+": "-", "-": "+",
    "*": "/", "/": "*", "and": "or", "or": "and", "true": "false", "false": "true", "not": "",
}  # fmt: skip
# A statement that stands in one line, and is neither a declaration nor what a block ends with.
_STATEMENT = re.compile(
    r"^ *(?! |--|local |return\b|for |if |elseif |while |else\b|end\b|function )"
    r"[\w.\[\]:, +*-]+(?: = [^\n]*[^\n,({=]|\([^\n]*\))$",
    re.MULTILINE,
)
_IN_ONE_PIECE = re.compile(r"\n *(?:and|or|\.\.|[-+*/])\b")


class Mutant(NamedTuple):
    """One change: the text from `start` to `end` becomes `new`."""

    start: int
    end: int
    new: str


def mutants(text: str) -> Iterator[Mutant]:
    """Yield all the mutants of a script. Some may not compile."""
    tokens = [found for found in _TOKEN.finditer(text) if found.lastgroup != "skip"]
    for before, found in pairwise([None, *tokens]):
        assert found is not None
        old = found.group()
        if found.lastgroup == "number" and old.isdecimal():
            for new in (int(old) + 1, int(old) - 1):
                yield Mutant(*found.span(), f"({new})" if new < 0 else str(new))
        elif old in _OTHER and not (old == "-" and _is_unary(text, before, found)):
            yield Mutant(*found.span(), _OTHER[old])
    for found, condition in _conditions(tokens):
        yield Mutant(found, condition, f" not ({text[found:condition].strip()}) ")
    for found in _STATEMENT.finditer(text):
        line = found.group()
        if line.count("(") == line.count(")") and not _IN_ONE_PIECE.match(text, found.end()):
            yield Mutant(found.start() + len(line) - len(line.lstrip()), found.end(), "")


def _is_unary(text: str, before: re.Match[str] | None, found: re.Match[str]) -> bool:
    between = text[before.end() if before else 0 : found.start()].strip()
    if before is None or between.endswith(("(", ",", "{", "[")):
        return True
    return not between and (before.lastgroup == "op" or before.group() in ("or", "and", "return"))


def _conditions(tokens: list[re.Match[str]]) -> Iterator[tuple[int, int]]:
    for i, token in enumerate(tokens):
        until = {"if": "then", "elseif": "then", "while": "do"}.get(token.group())
        if until:
            stop = next(other for other in tokens[i:] if other.group() == until)
            yield token.end(), stop.start()
