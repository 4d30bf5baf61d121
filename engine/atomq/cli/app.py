"""The commands, in the order of `atomq --help`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Annotated

import typer

from atomq.cli import acl, dead, delayed, doctor, embedded, look, put, queues, scripts
from atomq.cli.session import AsJson, Given, Settings, Url

_EPILOG = """
**Exit codes**: 0 done · 1 a check failed, the server refused, or not everything was done ·
2 wrong usage, options or arguments · 3 the server cannot be reached ·
4 this user may not, or the scripts are not loaded and this user may not load them
"""

app = typer.Typer(
    name="atomq",
    help="Atomic queues on Redis and Valkey: deploy the scripts, check the server, look into the "
    "queues, move what is stuck.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
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


scripts.register(app)
acl.register(app)
doctor.register(app)
queues.register(app)
look.register(app)
put.register(app)
delayed.register(app)
dead.register(app)
embedded.register(app)


if importlib.util.find_spec("atomq.cli.demo") is not None:
    importlib.import_module("atomq.cli.demo").register(app)


def run() -> None:
    """Run the command line; ends the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8
    try:
        app(prog_name="atomq")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
