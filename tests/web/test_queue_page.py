"""The page of one queue: its parts, page by page, and what a filter finds."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from atomq import Engine, Item, Queue
from atomq.web import asgi_app
from tests.faults.test_cluster import PARTIAL, name_on, url_of
from tests.servers import Cluster, Server
from tests.web.conftest import OURS, Open, shown, text_of, watched

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


@pytest.mark.parametrize(
    ("part", "row"),
    [
        ("ready", r"o-2 0 0 \d+ B o-4 0 0 .* 1 to 5 of 5"),
        ("delayed", r"later in \d+ min 0 0"),
        ("unacked", r"due \S+ \(pid \d+\)|due [0-9a-f-]+ \d+ m?s in \d+ s 0 1"),
        ("dead", r"o-0 \d+ m?s ago no_card ValueError: refused 0 1"),
    ],
)
def test_the_parts_of_a_queue(busy: Queue, page: Open, part: str, row: str) -> None:
    said = shown(page(), "/queue", name="orders", part=part)
    assert re.search(row, said), said
    assert "Ready 5 Delayed 1 Held 1 Dead 1" in said


@pytest.mark.parametrize("query", [{"name": "ordres"}, {"name": "orders", "part": "raedy"}])
def test_a_typo_is_not_found(busy: Queue, page: Open, query: dict[str, str]) -> None:
    said = shown(page(), "/queue", code=404, **query)
    assert "orders" in said or "ready, delayed" in said


@pytest.mark.parametrize("path", ["/queue", "/queue?name=unacked", "/queue?name=_atomq.x"])
def test_what_no_queue_may_be_called_is_a_wrong_request(
    server: Server, page: Open, path: str
) -> None:
    assert "name" in shown(page(), path, code=400)


@pytest.mark.parametrize("path", ["/nowhere", "/static/../app.py", "/static/nothing.js", "/do/x"])
def test_what_is_not_there_is_not_found(server: Server, page: Open, path: str) -> None:
    assert page().get(path).status_code in (404, 405)


def test_pages_of_ready_messages(queue: Queue, page: Open) -> None:
    queue.put_many([Item(n, id=f"o-{n:03}") for n in range(120)])
    client = page()
    html = client.get("/queue", params={"name": "orders"}).text
    seen = re.findall(r"o-\d{3}(?=</a>)", html)
    while link := re.search(r'rel="next" href="([^"]+)"', html):
        html = client.get(link[1].replace("&amp;", "&")).text
        seen += re.findall(r"o-\d{3}(?=</a>)", html)
    assert seen == [f"o-{n:03}" for n in range(120)]


def test_pages_of_dead_letters_the_newest_first(queue: Queue, page: Open) -> None:
    queue.put_many([Item(n, id=f"o-{n:03}") for n in range(120)])
    for message in queue.claim_many(120):
        message.reject("odd" if message.body % 2 else "even")
    client = page()
    html = client.get("/queue", params={"name": "orders", "part": "dead"}).text
    seen = re.findall(r"o-\d{3}(?=</a>)", html)
    while link := re.search(r'rel="next" href="([^"]+)"', html):
        html = client.get(link[1].replace("&amp;", "&")).text
        seen += re.findall(r"o-\d{3}(?=</a>)", html)
    assert seen == [f"o-{n:03}" for n in reversed(range(120))]
    said = shown(client, "/queue", name="orders", part="dead", reason="odd")
    assert "60 of 120 messages looked at" in said
    assert "even" not in said.partition("Size")[2]


@pytest.mark.parametrize(
    ("part", "wanted", "found"),
    [
        ("ready", "o-4", ["o-4"]),
        ("ready", "none", []),
        ("delayed", "later", ["later"]),
        ("unacked", "due", ["due"]),
        ("dead", "o-0", ["o-0"]),
    ],
)
def test_a_filter_finds_an_id(
    busy: Queue, page: Open, part: str, wanted: str, found: list[str]
) -> None:
    html = page().get("/queue", params={"name": "orders", "part": part, "id": wanted}).text
    assert re.findall(r'<th scope="row"><a [^>]*>([^<]+)<', html) == found


def test_without_the_right_to_read_backwards_the_longest_dead_come_first(
    queue: Queue, server: Server, page: Open
) -> None:
    for n in range(3):
        queue.put(n, id=f"o-{n}")
        for message in queue.claim_many(1):
            message.reject()
    server.client().execute_command("ACL", "SETUSER", "default", "-xrevrange")
    html = page().get("/queue", params={"name": "orders", "part": "dead"}).text
    assert re.findall(r"o-\d(?=</a>)", html) == ["o-0", "o-1", "o-2"]
    assert "the longest dead first" in html


@pytest.mark.slow
def test_a_page_of_100_000_dead_letters_is_two_calls_as_one_of_100_is(
    queue: Queue, server: Server, page: Open
) -> None:
    fill = """
    for n = 1, 100000 do
      redis.call("XADD", KEYS[1], n .. "-0", "reason", "r", "detail", "", "deliveries", 1,
        "step", 1, "message", "{}")
    end"""
    server.client().eval(fill, 1, queue.keys.dead)
    client = page()
    client.get("/queue", params={"name": "orders", "part": "dead"})
    with watched(server) as ran:
        for query in ({}, {"before": "50000-0"}, {"reason": "other"}):
            params = {"name": "orders", "part": "dead", **query}
            assert client.get("/queue", params=params).is_success
    assert ran["XREVRANGE"] == 3  # with a COUNT: it reads no more
    assert ran.scripts == {"overview": 3}
    assert not {"XRANGE", "SCAN", "KEYS"} & ran.keys()


@pytest.mark.long
def test_of_a_queue_whose_first_partition_is_away_the_others_are_shown(kind: str) -> None:
    """And what is done is done to them, and says so."""
    with Cluster(kind, nodes=3, options=PARTIAL) as cluster:
        url, name = url_of(cluster), name_on(cluster, 1)
        with Engine(url, retry_budget=0) as engine:
            orders: Any = Queue(name, engine, partitions=3)
            for part in orders.partitions():
                part.put("x", id=f"in {part.name}")
            cluster.nodes[1].kill()
            page = TestClient(asgi_app(engine, writable=True), headers=OURS, follow_redirects=False)
            assert "in " + orders.partitions()[1].name in shown(page, "/queue", name=name)
            assert "Dead" in shown(page, "/queue", name=name, part="dead")
            done = page.post("/do/pause", data={"queue": name})
            assert done.status_code == 503, done.text
            assert f"not to {name}." in text_of(done.text)
            assert [part.state().paused for part in orders.partitions()[1:]] == [True, True]
