"""What a channel makes of the messages it is given, and what it publishes. Needs no server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from atomq import calls
from atomq.contrib.kombu import consuming as module
from atomq.contrib.kombu.consuming import FAILURES, HEARD_MOST, MOST_CLAIMED
from atomq.contrib.kombu.declaring import KEEP_EVERY
from tests.scripted import NOW_MS, Stage, claimed, raw


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    found = Stage(monkeypatch)
    found.channel.basic_qos(0, 10, False)
    yield found
    found.close()


def at(ms: float) -> str:
    """A time so many ms after the server's."""
    return (datetime.fromtimestamp(NOW_MS / 1000, UTC) + timedelta(milliseconds=ms)).isoformat()


def message(stage: Stage, body: str = "x", **headers: Any) -> dict[str, Any]:
    made = stage.channel.prepare_message(body, headers=headers)
    made["properties"].update(delivery_tag="t", delivery_info={})
    return dict(made)


# ── what is due ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("early", [2, 500, 900, 999, 60_000])
def test_what_is_not_due_goes_back_for_as_long_as_it_is_not(stage: Stage, early: int) -> None:
    stage.consume()
    assert stage.claim("a", message=raw(eta=at(early))) == []
    assert stage.released() == [("a", early, 0, 0)], "uncounted"


@pytest.mark.parametrize("early", [1, 0, -1, -60_000])
def test_what_is_due_is_handed_over(stage: Stage, early: int) -> None:
    stage.consume()
    assert len(stage.claim("a", message=raw(eta=at(early)))) == 1
    assert stage.released() == []


@pytest.mark.parametrize("eta", [None, "", "soon", 5, "9999-99-99T00:00:00"])
def test_an_eta_that_is_none_is_due(stage: Stage, eta: Any) -> None:
    stage.consume()
    assert len(stage.claim("a", message=raw(eta=eta))) == 1


def test_with_never_the_worker_holds_it_and_is_no_company(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, delay_in_server="never")
    stage.consume()
    assert len(stage.claim("a", message=raw(eta=at(60_000)))) == 1
    begins = stage.broker.keeper._leases["a"].begins - time.monotonic()
    assert begins == pytest.approx(60, abs=1)
    assert stage.broker.keeper.alone.company() == calls.SOLE
    stage.close()


# ── what a message says when it is handed over ────────────────────────────────────────────────


def test_the_receipt_is_the_delivery_tag_and_deliveries_are_counted(stage: Stage) -> None:
    stage.consume()
    (first,) = stage.claim("a")
    assert (first.delivery_tag, first.properties["x-delivery-count"]) == ("a", 1)
    assert "redelivered" not in first.delivery_info
    assert "redelivered" not in first.headers
    stage.poller._intake.claims.hot.add("q")
    (second,) = stage.claim("b", deliveries=2)
    assert second.properties["x-delivery-count"] == 2
    assert second.delivery_info["redelivered"] is True
    assert second.headers["redelivered"] is True
    stage.poller._intake.claims.hot.add("q")
    (task,) = stage.claim("c", deliveries=2, message=raw(task="t", id="i"))
    assert task.delivery_info["redelivered"] is True
    assert "redelivered" not in task.headers, "a retry would copy it"


@pytest.mark.parametrize("text", [b"no JSON", b"[]", b"{}", b"\xff", b'{"properties": 1}'])
def test_what_is_no_message_is_a_dead_letter(stage: Stage, text: bytes) -> None:
    stage.consume()
    assert stage.claim("a", message=text) == []
    ((receipt, reason, detail),) = stage.rejected()
    assert (receipt, reason) == ("a", "undecodable")
    assert detail


def test_what_comes_for_a_queue_that_is_not_consumed_any_more_goes_back(stage: Stage) -> None:
    stage.consume("q")
    stage.poller.pump()
    stage.channel._active_queues.clear()
    stage.claim("a")
    assert stage.got == []
    assert stage.released() == [("a", 0, 0, 0)]


def test_what_a_callback_raises_comes_out_and_stays_held(stage: Stage) -> None:
    def callback(_: Any) -> None:
        raise KeyError("x")

    stage.consume(callback=callback)
    with pytest.raises(KeyError):
        stage.claim("a")
    assert (stage.released(), stage.rejected()) == ([], [])


