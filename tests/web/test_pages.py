"""The pages that look: what they show, what they cost, and what they say when they cannot."""

from __future__ import annotations

import json
import pickle
import re
import sys
import time
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from starlette.testclient import TestClient

from atomq import Item, Queue, calls
from atomq.client import Engine
from atomq.serializers import Serializer
from atomq.web import asgi_app
from tests.servers import Cluster, Server
from tests.web.conftest import OURS, text_of

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
Open = Callable[..., TestClient]


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
    server.client().config_resetstat()
    assert client.get("/").text.count('scope="row"') == 20  # of the others nothing is there yet
    stats = server.client().info("commandstats")
    ran = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
    assert ran.pop("evalsha") == 2
    assert not [name for name in ran if "scan" in name or name == "keys"]
    assert sum(ran.values()) <= 1_000


# ── one queue ─────────────────────────────────────────────────────────────────────────────────


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
    server.client().config_resetstat()
    for query in ({}, {"before": "50000-0"}, {"reason": "other"}):
        assert client.get("/queue", params={"name": "orders", "part": "dead", **query}).is_success
    stats = server.client().info("commandstats")
    assert stats["cmdstat_xrevrange"]["calls"] == 3  # with a COUNT: it reads no more
    assert stats["cmdstat_evalsha"]["calls"] == 3
    assert not {"cmdstat_xrange", "cmdstat_scan", "cmdstat_keys"} & stats.keys()


# ── one message ───────────────────────────────────────────────────────────────────────────────


def links_to_messages(client: TestClient, part: str) -> list[str]:
    html = client.get("/queue", params={"name": "orders", "part": part}).text
    return [each.replace("&amp;", "&") for each in re.findall(r'"(/message[^"]+)"', html)]


@pytest.mark.parametrize("part", ["ready", "delayed", "unacked", "dead"])
def test_each_message_can_be_looked_at(busy: Queue, page: Open, part: str) -> None:
    client = page()
    for link in links_to_messages(client, part):
        assert '"n":' in shown(client, link)
    gone = links_to_messages(client, part)[0]
    busy.purge("ready", "delayed", "unacked", "dead")
    assert "any more" in shown(client, gone, code=404)


def test_a_ready_message_is_found_though_others_left_in_front(queue: Queue, page: Open) -> None:
    queue.put_many([Item({"n": n}, id=f"o-{n}") for n in range(10)])
    client = page()
    link = links_to_messages(client, "ready")[7]
    for message in queue.claim_many(5):
        message.ack()
    assert '"n": 7' in shown(client, link)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("o-2", r"/ ready o-2 .* \"n\": 2"),
        ("later", r"/ delayed later Due in \d+ min"),
        ("due", r"/ held due Holder"),
        ("o-0", r"/ dead o-0 Reason no_card"),
        ("done", r"done State done .* Result \{ \"total\": 7 \}"),
        ("nowhere", r"nowhere State unknown .* not tracked"),
    ],
)
def test_where_is_this_id(busy: Queue, page: Open, wanted: str, said: str) -> None:
    busy.put(1, id="done", priority=0, tracked=True)
    for message in busy.claim_many(9):
        if message.id == "done":
            message.complete({"total": 7})
        else:
            message.release(front=True, counted=False)
    html = shown(page(), "/message", queue="orders", id=wanted)
    assert re.search(said, html), html


def test_how_far_a_holder_is(queue: Queue, page: Open) -> None:
    queue.put(1, id="long", tracked=True)
    (held,) = queue.claim_many(1)
    queue.engine.run(calls.progress(queue.keys, "long", held.receipt, 0.4, "resizing <b>"))
    client = page()
    for link in (*links_to_messages(client, "unacked"), "/message?queue=orders&id=long"):
        assert re.search(r"Progress 40 % 40 % resizing <b>", shown(client, link))


class Bomb:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('unpickled')",)


def test_nothing_is_unpickled(engine: Engine, page: Open) -> None:
    pickles = Serializer("application/x-python-serialize", pickle.dumps, pickle.loads)
    Queue("orders", engine, serializer=pickles).put(Bomb(), id="p")
    client = page()
    said = shown(client, links_to_messages(client, "ready")[0])
    assert "application/x-python-serialize" in said
    assert "base64:" in said


JUNK = (
    b"", b"{", b"\xff\xfe", b"[]", b"7", b'{"body": 7, "headers": [], "properties": 3}',
    b'{"body":"x","properties":{"body_encoding":"rot13","delivery_tag":"<b>"}}',
    b'{"body":"' + b"[" * 5000 + b'","content-type":"application/json"}',
)  # fmt: skip


@pytest.mark.parametrize("part", ["ready", "dead"])
def test_what_is_no_message_can_be_looked_at(
    queue: Queue, server: Server, page: Open, part: str
) -> None:
    for raw in JUNK:
        letter: Any = {"reason": "r", "detail": "d", "deliveries": 1, "step": 1, "message": raw}
        server.client().lpush(queue.keys.ready[0], raw)
        server.client().xadd(queue.keys.dead, letter)
    client = page()
    links = links_to_messages(client, part)
    assert len(links) == len(JUNK)
    for link in links:
        assert client.get(link).status_code == 200


def test_bodies_and_headers_are_escaped_and_cut(queue: Queue, page: Open) -> None:
    text = "<script>alert(1)</script>\u202e" + "x" * 100_000
    queue.put({"text": text}, id="<i>", headers={"<b>": "</pre><script>", "long": "y" * 50_000})
    client = page()
    html = client.get(links_to_messages(client, "ready")[0]).text
    assert not re.search(r"<script>|<i>|<b>", html)
    assert "\u202e" not in html
    assert len(html) < 60_000
    assert "more characters are not shown" in html


def test_json_is_laid_out(queue: Queue, page: Open) -> None:
    queue.put({"a": [1, {"ü": None}]})
    client = page()
    html = client.get(links_to_messages(client, "ready")[0]).text
    shown_body = re.search(r"<pre[^>]*>(.*?)</pre>", html, re.DOTALL)
    assert shown_body
    assert json.loads(shown_body[1].replace("&#34;", '"')) == {"a": [1, {"ü": None}]}
    assert "\n  " in shown_body[1]


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
    from atomq.web import pages

    monkeypatch.setattr(pages, "_listed", lambda *_: 1 / 0)
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
