"""From a `kombu.Connection` to an address and the options of the transport.

Same names, meanings and defaults as Kombu's Redis transport; ours beside them. A wrong value is one
clear error when the connection is made; an unknown name is a warning with the nearest known one.
"""

from __future__ import annotations

import re
import signal
import ssl
import string
import warnings
from bisect import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from kombu.utils.scheduling import cycle_by_name
from kombu.utils.url import parse_url

from atomq.address import Address, check_imported
from atomq.contrib.kombu.registry import CLUSTER, STOCK_SCHEMES
from atomq.errors import InvalidAddress, InvalidOptions
from atomq.options import Options
from atomq.partitions import MOST

# Options of Kombu's that are not the engine's, with what they may be.
_OURS: dict[str, tuple[type, ...]] = {
    "fanout_prefix": (bool, str),
    "fanout_patterns": (bool,),
    "sentinel_fanout_compat": (bool,),
    "queue_order_strategy": (str, type),
    "delay_in_server": (str,),
    "partitions": (dict,),
    "tracked": (bool, list, tuple, set, frozenset),
    "terminate_cancelled": (bool, str),
    "polling_interval": (int, float),
    "body_encoding": (str,),
    "deadletter_queue": (str,),
    "unacked_key": (str,),
    "unacked_index_key": (str,),
}
_WORDS = {bool: "True or False", str: "text", int: "a number", float: "a number", type: "a class"}
_WORDS[dict] = "names of queues, each with a number"
_WORDS |= dict.fromkeys((list, tuple, set, frozenset), "names of queues")
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
    """A transport option that is not read by anything."""


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
    partitions: Mapping[str, int] | None = None
    """How many partitions queues have, by their names."""
    tracked: bool | frozenset[str] = False
    """Whether all messages that are published are tracked, or to which queues."""
    terminate_cancelled: bool | str = False
    """Whether a task that is cancelled while it runs is ended, or by which signal."""
    polling_interval: float | None = None
    body_encoding: str | None = "base64"
    deadletter_queue: str | None = None
    unacked_key: str = "unacked"
    unacked_index_key: str = "unacked_index"

    @classmethod
    def of(cls, client: Any) -> Settings:
        """Of a `kombu.Connection`. Raises `InvalidOptions` and `InvalidAddress`."""
        _mend_after_failover(client)
        scheme = _scheme(client)
        engine, ours, faults = _sorted(dict(client.transport_options or {}), scheme)
        if engine.get("ssl") is None:
            engine["ssl"] = _said_of_tls(client)
        url, said = _where(client, scheme)
        if "virtual_host" in said:
            engine.pop("db", None)
        if provider := _provider(client, engine.get("credential_provider")):
            said = {k: v for k, v in said.items() if k == "virtual_host"}
            said["credential_provider"] = provider
        engine.update(said)
        try:
            address = Address.parse(url, {**_DEFAULTS, **engine})
        except InvalidOptions as error:
            raise InvalidOptions([*error.faults, *faults]) from None
        if faults:
            raise InvalidOptions(faults)
        prefix = ours.pop("fanout_prefix", True)
        template = ("/{db}." if prefix else "") if isinstance(prefix, bool) else prefix
        if not isinstance(tracked := ours.pop("tracked", False), bool):
            tracked = frozenset(tracked)
        legacy = ours.pop("sentinel_fanout_compat", False) and scheme in _SENTINEL
        return cls(
            address=address,
            fanout_prefix=template.format(db=address.db),
            tracked=tracked,
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


def _sorted(
    given: Mapping[str, Any], scheme: str
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Options of the engine, those of the transport, and what is wrong with the latter."""
    engine: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    faults: list[str] = []
    unknown = Options.unknown([n for n in given if n not in _OURS and n not in _IGNORED])
    for name, said in given.items():
        value = _as_stock_reads(name, said)
        if name in unknown:
            warnings.warn(unknown[name], UnknownOption, stacklevel=3)
        elif name in _DATABASE and scheme in STOCK_SCHEMES and value is not None:
            _warn_of_database(name)
        elif name in _IGNORED or (value is None and name not in _NONE_SAYS_SOMETHING):
            continue
        elif name not in _OURS:
            engine[name] = value
        elif allowed := _allowed(name, value):
            faults.append(f"{name}: got {value!r}, must be {allowed}")
        else:
            ours[name] = value
    return engine, ours, faults


_DATABASE = ("db", "virtual_host")
_NONE_SAYS_SOMETHING = ("body_encoding", "ssl_cert_reqs")
_HIGHEST_PRIORITY = 9  # of a message: `kombu.transport.virtual.Channel.max_priority`


def _warn_of_database(name: str) -> None:
    """Stock workers of the same settings are in the database that the URL names, or in 0."""
    text = f"{name}: not read with the schemes of stock Kombu, which ignores it: put it in the URL"
    warnings.warn(text, UnknownOption, stacklevel=4)


def _as_stock_reads(name: str, value: Any) -> Any:
    """What the engine would refuse, and stock Kombu takes, in the engine's terms."""
    if name == "max_connections" and value == 0 and not isinstance(value, bool):
        return None  # redis-py: no limit
    if name == "ssl":
        return _settings_of_tls(value)
    if name == "ssl_cert_reqs" and value is None:
        return "none"
    if name == "priority_steps" and value and isinstance(value, list | tuple | range):
        # Where stock puts the messages of each priority: the steps, if they ascend and end at 9.
        try:
            return sorted({value[bisect(value, n) - 1] for n in range(_HIGHEST_PRIORITY + 1)})
        except TypeError:
            return value
    if value in (0, 1) and isinstance(value, int) and _OURS.get(name, ())[:1] == (bool,):
        return bool(value)
    return value


def _allowed(name: str, value: Any) -> str:
    """What this option of the transport must be, if it is not; or ""."""
    if name == "body_encoding":
        return "" if value in ("base64", None) else "'base64' or None"
    kinds = _OURS[name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        return " or ".join(dict.fromkeys(_WORDS[kind] for kind in kinds))
    if name == "fanout_prefix" and isinstance(value, str) and not _is_template(value):
        return "text in which braces stand only as {db}"
    if name == "tracked" and not isinstance(value, bool):
        names: Any = value
        is_right = all(isinstance(each, str) for each in names)
        return "" if is_right else "True, False or names of queues"
    if name == "partitions" and not _are_partitions(value):
        return f"names of queues, each with a number from 1 to {MOST}"
    if name == "terminate_cancelled" and isinstance(value, str):
        return "" if value in signal.Signals.__members__ else "True, False or a signal as SIGTERM"
    if name == "delay_in_server" and value not in ("auto", "always", "never"):
        return "auto, always or never"
    if name == "queue_order_strategy":
        try:
            cycle_by_name(value)
        except (ImportError, AttributeError, ValueError):
            return "round_robin, priority, sorted, or a class or its import path"
    return ""


def _are_partitions(value: Any) -> bool:
    return all(
        isinstance(name, str) and type(count) is int and 1 <= count <= MOST
        for name, count in value.items()
    )


def _is_template(text: str) -> bool:
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError:
        return False
    plain = not any(brace in literal for literal, *_ in parts for brace in "{}")
    return plain and all(field in ("db", None) for _, field, _, _ in parts)


# ── what Kombu made of the URL and the arguments beside it ────────────────────────────────────

_TLS = frozenset({"atomqs", "rediss", "valkeys"})
_SENTINEL = frozenset({"sentinel", "atomq-sentinel", "atomqs-sentinel"})
_LISTS = _SENTINEL.union(CLUSTER)  # their URLs name several servers


def _scheme(client: Any) -> str:
    scheme = client.transport_cls
    return scheme if isinstance(scheme, str) and "." not in scheme else "redis"


def _mend_after_failover(client: Any) -> None:
    """Make a connection that switched to its next URL what it is where that URL comes first.

    `kombu.Connection.switch` reads the path of a socket as a virtual host, keeps the prefix of a
    socket's URL for the next one, and forgets the user and password that were given beside a list
    of Sentinels. Clones inherit all of it.
    """
    scheme, at_first = client.transport_cls, client._initial_params
    same_user = client.userid in (None, at_first["userid"])
    if scheme in _LISTS and same_user and client.password is None:
        client.userid, client.password = at_first["userid"], at_first["password"]
    if isinstance(scheme, str) and scheme.endswith("+socket"):
        path, database = client.virtual_host, at_first["virtual_host"]
        client.hostname = f"socket:///{quote(path)}"
        client.virtual_host = database if database != path else "/"
        client.transport_cls = client.uri_prefix = scheme.removesuffix("+socket")
    elif client.uri_prefix and not (client.hostname or "").startswith("socket://"):
        client.uri_prefix = None


def _where(client: Any, scheme: str) -> tuple[str, dict[str, Any]]:
    """The URL of the server, and the options that name the user and the database."""
    hostname = client.hostname or "localhost"
    said: dict[str, Any] = {
        "username": client.userid or None,
        "password": client.password or None,
        "virtual_host": _database(client.virtual_host),
    }
    nodes = [(hostname, client.port)]
    if scheme in _LISTS:
        urls = [url for url in map(_parsed, client.alt) if url["transport"] in _LISTS]
        nodes = [(url["hostname"] or "localhost", url["port"]) for url in urls] or nodes
        # After a failover the client shows the next URL alone, which need not say it again.
        for url in urls:
            if said["username"] is None and said["password"] is None:
                said["username"], said["password"] = url["userid"], url["password"]
            if said["virtual_host"] is None:
                said["virtual_host"] = _database(url["virtual_host"])
    said = {name: value for name, value in said.items() if value is not None}
    if hostname.startswith("socket://"):
        if scheme in STOCK_SCHEMES and "db=" in hostname:
            hostname, count = re.subn(r"(?<=[?&])db=[^&]*&?", "", hostname)
            if count:
                _warn_of_database("db")
        return f"redis+{hostname}", said
    prefix = "rediss" if scheme in _TLS else "redis"
    if scheme in _SENTINEL:
        prefix = "sentinels" if scheme == "atomqs-sentinel" else "sentinel"
    if scheme in CLUSTER:
        prefix = scheme
    urls_of = []
    for host, port in nodes:
        bracketed = f"[{host}]" if ":" in host else quote(host, safe="")
        urls_of.append(f"{prefix}://{bracketed}" + (f":{port}" if port else ""))
    return ";".join(urls_of), said


def _parsed(url: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = parse_url(url)
    except (ValueError, TypeError) as error:
        raise InvalidAddress(f"one of the URLs to fail over to: {error}") from None
    return found


def _database(said: Any) -> Any:
    """A virtual host as Kombu has it; None where it says nothing."""
    return None if said in (None, "", "/") else said


@dataclass(frozen=True)
class CalledPassword:
    """A password that Kombu was given as a callable: called at every connect."""

    user: str | None
    password: Callable[[], str]

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """As redis-py asks a credential provider."""
        return (self.user, self.password()) if self.user else (self.password(),)


def _provider(client: Any, among_options: Any) -> Any:
    """What supplies user and password at every connect; None: nothing does.

    Raises `InvalidOptions` where the URL names what is to be imported, and may not: Kombu shows no
    difference between what the URL's query names and what its own argument does.
    """
    provider = client.credential_provider
    if isinstance(provider, str) and provider != among_options:
        check_imported(provider)
    if provider or among_options:
        return provider or among_options
    return CalledPassword(client.userid, client.password) if callable(client.password) else None


class UnsaidTLS(dict[str, Any]):
    """What Kombu puts for a bare rediss://: no check of certificates, which no setting asked for.

    Kombu hands it on to each clone of the connection as if its user had written it; a clone knows
    it again by its type.
    """


def _said_of_tls(client: Any) -> Any:
    """The TLS settings that the user gave: a mapping, True, or None."""
    said, at_first = client.ssl, client._initial_params["ssl"]
    if client.transport_cls == "rediss" and not isinstance(said, UnsaidTLS):
        kombus = said == {"ssl_cert_reqs": ssl.CERT_NONE} and said is not at_first
        if kombus and not _ssl_in_url(client):
            said = client.ssl = UnsaidTLS(said)
    return None if isinstance(said, UnsaidTLS) else _settings_of_tls(said) or None


def _ssl_in_url(client: Any) -> bool:
    """Whether the URL that was switched to says in its query how to check."""
    urls = [_parsed(url) for url in client.alt if "://" in url]
    here = [url for url in urls if url["hostname"] == client.hostname]
    return any("ssl" in url for url in here if url["port"] in (None, client.port))


def _settings_of_tls(said: Any) -> Any:
    """Without what is None, but for `ssl_cert_reqs`: None is redis-py's word there for "none"."""
    if not isinstance(said, Mapping):
        return said
    given = {name: value for name, value in said.items() if value is not None}
    return {**given, "ssl_cert_reqs": "none"} if _says_none(said) else given


def _says_none(said: Mapping[str, Any]) -> bool:
    return "ssl_cert_reqs" in said and said["ssl_cert_reqs"] is None
