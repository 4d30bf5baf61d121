"""Every verb as one call with something to do, for the promises that all of them keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from atomq import calls
from atomq.calls import Call, Outgoing, Rejection
from atomq.ids import CallId
from atomq.keys import ExchangeKeys
from tests.lua.rig import REGISTER, Queue, Rig, msg, tracked_msg

STOCK = ("unacked", "unacked_index")
STOCK_RECORD = b'[{"body": "foreign", "properties": {"priority": 0}}, "", "q"]'


class World(NamedTuple):
    """A queue in which every verb finds work."""

    q: Queue
    held: list[str]
    """Receipts of three leases; their messages are held0, held1, held2."""
    letter: str
    """The id of the dead letter."""


def world(rig: Rig, name: str = "q", *, stock: bool = True) -> World:
    """One dead, three leased (one expired), two ready, two delayed (one due), ids remembered."""
    q = rig.queue(name)
    q.run(calls.register(REGISTER, [name], process="p", alive_ms=60_000, entry='{"pid": 1}'))
    q.put(f"{name}-dead")
    q.run(calls.reject(q.keys, [Rejection(q.take()[0].receipt, "dead", "failed")]))
    q.put(*(f"{name}-held{i}" for i in range(3)))
    held = [each.receipt for each in q.take()]
    last = held[-1]
    q.db.zincrby(q.keys.unacked, -120_000, last)
    q.run(
        calls.publish(
            q.keys, [Outgoing(msg(f"{name}-ready"), "r", dedup=True)], call_id=CallId("seen")
        )
    )
    q.put(f"{name}-low", step=3)
    q.put(f"{name}-later", f"{name}-due", delay_ms=60_000)
    q.db.zincrby(q.keys.delayed, -120_000, f"{name}-due")
    exchange = ExchangeKeys(name)
    rig.allowed.add(exchange.bindings.encode())
    q.run(calls.bindings(exchange, added="bound"))
    q.db.zadd(exchange.bindings, {"over": 1})
    if stock:
        rig.allowed |= {key.encode() for key in STOCK}
        q.db.hset(STOCK[0], f"{name}-tag", STOCK_RECORD.replace(b"foreign", name.encode() + b"-f"))
        q.db.zadd(STOCK[1], {f"{name}-tag": 1})
    return World(q, held, q.dead[0].id)


def _claim(w: World) -> Call[Any]:
    return w.q.claiming(10, max_deliveries=20, acks=[[w.held[0]]])


def _restore_foreign(w: World) -> Call[Any]:
    targets = [(f"{w.q.name}-tag", w.q.keys, 0)]
    return calls.restore_foreign(w.q.keys, STOCK, visibility_s=60, limit=1, targets=targets)


VERBS: dict[str, Callable[[World], Call[Any]]] = {
    "publish": lambda w: calls.publish(
        w.q.keys,
        [
            Outgoing(msg(f"{w.q.name}-new{i}"), f"new{i}", dedup=i > 0, ttl_ms=9000)
            for i in range(3)
        ],
        call_id=CallId("new"),
    ),
    "publish delayed": lambda w: calls.publish(
        w.q.keys, [Outgoing(msg(f"{w.q.name}-new"), "new", delay_ms=1000, step=2)]
    ),
    "publish tracked": lambda w: calls.publish(
        w.q.keys,
        [Outgoing(tracked_msg(f"{w.q.name}-told"), "told", tracked=True)],
        call_id=CallId("t"),
    ),
    "publish tracked once": lambda w: calls.publish(
        w.q.keys,
        [Outgoing(tracked_msg(f"{w.q.name}-told"), "told", tracked=True, dedup=True)],
        call_id=CallId("t"),
    ),
    "claim": _claim,
    "ack": lambda w: calls.ack(w.q.keys, w.held[:2]),
    "ack tracked": lambda w: calls.ack(w.q.keys, [w.held[0], f"{w.held[1]} one"]),
    "find": lambda w: calls.find(w.q.keys, f"{w.q.name}-held1"),
    "revoke ready": lambda w: calls.revoke(w.q.keys, "r", message=msg(f"{w.q.name}-ready")),
    "revoke held": lambda w: calls.revoke(w.q.keys, f"{w.q.name}-held0", receipt=w.held[0]),
    "run_now": lambda w: calls.run_now(w.q.keys, [f"{w.q.name}-later", "nobody"]),
    "progress": lambda w: calls.progress(w.q.keys, f"{w.q.name}-held0", w.held[0], 0.5),
    "release": lambda w: calls.release(w.q.keys, [(r, f"r{r}") for r in w.held[:2]]),
    "release later": lambda w: calls.release(
        w.q.keys, [(r, f"r{r}") for r in w.held[:2]], delay_ms=500
    ),
    "extend": lambda w: calls.extend(w.q.keys, w.held, lease_ms=90_000),
    "reject": lambda w: calls.reject(
        w.q.keys, [Rejection(r, f"i{r}", "failed", "x", "null") for r in w.held[:2]]
    ),
    "dead_letter": lambda w: calls.dead_letter(
        w.q.keys, msg(f"{w.q.name}-unread"), call_id="u1", reason="undecodable", step=2
    ),
    "put_back": lambda w: calls.put_back(w.q.keys, msg(f"{w.q.name}-popped"), step=2),
    "reply": lambda w: calls.reply(w.q.keys, msg(f"{w.q.name}-reply"), ttl_ms=60_000),
    "resign": lambda w: calls.resign(w.q.keys, ttl_ms=3000),
    "touch": lambda w: calls.touch(w.q.keys, 60_000),
    "complete": lambda w: calls.complete(w.q.keys, [(r, f"i{r}", "1") for r in w.held[:2]]),
    "tell": lambda w: calls.tell(w.q.keys, [("i1", "1"), ("i2", "2")]),
    "cancel": lambda w: calls.cancel(w.q.keys, [f"{w.q.name}-later", "nobody"]),
    "redrive": lambda w: calls.redrive(w.q.keys),
    "redrive one": lambda w: calls.redrive(w.q.keys, [w.letter]),
    "purge": lambda w: calls.purge(
        w.q.keys, ready=True, delayed=True, unacked=True, dead=True, settings=True
    ),
    "purge dead": lambda w: calls.purge(w.q.keys, dead_ids=[w.letter]),
    "pause": lambda w: calls.pause(w.q.keys),
    "resume": lambda w: calls.pause(w.q.keys, paused=False),
    "partitions": lambda w: calls.partitions(w.q.keys, "3 0 1"),
    "bindings": lambda w: calls.bindings(ExchangeKeys(w.q.name)),
    "bindings added": lambda w: calls.bindings(ExchangeKeys(w.q.name), added="b", lives_ms=9000),
    "bindings removed": lambda w: calls.bindings(ExchangeKeys(w.q.name), removed="bound"),
    "hand_back": lambda w: calls.hand_back(w.q.keys),
    "attend": lambda w: calls.attend(w.q.keys, "one", alive_ms=1000),
    "attend no more": lambda w: calls.attend(w.q.keys, "one"),
    "restore_foreign": _restore_foreign,
    "inspect": lambda w: calls.inspect(w.q.keys),
    "overview": lambda w: calls.overview([w.q.keys]),
    "look": lambda w: calls.look([w.q.keys], "one", renew_ms=20_000),
    "peek ready": lambda w: calls.peek(w.q.keys, "ready"),
    "peek dead": lambda w: calls.peek(w.q.keys, "dead"),
    "peek unacked": lambda w: calls.peek(w.q.keys, "unacked"),
    "peek delayed": lambda w: calls.peek(w.q.keys, "delayed"),
    "peek some": lambda w: calls.peek(w.q.keys, "delayed", ids=[f"{w.q.name}-due", "nobody"]),
    "register": lambda w: calls.register(
        REGISTER, [w.q.name, "other"], process="p", alive_ms=1000, entry="{}"
    ),
    "register gone": lambda w: calls.register(REGISTER, [w.q.name], process="p", gone=True),
    "roster": lambda _: calls.roster(REGISTER),
    "probe": lambda w: calls.probe(w.q.keys),
}
GROWING = {"partitions", "publish", "redrive", "reply"}  # refused at full memory; all others go on
READING = {"find", "inspect", "look", "overview", "peek", "probe", "roster"}

# How often each repeated key and argument of these calls is there: `* item`, `* queue`, …
SIZES: dict[str, dict[str, int]] = {
    # Ids stand only before the two messages that have one.
    "publish": {
        "step": 1,
        "named": 1,
        "group": 2,
        "once": 1,
        "message of id": 2,
        "message of message": 3,
        "message of result": 2,
        "message of put": 0,
        "known": 0,
    },
    "publish delayed": {
        "step": 2,
        "named": 1,
        "group": 1,
        "once": 0,
        "message of id": 1,
        "message of message": 1,
        "message of result": 0,
        "message of put": 0,
        "known": 0,
    },
    "publish tracked once": {
        "step": 1,
        "named": 1,
        "group": 1,
        "once": 1,
        "message of id": 1,
        "message of message": 1,
        "message of result": 1,
        "message of put": 1,
        "known": 1,
    },
    "publish tracked": {
        "step": 1,
        "named": 0,
        "group": 1,
        "once": 0,
        "message of id": 0,
        "message of message": 1,
        "message of result": 0,
        "message of put": 1,
        "known": 0,
    },
    "claim": {"step": 4, "queue": 1, "members of acks": 1},
    "look": {"step": 4, "queue": 1},
    "overview": {"step": 4, "queue": 1},
    "cancel": {"item": 2},
    "extend": {"item": 3},
    "ack": {"item": 2, "tracked": 0},
    "ack tracked": {"item": 2, "tracked": 1},
    "run_now": {"item": 2},
    "release": {"item": 2, "step": 4},
    "release later": {"item": 2, "step": 4},
    "reject": {"item": 2},
    "complete": {"item": 2},
    "tell": {"item": 2},
    "attend": {"step": 4},
    "attend no more": {"step": 4},
    "redrive": {"item": 0, "step": 4},
    "redrive one": {"item": 1, "step": 4},
    **{f"peek {part}": {"item": 0, "step": 4} for part in ("ready", "dead", "unacked", "delayed")},
    "peek some": {"item": 2, "step": 4},
    "purge": {"item": 0, "step": 10},
    "purge dead": {"item": 1, "step": 10},
    "restore_foreign": {"item": 1},
    "put_back": {"step": 1},
    "reply": {"step": 1},
    "register": {"item": 2},
    "register gone": {"item": 1},
}
