"""Make `queue.py` from `queue_aio.py`: the same without `async` and `await`, and with other names.

`make format` runs this, `make lint` runs it with `--check`. A rule that changes nothing is an
error, so none outlives what it was for.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ENGINE = Path(__file__).parents[2] / "engine" / "atomq"
SOURCE, MADE = ENGINE / "queue_aio.py", ENGINE / "queue.py"

# In this order, over the whole text: code, docstrings and comments alike.
RULES = (
    (r"`queue\.py` is made from this file: edit this, `make format` does the rest\.",
     r"It is made from `queue_aio.py` by `make format`: edit that."),
    (r"from contextlib import aclosing", "from contextlib import closing"),
    (r"from atomq\.aio import (.*), to_the_end\n", r"from atomq.client import \1\n"),
    (r"\bto_the_end\((.*)\)\n", r"\1\n"),
    (r"\ban `async with` block", "a `with` block"),
    (r"Any number of tasks of one event loop", "Any number of threads"),
    (r"for one task at a time", "for one thread at a time"),
    (r"`handler`, a coroutine function,", "`handler`"),
    (r"`concurrency` tasks call it", "`concurrency` threads call it"),
    (r"for a plain function or a generator", "for a coroutine function or a generator"),
    (r"awaited=True", "awaited=False"),
    (r"Awaitable\[(\w+)\]", r"\1"),
    (r"Awaitable, ", ""),
    (r"\bTasks\b", "Threads"),
    (r"\baclosing\(", "closing("),
    (r"\banext\(", "next("),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"__a(enter|exit|iter)__", r"__\1__"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsync(?=[A-Z])", ""),
)  # fmt: skip


def made(text: str) -> str:
    """The sync text of an async one, formatted."""
    for pattern, by in RULES:
        text, count = re.subn(pattern, by, text)
        if not count:
            raise SystemExit(f"{SOURCE.name}: no {pattern!r} any more: take the rule out")
    for command in (("check", "--select", "I", "--fix-only", "--quiet"), ("format", "--quiet")):
        done = subprocess.run(
            [Path(sys.executable).with_name("ruff"), *command, "--stdin-filename", MADE, "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        text = done.stdout
    return text


def main() -> None:
    """Write the file; with `--check`, say whether it is stale."""
    text = made(SOURCE.read_text())
    if "--check" not in sys.argv:
        MADE.write_text(text)
    elif text != MADE.read_text():
        raise SystemExit(f"{MADE.name} is not what {SOURCE.name} makes: make format")


if __name__ == "__main__":
    main()
