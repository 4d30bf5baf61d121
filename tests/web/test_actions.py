"""What the page can do: by a form, asked about where it destroys, logged, and only if it may."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from starlette.testclient import TestClient

from atomq import Item, Queue
from atomq.errors import LeaseLost
from atomq.web import asgi_app
from tests.web.conftest import OURS, text_of

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
Open = Callable[..., TestClient]


@pytest.fixture
def dead(queue: Queue) -> Queue:
    """A queue with four dead letters of two reasons."""
    queue.put_many([Item(n, id=f"o-{n}") for n in range(4)])
    for message in queue.claim_many(4):
        message.reject("odd" if message.body % 2 else "even")
    return queue


def forms(html: str) -> list[tuple[str, dict[str, list[str]]]]:
    """The forms of a page that post: where to, and what they say by themselves."""
    found = []
    for action, inside in re.findall(
        r'<form method="post" action="([^"]+)"[^>]*>(.*?)</form>', html, re.DOTALL
    ):
        fields: dict[str, list[str]] = {}
        for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', inside):
            fields.setdefault(name, []).append(value)
        found.append((action, fields))
    return found


def do(client: TestClient, action: str, **fields: Any) -> str:
    """Post this, say yes if asked, and follow to where it leads: what the reader is told there."""
    answer = client.post(f"/do/{action}", data={"queue": "orders", **fields})
    if answer.status_code == 200:
        ((where, hidden),) = forms(answer.text)
        answer = client.post(where, data=hidden)
    assert answer.status_code == 303, answer.text
    told = re.search(r'class="did"[^>]*>([^<]+)<', client.get(answer.headers["location"]).text)
    assert told
    return told[1]


def test_pause_and_resume(queue: Queue, page: Open) -> None:
    queue.put(1)
    client = page()
    assert do(client, "pause") == "Paused."
    assert queue.state().paused
    assert do(client, "resume", page="queues") == "Resumed."
    assert not queue.state().paused


def test_redrive_some(dead: Queue, page: Open) -> None:
    first, second, *_ = dead.peek("dead")
    client = page()
    assert do(client, "redrive", key=[first.name, second.name]) == "2 messages put back to ready."
    assert (dead.state().ready, dead.state().dead) == (2, 2)
    told = do(client, "redrive", key=[first.name])
    assert told.startswith("0 messages put back to ready. 1 not")


def test_redrive_all_asks_once(dead: Queue, page: Open) -> None:
    client = page()
    asked = client.post("/do/redrive", data={"queue": "orders", "all": "1"})
    assert "all dead letters of orders (4 now)" in text_of(asked.text)
    assert dead.state().dead == 4
    assert do(client, "redrive", all="1") == "4 messages put back to ready."


def test_redrive_and_throw_away_by_reason(dead: Queue, page: Open) -> None:
    client = page()
    assert do(client, "redrive", reason="odd") == "2 messages put back to ready."
    assert [letter.reason for letter in dead.peek("dead")] == ["even", "even"]
    dead.claim_many(1)[0].reject("odd")
    assert do(client, "discard", reason="even") == "2 messages thrown away."
    assert [letter.reason for letter in dead.peek("dead")] == ["odd"]


def test_throw_away_some_or_all(dead: Queue, page: Open) -> None:
    client = page()
    one = dead.peek("dead")[0].name
    asked = client.post("/do/discard", data={"queue": "orders", "key": one})
    assert "This cannot be undone" in asked.text
    assert dead.state().dead == 4
    assert do(client, "discard", key=one) == "1 message thrown away."
    assert do(client, "discard", all="1", page="dead") == "3 messages thrown away."
    assert dead.state().ready == 0


@pytest.mark.parametrize("part", ["ready", "delayed", "unacked", "dead"])
def test_purge_takes_one_part(dead: Queue, page: Open, part: str) -> None:
    dead.put(1)
    held = dead.claim_many(1)
    dead.put_many([Item(1), Item(1, delay=60)])
    before = dead.state()
    client = page()
    asked = text_of(client.post("/do/purge", data={"queue": "orders", "parts": part}).text)
    assert "cannot be undone" in asked
    assert dead.state().ready == before.ready
    do(client, "purge", parts=part)
    after = dead.state()
    for each in ("ready", "delayed", "unacked", "dead"):
        assert getattr(after, each) == (0 if each == part else getattr(before, each))
    assert len(held) == 1


def test_cancel_what_is_delayed(queue: Queue, page: Open) -> None:
    queue.put_many([Item(n, id=f"d-{n}", delay=60) for n in range(3)])
    client = page()
    told = do(client, "cancel", key=["d-0", "d-2", "gone"])
    assert told.startswith("2 messages cancelled. 1 not")
    assert [each.name for each in queue.peek("delayed")] == ["d-1"]


def test_cancel_what_is_ready_or_held(queue: Queue, page: Open) -> None:
    for n in range(3):
        queue.put(n, id=f"r-{n}", tracked=True)
    (held,) = queue.claim_many(1)
    client = page()
    assert do(client, "cancel", part="ready", key="r-1") == "1 message cancelled."
    assert queue.get("r-1").state == "cancelled"
    asked = client.post("/do/cancel", data={"queue": "orders", "part": "unacked", "key": "x"})
    assert "Their holders hear of it" in asked.text
    assert do(client, "cancel", part="unacked", key=held.receipt) == "1 message cancelled."
    assert queue.get("r-0").cancelling


def test_run_now_what_is_delayed(queue: Queue, page: Open) -> None:
    queue.put(1, id="d-1", delay=60)
    told = do(page(), "run", part="delayed", key=["d-1", "d-2"])
    assert told.startswith("1 message due now. 1 not")
    assert queue.state().due == 1


def test_release_what_is_held(queue: Queue, page: Open) -> None:
    queue.put(1)
    (held,) = queue.claim_many(1)
    client = page()
    assert do(client, "release", key=held.receipt) == "1 message given back to ready."
    assert queue.state().ready == 1
    with pytest.raises(LeaseLost):
        held.ack()


# ── rights ───────────────────────────────────────────────────────────────────────────────────


def test_pages_that_only_look_offer_nothing_and_do_nothing(dead: Queue, page: Open) -> None:
    client = page(writable=False)
    for path in ("/", "/queue?name=orders&part=dead", "/dead"):
        html = client.get(path).text
        assert 'method="post" action="/do' not in html
        assert "read-only" in html
    for action in ("pause", "redrive", "purge"):
        fields = {"queue": "orders", "all": "1", "parts": "dead", "confirmed": "1"}
        assert client.post(f"/do/{action}", data=fields).status_code == 403
    assert dead.state().dead == 4
    assert not dead.state().paused


def test_nothing_is_done_by_a_link(dead: Queue, page: Open) -> None:
    client = page()
    for action in ("pause", "resume", "redrive", "discard", "purge", "cancel", "run", "release"):
        answer = client.get(f"/do/{action}?queue=orders&all=1&parts=dead&confirmed=1")
        assert answer.status_code == 405
    assert dead.state().dead == 4


@pytest.mark.parametrize("site", ["cross-site", "same-site", None])
def test_another_site_can_do_nothing(dead: Queue, page: Open, site: str | None) -> None:
    client = page()
    headers = {"sec-fetch-site": site} if site else {"origin": "https://evil.example"}
    if site is None:
        del client.headers["sec-fetch-site"]
    fields = {"queue": "orders", "all": "1", "confirmed": "1"}
    assert client.post("/do/redrive", data=fields, headers=headers).status_code == 403
    assert dead.state().dead == 4


def test_who_may_act_is_for_the_application_to_say(dead: Queue) -> None:
    """Per request; and the log names the user that it knows."""

    def may_write(request: Request) -> bool:
        return request.headers["x-user"] == "ann"

    app = asgi_app(dead.engine, writable=may_write, user=lambda r: r.headers["x-user"])
    host = Starlette(routes=[Mount("/admin/queues", app)])
    client = TestClient(host, headers=OURS, follow_redirects=False)
    fields = {"queue": "orders"}
    where = "/admin/queues/do/pause"
    assert client.post(where, data=fields, headers={"x-user": "bob"}).status_code == 403
    answer = client.post(where, data=fields, headers={"x-user": "ann"})
    assert answer.headers["location"].startswith("/admin/queues/queue?name=orders")
    assert dead.state().paused
    html = client.get(answer.headers["location"], headers={"x-user": "ann"}).text
    assert re.findall(r'(?:href|src|action|data-hx-get)="(/[^"]*)"', html)
    assert not re.findall(r'(?:href|src|action|data-hx-get)="(/(?!admin/queues/)[^"]*)"', html)


def test_what_is_done_is_logged_with_who_and_what(
    dead: Queue, page: Open, caplog: pytest.LogCaptureFixture
) -> None:
    client = page(user=lambda _: "ann")
    with caplog.at_level(logging.INFO, "atomq.web"):
        do(client, "redrive", reason="odd")
    (record,) = [each for each in caplog.records if each.name == "atomq.web"]
    assert record.message == "ann: redrive 'orders': 2 messages (reason odd)"
    done = (record.user, record.action, record.queue, record.done)
    assert done == ("ann", "redrive", "orders", 2)


# ── what is no request of ours ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("action", "fields", "code"),
    [
        ("explode", {"queue": "orders"}, 404),
        ("pause", {"queue": "ordres"}, 404),
        ("pause", {}, 400),
        ("redrive", {"queue": "orders"}, 400),
        ("discard", {"queue": "orders", "confirmed": "1"}, 400),
        ("purge", {"queue": "orders", "confirmed": "1"}, 400),
        ("purge", {"queue": "orders", "parts": "settings", "confirmed": "1"}, 400),
        ("cancel", {"queue": "orders", "all": "1", "confirmed": "1"}, 400),
        ("redrive", {"queue": "orders", "key": "not an id"}, 400),
        ("redrive", {"queue": "orders", "key": ["1-1"] * 5000}, 400),
        ("redrive", {"queue": "orders", "reason": "x" * 300_000}, 413),
    ],
)
def test_a_wrong_form_does_nothing(
    dead: Queue, page: Open, action: str, fields: dict[str, Any], code: int
) -> None:
    answer = page().post(f"/do/{action}", data=fields)
    assert answer.status_code == code, answer.text
    assert dead.state().dead == 4


def test_what_is_said_afterwards_comes_from_us(queue: Queue, page: Open) -> None:
    """A link cannot make the page say what its author likes."""
    queue.put(1)
    html = page().get("/queue?name=orders&did=Buy+now&n=7&left=8").text
    assert "Buy now" not in html
    assert "did" not in text_of(html)
