"""What a call says, how its answer is read, and what is refused before it is sent. No server."""

from __future__ import annotations

import gc
import sys
from collections import UserList
from itertools import chain
from types import FrameType
from typing import Any

import pytest

from atomq import calls
from atomq.arguments import LARGEST
from atomq.calls import Call, Outgoing, Published, Rejection, Verdict, base
from atomq.calls.base import as_pairs, as_text, check_items, check_names, check_reason, check_size
from atomq.calls.registering import GONE, IN_USE
from atomq.conversation import packed
from atomq.errors import InvalidArgument, InvalidMessage
from atomq.ids import CallId
from atomq.keys import QueueKeys

Q, R = QueueKeys("q"), QueueKeys("r")
A = QueueKeys("a", layout="cluster")
DONE, LOST, UNKNOWN, AGAIN = Verdict.DONE, Verdict.LOST, Verdict.UNKNOWN, Verdict.AGAIN


def claims(*queues: QueueKeys, **more: Any) -> calls.Claims:
    return calls.Claims(queues or [Q], lease_ms=60_000, **more)


# ── a call ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "call",
    [
        calls.ack(Q, ["a", "b"]),
        calls.purge(Q, ready=True),
        claims().call("c-1", 1),
        claims(Q, R).call("c-1", 1),
        calls.publish(Q, [Outgoing("m", "i")]),
        calls.publish(Q, [Outgoing(b"\xff", "i", dedup=True)]),
        calls.inspect(Q),
    ],
)
def test_a_call_goes_out_as_its_words_say(call: Call[Any]) -> None:
    for _ in range(2):
        assert call.packed() == packed(call.command()), "packed once, and again"
    words = call.command()
    assert words[:3] == ("EVALSHA", call.script.sha, len(call.keys))
    assert words[3:] == (*call.keys, *call.args)


def test_a_call_that_is_sent_again_says_so_and_counts_to_nine() -> None:
    call = claims().call("c-1", 20)
    call.durability, call.noted = object(), 3  # type: ignore[assignment]
    for attempt in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9):
        assert (call.args[1], call.repeated, call.large) == (attempt, attempt > 0, True)
        assert call.noted == 3
        assert call.durability is not None
        call = call.again()
    one = calls.ack(Q, ["a"])
    assert (one.again().args, one.again().repeated) == (["a"], True)
    there = call.at(("a", 1))
    assert (there.place, there.repeated, there.args[1], call.place) == (("a", 1), True, 9, None)
    assert there.again().args[1] == 9
    assert (there.brief, there.large, there.noted) == (False, True, 3)
    assert (one.noted, one.repeated, one.large, one.brief) == (0, False, False, False)


# ── what became of each item ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("repeated", [False, True])
def test_one_that_is_not_there_is_lost_unless_an_earlier_try_may_have_done_it(
    repeated: bool,
) -> None:
    gone = UNKNOWN if repeated else LOST
    assert calls.ack(Q, ["a", "b", "c"]).parse([1, 3], repeated) == [gone, DONE, gone]
    assert calls.complete(Q, [("a", "i", "1"), ("b", "j", "2")]).parse([2], repeated) == [
        DONE,
        gone,
    ]
    assert calls.release(Q, [("a", "i")] * 3).parse([0, 1, 2], repeated) == [gone, DONE, AGAIN]
    assert calls.extend(Q, ["a", "b", "c"], lease_ms=9).parse([-3, 1], repeated) == [
        gone,
        DONE,
        Verdict.CANCELLED,
    ]
    assert calls.extend(Q, ["a"], lease_ms=9).parse([-1], repeated) == [Verdict.CANCELLED]
    assert calls.cancel(Q, ["i", "j"]).parse([2], repeated) == [DONE, gone]


