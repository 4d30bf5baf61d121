"""What becomes of tasks when something goes wrong. A scenario runs on one side and tells facts."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests.bench.versus.side import Side, until
from tests.contrib.rig import Worker
from tests.proxy import Proxy
from tests.servers import full_memory

# Stock looks for expired messages every 10 s at most, and really at every tenth time: here as often
# as can be, so that a table is made in minutes. What that hides is said in the scenario's line.
EAGER = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}


class Fact(NamedTuple):
    """One figure of one side; `most` is what it may be on atomq."""

    what: str
    text: str
    value: float
    most: float | None = None


@dataclass(frozen=True)
class Scenario:
    """Its name, what it means in a line, and how to run it on one side."""

    name: str
    meaning: str
    run: Callable[[Side, bool], list[Fact]]
    on_a_cluster: bool = True
    """Whether it can be had on a cluster too."""


SCENARIOS: list[Scenario] = []


def scenario(name: str, *, on_a_cluster: bool = True) -> Callable[[Any], Any]:
    """A scenario; the docstring is its meaning."""

    def declared(run: Any) -> Any:
        meaning = " ".join(run.__doc__.split())
        SCENARIOS.append(Scenario(name, meaning, run, on_a_cluster))
        return run

    return declared


def transport(visibility: float, **more: Any) -> dict[str, Any]:
    """Worker settings with a short visibility timeout, the same on both sides."""
    options = {"visibility_timeout": int(visibility), **EAGER, **more}
    return {"broker_transport_options": options}


def numbered(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 or word.endswith("s") else f"{count} {word}s"


# ── a worker dies ────────────────────────────────────────────────────────────────────────────


@scenario("sigkill")
def sigkill(side: Side, quick: bool) -> list[Fact]:
    """Workers (solo, acks_late) are killed with SIGKILL while they work on a busy queue, again and
    again. Lost: never started, and nowhere in the server.
    """
    kills, at_once = (5, 5) if quick else (40, 5)
    rng, sent = random.Random(7), []
    settings = transport(3)
    for _ in range(kills // at_once):
        workers = [side.worker(**settings) for _ in range(at_once)]
        for worker in workers:
            worker.ready()
        for worker in workers:
            if side.ready() < 2000:
                sent += side.flood(2000)
            time.sleep(rng.uniform(0.02, 0.25))
            worker.kill()
        side.workers = [worker for worker in side.workers if worker.alive]
    side.worker("threads", 8, **settings).ready()
    side.drained(seconds=60)
    starts = side.ledger.starts()
    left, lost = side.left(), [one for one in sent if not starts[one]]
    twice = sum(1 for count in starts.values() if count > 1)
    return [
        Fact(
            f"tasks lost for ever, {kills} kills",
            f"{len(lost) - left} of {len(sent):,}",
            len(lost) - left,
            0,
        ),
        Fact("left in the server after a minute", str(left), left, 0),
        Fact("started twice (they ran when their worker died)", str(twice), twice),
    ]


@scenario("recovery")
def recovery(side: Side, quick: bool) -> list[Fact]:
    """A worker is killed; seconds until its tasks start elsewhere. visibility_timeout is 1/300 of
    its default (12 s), atomq's lease 1/20 of its default (3 s). With the defaults it is an hour
    and up to 100 s of stock's sweep, against a minute.
    """
    visibility, lease = (6, 2) if quick else (12, 3)
    more = {"lease": lease} if side.is_ours else {}
    settings = transport(visibility, **more)
    dead = side.worker("threads", 2, **settings)
    heir = side.worker("threads", 8, queues="other", **settings)
    dead.ready()
    heir.ready()
    ids = side.publish(6, "work", kwargs={"seconds": 60})
    until(lambda: side.held() == 6 and not side.ready(), 10)
    side.ledger.await_starts(ids[:2])
    side.app.control.add_consumer("celery", destination=[heir.name], reply=False)
    time.sleep(1)
    died = time.time()
    dead.kill()

    def moved() -> list[float]:
        return [
            e.at - died for e in side.ledger.events() if e.pid == heir.pid and e.what == "start"
        ]

    until(lambda: len(moved()) == 6, 3 * visibility, 0.05)
    last = max(moved(), default=0.0) if len(moved()) == 6 else float("inf")
    return [Fact("seconds until all six run elsewhere", f"{last:.1f} s", last, lease + 1.5)]


# ── tasks that take longer than the visibility timeout ───────────────────────────────────────


@scenario("long task")
def long_task(side: Side, quick: bool) -> list[Fact]:
    """A task three times as long as visibility_timeout, two living workers (prefork, acks_late)."""
    visibility = 2 if quick else 4
    settings = transport(visibility)
    workers = [side.worker("prefork", 2, **settings) for _ in range(2)]
    for worker in workers:
        worker.ready()
    ids = side.publish(2, "work", kwargs={"seconds": 3 * visibility + 1})
    side.ledger.await_starts(ids)
    until(lambda: not set(ids) - set(side.ledger.ends()), 5 * visibility + 10, 0.1)
    time.sleep(1)
    most = max(side.ledger.starts().values())
    return [Fact("starts of one task", str(most), most, 1)]


@scenario("eta")
def eta(side: Side, quick: bool) -> list[Fact]:
    """An `eta` three times as long as visibility_timeout, two living workers."""
    visibility = 2 if quick else 4
    wait = 3 * visibility + 1.5
    settings = transport(visibility)
    workers = [side.worker("prefork", 2, **settings) for _ in range(2)]
    for worker in workers:
        worker.ready()
    due = time.time() + wait
    ids = side.publish(5, "work", eta=datetime.fromtimestamp(due, UTC))
    until(lambda: not set(ids) - set(side.ledger.starts()), wait + 20, 0.1)
    time.sleep(2.5)
    starts = side.ledger.starts()
    late = [1000 * (side.ledger.started(one)[0] - due) for one in ids if starts[one]]
    most = max(starts.values(), default=0)
    return [
        Fact("starts of one task", str(most), most, 1),
        Fact("tasks that never started", str(len(ids) - len(late)), len(ids) - len(late), 0),
        Fact("first start after it was due", f"{min(late):.0f} to {max(late):.0f} ms", max(late)),
    ]


# ── the server is full ───────────────────────────────────────────────────────────────────────


@scenario("full memory")
def memory(side: Side, quick: bool) -> list[Fact]:
    """Maxmemory is reached (noeviction) while a worker consumes; later there is room again."""
    count = 100 if quick else 300
    worker = side.worker("solo", **transport(3)).ready()
    side.publish(1, "work", kwargs={"seconds": 1.5})
    until(lambda: side.held() >= 1, 5)
    ids = side.publish(count, "mark")
    with full_memory(side.admin):
        until(lambda: not set(ids) - set(side.ledger.starts()), 6, 0.1)
        done = sum(1 for one in ids if side.ledger.starts()[one])
    if not worker.alive:
        side.worker("solo", **transport(3)).ready()
    side.drained(seconds=20)
    left = side.left()
    destroyed = sum(1 for one in ids if not side.ledger.starts()[one]) - left
    return [
        Fact("worked off while it was full", f"{done} of {count}", done),
        Fact("messages destroyed", str(destroyed), destroyed, 0),
        Fact("the worker", "lives" if worker.alive else "ended", 0 if worker.alive else 1, 0),
    ]


# ── messages that are none ───────────────────────────────────────────────────────────────────

Change = Callable[[dict[str, Any]], Any]


def _header(name: str, value: Any) -> Change:
    return lambda m: m["headers"].__setitem__(name, value)


def _property(name: str, value: Any) -> Change:
    return lambda m: m["properties"].__setitem__(name, value)


def _part(name: str, value: Any) -> Change:
    return lambda m: m.__setitem__(name, value)


POISON: dict[str, str | Change] = {
    "not JSON": "{nonsense",
    "headers is a list": _part("headers", [1]),
    "body is a number": _part("body", "NQ=="),
    "unknown compression": _header("compression", "x-none"),
    "body is not JSON": _part("body", "e25vcGU="),
    "a JSON number": "17",
    "no properties": lambda m: m.pop("properties"),
    "body is not base64": _part("body", "*"),
    "unknown body_encoding": _property("body_encoding", "rot13"),
    "no task id": lambda m: m["headers"].pop("id"),
    "task is an object": _header("task", {}),
    "unknown task": _header("task", "nobody.knows"),
    "body is a pair": _part("body", "W1tdLCB7fV0="),
    "unknown content type": _part("content-type", "application/x-unknown"),
}


@scenario("poison")
def poison(side: Side, quick: bool) -> list[Fact]:
    """Messages that cannot be taken, one kind at a time, each with a good task behind it. Lost:
    gone from the server and kept nowhere.
    """
    kinds = dict(list(POISON.items())[:5] if quick else POISON.items())
    side.publish(1, "mark")
    good = side.admin.rpop("celery")
    worker, killed, where = None, 0, {"lost": 0, "dead letters": 0, "left": 0}
    for change in kinds.values():
        if worker is None:
            worker = side.worker("solo", **transport(3600)).ready()
        message = json.loads(good)  # type: ignore[arg-type]
        text = (
            change if isinstance(change, str) else (change(message) and None) or json.dumps(message)
        )
        dead = _dead(side)
        side.admin.lpush("celery", text)
        until(lambda: not side.ready(), 5)
        (after,) = side.publish(1, "mark")

        def settled() -> bool:
            started = side.ledger.starts()[after]  # noqa: B023
            return bool(not worker.alive or (started and not side.left()))  # type: ignore[union-attr] # noqa: B023

        until(settled, 4, 0.05)
        time.sleep(0.1)
        killed += not worker.alive
        if _dead(side) > dead:
            where["dead letters"] += 1
        elif side.left() - (0 if side.ledger.starts()[after] else 1) > 0:
            where["left"] += 1
        else:
            where["lost"] += 1
        worker = worker if worker.alive else None
        for key in ("celery",) if side.is_ours else ("celery", "unacked", "unacked_index"):
            side.admin.delete(key)
    n = len(kinds)
    return [
        Fact("kinds that ended the worker", f"{killed} of {n}", killed, 0),
        Fact("lost in silence", f"{where['lost']} of {n}", where["lost"], 0),
        Fact(
            "in dead letters, with the reason",
            f"{where['dead letters']} of {n}",
            n - where["dead letters"],
        ),
    ]


def _dead(side: Side) -> int:
    return int(side.admin.xlen("_atomq.{celery}.dead"))  # type: ignore[arg-type]


# ── many leases end at once, far from the server ─────────────────────────────────────────────


# Nodes name their own addresses: no proxy stands between them and a worker.
@scenario("restore", on_a_cluster=False)
def restore(side: Side, quick: bool) -> list[Fact]:
    """A worker dies that held many messages; another one, 2 ms from the server, brings them back
    while a third works on 300 tasks a second beside it.
    """
    count, limit = (300, 8) if quick else (1000, 20)
    visibility = 3
    with Proxy(side.server.socket) as proxy:
        far = side.speak(proxy.url)
        holder = side.worker(
            "threads",
            1,
            worker_prefetch_multiplier=4 * count,
            env={"VERSUS_HOLD": "1"},
            **transport(visibility),
        )
        heir = side.worker("threads", 8, queues="idle", broker=far, **transport(visibility))
        # Next to the server, and does not look for expired messages.
        beside = side.worker(
            "threads", 4, queues="load", **transport(visibility, unacked_restore_interval=3600)
        )
        for worker in (holder, heir, beside):
            worker.ready()
        proxy.delay(2)
        side.flood(count - 1, "hold")
        until(lambda: side.held() >= count, 20)
        holder.kill()
        tags, died = _tags(side), time.time()
        side.app.control.add_consumer("celery", destination=[heir.name], reply=False)
        with _load(side, 300):
            began = died + visibility
            until(lambda: not _still(side, tags, died), visibility + limit, 0.05)
            seconds, still = time.time() - began, _still(side, tags, died)
    text = f"{seconds:.1f} s" if not still else f"not in {limit} s"
    return [
        Fact(f"restored within {limit} s", f"{count - still} of {count}", still, 0),
        Fact(
            "seconds until all were, after their last deadline",
            text,
            seconds if not still else float("inf"),
            limit,
        ),
    ]


def _tags(side: Side) -> list[Any]:
    return list(side.admin.hkeys("unacked" if side.name == "stock" else "_atomq.{celery}.records"))  # type: ignore[arg-type]


def _still(side: Side, tags: list[Any], died: float) -> int:
    """How many of these leases of the dead are there. Stock keeps a message's tag for ever."""
    if side.name == "atomq":
        return sum(1 for one in side.admin.hmget("_atomq.{celery}.records", tags) if one)  # type: ignore[union-attr]
    scores: Any = side.admin.zmscore("unacked_index", tags)
    return sum(1 for score in scores if score is not None and score < died)


