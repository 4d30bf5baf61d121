"""What a worker answers of delayed tasks when it is asked, and how it revokes them. No server."""

from __future__ import annotations

import json
import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from atomq.calls import Peeked, Verdict
from atomq.contrib.kombu import control
from atomq.errors import PermissionDenied, ServerUnavailable
from atomq.keys import QueueKeys
from atomq.serializers import JSON

MINUTE = 60_000


def delayed(name: str, time_ms: int | None = MINUTE, **more: Any) -> Peeked:
    """A task of Celery's that is due a minute after 1970, unless more is said of it."""
    deliveries = more.pop("deliveries", 0)
    raw = {
        "headers": {"id": name, "task": "tasks.add", "argsrepr": "(1,)", "kwargsrepr": "{}"},
        "properties": {"priority": 3, "delivery_info": {"routing_key": "q"}},
        **more,
    }
    return Peeked(name, time_ms, deliveries, 1, None, "", "", json.dumps(raw).encode(), JSON)


class Broker:
    """Its queues have these delayed tasks."""

    def __init__(self, **tasks: list[Peeked]) -> None:
        self.tasks = tasks
        self.spread = SimpleNamespace(names=lambda name: [name, *self.parts.get(name, ())])
        self.parts: dict[str, list[str]] = {}
        self.on_cluster = False
        self.engine = self
        self.asked: list[Any] = []
        self.brief: list[bool] = []
        self.fails: dict[str, Exception] = {}
        self.lost: set[str] = set()
        self.most = 1000

    def keys(self, name: str) -> QueueKeys:
        return QueueKeys(name)

    def run(self, call: Any) -> Any:
        name = call.queue.name
        if name in self.fails:
            raise self.fails[name]
        self.brief.append(call.brief)
        if call.script.name == "cancel":
            ids = [each for each in call.args if each in {one.name for one in self.tasks[name]}]
            self.asked.append(("cancel", name, ids))
            return [Verdict.LOST if each in self.lost else Verdict.DONE for each in ids]
        _, _, _, limit, _, *ids = call.args
        self.asked.append((name, limit, ids))
        found = self.tasks.get(name, [])
        if ids:
            found = [one for each in ids for one in found if one.name == each]
        return found[: min(limit, self.most)]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setattr(control, "Broker", Broker)
    return Broker(q=[delayed("a"), delayed("b")], r=[delayed("c")])


def state_of(broker: Any, *queues: str) -> Any:
    """A worker that consumes these."""
    named = [SimpleNamespace(name=name) for name in queues or ("q", "r")]
    consumer = SimpleNamespace(
        connection=SimpleNamespace(transport=SimpleNamespace(broker=broker)),
        task_consumer=SimpleNamespace(queues=named),
    )
    return SimpleNamespace(hostname="w@host", consumer=consumer)


def ids_of(answer: Any) -> list[str]:
    return [each["request"]["id"] for each in answer]


def test_scheduled_are_those_that_it_holds_and_those_of_all_its_queues(broker: Broker) -> None:
    broker.parts["q"] = ["q#1"]
    broker.tasks["q#1"] = [delayed("part")]
    held = {"request": {"id": "held"}}
    assert ids_of(control._scheduled(state_of(broker), [held])) == ["held", "a", "b", "part", "c"]
    assert broker.asked == [(name, 1000, []) for name in ("q", "q#1", "r")]
    assert broker.brief == [False] * 3


@pytest.mark.parametrize(
    "other",
    [
        SimpleNamespace(consumer=None),
        state_of("a broker of others"),
        SimpleNamespace(consumer=SimpleNamespace(connection=None, task_consumer=None)),
    ],
)
def test_of_a_worker_on_another_transport_nothing_is_added(other: Any, broker: Broker) -> None:
    other.hostname = "w"
    assert control._scheduled(other, [1]) == [1]
    unready = state_of(broker)
    unready.consumer.task_consumer = None
    assert control._scheduled(unready, [1]) == [1]


def test_a_shard_that_is_away_keeps_no_other_from_its_answer(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.fails["q"] = ServerUnavailable("away")
    with pytest.raises(ServerUnavailable):
        control._scheduled(state_of(broker), [])
    broker.on_cluster = True
    assert ids_of(control._scheduled(state_of(broker), [])) == ["c"]
    assert broker.brief == [True]
    assert "were left out of the answer" in caplog.text


def test_tasks_are_found_by_their_ids_in_as_many_calls_as_it_takes(broker: Broker) -> None:
    found = control._queried(state_of(broker), {"held": 1}, ["b", "c", "none"])
    assert (found["held"], sorted(found)) == (1, ["b", "c", "held"])
    assert (found["b"][0], found["b"][1]["id"]) == ("scheduled", "b")
    assert sorted(control._queried(state_of(broker), {}, "a")) == ["a"]
    assert control._queried(state_of(broker), {}) == {}
    broker.asked.clear()
    names = [f"t{n}" for n in range(1001)]
    broker.tasks = {"q": [delayed(name) for name in names]}
    assert [*control._queried(state_of(broker, "q"), {}, names)] == names
    assert [len(ids) for _, _, ids in broker.asked] == [1000, 1]


def test_what_did_not_fit_into_an_answer_is_asked_for_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control.calls, "MAX_BYTES", 2 * len(delayed("a").raw))
    broker.tasks["q"] = [delayed(name) for name in "abcde"]
    broker.most = 2
    asked = ["none", *"abcde", "other"]
    assert [*control._queried(state_of(broker, "q"), {}, asked)] == [*"abcde"]
    assert [ids for _, _, ids in broker.asked] == [asked, asked[3:], asked[5:]]


