"""The asyncio classes are the sync ones, word for word."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atomq import aio, client, partitioned, partitioned_aio, queue, queue_aio, runner, runner_aio

TWINS = [
    (queue.Queue, queue_aio.AsyncQueue),
    (partitioned.PartitionedQueue, partitioned_aio.AsyncPartitionedQueue),
    (queue.Message, queue_aio.AsyncMessage),
    (queue.Receiver, queue_aio.AsyncReceiver),
    (queue.Sent, queue_aio.AsyncSent),
    (runner.Runner, runner_aio.AsyncRunner),
    (client.Engine, aio.AsyncEngine),
]
# What only one of the two has, and why.
ALONE = {
    "Engine.nodes": "preloading is a deploy step, and the CLI is sync",
    "Engine.replicas": "a thread of the process looks at them",
    "Engine.connection": "for those who wait in a loop of their own, as Kombu does",
    "Engine.reads": "for results of Celery, whose backend is sync",
    "Engine.briefly": "the same",
    "AsyncQueue.__aiter__": "of __iter__",
    "AsyncEngine.gathers": "what threads put shares no call",
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


@pytest.mark.parametrize("twin", [twin for _, twin in TWINS], ids=lambda kind: kind.__name__)
def test_help_says_all_of_asyncio_too(twin: type) -> None:
    """Not only where else to look."""
    assert len(inspect.getdoc(twin) or "") > 40
    for name, method in public(twin).items():
        assert "See `" not in (inspect.getdoc(method) or "").partition("\n")[0], name


ENGINE = Path(aio.__file__).parent
UNASYNC = Path(__file__).parents[1] / "tools" / "unasync.py"


class _Sync(ast.NodeTransformer):
    """Without `async` and `await`, as `tests/tools/unasync.py` does it."""

    def visit_Await(self, node: ast.Await) -> ast.AST:
        found: ast.AST = self.visit(node.value)
        return found

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(node.id.replace("Async", ""), node.ctx)


def statements(path: Path) -> Iterator[tuple[str, str, int]]:
    """Of each function: its name, what it does, how many statements that is."""
    for node in ast.walk(_Sync().visit(ast.parse(path.read_text()))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            count = sum(isinstance(one, ast.stmt) for one in ast.walk(ast.Module(body, [])))
            text = re.sub(r"\bAsync(With|For)\b", r"\1", ast.dump(ast.Module(body, [])))
            yield node.name, text, count


def test_nothing_is_written_twice_for_threads_and_for_tasks() -> None:
    """Of two files that do the same one is made from the other, or a third says it for both."""
    says = re.search(r"^MADE = (.*)$", UNASYNC.read_text(), re.MULTILINE)
    assert says is not None
    made = [f"{name}.py" for name in ast.literal_eval(says[1])]
    found: dict[str, dict[str, str]] = {}
    for path in sorted(ENGINE.rglob("*.py")):
        if path.name not in made or path.parent != ENGINE:
            for name, text, count in statements(path):
                if count > 3:
                    found.setdefault(text, {})[str(path.relative_to(ENGINE))] = name
    assert [by_file for by_file in found.values() if len(by_file) > 1] == []
