"""The processes of a peer: a publisher that is asked, and consumers that run until killed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT
from benchmarks.meter import client_cpu
from benchmarks.peer import RECORD, Cannot


class Failed(Exception):
    """What was asked did not happen; the text says what did."""


class Handled:
    """The file in which handlers note each message: when it was published, when it came."""

    def __init__(self, directory: Path) -> None:
        self.file = os.open(directory / "handled", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        os.set_inheritable(self.file, True)

    def clear(self) -> None:
        os.ftruncate(self.file, 0)

    def count(self) -> int:
        return os.fstat(self.file).st_size // RECORD.size

    def wait(self, count: int, seconds: float) -> None:
        """Wait until so many are noted. Raises `Failed` if they are not within `seconds`."""
        until = time.monotonic() + seconds
        while self.count() < count:
            if time.monotonic() > until:
                raise Failed(f"handled {self.count():,} of {count:,} within {seconds:g} s")
            time.sleep(0.002)

    def read(self) -> list[tuple[float, float]]:
        """All that is noted, in the order in which it was handled."""
        data = os.pread(self.file, self.count() * RECORD.size, 0)
        return sorted(RECORD.iter_unpack(data), key=lambda pair: pair[1])


class Processes:
    """Processes of one peer, each the head of a session of its own."""

    def __init__(self, python: Path, adapter: str, url: str, handled: Handled, log: Path) -> None:
        self.where = (python, adapter, url, handled, log)
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, role: str, *words: str, **pipes: Any) -> subprocess.Popen[bytes]:
        python, adapter, url, handled, path = self.where
        command = [str(python), "-m", "benchmarks.agent", adapter, url, role]
        with path.open("ab") as log:
            process = subprocess.Popen(
                [*command, *words],
                cwd=ROOT,
                env={**_environment(), "BENCH_HANDLED": str(handled.file)},
                pass_fds=(handled.file,),
                start_new_session=True,
                stderr=log,
                **pipes,
            )
        self.running.append(process)
        return process

    @property
    def sessions(self) -> list[int]:
        return [process.pid for process in self.running]

    def signal(self, number: signal.Signals) -> None:
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        for process in self.running:
            process.wait()
        self.running.clear()


def _environment() -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("ATOMQ_", "PYTHON", "VIRTUAL"))
    }
    return {**kept, "PYTHONWARNINGS": "ignore"}


class Publisher(Processes):
    """Answers requests; started with the first, and again when one failed."""

    def ask(self, do: str, seconds: float = 30.0, **more: Any) -> dict[str, Any]:
        """One request and its answer. Raises `Failed` or `Cannot`."""
        if not self.running:
            self.start("publish", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._exchange({"do": "open"}, 30)
        return self._exchange({"do": do, **more}, seconds)

    def _exchange(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        (process,) = self.running
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], seconds)
            line = process.stdout.readline() if ready else None
        except OSError:
            line = b""
        if not line:
            self.end()
            raise Failed(
                "the publisher ended" if line == b"" else f"no answer within {seconds:g} s"
            )
        answer: dict[str, Any] = json.loads(line)
        if "cannot" in answer:
            raise Cannot(answer["cannot"])
        if "failed" in answer:
            self.end()
            raise Failed(answer["failed"][:160])
        return answer


class Consumers(Processes):
    """Some consumers of one peer, over as many processes as they need."""

    def run(self, shares: Sequence[int]) -> None:
        """Start a process for each share: so many consumers in it."""
        for number in shares:
            self.start("consume", str(number), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def settle(self, seconds: float) -> None:
        """Wait until they are started and quiet: a quarter of a second with little CPU."""
        until, before = time.monotonic() + seconds, client_cpu(self.sessions)
        while time.monotonic() < until:
            time.sleep(0.25)
            if any(process.poll() is not None for process in self.running):
                raise Failed("a consumer ended by itself")
            now = client_cpu(self.sessions)
            if before > 0.05 and now - before < 0.03 + 0.005 * len(self.running):
                return
            before = now

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Held still (SIGSTOP) while a queue is filled for them."""
        self.signal(signal.SIGSTOP)
        until = time.monotonic() + 5
        while time.monotonic() < until and not all(map(_is_stopped, self.sessions)):
            time.sleep(0.001)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)


def _is_stopped(session: int) -> bool:
    """True if each thread of the session's first process stands still."""
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{session}/task").iterdir():
            if (thread / "stat").read_text().rpartition(")")[2].split()[0] not in "TZ":
                return False
    return True
