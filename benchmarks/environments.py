"""The environments of the peers: one a file in `environments/`, made in `.cache/` when needed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "benchmarks/environments"
MADE = ROOT / ".cache/benchmarks"
INSTALL_SECONDS = 300


class NotMade(Exception):
    """An environment cannot be made here; the text says why."""


def python_of(name: str, say: Callable[[str], None]) -> Path:
    """The interpreter of this environment, made anew when its file has changed.

    A line `# pip: OPTION` of the file is an option of `pip install`. Raises `NotMade`.
    """
    file = FILES / f"{name}.txt"
    text = file.read_text()
    digest = hashlib.sha256((text + sys.version + str(ROOT)).encode()).hexdigest()
    place = MADE / name
    python, stamp = place / "bin/python", place / "made-from"
    if python.exists() and stamp.exists() and stamp.read_text() == digest:
        return python
    say(f"installing {name}")
    shutil.rmtree(place, ignore_errors=True)
    MADE.mkdir(parents=True, exist_ok=True)
    options = [line[6:].strip() for line in text.splitlines() if line.startswith("# pip:")]
    _run([sys.executable, "-m", "venv", "--without-pip", str(place)], name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    install = ["--python", str(python), "install", *options, "--requirement", str(file)]
    _run([*pip, *install], name)
    stamp.write_text(digest)
    return python


def _run(command: list[str], name: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotMade(f"installing {name} took more than {INSTALL_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise NotMade((lines or ["pip failed"])[-1][:200])
