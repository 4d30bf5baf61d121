"""How the options of a Kombu connection are read. Needs no server."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from kombu import Connection

import atomq.celery
from atomq.contrib.kombu.settings import CalledPassword, Settings, UnknownOption
from atomq.errors import InvalidOptions

atomq.celery.register()


def of(url: str = "atomq://h", **options: Any) -> Settings:
    return Settings.of(Connection(url, transport_options=options))


@pytest.mark.parametrize(
    ("said", "prefix"),
    [({}, "/3."), (True, "/3."), (1, "/3."), (False, ""), (0, ""), ("/x{db}.", "/x3."), ("y", "y")],
)
def test_the_prefix_of_broadcasts(said: Any, prefix: str) -> None:
    options = {} if said == {} else {"fanout_prefix": said}
    assert of("atomq://h/3", **options).fanout_prefix == prefix


def test_broadcasts_of_older_kombus_are_heard_behind_a_sentinel_alone() -> None:
    options = {"sentinel_fanout_compat": True, "master_name": "m"}
    assert of("atomq-sentinel://h", **options).legacy_fanout_prefix == "/{db}."
    assert of("atomq-sentinel://h", master_name="m").legacy_fanout_prefix is None
    assert of("atomq://h", sentinel_fanout_compat=True).legacy_fanout_prefix is None
    plain = of("atomq-sentinel://h", fanout_prefix="x.", **options)
    assert plain.legacy_fanout_prefix is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("fanout_prefix", "{other}", "braces"),
        ("fanout_prefix", "a}}{{b", "braces"),
        ("fanout_prefix", "{", "braces"),
        ("fanout_prefix", 7, "True or False or text"),
        ("fanout_patterns", "yes", "True or False"),
        ("delay_in_server", "sometimes", "auto, always or never"),
        ("delay_in_server", True, "text"),
        ("polling_interval", True, "a number"),
        ("queue_order_strategy", "no.such.Class", "round_robin"),
        ("body_encoding", "hex", "'base64' or None"),
        ("unacked_key", 7, "text"),
    ],
)
def test_a_wrong_value_is_told_with_what_it_may_be(name: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidOptions, match=name) as raised:
        of(**{name: value})
    assert words in str(raised.value)


def test_what_stock_takes_is_taken() -> None:
    options = of(max_connections=0, priority_steps=[6, 0, 3], ssl_cert_reqs=None).address.options
    assert options.max_connections is None
    assert list(of(priority_steps=range(0, 9, 3)).address.options.priority_steps) == [0, 3, 6]
    assert list(of(priority_steps=[0, 5, 3]).address.options.priority_steps) == [0, 3]
    assert of("atomqs://h", ssl_cert_reqs=None).address.tls["ssl_cert_reqs"] == "none"  # type: ignore[index]
    assert of("atomqs://h").address.tls["ssl_cert_reqs"] == "required"  # type: ignore[index]


def test_a_call_of_a_broker_is_tried_again_once_for_five_seconds() -> None:
    """Kombu and Celery try again by themselves."""
    options = of().address.options
    assert (options.retry_attempts, options.retry_budget) == (1, 5.0)
    assert of(retry_attempts=3).address.options.retry_attempts == 3


def test_known_options_are_no_warning_and_unknown_ones_are() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of(max_retries=3, unacked_restore_limit=5, lease=9, master_name=None, ack_emulation=False)
    with pytest.warns(UnknownOption, match="^fanout_prefx: "):
        of(fanout_prefx=True)


def test_a_callable_password_is_called_at_every_connect() -> None:
    said = iter("ab")
    for user, first, second in ((None, ("a",), ("b",)), ("u", ("u", "a"), ("u", "b"))):
        said = iter("ab")
        provider = CalledPassword(user, lambda said=said: next(said))
        assert (provider.get_credentials(), provider.get_credentials()) == (first, second)
    connection = Connection("atomq://u@h", password=lambda: "p")
    provider = Settings.of(connection).address.options.credential_provider
    assert provider.get_credentials() == ("u", "p")


def test_hosts_are_quoted() -> None:
    assert of("atomq://[::1]:7").address.nodes[0][:2] == ("::1", 7)


def test_a_cluster_is_a_list_of_nodes_of_one_user() -> None:
    address = of("atomq-cluster://u:p@a:7000;atomq-cluster://b:7001").address
    assert (address.kind, address.nodes) == ("cluster", (("a", 7000), ("b", 7001)))
    assert (address.username, address.password, address.tls) == ("u", "p", None)
    client = Connection("atomqs-cluster://:p@a;atomqs-cluster://b:7001/2")
    for connection in (client, client.clone()):
        address = Settings.of(connection).address
        assert (address.nodes, address.db) == ((("a", 6379), ("b", 7001)), 2)
        assert address.tls is not None
        assert address.tls["ssl_cert_reqs"] == "required"
