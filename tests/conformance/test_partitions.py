"""One queue over several partitions: on one server, and on a cluster, it is one queue."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from atomq import (
    AtomqError,
    Counts,
    InvalidArgument,
    Item,
    QueueInUse,
    ResultTimeout,
    UnknownPartition,
    Verdict,
    WrongType,
)
from atomq.partitions import PartitionMap
from tests.servers import wait_until

pytestmark = pytest.mark.parametrize("place", ["valkey-9", "valkey-9 cluster"], indirect=True)


@pytest.fixture
def q(make: Any) -> Any:
    """A queue of five partitions."""
    return make(partitions=5)


def where(queue: Any) -> dict[int, int]:
    """How many are ready, by partition."""
    return {i: each.state().ready for i, each in enumerate(queue.partitions())}


def test_what_is_put_is_spread_and_all_of_it_handed_out(q: Any) -> None:
    for i in range(20):
        q.put(i)
    assert where(q) == dict.fromkeys(range(5), 4)
    assert q.state().ready == 20
    assert q.state().partitions == tuple(each.name for each in q.partitions())
    seen = []
    for message in q.consume(timeout=0.1):
        with message:
            seen.append(message.body)
    assert sorted(seen) == [*range(20)]
    wait_until("the last ack", lambda: q.state().stats.get("acked") == 20)


def test_a_batch_stays_whole_and_a_key_stays_where_it_is(q: Any) -> None:
    put = q.put_many(range(10))
    assert len({sent.queue.name for sent in put}) == 1
    keyed = q.put_many([Item((key, n), key=key) for n in range(4) for key in "abcdefgh"])
    homes = {(body[0], sent.queue.name) for body, sent in zip(_bodies(), keyed, strict=True)}
    assert len(homes) == 8
    assert len({home for _, home in homes}) > 1
    assert q.put((0, 0), key="a").queue.name == keyed[0].queue.name
    order: dict[str, list[int]] = {}
    while found := q.claim_many(7):
        for message in found:
            if isinstance(message.body, list):
                order.setdefault(message.body[0], []).append(message.body[1])
        assert set(q.ack_many(found)) == {Verdict.DONE}
    assert all(order[key] == [0, 1, 2, 3] for key in "bcdefgh")


def _bodies() -> list[tuple[str, int]]:
    return [(key, n) for n in range(4) for key in "abcdefgh"]


def test_an_id_is_put_once_and_its_result_found_by_it(q: Any, make: Any) -> None:
    assert q.put("x", id="order-1").new
    other = make(partitions=5)
    assert not other.put("x", id="order-1").new
    assert not other.put_many([Item("x", id="order-1"), Item("y", id="order-2")])[0].new
    sent = q.put("z")
    both = q.put("w", id="order-3", key="k")
    for message in q.claim_many(10):
        message.complete(message.id)
    for message in q.claim_many(10):
        message.complete(message.id)
    assert other.wait("order-1", 1) == "order-1"
    assert other.wait(sent.id, 1) == sent.id == sent.wait(1)
    assert other.wait("order-3", 1, key="k") == "order-3" == both.wait(1)
    with pytest.raises(ResultTimeout):
        other.wait("nobody", 0.01)


def test_a_consumer_that_waits_hears_of_each_partition(q: Any) -> None:
    seen: list[tuple[Any, float]] = []

    def work() -> None:
        for message in q.consume(timeout=3):
            with message:
                seen.append((message.body, time.monotonic()))
            if len(seen) == 10:
                return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    late = []
    for i in range(10):
        put = time.monotonic()
        q.put(i)
        wait_until("it to be handed out", lambda i=i: len(seen) > i)
        late.append(seen[i][1] - put)
    thread.join(5)
    assert not thread.is_alive()
    assert sorted(late)[5] < 0.3  # no safety look, which comes once a second


def test_no_partition_waits_behind_another_that_always_has_work(q: Any) -> None:
    parts = q.partitions()
    for each in parts:
        each.put_many(range(20))
    first = Counter(_name(q.claim()) for _ in range(25))
    assert len(first) == 5
    assert max(first.values()) <= 8


def _name(message: Any) -> str:
    target = getattr(message, "target", message)
    name: str = target._queue.name
    return name


def test_several_workers_and_what_fails_is_tried_again(q: Any, make: Any) -> None:
    seen = Counter[int]()

    def handle(message: Any) -> None:
        seen[message.body] += 1
        if message.body % 10 == 0:
            raise RuntimeError("fails")

    retrying = make(partitions=5, max_deliveries=2, backoff=lambda _: 0.0)
    retrying.put_many(range(5))
    for i in range(5, 30):
        retrying.put(i)
    assert retrying.work(handle, concurrency=3, timeout=0.3) == 33
    assert q.state().dead == 3
    assert seen == Counter({i: 2 if i % 10 == 0 else 1 for i in range(30)})


def test_what_operators_do_is_done_to_the_whole_queue(q: Any) -> None:
    q.put_many([Item("later", delay=60, id=f"d{i}") for i in range(4)])
    free = q.put("later", delay=60)
    assert q.state().delayed == 5
    assert q.cancel("d0", free.id, "nobody") == [Verdict.DONE, Verdict.DONE, Verdict.LOST]
    keyed = q.put("later", delay=60, id="both", key="k")
    assert q.cancel(keyed.id) == [Verdict.DONE]
    assert sorted(each.id for each in q.peek("delayed")) == ["d1", "d2", "d3"]
    for i in range(6):
        q.put(i)
    for message in q.claim_many(6) + q.claim_many(6):
        message.reject("bad")
    letters = q.peek("dead")
    assert [each.body for each in letters] == [each.body for each in sorted(letters, key=_died)]
    first = q.peek("dead", 2)
    rest = q.peek("dead", 10, after=first[-1].name)
    assert [each.name for each in first + rest] == [each.name for each in letters]
    assert q.redrive([letters[0].name, letters[3].name]) == 2
    assert q.redrive(reason="other") == 0
    assert q.redrive() == 4
    assert len(q.peek()) == 6
    assert len(q.peek(offset=4)) == 2
    q.pause()
    assert q.state().paused
    assert q.claim() is None
    q.resume()
    held = q.claim()
    with pytest.raises(QueueInUse, match="1 messages of 'q' are unacked"):
        q.delete()
    held.ack()
    assert q.purge("ready") == Counts(ready=5)
    assert q.delete() == Counts(delayed=3)
    assert q.state().stats == {}


def _died(letter: Any) -> tuple[int, int, int]:
    ms, _, rest = letter.name.partition("-")
    number, _, at = rest.partition("#")
    return int(ms), int(number), int(at)


def test_their_number_is_written_down_and_not_lowered(q: Any, make: Any) -> None:
    q.put(1)
    names = [each.name for each in q.partitions()]
    assert [each.name for each in make(partitions=5).partitions()] == names
    other = make(partitions=4)
    for use in (other.state, lambda: other.put(1), other.claim, lambda: next(iter(other))):
        with pytest.raises(InvalidArgument, match=r"has 5 partitions, not 4: .* not lowered"):
            use()
    q.purge()
    q.delete()
    assert len(other.partitions()) == 4


# ── more partitions while the queue is in use ─────────────────────────────────────────────────


def test_a_consumer_that_runs_takes_in_partitions_that_are_added(
    q: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits, knows of five, and hears nothing from the process that makes them nine."""
    monkeypatch.setattr("atomq.partitioned_base.READ_AGAIN", 0.1)
    monkeypatch.setattr("atomq.receiver_base.TAKE_IN", 0.2)
    seen: dict[int, str] = {}
    stop = threading.Event()

    def work() -> None:
        for message in q.consume(stop=stop):
            with message:
                seen[message.body] = _name(message)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        q.put(-1)
        wait_until("the first", lambda: len(seen) == 1)
        more = make(partitions=9)
        names = [more.put(i).queue.name for i in range(18)]
        assert len(set(names)) == 9
        wait_until("all of them", lambda: len(seen) == 19)
        assert [seen[i] for i in range(18)] == names
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
    assert len(q.state().partitions) == 9


