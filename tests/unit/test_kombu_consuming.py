"""What a channel consumes, over queues with partitions and on a cluster too. Needs no server."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from kombu.transport import virtual

from atomq.contrib.kombu import consuming as module
from atomq.contrib.kombu.broker import Broker
from atomq.errors import ServerUnavailable
from atomq.flows import clock
from tests.scripted import Stage, claimed, raw, told_to_end


class _Held:
    """A message that a consumer holds."""


PARTS = ("q", "q#1.7", "q#2.9")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    found = Stage(monkeypatch)
    found.channel.basic_qos(0, 10, False)
    yield found
    found.close()


def on_cluster(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    monkeypatch.setattr(Broker, "on_cluster", True)
    monkeypatch.setattr(type(stage.engine), "layout", "cluster")


# ── queues with partitions ────────────────────────────────────────────────────────────────────


def test_a_queue_with_partitions_is_claimed_from_in_all_and_another_goes_first_each_time(
    stage: Stage,
) -> None:
    assert stage.spread("q", 7, 9) == PARTS
    stage.consume("q")
    assert stage.channel.claimed_queues() == [*PARTS]
    orders = []
    for name in (PARTS[0], PARTS[1], PARTS[2], PARTS[1], "q#9.9"):
        orders.append(stage.channel.ordered())
        stage.channel.rotate(name)
    a, b, c = PARTS
    assert orders == [[a, b, c], [b, c, a], [c, a, b], [a, b, c], [c, a, b]]
    assert stage.channel.ordered() == [c, a, b], "what is no partition changes nothing"


def test_of_two_partitions_each_goes_first_in_turn(stage: Stage) -> None:
    stage.spread("q", 7)
    stage.consume("q")
    stage.channel.rotate("q")
    assert stage.channel.ordered() == ["q#1.7", "q"]


def test_partitions_stay_together_where_queues_take_turns(stage: Stage) -> None:
    stage.spread("q", 7)
    for queue in ("q", "other"):
        stage.consume(queue)
    assert stage.channel.ordered() == ["q", "q#1.7", "other"]
    stage.channel.rotate("q#1.7")
    assert stage.channel.ordered() == ["other", "q", "q#1.7"]
    assert stage.claim("a", queue=2)[0].delivery_tag == "a"
    assert stage.channel.ordered() == ["other", "q#1.7", "q"], "what comes has them rotate"


def test_a_partition_that_is_consumed_by_its_name_too_is_claimed_from_once(stage: Stage) -> None:
    stage.spread("q", 7)
    for queue in ("q#1.7", "q"):
        stage.consume(queue)
    assert stage.channel.claimed_queues() == ["q#1.7", "q"]


def test_partitions_without_acks_are_popped(stage: Stage) -> None:
    stage.spread("q", 7)
    stage.consume("q", no_ack=True)
    assert (stage.channel.claimed_queues(), stage.channel.popped_queues()) == ([], ["q", "q#1.7"])
    stage.spread("q", 7, 8)
    stage.channel.look_for_partitions()
    assert stage.channel.popped_queues() == ["q", "q#1.7", "q#2.8"]


def test_what_is_consumed_is_sorted_once_until_that_changes(stage: Stage) -> None:
    """The event loop asks at every turn."""
    stage.consume("q")
    stage.consume("p", no_ack=True)
    popped, claimed = stage.channel.popped_queues(), stage.channel.claimed_queues()
    assert (popped, claimed) == (["p"], ["q"])
    assert stage.channel.popped_queues() is popped
    assert stage.channel.claimed_queues() is claimed
    stage.channel._regroup()
    assert stage.channel.popped_queues() == ["p"]


@pytest.fixture
def heard(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the connection is told of what is consumed."""
    heard: list[Any] = []
    receiver = stage.channel._receiver
    monkeypatch.setattr(receiver, "changed", lambda keys: heard.append(keys.name))
    monkeypatch.setattr(receiver, "cancelled", lambda _, queues: heard.append(("left", *queues)))
    monkeypatch.setattr(receiver, "listens", lambda queue: heard.append(("listens", queue)))
    monkeypatch.setattr(receiver, "regroup", lambda: heard.append("regroup"))
    return heard


