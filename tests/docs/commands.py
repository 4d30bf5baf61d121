"""The command line in Markdown, from the program: the site's page of commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

import typer

from atomq.cli.app import COMMANDS, app
from atomq.cli.help import _argument, _names

# Said once at the top of the page, not with each command.
EVERYWHERE = {"--url", "--option", "--json", "--wide"}


def reference() -> str:
    """Each command: usage, what it does, arguments, options."""
    root = typer.main.get_command(app)
    lines: list[str] = []
    for section, names in COMMANDS.items():
        lines += [f"## {section}", ""]
        for name in names:
            lines += _command(root.get_command(None, name), f"atomq {name}")  # type: ignore[attr-defined]
    return "\n".join(lines)


def _command(command: Any, path: str) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name in command.list_commands(None):
            yield from _command(command.get_command(None, name), f"{path} {name}")
        return
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [
        p
        for p in command.params
        if p.param_type_name == "option" and not p.hidden and not EVERYWHERE & set(p.opts)
    ]
    usage = " ".join([path, "[OPTIONS]", *map(_argument, arguments)])
    yield from (f"### {path}", "", "```text", usage, "```", "", _text(command.help or ""), "")
    rows = [(_argument(p).strip("[]"), p.help) for p in arguments]
    rows += [(_names(p), p.help) for p in options]
    if rows:
        yield from ("| | |", "|---|---|")
        for name, text in rows:
            yield "| `{}` | {} |".format(name.replace("|", "\\|"), _text(text or ""))
        yield ""


def _text(words: str) -> str:
    return re.sub(r"(?<!`)<(\w+)>", r"`<\1>`", cleandoc(words))
