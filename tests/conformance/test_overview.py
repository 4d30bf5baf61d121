"""The overview: all queues of the register in numbers, for two server calls."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from atomq import AsyncEngine, Engine, Queue, ServerUnavailable, WrongType, calls
from atomq.overview import Overview
from tests.conformance.test_register import of, roster
from tests.servers import Cluster, Server, wait_until

ONE = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def fleet(server: Server, engine: Engine, count: int, busy: int) -> list[str]:
    """So many queues that were used, the first of them with messages in each state; their names."""
    names = [f"queue-{i:04}" for i in range(count)]
    used = {"published": 5, "delivered": 5, "acked": 5}
    with server.client().pipeline(transaction=False) as pipe:
        for name in names[busy:]:
            pipe.hset(engine.keys(name).stats, mapping=used)
            pipe.hset(engine.keys(name).meta, mapping={"steps": 4, "seen": 1})
        pipe.execute()
    engine.run(calls.register(engine.register.keys, names))
    for name in names[:busy]:
        queue = Queue(name, engine)
        queue.put_many([{"n": n, "pad": "x" * 200} for n in range(5)])
        first, second, *_ = queue.claim_many(5)
        first.ack()
        second.reject("boom")
        queue.put({"n": 1})
        queue.put({"n": 1}, delay=60)
    return names


def asked(server: Server, engine: Engine, **more: Any) -> tuple[Overview, dict[str, Any]]:
    """The overview, and what the server counted meanwhile."""
    db = server.client()
    engine.overview()
    db.config_resetstat()
    found = engine.overview(**more)
    return found, db.info("commandstats")


@ONE
def test_all_queues_in_their_order_with_what_consumes_them(server: Server) -> None:
    with Engine(server.url) as engine:
        assert engine.overview() == Overview()
        fleet(server, engine, 12, busy=3)
        wait_until("this process is there", lambda: engine.overview().processes)
        found = engine.overview()
        assert [each.name for each in found.queues] == [f"queue-{i:04}" for i in range(12)]
        first, idle = found.queues[0], found.queues[-1]
        assert (first.ready, first.unacked, first.delayed, first.dead) == (1, 3, 1, 1)
        assert (first.backlog, idle.backlog) == (1, 0)
        assert first.dead_by_reason == {"boom": 1}
        assert idle.stats == {"published": 5, "delivered": 5, "acked": 5}
        assert (found.alive, len(found.consumers_of("queue-0000"))) == (1, 1)
        assert found.consumers_of("nothing") == []

        async def twice() -> Overview:
            async with AsyncEngine(server.url) as other:
                return await other.overview()

        again = asyncio.run(twice())
        assert [each.stats for each in again.queues] == [each.stats for each in found.queues]
        assert [p.name for p in again.processes] == [p.name for p in found.processes]


@ONE
def test_pages(server: Server) -> None:
    with Engine(server.url) as engine:
        fleet(server, engine, 7, busy=0)
        first = engine.overview(limit=3)
        second = engine.overview(limit=3, after=first.next)
        last = engine.overview(limit=3, after=second.next)
        pages = (first, second, last)
        assert [len(page.queues) for page in pages] == [3, 3, 1]
        assert [page.next for page in pages] == ["queue-0002", "queue-0005", ""]
        some = engine.overview(["queue-0005", "never used"])
        assert [(each.name, each.is_empty) for each in some.queues] == [
            ("queue-0005", False),
            ("never used", True),
        ]


@ONE
def test_a_queue_that_cannot_be_read_costs_no_other_its_numbers(server: Server) -> None:
    with Engine(server.url) as engine:
        fleet(server, engine, 3, busy=0)
        server.client().set(engine.keys("queue-0001").dead, "not of our making")
        found = engine.overview()
        assert [each.name for each in found.queues] == ["queue-0000", "queue-0002"]
        assert isinstance(found.unreadable["queue-0001"], WrongType)
        with pytest.raises(WrongType):
            engine.overview(["queue-0001"])


def test_a_cluster(cluster: Cluster) -> None:
    """Each queue is a call of its own; all nodes are asked at once."""
    with Engine(of(cluster)) as engine:
        for i in range(12):
            Queue(f"q{i:02}", engine).put(i)
        wait_until("all are in the register", lambda: len(engine.overview().queues) == 12)
        assert [each.ready for each in engine.overview().queues] == [1] * 12
        key = engine.keys("q03")
        engine.command("SET", key.dead, "not of our making")
        found = engine.overview()
        assert list(found.unreadable) == ["q03"]
        assert len(found.queues) == 11


@ONE
def test_while_the_server_is_away(own_server: Server) -> None:
    with Engine(own_server.url, retry_budget=0.1) as engine:
        Queue("q", engine).put(1)
        own_server.stop()
        with pytest.raises(ServerUnavailable):
            engine.overview()


def test_in_memory() -> None:
    with Queue("q", "memory://overview") as queue:
        queue.put_many([1, 2])
        held, bad = queue.claim_many(2)
        bad.reject("boom")
        queue.put(3, delay=60)
        (found,) = queue.engine.overview().queues
        assert (found.unacked, found.delayed, found.dead) == (1, 1, 1)
        assert found.dead_by_reason == {"boom": 1}
        assert 50 < (found.next_due_seconds or 0) <= 60
        held.ack()


# ── what it costs ─────────────────────────────────────────────────────────────────────────────


@ONE
@pytest.mark.parametrize(("count", "most"), [(200, 2), (420, 4)])
def test_what_it_asks_of_the_server(server: Server, count: int, most: int) -> None:
    """200 queues are two calls, and no key is searched for."""
    with Engine(server.url) as engine:
        fleet(server, engine, count, busy=20)
        found, stats = asked(server, engine)
        assert len(found.queues) == count
        sent = {name: each["calls"] for name, each in stats.items()}
        assert sent.pop("cmdstat_evalsha") == most
        assert not [name for name in sent if "scan" in name or "keys" in name]
        inside = sum(n for name, n in sent.items() if "config" not in name and "info" not in name)
        # Two for each, of which eight idle ones share a third; nine more of one with messages.
        assert inside <= 2 * count + count / 8 + 10 * 20 + 25


# 1,000 commands of a script: what the machine takes for them says how fast it is just now.
_YARD = 'for _ = 1, 1000 do redis.call("LLEN", KEYS[1]) end'


@ONE
@pytest.mark.alone
def test_what_it_costs_the_server(server: Server) -> None:
    """200 queues, 20 of them with messages in every state, cost what 2,000 commands of a script do.

    So it is measured, for a machine under load takes longer for everything: a millisecond where a
    command takes 0.5 µs. The test above counts the commands, which no load moves.
    """
    db = server.client()
    with Engine(server.url) as engine:
        fleet(server, engine, 200, busy=20)
        yard, ratios = db.register_script(_YARD), []
        for _ in range(8):
            _, stats = asked(server, engine)
            db.config_resetstat()
            yard(keys=["nothing"])
            took = db.info("commandstats")["cmdstat_evalsha"]["usec"]
            ratios.append(stats["cmdstat_evalsha"]["usec"] / took)
        assert min(ratios) < 4, ratios


# ── queues over several partitions ────────────────────────────────────────────────────────────


def spread(engine: Engine) -> Any:
    """A queue over four partitions, each with a dead letter, a ready and a delayed message."""
    orders: Any = Queue("orders", engine, partitions=4)
    for n in range(4):
        orders.put(n)
    for _ in range(4):
        orders.claim(timeout=2).reject("odd")
    for n in range(4):
        orders.put(n)
    for _ in range(4):
        orders.put("later", delay=60)
    return orders


def registered(engine: Engine, names: list[str]) -> None:
    known = set(names)
    wait_until("they are in the register", lambda: known <= set(roster(engine).queues))


@ONE
def test_a_queue_of_partitions_is_one_row(server: Server) -> None:
    of_partitions(server.url)


@ONE
def test_a_queue_of_partitions_is_one_row_of_a_cluster(cluster: Cluster) -> None:
    of_partitions(of(cluster))


def of_partitions(url: str) -> None:
    with Engine(url) as engine:
        orders = spread(engine)
        names = [part.name for part in orders.partitions()]
        for other in ("orders!", "orders-of-others", "orders#1.x", "other#1.0"):
            Queue(other, engine).put(1)
        registered(engine, [*names, "orders!", "orders-of-others", "orders#1.x", "other#1.0"])
        consumer: Any = {"process": "one", "alive_ms": 9000, "entry": json.dumps({"queues": names})}
        engine.run(calls.register(engine.register.keys, names, **consumer))
        found = engine.overview()
        assert [each.name for each in found.queues] == [
            "orders",
            "orders!",
            "orders#1.x",
            "orders-of-others",
            "other#1.0",
        ]
        row = found.queues[0]
        assert (row.ready, row.delayed, row.dead, row.unacked) == (4, 4, 4, 0)
        assert row.stats["published"] == 12
        assert row.dead_by_reason == {"odd": 4}
        assert row.put_s == min(each.put_s or 0 for each in row.by_partition)
        assert row.partitions == tuple(names)
        assert [each.name for each in row.by_partition] == names
        assert (row.unanswered, found.unreadable) == ((), {})
        assert [each.name for each in found.consumers_of("orders")].count("one") == 1
        assert "one" not in [each.name for each in found.consumers_of("other#1.0")]

        paged, after = [], ""
        while True:  # its partitions are behind the end of a page, and on pages of their own
            page = engine.overview(limit=2, after=after)
            paged += [each.name for each in page.queues]
            if not (after := page.next):
                break
        assert paged == [each.name for each in found.queues]
        some = engine.overview([names[2], "orders"])
        assert [(each.name, each.ready) for each in some.queues] == [(names[2], 1), ("orders", 4)]
        assert some.queues[0].partitions == ()


@ONE
def test_a_row_names_the_partition_that_cannot_be_read(server: Server) -> None:
    with Engine(server.url) as engine:
        orders = spread(engine)
        names = [part.name for part in orders.partitions()]
        registered(engine, names)
        keys = engine.keys(names[1])
        server.client().delete(keys.dead)
        server.client().set(keys.dead, "text")
        found = engine.overview()
        assert [(each.name, each.ready) for each in found.queues] == [("orders", 3)]
        assert found.queues[0].unanswered == (names[1],)
        assert set(found.unreadable) == {names[1]}
