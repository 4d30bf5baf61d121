"""What `atomq doctor` checks on every server that runs scripts, one function a subject."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from atomq.cli.findings import Checks, Finding, Findings, Status, part_of
from atomq.cli.output import duration, number, plural, size
from atomq.errors import (
    PermissionDenied,
    ScriptsNotLoaded,
    ServerError,
    ServerTooOld,
)

if TYPE_CHECKING:
    from atomq.cli.nodes import Place
    from atomq.cli.session import Session


def _server(session: Session, place: Place) -> Findings:
    from atomq.pool_base import check_version

    what = f"{place.server} {place.version}"
    try:
        check_version({"server": place.server, "version": place.version})
    except ServerTooOld as error:
        yield Finding("version", "fail", str(error), "upgrade it")
        return
    kind = session.engine.address.kind
    if place.in_cluster and kind != "cluster":
        advice = f"write redis+cluster://{place.name}, for Celery atomq-cluster://{place.name}"
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
        text for text in lags if "state=online" not in text or int(part_of(text, "lag") or 0) > 10
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


def _scripts(session: Session, place: Place) -> Findings:
    from atomq import scripts

    total = len(scripts.names())
    missing: list[str] | None = None
    try:  # the one that every engine begins with; loading what is there changes nothing
        place.node.load([scripts.get("probe")])
        may = True
    except ScriptsNotLoaded:
        may = False
    try:
        missing = [script.name for script in place.node.missing()]
    except PermissionDenied:
        known = "which scripts are loaded cannot be seen (needs +script|exists)"
    else:
        known = _known(missing, total)
    if may:
        yield Finding(
            "scripts", "ok", f"{known}; this user may load them, so workers load what is missing"
        )
    elif missing:
        yield Finding(
            "scripts",
            "fail",
            f"{known}, and this user may not load them",
            "run atomq scripts load as a user that may",
        )
    elif missing is None:
        yield Finding("scripts", "skip", f"{known}", "see atomq scripts verify, as another user")
    else:
        yield Finding(
            "scripts",
            "ok",
            f"{known}; this user may not load them: atomq scripts load with every release",
        )
    if missing == [] or not may:  # else workers like this user load what is missing
        yield from _scripts_of_replicas(session, place, total)


def _scripts_of_replicas(session: Session, place: Place, total: int) -> Findings:
    """SCRIPT LOAD is not replicated: a replica that joined later has none when it is promoted."""
    from atomq.cli.nodes import Unreached, replicas

    for replica in replicas(session.engine, place):
        if isinstance(replica, Unreached):
            continue
        try:
            missing = [script.name for script in replica.node.missing()]
        except PermissionDenied:
            return
        if missing:
            yield Finding(
                "scripts",
                "warn",
                f"the replica {replica.name}: {_known(missing, total)}",
                "run atomq scripts load: as the primary it would stop users that may not load",
            )


def _known(missing: list[str], total: int) -> str:
    if not missing:
        return f"all {total} scripts are loaded"
    if len(missing) == total:
        return f"none of the {total} scripts is loaded"
    some = ", ".join(missing[:4]) + (", …" if len(missing) > 4 else "")
    return f"{len(missing)} of {total} scripts not loaded ({some})"


# Name of the line that is skipped, the check, the rights it needs.
ON_A_SERVER: Checks = (
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