def test_a_task_is_described_as_celery_describes_those_that_it_holds(broker: Broker) -> None:
    broker.tasks["q"] = [delayed("a", deliveries=1)]
    (one,) = control._scheduled(state_of(broker, "q"), [])
    assert (one["eta"], one["priority"]) == ("1970-01-01T00:01:00+00:00", 6)
    assert one["request"] == {
        "id": "a",
        "name": "tasks.add",
        "args": "(1,)",
        "kwargs": "{}",
        "type": "tasks.add",
        "hostname": "w@host",
        "time_start": None,
        "acknowledged": False,
        "delivery_info": {"routing_key": "q", "priority": 3, "redelivered": True},
        "worker_pid": None,
    }
    headers = {"eta": "then", "shadow": "nightly", "task": "tasks.add"}
    body = {"content-type": "application/json", "body": json.dumps([[1], {"a": 2}, None])}
    properties = {"delivery_info": None}
    broker.tasks["q"] = [delayed("a", headers=headers, properties=properties, **body)]
    (one,) = control._scheduled(state_of(broker, "q"), [])
    request = one["request"]
    assert (one["eta"], request["id"], request["name"], request["type"]) == (
        "then",
        "a",
        "nightly",
        "tasks.add",
    )
    assert (request["args"], request["kwargs"]) == ([1], {"a": 2})
    assert request["delivery_info"] == {"priority": None, "redelivered": False}


@pytest.mark.parametrize(
    ("time_ms", "eta"), [(None, "1970-01-01T00:00:00+00:00"), (10**15, None), (10**18, None)]
)
def test_a_time_that_is_none_keeps_no_other_task_from_the_answer(
    broker: Broker, time_ms: int | None, eta: str | None
) -> None:
    broker.tasks["q"] = [delayed("odd", time_ms), delayed("b")]
    found = control._scheduled(state_of(broker, "q"), [])
    assert (ids_of(found), found[0]["eta"]) == (["odd", "b"], eta)


@pytest.mark.parametrize("body", ["{", "7", "[1]", "[" * 100_000])
def test_what_cannot_be_read_is_listed_with_what_is_known(broker: Broker, body: str) -> None:
    more = {"content-type": "application/json", "body": body}
    broker.tasks["q"] = [delayed("odd", **more), delayed("b")]
    assert ids_of(control._scheduled(state_of(broker, "q"), [])) == ["odd", "b"]


def test_a_revoked_task_is_taken_out_and_said_to_be_revoked(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(control, "_announce", lambda _, one: said.append(one.name))
    broker.lost = {"b"}
    assert control._revoke(state_of(broker), {"ok": 1}, ["a", "b", "c", "none"]) == {"ok": 1}
    assert [each for each in broker.asked if each[0] == "cancel"] == [
        ("cancel", "q", ["a", "b"]),
        ("cancel", "r", ["c"]),
    ]
    assert said == ["a", "c"]
    control._revoke(state_of(broker), {})
    assert said == ["a", "c"]


def test_it_is_said_as_celery_says_it_of_a_task_that_never_began(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[Any] = []

    class Request:
        def __init__(self, message: Any, task: Any, **_: Any) -> None:
            said.append((message.headers["id"], task))

        def _announce_revoked(
            self, reason: str, terminated: bool, signum: Any, expired: bool
        ) -> None:
            said.append((reason, terminated, signum, expired))

    monkeypatch.setitem(sys.modules, "celery.worker.request", SimpleNamespace(Request=Request))
    monkeypatch.setattr(control, "Message", lambda decoded, **_: SimpleNamespace(**decoded))
    state = SimpleNamespace(
        hostname="w",
        app=SimpleNamespace(tasks={"tasks.add": "the task"}),
        consumer=SimpleNamespace(
            connection=SimpleNamespace(default_channel=None), event_dispatcher=None
        ),
    )
    control._announce(state, delayed("a"))
    assert said == [("a", "the task"), ("revoked", False, None, False)]
    control._announce(state, delayed("a", headers={"task": "unknown"}))
    assert "could not be marked as such: KeyError('unknown')" in caplog.text


def test_commands_are_extended_once_and_answer_without_what_could_not_be_read(
    monkeypatch: pytest.MonkeyPatch, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    def scheduled(state: Any) -> list[Any]:
        """List what is scheduled."""
        return []

    handlers = {"scheduled": scheduled, "revoke": lambda _, task_id: {"ok": task_id}}
    module = SimpleNamespace(Panel=SimpleNamespace(data=handlers))
    monkeypatch.setitem(sys.modules, "celery.worker.control", module)
    control.install()
    once = dict(handlers)
    control.install()
    assert handlers == once
    assert [*handlers] == ["scheduled", "revoke"], "a command that there is not is not made"
    assert handlers["scheduled"].__doc__ == "List what is scheduled."
    assert ids_of(handlers["scheduled"](state_of(broker))) == ["a", "b", "c"]
    broker.fails["q"] = PermissionDenied("no")
    caplog.set_level(logging.WARNING, "atomq.kombu")
    assert handlers["scheduled"](state_of(broker)) == []
    assert "delayed tasks were left out of the answer: no" in caplog.text
    monkeypatch.delitem(sys.modules, "celery.worker.control")
    control.install()
