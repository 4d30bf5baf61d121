"""Results: who waits for one is told at once, and costs the server next to nothing meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from atomq import InvalidMessage, LeaseLost, MessageFailed, ResultTimeout
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


def test_what_failed_for_good_in_its_block_raises_too(make: Any) -> None:
    q = make(max_deliveries=1)
    sent = q.put("x")
    with pytest.raises(ValueError, match="bad"), q.claim():
        raise ValueError("bad")
    with pytest.raises(MessageFailed, match="max_deliveries: ValueError: bad"):
        sent.wait(5)


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
