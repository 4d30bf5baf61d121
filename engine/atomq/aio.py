"""The asyncio engine: the twin of `client.py`, over redis.asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any, Self, TypeVar, overload

from redis import exceptions as server
from redis.asyncio.connection import AbstractConnection

from atomq import arguments, connect, exchange, fork, wires
from atomq.address import Address
from atomq.calls import Call
from atomq.client import SERVER_ERRORS, EngineBase, warn_no_blocking
from atomq.errors import AtomqError, InvalidArgument, ServerUnavailable
from atomq.exchange import Ask, Pause, Retry, Send, bare, connecting, not_reached, translated
from atomq.flows import Flow, Get, Listen, Rest, Sleep, Wait, Withdraw
from atomq.options import Options
from atomq.outage import PATIENCE, Outage, outage_of
from atomq.pool_aio import AsyncPool, connected, heeded, readable
from atomq.shared import AsyncShared, cancelling

log = logging.getLogger("atomq.client")

T = TypeVar("T")
R = TypeVar("R")

LONG = 86_400.0  # seconds: instead of the socket's own timeout, where an answer may take its time
PROMPT = 5.0  # seconds: an answer that is on its way does not take longer


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
        self._proving: asyncio.Future[Any] | None = None
        self.listener = _Listener(self)
        self._lines: AsyncPool | _ClusterLines = (
            _ClusterLines(self) if self.address.kind == "cluster" else AsyncPool(self)
        )

    @overload
    async def run(self, work: Call[T], waiter: AsyncWaiter | None = None) -> T: ...
    @overload
    async def run(self, work: Flow[T], waiter: AsyncWaiter | None = None) -> T: ...
    async def run(self, work: Call[T] | Flow[T], waiter: AsyncWaiter | None = None) -> T:
        """Carry out one call, or a flow to its end. A flow that waits needs a `waiter`."""
        if isinstance(work, Call):
            return await self._run_one(work)
        arguments.expect("what is run", work, isinstance(work, Generator), "a call or a flow")
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

    async def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Carry out many calls in one round trip; an `AtomqError` stands for what failed."""
        if not calls:
            return []
        self._enter_loop()
        retry = self.retry if self.proved else await self._prove(calls[0])
        outage = self._lines.outage(calls[0])
        return await self._drive(exchange.exchange(calls, retry, single=False), outage)

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
            return (await self._drive(exchange.asking(args, self.retry), self.outage))[0]
        try:
            return await self._lines.command(args)
        except SERVER_ERRORS as error:
            raise translated(error) from bare(error)

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
        await self.listener.close()
        await self._lines.close()

    def forked(self) -> None:
        """Begin anew in a child process."""
        super().forked()
        fork.leak(self._loop, self._proving, self.listener, self._lines)
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
        retry = self.retry if self.proved else await self._prove(call)
        answer: Any
        try:
            answer = await self._lines.one(call)
        except SERVER_ERRORS as error:
            answer = error
        else:
            if not isinstance(answer, Exception):
                return call.parse(answer, call.repeated)
            answer = [answer]
        outage = self._lines.outage(call)
        try:
            result: T = (await self._drive(exchange.exchange((call,), retry), outage, answer))[0]
            return result
        finally:
            answer = None

    async def _prove(self, call: Call[Any]) -> Retry:
        """Find out whether this user may run what the scripts run; the patience that is left.

        Many tasks may come at once. One asks, the others wait for its answer; if it gives up,
        the next one asks that has some patience left.
        """
        began = time.monotonic()
        while True:
            asked = others = self._proving
            if asked is None:
                left = self.retry.after(time.monotonic() - began)
                probing = self._drive(exchange.probing(call, left), self._lines.outage(call))
                asked = self._proving = asyncio.ensure_future(probing)
                asked.add_done_callback(self._proved)
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

    def _proved(self, done: asyncio.Future[Any]) -> None:
        self._proving = None
        self.proved = not done.cancelled() and done.exception() is None

    async def _drive(
        self, steps: exchange.Exchange, outage: Outage, first: Any = None
    ) -> list[Any]:
        """Drive to the end; `first` is the answer to the first step, if that was taken already."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._step(step, outage) if first is None else first
                except SERVER_ERRORS as error:
                    answer = error
                first = None
                step = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
        except StopIteration as stop:
            outage.back()
            results: list[Any] = stop.value
            return results
        except ServerUnavailable as error:
            self._gave_up(error, outage)
            raise
        finally:
            answer = first = None  # an exception that its own frame keeps keeps what is dropped

    async def _step(self, step: exchange.Step, outage: Outage) -> Any:
        match step:
            case Send(calls, loads):
                return await self._lines.send(calls, loads)
            case Ask(args):
                return await self._lines.command(args)
            case Pause(seconds, spent, trouble):
                if spent + seconds > PATIENCE:
                    outage.away(trouble)
                await asyncio.sleep(seconds)
        return None

    async def _perform(self, effect: Any, waiter: AsyncWaiter | None) -> Any:
        if isinstance(effect, Get):
            return await self._get(effect.key)
        if isinstance(effect, Sleep):
            return await asyncio.sleep(effect.seconds)
        if waiter is None:
            raise InvalidArgument(f"{effect} needs a waiter")
        if isinstance(effect, Wait):
            return await waiter.wait(effect.keys, effect.seconds)
        if isinstance(effect, Withdraw):
            return await waiter.withdraw()
        if isinstance(effect, Listen):
            return await waiter.listen(effect.channel, effect.seconds)
        raise InvalidArgument(f"{effect!r} is no effect")

    async def _get(self, key: str) -> Any:
        self._enter_loop()
        try:
            return await self._lines.get(key)
        except SERVER_ERRORS as error:
            raise translated(error) from bare(error)


# ── a cluster ─────────────────────────────────────────────────────────────────────────────────


class _ClusterLines:
    """What `AsyncPool` is, on a cluster: redis-py's client follows the slots."""

    def __init__(self, engine: EngineBase) -> None:
        self._engine = engine
        self._client: Any = None
        self._opening = AsyncShared[Any]()

    async def client(self) -> Any:
        return self._client or await self._opening(self._connected)

    async def _connected(self) -> Any:
        client = connect.async_cluster(self._engine.address)
        await client.initialize()
        self._client = client
        return client

    def outage(self, call: Call[Any]) -> Outage:
        """That of the node which serves the queue, as far as the slots are known."""
        try:
            node = self._client.get_node_from_key(call.keys[0])
            return outage_of(f"{node.host}:{node.port}")
        except (AttributeError, server.RedisClusterException, server.RedisError):
            return self._engine.outage

    async def one(self, call: Call[Any]) -> Any:
        return (await self.send((call,)))[0]

    async def send(self, calls: Sequence[Call[Any]], loads: Sequence[Call[Any]] = ()) -> list[Any]:
        try:
            client = await self.client()
        except SERVER_ERRORS as error:
            raise connecting(error) from error
        replies: list[Any] = []
        sends = [partial(self._load, client, call) for call in loads]
        sends += [partial(client.execute_command, *call.command()) for call in calls]
        for send in sends:
            try:
                replies.append(await heeded(send()))
            except server.ResponseError as error:
                replies.append(error.with_traceback(None))
            except (server.RedisClusterException, server.ConnectionError) as error:
                self._engine.proved = False
                raise (error if replies else not_reached(error)) from error.__cause__
        return replies

    async def _load(self, client: Any, call: Call[Any]) -> Any:
        node = client.get_node_from_key(call.keys[0])
        return await client.execute_command("SCRIPT LOAD", call.script.text, target_nodes=node)

    async def get(self, key: str) -> Any:
        return await self.command(("GET", key))

    async def command(self, args: Sequence[Any], target: Any = None) -> Any:
        client = await self.client()
        for node in client.get_nodes() if target is None else (target,):
            await _forget_hung_up(node)
        if target is None:
            return await heeded(client.execute_command(*args))
        return await heeded(client.execute_command(*args, target_nodes=target))

    async def blocking(self, keys: Sequence[str]) -> list[tuple[AbstractConnection, list[str]]]:
        client = await self.client()
        found = []
        for key in keys:
            node = client.get_node_from_key(key)
            found.append((await self._open(node), [key]))
        return found

    async def fresh(self) -> AbstractConnection:
        """A connection to some node: in a cluster a message to a channel reaches all of them."""
        client = await self.client()
        return await self._open(client.get_random_node())

    async def _open(self, node: Any) -> AbstractConnection:
        connection: AbstractConnection = node.connection_class(**node.connection_kwargs)
        await connected(connection)
        return connection

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


