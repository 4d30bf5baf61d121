"""bindings: which queues an exchange leads to on a cluster, and that nothing of it stays."""

from __future__ import annotations

import pytest

from atomq import calls
from atomq.keys import ExchangeKeys
from tests.lua.rig import Queue, Rig

X = ExchangeKeys("x")
DAY = 24 * 3600_000


@pytest.fixture(autouse=True)
def _its_key(rig: Rig) -> None:
    rig.allowed.add(X.bindings.encode())


def test_what_is_added_is_there_until_its_deadline(q: Queue) -> None:
    assert q.run(calls.bindings(X)) == []
    assert q.run(calls.bindings(X, added="short", lives_ms=5000)) == ["short"]
    assert q.run(calls.bindings(X, added="good")) == ["short", "good"]
    assert q.db.zscore(X.bindings, "short") == pytest.approx(q.now() + 5000, abs=1000)
    q.db.zadd(X.bindings, {"short": q.now() - 1})
    assert q.run(calls.bindings(X)) == ["good"]
    assert q.db.zrange(X.bindings, 0, -1) == [b"good"]


def test_what_is_added_again_lives_on_and_one_for_good_stays_so(q: Queue) -> None:
    for lives_ms in (9000, 5000, None, 5000):
        q.run(calls.bindings(X, added="b", lives_ms=lives_ms))
    assert q.db.zscore(X.bindings, "b") == float("inf")
    q.run(calls.bindings(X, added="c", lives_ms=9000))
    q.run(calls.bindings(X, added="c", lives_ms=5000))
    assert q.db.zscore(X.bindings, "c") == pytest.approx(q.now() + 9000, abs=1000)


def test_the_key_passes_by_itself_unless_a_binding_is_for_good(q: Queue) -> None:
    def left_ms() -> int:
        return int(q.db.pttl(X.bindings))

    q.run(calls.bindings(X, added="short", lives_ms=5000))
    assert left_ms() == pytest.approx(DAY + 5000, abs=1000)
    q.run(calls.bindings(X, added="long", lives_ms=60_000))
    q.run(calls.bindings(X, added="short", lives_ms=5000))
    assert left_ms() == pytest.approx(DAY + 60_000, abs=1000)
    q.run(calls.bindings(X, added="good"))
    assert left_ms() == -1
    q.run(calls.bindings(X, added="short", lives_ms=5000))
    assert left_ms() == -1
    q.run(calls.bindings(X, removed="good"))
    assert left_ms() == pytest.approx(DAY + 60_000, abs=1000)
    q.run(calls.bindings(X, removed="long"))
    assert q.run(calls.bindings(X, removed="short")) == []
    assert left_ms() == -2


def test_a_binding_of_an_older_release_keeps_the_key_once_it_is_bound_again(q: Queue) -> None:
    """It adds to the set, and knows nothing of the life of the key."""
    q.run(calls.bindings(X, added="short", lives_ms=5000))
    q.db.zadd(X.bindings, {"good": "inf"}, gt=True)
    assert q.run(calls.bindings(X)) == ["short", "good"]
    assert q.run(calls.bindings(X, added="good")) == ["short", "good"]
    assert q.db.pttl(X.bindings) == -1


def test_of_many_that_are_over_none_is_answered(q: Queue) -> None:
    q.db.zadd(X.bindings, {f"b{n}": n + 1 for n in range(250)} | {"good": "inf"})
    for left in (151, 51, 1, 1):
        assert q.run(calls.bindings(X)) == ["good"]
        assert q.db.zcard(X.bindings) == left
