"""Options: one list, checked, with every fault named at once."""

from __future__ import annotations

import dataclasses
import pickle
import socket
import ssl
import subprocess
import sys
from typing import Any

import pytest

from atomq import schema
from atomq.errors import InvalidOptions
from atomq.options import Options

PROPERTIES: dict[str, Any] = schema.load("options")["properties"]
FIELDS = {field.name: field.default for field in dataclasses.fields(Options)}


def faults(*given: Any, **more: Any) -> list[str]:
    with pytest.raises(InvalidOptions) as caught:
        Options.of(*given, **more)
    return caught.value.faults


# ── the one list ──────────────────────────────────────────────────────────────────────────────


def test_dataclass_and_schema_name_the_same_options_in_the_same_order() -> None:
    assert list(FIELDS) == list(PROPERTIES)


@pytest.mark.parametrize("name", PROPERTIES)
def test_dataclass_and_schema_have_the_same_default(name: str) -> None:
    default = FIELDS[name]
    assert (list(default) if isinstance(default, tuple) else default) == PROPERTIES[name]["default"]


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_default_is_allowed(name: str) -> None:
    assert Options.of({name: FIELDS[name]}) == Options()


def test_every_option_is_described_for_the_docs() -> None:
    rows = {row.name: row for row in Options.describe()}
    assert set(rows) == set(PROPERTIES) | set(PROPERTIES["ssl"]["properties"])
    assert all(row.meaning.endswith((".", ")")) and row.type for row in rows.values())
    assert rows["prefetch"].type == "a whole number from 1 to 1000"
    assert rows["prefetch"].default == 64
    assert rows["lease"].type == "a number above 0, at most 31622400"
    assert rows["layout"].type == "'stock', 'cluster' or None"
    assert rows["master_name"].type == "text that is not empty or None"
    assert rows["global_keyprefix"].type == "text"
    names = [*PROPERTIES]
    at = names.index("ssl") + 1
    assert [*rows] == [*names[:at], *PROPERTIES["ssl"]["properties"], *names[at:]]


def test_options_need_no_jsonschema() -> None:
    code = "import sys; from atomq.options import Options; Options.of(lease=5); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "jsonschema" not in done.stdout.split()


# ── what is right ─────────────────────────────────────────────────────────────────────────────


def test_values_arrive_in_the_types_of_the_dataclass() -> None:
    options = Options.of({"priority_steps": [0, 5], "virtual_host": "/3"}, lease=0.5)
    assert options.priority_steps == (0, 5)
    assert options.virtual_host == options.database == 3
    assert options.lease == 0.5
    for host, number in (("/", 0), ("", 0), ("/3", 3), (3, 3)):
        assert Options.of(virtual_host=host, db=number).database == number
        assert Options.of(virtual_host=host).virtual_host == number


def test_keywords_win_over_the_mapping() -> None:
    assert Options.of({"prefetch": 1, "lease": 5}, prefetch=2) == Options(prefetch=2, lease=5)


def test_options_can_be_given_as_options_and_changed() -> None:
    options = Options.of(prefetch=2, priority_steps=(0, 1))
    assert Options.of(options) == options
    assert options.replace(lease=7) == Options(prefetch=2, priority_steps=(0, 1), lease=7)
    with pytest.raises(InvalidOptions):
        options.replace(lease=-7)
    assert options.given() == {"prefetch": 2, "priority_steps": (0, 1)}


def test_options_are_frozen_hashable_and_travel_to_a_spawned_child() -> None:
    mappings = {"ssl": {"ssl_ca_certs": "/ca"}, "sentinel_kwargs": {"password": "x"}}
    options = Options.of(mappings, socket_keepalive_options={"TCP_KEEPCNT": 2})
    assert pickle.loads(pickle.dumps(options)) == options
    assert hash(options) == hash(pickle.loads(pickle.dumps(options)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.lease = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("visibility_timeout", "lease", "expected"),
    [(3600, 60, 60_000), (3600, 7200, 3_600_000), (1, 60, 1000), (60, 0.25, 250), (60, 1e-9, 1)],
)
def test_the_lease_is_the_smaller_of_the_two(
    visibility_timeout: int, lease: float, expected: int
) -> None:
    options = Options.of(visibility_timeout=visibility_timeout, lease=lease)
    assert options.lease_ms == expected


def test_times_in_milliseconds() -> None:
    options = Options.of(max_lease=1.5, dedup_window=2, result_ttl=3, visibility_timeout=4)
    assert (options.max_lease_ms, options.dedup_window_ms) == (1500, 2000)
    assert (options.result_ttl_ms, options.visibility_timeout_ms) == (3000, 4000)
    assert Options().max_lease_ms is None
    windows = [Options(retry_budget=seconds).call_window_ms for seconds in (0, 10, 60, 61)]
    assert windows == [120_000, 120_000, 120_000, 122_000], "twice as long as calls are repeated"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ""),
        ({"dead_max": 5}, "5 0"),
        ({"dead_ttl": 1.5}, "0 1500"),
        ({"dead_max": 5, "dead_ttl": 2}, "5 2000"),
    ],
)
def test_which_dead_letters_are_kept(given: dict[str, Any], expected: str) -> None:
    assert Options.of(given).dead_kept == expected


