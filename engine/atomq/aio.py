"""The asyncio engine: the twin of `client.py`, over redis.asyncio."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from atomq import flows, fork, probing
from atomq.address import Address
from atomq.calls import Call, Outgoing, Published
from atomq.cancellation import Unhurried, cancelling, to_the_end
from atomq.client import Engine
from atomq.errors import AtomqError, ServerUnavailable
from atomq.flows import Flow, Rest
from atomq.gathering import TOGETHER, Gathering
from atomq.keys import Place, QueueKeys, hash_slot
from atomq.listening_aio import Listener
from atomq.options import Options
from atomq.outage import Standing
from atomq.pool_aio import AsyncPool
from atomq.retrying import Retry
from atomq.runner_aio import AsyncRunner
from atomq.shards_aio import AsyncShards
from atomq.waiter_aio import AsyncWaiter

log = logging.getLogger("atomq.client")

T = TypeVar("T")
R = TypeVar("R")

_Into = tuple[Gathering[tuple[QueueKeys, bool]], Callable[[Sequence[Outgoing]], Call[Published]]]
"""What gathers messages for a queue or partition, and what makes a call of some."""


class AsyncEngine(AsyncRunner):
    """Runs calls and flows in one event loop, from any number of tasks. See `Engine`.

    Used in another event loop, it begins anew: connections belong to the loop that opened them.
    """

    def __init__(self, address: str | Address, options: Options | None = None, **more: Any) -> None:
        super().__init__(address, options, **more)
        self._begin()

    @staticmethod
    def for_thread(address: Address) -> Engine:
        """A sync engine for the same server, for a thread of this process."""
        return Engine(address)

    def _begin(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: dict[Place | None, Listener] = {}
        self._gatherings: dict[str, Gathering[tuple[QueueKeys, bool]]] = {}
        self._into: dict[QueueKeys, _Into] = {}
        self.carriers.clear()
        self._pool: AsyncPool | AsyncShards = (
            AsyncShards(self) if self.address.kind == "cluster" else AsyncPool(self)
        )

    async def publish(self, keys: QueueKeys, message: Outgoing, *, brief: bool = False) -> bool:
        """Put one message; False if its id was known, so that it was not put again.

        What several tasks put at the same moment travels together: see `Gathering`. `brief`: as
        `publish_briefly` does it.
        """
        if asyncio.get_running_loop() is not self._loop:
            self._enter_loop()
        into = self._into.get(keys)
        if into is None:
            await self.find_namespace()
            gathering = self._gatherings.setdefault(keys.whole, Gathering(self._publish))
            make = flows.publishing(keys, self.producers, self.options)
            into = self._into[keys] = gathering, make
        gathering, make = into
        if gathering.under_way and message.is_plain and len(message.message) <= TOGETHER:
            await gathering.put((keys, brief), message)
            return True
        gathering.under_way += 1
        try:
            if brief:
                done = await self._publish((keys, brief), [message])
            else:
                done = await self._run_one(make((message,)))
        finally:
            gathering.under_way -= 1
        return not done.known

    def _publish(
        self, place: tuple[QueueKeys, bool], messages: Sequence[Outgoing]
    ) -> Coroutine[Any, Any, Published]:
        keys, brief = place
        if brief:
            flow = flows.publish_briefly(keys, messages, self.producers, self.options)
            return self.run_flow(flow)
        return self._run_one(self._into[keys][1](messages))

    def gathers(self, keys: QueueKeys) -> bool:
        """Whether messages for a queue wait to be sent together, at the end of this turn."""
        gathering = self._gatherings.get(keys.whole)
        places = ((keys, True), (keys, False))
        return gathering is not None and any(map(gathering.waits, places))

    async def settle(self, work: Flow[T], say: Callable[[Flow[T]], Coroutine[Any, Any, R]]) -> R:
        """What `say` answers, which runs the flow it is given and notes the answer.

        A task that is cancelled meanwhile says the rest before it ends, the call that was under way
        once more: so that what became of a message does not depend on the moment. See `to_the_end`.
        """
        rest = Rest(work)
        if cancelling():
            return await to_the_end(say(work))
        try:
            return await say(rest.flow())
        except asyncio.CancelledError:
            if not isinstance(asyncio.current_task(), Unhurried):
                try:
                    await to_the_end(say(rest.flow()))
                except AtomqError as error:
                    log.warning("cancelled, and not carried out: %s", error)
            raise

    def listener(self, channel: str) -> Listener:
        """What listens to a channel; of a cluster, at the node that serves the key called so."""
        place = None if self.slots is None else self.slots.owner(hash_slot(channel))
        found = self._listeners.get(place)
        if found is None:
            found = self._listeners[place] = Listener(self)
        return found

    def waiter(self) -> AsyncWaiter:
        """What a flow waits on. One for each consumer; close it when done."""
        self._enter_loop()
        return AsyncWaiter(self)

    async def close(self) -> None:
        """Send the acks that wait, renew leases no more, close all connections.

        The engine opens new ones if it is used again.
        """
        self._enter_loop()
        await to_the_end(self._close())

    async def _close(self) -> None:
        for task in self.at_close:
            await asyncio.to_thread(task)
        for listener in self._listeners.values():
            listener.close()
        await self._pool.close()

    def forked(self) -> None:
        """Begin anew in a child process."""
        super().forked()
        fork.leak(self._loop, self._listeners, self._gatherings, self._pool)
        self._begin()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ── driving ───────────────────────────────────────────────────────────────────────────────

    def _enter_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None:
                self._begin()
            self._loop = loop

    async def find_namespace(self) -> None:
        """Find out what all names begin with, if it is not known: see `VirtualHost`."""
        if self.virtual_host.namespace is None:
            await asyncio.to_thread(self.virtual_host.find, self.retry)

    async def _verify(self, call: Call[Any]) -> Retry:
        """Find out whether this user may run what the scripts run; the patience that is left.

        Many tasks may come at once. One asks, the others wait for its answer; if it gives up,
        the next one asks that has some patience left.
        """
        began = time.monotonic()
        while True:
            standing = self._pool.standing_of(call)
            asked = others = standing.verifying
            if asked is None:
                left = self.retry.after(time.monotonic() - began)
                asked = asyncio.ensure_future(self._verifies(call, left, standing))
                standing.verifying = asked
                asked.add_done_callback(partial(_verified, standing))
            try:
                await asyncio.shield(asked)
            except ServerUnavailable:
                left = self.retry.after(time.monotonic() - began)
                if others is None or not (left.attempts and left.budget):
                    raise
            except asyncio.CancelledError:
                if cancelling():
                    raise
            else:
                return self.retry.after(time.monotonic() - began)

    async def _verifies(self, call: Call[Any], left: Retry, standing: Standing) -> None:
        await self._drive(probing.probing(call, left), standing)
        standing = self._pool.standing_of(call)
        self._has_verified(standing)


def _verified(standing: Standing, done: asyncio.Future[Any]) -> None:
    standing.verifying = None
    if not done.cancelled():
        done.exception()  # seen, should all that asked be gone