def test_the_connection_is_told_of_each_partition_that_is_consumed_and_left(
    stage: Stage, heard: list[Any]
) -> None:
    stage.spread("q", 7)
    stage.consume("q")
    assert heard == ["regroup", "q", "q#1.7"]
    heard.clear()
    stage.channel.basic_cancel(f"tag-q-{id(stage.channel)}")
    assert heard == ["regroup", ("left", "q", "q#1.7")]
    assert stage.channel.claimed_queues() == stage.channel.ordered() == []
    stage.channel.basic_cancel("unknown")
    assert len(heard) == 2


def test_partitions_that_came_since_are_consumed_too(stage: Stage, heard: list[Any]) -> None:
    stage.channel.look_for_partitions()
    stage.consume("plain")
    stage.spread("q", 9)
    stage.consume("q")
    assert "q#1.9" in stage.channel.claimed_queues()
    heard.clear()
    stage.channel.look_for_partitions()
    assert heard == [], "nothing is new"
    stage.spread("q", 9, 3, 2)
    stage.channel.look_for_partitions()
    assert heard == ["regroup", "q#2.3", "q#3.2"]
    assert stage.channel.claimed_queues() == ["plain", "q", "q#1.9", "q#2.3", "q#3.2"]
    heard.clear()
    stage.channel.look_for_partitions()
    assert heard == []


