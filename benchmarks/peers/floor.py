"""The floor: what redis-py needs for the least that moves a message."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import redis

from benchmarks.peer import BATCH, Cannot, Peer, handled

# No checks, no retry, no delays, no priorities, no verdicts, no dead letters, no waking.
PUBLISH = "return redis.call('LPUSH', KEYS[1], unpack(ARGV))"
CLAIM = """
local body = redis.call('RPOP', KEYS[1])
if not body then return false end
redis.call('ZADD', KEYS[2], redis.call('TIME')[1] + 60, body)
return body"""
ACK = "return redis.call('ZREM', KEYS[1], ARGV[1])"


def _body(pad: str) -> str:
    return json.dumps({"at": time.monotonic(), "pad": pad})


class Bare(Peer):
    """LPUSH and BRPOP: without an ack, what a consumer has taken dies with it."""

    def open(self) -> None:
        self._client: Any = redis.Redis.from_url(self.url, socket_timeout=None)
        self._client.ping()

    def publish(self, pad: str, count: int) -> None:
        for _ in range(count):
            self._client.lpush("floor", _body(pad))

    def publish_many(self, pad: str, count: int) -> None:
        for _ in range(count // BATCH):
            self._client.lpush("floor", *[_body(pad) for _ in range(BATCH)])

    def consume(self, number: int) -> None:
        self.open()
        for _ in range(number):
            threading.Thread(target=self._consume, daemon=True).start()
        threading.Event().wait()

    def _consume(self) -> None:
        while True:
            handled(json.loads(self._client.brpop(["floor"])[1])["at"])


class Scripted(Bare):
    """EVALSHA thrice a message: publish, claim and ack."""

    def open(self) -> None:
        super().open()
        self._publish, self._claim, self._ack = map(self._client.script_load, (PUBLISH, CLAIM, ACK))

    def publish(self, pad: str, count: int) -> None:
        for _ in range(count):
            self._client.evalsha(self._publish, 1, "floor", _body(pad))

    def publish_many(self, pad: str, count: int) -> None:
        for _ in range(count // BATCH):
            self._client.evalsha(self._publish, 1, "floor", *[_body(pad) for _ in range(BATCH)])

    def consume(self, number: int) -> None:
        if number > 1:
            raise Cannot("the bare scripts do not wait")
        self.open()
        while True:
            body = self._client.evalsha(self._claim, 2, "floor", "floor:leases")
            if body is None:
                time.sleep(0.01)
                continue
            handled(json.loads(body)["at"])
            self._client.evalsha(self._ack, 1, "floor:leases", body)
