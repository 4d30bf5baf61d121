"""What a receiver does with a claim that took no flow, and when it takes one. Without a server."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from atomq import AsyncQueue, Queue, calls
from atomq import receiver_base as module
from atomq.backlog import Backlog, Backlogs
from atomq.calls import Claimed
from atomq.delivery import Delivery
from atomq.errors import InvalidArgument, ServerFull, ServerUnavailable
from atomq.flows import Wait, Withdraw, clock
from atomq.queue import Message, Receiver
from atomq.queue_aio import AsyncReceiver
from tests.played import Play

GOT = Delivery("q", "c-1.0.1", 1, 1, b"{}")


@pytest.fixture
def one() -> Iterator[Receiver]:
    """One that has received before, without a timeout."""
    with Queue("q", "memory://") as queue:
        receiver = Receiver([queue])
        receiver._receive([], 1, None, False, None)
        receiver._consumer._served = True
        yield receiver


def goes_on(one: Receiver, got: Any, messages: list[Any], timeout: Any = None) -> Any:
    begun = one._ordinary(1, timeout, None)
    assert begun is not None
    return one._goes_on(messages, begun, got, 1, timeout, True, None)


def claimed(*found: Delivery, **more: Any) -> Claimed:
    return Claimed(0, None, (), (), list(found), **more)


def test_what_is_claimed_is_held_and_nothing_is_left_to_do(one: Receiver) -> None:
    messages: list[Any] = []
    assert goes_on(one, claimed(GOT), messages) is None
    assert [message.receipt for message in messages] == [GOT.receipt]
    assert one._keeper.holds(GOT.receipt)
    assert one.asked == one._consumer.asked


def test_what_is_not_as_before_takes_a_flow(one: Receiver) -> None:
    assert one._ordinary(1, None, None) is not None
    assert one._ordinary(1, 5, None) is None, "the timeout is to be looked at"
    one._receive([], 1, 5.0, False, None)
    assert one._ordinary(1, one._timeout, None) is not None
    for limit in (0, calls.MOST + 1, True, 1.0):
        assert one._ordinary(limit, None, None) is None  # type: ignore[arg-type]
    assert one._ordinary(calls.MOST, None, None) is not None
    with pytest.raises(InvalidArgument, match="event"):
        one._ordinary(1, None, 1)  # type: ignore[arg-type]
    assert one._ordinary(1, None, threading.Event()) is not None
    one.grown = lambda _: iter(())  # type: ignore[assignment,return-value]
    assert one._ordinary(1, None, None) is None, "its partitions may have become more"
    one.grown = None
    one._process = object()
    assert one._ordinary(1, None, None) is None, "it is in a forked child"
    one._process = one._keeper.process
    one._leave()
    assert one._ordinary(1, None, None) is None, "it was closed"
    with pytest.raises(InvalidArgument):
        one._receive([], 1, "soon", False, None)  # type: ignore[arg-type]


def test_one_that_asks_is_in_the_register(one: Receiver) -> None:
    one._consuming.asked = 0.0
    one._ordinary(1, None, None)
    assert one._consuming.asked > 0


def test_a_message_that_was_alone_is_said_to_be_so_no_more_before_another_is_handed_over(
    one: Receiver,
) -> None:
    alone = Delivery("q", "c-0.0.1", 1, 1, b"{}")
    one._keeper.hold(claimed(alone, alone=True), [alone])
    messages: list[Any] = []
    play = Play(goes_on(one, claimed(GOT), messages))
    assert (play.effect.script.name, play.effect.args[-1]) == ("extend", alone.receipt)
    assert not play.over
    play.go([calls.Verdict.DONE])
    assert (play.over, len(messages)) == (True, 1)


def test_what_may_not_be_held_is_given_back_and_it_goes_on(
    one: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one._keeper, "hold", lambda *_: False)
    messages: list[Any] = []
    play = Play(goes_on(one, claimed(GOT), messages, None))
    assert (play.effect.script.name, play.effect.args[-2]) == ("release", GOT.receipt)
    play.go([calls.Verdict.DONE])
    assert isinstance(play.effect, Wait)
    assert messages == []


def test_what_was_answered_after_its_lease_is_given_back(one: Receiver) -> None:
    begun = one._ordinary(1, None, None)
    assert begun is not None
    one._consumer.asked = clock() - one._keeper.lease_ms / 1000 - 0.01
    messages: list[Any] = []
    play = Play(one._goes_on(messages, begun, claimed(GOT), 1, None, True, None))  # type: ignore[arg-type]
    assert (play.effect.script.name, play.effect.args[-2]) == ("release", GOT.receipt)
    play.go([calls.Verdict.DONE])
    assert (play.effect.script.name, messages) == ("claim", [])


def test_an_answer_that_comes_just_before_its_lease_ends_takes_no_flow(
    one: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock()
    monkeypatch.setattr(module, "clock", lambda: now)
    begun = one._ordinary(1, None, None)
    assert begun is not None
    one._consumer.asked = now - one._keeper.lease_ms / 1000 + 0.001
    assert one._goes_on([], begun, claimed(GOT), 1, None, True, None) is None


@pytest.mark.parametrize("error", [ServerUnavailable("gone"), ServerFull("full")])
def test_a_patient_one_waits_for_a_server_that_is_away_or_full(
    one: Receiver, error: Exception
) -> None:
    play = Play(goes_on(one, error, []))
    assert 0.2 <= play.effect.seconds <= 1


@pytest.mark.parametrize("error", [ValueError("what?"), KeyboardInterrupt()])
def test_any_other_error_is_the_callers(one: Receiver, error: BaseException) -> None:
    assert goes_on(one, error, []) is None
    assert one._consumer._unanswered, "it may have been carried out"


def test_a_timeout_counts_from_when_it_was_asked(one: Receiver) -> None:
    one._receive([], 1, 5, False, None)
    begun = one._ordinary(1, 5, None)
    assert begun is not None
    one._consuming.asked = time.monotonic() - 5.01
    assert Play(one._goes_on([], begun, claimed(), 1, 5, True, None)).over  # type: ignore[arg-type]
    begun = one._ordinary(1, 5, None)
    assert begun is not None
    one._consuming.asked = time.monotonic() - 4
    play = Play(one._goes_on([], begun, claimed(), 1, 5, True, None))  # type: ignore[arg-type]
    assert 0 < play.effect.seconds < 1.01


# ── which queues ──────────────────────────────────────────────────────────────────────────────


def test_which_queues_a_consumer_takes(one: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Queue, "__iter__", lambda _: pytest.fail("it is consumed"))
    with Queue("q", "memory://") as queue, Queue("q", "memory://") as other:
        two = [queue, Queue("p", queue.engine)]
        wide = Queue("w", queue.engine, partitions=2)
        for wrong, why in (
            (queue, "a list of queues"),
            ([queue, "q"], "a list of queues"),
            ([], "one queue or more"),
            ([queue, other], "all of one engine"),
            ([queue, wide], "takes no queue with partitions"),
            ([*two, queue], "each queue once"),
            ([queue] * calls.MOST, "each queue once"),
            ([queue] * (calls.MOST + 1), "at most 1000 queues, got 1001"),
        ):
            with pytest.raises(InvalidArgument, match=why):
                Receiver(wrong)  # type: ignore[arg-type]
        found = Receiver(two)
        assert isinstance(found.backlog, Backlogs)
        assert [each.name for each in found._consuming.queues] == ["q", "p"]
    assert isinstance(one.backlog, Backlog)


def test_by_default_it_is_one_worker_and_its_first_queue_goes_first() -> None:
    with Queue("q", "memory://") as queue:
        queues = [queue, Queue("p", queue.engine)]
        plain, fair = Receiver(queues), Receiver(queues, 3, fair=True)
        assert (plain._consuming.concurrency, fair._consuming.concurrency) == (1, 3)
        assert (plain._consumer._takes_turns, fair._consumer._takes_turns) == (False, True)


def test_at_exit_nothing_is_left_of_threads_and_an_event_loop_has_ended(one: Receiver) -> None:
    assert one in module._open
    queue = AsyncQueue("q", "memory://")
    assert AsyncReceiver([queue]) not in module._open


def test_what_is_left_at_exit_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with Queue("q", "memory://") as queue:
        queue.put_many(["a", "b"])
        receiver = Receiver([queue])
        receiver.backlog.fill(receiver.receive(2, 0), clock())
        monkeypatch.setattr(module, "_open", {receiver})
        assert queue.state().unacked == 2
        module._at_exit()
        assert (queue.state().ready, receiver._waiter) == (2, None)


# ── when it ends ──────────────────────────────────────────────────────────────────────────────


def test_several_workers_end_when_they_are_asked_to_or_one_has_failed() -> None:
    stop = threading.Event()
    plain, stopped, failed = module.Ending(None), module.Ending(stop), module.Ending(None)
    assert [each.is_set() for each in (plain, stopped, failed)] == [False] * 3
    stop.set()
    failed.error = ValueError("x")
    assert [each.is_set() for each in (plain, stopped, failed)] == [False, True, True]


def test_what_is_no_event_is_said_so_before_anything_is_asked(one: Receiver) -> None:
    with pytest.raises(InvalidArgument, match=r"event, with is_set\(\), got 1"):
        one._receive([], 1, None, False, 1)  # type: ignore[arg-type]


def test_what_it_waits_on_is_made_once_and_left_once(one: Receiver) -> None:
    waiter, consumer = one._waiter, one._consumer
    one._receive([], 1, None, False, None)
    assert (one._waiter, one._consumer) == (waiter, consumer)
    assert one._leave() is waiter
    assert one._leave() is None


def test_a_forked_child_begins_anew_and_leaves_what_is_its_parents(one: Receiver) -> None:
    consumer, message = one._consumer, Message(one._by_name["q"], GOT)
    one._process = object()
    assert one._leave() is None
    one._receive([], 1, None, False, None)
    assert one._consumer is not consumer
    assert one._unstarted([message]) == [message]
    message._process = object()
    assert one._unstarted([message]) == []


def test_what_is_settled_or_lost_is_not_given_back(one: Receiver) -> None:
    held, settled, lost = (Message(one._by_name["q"], GOT) for _ in range(3))
    settled.settled = lost.lost = True
    assert one._unstarted([held, settled, lost]) == [held]


# ── claims that are late ──────────────────────────────────────────────────────────────────────


def late_twice(
    one: Receiver, monkeypatch: pytest.MonkeyPatch, timeout: float | None, stop: Any = None
) -> Play:
    """Its claims are answered after their leases have ended."""
    monkeypatch.setattr(one._keeper, "lapsed", lambda _: True)
    messages: list[Any] = []
    play = Play(one._receive(messages, 1, timeout, True, stop))
    for _ in range(2):
        assert play.effect.script.name == "claim"
        play.go(claimed(GOT))
        assert (play.effect.script.name, play.effect.args[-2]) == ("release", GOT.receipt)
        play.go([calls.Verdict.DONE])
        assert messages == []
    return play


def test_claims_that_are_late_again_are_made_at_a_slower_pace(
    one: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = late_twice(one, monkeypatch, None)
    assert 0.2 <= play.effect.seconds <= 1.0
    play.go(None)
    assert play.effect.script.name == "claim"
    assert late_twice(one, monkeypatch, 0.0).over, "its time is up"
    stop = threading.Event()
    stop.set()
    assert late_twice(one, monkeypatch, None, stop).over, "it is to stop"
    assert 0 < late_twice(one, monkeypatch, 0.19).effect.seconds <= 0.19


@pytest.mark.parametrize("seconds", [0.2, 1.0])
def test_late_claims_are_a_fifth_of_a_second_to_a_second_apart(
    one: Receiver, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    at = (0.2, 1.0).index(seconds)
    monkeypatch.setattr(random, "uniform", lambda *between: between[at])
    assert late_twice(one, monkeypatch, None).effect.seconds == seconds


def test_of_several_claims_the_first_says_whether_all_goes_back(
    one: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one._keeper, "lapsed", GOT.receipt.__eq__)
    messages: list[Any] = []
    one._claimed(messages, claimed(GOT))
    one._claimed(messages, claimed(Delivery("q", "c-2.0.1", 1, 1, b"{}")))
    play = Play(one._receiving(messages, 2, None, True, None))
    assert play.effect.args[4::2] == [GOT.receipt, "c-2.0.1"]


def test_what_comes_first_says_how_old_the_messages_are(one: Receiver) -> None:
    messages: list[Any] = []
    one._consumer.asked = 5.0
    one._claimed(messages, claimed(GOT))
    one._consumer.asked = 6.0
    one._claimed(messages, claimed(Delivery("q", "c-2.0.1", 1, 1, b"{}")))
    assert (one.asked, len(messages)) == (5.0, 2)


# ── partitions ────────────────────────────────────────────────────────────────────────────────


def grows(one: Receiver, *found: list[Queue] | None) -> list[list[str]]:
    """Asked for its partitions, it is answered so. What it said it knows, each time."""
    known: list[list[str]] = []

    def grown(names: list[str]) -> Any:
        known.append(names)
        yield from ()
        return found[len(known) - 1] if len(known) <= len(found) else None

    one.grown = grown
    return known


def nothing(play: Play) -> None:
    """There is nothing, whatever it asks."""
    if isinstance(play.effect, Wait):
        play.go(None)
    elif isinstance(play.effect, Withdraw):
        play.go([])
    else:
        play.go(claimed() if play.effect.script.name == "claim" else ())


def to_its_end(play: Play) -> None:
    for _ in range(50):
        if play.over:
            return
        nothing(play)
    pytest.fail("it goes on")


def test_partitions_that_came_since_are_claimed_from_too(one: Receiver) -> None:
    queue, before = one._by_name["q"], one._consuming
    known = grows(one, None, [queue, Queue("p", queue.engine)])
    messages: list[Any] = []
    play = Play(one._receive(messages, 1, None, False, None))
    assert [key for key in play.effect.keys if key in "qp"] == ["q"]
    play.go(claimed(GOT))
    assert (play.over, len(messages)) == (True, 1)
    play = Play(one._receive(messages := [], 1, None, False, None))
    assert [key for key in play.effect.keys if key in "qp"] == ["q", "p"]
    assert one._consuming is not before
    assert one._consuming.asked > 0, "the register knows"
    play.go(claimed(Delivery("p", "c-2.0.1", 1, 1, b"{}")))
    assert [message.receipt for message in messages] == ["c-2.0.1"]
    assert known == [["q"], ["q"]]


def test_for_more_partitions_it_asks_again_after_four_seconds(
    one: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, now = grows(one), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    play = Play(one._receive([], 1, 4.6, False, None))
    play.go(claimed())
    assert isinstance(play.effect, Wait)
    for seconds, asked in ((3.9, 1), (0.2, 2)):
        now[0] += seconds
        play.go(None)
        while not isinstance(play.effect, Wait):
            nothing(play)
        assert len(known) == asked
    now[0] += 6
    to_its_end(play)
    assert len(known) <= 3


def test_while_its_time_is_not_up_it_goes_on_and_a_stop_ends_it(one: Receiver) -> None:
    grows(one)
    assert Play(one._receive([], 1, 0, False, None)).go(claimed()) is None, "once"
    stop = threading.Event()
    play = Play(one._receive([], 1, None, False, stop))
    play.go(claimed())
    assert isinstance(play.effect, Wait)
    stop.set()
    to_its_end(play)
