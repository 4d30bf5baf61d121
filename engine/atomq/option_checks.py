"""What was given as options: brought into one form, checked, its faults in plain words.

What may be given is said by `schemas/options.schema.json`.
"""

from __future__ import annotations

import difflib
import enum
import json
import ssl as _ssl
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from atomq import arguments, schema


def properties() -> dict[str, dict[str, Any]]:
    """What the schema says of each option, by name."""
    found: dict[str, dict[str, Any]] = schema.load("options")["properties"]
    return found


def ssl_properties() -> dict[str, dict[str, Any]]:
    """What the schema says of each ssl_* setting, by name."""
    found: dict[str, dict[str, Any]] = properties()["ssl"]["properties"]
    return found


# ── from what was given to what is checked ────────────────────────────────────────────────────


def normalised(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`raw` with ssl_* gathered; enums, constants and whole floats as the schema writes them."""
    options = {name: _whole(name, value) for name, value in raw.items()}
    faults: list[str] = []
    beside = {name: options.pop(name) for name in raw if name in ssl_properties()}
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
        return int(value) if "integer" in _types(properties().get(name, {})) else value
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


def finished(options: dict[str, Any]) -> dict[str, Any]:
    """Checked options in the types of the dataclass."""
    if "priority_steps" in options:
        options["priority_steps"] = tuple(options["priority_steps"])
    if isinstance(options.get("virtual_host"), str):
        options["virtual_host"] = int(options["virtual_host"].lstrip("/") or 0)
    if isinstance(options.get("sentinel_kwargs"), Mapping):
        options["sentinel_kwargs"] = dict(options["sentinel_kwargs"])
    return options


# ── faults, in plain words ────────────────────────────────────────────────────────────────────


def faults_of(options: Mapping[str, Any]) -> list[str]:
    """Every fault of normalised options, one text an option, in the order given."""
    found: dict[str, str] = {}
    for where, word in schema.faults(schema.load("options"), options):
        path = list(where)
        inner = path[0] == "ssl" if path else False
        if word == "additionalProperties" and path in ([], ["ssl"]):
            known = [*ssl_properties()] if inner else [*properties(), *ssl_properties()]
            faulty = options["ssl"] if inner else options
            found.update({n: unknown_text(n, known) for n in faulty if n not in known})
        elif inner and len(path) > 1:
            spec = ssl_properties()[path[1]]
            found[path[1]] = _fault(path[1], options["ssl"][path[1]], spec)
        else:
            found[path[0]] = _fault(path[0], options[path[0]], properties()[path[0]])
    _add_what_no_schema_says(options, found)
    order = {name: place for place, name in enumerate(options)}
    return [found[name] for name in sorted(found, key=lambda name: order.get(name, len(order)))]


def _add_what_no_schema_says(options: Mapping[str, Any], found: dict[str, str]) -> None:
    def fault(name: str) -> None:
        found[name] = _fault(name, options[name], properties()[name])

    for name, value in options.items():
        if isinstance(value, str) and name not in found and not arguments.is_utf_8(value):
            found[name] = f"{name}: what it has cannot be written as UTF-8"
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
    return f"{name}: {got}, must be {allowed(spec)}"


def unknown_text(name: str, known: Iterable[str]) -> str:
    """That there is no such option, and which one may be meant."""
    nearest = difflib.get_close_matches(str(name), list(known), n=1)
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    return f"{name}: there is no such option{hint}"


def allowed(spec: Mapping[str, Any]) -> str:
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


def typed(text: str, spec: Mapping[str, Any]) -> Any:
    """A text in the type of an option; as it is where it does not fit."""
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
