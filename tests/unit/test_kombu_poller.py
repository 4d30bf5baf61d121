"""What one connection of Kombu's sends, and what it makes of each answer. Needs no server."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any
from unittest.mock import Mock

import pytest
from redis import exceptions as server

from atomq.contrib.kombu import claims, intake, line, rights, waker, worker
from atomq.contrib.kombu import poller as module
from atomq.contrib.kombu.intake import CAP, PATIENCE
from atomq.contrib.kombu.rights import FORBIDDEN
from atomq.contrib.kombu.waker import Alarm, Waker
from atomq.contrib.kombu.watch import LINGER
from atomq.errors import AtomqError, PermissionDenied, ServerFull, ServerUnavailable
from tests.scripted import Line, Stage, claimed, push, raw


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    found = Stage(monkeypatch)
    found.channel.basic_qos(0, 10, False)
    yield found
    found.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds by which the poller's clock is ahead."""
    ahead, real = [0.0], time.monotonic

    class Clock:
        monotonic = staticmethod(lambda: real() + ahead[0])
        sleep = time.sleep

    for each in (module, claims, intake, line, rights):
        monkeypatch.setattr(each, "time", Clock)
    monkeypatch.setattr(claims, "clock", Clock.monotonic)
    return ahead


def acked(stage: Stage, *receipts: str) -> None:
    """These were handed over, and their acks wait."""
    stage.claim(*receipts)
    for receipt in receipts:
        stage.channel.basic_ack(receipt)


def attempt(command: tuple[Any, ...]) -> int:
    """Which try of a claim this is."""
    return int(command[3 + int(command[2]) + 1])


NO_SCRIPT = server.NoScriptError("NOSCRIPT no matching script")
CUT = server.ConnectionError("cut")


# ── claiming and waiting ──────────────────────────────────────────────────────────────────────


def test_it_claims_what_it_has_room_for_then_waits(stage: Stage) -> None:
    stage.consume("q")
    stage.consume("p")
    stage.poller.pump()
    (claim,) = stage.line.claims()
    assert claim[-8:-3] == ("20000", "20", "1048576", "4", "0")  # renewal, cap, bytes, steps, SOLE
    assert claim[3 + int(claim[2]) + 2] == "10"
    stage.poller.pump()
    assert len(stage.line.claims()) == 1, "one claim at a time"
    stage.give(claimed())
    stage.poller.pump()
    wait = stage.line.sent[-1]
    assert wait[:-1] == ("BRPOP", "_atomq.{q}.wake", "_atomq.{p}.wake")
    assert 0.5 <= CAP[0] <= float(wait[-1]) <= CAP[1] < 1.0
    sent = len(stage.line.sent)
    stage.poller.pump()
    assert len(stage.line.sent) == sent


def test_it_claims_again_where_there_is_more(stage: Stage) -> None:
    stage.consume("q")
    stage.consume("p")
    stage.poller.pump()
    stage.give(claimed(more=[2]))
    stage.poller.pump()
    assert [claim[3:4] for claim in stage.line.claims()][1:] == [("_atomq.{p}.unacked",)]


def test_a_full_consumer_neither_claims_nor_waits(stage: Stage) -> None:
    stage.channel.basic_qos(0, 2, False)
    stage.consume()
    stage.claim("a", "b", more=[1])
    stage.poller.pump()
    assert "BRPOP" not in stage.line.names()
    assert len(stage.line.claims()) == 1
    stage.channel.basic_ack("a")
    stage.poller.pump()
    assert len(stage.line.claims()) == 2
    assert stage.line.claims()[1][-2:] == ("1", "a"), "the ack rides along"


def test_what_is_due_later_is_claimed_when_it_is_due(stage: Stage, clock: list[float]) -> None:
    stage.consume()
    stage.claim(wait_ms=300)
    stage.poller.pump()
    assert stage.line.names()[-1] == "BRPOP"
    clock[0] = 0.25
    stage.poller.pump()
    assert len(stage.line.claims()) == 1
    clock[0] = 0.31
    stage.line.replies.append(None)  # of the watcher's election
    stage.engine.answers["CLIENT"] = lambda _: stage.line.replies.append(None)
    stage.poller.pump()
    assert ("CLIENT", "UNBLOCK", 7, "ERROR") in stage.engine.commands
    assert len(stage.line.claims()) == 2


