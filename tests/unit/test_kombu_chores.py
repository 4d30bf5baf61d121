"""What a consuming connection does once a second beside receiving. Needs no server."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from atomq.contrib.kombu import chores as module
from atomq.contrib.kombu.chores import Chores

REPLIES = "5f2a.reply.celery.pidbox"


class Noted:
    """Notes what is called of it, by its name."""

    def __init__(self, name: str, did: list[Any]) -> None:
        self._name, self._did = name, did

    def __getattr__(self, what: str) -> Any:
        return lambda *given: self._did.append((f"{self._name}.{what}", *given))


@pytest.fixture
def did() -> list[Any]:
    """What was done, in order."""
    return []


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch, did: list[Any]) -> list[Any]:
    """The messages that Celery forgot."""
    found: list[Any] = []

    def forgotten(seconds: float) -> Iterator[Any]:
        did.append(("forgotten", seconds))
        yield from found

    monkeypatch.setattr(module, "forgotten", forgotten)
    return found


def chores(monkeypatch: pytest.MonkeyPatch, did: list[Any], *channels: Any) -> Chores:
    """Those of a connection with these channels: names of queues popped, and claimed from."""
    monkeypatch.setattr(module, "Registration", lambda *_: Noted("registration", did))
    monkeypatch.setattr(module, "Restore", lambda *_: Noted("restore", did))
    broker = SimpleNamespace(
        engine=None,
        keeper=SimpleNamespace(lease_ms=45_000),
        attendance=Noted("attendance", did),
        introduce=lambda: did.append(("introduce",)),
    )
    made = [
        SimpleNamespace(popped_queues=lambda each=each: each[0], claimed_queues=lambda c=each: c[1])
        for each in channels
    ]
    settings = SimpleNamespace(shared=dict)
    made_by = SimpleNamespace(broker=broker, settings=settings, channels=made)
    found = Chores(made_by)
    did.append(made)
    return found


def test_what_is_claimed_from_is_in_the_register_and_stock_is_looked_after_in_the_first(
    monkeypatch: pytest.MonkeyPatch, did: list[Any], late: list[Any]
) -> None:
    one = chores(monkeypatch, did, ([], []), ([], ["a", "b"]), ([], ["c"]))
    (channels,) = did
    did.clear()
    one.turn()
    assert did == [
        ("forgotten", 45.0),
        ("introduce",),
        ("registration.refresh", ["a", "b", "c"]),
        ("restore.turn", channels[1], "a"),
    ]


def test_what_is_popped_from_alone_has_its_delayed_messages_put_into_ready(
    monkeypatch: pytest.MonkeyPatch, did: list[Any], late: list[Any]
) -> None:
    one = chores(monkeypatch, did, ([REPLIES, "a"], []), (["b"], []))
    did.clear()
    one.turn()
    assert did == [
        ("forgotten", 45.0),
        ("attendance.pass_by", "a"),
        ("attendance.pass_by", "b"),
    ]


def test_what_celery_forgot_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
    did: list[Any],
    late: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = chores(monkeypatch, did)
    late += [
        SimpleNamespace(delivery=name, requeue=lambda name=name: did.append(("requeue", name)))
        for name in ("first", "second")
    ]
    did.clear()
    one.turn()
    assert did == [("forgotten", 45.0), ("requeue", "first"), ("requeue", "second")]
    assert caplog.messages == [
        f"{name} is given back: Celery forgot it when its task failed"
        for name in ("first", "second")
    ]


def test_the_register_hears_what_ends(monkeypatch: pytest.MonkeyPatch, did: list[Any]) -> None:
    one = chores(monkeypatch, did)
    did.clear()
    one.drop("q")
    one.lost()
    one.leave()
    assert did == [("registration.drop", "q"), ("registration.lost",), ("registration.leave",)]
