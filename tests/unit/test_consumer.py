"""A consumer that waits and leaves, played by hand: what it asks of the server, and what not."""

from __future__ import annotations

import gc
import logging
import random
import threading
import time
import weakref
from typing import Any
from unittest.mock import Mock, call

import pytest

from atomq.calls import Claimed, DeadLettered, Verdict
from atomq.errors import PermissionDenied, ServerFull, ServerUnavailable
from atomq.flows import AHEAD, Acks, Consumer, Filled, Sleep, Wait, Withdraw
from atomq.keys import QueueKeys
from atomq.options import Options
from tests.played import Play, Q, claimed, consumer, delivery, limit_of

R = QueueKeys("r")
A, B = (QueueKeys(name, layout="cluster") for name in "ab")
MANY = [QueueKeys(f"q{n}") for n in range(AHEAD + 1)]  # so no claim is sent ahead


# ── the short way: a claim without a flow ─────────────────────────────────────────────────────


def served(*queues: QueueKeys, **how: Any) -> Consumer:
    """One whose claim was answered: `how` as in `Consumer`."""
    one = Consumer(queues or [Q], Options.of({}), **how)
    play = Play(one.receive(1, 0))
    while not play.over:
        play.go([] if isinstance(play.effect, Filled) else claimed(delivery()))
    return one


def test_what_is_there_is_claimed_without_a_flow_and_takes_the_acks_along() -> None:
    acks = Acks()
    one = served(acks=acks)
    acks.add("q", "r1")
    begun = one.ordinary(3)
    assert begun is not None
    assert (limit_of(begun.call), begun.call.args[-2:]) == (3, [1, "r1"])
    assert acks.under_way("q")
    assert one.has_got(begun, claimed(delivery()))
    assert not acks.under_way("q")
    assert not one.has_to_leave


def test_an_ack_of_such_a_claim_that_came_too_late_is_reported() -> None:
    lost: list[str] = []
    acks = Acks(lost=lambda _, receipts: lost.extend(receipts))
    one = served(acks=acks)
    acks.add("q", "r1")
    begun = one.ordinary(1)
    assert begun is not None
    assert one.has_got(begun, claimed(delivery(), lost=[("q", "r1"), ("r", "r1")]))
    assert lost == ["r1"]


def test_what_has_more_to_do_takes_a_flow() -> None:
    assert consumer().ordinary(1) is None, "the first claim finds out whether the server is there"
    assert served(A, B).ordinary(1) is None, "each has a slot of its own"
    assert served(Q, R, fair=True).ordinary(1) is None, "another queue goes first each time"
    assert served(Q, R).ordinary(1) is not None


@pytest.mark.parametrize("what", ["waits", "ahead", "unanswered", "minds", "died", "alone"])
def test_while_something_else_is_to_be_done_it_takes_a_flow(what: str) -> None:
    company = Mock(company=lambda: 0, accompanied=tuple)
    company.stands_still.return_value = False
    one = served(company=company)
    assert one.ordinary(1) is not None
    match what:
        case "waits":
            one._waiting = True
        case "ahead":
            one._ahead = (one._groups[0], "c-1", 1)
        case "unanswered":
            one._unanswered[""] = (one._groups[0], "c-1", 1)
        case "minds":
            one._minds["q"] = 0.0
        case "died":
            one._unreported.append(DeadLettered("q", "expired", "", b"{}"))
        case "alone":
            company.stands_still.return_value = True
    assert one.ordinary(1) is None


@pytest.mark.parametrize(
    "got",
    [
        claimed(),
        claimed(delivery(), wait_ms=5),
        claimed(delivery())._replace(dead_lettered=[DeadLettered("q", "corrupt", "m", b"")]),
        claimed(delivery())._replace(drain_ms=5),
    ],
    ids=["nothing", "a time to mind", "dead letters", "to drain"],
)
def test_an_answer_that_says_more_is_for_a_flow_that_begins_with_it(got: Claimed) -> None:
    company = Mock(company=lambda: 0, accompanied=tuple, stands_still=lambda: False)
    one = served(company=company)
    begun = one.ordinary(1)
    assert begun is not None
    assert not one.has_got(begun, got)
    assert (one._minds != {}) == (got.wait_ms is not None)
    assert len(one._unreported) == len(got.dead_lettered)
    held: list[Claimed] = []
    play = Play(one.receive(1, 5, held.append, first=got))
    assert held == [got]
    assert [*company.drain.mock_calls] == ([call(0.005)] if got.drain_ms else [])
    if not got.deliveries:
        assert isinstance(play.effect, Wait), "nothing is claimed twice"
    elif got.dead_lettered:
        assert play.effect.script.name == "tell"
    elif got.wait_ms is not None:
        assert limit_of(play.effect) == 0, "the time is passed on"
    else:
        assert play.result == got.deliveries


