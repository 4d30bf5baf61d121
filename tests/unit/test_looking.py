"""Who looks when: over any number of consumers that come, work and die, without a server."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomq.looking import AGAIN, INSTEAD, Looks

DELAY = 0.005  # seconds until the others hear of a look

deaths = st.lists(st.tuples(st.floats(0, 20), st.integers(0, 30)), max_size=30)


class Fleet:
    """Consumers of one queue that find nothing to do, by a clock of their own."""

    def __init__(self, starts: list[float]) -> None:
        self.waiting: dict[int, Looks] = {}
        self.starts = sorted(enumerate(starts), key=lambda one: one[1])
        self.looks: list[tuple[float, int]] = []

    def run(self, deaths: list[tuple[float, int]], until: float) -> None:
        events = [(at, "start", who) for who, at in self.starts]
        events += [(at, "death", who) for at, who in deaths]
        for at, what, who in [*sorted(events), (until, "", 0)]:
            self.look_until(at)
            if what == "start":
                self.waiting[who] = Looks(1.0, f"c{who}")
                self.waiting[who].claimed(["q"], at)
                self.looks.append((at, who))
            elif what == "death":
                self.waiting.pop(who, None)

    def look_until(self, end: float) -> None:
        while self.waiting:
            who, looks = min(self.waiting.items(), key=lambda one: one[1].next_at)
            now = looks.next_at
            if now > end:
                return
            assert looks.due(now) == ["q"]
            looks.looked(["q"], now)
            assert looks.next_at > now
            self.looks.append((now, who))
            for other in self.waiting.values():
                if other.next_at > now + DELAY:  # else it is about to look by itself
                    other.heard("q", f"c{who}", now + DELAY)
                    assert other.next_at > now + DELAY


@given(st.lists(st.floats(0, 3), min_size=1, max_size=12), deaths)
def test_whoever_dies_a_queue_is_looked_at_once_a_second(
    starts: list[float], deaths: list[tuple[float, int]]
) -> None:
    fleet = Fleet(starts)
    # One does not die: as long as any waits the queue is looked at.
    fleet.run([(at, who) for at, who in deaths if who != 0], 20)
    looks = [at for at, _ in fleet.looks if at >= starts[0]] + [20.0]
    assert max(b - a for a, b in pairwise(looks)) < 1


@given(st.lists(st.floats(0, 3), min_size=1, max_size=12))
def test_of_many_that_wait_one_looks(starts: list[float]) -> None:
    fleet = Fleet(starts)
    fleet.run([], 20)
    late = [who for at, who in fleet.looks if at > 5]
    assert len(late) <= 15 / AGAIN[0] + 1
    assert len(set(late)) == 1


def test_it_hears_neither_itself_nor_of_other_queues() -> None:
    looks = Looks(1.0, "me")
    looks.claimed(["q"], 10)
    before = looks.next_at
    looks.heard("q", "me", 10.5)
    looks.heard("r", "other", 10.5)
    assert looks.next_at == before
    looks.heard("q", "other", 10.5)
    assert 10.5 + INSTEAD[0] <= looks.next_at <= 10.5 + INSTEAD[1]


def test_what_is_due_soon_is_looked_at_too() -> None:
    looks = Looks(1.0, "me")
    looks.looked(["a", "b"], 10)
    looks.looked(["c"], 10.4)
    assert looks.due(looks.next_at) == ["a", "b"]
    assert looks.due(11) == ["a", "b"]
    looks.forget("a")
    assert looks.due(12) == ["b", "c"]


def test_a_claim_counts_as_a_look_but_puts_none_off() -> None:
    looks = Looks(0.5, "me")
    assert looks.next_at == float("inf")
    looks.looked(["q"], 10)
    before = looks.next_at
    looks.claimed(["q"], 10.1)
    assert looks.next_at == before
    looks.claimed(["q"], 20)
    assert looks.next_at == pytest.approx(20.48, abs=0.011)


def test_when_to_look_at_some_of_its_queues_is_known() -> None:
    looks = Looks(1.0, "me")
    looks.looked(["a"], 10)
    looks.looked(["b"], 12)
    assert looks.next_of(["a", "b"]) == looks.next_at
    assert 12 + AGAIN[0] <= looks.next_of(["b", "unknown"]) <= 12 + AGAIN[1]
    assert looks.next_of([]) == looks.next_of(["unknown"]) == float("inf")
