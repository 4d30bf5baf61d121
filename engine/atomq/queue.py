"""What a user of the library holds: `Queue`, `Message`, `Sent`, `Receiver`.

It is made from `queue_aio.py` by `make format`: edit that. `queue_base.py` has what
has no need to wait.
"""

from __future__ import annotations

import logging
import time
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import closing
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

from atomq import calls, tracing
from atomq.arguments import Seconds
from atomq.backlog import by_queue
from atomq.calls import Counts, MessageStatus, Part, Peeked, Progress, QueueState, Verdict
from atomq.client import Engine
from atomq.errors import AtomqError, MessageCancelled, ServerUnavailable
from atomq.flows import Flow, Pace, Rest, Stop
from atomq.handlers import check_handler, check_result
from atomq.message_base import MessageBase, messages_of, result_of, settling
from atomq.queue_base import Item, QueueBase
from atomq.receiver_base import Ending, ReceiverBase, is_stopped
from atomq.waiter import Waiter
from atomq.workers import Threads, call_in_thread

log = logging.getLogger("atomq.queue")


class Message(MessageBase["Queue"]):
    """A claimed message.

    Use it in a `with` block: at its end the message is acked, and after an exception it is
    released, to be tried again after the queue's backoff. The block raises nothing of its own: what
    cannot be sent is sent as soon as the server is back, an ack that comes too late is logged. Or
    settle it yourself, once. Each verb raises `LeaseLost` if the receipt is not live,
    and `ServerUnavailable` if the server is gone.

    A verb that answered, or raised `LeaseLost`, ends the renewal of the lease (`extend` does not);
    so does the end of a block, whatever comes of it. A verb that failed otherwise does not: as long
    as this object lives its lease is renewed, and the verb may be called again. When the object is
    dropped, renewal ends at once, and another consumer gets the message when the lease ends. In
    asyncio a verb that is cancelled is carried out all the same before `CancelledError` is raised,
    within 5 s; if it failed, the same holds, and `settled` says which.
    """

    __slots__ = ()

    def ack(self) -> Verdict:
        """It is done with. DONE, or UNKNOWN after a lost reply."""
        return self._done("ack", self._queue._ack((self._delivery.word,)))

    def release(self, delay: Seconds = 0, *, front: bool = False, counted: bool = True) -> Verdict:
        """Give it back, now or in `delay` seconds. `counted=False` if the work did not begin."""
        flow = self._queue._release((self,), delay=delay, front=front, counted=counted)
        return self._done("release", flow)

    def reject(self, reason: str = "rejected", detail: str = "") -> Verdict:
        """Move it to dead letters. `reason` is a word or two, `detail` helps to find out why."""
        return self._done("reject", self._queue._reject((self,), reason, detail))

    def complete(self, value: Any = None) -> Verdict:
        """Ack it and store its result, which must be JSON; its waiters get it."""
        return self._done("complete", self._queue._complete(self, value))

    def progress(self, fraction: float | None = None, text: str = "") -> None:
        """Say how far the work is, from 0 to 1 (None: not known), and what it is at.

        `Queue.get` shows it, and `wait` tells it to its `on_progress`, until the message is settled
        or with another consumer. It costs one call; say it a few times a second at most. Raises
        `LeaseLost`.
        """
        queue = self._queue
        held = queue.engine.run(calls.progress(queue.keys, self.id, self.receipt, fraction, text))
        if not held:
            self._verdict(queue._settled((self,), [Verdict.LOST]))

    def extend(self, seconds: Seconds | None = None) -> None:
        """Hold it for so many seconds from now (default: one lease).

        Rarely needed: leases are renewed in the background. Raises `LeaseLost`.
        """
        verdicts = self._queue.engine.run(self._queue._extend((self.receipt,), seconds))
        if verdicts[0] is Verdict.CANCELLED:
            self._queue.keeper.cancelled((self.receipt,))
        elif verdicts[0] is not Verdict.DONE:
            self._verdict(self._queue._settled((self,), [Verdict.LOST]))

    def _done(self, verb: str, flow: Flow[list[Verdict]]) -> Verdict:
        if tracing.active is None:
            return self._verdict(self._queue._carry_out((self,), flow))
        with tracing.active.settling(self._queue, verb, (self,)):
            return self._verdict(self._queue._carry_out((self,), flow))

    def __enter__(self) -> Self:
        if (keeper := self._queue.keeper).max_lease is not None:
            keeper.start(self.receipt)
        self._watched = tracing.begin(self) if tracing.watchers else ()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        rest = self._leave(error)
        try:
            if rest is not None and not self._queue.keeper.is_in_doubt(self._queue.name):
                self._queue.engine.settle(rest.flow(), partial(self._end, rest))
        finally:
            if rest is not None:
                self._let_go(rest)
            if self._watched:
                tracing.end(self, self._watched, error)

    def _end(self, rest: Rest[list[Verdict]], flow: Flow[list[Verdict]]) -> None:
        try:
            with tracing.settling(self._queue, "ack" if not self._then else self._then[0], (self,)):
                verdicts = self._queue.engine.run_flow(flow)
            self._left(verdicts)
        except AtomqError as trouble:
            self._stuck(rest, trouble)


