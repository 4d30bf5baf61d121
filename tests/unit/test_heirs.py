"""Which nodes are looked at for the scripts, and what becomes of them. Needs no server."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from redis import exceptions as server

from atomq.errors import PermissionDenied, ScriptsNotLoaded, ServerUnavailable
from atomq.heirs import Heirs
from atomq.node import Node


class Replica:
    def __init__(self, name: str, *, knows: bool = False, trouble: Exception | None = None) -> None:
        self.name, self.knows, self.trouble = name, knows, trouble
        self.asked = self.loaded = 0

    def knows_scripts(self) -> bool:
        self.asked += 1
        if isinstance(self.trouble, ServerUnavailable):
            raise self.trouble
        return self.knows

    def load(self) -> None:
        self.loaded += 1
        if self.trouble is not None:
            raise self.trouble
        self.knows = True


def turn(heirs: Heirs, *replicas: Replica, **how: bool) -> list[str]:
    looked = []
    for replica in heirs.to_look_at(replicas, **how):
        looked.append(replica.name)
        heirs.prepare(replica)
    return looked


def test_new_ones_are_loaded_and_then_one_is_looked_at_in_each_turn() -> None:
    heirs, first, second = Heirs(), Replica("a"), Replica("b", knows=True)
    assert turn(heirs, first, second) == ["a", "b"]
    assert (first.loaded, second.loaded) == (1, 0)
    assert {*turn(heirs, first, second), *turn(heirs, first, second)} <= {"a", "b"}
    assert first.asked + second.asked == 4
    third = Replica("c")
    assert turn(heirs, first, second, third)[0] == "c"
    first.knows = False  # it began anew
    while not first.knows:
        turn(heirs, first)
    assert first.loaded == 2


def test_one_that_left_is_new_when_it_is_back() -> None:
    heirs, one, other = Heirs(), Replica("a"), Replica("b")
    turn(heirs, one, other)
    assert turn(heirs, other) == ["b"]
    one.knows = False
    assert turn(heirs, one, other)[0] == "a"
    assert one.loaded == 2


def test_one_that_is_away_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    heirs, away = Heirs(), Replica("a", trouble=ServerUnavailable("no"))
    assert turn(heirs, away) == turn(heirs, away) == ["a"]
    assert away.loaded == 0
    away.trouble = None
    assert turn(heirs, away) == ["a"]
    assert away.loaded == 1
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_a_user_that_may_not_load_is_warned_once(caplog: pytest.LogCaptureFixture) -> None:
    heirs, bare = Heirs(), Replica("a", trouble=ScriptsNotLoaded("no"))
    assert turn(heirs, bare) == ["a"]
    assert turn(heirs, bare) == []
    (said,) = (each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING)
    assert "a does not know the scripts" in said
    assert turn(heirs, bare, anew=True) == ["a"]
    assert len([each for each in caplog.records if each.levelno >= logging.WARNING]) == 1


def test_where_a_script_was_missing_all_are_looked_at() -> None:
    heirs, nodes = Heirs(), [Replica("a"), Replica("b"), Replica("c")]
    turn(heirs, *nodes)
    nodes[1].knows = nodes[2].knows = False
    assert turn(heirs, *nodes, anew=True) == ["a", "b", "c"]
    assert [one.loaded for one in nodes] == [1, 2, 2]


class Pool:
    """Answers one command."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def commands(self, many: Any, within: float) -> list[Any]:
        ((verb, _, keys),) = many
        assert (verb, keys) == ("EVALSHA", 0)
        assert within < 1
        if isinstance(self.answer, OSError):
            raise self.answer
        return [self.answer]


@pytest.mark.parametrize(
    ("answer", "knows"),
    [
        (server.NoScriptError("No matching script."), False),
        (server.ResponseError("BADARG keys"), True),
        (server.ReadOnlyError("READONLY"), None),
        (server.BusyLoadingError("LOADING"), None),
        (server.ConnectionError("gone"), None),
        (ConnectionRefusedError("no"), None),
    ],
)
def test_whether_a_node_knows_the_scripts(answer: Exception, knows: bool | None) -> None:
    pool: Any = Pool(answer)
    node = Node("here:1", pool)
    if knows is None:
        with pytest.raises(ServerUnavailable):
            node.knows_scripts()
    else:
        assert node.knows_scripts() is knows


def test_a_user_that_may_not_run_scripts_is_no_user_of_a_replica() -> None:
    pool: Any = Pool(server.NoPermissionError("NOPERM no evalsha"))
    with pytest.raises(PermissionDenied):
        Node("here:1", pool).knows_scripts()
