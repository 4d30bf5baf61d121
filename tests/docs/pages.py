"""Pages of documentation as programs: their blocks, run in order on one server.

    ```python       executed; all blocks of a page share their names
    ```console      each `$ command` is run by a shell; what stands below it must be its output
    ```acl          each line is a command of the server, as redis-cli takes it, run by its
                    administrator
    <!-- python     the same, hidden from readers: what sets the stage, and what checks it
    <!-- console
    ```yaml         parsed, and so is ini: what another program reads
    ```ini

The title of a fence, as in `console title="Terminal 1"`, is for readers; but the command of a block
whose title begins with "Terminal 1" runs as long as its page, and what stands below it is what it
has said by then.

A python block that begins with a comment `# tasks.py`, or `# shop/tasks.py`, is written to that
file, too. One whose title is a file is written there and not executed, or added to that file if the
title goes on `, at its end`.

In an output `…` stands for any text, and alone on a line for any number of lines; blanks are all
alike. A command must end with 0, unless `$ echo $?` follows; one with `&` at its end runs as long
as its page. A page says localhost:6379 and /var/lib/atomq: here these are the test's server and
directory. Servers that a page starts itself have the ports 6380, 6381, 7001 to 7006 and 8000, which
stand for free ones; `redis-server` is Redis 7 if it is here, `valkey-server` the newest kind.
Hidden blocks may use `run(command)`, which answers the output, and `server`.
"""

from __future__ import annotations

import configparser
import contextlib
import gc
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry

from atomq import embedded
from tests.acceptance.forked import forks
from tests.servers import ROOT, NotAvailable, Server, find_binary, free_port

PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "lua/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
)
RUN = ("python", "console", "acl", "yaml", "ini")
_ADDRESS = "localhost:6379"
_DIRECTORY = "/var/lib/atomq"
# A command of ours and nothing else, of words that a shell takes as they are.
_PLAIN = re.compile(r"""atomq(?: (?:[\w%+:,./@=-]+|'[^']*'|"[^"$`\\!]*"))+""")
_PORT = re.compile(r"\b(?:638[01]|700[1-6]|8000)\b")


