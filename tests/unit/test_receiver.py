"""What a receiver does with a claim that took no flow, and when it takes one. Without a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from atomq import Queue, calls
from atomq.calls import Claimed
from atomq.delivery import Delivery
from atomq.errors import InvalidArgument, ServerFull, ServerUnavailable
from atomq.flows import Wait, clock
from atomq.queue import Receiver
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
