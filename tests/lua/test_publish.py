"""publish: into ready or delayed, whole, each id once."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atomq import calls, scripts
from atomq.calls import Call, Outgoing, Published
from atomq.errors import InvalidArgument, ServerFull, WrongType
from atomq.ids import CallId, Producers
from tests.lua.rig import BAND, Queue, Rig, msg, name_of, names
from tests.servers import full_memory


def test_ready_messages_lie_as_stock_puts_them(q: Queue) -> None:
    """LPUSH in, RPOP out: bytes untouched, one list a priority step."""
    done = q.put("a", "b")
    q.put("c", step=4)

    assert done.count == 2
    assert not done.known
    assert q.db.lrange("q", 0, -1) == [msg("b"), msg("a")]
    assert q.db.lrange(q.keys.ready[3], 0, -1) == [msg("c")]
    assert q.stats == {"published": 3}


def test_step_lists_are_named_as_the_layout_says(q: Queue) -> None:
    q.put("x", step=2)
    name = {"stock": "q\x06\x163", "cluster": "{q}\x06\x163"}[q.keys.layout]
    assert q.db.llen(name) == 1


def test_a_delayed_message_waits_with_its_due_time(q: Queue) -> None:
    before = q.now()
    q.put("a", delay_ms=5000, step=3)

    (held,) = q.delayed.values()
    assert (held.step, held.deliveries, held.raw) == (3, 0, msg("a"))
    assert before + 5000 <= held.deadline <= q.now() + 5000
    assert q.ready == []
    assert q.db.zscore(q.keys.delayed, "a") == 2 * BAND + held.deadline


def test_at_is_the_servers_time_and_the_past_is_now(q: Queue) -> None:
    at = q.now() + 60_000
    q.put("later", at_ms=at)
    q.put("past", at_ms=at - 120_000)
    assert q.delayed["later"].deadline == at
    assert names(q.ready) == ["past"]


def test_where_no_consumer_was_seen_it_may_be_ready_at_once(q: Queue) -> None:
    """Stock workers know no delays of ours."""
    q.put("nobody yet", delay_ms=60_000, alive_ms=5000)
    q.claim(0)
    q.put("somebody", delay_ms=60_000, alive_ms=5000)
    q.db.hset(q.keys.meta, "seen", q.now() - 6000)
    q.put("not lately", delay_ms=60_000, alive_ms=5000)
    assert list(q.delayed) == ["somebody"]
    assert names(q.ready) == ["nobody yet", "not lately"]


def test_the_end_of_time_stays_in_its_own_priority(q: Queue) -> None:
    """A due time beyond a band would be another step's, and due at once."""
    q.put("never", delay_ms=BAND - 1)
    assert q.delayed["never"].deadline == BAND - 1
    assert q.claim().deliveries == []


def test_time_to_live_stands_at_the_head_and_replaces_an_older_one(q: Queue) -> None:
    before = q.now()
    q.put("a", ttl_ms=1000)
    q.put(q.ready[0], ttl_ms=9000)

    for raw, ttl in zip(q.ready, (1000, 9000), strict=True):
        assert raw.startswith(b'{"x-expires":')
        assert raw.count(b"x-expires") == 1
        assert before + ttl <= json.loads(raw)["x-expires"] <= q.now() + ttl


def test_a_time_to_live_leaves_the_count_where_it_is(q: Queue) -> None:
    q.put(b'{"x-deliveries":2,"body":"a"}', ttl_ms=60_000)
    assert json.loads(q.ready[0])["x-deliveries"] == 2
    assert q.take()[0].deliveries == 3


def test_groups_of_settings_keep_their_order_in_one_call(q: Queue) -> None:
    mixed = [
        Outgoing(msg("a"), "a"),
        Outgoing(msg("b"), "b", step=2),
        Outgoing(msg("c"), "c"),
        Outgoing(msg("d"), "d", delay_ms=1000),
        Outgoing(msg("e"), "e", ttl_ms=1000),
    ]
    assert q.run(calls.publish(q.keys, mixed)).count == 5
    assert names(q.ready) == ["a", "c", "e", "b"]
    assert list(q.delayed) == ["d"]


