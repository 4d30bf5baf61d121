"""The tasks: two ways to measure a module of the standard library, and one that takes its time."""

from __future__ import annotations

import ast
import sysconfig
import time
import warnings
from pathlib import Path
from types import CodeType

from celery import shared_task

Measures = dict[str, int] | None


@shared_task(name="outline")
def outline(path: str) -> Measures:
    """How many nodes a module's syntax tree has, how many functions and how many classes."""
    with warnings.catch_warnings(action="ignore"):
        try:
            nodes = list(ast.walk(ast.parse(_source(path))))
        except (SyntaxError, ValueError):  # the library has files that are no Python, for its tests
            return None
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    classes = [n for n in nodes if isinstance(n, ast.ClassDef)]
    return {"nodes": len(nodes), "functions": len(functions), "classes": len(classes)}


@shared_task(name="bytecode")
def bytecode(path: str) -> Measures:
    """How many code objects a module compiles to, and how many bytes of bytecode."""
    with warnings.catch_warnings(action="ignore"):
        try:
            waiting = [compile(_source(path), path, "exec", dont_inherit=True)]
        except (SyntaxError, ValueError):
            return None
    found: list[CodeType] = []
    while waiting:
        found.append(waiting.pop())
        waiting += [one for one in found[-1].co_consts if isinstance(one, CodeType)]
    return {"objects": len(found), "bytes": sum(len(one.co_code) for one in found)}


@shared_task(name="wait")
def wait(seconds: float) -> float:
    """What takes long: a report, a film, an answer from somebody slow."""
    time.sleep(seconds)
    return seconds


def _source(path: str) -> bytes:
    return Path(sysconfig.get_path("stdlib"), path).read_bytes()
