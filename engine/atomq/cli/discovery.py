"""Which queues there are: the register knows them, or the database is searched for their keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomq.cli.session import Session
from atomq.errors import AtomqError

if TYPE_CHECKING:
    from atomq.calls import Roster
    from atomq.contrib.fleet import Worker


def completed(context: typer.Context, incomplete: str) -> list[str]:
    """The names of queues that begin so, for a shell: an empty list where they cannot be had."""
    given = [context.find_root().params, context.params]
    settings = [each for p in given for each in p.get("settings") or p.get("engine_options") or ()]
    budget = [] if any(s.startswith("retry_budget=") for s in settings) else ["retry_budget=0"]
    url = given[1].get("url") or given[0].get("url")
    session = Session(url, settings + budget, as_json=True)  # it shows no progress
    try:
        return [name for name in discover(session) if name.startswith(incomplete)]
    except AtomqError:
        return []
    finally:
        session.close()


Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="QUEUE",
        help="Queues; all that are found, if none is named.",
        autocompletion=completed,
    ),
]
Some = Annotated[
    list[str], typer.Argument(metavar="QUEUE", help="Queues.", autocompletion=completed)
]
One = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.", autocompletion=completed)]


def discover(session: Session, *, scanning: bool = False) -> list[str]:
    """The names of all queues: those in the register.

    While it is empty, or with `scanning`, the database is looked through, and they are those with
    keys of ours, and those bound by stock Kombu.
    """
    from atomq.errors import PermissionDenied
    from atomq.keys import check_name, is_queue_key

    if not scanning and (known := roster(session).queues):
        return known
    engine = session.reader
    prefix, sep = engine.prefix, engine.options.sep
    full: set[str] = set()
    try:
        with session.out.progress("looking for queues") as report:
            # Of a queue's keys at least one is a hash; its results, maybe millions, are strings.
            for count, key in enumerate(scan(session, "_atomq.{*}.*", "hash")):
                full.add(is_queue_key(key) or "")
                report(count)
            bound = set()
            for key in scan(session, f"{_glob(prefix)}_kombu.binding.*", "set"):
                if key.endswith((".pidbox", ".celeryev")) or "_kombu.binding.reply." in key:
                    continue  # workers talk to each other there
                for member in engine.command("SMEMBERS", key):
                    bound.add(member.decode("utf-8", "replace").rpartition(sep)[2])
    except PermissionDenied as error:
        if "scan" not in str(error).lower() and "smembers" not in str(error).lower():
            raise  # the password, for one
        raise PermissionDenied(
            f"to find queues this user would need +scan: name them ({error})"
        ) from error
    ours = {name.removeprefix(prefix) for name in full if name.startswith(prefix)} | bound
    return sorted(name for name in ours if _allowed(check_name, name, sep, engine.layout))


def roster(session: Session) -> Roster:
    """The register, with the names of all queues; empty where this user may not read it."""
    from atomq import flows
    from atomq.calls import Roster
    from atomq.errors import PermissionDenied, ScriptsNotLoaded

    try:
        return session.reader.run(flows.whole_roster(session.engine.register.keys))
    except (PermissionDenied, ScriptsNotLoaded):
        return Roster(0, [], [], 0)


def older_workers(session: Session) -> list[Worker]:
    """Celery workers of releases up to 14144c1, which know of no namespace: none is in one."""
    from atomq.contrib import fleet

    if session.engine.namespace:
        return []
    keys = list(scan(session, f"{fleet.PREFIX}*", "string"))
    return fleet.workers((key, session.reader.command("GET", key)) for key in keys)


def enter(session: Session, names: Sequence[str], *, gone: bool = False) -> None:
    """Have the register know of these queues, or (`gone`) forget them."""
    from atomq import calls

    for i in range(0, len(names), calls.MOST):
        some = names[i : i + calls.MOST]
        session.engine.run(calls.register(session.engine.register.keys, some, gone=gone))


def _allowed(check: Any, name: str, sep: str, layout: str) -> bool:
    try:
        check(name, sep=sep, layout=layout)
    except AtomqError:
        return False
    return True


def _glob(text: str) -> str:
    return "".join(f"\\{c}" if c in "*?[]\\" else c for c in text)


def scan(session: Session, pattern: str, kind: str) -> Iterator[str]:
    """The keys of one type that match, on every node."""
    for node in session.engine.nodes():
        cursor: Any = 0
        while True:
            reply = node.command("SCAN", cursor, "MATCH", pattern, "COUNT", 1000, "TYPE", kind)
            cursor, keys = _cursor_and_keys(reply)
            for key in keys:
                yield key.decode("utf-8", "replace") if isinstance(key, bytes) else key
            if cursor == 0:
                break


def _cursor_and_keys(reply: Any) -> tuple[int, list[Any]]:
    cursor, keys = reply
    if isinstance(cursor, dict):  # redis-py's cluster client: by node
        cursor = next(iter(cursor.values()))
    return int(cursor), keys
