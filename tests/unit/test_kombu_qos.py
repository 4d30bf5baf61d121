"""What becomes of messages that a consumer settles, or holds when it goes. Needs no server."""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Message as AnyMessage
from kombu.exceptions import DecodeError

from atomq.contrib.kombu import qos as module
from atomq.contrib.kombu import worker
from atomq.errors import InvalidMessage, PermissionDenied, ServerUnavailable
from tests.scripted import Stage, raw, told_to_end


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    found = Stage(monkeypatch)
    found.channel.basic_qos(0, 10, False)
    found.consume()
    yield found
    found.close()


class Request:
    """What Celery makes of a message."""

    def __init__(self, message: Any, *, begun: bool) -> None:
        self.message = message
        self.time_start = 1.0 if begun else None


def worker_holds(
    monkeypatch: pytest.MonkeyPatch, *, begun: Any = (), waits: Any = (), running: Any = None
) -> None:
    """Celery has these as requests."""
    requests = {m.delivery_tag: Request(m, begun=True) for m in begun}
    requests |= {m.delivery_tag: Request(m, begun=False) for m in waits}
    runs = {m.delivery_tag for m in (begun if running is None else running)}
    monkeypatch.setattr(worker, "requests", lambda: requests)
    monkeypatch.setattr(worker, "running", lambda: runs)


