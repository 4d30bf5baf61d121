"""The judge of the battles: what explains that a message was started again, and what does not."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.battle import __main__ as command
from tests.battle.judge import AGAIN, AWAY, DIED, FROZEN, HUNG, UNEXPLAINED, Judge, Outcome
from tests.battle.ledger import Event, Ledger, read
from tests.battle.pools import COLD, CUT_OFF, SENT_AGAIN, UNACKED, UNREAD, CeleryTrial
from tests.servers import ROOT

WORKER, OTHER, CHILD = 1, 2, 11


def start(at: float, worker: int = WORKER, pid: int | None = None, n: str = "one") -> Event:
    return Event("start", n, pid or worker, worker, at)


def end(at: float) -> Event:
    return Event("end", "one", WORKER, WORKER, at)


def judged(judge: Judge, *seen: Event) -> Counter[str]:
    out = Outcome()
    judge.count({"one": [*seen]}, out, lambda *_: None)
    assert len(out.unexplained) == out.duplicates[UNEXPLAINED]
    assert out.is_well == (not out.unexplained)
    return out.duplicates


def test_a_second_start_without_a_cause_is_unexplained() -> None:
    assert judged(Judge(), start(0), start(9, OTHER)) == {UNEXPLAINED: 1}


def test_one_start_needs_no_cause() -> None:
    assert judged(Judge(), start(0)) == {}


@pytest.mark.parametrize(("at", "why"), [(5, DIED), (10, UNEXPLAINED)])
def test_a_death_explains_what_comes_after_it(at: float, why: str) -> None:
    judge = Judge()
    judge.has_died(WORKER, at)
    assert judged(judge, start(0, pid=CHILD), start(9, OTHER)) == {why: 1}


def test_the_death_of_another_explains_nothing() -> None:
    judge = Judge()
    judge.has_died(OTHER, 5)
    assert judged(judge, start(0), start(9, OTHER)) == {UNEXPLAINED: 1}


@pytest.mark.parametrize(("at", "why"), [(2, DIED), (8, UNEXPLAINED)])
def test_what_comes_long_after_the_end_explains_nothing(at: float, why: str) -> None:
    judge = Judge()
    judge.has_died(WORKER, at)
    assert judged(judge, start(0), end(1), start(9, OTHER)) == {why: 1}


def test_of_several_deaths_the_first_counts() -> None:
    judge = Judge()
    judge.has_died(WORKER, 7)
    judge.has_died(WORKER, 5)
    judge.has_died(WORKER, 8)
    assert judge.died == {WORKER: 5}


@pytest.mark.parametrize("frozen", [WORKER, OTHER])
@pytest.mark.parametrize(
    ("since", "until", "why"), [(5, 8, FROZEN), (-5, -2, UNEXPLAINED), (10, 13, UNEXPLAINED)]
)
def test_a_freeze_of_either_explains_what_it_lies_between(
    frozen: int, since: float, until: float, why: str
) -> None:
    judge = Judge()
    judge.frozen.append((frozen, since, until))
    assert judged(judge, start(0), start(9, OTHER)) == {why: 1}


@pytest.mark.parametrize(
    ("since", "until", "why"),
    [
        (1, 2.5, AWAY),
        (1, 3, UNEXPLAINED),  # long enough for a grace
        (-4, -2.5, UNEXPLAINED),  # before its lease
        (3.5, 5, UNEXPLAINED),  # the second start came before
    ],
)
def test_a_brief_outage_explains_what_starts_soon_after_it(
    since: float, until: float, why: str
) -> None:
    judge = Judge()
    judge.outages.append((since, until))
    assert judged(judge, start(0), start(4, OTHER)) == {why: 1}


@pytest.mark.parametrize("what", ["failed", "cancelled"])
def test_what_failed_is_started_again(what: str) -> None:
    failed = Event(what, "one", WORKER, WORKER, 1)
    assert judged(Judge(), start(0), failed, start(9, OTHER)) == {AGAIN: 1}
    by_another = failed._replace(pid=OTHER)
    assert judged(Judge(), start(0), by_another, start(9, OTHER)) == {UNEXPLAINED: 1}


def test_each_start_needs_a_cause_of_its_own() -> None:
    judge = Judge()
    judge.has_died(WORKER, 5)
    assert judged(judge, start(0), start(6, OTHER), start(9, 3)) == {DIED: 1, UNEXPLAINED: 1}


def test_the_ledger_says_who_wrote_it(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger").note("start", "one", 1)
    (event,) = read(tmp_path / "ledger")["one"]
    assert event[:4] == ("start", "one", os.getpid(), os.getpgrp())


# ── what Celery does ──────────────────────────────────────────────────────────────────────────────


LOST = "WARNING/MainProcess] consumer: Connection to broker lost. Trying to …"


def log(at: float, words: str) -> str:
    time = datetime.fromtimestamp(at).astimezone()
    return f"[{time:%Y-%m-%d %H:%M:%S},{time.microsecond // 1000:03}: {words}\n"


def log_of_one_that_did_not() -> str:
    return log(1000.5, LOST)


def log_of_one_that_came_back() -> str:
    return log(1000.5, LOST) + log(1010, "INFO/MainProcess] Connected to atomq://…")


@pytest.fixture
def trial(tmp_path: Path) -> CeleryTrial:
    """One in which nothing has happened."""
    server: Any = SimpleNamespace(url="redis+socket:///nowhere?virtual_host=0")
    return CeleryTrial(server, tmp_path, 0)


def worker(trial: CeleryTrial, mode: str, text: str = "") -> None:
    trial.judge.mode_of[WORKER] = mode
    trial.logs[WORKER] = trial.directory / "log"
    trial.logs[WORKER].write_text(text)


def why(trial: CeleryTrial, *seen: Event, **others: list[Event]) -> str | None:
    *some, second = seen
    return trial.why(others, some, second, 1)


def test_a_worker_that_was_stopped_cold_gives_back_what_it_had_begun(trial: CeleryTrial) -> None:
    worker(trial, "prefork")
    assert why(trial, start(0), start(9, OTHER)) is None
    trial.cold[WORKER] = 5
    assert why(trial, start(0), start(9, OTHER)) == COLD
    assert why(trial, start(0), start(4, OTHER)) is None


@pytest.mark.parametrize(("mode", "cause"), [("prefork", UNREAD), ("threads", None)])
@pytest.mark.parametrize(("at", "is_near"), [(0.2, True), (3, False), (-1, False)])
def test_a_connection_that_is_lost_has_prefork_forget_what_has_just_begun(
    trial: CeleryTrial, mode: str, cause: str | None, at: float, is_near: bool
) -> None:
    worker(trial, mode, log(1000 + at, LOST))
    assert why(trial, start(1000), end(1000), start(1009, OTHER)) == (cause if is_near else None)


@pytest.mark.parametrize(("died", "is_near"), [(1005, True), (1011, True), (1015, False)])
@pytest.mark.parametrize("back", [log_of_one_that_came_back, log_of_one_that_did_not])
def test_one_that_dies_before_it_is_connected_again_has_not_acked(
    trial: CeleryTrial, died: float, is_near: bool, back: Callable[[], str]
) -> None:
    worker(trial, "threads", back())
    trial.judge.has_died(WORKER, died)
    seen = start(1000), end(1001), start(1020, OTHER)
    assert why(trial, *seen) == (CUT_OFF if is_near or back is log_of_one_that_did_not else None)


def test_threads_that_stop_ack_when_all_are_done(trial: CeleryTrial) -> None:
    worker(trial, "threads")
    trial.warm[WORKER] = 1
    late = 0.1 + trial.max_lease
    assert why(trial, start(0), end(2), start(late, OTHER)) == UNACKED
    assert why(trial, start(0), end(2), start(late - 3, OTHER)) is None
    trial.judge.has_died(WORKER, 2.5)
    assert why(trial, start(0), end(2), start(late - 3, OTHER)) == UNACKED


def test_a_try_that_ran_twice_sends_the_next_one_twice(trial: CeleryTrial) -> None:
    worker(trial, "solo")
    second_try = start(0, n="one+"), start(1, OTHER, n="one+")
    assert why(trial, *second_try, one=[start(-2)]) is None
    assert why(trial, *second_try, one=[start(-2), start(-1, OTHER)]) == SENT_AGAIN


# ── what is written into the page ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "marks"),
    [
        ([], command.LIBRARY),
        (["--celery"], command.CELERY),
        (["--cluster", "valkey-9"], command.CLUSTER),
    ],
)
@pytest.mark.parametrize("is_well", [True, False])
def test_the_command_writes_its_counts_between_its_marks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    marks: tuple[str, str],
    is_well: bool,
) -> None:
    out = Outcome(put=1234, lost=[] if is_well else ["one"])
    out.duplicates[HUNG] = 77
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(command, "find_binary", lambda _: None)
    for name in ("on_a_server", "on_a_cluster"):
        monkeypatch.setattr(command, name, lambda *_: out)
    page = tmp_path / "page.md"
    before = (ROOT / "docs/reliability.md").read_text()
    page.write_text(before)
    code = command.main([*words, "--servers", "redis-8,valkey-9", "--docs", str(page)])
    assert code == (not is_well)
    (head, tail), text = _around(before, marks), page.read_text()
    assert text.startswith(head)
    assert text.endswith(tail)
    made = text.removeprefix(head).removesuffix(tail)
    assert made.count("1,234") == (1 if words == ["--cluster", "valkey-9"] else 2)
    assert f"- {HUNG}: 77\n" in made or f"- {HUNG}: 154\n" in made


def _around(text: str, marks: tuple[str, str]) -> tuple[str, str]:
    begin, end = marks
    head, _, rest = text.partition(begin)
    return head + begin, end + rest.partition(end)[2]
