"""Results: who waits for one is told at once, and costs the server next to nothing meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from atomq import InvalidMessage, Item, LeaseLost, MessageFailed, ResultTimeout, calls
from atomq.message import Writer
from tests.conformance.twin import run
from tests.servers import wait_until


def later(seconds: float, function: Any, *args: Any) -> threading.Timer:
    timer = threading.Timer(seconds, function, args)
    timer.start()
    return timer


def test_a_result_that_is_there_is_answered(q: Any) -> None:
    sent = q.put("x")
    q.claim().complete({"sum": [1, 2]})
    assert sent.wait(timeout=0) == {"sum": [1, 2]}
    assert sent.wait() == {"sum": [1, 2]}, "it can be asked for again"
    assert q.wait(sent.id, 1) == {"sum": [1, 2]}


@pytest.mark.alone
def test_a_result_that_comes_is_answered_at_once(q: Any) -> None:
    sent = q.put("x")
    message = q.claim()
    done: list[float] = []

    def complete() -> None:
        message.complete(7)
        done.append(time.monotonic())

    timer = later(0.1, complete)
    assert sent.wait(5) == 7
    timer.join()
    assert time.monotonic() - done[0] < 0.1


def test_no_result_in_time(q: Any) -> None:
    sent = q.put("x")
    began = time.monotonic()
    with pytest.raises(ResultTimeout, match=sent.id):
        sent.wait(0.1)
    assert time.monotonic() - began < 0.5
    with pytest.raises(TimeoutError):
        sent.wait(0)


def test_what_was_rejected_raises_its_reason(q: Any) -> None:
    sent = q.put("x")
    message = q.claim()
    later(0.05, lambda: message.reject("unknown_user", "no user 7"))
    with pytest.raises(MessageFailed, match="unknown_user: no user 7") as caught:
        sent.wait(5)
    assert caught.value.reason == "unknown_user: no user 7"


def test_what_is_put_again_has_no_result_of_the_one_before(make: Any) -> None:
    """A second report of the same name answered the first one's."""
    q = make(dedup_window=0.05)
    first = q.put("monday", id="report")
    q.claim().complete("of monday")
    assert first.wait(1) == "of monday"
    wait_until("the window to be over", lambda: q.put("tuesday", id="report").new)
    with pytest.raises(ResultTimeout):
        q.wait("report", 0)
    q.claim().complete("of tuesday")
    assert q.wait("report", 1) == "of tuesday"


@pytest.mark.parametrize("by_name", [True, False])
def test_what_is_redriven_has_failed_no_more(q: Any, by_name: bool) -> None:
    sent = q.put("x")
    q.claim().reject("broken")
    with pytest.raises(MessageFailed):
        sent.wait(1)
    assert q.redrive([q.peek("dead")[0].name] if by_name else None) == 1
    with pytest.raises(ResultTimeout):
        sent.wait(0)
    q.claim().complete("mended")
    assert sent.wait(1) == "mended"


def test_what_failed_for_good_in_its_block_raises_too(make: Any) -> None:
    q = make(max_deliveries=1)
    sent = q.put("x")
    with pytest.raises(ValueError, match="bad"), q.claim():
        raise ValueError("bad")
    with pytest.raises(MessageFailed, match="max_deliveries: ValueError: bad"):
        sent.wait(5)


# Messages of whose death no consumer can tell, made so that the next claim buries them.


def _expired(q: Any) -> Any:
    sent = q.put("x", ttl=0.001)
    time.sleep(0.005)
    return sent


def _max_deliveries(q: Any) -> Any:
    sent = q.put("x")
    q.claim().extend(0)  # as if its process had died
    return sent


DEATHS = {"expired": _expired, "max_deliveries": _max_deliveries}


@pytest.mark.parametrize("waits", [True, False], ids=["who waits", "who comes later"])
@pytest.mark.parametrize("reason", DEATHS)
def test_what_died_without_a_consumer_is_told(make: Any, reason: str, waits: bool) -> None:
    q = make(max_deliveries=1)
    sent = DEATHS[reason](q)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(sent.wait, 10) if waits else None
        q.put("good")
        time.sleep(0.05 * waits)
        assert q.claim(timeout=5 * waits).body == "good"
        began = time.monotonic()
        with pytest.raises(MessageFailed) as caught:
            waiting.result() if waiting else sent.wait(0)
        assert time.monotonic() - began < 2, "it is told, it does not look again after 5 s"
    assert caught.value.reason == reason
    assert q.state().dead == 1


