"""The JSON Schemas are valid, resolve, and say what is meant."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from atomq import schema, scripts
from atomq.assets import schemas_dir
from tests.schemas import validator

ENVELOPE = {
    "body": "e30=",
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {"task": "add", "eta": None},
    "properties": {
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "5e2a6eb4-9103-49f2-b76b-8954419678f6",
    },
}
MESSAGE = {"queue": "q", "id": "m1", "priority": 0, "deliveries": 1, "bytes": 300}


def accepts(value: Any, name: str, part: str | None = None) -> bool:
    return bool(validator(name, part).is_valid(value))


def test_there_is_a_schema_for_each_thing_that_leaves_the_program() -> None:
    assert schema.names() == ["cli", "envelope", "manifest", "options", "result"]


@pytest.mark.parametrize("name", schema.names())
def test_is_a_valid_2020_12_schema_with_its_own_urn(name: str) -> None:
    loaded = json.loads((schemas_dir() / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(loaded)
    assert loaded["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert loaded["$id"] == f"urn:atomq:schema:{name}"


@pytest.mark.parametrize(
    ("name", "part"),
    [(name, part) for name in schema.names() for part in schema.load(name).get("$defs", {})],
)
def test_every_definition_resolves(name: str, part: str) -> None:
    values: list[Any] = [{}, [], [{}], "", 0]
    for value in values:
        list(validator(name, part).iter_errors(value))


def test_a_validator_is_compiled_once() -> None:
    assert validator("cli", "doctor") is validator("cli", "doctor")


@pytest.mark.parametrize("value", [3600.0, True, "3600"])
def test_an_integer_is_a_python_int(value: object) -> None:
    assert not accepts({"visibility_timeout": value}, "options")


def test_a_kombu_envelope_is_accepted() -> None:
    assert accepts(ENVELOPE, "envelope")
    assert accepts({"x-deliveries": 3, "x-expires": 1795438661878, **ENVELOPE}, "envelope")


@pytest.mark.parametrize(
    "change",
    [
        {"body": 5},
        {"properties": {}},
        {"properties": ENVELOPE["properties"] | {"delivery_tag": ""}},  # type: ignore[operator]
        {"headers": []},
        {"x-deliveries": -1},
        {"x-deliveries": "3"},
        {"x-expires": 1.5},
    ],
)
def test_what_no_worker_could_read_is_no_envelope(change: dict[str, Any]) -> None:
    assert not accepts(ENVELOPE | change, "envelope")


def test_the_manifest_of_this_release_is_accepted() -> None:
    validator("manifest").validate(scripts.manifest("0.1.0"))


def test_a_load_report_is_a_manifest_with_nodes() -> None:
    node = {"node": "h:6379", "server": "valkey", "version": "9.1.2", "loaded": [], "present": []}
    report = scripts.manifest("0.1.0") | {"nodes": [node]}
    assert accepts(report, "manifest")
    del node["version"]
    assert not accepts(report, "manifest")


@pytest.mark.parametrize("change", [{"sha1": "ABC"}, {"bytes": 0}, {"file": "../claim.lua"}])
def test_a_script_with_a_wrong_entry_is_refused(change: dict[str, Any]) -> None:
    manifest = scripts.manifest("0.1.0")
    manifest["scripts"][0] |= change
    assert not accepts(manifest, "manifest")


@pytest.mark.parametrize("value", [None, 5, [], {"a": 1}])
def test_a_result_is_done_with_a_value_of_any_kind(value: object) -> None:
    assert accepts({"id": "m", "state": "done", "value": value}, "result")


def test_a_failed_result_has_a_reason() -> None:
    assert accepts({"id": "m", "state": "failed", "reason": "rejected", "detail": "x"}, "result")


@pytest.mark.parametrize(
    "result",
    [
        {"id": "m", "state": "done"},
        {"id": "m", "state": "failed"},
        {"id": "m", "state": "failed", "value": 1},
        {"id": "m", "state": "done", "value": 1, "reason": "?"},
        {"id": "", "state": "done", "value": 1},
        {"id": "m", "state": "lost", "value": 1},
    ],
)
def test_a_result_that_says_neither_or_both_is_refused(result: dict[str, Any]) -> None:
    assert not accepts(result, "result")


@pytest.mark.parametrize(
    ("part", "row", "needed"),
    [
        (
            "queues",
            {"queue": "q", "ready": 1, "unacked": 0, "delayed": 0, "dead": 0, "paused": False},
            "ready",
        ),
        ("peek", MESSAGE, "bytes"),
        ("delayed", MESSAGE | {"due_ms": 1}, "due_ms"),
        ("unacked", MESSAGE | {"receipt": "r-1", "holder": "r", "deadline_ms": 1}, "deadline_ms"),
        ("dead", MESSAGE | {"dead_id": "1-0", "reason": "rejected", "died_ms": 1}, "reason"),
        ("doctor", {"check": "timeout", "status": "ok", "found": "0", "advice": ""}, "status"),
    ],
)
def test_rows_of_the_command_line(part: str, row: dict[str, Any], needed: str) -> None:
    assert accepts([row], "cli", part)
    assert not accepts([row | {"surprise": 1}], "cli", part)
    del row[needed]
    assert not accepts([row], "cli", part)


@pytest.mark.parametrize("status", ["warn", "fail"])
def test_a_finding_that_is_not_ok_says_what_to_do(status: str) -> None:
    finding = {"check": "timeout", "status": status, "found": "300", "advice": ""}
    assert not accepts([finding], "cli", "doctor")
    assert accepts([finding | {"advice": "CONFIG SET timeout 0"}], "cli", "doctor")


# ── without jsonschema ────────────────────────────────────────────────────────────────────────

OPTIONS = schema.load("options")["properties"]
SETTINGS = OPTIONS["ssl"]["properties"]
VALUES = st.recursive(
    st.one_of(
        st.sampled_from(
            [None, True, False, 0, 1, -1, 6, 1.0, 0.0, 3600, float("nan"), float("inf")]
        ),
        st.sampled_from(
            ["", "stock", "none", "/0", "a b", "TCP_KEEPIDLE", "required", "\n", object()]
        ),
        st.integers(),
        st.floats(),
        st.text(max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.lists(st.integers(0, 10), max_size=11),
        st.dictionaries(
            st.sampled_from([*SETTINGS, "TCP_KEEPIDLE", "5", "x y"]), inner, max_size=3
        ),
    ),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*OPTIONS, "unknown"]), VALUES, max_size=3))
def test_options_are_judged_as_jsonschema_judges_them(options: dict[str, Any]) -> None:
    """Where, and by which word; of several words about one place any will do for a message."""
    ours = {where for where, _ in schema.faults(schema.load("options"), options)}
    theirs = {
        tuple(str(part) for part in error.absolute_path)
        for error in validator("options").iter_errors(options)
    }
    assert ours == theirs


def test_every_word_of_the_options_schema_is_known() -> None:
    """A word that is not judged would let everything pass."""
    about = {"$schema", "$id", "title", "description", "default", "writeOnly", "x-allowed"}
    inner = {"properties", "propertyNames", "additionalProperties", "prefixItems", "items"}

    def words(spec: Any) -> set[str]:
        if not isinstance(spec, dict):
            return set()
        found = set(spec)
        for word in inner & found:
            below = spec[word]
            some = below.values() if word == "properties" else below
            for each in some if isinstance(some, list) or word == "properties" else [below]:
                found |= words(each)
        return found | words(spec.get("not"))

    assert words(schema.load("options")) - about - inner == set(schema._SAYS)
