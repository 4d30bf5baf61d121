"""A Django project that mounts the page: `python -m tests.web.django_project URL` tries it.

A process of its own, for Django has one configuration a process.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import django
from django.conf import settings

FORM = "application/x-www-form-urlencoded"
LINKS = re.compile(r'(?:href|src|action|data-hx-get)="(/[^"]*)"')


class User:
    """One of the project's users: ann may do everything, bob is of its staff, carl is neither."""

    is_authenticated = is_active = True

    def __init__(self, name: str) -> None:
        self.is_staff, self.is_superuser = name in ("ann", "bob"), name == "ann"
        self._name = name

    def get_username(self) -> str:
        return self._name


def with_user(respond: Any) -> Any:
    """Middleware: a header names the user here."""
    from django.contrib.auth.models import AnonymousUser

    def run(request: Any) -> Any:
        name = request.headers.get("x-user")
        request.user = User(name) if name else AnonymousUser()
        return respond(request)

    return run


def main(url: str) -> None:
    """Ask as each user. Raises AssertionError."""
    settings.configure(
        SECRET_KEY="x",
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
        MIDDLEWARE=[
            "django.middleware.csrf.CsrfViewMiddleware",
            f"{with_user.__module__}.with_user",
        ],
        ROOT_URLCONF=type("Urls", (), {"urlpatterns": []}),
        LOGIN_URL="/login/",
    )
    django.setup()
    from django.test import Client
    from django.urls import include, path

    from atomq.web import django as ours

    settings.ROOT_URLCONF.urlpatterns.append(path("admin/queues/", include(ours.urls(url))))
    client = Client(enforce_csrf_checks=True)
    page = "/admin/queues/queue?name=orders"

    sent_away = client.get(page)
    assert (sent_away.status_code, sent_away["location"][:7]) == (302, "/login/")
    assert client.get(page, headers={"x-user": "carl"}).status_code == 403
    html = client.get(page, headers={"x-user": "bob"}).content.decode()
    assert "o-1" in html
    assert "read-only" in html
    assert all(link.startswith("/admin/queues/") for link in LINKS.findall(html))
    (style,) = re.findall(r'href="([^"]+\.css[^"]*)"', html)
    assert client.get(style, headers={"x-user": "bob"})["content-type"].startswith("text/css")

    for user, site, code in (
        ("bob", "same-origin", 403),
        ("ann", "cross-site", 403),
        ("ann", "same-origin", 303),
    ):
        headers = {"x-user": user, "sec-fetch-site": site}
        answer = client.post(
            "/admin/queues/do/pause", "queue=orders", headers=headers, content_type=FORM
        )
        assert answer.status_code == code, (user, site, answer.content)
    assert answer["location"].startswith("/admin/queues/queue?name=orders")


if __name__ == "__main__":
    main(sys.argv[1])
