"""What all commands share: the server they talk to, and how they end.

`command` registers a function as a command. It adds --url, --option and --json, hands the function
a `Session`, and turns every `AtomqError` into one line on stderr and an exit code.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property, partial, wraps
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, get_type_hints

import typer

from atomq.cli.help import Command
from atomq.cli.output import Output, end_with_the_pipe
from atomq.errors import (
    AtomqError,
    EmbeddedServerError,
    InvalidArgument,
    PermissionDenied,
    ScriptsNotLoaded,
    ServerUnavailable,
)

if TYPE_CHECKING:
    from atomq.client import Engine
    from atomq.keys import QueueKeys

P = ParamSpec("P")

PATIENCE = 2.0  # seconds for which a command waits for a server that is away, by default
DEFAULT_URL = "redis://localhost:6379/0"
WHERE = "is it running, and is this its address? --url or ATOMQ_URL say where it is"
_SERVER = "Server"


class Exit(IntEnum):
    """How a command ends; `atomq --help` tells users."""

    OK = 0
    NOT_ALL = 1
    """A check failed, the server refused, or not everything that was asked for was done."""
    USAGE = 2
    UNREACHABLE = 3
    NOT_ALLOWED = 4
    """This user may not, or the scripts are not loaded and this user may not load them."""


def exit_of(error: AtomqError) -> Exit:
    """The exit code that tells of this error."""
    if isinstance(error, InvalidArgument):
        return Exit.USAGE
    if isinstance(error, ServerUnavailable | EmbeddedServerError):
        return Exit.UNREACHABLE
    if isinstance(error, PermissionDenied | ScriptsNotLoaded):
        return Exit.NOT_ALLOWED
    return Exit.NOT_ALL


Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The server: redis:// rediss:// valkey:// redis+socket:// sentinel:// "
        "redis+cluster:// embedded:///dir. Else ATOMQ_URL from the environment, whose password "
        f"`ps` does not show, else {DEFAULT_URL}.",
        rich_help_panel=_SERVER,
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="An option of the engine, as the workers have it: global_keyprefix=app: or "
        "priority_steps=0,5 or master_name=main. Can be given again and again.",
        rich_help_panel=_SERVER,
        show_default=False,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON, as schemas/cli.schema.json describes it.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Wide = Annotated[
    bool, typer.Option("--wide", help="Leave no column out and cut nothing, however narrow it is.")
]


@dataclass
class Given:
    """What stood in front of the command: `atomq --url ... queues`."""

    url: str | None = None
    settings: list[str] = field(default_factory=list)
    as_json: bool = False


class Usage(InvalidArgument):
    """The command line makes no sense; the text says what would."""


class Session:
    """One run of one command."""

    def __init__(
        self,
        url: str | None,
        settings: list[str],
        *,
        as_json: bool,
        wide: bool = False,
        creates: bool = False,
    ) -> None:
        self.creates = creates
        """Whether it may start an embedded server in a directory that has none yet."""
        self.url = url or os.environ.get("ATOMQ_URL") or DEFAULT_URL
        self.settings = settings
        self.out = Output(as_json=as_json, wide=wide)
        # Without a handler Python prints what the library logs, which the error says once more.
        logging.getLogger("atomq").addHandler(logging.NullHandler())

    @property
    def as_json(self) -> bool:
        """Whether --json was given."""
        return self.out.as_json

    @cached_property
    def options(self) -> dict[str, Any]:
        """What --option said."""
        from atomq.options import Options

        texts: dict[str, str] = {}
        for setting in self.settings:
            name, equals, text = setting.partition("=")
            if not equals:
                # The text may be a password without its name.
                raise Usage("--option takes NAME=VALUE, as in --option global_keyprefix=app:")
            if name in texts:
                raise Usage(f"--option {name} is given twice")
            texts[name] = text
        return Options.typed(texts)

    @cached_property
    def engine(self) -> Engine:
        """The engine on the server.

        Raises `InvalidAddress`, `InvalidOptions`, and `EmbeddedServerError` where there is none.
        """
        from atomq.client import Engine
        from atomq.embedded import check_there

        engine = Engine(self.url, **self.options)
        if engine.address.directory is not None and not self.creates:
            check_there(engine.address.directory)
        if "retry_budget" not in engine.options.given():  # a still terminal looks like a hang
            engine.retry = engine.retry.after(engine.retry.budget - PATIENCE)
        return engine

    def begin_anew(self, patience: float) -> None:
        """Forget the engine: the next one tries for so many seconds to reach the server."""
        self.close()
        self.__dict__.pop("engine", None)
        given = {**self.options}
        for name in ("socket_connect_timeout", "socket_timeout"):
            given[name] = min(patience, given.get(name) or patience)
        self.options = {"retry_budget": 0, **given}

    @property
    def reader(self) -> Engine:
        """The engine for what only looks: works for a user that may not write."""
        self.engine.verified = True
        return self.engine

    def keys(self, queue: str) -> QueueKeys:
        """The keys of a queue. Raises `InvalidArgument` if no queue may be called so."""
        return self.engine.keys(queue)

    def agreed(self, question: str, *, yes: bool) -> bool:
        """Whether to go on with what cannot be undone. Raises `Usage` if no user can be asked."""
        if yes:
            return True
        answer = self.out.confirm(question)
        if answer is None:
            raise Usage("this throws messages away: add --yes where no user can be asked")
        if not answer:
            self.out.note("nothing was done")
        return answer

    def report(self, queue: str, text: str, done: int, left: dict[str, str]) -> int:
        """Print how many were moved and which were not, with the reason of each; the exit code."""
        if self.as_json:
            not_done = [{"id": name, "why": why} for name, why in left.items()]
            self.out.rows([{"queue": queue, "done": done, "not_done": not_done}])
        else:
            self.out.line(f"{queue}: {text}")
            for name, why in left.items():
                self.out.error(f"{name}: {why}")
        return Exit.NOT_ALL if left else Exit.OK

    def close(self) -> None:
        """Close what was opened."""
        if "engine" in self.__dict__:
            self.engine.close()


def command(
    app: typer.Typer,
    name: str,
    *,
    server: bool = True,
    tables: bool = False,
    creates: bool = False,
    **settings: Any,
) -> Callable[[Callable[Concatenate[Session, P], int | None]], Callable[..., Any]]:
    """Register a function of a `Session` as a command; it returns its exit code (None: 0).

    `server=False` is for what needs none: it takes neither --url nor --option. `tables`: what it
    prints are tables, so it takes --wide. `creates`: it may start an embedded server that is new.
    """

    def register(function: Callable[Concatenate[Session, P], int | None]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [p.replace(annotation=hints[p.name], kind=keyword) for p in own]
        common: dict[str, tuple[Any, Any]] = {"as_json": (AsJson, False)}
        if tables:
            common["wide"] = (Wide, False)
        if server:
            common |= {"url": (Url, None), "engine_options": (Settings, None)}
        for each, (kind, default) in common.items():
            parameters.append(inspect.Parameter(each, keyword, default=default, annotation=kind))
        context = inspect.Parameter("context", keyword, annotation=typer.Context)

        @wraps(function)
        def run(context: typer.Context, **given: Any) -> None:
            root = context.find_object(Given) or Given()
            session = Session(
                given.pop("url", None) or root.url,
                [*root.settings, *(given.pop("engine_options", None) or ())],
                as_json=given.pop("as_json") or root.as_json,
                wide=given.pop("wide", False),
                creates=creates,
            )
            raise typer.Exit(_carried_out(session, partial(function, session, **given)))

        run.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (context, *parameters)}
        app.command(name, cls=Command, **settings)(run)
        return function

    return register


def _carried_out(session: Session, work: Callable[[], int | None]) -> int:
    try:
        return int(work() or Exit.OK)
    except AtomqError as error:
        session.out.error(f"{error}: {WHERE}" if type(error) is ServerUnavailable else str(error))
        return exit_of(error)
    except ImportError as error:
        if "pip install" not in str(error):
            raise
        session.out.error(str(error))  # memory:// without its extra
        return Exit.USAGE
    except BrokenPipeError:
        session.close()
        end_with_the_pipe()
    finally:
        session.close()


def names_from(arguments: list[str], *, what: str) -> list[str]:
    """The ids given, or those on stdin, one a line, for `-`; each once, in order."""
    if arguments == ["-"]:
        arguments = [line.strip() for line in sys.stdin]
    names = list(dict.fromkeys(name for name in arguments if name))
    if "-" in names:
        raise Usage(f"- reads {what} from stdin and stands alone")
    return names


def exactly_one(**choices: bool) -> None:
    """Raise `Usage` unless exactly one of these was given."""
    if sum(choices.values()) != 1:
        *rest, last = (name if name == "ids" else f"--{name}" for name in choices)
        raise Usage(f"give {', '.join(rest)} or {last}, and one of them only")
