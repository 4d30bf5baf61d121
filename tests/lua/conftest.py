"""A queue of each layout on a server of each kind; no test may leave a key behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lua.rig import Queue, Rig
from tests.servers import Server


@pytest.fixture
def layout(request: pytest.FixtureRequest) -> str:
    """The key layout a test runs in."""
    name: str = request.param
    return name


@pytest.fixture
def rig(server: Server, layout: str) -> Iterator[Rig]:
    """An engine and a raw client on an empty server."""
    rig = Rig(server, layout)
    yield rig
    rig.engine.close()


@pytest.fixture
def q(rig: Rig) -> Queue:
    """A queue with the four priority steps of stock Kombu."""
    return rig.queue()


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test whose calls leave a key that its queues do not declare and that never passes."""
    if "rig" not in request.fixturenames:
        yield
        return
    rig: Rig = request.getfixturevalue("rig")
    yield
    assert rig.leaked() == []