async def _forget_hung_up(node: Any) -> None:
    """Close the idle connections of a node that the server has closed: redis-py makes them anew.

    Its sync client looks before it uses one, its asyncio client does not.
    """
    for connection in tuple(node._free):
        if connection.is_connected and readable(wires.descriptor(connection)):
            await connection.disconnect(nowait=True)


# ── listening ─────────────────────────────────────────────────────────────────────────────────


class _Ear:
    """One task's place in the audience of a channel."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
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
        if isinstance(what, bytes):
            self._heard.put_nowait(what)
        elif self.subscribed.done():
            self._heard.put_nowait(server.ConnectionError(str(what)))
        else:
            self.subscribed.set_exception(what)

    def confirm(self) -> None:
        """The server has subscribed us."""
        if not self.subscribed.done():
            self.subscribed.set_result(None)


class _Listener:
    """One subscription connection for all tasks of an engine that wait for results."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._audience: dict[str, set[_Ear]] = {}
        self._connection: AbstractConnection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._era = engine.era
        self._writing = asyncio.Lock()

    async def listen(self, channel: str) -> _Ear:
        """Listen from now on: once this returns, no message on the channel is missed."""
        ear = _Ear(channel)
        try:
            async with self._writing:
                if self._era != self._engine.era:
                    self._break(server.ConnectionError("there is another master, or token"))
                if self._connection is None:
                    self._era = self._engine.era
                    self._connection = await self._engine._lines.fresh()
                    self._reading = asyncio.ensure_future(self._read(self._connection))
                self._audience.setdefault(channel, set()).add(ear)
                # Also where others listen already: the answer says that this is so.
                send = self._connection.send_command("SUBSCRIBE", channel, check_health=False)
                await heeded(send)
            async with asyncio.timeout(PROMPT):
                await ear.subscribed
        except BaseException as error:
            if isinstance(error, SERVER_ERRORS):
                self._break(error)
            await to_the_end(self.leave(ear))
            raise
        return ear

    async def leave(self, ear: _Ear) -> None:
        """Listen no more."""
        audience = self._audience.get(ear.channel, set())
        audience.discard(ear)
        if audience or ear.channel not in self._audience:
            return
        async with self._writing:
            if self._audience.get(ear.channel) or self._connection is None:
                return
            self._audience.pop(ear.channel, None)
            try:
                await self._connection.send_command("UNSUBSCRIBE", ear.channel, check_health=False)
            except SERVER_ERRORS as error:
                self._break(error)

    async def close(self) -> None:
        """Close the connection; whoever listens is told that it broke."""
        self._break(server.ConnectionError("the engine was closed"))

    async def _read(self, connection: AbstractConnection) -> None:
        try:
            while True:
                said = await connection.read_response(timeout=LONG, push_request=True)
                if not isinstance(said, list) or len(said) < 3:
                    continue
                for ear in tuple(self._audience.get(said[1].decode(), ())):
                    if said[0] == b"message":
                        ear.tell(said[2])
                    elif said[0] == b"subscribe":
                        ear.confirm()
        except SERVER_ERRORS as error:
            if connection is self._connection:
                self._break(error)
        finally:
            with contextlib.suppress(*SERVER_ERRORS):
                await connection.disconnect(nowait=True)

    def _break(self, error: Exception) -> None:
        """Tell all that listen. The next who does opens a new connection."""
        reading, self._reading, self._connection = self._reading, None, None
        audience, self._audience = self._audience, {}
        for ears in audience.values():
            for ear in ears:
                ear.tell(error)
        if reading is not None and reading is not asyncio.current_task():
            reading.cancel()


