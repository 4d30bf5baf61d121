"""A demo that runs, and the processes it has started."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def processes(scratch: Path, what: str = "") -> list[int]:
    """Processes that have this directory in their command line or environment, and these words in
    the former.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(scratch) in command + environment and what in command.replace("\0", " "):
                found.append(int(entry.name))
    return sorted(found)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


class Running:
    """A demo that is going on, and what it has printed so far."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.said = folder / "said"
        with self.said.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "atomq.cli", "demo", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    def says(self, words: str, seconds: float = 60) -> None:
        until(lambda: words in self.said.read_text() or self.process.poll() is not None, seconds)
        assert words in self.said.read_text(), self.said.read_text()
