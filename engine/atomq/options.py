"""The one list of options.

`schemas/options.schema.json` holds types, bounds and meanings; `Options` holds the values of one
engine. A test keeps the two alike. Docs and `--help` texts are made from `Options.describe()`.
"""

from __future__ import annotations

import difflib
import enum
import json
import ssl as _ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, NamedTuple

from atomq import arguments, schema
from atomq.errors import InvalidOptions
from atomq.fork import once

CALL_WINDOW_MS = 120_000  # the server remembers the id of a publish call for so long at least


class OptionRow(NamedTuple):
    """One option, as the docs and the CLI show it."""

    name: str
    type: str
    default: Any
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one engine. Build it with `Options.of`: the constructor checks nothing.

    Times are seconds; `of` takes a `timedelta` too. What each option means is in `describe()`.
    """

    visibility_timeout: int = 3600
    lease: float = 60
    max_lease: float | None = None
    max_deliveries: int | None = 20
    dead_max: int | None = None
    dead_ttl: float | None = None
    priority_steps: tuple[int, ...] = (0, 3, 6, 9)
    sep: str = "\x06\x16"
    global_keyprefix: str = ""
    layout: str | None = None
    prefetch: int = 64
    max_bytes: int = 1048576
    dedup_window: float = 600
    result_ttl: float = 86400
    durability: str = "memory"
    durability_timeout: float = 5
    retry_attempts: int = 3
    retry_budget: float = 10
    wait_cap: float = 1.0
    socket_timeout: float | None = 5
    socket_connect_timeout: float | None = 5
    socket_keepalive: bool = True
    socket_keepalive_options: Mapping[str, int] | None = field(default=None, hash=False)
    health_check_interval: float = 25
    client_name: str | None = "atomq"
    max_connections: int | None = None
    # Not shown either: a URL without the colon makes a user name of its password.
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    db: int | None = None
    virtual_host: int | None = None
    ssl: bool | Mapping[str, Any] | None = field(default=None, repr=False, hash=False)
    credential_provider: Any = field(default=None, repr=False, hash=False)
    master_name: str | None = None
    sentinel_kwargs: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)
    min_other_sentinels: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any] | Options | None = None, /, **more: Any) -> Options:
        """The options in `given` and `more` (which wins), checked; the rest at their defaults.

        The ssl_* settings may also be given beside the other options: they are gathered in `ssl`.
        Raises `InvalidOptions`, whose message lists every fault. Secrets are never repeated in it.
        """
        known = isinstance(given, Mapping | Options | None)
        arguments.expect("options", given, known, "a mapping, or Options")
        raw = {**(given.given() if isinstance(given, Options) else given or {}), **more}
        if not raw:
            return cls()
        try:
            raw, faults = _normalised(raw)
            faults += _faults(raw)
        except Exception as error:  # some values cannot be compared, and some cannot be printed
            raise InvalidOptions([f"an option has no text: {arguments.words(error)}"]) from error
        if faults:
            raise InvalidOptions(faults)
        return cls(**_finished(raw))

    def replace(self, **changes: Any) -> Options:
        """A copy with `changes`, checked as in `of`."""
        return Options.of(self, **changes)

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        values = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    @staticmethod
    def unknown(names: Iterable[str]) -> dict[str, str]:
        """Those of `names` that are no options, each with a text that names the nearest one."""
        known = [*_properties(), *_ssl_properties()]
        return {name: _unknown_text(name, known) for name in names if name not in known}

    @staticmethod
    def typed(texts: Mapping[str, str]) -> dict[str, Any]:
        """Texts, from a URL's query or the environment, turned into each option's type.

        Numbers, true/false (yes/no, on/off, 1/0), none, lists as 0,3,6,9, mappings as JSON; where
        text is allowed it stays as it is. What does not fit stays too, so that `of` names it.
        Never raises.
        """
        known = {**_properties(), **_ssl_properties()}
        return {name: _typed(text, known.get(name, {})) for name, text in texts.items()}

    @staticmethod
    def describe() -> Iterator[OptionRow]:
        """One row an option, in the order of the schema; the ssl_* settings follow `ssl`."""
        for name, spec in _properties().items():
            yield OptionRow(name, _allowed(spec), _default(name), spec["description"])
            if name == "ssl":
                for inner, inner_spec in _ssl_properties().items():
                    text = inner_spec["description"]
                    yield OptionRow(inner, _allowed(inner_spec), inner_spec["default"], text)

    @once
    def lease_ms(self) -> int:
        """The effective lease, min(visibility_timeout, lease), in milliseconds, at least 1."""
        return _ms(min(self.visibility_timeout, self.lease))

    @once
    def dead_kept(self) -> str:
        """`dead_max` and `dead_ttl` in milliseconds as the scripts have them; "": neither."""
        if self.dead_max is None and self.dead_ttl is None:
            return ""
        return f"{self.dead_max or 0} {_ms(self.dead_ttl) if self.dead_ttl is not None else 0}"

    @once
    def limits(self) -> dict[str, float]:
        """What a consumer of these options holds messages to, times in seconds; no None."""
        found = {
            "max_deliveries": self.max_deliveries,
            "lease_seconds": self.lease_ms / 1000,
            "max_lease_seconds": self.max_lease,
            "dead_max": self.dead_max,
            "dead_ttl_seconds": self.dead_ttl,
        }
        return {name: value for name, value in found.items() if value is not None}

    @once
    def max_lease_ms(self) -> int | None:
        """`max_lease` in milliseconds, or None."""
        return None if self.max_lease is None else _ms(self.max_lease)

    @once
    def visibility_timeout_ms(self) -> int:
        """`visibility_timeout` in milliseconds."""
        return _ms(self.visibility_timeout)

    @once
    def call_window_ms(self) -> int:
        """How long a publish may be sent again and be known: `retry_budget`, with room to spare."""
        return max(CALL_WINDOW_MS, _ms(2 * self.retry_budget))

    @once
    def dedup_window_ms(self) -> int:
        """`dedup_window` in milliseconds, at least 1."""
        return _ms(self.dedup_window)

    @once
    def result_ttl_ms(self) -> int:
        """`result_ttl` in milliseconds, at least 1."""
        return _ms(self.result_ttl)

    @property
    def database(self) -> int:
        """The number of the database that `db` or `virtual_host` name; 0 if neither does."""
        return self.db if self.db is not None else self.virtual_host or 0


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _properties() -> dict[str, dict[str, Any]]:
    properties: dict[str, dict[str, Any]] = schema.load("options")["properties"]
    return properties


def _ssl_properties() -> dict[str, dict[str, Any]]:
    properties: dict[str, dict[str, Any]] = _properties()["ssl"]["properties"]
    return properties


def _default(name: str) -> Any:
    return Options.__dataclass_fields__[name].default


# ── from what was given to what is checked ────────────────────────────────────────────────────


def _normalised(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`raw` with ssl_* gathered; enums, constants and whole floats as the schema writes them."""
    options = {name: _whole(name, value) for name, value in raw.items()}
    faults: list[str] = []
    beside = {name: options.pop(name) for name in raw if name in _ssl_properties()}
    tls = options.get("ssl")
    if beside and tls is False:
        faults.append(f"ssl: False contradicts {', '.join(sorted(beside))}")
    elif beside or isinstance(tls, Mapping):
        merged = {**(tls if isinstance(tls, Mapping) else {}), **beside}
        # An empty mapping says nothing, as in Celery's broker_use_ssl.
        options["ssl"] = {name: _ssl_text(name, value) for name, value in merged.items()} or None
    keepalive = options.get("socket_keepalive_options")
    if isinstance(keepalive, Mapping):
        options["socket_keepalive_options"] = {str(key): v for key, v in keepalive.items()}
    return options, faults


