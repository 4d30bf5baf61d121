"""Places to put queues: every kind of server, alone and as a cluster, embedded, and memory://.

A test that asks for `make` gets a function that makes queues, once sync and once asyncio, in each
place; `on_servers` leaves out what is no server of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from atomq import AsyncEngine, AsyncQueue, AsyncReceiver, Engine, Queue, Receiver, embedded
from tests.conformance.twin import Loop, Twin
from tests.servers import Cluster, Server, assert_only_keys, choose_kinds

_numbers = itertools.count(1)


class Places:
    """The servers of this suite, started when the first test asks for them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "embedded"
        self._servers: dict[str, Server | Cluster] = {}

    def server(self, place: str) -> Server | Cluster:
        if place not in self._servers:
            kind, _, cluster = place.partition(" ")
            server = Cluster(kind) if cluster else Server(kind)
            self._servers[place] = server
            server.start()
        return self._servers[place]

    def close(self) -> None:
        for server in self._servers.values():
            server.stop()
        if self.directory.exists():
            embedded.stop(self.directory)


class Place:
    """One place, empty."""

    def __init__(self, places: Places, name: str) -> None:
        self.name = name
        self.server: Server | Cluster | None = None
        if name == "memory":
            self.url = f"memory://{next(_numbers)}"
        elif name == "embedded":
            self.url = f"embedded://{places.directory}"
            with Engine(self.url) as engine:
                engine.command("FLUSHALL")
        else:
            self.server = places.server(name)
            self.server.reset()
            self.url = self.server.url
            if isinstance(self.server, Cluster):
                self.url = self.url.replace("redis://", "redis+cluster://")

    @property
    def db(self) -> redis.Redis:
        """A raw client; in a cluster (of one node) to its node."""
        assert self.server is not None
        return (self.server.nodes[0] if isinstance(self.server, Cluster) else self.server).client()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "on_servers: not on memory:// and the embedded server")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" not in metafunc.fixturenames:
        return
    for mark in metafunc.definition.iter_markers("parametrize"):
        if mark.args and mark.args[0] == "place":
            return  # the test names its places itself
    kinds, _ = choose_kinds(metafunc.config.getoption("--servers"))
    names = [*kinds, *(f"{kind} cluster" for kind in kinds)]
    if not metafunc.definition.get_closest_marker("on_servers"):
        names += ["embedded", "memory"]
    metafunc.parametrize("place", names, indirect=True, scope="function")


@pytest.fixture(scope="session")
def _places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    places = Places(tmp_path_factory.mktemp("places"))
    yield places
    places.close()


@pytest.fixture(scope="session")
def _loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def place(request: pytest.FixtureRequest, _places: Places) -> Iterator[Place]:
    """Where the queues of a test live; afterwards it may hold keys of queues only."""
    place = Place(_places, request.param)
    yield place
    if place.server is not None:
        names = ["q", "other", "{q}*", "{other}*", "q\x06\x16*", "other\x06\x16*"]
        names += ["q#*", "{q#*"]  # partitions
        own = ["_atomq.{q}.*", "_atomq.{q#*", "_atomq.{other}.*", "_atomq.register{*"]
        assert_only_keys(place.db, [*names, *own])


class Make:
    """Makes queues of one engine for each set of options."""

    def __init__(self, place: Place, loop: Loop | None) -> None:
        self.place, self._loop = place, loop
        self._engines: dict[str, Any] = {}

    @property
    def is_async(self) -> bool:
        return self._loop is not None

    def engine(self, **options: Any) -> Any:
        """The engine of these options; the same ones, the same engine."""
        key = repr(sorted(options.items()))
        if key not in self._engines:
            kind = AsyncEngine if self._loop else Engine
            self._engines[key] = kind(self.place.url, **options)
        return self._engines[key]

    def __call__(
        self,
        name: str = "q",
        *,
        serializer: Any = None,
        schema: Any = None,
        backoff: Any = None,
        partitions: int | None = None,
        tracked: bool = False,
        **options: Any,
    ) -> Any:
        given = {"serializer": serializer, "schema": schema, "backoff": backoff}
        given |= {"partitions": partitions, "tracked": tracked or None}
        mine = {name: value for name, value in given.items() if value is not None}
        engine = self.engine(**options)
        if self._loop is None:
            return Queue(name, engine, **mine)
        return Twin(self._loop, AsyncQueue(name, engine, **mine))

    def of_url(self, name: str = "q") -> Any:
        """A queue that makes its own engine."""
        if self._loop is None:
            return Queue(name, self.place.url)
        return Twin(self._loop, AsyncQueue(name, self.place.url))

    def receiver(self, *queues: Any) -> Any:
        """A receiver of these queues."""
        if self._loop is None:
            return Receiver(queues)
        return Twin(self._loop, AsyncReceiver([queue.target for queue in queues]))

    def close(self) -> None:
        for engine in self._engines.values():
            if self._loop is None:
                engine.close()
            else:
                self._loop.run(engine.close())


@pytest.fixture(params=["sync", "asyncio"])
def make(request: pytest.FixtureRequest, place: Place, _loop: Loop) -> Iterator[Make]:
    """A function that makes queues: `make()`, `make("other", lease=1)`."""
    make = Make(place, _loop if request.param == "asyncio" else None)
    yield make
    make.close()


@pytest.fixture
def q(make: Make) -> Any:
    """A queue."""
    return make()
