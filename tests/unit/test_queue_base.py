"""What `Queue` and `AsyncQueue` share: what is sent for a verb. Without a server."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from atomq import Item, Queue, tracing
from atomq.calls import Call, Verdict
from atomq.delivery import Delivery
from atomq.errors import InvalidArgument
from atomq.message import Envelope, Writer
from atomq.queue import Message
from atomq.queue_base import default_backoff, names_of_dead
from atomq.serializers import JSON
from tests.partitioned import engine_of
from tests.played import Play


def queue_of(**how: Any) -> Any:
    """A queue `q` whose server is nowhere."""
    options = how.pop("options", {})
    return Queue("q", engine_of("redis", **options), **how)


def message_of(queue: Any, deliveries: int = 1, raw: bytes | None = None) -> Message:
    """A message of it that this process holds. Its id is `mine`."""
    text = Writer("q", JSON).write("x", "mine") if raw is None else raw
    written = text.encode() if isinstance(text, str) else text
    return Message(queue, Delivery("q", "c-1.0.1", deliveries, 1, written))


def sent(flow: Any) -> tuple[str, list[Any]]:
    """The first call of a flow, or a call: its script, and its arguments."""
    call: Any = flow if isinstance(flow, Call) else Play(flow).effect
    return call.script.name, [*call.args]


class Tracer(SimpleNamespace):
    """It notes that messages are in a trace."""

    def injected(self, headers: Any) -> dict[str, Any]:
        return {**(headers or {}), "traceparent": "t"}


# ── what it begins with ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("deliveries", "seconds"),
    [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (11, 300), (5000, 300)],
)
def test_the_pause_after_a_failure_is_doubled_up_to_five_minutes(
    deliveries: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for at in (0, 1):
        monkeypatch.setattr(random, "uniform", lambda *ends, at=at: ends[at])
        found.append(default_backoff(deliveries))
    assert found == [0.75 * seconds, 1.25 * seconds], "give or take a quarter"


def test_a_queue_of_its_own_kind_has_no_partitions() -> None:
    class Own(Queue):
        pass

    assert queue_of().is_partitioned is False
    with pytest.raises(InvalidArgument, match="Own has no partitions: derive it from the class"):
        Own("q", engine_of("redis"), partitions=2)


def test_a_consumer_takes_as_much_as_the_options_say_unless_it_says_itself() -> None:
    queue = queue_of(options={"prefetch": 5})
    assert [queue._pace(most)._most for most in (None, 7)] == [5, 7]
    assert (queue._pace(None).workers, queue._pace(None, 3).workers) == (1, 3)


def test_what_is_confirmed_is_what_the_put_asks_for_or_the_queue() -> None:
    queue = queue_of(durability="replicas=1")
    said = [queue._confirmed_by(each) for each in (None, "replicas=2")]
    assert [each and each.name for each in said] == ["replicas=1", "replicas=2"]
    assert queue._confirmed_by("memory") is None


# ── put ───────────────────────────────────────────────────────────────────────────────────────


def test_a_body_alone_has_no_settings() -> None:
    queue = queue_of()
    one, item = queue._outgoing("x"), queue._outgoing(Item("x"))
    assert one.is_plain
    assert item.is_plain
    envelope = Envelope(item.message.encode())
    assert (envelope.body(JSON), envelope.id) == ("x", item.id)
    assert "priority" not in envelope.properties or envelope.properties["priority"] == 0
    assert one.id != item.id


@pytest.mark.parametrize(
    ("how", "meant"),
    [
        ({"delay": 1}, {"delay_ms": 1000}),
        ({"at": 1_800_000_000.0}, {"at_ms": 1_800_000_000_000}),
        ({"priority": 1}, {"step": 1}),
        ({"priority": 9}, {"step": 4}),
        ({"id": "i"}, {"id": "i", "dedup": True}),
        ({"id": "i" * 256}, {"id": "i" * 256, "dedup": True}),
        ({"key": "k"}, {}),
        ({"key": "k" * 256}, {}),
        ({"ttl": 7}, {"ttl_ms": 7000}),
        ({"ttl": 7, "delay": 6}, {"ttl_ms": 7000, "delay_ms": 6000}),
        ({"tracked": True}, {"tracked": True}),
        ({"headers": {"a": 1}}, {}),
    ],
    ids=lambda each: str(each)[:40],
)
def test_each_setting_is_that_of_the_message(how: Any, meant: Any) -> None:
    queue = queue_of()
    message = queue._outgoing(Item("x", **how))
    plain = {"step": 1, "delay_ms": 0, "at_ms": 0, "ttl_ms": 0, "dedup": False, "tracked": False}
    assert {name: getattr(message, name) for name in {**plain, **meant}} == {**plain, **meant}
    envelope = Envelope(message.message.encode())
    assert envelope.headers.get("a") == how.get("headers", {}).get("a")
    assert envelope.properties.get("priority", 0) == how.get("priority", 0)


@pytest.mark.parametrize(
    "how",
    [
        {"id": ""},
        {"id": "i" * 257},
        {"key": ""},
        {"key": "k" * 257},
        {"headers": [1]},
        {"ttl": 0},
        {"ttl": 5, "delay": 5},
        {"delay": 1, "at": 1_800_000_000},
        {"delay": -1},
        {"priority": -1},
        {"priority": True},
        {"priority": 10},
    ],
    ids=lambda each: str(each)[:40],
)
def test_a_setting_that_is_none_is_refused(how: Any) -> None:
    with pytest.raises(InvalidArgument):
        queue_of()._outgoing(Item("x", **how))


@pytest.mark.parametrize("tracked", [False, True])
def test_a_message_is_tracked_if_it_or_else_its_queue_says_so(tracked: bool) -> None:
    queue = queue_of(tracked=tracked)
    found = [queue._plain("x"), *queue._all_outgoing(["x", Item("x"), Item("x", tracked=False)])]
    assert [each.tracked for each in found] == [tracked, tracked, tracked, False]
    assert ["tracked" in str(each.message) for each in found] == [tracked, tracked, tracked, False]


@pytest.mark.parametrize("active", [False, True])
def test_what_is_put_in_a_trace_says_so(active: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "active", Tracer() if active else None)
    queue = queue_of()
    found = [queue._plain("x"), *queue._all_outgoing(["x", Item("x"), Item("x", headers={"a": 1})])]
    headers = [Envelope(str(each.message).encode()).headers for each in found]
    assert ["traceparent" in each for each in headers] == [active] * 4
    assert headers[3]["a"] == 1


def test_the_step_of_a_message_is_that_of_its_queue() -> None:
    queue = queue_of(options={"priority_steps": (0, 1)})
    assert [queue._outgoing(Item("x", priority=each)).step for each in (0, 1, 9)] == [1, 2, 2]


def test_a_fault_among_many_is_named_by_its_position() -> None:
    queue = queue_of()
    for positions, place in ((None, 1), ([7, 5, 3], 5)):
        with pytest.raises(InvalidArgument, match=f"^message {place}: delay must be"):
            queue._all_outgoing([1, Item(2, delay=-1), 3], positions)


@pytest.mark.parametrize("wrong", [{"to": "ann"}, 7, None])
def test_many_are_a_list(wrong: Any) -> None:
    with pytest.raises(InvalidArgument, match="put_many takes messages, got"):
        queue_of()._all_outgoing(wrong)


# ── what happens to a message ─────────────────────────────────────────────────────────────────


def test_what_is_released_is_counted_and_goes_behind_others_unless_it_is_said() -> None:
    queue = queue_of()
    message = message_of(queue)
    found = [
        sent(queue._release([message], **how))
        for how in ({}, {"delay": 2}, {"front": True}, {"counted": False})
    ]
    assert {name for name, _ in found} == {"release"}
    assert [args[:3] for _, args in found] == [[0, 0, 1], [2000, 0, 1], [0, 1, 1], [0, 0, 0]]
    # The id is where a delayed message is found by; what is ready needs none.
    assert [args[4:] for _, args in found][:2] == [["c-1.0.1", ""], ["c-1.0.1", "mine"]]


def test_a_lease_is_extended_by_one_lease_or_as_long_as_is_said() -> None:
    queue = queue_of(options={"lease": 30})
    found = [sent(queue._extend(["r"], seconds))[1][0] for seconds in (None, 7, 0)]
    assert found == [30_000, 7_000, 0]


def test_what_is_rejected_says_why_and_its_waiters_hear_of_it() -> None:
    queue = queue_of()
    unreadable = message_of(queue, raw=b"{")
    name, args = sent(queue._reject([message_of(queue), unreadable], "bad", "x" * 5000))
    assert name == "reject"
    receipt, reason, detail, value = args[4:8]
    assert (receipt, reason, detail) == ("c-1.0.1", "bad", "x" * 4000)
    assert '"mine"' in value
    assert '"bad: x' in value
    assert args[11] == "", "nobody can wait for what has no id"
    with pytest.raises(InvalidArgument, match="detail must be text, got 3"):
        queue._reject([message_of(queue)], "bad", 3)


@pytest.mark.parametrize(
    ("how", "error", "verb", "then"),
    [
        ({}, KeyboardInterrupt(), [0, 1, 1], ("release", 0.0)),
        ({"cancelled": True}, ValueError(), [0, 1, 1], ("release", None)),
        ({"undecodable": True}, ValueError("no"), "undecodable", ("reject", None)),
        ({"deliveries": 2}, ValueError("no"), [7000, 0, 1], ("release", 7.0)),
        ({"deliveries": 3}, ValueError("no"), "max_deliveries", ("reject", None)),
        ({"deliveries": 4}, ValueError("no"), "max_deliveries", ("reject", None)),
    ],
    ids=str,
)
def test_what_becomes_of_a_message_whose_work_failed(
    how: Any, error: BaseException, verb: Any, then: Any
) -> None:
    queue = queue_of(options={"max_deliveries": 3}, backoff=lambda deliveries: 3.5 * deliveries)
    message = message_of(queue, how.pop("deliveries", 1))
    for name, value in how.items():
        setattr(message, name, value)
    name, args = sent(queue._fail(message, error))
    if isinstance(verb, str):
        assert (name, args[5], args[6]) == ("reject", verb, "ValueError: no")
    else:
        assert (name, args[:3]) == ("release", verb)
    assert message._then == then


def test_without_a_limit_it_is_tried_for_ever() -> None:
    queue = queue_of(options={"max_deliveries": None}, backoff=lambda _: 1)
    assert sent(queue._fail(message_of(queue, 9999), ValueError()))[0] == "release"


def test_a_message_is_lost_if_one_verdict_said_so() -> None:
    queue = queue_of()
    gone: list[str] = []
    queue.keeper.drop = gone.extend
    verdicts = [Verdict.DONE, Verdict.LOST, Verdict.DONE]
    messages = [message_of(queue) for _ in verdicts]
    messages[2].lost = True
    assert queue._settled(messages, verdicts) is verdicts
    assert [message.lost for message in messages] == [False, True, True]
    queue._settled(messages[:1], [Verdict.DONE])
    assert messages[0].lost is False
    assert gone == [message.receipt for message in (*messages, messages[0])]


# ── operate ───────────────────────────────────────────────────────────────────────────────────


def test_only_what_has_a_progress_to_tell_looks_for_it() -> None:
    queue = queue_of()
    told: list[Any] = []
    for on_progress, looks in ((None, 0), (told.append, 1)):
        play = Play(queue._await_result("mine", 5, on_progress))
        asked = [type(play.effect).__name__]
        while len(asked) < 5 and "Call" not in asked:
            asked.append(type(play.go(None)).__name__)
        assert ("Call" in asked) == looks
    with pytest.raises(InvalidArgument, match="on_progress must be a function"):
        queue._await_result("mine", 5, 3)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ([], [1, 1, 0, 0]),
        (["ready"], [1, 0, 0, 0]),
        (["unacked", "dead"], [0, 0, 1, 1]),
        (["delayed"], [0, 1, 0, 0]),
    ],
)
def test_what_is_purged_is_what_waits_or_what_is_named(given: Any, parts: list[int]) -> None:
    assert sent(queue_of()._purge(given))[1][:5] == [*parts, 0]


@pytest.mark.parametrize("wrong", ["all", 3, ["ready"]])
def test_there_are_four_parts(wrong: Any) -> None:
    queue = queue_of()
    with pytest.raises(InvalidArgument, match="there is no part"):
        queue._purge(["ready", wrong])
    with pytest.raises(InvalidArgument, match="there is no part"):
        queue._peek(wrong, 1, 0, "")
    assert sent(queue._peek("dead", 1, 0, ""))[1][0] == "dead"


def test_a_queue_is_deleted_with_all_it_has_unless_it_is_in_use() -> None:
    found = [sent(queue_of()._delete(force))[1] for force in (False, True)]
    assert [args[:6] for args in found] == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]


def test_dead_letters_are_redriven_all_or_by_their_names() -> None:
    assert [names_of_dead(ids) for ids in (None, "1-1", ["1-1"])] == [None, ["1-1"], ["1-1"]]
    with pytest.raises(InvalidArgument, match="ids must be a list, got 3"):
        names_of_dead(3)  # type: ignore[arg-type]
    assert sent(queue_of()._redrive(None, ""))[0] == "inspect", "up to which there are any"
    assert sent(queue_of()._redrive(["1-1"], ""))[0] == "redrive"
