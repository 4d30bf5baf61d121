"""Living beside stock workers: what is sent, and what is made of the answers. Needs no server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import exceptions as server

from atomq.contrib.kombu import stock
from atomq.contrib.kombu import watch as module
from atomq.contrib.kombu.stock import RESTORE_EVERY, Restore
from atomq.contrib.kombu.watch import LINGER, WATCH_MS, Election, Watch
from tests.scripted import Stage


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found = [1000.0]

    class Clock:
        monotonic = staticmethod(lambda: found[0])

    for each in (stock, module):
        monkeypatch.setattr(each, "time", Clock)
    return found


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, now: list[float]) -> Iterator[Stage]:
    found = Stage(monkeypatch, global_keyprefix="pre:")
    yield found
    found.close()


def stood(watch: Election, *queues: str) -> list[tuple[str, str]]:
    """The queues it stands for, and how."""
    return [(queue, command[3]) for queue, command in watch.stand(list(queues))]


def test_a_watch_is_renewed_while_it_lasts_and_not_at_every_wait(
    stage: Stage, now: list[float]
) -> None:
    watch = Election(stage.broker)
    assert stood(watch, "q") == []
    for queue in ("q", "p", "r"):
        watch.want(queue)
    assert sorted(stood(watch, "q", "p")) == [("p", "NX"), ("q", "NX")]
    assert stood(watch, "q", "p") == [], "nothing changed"
    assert watch.elected("q", won=True)
    assert not watch.elected("p", won=False)
    assert stood(watch, "q", "p", "r") == [("r", "NX")], "it could not take anything of that"
    now[0] += 1.1
    watch.want("q")
    assert stood(watch, "q") == []
    now[0] += 0.2
    watch.want("q")
    assert stood(watch, "q") == [("q", "XX")]
    assert not watch.elected("q", won=True), "it was its before"
    now[0] += WATCH_MS / 1000
    watch.want("q")
    assert stood(watch, "q") == [("q", "NX")]
    assert not watch.elected("q", won=False)
    assert watch.lists(["q"]) == []


def watching(stage: Stage, *queues: str) -> Election:
    """One that has won all of these elections."""
    watch = Election(stage.broker)
    for queue in queues:
        watch.want(queue)
        list(watch.stand([queue]))
        assert watch.elected(queue, won=True)
    return watch


def test_a_watch_that_is_nearly_over_is_renewed(stage: Stage, now: list[float]) -> None:
    watch = watching(stage, "q")
    now[0] += WATCH_MS / 1000 - 0.1
    watch.want("q")
    assert stood(watch, "q") == [("q", "XX")]


def test_it_stands_for_others_beside_those_that_it_watches(stage: Stage) -> None:
    held, others = ([f"{kind}{n}" for n in range(9)] for kind in "ho")
    watch = watching(stage, *held)
    for queue in (*held, *others):
        watch.want(queue)
    assert sorted(stood(watch, *held, *others)) == [(queue, "NX") for queue in others]


def test_the_server_tells_once_of_a_list_that_others_change(stage: Stage) -> None:
    watch = watching(stage, "q", "p")
    q, p = (stage.broker.keys(queue).ready for queue in "qp")
    assert watch.lists(["q"]) == [("q", q)]
    assert watch.lists(["q", "p"]) == [("p", p)]
    assert watch.lists(["q", "p"]) == []
    assert watch.changed([q[2], "another"]) == {"q"}
    assert watch.lists(["q", "p"]) == [("q", q)]
    watch.claimed(["p"])
    assert watch.lists(["q", "p"]) == [("p", p)], "of what it changes itself it is not told"
    assert watch.changed(None) == set()
    assert len(watch.lists(["q", "p"])) == 2, "all keys were removed"
    watch.disconnected()
    assert len(watch.lists(["q", "p"])) == 2, "another connection"


def test_a_watch_is_left_to_others_who_are_woken(stage: Stage, now: list[float]) -> None:
    watch = watching(stage, "q", "p", "o")
    watch._mine["o"] = now[0] - 1  # over by now: another consumer may have it
    assert watch.has_more(["q", "p"])
    commands = list(watch.resign(staying=["p"]))
    q = stage.broker.keys("q")
    assert [(call.script.name, call.keys) for call in commands] == [("resign", (q.watch, q.wake))]
    assert not list(watch.resign(staying=["p"]))
    assert not watch.has_more(["p"])
    assert stood(watch, "q") == [("q", "NX")], "as soon as it can take something again"


def test_while_a_long_task_runs_in_its_thread_the_keeper_leaves_the_watch(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [500.0]
    monkeypatch.setattr(module, "clock", lambda: clock[0])
    monkeypatch.setattr(stage.broker.keeper, "watch", lambda *_: None)
    watch = watching(stage, "q")
    watch.begin()
    watch.end()
    assert watch.waits_until() == clock[0] + 0.1, "there may be another"
    assert watch.withdraw() == []
    assert watch.waits_until() == float("inf")
    watch.begin()
    assert watch.waits_until() == clock[0] + LINGER
    clock[0] += LINGER
    assert watch.withdraw() == ["q"]
    assert [call.script.name for call in watch.give_back()] == ["resign"]
    assert watch.waits_until() == float("inf")


def test_the_keeper_looks_after_a_task_that_has_begun_only_if_something_is_watched(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most tasks are short: it is roused once for all that begin before it looks."""
    roused: list[float] = []
    monkeypatch.setattr(stage.broker.keeper, "watch", lambda _, seconds: roused.append(seconds))
    Election(stage.broker).begin()
    assert roused == []
    watch = watching(stage, "q")
    for _ in range(2):
        watch.begin()
        watch.end()
    assert roused == [LINGER]
    watch.waits_until()
    watch.begin()
    assert roused == [LINGER, LINGER]


