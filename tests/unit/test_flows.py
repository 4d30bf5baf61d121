"""Behaviour of several steps, played by hand: what a consumer does after each answer."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import pytest

from atomq import AsyncQueue, Queue, calls, flows
from atomq.calls import Call, Claimed, DeadLettered, Outgoing, Redriven, Verdict
from atomq.durability import Durability
from atomq.errors import (
    InvalidArgument,
    NotDurable,
    PermissionDenied,
    ServerFull,
    ServerUnavailable,
)
from atomq.flows import (
    Acks,
    Consumer,
    Filled,
    Flow,
    Get,
    Listen,
    Pace,
    Rest,
    Sleep,
    Wait,
    Withdraw,
)
from atomq.ids import Producers
from atomq.keys import QueueKeys
from atomq.looking import Looked
from atomq.options import Options
from tests.played import Play, Q, at_once, claimed, consumer, delivery, limit_of

R = QueueKeys("r")


def claim_id_of(call: Call[Any]) -> str:
    name: str = call.args[0]
    return name


# ── receive ───────────────────────────────────────────────────────────────────────────────────


def test_a_fair_consumer_begins_with_another_queue_each_time() -> None:
    one = Consumer([Q, R], Options(), fair=True)
    first = []
    for _ in range(4):
        play = Play(one.receive(1, 0))
        first.append(play.effect.queue.name)
        play.go(claimed(delivery()))
    assert first in (["q", "r", "q", "r"], ["r", "q", "r", "q"])


def test_what_is_there_is_handed_over_without_waiting() -> None:
    told: list[Claimed] = []
    play = Play(consumer().receive(5, None, told.append))
    assert limit_of(play.effect) == 5
    play.go(claimed(delivery()))
    assert play.over
    assert len(play.result) == len(told) == 1


def test_a_token_wakes_and_its_queue_alone_is_claimed() -> None:
    play = Play(consumer(Q, R).receive(5, None))
    play.go(claimed())
    assert isinstance(play.effect, Wait)
    assert play.effect.keys == (Q.wake, R.wake)
    assert 0.8 <= play.effect.seconds <= 1
    call = play.go(R.wake)
    assert call.keys[: len(R.claim)] == R.claim
    play.go(claimed(delivery(queue="r")))
    assert play.over


MANY = [Q, R, *(QueueKeys(f"q{n}") for n in range(flows.AHEAD))]


def test_after_a_wait_without_a_token_all_are_looked_at_and_one_is_claimed() -> None:
    play = Play(consumer(*MANY).receive(5, None))
    play.go(claimed())
    assert play.effect.ahead is None
    look = play.go(None)
    assert look.script.name == "look"
    assert len(look.keys) == sum(len(each.look) for each in MANY)
    call = play.go(("r",))
    assert call.keys == R.claim
    assert isinstance(play.go(claimed(delivery(queue="r"))), Withdraw)
    play.go([])
    assert play.over


def test_while_nothing_is_found_the_wait_goes_on() -> None:
    play = Play(consumer().receive(5, None))
    wait = play.go(claimed())
    assert play.go(None).script.name == "look"
    again = play.go(())
    assert again.ahead is wait.ahead
    assert 0.8 <= again.seconds < 0.9, "it looked last, and looks again before others"
    assert play.go([Looked(Q.looked, "other")]).ahead is wait.ahead
    assert play.effect.seconds > 0.9, "others look before it does"


def waits_and_is_due(queue: QueueKeys) -> tuple[Consumer, Play]:
    one = consumer(queue)
    play = Play(one.receive(5, None))
    play.go(claimed())
    one._looks._at = dict.fromkeys([queue.name], time.monotonic())
    one._looks._reckon()
    return one, play


def test_of_the_consumers_of_a_process_one_looks_at_a_time() -> None:
    """The others have not heard of it yet: the process is busy, or the look is under way."""
    queue = QueueKeys("together")
    (_, first), (_, second) = waits_and_is_due(queue), waits_and_is_due(queue)
    assert first.go(None).script.name == "look"
    wait = second.go(None)
    assert isinstance(wait, Wait)
    assert 0.8 < wait.seconds < 1, "as if it had heard of that look"


@pytest.mark.parametrize("answer", [("together",), PermissionDenied("this user may not look")])
def test_a_look_that_finds_something_puts_off_no_other(answer: Any) -> None:
    queue = QueueKeys("together")
    (_, first), (_, second) = waits_and_is_due(queue), waits_and_is_due(queue)
    assert first.go(None).script.name == "look"
    first.go(answer)
    assert second.go(None).script.name == "look"


def test_a_look_that_was_begun_long_ago_puts_off_no_other() -> None:
    """Its process was forked meanwhile, or its task cancelled."""
    for began, looks in ((0.4, False), (0.6, True)):
        queue = QueueKeys("together")
        _, play = waits_and_is_due(queue)
        queue.looking = time.monotonic() - began
        assert isinstance(play.go(None), Wait) is not looks


def test_what_a_look_finds_is_claimed_by_what_stands_behind_the_wait() -> None:
    play = Play(consumer().receive(5, None))
    play.go(claimed())
    play.go(None)
    assert isinstance(play.go(("q",)), Withdraw)
    play.go(claimed(delivery()))
    assert play.over
    assert len(play.result) == 1


def test_what_cannot_be_looked_at_is_claimed() -> None:
    play = Play(consumer(*MANY).receive(5, None))
    play.go(claimed())
    play.go(None)
    call = play.go(PermissionDenied("this user may not look"))
    assert call.script.name == "claim"
    assert len(call.keys) == sum(len(each.claim) for each in MANY)


def test_in_a_cluster_one_looks_for_all_that_wait_and_says_so_at_the_node_of_the_queue() -> None:
    queues = [QueueKeys(name, layout="cluster") for name in "ab"]
    one = consumer(*queues)
    play = Play(one.receive(2, None))
    for _ in queues:
        wait = play.go(claimed())
    assert wait.channels == {queue.wake: queue.looked for queue in queues}
    looks = one._looks
    looks._at, looks._next = dict.fromkeys("ab", 0.0), None
    wait = play.go([Looked(queues[0].looked, "other")])
    look = wait if isinstance(wait, Call) else play.go(None)
    assert (look.script.name, look.queue.name) == ("look", "b"), "the other one was looked at"
    assert (look.args[0], look.args[-1]) == (one.name, 1), "on a sharded channel"


def test_a_token_that_came_too_late_is_passed_on() -> None:
    play = Play(consumer(*MANY).receive(5, None))
    play.go(claimed())
    play.go(None)
    play.go(("q",))
    play.go(claimed(delivery()))
    call = play.go([Q.wake])
    assert limit_of(call) == 0, "it claims nothing and wakes another consumer"
    play.go(claimed())
    assert play.result


def test_in_a_cluster_each_token_that_came_too_late_is_passed_on() -> None:
    queues = [QueueKeys(name, layout="cluster") for name in "abc"]
    play = Play(consumer(*queues).receive(1, None))
    for _ in queues:
        play.go(claimed())
    assert isinstance(play.effect, Wait)
    play.go(queues[0].wake)
    assert isinstance(play.go(claimed(delivery(queue="a"))), Withdraw)
    for queue in queues[1:]:  # waited for on two other lines
        call = play.go([q.wake for q in queues[1:]] if queue is queues[1] else claimed())
        assert (call.queue, limit_of(call)) == (queue, 0)
    play.go(claimed())
    assert len(play.result) == 1


def test_a_token_that_cannot_be_passed_on_costs_no_message() -> None:
    play = Play(consumer(*MANY).receive(5, None))
    play.go(claimed())
    play.go(None)
    play.go(("q",))
    play.go(claimed(delivery()))
    play.go([Q.wake])
    play.go(ServerUnavailable("gone"))
    assert len(play.result) == 1


def test_the_next_due_time_is_waited_for() -> None:
    play = Play(consumer().receive(5, None))
    play.go(claimed(wait_ms=250))
    assert play.effect.keys == (Q.wake,)
    assert 0.2 < play.effect.seconds <= 0.25


def test_who_minds_the_time_hands_it_over_when_it_leaves() -> None:
    play = Play(consumer().receive(5, 0))
    call = play.go(claimed(wait_ms=250))
    assert limit_of(call) == 0
    play.go(claimed())
    assert play.result == []


def test_more_is_claimed_at_once() -> None:
    play = Play(consumer().receive(5, None))
    call = play.go(claimed(more=["q"]))
    assert limit_of(call) == 5
    assert claim_id_of(call).endswith("-2")


def test_the_timeout_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    play = Play(consumer().receive(5, 0.5))
    play.go(claimed())
    assert (play.effect.keys, play.effect.seconds) == ((Q.wake,), 0.5)
    now[0] += 0.5
    assert isinstance(play.go(None), Withdraw)
    call = play.go([Q.wake])
    assert limit_of(call) == 5, "a token that came after all is heeded"
    play.go(claimed())
    assert play.result == []


def test_in_a_cluster_each_queue_is_claimed_by_itself_and_the_first_changes() -> None:
    queues = [QueueKeys(name, layout="cluster") for name in "ab"]
    one = consumer(*queues)
    firsts = []
    for _ in range(2):
        play = at_once(one, 3)
        firsts.append(play.effect.queue.name)
        call = play.go(claimed(delivery(1), delivery(2)))
        assert limit_of(call) == 1
        play.go(claimed())
    assert set(firsts) == {"a", "b"}


def test_in_a_cluster_the_trouble_of_one_node_does_not_cost_what_another_gave() -> None:
    queues = [QueueKeys(name, layout="cluster") for name in "ab"]
    play = Play(consumer(*queues).receive(3, 0))
    play.go(claimed(delivery()))
    play.go(ServerUnavailable("that node is gone"))
    assert len(play.result) == 1


def test_in_a_cluster_a_queue_in_trouble_holds_up_no_other() -> None:
    queues = [QueueKeys(name, layout="cluster") for name in "ab"]
    one = consumer(*queues)
    play = Play(one.receive(3, None))
    first = play.effect
    assert first.brief, "tried once"
    other = play.go(ServerUnavailable("that node is gone"))
    assert other.queue != first.queue
    wait = play.go(claimed())
    assert isinstance(wait, flows.Wait)
    assert wait.keys == (other.queue.wake,), "the other one is not waited for"
    assert play.go(other.queue.wake).queue == other.queue
    assert isinstance(play.go(claimed(delivery())), Withdraw)
    play.go([])
    assert len(play.result) == 1
    one._aside[first.queue.name] = one._aside[first.queue.name]._replace(until=0)
    play = at_once(one, 3)
    while play.effect.queue != first.queue:
        play.go(claimed())
    assert play.effect.repeated, "what it may hold is given back first"
    play.go(claimed())
    assert play.effect.queue == first.queue
    play.go(claimed(delivery()))
    assert not one._aside


def test_in_a_cluster_that_is_gone_as_a_whole_a_consumer_is_told() -> None:
    queues = [QueueKeys(name, layout="cluster") for name in "ab"]
    play = Play(consumer(*queues, retry_attempts=0).receive(3, None))
    play.go(ServerUnavailable("gone"))
    with pytest.raises(ServerUnavailable):
        play.go(ServerUnavailable("gone"))


def test_in_a_cluster_that_is_away_as_a_whole_claims_have_the_budget_of_any_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine that stood still for a second is all nodes at once."""
    now = [100.0]
    monkeypatch.setattr("atomq.flows.consumer.clock", lambda: now[0])
    one = consumer(*(QueueKeys(name, layout="cluster") for name in "ab"), retry_budget=3)
    play = Play(one.receive(3, 0))
    play.go(ServerUnavailable("gone"))
    assert isinstance(play.go(ServerUnavailable("gone")), flows.Sleep)
    one._aside.clear()
    assert play.go(None).repeated, "what it may hold is given back first"
    play.go(claimed())
    play.go(claimed(delivery()))
    play.go(ServerUnavailable("gone"))
    assert len(play.result) == 1
    play = at_once(one, 3)
    for now[0] in (102.0, 104.9):
        while not isinstance(play.effect, flows.Sleep):
            play.go(ServerUnavailable("gone"))
        one._aside.clear()
        play.go(None)
    now[0] = 105.1
    play.go(ServerUnavailable("gone"))
    with pytest.raises(ServerUnavailable):
        play.go(ServerUnavailable("gone"))


