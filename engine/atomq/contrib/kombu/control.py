"""What a Celery worker answers when it is asked about delayed tasks, which wait in the server.

`inspect scheduled` lists those of the worker's queues beside what it holds itself, `inspect
query_task` finds them, and `revoke` takes them out: Celery's own list of revoked ids is a memory
of some hours. Flower asks the same way. All are put in place when a worker of ours connects.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from kombu.utils.functional import maybe_list

from atomq import calls, flows
from atomq.calls import Call, Peeked, Verdict
from atomq.contrib.kombu.broker import Broker
from atomq.contrib.kombu.qos import Message
from atomq.errors import AtomqError, ServerUnavailable
from atomq.keys import QueueKeys
from atomq.message import Envelope

log = logging.getLogger("atomq.kombu")

MOST_LISTED = 1000  # delayed tasks of one queue in one answer
_MARK = "__atomq__"


def install() -> None:
    """Extend the worker's commands, where there is a worker. Doing it again changes nothing."""
    control = sys.modules.get("celery.worker.control")
    if control is None:
        return
    handlers = control.Panel.data
    extended = ((("scheduled", "dump_schedule"), _scheduled), (("query_task",), _queried))
    for names, extend in (*extended, (("revoke",), _revoke)):
        for name in names:
            command = handlers.get(name)
            if command is not None and not hasattr(command, _MARK):
                handlers[name] = _extended(command, extend)


def _extended(command: Callable[..., Any], extend: Callable[..., Any]) -> Callable[..., Any]:
    def extended(state: Any, *args: Any, **kwargs: Any) -> Any:
        answer = command(state, *args, **kwargs)
        try:
            return extend(state, answer, *args, **kwargs)
        except AtomqError as error:
            log.warning("delayed tasks were left out of the answer: %s", error)
            return answer

    setattr(extended, _MARK, True)
    extended.__doc__ = command.__doc__
    return extended


def _queues(state: Any) -> Iterator[tuple[Broker, QueueKeys]]:
    """The worker's queues, if they are ours; of one that has partitions, each of these."""
    connection = getattr(state.consumer, "connection", None)
    consumer = getattr(state.consumer, "task_consumer", None)
    broker = getattr(getattr(connection, "transport", None), "broker", None)
    if isinstance(broker, Broker) and consumer is not None:
        for queue in consumer.queues:
            for name in broker.spread.names(queue.name):
                yield broker, broker.keys(name)


# ── scheduled ─────────────────────────────────────────────────────────────────────────────────


def _scheduled(state: Any, answer: Any, **_kwargs: Any) -> Any:
    found = list(answer)
    for broker, keys in _queues(state):
        peeked = _peeked(broker, calls.peek(keys, "delayed", limit=MOST_LISTED))
        found += [_described(state.hostname, one) for one in peeked]
    return found


def _peeked(broker: Broker, call: Call[list[Peeked]]) -> list[Peeked]:
    """What a call finds. A shard of a cluster that is away has nothing: no other waits for it."""
    if not broker.on_cluster:
        return broker.engine.run(call)
    call.brief = True
    try:
        return broker.engine.run(call)
    except ServerUnavailable as error:
        log.warning("delayed tasks of %r were left out of the answer: %s", call.queue, error)
        return []


def _queried(state: Any, answer: Any, ids: Any = None, **_kwargs: Any) -> Any:
    found = dict(answer)
    asked = [str(one) for one in maybe_list(ids) or ()]
    for broker, keys in _queues(state):
        for one in _delayed(broker, keys, asked):
            found[one.name] = ("scheduled", _described(state.hostname, one)["request"])
    return found


def _delayed(broker: Broker, keys: QueueKeys, ids: Sequence[str]) -> Iterator[Peeked]:
    """Those of these ids that are delayed tasks of the queue."""
    left = list(ids)
    while left:
        batch = left[: calls.MOST]
        found = _peeked(broker, calls.peek(keys, "delayed", ids=batch, limit=len(batch)))
        yield from found
        # A call answers so many bytes, and what did not fit is asked for again.
        full = sum(len(one.raw) for one in found) >= calls.MAX_BYTES
        left = left[batch.index(found[-1].name) + 1 if full else len(batch) :]


def _described(hostname: str, one: Peeked) -> dict[str, Any]:
    envelope = Envelope(one.raw)
    headers: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    args: Any = None
    kwargs: Any = None
    try:
        headers, properties = envelope.headers, envelope.properties
        args, kwargs = headers.get("argsrepr"), headers.get("kwargsrepr")
        if envelope.decoded.get("content-type") == "application/json":
            args, kwargs, _ = json.loads(envelope.data)
    except (AtomqError, ValueError, TypeError, RecursionError):
        pass  # its worker reports it when it is due; here it is listed with what is known
    info = properties.get("delivery_info")
    return {
        # As the task has it; the server counts in milliseconds.
        "eta": eta if isinstance(eta := headers.get("eta"), str) else _as_eta(one.time_ms),
        "priority": 6,  # of Celery's timer, as for those a worker holds itself
        "request": {
            "id": headers.get("id") or one.name,
            "name": headers.get("shadow") or headers.get("task"),
            "args": args,
            "kwargs": kwargs,
            "type": headers.get("task"),
            "hostname": hostname,
            "time_start": None,
            "acknowledged": False,
            "delivery_info": {
                **(info if isinstance(info, dict) else {}),
                "priority": properties.get("priority"),
                "redelivered": one.deliveries > 0,
            },
            "worker_pid": None,
        },
    }


def _as_eta(time_ms: int | None) -> str | None:
    """A time of the server as Celery writes an eta; None for one that no date can say."""
    try:
        return datetime.fromtimestamp((time_ms or 0) / 1000, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


# ── revoke ────────────────────────────────────────────────────────────────────────────────────


def _revoke(state: Any, answer: Any, task_id: Any = None, **_kwargs: Any) -> Any:
    ids = [str(one) for one in maybe_list(task_id) or ()]
    for broker, keys in _queues(state):
        for batch in flows.batches(list(_delayed(broker, keys, ids))):
            verdicts = broker.engine.run(calls.cancel(keys, [one.name for one in batch]))
            for one, verdict in zip(batch, verdicts, strict=True):
                if verdict is Verdict.DONE:
                    where = "the delayed task %s was revoked and taken out of %s"
                    log.info(where, one.name, keys.name)
                    _announce(state, one)
    return answer


def _announce(state: Any, one: Peeked) -> None:
    """Send what a worker sends that meets a revoked task: its result, its chord, an event."""
    from celery.worker.request import Request

    try:
        channel = state.consumer.connection.default_channel
        message = Message(Envelope(one.raw).decoded, channel=channel)
        task = state.app.tasks[message.headers["task"]]
        request = Request(
            message,
            app=state.app,
            hostname=state.hostname,
            eventer=state.consumer.event_dispatcher,
            task=task,
        )
        request._announce_revoked("revoked", False, None, False)
    except Exception as error:  # noqa: BLE001 - it is out of the queue; a result is all that is missing
        log.warning("a revoked task could not be marked as such: %r", error)
