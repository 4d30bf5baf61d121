"""JSON Schemas that bodies are held against before they are put."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from atomq import arguments
from atomq.errors import InvalidArgument, InvalidMessage
from atomq.serializers import strict_json


def body_check(schema: Mapping[str, Any] | None) -> Callable[[Any], None] | None:
    """A function that raises `InvalidMessage` for a body that does not meet the schema.

    Raises `InvalidArgument` if it is no JSON Schema, and `ImportError` without jsonschema.
    """
    if schema is None:
        return None
    try:
        from jsonschema import SchemaError
    except ImportError as error:
        raise ImportError('schema= needs jsonschema: pip install "atomq[schema]"') from error
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY as SPECIFICATIONS
    from referencing.exceptions import Unresolvable

    if not isinstance(schema, Mapping):
        raise InvalidArgument(f"schema must be a mapping, got {type(schema).__name__}")
    try:
        own: dict[str, Any] = json.loads(strict_json(dict(schema), "the schema is"))
        kind = validator_for(own)
        kind.check_schema(own)
        # With this registry no reference is fetched from the network.
        compiled = kind(own, registry=SPECIFICATIONS, format_checker=_formats(kind))
    except SchemaError as error:
        raise InvalidArgument(f"the schema is no JSON Schema: {error.message}") from error
    except Exception as error:
        raise InvalidArgument(f"the schema is no JSON Schema: {arguments.words(error)}") from error

    def check(body: Any) -> None:
        try:
            error = best_match(compiled.iter_errors(body))
        except Unresolvable as missing:
            raise InvalidArgument(f"the schema refers to what is not in it: {missing}") from missing
        except Exception as trouble:
            said = arguments.words(trouble)
            raise InvalidMessage(f"the body cannot be held against the schema: {said}") from trouble
        if error is not None:
            raise InvalidMessage(
                f"the body does not meet the schema at {error.json_path}: {error.message}"
            )

    return check


def _formats(kind: Any) -> Any:
    """The formats that jsonschema knows here, and `date-time`, for which it wants a package."""
    from jsonschema import FormatChecker

    checker = FormatChecker(())
    checker.checkers = dict(kind.FORMAT_CHECKER.checkers)
    if "date-time" not in checker.checkers:
        checker.checkers["date-time"] = (_is_date_time, ValueError)
    return checker


def _is_date_time(given: object) -> bool:
    """Whether it is a time of RFC 3339; what is no text has no format."""
    if not isinstance(given, str):
        return True
    form = r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)"
    if re.fullmatch(form, given, re.ASCII) is None:
        return False
    datetime.fromisoformat(f"{given[:10]}T{given[11:19]}".replace(":60", ":59"))
    return True
