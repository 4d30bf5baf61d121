"""Key names: one place for all, both layouts, and which names no queue may have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from atomq.errors import InvalidArgument
from atomq.keys import (
    SEP,
    ExchangeKeys,
    LateQueueKeys,
    LateRegisterKeys,
    Layout,
    QueueKeys,
    RegisterKeys,
    check_name,
    hash_slot,
    is_queue_key,
    namespace,
    namespace_in,
)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=50).filter(
    lambda name: SEP not in name and not name.startswith(("unacked", "_kombu.", "_atomq."))
)


def test_the_names_in_the_stock_layout() -> None:
    keys = QueueKeys("celery")
    assert keys.ready == (
        "celery",
        "celery\x06\x163",
        "celery\x06\x166",
        "celery\x06\x169",
    )
    assert keys.unacked == "_atomq.{celery}.unacked"
    assert keys.result("a-1") == "_atomq.{celery}.result.a-1"
    assert set(keys.every()) >= {
        *(f"_atomq.{{celery}}.{name}" for name in ("unacked", "records", "delayed", "dead")),
        *(f"_atomq.{{celery}}.{name}" for name in ("wake", "meta", "stats", "calls", "probe")),
        *keys.ready,
    }
    assert len(keys.every()) == len(set(keys.every()))
    assert (keys.nowhere, keys.slot, keys.sharded) == ((), 0, 0), "all is in one place"
    assert keys.put("a-1") == "_atomq.{celery}.put.a-1"
    assert keys.producer("p") == "_atomq.{celery}.producer.p"


def test_the_names_in_the_cluster_layout_with_a_prefix() -> None:
    keys = QueueKeys("q", prefix="app:", layout="cluster", steps=(0, 5), sep=":")
    assert keys.ready == ("app:q", "{app:q}:5")
    assert keys.meta == "_atomq.{app:q}.meta"
    assert (keys.nowhere, keys.sharded) == (("_atomq.{app:q}.looked",), 1)
    # What fleets of other steps put is purged too.
    assert {"app:q", *(f"{{app:q}}:{n}" for n in range(1, 10))} <= {*keys.purge}
    assert not {"{app:q}:0", "{app:q}:10"} & {*keys.purge}


def test_a_partition_knows_its_queue() -> None:
    wholes = {"q": "q", "q#1": "q", "plain": ""}
    found = [QueueKeys(name, whole=whole) for name, whole in wholes.items()]
    assert [(each.whole, each.part) for each in found] == [("q", "p"), ("q", "p"), ("plain", "")]


@pytest.mark.parametrize("key", ["", "q", "{q}", "a{q}b{r}", "a{}b{r}", "a{b", "a}b{", "é{ü}"])
def test_the_slot_of_a_key_is_that_of_the_server(key: str) -> None:
    assert hash_slot(key) == key_slot(key.encode())


def test_the_register_and_an_exchange_have_the_slot_of_their_keys() -> None:
    register, exchange = RegisterKeys("app{1}:"), ExchangeKeys("celery", "app:")
    assert register.every == tuple(
        f"_atomq.register{{.app%7B1%7D:}}.{name}" for name in ("queues", "processes", "alive")
    )
    assert register.probe == "_atomq.register{.app%7B1%7D:}.probe"
    assert RegisterKeys("app%7B1%7D:", written=True).every == register.every
    assert exchange.bindings == "_atomq.{app:celery}.bindings"
    assert exchange.probe == "_atomq.{app:celery}.probe"
    for slot, key in ((register.slot, register.queues), (exchange.slot, exchange.bindings)):
        assert slot == key_slot(key.encode())
    same = QueueKeys("celery", prefix="app:", layout="cluster")
    assert exchange.slot == same.slot, "an exchange lies beside the queue of its name"


@given(
    name=names.filter(lambda name: not {"{", "}"} & set(name)), prefix=st.sampled_from(["", "p:"])
)
def test_in_a_cluster_all_keys_of_a_queue_share_a_slot(name: str, prefix: str) -> None:
    keys = QueueKeys(name, prefix=prefix, layout="cluster")
    every = (*keys.every(), keys.result("x"))
    assert len({key_slot(key.encode()) for key in every}) == 1
    assert len(set(every)) == len(every)


@given(one=names, other=names, layout=st.sampled_from(["stock", "cluster"]))
def test_two_queues_share_no_key(one: str, other: str, layout: Layout) -> None:
    if one == other or (layout == "cluster" and {"{", "}"} & set(one + other)):
        return
    first, second = (set(QueueKeys(name, layout=layout).every()) for name in (one, other))
    assert not first & second


@given(name=names)
def test_a_key_tells_its_queue(name: str) -> None:
    keys = QueueKeys(name)
    assert {is_queue_key(key) for key in keys.every() if key.startswith("_atomq.{")} == {name}


def test_other_keys_belong_to_no_queue() -> None:
    for key in ("celery", "_atomq.", "_atomq.{open", "unacked", "_kombu.binding.celery"):
        assert is_queue_key(key) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "not empty"),
        (None, "must be text"),
        (b"q", "must be text"),
        ("a\x06\x163", "contains the separator"),
        ("unacked", "reserved"),
        ("unacked_index", "reserved"),
        ("_kombu.binding.x", "reserved"),
        ("_atomq.x", "reserved"),
        ("x" * 513, "at most 512 bytes"),
        ("ü" * 257, "at most 512 bytes"),
        ("\ud800", "UTF-8"),
    ],
)
def test_names_no_queue_may_have(name: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        check_name(name)


@pytest.mark.parametrize("name", ["x" * 512, "ü" * 256, "x", "_celery", "kombu._atomq."])
def test_names_that_a_queue_may_have(name: str) -> None:
    check_name(name)


def test_braces_are_for_the_stock_layout_only() -> None:
    assert QueueKeys("a{b}c").unacked == "_atomq.{a%7Bb%7Dc}.unacked"
    with pytest.raises(InvalidArgument, match="no braces"):
        QueueKeys("a{b}c", layout="cluster")
    for name in ("a{b", "a}b"):
        with pytest.raises(InvalidArgument, match="no braces"):
            QueueKeys(name, layout="cluster")
        with pytest.raises(InvalidArgument, match="no braces"):
            QueueKeys("q", prefix=name, layout="cluster")


def test_priorities_and_steps() -> None:
    keys = QueueKeys("q")
    assert [keys.step_of(priority) for priority in range(10)] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4]
    assert [keys.priority_of(step) for step in (0, 1, 2, 3, 4, 9)] == [0, 0, 3, 6, 9, 9]
    assert QueueKeys("q", steps=(0,)).step_of(9) == 1
    assert keys.step_of(-1) == 1, "as others may have written"


def test_the_keys_of_each_script_are_keys_of_the_queue() -> None:
    keys = QueueKeys("q")
    tuples = [
        getattr(keys, slot)
        for slot in QueueKeys.__slots__
        if isinstance(getattr(keys, slot), tuple)
    ]
    for names in tuples:
        if names != keys.steps:
            assert set(names) - {keys.looked} <= set(keys.every())  # which is a channel


def test_in_a_cluster_a_prefix_has_no_braces() -> None:
    """The list would lie in the slot of the prefix's tag, the rest of the queue elsewhere."""
    with pytest.raises(InvalidArgument, match="global_keyprefix"):
        QueueKeys("q", prefix="{app}.", layout="cluster")
    assert QueueKeys("q", prefix="{app}.").ready[0] == "{app}.q"


