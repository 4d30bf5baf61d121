"""`atomq acl`: the rules for a user of the server, by its role, for some queues and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from atomq.cli.discovery import Some
from atomq.cli.session import Exit, Session, Usage, command

if TYPE_CHECKING:
    from atomq.durability import Durability
    from atomq.keys import QueueKeys


class Role(StrEnum):
    """What a user is for."""

    PRODUCER = "producer"
    WORKER = "worker"
    OPERATOR = "operator"
    MONITOR = "monitor"


def register(root: typer.Typer) -> None:
    """Add the command to the command line."""
    command(root, "acl")(acl)


def acl(
    session: Session,
    role: Annotated[
        Role, typer.Argument(metavar="ROLE", help="producer, worker, operator or monitor.")
    ],
    queues: Some,
    *,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Else QUEUE-ROLE, by the first queue.")
    ] = None,
    password_hash: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="Of the password, in hex. Else the user has none yet."),
    ] = None,
    celery: Annotated[bool, typer.Option("--celery", help="For Celery, on these queues.")] = False,
    results: Annotated[
        str | None,
        typer.Option(
            metavar="PREFIX",
            help="With --celery: results too, under this global_keyprefix of "
            "result_backend_transport_options. What has the same prefix can read them all.",
        ),
    ] = None,
    in_register: Annotated[
        bool,
        typer.Option(
            "--register/--no-register",
            help="The register: names of queues and processes, and what these work on. All users "
            "of one global_keyprefix share it.",
        ),
    ] = True,
    control: Annotated[
        bool,
        typer.Option(
            help="With --celery, of a worker: remote control, events and gossip, which all workers "
            "of a database share."
        ),
    ] = True,
    stock: Annotated[
        bool,
        typer.Option(
            "--stock",
            help="With --celery, of a worker: what stock workers hold, of all queues, is shared.",
        ),
    ] = False,
    fanout_prefix: Annotated[
        str, typer.Option(metavar="TEXT", help="As among broker_transport_options.")
    ] = "/{db}.",
    aclfile: Annotated[
        bool, typer.Option("--aclfile", help="A line for the server's aclfile, not for redis-cli.")
    ] = False,
) -> int:
    """Print the ACL rules of one user for these queues.

    **producer** puts messages and waits for their results · **worker** consumes, and may put
    messages · **operator** looks into the queues, redrives, purges, pauses, hands back ·
    **monitor** reads their numbers.

    Load the scripts as another user (`atomq scripts load`): none of these may. The server cannot
    tell one script from another, so producers, workers and operators of a queue can do all that
    scripts do there. Nothing is sent to the server, unless the URL names a database of a cluster:
    then that is asked whether it has any.
    """
    name = user or f"{queues[0]}-{role}"
    if not celery and (results is not None or stock):
        raise Usage("--results and --stock are for --celery")
    if password_hash is not None and not re.fullmatch("[0-9a-f]{64}", password_hash):
        raise Usage("--password-hash takes 64 hexadecimal digits, in lower case")
    keys = [session.keys(queue) for queue in queues]
    rules = [*_of_library(role, keys), *(["+select"] if session.engine.address.db else [])]
    if role in (Role.PRODUCER, Role.WORKER):
        rules += _of_durability(session.engine.durability())
    if in_register:
        own = session.engine.register.keys.queues.removesuffix("queues")
        rules.append(f"~{_literal(own)}*")
    if celery:
        address = session.engine.address
        heard = f"{session.engine.prefix}{fanout_prefix.format(db=address.db)}"
        rules += _of_celery(session, role, keys, results)
        if role is Role.WORKER:
            rules += _of_celery_worker(session, heard, control=control, stock=stock)
    rules = sorted(dict.fromkeys(rules), key=lambda rule: "~r&+".index(rule[0]))
    rules = ["reset", "on", *([f"#{password_hash}"] if password_hash else []), *rules]
    for word in (name, *rules):
        if re.search(r"\s", word) or not word:
            raise Usage(f"no rule can hold blanks, as in {word!r}")
    if session.as_json:
        session.out.rows([{"user": name, "role": str(role), "rules": rules}])
    elif aclfile:
        # Written as it is: nothing can be quoted in an aclfile.
        print(" ".join(["user", name, *rules]))
    else:
        print(" ".join(["ACL SETUSER", *map(_quoted, (name, *rules))]))
    for note in _notes(name, rules, password_hash):
        session.out.note(note)
    return Exit.OK


def _notes(name: str, rules: Sequence[str], password_hash: str | None) -> Iterator[str]:
    if sharded := [rule for rule in SHARDED if rule in rules]:
        yield f"Redis 6.2 has no sharded channels: for it leave out {', '.join(sharded)}"
    if password_hash is None:
        yield f"{name} has no password yet: add one with --password-hash, or by a rule"


# ── what each may do ──────────────────────────────────────────────────────────────────────────


# What only some calls run, so that no probe asks for it: limits of dead letters; `get`, `cancel`.
BESIDE = ("get", "lrem", "xrevrange", "xtrim")

# Of a cluster: results and looks travel to one node. Redis 6.2 does not know these.
SHARDED = ("+spublish", "+ssubscribe", "+sunsubscribe")


def inner_commands() -> list[str]:
    """The commands that the scripts run inside, in lower case."""
    from atomq import scripts

    found = re.findall(r'\{ "([A-Z]+)"', scripts.get("probe").text)
    return sorted({*(name.lower() for name in found), *BESIDE})


def reading_commands() -> list[str]:
    """Those of the scripts that count what is in a queue, and read the register."""
    from atomq import scripts

    texts = [scripts.get(name).text for name in ("inspect", "overview", "roster")]
    found = re.findall(r'call\("([A-Z]+)"', "".join(texts))
    return sorted({name.lower() for name in found})


def _of_library(role: Role, queues: list[QueueKeys]) -> Iterator[str]:
    for keys in queues:
        yield from (f"~{_literal(key)}" for key in keys.ready)
        yield f"~{_own(keys)}*"
    yield "resetchannels"
    on_cluster = queues[0].layout == "cluster"
    if on_cluster:
        yield from ("+cluster|slots", "+asking")  # which node serves what, also while a slot moves
    if role is Role.MONITOR:
        yield from ("+evalsha", *(f"+{name}" for name in reading_commands()))
        return
    yield from (f"&{_own(keys)}*" for keys in queues)
    yield from ("+evalsha", *(f"+{name}" for name in inner_commands()))
    if on_cluster:
        yield SHARDED[0]
    if role is Role.OPERATOR:
        yield "+xrevrange"  # the newest dead letters first
    if role in (Role.PRODUCER, Role.WORKER):
        yield from ("+get", "+subscribe", "+unsubscribe")  # a result is waited for
        yield from SHARDED if on_cluster else ()
    if role is Role.WORKER:
        yield from ("+blpop", "+client|unblock", "+exists")
        if queues[0].layout == "cluster":  # of many queues on one node one connection waits
            yield from ("+client|tracking", "+client|caching", "+lpop", "+llen")


def _of_durability(durability: Durability | None) -> Iterator[str]:
    """What confirms a publish, if the option `durability` asks for that."""
    if durability is not None and durability.replicas:
        yield "+wait"
    elif durability is not None:
        yield from ("+waitaof", "+hello", "+config|get")  # the last ones: whether it is true


def _of_celery(
    session: Session, role: Role, queues: list[QueueKeys], results: str | None
) -> Iterator[str]:
    """What Kombu adds: bindings, and Celery's own result backend."""
    from atomq.keys import ExchangeKeys

    prefix, namespace = session.engine.prefix, session.engine.namespace
    if role in (Role.PRODUCER, Role.WORKER):
        if queues[0].layout == "cluster":
            for keys in queues:
                yield f"~{_literal(ExchangeKeys(keys.name, prefix).bindings)}"
            yield from ("+zremrangebyscore", "+persist")  # the first: of releases up to 8d693af
        else:
            for keys in queues:
                yield from _bindings(prefix, keys.name)
            yield from ("+sadd", "+smembers")
        yield from ("+ping", "+exists")
        if results is not None:
            yield f"~{_literal(namespace + results)}celery-task-meta-*"
            yield f"&{_literal(namespace + results)}celery-task-meta-*"
            yield from ("+get", "+mget", "+setex", "+multi", "+exec", "+subscribe", "+unsubscribe")
            if queues[0].layout == "cluster":
                yield from ("+eval", "+set", "+publish")