def test_what_is_tracked_is_acked_last_and_each_verdict_is_that_of_its_receipt() -> None:
    words = ["a i", "b", "c j", "d"]
    call = calls.ack(Q, words)
    assert call.args == ["b", "d", "a i", "c j"]
    assert [*call.keys] == [*Q.ack, *Q.tracked]
    assert call.parse([1, 3], False) == [LOST, LOST, DONE, DONE]
    assert [*calls.ack(Q, ["b"]).keys] == [*Q.ack]
    items = [(word, name, "1") for word, name in zip(words, "wxyz", strict=True)]
    done = calls.complete(Q, items)
    assert done.args[2:] == ["b", "1", "d", "1", "a i", "1", "c j", "1"]
    assert [*done.keys] == [*Q.complete, *(Q.result(name) for name in "xzwy")]
    assert done.parse([2, 4], False) == [DONE, DONE, LOST, LOST]
    call = claims(Q, R).call("c-1", 1, acks=[words, ["e"]])
    assert call.args[10:] == [4, "b", "d", "a i", "c j", 1, "e"]
    assert claims().call("c-1", 1, acks=[["a i", "b"]]).args[10:] == [2, "b", "a i"]
    assert call.parse([b"0 -1 0 0 -1 0 1 3 2 1"], False).lost_acks == (("q", "a i"), ("r", "e"))
    assert call.parse([b"0 -1 0 0 -1 0 1 3 2 1"], True).lost_acks == ()


# ── what is sent ──────────────────────────────────────────────────────────────────────────────


def test_how_a_message_is_given_back() -> None:
    assert calls.release(Q, [("a", "i"), ("b", "j")]).args == [
        *(0, 0, 1, calls.MAX_BYTES),
        *("a", "i", "b", "j"),
    ]
    call = calls.release(Q, [("a", "")], delay_ms=7, front=True, counted=False, max_bytes=9)
    assert call.args[:4] == [7, 1, 0, 9]
    for bad in (-1, (1 << 42) + 1):
        with pytest.raises(InvalidArgument, match="delay_ms"):
            calls.release(Q, [("a", "")], delay_ms=bad)
    assert calls.release(Q, [("a", "")], delay_ms=1 << 42).args[0] == 1 << 42


@pytest.mark.parametrize(
    ("lease", "renew", "said"),
    [(0, None, 1), (2, None, 1), (9, None, 3), (60_000, None, 20_000), (90_000, None, 20_000)],
)
def test_how_often_a_lease_is_renewed(lease: int, renew: int | None, said: int) -> None:
    assert calls.extend(Q, ["a"], lease_ms=lease, renew_ms=renew).args == [lease, said, 0, "a"]
    assert calls.extend(Q, ["a"], lease_ms=lease, renew_ms=5, beside=True).args[1:3] == [5, 1]


def test_a_lease_lasts_for_a_leap_year_at_most() -> None:
    year = 366 * 24 * 3600 * 1000
    assert calls.extend(Q, ["a"], lease_ms=year).args[0] == year
    for lease in (1, year):
        assert calls.Claims([Q], lease_ms=lease).call("c", 1).args[3] == lease
    for lease in (0, year + 1):
        with pytest.raises(InvalidArgument, match="lease_ms"):
            calls.Claims([Q], lease_ms=lease)
    for lease in (-1, year + 1):
        with pytest.raises(InvalidArgument, match="lease_ms"):
            calls.extend(Q, ["a"], lease_ms=lease)


def test_what_is_said_of_a_dead_letter() -> None:
    items = [Rejection("a", "i", "bad"), Rejection("b", "j", "worse", "x" * 5000, "1")]
    call = calls.reject(Q, items)
    assert call.args[:4] == [86_400_000, 0, calls.MAX_BYTES, Q.keep]
    assert call.args[4:8] == ["a", "bad", "", ""]
    assert (call.args[8:10], len(call.args[10]), call.args[11]) == (["b", "worse"], 4096, "1")
    assert [*call.keys] == [*Q.reject, Q.result("i"), Q.result("j")]
    assert calls.reject(A, items).args[1] == 1, "each lies in the slot of its queue"
    one = calls.dead_letter(Q, b"m", call_id="c", reason="bad", detail="x" * 5000)
    assert (one.args[:3], len(one.args[3]), one.args[4:]) == (
        ["c", 0, "bad"],
        4096,
        [1, Q.keep, b"m"],
    )
    assert one.again().args[1] == 1
    assert [one.parse(reply, False) for reply in (0, 1)] == [False, True]
    for step in (0, 11):
        with pytest.raises(InvalidArgument, match="step"):
            calls.dead_letter(Q, b"m", call_id="c", reason="bad", step=step)
    assert calls.dead_letter(Q, b"m", call_id="c", reason="bad", step=10).args[4] == 10