@pytest.mark.parametrize("deliveries", [1, FAILURES - 1, FAILURES])
def test_what_a_worker_cannot_take_is_tried_some_times(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, deliveries: int
) -> None:
    def callback(_: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(module.worker, "takes_tasks", lambda _: True)
    stage.consume(callback=callback)
    stage.claim("a", deliveries=deliveries)
    if deliveries < FAILURES:
        assert stage.released() == [("a", 200 * deliveries, 0, 1)]
    else:
        assert stage.rejected() == [("a", "undeliverable", "KeyError: 'x'")]


def test_what_meets_a_worker_that_stops_is_given_back_uncounted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def callback(_: Any) -> None:
        monkeypatch.setattr(module.worker, "stopping", lambda: True)
        raise KeyError("x")

    monkeypatch.setattr(module.worker, "takes_tasks", lambda _: True)
    stage.consume(callback=callback)
    stage.claim("a", deliveries=FAILURES)
    assert stage.released() == [("a", 0, 1, 0)]
    assert stage.rejected() == []


def test_a_connection_that_breaks_in_a_callback_is_no_fault_of_the_message(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def callback(_: Any) -> None:
        raise ConnectionError("cut")

    monkeypatch.setattr(module.worker, "takes_tasks", lambda _: True)
    stage.consume(callback=callback)
    with pytest.raises(ConnectionError):
        stage.claim("a", deliveries=FAILURES)
    assert (stage.released(), stage.rejected()) == ([], [])


# ── one message, and what is in a queue ───────────────────────────────────────────────────────


def test_one_message_is_fetched_and_held(stage: Stage) -> None:
    stage.engine.answers["claim"] = lambda _: claimed("a")
    assert stage.channel.basic_get("q").delivery_tag == "a"
    assert stage.acks() == []
    assert stage.broker.keeper.holds("a")
    stage.channel.basic_get("q", no_ack=True)
    assert stage.acks() == ["a"]
    stage.engine.answers["claim"] = lambda _: claimed()
    assert stage.channel.basic_get("q") is None
    assert [call.args[2] for call in stage.engine.called("claim")] == [1, 1, 1]


def test_what_is_fetched_and_no_message_is_a_dead_letter(stage: Stage) -> None:
    stage.engine.answers["claim"] = lambda _: claimed("a", message=b"no JSON")
    assert stage.channel.basic_get("q") is None
    assert [one[:2] for one in stage.rejected()] == [("a", "undecodable")]


def test_nothing_is_fetched_while_a_message_is_to_be_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage.broker.keeper.alone, "stands_still", lambda: True)
    assert stage.channel.basic_get("q") is None
    assert stage.engine.called("claim") == []


def test_a_queue_is_there_if_anything_waits_in_it_also_delayed(stage: Stage) -> None:
    keys = stage.broker.keys("q")
    stage.engine.answers["EXISTS"] = lambda asked: int(keys.delayed in asked)
    assert stage.channel._has_queue("q")
    stage.engine.answers["EXISTS"] = lambda asked: int(keys.ready[3] in asked)
    assert stage.channel._has_queue("q")
    stage.engine.answers["EXISTS"] = 0
    assert not stage.channel._has_queue("q")


def test_a_purge_takes_what_is_delayed_and_no_dead_letter(stage: Stage) -> None:
    stage.engine.answers["purge"] = [2, 3, 0]
    assert stage.channel.queue_purge("q") == 5
    (call,) = stage.engine.called("purge")
    assert list(call.args) == list(
        calls.purge(stage.broker.keys("q"), ready=True, delayed=True).args
    )


class _Held:
    """A message that a consumer holds."""


# ── room ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("prefetch", "held", "buffered", "waiting", "least", "room"),
    [
        (8, 0, 0, False, False, 8),
        (8, 4, 0, True, False, 4),
        (8, 5, 0, True, False, 0),  # fewer than half are not worth a call
        (8, 5, 0, False, False, 3),  # but where a place of the pool is idle
        (8, 5, 1, False, False, 0),  # and nothing waits for it
        (8, 5, 1, True, True, 2),
        (8, 8, 0, False, True, 0),
        (8, 6, 3, False, True, 0),
        (4, 1, 0, True, False, 3),
        (4, 2, 0, True, False, 0),
        (1, 0, 0, True, False, 1),
    ],
)
def test_room_that_is_worth_a_call(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    prefetch: int,
    held: int,
    buffered: int,
    waiting: bool,
    least: bool,
    room: int,
) -> None:
    monkeypatch.setattr(module.worker, "waiting", lambda: waiting)
    channel = stage.transport.create_channel(stage.connection)
    channel.basic_qos(0, prefetch, False)
    for n in range(held):
        channel.qos._delivered[str(n)] = _Held()
    assert channel.room(buffered, least=least) == room


