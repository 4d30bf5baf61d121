"""What every request passes: host, password, origin; and what every answer says to the browser."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from atomq.web.guard import LOOPBACK, USER, Guard


def told(request: Request) -> Response:
    user = request.scope.get(USER, "-")
    return PlainTextResponse(f"{user} {request.scope['root_path']} {request.scope['path']}")


def client(**settings: Any) -> TestClient:
    app = Starlette(routes=[Route("/{path:path}", told, methods=["GET", "POST"])])
    return TestClient(Guard(app, **settings), base_url="http://page.example")


def basic(text: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "cross-site"}])
def test_every_answer_tells_the_browser_what_it_may_load(headers: dict[str, str]) -> None:
    said = client().get("/", headers=headers).headers
    policy = said["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert said["x-content-type-options"] == "nosniff"
    assert said["cache-control"] == "no-store"
    assert "set-cookie" not in said


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://page.example"}, 403),
        ({"origin": "http://page.example"}, 200),
        ({"origin": "http://page.example:81"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://page.example", "host": "page.example:81"}, 403),
        ({}, 403),
    ],
)
def test_a_form_comes_from_our_own_pages(headers: dict[str, str], code: int) -> None:
    said = client().post("/", headers=headers)
    assert said.status_code == code
    if code == 403:  # and says what is wrong
        assert ("Another site" if headers else "Sec-Fetch-Site and Origin") in said.text


@pytest.mark.parametrize(
    ("mode", "code"), [("navigate", 200), ("no-cors", 403), ("cors", 403), ("", 403)]
)
def test_another_site_may_link_here_and_load_nothing(mode: str, code: int) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode}
    assert client().get("/", headers=headers).status_code == code


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("Queues.example", 200),
        ("rebound.evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("", 403),
    ],
)
def test_a_name_that_was_led_to_this_machine_is_not_served(host: str, code: int) -> None:
    guarded = client(hosts=LOOPBACK | {"queues.example"})
    assert guarded.get("/", headers={"host": host}).status_code == code


def test_behind_a_proxy_that_changes_the_host_the_origin_may_be_one_of_ours() -> None:
    guarded = client(hosts=LOOPBACK | {"queues.example"})
    headers = {"host": "127.0.0.1:8080", "origin": "https://queues.example"}
    assert guarded.post("/", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "user"),
    [
        (basic("ann:s3cret:with colon"), "ann"),
        (basic("bob:ünïcode"), "bob"),
        (basic("ann:wrong"), None),
        (basic("ann:"), None),
        (basic("ann"), None),
        (basic("carl:s3cret:with colon"), None),
        (basic("carl:"), None),
        ({"authorization": "Basic %%%"}, None),
        ({"authorization": "Basic /w=="}, None),
        ({"authorization": "Bearer x"}, None),
        ({}, None),
    ],
)
def test_a_name_needs_its_password(headers: dict[str, str], user: str | None) -> None:
    guarded = client(users={"ann": "s3cret:with colon", "bob": "ünïcode"})
    said = guarded.get("/", headers=headers)
    if user:
        assert said.text.startswith(f"{user} ")
    else:
        assert said.status_code == 401
        assert said.headers["www-authenticate"].startswith("Basic ")


def test_the_password_does_not_stand_in_for_the_origin() -> None:
    guarded = client(users={"ann": "s3cret"})
    headers = {**basic("ann:s3cret"), "sec-fetch-site": "cross-site"}
    assert guarded.post("/", headers=headers).status_code == 403


@pytest.mark.parametrize("path", ["/queue", "/q/queue"])
def test_a_proxy_may_take_its_prefix_off_or_leave_it(path: str) -> None:
    assert client(prefix="/q/").get(path).text == "- /q /q/queue"
