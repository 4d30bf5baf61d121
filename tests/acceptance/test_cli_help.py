"""Help, the shell's completion, and what a command line without its libraries says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer

from atomq.cli.app import COMMANDS, app
from tests.acceptance.conftest import Atomq
from tests.acceptance.forked import forks
from tests.servers import ROOT, Server

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def commands(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that run it."""
    yield words, command
    for name in command.list_commands(None) if hasattr(command, "commands") else ():
        yield from commands(command.get_command(None, name), *words, name)


def help_of(words: tuple[str, ...], command: Any) -> str:
    context = typer.Context(command, info_name=" ".join(("atomq", *words)))
    return str(command.get_help(context))


def test_help_speaks_as_the_docs_do(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """No types of Python, no braces that are not typed, and it fits a terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    root: Any = typer.main.get_command(app)
    seen = 0
    for words, command in commands(root):
        text = help_of(words, command)
        assert not re.search(r"<\w|\{[A-Z]|\[x[<>]|`|\*\*", text), text
        assert max(map(len, text.splitlines())) <= 80
        seen += 1
    assert seen > 25


def test_the_list_says_of_a_command_what_it_says_itself(kind: str) -> None:
    root: Any = typer.main.get_command(app)
    for section in COMMANDS.values():
        for name, (_, about) in section.items():
            command = root.get_command(None, name)
            if not hasattr(command, "commands"):
                assert " ".join(command.help.split("\n\n")[0].split()) == about


@pytest.mark.starts_anew
def test_help_loads_neither_commands_nor_what_draws_tables(
    atomq: Atomq, broken: Callable[[str], None], kind: str
) -> None:
    """Their imports were two thirds of its time."""
    broken(
        "import sys\n"
        "commands = 'atomq.cli.queues', 'atomq.cli.operating', 'atomq.cli.put'\n"
        "for name in ('rich.console', 'rich.text', 'redis', *commands):\n"
        "    sys.modules[name] = None\n"
    )
    done = atomq("--help")
    assert (done.code, done.err) == (0, "")
    assert "Throw away what a queue holds" in done.out


@pytest.mark.starts_anew
@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_libraries_it_names_the_extra(
    atomq: Atomq, broken: Callable[[str], None], missing: str, kind: str
) -> None:
    broken(f"import sys; sys.modules[{missing!r}] = None")
    done = atomq("queues", url="redis://127.0.0.1:1")
    assert done.code == 2
    assert done.err == f"atomq: the command line needs {missing}: pip install 'atomq[cli]'\n"


def test_the_package_runs_as_a_module(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "atomq", "--version"], capture_output=True, text=True
    )
    assert done.stdout.startswith("atomq ")


def complete(line: str, url: str) -> list[str]:
    """What bash would offer at the end of this line."""
    asked = {
        "ATOMQ_URL": url,
        "_ATOMQ_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    code, out, err = forks().run((), "", ROOT, os.environ | asked, 60)
    assert (code, err) == (0, "")
    return out.split()


def test_the_shell_completes_names_of_queues(atomq: Atomq, server: Server) -> None:
    for name in ("emails", "errors", "orders"):
        assert atomq("put", name, "1", url=server.tcp_url).code == 0
    assert complete("atomq peek e", server.tcp_url) == ["emails", "errors"]
    assert complete("atomq pause orders em", server.tcp_url) == ["emails"]
    given = f"atomq --url {server.tcp_url} dead list o"
    assert complete(given, "redis://127.0.0.1:1") == ["orders"]
    assert complete("atomq peek e", "redis://127.0.0.1:1") == []
    assert complete("atomq que", server.tcp_url) == ["queues"]