def test_a_watch_that_cannot_be_left_in_time_is_over_by_itself(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [500.0]
    monkeypatch.setattr(module, "clock", lambda: clock[0])
    monkeypatch.setattr(stage.broker.keeper, "watch", lambda *_: None)
    watch = watching(stage, "q")
    watch.begin()
    assert watch.withdraw() == ["q"]
    clock[0] += WATCH_MS / 1000
    assert list(watch.give_back()) == []


# ── over a connection ─────────────────────────────────────────────────────────────────────────


def test_where_the_server_tracks_nothing_it_is_not_asked_again_on_this_connection(
    stage: Stage,
) -> None:
    sent: list[tuple[Any, Any]] = []
    heard: list[str] = []
    watch = Watch(stage.broker, lambda *of: sent.append(of), heard.append)

    def won(queue: str) -> list[Any]:
        """What is sent at the next wait, this queue being watched now; purposes of it."""
        watch.election.want(queue)
        list(watch.election.stand([queue]))
        watch.election.elected(queue, won=True)
        sent.clear()
        watch.arm([queue])
        return [command[0] for _, command in sent]

    assert won("q") == ["CLIENT", "CLIENT", "EXISTS"]
    for (purpose, _), reply in zip(sent, (b"OK", b"OK", 0), strict=True):
        purpose(reply)
    assert heard == [], "the lists are empty"
    assert won("p") == ["CLIENT", "EXISTS"], "it tracks already"
    for (purpose, _), reply in zip(sent, (b"OK", 1), strict=True):
        purpose(reply)
    assert heard == ["p"]
    sent[0][0](server.ResponseError("ERR unknown subcommand"))
    assert won("o") == []
    watch.disconnected()
    assert won("n") == ["CLIENT", "CLIENT", "EXISTS"]


FOREIGN = [b"tag", b'"x"', b'"k"', 3]


def test_what_dead_stock_workers_left_is_taken_over_now_and_then(
    stage: Stage, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage.channel, "_lookup", lambda *_: ["other", "q"])
    stage.consume("q")
    restore = Restore(stage.broker, stage.channel.settings)
    answers: list[Any] = [[0, FOREIGN], [1, []], [0, []]]
    stage.engine.answers["restore_foreign"] = lambda _: answers.pop(0)
    assert restore.turn(stage.channel, "q") == 1
    look, take, again = stage.engine.called("restore_foreign")
    assert look.keys[:2] == ["pre:unacked", "pre:unacked_index"]
    assert look.args[0] == stage.engine.options.visibility_timeout
    assert (look.args[1], take.args[1], again.args[1]) == (100, 0, 100)
    assert stage.broker.keys("q").ready[1] in take.keys, "of its queues, ours first"
    now[0] += RESTORE_EVERY / 2
    assert restore.turn(stage.channel, "q") == 0
    assert len(stage.engine.called("restore_foreign")) == 3
    now[0] += RESTORE_EVERY
    answers += [[0, FOREIGN], [0, []]]
    assert restore.turn(stage.channel, "q") == 0, "another was faster"


def test_a_record_that_says_nothing_is_left_where_it_is(stage: Stage) -> None:
    restore = Restore(stage.broker, stage.channel.settings)
    stage.engine.answers["restore_foreign"] = [0, [b"tag", b"no JSON", b"no JSON", 0]]
    assert restore.turn(stage.channel, "q") == 0
    assert len(stage.engine.called("restore_foreign")) == 1


def test_with_the_names_of_a_cluster_there_is_no_stock_beside(
    monkeypatch: pytest.MonkeyPatch, now: list[float]
) -> None:
    stage = Stage(monkeypatch, layout="cluster")
    watch = Election(stage.broker)
    watch.want("q")
    assert stood(watch, "q") == []
    assert Restore(stage.broker, stage.channel.settings).turn(stage.channel, "q") == 0
    assert stage.engine.called("restore_foreign") == []
    stage.close()