def test_partitions_are_looked_for_of_what_is_consumed_and_of_no_broadcasts(
    stage: Stage, heard: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    monkeypatch.setattr(stage.broker.spread, "look", lambda queue, **_: looked.append(queue))
    stage.channel.fanout_queues["f"] = ("x", "")
    for queue in ("f", "q"):
        stage.spread(queue, 7)
        stage.consume(queue)
    looked.clear()
    heard.clear()
    stage.spread("q", 7, 8)
    stage.channel.look_for_partitions()
    assert (looked, heard) == (["q"], ["regroup", "q#2.8"])


# ── one message ───────────────────────────────────────────────────────────────────────────────


def fetched_from(stage: Stage) -> list[list[str]]:
    """The queues of each claim."""
    found = [[key for key in call.keys if key in PARTS] for call in stage.engine.called("claim")]
    stage.engine.ran.clear()
    return found


def test_of_partitions_on_one_server_one_claim_fetches(stage: Stage) -> None:
    stage.spread("q", 7, 9)
    stage.engine.answers["claim"] = lambda _: claimed("a", queue=2)
    assert stage.channel.basic_get("q").delivery_tag == "a"
    assert fetched_from(stage) == [[*PARTS]]
    assert stage.channel._in_turn("q") == ("q#2.9", "q", "q#1.7"), "that one has had its turn"


@pytest.mark.parametrize("trouble", [None, ServerUnavailable("away")])
def test_on_a_cluster_each_partition_is_asked_until_one_has_a_message(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, trouble: ServerUnavailable | None
) -> None:
    on_cluster(monkeypatch, stage)
    stage.spread("q", 7, 9)

    def answer(call: Any) -> Any:
        if call.queue.name == "q":
            if trouble is not None:
                raise trouble
            return claimed()
        return claimed("a") if call.queue.name == has else claimed()

    has = "q#1.7"
    stage.engine.answers["claim"] = answer
    assert stage.channel.basic_get("q").delivery_tag == "a"
    asked = [call.queue.name for call in stage.engine.called("claim")]
    assert asked == ["q", "q#1.7"]
    stage.engine.ran.clear()
    has = ""
    if trouble is None:
        assert stage.channel.basic_get("q") is None
    else:
        with pytest.raises(ServerUnavailable):
            stage.channel.basic_get("q")
    asked = [call.queue.name for call in stage.engine.called("claim")]
    assert asked == ["q#2.9", "q", "q#1.7"], "all of them, the next one first"


def test_the_lease_of_what_is_fetched_counts_from_when_it_was_asked_for_first(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = clock() - 15
    times = iter([asked])
    monkeypatch.setattr(module, "clock", lambda: next(times))
    stage.engine.answers["claim"] = lambda _: claimed("a")  # at the third try, 15 s later
    message = stage.channel.basic_get("q")
    (lease,) = stage.channel.broker.keeper._leases.values()
    assert (message.delivery_tag, lease.since) == ("a", asked)


def test_a_plain_queue_takes_no_turns(stage: Stage) -> None:
    stage.engine.answers["claim"] = lambda _: claimed("a")
    stage.channel.basic_get("q")
    stage.channel.rotate("q")
    assert stage.channel._turns == {}


def test_a_queue_that_expires_lives_on_while_it_is_fetched_from(stage: Stage) -> None:
    stage.channel._new_queue("q", arguments={"x-expires": 10_000})
    stage.engine.answers["claim"] = lambda _: claimed("a")
    stage.channel.basic_get("q")
    assert len(stage.engine.called("touch")) == 1


def test_a_queue_that_expires_lives_on_from_when_a_consumer_comes(stage: Stage) -> None:
    """What lies in no list, broadcasts and replies, has nothing that could expire."""
    stage.channel.fanout_queues["topic"] = ("x", "")
    for queue in ("q", "topic", "a.reply.celery.pidbox"):
        stage.channel._new_queue(queue, arguments={"x-expires": 10_000})
    for queue in ("q", "topic", "a.reply.celery.pidbox", "plain"):
        stage.consume(queue)
    assert [call.queue.name for call in stage.engine.called("touch")] == ["q"]


def test_what_is_fetched_and_unreadable_says_why_it_is_dead(stage: Stage) -> None:
    stage.engine.answers["claim"] = lambda _: claimed("a", message=b"[]")
    assert stage.channel.basic_get("q") is None
    detail = "the message is not a JSON object but list"
    assert stage.rejected() == [("a", "undecodable", detail)]


# ── what a consumer is given ──────────────────────────────────────────────────────────────────


def test_what_comes_before_its_eta_needs_headers_that_are_a_table(stage: Stage) -> None:
    stage.consume()
    text = json.loads(raw())
    text["headers"] = None
    (message,) = stage.claim("a", message=json.dumps(text).encode())
    assert message.headers == {}


def test_no_consumer_no_message(stage: Stage) -> None:
    stage.consume("q")
    stage.poller.pump()
    del stage.transport._callbacks["q"]
    assert stage.claim("a") == []
    assert stage.released() == [("a", 0, 0, 0)], "uncounted"


def test_a_message_that_its_consumer_settled_and_failed_is_not_settled_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def callback(message: Any) -> None:
        message.ack()
        raise KeyError("x")

    monkeypatch.setattr(module.worker, "takes_tasks", lambda _: True)
    stage.consume(callback=callback)
    stage.claim("a")
    assert (stage.acks(), stage.released(), stage.rejected()) == (["a"], [], [])


def test_a_message_that_was_settled_is_not_given_back_by_a_worker_that_stops(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def callback(message: Any) -> None:
        message.reject()
        monkeypatch.setattr(module.worker, "stopping", lambda: True)
        raise KeyError("x")

    monkeypatch.setattr(module.worker, "takes_tasks", lambda _: True)
    stage.consume(callback=callback)
    stage.claim("a")
    assert (stage.released(), len(stage.rejected())) == ([], 1)


@pytest.mark.parametrize("place", ["before", "message", "callback"])
def test_a_signal_that_comes_in_between_says_nothing_of_the_message(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(module.worker, "takes_tasks", lambda _: True)
    stage.consume(callback=told_to_end if place == "callback" else stage.got.append)
    if place == "before":
        monkeypatch.setattr(module, "from_json", told_to_end)
    if place == "message":
        monkeypatch.setattr(virtual.Message, "__init__", told_to_end)
    assert stage.claim("a") == []
    assert stage.rejected() == []
    assert stage.released() == [("a", 0, 1, 0)], "in front, uncounted"


def test_what_a_worker_could_not_take_is_in_the_log_and_no_longer_held(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def callback(_: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(module.worker, "takes_tasks", lambda _: True)
    stage.consume(callback=callback)
    with caplog.at_level(logging.ERROR, "atomq.kombu"):
        stage.claim("a")
    assert "could not take" in caplog.text
    assert "KeyError" in caplog.text, "with its traceback"
    assert stage.channel.room(0) == 10


# ── room and pace ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prefetch", [1, 2, 3, 4, 5, 6, 7, 8])
def test_three_places_are_worth_a_call_if_one_stays_in_hand(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, prefetch: int
) -> None:
    monkeypatch.setattr(module.worker, "waiting", lambda: True)
    channel = stage.transport.create_channel(stage.connection)
    channel.basic_qos(0, prefetch, False)
    worth = []
    for held in range(prefetch, -1, -1):
        channel.qos._delivered.clear()
        channel.qos._delivered.update({str(n): _Held() for n in range(held)})
        worth.append(bool(channel.room(0)))
    least = {1: 1, 2: 1, 3: 2, 4: 3, 5: 3, 6: 3, 7: 4, 8: 4}[prefetch]
    assert worth == [free >= least for free in range(prefetch + 1)]


def test_without_a_limit_it_slows_down_by_half_to_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "PACE", 0.25)
    monkeypatch.setattr(stage.transport, "_loop", object())
    channel = stage.transport.create_channel(stage.connection)
    rooms = []
    for after in (0.25, 0.125, 0.0, 0.125, 0.25, 1.0, 1.0, 1.0):
        now[0] += after
        channel.pace()
        rooms.append(channel.room(0))
    assert rooms == [1, 2, 4, 8, 4, 2, 1, 1]


def test_the_lowest_limit_that_it_was_given_says_what_is_enough(stage: Stage) -> None:
    channel = stage.transport.create_channel(stage.connection)
    channel.basic_qos()
    assert channel.room(0) == 1, "there is no limit"
    for count, enough in ((20, 10), (30, 10), (8, 4), (40, 4)):
        channel.basic_qos(prefetch_count=count)
        assert (channel.qos.prefetch_count, channel._enough) == (count, enough)


# ── broadcasts ────────────────────────────────────────────────────────────────────────────────


def test_on_a_cluster_replies_are_listened_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, heard: list[Any]
) -> None:
    reply = "abc.reply.celery.pidbox"
    stage.channel._new_queue(reply)
    assert heard == []
    on_cluster(monkeypatch, stage)
    stage.channel._new_queue("q")
    assert heard == []
    stage.channel._new_queue(reply, auto_delete=True)
    assert heard == [("listens", reply)]
    assert reply in stage.channel.auto_delete_queues
    assert stage.channel.subscriptions() == [(stage.channel.reply_topic(reply), reply)]
    stage.spread(reply, 7)
    for queue in (reply, "q"):
        stage.consume(queue)
    assert (stage.channel.claimed_queues(), stage.channel.popped_queues()) == (["q"], [])
    heard.clear()
    stage.spread(reply, 7, 8)
    stage.channel.look_for_partitions()
    assert heard == []


def test_broadcasts_are_subscribed_for_what_is_consumed_once(stage: Stage) -> None:
    stage.channel.fanout_queues.update(f=("x", ""), g=("y", ""))
    for queue in ("f", "q", "f"):
        stage.consume(queue)
    assert stage.channel.subscriptions() == [("/0.x", "f")]
    assert stage.channel.claimed_queues() == ["q"]


def test_what_is_declared_deletes_itself_only_if_it_is_said(stage: Stage) -> None:
    stage.channel._new_queue("q")
    assert stage.channel.auto_delete_queues == set()
