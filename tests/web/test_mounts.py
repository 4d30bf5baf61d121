"""The page mounted in other applications, behind their own login and below their paths."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import httpx2
import pytest
from a2wsgi import ASGIMiddleware

from atomq import Queue
from atomq.web import asgi_app
from tests.servers import ROOT, Server
from tests.web.conftest import OURS

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)

LINKS = re.compile(r'(?:href|src|action|data-hx-get)="(/[^"]*)"')


@pytest.fixture
def orders(queue: Queue) -> Queue:
    queue.put({"n": 1}, id="o-1")
    return queue


def test_in_a_wsgi_application(orders: Queue) -> None:
    inner: Any = ASGIMiddleware(asgi_app(orders.engine, writable=True))

    def host(environ: dict[str, Any], start: Any) -> Any:
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = "/queues", environ["PATH_INFO"][7:]
        return inner(environ, start)

    transport = httpx2.WSGITransport(app=host)
    with httpx2.Client(transport=transport, base_url="http://shop.example", headers=OURS) as client:
        html = client.get("/queues/queue?name=orders").text
        assert "o-1" in html
        assert all(link.startswith("/queues/") for link in LINKS.findall(html))
        done = client.post("/queues/do/pause", data={"queue": "orders"})
        assert done.headers["location"].startswith("/queues/queue?")
    assert orders.state().paused


def test_in_django_behind_its_login(orders: Queue, server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.web.django_project", server.tcp_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert orders.state().paused
