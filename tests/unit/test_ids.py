"""Names that no server gives: no two are alike, and a producer has one call at a time."""

from __future__ import annotations

import threading

from atomq.ids import CallId, Ids, Producers


def test_ids_are_unique_also_after_a_fork() -> None:
    ids = Ids()
    before = ids.prefix
    assert len({ids.next() for _ in range(1000)} | {Ids().next() for _ in range(1000)}) == 2000
    ids.forked()
    assert ids.prefix != before


def test_a_producer_has_one_call_under_way_and_counts_those_that_were_answered() -> None:
    producers = Producers()
    first, second = producers.next(), producers.next()
    assert first.producer != second.producer
    first.answered()
    third = producers.next()
    assert (third.producer, third.number) == (first.producer, first.number + 1)


def test_the_number_of_a_call_never_changes() -> None:
    """What is remembered of one that seemed lost may be said again after its answer has come."""
    producers = Producers()
    first = producers.next()
    first.queue, first.names = "q", ("a", "b")
    first.answered()
    following = producers.next()
    assert (first.number, following.number, following.producer) == (1, 2, first.producer)
    assert (following.queue, following.names) == ("q", ("a", "b"))
    following.answered()
    assert (following.number, producers.next().number) == (2, 3)


def test_a_call_that_is_answered_twice_frees_its_producer_once() -> None:
    """Else two calls at once would have one number, and one of them would count as done."""
    producers = Producers()
    first = producers.next()
    first.answered()
    first.answered()
    assert producers.next().producer != producers.next().producer


def test_a_producer_whose_call_has_no_answer_is_not_used_again() -> None:
    producers = Producers()
    unanswered = producers.next()
    for _ in range(3):
        call_id = producers.next()
        assert call_id.producer != unanswered.producer
        call_id.answered()


def test_a_child_process_has_producers_of_its_own() -> None:
    """Also where a call was under way when the process was forked."""
    producers = Producers()
    before = {producers.next() for _ in range(3)}
    before.pop().answered()
    for one in (producers, producers._names):
        one.forked()
    for each in before:
        each.answered()
    after = producers.next()
    assert after.number == 1
    assert after.producer not in {each.producer for each in before}


def test_idle_producers_are_not_kept_without_end() -> None:
    producers = Producers()
    for each in [producers.next() for _ in range(1000)]:
        each.answered()
    assert sum(producers.next().number > 1 for _ in range(1000)) == 256


def test_threads_never_share_a_producer() -> None:
    producers = Producers()
    under_way: dict[str, int] = {}
    seen: set[tuple[str, int]] = set()
    calls: list[int] = []

    def publish() -> None:
        for _ in range(2000):
            call_id = producers.next()
            assert call_id.producer not in under_way
            under_way[call_id.producer] = call_id.number
            seen.add((call_id.producer, call_id.number))
            calls.append(1)
            del under_way[call_id.producer]
            call_id.answered()

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(calls) == 16_000
    assert len({producer for producer, _ in seen}) <= 8


def test_both_count_from_one() -> None:
    ids = Ids()
    assert [ids.next(), ids.next()] == [f"{ids.prefix}-1", f"{ids.prefix}-2"]
    assert CallId("p").number == Producers().next().number == 1