@pytest.mark.parametrize("many", [1, 1000])
def test_a_call_takes_a_thousand(q: Queue, many: int) -> None:
    assert q.put(*range(many)).count == many
    assert names(q.ready) == [str(i) for i in range(many)]


def test_a_thousand_and_one_are_refused(q: Queue) -> None:
    with pytest.raises(InvalidArgument):
        q.put(*range(1001))


@pytest.mark.parametrize("raw", [b"", b"{", b"{}", b"[1]", b"null", b"\x80abc", b' {"a":1}'])
def test_what_is_no_envelope_is_refused_whole(q: Queue, raw: bytes) -> None:
    with pytest.raises(InvalidArgument, match="message"):
        q.run(calls.publish(q.keys, [Outgoing(msg("good"), "1"), Outgoing(raw, "2")]))
    assert q.ready == []


# ── once ──────────────────────────────────────────────────────────────────────────────────────


ONE = {"plain": {}, "in full": {"step": 2}}


@pytest.fixture(params=ONE)
def one(request: pytest.FixtureRequest, q: Queue) -> Callable[[str, CallId], Call[Published]]:
    """A publish of one message, which goes the short way of the script or not."""

    def publish(name: str, call_id: CallId) -> Call[Published]:
        outgoing = [Outgoing(msg(name), name, **ONE[request.param])]
        return calls.publish(q.keys, outgoing, call_id=call_id)

    return publish


def test_the_same_call_twice_puts_once(q: Queue, one: Any) -> None:
    call = one("a", CallId("p"))
    first, second = q.run(call), q.run(call)
    assert (first.repeated, second.repeated) == (False, True)
    assert second.count == 1
    assert names(q.ready) == ["a"]
    assert q.stats["published"] == 1


def test_a_late_twin_of_an_answered_call_puts_nothing_however_much_came_since(
    q: Queue, one: Any
) -> None:
    """A first try that lay in a socket while its second was answered, and many calls more."""
    early = one("early", CallId("p", 3))
    q.run(early)
    for n in range(4, 200):
        q.run(one(f"m{n}", CallId("p", n)))
    late = q.run(early)
    assert (late.count, late.repeated) == (1, True)
    assert names(q.ready).count("early") == 1
    assert not q.run(one("next", CallId("p", 200))).repeated, "it says nothing of later calls"
    assert len(q.ready) == 198


def test_a_call_that_was_not_carried_out_is_when_it_comes_again(q: Queue, one: Any) -> None:
    """Its number was skipped for other queues, or refused."""
    q.run(one("a", CallId("p", 1)))
    assert not q.run(one("b", CallId("p", 9)).again()).repeated
    assert names(q.ready) == ["a", "b"]


def test_producers_and_queues_are_counted_apart(rig: Rig) -> None:
    for name in ("q", "other"):
        queue = rig.queue(name)
        for producer in ("p", "p2"):
            outgoing = [Outgoing(msg(producer), "")]
            assert not queue.run(
                calls.publish(queue.keys, outgoing, call_id=CallId(producer))
            ).repeated
        assert names(queue.ready) == ["p", "p2"]


def test_a_producer_is_remembered_for_its_window_and_passes_by_itself(q: Queue, one: Any) -> None:
    key = q.keys.producer("p")
    for n in (1, 2):
        q.run(one("a", CallId("p", n)))
        assert 239_000 < q.db.pttl(key) <= 240_000
        q.db.pexpire(key, 1000)
    outgoing = [Outgoing(msg("a"), "a")]
    q.run(calls.publish(q.keys, outgoing, call_id=CallId("p", 3), window_ms=600_000))
    assert 1_199_000 < q.db.pttl(key) <= 1_200_000
    assert q.db.get(key) == b"3"


