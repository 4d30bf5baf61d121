"""Whether this user may run what the scripts run, and whether the server confirms what is written.

It is found out by one call that writes to a scratch key, before anything is moved.
"""

from __future__ import annotations

from typing import Any

from redis import exceptions as server

from atomq.actions import Actions
from atomq.calls import Call, probe
from atomq.durability import Durability
from atomq.errors import PermissionDenied, ServerTooOld
from atomq.retrying import Batch, Patience, Retry, carried_out
from atomq.translating import named_call, passes


def probing(
    call: Call[Any],
    retry: Retry,
    durability: Durability | None = None,
    *,
    within: float | None = None,
) -> Actions:
    """Find out whether this user may run what the scripts run. Raises `PermissionDenied` if not.

    And, with a `durability`, whether the server confirms what is written. Raises
    `DurabilityUnavailable`, `PermissionDenied` and `ServerTooOld` if not.
    """
    patience = Patience(retry)
    asked = probe(call.queue, durability.to_verify() if durability is not None else None)
    while True:
        results = yield from carried_out(Batch([asked], single=True), patience, within)
        refused: dict[str, str] = results[0]
        passing = [words for words in refused.values() if passes(words.removeprefix("-"))]
        if not passing:
            break
        yield patience.pause(
            server.ResponseError(f"the server takes no writes now: {passing[0]}"),
            named_call(call),
            lost=False,
            call=call,
        )
    if refused and all("unknown" in words.lower() for words in refused.values()):
        raise ServerTooOld(
            f"the server does not know {', '.join(refused)}: atomq needs Redis 6.2 or Valkey 7.2"
        )
    if refused:
        grants = " ".join(
            "&_atomq.*" if "channel" in words else f"+{name.lower()}"
            for name, words in refused.items()
        )
        raise PermissionDenied(
            f"this user may not run {', '.join(refused)} inside a script: grant {grants} "
            f"(the server says: {next(iter(refused.values()))})"
        )
    return []
