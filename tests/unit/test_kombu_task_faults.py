"""What is wrong with a task, though another with the same names was sound."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from atomq.contrib.kombu import task_faults
from atomq.contrib.kombu.task_faults import fault

SOUND: dict[str, Any] = {"id": "1", "task": "noop", "retries": 0, "timelimit": [None, None]}


@pytest.fixture(autouse=True)
def in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "celery.worker.strategy", ModuleType("strategy"))
    monkeypatch.setattr(task_faults, "_sound", set())


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("id", None, "the task's id is NoneType"),
        ("retries", "2", "the task's retries is str"),
        ("stamps", [], "the task's stamps is list"),
        ("stamped_headers", [1], "the task's stamped_headers are not text"),
        ("timelimit", [1], "the task's timelimit is not a pair of numbers"),
    ],
)
def test_one_that_is_wrong_is_found_behind_one_that_is_sound(
    name: str, value: object, wrong: str
) -> None:
    for _ in range(2):
        assert fault(SOUND) == ""
        assert fault({**SOUND, name: value}) == wrong


@pytest.mark.parametrize(
    ("limits", "is_sound"),
    [
        (None, True),
        ([], True),
        ([None, None], True),
        ((None, None), True),
        ([3, None], True),
        ((1.5, 3), True),
        ([1, 2, 3], False),
        ([None, None, None], False),
        ([1, "2"], False),
    ],
)
def test_limits_are_a_pair_of_numbers_or_of_none(limits: Any, is_sound: bool) -> None:
    wrong = "" if is_sound else "the task's timelimit is not a pair of numbers"
    assert fault({**SOUND, "timelimit": limits}) == wrong


@pytest.mark.parametrize("no_task", [None, "text", ["task"], {"id": "1"}])
def test_what_is_no_task_is_not_looked_at(no_task: Any) -> None:
    assert fault(no_task) == ""


def test_no_more_is_kept_than_a_worker_needs() -> None:
    for n in range(200):
        kind = type(f"Text{n}", (str,), {})
        assert fault({**SOUND, "shadow": kind("x")}) == ""
    assert len(task_faults._sound) == task_faults._MOST