def test_a_call_without_an_id_leaves_nothing_behind(q: Queue) -> None:
    assert not q.run(calls.publish(q.keys, [Outgoing(msg("a"), "a")])).repeated
    assert not q.run(calls.publish(q.keys, [Outgoing(msg("b"), "b", step=2)])).repeated
    assert not list(q.db.scan_iter("*producer*"))


def test_what_a_call_leaves_behind_does_not_grow_with_the_calls(q: Queue) -> None:
    """It was an id a call, for two to four minutes."""
    producers = Producers()

    def left(n: int) -> int:
        for _ in range(n):
            q.run(calls.publish(q.keys, [Outgoing(msg("a"), "a")], call_id=producers.next()))
        q.db.ltrim("q", 1, 0)
        return sum(q.db.memory_usage(key) for key in q.db.scan_iter())

    left(100)
    assert left(1000) < left(1) + 100, "and a longer number"


def test_a_publish_costs_seven_commands_at_most(q: Queue) -> None:
    """Nine and more, each of which costs a server as much as the rest of it."""

    def ran(name: str, number: int) -> int:
        q.db.config_resetstat()
        call_id = CallId("p", number)
        q.run(calls.publish(q.keys, [Outgoing(msg(name), "")], call_id=call_id))
        stats = q.db.info("commandstats")
        beside = ("cmdstat_config", "cmdstat_info")
        return sum(n["calls"] for name, n in stats.items() if not name.startswith(beside))

    q.put("x")
    assert ran("a", 1) == 6, "the first of a producer"
    assert ran("a", 2) == 5
    q.db.delete(q.keys.wake)
    assert ran("b", 3) == 7, "a consumer is to be woken"


def test_an_id_is_put_once_a_window(q: Queue) -> None:
    done = q.put("a", "b", "a", dedup=True)
    again = q.put("c", "b", dedup=True)
    assert (done.count, done.known) == (2, (2,))
    assert (again.count, again.known) == (1, (1,))
    assert names(q.ready) == ["a", "b", "c"]


def test_positions_of_known_ids_count_over_all_groups(q: Queue) -> None:
    q.put("b", dedup=True)
    mixed = [
        Outgoing(msg("a"), "a"),
        Outgoing(msg("b"), "b", dedup=True),
        Outgoing(msg("c"), "c", dedup=True),
    ]
    assert q.run(calls.publish(q.keys, mixed)).known == (1,)


def test_without_dedup_an_id_may_come_again(q: Queue) -> None:
    q.put("a")
    assert q.put("a").known == ()
    assert len(q.ready) == 2


def test_without_dedup_an_id_may_come_twice_in_a_call(q: Queue) -> None:
    assert q.put("a", "a", at_ms=q.now() - 1000).count == 2
    assert names(q.ready) == ["a", "a"]


def test_a_repeated_call_is_a_write(q: Queue, one: Any) -> None:
    """A WAIT behind it waits for the first: without a write of its own it would not."""
    call = one("a", CallId("p"))
    q.run(call)
    q.db.pexpire(q.keys.producer("p"), 1000)
    assert q.run(call).repeated
    assert 239_000 < q.db.pttl(q.keys.producer("p")) <= 240_000


def test_at_full_memory_a_repeated_call_is_answered_and_a_new_one_refused(
    q: Queue, one: Any
) -> None:
    call = one("a", CallId("p", 2))
    q.run(call)
    with full_memory(q.db):
        assert q.run(call).repeated
        assert q.run(one("late", CallId("p", 1))).repeated
        stored = q.rig.snapshot()
        for call_id in (CallId("p", 3), CallId("p2")):
            with pytest.raises(ServerFull, match="maxmemory"):
                q.run(one("new", call_id))
        assert q.rig.snapshot() == stored
    assert not q.run(one("new", CallId("p", 3))).repeated


