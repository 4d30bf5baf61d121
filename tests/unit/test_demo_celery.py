"""The second act's ledger says no when something does not hold; what it sends and counts."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from atomq import Peeked, QueueState
from atomq.address import Address
from atomq.cli.demo.celery_app.ledger import Played, outcome
from atomq.cli.demo.celery_app.plan import FEW, SMALL, Job, Plan, celery_options, celery_url
from atomq.cli.demo.celery_app.tally import Clocks, Start, Tally
from atomq.cli.demo.deaths import Death
from atomq.cli.demo.outcome import Outcome
from atomq.schema import validator

DUE = 1000.0


def state(**more: int) -> QueueState:
    numbers: dict[str, Any] = dict.fromkeys(
        ("now_ms", "ready", "unacked", "expired", "delayed", "due", "dead", "inconsistent"), 0
    )
    numbers |= {"name": "celery", "ready_by_priority": {}, "oldest": b"", "stats": {}}
    numbers |= {"next_due_ms": None, "next_deadline_ms": None, "paused": False} | more
    return QueueState(**numbers)


def letter(task: str) -> Peeked:
    raw = json.dumps({"body": "", "headers": {"id": task}, "properties": {}}).encode()
    return Peeked("1-1", 1, 4, 1, None, "max_deliveries", "", raw)


class Act:
    """An act in which everything held, to be changed by a test."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.tally.jobs = {
            "long": Job("wait", (9.0,)),
            "later": Job("outline", ("this.py",), 2.0),
            "a": Job("outline", ("this.py",)),
            "b": Job("bytecode", ("this.py",)),
        }
        self.tally.due = {"later": DUE}
        self.starts = {"long": [(1, 1)], "a": [(1, 1)], "b": [(2, 1), (1, 2)], "later": [(1, 1)]}
        self.late = 0.04
        self.states = dict.fromkeys(self.tally.jobs, "SUCCESS")
        self.death = Death(2, 10, "SIGKILL", True, time.monotonic(), {"r1": "b"})
        self.death.back = {"r1": 2.9}
        self.state = state()
        self.dead: list[Peeked] = []
        self.connections: int | None = 3
        self.restarts = 0

    def outcome(self) -> Outcome:
        for task, starts in self.starts.items():
            for worker, deliveries in starts:
                self.tally.start(task, Start(worker, DUE + self.late, deliveries))
        for task, ended in self.states.items():
            self.tally.finish(task, ended, None)
        return outcome(
            Played(
                visibility_timeout=3,
                modules=1,
                long="long",
                tally=self.tally,
                deaths=[self.death],
                state=self.state,
                dead=self.dead,
                connections=self.connections,
                restarts=self.restarts,
            )
        )


def test_what_holds_holds() -> None:
    ledger = Act().outcome()

    assert ledger.faults == []
    facts = ledger.facts
    assert (facts["published"], facts["completed"], facts["lost"]) == (4, 4, 0)
    assert (facts["redelivered"], facts["restarted"], facts["long_starts"]) == (1, 1, 1)
    assert facts["eta_late_seconds"] == pytest.approx(0.04)
    assert facts["done_by_worker"] == {"1": 4}
    act = {"act": "celery", "ok": True, "faults": [], **facts}
    validator("cli", "celery_act").validate(act)


def lose_one(act: Act) -> None:
    del act.states["a"]


def leave_one(act: Act) -> None:
    del act.states["a"]
    act.state = state(ready=1)


def bury_one(act: Act) -> None:
    del act.states["b"]
    act.dead = [letter("b")]
    act.state = state(dead=1)


def fail_one(act: Act) -> None:
    act.states["a"] = "FAILURE"


def hand_out_twice(act: Act) -> None:
    act.starts["a"] = [(1, 2)]


def start_twice(act: Act) -> None:
    act.starts["a"] = [(1, 1), (2, 1)]


def start_the_long_one_twice(act: Act) -> None:
    act.starts["long"] = [(1, 1), (2, 2)]