class Sent(NamedTuple):
    """A message that was put; `wait` for its result."""

    id: str
    queue: Queue
    new: bool = True
    """False if a message of this id had been put within the window: this one was not put again."""

    def wait(
        self,
        timeout: Seconds | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> Any:
        """The result that a consumer stored with `complete`, as soon as it is there. Does not poll.

        Raises `ResultTimeout` after `timeout` seconds (None: never), and `MessageFailed` if the
        message went to dead letters: a consumer rejected it or failed at it for the last time, or a
        claim found it past its `ttl`, delivered `max_deliveries` times, or damaged. No result comes
        of a message that no consumer claims, that is cancelled or purged, that a Celery worker
        dead-lettered, or whose consumer died before it could report: so give it a timeout.
        A server that was there and goes away is waited for. One that is away at first is tried for
        `retry_budget` seconds, no longer than `timeout`: then `ServerUnavailable` is raised.

        `on_progress`, a plain function, is called with what the holder says of its progress: the
        last of each half second.
        """
        return self.queue.wait(self.id, timeout, on_progress=on_progress)


_sent: Callable[[tuple[str, Queue, bool]], Sent]
_sent = partial(tuple.__new__, Sent)  # in a quarter of the time of `Sent`


class Queue(QueueBase[Engine]):
    """A queue. Any number of threads may use it.

    `engine` is an `Engine`, or the URL of a server (with `options`, see `Options`). Bodies are
    JSON unless `serializer` says otherwise; with `schema`, a JSON Schema, `put` refuses bodies that
    do not meet it. `backoff` says for how many seconds a message waits that failed for the nth
    time. With `partitions` it is one queue over so many (see `PartitionedQueue`).

    Every method raises `ServerUnavailable` when the server cannot be reached within the retries,
    `PermissionDenied` and `ScriptsNotLoaded` when this user may not do it, and `InvalidArgument`
    for arguments out of range. Each is safe to call again; after `ServerUnavailable`, `put` and
    `put_many` are so for messages with an `id` of their own.
    """

    _engine_type = Engine

    def __new__(cls, *_: Any, **given: Any) -> Self:
        """With `partitions` it is an `PartitionedQueue`."""
        kind: Any = cls
        if cls is Queue and given.get("partitions") is not None:
            from atomq import PartitionedQueue  # which is derived from this

            kind = PartitionedQueue
        made: Self = super().__new__(kind)
        return made

    def close(self) -> None:
        """Close the engine if the queue made it, of a URL; one that was given stays open.

        See `Engine.close`. The end of a `with` block does it too.
        """
        if self._owns_engine:
            self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── publish ───────────────────────────────────────────────────────────────────────────────

    def put(
        self,
        body: Any,
        *,
        delay: Seconds = 0,
        at: datetime | float | None = None,
        priority: int = 0,
        id: str | None = None,  # noqa: A002 - the usual word for it
        headers: Mapping[str, Any] | None = None,
        ttl: Seconds | None = None,
        tracked: bool | None = None,
        durability: str | None = None,
        key: str | None = None,
    ) -> Sent:
        """Put one message.

        It is handed out at once, or in `delay` seconds, or `at` a time (aware datetime, or seconds
        since 1970 by the server's clock). `priority` 0 goes first, 9 last. With an `id` of your own
        it is not put again within `dedup_window`. After `ttl` seconds it goes to dead letters
        instead of a consumer. `durability` is what has to be confirmed first: "memory",
        "replicas=N" or "fsync" (None: what the queue says). Messages of one `key` are in one of the
        queue's partitions, if it has any, and so are handed out in their order. A `tracked` one
        (None: what the queue says) is found by `get` wherever it is, for two commands inside the
        server at each of its moves.

        Raises `InvalidMessage` for a body that cannot be serialized or does not meet the schema,
        and `ServerFull` at maxmemory. And `NotDurable` if the message is in the queue and was not
        confirmed within `durability_timeout`; `DurabilityUnavailable` if the server confirms
        nothing, so that nothing was put.
        """
        if tracing.active is not None:
            item = Item(body, delay, at, priority, id, headers, ttl, key, tracked)
            return (self._put_traced([item], durability))[0]
        nothing_said = at is None and id is None and headers is None and ttl is None and key is None
        if nothing_said and delay == 0 and priority == 0 and tracked is None:  # as in most
            message = self._plain(body)
        else:
            item = Item(body, delay, at, priority, id, headers, ttl, key, tracked)
            message = self._outgoing(item)
        to_confirm = durability is not None or self._durability is not None
        if to_confirm and (confirmed_by := self._confirmed_by(durability)) is not None:
            put = self.engine.run_flow(self._put([message], confirmed_by))
            return Sent(message.id, self, put[0])
        return _sent((message.id, self, self.engine.publish(self.keys, message)))

    def put_many(self, items: Iterable[Any], *, durability: str | None = None) -> list[Sent]:
        """Put many messages; each a body, or an `Item` with settings of its own.

        They travel 1,000 (or `max_bytes`) to a call. A call is all or nothing, the whole is not: it
        ends with the first that fails. `durability` is that of `put`, for all of them.
        """
        if tracing.active is not None and isinstance(items, Iterable) and (items := [*items]):
            return self._put_traced(items, durability, len(items))
        messages = self._all_outgoing(items)
        if not messages:
            return []
        put = self.engine.run_flow(self._put(messages, self._confirmed_by(durability)))
        return [_sent((m.id, self, new)) for m, new in zip(messages, put, strict=True)]

    def _put_traced(
        self, items: list[Any], durability: str | None, count: int | None = None
    ) -> list[Sent]:
        """Put one message, or so many of `put_many`, with the context of the span of it."""
        assert tracing.active is not None
        with tracing.active.sending(self, count) as sent:
            one = count is None
            messages = [self._outgoing(items[0])] if one else self._all_outgoing(items)
            put = self.engine.run_flow(self._put(messages, self._confirmed_by(durability)))
            if one:
                sent(messages[0].id)
        return [_sent((m.id, self, new)) for m, new in zip(messages, put, strict=True)]

    # ── consume ───────────────────────────────────────────────────────────────────────────────

    def claim(self, timeout: Seconds | None = 0) -> Message | None:
        """One message, or None after `timeout` seconds (None: wait for ever)."""
        found = self.claim_many(1, timeout)
        return found[0]._hand_over(False) if found else None

    def claim_many(self, limit: int, timeout: Seconds | None = 0) -> list[Message]:
        """Up to `limit` messages (at most 1,000). Waits for the first one only."""
        began_ns = time.time_ns() if tracing.active is not None else 0
        receiver = (timeout == 0 and self._idle_receiver()) or self._receiver()
        try:
            messages = receiver.receive(limit, timeout)
        except BaseException:
            receiver.close()
            raise
        if timeout == 0:
            self._idle.append(receiver)
        else:
            self._consuming = receiver._consuming
            receiver.close(messages)
        if messages and tracing.active is not None:
            tracing.active.received(self, messages, began_ns)
        return messages

    def _receiver(self, workers: int = 1) -> Receiver:
        """A consumer of this queue."""
        self.engine.find_namespace()
        return Receiver([self], workers)

    def consume(
        self,
        *,
        prefetch: int | None = None,
        timeout: Seconds | None = None,
        stop: Stop | None = None,
    ) -> Generator[Message]:
        """Messages, one after another; ends when none came for `timeout` seconds (None: never).

        It also ends, within a second, once `stop` is set: an event of `threading`, `asyncio` or
        `multiprocessing`, that a signal handler or another thread sets. The message that is being
        worked on is finished first; a server that does not answer holds it up for as long as a call
        is tried again. At once it claims half a second of work, at the pace seen so far, and at
        most `prefetch` messages (default: the option). What waits for its turn longer than a second
        is given back, as if it had never been claimed, and so is what was not handed over when the
        loop is left. A server that goes away is waited for; `ServerUnavailable` is raised if it was
        not there to begin with, or is away when `timeout` has passed.
        """
        return self._consume(self._pace(prefetch), timeout, stop)

    def _consume(
        self, pace: Pace, timeout: Seconds | None, stop: Stop | None
    ) -> Generator[Message]:
        with self._receiver(pace.workers) as receiver:
            while (
                pace.is_fixed  # one at a time: nothing waits for its turn
                and (stop is None or not is_stopped(stop))
                and (found := receiver.receive(1, timeout, patient=True, stop=stop))
            ):
                yield found.pop()._hand_over(True)
            while (
                not pace.is_fixed
                and (stop is None or not is_stopped(stop))
                and (found := receiver.receive(pace.limit, timeout, patient=True, stop=stop))
            ):
                backlog = receiver.backlog
                backlog.fill(found, receiver.asked)
                began, count, many = time.monotonic(), 0, len(found)
                del found
                try:
                    while count < many and (stop is None or not is_stopped(stop)):
                        if (message := backlog.next()) is None:
                            break
                        count += 1
                        yield message._hand_over(True)
                        del message
                finally:
                    pace.took(time.monotonic() - began, count)
                    if count < many and (unstarted := backlog.take()):
                        receiver.return_unstarted(unstarted)

    def __iter__(self) -> Generator[Message]:
        return self.consume()

    def work(
        self,
        handler: Callable[[Message], Any],
        *,
        concurrency: int = 1,
        prefetch: int | None = None,
        timeout: Seconds | None = None,
        stop: Stop | None = None,
    ) -> int:
        """Call `handler` with each message; how many it was called with.

        Up to `concurrency` threads call it, at most so many at once; 1 is the caller's own. A
        message is acked when the handler returns; after an exception, which is logged, it is
        released and tried again later; so it is if the handler returned an awaitable. It goes on
        until none came for `timeout` seconds, or `stop` is set; see `consume`. What was begun is
        finished first; what is no failure (`SystemExit`) comes out of it then. In asyncio, a
        cancellation gives back at once what was not begun, and the messages that were. Raises
        `InvalidArgument`, and claims nothing, for a coroutine function or a generator function.
        """
        check_handler(handler, awaited=False)
        pace = self._pace(prefetch, concurrency)
        if concurrency > 1:
            handle = partial(self._handle_held, handler)
            workers = Threads(handle, self._return, concurrency, pace, Ending(stop))
            consume = partial(self._consume, pace, timeout, workers.ending)
            return self._share_out(workers, consume)
        count = 0
        # Closed here: an exception that passes keeps this frame, and with it what was claimed.
        with closing(self._consume(pace, timeout, stop)) as messages:
            for message in messages:
                count += 1
                self._handle(handler, message)
        return count

    def _handle(self, handler: Callable[[Message], Any], message: Message) -> None:
        try:
            with message:
                check_result(call_in_thread(handler, message))
        except MessageCancelled:
            log.info("%s: its work ended, for it was cancelled", message, extra=message.log_extra)
        except Exception:
            log.exception(*message._failed(), extra=message.log_extra)

    def _handle_held(self, handler: Callable[[Message], Any], message: Message) -> None:
        """The same by a worker that was handed it: the process may have been suspended since."""
        if self.keeper.lapsed(message.receipt):
            self._return([message])
        else:
            self._handle(handler, message)

    def _share_out(
        self, workers: Threads[Message], consume: Callable[[], Generator[Message]]
    ) -> int:
        count, busy = 0, True
        with workers:
            # What fails while the others wait in vain is tried again by this call.
            while busy and not workers.ending.is_set():
                with closing(consume()) as messages:
                    while workers.one_is_free() and (message := next(messages, None)):
                        count += 1
                        workers.begin(message)
                        del message
                busy = workers.all_are_free()
        try:
            self.engine.run_flow(self._flush())
        except ServerUnavailable as error:
            log.info("acks are sent as soon as the server is back: %s", error)
        if workers.ending.error is not None:
            raise workers.ending.error
        return count

    def ack_many(self, messages: Sequence[Message]) -> list[Verdict]:
        """Ack messages in one call; a verdict for each, LOST among them."""
        messages = messages_of(messages)
        flow = self._ack([message._delivery.word for message in messages])
        with tracing.settling(self, "ack", messages):
            return self._carry_out(messages, flow)

    def give_back(self, messages: Iterable[Message]) -> None:
        """Release messages that were not started: to the front, in their order, uncounted."""
        given = messages_of(messages)
        if given:
            self._carry_out(given, self._give_back(given))

    def _return(self, messages: Collection[Message]) -> None:
        """Give back what was not started, as soon as the server is back. Raises no error."""
        for queue, held in by_queue(messages):
            rest = Rest(queue._give_back(held))
            try:
                if not queue.keeper.is_in_doubt(queue.name):
                    queue._carry_out(held, rest.flow())
            except ServerUnavailable as error:
                log.info("%d messages are given back once the server is back: %s", len(held), error)
            except AtomqError as error:
                rest.over = True
                log.warning("%d messages come back when their leases end: %s", len(held), error)
            finally:
                if not rest.over:
                    queue.keeper.settle_later(held, rest)

    def _carry_out(self, messages: Sequence[Message], flow: Flow[list[Verdict]]) -> list[Verdict]:
        """Settle messages, though cancelled meanwhile."""
        return self.engine.settle(flow, partial(self._say, messages))

    def _say(self, messages: Sequence[Message], flow: Flow[list[Verdict]]) -> list[Verdict]:
        with settling(messages):
            verdicts = self.engine.run_flow(flow)
        return self._settled(messages, verdicts)

    # ── results ───────────────────────────────────────────────────────────────────────────────

    def wait(
        self,
        message_id: str,
        timeout: Seconds | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> Any:
        """The result that a consumer stored with `complete`, as soon as it is there. Does not poll.

        Raises `ResultTimeout` after `timeout` seconds (None: never), and `MessageFailed` if the
        message went to dead letters: a consumer rejected it or failed at it for the last time, or a
        claim found it past its `ttl`, delivered `max_deliveries` times, or damaged. No result comes
        of a message that no consumer claims, that is cancelled or purged, that a Celery worker
        dead-lettered, or whose consumer died before it could report: so give it a timeout.
        A server that was there and goes away is waited for. One that is away at first is tried for
        `retry_budget` seconds, no longer than `timeout`: then `ServerUnavailable` is raised.

        `on_progress`, a plain function, is called with what the holder says of its progress: the
        last of each half second.
        """
        self.engine.find_namespace()
        flow = self._await_result(message_id, timeout, on_progress)
        waiter = self.engine.waiter()
        try:
            return result_of(message_id, self.engine.run_flow(flow, waiter), timeout)
        finally:
            waiter.close()

    # ── operate ───────────────────────────────────────────────────────────────────────────────

    def state(self) -> QueueState:
        """The queue in numbers."""
        self.engine.find_namespace()
        return self.engine.run(self._state())

    def peek(
        self, part: Part = "ready", limit: int = 20, *, offset: int = 0, after: str = ""
    ) -> list[Peeked]:
        """Look at up to `limit` messages without claiming them, in their order.

        `part` is ready, delayed, unacked or dead. `offset` passes some over; dead letters go on
        `after` the `name` of the last one seen instead. Stops behind 1 MiB.
        """
        self.engine.find_namespace()
        return self.engine.run(self._peek(part, limit, offset, after))

    def get(self, message_id: str) -> MessageStatus:
        """Where one message is: ready, delayed, held, done, dead, cancelled; see `MessageStatus`.

        Of a message put with `tracked` this is known for a day at least after it last moved. Of any
        other what its id leads to: that it is delayed, or its result. Else it is searched for among
        1,000 messages at most, and 1 MiB, of each part: `unknown` if that is not enough.
        """
        return self.engine.run(self._get(message_id))

    def cancel(self, *ids: str) -> list[Verdict]:
        """Cancel messages, by id: delayed, ready or held ones; a verdict for each.

        What is delayed or ready is thrown away, and its id may be put again. Of ready ones that are
        not tracked only those are found that are among 1,000 of each end of a list, else they are
        LOST. The holder of a held one hears of it with its next renewal, within about a second if
        the message is tracked; when it gives it back, or dies, no consumer gets it again.
        """
        return self.engine.run(self._cancel(ids))

    def run_now(self, *ids: str) -> list[Verdict]:
        """Let delayed messages fall due at once, by id; a verdict for each."""
        return self.engine.run(self._run_now(ids))

    def redrive(self, ids: Sequence[str] | None = None, *, reason: str = "") -> int:
        """Dead letters back to ready: these (by the name `peek` gives), or all (of one reason)."""
        return self.engine.run(self._redrive(ids, reason))

    def purge(self, *parts: Part) -> Counts:
        """Throw away what lies in these parts; by default what is ready and delayed."""
        self.engine.find_namespace()
        return self.engine.run(self._purge(parts))

    def delete(self, *, force: bool = False) -> Counts:
        """Throw the queue away with all its keys; how many messages were in it. Cannot be undone.

        Raises `QueueInUse`, and changes nothing, if messages are unacked, unless `force`: they are
        counted in the answer then, and their acks raise `LeaseLost`. It is one step, so no consumer
        claims in between. Stored results stay until their `result_ttl` is over. A put
        afterwards begins a new queue.
        """
        self.engine.find_namespace()
        return self.engine.run(self._delete(force))

    def pause(self) -> None:
        """Hand out nothing until `resume`."""
        self.engine.find_namespace()
        self.engine.run(self._pause(paused=True))

    def resume(self) -> None:
        """Hand out messages again."""
        self.engine.find_namespace()
        self.engine.run(self._pause(paused=False))


class Receiver(ReceiverBase[Queue, Message]):
    """One consumer of one or several queues of one engine, for one thread at a time.

    Use it in a `with` block, or close it: it holds connections.
    """

    _message_type = Message
    _engine: Engine
    _waiter: Waiter | None

    def receive(
        self,
        limit: int,
        timeout: Seconds | None = None,
        *,
        patient: bool = False,
        stop: Stop | None = None,
    ) -> list[Message]:
        """Up to `limit` messages; waits for the first `timeout` seconds (None: for ever).

        Waits no more, within a second, once `stop` is set. Raises `ServerUnavailable` if the server
        is gone; with `patient`, a server that was there before is waited for.
        """
        messages: list[Message] = []
        flow: Flow[None] | None
        begun = self._ordinary(limit, timeout, stop)
        try:
            if begun is None:
                flow = self._receive(messages, limit, timeout, patient, stop)
            else:
                try:
                    got = self._engine._run_one(begun.call)
                except BaseException as error:
                    flow = self._goes_on(messages, begun, error, limit, timeout, patient, stop)
                    if flow is None:
                        raise
                else:
                    flow = self._goes_on(messages, begun, got, limit, timeout, patient, stop)
            if flow is not None:
                self._engine.run_flow(flow, self._waiter)
        except Exception:
            self.return_unstarted(messages)
            raise
        except BaseException:
            self._interrupted(messages)
            raise
        return messages

    def return_unstarted(self, messages: Iterable[Message]) -> None:
        """Give back what was received and no handler began to work on.

        Raises `InvalidArgument` for what is no message, and nothing else.
        """
        if given := self._unstarted(messages):
            given[0]._queue._return(given)

    def _interrupted(self, messages: Iterable[Message]) -> None:
        """Give back what was received, and what a claim that was under way may have got."""
        self.return_unstarted(messages)
        self._say_goodbye(self._waiter)

    def _say_goodbye(self, waiter: Waiter | None) -> None:
        try:
            self._engine.run_flow(self._consumer.close(), waiter)
        except AtomqError as error:
            log.warning("left without a word to the server: %s", error)
        finally:
            for name, give_back in self._consumer.unanswered():
                self._keeper.do_later(name, give_back)

    def close(self, received: Iterable[Message] = ()) -> None:
        """Leave. A wake-up that was meant for this consumer goes to another.

        Raises nothing but an interruption (Ctrl-C, a cancellation): what was `received` and is not
        begun is given back then.
        """
        waiter = self._leave()
        if waiter is None:
            return
        try:
            if self._consumer.has_to_leave or waiter.connected:
                self._close(waiter)
        except BaseException:
            self.return_unstarted(received)
            raise

    def _close(self, waiter: Waiter) -> None:
        try:
            self._say_goodbye(waiter)
        finally:
            waiter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