def test_publishers_of_both_numbers_agree_where_keys_and_ids_go(q: Any, make: Any) -> None:
    """So nothing that waits, is held or is delayed is passed by what is put later."""
    ids = [f"id{i}" for i in range(12)] + [f"id#{i}" for i in range(9)]
    before = {key: q.put("x", key=key, delay=60).queue.name for key in "abcdefghijkl"}
    put = {each: q.put("x", id=each).queue.name for each in ids}
    held = q.claim(1)
    more = make(partitions=9)
    assert {key: more.put("y", key=key).queue.name for key in before} == before
    assert not any(more.put("y", id=each).new for each in ids)
    assert {key: q.put("z", key=key).queue.name for key in before} == before
    again = make(partitions=5)  # a process of before that begins anew
    assert len(again.partitions()) == 9
    assert {each: again.put("z", id=each).queue.name for each in ids} == put
    assert held.ack() is Verdict.DONE
    state = again.state()
    assert (state.delayed, state.ready) == (12, len(ids) - 1 + 24)
    with pytest.raises(InvalidArgument, match="has 9 partitions, not 8"):
        make(partitions=8).state()


def test_an_id_of_a_new_partition_leads_a_process_to_it_that_knows_of_fewer(
    q: Any, make: Any
) -> None:
    q.put("old")
    more = make(partitions=9)
    old = {part.name for part in q.partitions()[:5]}
    fewer = [make(partitions=5) for _ in range(3)]
    for each in fewer:
        each.put("known")
    sent = [more.put("later", delay=60) for _ in range(9)]
    new = [each for each in sent if each.queue.name not in old]
    assert len(new) == 4
    assert fewer[0].cancel(new[0].id) == [Verdict.DONE]
    assert fewer[1].get(new[1].id).state == "delayed"
    assert fewer[1].run_now(*(each.id for each in new[1:])) == [Verdict.DONE] * 3
    while message := more.claim():
        message.reject("bad")
    letters = [each for each in more.peek("dead") if each.id == new[2].id]
    assert fewer[2].redrive([letters[0].name]) == 1
    assert more.claim(1).complete(7) is Verdict.DONE
    assert fewer[2].wait(new[2].id, 1) == 7