def test_a_refused_call_leaves_its_producer_as_it_was(q: Queue, one: Any) -> None:
    """It is refused when its number was written: a retry must not count as done."""
    for number, key in enumerate((q.keys.stats, q.keys.ready[0], q.keys.ready[1]), 1):
        q.run(one("a", CallId("p", number * 10)))
        kept = q.db.dump(key)
        q.db.delete(key)
        q.db.set(key, "not of our making")
        for call_id in (CallId("p", number * 10 + 1), CallId(f"new{number}")):
            producer = q.keys.producer(call_id.producer)
            before = q.db.get(producer)
            try:
                q.run(one("b", call_id))
            except WrongType:
                assert q.db.get(producer) == before
        q.db.delete(key)
        if kept:
            q.db.restore(key, 0, kept)


def test_an_id_that_is_delayed_now_is_not_put_once_more(q: Queue) -> None:
    q.put("a", delay_ms=60_000)
    assert q.put("a", delay_ms=1, step=2, dedup=True).known == (0,)
    assert len(q.delayed) == 1


def test_without_dedup_several_of_one_id_may_be_delayed(q: Queue) -> None:
    """A task of Celery's, say, that is sent twice with one `task_id` and a countdown."""
    later = q.now() + 100
    one, two, three, four = (Outgoing(msg(each), "a", at_ms=later) for each in "1234")
    for some in ([one], [two], [three, four]):
        assert q.run(calls.publish(q.keys, some)).known == ()
    assert "a" in q.delayed
    assert sorted(each.raw for each in q.delayed.values()) == [msg(each) for each in "1234"]
    q.put("a", at_ms=later - 60_000)
    assert names(q.ready) == ["a"], "what is due is not held up by them"


def once(q: Queue, *ids: str, window_ms: int = 300_000, call_id: CallId | None = None) -> Published:
    outgoing = [Outgoing(msg(each), each, dedup=True) for each in ids]
    return q.run(calls.publish(q.keys, outgoing, call_id=call_id, dedup_window_ms=window_ms))


def age_message_ids(q: Queue, ms: int) -> None:
    for each in q.db.zrange(q.keys.ids, 0, -1):
        q.db.zincrby(q.keys.ids, -ms, each)
    q.db.hincrby(q.keys.meta, "ids_end", -ms)


@pytest.mark.parametrize("window_ms", [2000, 120_000, 600_000, 86_400_000])
def test_an_id_is_known_for_its_window_and_no_longer(q: Queue, window_ms: int) -> None:
    """In two generations of sets 2 s were up to 240 s, and 120 s over 200."""
    assert not once(q, "a", window_ms=window_ms).known
    age_message_ids(q, window_ms - 1000)
    assert once(q, "a", window_ms=window_ms).known == (0,)
    age_message_ids(q, 1000)
    assert not once(q, "a", window_ms=window_ms).known
    age_message_ids(q, window_ms - 1000)
    assert once(q, "a", window_ms=window_ms).known == (0,)


def test_each_id_is_known_for_a_window_of_its_own(q: Queue) -> None:
    once(q, "short", window_ms=2000)
    once(q, "long", window_ms=3_600_000)
    age_message_ids(q, 2000)
    assert once(q, "long", "short", window_ms=2000).known == (0,)
    age_message_ids(q, 3_500_000)
    assert once(q, "long", "short", window_ms=2000).known == (0,)


def test_ids_that_the_first_release_remembers_are_known(q: Queue) -> None:
    """It has them in the sets, for a window."""
    q.db.sadd(q.keys.calls, "mnew")
    q.db.sadd(q.keys.calls_old, "mold")
    assert once(q, "new", "old", "other").known == (0, 1)


def test_ids_whose_time_is_over_are_dropped_in_bounded_work(q: Queue) -> None:
    for first in range(0, 3000, 1000):
        once(q, *(str(i) for i in range(first, first + 1000)), window_ms=2000)
    age_message_ids(q, 2000)
    sizes = []
    for i in range(40):
        once(q, f"new{i}", window_ms=2000)
        sizes.append(q.db.zcard(q.keys.ids))
    assert sizes[0] == 3001 - 102
    assert sizes[-1] == 40


