"""The page as an ASGI application, and as what `atomq web` serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from atomq.cli.session import Session
from atomq.client import Engine
from atomq.errors import AtomqError
from atomq.web import actions, message_page, pages, queue_page
from atomq.web.guard import Guard
from atomq.web.site import Site, UserOf, Writable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp

Page = Callable[[Site, Request], Response]

_PAGES: dict[str, Page] = {
    "/": pages.queues,
    "/queue": queue_page.queue,
    "/message": message_page.message,
    "/dead": pages.dead,
    "/workers": pages.workers,
    "/doctor": pages.doctor,
    "/metrics": pages.metrics,
}
_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "txt": "text/plain"}
_FOR_EVER = {"cache-control": "public, max-age=31536000, immutable"}
Endpoint = Callable[[Request], Awaitable[Response]]


def asgi_app(
    server: str | Engine,
    *,
    writable: Writable = False,
    user: UserOf | None = None,
    **options: Any,
) -> ASGIApp:
    """The page, to be mounted in an application that knows its users: it asks for no password.

    `server` is a URL, with `options` as an `Engine` takes them, or an `Engine`. `writable` is
    whether it may change something, or a function that says so of a request; `user` is a function
    that names the user of a request, for the log. Raises `InvalidAddress` and `InvalidOptions`.
    """
    return Guard(application(site_of(server, writable=writable, user=user, **options)))


def site_of(server: str | Engine, **settings: Any) -> Site:
    """What the pages share. The settings are those of `Site`, and the others the engine's."""
    own = {name: settings.pop(name) for name in ("writable", "user") if name in settings}
    session = Session(
        server if isinstance(server, str) else server.address.safe_url,
        [],
        as_json=True,
        creates=True,
    )
    if isinstance(server, Engine):
        session.engine = server
    else:
        session.options = settings
        _ = session.engine  # what is wrong with the address is said now
    return Site(session, owns_engine=isinstance(server, str), **own)


def guarded(
    site: Site,
    *,
    hosts: Collection[str] | None,
    users: Mapping[str, str] | None,
    prefix: str = "",
) -> ASGIApp:
    """The page as a server of its own: see `Guard`."""
    return Guard(application(site), hosts=hosts, users=users, prefix=prefix)


def application(site: Site) -> Starlette:
    """The pages of a site, without the guard in front."""

    @asynccontextmanager
    async def closing(_app: Starlette) -> AsyncIterator[None]:
        yield
        if site.owns_engine:
            await run_in_threadpool(site.session.close)

    async def action(request: Request) -> Response:
        return await run_in_threadpool(actions.act, site, request, await _body(request))

    routes = [Route(path, _endpoint(site, page)) for path, page in _PAGES.items()]
    routes += [
        Route("/do/{action}", action, methods=["POST"]),
        Route("/static/{name}", _static),
    ]
    app = Starlette(routes=routes, lifespan=closing)
    app.add_exception_handler(AtomqError, site.trouble)
    app.add_exception_handler(HTTPException, site.trouble)
    app.add_exception_handler(Exception, site.broken)
    return app


def _endpoint(site: Site, page: Page) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(page, site, request)

    return endpoint


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > actions.LARGEST:
            raise HTTPException(413, "This form is too large.")
    return bytes(body)


async def _static(request: Request) -> Response:  # as Starlette calls it
    name = request.path_params["name"]
    file = _FILES.get(name)
    if file is None:
        raise HTTPException(404, f"There is no file {name!r}.")
    return Response(file, media_type=_KINDS[name.rpartition(".")[2]], headers=_FOR_EVER)


_FILES = {
    each.name: each.read_bytes()
    for each in resources.files("atomq.web").joinpath("static").iterdir()
    if each.name.rpartition(".")[2] in _KINDS
}