def test_the_limits_of_a_consumer_are_those_that_there_are() -> None:
    assert Options().limits == {"max_deliveries": 20, "lease_seconds": 60}
    every = {"max_lease": 7, "dead_max": 5, "dead_ttl": 2, "max_deliveries": None}
    expected = {"max_lease_seconds": 7, "dead_max": 5, "dead_ttl_seconds": 2, "lease_seconds": 0.5}
    assert Options.of(every, lease=0.5).limits == expected


def test_tls_settings_may_stand_beside_the_other_options() -> None:
    options = Options.of(ssl={"ssl_ca_certs": "/ca"}, ssl_check_hostname=False)
    assert options.ssl == {"ssl_ca_certs": "/ca", "ssl_check_hostname": False}


@pytest.mark.parametrize("said", [ssl.CERT_NONE, 0, "CERT_NONE", "none"])
def test_celery_s_ways_to_say_how_certificates_are_checked(said: object) -> None:
    assert Options.of(ssl={"ssl_cert_reqs": said}).ssl == {"ssl_cert_reqs": "none"}


def test_a_tls_version_may_be_python_s_constant() -> None:
    said = Options.of(ssl_min_version=ssl.TLSVersion.TLSv1_2)
    assert said.ssl == {"ssl_min_version": "TLSv1.2"}


def test_keepalive_settings_may_be_python_s_constants() -> None:
    given = {socket.TCP_KEEPIDLE: 60, "TCP_KEEPCNT": 2}
    kept = Options.of(socket_keepalive_options=given).socket_keepalive_options
    assert kept == {str(int(socket.TCP_KEEPIDLE)): 60, "TCP_KEEPCNT": 2}


def test_whole_floats_and_ranges_are_whole_numbers_and_lists() -> None:
    """As `timedelta.total_seconds()` and `range(10)` return them."""
    options = Options.of(visibility_timeout=43200.0, priority_steps=range(10), db=1.0)
    assert options == Options.of(visibility_timeout=43200, priority_steps=list(range(10)), db=1)
    assert type(options.visibility_timeout) is type(options.db) is int


class Provider:
    __hash__ = None  # type: ignore[assignment] # as of a dataclass

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return "Provider(hunter2)"

    def get_credentials(self) -> tuple[str, str]:
        return "user", "secret"


@pytest.mark.parametrize("provider", [Provider(), "package.module.Class", "package.module:Class"])
def test_a_credential_provider_is_an_object_or_an_import_path(provider: object) -> None:
    options = Options.of(credential_provider=provider)
    assert options.credential_provider is provider
    assert hash(options) == hash(Options())
    assert "rovider" not in repr(options)


# ── what is wrong ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("visibility_timeout", v) for v in (3600.5, "3600", 0, -1, True, None, 2**31)],
        *[("lease", v) for v in (0, -1, "60", True, None, float("nan"), float("inf"), 1e9)],
        *[("max_lease", v) for v in (0, "1", False)],
        *[("max_deliveries", v) for v in (0, 1.5, True, "20")],
        *[("priority_steps", v) for v in ([], [1], [0, 0], [0, 6, 3], [0, 10], [0, True], "0,3")],
        *[("priority_steps", v) for v in (list(range(11)), range(1, 3))],
        *[("sep", v) for v in ("", None, b"x")],
        ("global_keyprefix", None),
        *[("layout", v) for v in ("", "Stock", "sharded")],
        *[("prefetch", v) for v in (0, 1001, 64.5, None)],
        *[("max_bytes", v) for v in (0, 2**30, None)],
        *[("dedup_window", v) for v in (0, 31622401)],
        *[("result_ttl", v) for v in (0, 31622401)],
        *[("retry_attempts", v) for v in (-1, 10, 1.5, True)],
        *[("retry_budget", v) for v in (-1, None)],
        *[("wait_cap", v) for v in (0, 1.01, None)],
        *[("socket_timeout", v) for v in (0, -1, "5")],
        *[("socket_keepalive", v) for v in (1, "yes", None)],
        *[("socket_keepalive_options", v) for v in ([1], {"idle": 1}, {"TCP_KEEPIDLE": "1"})],
        *[("health_check_interval", v) for v in (-1, None)],
        *[("client_name", v) for v in ("two words", "line\n", "é", 5)],
        *[("max_connections", v) for v in (0, 2.5)],
        *[("password", v) for v in (5, b"x")],
        *[("db", v) for v in (-1, "0", True)],
        *[("virtual_host", v) for v in (-1, "x", "-1", "//1", 1.5)],
        *[("ssl", v) for v in ("yes", 1)],
        *[("credential_provider", v) for v in (5, True, [], {}, object())],
        *[("master_name", v) for v in ("", 5)],
        ("sentinel_kwargs", "password=x"),
        ("min_other_sentinels", -1),
        *[("ssl_cert_reqs", v) for v in ("maybe", None, 3, False)],
        ("ssl_check_hostname", "no"),
        ("ssl_min_version", "TLSv1.1"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: object) -> None:
    (fault,) = faults({name: value})
    assert fault.startswith(f"{name}: ")
    assert ", must be " in fault


