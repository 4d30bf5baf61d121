"""Make `queue.py` from `queue_aio.py`: the same without `async` and `await`, and with other names.

And all others of `MADE` likewise. `make format` runs this, `make lint` runs it with
`--check`. A rule that changes nothing in either is an error, so none outlives what it was for.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ENGINE = Path(__file__).parents[2] / "engine" / "atomq"
MADE = ("commands", "drive", "partitioned", "queue", "reach", "runner")

# In this order, over each text: code, docstrings and comments alike.
RULES = (
    (r"`(\w+)\.py` is made from this file: edit this, `make format` does the rest\.",
     r"It is made from `\1_aio.py` by `make format`: edit that."),
    (r"from contextlib import aclosing", "from contextlib import closing"),
    (r"from atomq\.cancellation import to_the_end\n", ""),
    (r"from atomq\.aio import", "from atomq.client import"),
    (r"from atomq\.(\w+)_aio import", r"from atomq.\1 import"),
    (r"\bto_the_end\((.*)\)\n", r"\1\n"),
    (r"\ban `async with` block", "a `with` block"),
    (r"Any number of tasks of one event loop", "Any number of threads"),
    (r"for one task at a time", "for one thread at a time"),
    (r"`handler`, a coroutine function,", "`handler`"),
    (r"`concurrency` tasks call it", "`concurrency` threads call it"),
    (r"for a plain function or a generator", "for a coroutine function or a generator"),
    (r"awaited=True", "awaited=False"),
    (r"Coroutine\[Any, Any, (\w+)\]", r"\1"),
    (r"Awaitable\[(\w+)\]", r"\1"),
    (r"(Awaitable|Coroutine),\s+", ""),
    (r"redis\.asyncio\.", "redis."),
    (r"(?m)^import asyncio\n", ""),
    (r"\basyncio\.sleep\(", "time.sleep("),
    (r"\(Exception, asyncio\.CancelledError\)", "BaseException"),
    (r"\n +(self\._enter_loop\(\)|_enter_loop: Any)(?=\n)", ""),
    (r"\bTasks\b", "Threads"),
    (r"\bcall_in_task\b", "call_in_thread"),
    (r"\baclosing\(", "closing("),
    (r"\banext\(", "next("),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"__a(enter|exit|iter)__", r"__\1__"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsync(?=[A-Z])", ""),
)  # fmt: skip


def made(name: str, text: str) -> tuple[str, set[str]]:
    """The sync text of an async one, formatted; and the rules that changed nothing."""
    idle = set()
    for pattern, by in RULES:
        text, count = re.subn(pattern, by, text)
        if not count:
            idle.add(pattern)
    for command in (("check", "--select", "I", "--fix-only", "--quiet"), ("format", "--quiet")):
        done = subprocess.run(
            [Path(sys.executable).with_name("ruff"), *command, "--stdin-filename", name, "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        text = done.stdout
    return text, idle


def main() -> None:
    """Write the files; with `--check`, say which are stale."""
    idle = {pattern for pattern, _ in RULES}
    for name, source in ((f"{made}.py", f"{made}_aio.py") for made in MADE):
        text, idle_here = made(str(ENGINE / name), (ENGINE / source).read_text())
        idle &= idle_here
        if "--check" not in sys.argv:
            (ENGINE / name).write_text(text)
        elif text != (ENGINE / name).read_text():
            raise SystemExit(f"{name} is not what {source} makes: make format")
    if idle:
        raise SystemExit(f"there is no {idle} any more: take the rule out")


if __name__ == "__main__":
    main()
