"""What engines of threads and of tasks have in common: names, options, notes for the register."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace
from typing import Any

import pytest

from atomq import Engine, calls
from atomq.calls import GONE, IN_USE, Call, Outgoing
from atomq.errors import InvalidArgument, PermissionDenied, ServerUnavailable
from atomq.keys import LateQueueKeys, LateRegisterKeys, QueueKeys, RegisterKeys
from atomq.register import AGAIN, NOTED, REFUSED

_numbers = itertools.count()


def engine(scheme: str = "redis", path: str = "", **options: Any) -> Engine:
    """One that reaches nothing, and shares nothing with those of other tests."""
    return Engine(f"{scheme}://nowhere-{next(_numbers)}.invalid{path}", **options)


# ── what it begins with ───────────────────────────────────────────────────────────────────────


def test_a_cluster_is_tried_again_sooner() -> None:
    options = {"retry_attempts": 5, "retry_budget": 7}
    plain, cluster = engine(**options).retry, engine("redis+cluster", **options).retry
    assert (plain.attempts, plain.budget, plain.longest) == (5, 7, 1.0)
    assert (cluster.attempts, cluster.budget, cluster.longest) == (5, 7, 0.3)


def test_lists_are_waited_for_together_until_a_server_refuses_it() -> None:
    assert engine().may_watch is True
    assert engine().may_unblock is None


def test_a_server_of_one_process_has_no_register() -> None:
    assert Engine(f"memory://{next(_numbers)}").register._off
    assert not engine().register._off


def test_messages_of_threads_never_wait_to_be_sent_together() -> None:
    one = engine()
    assert one.gathers(one.keys("q")) is False


# ── names ─────────────────────────────────────────────────────────────────────────────────────


def test_the_layout_is_that_of_the_server_unless_the_option_says_another() -> None:
    assert engine().layout == "stock"
    assert engine(layout="cluster").layout == "cluster"
    assert engine("redis+cluster").layout == "cluster"
    assert engine(layout="cluster").keys("q").layout == "cluster"


def test_a_prefix_stands_before_all_names() -> None:
    one = engine(global_keyprefix="app:")
    assert (one.prefix, one.keys("q").meta) == ("app:", "_atomq.{app:q}.meta")
    assert type(one.keys("q")) is QueueKeys
    assert type(one.register.keys) is RegisterKeys
    assert one.reached is one.address


def test_a_namespace_stands_before_it_once_it_is_known() -> None:
    one = engine("redis+cluster", "/3", global_keyprefix="app:")
    keys, register = one.keys("q"), one.register.keys
    assert (type(keys), type(register)) == (LateQueueKeys, LateRegisterKeys)
    one.virtual_host.namespace = "ns."
    assert one.prefix == "ns.app:"
    assert keys.meta == one.keys("other").meta.replace("other", "q") == "_atomq.{ns.app:q}.meta"
    assert type(one.keys("other")) is QueueKeys
    assert (one.address.db, one.reached.db) == (3, 0)
    one.virtual_host.namespace = ""  # it has databases
    assert one.reached is one.address


def test_keys_are_made_once() -> None:
    one = engine()
    keys, part = one.keys("q"), one.partition_keys("q#1.7", "q")
    assert one.keys("q") is keys
    assert one.partition_keys("q#1.7", "q") is part
    assert (part.name, part.whole) == ("q#1.7", "q")
    assert one.keys("q#1.7") is not part
    with pytest.raises(InvalidArgument):
        one.keys(["q"])  # type: ignore[arg-type] # what cannot be looked up


def test_the_node_of_a_queue_is_that_of_its_slot() -> None:
    one = engine("redis+cluster")
    assert engine().place("q") is None
    one.slots = SimpleNamespace(owner=lambda slot: ("node", slot))  # type: ignore[assignment]
    assert one.place("q") == ("node", one.keys("q").slot)
    assert one.place(None) is None


# ── what is confirmed ─────────────────────────────────────────────────────────────────────────


def test_what_has_to_be_confirmed_is_said_by_the_call_or_else_by_the_options() -> None:
    one = engine(durability="replicas=2", durability_timeout=3)
    found = [one.durability(), one.durability("fsync"), one.durability("memory")]
    assert [each and (each.name, each.timeout_ms) for each in found] == [
        *(("replicas=2", 3000), ("fsync", 3000), None),
    ]
    assert engine().durability() is None


def test_what_an_address_never_has_is_refused(tmp_path: Any) -> None:
    memory, embedded = Engine(f"memory://{next(_numbers)}"), Engine(f"embedded:{tmp_path}")
    assert memory.durability() is None
    assert memory.durability("memory") is None
    with pytest.raises(InvalidArgument, match="memory:// keeps nothing"):
        memory.durability("fsync")
    assert embedded.durability() is None
    assert embedded.durability("fsync") is not None
    with pytest.raises(InvalidArgument, match="has no replicas"):
        embedded.durability("replicas=1")
    assert engine().durability("replicas=1") is not None


def test_rights_are_known_where_each_server_was_asked() -> None:
    one = engine()
    first, second = (SimpleNamespace(verified=False, confirming={"replicas=1"}) for _ in range(2))
    one._pool = SimpleNamespace(everywhere=lambda: [first, second])  # type: ignore[assignment]
    one._has_verified(first)  # type: ignore[arg-type]
    assert (first.verified, first.confirming, one.verified) == (True, set(), False)
    assert one.retry.loaded, "from then on a server that lacks the scripts has begun anew"
    one._has_verified(second)  # type: ignore[arg-type]
    assert one.verified
    one.verified = False
    assert (first.verified, second.verified) == (False, False)


# ── what the register is told ─────────────────────────────────────────────────────────────────


def publish(one: Engine) -> Call[Any]:
    return calls.publish(one.keys("q"), [Outgoing("{}", "id")])


def purge(one: Engine) -> Call[Any]:
    everything = dict.fromkeys(("ready", "delayed", "unacked", "dead", "settings"), True)
    return calls.purge(one.keys("q"), **everything)


def test_a_queue_in_use_is_noted_once_in_a_while_and_its_end_always() -> None:
    one = engine()
    keys, call = one.keys("q"), publish(one)
    before = time.monotonic()
    noting = one._to_note(call)
    assert noting is not None
    assert (noting.script.name, noting.queue) == ("register", one.register.keys)
    assert before + AGAIN <= keys.noted <= time.monotonic() + AGAIN
    assert one._to_note(call) is None
    gone = purge(one)
    assert gone.noted == GONE
    assert one._to_note(gone) is not None
    assert keys.noted < before, "its next use is noted again"
    assert one._to_note(call) is not None


def test_on_a_cluster_a_thread_notes_it() -> None:
    one, told = engine("redis+cluster"), []
    one.register.note = lambda keys, *, gone: told.append((keys, gone))  # type: ignore[method-assign, assignment]
    assert one._to_note(publish(one)) is None
    assert one._to_note(publish(one)) is None
    assert one._to_note(purge(one)) is None
    assert told == [(one.keys("q"), False), (one.keys("q"), True)]


def test_what_is_no_queue_is_not_noted() -> None:
    one = engine()
    call = calls.register(one.register.keys, ["q"], gone=True)
    for noted in (IN_USE, GONE):
        call.noted = noted
        assert one._to_note(call) is None
        one._noted(call)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (None, NOTED),
        (PermissionDenied("no"), REFUSED),
        (ServerUnavailable("away"), AGAIN),
    ],
)
def test_what_could_not_be_noted_is_tried_again_later(error: Any, seconds: float) -> None:
    one = engine()
    before = time.monotonic()
    one._noted(publish(one), error)
    assert before + seconds <= one.keys("q").noted <= time.monotonic() + seconds
    one.keys("q").noted = 7.0
    one._noted(purge(one), error)
    assert one.keys("q").noted == 7.0, "what is gone is noted when it is used again"


def test_a_forked_child_has_no_waiter_of_its_parent() -> None:
    one = engine()
    waiter: Any = type("Waiter", (), {})()
    one.carriers.add(waiter)
    one.forked()
    assert not one.carriers
