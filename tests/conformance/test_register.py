"""The register: which queues are in use, and which processes consume."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from atomq import AsyncQueue, Queue, calls, flows, fork
from atomq.calls import Roster
from atomq.client import Engine
from atomq.keys import REGISTER
from atomq.queue import Receiver
from atomq.register import Consuming, Work
from tests.servers import Cluster, Server

ONE = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def roster(engine: Engine) -> Roster:
    return engine.run(flows.whole_roster(engine.register.keys))


def awaited(look: Callable[[], Any], seconds: float = 5.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, "in vain"
        time.sleep(0.01)
    return found


def of(cluster: Cluster) -> str:
    return cluster.url.replace("redis://", "redis+cluster://")


def mine(engine: Engine) -> Any:
    """What this process says of itself, if it does."""
    return roster(engine).process_of(fork.process())


def test_a_queue_is_known_from_its_first_message_until_it_is_deleted(server: Server) -> None:
    with Queue("mails", server.url) as mails, Queue("sms", mails.engine) as sms:
        assert roster(mails.engine).queues == []
        sms.state()
        assert roster(mails.engine).queues == []  # it was only looked at
        sms.put(1)
        mails.put_many([1, 2])
        assert roster(mails.engine).queues == ["mails", "sms"]
        sms.delete()
        assert roster(mails.engine).queues == ["mails"]
        sms.put(1)
        assert roster(mails.engine).queues == ["mails", "sms"]


@ONE
def test_the_name_is_written_once(server: Server) -> None:
    with Queue("mails", server.url) as queue:
        queue.put(1)
        db = server.client()
        before = db.info("commandstats")["cmdstat_evalsha"]["calls"]
        for _ in range(20):
            queue.put(1)
        assert db.info("commandstats")["cmdstat_evalsha"]["calls"] - before == 20


def test_asyncio_writes_it_too(server: Server) -> None:
    async def work() -> None:
        async with AsyncQueue("mails", server.url) as queue:
            await queue.put(1)
            assert roster(engine).queues == ["mails"]
            message = await queue.claim()
            assert message is not None
            assert awaited(lambda: mine(engine)).entry["queues"] == ["mails"]
            await message.ack()

    with Engine(server.url) as engine:
        asyncio.run(work())


@ONE
def test_each_prefix_and_database_has_its_own(server: Server) -> None:
    with (
        Queue("a", server.url, global_keyprefix="app:") as one,
        Queue("b", server.tcp_url.removesuffix("0") + "1") as two,
    ):
        one.put(1)
        two.put(1)
        assert (roster(one.engine).queues, roster(two.engine).queues) == (["a"], ["b"])
        assert server.client().keys(f"{REGISTER}*") == [b"_atomq.register{.app:}.queues"]


def test_a_consumer_says_where_it_runs_and_what_it_works_on(server: Server) -> None:
    with Queue("mails", server.url) as queue:
        sent = queue.put({"to": "a"})
        with Receiver([queue], workers=3) as receiver:
            (message,) = receiver.receive(1)
            process = awaited(lambda: mine(queue.engine))
            entry = process.entry
            assert (entry["pid"], entry["queues"], entry["concurrency"]) == (
                os.getpid(),
                ["mails"],
                3,
            )
            assert {"host", "version", "started_ms", "kind"} <= entry.keys()
            (held,) = queue.peek("unacked")
            assert held.process == process.name
            # What it works on is said at the next turn, which is brought forward here.
            register = queue.engine.register
            register.change(receiver._consuming, [queue.keys])
            busy = awaited(lambda: (found := mine(queue.engine)).entry["holds"] and found)
            assert [(w["queue"], w["id"]) for w in busy.entry["working"]] == [("mails", sent.id)]
            message.ack()
        queue.engine.close()
        assert mine(queue.engine) is None


@ONE
@pytest.mark.parametrize("timeout", [0, 5])
def test_a_process_is_there_while_it_holds_what_a_claim_got(server: Server, timeout: int) -> None:
    """Catches a worker that claims in a loop of its own, and is gone while it works."""
    with Queue("mails", server.url) as queue:
        queue.put(1)
        message = queue.claim(timeout)
        assert message is not None
        first, register = awaited(lambda: mine(queue.engine)), queue.engine.register
        with register._wake:  # the next turn is brought forward
            register._next = 0.0
            register._thread.rouse()
        again = awaited(
            lambda: (p := mine(queue.engine)) is None or (p.said_ms > first.said_ms and p)
        )
        assert again is not True, "it took itself out"
        assert again.entry["holds"] == 1
        message.ack()


@ONE
def test_engines_of_other_options_are_in_one_entry(server: Server) -> None:
    """Each wrote an entry of its own over that of the other, and took it out when it closed."""
    soon = Queue("soon", server.url, max_deliveries=3, lease=30)
    late = Queue("late", server.url.replace("redis+", "valkey+"), client_name="other")
    apart = Queue("apart", server.url, global_keyprefix="x:")
    with soon, late, apart, Engine(server.url) as engine:
        for queue in (soon, late, apart):
            assert queue.claim(timeout=0) is None
        found = awaited(
            lambda: (p := mine(engine)) and len(p.queues) == 2 and p  # at once, or after a second
        )
        assert found.queues == ["late", "soon"]
        assert found.limits_of("soon") == {"max_deliveries": 3, "lease_seconds": 30}
        assert found.limits_of("late") == {"max_deliveries": 20, "lease_seconds": 60}
        assert found.entry["limits"] == found.limits_of("soon")  # as older releases read them
        assert awaited(lambda: mine(apart.engine)).queues == ["apart"]
        late.close()
        late.engine.close()
        assert awaited(lambda: (p := mine(engine)) and p.queues == ["soon"] and p)


def test_a_queue_of_partitions_is_named_once(server: Server) -> None:
    orders: Any = Queue("orders", server.url, partitions=3)
    with orders, Queue("mails", orders.engine) as mails:
        sent = orders.put(1)
        message = orders.claim()
        assert mails.claim(timeout=0) is None
        found = awaited(lambda: (p := mine(orders.engine)) and len(p.queues) == 2 and p)
        assert found.queues == ["mails", "orders"]
        assert (found.entry["queue_count"], found.entry["partitions"]) == (2, {"orders": 3})
        parts = [part.name for part in orders.partitions()]
        assert not found.overlooks(parts)
        assert set(parts) <= set(roster(orders.engine).queues)  # by these it is found
        (one, row) = orders.engine.overview().queues
        assert (one.name, row.name, row.partitions) == ("mails", "orders", tuple(parts))
        for name in ("orders", "mails"):
            assert len(orders.engine.overview().consumers_of(name)) == 1
        register = orders.engine.register
        (consuming,) = (each for each in register._consumers if len(each.queues) == 3)
        register.change(consuming, consuming.queues)  # its turn is brought forward
        busy = awaited(lambda: (p := mine(orders.engine)) and p.entry["holds"] and p)
        assert [(w["queue"], w["id"]) for w in busy.entry["working"]] == [("orders", sent.id)]
        message.ack()


class Nothing:
    """A holder that holds nothing."""

    def working(self, _most: int) -> tuple[int, list[Work]]:
        return 0, []


@ONE
def test_what_a_consumer_says_of_the_process_goes_with_it(server: Server) -> None:
    """A connection of Kombu's that was closed left its settings to consumers of the library."""
    with Queue("mails", server.url) as queue, Engine(server.url, lease=50) as engine:
        assert queue.claim(timeout=0) is None
        kombu = Consuming((), 1, Nothing(), lambda: 0.0, {}, {"kind": "kombu", "prefetch": 4})
        engine.register.change(kombu, [engine.keys("tasks")])
        found = awaited(lambda: (p := mine(engine)) and p.queues == ["mails", "tasks"] and p)
        assert (found.entry["kind"], found.entry["prefetch"]) == ("kombu", 4)
        engine.register.leave([kombu])
        found = awaited(lambda: (p := mine(engine)) and p.queues == ["mails"] and p)
        assert (found.entry["kind"], found.entry.get("prefetch")) == ("atomq", None)


