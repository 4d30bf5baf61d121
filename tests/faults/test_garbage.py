"""A message that is dropped is garbage at once: its lease ends by reference counting.

Python's collector runs when it likes. What only it would find (an exception kept in a frame that is
in its own traceback) would be renewed until then, and the message be held by no work at all.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from atomq import AsyncQueue, AtomqError, Queue
from tests.servers import Server

# What is tested here goes on in the client.
pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)

VERBS: dict[str, Callable[[Any, Any], Any]] = {
    "ack": lambda _, message: message.ack(),
    "release": lambda _, message: message.release(),
    "reject": lambda _, message: message.reject(),
    "complete": lambda _, message: message.complete(1),
    "extend": lambda _, message: message.extend(),
    "ack_many": lambda queue, message: queue.ack_many([message]),
    "give_back": lambda queue, message: queue.give_back([message]),
    "claim": lambda queue, _: queue.claim(timeout=1),
    "put": lambda queue, message: queue.put(message.body),
}


@pytest.fixture(autouse=True)
def uncollected() -> Iterator[None]:
    gc.disable()
    logging.disable(logging.CRITICAL)  # a record that pytest keeps keeps the exception
    yield
    gc.enable()
    logging.disable(logging.NOTSET)


def refuse(server: Server) -> None:
    db = server.client()
    db.rename("_atomq.{q}.unacked", "aside")
    db.set("_atomq.{q}.unacked", "of another type")


def mend(server: Server) -> None:
    server.client().rename("aside", "_atomq.{q}.unacked")


def cut(server: Server) -> None:
    server.kill()


def sync_verb(server: Server, verb: str, trouble: Callable[[Server], None]) -> Any:
    queue = Queue("q", server.url, retry_budget=0.2)
    queue.put("x")
    message = queue.claim()
    assert message is not None
    ref = weakref.ref(message)
    trouble(server)

    try:
        VERBS[verb](queue, message)
    except AtomqError:
        pass
    else:
        pytest.skip("it does not fail")
    del message

    return ref


async def async_verb(server: Server, verb: str, trouble: Callable[[Server], None]) -> Any:
    async with AsyncQueue("q", server.url, retry_budget=0.2) as queue:
        await queue.put("x")
        message = await queue.claim()
        assert message is not None
        ref = weakref.ref(message)
        trouble(server)
        try:
            await VERBS[verb](queue, message)
        except AtomqError:
            pass
        else:
            pytest.skip("it does not fail")
        del message
        assert ref() is None, gc.get_referrers(ref())
    return ref


@pytest.mark.parametrize("trouble", [refuse, cut])
@pytest.mark.parametrize("verb", VERBS)
def test_a_message_whose_verb_failed_is_garbage_when_it_is_dropped(
    own_server: Server, verb: str, trouble: Callable[[Server], None]
) -> None:
    assert sync_verb(own_server, verb, trouble)() is None


@pytest.mark.parametrize("trouble", [refuse, cut])
@pytest.mark.parametrize("verb", VERBS)
def test_so_it_is_in_asyncio(
    own_server: Server, verb: str, trouble: Callable[[Server], None]
) -> None:
    assert asyncio.run(async_verb(own_server, verb, trouble))() is None


def test_another_consumer_gets_it_when_the_lease_ends(server: Server) -> None:
    """Not while the object lives: its verb can be called again."""
    queue, other = Queue("q", server.url, lease=0.5), Queue("q", server.url)
    queue.put("x")
    message = queue.claim()
    assert message is not None
    refuse(server)
    try:
        message.ack()
    except AtomqError:
        mend(server)
    assert other.claim(timeout=0.8) is None
    del message
    got = other.claim(timeout=3)
    assert got is not None
    assert got.body == "x"
    for one in (queue, other):
        one.close()


def test_so_it_does_after_a_verb_was_cancelled_and_not_carried_out(server: Server) -> None:
    async def main() -> None:
        async with (
            AsyncQueue("q", server.url, lease=0.5) as queue,
            AsyncQueue("q", server.url) as other,
        ):
            await queue.put("x")
            message = await queue.claim()
            assert message is not None
            refuse(server)
            server.client().execute_command("CLIENT", "PAUSE", 300)
            verb = asyncio.create_task(message.complete(1))
            await asyncio.sleep(0.1)
            verb.cancel()
            await asyncio.wait({verb})
            assert verb.cancelled()
            mend(server)
            assert await other.claim(timeout=0.8) is None
            del message, verb
            got = await other.claim(timeout=3)
            assert got is not None
            assert got.body == "x"

    asyncio.run(main())
