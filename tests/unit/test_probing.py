"""What a user may run is asked of the server before anything moves."""

from __future__ import annotations

from typing import Any

import pytest
from redis import exceptions as server

from atomq import calls, errors
from atomq.actions import Pause, Send
from atomq.calls import Call
from atomq.keys import QueueKeys
from atomq.probing import probing
from atomq.retrying import Retry

KEYS = QueueKeys("q")


def ack() -> Call[Any]:
    return calls.ack(KEYS, ["r-1.0.1"])


def probe(reply: Any) -> None:
    steps = probing(ack(), Retry())
    assert isinstance(next(steps), Send)
    with pytest.raises(StopIteration):
        steps.send([reply])


def test_a_probe_that_finds_nothing_passes() -> None:
    probe([])


def test_what_a_user_may_not_run_is_named_with_the_grant() -> None:
    reply = [b"HSET", b"no permission", b"XADD", b"no permission"]
    with pytest.raises(errors.PermissionDenied, match=r"HSET, XADD .* grant \+hset \+xadd"):
        probe(reply)
    with pytest.raises(errors.PermissionDenied, match="grant &_atomq"):
        probe([b"PUBLISH", b"No permissions to access a channel"])


def test_commands_the_server_does_not_know_mean_it_is_too_old() -> None:
    with pytest.raises(errors.ServerTooOld, match="ZMSCORE"):
        probe([b"ZMSCORE", b"Unknown Redis command called from script"])


def test_a_probe_that_is_refused_for_now_is_repeated() -> None:
    steps = probing(ack(), Retry(attempts=2, budget=10))
    assert isinstance(next(steps), Send)
    pause = steps.send([["HSET", "-READONLY You can't write against a read only replica."]])
    assert isinstance(pause, Pause)
    assert isinstance(steps.send(None), Send)
    with pytest.raises(StopIteration):
        steps.send([[]])


def test_only_the_budget_bounds_how_often_a_refused_probe_is_repeated() -> None:
    steps = probing(ack(), Retry(attempts=1, budget=10))
    refused = ["HSET", "-READONLY You can't write.", "XADD", "-MISCONF Errors writing."]
    asked = next(steps)
    for _ in range(3):
        assert isinstance(asked, Send)
        pause = steps.send([refused])
        assert isinstance(pause, Pause)
        assert str(pause.trouble) == "the server takes no writes now: -READONLY You can't write."
        asked = steps.send(None)
    steps = probing(ack(), Retry(attempts=0, budget=10))
    next(steps)
    with pytest.raises(errors.ServerUnavailable, match="takes no writes now") as raised:
        steps.send([refused])
    assert raised.value.unsent


def test_a_probe_that_fails_raises_what_the_server_said() -> None:
    steps = probing(ack(), Retry())
    next(steps)
    with pytest.raises(errors.WrongType):
        steps.send([server.ResponseError("WRONGTYPE Operation against a key")])