def test_what_falls_due_is_no_later_for_an_answer_that_lay_unread(
    stage: Stage, clock: list[float]
) -> None:
    stage.consume()
    stage.poller.pump()
    clock[0] = 0.2
    stage.give(claimed(wait_ms=300))
    stage.engine.answers["CLIENT"] = lambda _: stage.line.replies.append(None)
    stage.poller.pump()
    stage.line.replies.append(None)  # of the watcher's election
    clock[0] = 0.31
    stage.poller.pump()
    assert len(stage.line.claims()) == 2


def test_once_a_second_every_queue_is_looked_at_and_claimed_where_there_is_work(
    stage: Stage, clock: list[float]
) -> None:
    stage.consume("q")
    stage.consume("p")
    stage.claim()
    stage.poller.pump()
    assert float(stage.line.sent[-1][-1]) <= 0.9
    clock[0] += 0.9
    stage.give(None, None, None)  # of two elections, which it lost, and of the wait
    stage.poller.pump()
    (look,) = stage.line.calls("look")
    assert look[-4:] == (stage.broker.ids.prefix, "20000", "4", "0")
    assert {"_atomq.{q}.unacked", "_atomq.{p}.unacked"} <= set(look)
    assert stage.line.names()[-1] == "BRPOP", "behind it"
    stage.engine.answers["CLIENT"] = lambda _: stage.line.replies.append(None)
    stage.give(b"2", None, None)  # of the elections too
    stage.poller.pump()
    assert [claim[3:4] for claim in stage.line.claims()][1:] == [("_atomq.{p}.unacked",)]


