"""The asyncio engine: the twin of `client.py`, over redis.asyncio."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from types import GeneratorType
from typing import Any, Self, TypeVar, overload

from redis import exceptions as server

from atomq import arguments, flows, fork, retrying
from atomq.address import Address
from atomq.calls import GONE, Call, Outgoing, Published
from atomq.cancellation import Unhurried, cancelling, to_the_end
from atomq.client import NOT_AGAIN, Engine
from atomq.durability import Durability
from atomq.engine_base import EngineBase
from atomq.errors import AtomqError, InvalidArgument, NotDurable, ServerUnavailable
from atomq.flows import Filled, Flow, Get, Listen, Rest, Sleep, Together, Wait, Withdraw
from atomq.gathering import TOGETHER, Gathering
from atomq.keys import Place, QueueKeys, hash_slot
from atomq.listening_aio import Listener
from atomq.options import Options
from atomq.outage import Standing
from atomq.outage_report import OutageReport
from atomq.overview import Overview, overview
from atomq.pool_aio import AsyncPool
from atomq.retrying import BRIEF, SERVER_ERRORS, Ask, Pause, Retry, Send, bare, translated, unsent
from atomq.shards_aio import AsyncShards
from atomq.waiter_aio import AsyncWaiter

log = logging.getLogger("atomq.client")

T = TypeVar("T")
R = TypeVar("R")


class AsyncEngine(EngineBase):
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
        self._gatherings: dict[str, Gathering] = {}
        self._pool: AsyncPool | AsyncShards = (
            AsyncShards(self) if self.address.kind == "cluster" else AsyncPool(self)
        )

    @overload
    def run(self, work: Call[T], waiter: AsyncWaiter | None = None) -> Coroutine[Any, Any, T]: ...
    @overload
    def run(self, work: Flow[T], waiter: AsyncWaiter | None = None) -> Coroutine[Any, Any, T]: ...
    def run(
        self, work: Call[T] | Flow[T], waiter: AsyncWaiter | None = None
    ) -> Coroutine[Any, Any, T]:
        """Carry out one call, or a flow to its end. A flow that waits needs a `waiter`."""
        if isinstance(work, Call):
            return self._run_one(work)
        if not isinstance(work, GeneratorType):
            arguments.expect("what is run", work, False, "a call or a flow")
        return self._run_flow(work, waiter)

    async def _run_flow(self, work: Flow[T], waiter: AsyncWaiter | None) -> T:
        answer: Any = None
        trouble: BaseException | None = None
        while True:
            try:
                effect = work.send(answer) if trouble is None else work.throw(trouble)
            except StopIteration as stop:
                value: T = stop.value
                return value
            finally:
                trouble = None  # kept in this frame, it would keep the frame, and what is dropped
            try:
                if isinstance(effect, Call):
                    answer = await self._run_one(effect)
                else:
                    answer = await self._perform(effect, waiter)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised again there
                trouble = error

    async def publish(self, keys: QueueKeys, message: Outgoing) -> bool:
        """Put one message; False if its id was known, so that it was not put again.

        What several tasks put at the same moment travels together: see `Gathering`.
        """
        self._enter_loop()
        gathering = self._gatherings.get(keys.name)
        if gathering is None:
            gathering = self._gatherings[keys.name] = Gathering(partial(self._publish, keys))
        if gathering.under_way and message.is_plain and len(message.message) <= TOGETHER:
            await gathering.put(message)
            return True
        gathering.under_way += 1
        try:
            call = flows.publish(keys, [message], self.producers, self.options)
            done = await self._run_one(call)
        finally:
            gathering.under_way -= 1
        return not done.known

    def _publish(
        self, keys: QueueKeys, messages: Sequence[Outgoing]
    ) -> Coroutine[Any, Any, Published]:
        return self._run_one(flows.publish(keys, messages, self.producers, self.options))

    async def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Carry out many calls in one round trip; an `AtomqError` stands for what failed."""
        if not calls:
            return []
        self._enter_loop()
        standing = self._pool.standing_of(calls[0])
        # One node that is verified will do: the first call may be for one that is away.
        is_known = any(self._pool.standing_of(call).verified for call in calls)
        retry = self.retry if is_known else await self._verify(calls[0])
        for call in calls:
            if call.durability is not None:
                retry = await self._verify_durable(call, call.durability, retry)
        results = await self._drive(retrying.calling(calls, retry, single=False), standing)
        for call, result in zip(calls, results, strict=True):
            if call.durability is not None and isinstance(result, NotDurable):
                self._pool.standing_of(call).confirming.discard(call.durability)
            if call.noted and not isinstance(result, AtomqError):
                await self._note(call)
        return results

    async def overview(
        self, names: Sequence[str] | None = None, *, after: str = "", limit: int | None = None
    ) -> Overview:
        """The queues of the register in numbers, and what consumes. See `Engine.overview`."""
        return await self.run(overview(self.keys, self.register.keys, names, after, limit))

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

    async def command(self, *args: Any, patient: bool = False) -> Any:
        """Any command, as the server answers it. See `Engine.command`."""
        arguments.command(args)
        self._enter_loop()
        if patient:
            asking = retrying.asking(args, self.retry)
            return (await self._drive(asking, Standing(self.outage)))[0]
        try:
            return await self._pool.command(args)
        except SERVER_ERRORS as error:
            raise translated(error) from bare(error)

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

    async def _run_one(self, call: Call[T]) -> T:
        """A call that is answered at once, as nearly all are, takes no detour."""
        self._enter_loop()
        if call.brief:
            return await self._run_briefly(call)
        standing = self._pool.standing_of(call)
        retry = self.retry if standing.verified else await self._verify(call)
        if call.durability is not None:
            return await self._run_durable(call, call.durability, retry)
        answer: Any
        try:
            answer = await self._pool.one(call)
        except SERVER_ERRORS as error:
            answer = error
        else:
            if not isinstance(answer, Exception):
                if call.noted and (call.queue.noted < time.monotonic() or call.noted == GONE):
                    await self._note(call)
                return call.parse(answer, call.repeated)
            answer = [answer]
        try:
            result: T = (await self._drive(retrying.calling((call,), retry), standing, answer))[0]
        finally:
            answer = None
        if call.noted:
            await self._note(call)
        return result

    async def _note(self, call: Call[Any]) -> None:
        """Have the register know what became of a queue, if it does not. Only cancelled."""
        noting = self._to_note(call)
        if noting is None:
            return
        try:
            await self._drive(
                retrying.calling((noting,), NOT_AGAIN), self._pool.standing_of(noting)
            )
            self._noted(call)
        except AtomqError as error:
            self._noted(call, error)

    async def _run_briefly(self, call: Call[T]) -> T:
        """A call that is tried once, and is answered soon or not at all."""
        if (why := self._pool.hopeless(call)) is not None:
            raise unsent(why, call) from why
        once = replace(self.retry, attempts=0)
        try:
            async with asyncio.timeout(BRIEF):
                standing = self._pool.standing_of(call)
                if not standing.verified:
                    await self._probe_briefly(call, once, standing)
                    standing = self._pool.standing_of(call)
                    standing.verified = True
                answer: Any
                try:  # with what others have to send
                    answer = [await self._pool.one(call)]
                except SERVER_ERRORS as error:
                    answer = error
                calling = retrying.calling((call,), once)
                result: T = (await self._drive(calling, standing, answer))[0]
            if call.noted:
                await self._note(call)
            return result
        except TimeoutError as error:
            self._pool.was_silent(call)
            late = server.TimeoutError("no answer in time")
            raise translated(late, call) from error

    async def _probe_briefly(self, call: Call[Any], once: Retry, standing: Standing) -> None:
        try:
            await self._drive(retrying.probing(call, once), standing)
        except ServerUnavailable as error:
            error.unsent = True  # the call itself
            raise

    async def _run_durable(self, call: Call[T], durability: Durability, retry: Retry) -> T:
        """A call that is answered once it is confirmed."""
        retry = await self._verify_durable(call, durability, retry)
        standing = self._pool.standing_of(call)
        try:
            result: T = (await self._drive(retrying.calling((call,), retry), standing))[0]
        except NotDurable:  # the next publish asks first whether the server confirms anything
            standing.confirming.discard(durability)
            raise
        if call.noted:
            await self._note(call)
        return result

    async def _verify_durable(self, call: Call[Any], durability: Durability, retry: Retry) -> Retry:
        """Find out whether the server confirms what is written, before anything is published."""
        standing = self._pool.standing_of(call)
        if durability not in standing.confirming:
            longer = self.retry.longer(durability.seconds)
            await self._drive(retrying.probing(call, longer, durability), standing)
            standing.confirming.add(durability)
        return retry.longer(durability.seconds)

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
        await self._drive(retrying.probing(call, left), standing)
        standing = self._pool.standing_of(call)
        standing.verified = True
        standing.confirming.clear()

    async def _drive(
        self, actions: retrying.Actions, standing: Standing, first: Any = None
    ) -> list[Any]:
        """Drive to the end; `first` is the answer to the first action, if there is one already."""
        report = OutageReport(self._pool, standing)
        try:
            action = next(actions)
            while True:
                try:
                    answer = await self._act(action, report) if first is None else first
                except SERVER_ERRORS as error:
                    answer = error
                first = None
                action = (
                    actions.throw(answer) if isinstance(answer, Exception) else actions.send(answer)
                )
        except StopIteration as stop:
            results: list[Any] = stop.value
            report.ended(results)
            return results
        except ServerUnavailable as error:
            report.gave_up(error)
            raise
        finally:
            answer = first = None  # an exception that its own frame keeps keeps what is dropped

    async def _act(self, action: retrying.Action, report: OutageReport) -> Any:
        match action:
            case Send(calls, loads):
                return await self._pool.send(calls, loads)
            case Ask(args):
                return await self._pool.command(args)
            case Pause():
                report.pauses(action)
                await asyncio.sleep(action.seconds)
        return None

    async def _perform(self, effect: Any, waiter: AsyncWaiter | None) -> Any:
        if isinstance(effect, Get):
            return await self._get(effect.key)
        if isinstance(effect, Filled):
            return await self._filled(effect.keys)
        if isinstance(effect, Together):
            return await self.run_all(effect.calls)
        if isinstance(effect, Sleep):
            return await asyncio.sleep(effect.seconds)
        if waiter is None:
            raise InvalidArgument(f"{effect} needs a waiter")
        if isinstance(effect, Wait):
            return await waiter.wait(
                effect.keys,
                effect.seconds,
                effect.ahead,
                lasts=effect.lasts,
                channels=effect.channels,
            )
        if isinstance(effect, Withdraw):
            return await waiter.withdraw()
        if isinstance(effect, Listen):
            return await waiter.listen(effect.channel, effect.seconds)
        raise InvalidArgument(f"{effect!r} is no effect")

    async def _get(self, key: str) -> Any:
        self._enter_loop()
        try:
            return await self._pool.get(key)
        except SERVER_ERRORS as error:
            raise translated(error) from bare(error)

    async def _filled(self, keys: Sequence[str]) -> list[str]:
        try:
            lengths = await self._pool.lengths(keys)
        except SERVER_ERRORS:
            return []
        answered = zip(keys, lengths, strict=True)
        return [key for key, length in answered if isinstance(length, int) and length > 0]


def _verified(standing: Standing, done: asyncio.Future[Any]) -> None:
    standing.verifying = None
    if not done.cancelled():
        done.exception()  # seen, should all that asked be gone
