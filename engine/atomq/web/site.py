"""What all pages share: the server, what may be done, how pages are drawn, what trouble is."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import jinja2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from atomq.cli.output import clean, duration, gist, moment, number, plural, size
from atomq.cli.session import Session
from atomq.errors import (
    AtomqError,
    EmbeddedServerError,
    InvalidArgument,
    PermissionDenied,
    ScriptsNotLoaded,
    ServerFull,
    ServerUnavailable,
)
from atomq.web.guard import MAY_WRITE, USER
from atomq.web.samples import Samples

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

log = logging.getLogger("atomq.web")

EVERY = 3  # seconds between two looks of an open page
# What can be done with messages that are chosen, by the part they lie in: action, label, kind.
BULK: dict[str, list[tuple[str, str, str]]] = {
    "ready": [("cancel", "Cancel", "danger")],
    "delayed": [("run", "Run now", ""), ("cancel", "Cancel", "danger")],
    "unacked": [("release", "Release", ""), ("cancel", "Cancel", "danger")],
    "dead": [("redrive", "Redrive", ""), ("discard", "Throw away", "danger")],
}
Writable = bool | Callable[[Request], bool]
UserOf = Callable[[Request], str]


@dataclass
class Site:
    """One page of one server."""

    session: Session
    writable: Writable = False
    user: UserOf | None = None
    owns_engine: bool = True
    samples: Samples = field(default_factory=Samples)

    def may_write(self, request: Request) -> bool:
        """Whether this request may change something."""
        said = request.scope.get(MAY_WRITE)
        if said is not None:
            return bool(said)
        return self.writable(request) if callable(self.writable) else self.writable

    def name_of(self, request: Request) -> str:
        """The user that asks, for the log."""
        if self.user is not None:
            return self.user(request)
        if (known := request.scope.get(USER)) is not None:
            return str(known)
        user = request.scope.get("user")  # of the application that this one is mounted in
        name = getattr(user, "display_name", "") or getattr(user, "username", "")
        return str(name) or (request.client.host if request.client else "?")

    # ── drawing ───────────────────────────────────────────────────────────────────────────────

    def page(self, request: Request, template: str, code: int = 200, **values: Any) -> HTMLResponse:
        """A page drawn from a template."""
        link = Links(request)
        now_ms = values.setdefault("now_ms", 0)
        text = self.templates.get_template(template).render(
            link=link,
            here=link.here,
            address=clean(str(self.session.engine.address)),
            writable=self.may_write(request),
            method=request.method,
            still=request.query_params.get("still") == "1",
            every=EVERY,
            moment=lambda ms: moment(ms, now_ms),
            **values,
        )
        headers = {"retry-after": str(EVERY)} if code == 503 else None
        return HTMLResponse(text, code, headers)

    @cached_property
    def templates(self) -> jinja2.Environment:
        """The templates of this package; what they show is escaped."""
        made = jinja2.Environment(
            loader=jinja2.PackageLoader("atomq.web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        made.filters |= {
            "clean": lambda text: clean(str(text)),
            "duration": duration,
            "gist": gist,
            "number": number,
            "plural": plural,
            "size": size,
        }
        made.globals |= {"bulk": BULK, "holder": _holder}
        return made

    @cached_property
    def registry(self) -> CollectorRegistry:
        """What Prometheus reads. Raises `ImportError` without the extra `[metrics]`."""
        from atomq.metrics import AtomqCollector  # first, for its words of what lacks

        collector = AtomqCollector(self.session.reader)
        from prometheus_client import CollectorRegistry

        made = CollectorRegistry(auto_describe=False)
        collector.register(made)
        return made

    # ── trouble ───────────────────────────────────────────────────────────────────────────────

    def trouble(self, request: Request, error: Exception) -> Response:
        """The page that says what is wrong, of every error that has words for people."""
        if isinstance(error, HTTPException):
            return self._said(request, error.status_code, error.detail)
        assert isinstance(error, AtomqError)
        status = _status(error)
        if status >= 500:
            log.warning("%s: %s", request.url.path, error)
        return self._said(request, status, str(error))

    def broken(self, request: Request, _error: Exception) -> Response:
        """The page for a fault of ours; the trace is in the log, and not here."""
        return self._said(request, 500, "This page has a fault; the log of its process says more.")

    def _said(self, request: Request, status: int, words: str) -> Response:
        return self.page(
            request, "trouble.html", status, status=status, title=_TITLES.get(status), words=words
        )


_TITLES = {
    400: "This cannot be asked for",
    403: "Not allowed",
    404: "Not here",
    405: "Not so",
    500: "A fault",
    502: "The server refused",
    503: "The server cannot be reached",
    507: "The server is full",
}


def _status(error: AtomqError) -> int:
    if isinstance(error, InvalidArgument):
        return 400
    if isinstance(error, ServerUnavailable | EmbeddedServerError):
        return 503
    if isinstance(error, PermissionDenied | ScriptsNotLoaded):
        return 403
    return 507 if isinstance(error, ServerFull) else 502


def _holder(row: Mapping[str, Any]) -> str:
    return f"{row['host']} (pid {row['pid']})" if row.get("pid") else str(row["holder"])


class Links:
    """The addresses of pages, below the prefix under which the browser sees them."""

    def __init__(self, request: Request) -> None:
        self._root = request.scope.get("root_path", "").rstrip("/")
        self._base = quote(self._root, safe="/")
        self._path = request.scope["path"].removeprefix(self._root) or "/"
        self._query = request.query_params

    def __call__(self, path: str, **query: Any) -> str:
        """That of a page; what is None or "" is left out."""
        said = urlencode({k: v for k, v in query.items() if v not in (None, "")}, doseq=True)
        return f"{self._base}{path}" + (f"?{said}" if said else "")

    def static(self, name: str) -> str:
        """That of a file, which changes with what is in it."""
        return self(f"/static/{name}", v=_digest(name))

    @property
    def here(self) -> str:
        """That of this page, with what it says was done."""
        return self(self._path, **self._query)

    def again(self, **changes: Any) -> str:
        """That of this page with another query; what was done is not said again."""
        said: Mapping[str, Any] = {**self._query, "did": None, "n": None, "left": None, **changes}
        return self(self._path, **said)


@cache
def _digest(name: str) -> str:
    data = resources.files("atomq.web").joinpath("static", name).read_bytes()
    return hashlib.sha256(data).hexdigest()[:12]
