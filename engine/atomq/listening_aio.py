"""The channels that the tasks of an event loop listen to, over one connection to each server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis import exceptions as server

from atomq import wires
from atomq.cancellation import PROMPT
from atomq.conversation import ENDED, HEARD, PUSHED, Conversation
from atomq.translating import SERVER_ERRORS

if TYPE_CHECKING:
    from atomq.engine_base import EngineBase


class Ear:
    """One task's place in the audience of a channel."""

    def __init__(self, channel: str, listener: Listener) -> None:
        self.channel = channel
        self.listener = listener
        self.subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._heard: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    async def next(self, seconds: float) -> bytes | None:
        """The next message, or None after `seconds`; raises what broke the connection."""
        try:
            async with asyncio.timeout(seconds):
                heard = await self._heard.get()
        except TimeoutError:
            return None
        if isinstance(heard, Exception):
            raise heard
        return heard

    def tell(self, what: bytes | Exception) -> None:
        """A message came, or the connection broke."""
        if isinstance(what, Exception):
            self.confirm(what)
            what = server.ConnectionError(str(what))  # of its own: each task raises it
        self._heard.put_nowait(what)

    def confirm(self, answer: Any) -> None:
        """The server has subscribed us, or an error says that it has not."""
        if self.subscribed.done():
            return
        if isinstance(answer, Exception):
            self.subscribed.set_exception(answer)
            self.subscribed.exception()  # the task that listens may have been cancelled
        else:
            self.subscribed.set_result(None)


class Listener:
    """One subscription connection for all tasks of an engine that wait for results.

    Of a cluster there is one to each node: trouble of one node is not heard at another.
    """

    def __init__(self, engine: EngineBase) -> None:
        self._engine = engine
        self._audience: dict[str, set[Ear]] = {}
        self._wire: wires.AsyncWire | wires.AsyncMemoryWire | None = None
        self._talk = Conversation()
        self._era = engine.era
        self._opening = asyncio.Lock()

    async def listen(self, channel: str) -> Ear:
        """Listen from now on: once this returns, no message on the channel is missed."""
        ear = Ear(channel, self)
        try:
            async with self._opening:
                if self._era != self._engine.era:
                    self._break(server.ConnectionError("there is another master, or token"))
                if self._wire is None:
                    self._era = self._engine.era
                    connection = await self._engine._pool.fresh(channel)
                    self._talk = Conversation()
                    self._wire = wires.taken_async(connection, self._received, self._break)
            self._audience.setdefault(channel, set()).add(ear)
            # Also where others listen already: the answer says that this is so. A server or a user
            # without SSUBSCRIBE hears what is said to all.
            if self._engine.slots is not None:
                self._wire.write(self._talk.subscribe("SSUBSCRIBE", [channel], None))
            self._wire.write(self._talk.subscribe("SUBSCRIBE", [channel], ear))
            async with asyncio.timeout(PROMPT):
                await ear.subscribed
        except BaseException as error:
            if isinstance(error, SERVER_ERRORS) and not isinstance(error, server.ResponseError):
                self._break(error)
            self.leave(ear)
            raise
        return ear

    def leave(self, ear: Ear) -> None:
        """Listen no more."""
        audience = self._audience.get(ear.channel, set())
        audience.discard(ear)
        if not audience and self._audience.pop(ear.channel, None) is not None and self._wire:
            self._wire.write(self._talk.subscribe("UNSUBSCRIBE", [ear.channel], None))
            if self._engine.slots is not None:
                self._wire.write(self._talk.subscribe("SUNSUBSCRIBE", [ear.channel], None))

    def close(self) -> None:
        """Close the connection; listeners learn that it broke."""
        self._break(server.ConnectionError("the engine was closed"))

    def _received(self, data: Any) -> None:
        try:
            for purpose, reply in self._talk.feed(data):
                if purpose is PUSHED:
                    ears = self._audience.get(reply[1].decode(), ()) if len(reply) > 2 else ()
                    for ear in tuple(ears):
                        if reply[0] in HEARD:
                            ear.tell(reply[2])
                        elif reply[0] == ENDED:
                            ear.tell(server.ConnectionError("the slot of the channel has moved"))
                elif purpose is not None:
                    purpose.confirm(reply)
        except server.RedisError as error:
            self._break(error)

    def _break(self, error: Exception) -> None:
        """Tell all that listen. The next one that does opens a new connection."""
        wire, self._wire = self._wire, None
        audience, self._audience = self._audience, {}
        if wire is not None:
            wire.close()
        for ears in audience.values():
            for ear in ears:
                ear.tell(error)