def _whole(name: str, value: Any) -> Any:
    """A `timedelta` as seconds; a whole float, as its `total_seconds()` is, as an int where one is
    asked for; a range as a list.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, range):
        return list(value)
    if isinstance(value, float) and value.is_integer():
        return int(value) if "integer" in _types(_properties().get(name, {})) else value
    return value


def _types(spec: Mapping[str, Any]) -> tuple[str, ...]:
    allowed = spec.get("type", ())
    return (allowed,) if isinstance(allowed, str) else tuple(allowed)


_CHECKS = {_ssl.CERT_NONE: "none", _ssl.CERT_OPTIONAL: "optional", _ssl.CERT_REQUIRED: "required"}


def _ssl_text(name: str, value: Any) -> Any:
    """`ssl.CERT_NONE`, 0 and "CERT_NONE" as "none", `ssl.TLSVersion.TLSv1_2` as "TLSv1.2"."""
    if name == "ssl_cert_reqs" and isinstance(value, int) and not isinstance(value, bool):
        return _CHECKS.get(value, value)  # type: ignore[call-overload] # equal to its number
    if isinstance(value, enum.Enum):
        value = value.name.replace("_", ".") if isinstance(value, _ssl.TLSVersion) else value.name
    if isinstance(value, str) and value in ("CERT_NONE", "CERT_OPTIONAL", "CERT_REQUIRED"):
        return value.removeprefix("CERT_").lower()
    return value


def _finished(options: dict[str, Any]) -> dict[str, Any]:
    """Checked options in the types of the dataclass."""
    if "priority_steps" in options:
        options["priority_steps"] = tuple(options["priority_steps"])
    if isinstance(options.get("virtual_host"), str):
        options["virtual_host"] = int(options["virtual_host"].lstrip("/") or 0)
    if isinstance(options.get("sentinel_kwargs"), Mapping):
        options["sentinel_kwargs"] = dict(options["sentinel_kwargs"])
    return options


# ── faults, in plain words ────────────────────────────────────────────────────────────────────


def _faults(options: Mapping[str, Any]) -> list[str]:
    """Every fault of normalised options, one text an option, in the order given."""
    found: dict[str, str] = {}
    for where, word in schema.faults(schema.load("options"), options):
        path = list(where)
        inner = path[0] == "ssl" if path else False
        if word == "additionalProperties" and path in ([], ["ssl"]):
            known = [*_ssl_properties()] if inner else [*_properties(), *_ssl_properties()]
            faulty = options["ssl"] if inner else options
            found.update({n: _unknown_text(n, known) for n in faulty if n not in known})
        elif inner and len(path) > 1:
            spec = _ssl_properties()[path[1]]
            found[path[1]] = _fault(path[1], options["ssl"][path[1]], spec)
        else:
            found[path[0]] = _fault(path[0], options[path[0]], _properties()[path[0]])
    _add_what_no_schema_says(options, found)
    order = {name: place for place, name in enumerate(options)}
    return [found[name] for name in sorted(found, key=lambda name: order.get(name, len(order)))]


def _add_what_no_schema_says(options: Mapping[str, Any], found: dict[str, str]) -> None:
    def fault(name: str) -> None:
        found[name] = _fault(name, options[name], _properties()[name])

    steps = options.get("priority_steps")
    if steps is not None and "priority_steps" not in found and list(steps) != sorted(steps):
        fault("priority_steps")
    provider = options.get("credential_provider")
    if provider is not None and "credential_provider" not in found:
        if not isinstance(provider, str) and not hasattr(provider, "get_credentials"):
            fault("credential_provider")
        elif options.get("username") is not None or options.get("password") is not None:
            found["credential_provider"] = (
                "credential_provider: cannot be used together with username and password"
            )
    tls = options.get("ssl")
    checks = tls if isinstance(tls, Mapping) else {}
    if checks.get("ssl_cert_reqs") == "none" and checks.get("ssl_check_hostname") is True:
        found["ssl_check_hostname"] = (
            "ssl_check_hostname: cannot be True with ssl_cert_reqs='none': a certificate that is "
            "not checked proves no host name"
        )
    db, host = options.get("db"), options.get("virtual_host")
    both = db is not None and host is not None and not {"db", "virtual_host"} & found.keys()
    if both and db != int(str(host).lstrip("/") or 0):
        found["db"] = f"db: {db} and virtual_host: {host} name different databases"


def _fault(name: str, value: Any, spec: Mapping[str, Any]) -> str:
    got = (
        "a value that is not allowed" if spec.get("writeOnly") else f"got {arguments.shown(value)}"
    )
    return f"{name}: {got}, must be {_allowed(spec)}"


def _unknown_text(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(str(name), list(known), n=1)
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    return f"{name}: there is no such option{hint}"


def _allowed(spec: Mapping[str, Any]) -> str:
    """What an option may be, in words: "a whole number from 1 to 1000"."""
    if "x-allowed" in spec:
        return str(spec["x-allowed"])
    if "enum" in spec:
        words = [repr(value) for value in spec["enum"]]
    else:
        words = [_kind(kind, spec) for kind in _types(spec)]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _kind(kind: str, spec: Mapping[str, Any]) -> str:
    if kind in ("integer", "number"):
        noun = "a whole number" if kind == "integer" else "a number"
        if "exclusiveMinimum" in spec:
            return f"{noun} above {spec['exclusiveMinimum']}, at most {spec['maximum']}"
        return f"{noun} from {spec['minimum']} to {spec['maximum']}"
    if kind == "string":
        return "text that is not empty" if spec.get("minLength") else "text"
    return {"boolean": "True or False", "null": "None"}[kind]


# ── from text ─────────────────────────────────────────────────────────────────────────────────

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


def _typed(text: str, spec: Mapping[str, Any]) -> Any:
    kinds = _types(spec)
    if "string" in kinds:
        return text  # "none" may be a password
    word = text.strip().lower()
    if word in ("none", "null") and ("null" in kinds or None in spec.get("enum", ())):
        return None
    if "boolean" in kinds and word in _TRUE + _FALSE:
        return word in _TRUE
    try:
        if "array" in kinds:
            return [int(part) for part in text.split(",")]
        if "object" in kinds:
            return json.loads(text)
        if "integer" in kinds:
            return int(text)
        if "number" in kinds:
            return float(text)
    except ValueError:
        pass
    return text
