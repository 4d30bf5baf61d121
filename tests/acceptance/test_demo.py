"""`atomq demo`: it holds, it can fail, and it leaves nothing behind whatever becomes of it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from atomq.client import Engine
from tests.acceptance.conftest import Atomq
from tests.acceptance.watch import Running, processes, until
from tests.servers import Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("scratch"),
    pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc"),
]

SHORT = ("--files", "240", "--seconds", "2", "--lease", "1.5")


def everything_holds(atomq: Atomq, *arguments: str) -> None:
    done = atomq("demo", *SHORT, "--json", *arguments)
    assert done.code == 0, done.err
    report = done.json("demo")
    assert (report["ok"], report["faults"]) == (True, [])
    assert (report["published"], report["completed"], report["dead_letters"]) == (241, 240, 1)
    assert (report["lost"], report["left_over"]) == (0, 0)
    assert 1 <= report["redelivered"] <= report["held"]
    assert 0 < report["came_back"] <= 2.5


@pytest.mark.long  # others have it all: on their own server, in a directory, on that of others
def test_everything_holds_and_nothing_is_left(atomq: Atomq, scratch: Path) -> None:
    everything_holds(atomq)
    assert processes(scratch) == []
    assert list(scratch.iterdir()) == []


# What Python runs in each of the demo's processes before anything else: what comes back is refused.
IMPATIENT = """
from atomq import Queue
handle = Queue._handle
def impatient(self, handler, message):
    if message.deliveries > 1:
        message.reject("max_deliveries")
    else:
        handle(self, handler, message)
Queue._handle = impatient
"""


@pytest.mark.starts_anew
def test_it_can_fail_and_says_why_in_plain_lines(
    atomq: Atomq, scratch: Path, broken: Callable[[str], None]
) -> None:
    broken(IMPATIENT)
    done = atomq("demo", *SHORT)

    assert done.code == 1
    assert "\x1b" not in done.out
    assert "✗  dead letters" in done.out
    assert "Not everything holds." in done.out
    assert processes(scratch) == []
    assert list(scratch.iterdir()) == []


def test_it_survives_the_death_of_another_worker_and_of_the_server(
    tmp_path: Path, scratch: Path
) -> None:
    demo = Running(tmp_path, "--files", "300", "--seconds", "3", "--lease", "2")
    demo.says("published")
    until(lambda: re.search(r"[1-9]\d* unacked", demo.said.read_text()))
    os.kill(processes(scratch, "demo.worker")[0], signal.SIGKILL)
    demo.says("killed worker")
    os.kill(processes(scratch, "valkey-server")[0], signal.SIGKILL)

    assert demo.process.wait(60) == 0, demo.said.read_text()
    assert "Everything holds." in demo.said.read_text()
    assert processes(scratch) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "published"),
        (signal.SIGTERM, "of 240 done"),
        (signal.SIGKILL, "of 240 done"),
        pytest.param(signal.SIGINT, "of 240 done", marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, "published", marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, "published", marks=pytest.mark.long),
    ],
)
def test_it_leaves_nothing_when_it_is_interrupted(
    number: signal.Signals, moment: str, tmp_path: Path, scratch: Path
) -> None:
    demo = Running(tmp_path, *SHORT)
    demo.says(moment)

    demo.process.send_signal(number)

    code = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert demo.process.wait(10) == code
    if number == signal.SIGKILL:  # then a watchman cleans up
        until(lambda: not processes(scratch) and not list(scratch.iterdir()))
    assert processes(scratch) == []
    assert list(scratch.iterdir()) == []


def test_a_directory_keeps_its_queues(atomq: Atomq, tmp_path: Path, scratch: Path) -> None:
    done = atomq("demo", *SHORT, "--dir", str(tmp_path / "kept"))
    assert done.code == 0, done.out + done.err
    url = f"embedded://{tmp_path / 'kept'}"
    assert f"--url '{url}' queues" in done.out
    try:
        rows = atomq("--json", "--url", url, "queues").json("queues")
        assert [row["dead"] for row in rows if row["queue"].endswith(".files")] == [1]
    finally:
        atomq("embedded", "stop", str(tmp_path / "kept"))
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_on_a_server_of_others_its_queues_are_removed(
    atomq: Atomq, server: Server, scratch: Path
) -> None:
    with Engine(server.url) as engine:
        engine.command("SET", "theirs", "1")
        everything_holds(atomq, "--url", server.url)
        assert processes(scratch) == []
        assert list(scratch.iterdir()) == []
        left = {key.decode() for key in engine.command("KEYS", "*")} - {"theirs"}
        left = {key for key in left if not key.startswith("_atomq.register")}  # of all programs
        assert all(engine.command("TTL", key) > 0 for key in left), left


def test_what_makes_no_sense_is_refused(atomq: Atomq, tmp_path: Path) -> None:
    assert atomq("demo", "--url", "redis://localhost", "--dir", str(tmp_path)).code == 2
    assert atomq("demo", "--url", "memory://").code == 2
    assert atomq("demo", "--files", "1").code == 2
    assert atomq("demo", "--url", "redis://localhost:1?retry_budget=0").code == 3