def test_results_last_for_a_day_unless_it_is_said() -> None:
    for call in (
        calls.complete(Q, [("a", "i", "1")]),
        calls.tell(Q, [("i", "1")]),
        calls.reject(Q, [Rejection("a", "i", "bad")]),
    ):
        assert call.args[0] == 24 * 3600 * 1000
    assert calls.complete(Q, [("a", "i", "1")], ttl_ms=5).args == [5, 0, "a", "1"]
    assert calls.tell(A, [("i", "1"), ("j", "2")], ttl_ms=5).args == [5, 1, "1", "2"]
    assert calls.tell(Q, [("i", "1")]).parse(1, False) == 1
    assert calls.failed("i", "bad", 'a "b"') == (
        '{"id": "i", "state": "failed", "reason": "bad: a \\"b\\""}'
    )
    assert calls.failed("i", "bad").endswith('"reason": "bad"}')


# ── publishing ────────────────────────────────────────────────────────────────────────────────


def test_plain_messages_say_nothing_of_themselves() -> None:
    call = calls.publish(Q, [Outgoing("m", "i"), Outgoing("n", "j")])
    assert [*call.args] == [0, 2 * 120_000, "", "m", "n"]
    assert [*call.keys] == [Q.producer(""), Q.wake, Q.meta, Q.stats, Q.ready[0]]
    assert (call.noted, call.durability) == (IN_USE, None)
    tracked = calls.publish(Q, [Outgoing("m", "i", tracked=True)])
    assert [*tracked.args[2:]] == ["t", "m"]
    assert [*tracked.keys] == [*call.keys, Q.put("i")]
    one = calls.publish(Q, [Outgoing("m", "i")])
    assert ([*one.args], [*one.keys]) == ([0, 2 * 120_000, "", "m"], [*call.keys])
    assert [Outgoing("m", "i").is_plain, Outgoing("m", "i", step=2).is_plain] == [True, False]


def test_messages_of_the_same_kind_share_what_is_said_of_them() -> None:
    messages = [
        Outgoing("a", "i", step=2),
        Outgoing("b", "j", step=2),
        Outgoing("c", "k", delay_ms=1),
        Outgoing("d", "l", at_ms=1),
        Outgoing("e", "m", ttl_ms=7, alive_ms=8),
        Outgoing("f", "n", dedup=True, tracked=True),
        Outgoing("g", "o"),
    ]
    call = calls.publish(Q, messages, dedup_window_ms=9)
    assert [*call.args[2:]] == [
        *("2 2 0 0 0 0 0 9 0", "a", "b"),
        *("1 1 1 0 0 0 1 9 0", "k", "c"),
        *("1 1 0 1 0 0 1 9 0", "l", "d"),
        *("1 1 0 0 7 8 0 9 0", "e"),
        *("1 1 0 0 0 0 2 9 1", "n", "f"),
        *("", "g"),
    ]
    more = [*Q.later, *Q.once, Q.result("n"), Q.put("n"), Q.cancelled]
    first = [Q.producer(""), Q.wake, Q.meta, Q.stats, *Q.ready[:2]]
    assert [*call.keys] == [*first, *more]
    twice = calls.publish(Q, [Outgoing("g", "o"), *messages[:2]])
    assert [*twice.keys] == first
    assert [*twice.args[2:]] == ["1 1 0 0 0 0 0 600000 0", "g", "2 2 0 0 0 0 0 600000 0", "a", "b"]


def test_what_a_publish_did() -> None:
    call_id = CallId("p", 7)
    call = calls.publish(Q, [Outgoing("m", "i")] * 3, call_id=call_id, window_ms=10)
    assert [*call.args[:2]] == [7, 20], "it may be said again for the whole of the window"
    assert call.keys[0] == Q.producer("p")
    assert [call.parse(n, False) for n in (0, 1, 2, 3)] == [(n, (), False) for n in (0, 1, 2, 3)]
    assert call.parse(b"1 0 2 3", False) == Published(1, (1, 2), repeated=False)
    assert call.parse(b"3 1", False) == Published(3, (), repeated=True)
    keys = QueueKeys("passes")
    assert calls.publish(keys, [Outgoing("m", "i")]).parse(b"1 2", False) == (1, (), False)
    assert keys.noted == float("inf"), "the register does without its name"
    assert Q.noted == 0.0
    assert calls.publish(Q, [Outgoing("m", "i")]).parse(1, False) == Published(1)


