"""Having redis-py open a connection, for threads: `opening_aio.py` has the same for tasks."""

from __future__ import annotations

from typing import Any

from redis.connection import AbstractConnection

from atomq import connect, wires
from atomq.address import Address


def connected(
    connection: AbstractConnection, within: float | None = None, after: float | None = None
) -> None:
    """Connect it. Raises redis-py's exceptions.

    With `within` it takes so many seconds at most, and from then on waits `after` seconds for what
    is read and written (None: without end).
    """
    if within is None:
        connection.connect()
    else:
        wires.hurry(connection, within)
        connection.connect()
        wires.relax(connection, after)
    wires.opened.add(connection)


def asked(address: Address, within: float, *command: str) -> Any:
    """What a server answers to one command over a connection for that, in so many seconds.

    Raises redis-py's exceptions.
    """
    connection = connect.connector(address)()
    try:
        connected(connection, within, within)
        connection.send_command(*command, check_health=False)
        return connection.read_response()
    finally:
        connection.disconnect()
