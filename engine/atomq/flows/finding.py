"""One message, found by its id and steered wherever it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from atomq import calls
from atomq.calls import Verdict
from atomq.errors import (
    PermissionDenied,
    ScriptsNotLoaded,
)
from atomq.flows.base import Flow, ask
from atomq.flows.batching import in_batches
from atomq.keys import QueueKeys, RegisterKeys
from atomq.serializers import JSON, Serializer


def status(
    keys: QueueKeys, register: RegisterKeys, message_id: str, serializer: Serializer = JSON
) -> Flow[calls.MessageStatus]:
    """Where a message is; of a held one, also the host and the pid of its holder, if known."""
    found = yield from ask(calls.find(keys, message_id, serializer=serializer))
    if found.state != "held":
        return found
    try:
        known = yield from ask(calls.roster(register, limit=1))
    except (PermissionDenied, ScriptsNotLoaded):  # nothing but the queue is this user's
        return found
    if (process := known.process_of(found.holder)) is None:
        return found
    return replace(found, host=process.host or "", pid=process.pid)


def cancel(keys: QueueKeys, ids: Sequence[str]) -> Flow[list[Verdict]]:
    """Cancel messages, wherever they are: delayed, ready or held; one verdict each.

    DONE, of a held one, is that its holder will hear of it. LOST: it is none of these, or is ready
    and was not found.
    """
    verdicts = yield from in_batches(ids, lambda some: calls.cancel(keys, some))
    for i, message_id in enumerate(ids):
        if verdicts[i] is Verdict.DONE:
            continue
        for _ in range(3):
            found = yield from ask(calls.find(keys, message_id))
            if found.state == "held":
                if found.cancelling:
                    verdicts[i] = Verdict.DONE
                    break
                done = yield from ask(calls.revoke(keys, message_id, receipt=found.receipt))
            elif found.state == "ready" and (found.raw is not None or not found.certain):
                raw = found.raw or b""
                done = yield from ask(
                    calls.revoke(keys, message_id, receipt=found.apart, message=raw)
                )
            elif found.state == "delayed":
                again = yield from ask(calls.cancel(keys, [message_id]))
                done = again == [Verdict.DONE]
            else:
                break
            if done:
                verdicts[i] = Verdict.DONE
                break
    return verdicts


def run_now(keys: QueueKeys, ids: Sequence[str]) -> Flow[list[Verdict]]:
    """Delayed messages fall due at once, by id; one verdict each."""
    return in_batches(ids, lambda some: calls.run_now(keys, some))