# ── waiting ───────────────────────────────────────────────────────────────────────────────────


class AsyncWaiter:
    """Connections of their own for what blocks. Belongs to one task at a time. See `Waiter`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._lines: list[tuple[AbstractConnection, list[str]]] = []
        self._out: dict[int, asyncio.Task[Any]] = {}
        self._keys: tuple[str, ...] = ()
        self._era = engine.era
        self._ear: _Ear | None = None

    @property
    def connected(self) -> bool:
        """Whether there is anything to close."""
        return bool(self._lines) or self._ear is not None

    async def wait(self, keys: tuple[str, ...], seconds: float) -> str | None:
        """The list a token came from, or None after `seconds` (or when the connection broke)."""
        try:
            await self._leave_old()
            if keys != self._keys:
                await self.close()
                self._lines = await self._engine._lines.blocking(keys)
                self._keys = keys
            for index, (connection, names) in enumerate(self._lines):
                if index not in self._out:
                    self._out[index] = asyncio.ensure_future(_blpop(connection, names))
                    self._out[index].add_done_callback(_seen)
            await asyncio.wait(
                self._out.values(), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            for index, task in self._out.items():
                if task.done():
                    del self._out[index]
                    return _list_of(task.result())
        except server.NoPermissionError as error:
            warn_no_blocking(error)
            await self.close()
            await asyncio.sleep(seconds)
        except SERVER_ERRORS:
            await self.close()
            await asyncio.sleep(min(seconds, 0.05))  # the claim that follows meets the same trouble
        return None

    async def withdraw(self) -> str | None:
        """Take the BLPOP back; the list whose token it had taken after all, or None."""
        taken = None
        try:
            for index, task in list(self._out.items()):
                if not task.done():
                    await self._unblock(self._lines[index][0])
                await asyncio.wait({task}, timeout=PROMPT)
                if task.cancelled():
                    raise server.ConnectionError("the event loop ends")
                taken = _list_of(task.result()) or taken
                self._out.pop(index, None)
        except (*SERVER_ERRORS, AtomqError, asyncio.InvalidStateError):
            await self.close()
        return taken

    async def listen(self, channel: str, seconds: float) -> bytes | None:
        """The next message on a channel, or None after `seconds`; 0 only subscribes."""
        try:
            await self._leave_old()
            if self._ear is None or self._ear.channel != channel:
                await self._hang_up()
                self._ear = await self._engine.listener.listen(channel)
            if seconds:
                return await self._ear.next(seconds)
        except server.NoPermissionError as error:
            raise translated(error) from error
        except SERVER_ERRORS:
            await self._hang_up()
            await asyncio.sleep(min(seconds, 0.05))
        return None

    async def close(self) -> None:
        """Close the connections. A token read by nobody is lost; others notice within 1.2 s."""
        for task in self._out.values():
            task.cancel()
        for connection, _ in self._lines:
            await connection.disconnect(nowait=True)
        self._lines, self._out, self._keys = [], {}, ()
        await self._hang_up()

    async def _leave_old(self) -> None:
        if self._era != self._engine.era:
            await self.close()
            self._era = self._engine.era

    async def _hang_up(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None:
            await self._engine.listener.leave(ear)

    async def _unblock(self, connection: AbstractConnection) -> None:
        hello = getattr(connection, "handshake_metadata", None)
        client_id = (hello or {}).get(b"id")
        if client_id is None:
            raise server.ConnectionError("the server did not say who we are")
        target = None
        if isinstance(self._engine._lines, _ClusterLines):
            client = await self._engine._lines.client()
            target = client.get_node(connection.host, connection.port)  # type: ignore[attr-defined]
        await self._engine._lines.command(("CLIENT UNBLOCK", client_id), target)


async def _blpop(connection: AbstractConnection, names: Sequence[str]) -> Any:
    await connection.send_command("BLPOP", *names, 0, check_health=False)
    return await connection.read_response(timeout=LONG)


def _seen(task: asyncio.Future[Any]) -> None:
    """The waiter that would ask for its exception may be gone."""
    if not task.cancelled():
        task.exception()


def _list_of(reply: Any) -> str | None:
    return reply[0].decode() if reply else None
