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
from redis.asyncio.connection import AbstractConnection

from atomq import arguments, flows, fork, retrying, waiting, wires
from atomq.address import Address
from atomq.calls import GONE, Call, Claimed, Outgoing, Published
from atomq.client import NOT_AGAIN, EngineBase, OutageReport
from atomq.conversation import ENDED, HEARD, PUSHED, Conversation
from atomq.durability import Durability
from atomq.errors import AtomqError, InvalidArgument, NotDurable, ServerUnavailable
from atomq.flows import Answer, Flow, Get, Listen, Rest, Sleep, Together, Wait, Withdraw
from atomq.gathering import TOGETHER, Gathering
from atomq.keys import Place, QueueKeys, hash_slot
from atomq.options import Options
from atomq.outage import Standing
from atomq.overview import Overview, overview
from atomq.pool_aio import AsyncPool
from atomq.retrying import BRIEF, SERVER_ERRORS, Ask, Pause, Retry, Send, bare, translated, unsent
from atomq.shards_aio import AsyncShards
from atomq.shared import cancelling
from atomq.waiting import Actions, Line, Waiting

log = logging.getLogger("atomq.client")

T = TypeVar("T")
R = TypeVar("R")

PROMPT = 5.0  # seconds: an answer that is on its way does not take longer
MOST_HEARD = 64  # pieces that came and were not taken; then no more is read


# ── cancellation ──────────────────────────────────────────────────────────────────────────────


class _Unhurried(asyncio.Task[T]):
    """A task that goes on for `PROMPT` seconds after it was cancelled.

    To the task that awaits it `cancel` says that it did nothing, so that task is cancelled once
    this one has ended, however often it is cancelled meanwhile.
    """

    _end: asyncio.TimerHandle | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        if self._end is None and not self.done():
            end = self._end = self.get_loop().call_later(PROMPT, super().cancel, msg)
            self.add_done_callback(lambda _: end.cancel())
        return False


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end, though cancelled meanwhile; the cancellation is raised afterwards.

    This is for what gives back messages, or the server's attention: interrupted, it would leave
    them to the end of their leases. anyio (Starlette, FastAPI) cancels again at every await of a
    cleanup, and `asyncio.run` cancels all tasks when the first one ends. If the server does not
    answer, it is given up `PROMPT` seconds after the first cancellation.
    """
    if isinstance(asyncio.current_task(), _Unhurried | None):
        return await work
    inner = _Unhurried(work, loop=asyncio.get_running_loop())
    if cancelling():
        inner.cancel()
    try:
        return await inner
    finally:
        del inner  # which keeps what it raised, and that this frame, and what is dropped


class AsyncEngine(EngineBase):
    """Runs calls and flows in one event loop, from any number of tasks. See `Engine`.

    Used in another event loop, it begins anew: connections belong to the loop that opened them.
    """

    def __init__(self, address: str | Address, options: Options | None = None, **more: Any) -> None:
        super().__init__(address, options, **more)
        self._begin()

    def _begin(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: dict[Place | None, _Listener] = {}
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
        retry = self.retry if standing.verified else await self._verify(calls[0])
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
            if not isinstance(asyncio.current_task(), _Unhurried):
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

    def listener(self, channel: str) -> _Listener:
        """What listens to a channel; of a cluster, at the node that serves the key called so."""
        place = None if self.slots is None else self.slots.owner(hash_slot(channel))
        found = self._listeners.get(place)
        if found is None:
            found = self._listeners[place] = _Listener(self)
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


def _verified(standing: Standing, done: asyncio.Future[Any]) -> None:
    standing.verifying = None
    if not done.cancelled():
        done.exception()  # seen, should all that asked be gone


# ── listening ─────────────────────────────────────────────────────────────────────────────────


class _Ear:
    """One task's place in the audience of a channel."""

    def __init__(self, channel: str, listener: _Listener) -> None:
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