@dataclass(frozen=True)
class Block:
    """A fenced or hidden block."""

    page: str
    line: int
    kind: str
    text: str
    hidden: bool = False
    title: str = ""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, in order."""
    lines = enumerate(text_of(page).splitlines(), 1)
    for number, line in lines:
        if fence := re.fullmatch(r'```(\w*)(?: title="(.*)")?', line):
            kind, title, end, hidden = fence[1], fence[2] or "", "```", False
        elif re.fullmatch(r"<!-- (python|console)", line):
            kind, title, end, hidden = line[5:], "", "-->", True
        else:
            continue
        inside = []
        for _, each in lines:
            if each == end:
                break
            inside.append(each)
        else:
            raise AssertionError(f"{page}:{number}: the block does not end")
        yield Block(page, number, kind, "\n".join(inside), hidden, title)


def prose(page: str, code: str = "") -> str:
    """A page without its blocks, line for line, and with `code` for its inline code."""
    kept, end = [], ""
    for line in text_of(page).splitlines():
        if end:
            end = "" if line == end else end
            kept.append("")
        elif line.startswith("```"):
            end = "```"
            kept.append("")
        elif line.startswith("<!--") and not line.endswith("-->"):
            end = "-->"
            kept.append("")
        else:
            kept.append(re.sub(r"`[^`]*`", code, line))
    return "\n".join(kept)


class Stage:
    """Where one page is run."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self._here = {_ADDRESS: f"127.0.0.1:{server.port}", _DIRECTORY: str(directory / "atomq")}
        self._ports: dict[str, str] = {}
        self._names: dict[str, Any] = {
            "__name__": "docs",
            "run": self.run,
            "server": server,
        }
        self._background: list[subprocess.Popen[bytes]] = []
        self._terminals: list[tuple[Path, str, str]] = []
        self._modules: set[str] = set()
        self._environment = self._make_environment()
        sys.path.insert(0, str(directory))

    def _make_environment(self) -> dict[str, str]:
        programs = self.directory / "bin"
        programs.mkdir()
        calls = {
            "atomq": f"{sys.executable} -m atomq.cli",
            "celery": f"{sys.executable} -m celery",
            "django-admin": f"{sys.executable} -m django",
            "python": sys.executable,
        }
        for name, call in (*calls.items(), *_programs_of_servers()):
            (programs / name).write_text(f'#!/bin/sh\nexec {call} "$@"\n')
            (programs / name).chmod(0o755)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ATOMQ_")}
        return {
            **environment,
            "PATH": f"{programs}:{environment['PATH']}",
            "PYTHONPATH": f"{self.directory}:{ROOT / 'engine'}:{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # a reader has none of ours
            "TERM": "dumb",
            "ATOMQ_URL": self.here("redis://localhost:6379/0"),
        }

    def here(self, text: str) -> str:
        """A text of the page, with the addresses of this stage."""
        for theirs, ours in self._here.items():
            text = text.replace(theirs, ours)
        return _PORT.sub(lambda match: self._port(match[0]), text)

    def _port(self, theirs: str) -> str:
        if theirs not in self._ports:
            self._ports[theirs] = str(free_port())
        return self._ports[theirs]

    def there(self, text: str) -> str:
        """An output, with the addresses of the page."""
        for theirs, ours in (*self._here.items(), *self._ports.items()):
            text = text.replace(ours, theirs)
        return text

    def needs(self, programs: Iterable[str], page: str) -> None:
        """Skip the test if a command of the page is one of these and not to be had here."""
        commands = "\n".join(block.text for block in blocks(page) if block.kind == "console")
        for program in programs:
            if program in commands and not shutil.which(program, path=self._environment["PATH"]):
                pytest.skip(f"there is no {program} here")

    def play(self, block: Block) -> None:
        """Run one block. Raises AssertionError, or what its code raises."""
        getattr(self, f"_play_{block.kind}")(block)

    # ── python ────────────────────────────────────────────────────────────────────────────────

    def _play_python(self, block: Block) -> None:
        code = self.here(block.text)
        if target := re.fullmatch(r"([\w/]+\.py)(, at its end)?", block.title):
            with (self.directory / target[1]).open("a" if target[2] else "w") as written:
                written.write(code + "\n")
            return
        if file := re.match(r"# ([\w/]+\.py)\n", code):
            (self.directory / file[1]).parent.mkdir(parents=True, exist_ok=True)
            (self.directory / file[1]).write_text(code)
            self._modules.add(re.split(r"[/.]", file[1])[0])
        # So that a traceback names the line of the page.
        padded = "\n" * block.line + code
        exec(compile(padded, str(ROOT / block.page), "exec"), self._names)

    def _play_yaml(self, block: Block) -> None:
        assert all(isinstance(part, dict) for part in yaml.safe_load_all(block.text))

    def _play_ini(self, block: Block) -> None:
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(block.text)
        assert parser.sections(), f"{block.page}:{block.line}"

    # ── the server ────────────────────────────────────────────────────────────────────────────

    def _play_acl(self, block: Block) -> None:
        admin = self.server.client()
        for line in block.text.replace("\\\n", " ").splitlines():
            admin.execute_command(*shlex.split(line.replace(r"\x06\x16", "\x06\x16")))

    # ── the shell ─────────────────────────────────────────────────────────────────────────────

    def _play_console(self, block: Block) -> None:
        code, parts = 0, re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        assert not parts[0].strip(), f"{block.page}:{block.line}: an output without its command"
        for part in parts[1:]:
            command, wanted = _command(part)
            where = f"{block.page}:{block.line}: $ {command}"
            if command == "echo $?":
                assert wanted.strip() == str(code), f"{where}: the exit code is {code}"
                code = 0
                continue
            assert code == 0, f"{where}: the command before it ended with {code}"
            if block.title.startswith("Terminal 1"):
                said = self.directory / f"terminal-{len(self._terminals)}.log"
                self.background(command, said)
                self._terminals.append((said, wanted, where))
                continue
            if command.endswith(" &"):
                self.background(command.removesuffix(" &"))
                continue
            done = self._shell(command)
            code, said = done.returncode, self.there(done.stdout)
            print(f"$ {command}\n{said}", end="")
            if wanted.strip() and not alike(said, wanted):
                raise AssertionError(f"{where}\nit says:\n{said}\nthe page says:\n{wanted}")
        assert code == 0, f"{block.page}:{block.line}: ends with {code}:\n{done.stdout}"

    def _shell(self, command: str) -> subprocess.CompletedProcess[str]:
        command = self.here(command)
        if _PLAIN.fullmatch(command):  # without a Python that starts anew
            words = tuple(shlex.split(command)[1:])
            code, said, _ = forks().run(
                words, "", self.directory, self._environment, 60, together=True
            )
            return subprocess.CompletedProcess(command, code, said)
        return subprocess.run(
            ["bash", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.directory,
            env=self._environment,
            timeout=60,
        )

    def run(self, command: str) -> str:
        """The output of a command, which must succeed."""
        done = self._shell(command)
        assert done.returncode == 0, done.stdout
        return self.there(done.stdout)

    def end(self) -> None:
        """The page is played: what its terminals said must be what it shows."""
        for log, wanted, where in self._terminals:
            deadline = time.monotonic() + 10
            while wanted.strip():
                said = self.there(log.read_text(encoding="utf-8"))
                if alike(said, wanted):
                    break
                assert time.monotonic() < deadline, f"{where}\nit says:\n{said}"
                time.sleep(0.02)

    def background(self, command: str, log: Path | None = None) -> None:
        """Start a command, to be ended with the page."""
        with (log or self.directory / "background.log").open("ab") as output:
            self._background.append(
                subprocess.Popen(
                    ["bash", "-c", f"exec env {self.here(command)}"],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self.directory,
                    env=self._environment,
                    start_new_session=True,
                )
            )

    def close(self) -> None:
        """End what was started here."""
        self._names.clear()  # a message that a page held is renewed for no later page
        gc.collect()
        sys.path.remove(str(self.directory))
        for module in [name for name in sys.modules if name.partition(".")[0] in self._modules]:
            del sys.modules[module]
        for process in self._background:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for port in self._ports.values():  # a server that went into the background
            with (
                contextlib.suppress(redis.RedisError),
                redis.Redis(port=int(port), retry=Retry(NoBackoff(), 0)) as client,
            ):
                client.shutdown(nosave=True)
        for place in self.directory.iterdir():
            if (place / "server.lock").exists():  # it may be starting, and not answer yet
                embedded.stop(place)


def _programs_of_servers() -> Iterator[tuple[str, Path]]:
    """The programs that a reader has from a package of Redis or Valkey, as far as they are here."""
    for name, kinds in (
        ("redis-server", ("redis-7", "redis-6.2", "valkey-9")),
        ("valkey-server", ("valkey-9", "redis-7")),
    ):
        for kind in kinds:
            with contextlib.suppress(NotAvailable):
                yield name, find_binary(kind)
                break
    with contextlib.suppress(NotAvailable):
        yield "redis-cli", find_binary("redis-6.2").with_name("redis-cli")


def _command(part: str) -> tuple[str, str]:
    """A command, which goes on after a backslash or to the end of its loop; the output below it."""
    lines = part.split("\n")
    n = lines.index("done") + 1 if re.match(r"for .* do$", lines[0]) else 1
    while lines[n - 1].endswith("\\") and n < len(lines):
        n += 1
    return "\n".join(lines[:n]), "\n".join(lines[n:])


def alike(said: str, wanted: str) -> bool:
    """Whether an output is the one that a page shows."""
    pattern = []
    for line in wanted.strip().splitlines():
        words = " ".join(line.split())
        if words == "…":
            pattern.append(r"(?:.*\n)*?")
        else:
            pattern.append(".*?".join(map(re.escape, words.split("…"))) + "\n")
    lines = "".join(" ".join(line.split()) + "\n" for line in said.strip().splitlines())
    return re.fullmatch("".join(pattern), lines) is not None