def says(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """The worker stops, terminates or is ending."""
    for word in words:
        monkeypatch.setattr(worker, word, lambda: True)


# ── settling ──────────────────────────────────────────────────────────────────────────────────


def test_an_ack_waits_for_the_next_claim_and_costs_no_call(stage: Stage) -> None:
    (message,) = stage.claim("a")
    before = len(stage.engine.ran)
    message.ack()
    assert stage.acks() == ["a"]
    assert len(stage.engine.ran) == before
    assert not stage.broker.keeper.holds("a")
    stage.channel.qos.ack("a")
    assert stage.acks() == [], "once"


@pytest.mark.parametrize(
    ("settle", "released", "rejected"),
    [
        (lambda m: m.reject(), [], [("a", "rejected", "")]),
        (lambda m: m.reject(requeue=True), [("a", 0, 0, 1)], []),
        (lambda m: m.requeue(), [("a", 0, 0, 1)], []),
    ],
    ids=["reject", "reject and requeue", "requeue"],
)
def test_what_a_reject_does(stage: Stage, settle: Any, released: Any, rejected: Any) -> None:
    (message,) = stage.claim("a")
    settle(message)
    assert (stage.released(), stage.rejected()) == (released, rejected)
    assert not stage.broker.keeper.holds("a")
    assert stage.acks() == []
    stage.channel.qos.reject("a", requeue=True)
    assert stage.released() == released, "once"


def test_a_reject_says_why(stage: Stage) -> None:
    (message,) = stage.claim("a")
    try:
        raise KeyError("x")
    except KeyError:
        message.reject()
    assert stage.rejected() == [("a", "rejected", "KeyError: 'x'")]


def test_a_reject_says_what_the_task_failed_of_whatever_the_worker_is_doing(stage: Stage) -> None:
    """A worker that is told to terminate settles the rest while it handles just that."""
    first, second = stage.claim("a", "b")
    first.failure = "KeyError: 'x'"
    try:
        raise SystemExit
    except SystemExit:
        first.reject()
        second.reject()
    assert stage.rejected() == [("a", "rejected", "KeyError: 'x'"), ("b", "rejected", "")]


def test_half_of_a_surrogate_pair_is_no_trouble(stage: Stage) -> None:
    (message,) = stage.claim("a", message=raw(id="i\ud800"))
    try:
        raise ValueError("\ud800")
    except ValueError:
        message.reject()
    (call,) = stage.engine.called("reject")
    assert "".join(map(str, (*call.keys, *call.args))).encode()


def test_what_could_not_be_decoded_is_no_success(stage: Stage) -> None:
    (message,) = stage.claim("a", message=raw().replace(rb'"\"x\""', b'"{"'))
    with pytest.raises(DecodeError):
        message.decode()
    message.ack()
    assert stage.acks() == []
    ((receipt, reason, _),) = stage.rejected()
    assert (receipt, reason) == ("a", "undecodable")


@pytest.mark.parametrize("verb", ["ack", "reject"])
def test_what_a_signal_came_in_between_may_be_decodable(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    (message,) = stage.claim("a")
    monkeypatch.setattr(module, "body_in_json", told_to_end)
    with pytest.raises(NotImplementedError):
        message.decode()
    getattr(message, verb)()
    assert (stage.acks(), stage.rejected()) == ([], [])
    assert stage.released() == [("a", 0, 1, 0)], "in front, uncounted"


def test_what_was_lost_is_not_acked(stage: Stage) -> None:
    (message,) = stage.claim("a")
    message.delivery.lost = True
    message.ack()
    assert stage.acks() == []
    assert message.delivery.settled


@pytest.mark.parametrize("trouble", [ServerUnavailable("away"), PermissionDenied("no")])
def test_what_cannot_be_settled_ends_no_worker(stage: Stage, trouble: Exception) -> None:
    """Without the server it is settled later; where it is refused its lease ends."""
    (message,) = stage.claim("a")
    stage.engine.answers["release"] = trouble
    message.requeue()
    away = isinstance(trouble, ServerUnavailable)
    assert stage.broker.keeper.holds("a") is away
    assert len(stage.broker.keeper._settling.later) == away
    stage.broker.keeper._settling.later.clear()


def test_a_delay_is_that_of_the_message_by_its_id(stage: Stage) -> None:
    first, second = stage.claim("a", "b", message=raw(id="task"))
    stage.channel.qos.release(first.delivery, delay_ms=1500)
    stage.channel.qos.release(second.delivery, counted=False)
    delayed, at_once = stage.engine.called("release")
    assert list(delayed.args[:3]) == [1500, 0, 1]
    assert list(delayed.args[4:]) == ["a", "task"]
    assert list(at_once.args[:3]) == [0, 0, 0]
    assert list(at_once.args[4:]) == ["b", ""]


def test_a_payload_that_is_no_message_is_invalid() -> None:
    with pytest.raises(InvalidMessage):
        module.Message({"body": "x", "properties": {}})


@pytest.mark.parametrize(
    ("cancelled", "revoked"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_what_was_cancelled_and_so_not_run_is_dropped_and_not_acked(
    stage: Stage, cancelled: bool, revoked: bool
) -> None:
    """A task that ran to its end all the same is acked."""
    (message,) = stage.claim("a")
    message.delivery.cancelled = cancelled
    if revoked:
        message.revoked = True
    message.ack()
    dropped = cancelled and revoked
    assert stage.released() == [("a", 0, 0, 0)] * dropped
    assert stage.acks() == ["a"] * (not dropped)


def test_what_cannot_be_decompressed_is_no_success(stage: Stage) -> None:
    (message,) = stage.claim("a", message=raw(compression="nothing known"))
    message.ack()
    assert stage.acks() == []
    ((receipt, reason, detail),) = stage.rejected()
    assert (receipt, reason, detail.partition(":")[0]) == ("a", "undecodable", "KeyError")


@pytest.mark.parametrize(("said", "name"), [("", "t"), (5, "5"), ("task", "task")])
def test_a_dead_letter_goes_by_the_id_of_its_task_or_that_of_its_message(
    stage: Stage, said: Any, name: str
) -> None:
    (message,) = stage.claim("a", message=raw(id=said))
    message.reject()
    (call,) = stage.engine.called("reject")
    assert call.keys[-1] == stage.broker.keys("q").result(name)
    assert message.delivery.settled


def test_what_settles_a_message_settles_it_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what a closed channel handed over, which forgets nothing of it."""
    a, b, c, d = stage.claim("a", "b", "c", "d")
    worker_holds(monkeypatch, begun=[a, b, c, d])
    d.undecodable = ValueError("x")
    stage.channel.close()
    for _ in range(2):
        stage.channel.qos.ack("a")
        stage.channel.qos.reject("b")
        stage.channel.qos.reject("c", requeue=True)
        stage.channel.qos.ack("d")
    assert stage.acks() == ["a"]
    assert [receipt for receipt, *_ in stage.rejected()] == ["b", "d"]
    assert stage.released() == [("c", 0, 0, 1)]


def test_a_new_channel_has_no_limit(stage: Stage) -> None:
    assert stage.transport.create_channel(stage.connection).qos.can_consume_max_estimate() is None


# ── beginning ─────────────────────────────────────────────────────────────────────────────────


def test_what_another_consumer_may_have_is_not_begun(stage: Stage) -> None:
    """It is given back, unless another has it for certain."""
    lost, lapsed, acked, held = stage.claim("lost", "lapsed", "acked", "held")
    acked.ack()
    lost.delivery.lost = True
    stage.broker.keeper.drop(["lapsed"])
    assert [one.given_up() for one in (lost, lapsed, acked, held)] == [True, True, False, False]
    assert stage.released() == [("lapsed", 0, 1, 0)]
    assert lost.delivery.settled
    assert lapsed.delivery.settled
    assert not held.delivery.settled


def test_a_message_without_a_lease_may_be_begun(stage: Stage) -> None:
    payload = {"body": "", "properties": {"delivery_tag": "t"}}
    assert not module.Message(payload, channel=stage.channel).given_up()


# ── leaving ───────────────────────────────────────────────────────────────────────────────────


def test_a_channel_that_closes_gives_back_what_nobody_works_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, *others = stage.claim("a", "b", "c", "d")
    worker_holds(monkeypatch, begun=[a], waits=[b])
    stage.channel.close()
    assert stage.released() == [("c", 0, 1, 0), ("d", 0, 1, 0)], "in front, uncounted, in order"
    for message in (a, b, *others):
        message.ack()
    assert stage.acks() == ["a", "b"], "what the pool has is settled all the same"


def test_what_was_acked_is_not_given_back(stage: Stage) -> None:
    messages = stage.claim("a", "b")
    messages[0].ack()
    stage.channel.close()
    assert stage.released() == [("b", 0, 1, 0)]


def test_nothing_is_given_back_when_the_connection_is_lost(stage: Stage) -> None:
    messages = stage.claim("a")
    stage.transport.lost = True
    stage.channel.close()
    assert stage.released() == []
    messages[0].ack()
    assert stage.acks() == ["a"]


@pytest.mark.parametrize(
    ("words", "released"),
    [
        (("stopping",), [("b", 0, 1, 0), ("c", 0, 1, 0)]),
        (("stopping", "terminating"), [("a", 0, 1, 1), ("b", 0, 1, 0), ("c", 0, 1, 0)]),
        (("ending",), [("c", 0, 1, 0), ("b", 0, 1, 1)]),
    ],
    ids=["warm", "cold", "by an error of its own"],
)
def test_what_a_worker_that_ends_gives_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, words: Any, released: Any
) -> None:
    """`a` runs; `b` waits, or was begun and runs no more; `c` was never begun."""
    a, b, c = stage.claim("a", "b", "c")
    if words == ("ending",):
        worker_holds(monkeypatch, begun=[a, b], waits=[c], running=[a])
    else:
        worker_holds(monkeypatch, begun=[a], waits=[b, c])
    says(monkeypatch, *words)
    stage.channel.close()
    assert sorted(stage.released()) == sorted(released)


def test_what_a_child_has_begun_unheard_stays_with_a_worker_that_stops(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its result comes while Celery waits for the pool, behind the end of the channel."""
    a, b = stage.claim("a", "b")
    worker_holds(monkeypatch, waits=[a, b])
    says(monkeypatch, "stopping")
    assert not a.given_up(), "it is written to a child"
    stage.channel.close()
    assert stage.released() == [("b", 0, 1, 0)]
    assert b.given_up(), "it is begun no more"
    a.ack()
    assert stage.acks() == ["a"]


def test_a_task_that_a_cold_shutdown_killed_is_not_acked_and_counts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (message,) = stage.claim("a")
    says(monkeypatch, "terminating", "stopping")
    monkeypatch.setattr(worker, "killed", lambda message: message.delivery_tag == "a")
    worker_holds(monkeypatch)
    message.ack()
    assert stage.acks() == []
    stage.channel.close()
    assert stage.released() == [("a", 0, 1, 1)]


@pytest.mark.parametrize("terminating", [True, False])
def test_a_task_that_came_to_its_end_is_acked_also_in_a_cold_shutdown(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, terminating: bool
) -> None:
    (message,) = stage.claim("a")
    monkeypatch.setattr(worker, "terminating", lambda: terminating)
    monkeypatch.setattr(worker, "killed", lambda _: not terminating)
    message.ack()
    assert stage.acks() == ["a"]


def test_a_worker_told_to_stop_gives_back_what_it_will_not_begin(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c, d = stage.claim("a", "b", "c", "d")
    worker_holds(monkeypatch, begun=[a], waits=[b, c], running=[a, c])
    del d  # Celery struck it out: its message is garbage
    stage.got.clear()
    says(monkeypatch, "stopping")
    stage.channel.qos.give_back_unbegun()
    gc.collect()
    assert sorted(stage.released()) == [("b", 0, 1, 0), ("d", 0, 1, 0)]
    assert set(stage.channel.qos._delivered) >= {"a", "c"}
    a.ack()
    c.ack()
    assert stage.acks() == ["a", "c"]


@pytest.mark.parametrize("settle", ["ack", "reject"])
def test_what_a_thread_settles_while_a_worker_looks_for_garbage_is_settled(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, settle: str
) -> None:
    (a,) = stage.claim("a")
    worker_holds(monkeypatch, begun=[a])
    says(monkeypatch, "stopping")
    monkeypatch.setattr(stage.broker, "reap", getattr(a, settle))
    stage.channel.qos.give_back_unbegun()
    assert (stage.acks(), len(stage.rejected())) == ((["a"], 0) if settle == "ack" else ([], 1))
    assert stage.released() == []


def test_what_it_gave_back_is_not_begun_by_a_thread_that_is_free_then(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery stops its pool later. What is begun in between is not given back."""
    a, b = stage.claim("a", "b")
    worker_holds(monkeypatch, waits=[a, b])
    assert not a.given_up()  # a thread begins it: Celery notes that a moment later
    says(monkeypatch, "stopping")
    stage.channel.qos.give_back_unbegun()
    assert stage.released() == [("b", 0, 1, 0)]
    assert b.given_up()
    a.ack()
    assert stage.acks() == ["a"]


def test_all_that_waits_is_given_back_in_one_call(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KILL may follow TERM at any moment."""
    a, *others = stage.claim(*"abcdefgh")
    worker_holds(monkeypatch, begun=[a], waits=others, running=[a])
    says(monkeypatch, "stopping")
    stage.channel.qos.give_back_unbegun()
    assert len(stage.engine.called("release")) == 1
    assert [receipt for receipt, *_ in stage.released()] == list("bcdefgh")
    a.ack()


def test_nothing_held_is_nothing_to_ask_celery_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> None:
        raise AssertionError("this waits")

    monkeypatch.setattr(worker, "requests", asked)
    monkeypatch.setattr(worker, "ending", asked)
    stage.channel.qos.give_back_unbegun()
    stage.channel.close()


def test_messages_of_others_are_let_be(stage: Stage) -> None:
    """A plain message of Kombu's, which a program may append, has no lease to settle."""
    other = AnyMessage(body="x", delivery_tag="t", channel=stage.channel)
    stage.channel.qos.append(other, "t")
    stage.channel.qos.ack("t")
    stage.channel.qos.append(types.SimpleNamespace(), "u")
    stage.channel.qos.reject("u")
    last = AnyMessage(body="x", delivery_tag="v", channel=stage.channel)
    stage.channel.qos.append(last, "v")
    stage.channel.qos.give_back_unbegun()
    assert stage.channel.qos.get("v") is last
    stage.channel.close()
    assert (stage.acks(), stage.released(), stage.rejected()) == ([], [], [])
