"""Workers that are forked end as those do that were started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.contrib.nursery import ROOT, Forked
from tests.servers import wait_until


def _forked(folder: Path, *args: str) -> Forked:
    return Forked("solo", [*args], {**os.environ}, folder, folder / "log")


def test_its_return_code_is_that_of_the_command_and_its_log_what_that_said(tmp_path: Path) -> None:
    assert _forked(tmp_path, "--version").wait(20) == 0
    assert _forked(tmp_path, "nothing-like-it").wait(20) == 2
    said = (tmp_path / "log").read_text()
    assert said.index("5.") < said.index("No such command 'nothing-like-it'")


def test_its_session_is_there_at_once(tmp_path: Path) -> None:
    one = _forked(tmp_path, "--broker=atomq://127.0.0.1:1", "worker", "-P", "solo")
    os.killpg(one.pid, signal.SIGKILL)
    assert one.wait(20) == -signal.SIGKILL


CODE = """
import sys, time
from pathlib import Path
from tests.contrib.nursery import Forked
words = ["--broker=atomq://127.0.0.1:1", "worker", "-P", "solo"]
print(Forked("solo", words, {}, Path(), Path("log")).pid, flush=True)
time.sleep(60)
"""


def test_it_ends_with_the_process_that_had_it_forked(tmp_path: Path) -> None:
    path = f"{ROOT}{os.pathsep}{ROOT / 'engine'}"
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        assert _runs(worker)
        process.kill()
    wait_until("it to end", lambda: not _runs(worker))


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
