"""The page in a project of Django's, behind its own login.

    urlpatterns = [
        path("admin/queues/", include(atomq.web.django.urls(settings.QUEUE_URL))),
        path("admin/", admin.site.urls),  # after it: it answers all below admin/
    ]

Django mounts no ASGI application, so a view asks this one. Forms need no token of Django's: what
stands in its place is in `guard.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync
from django.conf import global_settings, settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, Resolver404, URLPattern, re_path, resolve, reverse
from django.views.decorators.csrf import csrf_exempt

from atomq.web import asgi_app
from atomq.web.guard import MAY_WRITE, USER

if TYPE_CHECKING:
    from atomq.client import Engine

Allows = Callable[[HttpRequest], bool]


def is_staff(request: HttpRequest) -> bool:
    """Whether the user may enter the admin pages."""
    return bool(request.user.is_active and request.user.is_staff)


def is_superuser(request: HttpRequest) -> bool:
    """Whether the user may do everything."""
    return bool(request.user.is_active and request.user.is_superuser)


def urls(
    server: str | Engine,
    *,
    may_look: Allows = is_staff,
    may_act: Allows = is_superuser,
    login_url: str | None = None,
    **options: Any,
) -> list[URLPattern]:
    """URL patterns to `include`: the page for users that `may_look`, actions if they `may_act`.

    Both are functions of the request. A user that may not look is refused; one that is not logged
    in is sent to `login_url`, a path or the name of a URL pattern. None: the project's
    `LOGIN_URL`, or the login of the admin, if that is Django's default and leads nowhere. `server`
    is a URL, with `options` as an `Engine` takes them, or an `Engine`. Raises `InvalidAddress`,
    `InvalidOptions`.
    """
    app = asgi_app(server, **options)

    def page(request: HttpRequest, path: str) -> HttpResponse:
        if not may_look(request):
            if request.user.is_authenticated:
                raise PermissionDenied
            from django.contrib.auth.views import redirect_to_login  # needs apps that are ready

            return redirect_to_login(request.get_full_path(), login_url or _login_url())
        return async_to_sync(_answer)(app, _scope(request, path, may_act), request.body)

    return [re_path(r"^(?P<path>.*)$", csrf_exempt(page), name="atomq")]


def _login_url() -> str:
    """The project's; the admin's in a project that has no other."""
    if settings.LOGIN_URL == global_settings.LOGIN_URL:
        try:
            resolve(settings.LOGIN_URL)
        except Resolver404:
            with suppress(NoReverseMatch):
                return str(reverse("admin:login"))
    return str(settings.LOGIN_URL)


def _scope(request: HttpRequest, path: str, may_act: Allows) -> dict[str, Any]:
    headers = [(n.lower().encode(), v.encode("latin-1")) for n, v in request.headers.items()]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "root_path": request.path.removesuffix(path).rstrip("/"),
        "query_string": request.META.get("QUERY_STRING", "").encode("latin-1"),
        "headers": headers,
        "client": (request.META.get("REMOTE_ADDR", ""), 0),
        USER: request.user.get_username(),
        MAY_WRITE: may_act(request),
    }


async def _answer(app: Any, scope: dict[str, Any], body: bytes) -> HttpResponse:
    response = HttpResponse()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            response.status_code = message["status"]
            for name, value in message["headers"]:
                response[name.decode()] = value.decode("latin-1")
        elif message["type"] == "http.response.body":
            response.write(message.get("body", b""))

    await app(scope, receive, send)
    return response
