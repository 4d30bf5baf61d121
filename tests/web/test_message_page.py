"""The page of one message: found by its place or its id, shown whatever it is."""

from __future__ import annotations

import json
import pickle
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from atomq import Item, Queue, calls
from atomq.client import Engine
from atomq.serializers import Serializer
from tests.servers import Server
from tests.web.conftest import Open, shown

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


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