def test_in_a_cluster_the_earliest_due_time_counts() -> None:
    queues = [QueueKeys(name, layout="cluster") for name in "ab"]
    play = Play(consumer(*queues).receive(3, None))
    play.go(claimed(wait_ms=0))
    play.go(claimed(wait_ms=500))
    assert play.effect.seconds == 0


ABC = [QueueKeys(name, layout="cluster") for name in "abc"]


def begun(one: Consumer, **more: Sequence[str]) -> None:
    """Its first claims, of all queues; the answer to each is a message, and what there is more."""
    play = Play(one.receive(len(one.queues), None))
    while not play.over:
        name = play.effect.queue.name
        play.go(claimed(delivery(queue=name), more=more.get(name, ())))


def test_in_a_cluster_one_that_has_claimed_from_all_claims_where_a_token_tells() -> None:
    one = consumer(*ABC)
    begun(one)
    play = Play(one.receive(1, None))
    assert isinstance(play.effect, Wait), "nothing is claimed"
    assert play.go(ABC[1].wake).queue.name == "b"
    assert isinstance(play.go(claimed(delivery(queue="b"))), Withdraw)
    assert limit_of(play.go([ABC[2].wake])) == 0
    play.go(claimed(more=["c"]))
    assert len(play.result) == 1
    play = Play(one.receive(1, None))
    assert (play.effect.queue.name, limit_of(play.effect)) == ("c", 1), "its token was had"
    play.go(claimed(delivery(queue="c")))
    assert len(play.result) == 1


