"""One server on which scripts are loaded, against answers that are played. Needs no server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import exceptions as server

from atomq import scripts
from atomq.actions import BRIEF
from atomq.errors import AtomqError, PermissionDenied, ScriptsNotLoaded, ServerUnavailable
from atomq.node import Node

ALL = [*scripts.every()]


class Pool:
    """Answers each command as it is given, and notes it."""

    def __init__(self, *answers: Any) -> None:
        self.answers = [*answers]
        self.asked: list[Any] = []

    def command(self, args: Any) -> Any:
        self.asked.append(args)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def commands(self, args: Any, within: float | None) -> list[Any]:
        """Answers what one of these is answered; errors among them."""
        self.asked.append((args, within))
        return [self.answers.pop(0)]


def node(*answers: Any) -> tuple[Node, Pool]:
    pool: Any = Pool(*answers)
    return Node("here:1", pool), pool


@pytest.mark.parametrize("as_said", [str.encode, str])
def test_all_scripts_are_loaded_or_those_that_are_named(as_said: Callable[[str], Any]) -> None:
    one, pool = node(*(as_said(script.sha) for script in ALL))
    assert one.load() == ALL
    assert pool.asked == [("SCRIPT LOAD", script.text) for script in ALL]
    one, pool = node(as_said(ALL[1].sha))
    assert one.load(ALL[1:2]) == ALL[1:2]
    one, pool = node()
    assert one.load([]) == []


def test_one_that_names_a_script_otherwise_runs_another() -> None:
    one, _ = node(b"0" * 40)
    with pytest.raises(AtomqError, match=f"here:1 named {ALL[0].name} 0{{40}}, not {ALL[0].sha}"):
        one.load()


def test_without_the_right_it_is_said_which_one_it_takes() -> None:
    one, _ = node(server.NoPermissionError("no"))
    with pytest.raises(ScriptsNotLoaded, match=r"on here:1: needs \+script\|load \(no\)"):
        one.load()


def test_what_is_missing_is_what_the_server_does_not_know() -> None:
    one, pool = node([1] * len(ALL))
    assert one.missing() == []
    assert pool.asked == [("SCRIPT EXISTS", *(script.sha for script in ALL))]
    one, _ = node([0, *[1] * (len(ALL) - 2), 0])
    assert one.missing() == [ALL[0], ALL[-1]]


@pytest.mark.parametrize(
    ("reply", "knows"),
    [
        (server.NoScriptError("NOSCRIPT"), False),
        (server.ResponseError("BADARG keys: 0"), True),
        ([], True),
    ],
)
def test_whether_scripts_are_known_is_seen_by_one_that_is_not_carried_out(
    reply: Any, knows: bool
) -> None:
    one, pool = node(reply)
    assert one.knows_scripts() is knows
    assert pool.asked == [([("EVALSHA", scripts.get("hand_back").sha, 0)], BRIEF)]


@pytest.mark.parametrize(
    ("reply", "ours"),
    [
        (server.NoPermissionError("NOPERM"), PermissionDenied),
        (server.BusyLoadingError("LOADING"), ServerUnavailable),
        (server.ConnectionError("gone"), ServerUnavailable),
    ],
)
def test_one_that_cannot_say_whether_it_knows_the_scripts_is_no_answer(
    reply: Exception, ours: type[AtomqError]
) -> None:
    one, _ = node(reply)
    with pytest.raises(ours):
        one.knows_scripts()


@pytest.mark.parametrize(
    "ask",
    [Node.load, Node.missing, lambda one: one.command("GET", "k")],
    ids=["load", "missing", "get"],
)
def test_where_it_is_gone_our_error_is_raised(ask: Callable[[Node], Any]) -> None:
    one, _ = node(server.ConnectionError("gone"))
    with pytest.raises(ServerUnavailable, match="gone"):
        ask(one)


def test_any_command_is_run_and_its_error_is_ours() -> None:
    one, pool = node(b"v", server.NoPermissionError("NOPERM"))
    assert one.command("GET", "k") == b"v"
    assert pool.asked == [("GET", "k")]
    with pytest.raises(PermissionDenied):
        one.command("GET", "k")
