"""One connection that tasks share, over a wire, a loop and a clock that are played here."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as server

from atomq import line_aio, wires
from atomq.actions import Replaced
from atomq.conversation import packed
from atomq.line_aio import Line, readable
from atomq.pool_base import FRESH, LATE
from atomq.translating import Unsent

PATIENCE = 3.0
LONGER = 7.0  # s that a confirmation may take beyond it
GET = packed(("GET", "k"))


class Loop:
    """What is to be called soon, and what later, on a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[Callable[[], None]] = []
        self.timers: list[Any] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Any:
        timer = SimpleNamespace(at=self.now + seconds, call=call)
        timer.cancel = lambda: self.timers.remove(timer)
        self.timers.append(timer)
        return timer

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for call in soon:
            call()

    def until(self, now: float) -> None:
        """Let the time come, and each timer when it is its turn."""
        while due := [timer for timer in self.timers if timer.at <= now]:
            first = min(due, key=lambda timer: timer.at)
            assert first.at > self.now, "it rings again and again"
            self.now = first.at
            self.timers.remove(first)
            first.call()
        self.now = now


class Asked:
    """What so many answers are for; `gone`: no task waits for them any more."""

    def __init__(self, *, many: int = 1, gone: bool = False) -> None:
        self.got: list[Any] = []
        self._many = many
        self.gone = gone

    def done(self) -> bool:
        return self.gone or len(self.got) == self._many

    def set_result(self, reply: Any, /) -> None:
        self.got.append(reply)

    def set_exception(self, error: Exception, /) -> None:
        self.got.append(error)


class Stage:
    """A line, its pool and its wire."""

    def __init__(self, loop: Loop, *, late: bool = False, moves: int = 0, **options: Any) -> None:
        options = {"health_check_interval": None, "socket_timeout": PATIENCE, **options}
        self.loop = loop
        self.did: list[Any] = []
        self.written: list[bytes] = []
        self.number = -1
        self.engine = SimpleNamespace(moves=moves, options=SimpleNamespace(**options))
        self.late_at: list[float] = []
        pool: Any = SimpleNamespace(engine=self.engine, late=None, is_wanted=False)
        self.pool = pool
        if late:
            pool.late = lambda: self.late_at.append(loop.now)
        pool.left = lambda _, *, answers: self.did.append("left" if answers else "gone")
        for name in ("occupied", "rests"):
            setattr(pool, name, lambda _, name=name: self.did.append(name))
        for name in ("broke", "serve"):
            setattr(pool, name, lambda name=name: self.did.append(name))
        connection: Any = self
        self.line = Line(pool, connection, 0)

    def wire(self, *_: Any) -> Any:
        """What the line takes for one."""
        return SimpleNamespace(
            write=self.written.append,
            fileno=lambda: self.number,
            close=lambda: self.did.append("close"),
        )

    def say(
        self, *data: bytes, asked: Asked | None = None, large: bool = False, patience: float = 0.0
    ) -> Asked:
        asked = asked or Asked(many=len(data) or 1)
        more = {"patience": patience} if patience else {}
        self.line.say(data or (GET,), asked, large, **more)
        return asked

    def hear(self, data: bytes) -> None:
        self.line._received(data)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    played = SimpleNamespace(get_running_loop=lambda: loop)
    monkeypatch.setattr(line_aio, "asyncio", played)
    monkeypatch.setattr(line_aio, "time", SimpleNamespace(monotonic=lambda: loop.now))
    monkeypatch.setattr(wires, "taken_async", Stage.wire)
    return loop


# ── what travels together ─────────────────────────────────────────────────────────────────────


def test_one_that_is_alone_is_written_at_once_and_what_comes_behind_it_together(loop: Loop) -> None:
    stage = Stage(loop)
    asked = [stage.say()]
    assert stage.written == [GET]
    asked += [stage.say(), stage.say(GET, GET)]
    assert stage.written == [GET]
    assert (len(loop.soon), stage.line.under_way) == (1, 4)
    loop.turn()
    assert stage.written == [GET, 3 * GET]
    stage.hear(b":1\r\n:2\r\n:3\r\n")
    assert stage.line.under_way == 1
    stage.hear(b":4\r\n")
    assert [each.got for each in asked] == [[1], [2], [3, 4]]
    assert stage.did == ["rests"]