def test_how_many_messages_and_how_large() -> None:
    for count in (0, calls.MOST + 1):
        with pytest.raises(InvalidArgument, match=rf"from 1 to 1000 in one call, got {count}"):
            calls.publish(Q, [Outgoing("m", "i")] * count)
    assert len(calls.publish(Q, [Outgoing("m", "i")] * calls.MOST).args) == 3 + calls.MOST

    class Large(bytes):
        def __len__(self) -> int:
            return LARGEST + 1

    with pytest.raises(InvalidMessage, match=r"message 0 has [0-9,]+ bytes"):
        calls.publish(Q, [Outgoing(Large(), "i")])
    with pytest.raises(InvalidMessage, match=r"message 1 has [0-9,]+ bytes"):
        calls.publish(Q, [Outgoing("m", "i"), Outgoing(Large(), "i")])
    with pytest.raises(InvalidArgument, match="call_id"):
        calls.publish(Q, [Outgoing("m", "i")], durability=object())  # type: ignore[arg-type]


# ── claims ────────────────────────────────────────────────────────────────────────────────────


def test_what_a_claim_says() -> None:
    call = claims(max_deliveries=5, max_bytes=77).call("c-1", 3)
    assert call.args == ["c-1", 0, 3, 60_000, 20_000, 5, 77, len(Q.steps), 0, Q.keep, 0]
    assert [*call.keys] == [*Q.claim]
    assert (calls.SOLE, calls.HOLDS, calls.NO_CAP) == (0, 1, 0), "as the script reads them"
    both = claims(Q, R, renew_ms=4).call("c-1", 0, company=calls.HOLDS, acks=[[], ["x"]])
    assert both.args[4:6] == [4, 0]
    assert both.args[8:] == [1, Q.keep, 0, 1, "x"]
    assert [*both.keys] == [*Q.claim, *R.claim]
    assert [claims().call("c", n).large for n in (10, 11)] == [False, True]
    assert claims().call("c", calls.MOST).args[2] == calls.MOST
    calls.check_limit(1)
    calls.check_limit(calls.MOST)
    for limit in (0, calls.MOST + 1):
        with pytest.raises(InvalidArgument, match="limit"):
            calls.check_limit(limit)
    for limit in (-1, calls.MOST + 1, True):
        with pytest.raises(InvalidArgument, match=r"limit .* from 0 to 1000"):
            claims().call("c", limit)
    one = calls.claim([Q], "c-1", limit=3, lease_ms=60_000, max_deliveries=5, max_bytes=77)
    assert one.command() == call.command()


def test_what_a_claim_got() -> None:
    call = claims(Q, R).call("c-1", 9)
    # now, wait, drain, queues with more, attempt, runs: queue, deliveries, step and how many
    found = call.parse([b"5 6 7 1 2 3 2 1 3 1 2 2 4 2 1", b"x", b"y", b"z"], False)
    assert found[:4] == (5, 6, ("r",), ())
    assert [(d.queue, d.receipt, d.deliveries, d.step) for d in found.deliveries] == [
        ("q", "c-1.3.1", 3, 1),
        ("q", "c-1.3.2", 3, 1),
        ("r", "c-1.3.3", 4, 2),
    ]
    assert [d.envelope.raw for d in found.deliveries] == [b"x", b"y", b"z"]
    assert (found.dead_lettered, found.alone, found.drain_ms) == ((), False, 7)
    runs = b" ".join(b"1 1 %d 1" % step for step in (1, 2, 3, 4))
    found = call.parse([b"5 6 7 0 0 4 " + runs, b"w", b"x", b"y", b"z"], False)
    assert [d.step for d in found.deliveries] == [1, 2, 3, 4]


def test_a_claim_of_one_message_is_one_text() -> None:
    call = claims(Q).call("c-1", 9)
    found = call.parse(b"5 -1 0 1 1 0 1 1 1 1 1\nx\ny", False)
    assert [(d.receipt, d.envelope.raw) for d in found.deliveries] == [("c-1.0.1", b"x\ny")]
    assert (found.now_ms, found.wait_ms, found.more) == (5, None, ("q",))
    assert call.parse(b"5 -1 0 0 0 0", False)[:5] == (5, None, (), (), [])


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(
    "said",
    [
        "-1 0 0 0 1 1 1 1 1",
        "-1 0 1 1 0 1 1 1 1 1",
        "-1 0 1 2 0 1 1 1 1 1",
        "-1 0 2 1 2 0 1 1 1 1 1",
        "-1 0 0 3 1 1 7 4 1",
        "-1 0 0 0 1 2 1 1 1",
        "0 0 0 0 1 1 1 1 1",
        "9 0 0 0 1 1 1 1 1",
        "-1 9 0 0 1 1 1 1 1",
        "-1 0 0 0 1 1 1 1 1 1 2",
        "-1 0 0 0 1 1 1 1 1 2 1 1 1",
    ],
)
def test_one_text_says_what_its_head_and_its_message_say(said: str, repeated: bool) -> None:
    call = claims(Q, R).call("c-1", 9, acks=[["a", "b"], ["c"]])
    head, raw = b"5 " + said.encode(), b"x\ny"
    one, two = call.parse(head + b"\n" + raw, repeated), call.parse([head, raw], repeated)
    for found in (one, two):
        (got,) = found.deliveries
        found.deliveries[:] = [(got.queue, got.receipt, got.deliveries, got.step, got.envelope.raw)]
    assert one == two


