"""What `atomq doctor` checks: every server (`server_checks.py`), and the queues, as here.

A check is a function that yields findings. It asks the server and lets `PermissionDenied` and
`ServerError` escape: `everything` makes a skipped line of them, so that the other checks go on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from atomq.cli.findings import Checks, Finding, Findings, advice_for, part_of
from atomq.cli.output import duration, number, plural, size
from atomq.cli.rights_checks import durability, rights
from atomq.cli.server_checks import ON_A_SERVER
from atomq.errors import (
    AtomqError,
    PermissionDenied,
    ServerError,
    ServerTooOld,
    ServerUnavailable,
)

if TYPE_CHECKING:
    from atomq.calls import Process, QueueState
    from atomq.cli.session import Session
    from atomq.contrib.fleet import Worker
    from atomq.node import Node


def everything(session: Session, names: Sequence[str] | None) -> Findings:
    """All checks, on every server that runs scripts. Raises what no check can do without.

    A node of a cluster that does not answer is a finding, and the others are checked.
    """
    away = False
    for node in session.engine.nodes():
        try:
            yield from _on_a_server(session, node)
        except ServerUnavailable as error:
            if session.engine.address.kind != "cluster":
                raise
            away = True
            yield Finding("connection", "fail", str(error), advice_for(error), node=node.name)
    if away:
        text, advice = "skipped: a node is away", "check them when all nodes answer"
        yield Finding("queues", "skip", text, advice)
        return
    found = yield from _queues_to_check(session, names)
    for name, check, needs in _ON_QUEUES:
        yield from _safely(name, check, needs, session, found)


def _on_a_server(session: Session, node: Node) -> Findings:
    from atomq.cli import nodes

    place = nodes.place_of(session.engine, node)
    for name, check, needs in ON_A_SERVER:
        for finding in _safely(name, check, needs, session, place):
            yield replace(finding, node=place.name)


def _safely(name: str, check: Callable[..., Findings], needs: str, *args: Any) -> Findings:
    try:
        yield from check(*args)
    except PermissionDenied:
        yield Finding(
            name, "skip", f"skipped: needs {needs}", f"grant {needs} to the user that checks"
        )
    except ServerUnavailable:
        raise
    except ServerTooOld:
        commands = needs.replace("+", "").replace("|", " ")
        yield Finding(
            name, "skip", f"skipped: no {commands} here", "see what the server's own tools say"
        )
    except ServerError as error:
        yield Finding(name, "skip", f"skipped: {error}", "this server does not offer it")


def _queues_to_check(session: Session, names: Sequence[str] | None) -> Any:
    from atomq.cli.discovery import discover, roster

    if names:
        return list(names)
    try:
        found = discover(session, scanning=True)
    except PermissionDenied:
        if not (known := roster(session).queues):
            advice = "or name them: atomq doctor QUEUE"
            yield Finding("queues", "skip", "skipped: needs +scan +smembers", advice)
        return known
    # Where there is nothing, no script is loaded for this: a later check says which there are.
    if found and (missing := _not_shown(session, found, set(roster(session).queues))):
        text = f"lacks {plural(len(missing), 'queue')}, as {min(missing)}"
        advice = "`atomq queues` shows them after `atomq queues --scan`"
        yield Finding("register", "warn", text, advice)
    return found


def _not_shown(session: Session, found: Sequence[str], known: set[str]) -> list[str]:
    """Those of these queues that `atomq queues` leaves out, though they are there to stay.

    A partition enters the register with its first message, and is shown with its queue before. A
    queue that expires never enters it.
    """
    from atomq.partitions import queue_of

    names = {*found}
    missing = [name for name in found if name not in known]
    alone = [name for name in missing if queue_of(name) not in names]
    return [name for name in alone if not _expires(session, name)]


def _expires(session: Session, queue: str) -> bool:
    try:
        return bool(session.reader.command("HGET", session.keys(queue).meta, "expires"))
    except AtomqError:  # a user that may not see it: a later check names the queue
        return False


def _database(session: Session, names: Sequence[str]) -> Findings:
    from atomq.cli.nodes import words
    from atomq.partitions import queue_of

    address = session.engine.address
    if address.kind == "cluster":
        yield from _virtual_host(session)
        return
    keyspace = words(session.engine.command("INFO", "keyspace"))
    counts = {
        name: int(part_of(text, "keys") or 0)
        for name, text in keyspace.items()
        if name.startswith("db")
    }
    here = f"db{address.db}"
    queues = {name for name in names if queue_of(name) not in names}
    found = f"{here}: {plural(counts.pop(here, 0), 'key')}, {plural(len(queues), 'queue')}"
    others = ", ".join(f"{name} {number(keys)}" for name, keys in counts.items() if keys)
    yield Finding("database", "ok", found + (f"; other databases: {others}" if others else ""))


def _virtual_host(session: Session) -> Findings:
    """Of a cluster: whether it is a database or a namespace, and whether it was one before."""
    from atomq.keys import RegisterKeys, namespace

    engine, number = session.engine, session.engine.address.db
    if not number:
        return
    if engine.namespace:
        text = f"virtual_host {number} is a namespace, as this cluster has no databases: "
        yield Finding("database", "ok", f"{text}names in it begin with {engine.namespace}")
        return
    yield Finding("database", "ok", f"virtual_host {number} is a database of the cluster")
    before = namespace(number) + engine.options.global_keyprefix
    with engine.for_thread(engine.address.of_database(0)) as zero:
        is_left = zero.command("EXISTS", RegisterKeys(before).queues)
    if is_left:
        text = f"queues of virtual_host {number} from when the cluster had no databases are left"
        advice = f"virtual_host=0 and global_keyprefix={before} lead there"
        yield Finding("database", "warn", text, advice)


def _fleet(session: Session, _names: Sequence[str]) -> Findings:
    from atomq.cli.discovery import older_workers
    from atomq.contrib import fleet

    found = [*_registered(session), *older_workers(session)]
    if not found:
        return
    faults = fleet.disagreements(found)
    if not faults:
        yield Finding("workers", "ok", f"{plural(len(found), 'Celery worker')}, of one mind")
    for fault in faults:
        yield Finding("workers", "fail", fault, "workers of one database must agree: restart them")


def _registered(session: Session) -> Iterator[Worker]:
    """Those in the registers of the virtual host, of other prefixes too: one may be a mistake."""
    from atomq import calls
    from atomq.cli.discovery import scan
    from atomq.contrib import fleet
    from atomq.keys import REGISTER, RegisterKeys, namespace_in

    for key in scan(session, f"{REGISTER}*", "hash"):
        prefix = key.removeprefix(REGISTER + ".").rpartition("}")[0]
        if namespace_in(prefix) != session.engine.namespace:
            continue
        register = RegisterKeys(prefix, written=True)
        yield from fleet.of_register(session.reader.run(calls.roster(register, limit=1)).processes)


def _stock_leftovers(session: Session, _names: Sequence[str]) -> Findings:
    engine = session.engine
    prefix = engine.prefix
    if engine.address.kind == "cluster":
        return
    held = int(engine.command("HLEN", f"{prefix}unacked"))
    if held:
        yield Finding(
            "stock kombu",
            "warn",
            f"{plural(held, 'message')} held by stock workers (hash {prefix}unacked)",
            "while those run, all is well; once they are gone, atomq workers take over what is "
            "older than visibility_timeout",
        )
    else:
        yield Finding("stock kombu", "ok", "holds nothing here")


def _queues(session: Session, names: Sequence[str]) -> Findings:
    from atomq import calls
    from atomq.cli.discovery import roster

    states: list[QueueState] = []
    reader, known, left = session.reader, {*names}, list(names)
    while left:
        some, left = left[:50], left[50:]
        found = reader.run_all([calls.inspect(session.keys(name)) for name in some])
        for name, state in zip(some, found, strict=True):
            if isinstance(state, PermissionDenied):
                yield Finding(
                    f"queue {name}",
                    "skip",
                    "skipped: this user may not look into it",
                    "grant its keys",
                )
            elif isinstance(state, AtomqError):
                words, _, advice = str(state).partition(": ")
                advice = advice or "look into its keys with redis-cli"
                yield Finding(f"queue {name}", "fail", words, advice)
            else:
                states.append(state)
                left += [part for part in state.partitions if part not in known]
                known.update(state.partitions)
    total = {part: sum(getattr(s, part) for s in states) for part in calls.Counts._fields}
    text = ", ".join(f"{number(count)} {part}" for part, count in total.items())
    spread = [state for state in states if len(state.partitions) > 1]
    wholes = {name: state.name for state in spread for name in state.partitions}
    queues = plural(len({wholes.get(state.name, state.name) for state in states}), "queue")
    if wholes:
        queues += f", {len(spread)} of them in {plural(len(wholes), 'partition')}"
    yield Finding("queues", "ok", f"{queues}: {text}" if states else "none yet")
    processes = roster(session).processes if spread else []
    for state in states:
        yield from _queue(state)
        yield from _steps(session, state.name)
        yield from _stray(state, {each.name: each for each in spread})
    for state in spread:
        yield from _overlooked(state, processes)


def _queue(state: QueueState) -> Findings:
    check = f"queue {state.name}"
    if state.inconsistent:
        yield Finding(
            check,
            "fail",
            f"{number(state.inconsistent)} entries have lost their other half",
            "something else wrote to its keys, or they were evicted; what is whole goes on"
            " being handed out",
        )
    if state.paused:
        yield Finding(check, "warn", "paused: nothing is handed out", f"atomq resume {state.name}")
    overdue = [
        ms
        for ms in (state.next_deadline_ms, state.next_due_ms)
        if ms is not None and ms < state.now_ms
    ]
    if overdue and not state.paused and state.now_ms - min(overdue) > 60_000:
        late = duration((state.now_ms - min(overdue)) / 1000)
        yield Finding(check, "warn", f"work is overdue for {late}", "is a consumer running?")
    if state.dead:
        yield Finding(
            check,
            "warn",
            plural(state.dead, "dead letter"),
            f"look at them: atomq dead list {state.name}",
        )


def _overlooked(state: QueueState, processes: Sequence[Process]) -> Findings:
    """A consumer that does not know of partitions takes from the first, which has their name."""
    name, count = state.name, len(state.partitions)
    found = [process for process in processes if process.overlooks(state.partitions)]
    if not found:
        return
    who = ", ".join(process.where for process in found[:3])
    more = f", and {number(len(found) - 3)} more" if len(found) > 3 else ""
    advice = f"Queue({name!r}, …, partitions={count}); Celery's option is "
    advice += f'broker_transport_options={{"partitions": {{{json.dumps(name)}: {count}}}}}'
    text = f"of its {count} partitions only the first is consumed by {who}{more}"
    yield Finding(f"queue {name}", "warn", text, advice)


def _stray(state: QueueState, spread: Mapping[str, QueueState]) -> Findings:
    """What is called like a partition of a queue that has others."""
    from atomq.partitions import queue_of

    whole = spread.get(queue_of(state.name))
    count = state.ready + state.delayed + state.unacked
    if whole is None or state.name in whole.partitions or not count:
        return
    text = f"{plural(count, 'message')}, and {whole.name!r} has no such partition"
    advice = f"no consumer of {whole.name!r} takes them: consume {state.name!r} by its name"
    yield Finding(f"queue {state.name}", "warn", text, advice)


def _steps(session: Session, name: str) -> Findings:
    """Consumers must agree about priority steps: one with fewer looks into fewer lists."""
    keys = session.keys(name)
    try:
        known = session.engine.command("HGET", keys.meta, "steps")
    except (PermissionDenied, ServerError):
        return
    ours = len(keys.steps)
    if known is not None and known.isdigit() and int(known) > ours:
        yield Finding(
            f"queue {name}",
            "warn",
            f"consumers with {int(known)} priority steps ran here, these options have {ours}",
            "give all the same priority_steps, or messages of the others wait unseen",
        )


def _embedded(session: Session, _names: Sequence[str]) -> Findings:
    from atomq import embedded

    directory = session.engine.address.directory
    server = embedded.status(directory) if directory else None
    if server is None:
        return
    about = os.statvfs(server.directory)
    free = about.f_bavail * about.f_frsize
    found = f"pid {server.pid}, {size(free)} free on its disk"
    if free < 1 << 30:
        yield Finding("embedded", "warn", found, "make room: without it, writes are refused")
    else:
        yield Finding("embedded", "ok", found)


_ON_QUEUES: Checks = (
    ("embedded", _embedded, ""),
    ("rights", rights, "+evalsha"),
    ("durability", durability, "+wait or +waitaof"),
    ("database", _database, "+info"),
    ("stock kombu", _stock_leftovers, "+hlen ~unacked"),
    ("queues", _queues, "+evalsha"),
    ("workers", _fleet, "+scan +get"),
)
