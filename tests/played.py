"""Flows played by hand: a test answers each effect, and sees the next one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atomq.calls import Call, Claimed
from atomq.delivery import Delivery
from atomq.flows import Acks, Consumer, Filled, Flow
from atomq.keys import QueueKeys
from atomq.options import Options

Q = QueueKeys("q")


class Play:
    """A flow, one effect at a time."""

    def __init__(self, flow: Flow[Any]) -> None:
        self.flow = flow
        self.result: Any = None
        self.over = False
        self.effect: Any = None
        self.go(None)

    def go(self, answer: Any) -> Any:
        """Answer the effect; the next one."""
        try:
            raises = isinstance(answer, BaseException)
            self.effect = self.flow.throw(answer) if raises else self.flow.send(answer)
        except StopIteration as stop:
            self.result, self.over, self.effect = stop.value, True, None
        return self.effect


def at_once(one: Consumer, limit: int = 1, tokens: Sequence[str] = ()) -> Play:
    """A `receive` that does not wait, at its first claim. These tokens lie there, if it asks."""
    play = Play(one.receive(limit, 0))
    if isinstance(play.effect, Filled):
        play.go([*tokens])
    return play


def delivery(body: object = "x", queue: str = "q") -> Delivery:
    return Delivery(queue, f"c-1.0.{body}", 1, 1, b"{}")


def claimed(
    *deliveries: Delivery,
    wait_ms: int | None = None,
    more: Sequence[str] = (),
    lost: Sequence[tuple[str, str]] = (),
) -> Claimed:
    return Claimed(0, wait_ms, tuple(more), tuple(lost), list(deliveries))


def consumer(*queues: QueueKeys, acks: Acks | None = None, **options: Any) -> Consumer:
    """A consumer of these queues, of `q` unless some are named."""
    return Consumer(queues or [Q], Options.of(options), acks)


def limit_of(call: Call[Any]) -> int:
    """How many messages a claim asks for."""
    assert call.script.name == "claim"
    limit: int = call.args[2]
    return limit
