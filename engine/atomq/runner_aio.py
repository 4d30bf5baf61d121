"""Carrying out calls and flows: which are tried again, verified, confirmed, noted in the register.

`runner.py` is made from this file: edit this, `make format` does the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from types import GeneratorType
from typing import Any, TypeVar, overload

from atomq import arguments, probing, retrying
from atomq.actions import BRIEF, Action, Actions, Ask, Pause, Send
from atomq.calls import GONE, Call
from atomq.durability import Durability
from atomq.engine_base import EngineBase
from atomq.errors import AtomqError, InvalidArgument, NotDurable, ServerUnavailable
from atomq.flows import Filled, Flow, Get, Listen, Sleep, Together, Wait, Withdraw
from atomq.outage import Standing
from atomq.outage_report import OutageReport
from atomq.overview import Overview, overview
from atomq.retrying import Retry
from atomq.translating import SERVER_ERRORS, bare, translated, unsent
from atomq.waiter_aio import AsyncWaiter

NOT_AGAIN = Retry(attempts=0, budget=0.0)

T = TypeVar("T")


class AsyncRunner(EngineBase):
    """What an engine does with a call or a flow; the engine itself has the connections."""

    _enter_loop: Any

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
        return self.run_flow(work, waiter)

    async def run_flow(self, work: Flow[T], waiter: AsyncWaiter | None = None) -> T:
        """Carry out a flow to its end, as `run` does."""
        answer: Any = None
        trouble: BaseException | None = None
        if self.virtual_host.namespace is None:
            await self.find_namespace()
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

    async def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Carry out many calls in one round trip.

        Answers their results in order; an `AtomqError` stands in the place of what failed.
        """
        if not calls:
            return []
        self._enter_loop()
        standing = self._pool.standing_of(calls[0])
        # One node that is verified will do: the first call may be for one that is away.
        is_known = any(self._pool.standing_of(call).verified for call in calls)
        try:
            retry = self.retry if is_known else await self._verify_any(calls)
        except ServerUnavailable as error:
            if self.slots is None:
                raise
            return [error for _ in calls]
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
        """The queues of the register in numbers, and the processes that consume.

        Two server calls for 200 queues, and one for every 200 more; nothing is searched for. With a
        `limit`, 1 to 1,000, only so many queues, those whose names come after `after`: `next` of
        the answer is where the next page begins. With `names` only these, and no processes.

        A queue that cannot be read is in `unreadable`, and the others are there. Raises
        `ServerUnavailable` while the server is away, `PermissionDenied` if this user may not read,
        `InvalidArgument` for what is no list of names.
        """
        return await self.run(overview(self.keys, self.register.keys, names, after, limit))

    async def command(self, *args: Any, patient: bool = False) -> Any:
        """Any command, as the server answers it. Raises our exceptions.

        Its words are text, bytes, or numbers of 64 bits; others are an `InvalidArgument`. With
        `patient` it is tried again for `retry_budget`, as long as the server surely did not carry
        it out; else it is not tried again.
        """
        arguments.command(args)
        self._enter_loop()
        if self.virtual_host.namespace is None:
            await self.find_namespace()
        if patient:
            asking = retrying.asking(args, self.retry)
            results = await self._drive(asking, Standing(self._pool.outage_of(args)))
            return results[0]
        try:
            return await self._pool.command(args)
        except SERVER_ERRORS as error:
            raise translated(error) from bare(error)

    # ── one call, from its first try to its result ────────────────────────────────────────────

    async def _run_one(self, call: Call[T]) -> T:
        self._enter_loop()
        within = None
        if call.brief:
            standing, within = await self._make_ready(call), BRIEF
        else:
            standing = self._pool.standing_of(call)
        known = standing.verified or within is not None
        retry = self.retry if known else await self._verify(call)
        if call.durability is not None:
            return await self._run_durable(call, call.durability, retry)
        answer: Any
        try:
            answer = await self._pool.one(call, within)
        except SERVER_ERRORS as error:
            answer = error
        else:
            if not isinstance(answer, Exception):  # as nearly always: no more ado
                read: T = call.parse(answer, call.repeated)
                if call.noted and (call.queue.noted < time.monotonic() or call.noted == GONE):
                    await self._note(call)
                return read
            answer = [answer]
        if within is not None:
            retry = replace(retry, attempts=0)
        try:
            calling = retrying.calling((call,), retry, within=within)
            results = await self._drive(calling, standing, answer)
        finally:
            answer = None
        if call.noted:
            await self._note(call)
        result: T = results[0]
        return result

    async def _note(self, call: Call[Any]) -> None:
        """Have the register know what became of a queue, if it does not. Raises no `AtomqError`."""
        noting = self._to_note(call)
        if noting is not None:
            calling = retrying.calling((noting,), NOT_AGAIN)
            try:
                await self._drive(calling, self._pool.standing_of(noting))
                self._noted(call)
            except AtomqError as error:
                self._noted(call, error)

    async def _verify_any(self, calls: Sequence[Call[Any]]) -> Retry:
        """The same for many calls: of the nodes that they are for, one that answers will do."""
        silent = set[int]()
        for call in calls if self.slots is not None else ():
            if id(self._pool.standing_of(call)) not in silent:
                try:
                    await self._make_ready(call)
                except ServerUnavailable:  # before it was asked, it may not have been known which
                    silent.add(id(self._pool.standing_of(call)))
                else:
                    return self.retry
        return await self._verify(calls[0])

    async def _make_ready(self, call: Call[Any]) -> Standing:
        """Have the node of a brief call verified, which is tried once, and answered soon or never.

        What is known of that node. Raises `ServerUnavailable` if the call is hopeless now.
        """
        if (why := self._pool.hopeless(call.queue.slot)) is not None:
            raise unsent(why, call) from why
        standing: Standing = self._pool.standing_of(call)
        if standing.verified:
            return standing
        once = replace(self.retry, attempts=0)
        try:
            await self._drive(probing.probing(call, once, within=BRIEF), standing)
        except ServerUnavailable as error:
            error.unsent = True  # the call itself
            raise
        standing = self._pool.standing_of(call)
        self._has_verified(standing)
        return standing

    async def _run_durable(self, call: Call[T], durability: Durability, retry: Retry) -> T:
        """A call that is answered once it is confirmed."""
        retry = await self._verify_durable(call, durability, retry)
        standing = self._pool.standing_of(call)
        try:
            results = await self._drive(retrying.calling((call,), retry), standing)
        except NotDurable:  # the next publish asks first whether the server confirms anything
            standing.confirming.discard(durability)
            raise
        if call.noted:
            await self._note(call)
        result: T = results[0]
        return result

    async def _verify_durable(self, call: Call[Any], durability: Durability, retry: Retry) -> Retry:
        """Find out whether the server confirms what is written, before anything is published."""
        standing = self._pool.standing_of(call)
        if durability not in standing.confirming:
            longer = self.retry.longer(durability.seconds)
            await self._drive(probing.probing(call, longer, durability), standing)
            standing.confirming.add(durability)
        return retry.longer(durability.seconds)

    async def _drive(self, actions: Actions, standing: Standing, first: Any = None) -> list[Any]:
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

    async def _act(self, action: Action, report: OutageReport) -> Any:
        match action:
            case Send(calls, loads, within):
                replies = await self._pool.send(calls, loads, within)
                if loads and not any(isinstance(each, Exception) for each in replies[: len(loads)]):
                    self.register.look()
                return replies
            case Ask(args):
                return await self._pool.command(args)
            case Pause():
                report.pauses(action)
                await asyncio.sleep(action.seconds)
        return None

    async def _perform(self, effect: Any, waiter: AsyncWaiter | None) -> Any:
        if isinstance(effect, Get):
            return await self._get(effect)
        if isinstance(effect, Filled):
            return await self._filled(effect.keys)
        if isinstance(effect, Together):
            return await self.run_all(effect.calls)
        if isinstance(effect, Sleep):
            await asyncio.sleep(effect.seconds)
            return None
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

    async def _get(self, get: Get) -> Any:
        self._enter_loop()
        trouble: Exception
        try:
            return await self._pool.get(get.key)
        except SERVER_ERRORS as error:
            if not get.patience:
                raise translated(error) from bare(error)
            trouble = error
        retry = replace(self.retry, budget=min(self.retry.budget, get.patience))
        args = ("GET", get.key)
        standing = Standing(self._pool.outage_of(args))
        try:
            asking = retrying.asking(args, retry, reads=True)
            return (await self._drive(asking, standing, trouble))[0]
        finally:
            del trouble  # an exception that its own frame keeps keeps what is dropped

    async def _filled(self, keys: Sequence[str]) -> list[str]:
        try:
            lengths = await self._pool.lengths(keys)
        except SERVER_ERRORS:
            return []
        answered = zip(keys, lengths, strict=True)
        return [key for key, length in answered if isinstance(length, int) and length > 0]

    # ── what differs ──────────────────────────────────────────────────────────────────────────

    async def find_namespace(self) -> None:
        """Find out what all names begin with, if it is not known: see `VirtualHost`."""
        raise NotImplementedError

    async def _verify(self, call: Call[Any]) -> Retry:
        """Find out whether this user may run what the scripts run; the patience that is left."""
        raise NotImplementedError