def test_ids_of_messages_pass_by_themselves(q: Queue) -> None:
    for window_ms in (2000, 3_600_000, 2000):
        once(q, f"{window_ms}", window_ms=window_ms)
        assert window_ms <= q.db.pttl(q.keys.ids) <= 7_200_000
    assert q.db.pttl(q.keys.ids) > 3_600_000


def test_publishing_an_id_costs_no_more_than_it_did(q: Queue) -> None:
    """17 commands inside, with generations of sets."""
    once(q, "first", call_id=CallId("p"))
    q.db.config_resetstat()
    once(q, "second", call_id=CallId("p", 2))
    others = ("cmdstat_config", "cmdstat_info", "cmdstat_evalsha")
    stats = q.db.info("commandstats")
    ran = {name: n["calls"] for name, n in stats.items() if not name.startswith(others)}
    assert sum(ran.values()) <= 15, ran


def test_a_repeated_call_says_what_the_first_one_left_out(q: Queue) -> None:
    """After a lost reply a put that its id had skipped said that it was new."""
    once(q, "b")
    q.put("c", delay_ms=60_000)
    mixed = [
        Outgoing(msg("a"), "a"),
        Outgoing(msg("b"), "b", dedup=True),
        Outgoing(msg("d"), "d", dedup=True),
        Outgoing(msg("c"), "c", delay_ms=1000, dedup=True),
        Outgoing(msg("e"), "e", step=2),
    ]
    call = calls.publish(q.keys, mixed, call_id=CallId("p", 7))
    first, second = q.run(call), q.run(call.again())
    assert (first.count, first.known, first.repeated) == (3, (1, 3), False)
    assert (second.count, second.known, second.repeated) == (3, (1, 3), True)
    assert q.stats["published"] == 5
    assert q.db.get(q.keys.producer("p")) == b"7 2 4"
    plain = [Outgoing(msg("t"), "t")]
    assert not q.run(calls.publish(q.keys, plain, call_id=CallId("p", 8))).repeated
    assert q.db.get(q.keys.producer("p")) == b"8"
    assert q.run(call.again()).repeated


def test_a_new_message_forgets_the_result_of_an_older_one_with_its_id(q: Queue) -> None:
    for each in ("a", "b", "other"):
        q.db.set(q.keys.result(each), "old", px=60_000)
    once(q, "b")
    q.db.set(q.keys.result("b"), "of this one", px=60_000)
    assert once(q, "a", "b", "c").known == (1,)
    assert [q.result(each) for each in ("a", "b", "other")] == [None, b"of this one", b"old"]


def test_a_publish_that_is_refused_forgets_no_result(q: Queue) -> None:
    q.db.set(q.keys.result("a"), "old", px=60_000)
    with full_memory(q.db), pytest.raises(ServerFull):
        once(q, "a")
    assert q.result("a") == b"old"


def test_a_key_of_results_is_not_looked_at_for_its_type(q: Queue) -> None:
    q.db.set(q.keys.result("a"), "old", px=60_000)
    q.db.set(q.keys.ids, "not of our making")
    with pytest.raises(WrongType, match="ids is not"):
        once(q, "a")
    q.db.delete(q.keys.ids)
    assert once(q, "a").count == 1


