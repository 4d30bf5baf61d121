#!/usr/bin/env bash
# fastjsonschema takes a schema of draft 2020-12 for draft 7, without a word, and writes defaults into the caller's object; jsonschema refuses 19.99 as a multiple of 0.01
#
# Guess: both say the same of a schema and a value; what one of them does not know, by `$schema`, it refuses; validation changes
# nothing.
#
# Seen: fastjsonschema 2.22.3: `prefixItems`, `dependentRequired`, `unevaluatedProperties`, `minContains` and what stands beside
# a `$ref` are not looked at, so what they forbid is valid. A missing property with a `default` is added to the dict that was
# validated, a tuple is an array, and `format` is checked. jsonschema 4.26.0 checks `format` only if asked to, refuses 19.99 and
# 0.3 as multiples of 0.01 and 0.1 (it divides), and `^a$` matches "a" with a newline.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  jsonschema==4.26.0 fastjsonschema==2.22.3 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import fastjsonschema, jsonschema

NEW = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
CASES = (
    (NEW | {"prefixItems": [{"type": "string"}]}, [1]),
    (NEW | {"dependentRequired": {"a": ["b"]}}, {"a": 1}),
    (NEW | {"unevaluatedProperties": False}, {"a": 1}),
    (NEW | {"contains": {"type": "integer"}, "minContains": 2}, [1]),
    (NEW | {"$ref": "#/$defs/text", "minLength": 3, "$defs": {"text": {"type": "string"}}}, "a"),
    ({"multipleOf": 0.01}, 19.99),
    ({"multipleOf": 0.1}, 0.3),
    ({"pattern": "^a$"}, "a\n"),
    ({"type": "array"}, (1, 2)),
    ({"format": "date"}, "2026-13-01"),
)

def valid(check, *args):
    try:
        check(*args)
    except (jsonschema.ValidationError, fastjsonschema.JsonSchemaValueException):
        return False
    return True

for schema, value in CASES:
    shown = {key: there for key, there in schema.items() if key not in ("$schema", "$defs")}
    print(shown, repr(value), "| jsonschema:", valid(jsonschema.Draft202012Validator(schema).validate, value), "| fastjsonschema:", valid(fastjsonschema.compile(schema), value))
mine = {}
fastjsonschema.compile({"properties": {"retries": {"default": 3}}})(mine)
print("an empty dict that fastjsonschema has validated:", mine)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
{'prefixItems': [{'type': 'string'}]} [1] | jsonschema: False | fastjsonschema: True
{'dependentRequired': {'a': ['b']}} {'a': 1} | jsonschema: False | fastjsonschema: True
{'unevaluatedProperties': False} {'a': 1} | jsonschema: False | fastjsonschema: True
{'contains': {'type': 'integer'}, 'minContains': 2} [1] | jsonschema: False | fastjsonschema: True
{'$ref': '#/$defs/text', 'minLength': 3} 'a' | jsonschema: False | fastjsonschema: True
{'multipleOf': 0.01} 19.99 | jsonschema: False | fastjsonschema: True
{'multipleOf': 0.1} 0.3 | jsonschema: False | fastjsonschema: True
{'pattern': '^a$'} 'a\n' | jsonschema: True | fastjsonschema: False
{'type': 'array'} (1, 2) | jsonschema: False | fastjsonschema: True
{'format': 'date'} '2026-13-01' | jsonschema: True | fastjsonschema: False
an empty dict that fastjsonschema has validated: {'retries': 3}
EOF
