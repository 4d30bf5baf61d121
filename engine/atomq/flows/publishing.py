"""Publishing any number of messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from atomq import calls
from atomq.calls import Call
from atomq.durability import Durability
from atomq.errors import NotDurable, ServerError, ServerUnavailable
from atomq.flows.base import Flow, ask
from atomq.ids import Producers
from atomq.keys import QueueKeys
from atomq.options import Options


def publish(
    keys: QueueKeys,
    messages: Sequence[calls.Outgoing],
    producers: Producers,
    options: Options,
    durability: Durability | None = None,
) -> Call[calls.Published]:
    """One publish call under an id of its own, known for as long as the options say."""
    window_ms, dedup_ms = options.call_window_ms, options.dedup_window_ms
    return calls.publish(keys, messages, producers.next(), window_ms, dedup_ms, durability)


def publishing(
    keys: QueueKeys, producers: Producers, options: Options
) -> Callable[[Sequence[calls.Outgoing]], Call[calls.Published]]:
    """What makes such calls, where many go to one queue."""
    window_ms, dedup_ms = options.call_window_ms, options.dedup_window_ms
    next_id, make = producers.next, calls.publish

    def call(messages: Sequence[calls.Outgoing]) -> Call[calls.Published]:
        return make(keys, messages, next_id(), window_ms, dedup_ms)

    return call


def publish_briefly(
    keys: QueueKeys,
    messages: Sequence[calls.Outgoing],
    producers: Producers,
    options: Options,
    durability: Durability | None = None,
) -> Flow[calls.Published]:
    """Publish in one call. What got no answer is tried again here, and nowhere else.

    Raises `ServerUnavailable`, soon if the messages were surely not put, and it says so.
    """
    call = publish(keys, messages, producers, options, durability)
    call.brief = durability is None
    try:
        return (yield from ask(call))
    except ServerUnavailable as error:
        if error.unsent or durability is not None:
            raise
    except NotDurable as error:
        error.ids = [message.id for message in messages]
        raise
    return (yield from publish_again(call))


def publish_again(call: Call[calls.Published]) -> Flow[calls.Published]:
    """Try a brief call again that got no answer: it may have been carried out."""
    try:
        return (yield from ask(call.again()))
    except ServerUnavailable as error:
        error.unsent = False
        raise


def publish_all(
    keys: QueueKeys,
    messages: Sequence[calls.Outgoing],
    *,
    producers: Producers,
    options: Options,
    durability: Durability | None = None,
) -> Flow[list[bool]]:
    """Publish any number of messages; which of them were put (False: the id was known).

    Each call is atomic, the whole is not: calls hold at most 1,000 messages and about `max_bytes`.
    It ends with the first that fails, or is not confirmed as `durability` says (`NotDurable`). The
    error has the `ids` of the messages that are in the queue.
    """
    put: list[bool] = []
    for batch in by_size(messages, options.max_bytes):
        try:
            done = yield from ask(publish(keys, batch, producers, options, durability))
        except (ServerError, NotDurable) as error:
            there = len(put) + (len(batch) if isinstance(error, NotDurable) else 0)
            error.ids = [message.id for message in messages[:there]]
            raise
        new = [True] * len(batch)
        for i in done.known:
            new[i] = False
        put += new
    return put


def by_size(messages: Sequence[calls.Outgoing], max_bytes: int) -> list[Sequence[calls.Outgoing]]:
    """What goes in one call each."""
    if len(messages) <= calls.MOST and sum([len(m.message) for m in messages]) <= max_bytes:
        return [messages]
    found: list[Sequence[calls.Outgoing]] = []
    first, size = 0, 0
    for i, message in enumerate(messages):
        size += len(message.message)
        if i > first and (size > max_bytes or i - first == calls.MOST):
            found.append(messages[first:i])
            first, size = i, len(message.message)
    found.append(messages[first:])
    return found