# ── in any order, by any release ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(3))
def test_calls_in_any_order_and_number_put_each_message_once(q: Queue, seed: int) -> None:
    """Callers at once, answers that are lost, tries that are read late: over connections of all.

    What was answered is there once, what was given up at most once, whatever is read afterwards.
    """
    chance = random.Random(seed)
    producers = Producers()
    calling: list[Call[Published]] = []
    in_sockets: list[Call[Published]] = []
    answered, given_up, n = set(), set(), 0
    for _ in range(800):
        turn = chance.random()
        if turn < 0.3 and len(calling) < 8:
            n += 1
            more = chance.choice(({}, {}, {"step": 2}))
            outgoing = [Outgoing(msg(n), str(n), **more)]
            calling.append(calls.publish(q.keys, outgoing, call_id=producers.next()))
        elif turn < 0.4 and in_sockets:
            q.run(_twin(in_sockets.pop(chance.randrange(len(in_sockets)))))
        elif calling:
            call = calling.pop(chance.randrange(len(calling)))
            name = name_of(call.args[-1])
            if turn < 0.5:  # sent again, while the first try lies in a socket
                in_sockets.append(call)
                calling.append(call.again())
            elif turn < 0.6:  # carried out, and the answer is lost
                q.run(_twin(call))
                calling.append(call.again())
            elif turn < 0.65:
                in_sockets.append(call)
                given_up.add(name)
            else:
                assert q.run(call).count == 1
                answered.add(name)
    for call in in_sockets * 2:
        q.run(_twin(call))
    found = names(q.ready)
    assert len(found) == len(set(found))
    assert (
        answered <= set(found) <= answered | given_up | {name_of(call.args[-1]) for call in calling}
    )
    assert len(answered) > 100
    assert len(given_up) > 10
    assert len(list(q.db.scan_iter("*producer*"))) <= 8 + len(given_up)


def _twin(call: Call[Published]) -> Call[Published]:
    """The same bytes; whatever they answer reaches no caller."""
    return Call(call.script, call.queue, call.keys, call.args, lambda reply, _: reply)


OLDER = Path(__file__).parent / "older" / "publish.lua"


def _older_keys(q: Queue) -> list[str]:
    return [*q.keys.later, q.keys.calls, q.keys.calls_old, *q.keys.publish]


def _of_eight(settings: str) -> str:
    """As it has them: nothing is tracked."""
    return settings.removesuffix(" 0") if settings else settings


@pytest.mark.parametrize("more", [{}, {"step": 2}, {"delay_ms": 60_000}], ids=str)
def test_the_release_before_publishes_beside(q: Queue, more: dict[str, Any]) -> None:
    """14144c1 runs scripts of its own, and remembers an id a call: so does each what it did."""
    sha = q.db.script_load(OLDER.read_text())

    def older(name: str, call_id: str) -> bytes:
        call = calls.publish(q.keys, [Outgoing(msg(name), name, **more)])
        keys = _older_keys(q)
        args = [call_id, _of_eight(call.args[2]), *call.args[3:]]
        return bytes(q.db.execute_command("EVALSHA", sha, len(keys), *keys, *args))

    def put(name: str, number: int) -> Published:
        outgoing = [Outgoing(msg(name), name, **more)]
        return q.run(calls.publish(q.keys, outgoing, call_id=CallId("p", number)))

    put("new1", 1)
    assert older("old1", "p-1").split()[2:4] == [b"1", b"0"]
    assert not put("new2", 2).repeated
    assert older("old2", "p-2").split()[2:4] == [b"1", b"0"]
    assert put("new2", 2).repeated
    assert older("old1", "p-1").split()[2:4] == [b"1", b"1"]
    assert put("new1", 1).repeated
    assert q.stats["published"] == 4
    assert sorted(q.places()) == ["new1", "new2", "old1", "old2"]
    q.run(calls.purge(q.keys, ready=True, delayed=True, settings=True))
    assert all(b".producer." in key for key in q.db.scan_iter())


def test_an_id_that_the_release_before_put_is_known(q: Queue) -> None:
    sha = q.db.script_load(OLDER.read_text())
    call = calls.publish(q.keys, [Outgoing(msg("a"), "a", dedup=True)])
    keys = _older_keys(q)
    q.db.execute_command(
        "EVALSHA", sha, len(keys), *keys, "", _of_eight(call.args[2]), *call.args[3:]
    )
    assert once(q, "a", "b").known == (0,)


# ── the plain way and the full one ────────────────────────────────────────────────────────────


def _in_full(q: Queue, call: Call[Published]) -> Published:
    """The same publish by the script without its short way."""
    text = scripts.get("publish").text
    short = "local is_plain = "
    assert text.count(short) == 1
    sha = q.db.script_load(text.replace(short, "local is_plain = false and "))
    reply = q.db.execute_command("EVALSHA", sha, len(call.keys), *call.keys, *call.args)
    return call.parse(reply, call.repeated)