def test_a_wire_that_is_given_away_is_open_and_no_timer_of_here_rings(loop: Loop) -> None:
    stage = Stage(loop, late=True)
    stage.say()
    stage.hear(b":1\r\n")
    assert loop.timers
    assert stage.line.give() is stage.line._wire
    assert (stage.did, loop.timers) == (["rests", "gone"], [])


def test_where_several_went_together_the_first_of_the_next_turn_waits_for_the_others(
    loop: Loop,
) -> None:
    """Until one went alone again."""
    stage = Stage(loop)
    for _ in range(3):
        stage.say()
    loop.turn()
    stage.hear(b":1\r\n:2\r\n:3\r\n")
    stage.written.clear()
    stage.say()
    assert (stage.written, stage.line.under_way) == ([], 1)
    loop.turn()
    assert stage.written == [GET]
    stage.hear(b":1\r\n")
    stage.say()
    assert stage.written == [GET, GET]


def test_several_commands_of_one_caller_go_at_once_where_it_is_alone(loop: Loop) -> None:
    stage = Stage(loop)
    stage.say(GET, GET)
    assert stage.written == [2 * GET]
    assert not loop.soon


def test_what_no_task_waits_for_any_more_is_not_sent(loop: Loop) -> None:
    stage = Stage(loop)
    stage.say()
    stage.say(asked=Asked(gone=True))
    last = stage.say()
    loop.turn()
    assert stage.written == [GET, GET]
    stage.hear(b":1\r\n:2\r\n")
    assert last.got == [2]


def test_where_nothing_is_left_to_send_it_rests_once_all_is_answered(loop: Loop) -> None:
    stage = Stage(loop)
    stage.say()
    stage.say(asked=Asked(gone=True))
    loop.turn()
    assert (stage.written, stage.did) == ([GET], []), "the first has no answer yet"
    stage.hear(b":1\r\n")
    assert stage.did == ["rests"]
    stage.line._alone = False
    stage.say(asked=Asked(gone=True))
    loop.turn()
    assert (stage.written, stage.did) == ([GET], ["rests", "rests"])


def test_a_large_one_occupies_it(loop: Loop) -> None:
    stage = Stage(loop)
    stage.say()
    assert stage.did == []
    stage.say(large=True)
    assert stage.did == ["occupied"]


# ── what is heard ─────────────────────────────────────────────────────────────────────────────


def test_a_push_answers_nothing(loop: Loop) -> None:
    stage = Stage(loop)
    asked = stage.say()
    stage.hear(b">1\r\n:9\r\n:1\r\n")
    assert asked.got == [1]


def test_an_answer_for_which_no_task_waits_any_more_is_dropped(loop: Loop) -> None:
    stage = Stage(loop)
    asked = stage.say()
    asked.gone = True
    stage.hear(b":1\r\n")
    assert (asked.got, stage.did) == ([], ["rests"])


def test_while_others_are_under_way_what_waits_for_a_connection_may_have_room(loop: Loop) -> None:
    stage = Stage(loop)
    stage.say()
    stage.say()
    loop.turn()
    stage.hear(b":1\r\n")
    assert stage.did == []
    stage.say()
    stage.pool.is_wanted = True
    stage.hear(b":2\r\n")
    assert stage.did == ["serve"], "one is not sent yet"


def test_the_line_is_as_it_will_be_when_a_caller_hears(loop: Loop) -> None:
    stage = Stage(loop)
    seen: list[Any] = []
    asked = stage.say()
    asked.set_result = lambda _: seen.append([*stage.did])  # type: ignore[method-assign]
    stage.hear(b":1\r\n")
    assert seen == [["rests"]]


def test_what_is_no_answer_breaks_it_and_what_came_before_counts(loop: Loop) -> None:
    stage = Stage(loop)
    first, second = stage.say(), stage.say()
    loop.turn()
    stage.hear(b":1\r\n:2\r\n:3\r\n")
    assert (first.got, second.got) == ([1], [2])
    assert stage.did == ["close", "gone", "broke"]
    stage = Stage(loop)
    first, second = stage.say(), stage.say()
    loop.turn()
    stage.hear(b":1\r\n?\r\n")
    assert first.got == [1]
    assert [type(error) for error in second.got] == [server.InvalidResponse]


