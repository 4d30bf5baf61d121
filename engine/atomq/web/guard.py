"""What every request passes before a page sees it: host, password, origin; and the headers of every
answer. No cookie is set or read.

A browser says of each request where it comes from (`Sec-Fetch-Site`), which no page can forge; over
plain HTTP to another machine it does not, but then a form's `Origin` is there. A page of another
site can therefore neither post a form here nor embed what is here. A page that has its own name
lead to 127.0.0.1 is stopped by the list of hosts, or by the password that it does not have.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("atomq.web")

USER = "atomq.user"
"""Where a scope names the user that asks."""
MAY_WRITE = "atomq.writable"
"""Where a scope says whether this user may change something; else the site says it for all."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # With `no-referrer` a browser would say `Origin: null` of our own forms.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_READING = ("GET", "HEAD")


class Guard:
    """An ASGI application behind these checks.

    `hosts` are the names under which it may be asked for; None: any. `users` are passwords by
    name; None: the application that this one is mounted in knows its users. `prefix` is the path
    under which a proxy shows it, which may or may not be taken off already.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str] | None = None,
        users: Mapping[str, str] | None = None,
        prefix: str = "",
    ) -> None:
        self._app = app
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._users = None if users is None else {n: _digest(word) for n, word in users.items()}
        self._prefix = prefix.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = self._placed(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        app = self._refusal(scope) or self._app
        await app(scope, receive, send_with_headers)

    def _placed(self, scope: Scope) -> Scope:
        scope = {**scope}
        if self._prefix:
            inside = f"{scope['path']}/".startswith(f"{self._prefix}/")
            scope["path"] = scope["path"] if inside else self._prefix + scope["path"]
            scope["root_path"] = self._prefix
        return scope

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        host = _name(headers.get("host", ""))
        if self._hosts is not None and host not in self._hosts:
            return PlainTextResponse(
                "This name is not served here: --allow-host of atomq web adds one.\n", 403
            )
        if self._users is not None:
            user = self._user(headers)
            if user is None:
                return PlainTextResponse(
                    "A name and its password are needed.\n",
                    401,
                    {"www-authenticate": 'Basic realm="atomq", charset="UTF-8"'},
                )
            scope[USER] = user
        if not self._is_ours(scope["method"], headers):
            log.warning("refused a request that none of its pages sent: %s", scope["path"])
            by_browser = "sec-fetch-site" in headers or "origin" in headers
            return PlainTextResponse(_OTHER_SITE if by_browser else _NO_BROWSER, 403)
        return None

    def _user(self, headers: Headers) -> str | None:
        assert self._users is not None
        scheme, _, text = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, colon, word = base64.b64decode(text, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return None
        known = self._users.get(name)
        # An unknown name takes as long as a wrong password.
        is_right = hmac.compare_digest(_digest(word), known or bytes(32))
        if not (colon and known and is_right):
            log.warning("wrong name or password: %r", name[:100])
            return None
        return name

    def _is_ours(self, method: str, headers: Headers) -> bool:
        """Whether one of our pages sent this, or the person at the browser."""
        site = headers.get("sec-fetch-site")
        if method in _READING:
            # Another site may link to a page, but not load one as an image or a script.
            return site != "cross-site" or headers.get("sec-fetch-mode") == "navigate"
        if site is not None:
            return site in ("same-origin", "none")
        origin = urlsplit(headers.get("origin", ""))
        if not origin.netloc:
            return False
        is_same = origin.netloc.lower() == headers.get("host", "").lower()
        return is_same or (self._hosts is not None and origin.hostname in self._hosts)


_OTHER_SITE = "Another site sent this: nothing was done.\n"
_NO_BROWSER = (
    "Nothing was done: the headers Sec-Fetch-Site and Origin, of which browsers send one, are both "
    "missing. Scripts use the command line: see atomq --help.\n"
)


def _digest(word: str) -> bytes:
    return hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