def test_what_is_settled_is_room_and_what_is_put_off_raises_the_limit_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.worker, "waiting", lambda: True)
    channel = stage.transport.create_channel(stage.connection)
    channel.basic_qos(0, 8, False)
    for n in range(8):
        channel.qos._delivered[str(n)] = _Held()
    channel.qos._dirty.update("0123")
    assert channel.room(0) == 4
    channel.basic_qos(0, 100, False)  # Celery has put off 92
    channel.qos._dirty.clear()
    channel.qos._delivered.update({str(n): _Held() for n in range(96)})
    assert channel.room(0) == 4, "half of what it may hold besides"


def test_without_a_limit_it_gets_what_it_takes_in_a_moment(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = stage.transport.create_channel(stage.connection)
    assert (channel.room(0), channel.room(1)) == (1, 0)
    channel.pace()
    channel.pace()
    assert channel.room(0) == 1, "who drains by hand may stop after any message"
    monkeypatch.setattr(stage.transport, "_loop", object())
    rooms = []
    for _ in range(9):
        channel.pace()
        rooms.append(channel.room(0))
    assert rooms == [2, 4, 8, 16, 32, 64, MOST_CLAIMED, MOST_CLAIMED, MOST_CLAIMED]
    channel._claimed_at -= 1
    channel.pace()
    assert channel.room(0) == MOST_CLAIMED // 2


def test_a_worker_without_prefetch_is_asked_each_time(stage: Stage) -> None:
    qos = stage.channel.qos
    for may, buffered, room in ((True, 0, 1), (True, 1, 0), (False, 0, 0)):
        qos.can_consume = lambda may=may: may  # as worker_disable_prefetch does
        assert stage.channel.room(buffered) == room


# ── queues that expire, broadcasts that come twice ────────────────────────────────────────────


def test_a_queue_that_expires_is_touched_when_it_is_used(stage: Stage) -> None:
    stage.channel._new_queue("q", arguments={"x-expires": 10_000})
    stage.consume("q")
    seen = 0

    def touched() -> int:
        nonlocal seen
        before, seen = seen, len(found := stage.engine.called("touch"))
        assert all(list(call.args) == [10_000] for call in found)
        return seen - before

    stage.claim("a")
    assert touched() == 1
    stage.poller._intake.claims.hot.add("q")
    stage.claim("b")
    assert touched() == 0, "not at every message"
    stage.channel._touched["q"] -= 2.6
    stage.poller._intake.claims.hot.add("q")
    stage.claim("c")
    assert touched() == 1, "a quarter of its time is over"
    stage.channel._put("q", message(stage))
    assert touched() == 1
    stage.channel._new_queue("q")
    stage.channel._put("q", message(stage))
    assert touched() == 0


def test_bindings_of_queues_that_expire_are_said_again_now_and_then(stage: Stage) -> None:
    channel = stage.channel
    channel.exchange_declare("x", "direct")
    channel.queue_declare("q", arguments={"x-expires": 10_000})
    channel.queue_bind("q", "x", "k")
    stage.consume("q")
    stage.engine.answers["ZRANGEBYSCORE"] = []
    stage.engine.commands.clear()
    channel.maybe_refresh_binding_expiry()
    assert stage.engine.commands == []
    channel._kept_at -= KEEP_EVERY
    for names in (["TIME", "ZADD", "SADD", "TIME", "ZRANGEBYSCORE"], []):
        channel.maybe_refresh_binding_expiry()
        assert [command[0] for command in stage.engine.commands] == names
        stage.engine.commands.clear()


def test_a_broadcast_that_comes_on_both_topics_is_heard_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(monkeypatch)
    one = json.loads(raw())
    assert not stage.channel.repeated("q", one)
    assert not stage.channel.repeated("q", one), "there is one topic"
    object.__setattr__(stage.channel.settings, "legacy_fanout_prefix", "/{db}.")
    assert stage.channel.topics("x", "k") == ["/0.x/k", "/{db}.x/k"]
    assert [stage.channel.repeated(q, one) for q in ("q", "q", "p")] == [False, True, False]
    assert not stage.channel.repeated("q", {"properties": None})
    for n in range(HEARD_MOST):
        stage.channel.repeated("q", {"properties": {"delivery_tag": n}})
    assert len(stage.channel._heard) == HEARD_MOST
    assert not stage.channel.repeated("q", one), "so long ago that it is forgotten"
    stage.close()
