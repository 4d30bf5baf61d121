"""The page mounted in other applications, behind their own login and below their paths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from a2wsgi import ASGIMiddleware

from atomq import Queue
from atomq.web import asgi_app
from tests.web.conftest import OURS, text_of

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)

FORM = "application/x-www-form-urlencoded"
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


@pytest.fixture
def django(orders: Queue) -> Iterator[Any]:
    """A client of a Django project that mounts the page, and its users."""
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            SECRET_KEY="x",
            ALLOWED_HOSTS=["*"],
            INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
            MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
            LOGIN_URL="/login/",
        )
    import django as framework

    framework.setup()
    from django.contrib.auth.models import AnonymousUser
    from django.test import Client, override_settings
    from django.urls import include, path

    from atomq.web import django as ours

    class User:
        is_authenticated = is_active = True

        def __init__(self, name: str) -> None:
            self.is_staff, self.is_superuser = name in ("ann", "bob"), name == "ann"
            self._name = name

        def get_username(self) -> str:
            return self._name

    def with_user(next_one: Any) -> Any:
        def run(request: Any) -> Any:
            name = request.headers.get("x-user")
            request.user = User(name) if name else AnonymousUser()
            return next_one(request)

        return run

    class Urls:
        urlpatterns = [path("admin/queues/", include(ours.urls(orders.engine)))]  # noqa: RUF012

    middleware = [*settings.MIDDLEWARE, f"{__name__}._with_user"]
    globals()["_with_user"] = with_user
    with override_settings(ROOT_URLCONF=Urls, MIDDLEWARE=middleware):
        yield Client(enforce_csrf_checks=True)


def test_in_django_behind_its_login(django: Any, orders: Queue) -> None:
    page = "/admin/queues/queue?name=orders"
    sent_away = django.get(page)
    assert (sent_away.status_code, sent_away["location"][:7]) == (302, "/login/")
    assert django.get(page, headers={"x-user": "carl"}).status_code == 403
    html = django.get(page, headers={"x-user": "bob"}).content.decode()
    assert "o-1" in text_of(html)
    assert "read-only" in html
    assert all(link.startswith("/admin/queues/") for link in LINKS.findall(html))
    style = re.search(r'href="([^"]+\.css[^"]*)"', html)
    assert style
    assert django.get(style[1], headers={"x-user": "bob"})["content-type"].startswith("text/css")


def test_in_django_those_act_who_may(django: Any, orders: Queue) -> None:
    fields = "queue=orders"
    for user, site, code in (
        ("bob", "same-origin", 403),
        ("ann", "cross-site", 403),
        ("ann", "same-origin", 303),
    ):
        headers = {"x-user": user, "sec-fetch-site": site}
        answer = django.post("/admin/queues/do/pause", fields, headers=headers, content_type=FORM)
        assert answer.status_code == code, (user, site)
    assert answer["location"].startswith("/admin/queues/queue?name=orders")
    assert orders.state().paused
