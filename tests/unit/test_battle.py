"""The judge of the battles: what explains that a message was started again, and what does not."""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.battle import __main__ as command
from tests.battle.cluster import ClusterTrial
from tests.battle.judge import AGAIN, AWAY, DIED, FROZEN, HUNG, UNEXPLAINED, Judge, Outcome
from tests.battle.ledger import Event, Ledger, read
from tests.battle.pools import COLD, CUT_OFF, POOLS, SENT_AGAIN, UNACKED, UNREAD, CeleryTrial
from tests.battle.shards import Away, Shards
from tests.servers import ROOT, Cluster, Server

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


@pytest.mark.parametrize("what", ["frozen", "died"])
@pytest.mark.parametrize(
    ("away", "at", "is_reason"),
    [
        ([], 2.9, True),  # it had not acked yet
        ([], 3.1, False),  # its server was there for a lease: it had acked, or lost it before
        ([(0.9, 5)], 4.9, True),  # nobody could ack
        ([(0.9, 5)], 6.9, True),
        ([(0.9, 5)], 7.1, False),
        ([(0.9, 2)], 4.1, False),  # the server was back long enough
        ([(2, 5)], 5.9, True),  # a second to ack was before it, another one behind it
        ([(2, 5)], 6.1, False),
        ([(3.1, 6)], 5, False),  # by then it had acked
        ([(-3, 0.5)], 3.1, False),  # it was back before the end
        ([(2, 4), (1.5, 3), (5, 7)], 7.4, True),  # half a second, a second, half a second
        ([(2, 4), (1.5, 3), (5, 7)], 7.6, False),
    ],
)
def test_what_comes_after_the_end_is_a_reason_while_the_ack_had_no_time(
    what: str, away: list[tuple[float, float]], at: float, is_reason: bool
) -> None:
    judge = Judge()
    judge.away = {"one": away}.__getitem__
    if what == "died":
        judge.has_died(WORKER, at)
    else:
        judge.frozen.append((WORKER, at, at + 3))
    why = (DIED if what == "died" else FROZEN) if is_reason else UNEXPLAINED
    assert judged(judge, start(0), end(1), start(12, OTHER)) == {why: 1}


def test_that_the_server_took_no_acks_is_no_reason_by_itself() -> None:
    """It gives a grace to those that could not renew and ack meanwhile."""
    judge = Judge()
    judge.away = lambda _: [(0.9, 5)]
    assert judged(judge, start(0), end(1), start(6, OTHER)) == {UNEXPLAINED: 1}
    judge.frozen.append((3, 4, 7))
    assert judged(judge, start(0), end(1), start(6, OTHER)) == {UNEXPLAINED: 1}


@pytest.mark.parametrize(("mode", "why"), [("sync", UNEXPLAINED), ("prefork", FROZEN)])
def test_celery_holds_longer_what_it_has_done(mode: str, why: str) -> None:
    judge = Judge()
    judge.late, judge.mode_of[WORKER] = POOLS, mode
    judge.frozen.append((WORKER, 4.9, 8))
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


