"""The schemas, compiled by jsonschema: what is printed and stored must meet them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from atomq.schema import load, names

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

URN = "urn:atomq:schema:"


@cache
def validator(name: str, part: str | None = None) -> Validator:
    """The validator of a schema, or of one of its `$defs`: `validator("cli", "doctor")`.

    It takes Python values as well as parsed JSON: a tuple is an array, any Mapping an object. It is
    stricter than JSON Schema where Python is: 3600.0 is no integer, NaN and infinity no numbers.
    """
    base, registry = _machinery()
    schema = load(name) if part is None else {"$ref": f"{URN}{name}#/$defs/{part}"}
    compiled: Validator = base(schema, registry=registry)
    return compiled


@cache
def _machinery() -> tuple[Any, Any]:
    from jsonschema import Draft202012Validator, validators
    from referencing import Registry, Resource

    checker = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda _, value: (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and (isinstance(value, int) or math.isfinite(value))
            ),
            "array": lambda _, value: isinstance(value, list | tuple),
            "object": lambda _, value: isinstance(value, Mapping),
        }
    )
    extend: Any = validators.extend
    base = extend(Draft202012Validator, type_checker=checker)
    registry: Any = Registry().with_resources(
        (f"{URN}{name}", Resource.from_contents(load(name))) for name in names()
    )
    return base, registry
