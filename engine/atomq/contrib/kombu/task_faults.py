"""What is wrong with a task, before Celery reads it."""

from __future__ import annotations

import sys
from typing import Any

# What Celery reads of a task outside every guard of its own: a wrong type there would end the
# worker, or keep one of the pool's places for ever. The first two are there, others may be None.
_NAMES = ("id", "task")
_TYPES: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("shadow", str),
    ("root_id", str),
    ("parent_id", str),
    ("group", str),
    ("retries", int),
    ("timelimit", (list, tuple)),
    ("stamped_headers", (list, tuple)),
    ("stamps", dict),
)
_READ = (*_NAMES, *(name for name, _ in _TYPES))
_sound: set[tuple[type, ...]] = set()  # types of `_READ` that are as they should be
_MOST = 64  # of these: producers choose them


def fault(task: Any) -> str:
    """What is wrong with a task, by its headers or, in Celery's first protocol, its body; or ""."""
    if not isinstance(task, dict) or "task" not in task:
        return ""
    if "celery.worker.strategy" not in sys.modules:
        return ""
    types = tuple(map(type, map(task.get, _READ)))
    if types not in _sound:  # nearly all tasks are alike
        if wrong := _wrong_type(task):
            return wrong
        if len(_sound) < _MOST:
            _sound.add(types)
    stamped, limits = task.get("stamped_headers"), task.get("timelimit")
    if stamped and not all(isinstance(stamp, str) for stamp in stamped):
        return "the task's stamped_headers are not text"
    if not limits or limits == [None, None]:
        return ""
    if len(limits) != 2 or not all(isinstance(x, int | float | None) for x in limits):
        return "the task's timelimit is not a pair of numbers"
    return ""


def _wrong_type(task: dict[str, Any]) -> str:
    for name in _NAMES:
        if not isinstance(value := task.get(name), str):
            return f"the task's {name} is {type(value).__name__}"
    for name, types in _TYPES:
        if (value := task.get(name)) is not None and not isinstance(value, types):
            return f"the task's {name} is {type(value).__name__}"
    return ""
