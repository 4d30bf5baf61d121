"""The pages that look: what they show, what they cost, and what they say when they cannot."""

from __future__ import annotations

import json
import re
import sys
import time
from html import unescape
from typing import Any

import pytest
from starlette.testclient import TestClient

from atomq import Item, Queue, calls
from atomq.client import Engine
from atomq.web import asgi_app
from tests.servers import Cluster, Server
from tests.web.conftest import OURS, Open, known, shown, text_of, watched

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


# ── queues ────────────────────────────────────────────────────────────────────────────────────


def test_the_queues_in_numbers(busy: Queue, page: Open) -> None:
    client = page()
    said = shown(client, "/")
    row = re.search(r"orders (.*?) Pause", said)
    assert row, said
    # backlog, ready (by priority), held, expired, delayed, due, dead, oldest, rates
    assert re.fullmatch(r"5 5 0: 2 3: 3 1 0 1 0 1 \d+ m?s – –", row[1]), row[1]
    busy.pause()
    assert "orders paused" in shown(client, "/")


def test_what_is_due_and_what_expired_is_told(queue: Queue, page: Open) -> None:
    queue.put("due", delay=0.001)
    queue.put("x")
    time.sleep(0.02)
    known(queue.engine, queue.name)
    assert re.search(r"orders 2 1 0 0 1 1 0", shown(page(), "/"))


def test_rates_come_with_the_second_look(queue: Queue, page: Open) -> None:
    client = page()
    queue.put(0)
    known(queue.engine, queue.name)
    began = time.monotonic()
    client.get("/")
    queue.put_many(range(99))
    time.sleep(1.05)
    said = shown(client, "/")
    rate = re.search(r"orders 100 100 0 0 0 0 0 \S+ \S+ (\S+) 0 Pause", said)
    assert rate, said
    assert 99 / (time.monotonic() - began) - 1 <= float(rate[1]) <= 99


def test_names_are_text_whatever_they_are(engine: Engine, page: Open) -> None:
    names = ["a/b?c&d#e", "<script>alert(1)</script>", "ünï ço\ndé%2F", '"quo"ted', "a+b", "{x}"]
    for name in names:
        Queue(name, engine).put(1)
    known(engine, *names)
    client = page()
    html = client.get("/").text
    assert "<script>alert" not in html
    links = re.findall(r'<th scope="row"><a href="([^"]+)"', html)
    assert len(links) == len(names)
    for link in links:
        answer = client.get(link.replace("&amp;", "&"))
        assert answer.status_code == 200, link
        assert "<script>alert" not in answer.text


def test_a_queue_that_cannot_be_read_hides_no_other(
    busy: Queue, server: Server, page: Open
) -> None:
    broken = busy.engine.keys("broken")
    server.client().set(broken.unacked, "x")
    known(busy.engine, "broken")
    said = shown(page(), "/")
    assert "broken cannot be read" in said
    assert "orders 5" in said


def test_more_queues_than_a_page_holds(engine: Engine, page: Open) -> None:
    names = [f"q{n:03}" for n in range(250)]
    known(engine, *names)
    for name in names[::50] + names[-1:]:
        Queue(name, engine).put(1)
    client = page()
    html = client.get("/").text
    assert "q150" in html
    assert "q249" not in html
    (link,) = re.findall(r'rel="next" href="([^"]+)"', html)
    further = client.get(link).text
    assert "q249" in further
    assert 'rel="next"' not in further


def test_before_the_first_message_it_says_what_to_do(server: Server, page: Open) -> None:
    assert "atomq queues --scan" in shown(page(), "/")