@pytest.mark.parametrize("word", ["READONLY no", "LOADING not yet"])
def test_an_error_of_the_server_is_an_answer_and_of_a_replica_leads_astray(
    loop: Loop, word: str
) -> None:
    stage = Stage(loop)
    refused = stage.say()
    stage.hear(b"-NOPERM no\r\n")
    assert [type(error) for error in refused.got] == [server.NoPermissionError]
    assert stage.did == ["rests"]
    stage.did.clear()
    asked, other = stage.say(), stage.say()
    loop.turn()
    stage.hear(f"-{word}\r\n".encode())
    assert len(asked.got) == 1
    assert stage.did == ["broke", "left"], "the other answer is to come"
    stage.hear(b":1\r\n")
    assert other.got == [1]
    assert stage.did[2:] == ["close", "gone"]


# ── whether it can be used after a rest ───────────────────────────────────────────────────────


def rested(stage: Stage, seconds: float) -> None:
    stage.say()
    stage.hear(b":1\r\n")
    stage.loop.now += seconds


@pytest.fixture
def ends() -> Any:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_it_is_looked_at_after_a_rest_or_where_a_call_cannot_be_sent_again(
    loop: Loop, ends: Any
) -> None:
    stage = Stage(loop)
    stage.number = ends[0].fileno()
    rested(stage, FRESH - 0.01)
    assert stage.line.is_sound(looked_at=True)
    ends[1].close()
    assert stage.line.is_sound(looked_at=False)
    assert not stage.line.is_sound(looked_at=True)
    loop.now += 0.01
    assert not stage.line.is_sound(looked_at=False)
    stage.number = -1
    assert stage.line.is_sound(looked_at=True), "memory:// has no socket"


def test_it_is_not_used_after_the_interval_at_which_connections_are_checked(loop: Loop) -> None:
    stage = Stage(loop, health_check_interval=25)
    rested(stage, 24.9)
    assert stage.line.is_sound(looked_at=False)
    loop.now += 0.1
    assert not stage.line.is_sound(looked_at=False)
    stage = Stage(loop, health_check_interval=0)
    rested(stage, 1e6)
    assert stage.line.is_sound(looked_at=False)