def test_the_text_of_a_fault() -> None:
    assert faults(visibility_timeout="3600") == [
        "visibility_timeout: got '3600', must be a whole number from 1 to 2147483647"
    ]


def test_every_fault_is_listed_in_the_order_given() -> None:
    found = faults(
        {"lease": 0, "prefech": 3, "priority_steps": [3, 0], "ssl_ca_cert": "x"}, ssl={"ca": 1}
    )
    assert [fault.partition(":")[0] for fault in found] == [
        "lease",
        "prefech",
        "priority_steps",
        "ssl_ca_cert",
        "ca",
    ]
    assert len(faults(ssl={"ssl_cert_reqs": "maybe", "ssl_check_hostname": "no"})) == 2


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("visibilty_timeout", "visibility_timeout"),
        ("prefetch_count", "prefetch"),
        ("ssl_ca_cert", "ssl_ca_certs"),
        ("virtualhost", "virtual_host"),
    ],
)
def test_an_unknown_name_comes_with_the_nearest_one(name: str, nearest: str) -> None:
    assert faults({name: 1}) == [f"{name}: there is no such option (did you mean {nearest}?)"]
    assert Options.unknown([name, "lease"]) == {name: faults({name: 1})[0]}


def test_an_unknown_name_that_is_near_to_none() -> None:
    assert faults({"xyzzy": 1}) == ["xyzzy: there is no such option"]


@pytest.mark.parametrize(
    "given",
    [
        {"db": 1, "virtual_host": 2},
        {"ssl": False, "ssl_ca_certs": "/ca"},
        {"ssl_cert_reqs": "none", "ssl_check_hostname": True},
        {"ssl": {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": True}},
        {"credential_provider": Provider(), "password": "x"},
    ],
)
def test_options_that_contradict_each_other_are_refused(given: dict[str, Any]) -> None:
    assert len(faults(given)) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", ["hunter2"]),
        ("ssl_password", ["hunter2"]),
        ("sentinel_kwargs", "password=hunter2"),
        ("credential_provider", ["hunter2"]),
    ],
)
def test_no_message_repeats_a_secret(name: str, value: object) -> None:
    assert "hunter2" not in "".join(faults({name: value}))


def test_no_repr_shows_a_secret() -> None:
    options = Options.of(
        username="hunter2",  # a password whose colon is missing
        password="hunter2",
        ssl={"ssl_password": "hunter2"},
        sentinel_kwargs={"password": "hunter2"},
    )
    assert "hunter2" not in repr(options)


def test_a_long_value_is_shortened() -> None:
    (fault,) = faults(visibility_timeout="9" * 10_000)
    assert len(fault) < 300


# ── from text ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("visibility_timeout", "3600", 3600),
        ("prefetch", "1", 1),
        ("lease", "0.5", 0.5),
        ("max_lease", "none", None),
        ("max_deliveries", "None", None),
        ("priority_steps", "0,3", [0, 3]),
        ("socket_keepalive", "false", False),
        ("ssl_check_hostname", "off", False),
        ("ssl", "true", True),
        ("layout", "cluster", "cluster"),
        ("layout", "none", None),
        ("client_name", "5", "5"),
        ("password", "0123", "0123"),
        ("password", "none", "none"),
        ("sentinel_kwargs", '{"password": "x"}', {"password": "x"}),
        ("socket_keepalive_options", '{"TCP_KEEPIDLE": 9}', {"TCP_KEEPIDLE": 9}),
        ("credential_provider", "a.B", "a.B"),
    ],
)
def test_texts_become_the_option_s_type(name: str, text: str, value: object) -> None:
    typed = Options.typed({name: text})
    assert typed == {name: value}
    assert type(typed[name]) is type(value)
    Options.of(typed)


@pytest.mark.parametrize(
    ("name", "text"),
    [("visibility_timeout", "3600.0"), ("lease", "x"), ("lease", "inf"), ("priority_steps", "0,x")],
)
def test_a_text_that_does_not_fit_is_refused_by_name(name: str, text: str) -> None:
    assert [fault.partition(":")[0] for fault in faults(Options.typed({name: text}))] == [name]