def test_a_page_of_200_queues_is_two_calls_and_no_search(
    engine: Engine, server: Server, page: Open
) -> None:
    """What such a call takes is measured in tests/conformance/test_overview.py."""
    names = [f"q{n:03}" for n in range(200)]
    known(engine, *names)
    for name in names[::10]:
        queue = Queue(name, engine)
        queue.put_many([Item(1, priority=0), Item(1, priority=9), Item(1, delay=600)])
        queue.claim_many(1)[0].reject()
        engine.run(calls.pause(queue.keys))
    client = page()
    client.get("/")  # loads the scripts
    with watched(server) as ran:
        assert client.get("/").text.count('scope="row"') == 20  # of the others nothing is there yet
    assert ran.scripts == {"overview": 1, "roster": 1}
    assert not [name for name in ran if "SCAN" in name or name == "KEYS"]
    assert ran.total() <= 1_000


# ── the other pages ───────────────────────────────────────────────────────────────────────────


def test_dead_letters_of_all_queues_by_reason(busy: Queue, page: Open) -> None:
    other = Queue("emails", busy.engine)
    other.put_many(range(3))
    for message in other.claim_many(3):
        message.reject("bounced" if message.body else "spam")
    known(busy.engine, "emails")
    said = shown(page(), "/dead")
    assert re.search(r"emails 3 bounced 2 · spam 1 .*orders 1 no_card 1", said), said
    assert "4 dead letters" in said


def test_the_workers_and_what_they_hold(busy: Queue, page: Open, engine: Engine) -> None:
    entry = {
        "host": "db<1>", "pid": 7, "kind": "atomq", "version": "9", "queues": ["orders"],
        "queue_count": 1, "concurrency": 4, "holds": 2, "started_ms": 1,
        "working": [{"queue": "orders", "id": "o-1", "task": "", "seconds": 65.0}],
    }  # fmt: skip
    engine.run(
        calls.register(engine.register.keys, process="p", alive_ms=9999, entry=json.dumps(entry))
    )
    said = shown(page(), "/workers")
    assert re.search(r"db<1> pid 7 atomq 9 \d.* 2 4 orders o-1 for 65 s", said), said


def test_all_workers_are_shown(busy: Queue, page: Open, engine: Engine) -> None:
    for process, host in (("p", "one"), ("q", "two")):
        said = calls.register(
            engine.register.keys, process=process, alive_ms=9999, entry=f'{{"host": "{host}"}}'
        )
        engine.run(said)
    assert re.search(r"one .*two ", shown(page(), "/workers"))


def test_the_doctor_looks_when_asked(busy: Queue, page: Open) -> None:
    client = page()
    assert "Check now" in shown(client, "/doctor")
    said = shown(client, "/doctor?run=1")
    assert re.search(r"warn queue orders 1 dead letter", said), said


def test_metrics_for_prometheus(busy: Queue, page: Open) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    said = page().get("/metrics")
    assert said.headers["content-type"].startswith("text/plain")
    samples = [
        one for family in text_string_to_metric_families(said.text) for one in family.samples
    ]
    backlog = [one.value for one in samples if one.name == "atomq_queue_backlog"]
    assert backlog == [5.0]