@pytest.mark.parametrize("timeout", [None, 0.5])
def test_in_a_cluster_one_with_nothing_to_claim_or_to_ack_waits_at_once(
    timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long ago it saw all tokens: a wait sees them too."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one = consumer(*ABC)
    begun(one)
    now[0] += 0.2
    assert isinstance(Play(one.receive(1, timeout)).effect, Wait)


def test_in_a_cluster_an_ack_goes_with_a_claim_of_its_queue_alone() -> None:
    acks = Acks()
    one = consumer(*ABC, acks=acks)
    begun(one)
    acks.add("b", "b-1.0.1")
    acks.add("of another consumer", "x-1.0.1")
    play = Play(one.receive(1, None))
    assert play.effect.queue.name == "b"
    assert play.effect.args[-2:] == [1, "b-1.0.1"]
    assert isinstance(play.go(claimed()), Wait)


def test_in_a_cluster_queues_that_have_more_take_turns() -> None:
    one = consumer(*ABC)
    begun(one, a=["a"], c=["c"])
    names = []
    for _ in range(4):
        play = Play(one.receive(1, None))
        names.append(play.effect.queue.name)
        play.go(claimed(delivery(), more=[names[-1]]))
        assert play.over
    assert names in (["a", "c", "a", "c"], ["c", "a", "c", "a"])


def names_asked(one: Consumer, *tokens: str, **found: Any) -> list[str]:
    """The queues that a consumer claims from at once, which finds one message or none."""
    play, names = at_once(one, tokens=tokens), []
    while not play.over:
        names.append(play.effect.queue.name)
        play.go(found.get(names[-1], claimed()))
    return names


def test_in_a_cluster_one_that_does_not_wait_claims_where_there_was_more() -> None:
    one, b = consumer(*ABC), claimed(delivery(queue="b"), more=["b"])
    asked = [names_asked(one, b=b) for _ in range(5)]
    assert {name for names in asked for name in names} == {*"abc"}, "each is claimed from once"
    assert asked[-3:] == [["b"]] * 3
    asked = [names_asked(one, c=claimed(delivery(queue="c")))]
    assert (asked[0][0], asked[0][-1]) == ("b", "c"), "it has none now, and others are not missed"
    assert sorted(names_asked(one)) == [*"abc"]


def test_in_a_cluster_one_that_does_not_wait_claims_first_where_a_token_lies() -> None:
    one = consumer(*ABC)
    assert sorted(names_asked(one)) == [*"abc"]
    for queue in (ABC[2], ABC[0], ABC[1]):
        found = {queue.name: claimed(delivery(queue=queue.name))}
        assert names_asked(one, queue.wake, **found) == [queue.name]
    assert sorted(names_asked(one)) == [*"abc"], "what has no token may have work"


def test_in_a_cluster_one_that_knows_where_there_is_more_looks_for_tokens_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one, more = consumer(*ABC), claimed(delivery(queue="b"), more=["b"])
    for _ in range(3):
        names_asked(one, b=more)

    def looks() -> bool:
        play = Play(one.receive(3, 0))
        has_looked = isinstance(play.effect, Filled)
        if has_looked:
            play.go([])
        assert play.effect.queue.name == "b"
        play.go(more)
        return has_looked

    now[0] += 0.1
    assert looks()
    for passed, is_time in ((0.01, False), (0.03, False), (0.02, True), (0.01, False)):
        now[0] += passed
        assert looks() is is_time


def test_in_a_cluster_queues_whose_tokens_were_seen_at_once_are_claimed_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one, names = consumer(*ABC), []
    names_asked(one)
    now[0] += 0.1
    play = at_once(one, tokens=[queue.wake for queue in ABC])
    for _ in ABC:
        names.append(play.effect.queue.name)
        play.go(claimed(delivery(queue=names[-1])))
        assert play.over
        now[0] += 0.01
        play = Play(one.receive(1, 0))
    assert sorted(names) == [*"abc"]


@pytest.mark.parametrize("more", [(), ("a",)])
def test_in_a_cluster_one_that_does_not_wait_claims_from_each_once_a_second(
    more: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another one always has work: an expired lease, or a due message, has no token."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one, seen = consumer(*ABC), dict[str, list[float]](b=[100.0], c=[100.0])
    names_asked(one)
    for _ in range(80):
        now[0] += 0.05
        for name in names_asked(one, ABC[0].wake, a=claimed(delivery(queue="a"), more=more)):
            seen.setdefault(name, []).append(now[0])
    for name in "bc":
        pauses = [after - before for before, after in itertools.pairwise(seen[name])]
        assert max(pauses) < 1.3, name
        assert len(pauses) < 20, "in four seconds"


@pytest.mark.parametrize("always", ["more", "an ack"])
def test_in_a_cluster_one_that_never_waits_sees_tokens_of_the_others(
    always: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, acks = [100.0], Acks()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one = consumer(*ABC, acks=acks)
    begun(one, a=["a"])

    def receive() -> Play:
        if always == "an ack":
            acks.add("a", "a-1.0.1")
        return Play(one.receive(1, None))

    for _ in range(3):
        play = receive()
        assert play.effect.queue.name == "a"
        play.go(claimed(delivery(), more=["a"] if always == "more" else ()))
    now[0] += 0.051
    play = receive()
    assert play.effect == Filled(tuple(queue.wake for queue in ABC))
    assert play.go([ABC[2].wake]).queue.name == "a"
    play.go(claimed(more=["a"]))
    assert play.effect.queue.name == "c", "before another turn of the first"
    play.go(claimed(delivery(queue="c")))
    assert len(play.result) == 1


def test_in_a_cluster_one_that_never_waits_looks_once_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one = consumer(*ABC)
    begun(one, a=["a"])
    looked = []
    for _ in range(30):
        now[0] += 0.1
        play = Play(one.receive(1, None))
        play.go([])
        while play.effect.script.name == "look":
            looked.append((play.effect.queue.name, now[0]))
            play.go(())
        assert play.effect.queue.name == "a"
        play.go(claimed(delivery(), more=["a"]))
        assert play.over
    for name in "bc":
        at = [when for other, when in looked if other == name]
        assert [round(b - a, 1) for a, b in itertools.pairwise(at)] == [0.9, 0.9]


def test_in_a_cluster_what_was_interrupted_has_its_turn_again() -> None:
    one = consumer(*ABC)
    play = Play(one.receive(1, None))
    first = play.effect
    with pytest.raises(KeyboardInterrupt):
        play.go(KeyboardInterrupt())
    play = Play(one.receive(3, None))
    for _ in ABC[1:]:
        assert play.effect.queue != first.queue
        play.go(claimed(delivery()))
    assert play.effect.queue == first.queue
    assert play.effect.repeated, "what it may hold is given back first"


def test_in_a_cluster_a_node_that_is_back_is_tried_by_one_that_never_waits() -> None:
    one = consumer(*ABC[:2])
    play = Play(one.receive(1, None))
    away = play.effect.queue
    play.go(ServerUnavailable("that node is gone"))
    there = play.effect.queue
    play.go(claimed(delivery(), more=[there.name]))
    play = Play(one.receive(1, None))
    assert play.effect.queue == there
    play.go(claimed(delivery(), more=[there.name]))
    one._aside[away.name] = one._aside[away.name]._replace(until=0)
    play = Play(one.receive(2, None))
    assert play.effect.queue == there
    play.go(claimed(delivery(), more=[there.name]))
    assert play.effect.queue == away


def test_in_a_cluster_a_consumer_comes_back_while_the_server_waits_on_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is asked to now and then: its queue may have more partitions by now."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one = consumer(*ABC)
    begun(one)
    one.until = 100.5
    play = Play(one.receive(1, None))
    assert play.effect.seconds == 0.5
    now[0] = 100.5
    play.go(None)
    assert play.result == [], "without a claim, and without an end of the wait"
    one.until = 101.0
    play = Play(one.receive(1, None))
    assert isinstance(play.effect, Wait)
    assert play.go(ABC[1].wake).queue.name == "b"


def test_when_the_next_one_is_due_it_is_claimed_also_after_looks_that_found_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    play = Play(consumer(*MANY).receive(5, None))
    wait = play.go(claimed(wait_ms=1500))
    now[0] += wait.seconds
    assert play.go(None).script.name == "look"
    assert isinstance(play.go(()), Wait)
    now[0] = 101.5
    call = play.go(None)
    if isinstance(call, Withdraw):
        call = play.go([])
    assert call.script.name == "claim"
    assert len(call.keys) == sum(len(each.claim) for each in MANY)


def test_in_a_cluster_what_is_due_next_is_claimed_from_its_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    play = Play(consumer(*ABC).receive(5, None))
    while not isinstance(play.effect, Wait):
        play.go(claimed(wait_ms=100 if play.effect.queue.name == "b" else None))
    now[0] += 0.1
    assert isinstance(play.go(None), Withdraw)
    assert play.go([]).queue.name == "b"
    assert isinstance(play.go(claimed()), Wait)


# ── a server that goes away ───────────────────────────────────────────────────────────────────


def test_an_impatient_consumer_raises() -> None:
    play = Play(consumer().receive(5, None))
    with pytest.raises(ServerUnavailable):
        play.go(ServerUnavailable("gone"))


def test_a_patient_one_waits_for_a_server_that_was_there() -> None:
    one = consumer()
    play = Play(one.receive(5, None, patient=True))
    with pytest.raises(ServerUnavailable):
        play.go(ServerUnavailable("never there"))
    one = consumer()
    play = Play(one.receive(5, None, patient=True))
    play.go(claimed(more=["q"]))
    assert isinstance(play.go(ServerUnavailable("gone")), Sleep)
    unanswered = play.go(None)
    assert unanswered.repeated
    play.go(claimed())
    play.go(claimed(delivery()))
    assert play.result


def test_a_patient_one_does_not_wait_beyond_its_timeout() -> None:
    one = consumer()
    play = Play(one.receive(5, 0, patient=True))
    play.go(claimed(more=["q"]))
    one._served = True
    play = Play(one.receive(5, 0, patient=True))
    with pytest.raises(ServerUnavailable):
        play.go(ServerUnavailable("gone"))


def test_who_is_told_to_stop_waits_neither_for_a_message_nor_for_the_server() -> None:
    stop = threading.Event()
    play = Play(consumer().receive(5, None, stop=stop))
    assert isinstance(play.go(claimed()), Wait)
    stop.set()
    assert isinstance(play.go(None), Withdraw), "the claim that was under way is looked at"
    play.go(claimed())
    assert (play.over, play.result) == (True, [])
    one = consumer()
    one._served = True
    play = Play(one.receive(5, None, patient=True, stop=stop))
    play.go(ServerUnavailable("gone"))
    assert (play.over, play.result) == (True, [])


def test_a_claim_of_one_of_several_queues_that_got_no_answer_is_not_forgotten() -> None:
    """A token came for the second queue, and its claim was lost: the next claim is of both."""
    one = consumer(Q, R)
    lost = Play(one.claim(one._claims_on([R]), 5))
    name = claim_id_of(lost.effect)
    with pytest.raises(ServerUnavailable):
        lost.go(ServerUnavailable("away"))
    play = Play(one.receive(1, 0))
    assert claim_id_of(play.effect) == name
    assert play.effect.args[1] == flows.BEYOND_RETRIES
    play.go(claimed(delivery("lost", "r")))
    assert play.effect.script.name == "release"


def test_what_an_unanswered_claim_may_hold_is_given_back_first() -> None:
    one = consumer()
    play = Play(one.receive(5, None))
    first = play.effect
    with pytest.raises(ServerUnavailable):
        play.go(ServerUnavailable("gone"))
    play = Play(one.receive(5, None))
    assert claim_id_of(play.effect) == claim_id_of(first)
    assert play.effect.args[1] == flows.BEYOND_RETRIES
    release = play.go(claimed(delivery(1), delivery(2)))
    assert release.script.name == "release"
    assert release.args[:3] == [0, 1, 0], "at once, in front, uncounted"
    play.go([Verdict.DONE, Verdict.DONE])
    assert claim_id_of(play.effect) != claim_id_of(first)


def test_what_an_unanswered_claim_may_hold_can_be_given_back_by_another_thread() -> None:
    one = consumer()
    assert one.unanswered() == []
    play = Play(one.receive(5, None))
    first = play.effect
    with pytest.raises(ServerUnavailable):
        play.go(ServerUnavailable("gone"))
    ((name, give_back),) = one.unanswered()
    assert name == "q"
    play = Play(give_back())
    assert claim_id_of(play.effect) == claim_id_of(first)
    assert play.go(claimed(delivery(1))).script.name == "release"
    play.go([Verdict.DONE])
    assert one.unanswered() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()])
def test_an_interrupted_claim_is_given_back_on_leaving(error: BaseException) -> None:
    one = consumer()
    play = Play(one.receive(5, None))
    with pytest.raises(type(error)):
        play.go(error)
    play = Play(one.close())
    assert play.effect.script.name == "claim"
    assert play.effect.repeated


def waiting(who: Consumer) -> Play:
    """It found nothing and waits, with a claim sent ahead."""
    play = Play(who.receive(1, None))
    play.go(claimed())
    assert isinstance(play.effect, Wait)
    assert play.effect.ahead is not None
    return play


def test_what_a_claim_sent_ahead_got_is_told_before_it_is_handed_over() -> None:
    """Else nobody renews it."""
    told: list[Claimed] = []
    play = Play(consumer().receive(1, None, told.append))
    play.go(claimed())
    play.go(claimed(delivery()))
    assert play.over
    assert [each.deliveries for each in told] == [[], play.result]


def test_what_a_claim_sent_ahead_got_is_given_back_by_who_leaves() -> None:
    who = consumer()
    waiting(who).flow.close()
    play = Play(who.close())
    assert isinstance(play.effect, Withdraw)
    play.go(claimed(delivery()))
    assert play.effect.script.name == "release"
    assert "c-1.0.x" in play.effect.args
    play.go([Verdict.DONE])
    assert play.over


@pytest.mark.parametrize("during", ["the wait", "the withdrawal"])
def test_what_a_claim_sent_ahead_may_hold_is_given_back_if_it_got_no_answer(during: str) -> None:
    who = consumer()
    play = waiting(who)
    claim_id = claim_id_of(play.effect.ahead)
    if during == "the withdrawal":
        play.flow.close()
        play = Play(who.close())
    play.go(ServerUnavailable("gone"))
    assert claim_id_of(play.effect) == claim_id
    assert play.effect.args[1] == flows.BEYOND_RETRIES
    play.go(claimed(delivery()))
    assert play.effect.script.name == "release"


def test_a_refused_claim_holds_nothing() -> None:
    one = consumer()
    play = Play(one.receive(5, None))
    with pytest.raises(PermissionDenied):
        play.go(PermissionDenied("no"))
    assert Play(one.close()).over


# ── what died in a claim ──────────────────────────────────────────────────────────────────────


def died(name: str = "a", queue: str = "q") -> Claimed:
    raw = json.dumps({"properties": {"message_id": name}}).encode()
    return claimed()._replace(dead_lettered=[DeadLettered(queue, "expired", "", raw)])


def told(call: Call[Any]) -> list[str]:
    """The keys of the results that it stores."""
    assert call.script.name == "tell"
    return list(call.keys)


def test_who_waits_for_what_died_is_told_before_anything_else() -> None:
    who = consumer(Q, R, result_ttl=5)
    play = Play(who.receive(5, 0))
    play.go(
        died("a", "r")._replace(
            dead_lettered=[*died("b").dead_lettered, *died("a", "r").dead_lettered]
        )
    )
    assert told(play.effect) == [Q.result("b")]
    ttl_ms, _, value = play.effect.args
    assert (ttl_ms, json.loads(value)) == (5000, json.loads(calls.failed("b", "expired")))
    assert told(play.go(1)) == [R.result("a")]
    play.go(1)
    assert play.over
    assert Play(who.close()).over, "once is enough"


def test_what_was_claimed_with_it_is_held_before_it_is_told() -> None:
    seen: list[Claimed] = []
    play = Play(consumer().receive(5, 0, seen.append))
    play.go(died()._replace(deliveries=[delivery()]))
    assert told(play.effect)
    assert len(seen) == 1, "else nobody renews it if this is interrupted"


def test_whose_id_cannot_be_read_is_told_nothing() -> None:
    play = Play(consumer().receive(5, 0))
    play.go(claimed()._replace(dead_lettered=[DeadLettered("q", "undecodable", "", b"junk")]))
    assert play.over


@pytest.mark.parametrize("error", [ServerUnavailable("gone"), KeyboardInterrupt()])
def test_who_could_not_be_told_is_told_the_next_time(error: BaseException) -> None:
    who = consumer()
    play = Play(who.receive(5, 0))
    play.go(died("a"))
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            play.go(error)
    else:
        play.go(error)
        assert play.over
    play = Play(who.receive(5, 0))
    play.go(died("b"))
    assert told(play.effect) == [Q.result("a"), Q.result("b")]
    play.go(ServerUnavailable("gone"))
    assert told(Play(who.close()).effect) == [Q.result("a"), Q.result("b")]


def test_who_may_not_tell_goes_on_without(caplog: pytest.LogCaptureFixture) -> None:
    who = consumer()
    play = Play(who.receive(5, 0))
    play.go(died())
    play.go(PermissionDenied("no"))
    assert play.over
    assert "not reported to its waits: no" in caplog.text
    assert Play(who.close()).over


@pytest.mark.parametrize("leaves", [True, False], ids=["who leaves", "who goes on"])
def test_what_died_in_a_claim_sent_ahead_is_told(leaves: bool) -> None:
    who = consumer()
    waiting(who).flow.close()
    play = Play(who.close() if leaves else who.receive(1, 0))
    assert isinstance(play.effect, Withdraw)
    assert told(play.go(died())) == [Q.result("a")]


def test_what_died_in_a_claim_that_got_no_answer_is_told() -> None:
    play = Play(consumer().receive(5, None, patient=True))
    play.go(claimed())
    play.go(ServerUnavailable("gone"))
    assert play.effect.repeated
    play.go(died())
    play.go(claimed(delivery()))
    assert told(play.effect) == [Q.result("a")]


# ── acks ──────────────────────────────────────────────────────────────────────────────────────


def test_acks_ride_along_and_come_back_if_the_claim_is_not_answered() -> None:
    lost: list[str] = []
    acks = Acks(lost=lambda _, receipts: lost.extend(receipts))
    one = consumer(acks=acks)
    acks.add("q", "r1")
    acks.add("q", "r2")
    play = Play(one.receive(5, None))
    assert play.effect.args[-2:] == ["r1", "r2"]
    assert acks.queues() == []
    assert acks.under_way("q")
    with pytest.raises(ServerUnavailable):
        play.go(ServerUnavailable("gone"))
    assert not acks.under_way("q")
    play = Play(flows.flush(Q, acks))
    assert play.effect.args == ["r1", "r2"]
    play.go([Verdict.LOST, Verdict.DONE])
    assert play.over
    assert lost == [], "the claim before may have acked it"


def test_acks_that_come_too_late_are_told() -> None:
    lost: list[str] = []
    acks = Acks(lost=lambda _, receipts: lost.extend(receipts))
    acks.add("q", "r1")
    acks.add("q", "r2")
    play = Play(flows.flush(Q, acks))
    play.go([Verdict.LOST, Verdict.DONE])
    acks.add("q", "r3")
    play = Play(consumer(acks=acks).receive(1, None))
    play.go(claimed(delivery(), lost=[("q", "r3")]))
    assert lost == ["r1", "r3"]


def test_acks_of_a_repeated_call_that_find_nothing_are_not_called_late() -> None:
    lost: list[str] = []
    acks = Acks(lost=lambda _, receipts: lost.extend(receipts))
    acks.add("q", "a")
    acks.add("q", "b")
    Play(flows.flush(Q, acks)).go([Verdict.UNKNOWN, Verdict.LOST])
    assert lost == ["b"]


def test_acks_say_when_the_first_one_waits() -> None:
    waiting: list[int] = []
    acks = Acks(waiting=lambda: waiting.append(1))
    acks.add("q", "r1")
    acks.add("q", "r2")
    acks.add("r", "r3")
    assert len(waiting) == 2
    assert acks.take("q") == ["r1", "r2"]
    acks.put_back("q", ["r1", "r2"])
    assert len(waiting) == 3
    assert acks.take("q") == ["r1", "r2"]
    acks.put_back("q", ["r1", "r2"], quietly=True)
    assert (len(waiting), acks.take("q")) == (3, ["r1", "r2"])
    acks.send_again("q", ["r1"])
    assert len(waiting) == 4
    with pytest.raises(ServerUnavailable):
        Play(flows.flush(Q, acks)).go(ServerUnavailable("gone"))
    assert len(waiting) == 5
    acks.forked()
    assert acks.queues() == []


def test_a_thousand_acks_travel_at_once() -> None:
    acks = Acks()
    for n in range(2500):
        acks.add("q", f"r{n}")
    play = Play(flows.flush(Q, acks))
    sizes = []
    while not play.over:
        sizes.append(len(play.effect.args))
        play.go([Verdict.DONE] * sizes[-1])
    assert sizes == [1000, 1000, 500]


def test_who_leaves_waits_for_acks_that_others_are_sending() -> None:
    acks = Acks()
    one = consumer(acks=acks)
    acks.add("q", "r1")
    taken = acks.take("q")
    play = Play(one.close())
    assert isinstance(play.effect, Sleep)
    acks.answered("q", taken, [])
    play.go(None)
    assert play.over


@pytest.mark.parametrize("kind", [Queue, AsyncQueue])
def test_work_that_ends_waits_for_acks_that_others_are_sending(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = kind("q", "redis+socket:///nowhere")
    acks = queue.keeper.acks
    monkeypatch.setattr(acks, "_waiting", lambda: None)
    acks.add("q", "r1")
    taken = acks.take("q")
    play = Play(queue._flush())
    assert isinstance(play.effect, Sleep)
    acks.answered("q", taken, [])
    play.go(None)
    assert play.over


def test_what_a_call_took_along_is_sent_once_more_while_it_is_not_answered() -> None:
    lost: list[str] = []
    acks = Acks(lost=lambda _, receipts: lost.extend(receipts))
    assert (acks.unanswered(), acks.taken_since()) == ([], float("inf"))
    acks.add("q", "r1")
    taken, since = acks.take("q"), acks.taken_since()
    assert 0 < since <= time.monotonic()
    assert acks.unanswered(since) == acks.unanswered() == [("q", ["r1"])]
    assert acks.unanswered(since - 1) == []
    play = Play(flows.repeat(Q, taken, acks))
    assert (play.effect.script.name, play.effect.args, play.effect.repeated) == (
        "ack",
        ["r1"],
        True,
    )
    play.go([Verdict.UNKNOWN])
    assert play.over
    assert (acks.unanswered(), acks.under_way("q")) == ([], False)
    acks.answered("q", taken, ["r1"])
    assert lost == [], "it found nothing as it was acked beside"
    acks.add("q", "r1")
    acks.answered("q", acks.take("q"), ["r1"])
    assert lost == ["r1"]


def test_what_is_sent_once_more_in_vain_stays_under_way() -> None:
    acks = Acks()
    acks.add("q", "r1")
    taken = acks.take("q")
    with pytest.raises(ServerUnavailable):
        Play(flows.repeat(Q, taken, acks)).go(ServerUnavailable("gone"))
    assert acks.unanswered() == [("q", ["r1"])]
    acks.put_back("q", taken)
    assert (acks.unanswered(), acks.queues()) == ([], ["q"])


def test_a_call_that_took_nothing_along_answers_for_no_other() -> None:
    acks = Acks()
    acks.add("q", "r1")
    taken = acks.take("q")
    acks.answered("q", acks.take("q"), [])
    assert acks.under_way("q")
    assert not acks.under_way("r")
    acks.answered("q", taken, [])
    assert not acks.under_way("q")


def test_acks_that_are_said_again_are_overdue() -> None:
    acks = Acks()
    acks.add("q", "r1")
    assert 0 < acks.since() <= time.monotonic()
    acks.put_back("q", acks.take("q"))
    assert acks.since() == 0
    acks = Acks()
    acks._of("q").append("r1")  # which another thread adds right now
    assert acks.since() == 0


@pytest.mark.parametrize("meanwhile", ["one more", "all taken"])
def test_acks_that_two_threads_add_or_take_at_once_are_said_to_wait(meanwhile: str) -> None:
    class Shared(deque[str]):
        def append(self, receipt: str) -> None:
            if meanwhile == "one more":
                super().append("of another thread")
            else:
                self.clear()
            super().append(receipt)

    waiting: list[int] = []
    acks = Acks(waiting=lambda: waiting.append(1))
    acks._receipts["q"] = Shared([] if meanwhile == "one more" else ["r1"])
    acks.add("q", "r2")
    assert waiting


# ── a flow that is taken up again ─────────────────────────────────────────────────────────────


def test_what_was_interrupted_goes_on_where_it_was_and_says_its_call_again() -> None:
    def work() -> Flow[int]:
        first = yield from flows.ask(calls.ack(Q, ["r1"]))
        second = yield from flows.ask(calls.ack(Q, ["r2"]))
        return len(first) + len(second)

    rest = Rest(work())
    play = Play(rest.flow())
    assert (play.effect.args, play.effect.repeated) == (["r1"], False)
    play.go([Verdict.DONE])
    assert (play.effect.args, play.effect.repeated) == (["r2"], False)
    play.flow.close()
    for _ in range(2):
        play = Play(rest.flow())
        assert (play.effect.args, play.effect.repeated) == (["r2"], True)
    play.go([Verdict.DONE])
    assert (play.over, play.result) == (True, 2)


# ── batches ───────────────────────────────────────────────────────────────────────────────────


def test_what_one_call_did_not_reach_is_asked_for_again() -> None:
    play = Play(flows.in_batches(list(range(1500)), lambda some: ("call", list(some))))  # type: ignore[arg-type,return-value]
    assert len(play.effect[1]) == 1000
    play.go([Verdict.DONE] * 998 + [Verdict.AGAIN] * 2)
    assert play.effect[1] == [998, 999]
    play.go([Verdict.LOST, Verdict.AGAIN])
    assert play.effect[1] == [999]
    play.go([Verdict.DONE])
    assert len(play.effect[1]) == 500
    play.go([Verdict.DONE] * 500)
    assert len(play.result) == 1500
    assert play.result[998] is Verdict.LOST


def test_messages_travel_by_number_and_by_size() -> None:
    small = [Outgoing("x", "i")] * 2100
    producers, options = Producers(), Options.of(max_bytes=10_000)
    play = Play(flows.publish_all(Q, small, producers=producers, options=options))
    numbers, ids = [], set()
    while not play.over:
        ids.add((play.effect.keys[0], play.effect.args[0]))
        numbers.append(sum(1 for arg in play.effect.args if arg == "x"))
        play.go(calls.Published(numbers[-1], (0,)))
    assert numbers == [1000, 1000, 100]
    assert len(ids) == 3
    assert play.result.count(False) == 3
    large = [Outgoing("x" * 600, "i")] * 3
    options = Options.of(max_bytes=1000)
    play = Play(flows.publish_all(Q, large, producers=producers, options=options))
    count = 0
    while not play.over:
        count += 1
        play.go(calls.Published(1))
    assert count == 3


def test_a_call_is_filled_to_the_byte_and_no_message_is_too_large_for_one() -> None:
    def by_size(*sizes: int) -> list[list[int]]:
        messages = [Outgoing("x" * size, "i") for size in sizes]
        return [[len(m.message) for m in each] for each in flows.by_size(messages, 10)]

    assert by_size(5, 5, 5, 5, 1) == [[5, 5], [5, 5], [1]]
    assert by_size(5, 6, 5) == [[5], [6], [5]]
    assert by_size(30, 1, 30, 1) == [[30], [1], [30], [1]]
    assert by_size(4, 6) == [[4, 6]]
    assert by_size(30) == [[30]]


def test_what_was_put_without_being_confirmed_is_named_with_what_was_put_before() -> None:
    messages = [Outgoing("x" * 6, f"i{n}") for n in range(3)]
    options = Options.of(max_bytes=1000)
    play = Play(
        flows.publish_all(
            Q, [Outgoing("x" * 600, m.id) for m in messages], producers=Producers(), options=options
        )
    )
    play.go(calls.Published(1))
    with pytest.raises(NotDurable) as error:
        play.go(NotDurable("not confirmed", 0, 1))
    assert error.value.ids == ["i0", "i1"]


def test_what_ends_a_publish_says_what_was_put_before() -> None:
    some = [Outgoing("x" * 600, f"i{n}") for n in range(3)]
    options = Options.of(max_bytes=1000)
    play = Play(flows.publish_all(Q, some, producers=Producers(), options=options))
    play.go(calls.Published(1))
    play.go(calls.Published(1))
    with pytest.raises(ServerFull, match=r"^full; \d of the messages were put before$") as error:
        play.go(ServerFull("full"))
    assert error.value.ids == ["i0", "i1"]
    play = Play(flows.publish_all(Q, some, producers=Producers(), options=options))
    with pytest.raises(ServerFull, match=r"^full\Z"):
        play.go(ServerFull("full"))


def briefly(durability: Durability | None = None) -> Play:
    some = [Outgoing("x", f"i{n}") for n in range(3)]
    return Play(flows.publish_briefly(Q, some, Producers(), Options(), durability))


def away(*, unsent: bool) -> ServerUnavailable:
    error = ServerUnavailable("away")
    error.unsent = unsent
    return error


def test_a_brief_publish_is_tried_once_where_it_was_surely_not_carried_out() -> None:
    play = briefly()
    assert play.effect.brief
    play.go(done := calls.Published(3))
    assert play.result is done
    with pytest.raises(ServerUnavailable) as raised:
        briefly().go(away(unsent=True))
    assert raised.value.unsent


def test_a_brief_publish_without_an_answer_is_the_same_call_again_and_patient() -> None:
    play = briefly()
    first = play.effect
    again = play.go(away(unsent=False))
    assert (again.keys, again.args, again.repeated) == (first.keys, first.args, True)
    assert not again.brief
    with pytest.raises(ServerUnavailable) as raised:
        play.go(away(unsent=True))
    assert not raised.value.unsent, "the first one may have been carried out"


def test_a_publish_that_is_to_be_confirmed_is_not_brief_and_names_what_is_not() -> None:
    fsync = Durability.of("fsync", 1)
    assert not briefly(fsync).effect.brief
    for unsent in (True, False):
        with pytest.raises(ServerUnavailable):
            briefly(fsync).go(away(unsent=unsent))
    with pytest.raises(NotDurable) as error:
        briefly(fsync).go(NotDurable("not confirmed", 0, 1))
    assert error.value.ids == ["i0", "i1", "i2"]


def test_redrive_goes_on_until_it_has_seen_them_all_and_not_those_that_die_meanwhile() -> None:
    told: list[int] = []
    play = Play(flows.redrive_all(Q, reason="bad", report=told.append))
    state = calls.QueueState(
        name="q",
        now_ms=1234,
        ready_by_priority={},
        unacked=0,
        expired=0,
        delayed=0,
        due=0,
        dead=9,
        next_due_ms=None,
        next_deadline_ms=None,
        paused=False,
        inconsistent=0,
        oldest=b"",
        stats={},
    )
    call = play.go(state)
    assert "1234-18446744073709551615" in call.args
    call = play.go(Redriven(0, 5, "7-0", [("1-0", "a"), ("2-0", "b"), ("3-0", "")]))
    assert call.args[-3:] == ["1-0", "2-0", "3-0"]
    assert list(call.keys[-3:]) == [Q.result(name) for name in ("a", "b", "")]
    call = play.go(Redriven(3, 3, "3-0"))
    assert "7-0" in call.args
    play.go(Redriven(0, 0, ""))
    assert (play.result, told) == (3, [3, 3])


# ── what is left of a flow ────────────────────────────────────────────────────────────────────


def test_a_flow_is_taken_up_with_the_call_that_was_under_way() -> None:
    keys = QueueKeys("q")

    def work() -> flows.Flow[str]:
        for receipt in ("r1", "r2"):
            yield from flows.ask(calls.ack(keys, [receipt]))
        return "done"

    rest = flows.Rest(work())
    play = Play(rest.flow())
    assert play.effect.args == ["r1"]
    play.go([])
    with pytest.raises(ServerUnavailable):
        play.go(ServerUnavailable("away"))
    assert not rest.over
    play = Play(rest.flow())
    assert (play.effect.args, play.effect.repeated) == (["r2"], True)
    assert not rest.over
    play.go([])
    assert (play.result, rest.over) == ("done", True)


# ── results ───────────────────────────────────────────────────────────────────────────────────


def test_a_result_that_is_there_costs_one_look() -> None:
    play = Play(flows.await_result("k", None))
    assert play.effect == Get("k", inf)
    play.go(b"1")
    assert play.result == b"1"


def test_a_server_that_is_away_when_a_wait_begins_is_tried_for_no_longer_than_it_lasts() -> None:
    play = Play(flows.await_result("k", 3.0))
    assert isinstance(play.effect, Get)
    assert 2.9 < play.effect.patience <= 3.0
    assert play.go(None) == Listen("k", 0)
    assert play.go(None) == Get("k", 0.0), "then the wait itself goes on"
    for timeout in (0.5, 0.0):
        play = Play(flows.await_result("k", timeout))
        assert isinstance(play.effect, Get)
        assert 0.0 <= play.effect.patience <= timeout


def test_it_listens_before_it_looks_again() -> None:
    play = Play(flows.await_result("k", None))
    play.go(None)
    assert play.effect == Listen("k", 0)
    assert play.go(None) == Get("k")
    assert play.go(None) == Listen("k", 5.0)
    play.go(b"told")
    assert play.result == b"told"


def test_it_listens_before_it_looks_also_after_its_connection_was_lost() -> None:
    """Else what is told between its look and its next subscription is heard of 5 s later."""
    play = Play(flows.await_result("k", None))
    for answer in (None, None, None):
        play.go(answer)
    assert play.go(None) == Get("k"), "the connection was lost, or 5 s are over"
    assert play.go(None) == Listen("k", 0)
    assert play.go(None) == Get("k")
    assert play.go(b"1") is None
    assert play.result == b"1"


def test_no_time_no_listening() -> None:
    play = Play(flows.await_result("k", 0))
    play.go(None)
    assert play.over
    assert play.result is None


def test_a_server_that_goes_away_is_waited_for_until_the_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    play = Play(flows.await_result("k", 2))
    play.go(None)
    play.go(None)
    assert isinstance(play.go(ServerUnavailable("gone")), Sleep)
    assert play.go(None) == Listen("k", 0), "it subscribes anew"
    play.go(None)
    assert play.go(None) == Listen("k", 2)
    now[0] += 2
    play.go(None)
    play.go(None)
    assert play.over
    assert play.result is None
    with pytest.raises(ServerUnavailable):
        Play(flows.await_result("k", 2)).go(ServerUnavailable("never there"))


def test_a_server_that_is_away_is_asked_twice_a_second_or_less_often_than_twenty_times() -> None:
    play, pauses = Play(flows.await_result("k", None)), set()
    play.go(None)
    for _ in range(40):
        play.go(None)
        assert isinstance(play.go(ServerUnavailable("gone")), Sleep)
        pauses.add(play.effect.seconds)
        play.go(None)
    assert min(pauses) >= 0.05
    assert max(pauses) <= 0.5
    assert len(pauses) > 20


def test_less_than_a_second_is_listened_to_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    play = Play(flows.await_result("k", 0.25))
    for answer in (None, None):
        play.go(answer)
    assert play.go(None) == Listen("k", 0.25)


def test_how_far_the_holder_is_is_said_twice_a_second_when_it_changed() -> None:
    heard: list[calls.Progress] = []
    play = Play(flows.await_result("k", None, flows.follow(Q, "m", heard.append)))
    play.go(None)
    assert play.effect == Listen("k", 0)
    half, done = calls.Progress(0.5, "half"), calls.Progress(1.0, "done")
    for progress in (None, half, half, done):
        assert play.go(None) == Get("k")
        assert play.go(None).script.name == "find"
        assert play.effect.args[3] == 0, "only by its record"
        assert play.go(calls.MessageStatus("m", "held", 1, progress=progress)) == Listen("k", 0.5)
    assert heard == [half, done]
    play.go(None)
    assert play.go(b"1") is None, "with the result nothing is looked for"
    assert play.result == b"1"


# ── times ─────────────────────────────────────────────────────────────────────────────────────


def test_no_time_is_left_once_it_is_to_stop() -> None:
    stop = threading.Event()
    assert flows.seconds_left(None, stop) is None
    stop.set()
    assert flows.seconds_left(None, stop) == 0


# ── pace ──────────────────────────────────────────────────────────────────────────────────────


def test_a_consumer_begins_with_one_and_claims_more_as_long_as_it_is_quick() -> None:
    pace, limits = Pace(50), []
    for _ in range(8):
        limits.append(pace.limit)
        pace.took(0.001 * pace.limit, pace.limit)
    assert limits == [1, 2, 4, 8, 16, 32, 50, 50]


def test_no_more_is_claimed_than_half_a_second_of_work() -> None:
    pace = Pace(64)
    pace.took(0.5, 1)
    assert pace.limit == 1
    for _ in range(9):
        pace.took(0.1 * pace.limit, pace.limit)
    assert pace.limit in (4, 5)
    pace.took(3600, 1)
    pace.took(0, 0)  # which tells nothing
    assert pace.limit == 1


def test_one_long_message_is_forgotten_by_and_by() -> None:
    pace = Pace(64)
    pace.took(2, 1)
    for _ in range(9):
        pace.took(0.001 * pace.limit, pace.limit)
    assert pace.limit == 64


def test_what_several_workers_worked_counts_and_not_when_more_was_asked_for() -> None:
    for workers in (2, 4):
        pace = Pace(64, workers)
        for _ in range(8):
            for _ in range(workers):
                pace.worked(0.1)
            pace.took(3600, 1)
        assert pace.limit == 5 * workers, "half a second of all of them"


def test_with_no_worker_free_one_message_is_claimed_at_least() -> None:
    pace = Pace(64, 2)
    pace.free = 0
    assert pace.limit == 1
    pace.worked(3600)
    pace.took(0, 0)
    assert pace.limit == 1


def test_two_workers_with_room_for_two_claim_ahead_where_they_are_quick() -> None:
    pace = Pace(2, 2)
    pace.free = 0
    pace.worked(0.001)
    pace.took(0, 0)
    assert pace.limit == 2


def test_work_that_takes_no_time_at_all_has_a_pace() -> None:
    pace = Pace(64)
    pace.took(0.0, 1)
    assert pace.limit == 2


@pytest.mark.parametrize("workers", [0, 1001, "7", True])
def test_a_pace_is_of_one_worker_at_least(workers: Any) -> None:
    with pytest.raises(InvalidArgument):
        Pace(5, workers)


@pytest.mark.parametrize("most", [0, 1001, "7", True])
def test_a_pace_has_a_limit_that_a_claim_can_have(most: Any) -> None:
    with pytest.raises(InvalidArgument):
        Pace(most)


# ── types ─────────────────────────────────────────────────────────────────────────────────────

FLOWS = """
from atomq import calls
from atomq.flows import Flow, Get, ask
from atomq.keys import QueueKeys

def right(keys: QueueKeys) -> Flow[int]:
    state = yield from ask(calls.inspect(keys))
    return state.now_ms

def another(keys: QueueKeys) -> Flow[int]:
    state: list[int] = yield from ask(calls.inspect(keys))  # wrong
    return state[0]

def bare(keys: QueueKeys) -> Flow[int]:
    state: list[int] = yield calls.inspect(keys)  # wrong
    return state[0]

def effect() -> Flow[str]:
    return (yield from ask(Get("a")))  # wrong
"""


@pytest.mark.slow
def test_mypy_knows_what_a_flow_is_answered(tmp_path: Path) -> None:
    root = Path(flows.__file__).parents[3]
    file = tmp_path / "their_flows.py"
    file.write_text(FLOWS)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(file)],
        cwd=root,
        capture_output=True,
        text=True,
    )
    lines = [int(line.split(":")[1]) for line in found.stdout.splitlines() if ": error:" in line]
    wrong = [n for n, line in enumerate(FLOWS.splitlines(), 1) if "# wrong" in line]
    assert lines == wrong, found.stdout + found.stderr
