"""How `--help` prints: sections of what there is and what it means.

Typer prints help by rich, whose import takes longer than the rest of `atomq --help` together. What
is asked for most is printed here, with the words of our docs: QUEUE, not {QUEUE} or <str>.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from inspect import cleandoc
from textwrap import wrap
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from atomq.cli.output import end_with_the_pipe

_WIDEST = 100  # columns: longer lines are hard to read
_NAMES = 26  # columns for names; the text of a longer one begins on the next line
_Entry = tuple[str, str]


class Command(TyperCommand):
    """A command whose help is printed here."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        """Read the arguments; prints the help, where they ask for it."""
        try:
            return super().make_context(*args, **more)
        except BrokenPipeError:
            end_with_the_pipe()

    def get_help(self, ctx: Any) -> str:
        """The whole help."""
        return _help(self, ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002 # as Typer calls it
        """What stands behind the command's name in its usage."""
        return _usage(self)


class Group(TyperGroup):
    """A group of commands whose help is printed here."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        """Read the arguments; prints the help, where they ask for it."""
        try:
            return super().make_context(*args, **more)
        except BrokenPipeError:
            end_with_the_pipe()

    def get_help(self, ctx: Any) -> str:
        """The whole help."""
        return _help(self, ctx, self.sections())

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002 # as Typer calls it
        """What stands behind the group's name in its usage."""
        return ["[OPTIONS]", "COMMAND …"]

    def sections(self) -> dict[str, list[_Entry]]:
        """Its commands, each with what it does, by section."""
        commands = self.commands.items()
        return {"Commands": [(name, _first(command)) for name, command in commands]}


def group(about: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(cls=Group, help=about, no_args_is_help=True, rich_markup_mode=None)


def _first(command: Any) -> str:
    return str(command.short_help or cleandoc(command.help or "").split("\n\n")[0])


def _usage(command: Any) -> list[str]:
    return ["[OPTIONS]", *(_argument(p) for p in command.params if p.param_type_name == "argument")]


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper()
    if param.nargs == -1:
        name += " …"
    return name if param.required else f"[{name}]"


def _help(command: Any, ctx: Any, commands: dict[str, list[_Entry]] | None = None) -> str:
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    usage = " ".join(["Usage:", ctx.command_path, *command.collect_usage_pieces(ctx)])
    lines = [usage, "", *_paragraphs(command.help or "", width)]
    options = [p for p in command.get_params(ctx) if p.param_type_name == "option" and not p.hidden]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    sections = {"Arguments": [(p.metavar or p.name.upper(), p.help or "") for p in arguments]}
    sections |= commands or {}
    for param in options:
        section = getattr(param, "rich_help_panel", None) or "Options"
        sections.setdefault(section, []).append((_names(param), _meaning(param)))
    for title, entries in sections.items():
        if entries:
            lines += ["", _bold(f"{title}:"), *_table(entries, width)]
    if command.epilog:
        lines += ["", *_paragraphs(command.epilog, width)]
    return "\n".join(lines)


def _names(param: Any) -> str:
    names = ", ".join(sorted(param.opts, key=len))
    if param.secondary_opts:
        names += " / " + ", ".join(param.secondary_opts)
    if getattr(param, "is_flag", False):
        return names
    return f"{names} {param.metavar or param.name.upper()}"


def _meaning(param: Any) -> str:
    text = param.help or ""
    default = param.default
    if isinstance(default, bool) or not isinstance(default, int | float | str):
        return text.replace("Show this message and exit.", "Print this.")
    if param.show_default and default not in (0, ""):
        text += f" [default: {getattr(default, 'value', default)}]"
    return text


def _table(entries: list[_Entry], width: int) -> Iterator[str]:
    column = min(_NAMES, max(len(name) for name, _ in entries))
    for name, text in entries:
        first, *rest = _wrapped(text, width - column - 4) or [""]
        if len(name) > column:
            yield f"  {name}"
            rest.insert(0, first)
        else:
            yield f"  {name:<{column}}  {first}".rstrip()
        yield from (" " * (column + 4) + line for line in rest)


def _paragraphs(text: str, width: int) -> Iterator[str]:
    for number, paragraph in enumerate(cleandoc(text).split("\n\n")):
        if number:
            yield ""
        yield from _wrapped(paragraph, width)


def _wrapped(text: str, width: int) -> list[str]:
    plain = re.sub(r"`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s]+)\*", r"\1\2\3", " ".join(text.split()))
    return wrap(plain, width, break_long_words=False, break_on_hyphens=False)


def _bold(text: str) -> str:
    shown = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return f"\x1b[1m{text}\x1b[0m" if shown else text