def test_partitions_of_a_paused_queue_are_paused_too(q: Any, make: Any) -> None:
    q.put(1)
    q.pause()
    more = make(partitions=7)
    for i in range(7):
        more.put(i)
    assert more.claim_many(10) == []
    assert all(each.state().paused for each in more.partitions())
    q.resume()
    bodies = [message.body for _ in range(8) for message in more.claim_many(1)]
    assert sorted(bodies) == [0, 1, 1, 2, 3, 4, 5, 6]


def test_it_is_raised_by_several_at_once(make: Any) -> None:
    """One of them writes the record, and the others read it."""
    first = make(partitions=2)
    first.put("x")
    makers = [make(partitions=7) for _ in range(4)]
    threads = [threading.Thread(target=each.put, args=("x",), daemon=True) for each in makers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    names = {tuple(part.name for part in each.partitions()) for each in (first, *makers)}
    assert len(names) == 1
    assert len(next(iter(names))) == 7
    assert first.state().ready == 5
    assert first.delete() == Counts(ready=5)
    assert len(make(partitions=3).partitions()) == 3


def test_what_was_put_before_it_had_any_is_in_the_first(make: Any) -> None:
    make().put("before")
    q = make(partitions=3)
    assert q.claim(1).body == "before"
    assert q.state().stats["published"] == 1


def test_a_plain_queue_takes_a_key_and_a_receiver_takes_partitions(make: Any) -> None:
    plain = make("other")
    assert plain.put("x", key="k").new
    with pytest.raises(InvalidArgument, match="key"):
        plain.put("x", key=7)
    q = make(partitions=2)
    with pytest.raises(InvalidArgument, match="partitions"):
        make.receiver(q, plain)


def test_an_item_that_cannot_be_put_is_named_and_none_is_put(q: Any) -> None:
    with pytest.raises(InvalidArgument, match="message 2: "):
        q.put_many([1, Item(2, id="x"), object()])
    with pytest.raises(InvalidArgument, match=r"message 1: key"):
        q.put_many([1, Item(2, key="")])
    with pytest.raises(InvalidArgument, match=r"^id"):
        q.put(1, id="")
    assert q.put_many([]) == []
    assert q.state().ready == 0


# ── a record that is lost, or another one ─────────────────────────────────────────────────────


def put_in_all_ways(queue: Any) -> int:
    """Messages with a key, an id and neither, by themselves and together; how many."""
    for i in range(10):
        queue.put(i)
        queue.put(i, key=f"k{i}")
        queue.put(i, id=f"id{i}", delay=60)
    queue.put_many([*range(5), *(Item(i, key=f"k{i}") for i in range(10))])
    return 45


def test_a_process_that_outlives_its_queue_puts_where_the_record_says(
    q: Any, make: Any, place: Any
) -> None:
    """Else what it puts lies where no consumer looks, for ever."""
    q.put_many(range(5))
    place.db.flushall()
    other = make(partitions=3)
    other.put("x")
    assert len(other.partitions()) == 3
    count = put_in_all_ways(q)
    state = other.state()
    assert state.ready + state.delayed == count + 1
    assert state.partitions == q.state().partitions
    assert len(state.partitions) == 5  # as this process was said


def test_a_process_that_outlives_the_whole_server_writes_its_record_again(
    q: Any, make: Any, place: Any
) -> None:
    q.put("x")
    names = q.state().partitions
    place.db.flushall()
    count = put_in_all_ways(q)
    state = make(partitions=5).state()
    assert (state.ready + state.delayed, state.partitions) == (count, names)


def test_a_process_outlives_the_restoring_of_an_older_copy(q: Any, make: Any, place: Any) -> None:
    q.put("old")
    keys = {key: place.db.dump(key) for key in place.db.scan_iter()}
    more = make(partitions=9)
    for _ in range(9):
        more.put("new")
    names = more.state().partitions
    place.db.flushall()
    for key, value in keys.items():
        place.db.restore(key, 0, value, replace=True)  # the register may be written meanwhile
    count = put_in_all_ways(more)
    state = make(partitions=9).state()
    assert (state.ready + state.delayed, state.partitions) == (count + 1, names)


def test_a_consumer_that_outlives_its_queue_takes_from_where_the_record_says(
    q: Any, make: Any, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atomq.partitioned_base.READ_AGAIN", 0.1)
    monkeypatch.setattr("atomq.receiver_base.TAKE_IN", 0.2)
    assert q.claim() is None
    place.db.flushall()
    other = make(partitions=7)
    for i in range(7):
        other.put(i)
    seen: set[int] = set()

    def takes() -> bool:
        seen.update(message.body for message in q.claim_many(7, 0.1))
        return len(seen) == 7

    wait_until("all of them", takes)


def test_a_raise_that_a_failover_lost_is_written_again(q: Any, make: Any, place: Any) -> None:
    """The partitions that it added have messages, and copies of the record."""
    q.put("x")
    record = place.db.hget(q.partitions()[0].keys.meta, "partitions")
    more = make(partitions=9)
    assert [more.put(i).new for i in range(9)] == [True] * 9
    place.db.hset(q.partitions()[0].keys.meta, "partitions", record)
    again = make(partitions=5)
    assert again.state().partitions == more.state().partitions
    assert again.state().ready == 10


def test_a_partition_by_itself_says_that_it_is_none_any_more(q: Any, place: Any) -> None:
    part = q.partitions()[2]
    assert part.put("x").new
    place.db.flushall()
    for put in (lambda: part.put("x"), lambda: part.put("x", delay=60), lambda: part.put_many([1])):
        with pytest.raises(UnknownPartition, match=f"'{part.name}' is no partition of its queue"):
            put()
    assert not [*place.db.scan_iter("_atomq.{q*")]
    assert q.partitions()[2].put("x").new


def test_a_put_many_that_fails_says_what_it_put_before(q: Any, place: Any) -> None:
    """Each partition has a call of its own, and that of one fails."""
    ids = [f"id-{i}" for i in range(20)]
    first = next(iter(q.put_many([Item(0, key="the first")])))
    (used,) = (part for part in q.partitions() if part.state().ready)
    assert used.cancel(first.id)
    broken = next(part for part in q.partitions() if part.name != used.name)
    place.db.set(broken.keys.ready[0], "of another program")
    items = [Item(0, key="the first", id="first")]
    items += [Item(i, id=name) for i, name in enumerate(ids)]
    with pytest.raises(WrongType, match=r"; \d+ of the messages were put before$") as error:
        q.put_many(items)
    put = [
        each for part in q.partitions() if part.name != broken.name for each in part.peek(limit=30)
    ]
    assert set(error.value.ids) == {each.id for each in put} >= {"first"}
    assert error.value.ids == [name for name in ["first", *ids] if name in error.value.ids]


def test_the_record_of_a_release_that_writes_no_copies(q: Any, place: Any) -> None:
    parts = q.partitions()
    for part in parts[1:]:
        place.db.delete(part.keys.meta)
    assert put_in_all_ways(q) == q.state().ready + q.state().delayed
    assert all(place.db.hget(part.keys.meta, "partitions") for part in parts)


WORK = {
    "put": lambda q, _: q.put("x"),
    "put with a key": lambda q, key: q.put("x", key=key),
    "put_many": lambda q, key: q.put_many([Item("x"), Item("y", key=key)]),
    "get": lambda q, key: q.get(key),
    "cancel": lambda q, key: q.cancel(key),
    "redrive": lambda q, _: q.redrive(["1-1#4"]),
    "state": lambda q, _: q.state(),
    "peek": lambda q, _: q.peek(),
}


def shrinking(target: Any, known: str) -> Any:
    """Have a queue learn of fewer partitions at one of its own looks at them, as by a thread."""

    class Shrinks(type(target)):  # type: ignore[misc]
        looks = 0

        @property
        def _parts(self) -> Any:
            parts = self.__dict__["_parts"]
            self.looks -= 1
            if self.looks == 0:
                if known:
                    self._learn(PartitionMap.read(self.name, known))
                else:  # the queue was deleted
                    self.__dict__["_parts"] = []
            return parts

        @_parts.setter
        def _parts(self, parts: Any) -> None:
            self.__dict__["_parts"] = parts

    target.__class__ = Shrinks
    return target


@pytest.mark.parametrize("known", ["1", ""], ids=["one", "none"])
@pytest.mark.parametrize("what", WORK)
def test_a_queue_that_has_fewer_partitions_meanwhile_raises_errors_of_ours_alone(
    q: Any, what: str, known: str
) -> None:
    """At any moment another thread may learn so. What is put is put where consumers look."""
    q.partitions()
    target = shrinking(getattr(q, "target", q), known)
    for look in range(1, 9):
        for key in "abcde":
            q.partitions()
            target._given[:] = [target._given[-1] + (at != 4) for at in range(5)]  # the last's turn
            target.looks = look
            with suppress(() if what.startswith("put") else AtomqError):
                WORK[what](q, key)
            assert target.looks < look
    target.looks = 0
    put = {"put": 40, "put with a key": 40, "put_many": 80}.get(what, 0)
    assert sum(where(q).values()) == put