def test_a_process_that_is_frozen_before_it_writes_began_first_all_the_same(
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "ledger"
    ledger.write_text("start one 2 2 2 5.0\nend one 2 2 2 5.1\nstart one 1 1 1 3.0\n")
    judge = Judge()
    judge.frozen = [(WORKER, 3.001, 6.0)]
    assert judged(judge, *read(ledger)["one"]) == {FROZEN: 1}


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


@pytest.mark.parametrize(("frozen", "cause"), [(1005, CUT_OFF), (1015, None), (1000.7, None)])
def test_one_that_is_frozen_before_it_is_connected_again_has_not_acked(
    trial: CeleryTrial, frozen: float, cause: str | None
) -> None:
    worker(trial, "threads", log_of_one_that_came_back())
    seen = start(1000), end(1001), start(1020, OTHER)
    trial.judge.frozen.append((OTHER, frozen, frozen + 3))
    assert why(trial, *seen) is None
    trial.judge.frozen.append((WORKER, frozen, frozen + 3))
    assert why(trial, *seen) == cause


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


def test_of_those_that_were_sent_twice_one_may_be_started_again(trial: CeleryTrial) -> None:
    """What a freeze explains is none of those that were sent."""
    worker(trial, "solo")
    trial.judge.mode_of[OTHER], trial.logs[OTHER] = "solo", trial.logs[WORKER]
    trial.judge.frozen.append((WORKER, 0.5, 3.5))
    tries = [start(at, by, n="one+") for at, by in ((0, WORKER), (2, OTHER), (60, OTHER))]
    events = {"one": [start(-2), start(-1, OTHER)], "one+": tries}
    for seen, why in ((tries, {FROZEN: 1, SENT_AGAIN: 1}), (tries[1:], {SENT_AGAIN: 1})):
        out = Outcome()
        trial.judge.count({"one+": seen}, out, lambda *given: trial.why(events, *given))
        assert out.duplicates == why
    out = Outcome()
    tries.append(start(120, OTHER, n="one+"))
    trial.judge.count({"one+": tries}, out, lambda *given: trial.why(events, *given))
    assert out.duplicates == {FROZEN: 1, SENT_AGAIN: 1, UNEXPLAINED: 1}


# ── on a cluster ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Shards]:
    """Of a cluster that was not started."""
    made = Shards("valkey-9", [0], random.Random(), tmp_path)
    yield made
    made._cluster.stop()


def test_on_a_cluster_an_ack_waits_for_its_own_shard(tmp_path: Path) -> None:
    made = ClusterTrial("valkey-9", tmp_path, 0)
    try:
        name, other = made.names[:2]
        (slot,) = made._slots_of[name]
        made._shards.away.append(Away(0.9, 5, frozenset([slot, 9999])))
        made._judge.frozen.append((WORKER, 4.9, 8))
        for queue, why in ((name, FROZEN), (other, UNEXPLAINED)):
            n = f"sync.{queue}.1"
            out, seen = Outcome(), [start(0, n=n), end(1)._replace(n=n), start(9, OTHER, n=n)]
            made._judge.count({n: seen}, out, made._why)
            assert out.duplicates == {why: 1}
    finally:
        made._shards._cluster.stop()


def logging_nodes(shards: Shards) -> list[Server]:
    for at, node in enumerate(shards._cluster.everyone, 1):
        node.port = at
        (node.directory / "log").write_text(f"of {at}")
    return shards._cluster.everyone


def has_kept(directory: Path, error: BaseException) -> bool:
    """Whether the logs of six nodes are there, and the error says where."""
    assert error.__notes__ == [f"the logs of its nodes are in {directory}"]
    kept = {path.name: path.read_text() for path in directory.glob("node-*.log")}
    return kept == {f"node-{at}.log": f"of {at}" for at in range(1, 7)}


def test_a_trial_that_raises_keeps_the_logs_of_the_nodes(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cluster, "start", lambda _: None)
    nodes = logging_nodes(shards)
    with pytest.raises(AssertionError, match="waited") as raised, shards:
        raise AssertionError("waited")
    assert has_kept(tmp_path, raised.value)
    assert not any(node.directory.exists() for node in nodes)


def test_a_cluster_that_cannot_be_formed_leaves_the_logs_of_its_nodes(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: Cluster) -> None:
        logging_nodes(shards)
        raise AssertionError("waited")

    monkeypatch.setattr(Cluster, "start", start)
    with pytest.raises(AssertionError, match="waited") as raised, shards:
        pass
    assert has_kept(tmp_path, raised.value)


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
    if words[:1] == ["--cluster"]:
        assert command.counts_of(made)[0]["put"]["valkey-9"] == 1234
        assert command.counts_of(made)[2][HUNG]["valkey-9"] == 77
    else:
        assert made.count("1,234") == 2
        assert f"- {HUNG}: 154\n" in made


def test_of_clusters_each_kind_has_a_column_that_others_leave_alone() -> None:
    outcomes = [Outcome(put=n, starts=n + 1) for n in (1000, 200, 30)]
    for n, out in enumerate(outcomes, 1):
        out.mishaps.update(lose_shard=n, kill_worker=5)
        out.duplicates[DIED] = n
    outcomes[0].duplicates[HUNG] = 1
    text = command.cluster_tables([("valkey-9", 120.4, outcomes[0])], "")
    text = command.cluster_tables([("redis-8", 60, outcomes[1])], text)
    lines = text.splitlines()
    assert lines[0] == "| | redis-8 | valkey-9 | all |"
    assert "| seconds | 60 | 120 | 180 |" in lines
    assert "| put | 200 | 1,000 | 1,200 |" in lines
    assert lines[lines.index("Mishaps:") + 4 :][:2] == [
        "| kill worker | 5 | 5 | 10 |",
        "| lose shard | 2 | 1 | 3 |",
    ]
    assert f"| {HUNG} | 0 | 1 | 1 |" in lines
    text = command.cluster_tables([("valkey-9", 60, outcomes[2])], text)
    assert "| put | 200 | 30 | 230 |" in text
    assert "| lose shard | 2 | 3 | 5 |" in text
    assert HUNG not in text, "what no kind has met any more"
    assert command.cluster_tables([], text) == text


def test_where_a_trial_that_raised_has_left_its_logs_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> Outcome:
        raise AssertionError("waited")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(command, "find_binary", lambda _: None)
    monkeypatch.setattr(command, "on_a_cluster", run)
    with pytest.raises(AssertionError, match="waited"):
        command.main(["--cluster", "valkey-9", "--seed", "7"])
    (left,) = tmp_path.iterdir()
    assert capsys.readouterr().out == f"valkey-9, seed 7: the ledger and the logs are in {left}\n"


def _around(text: str, marks: tuple[str, str]) -> tuple[str, str]:
    begin, end = marks
    head, _, rest = text.partition(begin)
    return head + begin, end + rest.partition(end)[2]
