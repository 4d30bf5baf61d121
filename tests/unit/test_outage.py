"""What is logged of a server that is away, and when."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from atomq.outage import Outage


def test_a_server_that_stays_away_is_said_once_a_minute_and_once_that_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now, outage, refused = [1000.0], Outage("the server a:1"), OSError("refused")
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def at(seconds: float) -> list[str]:
        """What is logged when it is missed again, so long after the first line."""
        now[0] = 1000.0 + seconds
        caplog.clear()
        outage.away(refused, 2.0)
        return caplog.messages

    line = ["waiting for the server a:1: refused"]
    assert at(0) == line
    assert [at(seconds) for seconds in (0, 1, 30, 59.9)] == [[]] * 4
    assert at(60) == line
    assert at(119.9) == []
    assert at(120) == line
    caplog.clear()
    now[0] = 1130.0
    for _ in range(2):
        outage.back()
    assert caplog.messages == ["the server a:1 is back after 132.0 s"]
    assert at(131) == [], "that the same call waited before was another outage"
    assert at(131.1) == line
    assert {record.levelname for record in caplog.records} == {"WARNING"}


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, that a test sets."""
    made = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: made[0])
    return made


WAITING, REFUSED = "waiting for the server a:1: refused", OSError("refused")


def test_what_passes_within_a_second_is_worth_no_line(
    now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage("the server a:1")
    for seconds in (0, 0.5, 1.0):
        now[0] = 1000 + seconds
        outage.away(REFUSED)
    outage.back()
    now[0] = 1001.1
    outage.away(REFUSED)
    assert caplog.messages == [], "it is missed since it was back"
    now[0] = 1002.2
    outage.away(REFUSED)
    assert caplog.messages == [WAITING]
    now[0] = 1003.1
    outage.back()
    assert caplog.messages[1:] == ["the server a:1 is back after 2.0 s"]


def test_what_is_waited_for_longer_is_said_ahead(
    now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage("the server a:1")
    outage.away(REFUSED, 0.6, 0.4)
    assert caplog.messages == []
    outage.away(REFUSED, 0.6, 0.5)
    assert caplog.messages == [WAITING]


def test_what_was_missed_long_ago_is_another_trouble(
    now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody asked since then: it may have been back."""
    outage = Outage("the server a:1")
    for seconds in (0, 3.0, 6.0):
        now[0] = 1000 + seconds
        outage.away(REFUSED)
    assert caplog.messages == []
    now[0] = 1008.9
    outage.away(REFUSED)
    assert caplog.messages == [WAITING]
    outage.back()
    assert caplog.messages[1:] == ["the server a:1 is back after 2.9 s"]


def test_a_server_that_others_replace_is_not_back(
    now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage("the server a:1")
    outage.away(REFUSED)
    outage.left()
    assert caplog.messages == []
    now[0] = 1010.0
    outage.away(REFUSED, 2.0)
    for _ in range(2):
        outage.left()
    outage.back()
    text = "the server a:1 serves no slots any more: it was waited for for 2.0 s"
    assert caplog.messages == [WAITING, text]
    outage.away(REFUSED, 3.0)
    assert caplog.messages[2:] == [], "one that has heard so late does not begin anew"


def test_while_a_line_is_written_nobody_waits_for_it() -> None:
    outage, log = Outage("the server a:1"), logging.getLogger("atomq.client")
    lines: list[str] = []
    waited: list[bool] = []

    def meet() -> None:
        outage.away(REFUSED, 2.0)
        outage.back()

    class Slow(logging.Handler):
        """While it writes a line, another thread meets the server."""

        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage()[:12])
            other = threading.Thread(target=meet, daemon=True)
            other.start()
            other.join(5)
            waited.append(other.is_alive())

    handler = Slow()
    log.addHandler(handler)
    try:
        meet()
    finally:
        log.removeHandler(handler)
    assert (lines, waited) == (["waiting for ", "the server a"], [False, False])
