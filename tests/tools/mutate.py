"""Mutation runs (`make mutants`): change one thing in a source file, see whether a test goes red.

Mutants of Python are cosmic-ray's, those of Lua are made by `mutate_lua`. Each runs in a copy of
the checkout, against the tests that `TESTS` names for its file. Results are kept, by the text of
the file, in `.cache/mutants.jsonl`: a run that was broken off goes on where it was, and `--again`
runs what survived again, once a test has come. Where time was up, of a test or of the run, nothing
is known: the mutant may run for ever, or the machine was busy. That is a timeout, and no kill. What
`explained.py` holds is not run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import explained
from mutate_lua import Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent.parent
FOUND = ROOT / ".cache" / "mutants.jsonl"
# What proves a file: the first pattern that fits. Each is a run of its own, what is quick first.
TESTS = {
    "lua/*": [
        "tests/lua/test_claim.py tests/lua/test_alone.py tests/lua/test_publish.py",
        "tests/lua",
    ],
    "engine/atomq/contrib/kombu/*": [
        "tests/unit/test_kombu_poller.py tests/unit/test_kombu_channel.py",
        "tests/unit",
        "tests/contrib",
    ],
    "engine/atomq/conversation.py": [
        "tests/unit/test_conversation.py tests/unit/test_kombu_poller.py",
    ],
    "engine/atomq/waiting.py": ["tests/unit/test_waiting.py"],
    "engine/atomq/waiter*": ["tests/unit/test_waiter.py", "tests/faults/test_waiting.py"],
    "engine/atomq/cluster.py": ["tests/unit/test_cluster.py tests/unit/test_nodes.py"],
    "engine/atomq/gathering.py": ["tests/unit/test_gathering.py"],
    "engine/atomq/flows/*": [
        "tests/unit/test_flows.py tests/unit/test_claiming.py",
        "tests/unit/test_consumer.py tests/unit/test_operating.py tests/unit/test_leases.py",
    ],
    "engine/atomq/*": [
        "tests/unit/test_retrying.py tests/unit/test_flows.py",
        "tests/unit",
        "tests/conformance tests/faults",
    ],
}
FILES = [
    *("lua/*.lua", "lua/lib/*.lua"),
    *(f"engine/atomq/{n}.py" for n in ("conversation", "waiting", "retrying")),
    *("engine/atomq/flows/*.py", "engine/atomq/aio.py"),
    *(f"engine/atomq/{n}.py" for n in ("client", "engine_base", "waiter", "waiter_aio")),
    *(f"engine/atomq/{n}.py" for n in ("leases", "renewal", "settling", "backlog", "alone")),
    *(f"engine/atomq/contrib/kombu/{n}.py" for n in ("line", "hand_over", "poller", "qos")),
    *(f"engine/atomq/contrib/kombu/{n}.py" for n in ("publishing", "declaring", "consuming")),
    *(f"engine/atomq/contrib/kombu/{n}.py" for n in ("channel", "unconfirmed")),
    *(f"engine/atomq/contrib/kombu/{n}.py" for n in ("intake", "claims", "watch")),
]
# cosmic-ray's operators that exchange what is easily mistaken. Most others raise TypeError.
OPERATORS = [
    *("AddNot", "ReplaceUnaryOperator_Delete_Not", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "NumberReplacer", "ZeroIterationForLoop"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    *(f"ReplaceBinaryOperator_{n}" for n in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul")),
    *(f"ReplaceComparisonOperator_{n}" for n in ("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")),
    *(f"ReplaceComparisonOperator_{n}" for n in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt")),
]
TIME_IS_UP = re.compile(rb"Timeout \(>|\+ Timeout \+")  # pytest-timeout's words, by either method
MADE = (".git", ".venv", ".cache", ".tools", ".*_cache", ".hypothesis", "__pycache__", "dist")


def main() -> int:
    """Run a sample, print what was not killed. Returns 1 if anything was not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", nargs="+", default=FILES, help="files, with wildcards")
    parser.add_argument("--most", type=int, default=20, help="mutants of each file (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="which of them (default: 1)")
    parser.add_argument(
        "--timeout", type=float, default=1200, help="s for one mutant (default: 1200)"
    )
    parser.add_argument("--servers", default="valkey-9", help="kinds of server (default: valkey-9)")
    parser.add_argument("--again", action="store_true", help="run those again that were not killed")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the tests too
    results = dict.fromkeys(("killed", "timeout", "survived", "explained"), 0)
    with tempfile.TemporaryDirectory(prefix="atomq-mutants-") as folder:
        copy = Path(folder) / "atomq"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*MADE))
        if (ROOT / ".tools").exists():
            (copy / ".tools").symlink_to(ROOT / ".tools")
        for path in (path for each in options.files for path in sorted(ROOT.glob(each))):
            for what, result in _file(copy, str(path.relative_to(ROOT)), options):
                results[result] += 1
                if result in ("survived", "timeout"):
                    print(f"{result}: {what}", flush=True)
    print(", ".join(f"{n} {result}" for result, n in results.items()))
    return int(results["survived"] + results["timeout"] > 0)