class _Listener:
    """One subscription connection for all tasks of an engine that wait for results.

    Of a cluster there is one to each node: trouble of one node is not heard at another.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._audience: dict[str, set[_Ear]] = {}
        self._wire: wires.AsyncWire | wires.AsyncMemoryWire | None = None
        self._talk = Conversation()
        self._era = engine.era
        self._opening = asyncio.Lock()

    async def listen(self, channel: str) -> _Ear:
        """Listen from now on: once this returns, no message on the channel is missed."""
        ear = _Ear(channel, self)
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

    def leave(self, ear: _Ear) -> None:
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


# ── waiting ───────────────────────────────────────────────────────────────────────────────────


class AsyncWaiter:
    """The asyncio twin of `Waiter`. It belongs to one task at a time."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting = Waiting(engine, listens=engine.address.kind != "memory")
        self._era = engine.era
        self._ear: _Ear | None = None

    @property
    def connected(self) -> bool:
        """Whether there is anything to close."""
        return bool(self._waiting.lines) or self._ear is not None

    async def wait(
        self,
        keys: tuple[str, ...],
        seconds: float,
        ahead: Call[Claimed] | None = None,
        *,
        lasts: float = 0.0,
        channels: Sequence[str] = (),
    ) -> Answer:
        """See `flows.Wait`."""
        actions = self._waiting.wait(keys, seconds, ahead, lasts=lasts, channels=channels)
        return await self._drive(actions)

    async def withdraw(self) -> list[str] | Claimed:
        """See `flows.Withdraw`."""
        return await self._drive(self._waiting.withdraw())

    async def listen(self, channel: str, seconds: float) -> bytes | None:
        """The next message on a channel, or None after `seconds`; 0 only subscribes."""
        try:
            if self._era != self._engine.era:
                self._hang_up()
                self._era = self._engine.era
            listener, ear = self._engine.listener(channel), self._ear
            if ear is None or ear.channel != channel or ear.listener is not listener:
                self._hang_up()
                ear = self._ear = await listener.listen(channel)
            if seconds:
                return await ear.next(seconds)
        except server.NoPermissionError as error:
            raise translated(error) from error
        except SERVER_ERRORS:
            self._hang_up()
            await asyncio.sleep(min(seconds, 0.05))
        return None

    async def close(self) -> None:
        """Close the connections. A token that was not read is lost; others notice within 1.2 s."""
        await self._drive(self._waiting.close())
        self._hang_up()

    def _hang_up(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.listener.leave(ear)

    # ── driving ───────────────────────────────────────────────────────────────────────────────

    async def _drive(self, actions: Actions[T]) -> T:
        answer: Any = None
        trouble: BaseException | None = None
        while True:
            try:
                action = actions.send(answer) if trouble is None else actions.throw(trouble)
            except StopIteration as stop:
                value: T = stop.value
                return value
            finally:
                trouble = None
            try:
                answer = await self._perform(action)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised there
                trouble = error

    async def _perform(self, action: waiting.Action) -> Any:
        match action:
            case waiting.Send(line, data):
                line.wire.write(data)
            case waiting.Hear(lines, seconds):
                return await _hear(lines, seconds)
            case waiting.Unblock(client_ids, node):
                await self._engine._pool.unblock(client_ids, node)
            case waiting.Open(names):
                found = await self._engine._pool.blocking(names)
                return [Line(_Heard(connection), some) for connection, some in found]
            case waiting.Close(lines):
                for line in lines:
                    line.wire.close()
            case waiting.Rest(seconds):
                await asyncio.sleep(seconds)
        return None


class _Heard:
    """A wire, and what came over it and was not taken yet: not more than `MOST_HEARD` pieces.

    A consumer that works for hours hears all the while of the looks of others. What it does not
    take stays with the server, which closes the connection of one that takes nothing for too long.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self._came: list[Any] = []
        self._error: Exception | None = None
        self.awaited: asyncio.Future[None] | None = None
        self._wire = wires.taken_async(connection, self._received, self._lost)
        self.hello, self.node = self._wire.hello, self._wire.node
        self.write, self.close = self._wire.write, self._wire.close

    @property
    def has_come(self) -> bool:
        """Whether something came, or it broke."""
        return bool(self._came) or self._error is not None

    def take(self) -> list[Any]:
        """What came. Raises what broke it, once all that came before was taken."""
        came, self._came = self._came, []
        if len(came) >= MOST_HEARD:
            self._wire.read(True)
        if not came and self._error is not None:
            raise self._error
        return came

    def _received(self, data: Any) -> None:
        self._came.append(data)
        if len(self._came) == MOST_HEARD:
            self._wire.read(False)
        self._wake()

    def _lost(self, error: Exception) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self.awaited is not None and not self.awaited.done():
            self.awaited.set_result(None)


async def _hear(lines: Sequence[Line], seconds: float | None) -> Line | None:
    if not any(line.wire.has_come for line in lines) and seconds != 0:
        loop = asyncio.get_running_loop()
        awaited = loop.create_future()
        for line in lines:
            line.wire.awaited = awaited
        timer = loop.call_later(PROMPT if seconds is None else seconds, _give_up, awaited)
        try:
            await awaited
        finally:
            timer.cancel()
            for line in lines:
                line.wire.awaited = None
    for line in lines:
        if line.wire.has_come:
            for data in line.wire.take():
                line.talk.feed(data)
            return line
    if seconds is None:
        raise server.TimeoutError("Timeout reading from socket")
    return None


def _give_up(awaited: asyncio.Future[None]) -> None:
    if not awaited.done():
        awaited.set_result(None)
