"""The page over a test's server, asked by a client that runs it in this process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any

import pytest
from starlette.testclient import TestClient

from atomq import Queue
from atomq.client import Engine
from atomq.web import asgi_app
from tests.servers import Server

OURS = {"sec-fetch-site": "same-origin"}


@pytest.fixture
def engine(server: Server) -> Iterator[Engine]:
    with Engine(server.url) as engine:
        yield engine


@pytest.fixture
def queue(engine: Engine) -> Queue:
    return Queue("orders", engine)


@pytest.fixture
def page(server: Server) -> Iterator[Callable[..., TestClient]]:
    """A client of the page, which may act unless it is said otherwise."""
    opened: list[Engine] = []

    def opening(**settings: Any) -> TestClient:
        engine = Engine(server.url, retry_budget=0)
        opened.append(engine)
        app = asgi_app(engine, **{"writable": True, **settings})
        return TestClient(app, headers=OURS, follow_redirects=False)

    yield opening
    for engine in opened:
        engine.close()


def text_of(html: str) -> str:
    """What a reader sees of a page, on one line."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())
