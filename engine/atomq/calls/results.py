"""Results of messages that no consumer holds any more."""

from __future__ import annotations

from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quoted

from atomq import scripts
from atomq.calls.base import Call, check_items
from atomq.keys import QueueKeys

_TELL = scripts.declared(
    "tell", keys=("result * item",), argv=("ttl_ms", "sharded", "value * item")
)


def tell(
    keys: QueueKeys, items: Sequence[tuple[str, str]], *, ttl_ms: int = 86_400_000
) -> Call[int]:
    """Store results of messages that no consumer holds: items of (message id, result as JSON).

    One that is there already stays. How many were stored.
    """
    check_items("results", items)
    results = [keys.result(message_id) for message_id, _ in items]
    return Call(
        _TELL, keys, results, [ttl_ms, keys.sharded, *(v for _, v in items)], lambda reply, _: reply
    )


def failed(message_id: str, reason: str, detail: str = "") -> str:
    """The result, as JSON, of a message that became a dead letter."""
    reason = f"{reason}: {detail}" if detail else f"{reason}"
    return f'{{"id": {quoted(message_id)}, "state": "failed", "reason": {quoted(reason)}}}'