@ONE
def test_a_process_that_was_killed_is_forgotten(server: Server) -> None:
    with Engine(server.url) as engine:
        keys = engine.register.keys
        engine.run(calls.register(keys, process="dead", alive_ms=1, entry="{}"))
        awaited(lambda: roster(engine).alive == 0)
        assert engine.command("HLEN", keys.processes) == 1
        engine.run(calls.register(keys, process="other", alive_ms=1000, entry="[]"))
        assert engine.command("HKEYS", keys.processes) == [b"other"]
        assert roster(engine).processes == []  # what it says cannot be read


@ONE
def test_a_process_that_ends_takes_its_entry_out(server: Server) -> None:
    code = """if True:
        import sys, time
        from atomq import Queue, calls
        queue = Queue("mails", sys.argv[1])
        queue.put(1)
        message = queue.claim()
        roster = calls.roster(queue.engine.register.keys)
        while not queue.engine.run(roster).processes:
            time.sleep(0.01)
        message.ack()
    """
    subprocess.run([sys.executable, "-c", code, server.url], check=True, timeout=30)
    with Engine(server.url) as engine:
        assert roster(engine).processes == []
        assert roster(engine).queues == ["mails"]


@ONE
def test_a_process_that_ends_while_it_says_its_first_word_takes_that_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Queue("mails", server.url) as queue, Engine(server.url, sep="|") as engine:
        register, said = queue.engine.register, threading.Event()
        write = register._run

        def slow(call: Any, *, leaving: bool) -> None:
            write(call, leaving=leaving)
            if not said.is_set():
                said.set()
                awaited(lambda: register._thread.closing)

        monkeypatch.setattr(register, "_run", slow)
        assert queue.claim() is None
        assert said.wait(5)
        assert mine(engine) is not None
        register.close()  # as at the end of the process
        assert mine(engine) is None


