"""A claim, played by hand: on which queues, what it says of its company, what is set apart."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from atomq import calls
from atomq.calls import Call, Verdict
from atomq.errors import PermissionDenied, ServerUnavailable
from atomq.flows import Consumer, Sleep, Wait, Withdraw, clock
from atomq.flows.claiming import Aside
from atomq.keys import QueueKeys
from atomq.options import Options
from tests.played import Play, at_once, claimed, delivery, limit_of

Q, R = QueueKeys("q"), QueueKeys("r")
A, B, C = (QueueKeys(name, layout="cluster") for name in "abc")
COMPANY = 8  # where the words of a claim say what it is sent beside


class Beside:
    """What the process holds besides."""

    def __init__(self) -> None:
        self.still = False
        self.drained: list[float] = []
        self.said: list[Call[Any]] = []

    def company(self) -> int:
        return 77

    def stands_still(self) -> bool:
        return self.still

    def drain(self, seconds: float, /) -> None:
        self.drained.append(seconds)

    def accompanied(self) -> Sequence[Call[Any]]:
        said, self.said = self.said, []
        return said


def consumer(
    *queues: QueueKeys, company: Beside | None = None, fair: bool | None = None, **options: Any
) -> Consumer:
    more: dict[str, Any] = {} if fair is None else {"fair": fair}
    return Consumer(queues or [Q], Options.of(options), company=company, **more)


# ── which queues, and in which order ──────────────────────────────────────────────────────────


def test_where_a_fair_consumer_begins_is_left_to_chance() -> None:
    """Else all consumers that start together look into one queue first."""
    begins = {Play(consumer(Q, R, fair=True).receive(1, 0)).effect.queue.name for _ in range(40)}
    assert begins == {"q", "r"}


def test_for_one_that_is_not_fair_the_first_queue_goes_first_each_time() -> None:
    one = consumer(Q, R)
    for _ in range(3):
        play = Play(one.receive(1, 0))
        assert play.effect.keys[: len(Q.claim)] == list(Q.claim)
        play.go(claimed(delivery()))


def test_in_a_cluster_a_fair_consumer_too_claims_from_each_queue_by_itself() -> None:
    play = Play(consumer(A, B, fair=True).receive(2, 0))
    names = [play.effect.queue.name]
    assert play.effect.keys == play.effect.queue.claim
    names.append(play.go(claimed()).queue.name)
    assert sorted(names) == ["a", "b"]


def test_in_a_cluster_no_more_is_claimed_than_was_asked_for() -> None:
    play = Play(consumer(A, B).receive(2, 0))
    play.go(claimed(delivery(1), delivery(2)))
    assert play.over
    assert len(play.result) == 2


@pytest.mark.parametrize("queue", [A, B, C])
def test_in_a_cluster_a_token_has_its_queue_claimed_whichever_has_the_turn(
    queue: QueueKeys,
) -> None:
    play = Play(consumer(A, B, C).receive(1, None))
    while not isinstance(play.effect, Wait):
        play.go(claimed())
    assert play.go(queue.wake).queue == queue


def test_in_a_cluster_a_refusal_ends_it_with_what_was_claimed_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    play = Play(consumer(A, B, C).receive(3, 0))
    play.go(claimed(delivery()))
    play.go(PermissionDenied("no"))
    assert play.over
    assert len(play.result) == 1
    assert "handing over what was claimed before this: no" in caplog.text


def test_what_is_due_is_minded_to_the_millisecond_and_no_more_once_another_minds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    one = consumer()
    play = Play(one.receive(5, None))
    wait = play.go(claimed(wait_ms=250))
    assert wait.seconds == 0.25
    assert isinstance(play.go(Q.wake), Call)
    assert play.go(claimed()).seconds > 0.8
    play.flow.close()
    play = Play(one.close())
    assert isinstance(play.effect, Withdraw)
    play.go([])
    assert play.over, "nothing is to be handed over"


def test_a_consumer_says_for_how_long_it_has_not_asked() -> None:
    one = consumer()
    one.asked = clock() - 5
    assert 5 <= one.idle() < 60


def test_what_may_be_held_is_asked_for_as_the_last_attempt_that_there_can_be() -> None:
    one = consumer()
    with pytest.raises(ServerUnavailable):
        Play(one.receive(5, None)).go(ServerUnavailable("gone"))
    call = Play(one.receive(5, None)).effect
    assert call.args[1] == 9
    assert call.again().args[1] == 9


# ── a node in trouble ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("after", "spent", "least", "most"),
    [(0, 0, 0.2, 0.25), (59, 0.1, 0.2, 0.25), (60, 0.1, 0.8, 1), (0, 0.6, 0.48, 0.6)],
)
def test_a_node_in_trouble_is_left_aside_for_a_moment_and_after_a_minute_for_a_second(
    after: float, spent: float, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one = consumer(A, B)
    one._set_aside(one._groups[0], ServerUnavailable("gone"), 0)
    now[0] += after
    waits = set()
    for _ in range(40):
        one._set_aside(one._groups[0], ServerUnavailable("gone"), spent)
        waits.add(one._aside["a"].until - now[0])
    assert min(waits) >= least - 1e-9
    assert max(waits) <= most + 1e-9
    assert len(waits) > 20, "not all consumers come back in step"


def test_meanwhile_nothing_is_claimed_from_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "atomq.flows")
    one = consumer(A, B, retry_attempts=0)
    play = at_once(one)
    sick = play.effect.queue
    well = play.go(ServerUnavailable("gone")).queue
    play.go(claimed(delivery()))
    for _ in range(3):
        play = at_once(one)
        assert play.effect.queue == well
        play.go(claimed(delivery()))
    one._aside[sick.name] = one._aside[sick.name]._replace(until=0)
    while play.over:
        play = at_once(one)
        while play.effect is not None and play.effect.queue == well:
            play.go(claimed())
    play.go(ServerUnavailable("gone"))
    levels = [r.levelno for r in caplog.records if "the other queues go on" in r.getMessage()]
    assert levels == [logging.INFO, logging.DEBUG], "it is said once that it is in trouble"


def test_once_one_queue_is_served_again_the_others_left_aside_are_tried_too() -> None:
    one = consumer(A, B, C)
    play = at_once(one, 3)
    while play.effect is not None:
        play.go(claimed(delivery()) if play.effect.queue == C else ServerUnavailable("gone"))
    one._aside["a"] = one._aside["a"]._replace(until=0)
    asked = set()
    for _ in range(2):
        play = at_once(one, 3)
        while play.effect is not None:
            asked.add(play.effect.queue.name)
            play.go(claimed())
    assert asked == {"a", "b", "c"}, "though it is not b's time"


def test_while_all_nodes_are_left_aside_the_trouble_is_said_without_asking_again() -> None:
    one = consumer(A, B, retry_attempts=0)
    play = Play(one.receive(1, 0))
    play.go(ServerUnavailable("first"))
    with pytest.raises(ServerUnavailable, match="second"):
        play.go(ServerUnavailable("second"))
    with pytest.raises(ServerUnavailable, match="first"):
        Play(one.receive(1, 0))


# ── company ───────────────────────────────────────────────────────────────────────────────────


def test_a_claim_says_what_is_held_beside_it_and_one_that_takes_nothing_does_not_count() -> None:
    beside = Beside()
    one = consumer(company=beside)
    play = Play(one.receive(1, 0))
    assert play.effect.args[COMPANY] == 77
    call = play.go(claimed(wait_ms=250))
    assert (limit_of(call), call.args[COMPANY]) == (0, calls.HOLDS), "it hands over the time"
    play.go(claimed())
    play = Play(one.receive(1, None))
    assert play.go(claimed()).ahead.args[COMPANY] == 77
    play.go(ServerUnavailable("gone"))
    assert play.effect.args[COMPANY] == 77, "said again it is the same"


def test_what_may_not_be_held_beside_another_goes_back() -> None:
    play = Play(consumer().receive(5, 0, lambda _: [(Q, ["c-1.0.2"])]))
    call = play.go(claimed(delivery(1), delivery(2), more=["q"]))
    assert call.script.name == "release"
    assert call.args[4] == "c-1.0.2"
    play.go([Verdict.DONE])
    assert play.over, "and nothing more is claimed now"
    assert [message.receipt for message in play.result] == ["c-1.0.1"]


def test_what_is_not_alone_any_more_is_said_before_more_is_handed_over() -> None:
    beside = Beside()
    play = Play(consumer(company=beside).receive(5, 0))
    beside.said = [calls.inspect(Q)]
    assert play.go(claimed(delivery())).script.name == "inspect"
    play.go(None)
    assert len(play.result) == 1


def test_one_that_is_asked_to_hold_nothing_is_told_for_how_long() -> None:
    beside = Beside()
    play = Play(consumer(company=beside).receive(5, 0))
    play.go(claimed(delivery())._replace(drain_ms=2500))
    assert len(play.result) == 1
    assert beside.drained == [2.5]


def test_what_the_server_cannot_be_told_of_company_costs_no_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    beside = Beside()
    play = Play(consumer(company=beside).receive(5, 0, lambda _: [(Q, ["c-1.0.2"])]))
    beside.said = [calls.inspect(Q)]
    play.go(claimed(delivery(1), delivery(2)))
    play.go(ServerUnavailable("gone"))
    assert [message.receipt for message in play.result] == ["c-1.0.1"]
    assert "is not known to the server: gone" in caplog.text


INTERRUPTIONS = [ServerUnavailable("gone"), KeyboardInterrupt()]


@pytest.mark.parametrize("then", ["claims", "leaves"])
@pytest.mark.parametrize("error", INTERRUPTIONS)
def test_what_the_server_was_not_told_it_is_told_next(error: BaseException, then: str) -> None:
    """Else what was to go back was held by nobody until its lease ended, and that counted."""
    beside = Beside()
    one = consumer(company=beside)
    play = Play(one.receive(5, 0, lambda _: [(Q, ["c-1.0.1"])]))
    beside.said = [calls.inspect(Q)]
    play.go(claimed(delivery(1)))
    with suppress(KeyboardInterrupt):
        play.go(error)
    assert one.has_to_leave
    assert [queue for queue, _ in one.unanswered()] == ["q", "q"], "or its keeper says it"
    play = Play(one.receive(5, 0) if then == "claims" else one.close())
    assert play.effect.script.name == "inspect"
    call = play.go(None)
    assert (call.script.name, call.args[4]) == ("release", "c-1.0.1")
    play.go([Verdict.DONE])
    assert not one.has_to_leave


@pytest.mark.parametrize("error", INTERRUPTIONS)
def test_what_a_claim_got_that_had_no_answer_goes_back_though_interrupted_again(
    error: BaseException,
) -> None:
    one = consumer()
    with pytest.raises(ServerUnavailable):
        Play(one.receive(5, 0)).go(ServerUnavailable("gone"))
    play = Play(one.receive(5, 0))
    assert play.go(claimed(delivery(1))).script.name == "release"
    with suppress(KeyboardInterrupt):
        play.go(error)
        play.go(claimed())
    play = Play(one.close())
    assert (play.effect.script.name, play.effect.args[4]) == ("release", "c-1.0.1")
    play.go(PermissionDenied("not yours"))
    assert play.over
    assert not one.has_to_leave, "then its lease has to end"


def test_what_goes_back_to_a_node_that_is_away_holds_up_no_other() -> None:
    one = consumer(A, B)
    play = Play(one.receive(5, 0, lambda claim: [(A, ["c-1.0.1"])] if claim.deliveries else ()))
    asked: list[tuple[str, str]] = []
    answered = False
    while not play.over:
        asked.append((play.effect.script.name, play.effect.queue.name))
        is_away = play.effect.queue is A and answered
        answered = answered or play.effect.queue is A
        got = [delivery(1, "a")] if play.effect.queue is A else []
        play.go(ServerUnavailable("gone") if is_away else claimed(*got))
    assert sorted(asked) == [("claim", "a"), ("claim", "b"), ("release", "a")]
    one._aside["a"] = Aside(clock() + 60, ServerUnavailable("gone"), 0.0)
    play = Play(one.close())
    assert play.over
    assert [queue for queue, _ in one.unanswered()] == ["a"]


def test_in_a_cluster_nothing_is_claimed_beside_one_that_is_to_be_alone() -> None:
    beside = Beside()
    play = Play(consumer(A, B, company=beside).receive(5, 0))
    beside.still = True
    play.go(claimed(delivery()))
    assert play.over
    assert len(play.result) == 1


def test_one_that_stands_still_looks_often_whether_it_may_claim_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    beside = Beside()
    beside.still = True
    one = consumer(company=beside)
    play = Play(one.receive(1, None))
    assert play.effect == Sleep(0.02)
    assert play.go(None) == Sleep(0.02), "without a timeout it goes on"
    beside.still = False
    assert limit_of(play.go(None)) == 1
    beside.still = True
    play = Play(one.receive(1, 0.03))
    assert play.effect == Sleep(0.02)
    now[0] += 0.02
    assert play.go(None).seconds == pytest.approx(0.01)
    now[0] += 0.01
    play.go(None)
    assert (play.over, play.result) == (True, [])


def test_one_that_stands_still_hands_over_what_it_minds() -> None:
    beside = Beside()
    one = consumer(company=beside)
    play = Play(one.receive(1, None))
    play.go(claimed(wait_ms=250))
    play.flow.close()
    beside.still = True
    play = Play(one.receive(1, 0))
    assert isinstance(play.effect, Withdraw), "the wait of before"
    assert limit_of(play.go([])) == 0
    play.go(claimed())
    assert (play.over, play.result) == (True, [])


def test_what_was_claimed_ahead_is_handed_over_by_one_that_is_to_stand_still_now() -> None:
    beside = Beside()
    play = Play(consumer(company=beside).receive(1, None))
    play.go(claimed())
    beside.still = True
    play.go(claimed(delivery()))
    assert play.over
    assert len(play.result) == 1
