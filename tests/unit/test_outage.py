"""What is logged of a server that is away, and when."""

from __future__ import annotations

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
    assert at(131) == line, "another outage is not the same"
    assert {record.levelname for record in caplog.records} == {"WARNING"}
