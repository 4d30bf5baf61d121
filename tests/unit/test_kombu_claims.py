"""When Kombu's connection claims, for how much room, and what an answer changes. No server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest

from atomq.calls import Claimed
from atomq.contrib.kombu import claims as module
from atomq.contrib.kombu.claims import Claims
from atomq.errors import ServerUnavailable
from atomq.flows import clock
from tests.scripted import Stage, claimed


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    found = Stage(monkeypatch)
    found.channel.basic_qos(0, 10, False)
    yield found
    found.close()


@pytest.fixture
def asked() -> list[tuple[Any, Any]]:
    """What was asked for by the engine: calls, each with what hears of the outcome."""
    return []


@pytest.fixture
def claims(stage: Stage, asked: list[tuple[Any, Any]]) -> Claims:
    """As a cluster has them, one for each queue; what is sent is of no interest."""
    return Claims(
        stage.transport,
        stage.poller._buffer,
        lambda *_: None,
        lambda _: None,
        lambda call, then: asked.append((call, then)),
    )


def room(claim: tuple[str, ...]) -> int:
    """For how many messages a claim asks."""
    return int(claim[3 + int(claim[2]) + 2])


# ── company ───────────────────────────────────────────────────────────────────────────────────


def test_what_is_alone_no_more_is_said_later_if_the_server_is_away(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the end of this process would count against a message that had company."""
    later: list[str] = []
    monkeypatch.setattr(stage.broker.keeper, "do_later", lambda queue, _: later.append(queue))
    stage.broker.keeper.alone.beside.append(("q", "c-1.0.1"))
    stage.engine.answers["extend"] = ServerUnavailable("gone")
    assert stage.broker.hold(Claimed(0, None, (), (), []), clock()) == []
    assert later == ["q"]


# ── room ──────────────────────────────────────────────────────────────────────────────────────


