"""What one socket of Kombu's is asked, when, and what each answer changes. Needs no server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as server

from atomq.contrib.kombu import claims, intake, line, looks, rights, watch, worker
from atomq.contrib.kombu.intake import PATIENCE, Intake
from atomq.contrib.kombu.looks import Looker
from atomq.contrib.kombu.watch import LINGER
from atomq.errors import PermissionDenied
from atomq.keys import QueueKeys
from tests.scripted import Stage, Together, claimed, push, raw

LISTENS = push(b"psubscribe", b"/0.x", b"1")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes by 0.1 ms when it is asked for, and as a test moves it."""
    now = [1000.0]

    def monotonic() -> float:
        now[0] += 0.0001
        return now[0]

    class Clock:
        sleep = time.sleep

    Clock.monotonic = staticmethod(monotonic)  # type: ignore[attr-defined]

    for each in (claims, intake, line, looks, rights, watch):
        monkeypatch.setattr(each, "time", Clock)
    return now


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> Iterator[Stage]:
    found = Stage(monkeypatch)
    found.channel.basic_qos(0, 10, False)
    yield found
    found.close()


@pytest.fixture
def taken_in(stage: Stage) -> Intake:
    found: Intake = stage.poller._intake
    return found


def wait(stage: Stage) -> None:
    """Claim in vain, and wait; the elections before the wait are answered."""
    stage.claim()
    stage.poller.pump()
    assert stage.line.names()[-1] == "BRPOP"
    stage.give(*[b""] * (stage.poller._intake.socket.line.talk.under_way - 1))


def unblocked(stage: Stage, *replies: Any) -> None:
    """What comes when the server is asked to end a wait."""
    stage.engine.answers["CLIENT"] = lambda _: stage.line.replies.extend(replies) or 1


def asked_to_unblock(stage: Stage) -> int:
    return stage.engine.commands.count(("CLIENT", "UNBLOCK", 7, "ERROR"))


# ── news ──────────────────────────────────────────────────────────────────────────────────────


def test_a_socket_that_is_not_there_has_no_news(taken_in: Intake) -> None:
    assert not taken_in.has_news()
    assert not taken_in.can_read(0)


def test_what_is_readable_is_polled_for_only_after_something_was_read(
    stage: Stage, taken_in: Intake
) -> None:
    stage.channel.exchange_declare("x", "fanout")
    stage.channel.queue_bind("f", "x", "")
    stage.consume("f")
    assert taken_in.has_news(), "the event loop says so"
    assert stage.line.waited == []
    assert not taken_in.has_news(), "another callback of this turn may have taken it in"
    stage.line.replies.append(LISTENS)
    assert taken_in.has_news()
    assert stage.line.waited == [0, 0]
    stage.poller.pump()
    assert taken_in.has_news(), "in the next turn"
    assert stage.line.waited == [0, 0]
    stage.poller.pump()
    stage.line.waited.clear()
    taken_in.read()
    assert not taken_in.has_news()
    assert stage.line.waited == [0]


