"""Celery's own Redis result backend under our schemes.

Its keys, settings and behaviour are Celery's, unchanged; only the URL is translated, and TLS checks
certificates unless the URL says otherwise.
"""

from __future__ import annotations

from typing import Any

from celery.backends.redis import RedisBackend, SentinelBackend

_PLAIN = {"atomq": "redis", "valkey": "redis", "atomqs": "rediss", "valkeys": "rediss"}
_SENTINEL = {"atomq-sentinel": "sentinel", "atomqs-sentinel": "rediss"}


def _translated(url: str, schemes: dict[str, str]) -> str:
    scheme, mark, rest = url.partition("://")
    ours = schemes.get(scheme, scheme)
    if ours == "rediss" and "ssl_cert_reqs=" not in rest:
        rest += ("&" if "?" in rest else "?") + "ssl_cert_reqs=required"
    return ours + mark + rest


class Backend(RedisBackend):
    """`atomq://`, `atomqs://`, `atomq+socket://`, `valkey://`, `valkeys://` as result backend."""

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        params: dict[str, Any] = super()._params_from_url(_translated(url, _PLAIN), defaults)
        return params


class SentinelsBackend(SentinelBackend):
    """`atomq-sentinel://a;atomq-sentinel://b` and `atomqs-sentinel://` as result backend."""

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        chunks = [_translated(chunk, _SENTINEL) for chunk in url.split(";")]
        params: dict[str, Any] = super()._params_from_url(";".join(chunks), defaults)
        return params
