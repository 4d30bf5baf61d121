"""What the tests of the scripts stand on: queues on a real server, and what is stored of them.

A test runs verbs through an `Engine` and then looks at the raw keys, so a wrong reply and a wrong
write are both seen. Time passes by moving deadlines, not by sleeping.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from hashlib import sha1
from typing import Any, NamedTuple

import redis

from atomq import calls, scripts
from atomq.calls import Call, Claimed, Outgoing
from atomq.client import Engine
from atomq.delivery import Delivery
from atomq.keys import QueueKeys, RegisterKeys
from atomq.message import tracked
from atomq.scripts import Script
from tests.servers import Server

BAND = 1 << 42  # what one priority step is wide, in the scores of `unacked` and `delayed`
REGISTER = RegisterKeys()


def msg(name: object, *, size: int = 0, **more: object) -> bytes:
    """A message as small as they come; `more` are members of its envelope."""
    envelope = {"body": str(name), **more}
    if size:
        envelope["fill"] = "x" * size
    return json.dumps(envelope).encode()


def tracked_msg(name: object, **more: object) -> bytes:
    """The same of a tracked message."""
    return tracked(msg(name, **more).decode(), str(name)).encode()


def name_of(raw: bytes | Delivery) -> str:
    """What `msg` was given, whatever head stands in front of it now."""
    body: str = json.loads(raw.envelope.raw if isinstance(raw, Delivery) else raw)["body"]
    return body


def names(raws: list[Any]) -> list[str]:
    return [name_of(raw) for raw in raws]


def greedy_claim() -> Script:
    """The script of claims, but that it begins by growing: refused whole at full memory."""
    claim = scripts.get("claim")
    text = 'redis.call("HINCRBY", KEYS[8], "delivered", 0)\n' + claim.text
    greedy = replace(claim)
    vars(greedy).update(text=text, sha=sha1(text.encode()).hexdigest(), lines=claim.lines)
    return greedy


class Lease(NamedTuple):
    deadline: int
    step: int
    deliveries: int
    since: int
    raw: bytes


class Letter(NamedTuple):
    id: str
    reason: str
    detail: str
    deliveries: int
    step: int
    raw: bytes


class Queue:
    """One queue: verbs by short names, and what the server holds of it, read key by key."""

    def __init__(self, rig: Rig, name: str, keys: QueueKeys) -> None:
        self.rig, self.name, self.keys = rig, name, keys
        self.db = rig.db
        self._count = itertools.count(1)

    def run(self, call: Call[Any]) -> Any:
        return self.rig.engine.run(call)

    # verbs

    def put(self, *bodies: object, **settings: Any) -> calls.Published:
        """Publish one message a body, each with its body as its id."""
        outgoing = [
            Outgoing(body if isinstance(body, bytes) else msg(body), str(body), **settings)
            for body in bodies
        ]
        return self.run(calls.publish(self.keys, outgoing))

    def put_off(self, body: object, ms: int, **settings: Any) -> int:
        """Publish one delayed message; when it falls due."""
        self.put(body, delay_ms=ms, **settings)
        return self.delayed[str(body)].deadline

    def write(
        self,
        place: str,
        raw: bytes,
        *,
        name: str,
        step: int = 1,
        deliveries: int = 0,
        spared: int = 0,
        stale: bool = False,
        alone: bool = False,
        at: int = 0,
        blank: str = "",
    ) -> None:
        """A message as a long life would have left it, by no verb.

        `place`: ready, delayed, unacked, or apart. `name`: what it is held, or delayed, under, and
        `at` until when. `blank` stands in its head where stock Kombu writes one.
        """
        said = {"deliveries": deliveries, "expires": int(stale), "spared": spared}
        head = "".join(f'"x-{k}":{blank}{n},{blank}' for k, n in said.items() if n)
        raw = b"{" + head.encode() + raw[1:]
        if place == "ready":
            self.db.lpush(self.keys.ready[step - 1], raw)
            return
        band = step - 1 + (10 if place == "apart" else 0)
        index, records = self.keys.unacked, self.keys.records
        if place == "delayed":
            index, records = self.keys.delayed, self.keys.delayed_records
        self.db.hset(records, name, b"%d %d 0 %b" % (deliveries, step, raw))
        self.db.zadd(index, {name: band * BAND + at + (0.5 if alone else 0)})
        self._no_rest()

    def claiming(
        self, limit: int = 10, *, by: str = "c", claim_id: str = "", **more: Any
    ) -> Call[Claimed]:
        more = {"lease_ms": 60_000} | more
        claim_id = claim_id or f"{by}-{self.rig.next()}"
        return calls.claim([self.keys], claim_id, limit=limit, **more)

    def claim(self, limit: int = 10, **more: Any) -> Claimed:
        return self.run(self.claiming(limit, **more))

    def take(self, limit: int = 10, **more: Any) -> list[Delivery]:
        return self.claim(limit, **more).deliveries

    # time

    def pass_time(self, ms: int, *, of: str = "unacked") -> None:
        """Let leases (or delays, of="delayed") be so much older."""
        key = getattr(self.keys, of)
        moved = {
            member: score - ms for member, score in self.db.zrange(key, 0, -1, withscores=True)
        }
        if moved:
            self.db.zadd(key, moved)
        self._no_rest()

    def pass_one(self, ms: int, ids: list[str]) -> None:
        """Let these delayed messages be so much older."""
        with self.db.pipeline(transaction=False) as pipe:
            for each in ids:
                pipe.zincrby(self.keys.delayed, -ms, each)
            pipe.execute()

    def pass_one_lease(self, receipt: str) -> None:
        """Let this lease be past its deadline."""
        self.db.zincrby(self.keys.unacked, -10_000_000, receipt)
        self._no_rest()

    def _no_rest(self) -> None:
        """Deadlines were moved: the moment until which none ends is not what it was."""
        self.db.hdel(self.keys.meta, "quiet")

    def expire(self) -> None:
        """Let every lease be past its deadline, in the order they were."""
        self.pass_time(10_000_000)

    def fall_due(self) -> None:
        self.pass_time(10_000_000, of="delayed")

    def now(self) -> int:
        seconds, micros = self.db.time()
        return seconds * 1000 + micros // 1000

    # what is stored

    @property
    def ready(self) -> list[bytes]:
        """As it would be handed out: by step, oldest first."""
        return [raw for key in self.keys.ready for raw in reversed(self.db.lrange(key, 0, -1))]

    def _scored(self, index: str, records: str) -> dict[str, Lease]:
        scores = dict(self.db.zrange(index, 0, -1, withscores=True))
        held = self.db.hgetall(records)
        assert set(scores) == set(held), "an entry without its other half"
        found = {}
        for name, score in scores.items():
            deliveries, step, since, raw = held[name].split(b" ", 3)
            assert score // BAND + 1 in (int(step), int(step) + 10)  # or it waits to go alone
            found[name.decode()] = Lease(
                int(score) % BAND, int(step), int(deliveries), int(since), raw
            )
        return found

    @property
    def unacked(self) -> dict[str, Lease]:
        """By receipt, earliest deadline of the first step first."""
        return self._scored(self.keys.unacked, self.keys.records)

    @property
    def delayed(self) -> dict[str, Lease]:
        """By id."""
        return self._scored(self.keys.delayed, self.keys.delayed_records)

    @property
    def dead(self) -> list[Letter]:
        return [
            Letter(
                entry.decode(),
                fields[b"reason"].decode(),
                fields[b"detail"].decode(),
                int(fields[b"deliveries"]),
                int(fields[b"step"]),
                fields[b"message"],
            )
            for entry, fields in self.db.xrange(self.keys.dead)
        ]

    @property
    def tokens(self) -> int:
        return int(self.db.llen(self.keys.wake))

    @property
    def stats(self) -> dict[str, int]:
        return {k.decode(): int(v) for k, v in self.db.hgetall(self.keys.stats).items()}

    @property
    def meta(self) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in self.db.hgetall(self.keys.meta).items()}

    def result(self, message_id: str) -> bytes | None:
        return self.db.get(self.keys.result(message_id))  # type: ignore[no-any-return]

    def places(self) -> dict[str, str]:
        """Where each message is; fails if one is in two places."""
        found: dict[str, str] = {}
        for place, raws in (
            ("ready", self.ready),
            ("unacked", [lease.raw for lease in self.unacked.values()]),
            ("delayed", [lease.raw for lease in self.delayed.values()]),
            ("dead", [letter.raw for letter in self.dead]),
        ):
            for raw in raws:
                assert name_of(raw) not in found, f"{raw!r} is also {found[name_of(raw)]}"
                found[name_of(raw)] = place
        return found


class Rig:
    """An engine on a server, the queues that a test asks for, and which keys may be left."""

    def __init__(self, server: Server, layout: str, *, address: Any = None, **options: Any) -> None:
        self.server, self.layout = server, layout
        self.db: redis.Redis = server.client()
        self.options = {"layout": layout, "retry_attempts": 0, **options}
        self.engine = Engine(address or server.url, **self.options)
        self.queues: dict[str, Queue] = {}
        self.allowed: set[bytes] = set()
        self._count = itertools.count(1)

    def next(self) -> int:
        return next(self._count)

    def queue(self, name: str = "q", **options: Any) -> Queue:
        """A queue; the same name again is the same queue. `options` are those of `QueueKeys`."""
        if name not in self.queues or options:
            keys = QueueKeys(name, layout=self.layout, **options) if options else None  # type: ignore[arg-type]
            queue = Queue(self, name, keys or self.engine.keys(name))
            queue.keys.noted = float("inf")  # the register is a test's own subject
            self.allowed |= {key.encode() for key in (*queue.keys.every(), *REGISTER.every)}
            if options:
                return queue
            self.queues[name] = queue
        return self.queues[name]

    def snapshot(self) -> dict[bytes, bytes | None]:
        """Every key of the server, whole."""
        return {key: self.db.dump(key) for key in self.db.scan_iter(count=1000)}

    def leaked(self) -> list[bytes]:
        """Keys that no queue of this test declares; results and producers may stay if they pass."""
        passing = tuple(
            prefix.encode()
            for queue in self.queues.values()
            for prefix in (
                queue.keys.result_prefix,
                queue.keys.producer_prefix,
                queue.keys.put_prefix,
            )
        )
        return [
            key
            for key in self.db.scan_iter(count=1000)
            if key not in self.allowed
            and not (passing and key.startswith(passing) and self.db.pttl(key) > 0)
        ]
