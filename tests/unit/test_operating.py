"""What an operator has done to a queue or a message, played by hand, over several calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from atomq import calls, flows
from atomq.calls import HandedBack, MessageStatus, Process, Redriven, Roster, Verdict
from atomq.errors import PermissionDenied
from atomq.keys import QueueKeys, RegisterKeys
from tests.played import Play

Q, REGISTER = QueueKeys("q"), RegisterKeys()


# ── redrive ───────────────────────────────────────────────────────────────────────────────────


def test_letters_are_looked_at_first_and_then_moved_until_all_are_reached() -> None:
    ids = [f"{n}-0" for n in range(1, 1003)]
    play = Play(flows.redrive(Q, ids, reason="bad"))
    assert play.effect.args[:1] + play.effect.args[5:] == [1, "bad", *ids[:1000]], "only looked at"
    call = play.go(Redriven(0, 2, "2-0", [("1-0", "m1"), ("2-0", "")]))
    assert call.args[:1] + call.args[6:] == [0, "1-0", "2-0"]
    call = play.go(Redriven(2, 2, ""))
    assert call.args[6:] == ids[2:1000], "what the bytes of a call did not reach"
    call = play.go(Redriven(0, 998, "1000-0", []))
    assert call.args[6:] == ids[1000:]
    call = play.go(Redriven(0, 2, "", [("1002-0", "m2")]))
    assert call.args[6:] == ["1002-0"]
    play.go(Redriven(1, 1, ""))
    assert play.result == 3


def test_all_letters_are_looked_at_in_steps_of_five_hundred() -> None:
    play = Play(flows.redrive_all(Q, until="9-0"))
    assert play.effect.args[:6] == [1, 500, 1 << 20, "", "9-0", ""]
    play.go(Redriven(0, 0, ""))
    assert play.result == 0


# ── hand back, leave, the register ────────────────────────────────────────────────────────────


def test_a_queue_is_handed_back_until_nothing_is_left() -> None:
    said: list[int] = []
    play = Play(flows.hand_back_all(Q, report=said.append))
    assert play.effect.args == [500, 1 << 20, 1, 1], "leased ones and delayed ones"
    play.go(HandedBack(3, 2, 1))
    play.go(HandedBack(0, 1, 0))
    assert play.result == HandedBack(3, 3, 0)
    assert said == [5, 6]


def test_what_cannot_be_handed_back_is_left_and_counted() -> None:
    play = Play(flows.hand_back_all(Q, unacked=False))
    assert play.effect.args[2:] == [0, 1]
    play.go(HandedBack(1, 1, 7))
    play.go(HandedBack(0, 0, 7))
    assert play.result == HandedBack(1, 1, 7)


@pytest.mark.parametrize("pages", [0, 1, 2])
def test_the_register_is_read_to_its_end(pages: int) -> None:
    names = [f"q{n:04}" for n in range(pages * calls.MOST + 2)]
    play = Play(flows.whole_roster(REGISTER))
    for page in range(pages + 1):
        assert play.effect.args == [names[page * calls.MOST - 1] if page else "", calls.MOST]
        play.go(Roster(1, names[page * calls.MOST : (page + 1) * calls.MOST], [], 0))
    assert play.result.queues == names


def test_the_last_consumer_goes_on_until_all_that_is_delayed_was_looked_at() -> None:
    play = Play(flows.leave(Q, "c-1"))
    assert play.effect.args[:3] == ["c-1", 0, 0]
    assert play.go(calls.Attended(0, 5, 2, 9)).args[:3] == ["c-1", 0, 2]
    assert play.go(calls.Attended(0, 1, 3, 1)).args[:3] == ["c-1", 0, 5]
    play.go(calls.Attended(0, 2, 0, 0))
    assert play.result == 8


# ── one message ───────────────────────────────────────────────────────────────────────────────

READY = MessageStatus("m", "ready", 1, raw=b"{}")
HELD = MessageStatus("m", "held", 1, receipt="host-1-7.0.1", raw=b"{}")
DELAYED = MessageStatus("m", "delayed", 1, raw=b"{}")
GONE = MessageStatus("m", "gone", 1)


def test_of_a_held_message_its_process_is_looked_up() -> None:
    holder = Process(HELD.process, 1, {"host": "here", "pid": 12})
    play = Play(flows.status(Q, REGISTER, "m"))
    assert play.go(HELD).args == ["", 1], "all processes, and as few queues as may be"
    play.go(Roster(1, [], [Process("another", 1, {"host": "there"}), holder], 2))
    assert play.result == replace(HELD, host="here", pid=12)
    play = Play(flows.status(Q, REGISTER, "m"))
    play.go(HELD)
    play.go(Roster(1, [], [replace(holder, entry={"pid": 12})], 1))
    assert play.result == replace(HELD, host="", pid=12)


@pytest.mark.parametrize("answer", [Roster(1, [], [], 0), PermissionDenied("no")], ids=repr)
def test_without_its_process_a_held_message_is_what_it_is(answer: Any) -> None:
    play = Play(flows.status(Q, REGISTER, "m"))
    play.go(HELD)
    play.go(answer)
    assert play.result is HELD


def test_a_message_that_is_not_held_has_no_process() -> None:
    play = Play(flows.status(Q, REGISTER, "m"))
    play.go(READY)
    assert play.result is READY


def cancelling(first: Verdict = Verdict.LOST) -> Play:
    play = Play(flows.cancel(Q, ["m"]))
    assert play.effect.script.name == "cancel"
    play.go([first])
    return play


def test_what_a_first_call_cancelled_is_not_looked_for() -> None:
    assert cancelling(Verdict.DONE).result == [Verdict.DONE]


@pytest.mark.parametrize("at", [0, 1])
def test_each_of_several_has_a_verdict_of_its_own(at: int) -> None:
    play = Play(flows.cancel(Q, ["a", "b"]))
    verdicts = [Verdict.DONE, Verdict.DONE]
    verdicts[at] = Verdict.LOST
    assert play.go(list(verdicts)).args[1] == "ab"[at]
    play.go(GONE)
    assert play.result == verdicts


def test_the_holder_of_a_message_is_to_hear_of_it() -> None:
    play = cancelling()
    call = play.go(HELD)
    assert (call.script.name, call.args[1:3]) == ("revoke", ["m", HELD.receipt])
    play.go(True)
    assert play.result == [Verdict.DONE]


def test_what_is_being_cancelled_already_is_done() -> None:
    play = cancelling()
    play.go(replace(HELD, cancelling=True))
    assert play.result == [Verdict.DONE]


@pytest.mark.parametrize(
    ("found", "message"),
    [(READY, b"{}"), (replace(READY, raw=None, certain=False), b"")],
    ids=["found", "not searched for"],
)
def test_what_is_ready_is_taken_out_or_dropped_when_it_is_met(
    found: MessageStatus, message: bytes
) -> None:
    play = cancelling()
    call = play.go(found)
    assert (call.script.name, call.args[2], call.args[4]) == ("revoke", "", message)
    play.go(True)
    assert play.result == [Verdict.DONE]


@pytest.mark.parametrize("found", [GONE, replace(READY, raw=None)], ids=["gone", "without it"])
def test_what_is_not_there_is_lost(found: MessageStatus) -> None:
    play = cancelling()
    play.go(found)
    assert (play.over, play.result) == (True, [Verdict.LOST])


def test_what_moves_meanwhile_is_looked_for_three_times() -> None:
    play = cancelling()
    for _ in range(3):
        assert play.effect.script.name == "find"
        assert play.go(HELD).script.name == "revoke"
        play.go(False)
    assert play.result == [Verdict.LOST]


@pytest.mark.parametrize("verdict", [Verdict.DONE, Verdict.LOST])
def test_what_became_delayed_meanwhile_is_cancelled_there(verdict: Verdict) -> None:
    play = cancelling()
    call = play.go(DELAYED)
    assert (call.script.name, call.args) == ("cancel", ["m"])
    play.go([verdict])
    if verdict is Verdict.LOST:
        assert play.effect.script.name == "find", "it may be ready by now"
        play.go(GONE)
    assert play.result == [verdict]
