"""`atomq scripts`: which Lua scripts this release runs, and putting them into servers."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomq.cli.help import group
from atomq.cli.output import Column, clean, plural
from atomq.cli.session import Exit, Session, Usage, command

if TYPE_CHECKING:
    from atomq.cli.nodes import Place
    from atomq.scripts import Parameter, Script

app = group(
    "The Lua scripts of this release: list and show them, load them into a server at deploy "
    "time, verify that they are there."
)

_TRY = 5.0  # seconds that one try to reach the server may take
_PAUSE = 0.5  # seconds between two tries

Replicas = Annotated[
    bool,
    typer.Option(
        help="Replicas too: SCRIPT LOAD is not replicated, and a replica may be the next primary. "
        "One that cannot be reached from here is reported and passed over."
    ),
]


def register(root: typer.Typer) -> None:
    """Add the group to the command line."""
    root.add_typer(app, name="scripts")


@dataclass
class _Report:
    """What was done on one server."""

    place: Place
    loaded: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        return {
            "node": self.place.name,
            "server": self.place.server,
            "version": self.place.version,
            "loaded": self.loaded,
            "present": self.present,
            "missing": self.missing,
        }


@command(app, "load", tables=True)
def load(
    session: Session,
    *,
    replicas: Replicas = True,
    wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=86400,
            show_default=False,
            help="Wait so long for the server: to start, to have read its data, to have a quorum.",
        ),
    ] = 0,
) -> int:
    """Load all scripts into every server behind the URL.

    A step of your deployment, before the new workers start: run it as a user with
    `+script|load +script|exists +hello +info`. Workers then need `+evalsha` and the commands inside
    the scripts, not `+script|load`. Scripts of different releases have different names (their
    SHA1), so old and new workers run side by side. It can be repeated at any time and loads only
    what is missing.

    Every primary of a cluster is loaded; behind sentinels, the master. Servers keep scripts in
    memory: after a restart or SCRIPT FLUSH, workers that may load scripts do so by themselves;
    where they may not, load again.
    """
    reports = _waited(session, wait, lambda: _loaded(session, replicas=replicas))
    if session.as_json:
        session.out.document(_manifest(reports))
        return Exit.OK
    columns = [
        Column("node"),
        Column("server"),
        Column("role", style="dim"),
        Column("loaded", "right"),
        Column("were there", "right"),
    ]
    session.out.table(columns, [[*_about(r.place), len(r.loaded), len(r.present)] for r in reports])
    session.out.line(_all_there(reports))
    return Exit.OK


def _loaded(session: Session, *, replicas: bool) -> list[_Report]:
    from atomq import scripts
    from atomq.errors import PermissionDenied

    reports = []
    for place in _everywhere(session, replicas=replicas):
        report = _Report(place)
        try:
            missing = place.node.missing()
        except PermissionDenied:  # it may load but not look: load them all
            missing = list(scripts.every())
        report.loaded = [script.name for script in place.node.load(missing)]
        report.present = [name for name in scripts.names() if name not in report.loaded]
        reports.append(report)
    return reports


def _waited(session: Session, seconds: float, work: Callable[[], list[_Report]]) -> list[_Report]:
    """Do it, again and again for so long if the server cannot serve yet; stderr says why.

    Raises `ServerUnavailable`.
    """
    from atomq.errors import ServerUnavailable

    until, said = time.monotonic() + seconds, ""
    while seconds:
        left = until - time.monotonic()
        try:
            session.begin_anew(max(0.1, min(_TRY, left)))
            _check_ready(session)
            return work()
        except ServerUnavailable as error:
            if left <= 0:
                raise ServerUnavailable(
                    f"no server to load them into within {seconds:g} s: {error}"
                ) from error
            if (why := _without_numbers(str(error))) != said:
                session.out.note(f"waiting for the server: {error}")
                said = why
            time.sleep(min(_PAUSE, max(0.0, until - time.monotonic())))
    return work()


def _without_numbers(text: str) -> str:
    """What stays the same of an error that says how long it took."""
    return re.sub(r"[0-9.]+ s\b", "", text)


def _check_ready(session: Session) -> None:
    """Raise `ServerUnavailable` for a cluster that serves nothing yet; scripts can be loaded there,
    but a primary that is made later would have none.
    """
    from atomq.cli.nodes import words
    from atomq.errors import PermissionDenied, ServerUnavailable

    if session.engine.address.kind != "cluster":
        return
    for node in session.engine.nodes():
        try:
            state = words(node.command("CLUSTER INFO")).get("cluster_state")
        except PermissionDenied:
            return
        if state != "ok":
            raise ServerUnavailable(f"the cluster's state is {state}")


@command(app, "verify", tables=True)
def verify(session: Session, *, replicas: Replicas = True) -> int:
    """Check that every server behind the URL knows all scripts: exit code 1 if one is missing.

    Needs `+script|exists +hello`, and `+info` to find the replicas. Changes nothing.
    """
    from atomq import scripts

    reports = []
    for place in _everywhere(session, replicas=replicas):
        missing = [script.name for script in place.node.missing()]
        present = [name for name in scripts.names() if name not in missing]
        reports.append(_Report(place, present=present, missing=missing))
    lacking = [report for report in reports if report.missing]
    if session.as_json:
        session.out.document(_manifest(reports))
    else:
        columns = [
            Column("node"),
            Column("server"),
            Column("role", style="dim"),
            Column("there", "right"),
            Column("missing", "right"),
        ]
        session.out.table(
            columns, [[*_about(r.place), len(r.present), len(r.missing)] for r in reports]
        )
    for report in lacking:
        session.out.error(f"missing on {report.place.name}: {', '.join(report.missing)}")
    if lacking:
        session.out.note("put them there: atomq scripts load")
        return Exit.NOT_ALL
    if not session.as_json:
        session.out.line(_all_there(reports))
    return Exit.OK


@command(app, "list", server=False, tables=True)
def list_(session: Session) -> None:
    """List the scripts of this release. Needs no server.

    With --json it is the manifest: names, SHA1, sizes, KEYS and ARGV.
    """
    from atomq import scripts

    if session.as_json:
        session.out.document(_manifest())
        return
    columns = [
        Column("script", style="bold"),
        Column("sha1", style="dim", spare=1),
        Column("bytes", "right"),
        Column("what it does", folds=True),
    ]
    session.out.table(
        columns,
        [[s.name, s.sha, len(s.text.encode()), _summary(s)] for s in scripts.every()],
    )


@command(app, "show", server=False)
def show(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="NAME|SHA1", help="A script, or the beginning of its SHA1.")
    ],
    *,
    contract: Annotated[
        bool, typer.Option("--contract", help="Its KEYS, ARGV, answer and errors instead.")
    ] = False,
) -> None:
    """Print a script: exactly the text that is loaded, whose SHA1 is its name in the server.

    An SLOWLOG or an error names a script by its SHA1: give that, or its beginning.
    """
    script = _named(name)
    if session.as_json:
        manifest = _manifest()
        manifest["scripts"] = [s for s in manifest["scripts"] if s["name"] == script.name]
        session.out.document(manifest)
    elif contract:
        _print_contract(session, script)
    elif session.out.console.is_terminal:
        from rich.syntax import Syntax

        session.out.show(Syntax(script.text, "lua", theme="ansi_dark", background_color="default"))
    else:
        print(script.text, end="")


# ── servers ───────────────────────────────────────────────────────────────────────────────────


def _everywhere(session: Session, *, replicas: bool) -> Any:
    """Every server, each while its connection is open; replicas behind their primary."""
    from atomq.cli import nodes

    for place in nodes.places(session.engine):
        if place.in_cluster and session.engine.address.kind != "cluster":
            raise Usage(
                f"{place.name} is one node of a cluster: write redis+cluster://{place.name}"
            )
        yield place
        for replica in nodes.replicas(session.engine, place) if replicas else ():
            if isinstance(replica, nodes.Unreached):
                session.out.note(
                    f"passed over: the replica {replica.name} cannot be reached from here; should "
                    f"it become the primary, load again ({replica.why})"
                )
            else:
                yield replica


def _about(place: Place) -> list[str]:
    role = "replica" if place.replica else "primary"
    return [place.name, f"{place.server} {place.version}", role]


def _all_there(reports: list[_Report]) -> str:
    from atomq import __version__, scripts

    count = plural(len(scripts.names()), "script")
    return f"All {count} of atomq {__version__} are on {plural(len(reports), 'server')}."


def _manifest(reports: list[_Report] | None = None) -> dict[str, Any]:
    from atomq import __version__, scripts

    manifest = scripts.manifest(__version__)
    if reports is not None:
        manifest["nodes"] = [report.row() for report in reports]
    return manifest


# ── one script ────────────────────────────────────────────────────────────────────────────────


def _named(name: str) -> Script:
    from atomq import scripts

    if name in scripts.names():
        return scripts.get(name)
    by_sha = [s for s in scripts.every() if len(name) >= 4 and s.sha.startswith(name.lower())]
    if len(by_sha) == 1:
        return by_sha[0]
    near = difflib.get_close_matches(name, scripts.names(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(scripts.names())}"
    raise Usage(f"there is no script {name!r}: {hint}")


def _summary(script: Script) -> str:
    """The first sentence of its header, without its name."""
    first = script.contract.summary.splitlines()[0]
    return first.removeprefix(f"{script.name}: ")


def _print_contract(session: Session, script: Script) -> None:
    from rich.text import Text

    about = script.contract
    session.out.line(
        Text(f"lua/{script.file}", style="bold") + Text(f"  {script.sha}", style="dim")
    )
    session.out.line(" ".join(about.summary.split()))
    for title, parameters in (("KEYS", about.keys), ("ARGV", about.argv)):
        _print_parameters(session, title, parameters)
    for title, text in (("RETURNS", about.returns), ("ERRORS", "  ".join(about.errors))):
        session.out.line("")
        session.out.line(Text(title, style="dim"))
        session.out.line(clean(" ".join(text.split("\n"))) or "-")


def _print_parameters(session: Session, title: str, parameters: tuple[Parameter, ...]) -> None:
    session.out.line("")
    if not parameters:
        return
    columns = [Column(title), Column("type"), Column("for each"), Column("what it is", folds=True)]
    rows = [[p.name, p.type, " × ".join(p.repeats), p.about] for p in parameters]
    session.out.table(columns, rows)
