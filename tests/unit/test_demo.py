"""The demo's ledger says no when something does not hold, and its picture fits the terminal."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from atomq import Peeked, QueueState
from atomq.cli.demo import DemoSettings
from atomq.cli.demo.deaths import Death
from atomq.cli.demo.library.ledger import Played, outcome
from atomq.cli.demo.library.tally import Tally
from atomq.cli.demo.outcome import Outcome
from atomq.cli.demo.view import Picture, QueueRow, WorkerRow, draw

PATHS = ["a.py", "b.py", "c.py"]


def state(**more: int) -> QueueState:
    numbers: dict[str, Any] = dict.fromkeys(
        ("now_ms", "ready", "unacked", "expired", "delayed", "due", "dead", "inconsistent"), 0
    )
    numbers |= {"name": "files", "ready_by_priority": {}, "oldest": b"", "stats": {}}
    numbers |= {"next_due_ms": None, "next_deadline_ms": None, "paused": False, "dead": 1} | more
    return QueueState(**numbers)


def letter(path: str) -> Peeked:
    raw = b'{"body": "{\\"path\\": \\"%s\\"}", "content-type": "application/json"}' % path.encode()
    return Peeked("1-1", 1, 4, 1, None, "max_deliveries", "FileNotFoundError: it", raw)


def result(
    path: str, *, deliveries: int = 1, sha: str = "s", began: float = 1e12
) -> dict[str, Any]:
    return {
        "worker": 1,
        "path": path,
        "sha256": sha,
        "lines": 1,
        "deliveries": deliveries,
        "began": began,
    }


class Act:
    """An act in which everything held, to be changed by a test."""

    def __init__(self) -> None:
        self.tally = Tally(PATHS, "missing")
        self.tally.published = 4
        self.death = Death(1, 10, "SIGKILL", True, time.monotonic(), {"r1": "c.py"})
        self.death.back = {"r1": 2.9}
        self.results = [result("a.py"), result("b.py"), result("c.py", deliveries=2)]
        self.dead = [letter("missing")]
        self.state = state()

    def outcome(self) -> Outcome:
        for each in self.results:
            self.tally.add(each)
        played = Played(DemoSettings(), self.tally, [self.death], self.state, self.dead, [])
        return outcome(played)


def test_what_holds_holds() -> None:
    act = Act()
    act.results.append(result("c.py"))
    ledger = act.outcome()
    assert ledger.ok
    assert ledger.faults == []
    assert ledger.facts["duplicates"] == 1
    assert ledger.facts["redelivered"] == 1


def lose_one(act: Act) -> None:
    act.results.pop(0)


def leave_one(act: Act) -> None:
    act.results.pop(0)
    act.state = state(ready=1)


def bury_one(act: Act) -> None:
    act.dead.append(letter("a.py"))
    act.state = state(dead=2)


def answer_differently(act: Act) -> None:
    act.results.append(result("c.py", sha="other"))


def hand_out_twice(act: Act) -> None:
    act.results.append(result("a.py", deliveries=2))


def hand_out_early(act: Act) -> None:
    act.tally.not_before = {"a.py": 2e12}


def come_back_late(act: Act) -> None:
    act.death.back = {"r1": 4.1}


def never_come_back(act: Act) -> None:
    act.death.back = {}


def come_back_dead(act: Act) -> None:
    act.death.buried = 1


def kill_nobody(act: Act) -> None:
    act.death.held = {}
    act.results[2]["deliveries"] = 1


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (lose_one, "lost"),
        (leave_one, "left over"),
        (bury_one, "dead letters"),
        (answer_differently, "duplicates"),
        (hand_out_twice, "redelivered"),
        (hand_out_early, "delayed"),
        (come_back_late, "came back"),
        (never_come_back, "came back"),
        (come_back_dead, "came back"),
        (kill_nobody, "came back"),
    ],
)
def test_each_fault_is_found(fault: Any, name: str) -> None:
    act = Act()
    fault(act)
    ledger = act.outcome()
    assert not ledger.ok
    assert any(text.startswith(name) for text in ledger.faults)


def test_a_wrong_digest_is_found(tmp_path: Path) -> None:
    act = Act()
    for path in PATHS:
        (tmp_path / path).write_bytes(b"x\n")
        act.tally.add(result(path))
    act.results = []
    act.tally.check(tmp_path)
    assert act.tally.wrong == 3
    assert any(text.startswith("completed") for text in act.outcome().faults)


@pytest.mark.parametrize("room", [(80, 24), (120, 40), (60, 20)])
def test_the_picture_fits(room: tuple[int, int]) -> None:
    width, height = room
    picture = Picture("a title" * 20, "a subtitle")
    picture.queues = [
        QueueRow("demo-123456.files", 1234567, 128, 40, 1),
        QueueRow("results", 0, 0, 0, 0),
    ]
    states = ["starting", "working", "long job", "killed", "died", "working", "working", "working"]
    picture.workers = [WorkerRow(i, 4194304, s, 12345) for i, s in enumerate(states, 1)]
    picture.done, picture.total, picture.per_second = 12345, 1234567, 12345.6
    for i in range(60):
        picture.events.append((float(i), f"event {i} " + "with many words " * 10, ""))

    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    lines = console.render_lines(draw(picture, 3.0, (width, height - 1)), pad=False)

    assert len(lines) <= height - 1
    assert all(sum(segment.cell_length for segment in line) <= width for line in lines)
    assert "event 59" in "".join(segment.text for segment in lines[-1])