def test_without_its_library_there_are_no_metrics(
    server: Server, page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "atomq.metrics", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert "pip install" in shown(page(), "/metrics", code=404)


def test_a_queue_of_partitions_is_one_queue(engine: Engine, page: Open) -> None:
    orders: Any = Queue("orders", engine, partitions=3)
    parts = orders.partitions()
    parts[1].put_many([Item(n, id=f"o-{n}") for n in range(3)])
    parts[2].put(1, id="elsewhere", delay=60)
    parts[2].put(1, id="dies")
    parts[2].claim_many(1)[0].reject("odd")
    known(engine, *(part.name for part in parts))
    client = page()
    said = shown(client, "/")
    assert re.search(r"orders 3 partitions 3 3 0 0 1 0 1 ", said), said
    assert "#" not in said.partition("Queue Backlog")[2]
    said = shown(client, "/queue", name="orders")
    assert re.search(rf"Partition .* {parts[1].name} 3 0 0 0 ", said), said
    assert f"Messages of {parts[1].name}: Id" in said
    assert "o-0" in said
    link = re.search(r'href="(/message[^"]*o-1[^"]*)"', client.get("/queue?name=orders").text)
    assert link, said
    assert "o-1" in shown(client, unescape(link[1]))
    said = shown(client, "/queue", name=parts[2].name, part="delayed")
    assert f"Queues / orders {parts[2].name}" in said, said
    assert "elsewhere" in said
    assert parts[2].name in shown(client, "/message", name="orders", id="elsewhere")
    assert re.search(r"orders 1 odd 1 ", shown(client, "/dead"))

    def act(action: str, **form: Any) -> None:
        assert client.post(f"/do/{action}", data={"confirmed": 1, **form}).status_code == 303

    act("pause", queue="orders")
    assert all(part.state().paused for part in parts)
    act("resume", queue="orders")
    act("redrive", queue="orders", all=1)
    assert orders.state().ready == 4
    act("cancel", queue=parts[1].name, part="ready", key="o-1")
    assert orders.state().ready == 3
    act("purge", queue="orders", parts="ready")
    assert orders.state().ready == 0


def test_on_a_cluster(cluster: Cluster) -> None:
    with Engine(cluster.url.replace("redis:", "redis+cluster:")) as engine:
        queue = Queue("orders", engine)
        queue.put_many([Item(n, id=f"o-{n}") for n in range(3)])
        queue.claim_many(1)[0].reject("odd")
        known(engine, "orders", "emails")
        client = TestClient(asgi_app(engine, writable=True), headers=OURS)
        assert "orders 2 2" in shown(client, "/")
        said = shown(client, "/queue", name="orders", part="dead")
        assert re.search(r"o-0 \S+ m?s ago odd", said), said
        assert client.post("/do/redrive", data={"queue": "orders", "reason": "odd", "confirmed": 1})
        assert queue.state().ready == 3
        assert "cluster" in shown(client, "/doctor?run=1")


# ── trouble ───────────────────────────────────────────────────────────────────────────────────

EVERY = ("/", "/queue?name=orders", "/message?queue=orders&key=1-1&part=dead", "/dead", "/workers")


@pytest.mark.parametrize("path", EVERY)
def test_a_server_that_is_gone_is_a_page_that_says_so(page: Open, kind: str, path: str) -> None:
    app = asgi_app("redis://127.0.0.1:1", retry_budget=0)
    with TestClient(app) as client:
        answer = client.get(path)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    said = text_of(answer.text)
    assert "cannot be reached" in said
    assert "Traceback" not in said
    assert 'data-hx-trigger="every' in answer.text


def test_the_page_comes_back_with_the_server(own_server: Server) -> None:
    Queue("orders", own_server.url).put(1)
    with TestClient(asgi_app(own_server.url, retry_budget=0)) as client:
        assert client.get("/queue?name=orders").status_code == 200
        own_server.kill()
        assert client.get("/queue?name=orders").status_code == 503
        own_server.start()
        assert client.get("/queue?name=orders").status_code == 200


def test_a_fault_of_ours_shows_no_trace(
    busy: Queue, page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atomq.web import queue_page

    monkeypatch.setattr(queue_page, "_listed", lambda *_: 1 / 0)
    client = page()
    client = TestClient(client.app, raise_server_exceptions=False)
    said = shown(client, "/queue?name=orders", code=500)
    assert "ZeroDivision" not in said
    assert "has a fault" in said


def test_a_user_who_may_not_read_is_told_so(busy: Queue, server: Server, page: Open) -> None:
    server.client().execute_command("ACL", "SETUSER", "default", "resetkeys", "~none")
    said = shown(page(), "/queue?name=orders", code=403)
    assert "Not allowed" in said


def test_the_password_of_the_server_is_not_shown(kind: str) -> None:
    app = asgi_app("redis://user:s3cret@127.0.0.1:1", retry_budget=0)
    with TestClient(app) as client:
        html = client.get("/").text
    assert "s3cret" not in html
    assert "127.0.0.1:1" in html
