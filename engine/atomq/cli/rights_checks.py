"""Whether a user may run what the library, and a Celery worker, run on a queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from atomq.cli.findings import Finding, Findings
from atomq.errors import (
    PermissionDenied,
    ScriptsNotLoaded,
    ServerError,
    ServerUnavailable,
)
from atomq.translating import translated

LATE = "what stock producers put is found after up to a second"

if TYPE_CHECKING:
    from atomq.cli.session import Session
    from atomq.keys import QueueKeys


def rights(session: Session, names: Sequence[str]) -> Findings:
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
            else:  # NOREPLICAS, MISCONF, READONLY: no user may
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


def durability(session: Session, names: Sequence[str]) -> Findings:
    """Whether what the option `durability` asks for is confirmed of a scratch key."""
    from atomq import calls

    wanted = session.engine.durability()
    if wanted is None:
        return
    call = calls.probe(session.keys(names[0] if names else "celery"), wanted.to_verify())
    try:
        session.engine.run(call)
    except ServerUnavailable:
        raise
    except ServerError as error:
        advice = "mend that, or nothing can be put with this option"
        yield Finding("durability", "fail", str(error), advice)
    else:
        yield Finding("durability", "ok", f"{wanted.name} is confirmed")


def _celery(session: Session, keys: QueueKeys) -> Finding | None:
    """What a Celery worker runs besides, each once, where there is a Celery to run."""
    address, engine = session.engine.address, session.engine
    if find_spec("celery") is None or address.kind in ("cluster", "memory"):
        return None
    prefix = engine.prefix
    bindings, topic = f"{prefix}_kombu.binding.celery", f"{prefix}/{address.db}.celery"
    tried: list[tuple[str, tuple[Any, ...], str]] = [
        ("PING", (), "workers do not connect"),
        ("EXISTS", (keys.ready[0],), "no user can ask whether a queue is there"),
        ("SMEMBERS", (bindings,), "nothing is routed by exchanges"),
        ("SREM", (bindings, ""), "workers end when they unbind a queue"),
        ("PUBLISH", (f"{topic}.pidbox", ""), "no remote control, no events"),
        ("PSUBSCRIBE", (f"{topic}.pidbox",), "workers end: they cannot hear remote control"),
        ("PSUBSCRIBE", (f"{topic}ev/worker.*",), "workers end: they cannot hear each other"),
        ("BRPOP", (keys.probe, 0.01), "workers end: they cannot wait for messages"),
        ("CLIENT TRACKING", ("ON", "OPTIN"), LATE),
        ("CLIENT CACHING", ("YES",), LATE),
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
