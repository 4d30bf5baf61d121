"""The commands, in the order of `atomq --help`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Annotated, Any

import typer

from atomq.cli.help import Group, group
from atomq.cli.output import end_with_the_pipe
from atomq.cli.session import AsJson, Given, Settings, Url

_EPILOG = """
**Exit codes**: 0 done · 1 a check failed, the server refused, or not everything was done ·
2 wrong usage, options or arguments · 3 the server cannot be reached ·
4 this user may not, or the scripts are not loaded and this user may not load them
"""

# Section, command: the module that registers it (of this package, unless it has dots), and what it
# does. The help shows these words, so that it loads none of the modules.
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Deploy": {
        "scripts": (
            "scripts",
            "The Lua scripts: load them at deploy time, verify, list, show.",
        ),
        "acl": ("acl", "Print the ACL rules of one user for these queues."),
        "doctor": (
            "doctor",
            "Check the server: memory, persistence, timeouts, rights, scripts, queues.",
        ),
        "hand-back": (
            "operating",
            "Move delayed and unacked messages into the lists that stock Kombu workers read.",
        ),
    },
    "Look": {
        "queues": (
            "queues",
            "Show the queues in numbers: ready, unacked, delayed, dead, age of the next message.",
        ),
        "peek": (
            "look",
            "Look at messages in the order they would be handed out; changes nothing.",
        ),
        "unacked": (
            "look",
            "Show what is held: where, for how long, until when, and how often it was delivered.",
        ),
        "get": (
            "get",
            "Say where one message is: ready, delayed, held, done, dead, cancelled.",
        ),
        "workers": (
            "workers",
            "Show the processes that consume: where they run, what they consume and work on.",
        ),
        "web": (
            "atomq.web.command",
            "Show queues, messages, dead letters and workers on a web page.",
        ),
        "metrics": (
            "metrics",
            "Print the metrics of all queues for Prometheus, or serve them with --listen.",
        ),
    },
    "Move": {
        "pause": (
            "operating",
            "Stop handing out messages of these queues, until `atomq resume`.",
        ),
        "resume": (
            "operating",
            "Hand out messages of these queues again; a waiting consumer is woken at once.",
        ),
        "purge": (
            "operating",
            "Throw away what a queue holds, in the parts named. It cannot be undone.",
        ),
        "put": ("put", "Put a message into a queue, or many from stdin."),
        "cancel": ("get", "Cancel messages, be they delayed, ready or held."),
        "run-now": ("get", "Let delayed messages fall due at once."),
        "delayed": ("delayed", "What waits for its time: list it, cancel it."),
        "dead": (
            "dead",
            "Dead letters: list, count by reason, show, put back to ready, throw away.",
        ),
    },
    "Try it": {
        "demo": ("demo", "Watch it work, on four worker processes, of which one is killed."),
        "embedded": ("embedded", "The server behind embedded:///DIR: start, status, stop."),
    },
}
if importlib.util.find_spec("atomq.cli.demo") is None:
    del COMMANDS["Try it"]["demo"]
_MODULES = {name: of for section in COMMANDS.values() for name, (of, _) in section.items()}


class _Root(Group):
    """`atomq` itself: a command's module is loaded when the command is run."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 # as Typer calls it
        return list(_MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 # as Typer calls it
        if cmd_name not in self.commands and cmd_name in _MODULES:
            holder = group("")
            name = _MODULES[cmd_name]
            name = name if "." in name else f"atomq.cli.{name}"
            importlib.import_module(name).register(holder)
            self.commands.update(typer.main.get_group(holder).commands)
        return self.commands.get(cmd_name)

    def sections(self) -> dict[str, list[tuple[str, str]]]:
        return {
            title: [(name, about) for name, (_, about) in section.items()]
            for title, section in COMMANDS.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in _MODULES:  # Typer suggests one of those that are loaded
            for name in _MODULES:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Root,
    name="atomq",
    help="Atomic queues on Redis and Valkey: deploy the scripts, check the server, look into the "
    "queues, move what is stuck.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, a password among them
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from atomq import __version__

        print(f"atomq {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    url: Url = None,
    settings: Settings = None,
    as_json: AsJson = False,
    _show_version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    context.obj = Given(url, settings or [], as_json)


def run() -> None:
    """Run the command line; ends the process with its exit code."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # the program was started with it closed
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8
    try:
        app(prog_name="atomq")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            end_with_the_pipe()
