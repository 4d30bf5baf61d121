"""What cannot be right is refused at once, in one line that says what would be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from atomq import AsyncEngine, AsyncQueue, Engine, InvalidArgument, Queue, Receiver

pytest.importorskip("fakeredis")

URL = "memory://arguments"
SOON = datetime.now(UTC) + timedelta(hours=1)
NAN = float("nan")

MADE: list[tuple[Callable[[], Any], str]] = [
    (lambda: Queue("q", None), "needs an Engine or a URL, got None"),
    (lambda: Queue("q", AsyncEngine(URL)), "needs an Engine or a URL, got AsyncEngine"),
    (lambda: AsyncQueue("q", Engine(URL)), "needs an AsyncEngine or a URL, got Engine"),
    (lambda: Queue("q", Engine(URL), lease=3), "options belong to the engine"),
    (lambda: Queue("", URL), "name must be text and not empty"),
    (lambda: Queue("q", URL, serializer="json"), "must be a Serializer"),
    (lambda: Queue("q", URL, schema="object"), "schema must be a mapping"),
    (lambda: Queue("q", URL, schema={"type": "thing"}), "no JSON Schema"),
    (lambda: Receiver(Queue("q", URL)), "takes a list of queues"),
]
ASKED: list[tuple[Callable[[Any], Any], str]] = [
    (lambda q: q.put(1, delay="3"), "delay must be seconds from 0"),
    (lambda q: q.put(1, delay=NAN), "delay must be seconds from 0"),
    (lambda q: q.put(1, delay=timedelta(1)), "delay must be seconds from 0"),
    (lambda q: q.put(1, delay=3, at=SOON), "a delay or at, not both"),
    (lambda q: q.put(1, at=SOON.replace(tzinfo=None)), "must say its time zone"),
    (lambda q: q.put(1, ttl=0), "ttl must be more than 0"),
    (lambda q: q.put(1, id=3), "id must be text of 1 to 256 characters"),
    (lambda q: q.put(1, priority=10), "priority must be a whole number from 0"),
    (lambda q: q.put(1, headers=[1]), "headers must be a mapping"),
    (lambda q: q.put({1}), "cannot be serialized"),
    (lambda q: q.claim(timeout="3"), "timeout must be seconds or None"),
    (lambda q: q.claim(timeout=NAN), "timeout must be seconds or None"),
    (lambda q: q.claim_many(0), "limit must be a whole number from 1 to 1000"),
    (lambda q: q.wait("x", timeout="3"), "timeout must be seconds or None"),
    (lambda q: q.wait(3), "message_id must be text"),
    (lambda q: q.peek("all"), "no part 'all'"),
    (lambda q: q.purge("all"), "no part 'all'"),
    (lambda q: q.redrive(["x"]), "not the id of a dead letter"),
    (lambda q: q.redrive("x1"), "x1 is not the id of a dead letter"),
]


@pytest.mark.parametrize(("make", "words"), MADE, ids=[words for _, words in MADE])
def test_what_is_made(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ask", "words"), ASKED, ids=[f"{n} {words}" for n, (_, words) in enumerate(ASKED)]
)
def test_what_is_asked(ask: Callable[[Any], Any], words: str) -> None:
    queue = Queue("q", URL)
    with pytest.raises(InvalidArgument, match=words) as caught:
        ask(queue)
    assert "\n" not in str(caught.value)
    assert queue.state().stats.get("published", 0) == 0, "nothing was sent"

    async def main() -> None:
        with pytest.raises(InvalidArgument, match=words):
            await ask(AsyncQueue("q", URL))

    asyncio.run(main())


def test_a_reason_is_one_line() -> None:
    queue = Queue("reasons", URL)
    queue.put(1)
    message = queue.claim()
    assert message is not None
    for reason in ("", 3, "two\nlines", "x" * 65):
        with pytest.raises(InvalidArgument, match="reason must be one line"):
            message.reject(reason)  # type: ignore[arg-type]
    message.ack()