@contextmanager
def _load(side: Side, rate: float) -> Any:
    """Publish so many tasks a second for another queue meanwhile."""
    over = threading.Event()

    def publish() -> None:
        while not over.is_set():
            turn = time.monotonic()
            side.publish(int(rate / 10), queue="load")
            over.wait(max(0.0, turn + 0.1 - time.monotonic()))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# ── connections break ────────────────────────────────────────────────────────────────────────


@scenario("reconnect")
def reconnect(side: Side, quick: bool) -> list[Fact]:
    """CLIENT KILL of all connections while four tasks run (threads, acks_late)."""
    seconds = 4 if quick else 6
    worker: Worker = side.worker(
        "threads", 4, worker_prefetch_multiplier=1, **transport(3600)
    ).ready()
    ids = side.publish(4, "work", kwargs={"seconds": seconds})
    side.ledger.await_starts(ids)
    time.sleep(0.5)
    for admin in side.admins:
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    until(lambda: not set(ids) - set(side.ledger.ends()), 2 * seconds + 8, 0.1)
    side.drained(seconds=2 * seconds)
    starts = side.ledger.starts()
    return [
        Fact("starts of one task", str(max(starts.values())), max(starts.values()), 1),
        Fact("still unacked afterwards", str(side.left()), side.left(), 0),
        Fact("the worker", "lives" if worker.alive else "ended", 0 if worker.alive else 1, 0),
    ]
