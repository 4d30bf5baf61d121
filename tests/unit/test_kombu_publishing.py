"""What a channel publishes: settings of a message, partitions, broadcasts, batches. No server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from kombu.exceptions import BatchPublishError

from atomq import calls
from atomq.calls import Call
from atomq.contrib.kombu import unconfirmed as unconfirmed_module
from atomq.contrib.kombu.broker import Broker
from atomq.contrib.kombu.declaring import is_reply_exchange, is_reply_queue
from atomq.contrib.kombu.publishing import PublishBatch
from atomq.contrib.kombu.unconfirmed import Unconfirmed
from atomq.errors import AtomqError, NotDurable, ServerFull, ServerUnavailable, UnknownPartition
from atomq.ids import CallId
from atomq.options import CALL_WINDOW_MS
from tests.scripted import NOW_MS, Stage

REPLIES = "abc.reply.celery.pidbox"


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    found = Stage(monkeypatch)
    yield found
    found.close()


def message(body: str = "x", headers: Any = None, **properties: Any) -> dict[str, Any]:
    """A message as Kombu's producers give it to a channel."""
    properties = {"delivery_tag": "t", "delivery_info": {}, **properties}
    return {"body": body, "headers": headers, "properties": properties}


def published(stage: Stage) -> list[Call[Any]]:
    return stage.engine.called("publish")


def numbers(stage: Stage) -> list[tuple[str, int]]:
    """Producer and number of each call that published something."""
    return [(call.keys[0].rpartition(".")[2], call.args[0]) for call in published(stage)]


def sent(call: Call[Any]) -> dict[str, Any]:
    """The last message of a call."""
    return dict(json.loads(call.args[-1]))