@pytest.mark.parametrize("unsent", [True, False])
def test_such_a_claim_without_an_answer_is_given_back_first_and_its_acks_go_again(
    unsent: bool,
) -> None:
    acks = Acks()
    one = served(acks=acks)
    acks.add("q", "r1")
    begun = one.ordinary(2)
    assert begun is not None
    error = ServerUnavailable("gone")
    error.unsent = unsent
    one.failed(begun, error)
    assert acks.waits("q")
    assert bool(one._unanswered) != unsent
    play = Play(one.receive(2, None, patient=True, first=error))
    assert isinstance(play.effect, Sleep), "it is not claimed at once"
    assert play.go(None).args[1] == (0 if unsent else 9)
    with pytest.raises(ServerUnavailable):
        Play(one.receive(2, None, first=error))


def test_an_error_that_a_flow_begins_with_is_not_kept_by_it() -> None:
    error = ServerUnavailable("gone")
    one = served()
    with pytest.raises(ServerUnavailable):
        Play(one.receive(2, None, first=error))
    gone = weakref.ref(error)
    gc.disable()
    try:
        del error
        assert gone() is None
    finally:
        gc.enable()


# ── a server that is away, or full ────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "level"),
    [(ServerFull("full"), logging.WARNING), (ServerUnavailable("gone"), logging.DEBUG)],
)
def test_a_patient_one_asks_again_after_a_second_at_most_and_says_what_is_not_said_yet(
    error: Exception, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "atomq.flows")
    one = consumer()
    one._served = True
    play = Play(one.receive(1, None, patient=True))
    pauses = []
    for _ in range(40):
        while not isinstance(play.go(error), Sleep):
            pass
        pauses.append(play.effect.seconds)
        play.go(None)
    assert min(pauses) >= 0.2
    assert max(pauses) <= 1
    assert len(set(pauses)) > 20
    assert {record.levelno for record in caplog.records} == {level}


def test_one_that_is_not_said_to_be_patient_is_not() -> None:
    one = consumer()
    one._served = True
    with pytest.raises(ServerFull):
        Play(one.receive(1, None)).go(ServerFull("full"))


def test_one_attempt_more_is_enough_to_wait_for_a_cluster_that_is_away() -> None:
    play = Play(consumer(A, B, retry_attempts=1).receive(1, 0))
    play.go(ServerUnavailable("gone"))
    assert isinstance(play.go(ServerUnavailable("gone")), Sleep)


