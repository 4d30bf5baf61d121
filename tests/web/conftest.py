"""The page over a test's server, asked by a client that runs it in this process."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from typing import Any

import pytest
from starlette.testclient import TestClient

from atomq import Item, Queue, calls, scripts
from atomq.client import Engine
from atomq.web import asgi_app
from tests.servers import Server

OURS = {"sec-fetch-site": "same-origin"}
Open = Callable[..., TestClient]


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


def known(engine: Engine, *names: str) -> None:
    engine.run(calls.register(engine.register.keys, names))


def shown(client: TestClient, path: str, code: int = 200, **query: Any) -> str:
    answer = client.get(path, params=query or None)
    assert answer.status_code == code, answer.text
    return text_of(answer.text)


@pytest.fixture
def busy(queue: Queue) -> Queue:
    """A queue with something in each of its parts."""
    queue.put_many([Item({"n": n}, id=f"o-{n}", priority=3 * (n % 2)) for n in range(6)])
    queue.put({"n": "later"}, id="later", delay=3600)
    queue.put({"n": "due"}, id="due", delay=0.001)
    time.sleep(0.01)
    _held, dying = queue.claim_many(2)
    dying.reject("no_card", "ValueError: refused")
    known(queue.engine, queue.name)
    return queue


class Ran(Counter[str]):
    """How often each command was carried out, those inside scripts too; a script by its name."""

    @property
    def scripts(self) -> dict[str, int]:
        """Of the scripts alone; without what other threads of this process do now and then."""
        return {name: self[name] for name in scripts.names() if name in self and name != "register"}


@contextmanager
def watched(server: Server) -> Iterator[Ran]:
    """Count what the server does meanwhile."""
    ran, by_sha = Ran(), {script.sha: script.name for script in scripts.every()}
    with server.client().monitor() as monitor:
        yield ran
        server.client().echo("end")
        while (words := monitor.next_command()["command"].split()) != ["ECHO", "end"]:
            ran[by_sha.get(words[1], words[0]) if len(words) > 1 else words[0]] += 1