@pytest.mark.parametrize("said", [b"-1 0 0 0 1 1 1 1 1", b"-1 0 1 1 0 1 1 1 1 1"])
def test_the_answer_that_nearly_every_claim_has_is_read_in_few_calls(said: bytes) -> None:
    """The figure is counted: calls of Python functions, which no load moves."""
    call, reply, ran = claims(Q, R).call("c-1", 1), b"5 " + said + b"\nx", 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal ran
        ran += event == "call"

    call.parse(reply, False)  # what is said is the same in most, and is read once
    gc.disable()  # what other tests left to be collected runs functions of its own
    sys.setprofile(count)
    try:
        call.parse(reply, False)
    finally:
        sys.setprofile(None)
        gc.enable()
    assert ran <= 3


def test_a_claim_of_messages_of_before_has_their_receipts() -> None:
    call = claims(Q, R).call("c-1", 9, company=1)
    reply = [b"5 -1 0 0 -1 2 1 1 1 2 2 1 1 1", b"r1", b"x", b"r2", b"y", b"r3", b"z"]
    found = call.parse(reply, False)
    assert [(d.queue, d.receipt, d.envelope.raw) for d in found.deliveries] == [
        ("q", "r1", b"x"),
        ("q", "r2", b"y"),
        ("r", "r3", b"z"),
    ]
    assert found.wait_ms is None
    assert calls.Claimed(0, None, (), (), [])[5:] == ((), False, 0)


@pytest.mark.parametrize(("company", "count"), [(0, 1), (0, 2), (1, 1)])
def test_a_single_message_of_one_that_holds_nothing_is_alone(company: int, count: int) -> None:
    call = claims().call("c-1", 9, company=company)
    reply = [f"5 0 0 0 0 1 1 1 1 {count}".encode(), *[b"x"] * count]
    found = call.parse(reply, False)
    assert (found.alone, found.wait_ms) == (company == 0 and count == 1, 0)
    assert not call.parse([b"5 0 0 0 -1 0"], False).alone


def test_what_a_claim_made_a_dead_letter() -> None:
    call = claims(Q, R).call("c-1", 9)
    told = [2, b"corrupt", b"i", b"{", 1, b"bad", b"", b'{"headers": {"id": "j"}}']
    found = call.parse([b"5 -1 0 0 -1 0", told], False)
    assert [(d.queue, d.reason, d.detail, d.id) for d in found.dead_lettered] == [
        ("r", "corrupt", "i", "i"),
        ("q", "bad", "", "j"),
    ]
    assert calls.DeadLettered("q", "bad", "i", b"{").id == "", "it says no id"


def test_which_queues_a_look_found_something_in() -> None:
    call = calls.look([Q, R], "c", renew_ms=7)
    assert call.args == ["c", 7, len(Q.steps), 0]
    assert [*call.keys] == [*chain(Q.look, R.look)]
    assert calls.look([R], "c", renew_ms=7).parse(b"1", False) == ("r",)
    assert [call.parse(reply, False) for reply in (b"", b"2", b"1 2")] == [(), ("r",), ("q", "r")]


# ── what an operator does ─────────────────────────────────────────────────────────────────────


def test_what_a_purge_takes() -> None:
    parts = ("ready", "delayed", "unacked", "dead", "settings", "if_unused", "if_empty", "if_idle")
    assert calls.purge(Q).args == [0] * 8
    for at, part in enumerate(parts):
        call = calls.purge(Q, **{part: True})  # type: ignore[arg-type]
        assert call.args == [int(i == at) for i in range(8)]
        assert call.noted == 0
    assert calls.purge(Q, dead_ids=["1-0"]).args[8:] == ["1-0"]
    every = dict.fromkeys(parts[:5], True)
    assert calls.purge(Q, **every).noted == GONE  # type: ignore[arg-type]
    for part in parts[:5]:
        call = calls.purge(Q, **{**every, part: False})  # type: ignore[arg-type]
        assert call.noted == 0, "something of it may be left"
    assert calls.purge(Q).parse([1, 2, 3, 4], False) == calls.Counts(1, 2, 3, 4)
    assert calls.Counts() == (0, 0, 0, 0)


