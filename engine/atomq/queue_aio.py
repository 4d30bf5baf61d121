"""The asyncio twins of `queue.py`: `AsyncQueue`, `AsyncMessage`, `AsyncSent`, `AsyncReceiver`.

`queue_base.py` has what both share.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

from atomq import calls, flows
from atomq.aio import AsyncEngine, AsyncWaiter, to_the_end
from atomq.arguments import Seconds
from atomq.calls import Counts, Part, Peeked, QueueState, Verdict
from atomq.errors import AtomqError
from atomq.flows import Flow, Pace, Stop
from atomq.queue_base import (
    Ending,
    Item,
    MessageBase,
    QueueBase,
    ReceiverBase,
    check_handler,
    check_result,
    messages_of,
    result_of,
    settling,
    told,
)

log = logging.getLogger("atomq.queue")


class AsyncMessage(MessageBase["AsyncQueue"]):
    """A claimed message; see `Message`. Used in an `async with` block."""

    __slots__ = ()

    async def ack(self) -> Verdict:
        """See `Message.ack`."""
        return await self._done(self._queue._ack((self.receipt,)))

    async def release(
        self, delay: Seconds = 0, *, front: bool = False, counted: bool = True
    ) -> Verdict:
        """See `Message.release`."""
        return await self._done(
            self._queue._release((self,), delay=delay, front=front, counted=counted)
        )

    async def reject(self, reason: str = "rejected", detail: str = "") -> Verdict:
        """See `Message.reject`."""
        return await self._done(self._queue._reject((self,), reason, detail))

    async def complete(self, value: Any = None) -> Verdict:
        """See `Message.complete`."""
        return await self._done(self._queue._complete(self, value))

    async def extend(self, seconds: Seconds | None = None) -> None:
        """See `Message.extend`."""
        verdicts = await self._queue.engine.run(self._queue._extend((self.receipt,), seconds))
        if verdicts[0] is not Verdict.DONE:
            self._queue._settle(self, [Verdict.LOST])

    async def _done(self, flow: Flow[list[Verdict]]) -> Verdict:
        return self._queue._settle(self, await self._queue._carry_out((self,), flow))

    async def __aenter__(self) -> Self:
        self._queue.keeper.start(self.receipt)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        flow = self._leave(error)
        if flow is not None:
            try:
                await self._queue.engine.settle(flow, partial(self._end, error))
            finally:
                self._queue.keeper.drop((self.receipt,))

    async def _end(self, error: BaseException | None, flow: Flow[list[Verdict]]) -> None:
        try:
            self._left(await self._queue.engine.run(flow))
        except AtomqError as trouble:
            self._stuck(error, trouble)


class AsyncSent(NamedTuple):
    """A message that was put; see `Sent`."""

    id: str
    queue: AsyncQueue
    new: bool = True

    async def wait(self, timeout: Seconds | None = None) -> Any:  # noqa: ASYNC109
        """See `Queue.wait`."""
        return await self.queue.wait(self.id, timeout)


class AsyncQueue(QueueBase[AsyncEngine]):
    """A queue, for the tasks of one event loop. Every method is that of `Queue`."""

    _engine_type = AsyncEngine

    async def close(self) -> None:
        """See `Queue.close`."""
        if self._owns_engine:
            await self.engine.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ── publish ───────────────────────────────────────────────────────────────────────────────

    async def put(
        self,
        body: Any,
        *,
        delay: Seconds = 0,
        at: datetime | float | None = None,
        priority: int = 0,
        id: str | None = None,  # noqa: A002 - the word everybody uses for it
        headers: Mapping[str, Any] | None = None,
        ttl: Seconds | None = None,
    ) -> AsyncSent:
        """See `Queue.put`."""
        message = self._outgoing(Item(body, delay, at, priority, id, headers, ttl))
        done = await self.engine.run(self._put_one(message))
        return AsyncSent(message.id, self, not done.known)

    async def put_many(self, items: Iterable[Any]) -> list[AsyncSent]:
        """See `Queue.put_many`."""
        messages = self._all_outgoing(items)
        if not messages:
            return []
        put = await self.engine.run(self._put(messages))
        return [AsyncSent(m.id, self, new) for m, new in zip(messages, put, strict=True)]

    # ── consume ───────────────────────────────────────────────────────────────────────────────

    async def claim(self, timeout: Seconds | None = 0) -> AsyncMessage | None:  # noqa: ASYNC109
        """See `Queue.claim`."""
        found = await self.claim_many(1, timeout)
        return found[0]._hand_over(rides=False) if found else None

    async def claim_many(
        self,
        limit: int,
        timeout: Seconds | None = 0,  # noqa: ASYNC109 - it ends the wait, not the call
    ) -> list[AsyncMessage]:
        """See `Queue.claim_many`."""
        receiver = (timeout == 0 and self._idle_receiver()) or AsyncReceiver([self])
        try:
            messages = await receiver.receive(limit, timeout)
        except BaseException:
            await receiver.close()
            raise
        if timeout == 0:
            self._idle.append(receiver)
        else:
            await receiver.close(messages)
        return messages

    def consume(
        self,
        *,
        prefetch: int | None = None,
        timeout: Seconds | None = None,
        stop: Stop | None = None,
    ) -> AsyncGenerator[AsyncMessage]:
        """See `Queue.consume`. Left through `contextlib.aclosing`, it gives back at once."""
        return self._consume(self._pace(prefetch), timeout, stop)

    async def _consume(
        self,
        pace: Pace,
        timeout: Seconds | None,  # noqa: ASYNC109 - it ends the wait, not the call
        stop: Stop | None,
    ) -> AsyncGenerator[AsyncMessage]:
        async with AsyncReceiver([self]) as receiver:
            while not told(stop) and (
                found := await receiver.receive(pace.limit, timeout, patient=True, stop=stop)
            ):
                backlog = receiver.backlog
                backlog.fill(found, receiver._consumer.asked)
                del found
                began, count = time.monotonic(), 0
                try:
                    while not told(stop) and (message := backlog.next()) is not None:
                        count += 1
                        yield message._hand_over(rides=True)
                        del message
                finally:
                    pace.took(time.monotonic() - began, count)
                    await receiver.return_unstarted(backlog.take())

    def __aiter__(self) -> AsyncGenerator[AsyncMessage]:
        return self.consume()

    async def work(
        self,
        handler: Callable[[AsyncMessage], Awaitable[Any]],
        *,
        concurrency: int = 1,
        prefetch: int | None = None,
        timeout: Seconds | None = None,  # noqa: ASYNC109 - it ends the wait, not the call
        stop: Stop | None = None,
    ) -> int:
        """See `Queue.work`; `handler` is a coroutine function, and `concurrency` counts tasks.

        Cancelled, it gives back at once what was not begun, and the messages that were.
        """
        check_handler(handler, awaited=True)
        pace = self._pace(prefetch, concurrency)
        if concurrency > 1:
            tasks = _Tasks(partial(self._handle_held, handler), concurrency, pace, Ending(stop))
            consume = partial(self._consume, pace, timeout, tasks.ending)
            return await self._work_in_tasks(tasks, consume)
        count = 0
        async with aclosing(self._consume(pace, timeout, stop)) as messages:
            async for message in messages:
                count += 1
                await self._handle(handler, message)
        return count

    async def _handle(
        self, handler: Callable[[AsyncMessage], Awaitable[Any]], message: AsyncMessage
    ) -> None:
        try:
            async with message:
                check_result(await handler(message))
        except Exception:
            log.exception("%s: the handler failed", message)

    async def _handle_held(
        self, handler: Callable[[AsyncMessage], Awaitable[Any]], message: AsyncMessage
    ) -> None:
        """The same in a task that was handed it: the process may have been suspended since."""
        if not self.keeper.lapsed(message.receipt):
            await self._handle(handler, message)
            return
        try:
            await self.give_back([message])
        except AtomqError as error:
            log.warning("%s comes back when its lease ends: %s", message, error)

    async def _work_in_tasks(
        self, tasks: _Tasks, consume: Callable[[], AsyncGenerator[AsyncMessage]]
    ) -> int:
        count, busy = 0, True
        try:
            # What fails while the others wait in vain is tried again by this call.
            while busy and not tasks.ending.is_set():
                async with aclosing(consume()) as messages:
                    while await tasks.one_is_free() and (message := await anext(messages, None)):
                        count += 1
                        tasks.begin(message)
                        del message
                busy = await tasks.all_are_free()
            await self.engine.run(flows.flush(self.keys, self.keeper.acks))
        except asyncio.CancelledError:
            tasks.cancel()
            raise
        finally:
            await to_the_end(self._end_of(tasks.held))
        if tasks.ending.error is not None:
            raise tasks.ending.error
        return count

    async def _end_of(self, held: Mapping[asyncio.Task[None], AsyncMessage]) -> None:
        if held:
            await asyncio.wait(held)
            try:
                await self.give_back(held.values())
            except AtomqError as error:
                log.warning("%d messages come back when their leases end: %s", len(held), error)

    async def ack_many(self, messages: Sequence[AsyncMessage]) -> list[Verdict]:
        """See `Queue.ack_many`."""
        messages = messages_of(messages)
        flow = self._ack([message.receipt for message in messages])
        return await self._carry_out(messages, flow)

    async def give_back(self, messages: Iterable[AsyncMessage]) -> None:
        """See `Queue.give_back`."""
        given = messages_of(messages)
        if given:
            await self._carry_out(given, self._give_back(given))

    async def _carry_out(
        self, messages: Sequence[AsyncMessage], flow: Flow[list[Verdict]]
    ) -> list[Verdict]:
        """Settle messages, though cancelled meanwhile."""

        async def say(flow: Flow[list[Verdict]]) -> list[Verdict]:
            with settling(messages):
                verdicts = await self.engine.run(flow)
            return self._settled(messages, verdicts)

        return await self.engine.settle(flow, say)

    # ── results ───────────────────────────────────────────────────────────────────────────────

    async def wait(
        self,
        message_id: str,
        timeout: Seconds | None = None,  # noqa: ASYNC109 - it ends the wait, not the call
    ) -> Any:
        """See `Queue.wait`."""
        flow = flows.await_result(self._result_key(message_id), timeout)
        waiter = self.engine.waiter()
        try:
            return result_of(message_id, await self.engine.run(flow, waiter), timeout)
        finally:
            await to_the_end(waiter.close())

    # ── operate ───────────────────────────────────────────────────────────────────────────────

    async def state(self) -> QueueState:
        """See `Queue.state`."""
        return await self.engine.run(calls.inspect(self.keys))

    async def peek(
        self, part: Part = "ready", limit: int = 20, *, offset: int = 0, after: str = ""
    ) -> list[Peeked]:
        """See `Queue.peek`."""
        return await self.engine.run(self._peek(part, limit, offset, after))

    async def cancel(self, *ids: str) -> list[Verdict]:
        """See `Queue.cancel`."""
        flow = flows.in_batches(ids, lambda some: calls.cancel(self.keys, some))
        return await self.engine.run(flow)

    async def redrive(self, ids: Sequence[str] | None = None, *, reason: str = "") -> int:
        """See `Queue.redrive`."""
        return await self.engine.run(self._redrive(ids, reason))

    async def purge(self, *parts: Part) -> Counts:
        """See `Queue.purge`."""
        return await self.engine.run(self._purge(parts))

    async def delete(self, *, force: bool = False) -> Counts:
        """See `Queue.delete`."""
        return await self.engine.run(self._delete(force))

    async def pause(self) -> None:
        """See `Queue.pause`."""
        await self.engine.run(calls.pause(self.keys))

    async def resume(self) -> None:
        """See `Queue.resume`."""
        await self.engine.run(calls.pause(self.keys, paused=False))


class _Tasks:
    """The tasks of one `work`: at most `most` at once."""

    def __init__(
        self,
        handle: Callable[[AsyncMessage], Awaitable[None]],
        most: int,
        pace: Pace,
        ending: Ending,
    ) -> None:
        self._handle = handle
        self._most = most
        self._pace = pace
        self._room = asyncio.Event()
        self.ending = ending
        self.held: dict[asyncio.Task[None], AsyncMessage] = {}

    async def one_is_free(self) -> bool:
        """Wait until another one may begin. True."""
        while len(self.held) >= self._most:
            self._room.clear()
            await self._room.wait()
        self._pace.free = self._most - len(self.held)
        return True

    async def all_are_free(self) -> bool:
        """Wait for all of them to end; whether there were any."""
        busy = bool(self.held)
        if busy:
            await asyncio.wait(list(self.held))
        return busy

    def begin(self, message: AsyncMessage) -> None:
        """Begin another one."""
        task = asyncio.create_task(self._work(message))
        self.held[task] = message
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():  # before it began: its message is to be given back
            del self.held[task]
        self._room.set()

    async def _work(self, message: AsyncMessage) -> None:
        began = time.monotonic()
        try:
            await self._handle(message)
        except BaseException as error:  # noqa: BLE001 - it is raised by the caller's task
            self.ending.error = error
        finally:
            self._pace.worked(time.monotonic() - began)

    def cancel(self) -> None:
        """Cancel all of them."""
        for task in self.held:
            task.cancel()


class AsyncReceiver(ReceiverBase[AsyncQueue, AsyncMessage]):
    """One consumer of one or several queues of one engine, for one task at a time."""

    _message_type = AsyncMessage
    _engine: AsyncEngine
    _waiter: AsyncWaiter | None

    async def receive(
        self,
        limit: int,
        timeout: Seconds | None = None,  # noqa: ASYNC109 - it ends the wait, not the call
        *,
        patient: bool = False,
        stop: Stop | None = None,
    ) -> list[AsyncMessage]:
        """See `Receiver.receive`."""
        flow, messages = self._receive(limit, timeout, patient, stop)
        try:
            await self._engine.run(flow, self._waiter)
        except Exception:
            await self.return_unstarted(messages)
            raise
        except BaseException:
            await to_the_end(self._interrupted(messages))
            raise
        return messages

    async def return_unstarted(self, messages: Iterable[AsyncMessage]) -> None:
        """See `Receiver.return_unstarted`."""
        if given := self._unstarted(messages):
            await to_the_end(self._return(given))

    async def _return(self, given: Sequence[tuple[AsyncQueue, list[AsyncMessage]]]) -> None:
        for queue, messages in given:
            try:
                await queue.give_back(messages)
            except AtomqError as error:
                told = "%d messages come back when their leases end: %s"
                log.warning(told, len(messages), error)

    async def _interrupted(self, messages: Iterable[AsyncMessage]) -> None:
        """Give back what was received, and what a claim that was under way may have got."""
        await self._return(self._unstarted(messages))
        await self._say_goodbye(self._waiter)

    async def _say_goodbye(self, waiter: AsyncWaiter | None) -> None:
        try:
            await self._engine.run(self._consumer.close(), waiter)
        except AtomqError as error:
            log.warning("left without a word to the server: %s", error)

    async def close(self, received: Iterable[AsyncMessage] = ()) -> None:
        """See `Receiver.close`."""
        waiter = self._leave()
        if waiter is None:
            return
        try:
            if self._consumer.has_to_leave or waiter.connected:
                await to_the_end(self._close(waiter))
        except BaseException:
            await self.return_unstarted(received)
            raise

    async def _close(self, waiter: AsyncWaiter) -> None:
        try:
            await self._say_goodbye(waiter)
        finally:
            await waiter.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
