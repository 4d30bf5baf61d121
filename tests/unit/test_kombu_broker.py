"""What a broker of Kombu's does with claims, and with messages that no one settles. No server."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from atomq import calls
from atomq.arguments import LAST_MS
from atomq.calls import Call
from atomq.contrib.kombu import broker as module
from atomq.contrib.kombu import worker
from atomq.contrib.kombu.bindings import Bindings
from atomq.contrib.kombu.broker import Broker, eta_ms
from atomq.delivery import Delivery
from atomq.errors import PermissionDenied, ServerUnavailable
from atomq.flows import clock
from tests.scripted import NOW_MS, Stage, claimed, raw


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    found = Stage(monkeypatch)
    yield found
    found.close()


def got(*receipts: str, **more: Any) -> calls.Claimed:
    """An answer with these: of each its queue and its name."""
    found = [Delivery(each[0], each, 1, 1, raw()) for each in receipts]
    return calls.Claimed(0, None, (), (), found, **more)


# ── claims ────────────────────────────────────────────────────────────────────────────────────


def test_what_is_alike_in_claims_on_the_same_queues_is_made_once(stage: Stage) -> None:
    first, again = stage.broker.claim(["q"], 1), stage.broker.claim(["q"], 2)
    assert first.keys is again.keys
    assert first.args[0] != again.args[0]
    kept = stage.broker._claims
    for n in range(255):
        stage.broker.claim([f"q{n}"], 1)
    assert len(kept) == 256
    stage.broker.claim(["p"], 1)
    assert len(kept) == 1, "no more than so many"


def test_a_claim_says_what_is_held_and_one_of_nothing_is_given_none_that_goes_alone(
    stage: Stage,
) -> None:
    company = stage.broker.claim(["q"], 1).args[8]
    assert (company, stage.broker.claim(["q"], 0).args[8]) == (calls.SOLE, calls.HOLDS)
    call = stage.broker.claim(["p", "q"], 5, {"q": ["b"], "p": []})
    assert list(call.args[-3:]) == [0, 1, "b"], "acks in the order of the queues"


def test_what_may_not_be_held_beside_others_goes_back_queue_by_queue(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = got("p1", "q1", "p2")
    assert stage.broker.hold(one, clock()) == one.deliveries
    assert stage.broker.keeper.holds("p2")
    monkeypatch.setattr(stage.broker.keeper, "hold", lambda *_: False)
    assert stage.broker.hold(got("p3", "q3", "p4"), clock()) == []
    assert stage.released() == [("p3", 0, 1, 0), ("p4", 0, 1, 0), ("q3", 0, 1, 0)]
    assert len(stage.engine.called("release")) == 2


def test_a_worker_that_is_asked_to_hold_nothing_claims_nothing(stage: Stage) -> None:
    one = got("q1")
    alone = stage.broker.keeper.alone
    stage.broker.hold(one, clock())
    assert not alone.stands_still()
    stage.broker.hold(got(drain_ms=60_000), clock())
    assert alone.stands_still()
    assert alone._rests_until - alone._drains_until == pytest.approx(60)


def test_that_a_message_is_alone_no_more_may_be_refused(stage: Stage) -> None:
    stage.engine.answers["extend"] = PermissionDenied("no")
    stage.broker.keeper.alone.beside.append(("q", "a"))
    one = got("q1")
    assert stage.broker.hold(one, clock()) == one.deliveries
    assert [call.args[-1] for call in stage.engine.called("extend")] == ["a"]


def test_a_message_that_was_cancelled_is_revoked_by_the_id_of_its_task(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoked: list[Any] = []
    monkeypatch.setattr(worker, "revoke", lambda *said: revoked.append(said))
    stage.broker.terminate_cancelled = "SIGTERM"
    for body in (raw(id="task"), raw(), raw(id=5), b"no JSON"):
        stage.broker._cancelled(Delivery("q", "a", 1, 1, body))
    assert revoked == [("task", "SIGTERM")]


# ── messages that no one settles ──────────────────────────────────────────────────────────────


def test_what_no_one_can_read_and_no_one_may_write_down_is_in_the_log(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    key = stage.broker.keys("q").ready[1]
    stage.broker.dead_letter("q", key, b"x", ValueError("why"))
    (letter,) = stage.engine.called("dead_letter")
    assert 2 in letter.args, "the step of its list"
    assert caplog.messages == ["an unreadable message of q is a dead letter: why"]
    stage.engine.answers["dead_letter"] = PermissionDenied("no")
    stage.broker.dead_letter("q", key, b"x", ValueError("why"))
    assert caplog.messages[1:] == ["an unreadable message of q is lost (no): b'x'"]


def test_claims_without_an_answer_are_asked_for_one_after_the_other(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, answers = stage.broker, stage.engine.answers
    broker.unanswered = [broker.claim([name], 1) for name in "pqr"]
    answers["claim"] = ServerUnavailable("away")
    with pytest.raises(ServerUnavailable):
        broker.reap()
    assert len(broker.unanswered) == 2
    monkeypatch.setattr(Broker, "on_cluster", True)

    def answer(call: Call[Any]) -> Any:
        if call.queue.name == "r":
            return claimed("a")
        raise ServerUnavailable("away")

    answers["claim"] = answer
    assert broker.reap() == 1, "other nodes are well"
    assert broker.unanswered == []
    assert stage.released() == [("a", 0, 1, 0)]


def test_where_nothing_is_held_no_garbage_is_looked_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "collect", lambda: pytest.fail("it takes long"))
    assert stage.broker.reap() == 0


def test_what_is_garbage_goes_back_and_a_task_that_was_cancelled_counts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, ran = got("q1", "q2"), got("q3")
    stage.broker.hold(held, clock())
    stage.broker.hold(ran, clock())
    message = SimpleNamespace(delivery=ran.deliveries[0])
    monkeypatch.setattr(worker, "cancelled", lambda: [message])
    del held
    assert stage.broker.reap() == 3
    assert stage.released() == [("q3", 0, 1, 1), ("q1", 0, 1, 0), ("q2", 0, 1, 0)]
    assert message.delivery.settled


def test_at_exit_each_broker_says_what_is_left_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    def gone() -> None:
        closed.append("gone")
        raise ServerUnavailable("gone")

    keepers = [SimpleNamespace(close=gone), SimpleNamespace(close=lambda: closed.append("there"))]
    made = [SimpleNamespace(keeper=keeper) for keeper in keepers]
    monkeypatch.setattr(module, "broker_of", SimpleNamespace(made=lambda: made))
    module._at_exit()
    assert closed == ["gone", "there"]


def test_one_server_has_the_tables_of_stock(stage: Stage) -> None:
    assert type(stage.broker.bindings) is Bindings


def test_a_child_process_has_none_of_its_parents_claims(stage: Stage) -> None:
    stage.broker.unanswered = [stage.broker.claim(["q"], 1)]
    stage.broker.forked()
    assert stage.broker.unanswered == []


def test_the_register_knows_a_worker_of_celery_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Controller:
        hostname, concurrency = "celery@host", 4

    asked: list[Controller] = []
    one = Controller()
    monkeypatch.setattr(worker, "controller", lambda: asked.append(one) or one)
    register = stage.engine.register
    for again in (False, False, True):
        if again:
            stage.broker.forked()
        stage.broker.introduce()
    assert len(asked) == 2, "once a process"
    assert register.about == {"kind": "celery", "name": "celery@host"}
    assert register.concurrency() == 4
    stage.broker.forked()
    monkeypatch.setattr(worker, "controller", lambda: None)
    stage.broker.introduce()


def test_the_unconfirmed_publishes_of_a_broker_are_kept_for_its_window(stage: Stage) -> None:
    assert stage.broker.unconfirmed._seconds * 1000 == stage.engine.options.call_window_ms


def test_times_without_a_zone_are_utc() -> None:
    assert eta_ms("2027-01-15T08:00:00.250") == NOW_MS + 250
    assert eta_ms("2027-01-15T09:00:00+01:00") == NOW_MS
    assert eta_ms("2500-01-01T00:00:00") == LAST_MS
    assert eta_ms("1960-01-01T00:00:00+00:00") == 0
    assert eta_ms(datetime.now(UTC)) is None
