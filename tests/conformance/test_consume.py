"""Claiming and settling: where a message is after each thing a consumer can do with it."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from typing import Any

import pytest

from atomq import (
    BYTES,
    Counts,
    InvalidArgument,
    InvalidMessage,
    Item,
    LeaseLost,
    QueueState,
    Verdict,
)
from atomq.settling import ACK_DELAY
from tests.servers import wait_until


def counts(q: Any) -> Counts:
    state: QueueState = q.state()
    return Counts(state.ready, state.delayed, state.unacked, state.dead)


def now(_: int) -> float:
    return 0


class Interrupted(BaseException):
    """As Ctrl-C is."""


# ── claim ─────────────────────────────────────────────────────────────────────────────────────


def test_claim_takes_one_or_none(q: Any) -> None:
    assert q.claim() is None
    began = time.monotonic()
    assert q.claim(timeout=0.1) is None
    assert 0.1 <= time.monotonic() - began < 0.5
    q.put_many(["a", "b"])
    assert q.claim().body == "a"
    assert q.claim(timeout=5).body == "b"


def test_claim_many_takes_up_to_its_limit_and_waits_for_the_first_only(q: Any) -> None:
    q.put_many(range(5))
    assert [m.body for m in q.claim_many(3)] == [0, 1, 2]
    assert [m.body for m in q.claim_many(1000, timeout=5)] == [3, 4]
    for limit in (0, 1001, -1, True, 2.5):
        with pytest.raises(InvalidArgument):
            q.claim_many(limit)


def test_a_message_tells_about_itself(q: Any) -> None:
    sent = q.put({"n": 1}, priority=6, headers={"h": 1})
    message = q.claim()
    assert (message.id, message.priority, message.deliveries) == (sent.id, 6, 1)
    assert message.headers == {"h": 1}
    assert message.properties["delivery_info"]["routing_key"] == "q"
    assert json.loads(message.raw)["content-type"] == "application/json"
    assert (message.settled, message.lost) == (False, False)
    assert message.receipt in repr(getattr(message, "target", message))


# ── the block ─────────────────────────────────────────────────────────────────────────────────


def test_a_block_that_ends_well_acks(q: Any) -> None:
    q.put("x")
    with q.claim() as message:
        assert counts(q) == (0, 0, 1, 0)
        assert message.body == "x"
    assert message.settled
    assert counts(q) == (0, 0, 0, 0), "acked at once: no other claim follows to carry the ack"


def test_an_exception_releases_with_backoff(make: Any) -> None:
    delays = []

    def backoff(deliveries: int) -> float:
        delays.append(deliveries)
        return 0.05

    q = make(backoff=backoff)
    q.put("x")
    for deliveries in (1, 2, 3):
        message = q.claim(timeout=5)
        assert message.deliveries == deliveries
        with pytest.raises(ZeroDivisionError), message:
            _ = 1 / 0
        assert counts(q) == (0, 1, 0, 0)
    assert delays == [1, 2, 3]


def test_what_failed_too_often_is_a_dead_letter_that_says_why(make: Any) -> None:
    q = make(backoff=now, max_deliveries=2)
    q.put("x")
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"), q.claim(timeout=5):
            raise ValueError("bad\nluck")
    assert q.claim() is None
    [letter] = q.peek("dead")
    assert (letter.reason, letter.detail, letter.deliveries) == (
        "max_deliveries",
        "ValueError: bad\nluck",
        2,
    )


def test_being_told_to_stop_is_no_failure(make: Any) -> None:
    q = make(max_deliveries=1)
    q.put("x")
    with pytest.raises(KeyboardInterrupt), q.claim():
        raise KeyboardInterrupt
    assert counts(q) == (1, 0, 0, 0), "released at once, though it was its last delivery"


def test_what_cannot_be_decoded_is_a_dead_letter_at_once(make: Any) -> None:
    q = make()
    make(serializer=BYTES).put(b"\xff")
    with pytest.raises(InvalidMessage), q.claim() as message:
        _ = message.body
    [letter] = q.peek("dead")
    assert letter.reason == "undecodable"
    assert "octet-stream" in letter.detail


def test_a_message_settled_inside_its_block_is_left_alone(q: Any) -> None:
    q.put_many("abc")
    with q.claim() as message:
        message.release()
    with pytest.raises(ZeroDivisionError), q.claim() as message:
        _ = message.ack() and 1 / 0
    assert counts(q) == (2, 0, 0, 0)
    with pytest.raises(InvalidArgument), q.claim() as message:
        message.reject("two\nlines")
    assert counts(q) == (1, 1, 0, 0), "a refused verb settled nothing, so the block did"


# ── verbs ─────────────────────────────────────────────────────────────────────────────────────


def test_ack(q: Any) -> None:
    q.put("x")
    message = q.claim()
    assert message.ack() is Verdict.DONE
    assert counts(q) == (0, 0, 0, 0)
    with pytest.raises(LeaseLost, match=message.receipt):
        message.ack()
    assert message.lost


def test_release_to_front_and_back_counted_and_not(q: Any) -> None:
    q.put_many("abc")
    q.claim().release()
    q.claim().release(front=True, counted=False)
    messages = q.claim_many(3)
    assert [(m.body, m.deliveries) for m in messages] == [("b", 1), ("c", 1), ("a", 2)]


def test_release_for_a_while(q: Any) -> None:
    sent = q.put("x")
    q.claim().release(delay=60)
    assert [p.name for p in q.peek("delayed")] == [sent.id]
    assert q.claim() is None
    q.run_now(sent.id)
    q.claim().release(delay=0.05)
    assert q.claim(timeout=5).deliveries == 3
    q.put("y")
    message = q.claim()
    with pytest.raises(InvalidArgument):
        message.release(delay=-1)
    message.ack()


def test_reject_keeps_the_message_and_the_reason(q: Any) -> None:
    q.put({"n": 1})
    assert q.claim().reject("unknown_user", "no user 7") is Verdict.DONE
    [letter] = q.peek("dead")
    assert (letter.reason, letter.detail) == ("unknown_user", "no user 7")
    assert b'"n":1' in letter.raw.replace(b"\\", b"")


def test_extend_holds_on_and_says_when_it_cannot(make: Any) -> None:
    q = make(lease=1)
    q.put("x")
    message = q.claim()
    message.extend(60)
    [held] = q.peek("unacked")
    assert 50_000 < held.time_ms - q.state().now_ms <= 60_000
    assert held.name == message.receipt
    message.extend()
    [held] = q.peek("unacked")
    assert held.time_ms - q.state().now_ms <= 1000
    message.ack()
    with pytest.raises(LeaseLost):
        message.extend()


def test_a_lost_lease_changes_nothing(make: Any) -> None:
    q = make(lease=60)
    q.put("x")
    first = q.claim()
    first.extend(0)
    second = q.claim(timeout=5)
    assert second.deliveries == 2
    for settle in (first.ack, first.release, first.reject, first.complete, first.extend):
        with pytest.raises(LeaseLost):
            settle()
    assert counts(q) == (0, 0, 1, 0)
    assert second.ack() is Verdict.DONE


def test_ack_many_tells_of_each(q: Any) -> None:
    q.put_many(range(4))
    messages = q.claim_many(4)
    messages[1].ack()
    assert q.ack_many(messages) == [Verdict.DONE, Verdict.LOST, Verdict.DONE, Verdict.DONE]
    assert [m.lost for m in messages] == [False, True, False, False]
    assert q.ack_many([]) == []


# ── consume ───────────────────────────────────────────────────────────────────────────────────


def test_consume_hands_out_all_and_ends_after_its_timeout(q: Any) -> None:
    q.put_many(range(150))
    got = []
    for message in q.consume(timeout=0):
        with message:
            got.append(message.body)
    assert got == list(range(150))
    assert counts(q) == (0, 0, 0, 0), "leaving the loop sends the last acks"


def test_consume_claims_in_batches_and_acks_ride_along(place: Any, q: Any) -> None:
    q.put_many(range(100))
    if place.server is None:
        pytest.skip("its commands cannot be counted")
    db = place.db
    db.config_resetstat()
    began = time.monotonic()
    for message in q.consume(prefetch=20, timeout=0):
        with message:
            pass
    late = (time.monotonic() - began) / ACK_DELAY
    scripts = db.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert scripts < 20 + late, (
        "five claims, one that finds nothing, and acks that waited too long for one"
    )


def test_what_waits_behind_long_work_is_given_back_in_order_and_uncounted(q: Any) -> None:
    q.put_many(range(12))
    messages = q.consume(timeout=0)
    for _ in range(3):  # at this pace four are claimed next
        with next(messages):
            pass
    with next(messages) as long:
        wait_until("what waits to be given back", lambda: counts(q) == (8, 0, 1, 0), 3)
        others = q.claim_many(20)
        assert [(m.body, m.deliveries) for m in others] == [(n, 1) for n in range(4, 12)]
        assert not long.lost
    assert list(messages) == [], "nor is it begun here"
    assert q.ack_many(others) == [Verdict.DONE] * 8
    assert counts(q) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("jobs", "each", "within"),
    [(10, 0.3, 3.0), pytest.param(20, 0.5, 5.6, marks=pytest.mark.long)],
)
def test_work_is_shared_by_those_who_are_idle(
    make: Any, jobs: int, each: float, within: float
) -> None:
    """Two workers have half of it each, and neither waits: all is done in half the time."""
    q = make()
    q.put_many(range(jobs))
    shares = []

    def run() -> None:
        shares.append(make().work(lambda _: time.sleep(each), timeout=0))

    workers = [threading.Thread(target=run) for _ in range(2)]
    began = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert time.monotonic() - began <= within
    assert shares == [jobs // 2] * 2


def test_leaving_the_loop_gives_the_rest_back_in_order_and_uncounted(q: Any) -> None:
    q.put_many(range(10))
    messages = q.consume(prefetch=8, timeout=0)
    for message in messages:
        with message:
            if message.body == 2:
                break
    messages.close()
    assert counts(q) == (7, 0, 0, 0)
    assert [(m.body, m.deliveries) for m in q.claim_many(10)] == [(n, 1) for n in range(3, 10)]


def test_an_exception_out_of_the_loop_gives_the_rest_back_too(q: Any) -> None:
    q.put_many(range(5))

    def run() -> None:
        messages = q.consume(timeout=0)
        try:
            for message in messages:
                with message:
                    raise ValueError
        finally:
            messages.close()

    with pytest.raises(ValueError):  # noqa: PT011 - it is the one raised above
        run()
    assert counts(q) == (4, 1, 0, 0)


def test_iterating_over_the_queue_is_consuming(q: Any) -> None:
    q.put("x")
    messages = iter(q)
    with next(messages) as message:
        assert message.body == "x"
    messages.close()


def test_consume_waits_for_what_comes(q: Any) -> None:
    q.put("a", delay=0.05)
    q.put("b", delay=0.1)
    got = []
    for message in q.consume(timeout=0.15):
        with message:
            got.append(message.body)
    assert got == ["a", "b"]


def test_work_calls_a_handler_and_goes_on_after_errors(make: Any) -> None:
    q = make(backoff=now)
    q.put_many(range(5))
    failed = set()

    def handler(message: Any) -> None:
        if message.body == 2 and message.deliveries == 1:
            failed.add(message.body)
            raise ValueError("once")

    assert q.work(handler, timeout=0) == 6
    assert failed == {2}
    assert counts(q) == (0, 0, 0, 0)


async def worked_by_a_coroutine(_: Any) -> None:
    raise AssertionError("nothing calls it")


def worked_by_a_generator(_: Any) -> Any:
    yield


class Handlers:
    def plain(self, _: Any) -> None: ...

    async def coroutine(self, _: Any) -> None: ...


class Called(Handlers):
    __call__ = Handlers.plain


class Awaited(Handlers):
    __call__ = Handlers.coroutine


CALLED = [Called(), partial(Called()), Called().plain, partial(Called().plain), print]
AWAITED = [
    Awaited(),
    partial(Awaited()),
    Awaited().coroutine,
    partial(Awaited().coroutine),
    worked_by_a_coroutine,
    partial(partial(worked_by_a_coroutine)),
]


def test_a_handler_of_the_wrong_kind_is_refused_before_anything_is_claimed(
    make: Any, q: Any
) -> None:
    q.put("pay ann")
    for handler in [*(CALLED if make.is_async else AWAITED), worked_by_a_generator, None]:
        if make.is_async:
            with pytest.raises(InvalidArgument):
                q.loop.run(q.target.work(handler, timeout=0))
        else:
            with pytest.raises(InvalidArgument):
                q.work(handler, timeout=0)
    assert q.claim().deliveries == 1


def test_a_handler_of_the_right_kind_is_taken_in_every_shape(make: Any, q: Any) -> None:
    right = [Awaited(), partial(Awaited().coroutine)] if make.is_async else CALLED
    for handler in right:
        q.put("x")
        if make.is_async:
            assert q.loop.run(q.target.work(handler, timeout=0)) == 1
        else:
            assert q.work(handler, timeout=0) == 1
    assert counts(q) == (0, 0, 0, 0)


def test_what_is_still_to_be_awaited_is_never_acked_as_done(make: Any) -> None:
    q = make(backoff=now, max_deliveries=2)
    q.put("pay ann")
    inner = Handlers().coroutine  # that nobody awaits

    def plain(message: Any) -> Any:
        return inner(message)

    async def coroutine(message: Any) -> Any:
        return inner(message)

    if make.is_async:
        assert q.loop.run(q.target.work(coroutine, timeout=0)) == 2
    else:
        assert q.work(plain, timeout=0) == 2
    (dead,) = q.peek("dead")
    assert dead.reason == "max_deliveries"
    assert "its work is not done" in dead.detail


def test_who_is_told_to_stop_finishes_what_it_has_begun_and_gives_the_rest_back(q: Any) -> None:
    q.put_many(range(10))
    stop = threading.Event()

    def handler(message: Any) -> None:
        if message.body == 2:
            stop.set()

    assert q.work(handler, prefetch=8, stop=stop) == 3
    assert counts(q) == (7, 0, 0, 0)
    assert q.work(handler, prefetch=8, stop=stop) == 0, "nor does it begin"
    assert [(m.body, m.deliveries) for m in q.claim_many(10)] == [(n, 1) for n in range(3, 10)]


def test_who_waits_is_told_to_stop_by_another_thread(q: Any) -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    assert list(q.consume(stop=stop)) == []
    assert 0.2 <= time.monotonic() - began < 2


def test_give_back(q: Any) -> None:
    q.put_many(range(3))
    messages = q.claim_many(3)
    q.give_back(messages[1:])
    assert [m.body for m in q.claim_many(3)] == [1, 2]
    q.give_back([])


# ── several workers ───────────────────────────────────────────────────────────────────────────


class Crew:
    """A handler that knows how many of it are at work."""

    def __init__(self, seconds: float = 0.0, *, until: threading.Event | None = None) -> None:
        self.now = self.most = 0
        self.bodies: list[Any] = []
        self._lock = threading.Lock()
        self._seconds, self._until = seconds, until

    def __call__(self, message: Any) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.bodies.append(message.body)
        if self._until is not None:
            assert self._until.wait(20)
        time.sleep(self._seconds)
        with self._lock:
            self.now -= 1

    def function(self) -> Any:
        def called(message: Any) -> None:
            self(message)

        return called


def test_so_many_are_worked_on_at_once_and_no_more(q: Any) -> None:
    q.put_many(range(12))
    crew = Crew(0.1)
    began = time.monotonic()
    assert q.work(crew.function(), concurrency=4, timeout=0) == 12
    assert crew.most == 4
    assert sorted(crew.bodies) == list(range(12))
    assert time.monotonic() - began < 1.1
    assert counts(q) == (0, 0, 0, 0), "its acks are sent when it ends"


def test_workers_that_are_busy_hold_nothing_back(make: Any) -> None:
    q, go, stop = make(), threading.Event(), threading.Event()
    q.put_many(range(10))
    crew, done = Crew(until=go), []

    def run() -> None:
        done.append(q.work(crew.function(), concurrency=3, stop=stop))

    worker = threading.Thread(target=run)
    worker.start()
    wait_until("three to begin", lambda: crew.now == 3)
    wait_until("the rest to be given back", lambda: counts(q) == (7, 0, 3, 0), 3)
    assert [(m.body, m.deliveries) for m in q.claim_many(4)] == [(n, 1) for n in range(3, 7)]
    stop.set()
    go.set()
    worker.join(10)
    assert done == [3], "what has begun is finished, and nothing begins any more"
    assert counts(q) == (3, 0, 4, 0)


def test_what_fails_beside_others_is_logged_and_tried_again(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    q = make(backoff=now)
    q.put_many(range(6))
    failed = set()

    def handler(message: Any) -> None:
        if message.body == 5 and message.deliveries == 1:
            time.sleep(0.1)  # the others have found nothing more by then
            failed.add(message.body)
            raise ValueError("once")

    assert q.work(handler, concurrency=3, timeout=0) == 7
    assert failed == {5}
    assert "the handler failed" in caplog.text
    assert counts(q) == (0, 0, 0, 0)


def test_what_is_no_failure_comes_out_of_all_workers(q: Any) -> None:
    q.put_many(range(3))

    def handler(message: Any) -> None:
        if message.body == 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        q.work(handler, concurrency=2)
    assert counts(q).unacked == 0
    assert 1 in [m.body for m in q.claim_many(3)], "it is given back"


@pytest.mark.parametrize("concurrency", [0, 1001, "2", True, None])
def test_a_number_of_workers_that_cannot_be_is_refused(q: Any, concurrency: Any) -> None:
    q.put("x")
    with pytest.raises(InvalidArgument):
        q.work(lambda _: None, concurrency=concurrency, timeout=0)
    assert counts(q) == (1, 0, 0, 0)


# ── several queues ────────────────────────────────────────────────────────────────────────────


def test_a_receiver_of_two_queues(make: Any) -> None:
    one, two = make("q"), make("other")
    with make.receiver(one, two) as receiver:
        assert receiver.receive(10, 0) == []
        two.put("from other")
        [message] = receiver.receive(10, 5)
        message.ack()
        one.put("from q", delay=0.05)
        [message] = receiver.receive(10, 5)
        message.ack()
        one.put_many(range(3))
        two.put_many(range(3))
        got = []
        while len(got) < 6:
            got += receiver.receive(10, 5)
        assert sorted((m._queue.name, m.body) for m in got) == [
            (name, n) for name in ("other", "q") for n in range(3)
        ]


def test_a_receiver_refuses_what_it_cannot_serve(make: Any) -> None:
    with pytest.raises(InvalidArgument, match="one engine"):
        make.receiver(make("q"), make("other", lease=7))
    with pytest.raises(InvalidArgument, match="once"):
        make.receiver(make("q"), make("q"))
    with pytest.raises(InvalidArgument, match="one queue or more"):
        make.receiver()


def test_priorities_go_before_queues(place: Any, make: Any) -> None:
    if "cluster" in place.name:
        pytest.skip("in a cluster each queue is claimed by itself")
    one, two = make("q"), make("other")
    one.put_many([Item("q9", priority=9), Item("q0")])
    two.put_many([Item("other9", priority=9), Item("other0")])
    with make.receiver(one, two) as receiver:
        assert [m.body for m in receiver.receive(10, 0)] == ["q0", "other0", "q9", "other9"]


def test_nothing_is_left_open(place: Any, make: Any, q: Any) -> None:
    if place.server is None:
        pytest.skip("its connections cannot be counted")
    db = place.db
    before = len(db.client_list())
    q.put_many(range(3))
    for _ in range(3):
        q.claim(timeout=5).ack()
    q.claim(timeout=0.01)
    make.close()
    wait_until("its connections to go", lambda: len(db.client_list()) <= before)
