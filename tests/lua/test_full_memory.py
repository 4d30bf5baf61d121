"""Full memory: every verb in every state of a queue, and which command writes first.

Without a `#!lua` line a server at `maxmemory` judges a script by its first write. A verb that frees
must not begin with a command that may grow, whatever state it finds; one that grows must not begin
with one that frees, for it would be carried out, or carried out half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from atomq import calls
from atomq.calls import Call, Outgoing, Rejection
from atomq.errors import ServerFull
from atomq.ids import CallId
from tests.lua.rig import Queue, Rig, msg
from tests.lua.verbs import GROWING, STOCK, STOCK_RECORD, VERBS, World
from tests.servers import KINDS, full_memory

NOBODY = ["nobody-1.0.1", "nobody-1.0.2", "nobody-1.0.3"]


def _held(q: Queue, *, step: int = 1, n: int = 3) -> list[str]:
    q.put(*(f"{q.name}-held{i}" for i in range(n)), step=step)
    return [each.receipt for each in q.take()]


def _expired(q: Queue, step: int = 1) -> list[str]:
    held = _held(q, step=step)
    q.expire()
    return held


def _due(q: Queue, step: int = 1) -> None:
    q.put("a", delay_ms=60_000, step=step)
    q.fall_due()


def _dead(q: Queue) -> None:
    q.put("dead")
    q.run(calls.reject(q.keys, [Rejection(q.take()[0].receipt, "dead", "failed")]))


def _set(q: Queue, **fields: Any) -> None:
    q.db.hset(q.keys.meta, mapping=fields)


def _unset(q: Queue, *fields: str) -> None:
    q.db.hdel(q.keys.meta, *fields)


def _both(q: Queue) -> list[str]:
    held = _held(q, step=3)
    q.put("ready", step=2)
    q.put("later", delay_ms=60_000)
    return held


# What a queue may be like; those where messages are held answer the receipts.
STATES: dict[str, Callable[[Queue], Any]] = {
    "empty": lambda q: q.keys,
    "ready in the first step": lambda q: q.put("a", "b"),
    "ready behind the first step": lambda q: q.put("a", "b", step=3),
    "one ready": lambda q: q.put("a"),
    "held in the first step": _held,
    "held behind the first step": lambda q: _held(q, step=3),
    "held in both": lambda q: [*_held(q), *_held(q, step=4)],
    "held, ready and delayed": _both,
    "expired in the first step": _expired,
    "expired behind the first step": lambda q: _expired(q, step=2),
    "delayed": lambda q: q.put("a", delay_ms=60_000),
    "delayed behind the first step": lambda q: q.put("a", delay_ms=60_000, step=3),
    "due": _due,
    "due behind the first step": lambda q: _due(q, step=3),
    "dead": _dead,
    "what cannot be decoded": lambda q: q.db.lpush(q.keys.ready[0], b"junk"),
    "past its time": lambda q: q.db.lpush(q.keys.ready[0], b'{"x-expires":1,"body":"a"}'),
}


# And how it goes with what stands beside the messages.
def _as_it_is(q: Queue) -> None:
    """Nothing more."""


def _seen_now(q: Queue) -> None:
    """A claim has been here, and wrote down what there is to write: nothing changes."""
    q.claim(0)
    _set(q, seen=q.now())


def _nothing_known(q: Queue) -> None:
    q.db.delete(q.keys.meta, q.keys.stats, q.keys.wake)


def _half_known(q: Queue) -> None:
    """Whatever wrote the rest, the sizes of messages are not known."""
    q.claim(0)
    _set(q, seen=q.now())
    _unset(q, "largest", "timer_at", "timer_by")


def _away(q: Queue) -> None:
    _set(q, seen=q.now() - 100_000)


def _in_grace(q: Queue) -> None:
    q.claim(0)
    _set(q, seen=q.now(), grace=q.now() + 15_000)


def _paused(q: Queue) -> None:
    q.run(calls.pause(q.keys))


def _token(q: Queue) -> None:
    q.claim(0)
    _set(q, seen=q.now())
    q.db.delete(q.keys.wake)
    q.db.rpush(q.keys.wake, "1")


def _no_token(q: Queue) -> None:
    q.claim(0)
    _set(q, seen=q.now())
    q.db.delete(q.keys.wake)


def _clock_stepped_back(q: Queue) -> None:
    later = q.now() + 3_600_000
    _set(q, seen=later, grace=later, timer_at=later, timer_by="somebody", calls_turn=later // 1000)


BESIDE = (
    _as_it_is,
    _seen_now,
    _nothing_known,
    _half_known,
    _away,
    _in_grace,
    _paused,
    _token,
    _no_token,
    _clock_stepped_back,
)

CLAIMS: dict[str, Callable[[World], Call[Any]]] = {
    "claim nothing": lambda w: w.q.claiming(0),
    "claim one": lambda w: w.q.claiming(1),
    "claim again": lambda w: w.q.claiming(10).again(),
    "claim by a larger lease": lambda w: w.q.claiming(10, lease_ms=59_000, max_deliveries=1),
    "claim by a smaller lease": lambda w: w.q.claiming(10, lease_ms=3000),
    "claim with fewer steps": lambda w: calls.claim(
        [w.q.rig.queue(w.q.name, steps=(0,)).keys], "few-1", limit=10, lease_ms=60_000
    ),
    "publish once": lambda w: calls.publish(
        w.q.keys, [Outgoing(msg("once"), "once", dedup=True)], call_id=CallId("once")
    ),
    "publish plainly": lambda w: calls.publish(
        w.q.keys, [Outgoing(msg("plain"), "plain")], call_id=CallId("plain")
    ),
    "release nothing live": lambda w: calls.release(w.q.keys, [(NOBODY[0], "a")]),
}


def _flagged(q: Queue, flag: str) -> set[str]:
    """The server's commands with this flag."""
    return {
        info["name"].upper()
        for info in q.db.execute_command("COMMAND").values()
        if flag in {str(each) for each in info["flags"]}
    }


