"""The demo's ledger says no when something does not hold, and it is small."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from atomq import Peeked
from atomq.cli import demo
from atomq.cli.demo.ledger import MISSING, Ledger
from tests.schemas import validator

PATHS = ["a.py", "b.py", "c.py"]


def letter(path: str) -> Peeked:
    raw = b'{"body": "{\\"path\\": \\"%s\\"}", "content-type": "application/json"}' % path.encode()
    return Peeked("1-1", 1, 4, 1, None, "max_deliveries", "FileNotFoundError: it", raw)


def result(path: str, *, deliveries: int = 1, sha: str = "", began: float = 9e9) -> dict[str, Any]:
    right = hashlib.sha256(path.encode()).hexdigest()
    return {"path": path, "sha256": sha or right, "deliveries": deliveries, "began": began}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in PATHS:
        (tmp_path / path).write_text(path)
    return tmp_path


@pytest.fixture
def ledger() -> Ledger:
    """Of an act in which everything held, to be changed by a test."""
    made = Ledger(3, PATHS)
    made.held, made.back = {"r1": "c.py"}, [2.9]
    made.results = [result("a.py"), result("b.py"), result("c.py", deliveries=2)]
    made.dead = [letter(MISSING)]
    return made


def test_what_holds_holds(ledger: Ledger, root: Path) -> None:
    ledger.results.append(result("c.py"))
    ledger.judge(root)
    assert ledger.faults == []
    facts = ledger.facts()
    assert (facts["duplicates"], facts["redelivered"], facts["came_back"]) == (1, 1, 2.9)
    validator("cli", "demo").validate(facts)


def lose_one(ledger: Ledger) -> None:
    ledger.results.pop(0)


def leave_one(ledger: Ledger) -> None:
    ledger.results.pop(0)
    ledger.left = 1


def bury_one(ledger: Ledger) -> None:
    ledger.dead.append(letter("a.py"))


def answer_wrongly(ledger: Ledger) -> None:
    ledger.results[0] = result("a.py", sha="other")


def answer_differently(ledger: Ledger) -> None:
    ledger.results.append(result("c.py", sha="other"))


def hand_out_twice(ledger: Ledger) -> None:
    ledger.results.append(result("a.py", deliveries=2))


def hand_out_early(ledger: Ledger) -> None:
    ledger.not_before = {"a.py": 9.1e9}


def come_back_late(ledger: Ledger) -> None:
    ledger.back = [4.1]


def never_come_back(ledger: Ledger) -> None:
    ledger.back = []


def kill_no_worker(ledger: Ledger) -> None:
    ledger.held, ledger.back = {}, []


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (lose_one, "lost"),
        (leave_one, "left over"),
        (bury_one, "dead letters"),
        (answer_wrongly, "completed"),
        (answer_differently, "duplicates"),
        (hand_out_twice, "redelivered"),
        (hand_out_early, "delayed"),
        (come_back_late, "came back"),
        (never_come_back, "came back"),
        (kill_no_worker, "came back"),
    ],
)
def test_each_fault_is_found(fault: Any, name: str, ledger: Ledger, root: Path) -> None:
    fault(ledger)
    ledger.judge(root)
    assert any(text.startswith(name) for text in ledger.faults), ledger.faults


def test_it_is_small() -> None:
    folder = Path(demo.__file__).parent
    lines = sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))
    assert lines <= 500, "it is shipped to every user"
