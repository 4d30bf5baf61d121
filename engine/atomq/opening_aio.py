"""Having redis-py open a connection, for tasks: no cancellation is lost in it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from redis import exceptions as server
from redis.asyncio.connection import AbstractConnection

from atomq import connect, wires
from atomq.address import Address
from atomq.cancellation import cancelling

T = TypeVar("T")


async def connected(
    connection: AbstractConnection, within: float | None = None, _after: float | None = None
) -> None:
    """Connect it, within so many seconds. Raises redis-py's exceptions."""
    try:
        if within is None:
            await heeded(connection.connect())
        else:
            async with asyncio.timeout(within):
                await heeded(connection.connect())
    except BaseException as error:
        await connection.disconnect(nowait=True)
        if isinstance(error, TimeoutError):
            raise server.TimeoutError("Timeout connecting to server") from None
        raise
    wires.opened.add(connection)


async def asked(address: Address, within: float, *command: str) -> Any:
    """What a server answers to one command over a connection for that, in so many seconds.

    Raises redis-py's exceptions.
    """
    connection = connect.async_connector(address)()
    try:
        async with asyncio.timeout(within):
            await connected(connection)
            await heeded(connection.send_command(*command, check_health=False))
            return await heeded(connection.read_response())
    finally:
        await connection.disconnect(nowait=True)


async def heeded(work: Coroutine[Any, Any, T]) -> T:
    """Await redis-py so that no cancellation is lost.

    It writes by `asyncio.wait_for`, which before Python 3.12 may swallow one, and the task would
    go on for ever. https://github.com/python/cpython/issues/86296. And it does so in a task of its
    own, which the end of the loop cancels: to a task that goes on the connection is lost.
    """
    before = cancelling()
    try:
        result = await work
    except asyncio.CancelledError as error:
        if not cancelling():
            raise server.ConnectionError("the event loop ends") from None
        # The `asyncio.Timeout` in its frames keeps the task: see `cancelling`.
        raise error.with_traceback(None) from None
    if cancelling() > before:
        raise asyncio.CancelledError
    return result