# ── room ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("when", ["now", "once a second", "when something falls due"])
def test_one_free_place_of_four_is_worth_a_claim_at_times(
    stage: Stage, taken_in: Intake, clock: list[float], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(worker, "waiting", lambda: True)
    stage.channel.basic_qos(0, 4, False)
    stage.consume()
    stage.claim("a", "b", "c", "d", more=[1], wait_ms=300 if when.startswith("when") else -1)
    stage.channel.basic_ack("a")
    if when == "once a second":
        taken_in.claims.chores_at = clock[0]
    elif when != "now":
        clock[0] += 0.31
    stage.poller.pump()
    assert len(stage.line.claims()) == (1 if when == "now" else 2)


# ── what is read at once ──────────────────────────────────────────────────────────────────────


def test_one_that_drains_by_hand_reads_no_more_once_something_was_handed_over(
    stage: Stage, taken_in: Intake
) -> None:
    stage.channel.exchange_declare("x", "fanout")
    stage.channel.queue_bind("f", "x", "")
    stage.consume("f")
    hello, bye = (push(b"pmessage", b"/0.x", b"/0.x", raw(each)) for each in ("hello", "bye"))
    stage.line.replies.append(Together([LISTENS, hello, bye]))
    got = []
    for _ in range(3):
        assert taken_in.read_on() is True
        got.append([message.payload for message in stage.got])
    assert got == [[], ["hello"], ["hello", "bye"]], "that it listens ends a drain too, as stock's"


def test_one_that_drains_by_hand_reads_no_more_once_something_waits_to_be_handed_over(
    stage: Stage, taken_in: Intake
) -> None:
    stage.consume()
    stage.poller.pump()
    taken_in._send(intake._ignore, ("PING",))
    taken_in._send(intake._ignore, ("PING",))
    stage.line.replies.append(Together([claimed("a"), b"PONG"]))
    assert taken_in.read_on() is False
    assert (len(stage.poller._buffer), taken_in.has_answer) == (1, True)


def test_one_that_drains_by_hand_reads_what_has_come_and_does_not_wait_for_more(
    stage: Stage, taken_in: Intake
) -> None:
    stage.consume()
    stage.poller.pump()
    taken_in._send(intake._ignore, ("PING",))
    stage.line.replies.append(Together([claimed(), b"PONG"]))
    assert taken_in.read_on() is False
    assert not taken_in.has_answer
    assert not stage.line.replies


@pytest.mark.parametrize(
    "reply",
    [
        None,
        server.NoPermissionError("this user has no permissions to run 'brpop'"),
        [b"_atomq.{q}.wake", b"1"],
        push(b"invalidate", [b"q"]),  # type: ignore[arg-type] # as the server has it
        push(b"message", b"_atomq.{q}.looked", b"other"),
        push(b"server-cpu-usage", b"1"),
    ],
    ids=["nothing", "denied", "token", "invalidate", "looked", "unknown"],
)
def test_what_is_no_message_ends_no_drain(stage: Stage, taken_in: Intake, reply: Any) -> None:
    stage.consume()
    wait(stage)
    stage.broker.rights.grant(rights.WAIT)
    stage.line.replies.append(reply)
    assert taken_in.read() is False


@pytest.mark.parametrize(
    "reply",
    [
        server.ConnectionError("cut"),
        Together([server.BusyLoadingError("LOADING the server is loading")]),
        server.ResponseError("UNBLOCKED"),
    ],
    ids=["cut", "refused", "broken off"],
)
def test_a_connection_that_is_replaced_ends_no_drain(
    stage: Stage, taken_in: Intake, clock: list[float], reply: Any
) -> None:
    stage.consume()
    wait(stage)
    clock[0] += 2.0
    stage.line.replies.append(reply)
    assert taken_in.read() is False
    assert len(stage.engine.lines) == 2


def test_a_wait_that_a_client_ended_is_over_and_ends_no_drain(
    stage: Stage, taken_in: Intake
) -> None:
    stage.consume()
    wait(stage)
    stage.line.replies.append(server.ResponseError("UNBLOCKED client unblocked via CLIENT UNBLOCK"))
    assert taken_in.read() is False
    assert not taken_in.blocked
    assert len(stage.engine.lines) == 1, "the connection is as it was"


def test_a_right_to_listen_that_is_missing_for_a_while_ends_no_drain(
    stage: Stage, taken_in: Intake, clock: list[float]
) -> None:
    stage.broker.rights.grant(rights.LISTEN)
    stage.channel.exchange_declare("x", "fanout")
    stage.channel.queue_bind("f", "x", "")
    stage.consume("f")
    clock[0] += 2.0
    stage.line.replies.append(server.NoPermissionError("no"))
    assert taken_in.read() is False
    assert stage.line.names() == ["PSUBSCRIBE"], "on the next connection"
    assert len(stage.engine.lines) == 2


def test_a_broadcast_of_a_pattern_goes_to_what_listens_to_the_pattern(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.channel.exchange_declare("x", "fanout")
    stage.channel.queue_bind("f", "x", "a.*")
    stage.consume("f")
    stage.give(push(b"psubscribe", b"/0.x/a.*", b"1"))
    stage.give(push(b"pmessage", b"/0.x/a.*", b"/0.x/a.b", raw("hello")))
    assert [message.payload for message in stage.got] == ["hello"]
    stage.give(push(b"pmessage", b"/0.x/a.*", b"/0.x/a.b", b"no JSON"))
    assert "/0.x/a.b" in caplog.text


def test_a_message_that_was_popped_ends_a_drain(stage: Stage, taken_in: Intake) -> None:
    stage.consume("n", no_ack=True)
    stage.poller.pump()
    stage.line.replies.append([b"n", raw("hello")])
    assert taken_in.read() is True
    assert len(stage.got) == 1


# ── looks ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("consumer", ["other", "itself"])
def test_it_puts_off_its_look_when_another_consumer_has_looked(
    stage: Stage, clock: list[float], consumer: str
) -> None:
    stage.consume()
    wait(stage)
    name = stage.broker.ids.prefix if consumer == "itself" else consumer
    clock[0] += 0.5
    stage.give(push(b"message", b"_atomq.{q}.looked", name.encode()))
    clock[0] += 0.4
    stage.give(None)
    stage.poller.pump()
    assert len(stage.line.calls("look")) == (consumer == "itself")


def test_a_queue_that_cannot_be_claimed_from_just_now_makes_no_wait_shorter(
    stage: Stage, clock: list[float]
) -> None:
    """Its look is overdue for as long as its channel is full."""
    full = stage.transport.create_channel(stage.connection)
    full.basic_qos(0, 1, False)
    stage.consume("p", channel=full)
    stage.claim("a")
    stage.consume("q")
    wait(stage)
    for _ in range(3):
        clock[0] += 0.9
        stage.give(None)
        stage.poller.pump()
        assert float(stage.line.sent[-1][-1]) > 0.5
        stage.give(*[b""] * (stage.poller._intake.socket.line.talk.under_way - 1))


def test_a_wait_ends_when_its_look_is_due(
    stage: Stage, taken_in: Intake, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.consume()
    wait(stage)
    clock[0] += 0.6
    stage.give(None)
    stage.poller.pump()
    assert 0.2 < float(stage.line.sent[-1][-1]) < 0.3
    monkeypatch.setattr(taken_in.looker.times, "next_of", lambda _: clock[0] - 1.0)
    stage.give(None)
    stage.poller.pump()
    assert float(stage.line.sent[-1][-1]) == 0.01, "the server takes 0 for ever"


@pytest.mark.parametrize(
    ("layout", "kind", "listens"),
    [("plain", "tcp", True), ("cluster", "tcp", False), ("plain", "memory", False)],
)
def test_looks_of_others_are_heard_where_their_channel_is_its_servers_own(
    layout: str, kind: str, listens: bool
) -> None:
    broker: Any = SimpleNamespace(
        engine=SimpleNamespace(layout=layout),
        address=SimpleNamespace(kind=kind),
        ids=SimpleNamespace(prefix="me"),
        keys=QueueKeys,
    )
    looker = Looker(broker, lambda *_: None, lambda _: None)
    channel = QueueKeys("q").looked
    assert [looker.channels(["q"]) for _ in range(2)] == [[channel] * listens, []]


# ── the end of a wait ─────────────────────────────────────────────────────────────────────────


def test_a_wait_ends_when_a_queue_is_left_that_is_waited_for(
    stage: Stage, taken_in: Intake
) -> None:
    unblocked(stage, None)
    stage.consume("q")
    stage.consume("p")
    wait(stage)
    taken_in.leave("z")
    assert asked_to_unblock(stage) == 0
    stage.channel.basic_cancel(f"tag-q-{id(stage.channel)}")
    assert asked_to_unblock(stage) == 1
    assert taken_in.blocked == ()


def test_a_wait_is_ended_once_and_after_what_was_sent_before_it(
    stage: Stage, taken_in: Intake
) -> None:
    """The server does not wait yet when it is still busy with what came before."""
    stage.consume()
    stage.claim()
    stage.poller.pump()
    happened: list[str] = []
    late = [b"", push(b"server-cpu-usage", b"1"), None]

    def receive() -> list[Any]:
        happened.append("read")
        return [late.pop(0)]

    stage.line.receive = receive  # type: ignore[method-assign]
    stage.engine.answers["CLIENT"] = lambda _: happened.append("unblock") or 1
    taken_in.withdraw()
    assert happened == ["read", "unblock", "read", "read"]
    assert set(stage.line.waited) == {0}


@pytest.mark.parametrize(
    ("early", "looks"), [(2, [0.01, 0.02]), (9, [0.01 * 2**n for n in range(7)])]
)
def test_a_wait_that_is_not_read_yet_is_ended_again_until_its_own_timer_ends_it(
    stage: Stage, taken_in: Intake, early: int, looks: list[float]
) -> None:
    stage.consume()
    wait(stage)
    stage.line.waited.clear()
    ended = iter([*[0] * early, 1])
    stage.engine.answers["CLIENT"] = lambda _: next(ended)
    stage.line.receive = lambda: [None]  # type: ignore[method-assign]
    taken_in.withdraw()
    assert [seconds for seconds in stage.line.waited if seconds] == looks
    assert taken_in.blocked == ()


def test_a_wait_that_may_not_be_ended_is_left_to_its_own_timer(
    stage: Stage, taken_in: Intake
) -> None:
    stage.consume()
    wait(stage)
    stage.line.waited.clear()

    def refused(_: Any) -> None:
        assert asked_to_unblock(stage) == 1, "nobody is asked again"
        raise PermissionDenied("CLIENT")

    stage.engine.answers["CLIENT"] = refused
    stage.line.receive = lambda: [None]  # type: ignore[method-assign]
    taken_in.withdraw()
    assert (set(stage.line.waited), taken_in.blocked) == ({0}, ())


def test_a_wait_that_has_ended_by_itself_is_not_ended(stage: Stage, taken_in: Intake) -> None:
    stage.consume()
    wait(stage)
    stage.line.replies.append([b"_atomq.{q}.wake", b"1"])
    taken_in.withdraw()
    assert asked_to_unblock(stage) == 0
    assert taken_in.claims.hot == {"q"}


def test_a_server_may_answer_a_wait_late_by_the_time_it_waits(
    stage: Stage, clock: list[float]
) -> None:
    stage.consume()
    wait(stage)
    clock[0] += PATIENCE + 0.5
    stage.poller.pump()
    assert len(stage.engine.lines) == 1
    clock[0] += 0.5
    stage.line.waited.clear()
    stage.poller.pump()
    assert len(stage.engine.lines) == 2
    assert stage.engine.lines[0].waited == [0]


# ── watching for others ───────────────────────────────────────────────────────────────────────


def elected(stage: Stage) -> None:
    """It consumes `q`, and is elected to watch it."""
    stage.consume("q")
    stage.claim()
    stage.poller.pump()
    stage.give(b"OK", None)


def test_what_got_nothing_stands_for_election_again(stage: Stage, clock: list[float]) -> None:
    """What woke it may be one that left the watch to others."""
    stage.consume()
    wait(stage)
    assert stage.line.names().count("SET") == 1
    stage.give([b"_atomq.{q}.wake", b"1"])
    wait(stage)
    assert stage.line.names().count("SET") == 2


def test_it_leaves_the_watch_each_time_it_can_take_nothing(
    stage: Stage, taken_in: Intake, clock: list[float]
) -> None:
    stage.channel.basic_qos(0, 1, False)
    elected(stage)
    for n in range(2):
        stage.claim(f"m{n}", more=[1])
        stage.poller.pump()
        assert taken_in.next_at == taken_in.unable_since + LINGER
        assert 0 <= clock[0] - taken_in.unable_since < 0.01
        clock[0] += LINGER + 0.01
        stage.poller.pump()
        stage.give(1)
        assert len(stage.line.calls("resign")) == n + 1
        assert taken_in.next_at > clock[0] + 1
        stage.channel.basic_ack(f"m{n}")
        stage.claim()
        stage.poller.pump()
        stage.give(b"OK")
        stage.give(*[b""] * (taken_in.socket.line.talk.under_way))  # type: ignore[union-attr]


def test_a_wait_ends_before_a_watch_is_left(stage: Stage, taken_in: Intake) -> None:
    """Behind the wait the server would hear of it too late."""
    elected(stage)
    stage.claim()
    stage.poller.pump()
    unblocked(stage, None)
    stage.give(b"OK", b"OK", 0)
    taken_in.resign(staying={"q"})
    assert (asked_to_unblock(stage), stage.line.calls("resign")) == (0, [])
    taken_in.resign()
    assert asked_to_unblock(stage) == 1
    assert len(stage.line.calls("resign")) == 1


# ── the end ───────────────────────────────────────────────────────────────────────────────────


def test_one_that_closes_leaves_its_watch_to_others(stage: Stage, taken_in: Intake) -> None:
    elected(stage)
    stage.claim()
    taken_in.close()
    assert len(stage.engine.called("resign")) == 1
    assert not taken_in.is_open


def test_one_that_closes_waits_for_an_answer_until_the_server_counts_as_dead(
    stage: Stage, taken_in: Intake, clock: list[float]
) -> None:
    stage.consume()
    stage.broker.keeper.acks.add("q", "a")
    stage.poller.pump()
    began = clock[0]
    taken_in.close()
    assert PATIENCE < clock[0] - began < PATIENCE + 0.1
    assert set(stage.line.waited) == {0.1}
    assert stage.line.closed
    assert taken_in.claims.under_way is None
    assert stage.broker.keeper.acks.queues() == ["q"], "its acks are sent without it"
    assert len(stage.broker.unanswered) == 1, "what it claimed is asked for again"
