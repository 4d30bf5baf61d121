"""publish: into ready or delayed, whole, each id once."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from atomq import calls, scripts
from atomq.calls import Call, Outgoing, Published
from atomq.errors import InvalidArgument, ServerFull, WrongType
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
    assert abs(done.now_ms - q.now()) < 1000


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


def test_the_same_call_twice_puts_once(q: Queue) -> None:
    call = calls.publish(q.keys, [Outgoing(msg("a"), "a")], call_id="call")
    first, second = q.run(call), q.run(call)
    assert (first.repeated, second.repeated) == (False, True)
    assert second.count == 1
    assert names(q.ready) == ["a"]
    assert q.stats["published"] == 1


@pytest.mark.parametrize("more", [{}, {"step": 2}], ids=["plain", "in full"])
def test_a_call_is_known_for_a_whole_window_after_the_generations_turned(
    q: Queue, more: dict[str, int]
) -> None:
    call = calls.publish(q.keys, [Outgoing(msg("a"), "a", **more)], call_id="call")
    q.run(call)
    age_ids(q, 122_000)
    q.run(calls.publish(q.keys, [Outgoing(msg("b"), "b", **more)], call_id="turns"))
    assert not q.db.sismember(q.keys.calls, "ccall")
    assert q.run(call).repeated
    assert sorted(names(q.ready)) == ["a", "b"]


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


def test_a_repeated_call_is_a_write(q: Queue) -> None:
    """A WAIT behind it waits for the first: without a write of its own it would not."""
    call = calls.publish(q.keys, [Outgoing(msg("a"), "a")], call_id="c")
    q.run(call)
    q.db.pexpire(q.keys.calls, 1000)
    assert q.run(call).repeated
    assert 120_000 < q.db.pttl(q.keys.calls) <= 240_000


def test_an_id_that_is_delayed_now_is_never_put_again(q: Queue) -> None:
    q.put("a", delay_ms=60_000)
    assert q.put("a", delay_ms=1, step=2).known == (0,)
    assert len(q.delayed) == 1


def age_ids(q: Queue, ms: int) -> None:
    """Let the younger generation of ids be so much older."""
    q.db.hset(q.keys.meta, "calls_turn", int(q.meta["calls_turn"]) - ms // 1000)


def once(q: Queue, *ids: str, window_ms: int = 300_000, call_id: str = "") -> Published:
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
    """It has them in the sets, for a window that it has written down."""
    q.db.sadd(q.keys.calls, "mnew")
    q.db.sadd(q.keys.calls_old, "mold")
    turn = q.now() // 1000 + 600
    q.db.hset(q.keys.meta, mapping={"calls_window": 600_000, "calls_turn": turn})
    assert once(q, "new", "old", "other").known == (0, 1)
    age_ids(q, 601_000)
    once(q, "turns", call_id="turns")
    assert once(q, "new").known == (0,)
    assert int(q.meta["calls_turn"]) >= q.now() // 1000 + 600 - 2
    age_ids(q, 601_000)
    once(q, "turns again", call_id="turns again")
    assert once(q, "new").known == ()


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
    once(q, "first", call_id="first")
    q.db.config_resetstat()
    once(q, "second", call_id="second")
    others = ("cmdstat_config", "cmdstat_info", "cmdstat_evalsha")
    stats = q.db.info("commandstats")
    ran = {name: n["calls"] for name, n in stats.items() if not name.startswith(others)}
    assert sum(ran.values()) <= 17, ran


def test_a_repeated_call_says_what_the_first_one_left_out(q: Queue) -> None:
    """After a lost reply a put that its id had skipped said that it was new."""
    once(q, "b")
    q.put("c", delay_ms=60_000)
    mixed = [
        Outgoing(msg("a"), "a"),
        Outgoing(msg("b"), "b", dedup=True),
        Outgoing(msg("d"), "d", dedup=True),
        Outgoing(msg("c"), "c", delay_ms=1000),
        Outgoing(msg("e"), "e", step=2),
    ]
    call = calls.publish(q.keys, mixed, call_id="call")
    first, second = q.run(call), q.run(call.again())
    assert (first.count, first.known, first.repeated) == (3, (1, 3), False)
    assert (second.count, second.known, second.repeated) == (3, (1, 3), True)
    assert q.stats["published"] == 5
    age_ids(q, 122_000)
    q.run(calls.publish(q.keys, [Outgoing(msg("t"), "t")], call_id="turns"))
    assert q.run(call.again()).known == (1, 3)


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


def test_remembered_ids_pass_by_themselves(q: Queue) -> None:
    before = q.now()
    q.run(calls.publish(q.keys, [Outgoing(msg("a"), "a")], call_id="c"))
    assert int(q.meta["calls_turn"]) >= before // 1000 + 120
    assert 120_000 < q.db.pttl(q.keys.calls) <= 240_000
    age_ids(q, 122_000)
    q.run(calls.publish(q.keys, [Outgoing(msg("b"), "b")], call_id="d"))
    assert 120_000 < q.db.pttl(q.keys.calls_old) <= 240_000
    assert q.db.smembers(q.keys.calls) == {b"cd"}
    assert 120_000 < q.db.pttl(q.keys.calls) <= 240_000


def test_the_longest_window_that_was_asked_for_is_kept(q: Queue) -> None:
    """Two minutes, or more if a call wants it; then it is two minutes again."""

    def call(name: str, **windows: int) -> None:
        q.run(calls.publish(q.keys, [Outgoing(msg(name), name)], call_id=name, **windows))

    call("a")
    turn = int(q.meta["calls_turn"])
    call("b")
    assert int(q.meta["calls_turn"]) == turn
    call("c", window_ms=3_600_000)
    assert int(q.meta["calls_turn"]) >= turn + 3600 - 120
    assert q.db.pttl(q.keys.calls) > 7_000_000
    call("d", window_ms=200_000)
    assert q.meta["calls_window"] == "3600000"
    age_ids(q, 3_602_000)
    call("e")  # turns: what lies in the older generation has its hour
    assert q.db.sismember(q.keys.calls_old, "cc")
    assert int(q.meta["calls_turn"]) >= q.now() // 1000 + 3600 - 1
    assert q.meta["calls_window"] == "120000"
    age_ids(q, 3_602_000)
    call("f")
    assert not q.db.sismember(q.keys.calls_old, "cc")
    assert int(q.meta["calls_turn"]) <= q.now() // 1000 + 121


def test_the_id_of_a_call_has_a_window_beside_those_of_its_messages(q: Queue) -> None:
    outgoing = [Outgoing(msg("a"), "a", dedup=True)]
    q.run(calls.publish(q.keys, outgoing, call_id="c", dedup_window_ms=2000, window_ms=600_000))
    assert q.meta["calls_window"] == "600000"
    assert q.db.zscore(q.keys.ids, "a") <= q.now() + 2000


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
        call_id = chance.choice(("", f"c{turn}", f"c{turn}", f"c{turn - 1}"))
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
            if turn % 20 == 19 and "calls_turn" in q.meta:
                age_ids(q, 122_000)
        assert told[0][1:] == told[1][1:]
        for part in ("ready", "tokens", "stats"):
            assert getattr(ours, part) == getattr(full, part), part
        assert {n: v.raw for n, v in ours.delayed.items()} == {
            n: v.raw for n, v in full.delayed.items()
        }
        assert ours.db.smembers(ours.keys.calls) == full.db.smembers(full.keys.calls)
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
