"""How what a server says of queues, messages and processes is read. No server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from atomq import calls, fork
from atomq.arguments import LARGEST
from atomq.calls import HandedBack, Process, Verdict
from atomq.calls.finding import MessageStatus, Progress
from atomq.calls.transport import LONGEST_LIFE, Attended, Foreign
from atomq.errors import InvalidArgument, InvalidMessage, ServerError, WrongType
from atomq.keys import ExchangeKeys, QueueKeys, RegisterKeys
from atomq.message import tracked_name
from atomq.partitions import COPY

Q, R, REGISTER = QueueKeys("q"), QueueKeys("r"), RegisterKeys()
NOW = 1_800_000_000_000
YEAR = 366 * 24 * 3600 * 1000


def envelope(name: str) -> bytes:
    return json.dumps({"headers": {"id": name}}).encode()


# ── queues in numbers ─────────────────────────────────────────────────────────────────────────


def inspected(*meta: bytes, due_at: int = NOW + 1500, ends_at: int = NOW + 7) -> Any:
    stats = [b"published", b"9", b"dead:bad", b"2"]
    numbers = [[1, 2, 3, 4], 5, 6, 7, 8, 9, due_at, ends_at]
    return [NOW, *numbers, 10, 20, b"raw", [*meta], stats]


def test_a_queue_in_numbers() -> None:
    state = calls.inspect(Q).parse(inspected(b"paused", b"1", b"partitions", b"2 7"), False)
    assert (state.name, state.now_ms, state.ready) == ("q", NOW, 10)
    assert state.ready_by_priority == dict(zip(Q.steps, (1, 2, 3, 4), strict=True))
    assert (state.unacked, state.expired, state.delayed, state.due, state.dead) == (5, 6, 7, 8, 9)
    assert (state.backlog, state.next_due_seconds) == (10 + 8 + 6, 1.5)
    assert (state.next_due_ms, state.next_deadline_ms) == (NOW + 1500, NOW + 7)
    assert (state.paused, state.inconsistent, state.oldest) == (True, 30, b"raw")
    assert (state.stats, state.partitions) == ({"published": 9}, ("q", "q#1.7"))


def test_a_queue_that_waits_for_nothing() -> None:
    state = calls.inspect(Q).parse(inspected(due_at=-1, ends_at=-1), False)
    assert (state.next_due_ms, state.next_deadline_ms, state.next_due_seconds) == (None, None, None)
    assert (state.paused, state.partitions) == (False, ())
    state = calls.inspect(Q).parse(inspected(b"paused", b"0", due_at=0, ends_at=0), False)
    assert (state.next_due_ms, state.next_deadline_ms, state.paused) == (0, 0, False)


def row(*numbers: int, paused: int = 0, pairs: bytes = b"") -> bytes:
    head = " ".join(map(str, (paused, *numbers))).encode()
    return b"\n".join([head, pairs]) if pairs else head


def test_many_queues_in_numbers() -> None:
    call = calls.overview([Q, R], whole={"r"})
    assert call.args == [len(Q.steps), "10", calls.MAX_BYTES]
    first = [*Q.overview[:2], *R.overview[:2]]
    assert [*call.keys] == [*first, *Q.overview[2:], *R.overview[2:]]
    assert call.large
    pairs = b"published\n9\ndead:bad\n2\npartitions\n2 7"
    text = row(1, 2, 3, 4, 5, 6, 7, 8, 9, NOW - 5, NOW // 1000 - 3, paused=1, pairs=pairs)
    one, other = call.parse([NOW, text, b""], False)
    assert isinstance(one, calls.QueueOverview)
    assert isinstance(other, calls.QueueOverview)
    assert (one.name, one.ready, one.paused) == ("q", 10, True)
    assert (one.unacked, one.expired, one.delayed, one.due, one.dead) == (5, 6, 7, 8, 9)
    assert (one.stats, one.dead_by_reason) == ({"published": 9}, {"bad": 2})
    assert (one.next_due_seconds, one.oldest_seconds) == (-0.005, 3.0)
    assert one.partitions == ("q", "q#1.7")
    assert (one.is_empty, other.is_empty) == (False, True)
    assert (other.name, other.ready, other.next_due_ms, other.put_s) == ("r", 0, None, None)
    assert (other.oldest_seconds, other.stats, other.paused) == (None, {}, False)


@pytest.mark.parametrize("at", range(4))
def test_a_queue_of_which_anything_is_there_is_not_empty(at: int) -> None:
    numbers = [0] * 9 + [-1, -1]
    numbers[(0, 4, 6, 8)[at]] = 1
    (found,) = calls.overview([Q]).parse([NOW, row(*numbers)], False)
    assert isinstance(found, calls.QueueOverview)
    assert not found.is_empty
    (found,) = calls.overview([Q]).parse([NOW, b"published\n1"], False)
    assert isinstance(found, calls.QueueOverview)
    assert (found.is_empty, found.unacked, found.next_due_ms) == (False, 0, None)


def test_what_was_put_by_a_clock_that_is_ahead_is_new() -> None:
    text = row(*[0] * 9, 0, NOW // 1000 + 60)
    (found,) = calls.overview([Q]).parse([NOW, text], False)
    assert isinstance(found, calls.QueueOverview)
    assert (found.oldest_seconds, found.next_due_ms) == (0.0, 0)
    (found,) = calls.overview([Q]).parse([NOW, row(*[0] * 11)], False)
    assert isinstance(found, calls.QueueOverview)
    assert found.put_s == 0, "its clock has never been set"
    (found,) = calls.overview([Q]).parse([NOW, b"published\n9\nhalf"], False)
    assert isinstance(found, calls.QueueOverview)
    assert found.stats == {"published": 9}


def test_a_queue_that_cannot_be_read_is_an_error_in_its_place() -> None:
    call = calls.overview([Q])
    for text, kind in (
        (b"!WRONGTYPE no", WrongType),
        (b"published\nx", WrongType),
        (b"partitions\n9 7", ServerError),
    ):
        (found,) = call.parse([NOW, text], False)
        assert type(found) is kind
    assert "!" not in str(call.parse([NOW, b"!WRONGTYPE no"], False)[0])


def test_a_partition_knows_the_queue_that_it_belongs_to() -> None:
    part = QueueKeys("q#1.7")
    for keys, record, partitions in (
        (part, "2 7", ("q", "q#1.7")),
        (QueueKeys("x#1.7"), "2 8", ()),
    ):
        text = f"partitions\n{COPY}{record}".encode()
        (found,) = calls.overview([keys]).parse([NOW, text], False)
        assert isinstance(found, calls.QueueOverview)
        assert found.partitions == partitions


# ── messages, looked at ───────────────────────────────────────────────────────────────────────


def test_what_is_looked_at() -> None:
    call = calls.peek(Q, "unacked")
    assert call.args == ["unacked", "", 0, 20, calls.MAX_BYTES]
    assert call.large
    flat = [b"c-1.0.1", NOW, 2, 1, b"1234", envelope("i"), b"", -1, 0, 1, b"", b"{"]
    one, other = call.parse([NOW, flat], False)
    assert (one.name, one.time_ms, one.deliveries, one.step) == ("c-1.0.1", NOW, 2, 1)
    assert (one.since_ms, one.reason, one.detail, one.holder, one.id) == (1234, "", "", "c", "i")
    assert (other.name, other.time_ms, other.since_ms, other.raw) == ("", None, None, b"{")
    (first,) = call.parse([NOW, [b"a", 0, 1, 1, b"0", b"{"]], False)
    assert (first.time_ms, first.since_ms) == (0, 0)


def test_how_a_body_is_read_makes_no_other_message() -> None:
    other: Any = object()
    flat = [b"", -1, 0, 1, b"", b"{"]
    (one,) = calls.peek(Q, "ready").parse([NOW, flat], False)
    assert calls.peek(Q, "ready", serializer=other).parse([NOW, flat], False) == [one]
    assert "serializer" not in repr(one)


def test_a_dead_letter_that_is_looked_at() -> None:
    call = calls.peek(Q, "dead", after="1-0", offset=10**9, limit=calls.MOST, ids=["a"])
    assert call.args == ["dead", "1-0", 10**9, calls.MOST, calls.MAX_BYTES, "a"]
    (one,) = call.parse([NOW, [b"99-3", -1, 2, 1, b"bad\nwhy\nso", b"{"]], False)
    assert (one.name, one.time_ms, one.since_ms) == ("99-3", 99, None)
    assert (one.reason, one.detail) == ("bad", "why\nso")


@pytest.mark.parametrize(
    "how",
    [{"offset": -1}, {"offset": 10**9 + 1}, {"limit": 0}, {"limit": calls.MOST + 1}],
)
def test_how_much_is_looked_at(how: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(how))):
        calls.peek(Q, "ready", **how)  # type: ignore[arg-type]
    assert calls.peek(Q, "ready", limit=1).args[3] == 1


# ── one message by its id ─────────────────────────────────────────────────────────────────────


def found(
    *rows: Any, record: bytes = b"", result: bytes = b"", dropped: int = 0, left: Any = (0, 0, 0)
) -> MessageStatus:
    flat = [word for one in rows for word in one]
    return calls.find(Q, "i").parse([NOW, record, result, dropped, *left, flat], False)


def there(part: str, name: str = "", ms: int = 7, known: str = "", *, sure: int = 1) -> list[Any]:
    return [part.encode(), sure, name.encode(), ms, 3, 2, known.encode(), envelope("i")]


def test_what_is_asked_of_a_message() -> None:
    call = calls.find(Q, 'a"b', limit=9)
    assert call.args == [tracked_name('a"b'), 'a"b', 'a\\"b', 9, calls.MAX_BYTES]
    assert [*call.keys] == [*Q.find, Q.put('a"b'), Q.result('a"b'), *Q.ready]
    assert call.large
    assert [calls.find(Q, "i", limit=n).args[3] for n in (0, calls.MOST)] == [0, calls.MOST]
    for limit in (-1, calls.MOST + 1):
        with pytest.raises(InvalidArgument, match="limit"):
            calls.find(Q, "i", limit=limit)
    for name in ("", "x" * ((1 << 20) + 1)):
        with pytest.raises(InvalidArgument, match="id"):
            calls.find(Q, name)


def test_a_message_that_waits() -> None:
    ready = found(there("ready"))
    assert (ready.state, ready.deliveries, ready.step, ready.raw) == ("ready", 3, 2, envelope("i"))
    assert (ready.since_ms, ready.tracked, ready.certain, ready.now_ms) == (None, False, True, NOW)
    known = found(there("ready"), record=b"r 5000999 x")
    assert (known.since_ms, known.tracked) == (5000, True)
    assert found(there("ready"), there("dead", "9-1")).state == "ready", "the first of several"
    assert found(there("ready"), record=b"h 5000 x").since_ms is None
    assert found(there("ready"), dropped=1).state == "cancelled"
    delayed = found(there("delayed", ms=99, known="44"))
    assert (delayed.state, delayed.due_ms, delayed.since_ms) == ("delayed", 99, 44)
    assert found(there("delayed")).since_ms is None


def test_a_message_that_is_held() -> None:
    record = b'h 6000 c-1.0.1\n[0.5, "half"]'
    held = found(there("unacked", "c-1.0.1", 99, "44 1"), record=record)
    assert (held.state, held.receipt, held.holder) == ("held", "c-1.0.1", "c")
    assert (held.since_ms, held.lease_ends_ms, held.cancelling) == (44, 99, True)
    assert held.progress == Progress(0.5, "half", 6)
    other = found(there("unacked", "c-2.0.1", 99, "44"), record=record)
    assert (other.progress, other.cancelling) == (None, False), "that said another holder"
    assert found(there("unacked", "c-1.0.1"), record=b"h 6000 c-1.0.1\nnonsense").progress is None
    assert found(there("unacked", "c-1.0.1")).since_ms is None
    alone = found(there("unacked", "c-1.0.1", 99, "44 2"))
    assert (alone.state, alone.receipt, alone.apart) == ("ready", "", "c-1.0.1")
    assert "holds nothing else" in alone.note


def test_a_message_that_is_dead() -> None:
    dead = found(there("dead", "99-3", known="bad\nwhy\nso"))
    assert (dead.state, dead.letter, dead.since_ms) == ("dead", "99-3", 99)
    assert (dead.reason, dead.detail) == ("bad", "why\nso")


def test_what_only_looks_like_it_is_another_message() -> None:
    like = there("dead", "9-1", sure=0)
    like[7] = envelope("j")
    assert found(like).state == "unknown"
    assert found(like, there("delayed", sure=0)).state == "delayed"


@pytest.mark.parametrize(
    ("record", "result", "state", "since"),
    [
        (b"x 5000 ", b"", "cancelled", 5),
        (b"x 5000 ", b'{"state": "done"}', "cancelled", 5),
        (b"a 5000 ", b"", "done", 5),
        (b"a 5000 ", b'{"state": "done", "value": 1}', "done", 5),
        (b"h 5000 ", b'{"state": "done", "value": 1}', "done", None),
        (b"", b'{"state": "done", "value": 1}', "done", None),
        (b"", b'{"state": "failed"}', "failed", None),
        (b"", b"", "unknown", None),
        (b"h 5000 ", b"", "gone", None),
    ],
)
def test_a_message_that_is_not_there(
    record: bytes, result: bytes, state: str, since: int | None
) -> None:
    status = found(record=record, result=result)
    assert (status.state, status.since_ms, status.certain) == (state, since, True)


def test_what_is_not_said_of_a_message() -> None:
    status = MessageStatus("i", "gone", NOW)
    assert (status.certain, status.tracked, status.cancelling) == (True, False, False)
    assert (status.process, status.holder, status.body) == ("", "", None)
    with pytest.raises(InvalidMessage):
        _ = MessageStatus("i", "ready", NOW, raw=b"{").body
    other: Any = object()
    assert MessageStatus("i", "gone", NOW, serializer=other) == status
    assert "serializer" not in repr(status)
    assert "raw" not in repr(status)
    assert Progress(0.5) == Progress(0.5, "", 0)


def test_how_a_message_ended() -> None:
    failed = found(result=b'{"state": "failed", "reason": "bad", "detail": 5}')
    assert (failed.reason, failed.detail) == ("bad", "5")
    assert found(result=b'{"state": "done", "value": [1]}').result == [1]
    assert "is none" in found(result=b"nonsense").note
    assert (found(result=b"[]").state, found(result=b"[]").result) == ("done", None)


@pytest.mark.parametrize("at", range(3))
def test_what_was_not_searched_may_hold_it(at: int) -> None:
    left = [0, 0, 0]
    left[at] = 1200
    unknown = found(left=left)
    assert (unknown.state, unknown.certain) == ("unknown", False)
    assert "1,200 messages of the queue were not searched" in unknown.note
    assert "cannot be known" in found().note
    assert found().certain
    ready = found(record=b"r 5000 ", left=left)
    if at == 1:
        assert (ready.state, ready.since_ms, ready.certain) == ("ready", 5, False)
    else:
        assert (ready.state, ready.certain) == ("unknown", False)
        assert "it was ready; what ended that left no word, and 1,200 messages" in ready.note


def test_what_looks_like_it_is_not_it_however_much_there_is() -> None:
    like = there("ready", sure=0)
    like[7] = envelope("j")
    assert found(*[like] * 1000, record=b"h 5000 ").state == "gone"
    assert found(*[like] * 1000, there("ready", sure=0), record=b"h 5000 ").state == "ready"


@pytest.mark.parametrize(
    ("state", "was"), [("r", "ready"), ("w", "delayed"), ("h", "held"), ("d", "a dead letter")]
)
def test_what_a_message_was_that_is_gone(state: str, was: str) -> None:
    status = found(record=f"{state} 5000 ".encode())
    assert (status.state, status.note) == ("gone", f"it was {was}; what ended that left no word")


def test_what_is_revoked() -> None:
    call = calls.revoke(Q, "i", receipt="r", limit=0)
    assert call.args == [tracked_name("i"), "i", "r", 0, b""]
    assert [*call.keys] == [*Q.revoke, Q.put("i"), Q.result("i"), *Q.ready]
    for limit in (-1, calls.MOST + 1):
        with pytest.raises(InvalidArgument, match="limit"):
            calls.revoke(Q, "i", limit=limit)
    assert calls.revoke(Q, "i").args[3] == calls.MOST
    for how, again in (
        ({"receipt": "r"}, False),  # of a held one the server knows what it did
        ({"message": b"m"}, True),
        ({}, True),
        ({"receipt": "r", "message": b"m"}, True),
    ):
        call = calls.revoke(Q, "i", **how)  # type: ignore[arg-type]
        assert [call.parse(1, False), call.parse(0, False)] == [True, False]
        assert call.parse(0, True) is again
    assert calls.run_now(Q, ["i", "j"]).parse([2], False) == [Verdict.DONE, Verdict.LOST]


def test_how_far_a_holder_is() -> None:
    call = calls.progress(Q, "i", "r", 0.5, "x" * 5000)
    assert call.args[:2] == [tracked_name("i"), "r"]
    assert json.loads(call.args[2]) == [0.5, "x" * 4096]
    assert [call.parse(reply, False) for reply in (0, 1)] == [False, True]
    for fraction in (None, 0, 1, 0.0, 1.0):
        assert json.loads(calls.progress(Q, "i", "r", fraction).args[2]) == [fraction, ""]
    for bad in (-0.1, 1.1, True, "x"):
        with pytest.raises(InvalidArgument, match="fraction"):
            calls.progress(Q, "i", "r", bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="text"):
        calls.progress(Q, "i", "r", None, 5)  # type: ignore[arg-type]


# ── the register ──────────────────────────────────────────────────────────────────────────────


def test_what_is_said_in_the_register() -> None:
    assert calls.register(REGISTER, ["q"]).args == ["", 0, 0, "", "q"]
    call = calls.register(REGISTER, gone=True, process="p", alive_ms=3_600_000, entry="{}")
    assert call.args == ["p", 3_600_000, 1, "{}"]
    assert call.parse(b"2", False) == 2
    for alive in (-1, 3_600_001):
        with pytest.raises(InvalidArgument, match="alive_ms"):
            calls.register(REGISTER, alive_ms=alive)


def test_what_the_register_says() -> None:
    call = calls.roster(REGISTER)
    assert (call.args, call.large) == (["", calls.MOST], True)
    for limit in (0, calls.MOST + 1):
        with pytest.raises(InvalidArgument, match="limit"):
            calls.roster(REGISTER, limit=limit)
    assert calls.roster(REGISTER, limit=1).args[1] == 1
    flat = [
        b"p",
        b'5 {"pid": 7}',
        b"x",
        b"5 []",
        b"y",
        b"nonsense",
        b"z",
        b"x {}",
        b"a",
        b"5 " + b"[" * 99_999,
    ]
    roster = call.parse([NOW, [b"q", b"r"], flat, 9], False)
    assert (roster.now_ms, roster.queues, roster.alive) == (NOW, ["q", "r"], 9)
    assert roster.processes == [Process("p", 5, {"pid": 7})]


def test_the_process_of_a_consumer_is_that_of_its_first_letters() -> None:
    name = "x" * (fork.NAME + 4)
    mine = Process(name[: fork.NAME], 5, {})
    roster = calls.Roster(NOW, [], [Process("other", 5, {}), mine], 2)
    assert roster.process_of(name) is mine
    assert roster.process_of(name.replace("x", "y")) is None


def test_what_a_process_says_of_itself_may_be_anything() -> None:
    well = Process("p", 5, {"host": "h", "pid": 7, "queues": ["q", 5], "partitions": {"q": 2}})
    assert (well.host, well.pid, well.where, well.queues) == ("h", 7, "h (pid 7)", ["q", "5"])
    ill = Process("p", 5, {"host": 5, "pid": "x", "queues": "q", "limits": 5, "limits_of": 5})
    assert (ill.host, ill.pid, ill.queues, ill.limits_of("q")) == (None, None, [], {})
    assert Process("p", 5, {}).where == "? (pid ?)"


def test_who_overlooks_partitions() -> None:
    parts = ["q", "q#1.7"]
    for entry, overlooks in (
        ({"queues": ["q"]}, True),
        ({"queues": ["q"], "partitions": {"q": 2}}, False),
        ({"queues": ["q"], "partitions": {"r": 2}}, True),
        ({"queues": ["q"], "partitions": []}, True),
        ({"queues": parts}, False),
        ({"queues": ["r"]}, False),
    ):
        assert Process("p", 5, entry).overlooks(parts) is overlooks  # type: ignore[arg-type]


def test_what_a_process_holds_its_messages_to() -> None:
    of_q = {"lease_seconds": 5, "name": "x", "flag": True}
    entry = {"limits": {"lease_seconds": 9.5}, "limits_of": {"q": of_q, "r": None, "s": 5}}
    process = Process("p", 5, entry)
    assert [process.limits_of(name) for name in "qrst"] == [
        {"lease_seconds": 5},
        {"lease_seconds": 9.5},
        {},
        {"lease_seconds": 9.5},
    ]


# ── what only Kombu's transport asks ──────────────────────────────────────────────────────────


def test_a_reply_of_remote_control() -> None:
    call = calls.reply(Q, "m", ttl_ms=YEAR)
    assert (call.args, [*call.keys], call.again().args[0]) == ([0, YEAR, "m"], [Q.ready[0]], 1)
    assert [call.parse(reply, False) for reply in (0, 1)] == [False, True]
    assert calls.reply(Q, "m", ttl_ms=1).args[1] == 1
    for ttl in (0, YEAR + 1):
        with pytest.raises(InvalidArgument, match="ttl_ms"):
            calls.reply(Q, "m", ttl_ms=ttl)

    class Large(str):
        __slots__ = ()

        def __len__(self) -> int:
            return LARGEST + 1

    with pytest.raises(InvalidMessage, match="reply"):
        calls.reply(Q, Large(), ttl_ms=1)


def test_what_was_popped_goes_back_to_its_list() -> None:
    assert [*calls.put_back(Q, b"m").keys] == [Q.stats, Q.ready[0]]
    call = calls.put_back(Q, b"m", step=4)
    assert ([*call.keys], call.args, call.again().args) == (
        [Q.stats, Q.ready[3]],
        [0, b"m"],
        [1, b"m"],
    )
    assert [call.parse(reply, False) for reply in (0, 1)] == [False, True]
    for step in (0, 5):
        with pytest.raises(InvalidArgument, match="step"):
            calls.put_back(Q, b"m", step=step)


def test_a_queue_that_expires() -> None:
    assert LONGEST_LIFE == 100 * YEAR
    for expires in (1, LONGEST_LIFE):
        assert calls.touch(Q, expires).args == [expires]
    for expires in (0, LONGEST_LIFE + 1):
        with pytest.raises(InvalidArgument, match="expires_ms"):
            calls.touch(Q, expires)
    assert calls.touch(Q, 1).parse(4, False) == 4


def test_a_binding_of_an_exchange_lives_for_ms_or_for_good() -> None:
    exchange = ExchangeKeys("x")
    found = calls.bindings(exchange)
    assert (found.keys, found.args) == (("_atomq.{x}.bindings",), ["", 0, ""])
    assert found.parse([b"a", b"b"], False) == ["a", "b"]
    assert calls.bindings(exchange, added="a", removed="b").args == ["a", 0, "b"]
    for lives_ms in (1, 2 * LONGEST_LIFE):
        assert calls.bindings(exchange, added="a", lives_ms=lives_ms).args == ["a", lives_ms, ""]
    for lives_ms in (0, 2 * LONGEST_LIFE + 1):
        with pytest.raises(InvalidArgument):
            calls.bindings(exchange, added="a", lives_ms=lives_ms)


def test_what_is_handed_back_to_stock() -> None:
    assert calls.hand_back(Q).args == [100, calls.MAX_BYTES, 1, 1]
    call = calls.hand_back(Q, unacked=False, delayed=False, limit=calls.MOST)
    assert call.args == [calls.MOST, calls.MAX_BYTES, 0, 0]
    assert call.parse([1, 2, 3], False) == HandedBack(1, 2, 3)
    assert calls.hand_back(Q, limit=1).args[0] == 1
    for limit in (0, calls.MOST + 1):
        with pytest.raises(InvalidArgument, match="limit"):
            calls.hand_back(Q, limit=limit)


def test_a_consumer_that_is_there_or_leaves() -> None:
    call = calls.attend(Q, "c")
    assert call.args == ["c", 0, 0, 500, calls.MAX_BYTES]
    assert call.parse([1, 2, 3, 4], False) == Attended(1, 2, 3, 4)
    assert call.parse([1, 2, 3, 4, b"2 7"], False).partitions == "2 7"
    assert [calls.attend(Q, "c", limit=n).args[3] for n in (1, calls.MOST)] == [1, calls.MOST]
    for limit in (0, calls.MOST + 1):
        with pytest.raises(InvalidArgument, match="limit"):
            calls.attend(Q, "c", limit=limit)
    for ttl in (1, YEAR):
        assert calls.resign(Q, ttl_ms=ttl).args == [ttl]
    for ttl in (0, YEAR + 1):
        with pytest.raises(InvalidArgument, match="ttl_ms"):
            calls.resign(Q, ttl_ms=ttl)
    assert [*calls.resign(Q, ttl_ms=1).keys] == [Q.watch, Q.wake]


def test_what_dead_stock_workers_held() -> None:
    call = calls.restore_foreign(Q, ("hash", "index"), visibility_s=5)
    assert call.args == [5, 100, calls.MAX_BYTES, Q.keep]
    assert [*call.keys] == ["hash", "index", Q.dead, Q.stats]
    call = calls.restore_foreign(
        Q, ("hash", "index"), visibility_s=10**9, targets=[("a", R, 0), ("b", Q, 9)]
    )
    assert call.args[4:] == ["a", "b"]
    assert [*call.keys[4:]] == [R.ready[0], R.wake, R.meta, Q.ready[3], Q.wake, Q.meta]
    flat = [b"a", b"x", b"k", b"3", b"b", b"y", b"l", b"0"]
    assert call.parse([7, flat], False) == (
        7,
        [Foreign("a", "x", "k", 3), Foreign("b", "y", "l", 0)],
    )
    for seconds in (0, 10**9 + 1):
        with pytest.raises(InvalidArgument, match="visibility_s"):
            calls.restore_foreign(Q, ("hash", "index"), visibility_s=seconds)
    assert calls.restore_foreign(Q, ("hash", "index"), visibility_s=1).args[0] == 1
