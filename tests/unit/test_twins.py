"""The asyncio classes are the sync ones, word for word."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from atomq import aio, client, partitioned, partitioned_aio, queue, queue_aio

TWINS = [
    (queue.Queue, queue_aio.AsyncQueue),
    (partitioned.PartitionedQueue, partitioned_aio.AsyncPartitionedQueue),
    (queue.Message, queue_aio.AsyncMessage),
    (queue.Receiver, queue_aio.AsyncReceiver),
    (queue.Sent, queue_aio.AsyncSent),
    (client.Engine, aio.AsyncEngine),
]
# What only one of the two has, and why.
ALONE = {
    "Engine.nodes": "preloading is a deploy step, and the CLI is sync",
    "Engine.connection": "for those who wait in a loop of their own, as Kombu does",
    "Engine.reads": "for results of Celery, whose backend is sync",
    "AsyncQueue.__aiter__": "of __iter__",
    "AsyncEngine.listener": "one connection for all tasks that wait for results",
}
NAMES = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__"}


def public(kind: type) -> dict[str, Any]:
    found = {}
    for own, value in vars(kind).items():
        name = NAMES.get(own, own)
        if callable(value) and (not name.startswith("_") or name in NAMES.values()):
            found[name] = value
    return found


def signature(function: Any) -> str:
    words = str(inspect.signature(function)).replace("Async", "")
    return re.sub(r"(Awaitable|Coroutine)\[(Any, Any, )?([^][]*)\]", r"\3", words)


@pytest.mark.parametrize(("sync", "twin"), TWINS, ids=lambda kind: kind.__name__)
def test_they_have_the_same_methods(sync: type, twin: type) -> None:
    ours, theirs = public(sync), public(twin)
    for name in ours.keys() ^ theirs.keys():
        owner = sync if name in ours else twin
        assert f"{owner.__name__}.{name}" in ALONE
    for name in ours.keys() & theirs.keys():
        assert signature(ours[name]) == signature(theirs[name]), name


@pytest.mark.parametrize(("sync", "twin"), TWINS, ids=lambda kind: kind.__name__)
def test_each_method_is_documented_once(sync: type, twin: type) -> None:
    for name, method in public(sync).items():
        if not name.startswith("__"):
            assert inspect.getdoc(method), f"{sync.__name__}.{name}"
            other = public(twin).get(name)
            assert other is None or inspect.getdoc(other), f"{twin.__name__}.{name}"


@pytest.mark.parametrize("twin", [twin for _, twin in TWINS[:5]], ids=lambda kind: kind.__name__)
def test_help_says_all_of_asyncio_too(twin: type) -> None:
    """Not only where else to look."""
    assert len(inspect.getdoc(twin) or "") > 40
    for name, method in public(twin).items():
        assert "See `" not in (inspect.getdoc(method) or "").partition("\n")[0], name