def test_a_queue_is_looked_at_while_there_is_always_work_in_another(
    stage: Stage, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the look is no reason for a claim at each place that becomes free."""
    monkeypatch.setattr(worker, "waiting", lambda: True)
    stage.channel.basic_qos(0, 4, False)
    stage.consume("q")
    stage.consume("p")
    stage.poller.pump()
    clock[0] += 1.0
    stage.give(claimed("a", "b", "c", "d", more=[1]))
    stage.poller.pump()
    assert not stage.line.calls("look"), "it can take nothing"
    stage.channel.basic_ack("a")
    stage.poller.pump()
    (look,) = stage.line.calls("look")
    assert "_atomq.{p}.unacked" in look
    assert "_atomq.{q}.unacked" not in look, "it is claimed from"
    assert len(stage.line.claims()) == 2
    stage.give(b"", claimed("e", more=[1]))
    stage.channel.basic_ack("b")
    stage.poller.pump()
    assert len(stage.line.claims()) == 2, "one free place of four is not worth a call"


def test_one_that_hears_of_the_looks_of_others_puts_off_its_own(
    stage: Stage, clock: list[float]
) -> None:
    stage.consume()
    stage.claim()
    stage.poller.pump()
    clock[0] += 0.8
    stage.give(None, push(b"message", b"_atomq.{q}.looked", b"other"), None)
    stage.poller.pump()
    clock[0] += 0.8
    stage.poller.pump()
    assert not stage.line.calls("look")


@pytest.mark.parametrize("answer", [b"1", PermissionDenied("this user may not look")])
def test_a_look_whose_script_is_not_loaded_is_run_by_the_engine(
    stage: Stage, clock: list[float], answer: Any
) -> None:
    stage.engine.answers["look"] = answer
    stage.consume()
    stage.claim()
    stage.poller.pump()
    clock[0] += 0.9
    stage.give(None, None)
    stage.poller.pump()
    stage.engine.answers["CLIENT"] = lambda _: stage.line.replies.append(None)
    stage.give(server.NoScriptError("NOSCRIPT"), None)
    stage.poller.pump()
    assert len(stage.line.claims()) == 2


def test_a_token_has_its_queue_claimed(stage: Stage) -> None:
    stage.consume("q")
    stage.consume("p")
    stage.claim()
    stage.poller.pump()
    elections = len([name for name in stage.line.names() if name == "SET"])
    assert elections == 2
    stage.give(None, None, [b"_atomq.{p}.wake", b"1"])
    stage.poller.pump()
    assert [claim[3] for claim in stage.line.claims()][1:] == ["_atomq.{p}.unacked"]


def test_a_token_that_nobody_here_waits_for_any_more_is_passed_on(stage: Stage) -> None:
    stage.consume("q")
    stage.claim()
    stage.poller.pump()
    stage.channel._active_queues.clear()
    stage.poller.regroup()
    stage.channel._consumed = None
    stage.engine.answers["claim"] = claimed()
    stage.give(None, [b"_atomq.{q}.wake", b"1"])
    (call,) = stage.engine.called("claim")
    assert call.keys[0] == "_atomq.{q}.unacked"
    assert call.args[2] == 0, "it takes nothing"


def test_nothing_is_claimed_by_a_worker_that_stops(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (module, intake):
        monkeypatch.setattr(each, "stopping", lambda: True)
    stage.consume()
    stage.poller.pump()
    assert not stage.engine.lines or not stage.line.claims()


# ── acks that ride along ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("trouble", "raised"),
    [
        (ServerFull("full"), None),
        (PermissionDenied("no"), None),
        (ServerUnavailable("away"), ServerUnavailable),
        (AtomqError("else"), AtomqError),
    ],
    ids=["full", "denied", "away", "else"],
)
def test_acks_of_a_claim_that_was_refused_are_kept(
    stage: Stage, trouble: Exception, raised: type[Exception] | None
) -> None:
    stage.consume()
    acked(stage, "a", "b")
    stage.poller._intake.claims.hot.add("q")
    stage.poller.pump()
    assert stage.line.claims()[-1][-3:] == ("2", "a", "b")
    assert stage.acks() == []
    stage.engine.answers["claim"] = trouble
    if raised:
        with pytest.raises(raised):
            stage.give(NO_SCRIPT)
    else:
        stage.give(NO_SCRIPT)
    assert stage.acks() == ["a", "b"]
    assert len(stage.broker.unanswered) == bool(raised)


def test_acks_that_found_nothing_are_told_and_the_others_are_done(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.consume()
    acked(stage, "a", "b")
    stage.poller._intake.claims.hot.add("q")
    stage.poller.pump()
    stage.give(claimed(lost=[1, 2]))
    assert stage.acks() == []
    (late,) = caplog.messages
    assert late == "a message of 'q' went to another consumer: b was acked too late"


def test_acks_of_a_connection_that_is_lost_are_kept(stage: Stage) -> None:
    stage.consume()
    acked(stage, "a")
    stage.poller._intake.claims.hot.add("q")
    stage.poller.pump()
    stage.engine.answers["connect"] = ServerUnavailable("away")
    with pytest.raises(server.ConnectionError):
        stage.give(CUT)
    assert stage.transport.lost
    assert stage.acks() == ["a"]
    (call,) = stage.broker.unanswered
    assert not call.repeated


# ── a claim without an answer ─────────────────────────────────────────────────────────────────


def test_a_claim_without_an_answer_is_asked_for_again_as_another_try(
    stage: Stage, clock: list[float]
) -> None:
    stage.consume()
    stage.poller.pump()
    old, before = stage.line, stage.line.claims()[0]
    clock[0] = 2.0  # it lasted: it is replaced without a word
    stage.engine.answers["claim"] = claimed("a")
    old.replies.append(CUT)
    stage.poller.on_readable()
    (call,) = stage.engine.called("claim")
    again = tuple(map(str, call.command()))
    assert (attempt(before), attempt(again), call.repeated) == (0, 1, True)
    assert again[3 + int(again[2])] == before[3 + int(before[2])], "under the same id"
    assert old.closed
    assert [message.delivery_tag for message in stage.got] == ["a"]
    assert not stage.transport.lost


def test_what_a_lost_connection_had_claimed_is_given_back_by_the_next(stage: Stage) -> None:
    stage.consume()
    stage.poller.pump()
    stage.engine.answers["connect"] = ServerUnavailable("away")
    with pytest.raises(server.ConnectionError):
        stage.give(CUT)
    stage.engine.answers["claim"] = claimed("a", "b")
    assert stage.broker.reap() == 2
    (call,) = stage.engine.called("claim")
    assert (call.args[1], call.repeated) == (1, True)
    assert stage.released() == [("a", 0, 1, 0), ("b", 0, 1, 0)], "in front, uncounted"
    assert stage.broker.reap() == 0


@pytest.mark.parametrize("got", [(), ("a",)])
def test_one_that_breaks_again_at_once_is_not_replaced_in_silence(
    stage: Stage, got: tuple[str, ...]
) -> None:
    """But for a claim that got something, which may have been too large for this connection."""
    stage.consume()
    stage.poller.pump()
    stage.engine.answers["claim"] = claimed(*got)
    if got:
        stage.give(CUT)
        assert not stage.transport.lost
    else:
        with pytest.raises(server.ConnectionError, match="cut"):
            stage.give(CUT)
        assert stage.transport.lost


def test_an_idle_connection_that_breaks_at_once_is_lost(stage: Stage) -> None:
    stage.consume()
    stage.claim()
    stage.poller.pump()
    with pytest.raises(server.ConnectionError, match="cut"):
        stage.give(CUT)
    assert stage.transport.lost
    assert stage.poller._intake.socket.line is None
    assert len(stage.engine.lines) == 1


@pytest.mark.parametrize("lasted", [0.0, 2.0])
def test_a_connection_that_breaks_while_its_wait_is_withdrawn_is_lost_or_replaced(
    stage: Stage, clock: list[float], monkeypatch: pytest.MonkeyPatch, lasted: float
) -> None:
    stage.consume("q")
    stage.claim()
    stage.poller.pump()
    stage.give(None)  # of the watcher's election
    clock[0], line = lasted, stage.line
    assert stage.poller._intake.blocked

    def cut(_: float) -> bool:
        raise CUT

    monkeypatch.setattr(line, "readable", cut)
    if lasted:
        stage.poller._intake.withdraw()
    else:
        with pytest.raises(server.ConnectionError, match="cut"):
            stage.poller._intake.withdraw()
    assert line.closed
    assert not stage.poller._intake.blocked
    assert stage.transport.lost == (not lasted)


def test_a_server_that_does_not_answer_in_time_is_left(stage: Stage, clock: list[float]) -> None:
    stage.consume()
    stage.poller.pump()
    clock[0] = PATIENCE - 0.1
    stage.poller.pump()
    assert len(stage.engine.lines) == 1
    clock[0] = PATIENCE + 0.1
    stage.engine.answers["claim"] = claimed()
    stage.poller.pump()
    assert len(stage.engine.lines) == 2


def test_an_answer_that_lies_there_is_not_too_late(stage: Stage, clock: list[float]) -> None:
    stage.consume()
    stage.poller.pump()
    stage.line.replies.append(claimed("a"))
    clock[0] = 60.0
    stage.poller.pump()
    stage.poller.on_readable()
    assert len(stage.engine.lines) == 1
    assert [message.delivery_tag for message in stage.got] == ["a"]


def test_another_master_is_connected_to(stage: Stage, clock: list[float]) -> None:
    stage.consume()
    stage.claim()
    clock[0] = 2.0
    stage.engine.moves += 1
    stage.poller.pump()
    assert len(stage.engine.lines) == 2
    stage.poller.pump()
    assert len(stage.engine.lines) == 2


# ── rights ────────────────────────────────────────────────────────────────────────────────────


def test_a_right_that_was_never_there_is_told_at_once(stage: Stage) -> None:
    stage.consume()
    stage.poller.pump()
    stage.engine.answers["claim"] = PermissionDenied("no")
    with pytest.raises(PermissionDenied):
        stage.give(NO_SCRIPT)


def test_a_right_that_was_there_may_be_missing_for_a_while(
    stage: Stage, clock: list[float]
) -> None:
    stage.consume()
    stage.claim()
    stage.engine.answers["claim"] = PermissionDenied("no")
    for seconds in (0, 1, FORBIDDEN - 1):
        clock[0] = float(seconds)
        before = len(stage.line.claims())
        stage.poller._intake.claims.hot.add("q")
        stage.poller.pump()
        stage.give(NO_SCRIPT)
        stage.poller.pump()
        assert len(stage.line.claims()) == before + 1, "it rests for a moment"
    clock[0] = FORBIDDEN + 1
    stage.poller.pump()
    with pytest.raises(PermissionDenied):
        stage.give(NO_SCRIPT)


def test_a_right_that_came_back_was_there(stage: Stage, clock: list[float]) -> None:
    stage.consume()
    stage.claim()
    for seconds in (0.0, FORBIDDEN - 1, 2 * FORBIDDEN):
        clock[0] = seconds
        stage.engine.answers["claim"] = PermissionDenied("no")
        stage.poller._intake.claims.hot.add("q")
        stage.poller.pump()
        stage.give(NO_SCRIPT)
        clock[0] = seconds + 0.6
        stage.poller.pump()
        stage.give(claimed())


# ── handing over ──────────────────────────────────────────────────────────────────────────────


def test_one_that_is_drained_by_hand_hands_over_one_at_a_time(stage: Stage) -> None:
    stage.consume()
    stage.poller.pump()
    stage.line.replies.append(claimed("a", "b"))
    for n in (1, 2):
        assert stage.poller.receive(0) is True, "what came in time is handed over"
        assert len(stage.got) == n
    assert stage.poller.receive(0) is False


def test_a_worker_that_stops_is_handed_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.consume()
    stage.poller.pump()
    stage.line.replies.append(claimed("a", "b"))
    assert stage.poller.receive(0) is True
    for each in (module, intake):
        monkeypatch.setattr(each, "stopping", lambda: True)
    assert stage.poller.receive(0) is False
    assert len(stage.got) == 1
    module.let_go()
    assert stage.released() == [("b", 0, 1, 0)]


def test_in_a_loop_the_bell_rings_for_what_is_left(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TURN", -1.0)  # each message takes the whole of a turn
    waker = Waker()
    files: list[int | None] = []
    stage.consume()
    stage.poller.watch(files.append, waker, Mock())
    stage.poller.pump()
    assert files == [3]
    stage.give(claimed("a", "b", "c"))
    assert (len(stage.got), waker.is_set) == (1, True)
    stage.poller.on_waker()
    assert (len(stage.got), waker.is_set) == (2, True)
    stage.poller.on_waker()
    assert (len(stage.got), waker.is_set) == (3, False)
    waker.close()


def test_a_callback_that_raises_leaves_the_rest_to_the_next_turn(stage: Stage) -> None:
    waker = Waker()

    def callback(message: Any) -> None:
        stage.got.append(message)
        raise KeyError

    stage.consume(callback=callback)
    stage.poller.watch(lambda _: None, waker, Mock())
    stage.poller.pump()
    stage.line.replies.append(claimed("a", "b"))
    with pytest.raises(KeyError):
        stage.poller.on_readable()
    assert waker.is_set
    assert len(stage.got) == 1
    waker.close()


def test_what_may_have_lapsed_is_given_back_and_not_handed_over(stage: Stage) -> None:
    stage.consume()
    stage.poller.pump()
    stage.line.replies.append(claimed("a", "b", "c"))
    assert stage.poller.receive(0)
    leases = stage.broker.keeper._leases
    for receipt in ("b", "c"):
        leases[receipt].since -= 3600.0
    stage.poller.receive(0)
    assert stage.poller.receive(0) is False
    assert [message.delivery_tag for message in stage.got] == ["a"]
    assert stage.released() == [("b", 0, 1, 0), ("c", 0, 1, 0)]


def test_a_lease_counts_from_when_its_claim_was_sent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [began := claims.clock()]
    monkeypatch.setattr(claims, "clock", lambda: now[0])
    stage.consume()
    stage.poller.pump()
    now[0] += 5.0
    stage.line.replies.append(claimed("a"))
    stage.poller._intake.read_on()
    assert stage.broker.keeper._leases["a"].since == began


def test_what_is_known_to_be_lost_is_not_handed_over(stage: Stage) -> None:
    stage.consume()
    stage.poller.pump()
    stage.line.replies.append(claimed("a", "b", "c"))
    assert stage.poller.receive(0)
    next(iter(stage.poller._buffer))[1].lost = True
    assert stage.poller.receive(0)
    assert stage.poller.receive(0)
    assert [message.delivery_tag for message in stage.got] == ["a", "c"]


# ── consumers and channels that go ────────────────────────────────────────────────────────────


def test_what_waits_for_a_consumer_that_goes_is_given_back(stage: Stage) -> None:
    stage.consume("q")
    stage.consume("p")
    stage.poller.pump()
    stage.line.replies.append(claimed("a", "b", then=["c"]))
    assert stage.poller.receive(0)
    stage.channel.basic_cancel(f"tag-q-{id(stage.channel)}")
    assert stage.released() == [("b", 0, 1, 0)]
    assert stage.poller.receive(0)
    assert [message.delivery_tag for message in stage.got] == ["a", "c"]


def test_what_waits_for_a_channel_that_closes_is_given_back(stage: Stage) -> None:
    other = stage.transport.create_channel(stage.connection)
    stage.consume("q")
    stage.consume("p", channel=other)
    stage.poller.pump()
    stage.line.replies.append(claimed("a", "b"))
    assert stage.poller.receive(0)
    other.close()
    assert stage.released() == []
    stage.channel.close()
    assert sorted(stage.released()) == [("a", 0, 1, 0), ("b", 0, 1, 0)]


def test_what_comes_for_a_channel_that_has_closed_is_given_back(stage: Stage) -> None:
    other = stage.transport.create_channel(stage.connection)
    stage.consume("q", channel=other)
    stage.poller.pump()
    other.close()
    stage.give(claimed("a"))
    gc.collect()
    assert stage.got == []
    assert stage.released() == [("a", 0, 1, 0)]


def test_the_last_consumer_of_a_queue_leaves_it(stage: Stage) -> None:
    other = stage.transport.create_channel(stage.connection)
    stage.consume("q")
    stage.consume("q", channel=other)
    stage.claim()
    alive = [call.args[1] for call in stage.engine.called("attend")]
    assert alive == [60_000]
    other.close()
    assert len(stage.engine.called("attend")) == 1
    stage.channel.close()
    assert [call.args[1] for call in stage.engine.called("attend")] == [60_000, 0]


def test_a_connection_that_closes_gives_back_what_its_last_claim_gets(stage: Stage) -> None:
    stage.consume()
    stage.poller.pump()
    stage.line.replies.append(claimed("a"))
    stage.poller.close()
    assert stage.released() == [("a", 0, 1, 0)]
    assert stage.line.closed


def test_nothing_is_given_back_over_a_connection_that_was_lost(stage: Stage) -> None:
    stage.consume()
    stage.poller.pump()
    stage.line.replies.append(claimed("a", "b"))
    assert stage.poller.receive(0)
    stage.poller._intake.give_up()
    stage.channel.close()
    assert stage.released() == []


# ── broadcasts, and what nobody acks ──────────────────────────────────────────────────────────


def bound(stage: Stage, queue: str, exchange: str = "x") -> None:
    stage.channel.exchange_declare(exchange, "fanout")
    stage.channel.queue_bind(queue, exchange, "")
    stage.consume(queue)


def test_it_listens_to_the_broadcasts_of_its_queues(stage: Stage) -> None:
    bound(stage, "f")
    assert stage.line.sent[-1] == ("PSUBSCRIBE", "/0.x")
    stage.give(push(b"psubscribe", b"/0.x", b"1"))
    stage.give(push(b"pmessage", b"/0.x", b"/0.x", raw("hello")))
    assert [message.payload for message in stage.got] == ["hello"]
    stage.give(push(b"pmessage", b"/0.x", b"/0.x", b"no JSON"))
    stage.give(push(b"pmessage", b"/0.x", b"/0.x", b"[]"))
    assert len(stage.got) == 1
    stage.channel.basic_cancel(f"tag-f-{id(stage.channel)}")
    assert stage.line.sent[-1] == ("PUNSUBSCRIBE", "/0.x")


def test_a_new_connection_listens_to_the_same(stage: Stage, clock: list[float]) -> None:
    bound(stage, "f")
    clock[0] = 2.0
    stage.give(CUT)
    assert len(stage.engine.lines) == 2
    assert stage.line.sent[0] == ("PSUBSCRIBE", "/0.x")


def test_subscribing_ends_the_wait_first(stage: Stage) -> None:
    stage.consume("q")
    stage.claim()
    stage.poller.pump()
    assert stage.line.names()[-1] == "BRPOP"
    stage.line.replies.append(None)  # of the election
    stage.engine.answers["CLIENT"] = lambda _: stage.line.replies.append(None)
    bound(stage, "f")
    assert stage.line.names()[-1] == "PSUBSCRIBE"
    assert stage.poller._intake.blocked == ()


def test_what_nobody_acks_is_popped_by_the_wait_itself(stage: Stage) -> None:
    stage.consume("n", no_ack=True)
    stage.poller.pump()
    assert stage.line.claims() == []
    keys = stage.broker.keys("n").ready
    assert stage.line.sent[-1][:-1] == ("BRPOP", *keys)
    stage.give([keys[1].encode(), raw("hello")])
    assert [message.payload for message in stage.got] == ["hello"]


def test_what_cannot_be_read_and_nobody_acks_is_a_dead_letter(stage: Stage) -> None:
    stage.consume("n", no_ack=True)
    stage.poller.pump()
    stage.give([b"n", b"no JSON"])
    assert stage.got == []
    (letter,) = stage.engine.called("dead_letter")
    assert letter.keys[0] == "_atomq.{n}.dead"
    assert letter.args[-1] == b"no JSON"


# ── beside stock ──────────────────────────────────────────────────────────────────────────────


def test_the_watcher_hears_of_lists_that_others_change(stage: Stage) -> None:
    stage.consume()
    stage.claim()
    stage.poller.pump()
    watch = ("SET", "_atomq.{q}.watch", stage.broker.ids.prefix, "NX", "PX", "3000")
    assert watch in stage.line.sent
    stage.give(b"OK", None)
    stage.poller.pump()
    assert len(stage.line.claims()) == 2, "what came before it was watched is not told of"
    stage.give(claimed())
    stage.poller.pump()
    on, caching, exists, wait = stage.line.sent[-4:]
    assert on == ("CLIENT", "TRACKING", "ON", "OPTIN", "NOLOOP")
    assert caching == ("CLIENT", "CACHING", "YES")
    assert exists == ("EXISTS", *stage.broker.keys("q").ready)
    assert wait[0] == "BRPOP"
    stage.give(b"OK", b"OK", 0)
    before = len(stage.line.claims())
    stage.engine.answers["CLIENT"] = lambda _: stage.line.replies.append(None)
    stage.give(push(b"invalidate", [b"q"]))  # type: ignore[arg-type] # as the server has it
    stage.poller.pump()
    assert len(stage.line.claims()) == before + 1
    stage.give(claimed())
    stage.poller.pump()
    assert [command[:2] for command in stage.line.sent[-3:-1]] == [
        ("CLIENT", "CACHING"),
        ("EXISTS", "q"),
    ], "each is told of once"


def test_a_watcher_that_is_full_for_a_while_wakes_another(
    stage: Stage, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "runs_in_delivery", lambda **_: False)
    stage.channel.basic_qos(0, 1, False)
    stage.consume()
    stage.claim()
    stage.poller.pump()
    stage.give(b"OK", None)  # elected
    stage.poller.pump()
    stage.give(claimed("a"))
    stage.poller.pump()
    assert not stage.line.calls("resign"), "most tasks are short"
    clock[0] += LINGER + 0.01
    stage.poller.pump()
    (resigned,) = stage.line.calls("resign")
    assert resigned[3:] == ("_atomq.{q}.watch", "_atomq.{q}.wake", "3000")
    stage.give(server.NoScriptError("NOSCRIPT"))
    assert [call.command()[3:5] for call in stage.engine.called("resign")] == [resigned[3:5]]


def test_what_others_put_while_it_is_full_is_passed_on(stage: Stage) -> None:
    stage.channel.basic_qos(0, 1, False)
    stage.consume("q")
    stage.consume("p")
    stage.claim()
    stage.poller.pump()
    stage.give(b"OK", b"OK", None)  # elected for both
    stage.claim()
    stage.poller.pump()
    stage.give(b"OK", b"OK", 0, b"OK", 0, [b"_atomq.{q}.wake", b"1"])  # it is told of their lists
    stage.claim("a")
    stage.engine.answers["claim"] = claimed()
    stage.give(push(b"invalidate", [b"p"]))  # type: ignore[arg-type] # as the server has it
    (call,) = stage.engine.called("claim")
    assert (call.keys[0], call.args[2]) == ("_atomq.{p}.unacked", 0)
    stage.give(push(b"invalidate", None))  # type: ignore[arg-type] # all keys were flushed
    assert len(stage.engine.called("claim")) == 1


def test_what_was_popped_for_a_consumer_that_left_is_put_back(stage: Stage) -> None:
    stage.consume("n", no_ack=True)
    stage.poller.pump()
    stage.channel._active_queues.clear()
    stage.channel._regroup()
    stage.give([b"n", raw("hello")])
    assert stage.got == []
    (call,) = stage.engine.called("put_back")
    assert (call.keys[1], call.args) == ("n", [0, raw("hello")])


def test_what_falls_due_where_there_is_no_room_is_left_to_another(
    stage: Stage, clock: list[float]
) -> None:
    stage.channel.basic_qos(0, 1, False)
    stage.consume()
    stage.claim(wait_ms=300)
    stage.poller._intake.claims.hot.add("q")
    stage.claim("a")
    stage.engine.answers["claim"] = claimed()
    stage.poller.pump()
    assert not stage.engine.called("claim")
    clock[0] = 0.31
    stage.poller.pump()
    stage.poller.pump()
    (call,) = stage.engine.called("claim")
    assert (call.keys[0], call.args[2]) == ("_atomq.{q}.unacked", 0)


def test_what_falls_due_while_a_task_runs_is_left_to_another(
    stage: Stage, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    keeper = stage.broker.keeper
    monkeypatch.setattr(keeper, "watch", lambda _, patience: asked.append(round(patience, 1)))
    stage.consume()
    taking, found = stage.poller._intake, stage.poller._intake.claims
    taking.begin_task()
    assert asked == [], "nothing falls due"
    taking.end_task()
    stage.claim(wait_ms=300)
    for _ in range(3):
        taking.begin_task()
        taking.end_task()
    assert asked == [0.3], "once, however many tasks there are"
    assert found.waits_until() == math.inf, "it claims in time by itself"
    clock[0] = 0.1
    taking.begin_task()
    assert asked == [0.3, 0.2], "as the keeper forgot it"
    assert found.waits_until() == pytest.approx(claims.clock() + 0.2, abs=0.05)
    taking.end_task()
    taking.begin_task()
    assert asked == [0.3, 0.2]
    clock[0] = 0.31
    assert found.waits_until() <= claims.clock()
    assert found.withdraw() == ["q"]
    assert found.queue.name == "q"
    stage.engine.answers["claim"] = claimed()
    stage.engine.run(found.give_back())
    (call,) = stage.engine.called("claim")
    assert (call.keys[0], call.args[2]) == ("_atomq.{q}.unacked", 0)
    assert found.waits_until() == math.inf
    stage.engine.run(found.give_back())
    assert len(stage.engine.called("claim")) == 1


class Loop:
    """The timers of an event loop, for a clock that a test sets."""

    def __init__(self, clock: list[float]) -> None:
        self._clock = clock
        self.timers: list[tuple[float, Callable[[], object]]] = []

    def call_later(self, seconds: float, ring: Callable[[], object]) -> Mock:
        self.timers.append((self._clock[0] + seconds, ring))
        return Mock()

    def fire(self) -> None:
        """Those whose time it is, the earliest first."""
        for timer in sorted(self.timers, key=itemgetter(0)):
            if timer[0] <= self._clock[0] + 0.01:
                self.timers.remove(timer)
                timer[1]()


@pytest.mark.parametrize("seconds", [0.3, 6.0, 7200.0])
def test_a_loop_has_a_timer_for_what_falls_due_however_late(
    stage: Stage, clock: list[float], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(waker, "time", module.time)
    loop = Loop(clock)
    tick = stage.poller.tick
    stage.poller.watch(lambda _: None, Mock(is_set=False), Alarm(loop.call_later, tick))
    stage.consume()
    stage.claim(wait_ms=int(seconds * 1000))
    assert loop.timers, "with the answer: the loop may know already for how long it sleeps"
    for _ in range(3):
        tick()
    assert [round(at, 1) for at, _ in loop.timers] == [seconds], "one timer for one moment"
    stage.engine.answers["CLIENT"] = lambda _: stage.line.replies.append(None)
    stage.line.replies.append(None)  # of the watcher's election
    clock[0] = seconds + 0.005
    loop.fire()
    assert len(stage.line.claims()) == 2
    assert not loop.timers
    tick()
    assert not loop.timers, "what is due and under way is not waited for by a timer"


def test_a_loop_has_a_timer_for_what_is_to_be_done_though_nothing_is_heard(
    stage: Stage, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a worker that misses a right: it reports that after a while."""
    monkeypatch.setattr(waker, "time", module.time)
    loop, tick = Loop(clock), stage.poller.tick
    stage.poller.watch(lambda _: None, Mock(is_set=False), Alarm(loop.call_later, tick))
    stage.consume()
    stage.claim()
    tick()
    assert not loop.timers
    stage.poller._intake.unable_since = module.time.monotonic() + 10
    tick()
    tick()
    assert [round(at) for at, _ in loop.timers] == [10]


def test_a_wait_that_is_refused_for_a_moment_is_sent_again(
    stage: Stage, clock: list[float]
) -> None:
    stage.consume()
    stage.claim()
    stage.poller.pump()
    stage.give(None, None)  # it was granted
    stage.poller.pump()
    waits = stage.line.names().count("BRPOP")
    replies = [None] * (stage.poller._intake.socket.line.talk.under_way - 1)
    stage.give(*replies, server.NoPermissionError("this user has no permissions to run 'brpop'"))
    stage.poller.pump()
    assert stage.line.names().count("BRPOP") == waits, "it rests"
    clock[0] = 0.6
    stage.poller.pump()
    stage.give(claimed())
    stage.poller.pump()
    assert stage.line.names().count("BRPOP") == waits + 1


def test_a_line_has_no_life_of_its_own() -> None:
    """The double reads back what was packed, so that tests see commands."""
    line = Line()
    line.broken = True
    with pytest.raises(server.ConnectionError):
        line.send(b"*1\r\n$4\r\nPING\r\n")
    line.broken = False
    line.send(b"*1\r\n$4\r\nPING\r\n")
    assert line.names() == ["PING"]
