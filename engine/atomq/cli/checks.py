"""What `atomq doctor` checks, one function a subject. Each yields findings.

A function asks the server and lets `PermissionDenied` and `ServerError` escape: `everything` makes
a skipped line of them, so that the other checks go on.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from atomq.cli.output import duration, number, plural, size
from atomq.cli.session import WHERE
from atomq.errors import (
    AtomqError,
    EmbeddedServerError,
    InvalidArgument,
    PermissionDenied,
    ScriptsNotLoaded,
    ServerError,
    ServerTooOld,
    ServerUnavailable,
)
from atomq.retrying import translated

if TYPE_CHECKING:
    from atomq.calls import QueueState
    from atomq.cli.nodes import Place
    from atomq.cli.session import Session
    from atomq.keys import QueueKeys

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    check: str
    status: Status
    found: str
    advice: str = ""
    node: str = ""

    def row(self) -> dict[str, str]:
        """It as a row of `schemas/cli.schema.json`."""
        made = {
            "check": self.check,
            "status": self.status,
            "found": self.found,
            "advice": self.advice,
        }
        return made | ({"node": self.node} if self.node else {})


Findings = Iterator[Finding]


def advice_for(error: AtomqError) -> str:
    """What to do where the server cannot be talked to at all."""
    if isinstance(error, ServerUnavailable):
        return WHERE
    if isinstance(error, PermissionDenied):
        return "check user and password in the URL"
    if isinstance(error, EmbeddedServerError):
        return "mend that, or name a server that runs: --url"
    if isinstance(error, InvalidArgument):
        return "correct the URL or the options"
    return "nothing else could be checked"


def everything(session: Session, names: Sequence[str] | None) -> Findings:
    """All checks, on every server that runs scripts. Raises what no check can do without."""
    from atomq.cli import nodes

    places = nodes.places(session.engine)
    for place in places:
        for name, check, needs in _ON_A_SERVER:
            for finding in _safely(name, check, needs, session, place):
                yield replace(finding, node=place.name)
    found = yield from _queues_to_check(session, names)
    for name, check, needs in _ON_QUEUES:
        yield from _safely(name, check, needs, session, found)


def _safely(name: str, check: Callable[..., Findings], needs: str, *args: Any) -> Findings:
    try:
        yield from check(*args)
    except PermissionDenied:
        yield Finding(
            name, "skip", f"skipped: needs {needs}", f"grant {needs} to the user who checks"
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
    from atomq.cli.queues import discover

    if names:
        return list(names)
    try:
        return discover(session)
    except PermissionDenied:
        yield Finding(
            "queues", "skip", "skipped: needs +scan +smembers", "or name them: atomq doctor QUEUE"
        )
        return []


# ── the server ────────────────────────────────────────────────────────────────────────────────


def _server(session: Session, place: Place) -> Findings:
    from atomq.pool import check_version

    what = f"{place.server} {place.version}"
    try:
        check_version({"server": place.server, "version": place.version})
    except ServerTooOld as error:
        yield Finding("version", "fail", str(error), "upgrade it")
        return
    kind = session.engine.address.kind
    if place.in_cluster and kind != "cluster":
        advice = f"write redis+cluster://{place.name}, here and for the workers"
        yield Finding("version", "fail", f"{what}, one node of a cluster", advice)
        return
    if place.replica:
        yield Finding("version", "fail", f"{what}, a replica", "name the primary, or the sentinels")
        return
    yield Finding("version", "ok", what)
    if kind == "memory":
        yield Finding(
            "storage", "warn", "memory:// lives and ends with this process", "for tests only"
        )


def _memory(_session: Session, place: Place) -> Findings:
    info = place.info("memory")
    policy, limit = info.get("maxmemory_policy", ""), int(info.get("maxmemory") or 0)
    used, system = int(info.get("used_memory") or 0), int(info.get("total_system_memory") or 0)
    advice = "CONFIG SET maxmemory-policy noeviction, and in the configuration file"
    if policy == "noeviction":
        yield Finding("eviction", "ok", "maxmemory-policy noeviction")
    elif policy.startswith("volatile"):
        yield Finding(
            "eviction", "warn", f"{policy}: results and remembered ids may be evicted", advice
        )
    elif policy:
        status: Status = "fail" if limit else "warn"
        yield Finding(
            "eviction", status, f"{policy}: queues may be evicted when memory is full", advice
        )
    if not limit:
        found = f"{size(used)} used, no maxmemory" + (f", of {size(system)}" if system else "")
        if system and used > system / 2:
            yield Finding(
                "memory", "warn", found, "set maxmemory: publish is refused then, nothing is killed"
            )
        else:
            yield Finding("memory", "ok", found)
        return
    found = f"{size(used)} of {size(limit)} used"
    if used >= limit:
        yield Finding(
            "memory", "fail", f"{found}: publish is refused", "drain the queues, or raise maxmemory"
        )
    elif used >= 0.9 * limit:
        yield Finding("memory", "warn", f"{found}: publish will be refused", "raise maxmemory")
    else:
        yield Finding("memory", "ok", found)


def _allocator(_session: Session, place: Place) -> Findings:
    name = place.info("memory").get("mem_allocator")
    if name == "libc":
        yield Finding(
            "allocator",
            "warn",
            "libc: what a drained queue took stays with the server's process until it restarts",
            "for production, a server with jemalloc, as Debian's and the official images are",
        )
    elif name:
        yield Finding("allocator", "ok", name)


def _persistence(session: Session, place: Place) -> Findings:
    info = place.info("persistence")
    failed = [
        what
        for status, what in (
            ("aof_last_write_status", "the last write to the AOF failed"),
            ("rdb_last_bgsave_status", "the last snapshot failed: writes may be refused"),
        )
        if info.get(status, "ok") != "ok"
    ]
    if failed:
        yield Finding("persistence", "fail", "; ".join(failed), "is the disk full?")
        return
    if info.get("aof_enabled") == "1":
        fsync = _setting(place, "appendfsync")
        found = "appendonly yes" + (f", appendfsync {fsync}" if fsync else "")
        if fsync == "no":
            yield Finding("persistence", "warn", found, "CONFIG SET appendfsync everysec")
        else:
            lost = "" if fsync == "always" else ": a crash loses a second at most"
            yield Finding("persistence", "ok", found + lost)
        return
    if session.engine.address.kind == "memory":
        return
    save = _setting(place, "save")
    if save is None:
        yield Finding("persistence", "warn", "appendonly no", "CONFIG SET appendonly yes")
    elif save:
        yield Finding(
            "persistence",
            "warn",
            f"snapshots only (save {save}): a crash loses what came after the last one",
            "CONFIG SET appendonly yes, and in the configuration file",
        )
    else:
        yield Finding(
            "persistence",
            "warn",
            "none: a restart loses every message",
            "CONFIG SET appendonly yes, and in the configuration file",
        )


def _setting(place: Place, name: str) -> str | None:
    """A setting, or None where this user may not ask or the server does not say."""
    try:
        return place.config(name)
    except (PermissionDenied, ServerError):
        return None


def _timeout(_session: Session, place: Place) -> Findings:
    timeout = place.config("timeout")
    if timeout in ("0", None):
        yield Finding("timeout", "ok", "timeout 0: idle connections stay open")
    else:
        yield Finding(
            "timeout",
            "warn",
            f"timeout {timeout}: idle connections are cut after {duration(float(timeout))}",
            "CONFIG SET timeout 0, and in the configuration file",
        )


def _connections(_session: Session, place: Place) -> Findings:
    info = place.info("clients")
    now, most = int(info.get("connected_clients") or 0), int(info.get("maxclients") or 0)
    if not most:
        return
    found = f"{number(now)} of {number(most)} connections in use"
    if now >= 0.9 * most:
        yield Finding(
            "connections", "warn", found, "raise maxclients, or let processes end that leak them"
        )
    else:
        yield Finding("connections", "ok", found)


def _replicas(session: Session, place: Place) -> Findings:
    info = place.info("replication")
    count = int(info.get("connected_slaves") or 0)
    least = int(_setting(place, "min-replicas-to-write") or 0)
    if least and int(info.get("min_slaves_good_slaves") or count) < least:
        yield Finding(
            "replicas",
            "fail",
            f"{plural(count, 'replica')}, min-replicas-to-write {least}: writes are refused",
            "bring replicas back, or lower min-replicas-to-write",
        )
        return
    lags = [text for name, text in info.items() if name.startswith("slave") and name[5:].isdigit()]
    late = [
        text for text in lags if "state=online" not in text or int(_part(text, "lag") or 0) > 10
    ]
    if late:
        yield Finding(
            "replicas",
            "warn",
            f"{len(late)} of {plural(count, 'replica')} lag behind",
            "a failover would lose messages: see INFO replication",
        )
    elif not count and session.engine.address.kind == "sentinel":
        yield Finding("replicas", "warn", "no replica", "a failover has nowhere to go: start one")
    elif count and not least:
        yield Finding(
            "replicas",
            "warn",
            f"{plural(count, 'replica')}, no min-replicas-to-write: a master that was replaced "
            "and lives on takes messages, and they are lost",
            "CONFIG SET min-replicas-to-write 1, and in the configuration file",
        )
    elif count:
        found = f"{plural(count, 'replica')}, none lags, min-replicas-to-write {least}"
        yield Finding("replicas", "ok", found)
    else:
        yield Finding("replicas", "ok", "none: the queues are on this one server")


def _part(text: str, name: str) -> str | None:
    pairs = dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
    return pairs.get(name)


def _cluster(session: Session, place: Place) -> Findings:
    from atomq.cli.nodes import words

    if session.engine.address.kind != "cluster":
        return
    info = words(place.node.command("CLUSTER INFO"))
    state, slots = info.get("cluster_state", "?"), info.get("cluster_slots_ok", "?")
    found = f"state {state}, {slots} slots served"
    if state != "ok":
        yield Finding("cluster", "fail", found, "see CLUSTER NODES")
    elif _setting(place, "cluster-require-full-coverage") == "yes":
        yield Finding(
            "cluster",
            "warn",
            f"{found}; cluster-require-full-coverage yes: one lost shard stops all queues",
            "CONFIG SET cluster-require-full-coverage no, on every node and in its configuration",
        )
    else:
        yield Finding("cluster", "ok", found)


def _clock(_session: Session, place: Place) -> Findings:
    before = time.time()
    seconds, micros = (int(part) for part in place.node.command("TIME"))
    off = seconds + micros / 1e6 - (before + time.time()) / 2
    if abs(off) < 1:
        yield Finding("clock", "ok", f"{duration(abs(off))} from this machine's")
        return
    where = "ahead of" if off > 0 else "behind"
    yield Finding(
        "clock",
        "warn",
        f"{duration(abs(off))} {where} this machine's",
        "leases and delays go by the server's; an eta is off by so much: run NTP on both",
    )


def _latency(_session: Session, place: Place) -> Findings:
    place.node.command("PING")
    took = []
    for _ in range(20):
        began = time.perf_counter()
        place.node.command("PING")
        took.append((time.perf_counter() - began) * 1000)
    middle, most = statistics.median(took), max(took)
    found = f"PING p50 {middle:.2f} ms, max {most:.2f} ms of 20"
    if middle > 5:
        yield Finding(
            "latency", "warn", found, "put workers near the server; batch what you publish"
        )
    elif most > 100:
        yield Finding(
            "latency", "warn", found, "something holds it up: SLOWLOG GET, LATENCY DOCTOR"
        )
    else:
        yield Finding("latency", "ok", found)


def _scripts(_session: Session, place: Place) -> Findings:
    from atomq import scripts

    total = len(scripts.names())
    missing: list[str] | None = None
    try:
        missing = [script.name for script in place.node.missing()]
    except PermissionDenied:
        known = "which scripts are loaded cannot be seen (needs +script|exists)"
    else:
        known = _known(missing, total)
    try:  # the one that every engine begins with; loading what is there changes nothing
        place.node.load([scripts.get("probe")])
        may = True
    except ScriptsNotLoaded:
        may = False
    if may:
        yield Finding(
            "scripts", "ok", f"{known}; this user may load them, workers like it do so when needed"
        )
    elif missing:
        yield Finding(
            "scripts",
            "fail",
            f"{known}, and this user may not load them",
            "run atomq scripts load as one who may",
        )
    elif missing is None:
        yield Finding("scripts", "skip", f"{known}", "see atomq scripts verify, as another user")
    else:
        yield Finding(
            "scripts",
            "ok",
            f"{known}; this user may not load them: atomq scripts load with every release",
        )


def _known(missing: list[str], total: int) -> str:
    if not missing:
        return f"all {total} scripts are loaded"
    if len(missing) == total:
        return f"none of the {total} scripts is loaded"
    some = ", ".join(missing[:4]) + (", …" if len(missing) > 4 else "")
    return f"{len(missing)} of {total} scripts not loaded ({some})"


_Checks = tuple[tuple[str, Callable[..., Findings], str], ...]

# Name of the line that is skipped, the check, the rights it needs.
_ON_A_SERVER: _Checks = (
    ("version", _server, "+hello"),
    ("memory", _memory, "+info"),
    ("allocator", _allocator, "+info"),
    ("persistence", _persistence, "+info"),
    ("timeout", _timeout, "+config|get"),
    ("connections", _connections, "+info"),
    ("replicas", _replicas, "+info"),
    ("cluster", _cluster, "+cluster|info"),
    ("clock", _clock, "+time"),
    ("latency", _latency, "+ping"),
    ("scripts", _scripts, "+script|load +script|exists"),
)


# ── rights and queues ─────────────────────────────────────────────────────────────────────────


def _rights(session: Session, names: Sequence[str]) -> Findings:
    """Each command once: inside a script by `probe`, on a scratch key outside."""
    from atomq import calls

    keys = session.keys(names[0] if names else "celery")
    engine = session.engine
    user = _user(session)
    refused: dict[str, str] = {}
    trouble = ""
    try:
        # Not as the engine does by itself at the first use: there a refusal is raised.
        engine.verified = True
        for name, words in engine.run(calls.probe(keys)).items():
            if isinstance(translated(ResponseError(words)), PermissionDenied):
                refused[name] = words
            else:  # NOREPLICAS, MISCONF, READONLY: nobody may
                trouble = words
    except ScriptsNotLoaded:
        yield Finding(
            "rights", "skip", f"{user}the scripts are not loaded", "run atomq scripts load"
        )
        return
    except PermissionDenied as error:
        yield Finding(
            "rights", "fail", f"{user}{error}", f"grant +evalsha ~{keys.ready[0]}* ~_atomq.*"
        )
        return
    outside: list[tuple[Any, ...]] = [
        ("BLPOP", keys.probe, 0.01),
        ("GET", keys.probe),
        ("CLIENT UNBLOCK", 0),
    ]
    for name, *args in outside:
        try:
            engine.command(name, *args)
        except PermissionDenied as error:
            refused[name] = str(error)
        except ServerError:
            pass  # it may; what it said of our scratch arguments does not matter
    if trouble:
        yield Finding("writing", "fail", trouble, "until this is mended nothing can be moved")
    celery = _celery(session, keys)
    if celery and celery.status == "ok":
        refused.pop("BLPOP", None)  # of the library: Celery waits by BRPOP
    if refused:
        grants = " ".join("+" + name.lower().replace(" ", "|") for name in refused)
        yield Finding(
            "rights", "fail", f"{user}may not run {', '.join(refused)}", f"grant {grants}"
        )
    else:
        yield Finding("rights", "ok", f"{user}may run all that the engine runs")
    if celery:
        yield replace(celery, found=user + celery.found)


def _celery(session: Session, keys: QueueKeys) -> Finding | None:
    """What a Celery worker runs besides, each once, where there is a Celery to run."""
    address, engine = session.engine.address, session.engine
    if find_spec("celery") is None or address.kind in ("cluster", "memory"):
        return None
    prefix = engine.options.global_keyprefix
    bindings, topic = f"{prefix}_kombu.binding.celery", f"{prefix}/{address.db}.celery"
    tried: list[tuple[str, tuple[Any, ...], str]] = [
        ("PING", (), "workers do not connect"),
        ("EXISTS", (keys.ready[0],), "nobody can ask whether a queue is there"),
        ("SMEMBERS", (bindings,), "nothing is routed by exchanges"),
        ("SREM", (bindings, ""), "workers end when they unbind a queue"),
        ("PUBLISH", (f"{topic}.pidbox", ""), "no remote control, no events"),
        ("PSUBSCRIBE", (f"{topic}.pidbox",), "workers end: they cannot hear remote control"),
        ("PSUBSCRIBE", (f"{topic}ev/worker.*",), "workers end: they cannot hear each other"),
        ("BRPOP", (keys.probe, 0.01), "workers end: they cannot wait for messages"),
        ("CLIENT TRACKING", ("ON",), "what stock producers put is found after up to a second"),
    ]
    lacks: dict[str, str] = {}
    grants: list[str] = []
    line = engine.connection()  # of its own: it listens afterwards
    try:
        for name, args, cost in tried:
            line.send_command(*name.split(), *args, check_health=False)
            try:
                line.read_response(push_request=True)
            except NoPermissionError as error:
                lacks.setdefault(name, cost)
                grants.append(_grant(name, args, str(error)))
            except ResponseError:
                pass  # it may; what it said of our scratch arguments does not matter
    except (RedisError, OSError) as error:
        raise translated(error) from error
    finally:
        line.disconnect()
    if not lacks:
        return Finding("celery", "ok", "may run what a Celery worker runs besides")
    text = ", ".join(f"{name} ({cost})" for name, cost in lacks.items())
    advice = f"if one is to run as this user, grant {' '.join(dict.fromkeys(grants))}"
    return Finding("celery", "warn", f"a Celery worker would lack {text}", advice)


def _grant(name: str, args: tuple[Any, ...], refusal: str) -> str:
    if "channel" in refusal:
        return f"&{args[0]}"
    return f"~{args[0]}" if "key" in refusal else "+" + name.lower().replace(" ", "|")


def _user(session: Session) -> str:
    try:
        name = session.engine.command("ACL WHOAMI")
        return f"user {name.decode() if isinstance(name, bytes) else name}: "
    except (PermissionDenied, ServerError):
        return ""


def _database(session: Session, names: Sequence[str]) -> Findings:
    from atomq.cli.nodes import words

    address = session.engine.address
    if address.kind == "cluster":
        return
    keyspace = words(session.engine.command("INFO", "keyspace"))
    counts = {
        name: int(_part(text, "keys") or 0)
        for name, text in keyspace.items()
        if name.startswith("db")
    }
    here = f"db{address.db}"
    found = f"{here}: {plural(counts.pop(here, 0), 'key')}, {plural(len(names), 'queue')}"
    others = ", ".join(f"{name} {number(keys)}" for name, keys in counts.items() if keys)
    yield Finding("database", "ok", found + (f"; other databases: {others}" if others else ""))


def _fleet(session: Session, _names: Sequence[str]) -> Findings:
    from atomq.cli.queues import scan
    from atomq.contrib import fleet

    keys = list(scan(session, f"{fleet.PREFIX}*", "string"))
    found = fleet.workers((key, session.reader.command("GET", key)) for key in keys)
    if not found:
        return
    faults = fleet.disagreements(found)
    if not faults:
        yield Finding("workers", "ok", f"{plural(len(found), 'Celery worker')}, of one mind")
    for fault in faults:
        yield Finding("workers", "fail", fault, "workers of one database must agree: restart them")


def _stock_leftovers(session: Session, _names: Sequence[str]) -> Findings:
    engine = session.engine
    prefix = engine.options.global_keyprefix
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

    states: list[QueueState] = []
    reader = session.reader
    for i in range(0, len(names), 50):
        some = names[i : i + 50]
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
    total = {part: sum(getattr(s, part) for s in states) for part in calls.Counts._fields}
    text = ", ".join(f"{number(count)} {part}" for part, count in total.items())
    yield Finding(
        "queues", "ok", f"{plural(len(states), 'queue')}: {text}" if states else "none yet"
    )
    for state in states:
        yield from _queue(state)
        yield from _steps(session, state.name)


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


_ON_QUEUES: _Checks = (
    ("embedded", _embedded, ""),
    ("rights", _rights, "+evalsha"),
    ("database", _database, "+info"),
    ("stock kombu", _stock_leftovers, "+hlen ~unacked"),
    ("queues", _queues, "+evalsha"),
    ("workers", _fleet, "+scan +get"),
)
