"""What a process may claim beside what it holds, and of which message it is said to be alone."""

from __future__ import annotations

import time
import weakref
from typing import Any

import pytest

from atomq import calls
from atomq.alone import Alone
from atomq.calls import Claimed
from atomq.delivery import Delivery
from atomq.lease import Lease


class Holder:
    """What holds a lease."""


class Stage:
    """Leases of a process, with a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.leases: dict[str, Lease] = {}
        self.holders: dict[str, Holder] = {}
        self.alone = Alone(self.leases, self.accompany)

    def accompany(self, queue: str, receipt: str) -> Any:
        return None if receipt == "unsaid" else (queue, receipt)

    def hold(self, receipt: str, *, begins: float = 0.0) -> None:
        """Hold this one too, without a word to `alone`."""
        self.holders[receipt] = Holder()
        lease = Lease("q", weakref.ref(self.holders[receipt]), self.now, tracked=False)
        lease.begins = begins
        self.leases[receipt] = lease

    def drop(self, receipt: str) -> None:
        """It is garbage: its lease stays until it ends."""
        del self.holders[receipt]

    def claim(self, receipt: str, *, alone: bool = False, strictly: bool = False) -> None:
        delivery = Delivery("q", receipt, 1, 1, b"{}")
        self.alone.note(Claimed(0, None, (), (), [delivery], alone=alone), strictly)
        self.hold(receipt)

    @property
    def drains(self) -> bool:
        return self.alone.company() == calls.HOLDS


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_what_is_held_is_what_a_holder_that_works_has(stage: Stage) -> None:
    assert not stage.alone.holds()
    stage.hold("later", begins=stage.now + 1)
    assert not stage.alone.holds(), "its work has not begun"
    stage.now += 1
    assert stage.alone.holds()
    stage.drop("later")
    assert not stage.alone.holds()
    stage.hold("a")
    assert stage.alone.holds()


def test_a_message_stays_alone_only_if_it_must(stage: Stage) -> None:
    assert not stage.alone.must_be()
    stage.claim("a", alone=True)
    assert (stage.alone.must_be(), stage.alone.stands_still()) == (False, False)
    stage.claim("b", alone=True, strictly=True)
    assert not stage.alone.must_be(), "it is in company, for all that was asked"


def test_a_message_stays_alone_while_it_lives_and_is_not_settled(stage: Stage) -> None:
    stage.claim("c", alone=True, strictly=True)
    assert (stage.alone.must_be(), stage.alone.stands_still()) == (True, True)
    stage.drop("c")
    assert (stage.alone.must_be(), stage.alone.stands_still()) == (False, False)
    stage.hold("c")
    del stage.leases["c"]
    assert not stage.alone.must_be(), "it is settled"


def test_what_was_alone_is_said_to_be_in_company_once(stage: Stage) -> None:
    stage.claim("a", alone=True)
    assert stage.alone.message == ("q", "a", False)
    stage.claim("b")
    assert stage.alone.message is None
    assert stage.alone.accompanied() == [("q", "a")]
    assert stage.alone.accompanied() == []
    stage.claim("c", alone=True)
    assert stage.alone.accompanied() == [("q", "c")], "others are held beside it"
    stage.leases.clear()
    stage.claim("d", alone=True)
    del stage.leases["d"]
    stage.claim("e")
    assert stage.alone.accompanied() == [], "that one is settled"


def test_what_no_one_holds_any_more_is_no_company(stage: Stage) -> None:
    stage.hold("garbage")
    stage.drop("garbage")
    stage.claim("a", alone=True)
    assert (stage.alone.message, stage.alone.beside) == (("q", "a", False), [])


def test_what_is_said_by_itself_is_not_asked_for(stage: Stage) -> None:
    stage.claim("unsaid", alone=True)
    stage.claim("b")
    assert (stage.alone.accompanied(), stage.alone.beside) == ([], [])


def test_what_a_claim_says_of_company(stage: Stage) -> None:
    assert stage.alone.company() == calls.SOLE
    stage.hold("a")
    assert stage.alone.company() == 1000
    stage.alone.drain(2)
    assert (stage.alone.company(), stage.alone.stands_still()) == (calls.HOLDS, True)
    stage.drop("a")
    assert (stage.alone.stands_still(), stage.alone.company()) == (False, calls.SOLE)
    stage.hold("b")
    assert not stage.alone.stands_still(), "it came to hold nothing: that is over"
    assert stage.alone.company() == calls.HOLDS, "but it is not asked to again for as long"
    stage.now += 4
    assert stage.alone.company() == 1000


def test_in_vain_it_claims_for_as_long_as_it_stood_still(stage: Stage) -> None:
    stage.hold("a")
    stage.alone.drain(2)
    stage.now += 1.9
    stage.alone.drain(2)
    assert stage.alone.stands_still()
    stage.now += 0.1
    assert (stage.alone.stands_still(), stage.drains) == (False, True)
    stage.alone.drain(2)
    assert not stage.alone.stands_still(), "not yet"
    stage.now += 2
    assert not stage.drains
    stage.alone.drain(2)
    assert stage.alone.stands_still()


def test_what_must_be_alone_and_came_ends_the_rest(stage: Stage) -> None:
    stage.hold("a")
    stage.alone.drain(2)
    stage.drop("a")
    stage.claim("s", alone=True, strictly=True)
    stage.alone.message = None
    assert not stage.alone.stands_still()
    stage.now += 4
    stage.alone.drain(2)
    stage.claim("b")
    assert stage.alone.stands_still(), "what came in company does not"
    stage.alone.note(Claimed(0, None, (), (), [Delivery("q", "m", 1, 1, b"{}")], alone=True), False)
    assert stage.alone.stands_still(), "nor what need not be alone"
