"""The JSON Schemas under `schemas/`, and whether options meet theirs.

Options are checked by the words that their schema uses, and no others: a process that only wants a
queue imports no jsonschema for that. Bodies are held against a user's schema by jsonschema.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from atomq.assets import schemas_dir

Fault = tuple[tuple[str, ...], str]
"""Where a value does not meet its schema, and the word of the schema that says so."""


@cache
def load(name: str) -> dict[str, Any]:
    """The schema `schemas/<name>.schema.json`. Do not change what it returns: it is shared."""
    text = (schemas_dir() / f"{name}.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def names() -> list[str]:
    """The names of all schemas, sorted: `["cli", "envelope", …]`."""
    return sorted(path.name.split(".", 1)[0] for path in schemas_dir().glob("*.schema.json"))


def faults(spec: Mapping[str, Any], value: Any, where: tuple[str, ...] = ()) -> Iterator[Fault]:
    """Where a value does not meet a schema of the words that `options.schema.json` uses.

    It takes Python values as well as parsed JSON: a tuple is an array, any Mapping an object. It is
    stricter than JSON Schema where Python is: 3600.0 is no integer, NaN and infinity no numbers.
    """
    for word, rule in spec.items():
        if word in _SAYS and not _SAYS[word](rule, value):
            yield where, word
    if _is("object", value):
        known = spec.get("properties", {})
        for name in known.keys() & value.keys():
            yield from faults(known[name], value[name], (*where, str(name)))
        if any(next(faults(spec.get("propertyNames", {}), name), None) for name in value):
            yield where, "propertyNames"
        others = spec.get("additionalProperties", True)
        unknown = [name for name in value if name not in known]
        if others is False and unknown:
            yield where, "additionalProperties"
        elif not isinstance(others, bool):
            for name in unknown:
                yield from faults(others, value[name], (*where, str(name)))
    if _is("array", value):
        first = spec.get("prefixItems", [])
        for i, item in enumerate(value):
            each = first[i] if i < len(first) else spec.get("items", {})
            yield from faults(each, item, (*where, str(i)))


def _is(kind: str, value: Any) -> bool:
    match kind:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return _is("integer", value) or (isinstance(value, float) and math.isfinite(value))
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list | tuple)
        case _:
            return isinstance(value, Mapping)


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _distinct(values: Any) -> bool:
    return not any(_same(one, other) for i, one in enumerate(values) for other in values[:i])


def _for(kind: str, holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda rule, value: not _is(kind, value) or holds(rule, value)


_SAYS: dict[str, Callable[[Any, Any], bool]] = {
    "type": lambda rule, value: any(
        _is(kind, value) for kind in ([rule] if isinstance(rule, str) else rule)
    ),
    "enum": lambda rule, value: any(_same(allowed, value) for allowed in rule),
    "const": _same,
    "not": lambda rule, value: next(faults(rule, value), None) is not None,
    "minimum": _for("number", lambda rule, value: value >= rule),
    "exclusiveMinimum": _for("number", lambda rule, value: value > rule),
    "maximum": _for("number", lambda rule, value: value <= rule),
    "minLength": _for("string", lambda rule, value: len(value) >= rule),
    "pattern": _for("string", lambda rule, value: re.search(rule, value) is not None),
    "minItems": _for("array", lambda rule, value: len(value) >= rule),
    "maxItems": _for("array", lambda rule, value: len(value) <= rule),
    "uniqueItems": _for("array", lambda rule, value: not rule or _distinct(value)),
}