@pytest.mark.parametrize("seed", range(4))
def test_plain_publishes_do_what_publishes_in_full_do(rig: Rig, seed: int) -> None:
    """What nearly all publishes are has a short way of its own, to the same end."""
    chance = random.Random(seed)
    ours, full = rig.queue("ours"), rig.queue("full")
    for turn in range(60):
        number = chance.choice((0, turn + 1, turn + 1, turn))
        call_id = CallId("p", number) if number else None
        sizes = [chance.choice((0, 0, 0, 9000, 12_000)) for _ in range(chance.choice((1, 1, 5)))]
        extra: dict[str, Any] = chance.choice(
            ({}, {}, {}, {"dedup": True}, {"delay_ms": 60_000}, {"step": 2})
        )
        messages = [
            Outgoing(msg(f"{turn}.{i}", size=size), f"{turn // 2}.{i}", **extra)
            for i, size in enumerate(sizes)
        ]
        if chance.random() < 0.1:
            messages.append(Outgoing(b'{"x-deliveries":3,"body":"%d"}' % turn, "odd"))
        told = []
        for q, run in ((ours, Queue.run), (full, _in_full)):
            told.append(run(q, calls.publish(q.keys, messages, call_id=call_id)))
            if turn % 7 == 0:
                q.take(3)
        assert told[0] == told[1]
        for part in ("ready", "tokens", "stats"):
            assert getattr(ours, part) == getattr(full, part), part
        assert {n: v.raw for n, v in ours.delayed.items()} == {
            n: v.raw for n, v in full.delayed.items()
        }
        assert ours.db.get(ours.keys.producer("p")) == full.db.get(full.keys.producer("p"))
        assert ours.meta.get("largest") == full.meta.get("largest")


# ── tokens ────────────────────────────────────────────────────────────────────────────────────


def test_one_token_whatever_is_put(q: Queue) -> None:
    q.put("a", "b")
    q.put("c")
    assert q.tokens == 1


@pytest.mark.parametrize("more", [{}, {"step": 2}, {"delay_ms": 9000}], ids=str)
def test_a_paused_queue_wakes_nobody(q: Queue, more: dict[str, int]) -> None:
    q.run(calls.pause(q.keys))
    q.put("a", **more)
    assert q.tokens == 0


def test_a_delayed_message_wakes_only_if_it_is_the_next(q: Queue) -> None:
    q.put("first", delay_ms=50_000)
    assert q.tokens == 1
    assert q.claim().wait_ms is not None  # somebody waits for it now
    q.put("later", delay_ms=60_000)
    assert q.tokens == 0
    q.put("sooner", delay_ms=40_000)
    assert q.tokens == 1


def test_the_largest_message_is_remembered_for_claims(q: Queue) -> None:
    q.put("a")
    assert "largest" not in q.meta  # below 8 KiB it limits nothing
    big = msg("b", size=20_000)
    q.put(big)
    q.put("c")
    assert int(q.meta["largest"]) == len(big)
    assert name_of(q.ready[1]) == "b"


@pytest.mark.parametrize("step", [1, 3])
def test_what_is_put_into_a_queue_that_expires_expires_with_it(q: Queue, step: int) -> None:
    """A producer that declared it keeps nothing alive: who waits for a reply does."""
    q.run(calls.touch(q.keys, 5000))
    q.put("a", step=step)
    q.put("b", step=step)  # a token is there

    kept = [q.keys.wake, q.keys.meta, q.keys.stats, q.keys.ready[step - 1]]
    assert all(0 < q.db.pttl(key) <= 5000 for key in kept)
    assert q.keys.noted == float("inf")
    q.db.delete(q.keys.ready[0])
    q.run(calls.publish(q.keys, [Outgoing(msg("c"), "c")], call_id=Producers().next()))
    assert 0 < q.db.pttl(q.keys.ready[0]) <= 5000, "a producer that is new"