# ── the wait ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("lease", "cap", "lasts"), [(12, 1, 2), (6, 1, 1), (3, 1, 1), (3600, 1, 10), (3600, 0.5, 5)]
)
def test_a_wait_lasts_no_longer_than_a_sixth_of_a_lease(
    lease: float, cap: float, lasts: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As much older than it is counted is the lease of what its claim gets."""
    for uniform, part in ((max, 1.0), (min, 0.9)):
        monkeypatch.setattr(random, "uniform", uniform)
        play = Play(consumer(lease=lease, wait_cap=cap).receive(1, None))
        assert play.go(claimed()).lasts == pytest.approx(lasts * part, rel=1e-6)


def test_a_wait_lasts_no_longer_than_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    play = Play(consumer().receive(1, 0.5))
    assert play.go(claimed()).lasts == 0.5


@pytest.mark.parametrize(("queues", "ahead"), [(1, True), (4, True), (5, False)])
def test_of_more_than_four_queues_only_the_one_whose_token_came_is_claimed(
    queues: int, ahead: bool
) -> None:
    play = Play(consumer(*(QueueKeys(f"q{n}") for n in range(queues))).receive(1, None))
    assert (play.go(claimed()).ahead is not None) == ahead


def test_a_token_that_the_withdrawal_brings_has_its_queue_claimed() -> None:
    """The claim that stood behind the wait was refused."""
    play = Play(consumer(Q, R).receive(1, None))
    play.go(claimed())
    play.go(None)
    assert isinstance(play.go(("q",)), Withdraw)
    assert play.go([R.wake]).keys == R.claim


def test_without_a_token_what_was_found_is_claimed_and_nothing_is_withdrawn_twice() -> None:
    play = Play(consumer(Q, R).receive(1, None))
    play.go(claimed())
    play.go(None)
    assert isinstance(play.go(("r",)), Withdraw)
    assert play.go([]).keys == R.claim
    play.go(claimed(delivery(queue="r")))
    assert play.over
    assert len(play.result) == 1


def test_a_wait_whose_claim_got_no_answer_is_not_withdrawn() -> None:
    one = consumer()
    play = Play(one.receive(1, None))
    assert isinstance(play.go(claimed()), Wait)
    assert play.go(ServerUnavailable("gone")).repeated
    play.go(claimed())
    play.go(claimed(delivery()))
    assert play.over
    assert len(play.result) == 1


def test_a_wait_is_withdrawn_once() -> None:
    one = consumer()
    play = Play(one.receive(1, None))
    play.go(claimed())
    play.flow.close()
    play = Play(one.stop_waiting())
    assert isinstance(play.effect, Withdraw)
    play.go([Q.wake])
    assert play.result == [Q]
    assert Play(one.stop_waiting()).result == []


def test_while_it_minds_no_time_the_last_look_takes_nothing_back_first() -> None:
    """A claim costs a trip, and so does a withdrawal: it is asked for once, when it goes."""
    stop = threading.Event()
    play = Play(consumer(*MANY).receive(1, None, stop=stop))
    play.go(claimed())
    stop.set()
    assert limit_of(play.go(None)) == 1
    assert isinstance(play.go(claimed()), Withdraw)
    play.go([])
    assert (play.over, play.result) == (True, [])


def test_while_it_minds_a_time_a_look_that_finds_something_takes_nothing_back() -> None:
    play = Play(consumer(*MANY).receive(1, None))
    play.go(claimed(wait_ms=5000))
    assert play.go(None).script.name == "look"
    assert limit_of(play.go(("q1",))) == 1


# ── a node in trouble ─────────────────────────────────────────────────────────────────────────


def half_away(now: list[float], monkeypatch: pytest.MonkeyPatch) -> tuple[Consumer, Play, str, str]:
    """It waits for the queue of one node; the names of this one and of the other."""
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one = consumer(A, B)
    play = Play(one.receive(1, None))
    sick = play.effect.queue.name
    well = play.go(ServerUnavailable("gone")).queue.name
    assert isinstance(play.go(claimed()), Wait)
    return one, play, well, sick


def test_what_is_left_aside_is_not_looked_at_until_its_time_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    one, play, well, sick = half_away(now, monkeypatch)
    one._looks.forget(sick)
    now[0] += 0.2
    look = play.go(None)
    assert (look.script.name, look.queue.name) == ("look", well)
    assert isinstance(play.go(()), Wait), "and nothing is claimed"
    one._looks.claimed([sick], now[0] - 1)
    now[0] += 0.3
    play.go(None)
    while play.effect.script.name == "look":
        play.go(())
    assert play.effect.queue.name == sick, "what it may hold is asked for again"


def test_a_wait_ends_when_it_is_time_for_what_is_left_aside_and_nothing_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another node may serve it by now: a look is due a second later at most, which is late."""
    now = [100.0]
    one, play, _, sick = half_away(now, monkeypatch)
    assert play.effect.seconds == pytest.approx(one._aside[sick].until - 100)
    assert play.effect.seconds <= 0.25
    now[0] = one._aside[sick].until
    call = play.go(None)
    assert (call.script.name, call.queue.name) == ("claim", sick)
    wait = play.go(ServerUnavailable("still gone"))
    assert isinstance(wait, Wait), "the other queue is not claimed from"
    assert wait.seconds == pytest.approx(one._aside[sick].until - now[0])


def test_news_of_others_do_not_put_off_what_is_left_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    one, play, _, sick = half_away(now, monkeypatch)
    now[0] = one._aside[sick].until
    call = play.go(())
    assert (call.script.name, call.queue.name) == ("claim", sick), "and there is no wait before"


def test_what_is_left_aside_has_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its turn would have the consumer claim from others all the time, without a wait."""
    now = [100.0]
    one, play, well, sick = half_away(now, monkeypatch)
    one._aside[sick] = one._aside[sick]._replace(until=200.0)
    now[0] = 101.3
    assert play.go(None).script.name == "look"
    call = play.go(PermissionDenied("may not look"))
    assert (call.script.name, call.queue.name) == ("claim", well), "all is claimed from"
    assert isinstance(play.go(claimed()), Wait)


@pytest.mark.parametrize(
    ("timeout", "after", "queues"), [(0.5, 0.2, "a"), (2.0, 0.2, "a"), (0.1, 0.3, "ab")]
)
def test_what_falls_due_is_claimed_and_at_the_end_all(
    monkeypatch: pytest.MonkeyPatch, timeout: float, after: float, queues: str
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one = consumer(A, B)
    play = Play(one.receive(1, timeout))
    while not isinstance(play.effect, Wait):
        play.go(claimed(wait_ms=200 if play.effect.queue.name == "a" else None))
    assert play.effect.seconds == pytest.approx(min(timeout, 0.2))
    now[0] += after
    play.go(None)
    asked = set()
    while play.effect is not None and not isinstance(play.effect, Wait):
        if isinstance(play.effect, Withdraw):
            play.go([])
            continue
        assert play.effect.script.name == "claim"
        asked.add(play.effect.queue.name)
        play.go(claimed())
    assert asked == {*queues}


def test_while_all_are_left_aside_they_are_asked_again_as_soon_as_one_of_them_would_be() -> None:
    play = Play(consumer(A, B).receive(1, None))
    play.go(ServerUnavailable("gone"))
    assert play.go(ServerUnavailable("gone")) == Sleep(0.25)


def test_what_is_left_aside_is_not_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    one, play, well, sick = half_away([100.0], monkeypatch)
    one._minds.update({sick: 101.0, well: 101.0})
    play.flow.close()
    play = Play(one._hand_over())
    assert isinstance(play.effect, Withdraw)
    call = play.go([])
    assert (call.queue.name, limit_of(call)) == (well, 0)
    play.go(claimed())
    assert play.over


# ── leaving ───────────────────────────────────────────────────────────────────────────────────


def test_one_that_found_nothing_has_nothing_to_say_when_it_leaves() -> None:
    one = consumer()
    play = Play(one.receive(1, 0))
    play.go(claimed())
    assert play.over
    assert not one.has_to_leave
    assert Play(one.close()).over


@pytest.mark.parametrize("what", ["waits", "ahead", "unanswered", "minds", "died", "acks", "sends"])
def test_what_it_has_to_say_when_it_leaves(what: str) -> None:
    acks = Acks()
    one = consumer(acks=acks)
    match what:
        case "waits":
            one._waiting = True
        case "ahead":
            one._ahead = (one._groups[0], "c-1", 1)
        case "unanswered":
            one._unanswered[""] = (one._groups[0], "c-1", 1)
        case "minds":
            one._minds["q"] = 0.0
        case "died":
            one._unreported.append(DeadLettered("q", "expired", "", b"{}"))
        case "acks" | "sends":
            acks.add("q", "r1")
            if what == "sends":
                acks.take("q")
    assert one.has_to_leave


def test_it_sends_the_acks_that_wait_and_then_is_gone_at_once() -> None:
    acks = Acks()
    one = consumer(acks=acks)
    acks.add("q", "r1")
    play = Play(one.close())
    assert (play.effect.script.name, play.effect.args) == ("ack", ["r1"])
    play.go([Verdict.DONE])
    assert play.over


def test_for_acks_that_others_are_sending_it_waits_for_a_fraction_of_a_second() -> None:
    acks = Acks()
    one = consumer(acks=acks)
    acks.add("q", "r1")
    acks.take("q")
    play = Play(one.close())
    slept = 0.0
    while not play.over:
        assert 0 < play.effect.seconds < 0.05
        slept += play.effect.seconds
        play.go(None)
    assert 0.1 < slept < 0.5