def test_what_a_redrive_says_and_hears() -> None:
    call = calls.redrive(Q)
    assert call.args == [0, 100, calls.MAX_BYTES, "", "", ""]
    assert call.large
    one = calls.redrive(Q, ["1-0", "2-0"], look=True, limit=1, messages=["i", "j"], reason="bad")
    assert one.args == [1, 1, calls.MAX_BYTES, "", "", "bad", "1-0", "2-0"]
    assert [*one.keys] == [*Q.redrive, Q.result("i"), Q.result("j")]
    assert len(calls.redrive(Q, ["1-0"]).keys) == len(Q.redrive) + 1
    for limit in (0, calls.MOST + 1):
        with pytest.raises(InvalidArgument, match="limit"):
            calls.redrive(Q, limit=limit)
    assert calls.redrive(Q, limit=calls.MOST).args[1] == calls.MOST
    with pytest.raises(InvalidArgument, match="1 messages of 2"):
        calls.redrive(Q, ["1-0", "2-0"], messages=["i"])
    message = b'{"headers": {"id": "j"}}'
    found = one.parse([1, 2, b"2-0", [b"1-0", b"{", b"2-0", message]], False)
    assert found == calls.Redriven(1, 2, "2-0", [("1-0", ""), ("2-0", "j")])


def test_a_queue_is_paused_or_resumed() -> None:
    assert [calls.pause(Q).args, calls.pause(Q, paused=False).args] == [[1], [0]]
    assert [calls.pause(Q).parse(reply, False) for reply in (0, 1)] == [False, True]


def test_a_record_of_partitions_has_the_register_know_the_queue_unless_it_is_a_copy() -> None:
    assert len({IN_USE, GONE, 0}) == 3
    assert calls.partitions(Q).args == ["", ""]
    assert [
        calls.partitions(Q).noted,
        calls.partitions(Q, "2 7", "1").noted,
        calls.partitions(Q, "2 7", copy=True).noted,
    ] == [0, IN_USE, 0]
    assert calls.partitions(Q).parse(b"2 7", False) == "2 7"


# ── what is refused ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [list, tuple, UserList])
def test_how_many_items_go_in_one_call(kind: Any) -> None:
    for count in (1, calls.MOST):
        assert check_items("ids", kind(range(count))) == count
    for count in (0, calls.MOST + 1):
        with pytest.raises(InvalidArgument, match=f"ids: from 1 to 1000 in one call, got {count}"):
            check_items("ids", kind(range(count)))
    assert check_items("ids", kind(range(0)), least=0) == 0


@pytest.mark.parametrize("given", ["abc", b"abc", None, 5, {"a"}, iter([1])])
def test_items_are_a_list(given: Any) -> None:
    with pytest.raises(InvalidArgument, match="ids must be a list"):
        check_items("ids", given)


def test_names_are_text_of_a_million_characters_at_most() -> None:
    longest = "x" * (1 << 20)
    assert check_names("ids", [longest]) == [longest]
    assert check_names("ids", [], least=0) == []
    for bad in ([longest + "x"], [5], ["\ud800"], []):
        with pytest.raises(InvalidArgument, match="ids"):
            check_names("ids", bad)


def test_a_reason_is_one_line_of_64_characters() -> None:
    check_reason("x" * 64)
    check_reason("x")
    for bad in ("", "x" * 65, "a\nb", None, 5, "\ud800"):
        with pytest.raises(InvalidArgument, match="reason"):
            check_reason(bad)  # type: ignore[arg-type]


def test_what_is_too_large_for_any_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "LARGEST", 1000)
    check_size("it", b"x" * 1000)
    with pytest.raises(InvalidMessage, match="it has 1,001 bytes; a server takes at most 1,000"):
        check_size("it", "x" * 1001)


def test_names_and_values_come_as_a_list_or_a_table() -> None:
    assert as_pairs([b"a", b"1", "b", "2"]) == {"a": "1", "b": "2"}
    assert as_pairs({b"a": b"1"}) == {"a": "1"}
    assert [as_text(b"\xff"), as_text("x")] == ["\ufffd", "x"]
