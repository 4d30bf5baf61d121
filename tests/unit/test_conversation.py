"""What is said to a server and what its answers mean, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hiredis import PushNotification, Reader
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions as server

from atomq.conversation import PUSHED, Conversation, is_unblocked


def resp(value: Any) -> bytes:
    """A reply as a server sends it in RESP3."""
    match value:
        case None:
            return b"_\r\n"
        case bool():
            return b"#t\r\n" if value else b"#f\r\n"
        case int():
            return b":%d\r\n" % value
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(value), value)
        case str():
            return f"-{value}\r\n".encode()
        case tuple():
            return b">%d\r\n" % len(value) + b"".join(map(resp, value))
        case _:
            return b"*%d\r\n" % len(value) + b"".join(map(resp, value))


def chopped(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The bytes in pieces, as a network brings them."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


# ── answers ───────────────────────────────────────────────────────────────────────────────────


@dataclass
class Said:
    """What is asked, and what a server sends for it: a reply, or a push for each of some names."""

    reply: Any = None
    names: int = 0
    before: list[tuple[Any, ...]] = field(default_factory=list)  # pushes that nothing asked for
    between: list[tuple[Any, ...]] = field(default_factory=list)

    def say(self, talk: Conversation, purpose: int) -> bytes:
        if self.names:
            return talk.subscribe("PSUBSCRIBE", [f"n{i}" for i in range(self.names)], purpose)
        return talk.say(("GET", purpose), purpose)

    def heard(self, purpose: int) -> list[tuple[Any, Any]]:
        """What the conversation must make of it."""
        before = [(PUSHED, list(push)) for push in self.before]
        if isinstance(self.reply, str):
            return [*before, (purpose, server.NoPermissionError)]
        if not self.names:
            return [*before, (purpose, self.reply)]
        between = [(PUSHED, list(push)) for push in self.between]
        return [*before, *between, (purpose, list(self._confirmed[-1]))]

    @property
    def sent(self) -> list[Any]:
        if not self.names or isinstance(self.reply, str):
            return [*self.before, self.reply]
        return [*self.before, *self._confirmed[:-1], *self.between, self._confirmed[-1]]

    @property
    def _confirmed(self) -> list[tuple[Any, ...]]:
        return [(b"psubscribe", b"n%d" % n, n + 1) for n in range(self.names)]


NO = "NOPERM no"
plain = st.none() | st.booleans() | st.integers(-9, 9) | st.binary(max_size=9)
replies = st.recursive(plain, lambda inner: st.lists(inner, max_size=3))
pushes = st.lists(
    st.sampled_from([(b"invalidate", None), (b"pmessage", b"p", b"c", b"m"), (b"subscribe", b"x")]),
    max_size=2,
)
commands = st.builds(Said, replies | st.just(NO), before=pushes) | st.builds(
    Said, st.none() | st.just(NO), st.integers(1, 3), pushes, pushes
)


@given(st.lists(commands, max_size=6), st.lists(st.integers(0), max_size=6), st.integers(0, 6))
def test_each_command_gets_its_own_answer(said: list[Said], cuts: list[int], lost: int) -> None:
    talk = Conversation()
    sent = [one.say(talk, n) for n, one in enumerate(said)]
    reader = Reader()
    reader.feed(b"".join(sent))
    assert [reader.gets()[0] for _ in said] == [
        b"PSUBSCRIBE" if one.names else b"GET" for one in said
    ]
    answered = said[: len(said) - lost] if lost else said
    heard = []
    for piece in chopped(b"".join(resp(r) for one in answered for r in one.sent), cuts):
        heard += [(p, type(r) if isinstance(r, Exception) else r) for p, r in talk.feed(piece)]
        done = sum(purpose is not PUSHED for purpose, _ in heard)
        assert talk.under_way == len(said) - done
        assert talk.expects == (done if done < len(said) else PUSHED)
    assert heard == [pair for n, one in enumerate(answered) for pair in one.heard(n)]
    assert talk.broken() == list(range(len(answered), len(said)))
    assert talk.under_way == 0


@given(
    st.lists(replies | st.just(NO), min_size=1, max_size=5),
    pushes,
    st.lists(st.integers(0), max_size=6),
)
def test_one_that_is_alone_collects_its_replies(
    given: list[Any], pushed: list[Any], cuts: list[int]
) -> None:
    talk, found = Conversation(), list[Any]()
    said = b"".join(map(resp, [*pushed, *given]))
    done = [talk.collect(piece, found, len(given)) for piece in chopped(said, cuts)]
    assert done.index(True) == len(done) - 1
    heard = [type(r) if isinstance(r, Exception) else r for r in found]
    assert heard == [Said(reply).heard(0)[0][1] for reply in given]
    next_one: list[Any] = []
    assert not talk.collect(b"", next_one, 1)
    assert talk.collect(b":1\r\n:2\r\n", next_one, 1)
    assert talk.collect(b"", next_one, 2)  # what is beyond stays in here
    assert next_one == [1, 2]


@given(replies | st.just(NO), pushes, st.lists(st.integers(0), max_size=6))
def test_one_that_is_alone_hears_its_one_reply(
    given: Any, pushed: list[Any], cuts: list[int]
) -> None:
    said = b"".join(map(resp, [*pushed, given]))
    pieces = chopped(said, cuts)
    receive = iter(pieces).__next__
    reply = Conversation().sole(receive)
    heard = type(reply) if isinstance(reply, Exception) else reply
    assert heard == Said(given).heard(0)[0][1]


def test_what_came_before_its_call_is_no_answer_to_it() -> None:
    talk = Conversation()
    talk.feed([PushNotification([b"invalidate", []])])
    assert talk.sole(iter([b":1\r\n"]).__next__) == 1
    assert list(talk) == [], "it was passed over"
    assert talk.sole(iter([[False]]).__next__) is False  # of memory://


@given(
    st.lists(st.builds(Said, replies | st.just(NO), before=pushes), max_size=6),
    st.lists(st.integers(0), max_size=6),
)
def test_what_is_taken_at_once_is_what_iterating_gives(said: list[Said], cuts: list[int]) -> None:
    talk, found = Conversation(), list[tuple[Any, Any]]()
    for n, one in enumerate(said):
        one.say(talk, n)
    for piece in chopped(b"".join(resp(each) for one in said for each in one.sent), cuts):
        talk.take(piece, found)
    heard = [(p, type(r) if isinstance(r, Exception) else r) for p, r in found]
    assert heard == [one.heard(n)[-1] for n, one in enumerate(said)]
    talk.say(("A",), "last")
    found.clear()
    with pytest.raises(server.ConnectionError, match="not asked for: 2"):
        talk.take([1, 2, 3], found)
    assert found == [("last", 1)], "it came before"


def test_false_is_an_answer() -> None:
    talk = Conversation()
    talk.say(("A",), 1)
    talk.say(("B",), 2)
    assert list(talk.feed(b"#f\r\n_\r\n")) == [(1, False), (2, None)]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        ("NOSCRIPT No matching script.", server.NoScriptError),
        ("READONLY You can't write", server.ReadOnlyError),
        ("LOADING Redis is loading", server.BusyLoadingError),
        ("WRONGPASS invalid", server.AuthenticationError),
        ("OOM command not allowed", server.OutOfMemoryError),
        ("INUSE of ours", server.ResponseError),
        ("@user_script: 349: -READONLY You can't write", server.ReadOnlyError),
        (
            "ERR Error running script (call to f_b): @user_script:1: @user_script: 1: -READONLY no",
            server.ReadOnlyError,
        ),
    ],
)
def test_an_error_is_the_exception_of_redis_py_and_is_given(
    error: str, raised: type[Exception]
) -> None:
    talk = Conversation()
    talk.say(("A",), 1)
    talk.say(("B",), 2)
    ((one, found), two) = talk.feed(resp(error) + b":1\r\n")
    assert (one, type(found), two) == (1, raised, (2, 1))


def test_what_handles_an_answer_may_take_the_next_or_fail() -> None:
    talk = Conversation()
    for n in range(3):
        talk.say(("A",), n)
    for purpose, _ in talk.feed(b":0\r\n:1\r\n:2\r\n"):
        assert purpose == 0
        assert next(talk) == (1, 1)
        break
    assert list(talk) == [(2, 2)]


def test_replies_of_memory_are_fed_as_they_are() -> None:
    talk = Conversation()
    talk.subscribe("SUBSCRIBE", ["a"], "ear")
    talk.say(("A",), "a")
    confirmed = PushNotification([b"subscribe", b"a", 1])
    assert list(talk.feed([confirmed, [b"x"]])) == [("ear", confirmed), ("a", [b"x"])]


def test_a_word_of_another_type_is_not_said() -> None:
    talk = Conversation()
    with pytest.raises(server.DataError):
        talk.say(("SET", "k", object()), 1)  # type: ignore[arg-type]
    with pytest.raises(UnicodeEncodeError):
        talk.say(("SET", "k", "\ud800"), 1)
    with pytest.raises(ValueError, match="of nothing"):
        talk.subscribe("SUBSCRIBE", [], 1)
    assert talk.under_way == 0


def test_what_was_packed_before_is_said_as_it_is() -> None:
    talk = Conversation()
    assert talk.say(b"*1\r\n$1\r\nA\r\n", 1) == talk.say(("A",), 2)
    assert talk.broken() == [1, 2]


def test_several_that_are_packed_travel_together_and_each_is_answered() -> None:
    talk = Conversation()
    talk.say(("A",), 1)
    assert talk.say_packed([b"*1\r\n$1\r\nB\r\n", b"*1\r\n$1\r\nC\r\n"], 2) == (
        b"*1\r\n$1\r\nB\r\n*1\r\n$1\r\nC\r\n"
    )
    assert talk.under_way == 3
    assert list(talk.feed(b":1\r\n:2\r\n:3\r\n")) == [(1, 1), (2, 2), (2, 3)]


@pytest.mark.parametrize(
    ("heard", "trouble"),
    [
        (b"!nonsense\r\n", server.InvalidResponse),
        (b":1\r\n", server.ConnectionError),
        (b"-ERR max number of clients reached\r\n", server.ConnectionError),
    ],
)
def test_what_came_before_nonsense_is_answered(heard: bytes, trouble: type[Exception]) -> None:
    talk = Conversation()
    talk.say(("A",), 1)
    answers = talk.feed(b":7\r\n" + heard)
    assert next(answers) == (1, 7)
    with pytest.raises(trouble):
        next(answers)


def test_a_reply_is_no_answer_to_a_subscription() -> None:
    talk = Conversation()
    talk.subscribe("SUBSCRIBE", ["a"], 1)
    with pytest.raises(server.InvalidResponse):
        list(talk.feed(b"+OK\r\n"))


def test_after_a_break_nothing_of_before_is_heard() -> None:
    talk = Conversation()
    talk.say(("A",), 1)
    assert list(talk.feed(b"$9\r\nhal")) == []
    assert talk.broken() == [1]
    talk.say(("A",), 2)
    assert list(talk.feed(b":5\r\n")) == [(2, 5)]


@pytest.mark.parametrize("many", [1, 2, 3])
def test_what_is_packed_is_said_as_it_is_and_each_command_has_the_purpose(many: int) -> None:
    talk = Conversation()
    commands = [b"command %d" % number for number in range(many)]
    assert talk.say_packed(commands, "why") == b"".join(commands)
    assert talk.asked == ["why"] * many


@pytest.mark.parametrize(
    ("reply", "is_end"),
    [
        ("UNBLOCKED client unblocked via CLIENT UNBLOCK", True),
        ("UNBLOCKED force unblock from blocking operation, instance state changed", False),
        ("READONLY You can't write against a read only replica.", False),
        ([b"via CLIENT UNBLOCK", b"1"], False),
        (None, False),
    ],
)
def test_a_wait_that_a_client_ended_is_told_from_one_that_is_refused(
    reply: Any, is_end: bool
) -> None:
    talk = Conversation()
    talk.say(("BLPOP", "a", "0"), 1)
    [(_, heard)] = talk.feed(resp(reply))
    assert is_unblocked(heard) is is_end