def said(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is told to all from here on, each with whether that is patient."""
    found: list[Any] = []
    monkeypatch.setattr(
        stage.engine, "command", lambda *args, patient=False: found.append((*args[:2], patient))
    )
    return found


def unsent() -> ServerUnavailable:
    error = ServerUnavailable("not sent")
    error.unsent = True
    return error


def first_meets(stage: Stage, *errors: AtomqError) -> None:
    """The first publishes meet these, the others are carried out."""
    left = list(errors)

    def answer(_: Call[Any]) -> int:
        if left:
            raise left.pop()
        return 1

    stage.engine.answers["publish"] = answer


# ── settings of a message ─────────────────────────────────────────────────────────────────────


def test_what_a_message_says_to_the_transport_is_not_sent(stage: Stage) -> None:
    made = message(durability="replicas=1", tracked=True, partition_key="k", headers={"a": 1})
    stage.channel.basic_publish(made, "", "q")
    (call,) = published(stage)
    assert call.durability is not None
    assert call.durability.replicas == 1
    text = sent(call)
    assert text["x-tracked"] == text["properties"]["delivery_tag"]
    assert text["headers"] == {"a": 1, "partition_key": "k"}
    assert not {"durability", "tracked", "partition_key"} & set(text["properties"])
    assert made["properties"]["partition_key"] == "k", "what Kombu publishes again says the same"
    assert made["headers"] == {"a": 1}


def test_a_message_that_says_nothing_has_the_settings_of_the_transport(
    monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    stage.channel.basic_publish(message(), "", "q")
    (call,) = published(stage)
    assert (call.durability, "x-tracked" in sent(call)) == (None, False)
    other = Stage(monkeypatch, durability="fsync", tracked=True)
    other.channel.basic_publish(message(), "", "q")
    other.channel.basic_publish(message(durability="memory", tracked=False), "", "q")
    first, second = published(other)
    assert (first.durability and first.durability.name, "x-tracked" in sent(first)) == (
        "fsync",
        True,
    )
    assert (second.durability, "x-tracked" in sent(second)) == (None, False)
    other.close()


def test_a_tracked_message_is_known_by_its_message_id(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, tracked=["q"])
    names = [
        stage.channel._outgoing(stage.broker.keys(queue), made).id
        for queue, made in (
            ("q", message(message_id="m", headers={"id": "i"})),
            ("q", message(headers={"id": "i"})),
            ("q", message()),
            ("p", message(message_id="m", headers={"id": "i"})),
        )
    ]
    assert names == ["m", "i", "t", "i"]
    tracked = [
        stage.channel._outgoing(stage.broker.keys(queue), message()).tracked for queue in "qp"
    ]
    assert tracked == [True, False]
    stage.close()


def test_what_is_not_durable_is_in_its_queue_under_its_id(stage: Stage) -> None:
    stage.engine.answers["publish"] = NotDurable("not confirmed", 0, 1)
    with pytest.raises(NotDurable) as error:
        stage.channel._put("q", message(headers={"id": "i"}))
    assert error.value.ids == ["i"]


@pytest.mark.parametrize(
    ("delay", "at_ms", "alive_ms"),
    [("auto", NOW_MS + 500, 60_000), ("always", NOW_MS + 500, 0), ("never", 0, 0)],
)
def test_when_a_published_message_is_due(
    monkeypatch: pytest.MonkeyPatch, delay: str, at_ms: int, alive_ms: int
) -> None:
    stage = Stage(monkeypatch, delay_in_server=delay)
    made = message(headers={"eta": "2027-01-15T08:00:00.500+00:00", "id": "i"})
    found = stage.channel._outgoing(stage.broker.keys("q"), made)
    assert (found.at_ms, found.alive_ms, found.id, found.step) == (at_ms, alive_ms, "i", 1)
    made = message()
    made["properties"]["priority"] = 7
    found = stage.channel._outgoing(stage.broker.keys("q"), made)
    assert (found.at_ms, found.alive_ms, found.id, found.step) == (0, 0, "t", 3)
    stage.close()


# ── publishes without an answer ───────────────────────────────────────────────────────────────


def test_a_publish_without_an_answer_is_the_same_when_it_is_published_again(stage: Stage) -> None:
    stage.engine.answers["publish"] = ServerUnavailable("away")
    with pytest.raises(ServerUnavailable):
        stage.channel._put("q", message())
    stage.engine.answers["publish"] = 1
    again, other = message(), message("other")
    again["properties"]["delivery_tag"] = "another"
    stage.channel._put("q", other)
    stage.channel._put("p", again)
    stage.channel._put("q", again)
    stage.channel._put("q", again)
    first, of_other, of_p, second, third = numbers(stage)
    assert first == second
    assert len({first, of_other, of_p, third}) == 4, "nothing else is that message"


@pytest.mark.parametrize("how", ["alone", "in a batch"])
def test_a_server_remembers_a_publish_for_as_long_as_it_may_be_tried(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    stage = Stage(monkeypatch, retry_budget=4000.0)
    if how == "alone":
        stage.channel._put("q", message())
    else:
        batch = stage.channel.create_publish_batch(5)
        batch.add(stage.broker.keys("q"), calls.Outgoing("m", "i"))
        batch.flush()
    (call,) = stage.engine.called("publish")
    assert call.args[1] == 2 * stage.engine.options.call_window_ms > 2 * CALL_WINDOW_MS
    stage.close()


def test_one_that_was_refused_is_not_in_doubt(stage: Stage) -> None:
    stage.engine.answers["publish"] = ServerFull("full")
    for _ in range(2):
        with pytest.raises(ServerFull):
            stage.channel._put("q", message())
    assert len(set(numbers(stage))) == 2


def test_a_doubt_lasts_as_long_as_the_server_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(unconfirmed_module.time, "monotonic", lambda: now[0])
    call_id = CallId("p")
    for after, found in ((59.9, (call_id, "q")), (60.0, None), (61.0, None)):
        unconfirmed, made = Unconfirmed(60.0), {"properties": {"delivery_tag": "t"}}
        now[0] = 1000.0
        unconfirmed.add("q", made, call_id)
        now[0] += after
        assert unconfirmed.take("q", made) == found
        assert unconfirmed.take("q", made) is None, "once"


def test_the_oldest_unconfirmed_publishes_are_forgotten_first() -> None:
    unconfirmed = Unconfirmed(60.0)
    made = [{"n": n, "properties": {}} for n in range(1002)]
    for n, one in enumerate(made):
        unconfirmed.add("q", one, CallId("p", n))
    found = [unconfirmed.take("q", made[n]) for n in (0, 1, 2, 1001)]
    assert [one and one[0].number for one in found] == [None, None, 2, 1001]


# ── replies and broadcasts ────────────────────────────────────────────────────────────────────


def test_a_reply_is_put_where_its_client_waits_and_expires(stage: Stage) -> None:
    stage.channel._put("abc.reply.celery.pidbox", message())
    (reply,) = stage.engine.called("reply")
    assert (reply.keys, reply.args[1]) == (("abc.reply.celery.pidbox",), 60_000)
    assert stage.engine.commands == []
    assert numbers(stage) == []


def test_what_is_a_reply() -> None:
    assert is_reply_queue("abc.reply.celery.pidbox")
    assert not is_reply_queue("celery@host.celery.pidbox")
    assert not is_reply_queue("a.reply.b")
    assert is_reply_exchange("reply.celery.pidbox")
    assert not is_reply_exchange("celery.pidbox")
    assert not is_reply_exchange("reply.me")


def test_on_a_cluster_a_reply_is_told_at_once_and_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broker, "on_cluster", True)
    told = said(stage, monkeypatch)
    stage.channel._put(REPLIES, message())
    assert told == [("PUBLISH", f"/0.reply/{REPLIES}", True)]


def test_a_broadcast_is_told_on_each_topic_and_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = said(stage, monkeypatch)
    stage.channel._put_fanout("x", message(), "")
    object.__setattr__(stage.channel.settings, "legacy_fanout_prefix", "/old.")
    stage.channel._put_fanout("x", message(), "k")
    topics = ("/0.x", "/0.x/k", "/old.x/k")
    assert told == [("PUBLISH", topic, True) for topic in topics]


def test_without_patterns_a_broadcast_has_one_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, fanout_patterns=False)
    assert stage.channel.topics("x", "k") == ["/0.x"]
    stage.close()


# ── partitions ────────────────────────────────────────────────────────────────────────────────


def test_messages_without_a_key_take_turns_and_those_with_one_stay_together(stage: Stage) -> None:
    names = stage.spread("q", 1, 2)
    for _ in names:
        stage.channel._put("q", message())
    assert sorted(call.queue.name for call in published(stage)) == sorted(names)
    of_key = stage.broker.spread.get("q")._map.of_key("k")  # type: ignore[union-attr]
    for _ in range(3):
        stage.channel._put("q", message(headers={"partition_key": "k"}))
    assert {call.queue.name for call in published(stage)[3:]} == {names[of_key]}


def test_a_publish_without_an_answer_goes_to_the_same_partition_again(stage: Stage) -> None:
    stage.spread("q", 1, 2)
    first_meets(stage, ServerUnavailable("no answer"))
    with pytest.raises(ServerUnavailable):
        stage.channel._put("q", message())
    stage.channel._put("q", message())
    first, again = published(stage)
    assert first.queue.name == again.queue.name
    assert (first.keys[0], first.args[0]) == (again.keys[0], again.args[0]), "as the same call"


# ── batches ───────────────────────────────────────────────────────────────────────────────────


def batch_of(stage: Stage, most: int = 10) -> PublishBatch:
    batch: PublishBatch = stage.channel.create_publish_batch(most)
    return batch


def put(batch: PublishBatch, *keys: str | None, queue: str = "q") -> None:
    """Publish a message for each of these partition keys; None: without one."""
    for key in keys:
        headers = {} if key is None else {"partition_key": key}
        batch.publish(message(headers=headers), exchange="", routing_key=queue)


def keys_of(stage: Stage, *partitions: str) -> list[str]:
    """A partition key for each of these, no two of them alike."""
    found: Any = stage.broker.spread.get("q")
    keys = map(str, range(1000))
    names = found._map.names
    return [next(key for key in keys if names[found._map.of_key(key)] == at) for at in partitions]


def test_a_batch_is_sent_when_it_is_full(stage: Stage) -> None:
    batch = batch_of(stage, 3)
    for queue, count in (("q", 0), ("q", 0), ("p", 2), ("q", 2), ("q", 2), ("q", 3)):
        put(batch, None, queue=queue)
        assert len(published(stage)) == count
    assert [len(call.args) - 2 for call in published(stage)] == [3, 2, 4], "head, then messages"
    one_by_one = batch_of(stage, 0)
    for count in (4, 5):
        put(one_by_one, None)
        assert len(published(stage)) == count


def test_broadcasts_count_and_travel_with_the_batch(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = said(stage, monkeypatch)
    stage.channel.exchange_declare("x", "fanout")
    batch = batch_of(stage, 3)
    for most in (3, 3):
        for n in range(most):
            assert len(told) % 3 == 0, n
            batch.publish(message(), exchange="x", routing_key="")
    assert told == 6 * [("PUBLISH", "/0.x", False)]


def test_what_is_discarded_is_not_sent(stage: Stage) -> None:
    batch = batch_of(stage)
    put(batch, None)
    batch.discard()
    with pytest.raises(RuntimeError, match="aborted"):
        batch.flush()
    assert published(stage) == []


def test_an_error_that_is_none_of_ours_ends_a_batch_as_it_is(stage: Stage) -> None:
    batch = batch_of(stage)
    put(batch, None)
    stage.engine.answers["publish"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        batch.flush()
    with pytest.raises(BatchPublishError, match="failed before"):
        put(batch, None)


def test_what_has_no_key_goes_to_one_partition_and_what_has_one_to_its_own(stage: Stage) -> None:
    names = stage.spread("q", 1, 2)
    keys = keys_of(stage, *names)
    batch = batch_of(stage, 20)
    put(batch, None, None, *keys, None)
    batch.flush()
    found: dict[Any, set[str]] = {}
    for call in published(stage):
        for text in call.args:
            if str(text).startswith('{"'):
                key = json.loads(text)["headers"].get("partition_key")
                found.setdefault(key, set()).add(call.queue.name)
    (home,) = found.pop(None)
    assert found == {key: {name} for key, name in zip(keys, names, strict=True)}
    put(batch, None)
    batch.flush()
    assert published(stage)[-1].queue.name != home, "the next one has another turn"


def test_what_cannot_be_put_into_one_queue_is_not_hidden_by_another(stage: Stage) -> None:
    batch = batch_of(stage)
    put(batch, None)
    put(batch, None, queue="p")

    def answer(call: Call[Any]) -> int:
        if call.queue.name == "p":
            raise ServerFull("full")
        return 1

    stage.engine.answers["publish"] = answer
    with pytest.raises(BatchPublishError):
        batch.flush()


def test_a_queue_that_expires_lives_on_when_a_batch_is_put_into_it(stage: Stage) -> None:
    stage.channel._new_queue("q", arguments={"x-expires": 10_000})
    batch = batch_of(stage)
    put(batch, None)
    batch.flush()
    assert len(stage.engine.called("touch")) == 1


def test_a_partition_that_is_none_any_more_has_its_messages_go_where_their_keys_lead(
    stage: Stage,
) -> None:
    names = stage.spread("q", 1, 2)
    one, other, third = keys_of(stage, names[1], names[1], names[2])
    batch = batch_of(stage)
    put(batch, one, other, one, third)
    first_meets(stage, UnknownPartition("gone"), UnknownPartition("gone"))
    batch.flush()
    of_one, of_other, of_third = published(stage)[2:]
    assert [len(call.args) - 3 for call in (of_one, of_other)] == [2, 1]
    keys = [sent(call)["headers"]["partition_key"] for call in (of_one, of_other, of_third)]
    assert keys == [one, other, third]


@pytest.mark.parametrize("error", [ServerFull("full"), ServerUnavailable("no answer")])
def test_what_may_have_been_put_goes_to_no_other_partition(stage: Stage, error: AtomqError) -> None:
    stage.spread("q", 1, 2)
    batch = batch_of(stage)
    put(batch, None)
    first_meets(stage, error)
    with pytest.raises(BatchPublishError) as raised:
        batch.flush()
    assert raised.value.__cause__ is error
    assert len(published(stage)) == 1


def test_what_was_surely_not_sent_goes_to_another_partition_unless_a_key_says_where(
    stage: Stage,
) -> None:
    names = stage.spread("q", 1, 2)
    batch = batch_of(stage)
    put(batch, None)
    first_meets(stage, unsent())
    batch.flush()
    first, second = published(stage)
    assert first.queue.name != second.queue.name
    assert (first.args[0], first.args[-1]) == (second.args[0], second.args[-1])
    put(batch, *keys_of(stage, names[2]))
    first_meets(stage, unsent())
    with pytest.raises(BatchPublishError):
        batch.flush()
    other = batch_of(stage)
    put(other, None, queue="p")
    first_meets(stage, unsent())
    with pytest.raises(BatchPublishError) as raised:
        other.flush()
    assert isinstance(raised.value.__cause__, ServerUnavailable)
    assert len(published(stage)) == 4


def test_a_batch_is_sent_in_calls_that_are_not_too_large(stage: Stage) -> None:
    batch = stage.channel.create_publish_batch(5000)
    keys = stage.broker.keys("q")
    for n in range(calls.MOST + 1):
        batch.add(keys, calls.Outgoing(str(n), str(n)))
    batch.add_broadcast("topic", "text")
    batch.flush()
    counts = [len(call.args) - 3 for call in stage.engine.called("publish")]
    assert (counts, len(set(numbers(stage)))) == ([calls.MOST, 1], 2)
    assert stage.engine.commands == [("PUBLISH", "topic", "text")]
    batch.flush()
    assert len(stage.engine.called("publish")) == 2


def test_a_batch_that_failed_is_of_no_use(stage: Stage) -> None:
    batch = stage.channel.create_publish_batch(10)
    batch.add(stage.broker.keys("q"), calls.Outgoing("m", "i"))
    stage.engine.answers["publish"] = ServerFull("full")
    for _ in range(2):
        with pytest.raises(BatchPublishError):
            batch.flush()
    assert len(stage.engine.called("publish")) == 1
    batch.close()
    with pytest.raises(RuntimeError, match="closed"):
        batch.publish(message())
