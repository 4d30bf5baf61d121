"""A server that is away, deaf, full, or a replica: workers wait, say so, and go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from atomq.errors import ServerFull
from tests.contrib.rig import LONG, ON_ONE_KIND, POOLS, Fleet, Place, place
from tests.proxy import Proxy
from tests.servers import Server, full_memory, wait_until

pytestmark = [pytest.mark.slow, ON_ONE_KIND]

SOON = 5.0  # seconds within which work goes on after the server is back


@pytest.fixture
def through(server: Server, tmp_path: Path) -> Iterator[tuple[Place, Proxy]]:
    """A broker behind a proxy; results and whoever looks on go past it."""
    with Proxy(server.socket) as proxy, place(server, tmp_path, proxy.url) as at:
        yield at, proxy


def _resumes(fleet: Fleet) -> None:
    began = time.monotonic()
    ids = fleet.each("work")
    fleet.ledger.await_starts(list(ids.values()), SOON)
    print(f"work goes on after {time.monotonic() - began:.1f} s")
    fleet.await_all_empty()
    assert {fleet.ledger.starts()[one] for one in ids.values()} == {1}
    fleet.assert_alive()


def _logged(fleet: Fleet, before: dict[str, int]) -> dict[str, list[str]]:
    """What our own code has logged since, one line an entry."""
    return {
        pool: [
            line
            for line in worker.log.splitlines()[before[pool] :]
            if "MainProcess]" in line and ("leases of" in line or "acks of" in line)
        ]
        for pool, worker in fleet.of.items()
    }


def test_a_server_that_is_away_for_a_while(fleet: Fleet) -> None:
    running = fleet.each("work", 2.0)
    fleet.ledger.await_starts(list(running.values()))
    lines = {pool: len(worker.log.splitlines()) for pool, worker in fleet.of.items()}
    spent = {pool: worker.cpu() for pool, worker in fleet.of.items()}
    fleet.server.kill()
    time.sleep(3.0)
    spent = {pool: round(worker.cpu() - spent[pool], 2) for pool, worker in fleet.of.items()}
    fleet.server.start()
    _resumes(fleet)
    print("processor seconds while it was away:", spent)
    assert max(spent.values()) < 0.8, spent
    # A message an outage, not one a try: it was not renewed, it was; acks waited, they did not.
    assert all(len(said) <= 4 for said in _logged(fleet, lines).values()), _logged(fleet, lines)
    fleet.ledger.await_ends(list(running.values()))
    assert {fleet.ledger.starts()[one] for one in running.values()} == {1}


def test_a_master_that_becomes_a_replica_and_back(fleet: Fleet) -> None:
    db = fleet.db
    db.execute_command("REPLICAOF", "127.0.0.1", "1")
    time.sleep(1.5)
    db.execute_command("REPLICAOF", "NO", "ONE")
    _resumes(fleet)


def test_a_server_that_forgets_its_scripts(fleet: Fleet) -> None:
    ids = []
    for _ in range(20):
        ids += fleet.each("work").values()
        fleet.db.script_flush()
        time.sleep(0.03)
    fleet.ledger.await_ends(ids)
    fleet.await_all_empty()
    assert {fleet.ledger.starts()[one] for one in ids} == {1}


def test_a_full_server_is_drained(fleet: Fleet) -> None:
    ids = [one for _ in range(5) for one in fleet.each("work", 0.1).values()]
    later = fleet.each("work", countdown=1.0)
    with full_memory(fleet.db):
        # Kombu and Celery see a channel error; the text says what it is.
        with pytest.raises(Exception, match="maxmemory") as refused:
            fleet.send("work", queue="solo")
        assert isinstance(refused.value, ServerFull) or refused.value.__cause__
        fleet.ledger.await_ends([*ids, *later.values()])
        fleet.await_all_empty()
    _resumes(fleet)


def test_a_server_that_does_not_answer(through: tuple[Place, Proxy]) -> None:
    at, proxy = through
    workers = [at.worker(pool, 1, queues=pool) for pool in ("prefork", "threads", "gevent")]
    for worker in workers:
        worker.ready()
    direct = at.make_app(at.server.url.replace("redis", "atomq", 1))
    proxy.block()
    time.sleep(12.0 if LONG else 2.0)
    ids = [at.send("work", queue=worker.pool, app=direct) for worker in workers]
    proxy.unblock()
    at.ledger.await_starts(ids, 10)
    for worker in workers:
        at.await_empty(queue=worker.pool)
        assert worker.alive
    assert set(at.ledger.starts().values()) == {1}


def test_lost_answers_start_nothing_twice(through: tuple[Place, Proxy]) -> None:
    at, proxy = through
    workers = [at.worker(pool, 2, queues=pool) for pool in ("prefork", "threads", "gevent")]
    for worker in workers:
        worker.ready()
    ids = []
    for n in range(30):
        if n % 3 == 0:
            proxy.drop_reply(1)
        elif n % 3 == 1:
            proxy.drop_request(1)
        ids += [at.send("work", 0.02, queue=worker.pool) for worker in workers]
        time.sleep(0.05)
    at.ledger.await_ends(ids)
    assert proxy.dropped >= 15
    for worker in workers:
        at.await_empty(queue=worker.pool)
        assert at.state(worker.pool).dead == 0
    assert set(at.ledger.starts().values()) == {1}


def test_a_server_that_is_loading(kind: str, tmp_path: Path) -> None:
    slow = {"key-load-delay": "2000", "loading-process-events-interval-bytes": "1024"}
    with Server(kind, persistent=True) as server, place(server, tmp_path) as at:
        workers = [at.worker(pool, 1, queues=pool, backend=None) for pool in POOLS[:2]]
        for worker in workers:
            worker.ready()
        pipe = at.db.pipeline()
        for n in range(1000):
            pipe.set(f"filler-{n}", "x" * 100)
        pipe.execute()
        server._options |= slow
        server.kill()
        server.start()  # returns when it has loaded
        ids = [at.send("work", queue=worker.pool) for worker in workers]
        at.ledger.await_starts(ids, SOON)
        assert all(worker.alive for worker in workers)


def test_an_acl_that_forbids_is_told(at: Place) -> None:
    at.db.execute_command("ACL SETUSER", "weak", "on", ">pw", "~*", "&*", "+@all", "-zadd")
    url = at.server.tcp_url.replace("redis://", "atomq://weak:pw@")
    with pytest.raises(Exception, match=r"(?i)zadd"):
        at.send("work", app=at.make_app(url), retry=False)
    with pytest.raises(Exception, match=r"(?i)password|auth|user"):
        at.send("work", app=at.make_app(url.replace(":pw@", ":wrong@")), retry=False)
    worker = at.worker(broker=url)
    wait_until("the worker to say so", lambda: "zadd" in worker.log.lower(), 20)