def _of_celery_worker(session: Session, heard: str, *, control: bool, stock: bool) -> Iterator[str]:
    options = session.engine.options
    prefix = session.engine.prefix
    if session.engine.address.kind == "cluster":
        yield from ("+rpop", "+zrem")
        if control:
            yield from ("+psubscribe", "+punsubscribe", "+publish")
            topics = ("celery.pidbox", "celeryev/*", "celeryev/worker.*", "reply/*")
            yield from (f"&{_literal(heard)}{topic}" for topic in topics)
        return
    yield f"~{_literal(prefix)}_kombu.binding_deadlines"
    yield from ("+brpop", "+client|unblock", "+client|tracking", "+client|caching")
    yield from ("+srem", "+watch", "+multi", "+exec")
    if stock:
        yield from (f"~{_literal(prefix)}unacked", f"~{_literal(prefix)}unacked_index")
    if control:
        yield from ("+psubscribe", "+punsubscribe")
        for exchange in ("celery.pidbox", "reply.celery.pidbox", "celeryev"):
            yield from _bindings(prefix, exchange)
        for queue in ("*.celery.pidbox", "celeryev.*"):
            name = _literal(prefix) + queue
            yield from (f"~{name}", f"~{name}{_literal(options.sep)}*")
            yield from (f"~_atomq.{{{name}}}.*", f"&_atomq.{{{name}}}.*")
        for topic in ("celery.pidbox", "celeryev/*", "celeryev/worker.*"):
            yield f"&{_literal(heard)}{topic}"


def _bindings(prefix: str, exchange: str) -> Iterator[str]:
    for table in ("_kombu.binding.", "_kombu.binding_permanent."):
        yield f"~{_literal(prefix + table + exchange)}"


def _own(keys: QueueKeys) -> str:
    return _literal(keys.unacked.removesuffix("unacked"))


# ── how it is written ─────────────────────────────────────────────────────────────────────────


def _literal(text: str) -> str:
    """A text as a pattern that matches nothing else."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def _quoted(word: str) -> str:
    """A word as `redis-cli` reads it."""
    if re.fullmatch(r"[\x21\x23-\x26\x28-\x5b\x5d-\x7e]+", word):
        return word
    escaped = "".join(
        f"\\x{byte:02x}"
        if byte < 0x20 or byte > 0x7E
        else f"\\{chr(byte)}"
        if chr(byte) in '"\\'
        else chr(byte)
        for byte in word.encode()
    )
    return f'"{escaped}"'
