#!/usr/bin/env bash
# jsonschema: the pattern `^[a-z]+$` takes "abc\n", which fastjsonschema and pydantic refuse; a tuple and a `format` part them too
#
# Guess: a schema says what is valid, so its validators agree: `$` is the end of the text, as in JavaScript, whose regular
# expressions the specification names.
#
# Seen: jsonschema 4.26.0 reads a pattern as Python does, where `$` also matches before a newline at the end: a name that was checked
# may end in one. fastjsonschema 2.22.3 and pydantic 2.14.4 refuse it, but fastjsonschema takes it in `patternProperties`.
# `(?![\s\S])` instead of `$` is the end to jsonschema and fastjsonschema, and an error to pydantic. A tuple is an array to
# fastjsonschema only, and only that one checks a `format` without being asked to.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  jsonschema==4.26.0 fastjsonschema==2.22.3 pydantic==2.14.4 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
from typing import Annotated
import fastjsonschema, jsonschema, pydantic

def by_jsonschema(schema, value):
    return "takes" if jsonschema.Draft7Validator(schema).is_valid(value) else "refuses"

def by_fastjsonschema(schema, value):
    try:
        fastjsonschema.compile({"$schema": "http://json-schema.org/draft-07/schema#", **schema})(value)
        return "takes"
    except fastjsonschema.JsonSchemaException:
        return "refuses"

def by_pydantic(schema, value):
    if "pattern" not in schema:
        return "-"
    try:
        pydantic.TypeAdapter(Annotated[str, pydantic.Field(pattern=schema["pattern"])]).validate_python(value)
        return "takes"
    except pydantic.ValidationError:
        return "refuses"
    except Exception as error:
        return type(error).__name__

for schema, value in (
    ({"pattern": "^[a-z]+$"}, "abc"),
    ({"pattern": "^[a-z]+$"}, "abc\n"),
    ({"pattern": r"^[a-z]+(?![\s\S])"}, "abc\n"),
    ({"patternProperties": {"^a$": {}}, "additionalProperties": False}, {"a\n": 1}),
    ({"type": "array"}, (1, 2)),
    ({"format": "date-time"}, "yesterday"),
):
    print(schema, repr(value), "| jsonschema", by_jsonschema(schema, value), "| fastjsonschema", by_fastjsonschema(schema, value),
          "| pydantic", by_pydantic(schema, value))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
{'pattern': '^[a-z]+$'} 'abc' | jsonschema takes | fastjsonschema takes | pydantic takes
{'pattern': '^[a-z]+$'} 'abc\n' | jsonschema takes | fastjsonschema refuses | pydantic refuses
{'pattern': '^[a-z]+(?![\\s\\S])'} 'abc\n' | jsonschema refuses | fastjsonschema refuses | pydantic SchemaError
{'patternProperties': {'^a$': {}}, 'additionalProperties': False} {'a\n': 1} | jsonschema takes | fastjsonschema takes | pydantic -
{'type': 'array'} (1, 2) | jsonschema refuses | fastjsonschema takes | pydantic -
{'format': 'date-time'} 'yesterday' | jsonschema takes | fastjsonschema refuses | pydantic -
EOF
