"""A cluster of shards for a battle, and what befalls its nodes and slots.

Each node has an AOF, so that a shard whose nodes all ended comes back with what it had answered.
Each method is one mishap, and ends when the cluster is whole again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import redis

from tests.servers import Cluster, Server, wait_until

NODE_TIMEOUT = 1.0  # seconds
FAILOVER = 6.0  # seconds after which one that was asked for is asked for again
OPTIONS = {
    "appendonly": "yes",
    "appendfsync": "no",
    "cluster-node-timeout": str(int(NODE_TIMEOUT * 1000)),
    "cluster-require-full-coverage": "no",
    "cluster-allow-replica-migration": "no",
    "cluster-replica-validity-factor": "0",
}


@dataclass
class Upset:
    """A failover that may have undone a claim or an ack: from when to when, and of which slots."""

    began: float
    ended: float
    slots: frozenset[int]
    is_mishap: bool = True
    """Else the nodes took one for dead by themselves: the machine may have been too busy."""


class Away(NamedTuple):
    """When some slots took no acks, or not at once: from when to when."""

    since: float
    until: float
    slots: frozenset[int]


class Watch:
    """A thread that notes when a node becomes a primary, and of which slots."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._roles: dict[Server, str] = {}
        self.seen: list[tuple[float, Server, frozenset[int]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            for node in self._shards.nodes():
                with suppress(redis.RedisError, OSError, AssertionError):
                    self._look_at(node)

    def _look_at(self, node: Server) -> None:
        role, now = _role(node, within=0.5), time.time()
        if role == "master" and self._roles.get(node) == "slave":
            self.seen.append((now, node, self._shards.slots_of(node)))
        self._roles[node] = role


class Shards:
    """Three primaries with a replica each. `slots` are those that move.

    If it cannot be formed, or its block raises, what its nodes have logged is in `directory`.
    """

    def __init__(self, kind: str, slots: list[int], chance: random.Random, directory: Path) -> None:
        self.kind = kind
        self._directory = directory
        self.chance = chance
        self.upsets: list[Upset] = []
        self.away: list[Away] = []
        self._slots = slots
        self._cluster = Cluster(kind, nodes=3, replicas=True, options=OPTIONS)
        self._shards: list[list[Server]] = []
        self._old: list[Server] = []
        self._asked: list[tuple[float, Server]] = []  # when which one was to become a primary
        self._watch = Watch(self)

    def __enter__(self) -> Self:
        try:
            self._cluster.start()
        except BaseException as error:
            self.keep_logs(error)
            self._cluster.stop()
            raise
        pairs = zip(self._cluster.nodes, self._cluster.replicas, strict=True)
        self._shards = [list(pair) for pair in pairs]
        self._watch.__enter__()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._watch.__exit__()
        for node in self._everyone():
            with suppress(AssertionError, ProcessLookupError):
                node.resume()
        if error is not None:
            self.keep_logs(error)
        for node in (*self._everyone(), *self._old):
            node.stop()
        self._cluster.stop()

    @property
    def ports(self) -> list[int]:
        """Of the nodes that are there now: the first ones may all have left."""
        return [node.port for node in self._everyone()]

    def mishaps(self) -> list[Any]:
        found = [
            *(self.freeze_primary, self.kill_primary, self.manual_failover, self.move_half_by_half),
            *(self.join_replica, self.lose_shard, self.freeze_shard),
            *(self.cut_connections, self.forget_scripts),
        ]
        return [*found, self.move_at_once] if self.kind == "valkey-9" else found

    # ── nodes ─────────────────────────────────────────────────────────────────────────────────

    def freeze_primary(self) -> None:
        """For longer than the cluster waits, and than a lease."""
        primary, replica = self._chosen()
        with self._upset(primary):
            primary.pause()
            try:
                self._await_role(replica, "master")
                time.sleep(self.chance.uniform(0.5, 3))
            finally:
                primary.resume()
            self._await_role(primary, "slave")

    def kill_primary(self) -> None:
        primary, replica = self._chosen()
        with self._upset(primary):
            primary.kill()
            self._await_role(replica, "master")
            time.sleep(self.chance.uniform(0, 2))
            primary.start()
            self._await_role(primary, "slave")

    def manual_failover(self) -> None:
        self._fail_over(*self._chosen())

    def _fail_over(self, primary: Server, replica: Server) -> None:
        """Redis gives it up after 5 s if its primary has not heard yet that it is its replica."""
        self._asked.append((time.time(), replica))
        asked = [0.0]

        def has_taken_over() -> bool:
            if time.monotonic() - asked[0] > FAILOVER:
                asked[0] = time.monotonic()
                _do(replica, "CLUSTER FAILOVER")
            return _role(replica) == "master"

        with self._away(self.slots_of(primary)):
            wait_until(f"{replica!r} to take over", has_taken_over)

    def join_replica(self) -> None:
        """A new node, which knows no script, takes the place of both others, one by one."""
        primary, replica = self._chosen()
        new = Server(self.kind, options={"cluster-enabled": "yes", **OPTIONS})
        new.start()
        shard = next(one for one in self._shards if primary in one)
        _do(primary, "CLUSTER MEET", "127.0.0.1", new.port)
        name = self._cluster.id_of(primary)
        wait_until("the new node to know it", lambda: name in _text(new, "CLUSTER NODES"))
        wait_until("it to follow", lambda: _do(new, "CLUSTER REPLICATE", name))
        wait_until("it to be level", lambda: _link(new) == "up")
        gone = self._cluster.id_of(replica)
        replica.kill()
        self._old.append(replica)
        shard[shard.index(replica)] = new
        for node in self._everyone():
            with suppress(redis.ResponseError):
                _do(node, "CLUSTER FORGET", gone)
        self._fail_over(primary, new)

    def lose_shard(self) -> None:
        """All its nodes end, and come back with what they had."""
        primary, replica = self._chosen()
        with self._upset(primary):
            replica.kill()
            primary.kill()
            time.sleep(self.chance.uniform(0, 4))
            primary.start()
            replica.start()

    def freeze_shard(self) -> None:
        """No replica can take over, and leases end meanwhile."""
        primary, replica = self._chosen()
        _do(replica, "CONFIG SET", "cluster-replica-no-failover", "yes")
        with self._upset(primary):
            replica.pause()
            primary.pause()
            time.sleep(self.chance.uniform(1, 5))
            primary.resume()
            replica.resume()
        _do(replica, "CONFIG SET", "cluster-replica-no-failover", "no")

    def cut_connections(self) -> None:
        for node in self._chosen():
            with suppress(redis.ConnectionError):
                _do(node, "CLIENT KILL", "TYPE", "normal")

    def forget_scripts(self) -> None:
        for node in self._everyone():
            _do(node, "SCRIPT FLUSH")

    # ── slots ─────────────────────────────────────────────────────────────────────────────────

    def _moving(self) -> tuple[int, Server, Server]:
        slot = self.chance.choice(self._slots)
        source = self._owner(slot)
        others = [self._primary(shard) for shard in self._shards if source not in shard]
        return slot, source, self.chance.choice(others)

    def move_half_by_half(self) -> None:
        """As redis-cli does it; for a while one half of the keys is here, one there."""
        slot, source, target = self._moving()
        with self._away(frozenset([slot])):
            _do(target, "CLUSTER SETSLOT", slot, "IMPORTING", self._cluster.id_of(source))
            _do(source, "CLUSTER SETSLOT", slot, "MIGRATING", self._cluster.id_of(target))
            half = False
            while keys := _do(source, "CLUSTER GETKEYSINSLOT", slot, 10):
                for key in keys:
                    _do(source, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000, "REPLACE")
                    if not half:
                        half = True
                        time.sleep(self.chance.uniform(0.5, 5))
            name = self._cluster.id_of(target)
            for node in (target, source, *(self._primary(shard) for shard in self._shards)):
                _do(node, "CLUSTER SETSLOT", slot, "NODE", name)

    def move_at_once(self) -> None:
        slot, source, target = self._moving()
        name = self._cluster.id_of(target)
        with self._away(frozenset([slot])):
            _do(source, "CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", name)
            wait_until("the move", lambda: self._cluster.owns(target, slot))

    # ── what is where ─────────────────────────────────────────────────────────────────────────

    def nodes(self) -> list[Server]:
        """Those that are there now."""
        return self._everyone()

    def slots_of(self, node: Server) -> frozenset[int]:
        """Of those that move, the ones that a node serves."""
        return frozenset(slot for slot in self._slots if self._cluster.owns(node, slot))

    def judge(self) -> list[str]:
        """Count the failovers too that were nobody's mishap; all that there were, in words."""
        told = []
        for at, node, slots in self._watch.seen:
            is_asked = any(n is node and at - 30 < when < at for when, n in self._asked)
            is_mishap = any(u.began <= at <= u.ended for u in self.upsets if u.slots & slots)
            told.append(f"{at:.3f} {node.port} {sorted(slots)} {is_asked} {is_mishap}")
            if not (is_asked or is_mishap):
                # The old one may answer until it has heard of the new one.
                self.upsets.append(Upset(at - 1, at + 1, slots, is_mishap=False))
        return told

    def keep_logs(self, error: BaseException | None = None) -> None:
        """Copy what the nodes have logged; an error says where to."""
        for node in {*self._cluster.everyone, *self._everyone(), *self._old}:
            if log := node.log:
                (self._directory / f"node-{node.port}.log").write_text(log)
        if error is not None:
            error.add_note(f"the logs of its nodes are in {self._directory}")

    def _everyone(self) -> list[Server]:
        return [node for shard in self._shards for node in shard]

    def _primary(self, shard: list[Server]) -> Server:
        return next(node for node in shard if _role(node) == "master")

    def _chosen(self) -> tuple[Server, Server]:
        """The primary and the replica of a shard."""
        shard = self.chance.choice(self._shards)
        primary = self._primary(shard)
        return primary, next(node for node in shard if node is not primary)

    def _owner(self, slot: int) -> Server:
        owned = (node for node in self._everyone() if self._cluster.owns(node, slot))
        return next(owned)

    @contextmanager
    def _away(self, slots: frozenset[int]) -> Iterator[None]:
        """These slots take no acks, or not at once, until the block ends."""
        began = time.time()
        yield
        self.away.append(Away(began, time.time(), slots))

    @contextmanager
    def _upset(self, primary: Server) -> Iterator[None]:
        """A mishap is an upset if another node is the primary afterwards, and was not asked to be.

        What the old one answered and had not sent to the new one is undone: replication is
        asynchronous, and a claim or an ack waits for no replica.
        """
        slots = self.slots_of(primary)
        began = time.time()
        with self._away(slots):
            yield
            shard = next(one for one in self._shards if primary in one)
            wait_until("the shard to serve", lambda: any(map(_serves, shard)))
        self.await_whole()
        if _role(primary) != "master":
            self.upsets.append(Upset(began, time.time(), slots))

    def _await_role(self, node: Server, role: str) -> None:
        wait_until(f"{node!r} to be a {role}", lambda: _role(node) == role)

    def await_whole(self) -> None:
        """Wait until all nodes agree, and each replica follows its primary."""
        for node in self._everyone():
            wait_until(f"{node!r} to be well", partial(self._is_well, node))

    def _is_well(self, node: Server) -> bool:
        about = _about(node)
        fails = int(about["cluster_slots_pfail"]) + int(about["cluster_slots_fail"])
        whole = about["cluster_state"] == "ok" and not fails and not _doubts(node)
        return whole and (_role(node) == "master" or _link(node) == "up")


def _client(node: Server, within: float = 6.0) -> redis.Redis:
    return redis.Redis(unix_socket_path=node.socket, socket_timeout=within)


def _do(node: Server, *words: Any, patience: float = 20.0) -> Any:
    """Carry out a command. A node of a busy machine may doubt for a moment that the others live."""
    until = time.monotonic() + patience
    with _client(node) as client:
        while True:
            try:
                return client.execute_command(*words)
            except redis.exceptions.ClusterDownError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)


def _text(node: Server, command: str) -> str:
    found = _do(node, command)
    if isinstance(found, dict):  # redis-py reads it
        return "\n".join(f"{name}:{value}" for name, value in found.items())
    return found.decode() if isinstance(found, bytes) else str(found)


def _about(node: Server) -> dict[str, str]:
    lines = _text(node, "CLUSTER INFO").split()
    return dict(line.split(":") for line in lines if ":" in line)


def _serves(node: Server) -> bool:
    return _role(node) == "master" and _about(node)["cluster_state"] == "ok"


def _doubts(node: Server) -> bool:
    """Whether it believes that another one is away."""
    return "fail" in _text(node, "CLUSTER NODES").replace("nofailover", "")


def _role(node: Server, within: float = 6.0) -> str:
    with _client(node, within) as client:
        return str(client.info("replication")["role"])


def _link(node: Server) -> str:
    with _client(node) as client:
        return str(client.info("replication").get("master_link_status"))