def test_a_claim_under_way_reserves_room_of_its_channel_for_a_time(
    stage: Stage, claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(module, "clock", lambda: now[0])
    other = stage.transport.create_channel(stage.connection)
    assert claims.reserved(stage.channel, 2.0) == 0
    claims.send(stage.channel, ["q"], 7)
    now[0] += 1.0
    assert claims.reserved(stage.channel, 2.0) == 7
    assert claims.reserved(other, 2.0) == 0
    now[0] += 1.5
    assert claims.reserved(stage.channel, 2.0) == 0
    claims.give_up()
    assert claims.reserved(stage.channel, 9.0) == 0


def test_what_was_found_is_worth_a_claim_for_any_room_until_one_is_sent(
    stage: Stage, claims: Claims
) -> None:
    assert not claims.has_found
    claims.found(["q"])
    assert (claims.has_found, claims.hot) == (True, {"q"})
    claims.send(stage.channel, ["q"], 1)
    assert (claims.has_found, claims.hot) == (False, set())


def test_what_waits_to_be_handed_over_takes_room(stage: Stage) -> None:
    stage.consume()
    stage.poller.pump()
    stage.line.replies.append(claimed("a", "b", "c"))
    stage.poller._intake.read_on()
    assert stage.poller._intake.demand.rooms() == {stage.channel: 7}


def test_there_is_room_for_nothing_beside_a_message_that_stays_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.consume()
    rooms = stage.poller._intake.demand.rooms
    assert rooms() == {stage.channel: 10}
    monkeypatch.setattr(stage.broker.keeper.alone, "stands_still", lambda: True)
    assert rooms() == {}


def test_a_channel_asks_for_more_only_where_there_is_room_that_is_worth_a_call(
    stage: Stage,
) -> None:
    stage.channel.basic_qos(0, 4, False)
    stage.consume()
    stage.poller.pump()
    stage.line.replies.append(claimed("a", "b", "c"))
    stage.poller._intake.read_on()
    rooms = stage.poller._intake.demand.rooms
    assert (rooms(), rooms(least=True)) == ({}, {stage.channel: 1})


def test_without_a_limit_a_channel_is_given_more_each_time_it_is_quick(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atomq.contrib.kombu.consuming.PACE", 60.0)
    monkeypatch.setattr(stage.transport, "_loop", object())
    stage.channel.basic_qos(0, 0, False)
    stage.channel._claimed_at = time.monotonic() - 3600
    stage.consume()
    for _ in range(4):
        stage.claim(more=[1])
    assert [room(claim) for claim in stage.line.claims()] == [1, 1, 2, 4]


# ── what an answer changes ────────────────────────────────────────────────────────────────────


def test_the_queue_that_a_claim_ended_with_comes_last_next_time(stage: Stage) -> None:
    stage.consume("q")
    stage.consume("p")
    stage.claim("a", then=["b"], more=[1, 2])
    stage.poller.pump()
    first, second = stage.line.claims()
    assert (first[3], second[3]) == ("_atomq.{q}.unacked",) * 2


def test_what_is_delayed_falls_due_to_the_second(stage: Stage, claims: Claims) -> None:
    claims.send(stage.channel, ["q"], 1)
    claims.answered(claimed(wait_ms=36_000_000))
    assert claims.due_at == pytest.approx(time.monotonic() + 36_000, abs=5)


def test_the_keeper_minds_what_falls_due_while_the_thread_works_on_a_task(
    stage: Stage, claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[float] = []
    monkeypatch.setattr(stage.broker.keeper, "watch", lambda _, after: watched.append(after))
    assert claims.waits_until() == inf
    for wait_ms in (60_000, 0):
        claims.send(stage.channel, ["q"], 1)
        claims.answered(claimed(wait_ms=wait_ms))
        assert claims.waits_until() == inf, "no task keeps the thread from it"
        claims.begin_task()
        assert claims.waits_until() == pytest.approx(clock() + wait_ms / 1000, abs=5)
        claims.begin_task()
        claims.end_task()
    assert watched == [pytest.approx(60, abs=5), 0.0], "once each"
    claims.begin_task()
    assert claims.withdraw() == ["q"]
    assert claims.waits_until() == inf


@pytest.mark.parametrize("key", ["q", "pre:q", "_atomq.{other:q}.wake"])
def test_a_key_of_another_namespace_is_not_passed_on(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    stage = Stage(monkeypatch, global_keyprefix="pre:")
    stage.poller._intake.claims.pass_on(key)
    assert stage.engine.called("claim") == []
    stage.engine.answers["claim"] = claimed()
    stage.poller._intake.claims.pass_on("_atomq.{pre:q}.wake")
    assert len(stage.engine.called("claim")) == 1
    stage.close()


# ── a claim whose answer does not come ────────────────────────────────────────────────────────


def test_a_claim_that_was_not_carried_out_is_sent_anew_with_its_acks(
    stage: Stage, claims: Claims, asked: list[Any]
) -> None:
    stage.broker.keeper.acks.put_back("q", ["a"])
    claims.send(stage.channel, ["q"], 1)
    assert stage.acks() == []
    claims.take_back()
    assert (claims.under_way, claims.hot, claims.has_found) == (None, {"q"}, True)
    assert stage.acks() == ["a"]
    assert asked == []


def test_a_claim_whose_line_broke_is_asked_for_by_the_engine_as_another_try(
    stage: Stage, claims: Claims, asked: list[Any]
) -> None:
    stage.consume()
    claims.send(stage.channel, ["q"], 1)
    assert claims.under_way is not None
    before = claims.under_way[1]
    claims.ask_by_engine()
    ((call, then),) = asked
    assert (call.keys, before.repeated, call.repeated) == (before.keys, False, True)
    assert claims.under_way is not None, "until the engine has the answer"
    then(call.parse(claimed("a"), call.repeated))
    assert claims.under_way is None
    assert len(stage.poller._buffer) == 1
