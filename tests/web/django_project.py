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
        INSTALLED_APPS=[
            f"django.contrib.{app}" for app in ("admin", "auth", "contenttypes", "messages")
        ],
        MIDDLEWARE=[
            "django.middleware.csrf.CsrfViewMiddleware",
            f"{with_user.__module__}.with_user",
        ],
        ROOT_URLCONF=type("Urls", (), {"urlpatterns": []}),
        LOGIN_URL="/login/",
    )
    django.setup()
    from django.contrib import admin
    from django.test import Client
    from django.urls import include, path

    from atomq.web import django as ours

    settings.ROOT_URLCONF.urlpatterns += [
        path("admin/queues/", include(ours.urls(url))),
        path("admin/", admin.site.urls),
    ]
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

    where_one_logs_in(url)


def where_one_logs_in(url: str) -> None:
    """The project's login; the admin's where there is none; another one that is named."""
    from django.contrib import admin
    from django.http import HttpResponse
    from django.test import Client
    from django.test.utils import override_settings
    from django.urls import include, path

    from atomq.web import django as ours

    page = path("admin/queues/", include(ours.urls(url)))
    named = path("admin/queues/", include(ours.urls(url, login_url="/sso/")))
    the_admin = path("admin/", admin.site.urls)
    theirs = path("accounts/login/", HttpResponse)
    for patterns, login in (
        ([page, the_admin], "/admin/login/?next=/admin/queues/"),
        ([page], "/accounts/login/?next=/admin/queues/"),
        ([page, the_admin, theirs], "/accounts/login/?next=/admin/queues/"),
        ([named, the_admin], "/sso/?next=/admin/queues/"),
    ):
        project = type("Urls", (), {"urlpatterns": patterns})
        with override_settings(ROOT_URLCONF=project, LOGIN_URL="/accounts/login/"):
            answer = Client().get("/admin/queues/")
        assert (answer.status_code, answer["location"]) == (302, login)


if __name__ == "__main__":
    main(sys.argv[1])
