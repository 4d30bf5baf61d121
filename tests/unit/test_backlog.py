"""What was claimed at once and is not begun: who is handed it, and when it is given back."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from atomq import backlog as module
from atomq.backlog import Backlog, Backlogs, by_queue
from atomq.calls import Verdict
from atomq.keys import QueueKeys
from tests.played import Play

P, Q = QueueKeys("p"), QueueKeys("q")


class Keeper:
    """What holds the leases, by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "clock", lambda: self.now)
        self.lease_ms = 60_000
        self.lock = threading.RLock()
        self.watched: list[Backlog] = []
        self.watch = self.watched.append
        self.asked: list[str] = []
        self.ended: set[str] = set()

    def lapsed(self, receipt: str) -> bool:
        self.asked.append(receipt)
        return receipt in self.ended


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> Any:
    return Keeper(monkeypatch)


def messages(receipts: str, queue: QueueKeys = Q) -> list[Any]:
    return [
        SimpleNamespace(receipt=receipt, lost=False, settled=False, _queue=queue)
        for receipt in receipts
    ]


def test_it_is_handed_out_in_its_order_without_what_was_lost(keeper: Any) -> None:
    one = Backlog(keeper, Q)
    assert one.next() is None
    given = messages("abcd")
    given[1].lost = given[3].lost = True
    one.fill(given, keeper.now)
    assert [one.next(), one.next(), one.next()] == [given[0], given[2], None]
    assert keeper.asked == [], "within the time of a lease nothing is asked"


def test_after_the_time_of_a_lease_only_what_is_renewed_is_handed_out(keeper: Any) -> None:
    one, given = Backlog(keeper, Q), messages("abc")
    keeper.now += 10
    one.fill(given, keeper.now - 10)
    keeper.now += 50
    assert one.next() is given[0]
    assert keeper.asked == []
    keeper.now += 0.01
    keeper.ended.add("c")
    assert [one.next(), one.next()] == [given[1], None]
    assert keeper.asked == ["b", "c"]
    assert one.take() == [given[2]]


def test_what_waits_for_a_second_is_given_back_unless_it_is_one_that_is_begun_at_once(
    keeper: Any,
) -> None:
    one, two = Backlog(keeper, Q), Backlog(keeper, Q)
    assert one.waits_until() == float("inf")
    one.fill(messages("a"), keeper.now)
    two.fill(messages("ab"), keeper.now - 5)
    assert keeper.watched == [two]
    assert one.waits_until() == two.waits_until() == keeper.now + 1.0
    one.next()
    assert one.waits_until() == float("inf")


def test_what_is_withdrawn_is_given_back_and_not_handed_out(
    keeper: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "atomq.leases")
    one, given = Backlog(keeper, Q), messages("abc")
    assert one.withdraw() == []
    assert caplog.messages == []
    given[0].lost = True
    one.fill(given, keeper.now)
    assert one.withdraw() == ["b", "c"]
    assert caplog.messages == ["2 messages of q waited: given back"]
    assert one.next() is None
    play = Play(one.give_back())
    assert (play.effect.script.name, play.effect.args[1:3]) == ("release", [1, 0])
    assert play.effect.args[4::2] == ["b", "c"]
    assert one.take() == given[1:], "if its consumer leaves, that gives it back too"
    play.go([Verdict.DONE] * 2)
    assert (play.over, [message.settled for message in given]) == (True, [False, True, True])
    assert one.take() == []


def test_of_several_queues_one_is_handed_out_behind_the_other(keeper: Any) -> None:
    several = Backlogs(keeper, [P, Q])
    assert (several.next(), several.take()) == (None, [])
    in_q, in_p, again = messages("ab"), messages("c", P), messages("d")
    several.fill([in_q[0], *in_p, in_q[1]], keeper.now)
    assert [several.next() for _ in range(4)] == [*in_q, *in_p, None]
    several.fill([*in_p, *again], keeper.now)
    assert several.next() is in_p[0]
    assert several.take() == again
    several.fill(again, keeper.now)
    assert several.next() is again[0]


def test_messages_are_sorted_by_queue_in_the_order_of_the_first() -> None:
    first, other, last = messages("a"), messages("b", P), messages("c")
    assert by_queue([*first, *other, *last]) == [(Q, [*first, *last]), (P, other)]
    assert by_queue([]) == []