@ONE
def test_two_thousand_names_come_in_pages(server: Server) -> None:
    with Engine(server.url) as engine:
        names = [f"q{i:04}" for i in range(2000)]
        for i in (0, 1000):
            engine.run(calls.register(engine.register.keys, names[i : i + 1000]))
        assert roster(engine).queues == names


@ONE
def test_who_may_not_write_it_goes_on(server: Server) -> None:
    db = server.client()
    keys = ["_atomq.{*", "mails*"]
    db.acl_setuser("half", enabled=True, nopass=True, keys=keys, channels=["*"], commands=["+@all"])
    with Queue("mails", server.tcp_url.replace("//", "//half:x@")) as queue:
        queue.put(1)
        message = queue.claim()
        assert message is not None
        message.ack()
        assert db.keys(f"{REGISTER}*") == []


@ONE
def test_a_cluster_has_it_in_one_slot_and_no_call_waits_for_that(cluster: Cluster) -> None:
    with Queue("mails", of(cluster)) as queue:
        queue.put(1)
        awaited(lambda: roster(queue.engine).queues == ["mails"])
        message = queue.claim()
        assert message is not None
        assert awaited(lambda: mine(queue.engine)).entry["queues"] == ["mails"]
        message.ack()


@pytest.mark.parametrize("kind", ["valkey-9"])
def test_a_server_that_hangs_holds_up_no_queue_of_another(kind: str) -> None:
    with Cluster(kind, nodes=2) as cluster:
        db = cluster.client()
        keys = Engine(of(cluster)).register.keys.queues
        home = db.get_node_from_key(keys).port
        name = next(n for n in map(str, range(99)) if db.get_node_from_key(n).port != home)
        (stuck,) = (node for node in cluster.nodes if node.port == home)
        with Queue(name, of(cluster)) as queue:
            queue.state()  # connected
            stuck.pause()
            try:
                began = time.monotonic()
                queue.put(1)
                message = queue.claim()
                assert message is not None
                message.ack()
                assert time.monotonic() - began < 1.0
            finally:
                stuck.resume()


@ONE
def test_two_spellings_of_one_server_hide_no_consumer_of_each_other(server: Server) -> None:
    """The process has an entry for each."""
    spelled = [server.tcp_url.replace("127.0.0.1", host) for host in ("127.0.0.1", "localhost")]
    with Queue("a", spelled[0]) as one, Queue("b", spelled[1]) as other:
        for queue in (one, other):
            queue.put(1)
        held = {queue: queue.claim() for queue in (one, other)}

        def queues() -> list[list[str]]:
            return sorted(each.queues for each in roster(one.engine).processes)

        awaited(lambda: queues() == [["a"], ["b"]])
        for queue, message in held.items():
            assert message is not None
            assert queue.get(message.id).pid == os.getpid()
            message.ack()
