"""Whose Python a task runs in the main process of a solo worker: Celery's, Kombu's or ours.

    python -m tests.bench.solo [--tasks N] [--server valkey-9|redis-7]

The bytecodes of each package for a no-op task that is acked late, and those of our functions. No
load moves them. Starts a server of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any

from tests.bench.instructions import ROOT, environment
from tests.servers import Server

WARM = 50  # tasks


def _package(file: str) -> str:
    if "/engine/atomq/" in file:
        return "atomq"
    _, found, inside = file.partition("/site-packages/")
    return inside.split("/")[0] if found else "python"


def _child(url: str, tasks: int) -> None:
    from celery import Celery

    from atomq.contrib.kombu import poller

    poller.TURN = inf  # one holds four tasks; not while each of their bytecodes is counted
    app: Any = Celery("solo", broker=url)
    app.conf.update(task_ignore_result=True, task_acks_late=True, worker_redirect_stdouts=False)
    found: Counter[tuple[str, str]] = Counter()
    done = 0

    def trace(frame: FrameType, _: str, __: Any) -> Any:
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        code = frame.f_code
        name = f"{Path(code.co_filename).name}:{code.co_qualname}"
        key = _package(code.co_filename), name

        def opcode(_: FrameType, event: str, __: Any) -> Any:
            found[key] += event == "opcode"
            return opcode

        return opcode

    @app.task(name="noop")  # type: ignore[untyped-decorator]
    def noop() -> None:
        nonlocal done
        done += 1
        if done == WARM:
            sys.settrace(trace)
        elif done == WARM + tasks:
            sys.settrace(None)
            _show(found, tasks)
            os._exit(0)  # without the work of leaving

    for _ in range(WARM + tasks + 8):
        noop.delay()
    app.Worker(pool="solo", concurrency=1, loglevel="ERROR", quiet=True).start()


def _show(found: Counter[tuple[str, str]], tasks: int) -> None:
    packages: Counter[str] = Counter()
    for (package, _), count in found.items():
        packages[package] += count
    print(f"{sum(packages.values()) / tasks:.0f} bytecodes a task")
    for package, count in packages.most_common(6):
        print(f"  {count / tasks:7.0f}  {count / sum(packages.values()):5.1%}  {package}")
    ours = [(name, count) for (package, name), count in found.most_common() if package == "atomq"]
    for name, count in ours[:40]:
        print(f"  {count / tasks:7.1f}  {name}")
    sys.stdout.flush()


def main() -> None:
    """Count, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--server", default="valkey-9")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _child(given.child, given.tasks)
    with Server(given.server) as server:
        url = f"atomq+{server.url.removeprefix('redis+')}"
        words = ["-m", "tests.bench.solo", "--child", url, "--tasks", str(given.tasks)]
        subprocess.run(
            [sys.executable, "-W", "ignore", *words], env=environment(ROOT), cwd=ROOT, check=True
        )


if __name__ == "__main__":
    main()
