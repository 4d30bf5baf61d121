"""One kind of server (Valkey 9 unless told otherwise), a broker on it, and workers that end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contrib.rig import Fleet, Place, place
from tests.servers import Server

pytest.importorskip("celery")

# Otherwise a kill loses what the server answered in the last second, and tasks run again.
SYNCED = {"appendfsync": "always"}


@pytest.fixture
def at(server: Server, tmp_path: Path) -> Iterator[Place]:
    """A broker on the shared server."""
    with place(server, tmp_path) as found:
        yield found


@pytest.fixture
def own(own_server: Server, tmp_path: Path) -> Iterator[Place]:
    """A broker on a server that may be killed: it has an AOF."""
    with place(own_server, tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def _fleet(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    # Results lie elsewhere: a task whose result cannot be stored runs again.
    with Server(kind, persistent=True, options=SYNCED) as server, Server(kind) as results:
        options = {"lease": 2, "visibility_timeout": 2, "max_deliveries": 3}
        fleet = Fleet(
            server,
            tmp_path_factory.mktemp("fleet"),
            results.url,
            broker_transport_options=options,
        )
        try:
            yield fleet
        finally:
            fleet.close()


@pytest.fixture
def fleet(_fleet: Fleet) -> Iterator[Fleet]:
    """A worker in each pool, on a server with an AOF. They live on from test to test."""
    _fleet.muster()
    yield _fleet
    for worker in _fleet.of.values():
        print(f"── {worker.name} ({worker.pool}) ──\n{worker.log[-30_000:]}")
