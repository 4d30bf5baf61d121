"""Mutation runs (`make mutants`): change one thing in a source file, see whether a test goes red.

Mutants of Python are cosmic-ray's, those of Lua are made by `mutate_lua`. Each runs in a copy of
the checkout, against the tests that `TESTS` names for its file, in a fork of a pytest that is ready
(`forked.py`). A mutant of `queue_aio.py` is one of `queue.py` too, where that is made from it.
Results are kept, by the text of the file, in `.cache/mutants.jsonl`: a run that was broken off goes
on where it was, and `--again` runs what survived again, once a test has come. Where time was up, of
a test or of the run, nothing is known: the mutant may run for ever, or the machine was busy. That
is a timeout, and no kill. What `explained.py` holds is not run.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import explained
import unasync
from forked import Runs
from mutate_lua import Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent.parent
FOUND = ROOT / ".cache" / "mutants.jsonl"
# What proves a file: the first pattern that fits. Each is a run of its own, what is quick first.
TESTS = {
    "lua/*": [
        "tests/lua/test_claim.py tests/lua/test_alone.py tests/lua/test_publish.py",
        "tests/lua",
    ],
    "engine/atomq/contrib/kombu/line.py": ["tests/unit/test_kombu_line.py"],
    "engine/atomq/contrib/kombu/intake.py": [
        "tests/unit/test_kombu_intake.py tests/unit/test_kombu_*.py",
        "tests/contrib",
    ],
    "engine/atomq/contrib/kombu/poller.py": [
        "tests/unit/test_kombu_receive.py tests/unit/test_kombu_*.py",
        "tests/contrib",
    ],
    "engine/atomq/contrib/kombu/claims.py": [
        "tests/unit/test_kombu_claims.py tests/unit/test_kombu_*.py",
        "tests/contrib",
    ],
    "engine/atomq/contrib/kombu/consuming.py": [
        "tests/unit/test_kombu_c[ho]*.py tests/unit/test_kombu_poller.py",
        "tests/contrib",
    ],
    "engine/atomq/contrib/kombu/qos.py": [
        "tests/unit/test_kombu_qos.py",
        "tests/contrib",
    ],
    "engine/atomq/contrib/kombu/publishing.py": [
        "tests/unit/test_kombu_publishing.py",
        "tests/contrib",
    ],
    "engine/atomq/contrib/kombu/broker.py": [
        "tests/unit/test_kombu_broker.py",
        "tests/contrib",
    ],
    "engine/atomq/contrib/kombu/declaring.py": [
        "tests/unit/test_kombu_declaring.py tests/unit/test_kombu_channel.py",
        "tests/contrib",
    ],
    "engine/atomq/contrib/kombu/worker.py": [
        "tests/unit/test_kombu_worker.py tests/unit/test_kombu_*.py",
        "tests/contrib",
    ],
    "engine/atomq/contrib/kombu/reading.py": [
        "tests/unit/test_kombu_reading.py tests/unit/test_kombu_qos.py",
        "tests/contrib",
    ],
    "engine/atomq/contrib/kombu/task_faults.py": [
        "tests/unit/test_kombu_task_faults.py",
        "tests/contrib",
    ],
    "engine/atomq/contrib/kombu/worker_hooks.py": [
        "tests/unit/test_kombu_worker_hooks.py",
        "tests/contrib",
    ],
    "engine/atomq/contrib/kombu/shard*.py": [
        "tests/unit/test_kombu_shards.py",
        "tests/contrib/test_cluster.py",
    ],
    "engine/atomq/contrib/kombu/control.py": [
        "tests/unit/test_kombu_control.py",
        "tests/contrib/test_eta.py",
    ],
    "engine/atomq/contrib/kombu/waker.py": ["tests/unit/test_kombu_waker.py", "tests/contrib"],
    "engine/atomq/contrib/kombu/node_bindings.py": [
        "tests/unit/test_kombu_node_bindings.py",
        "tests/contrib/test_cluster.py",
    ],
    "engine/atomq/contrib/kombu/nodes.py": ["tests/unit/test_kombu_nodes.py", "tests/contrib"],
    "engine/atomq/contrib/kombu/unconfirmed.py": [
        "tests/unit/test_kombu_publishing.py tests/unit/test_kombu_broker.py",
        "tests/contrib",
    ],
    "engine/atomq/contrib/kombu/chores.py": [
        "tests/unit/test_kombu_chores.py",
        "tests/contrib",
    ],
    "engine/atomq/contrib/kombu/spread.py": [
        "tests/unit/test_kombu_spread.py tests/unit/test_kombu_publishing.py",
        "tests/contrib/test_partitions.py",
    ],
    "engine/atomq/contrib/kombu/*": [
        "tests/unit/test_kombu_*.py",
        "tests/unit",
        "tests/contrib",
    ],
    "engine/atomq/contrib/fleet.py": ["tests/unit/test_fleet.py", "tests/contrib/test_fleet.py"],
    "engine/atomq/contrib/cluster_client.py": [
        "tests/unit/test_cluster_client.py",
        "tests/contrib/test_cluster.py",
    ],
    "engine/atomq/conversation.py": [
        "tests/unit/test_conversation.py tests/unit/test_kombu_poller.py",
        "tests/unit/test_waiting.py tests/unit/test_kombu_intake.py",
    ],
    "engine/atomq/wires.py": ["tests/unit/test_wires.py", "tests/unit tests/faults/test_fork.py"],
    "engine/atomq/waiting.py": [
        " ".join(
            f"tests/unit/test_{name}.py" for name in ("waiting", "watched", "waiter", "cluster")
        ),
    ],
    "engine/atomq/watched.py": ["tests/unit/test_watched.py"],
    "engine/atomq/answer_aio.py": ["tests/unit/test_answer.py"],
    "engine/atomq/line_aio.py": ["tests/unit/test_line_aio.py", "tests/conformance tests/faults"],
    "engine/atomq/node.py": ["tests/unit/test_node.py", "tests/acceptance"],
    "engine/atomq/client.py": ["tests/unit/test_engines.py tests/unit/test_runner.py"],
    "engine/atomq/aio.py": ["tests/unit/test_engines.py tests/unit/test_runner.py"],
    "engine/atomq/cli/nodes.py": ["tests/unit/test_cli_nodes.py", "tests/acceptance"],
    "engine/atomq/receiver_base.py": [
        "tests/unit/test_receiver.py",
        "tests/conformance tests/faults",
    ],
    "engine/atomq/workers.py": ["tests/unit/test_workers.py", "tests/conformance"],
    "engine/atomq/alone.py": ["tests/unit/test_alone.py"],
    "engine/atomq/backlog.py": ["tests/unit/test_backlog.py"],
    "engine/atomq/leases.py": [
        "tests/unit/test_leases.py tests/unit/test_kombu_channel.py",
        "tests/faults/test_leases.py",
    ],
    "engine/atomq/renewal.py": ["tests/unit/test_renewal.py", "tests/faults/test_leases.py"],
    "engine/atomq/settling.py": [
        "tests/unit/test_settling.py tests/unit/test_leases.py tests/unit/test_kombu_qos.py",
        "tests/faults/test_leases.py",
    ],
    "engine/atomq/heirs.py": ["tests/unit/test_heirs.py"],
    "engine/atomq/register.py": [
        "tests/unit/test_register.py",
        "tests/conformance/test_register.py",
    ],
    "engine/atomq/calls/*": [
        "tests/unit/test_calls*.py tests/unit/test_operating.py",
        "tests/lua",
    ],
    "engine/atomq/listening_aio.py": ["tests/unit/test_waiter.py"],
    "engine/atomq/drive*": ["tests/unit/test_waiter.py"],
    "engine/atomq/node_threads.py": ["tests/unit/test_node_threads.py"],
    "engine/atomq/reach*": [
        "tests/unit/test_shards.py tests/unit/test_cluster.py tests/unit/test_nodes.py",
        "tests/conformance tests/faults",
    ],
    "engine/atomq/shards*": [
        "tests/unit/test_shards.py tests/unit/test_cluster.py tests/unit/test_nodes.py",
        "tests/conformance tests/faults",
    ],
    "engine/atomq/runner*": ["tests/unit/test_runner.py", "tests/conformance tests/faults"],
    "engine/atomq/waiter*": ["tests/unit/test_waiter.py", "tests/faults/test_waiting.py"],
    "engine/atomq/cluster.py": [
        "tests/unit/test_cluster.py tests/unit/test_nodes.py tests/unit/test_watched.py"
    ],
    "engine/atomq/retrying.py": [
        " ".join(f"tests/unit/test_{name}.py" for name in ("retrying", "cluster", "runner")),
        "tests/conformance tests/faults",
    ],
    "engine/atomq/ids.py": ["tests/unit/test_ids.py"],
    "engine/atomq/lease.py": ["tests/unit/test_leases.py"],
    "engine/atomq/delivery.py": ["tests/unit/test_message.py"],
    "engine/atomq/background.py": ["tests/unit/test_register.py tests/unit/test_leases.py"],
    "engine/atomq/durability.py": [
        " ".join(f"tests/unit/test_{name}.py" for name in ("durability", "flows", "retrying")),
        "tests/conformance tests/faults",
    ],
    "engine/atomq/outage.py": ["tests/unit/test_outage.py tests/unit/test_nodes.py"],
    "engine/atomq/outage_report.py": [
        " ".join(
            f"tests/unit/test_{name}.py" for name in ("outage", "nodes", "pool_aio", "runner")
        ),
    ],
    "engine/atomq/looking.py": ["tests/unit/test_looking.py tests/unit/test_consumer.py"],
    "engine/atomq/flight.py": [
        " ".join(
            f"tests/unit/test_{name}.py" for name in ("pool_aio", "nodes", "retrying", "watched")
        ),
        "tests/conformance tests/faults",
    ],
    "engine/atomq/partitioned_aio.py": [
        "tests/unit/test_partitioned_queue.py",
        "tests/conformance/test_partitions.py",
    ],
    **{
        f"engine/atomq/{name}": [
            " ".join(f"tests/unit/test_partition{more}.py" for more in ("s", "ed", "_record")),
            "tests/conformance/test_partitions.py",
        ]
        for name in ("merging.py", "partition*")
    },
    "engine/atomq/probing.py": ["tests/unit/test_probing.py"],
    "engine/atomq/translating.py": [
        "tests/unit/test_retrying.py tests/unit/test_cluster.py",
        "tests/conformance tests/faults",
    ],
    "engine/atomq/engine_base.py": [
        "tests/unit/test_engine_base.py tests/unit/test_engines.py",
        "tests/conformance tests/faults",
    ],
    "engine/atomq/queue_base.py": [
        "tests/unit/test_queue_base.py",
        "tests/unit/test_arguments.py tests/conformance",
    ],
    "engine/atomq/arguments.py": ["tests/unit/test_arguments.py"],
    "engine/atomq/option*.py": ["tests/unit/test_options.py tests/unit/test_address.py"],
    "engine/atomq/address.py": ["tests/unit/test_address.py"],
    "engine/atomq/overview.py": [
        "tests/unit/test_overview.py",
        "tests/conformance/test_overview.py",
    ],
    "engine/atomq/metrics.py": ["tests/unit/test_metrics.py", "tests/conformance/test_metrics.py"],
    "engine/atomq/shared.py": ["tests/unit/test_shared.py"],
    "engine/atomq/assets.py": ["tests/unit/test_assets.py"],
    "engine/atomq/keys.py": ["tests/unit/test_keys.py"],
    "engine/atomq/gathering.py": ["tests/unit/test_gathering.py"],
    "engine/atomq/gathering_threads.py": ["tests/unit/test_gathering_threads.py"],
    **{
        f"engine/atomq/{name}": ["tests/unit/test_pool_aio.py", "tests/conformance tests/faults"]
        for name in ("pool_aio.py", "pool_base.py", "commands*", "opening*")
    },
    "engine/atomq/pool.py": ["tests/unit/test_pool.py", "tests/conformance tests/faults"],
    "engine/atomq/flows/*": [
        " ".join(
            f"tests/unit/test_{name}.py"
            for name in ("flows", "claiming", "consumer", "operating", "leases")
        ),
    ],
    "engine/atomq/*": [
        "tests/unit/test_retrying.py tests/unit/test_probing.py tests/unit/test_flows.py",
        "tests/unit",
        "tests/conformance tests/faults",
    ],
}
FILES = [
    *("lua/*.lua", "lua/lib/*.lua"),
    *(f"engine/atomq/{n}.py" for n in ("conversation", "waiting", "retrying", "probing")),
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
TIME_IS_UP = re.compile(r"Timeout \(>|\+ Timeout \+")  # pytest-timeout's words, by either method
PYTEST = [
    "-x",
    "-s",
    "-q",
    "-p",
    "no:cacheprovider",
    "-o",
    "timeout=60",
    "-m",
    "not slow and not alone",
]
MADE = (".git", ".venv", ".cache", ".tools", ".*_cache", ".hypothesis", "__pycache__", "dist")


def main() -> int:
    """Run a sample, print what was not killed. Returns 1 if anything was not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", nargs="+", default=FILES, help="files, with wildcards")
    parser.add_argument("--most", type=int, default=20, help="mutants of each file (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="which of them (default: 1)")
    parser.add_argument(
        "--quick", action="store_true", help="the first run of tests of each file only"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=5,
        metavar="N",
        help="10 s and N times what the tests take, for each mutant (default: 5)",
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
        with Runs(copy, [*PYTEST, "--servers", options.servers]) as runs:
            for path in (path for each in options.files for path in sorted(ROOT.glob(each))):
                file = File(copy, str(path.relative_to(ROOT)), runs, options)
                for what, result in file.mutants():
                    results[result] += 1
                    if result in ("survived", "timeout"):
                        print(f"{result}: {what}", flush=True)
    print(", ".join(f"{n} {result}" for result, n in results.items()))
    return int(results["survived"] + results["timeout"] > 0)


class File:
    """One source file, in a copy of the checkout, and the tests that prove it."""

    def __init__(self, copy: Path, name: str, runs: Runs, options: argparse.Namespace) -> None:
        self._copy, self._path, self.name = copy, copy / name, name
        self._runs, self._options = runs, options
        self._text = self._path.read_text()
        self._tests = next(tests for pattern, tests in TESTS.items() if fnmatch(name, pattern))
        if options.quick:
            self._tests = self._tests[:1]
        self._patience: list[float] = []  # s for each run of tests

    def mutants(self) -> Iterator[tuple[str, str]]:
        """Run a sample of its mutants. Yields of each what it is, and what became of it."""
        text, found = self._text, _read()
        seed = self._options.seed
        sample = sorted(_candidates(self.name, text), key=lambda each: _sha1(f"{seed} {each[0]}"))
        for _, make in sample[: self._options.most]:
            mutant = make()
            key, what = _sha1(f"{text}{mutant}"), _describe(self.name, text, mutant)
            if explained.why(self.name, what) is not None:
                yield what, "explained"
                continue
            result = found.get(key)
            if result is None or (self._options.again and result != "killed"):
                if not self._patience:
                    self._run_unchanged()
                self._write(text[: mutant.start] + mutant.new + text[mutant.end :])
                result = self._run()
                self._write(text)
                with FOUND.open("a") as out:
                    out.write(json.dumps({"key": key, "what": what, "result": result}) + "\n")
            yield what, result

    def _run_unchanged(self) -> None:
        """See that the tests are green, and how long they take. What is compiled is kept."""
        sys.dont_write_bytecode = False
        for tests in self._tests:
            began = time.monotonic()
            code, said = self._runs.run(self._files(tests), 3600)
            if code != 0:
                sys.exit(f"{said}\n{self.name}: its tests are not green without a change")
            self._patience.append(10 + self._options.patience * (time.monotonic() - began))
        sys.dont_write_bytecode = True

    def _run(self) -> str:
        for tests, seconds in zip(self._tests, self._patience, strict=True):
            code, said = self._runs.run(self._files(tests), seconds)
            if code is None or TIME_IS_UP.search(said):
                return "timeout"
            if code:
                return "killed"
        return "survived"

    def _files(self, tests: str) -> list[str]:
        """The files of one run, from patterns."""
        found = [path for each in tests.split() for path in sorted(self._copy.glob(each))]
        return [str(path) for path in dict.fromkeys(found)]

    def _write(self, text: str) -> None:
        _replace(self._path, text)
        made = self._path.stem.removesuffix("_aio")
        if made != self._path.stem and made in unasync.MADE:
            twin = self._path.with_name(f"{made}.py")
            _replace(twin, unasync.made(str(twin), text)[0])


def _replace(path: Path, text: str) -> None:
    """Write it, and no compiled one is to stand for it: Python looks at time and length only."""
    path.write_text(text)
    if path.suffix == ".py":
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


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