@pytest.mark.parametrize("by", ["poll", "select"])
def test_an_idle_connection_is_readable_once_the_server_closed_it(
    ends: Any, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "select":

        def at_once(*given: Any) -> Any:
            assert given[3] == 0
            return select.select(*given)

        monkeypatch.setattr(line_aio, "select", SimpleNamespace(select=at_once))
    assert not readable(ends[0].fileno())
    ends[1].close()
    assert readable(ends[0].fileno())


# ── answers that are late ─────────────────────────────────────────────────────────────────────


def test_it_breaks_where_nothing_is_heard_for_the_timeout(loop: Loop) -> None:
    stage = Stage(loop)
    loop.now += 50.0
    asked = stage.say()
    loop.until(150.0 + PATIENCE - 0.01)
    assert (asked.got, stage.did) == ([], [])
    loop.until(150.0 + PATIENCE)
    (error,) = asked.got
    assert (type(error), str(error)) == (server.TimeoutError, "Timeout reading from socket")
    assert stage.did == ["close", "gone", "broke"]
    assert not loop.timers


def test_what_is_heard_meanwhile_begins_the_time_anew(loop: Loop) -> None:
    stage = Stage(loop)
    stage.say()
    loop.until(101.0)
    stage.say()
    loop.turn()
    loop.until(102.0)
    stage.hear(b":1\r\n")
    loop.until(102.0 + PATIENCE - 0.01)
    assert stage.did == []
    assert len(loop.timers) == 1, "one for all that are under way"
    loop.until(102.0 + PATIENCE)
    assert stage.did == ["close", "gone", "broke"]


def test_an_idle_line_is_not_late(loop: Loop) -> None:
    stage = Stage(loop)
    rested(stage, 0.0)
    loop.until(100.0 + 10 * PATIENCE)
    assert (stage.did, loop.timers) == (["rests"], [])
    stage.say()
    assert [timer.at for timer in loop.timers] == [100.0 + 11 * PATIENCE]


def test_an_alarm_that_still_runs_serves_the_next_call_too(loop: Loop) -> None:
    stage = Stage(loop)
    rested(stage, 1.0)
    stage.say()
    assert [timer.at for timer in loop.timers] == [100.0 + PATIENCE]
    loop.until(101.0 + PATIENCE - 0.01)
    assert stage.did == ["rests"]
    loop.until(101.0 + PATIENCE)
    assert stage.did == ["rests", "close", "gone", "broke"]


def test_without_a_timeout_it_waits_for_ever(loop: Loop) -> None:
    stage = Stage(loop, socket_timeout=None)
    stage.say()
    assert not loop.timers
    stage = Stage(loop, late=True, socket_timeout=None)
    stage.say()
    loop.until(100.0 + 1e3)
    assert stage.did == []
    assert len(stage.late_at) == 1e3 / LATE


def test_what_is_confirmed_may_take_longer_and_what_comes_later_may_not(loop: Loop) -> None:
    stage = Stage(loop)
    stage.say(patience=LONGER - 1.0)
    stage.say(patience=1.0)
    loop.turn()
    loop.until(100.0 + PATIENCE + LONGER - 0.01)
    assert stage.did == []
    stage.hear(b":1\r\n:2\r\n")
    begun = loop.now
    stage.say()
    loop.until(begun + PATIENCE)
    assert stage.did == ["rests", "close", "gone", "broke"]


def test_a_node_is_late_every_half_a_second_until_it_counts_as_dead(loop: Loop) -> None:
    stage = Stage(loop, late=True, socket_timeout=1.75 * LATE)
    asked = stage.say()
    loop.until(100.0 + 1.74 * LATE)
    assert (stage.late_at, asked.got) == ([100.0 + LATE], [])
    loop.until(100.0 + 1.75 * LATE)
    assert [type(error) for error in asked.got] == [server.TimeoutError]
    stage = Stage(loop, late=True, socket_timeout=10 * LATE)
    begun = loop.now
    stage.say()
    loop.until(begun + 3.9 * LATE)
    assert stage.late_at == [begun + n * LATE for n in (1, 2, 3)]


def test_a_node_that_was_heard_is_late_half_a_second_after_that(loop: Loop) -> None:
    stage = Stage(loop, late=True)
    stage.say()
    stage.say()
    loop.turn()
    loop.until(100.0 + 0.5 * LATE)
    stage.hear(b":1\r\n")
    loop.until(100.0 + 1.4 * LATE)
    assert stage.late_at == []
    loop.until(100.0 + 1.5 * LATE)
    assert stage.late_at == [100.0 + 1.5 * LATE]


# ── its end ───────────────────────────────────────────────────────────────────────────────────


def test_what_was_not_sent_is_known_not_to_be_carried_out(loop: Loop) -> None:
    stage = Stage(loop)
    asked = [stage.say(), stage.say(), stage.say(asked=Asked(gone=True))]
    gone = stage.say()
    gone.gone = True
    stage.line.broke(server.ConnectionError("cut"))
    loop.turn()
    (lost,), (unsent,) = asked[0].got, asked[1].got
    assert (type(lost), str(lost)) == (server.ConnectionError, "cut")
    assert isinstance(unsent, Unsent)
    assert (asked[2].got, gone.got) == ([], [])
    assert stage.written == [GET]
    assert stage.line.under_way == 0


def test_a_caller_that_is_gone_hears_of_no_break(loop: Loop) -> None:
    stage = Stage(loop)
    asked = stage.say()
    asked.gone = True
    stage.line.broke(server.ConnectionError("cut"))
    assert asked.got == []


def test_it_leaves_when_all_is_answered(loop: Loop) -> None:
    stage = Stage(loop)
    stage.line.leave()
    assert stage.did == ["close", "gone"], "at once where there is nothing"
    stage = Stage(loop)
    asked = stage.say()
    stage.line.leave()
    assert stage.did == ["left"]
    stage.hear(b":1\r\n")
    assert asked.got == [1]
    assert stage.did == ["left", "close", "gone"]
    assert not loop.timers


def test_it_does_not_stay_for_answers_that_no_task_waits_for(loop: Loop) -> None:
    stage = Stage(loop)
    asked = stage.say()
    asked.gone = True
    stage.line.leave()
    assert stage.did == ["close", "gone"]


def test_it_stays_for_what_is_not_sent_yet(loop: Loop) -> None:
    stage = Stage(loop)
    stage.say().gone = True
    stage.say()
    stage.line.leave()
    assert stage.did == ["left"]


def test_a_confirmation_of_a_server_that_is_the_master_no_more_is_not_waited_for(
    loop: Loop,
) -> None:
    stage = Stage(loop, moves=4)
    asked = stage.say(patience=LONGER)
    stage.line.leave()
    assert stage.did == ["left"], "it is the master"
    stage.engine.moves += 1
    stage.line.leave()
    assert [type(error) for error in asked.got] == [Replaced]
    stage = Stage(loop)
    stage.say()
    stage.engine.moves += 1
    stage.line.leave()
    assert stage.did == ["left"], "no confirmation is under way"