def _written(lines: Iterator[dict[str, Any]], writing: set[str]) -> list[str]:
    """The writing commands that scripts ran until PING."""
    ran = []
    for line in lines:
        command = line["command"].partition(" ")[0].upper()
        if command == "PING":
            break
        if line["client_type"] == "lua" and command in writing:
            ran.append(command)
    return ran


def _in_turn() -> Iterator[Any]:
    """Each state on one kind of server or the next; at full length on all."""
    for number, state in enumerate(STATES):
        for kind in KINDS:
            turn = kind == ("redis-6.2", "valkey-9")[number % 2]
            yield pytest.param(state, kind, marks=() if turn else pytest.mark.long)


@pytest.mark.parametrize("layout", ["stock"], indirect=True)
@pytest.mark.parametrize(("state", "kind"), [*_in_turn()], indirect=["kind"])
def test_the_first_write_of_every_verb_in_every_state(rig: Rig, state: str) -> None:
    """Catches HINCRBY of nothing before the first freeing command: a claim was refused, and the
    consumer ended, where a message of a lower priority was held and nothing could be claimed.
    """
    everything = VERBS | CLAIMS
    rig.allowed |= {key.encode() for key in STOCK}
    growing, writing = (_flagged(rig.queue(), flag) for flag in ("denyoom", "write"))
    assert {"HSET", "LPUSH", "SADD"} <= growing < writing
    for build in {call.script.sha: call for call in _calls(rig)}.values():
        rig.db.script_load(build.script.text)
    with rig.server.client().monitor() as monitor:
        lines = monitor.listen()
        for beside in BESIDE:
            for verb, build in everything.items():
                where = f"{verb}, {beside.__name__.strip('_')}"
                rig.db.flushdb()
                q = rig.queue()
                made = STATES[state](q)
                held = made if isinstance(made, list) else NOBODY
                rig.db.hset(STOCK[0], "q-tag", STOCK_RECORD)
                rig.db.zadd(STOCK[1], {"q-tag": 1})
                beside(q)
                letters = q.dead
                call = build(World(q, held, letters[0].id if letters else "1-1"))
                stored = rig.snapshot() if verb.partition(" ")[0] in GROWING else None
                rig.db.ping()
                _written(lines, writing)
                with full_memory(rig.db):
                    refused = False
                    try:
                        rig.engine.run(call)
                    except ServerFull:
                        refused = True
                    rig.db.ping()
                writes = _written(lines, writing)
                if stored is None:
                    assert not refused, (where, writes)
                    assert not writes or writes[0] not in growing, (where, writes)
                else:
                    assert rig.snapshot() == stored, (where, writes)
                    # What was refused is told of by no server; what was not had nothing to do.
                    assert refused or not writes, (where, writes)


def _calls(rig: Rig) -> list[Call[Any]]:
    w = World(rig.queue(), NOBODY, "1-1")
    return [build(w) for build in (VERBS | CLAIMS).values()]
