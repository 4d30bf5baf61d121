"""What is asked of a server that is to confirm a publish, and what its answers mean."""

from __future__ import annotations

from typing import Any

import pytest
from redis import exceptions as server

from atomq.durability import Durability
from atomq.errors import (
    DurabilityUnavailable,
    InvalidArgument,
    NotDurable,
    PermissionDenied,
    ServerTooOld,
)


def made(name: str, seconds: float = 1.5) -> Durability:
    found = Durability.of(name, seconds)
    assert found is not None
    return found


FSYNC, REPLICAS = made("fsync"), made("replicas=2")
POLICY = ("CONFIG", "GET", "appendfsync")


def test_what_callers_say() -> None:
    assert Durability.of("memory", 1.0) is None
    assert (REPLICAS.name, REPLICAS.replicas, REPLICAS.timeout_ms) == ("replicas=2", 2, 1500)
    assert (FSYNC.replicas, FSYNC.seconds, FSYNC.verifying) == (0, 1.5, False)
    assert [made("fsync", seconds).timeout_ms for seconds in (0.0001, 0.001, 0.002)] == [1, 1, 2]
    for name in ("", "replicas=0", "replicas=100", "replicas", "disk", None, 1):
        with pytest.raises(InvalidArgument, match="durability must be"):
            Durability.of(name, 1.0)


def test_what_the_server_is_asked() -> None:
    assert REPLICAS.commands() == REPLICAS.to_verify().commands() == [("WAIT", 2, 1500)]
    assert FSYNC.commands() == [("WAITAOF", 1, 0, 1500)]
    assert FSYNC.to_verify().commands() == [("HELLO",), POLICY, ("WAITAOF", 1, 0, 1500)]


def hello(name: str, version: str) -> dict[Any, Any]:
    return {b"server": name.encode(), b"version": version.encode()}


@pytest.mark.parametrize(
    ("asked", "said", "wrong", "text"),
    [
        (REPLICAS, [2], None, ""),
        (REPLICAS, [3], None, ""),
        (REPLICAS, [1], NotDurable, "1 of 2 replicas confirmed it within 1.5 s"),
        (FSYNC, [[1, 0]], None, ""),
        (FSYNC, [[0, 1]], NotDurable, "did not say within 1.5 s that it is on its disk"),
        (REPLICAS.to_verify(), [2], None, ""),
        (REPLICAS.to_verify(), [0], DurabilityUnavailable, "nothing was put: a trial write"),
    ],
)
def test_what_was_not_confirmed_says_so(
    asked: Durability, said: list[Any], wrong: Any, text: str
) -> None:
    error = asked.judged(said, "publish to q")
    assert type(error) is (wrong or type(None))
    if error is not None:
        assert text in str(error)
        assert str(error).endswith("(publish to q)")
    if isinstance(error, NotDurable):
        assert (error.confirmed, error.asked) == ((said[0], 2) if asked is REPLICAS else (0, 1))


@pytest.mark.parametrize(
    ("name", "version", "policy", "doubt"),
    [
        ("valkey", "7.2.5", "everysec", ""),
        ("redis", "7.2.4", "everysec", ""),
        ("redis", "8.2.3", "everysec", ""),
        ("redis", "7.4.1", "everysec", "redis 7.4.1 says of a write"),
        ("redis", "7.4.1", "always", ""),
        ("valkey", "9.1.2", "everysec", "valkey 9.1.2 says of a write"),
        ("valkey", "9.1.2", "always", ""),
        ("valkey", "9.1.2", None, "here: unknown"),
    ],
)
def test_a_server_whose_word_comes_before_the_write_is_not_believed(
    name: str, version: str, policy: str | None, doubt: str
) -> None:
    found = {b"appendfsync": policy.encode()} if policy else {}
    error = FSYNC.to_verify().judged([hello(name, version), found, [1, 0]], "a trial")
    assert type(error) is (DurabilityUnavailable if doubt else type(None))
    assert doubt in str(error or "")
    assert policy is None or not doubt or f"here: {policy}" in str(error)


def test_why_the_policy_is_not_known() -> None:
    refused = server.NoPermissionError("no CONFIG")
    error = FSYNC.to_verify().judged([hello("valkey", "9.1.2"), refused, [1, 0]], "a trial")
    assert "here: it cannot be read: grant +config|get (no CONFIG)" in str(error)


def test_where_the_policy_is_no_nothing_is_waited_for() -> None:
    said = [{"server": "redis", "version": "8.2.3"}, {"appendfsync": "no"}, [0, 0]]
    error = FSYNC.to_verify().judged(said, "a trial")
    assert isinstance(error, DurabilityUnavailable)
    assert "with appendfsync no the server never says" in str(error)
    said[1] = {"appendfsync": "everysec"}
    assert "did not say within" in str(FSYNC.to_verify().judged(said, "a trial"))


@pytest.mark.parametrize(
    ("asked", "refused", "wrong", "text"),
    [
        (
            REPLICAS,
            server.NoPermissionError("no"),
            PermissionDenied,
            "needs WAIT: grant +wait (no)",
        ),
        (FSYNC, server.NoPermissionError("no"), PermissionDenied, "WAITAOF: grant +waitaof (no)"),
        (FSYNC, server.ResponseError("unknown command 'WAITAOF'"), ServerTooOld, "needs Redis or"),
        (FSYNC, server.ResponseError("x"), DurabilityUnavailable, "cannot confirm fsync: x (q)"),
    ],
)
def test_what_may_not_be_asked_or_cannot_says_what_it_takes(
    asked: Durability, refused: Exception, wrong: Any, text: str
) -> None:
    error = asked.to_verify().judged([{}, {}, refused], "q")
    assert type(error) is wrong
    assert text in str(error)
    error = asked.judged([refused], "q")
    assert isinstance(error, NotDurable)
    assert str(error).startswith("the message is in the queue, but ")
    assert text in str(error)
    assert (error.confirmed, error.asked) == (0, asked.replicas or 1)
