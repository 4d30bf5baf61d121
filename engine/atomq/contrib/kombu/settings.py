"""From a `kombu.Connection` to an address and the options of the transport.

Same names, meanings and defaults as Kombu's Redis transport; ours beside them. A wrong value is one
clear error when the connection is made; an unknown name is a warning with the nearest known one.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from kombu.utils.scheduling import cycle_by_name

from atomq.address import Address
from atomq.errors import InvalidOptions
from atomq.options import Options

# Options of Kombu's that are not the engine's, with what they may be.
_OURS: dict[str, tuple[type, ...]] = {
    "fanout_prefix": (bool, str),
    "fanout_patterns": (bool,),
    "sentinel_fanout_compat": (bool,),
    "queue_order_strategy": (str, type),
    "delay_in_server": (str,),
    "polling_interval": (int, float),
    "body_encoding": (str,),
    "deadletter_queue": (str,),
    "unacked_key": (str,),
    "unacked_index_key": (str,),
}
_WORDS = {bool: "True or False", str: "text", int: "a number", float: "a number", type: "a class"}
# Known, and without a meaning here: what they tuned does not exist, or Kombu reads them itself.
_IGNORED = frozenset(
    {
        "ack_emulation",
        "callback",
        "connect_retries_timeout",
        "confirm_publish",
        "errback",
        "interval_max",
        "interval_start",
        "interval_step",
        "max_retries",
        "reauth_check_interval",
        "result_chord_ordered",
        "retry_on_timeout",
        "retry_policy",
        "unacked_mutex_expire",
        "unacked_mutex_key",
        "unacked_restore_interval",
        "unacked_restore_limit",
        "unacked_restore_throttle",
    }
)
# What a broker's calls are tried: Kombu and Celery try again by themselves.
_DEFAULTS: dict[str, Any] = {"retry_attempts": 1, "retry_budget": 5.0}


class UnknownOption(UserWarning):
    """A transport option that nobody reads."""


@dataclass(frozen=True)
class Settings:
    """What the transport of one connection goes by."""

    address: Address
    fanout_prefix: str = "/{db}."
    legacy_fanout_prefix: str | None = None
    """Broadcasts go here too: where Kombu before 5.4 had them behind a Sentinel."""
    fanout_patterns: bool = True
    queue_order_strategy: Any = "round_robin"
    delay_in_server: str = "auto"
    polling_interval: float | None = None
    body_encoding: str | None = "base64"
    deadletter_queue: str | None = None
    unacked_key: str = "unacked"
    unacked_index_key: str = "unacked_index"

    @classmethod
    def of(cls, client: Any) -> Settings:
        """Of a `kombu.Connection`. Raises `InvalidOptions` and `InvalidAddress`."""
        given = dict(client.transport_options or {})
        engine, ours, faults = _sorted(given)
        if client.ssl and not isinstance(client.ssl, bool) and "ssl" not in engine:
            engine["ssl"] = {k: v for k, v in client.ssl.items() if v is not None}
        if client.credential_provider:  # as Kombu reads it from the URL's query
            engine["credential_provider"] = client.credential_provider
        url = _url(client)
        if _insecure_by_kombu(client):
            engine.pop("ssl", None)
        try:
            address = Address.parse(url, {**_DEFAULTS, **engine})
        except InvalidOptions as error:
            raise InvalidOptions([*error.faults, *faults]) from None
        if faults:
            raise InvalidOptions(faults)
        prefix = ours.pop("fanout_prefix", True)
        template = ("/{db}." if prefix else "") if isinstance(prefix, bool) else prefix
        legacy = ours.pop("sentinel_fanout_compat", False) and _scheme(client) in _SENTINEL
        return cls(
            address=address,
            fanout_prefix=template.format(db=address.db),
            legacy_fanout_prefix=template if legacy and "{db}" in template else None,
            **ours,
        )

    def shared(self) -> dict[str, Any]:
        """What the workers of one database should have alike, for `atomq doctor`."""
        options = self.address.options
        return {
            "visibility_timeout": options.visibility_timeout,
            "global_keyprefix": options.global_keyprefix,
            "sep": options.sep,
            "priority_steps": options.priority_steps,
            "fanout_prefix": self.fanout_prefix,
            "fanout_patterns": self.fanout_patterns,
            "lease": options.lease,
        }


def _sorted(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Options of the engine, those of the transport, and what is wrong with the latter."""
    engine: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    faults: list[str] = []
    unknown = Options.unknown([n for n in given if n not in _OURS and n not in _IGNORED])
    for name, value in given.items():
        if name in unknown:
            warnings.warn(unknown[name], UnknownOption, stacklevel=2)
        elif name in _IGNORED or (value is None and name != "body_encoding"):
            continue
        elif name not in _OURS:
            engine[name] = value
        elif allowed := _allowed(name, value):
            faults.append(f"{name}: got {value!r}, must be {allowed}")
        else:
            ours[name] = value
    return engine, ours, faults


def _allowed(name: str, value: Any) -> str:
    """What this option of the transport must be, if it is not; or ""."""
    if name == "body_encoding":
        return "" if value in ("base64", None) else "'base64' or None"
    kinds = _OURS[name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        return " or ".join(dict.fromkeys(_WORDS[kind] for kind in kinds))
    if name == "fanout_prefix" and isinstance(value, str) and not re.fullmatch(r"/.*\.", value):
        return "text that begins with '/' and ends with '.'"
    if name == "delay_in_server" and value not in ("auto", "always", "never"):
        return "auto, always or never"
    if name == "queue_order_strategy":
        try:
            cycle_by_name(value)
        except (ImportError, AttributeError, ValueError):
            return "round_robin, priority, sorted, or a class or its import path"
    return ""


_TLS = frozenset({"atomqs", "rediss", "valkeys", "atomqs-sentinel"})
_SENTINEL = frozenset({"sentinel", "atomq-sentinel", "atomqs-sentinel"})


def _scheme(client: Any) -> str:
    scheme = client.transport_cls
    return scheme if isinstance(scheme, str) and "." not in scheme else "redis"


def _url(client: Any) -> str:
    scheme = _scheme(client)
    if scheme in _SENTINEL:
        # After a failover the client shows the next URL alone; the list says who all of them are.
        urls = [url for url in client.alt if url.startswith(tuple(f"{s}://" for s in _SENTINEL))]
        if urls:
            return ";".join(f"{scheme}://{url.partition('://')[2]}" for url in urls)
    hostname = client.hostname or "localhost"
    if hostname.startswith("socket://"):
        return f"redis+{hostname}"
    user = quote(client.userid or "", safe="")
    password = ":" + quote(client.password, safe="") if client.password else ""
    login = f"{user}{password}@" if user or password else ""
    host = f"[{hostname}]" if ":" in hostname else hostname
    database = str(client.virtual_host or "/").lstrip("/") or "0"
    port = f":{client.port}" if client.port else ""
    tls = scheme in _TLS or bool(client.ssl)
    kind = "sentinel" if scheme in _SENTINEL else "redis"
    prefix = {("redis", True): "rediss", ("sentinel", True): "sentinels"}.get((kind, tls), kind)
    return f"{prefix}://{login}{host}{port}/{database}"


def _insecure_by_kombu(client: Any) -> bool:
    """Kombu turns certificate checking off for a bare rediss:// before anybody was asked."""
    said = getattr(client, "_initial_params", {}).get("ssl")
    return _scheme(client) == "rediss" and not isinstance(said, dict)