def test_many_that_died_are_all_told(make: Any) -> None:
    q = make()
    sent = [_expired(q) for _ in range(3)]
    sent += q.put_many([Item(n, ttl=0.011, delay=0.01) for n in range(250)])
    time.sleep(0.03)
    q.put("good")
    assert q.claim(timeout=5).body == "good"
    for each in sent:
        with pytest.raises(MessageFailed, match="expired"):
            each.wait(0)


def test_one_consumer_of_several_queues_tells_of_each(make: Any) -> None:
    q, other = make(), make("other")
    sent = [_expired(q), _expired(other)]
    other.put("good")
    with make.receiver(q, other) as receiver:
        assert [message.body for message in receiver.receive(5, 5)] == ["good"]
    for each in sent:
        with pytest.raises(MessageFailed, match="expired"):
            each.wait(0)


def test_who_waits_for_a_message_hears_of_what_died_meanwhile(make: Any) -> None:
    """The claim that finds it is the one sent behind the wait."""
    q = make()
    with ThreadPoolExecutor(1) as pool:
        consumer = pool.submit(q.claim, timeout=1.5)
        time.sleep(0.1)
        late = calls.Outgoing(Writer("q").write("x", "late"), "late", delay_ms=100, ttl_ms=1)
        run(q, calls.publish(q.keys, [late]))
        with pytest.raises(MessageFailed, match="expired"):
            q.wait("late", 5)
        assert consumer.result(5) is None


@pytest.mark.on_servers
def test_what_somebody_else_broke_is_told_where_its_id_can_be_read(place: Any, q: Any) -> None:
    q.put("x", id="odd", delay=60)
    db = place.db
    db.hset(q.keys.delayed_records, "odd", b"what is this")
    db.zadd(q.keys.delayed, {"odd": 1})
    db.lpush(q.keys.ready[0], b'{ "properties": {"message_id": "blank"}}', b"no id at all")
    assert q.claim(timeout=0.01) is None
    with pytest.raises(MessageFailed, match="corrupt"):
        q.wait("odd", 0)
    with pytest.raises(MessageFailed, match="undecodable"):
        q.wait("blank", 0)
    assert q.state().dead == 3


def test_what_dies_again_after_a_redrive_says_why_it_died_then(make: Any) -> None:
    q = make(max_deliveries=1)
    sent = q.put("x")
    q.claim().reject("bad")
    q.redrive()
    q.claim().extend(0)
    assert q.claim() is None
    assert q.peek("dead")[0].reason == "max_deliveries"
    with pytest.raises(MessageFailed, match="max_deliveries"):
        sent.wait(0)


def test_a_result_that_is_not_json_is_refused_and_the_message_kept(q: Any) -> None:
    q.put("x")
    message = q.claim()
    with pytest.raises(InvalidMessage):
        message.complete({1, 2})
    assert not message.settled
    message.complete(None)


def test_who_lost_the_message_stores_no_result(make: Any) -> None:
    q = make()
    sent = q.put("x")
    first = q.claim()
    first.extend(0)
    second = q.claim(timeout=5)
    with pytest.raises(LeaseLost):
        first.complete("first")
    second.complete("second")
    assert sent.wait(0) == "second"


def test_a_result_is_kept_for_its_time(make: Any) -> None:
    q = make(result_ttl=0.1)
    sent = q.put("x")
    q.claim().complete(1)
    assert sent.wait(0) == 1

    def gone() -> bool:
        try:
            sent.wait(0)
        except ResultTimeout:
            return True
        return False

    wait_until("the result to be forgotten", gone)


@pytest.mark.on_servers
def test_waiting_does_not_poll(place: Any, q: Any) -> None:
    sent = q.put("x")
    message = q.claim()
    db = place.db
    with ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(sent.wait, 10) for _ in range(8)]
        wait_until("all to listen", lambda: _subscribed(db, sent.id) and _quiet(db))
        before = _commands(db)
        time.sleep(0.2)
        assert _commands(db) - before <= 4, "8 that wait send nothing"
        message.complete("done")
        assert [wait.result(5) for wait in waits] == ["done"] * 8


def _subscribed(db: Any, message_id: str) -> int:
    channels: int = db.pubsub_numsub(f"_atomq.{{q}}.result.{message_id}")[0][1]
    return channels


def _commands(db: Any) -> int:
    stats = db.info("commandstats")
    ours = ("cmdstat_get", "cmdstat_subscribe", "cmdstat_evalsha", "cmdstat_ping")
    return sum(stats[name]["calls"] for name in ours if name in stats)


def _quiet(db: Any) -> bool:
    before = _commands(db)
    time.sleep(0.05)
    return _commands(db) == before