def start_early(act: Act) -> None:
    act.late = -0.5


def start_late(act: Act) -> None:
    act.late = 1.5


def come_back_late(act: Act) -> None:
    act.death.back = {"r1": 4.1}


def never_come_back(act: Act) -> None:
    act.death.back = {}


def kill_nobody(act: Act) -> None:
    act.death.held = {}
    act.starts["b"] = [(1, 1)]


def connect_too_often(act: Act) -> None:
    act.connections = 10


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (lose_one, "lost"),
        (leave_one, "left over"),
        (bury_one, "dead letters"),
        (fail_one, "completed"),
        (hand_out_twice, "redelivered"),
        (start_twice, "redelivered"),
        (start_the_long_one_twice, "long task"),
        (start_early, "with an ETA"),
        (start_late, "with an ETA"),
        (come_back_late, "came back"),
        (never_come_back, "came back"),
        (kill_nobody, "came back"),
        (connect_too_often, "connections"),
    ],
)
def test_each_fault_is_found(fault: Any, name: str) -> None:
    act = Act()
    fault(act)
    ledger = act.outcome()
    assert not ledger.ok
    assert any(text.startswith(name) for text in ledger.faults), ledger.faults


def test_what_the_server_was_away_for_is_not_late() -> None:
    act = Act()
    act.late, act.restarts, act.connections = 1.5, 1, None
    assert act.outcome().ok


def test_a_wrong_result_is_found() -> None:
    celery = pytest.importorskip("celery")
    from atomq.cli.demo.celery_app import tasks

    # A shared task belongs to the current app: without this, to a closed one of the test before.
    celery.Celery("demo", set_as_default=False)

    tally = Tally()
    tally.jobs = {
        "a": Job("outline", ("this.py",)),
        "b": Job("bytecode", ("this.py",), 1.0),
        "c": Job("outline", ("this.py",)),
    }
    tally.finish("a", "SUCCESS", tasks.outline.run("this.py"))
    tally.finish("b", "SUCCESS", tasks.bytecode.run("this.py"))
    tally.check()
    assert tally.wrong == 0
    tally.finish("c", "SUCCESS", {"nodes": 1, "functions": 0, "classes": 0})
    tally.check()
    assert tally.wrong == 1


def test_a_plan_is_the_same_each_time() -> None:
    plan = Plan.of(2000, 2.5)

    assert plan == Plan.of(2000, 2.5)
    assert plan.visibility_timeout == 3
    assert plan.long.args == (9.0,)
    assert len(plan.measures) == 2000
    assert len(plan.jobs) == 2000 + FEW + 1
    assert all(0 < (job.countdown or 0) < 9 for job in plan.eta)
    assert {job.task for job in plan.measures} == {"outline", "bytecode"}
    assert SMALL > 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("redis://host/1", "atomq://host/1"),
        ("rediss://u:redis%3A@host", "atomqs://u:redis%3A@host"),
        ("redis+socket:///run/x.sock?virtual_host=2", "atomq+socket:///run/x.sock?virtual_host=2"),
        ("valkey://host", "valkey://host"),
        (
            "sentinel://a;sentinel://b/0?master_name=m",
            "atomq-sentinel://a;atomq-sentinel://b/0",
        ),
        ("atomq://host", "atomq://host"),
    ],
)
def test_the_url_of_a_server_for_celery(given: str, expected: str) -> None:
    address = Address.parse(given, max_deliveries=3)
    options = {"master_name": "m"} if "master" in given else {}

    assert celery_url(address, given) == expected
    assert celery_options(address) == {"max_deliveries": 3, **options}


def test_the_servers_clock_is_told_by_its_quickest_answer() -> None:
    clocks = Clocks()
    clocks.asked(100.0, 107_000, 104.0)
    assert clocks.server(200.0) == pytest.approx(205.0)
    clocks.asked(110.0, 112_010, 110.02)
    clocks.asked(120.0, 199_000, 125.0)
    assert clocks.server(200.0) == pytest.approx(202.0)