def _file(copy: Path, name: str, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Run a sample of the mutants of one file. Yields of each what it is, and what became of it."""
    text, found, ran = (copy / name).read_text(), _read(), []
    sample = sorted(_candidates(name, text), key=lambda each: _sha1(f"{options.seed} {each[0]}"))
    for _, make in sample[: options.most]:
        mutant = make()
        key, what = _sha1(f"{text}{mutant}"), _describe(name, text, mutant)
        if explained.why(name, what) is not None:
            yield what, "explained"
            continue
        result = found.get(key)
        if result is None or (options.again and result != "killed"):
            (copy / name).write_text(text[: mutant.start] + mutant.new + text[mutant.end :])
            result = _run(copy, name, options)
            ran.append(result)
            with FOUND.open("a") as out:
                out.write(json.dumps({"key": key, "what": what, "result": result}) + "\n")
        yield what, result
    (copy / name).write_text(text)
    if ran and "survived" not in ran and _run(copy, name, options) != "survived":
        sys.exit(f"{name}: its tests are not green without a change: what they killed says nothing")


def _read() -> dict[str, str]:
    FOUND.parent.mkdir(exist_ok=True)
    lines = FOUND.read_text().splitlines() if FOUND.exists() else []
    return {each["key"]: each["result"] for each in map(json.loads, lines)}


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


def _describe(name: str, text: str, mutant: Mutant) -> str:
    begin = text.rfind("\n", 0, mutant.start) + 1
    end = text.find("\n", mutant.end)
    old, new = text[begin:end], text[begin : mutant.start] + mutant.new + text[mutant.end : end]
    return (
        f"{name}:{text.count(chr(10), 0, mutant.start) + 1}\n  - {old.strip()}\n  + {new.strip()}"
    )


def _run(copy: Path, name: str, options: argparse.Namespace) -> str:
    command = f"-m pytest -x -q --servers {options.servers} -p no:cacheprovider -o timeout=60 -m"
    command = [sys.executable, *command.split(), "not slow and not alone"]
    until = time.monotonic() + options.timeout
    for tests in next(tests for pattern, tests in TESTS.items() if fnmatch(name, pattern)):
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [*command, *tests.split()], cwd=copy, start_new_session=True,
                env=os.environ | {"PYTHONPATH": f"{copy}/engine"},
                stdout=said, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                if process.wait(max(1.0, until - time.monotonic())):
                    said.seek(0)
                    return "timeout" if TIME_IS_UP.search(said.read()) else "killed"
            except subprocess.TimeoutExpired:
                return "timeout"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
    return "survived"


def _candidates(name: str, text: str) -> list[tuple[str, Callable[[], Mutant]]]:
    """All mutants of a file, each with a name; a mutant of Python is made when it is called for."""
    if name.endswith(".lua"):
        return [(str(mutant), partial(lambda mutant: mutant, mutant)) for mutant in mutants(text)]
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator

    found = []
    nodes = list(ast_nodes(get_ast(text)))
    for each in OPERATORS:
        at = get_operator(f"core/{each}")().mutation_positions
        many = sum(1 for node in nodes for _ in at(node))
        found += [(f"{each} {n}", partial(_python, text, each, n)) for n in range(many)]
    return found


def _python(text: str, name: str, n: int) -> Mutant:
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    new = mutate_code(text, get_operator(f"core/{name}")(), n) or text
    start = _alike(text, new)
    end = _alike(text[start:][::-1], new[start:][::-1])
    return Mutant(start, len(text) - end, new[start : len(new) - end])


def _alike(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


if __name__ == "__main__":
    sys.exit(main())