def test_the_names_of_a_namespace_are_asked_for_when_they_are_needed() -> None:
    asked: list[str] = []

    def name() -> str:
        asked.append("")
        return namespace(7)

    late = LateQueueKeys("q", namespace=name, prefix="app:", layout="cluster")
    register = LateRegisterKeys("app:", namespace=name)
    assert (late.name, late.step_of(9), register.name) == ("q", 4, "the register")
    assert not hasattr(late, "nothing")
    assert not hasattr(register, "nothing")
    assert asked == []
    known = QueueKeys("q", prefix="_atomq.7:app:", layout="cluster")
    assert {late.claim: late.slot} == {known.claim: known.slot}
    assert register.every == RegisterKeys("_atomq.7:app:").every
    assert len(asked) == 2
    with pytest.raises(InvalidArgument, match="braces"):
        LateQueueKeys("q", namespace=name, prefix="{", layout="cluster")


def test_no_queue_is_called_as_one_in_a_namespace() -> None:
    with pytest.raises(InvalidArgument, match="reserved"):
        check_name(namespace(1) + "q", layout="cluster")
    assert namespace(0) == ""
    found = {text: namespace_in(text) for text in ("_atomq.12:app:", "_atomq.0:", "1/q", "")}
    assert found == {"_atomq.12:app:": "_atomq.12:", "_atomq.0:": "", "1/q": "", "": ""}
