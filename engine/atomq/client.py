"""The sync engine: runs calls and flows against a server. `aio.py` is its asyncio twin.

All knowledge is elsewhere: `calls.py` says what to send, `retrying.py` what to do about errors,
`flows.py` what comes next. Here are connections.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from types import GeneratorType
from typing import Any, Self, TypeVar, overload

from redis import exceptions as server
from redis.connection import AbstractConnection

from atomq import arguments, connect, fork, retrying, waiting, wires
from atomq.address import Address
from atomq.calls import Call, Claimed
from atomq.conversation import PUSHED, Conversation, packed
from atomq.durability import Durability
from atomq.errors import (
    AtomqError,
    InvalidArgument,
    NotDurable,
    ScriptsNotLoaded,
    ServerTooOld,
    ServerUnavailable,
)
from atomq.flight import Flight
from atomq.flows import Answer, Flow, Get, Listen, Sleep, Wait, Withdraw
from atomq.keys import Layout, QueueKeys
from atomq.message import Producers
from atomq.options import Options
from atomq.outage import PATIENCE, Outage, outage_of
from atomq.retrying import (
    SERVER_ERRORS,
    Ask,
    Pause,
    Retry,
    Send,
    bare,
    connecting,
    leads_astray,
    not_reached,
    translated,
)
from atomq.scripts import Script, every
from atomq.shared import Shared
from atomq.waiting import Actions, Line, Waiting

log = logging.getLogger("atomq.client")

LOOK = 0.25  # seconds between two looks, during a WAIT, whether there is another master
FRESH = 0.5  # seconds for which a connection that was used is not looked at before it is used again

T = TypeVar("T")
R = TypeVar("R")


class EngineBase:
    """What both engines share: address, options, key names."""

    def __init__(self, address: str | Address, options: Options | None = None, **more: Any) -> None:
        if not isinstance(address, Address):
            address = Address.parse(address, options, **more)
        self.address = address
        self.options = address.options
        self.retry = Retry(self.options.retry_attempts, self.options.retry_budget)
        self.verified = False
        self.outage = outage_of(address.safe_url)
        self.moves = 0
        """How often another server became the master: a connection from before leads astray."""
        self.era = 0
        """The same, and how often there were other credentials: one from before may end soon."""
        self.may_unblock: bool | None = None
        """Whether this user may run CLIENT UNBLOCK; None: not tried yet."""
        self.at_close: list[Callable[[], None]] = []
        """What has to be done before the connections are closed."""
        self.producers = Producers()
        """Those of all that publish by this engine."""
        self.confirming: set[tuple[Durability, Outage]] = set()
        """What a server was seen to confirm, since this user's rights were verified."""
        self._keys: dict[str, QueueKeys] = {}
        fork.renew(self)

    @property
    def layout(self) -> Layout:
        """The key layout: as the option says, else by the kind of server."""
        if self.options.layout == "cluster" or self.address.kind == "cluster":
            return "cluster"
        return "stock"

    def keys(self, queue: str) -> QueueKeys:
        """The keys of a queue. Raises `InvalidArgument` if no queue may be called so."""
        found = self._keys.get(queue) if isinstance(queue, str) else None
        if found is None:
            options = self.options
            found = self._keys[queue] = QueueKeys(
                queue,
                prefix=options.global_keyprefix,
                sep=options.sep,
                steps=options.priority_steps,
                layout=self.layout,
            )
        return found

    def durability(self, name: str | None = None) -> Durability | None:
        """What has to be confirmed of a publish; None: nothing. By default what the options say.

        Raises `InvalidArgument` for what is no durability, and what this address never has.
        """
        options = self.options
        found = Durability.of(
            options.durability if name is None else name, options.durability_timeout
        )
        if found is not None and self.address.kind == "cluster":
            raise InvalidArgument(f"durability={found.name!r}: not on a cluster yet")
        if found is not None and self.address.kind == "memory":
            raise InvalidArgument(f"durability={found.name!r}: memory:// keeps nothing")
        if found is not None and found.replicas and self.address.kind == "embedded":
            raise InvalidArgument(
                f"durability={found.name!r}: the embedded server has no replicas, it has 'fsync'"
            )
        return found

    def forked(self) -> None:
        """Begin anew in a child process: connections belong to the parent."""
        self.verified = False

    def _not_confirmed(self, call: Call[Any], outage: Outage, result: object) -> None:
        """If so, the next publish asks first whether the server confirms anything."""
        if call.durability is not None and isinstance(result, NotDurable):
            self.confirming.discard((call.durability, outage))

    def _gave_up(self, error: ServerUnavailable, outage: Outage) -> None:
        """The server is away, or takes no writes: the next call looks at it anew."""
        self.verified = False
        outage.away(error)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address.safe_url!r})"


def check_version(hello: Any) -> None:
    """Refuse a server that is too old, by its answer to HELLO. Raises `ServerTooOld`."""
    if not isinstance(hello, dict):
        return
    known = {_text(name): _text(value) for name, value in hello.items()}
    name, version = known.get("server", ""), known.get("version", "")
    least = {"redis": (6, 2), "valkey": (7, 2)}.get(name, (0,))
    try:
        found = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        return
    if found and found < least:
        needed = ".".join(map(str, least))
        raise ServerTooOld(f"this is {name} {version}: atomq needs {needed} or newer")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class Engine(EngineBase):
    """Runs calls and flows, from any number of threads.

    `address` is a server's URL (see `Address`); options are those of `Options`. Nothing is
    connected before the first use. Raises `InvalidAddress` and `InvalidOptions`.

    While the server cannot be reached, or says that it cannot serve yet, a call is tried again for
    `retry_budget` seconds, then raises `ServerUnavailable`; so it does when its answer was lost
    more than `retry_attempts` times. With `retry_attempts` 0 nothing is tried again.

    The first call on a server also finds out whether this user may run what the scripts run, and
    raises `PermissionDenied` if not.
    """

    def __init__(self, address: str | Address, options: Options | None = None, **more: Any) -> None:
        super().__init__(address, options, **more)
        self._pool: _Pool | _ClusterPool = (
            _ClusterPool(self) if self.address.kind == "cluster" else _Pool(self)
        )
        self._gate = fork.Lock()
        self._verifying: Future[None] | None = None
        self._verifier = 0  # the thread that asks

    @overload
    def run(self, work: Call[T], waiter: Waiter | None = None) -> T: ...
    @overload
    def run(self, work: Flow[T], waiter: Waiter | None = None) -> T: ...
    def run(self, work: Call[T] | Flow[T], waiter: Waiter | None = None) -> T:
        """Carry out one call, or a flow to its end. A flow that waits needs a `waiter`."""
        if isinstance(work, Call):
            return self._run_one(work)
        arguments.expect("what is run", work, isinstance(work, GeneratorType), "a call or a flow")
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
                    answer = self._run_one(effect)
                else:
                    answer = self._perform(effect, waiter)
            except BaseException as error:  # noqa: BLE001 - the flow's to note; raised again there
                trouble = error

    def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Carry out many calls in one round trip.

        Answers their results in order; an `AtomqError` stands in the place of what failed.
        """
        if not calls:
            return []
        retry = self.retry if self.verified else self._verify(calls[0])
        outage = self._pool.outage(calls[0])
        for call in calls:
            if call.durability is not None:
                retry = self._verify_durable(call, call.durability, retry)
        results = self._drive(retrying.calling(calls, retry, single=False), outage)
        for call, result in zip(calls, results, strict=True):
            self._not_confirmed(call, self._pool.outage(call), result)
        return results

    def command(self, *args: Any, patient: bool = False) -> Any:
        """Any command, as the server answers it. Raises our exceptions.

        Its words are text, bytes, or numbers of 64 bits; others are an `InvalidArgument`. With
        `patient` it is tried again for `retry_budget`, as long as the server surely did not carry
        it out; else it is not tried again.
        """
        arguments.command(args)
        if patient:
            return self._drive(retrying.asking(args, self.retry), self.outage)[0]
        try:
            return self._pool.command(args)
        except SERVER_ERRORS as error:
            raise translated(error) from bare(error)

    def nodes(self) -> list[Node]:
        """Every server that runs scripts: one, or the primaries of a cluster."""
        try:
            return self._pool.nodes()
        except SERVER_ERRORS as error:
            raise translated(error) from error

    def connection(self) -> AbstractConnection:
        """A connection of the caller's own, connected: for those with a loop of their own."""
        try:
            return self._pool.fresh()
        except (server.RedisError, OSError) as error:
            raise translated(error) from error

    def settle(self, work: Flow[T], say: Callable[[Flow[T]], R]) -> R:
        """What `say` answers, which runs the flow it is given and notes the answer.

        A thread is not cancelled, a task is: see `AsyncEngine.settle`.
        """
        return say(work)

    def waiter(self) -> Waiter:
        """What a flow waits on. One for each consumer; close it when done."""
        return Waiter(self)

    def close(self) -> None:
        """Send the acks that wait, renew leases no more, close all connections.

        The engine opens new ones if it is used again.
        """
        for task in self.at_close:
            task()
        self._pool.close()

    def forked(self) -> None:
        """Begin anew in a child process."""
        super().forked()
        self._verifying = None
        self._pool.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── driving ───────────────────────────────────────────────────────────────────────────────

    def _run_one(self, call: Call[T]) -> T:
        retry = self.retry if self.verified else self._verify(call)
        if call.durability is not None:
            return self._run_durable(call, call.durability, retry)
        answer: Any
        try:
            answer = self._pool.one(call)
        except SERVER_ERRORS as error:
            answer = error
        else:
            if not isinstance(answer, Exception):  # as nearly always: no more ado
                return call.parse(answer, call.repeated)
            answer = [answer]
        outage = self._pool.outage(call)
        try:
            result: T = self._drive(retrying.calling((call,), retry), outage, answer)[0]
            return result
        finally:
            answer = None

    def _run_durable(self, call: Call[T], durability: Durability, retry: Retry) -> T:
        """A call that is answered once it is confirmed."""
        retry, outage = self._verify_durable(call, durability, retry), self._pool.outage(call)
        try:
            result: T = self._drive(retrying.calling((call,), retry), outage)[0]
        except NotDurable as error:
            self._not_confirmed(call, outage, error)
            raise
        return result

    def _verify_durable(self, call: Call[Any], durability: Durability, retry: Retry) -> Retry:
        """Find out whether the server confirms what is written, before anything is published."""
        outage = self._pool.outage(call)
        if (durability, outage) not in self.confirming:
            longer = self.retry.longer(durability.seconds)
            self._drive(retrying.probing(call, longer, durability), outage)
            self.confirming.add((durability, outage))
        return retry.longer(durability.seconds)

    def _verify(self, call: Call[Any]) -> Retry:
        """Find out whether this user may run what the scripts run; the patience that is left.

        Many threads may come at once. One asks, the others wait for its answer; if it gives up,
        the next one asks that has some patience left.
        """
        began, outage = time.monotonic(), self._pool.outage(call)
        while True:
            left = self.retry.after(time.monotonic() - began)
            with self._gate:
                others, mine = self._verifying, Future[None]()
                if others is None:
                    self._verifying, self._verifier = mine, threading.get_ident()
            if others is not None and self._verifier == threading.get_ident():
                return left  # in a finalizer: it cannot wait for what it interrupted
            if others is not None:
                try:
                    others.result()
                except ServerUnavailable:
                    left = self.retry.after(time.monotonic() - began)
                    if left.attempts and left.budget:
                        continue
                    raise
                return self.retry.after(time.monotonic() - began)
            try:
                self._drive(retrying.probing(call, left), outage)
            except BaseException as error:
                known = isinstance(error, Exception)
                mine.set_exception(
                    error if known else ServerUnavailable("the probe was interrupted")
                )
                raise
            else:
                self.verified = True
                self.confirming.clear()
                mine.set_result(None)
                return self.retry.after(time.monotonic() - began)
            finally:
                self._verifying = None
                del mine

    def _drive(self, actions: retrying.Actions, outage: Outage, first: Any = None) -> list[Any]:
        """Drive to the end. `first` is the answer to the first action, if there is one already."""
        try:
            action = next(actions)
            while True:
                try:
                    answer = self._act(action, outage) if first is None else first
                except SERVER_ERRORS as error:
                    answer = error
                first = None
                action = (
                    actions.throw(answer) if isinstance(answer, Exception) else actions.send(answer)
                )
        except StopIteration as stop:
            outage.back()
            results: list[Any] = stop.value
            return results
        except ServerUnavailable as error:
            self._gave_up(error, outage)
            raise
        finally:
            answer = first = None  # an exception that its own frame keeps keeps what is dropped

    def _act(self, action: retrying.Action, outage: Outage) -> Any:
        match action:
            case Send(calls, loads):
                return self._pool.send(calls, loads)
            case Ask(args):
                return self._pool.command(args)
            case Pause(seconds, spent, trouble):
                if spent + seconds > PATIENCE:
                    outage.away(trouble)
                time.sleep(seconds)
        return None

    def _perform(self, effect: Any, waiter: Waiter | None) -> Any:
        if isinstance(effect, Get):
            return self.command("GET", effect.key)
        if isinstance(effect, Sleep):
            time.sleep(effect.seconds)
            return None
        if waiter is None:
            raise InvalidArgument(f"{effect} needs a waiter")
        if isinstance(effect, Wait):
            return waiter.wait(
                effect.keys,
                effect.seconds,
                effect.ahead,
                lasts=effect.lasts,
                channels=effect.channels,
            )
        if isinstance(effect, Withdraw):
            return waiter.withdraw()
        if isinstance(effect, Listen):
            return waiter.listen(effect.channel, effect.seconds)
        raise InvalidArgument(f"{effect!r} is no effect")


class Node:
    """One server that runs scripts, to be preloaded."""

    def __init__(self, name: str, pool: _Pool | _ClusterPool, target: Any = None) -> None:
        self.name = name
        self._pool = pool
        self._target = target

    def command(self, *args: Any) -> Any:
        """Any command on this node. See `Engine.command`."""
        arguments.command(args)
        try:
            return self._pool.command(args, self._target)
        except SERVER_ERRORS as error:
            raise translated(error) from error

    def load(self, scripts: Sequence[Script] | None = None) -> list[Script]:
        """SCRIPT LOAD all scripts (or these). Raises `ScriptsNotLoaded` if this user may not."""
        scripts = every() if scripts is None else scripts
        for script in scripts:
            try:
                sha = _text(self._pool.command(("SCRIPT LOAD", script.text), self._target))
            except server.NoPermissionError as error:
                raise ScriptsNotLoaded(
                    f"this user may not load scripts on {self.name}: needs +script|load ({error})"
                ) from error
            except SERVER_ERRORS as error:
                raise translated(error) from error
            if sha != script.sha:
                raise AtomqError(f"{self.name} named {script.name} {sha}, not {script.sha}")
        return list(scripts)

    def missing(self) -> list[Script]:
        """The scripts this node does not know."""
        scripts = every()
        try:
            known = self._pool.command(("SCRIPT EXISTS", *(s.sha for s in scripts)), self._target)
        except SERVER_ERRORS as error:
            raise translated(error) from error
        return [script for script, present in zip(scripts, known, strict=True) if not present]


# ── connections to one server ─────────────────────────────────────────────────────────────────


class _Places:
    """At most so many connections at a time. A thread that waits has none yet.

    One that has, and comes again, is in a finalizer, which Python runs at any moment: it must not
    wait for itself.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._threads: list[int] = []
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            while self._free <= 0 and me not in self._threads:
                self._changed.wait()
            self._free -= 1
            self._threads.append(me)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._free += 1
            self._threads.remove(threading.get_ident())
            self._changed.notify()


class _Line:
    """One connection: what is sent over it, and the answers."""

    __slots__ = ("since", "talk", "wire")

    def __init__(self, wire: wires.Wire | wires.MemoryWire) -> None:
        self.wire = wire
        self.talk = Conversation()
        self.talk.feed(wire.read_before)
        self.since = 0.0
        """When it was used last (monotonic)."""


class _Pool:
    """Idle connections, last in first out; any number of threads takes and puts back.

    Threads do not share one, as tasks do (`pool_aio.py`): of eight threads one would send and read
    for those that wait, and wake them. That takes twice the CPU of a read by each, and less is put.
    """

    def __init__(self, engine: EngineBase) -> None:
        self._engine = engine
        self._connector = connect.connector(engine.address, self)
        self._begin()

    def _begin(self) -> None:
        self._idle: deque[_Line] = deque()
        most = self._engine.options.max_connections
        self._places = _Places(most) if most else None

    def one(self, call: Call[Any]) -> Any:
        """Send one call; the reply, or the server's error. Raises where there is no answer."""
        return self._over_a_line((call.packed(),))[0]

    def send(self, calls: Sequence[Call[Any]], loads: Sequence[Call[Any]] = ()) -> list[Any]:
        """The same for several in one go; before them, SCRIPT LOAD of the scripts of `loads`."""
        flight = Flight(calls, loads)
        return flight.replies(self._over_a_line(flight.data, patience=flight.patience))

    def outage(self, _call: Call[Any]) -> Outage:
        return self._engine.outage

    def command(self, args: Sequence[Any], _target: Any = None) -> Any:
        head, *rest = args
        reply = self._over_a_line([packed((*str(head).split(), *rest))], looked_at=True)[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def fresh(self) -> AbstractConnection:
        """A connection of the caller's own, connected."""
        connection = self._connector()
        connection.connect()
        wires.opened.add(connection)
        check_version(getattr(connection, "handshake_metadata", None))
        return connection

    def blocking(self, keys: Sequence[str]) -> list[tuple[AbstractConnection, list[str]]]:
        return [(self.fresh(), list(keys))]

    def unblock(self, client_id: int, _node: tuple[str, int] | None) -> None:
        self.command(("CLIENT UNBLOCK", client_id))

    def nodes(self) -> list[Node]:
        return [Node(self._engine.address.safe_url, self)]

    def close(self) -> None:
        with contextlib.suppress(IndexError):  # several threads may close at once
            while True:
                self._idle.pop().wire.close()

    def switched(self) -> None:
        """There is another master: what is in use is closed when its answer has come."""
        self._engine.moves += 1
        self._engine.era += 1
        self._engine.verified = False
        self.close()

    def rotated(self) -> None:
        """There are other credentials: what is in use is closed when its answer has come."""
        self._engine.era += 1
        self.close()

    def forget(self) -> None:
        fork.leak(self._idle)
        self._begin()

    def _take(self, *, looked_at: bool) -> _Line:
        now = time.monotonic()
        while self._idle:
            try:
                line = self._idle.pop()
            except IndexError:
                break
            rested = now - line.since
            if rested < FRESH and not looked_at:
                return line
            if rested < (self._engine.options.health_check_interval or 1e9) and not _hung_up(line):
                return line
            line.wire.close()
        return _Line(wires.taken(self.fresh()))

    def _over_a_line(
        self, data: Sequence[bytes], *, looked_at: bool = False, patience: float = 0.0
    ) -> list[Any]:
        """Over one that idles, or a new one. `looked_at`: what is sent is not sent again.

        The answer may take `patience` seconds more than others may.
        """
        if self._places is None:
            return self._over(data, looked_at=looked_at, patience=patience)
        with self._places:
            return self._over(data, looked_at=looked_at, patience=patience)

    def _over(self, data: Sequence[bytes], *, looked_at: bool, patience: float) -> list[Any]:
        era, moves = self._engine.era, self._engine.moves
        try:
            line = self._take(looked_at=looked_at)
        except SERVER_ERRORS as error:
            raise connecting(error) from error
        try:
            if patience:
                until = time.monotonic() + patience
                replies = _converse(line, data, partial(self._wait, line, until, moves))
            else:
                replies = _converse(line, data)
        except SERVER_ERRORS:
            line.wire.close()
            self.close()  # what idles beside it is most likely dead too
            self._engine.verified = False
            raise
        except BaseException:
            line.wire.close()  # interrupted: an answer may be on its way
            raise
        if era != self._engine.era or any(map(leads_astray, replies)):
            line.wire.close()
            self.close()
            self._engine.verified = False
        else:
            line.since = time.monotonic()
            self._idle.append(line)
        return replies

    def _wait(self, line: _Line, until: float, moves: int) -> None:
        """Wait for an answer that may take its time, but not once there is another master."""
        while not line.wire.readable(max(0.0, min(LOOK, until - time.monotonic()))):
            if self._engine.moves != moves:
                raise server.ConnectionError("another server has become the master")
            if time.monotonic() >= until:
                return


def _hung_up(line: _Line) -> bool:
    """Whether an idle connection was closed by the server: nothing else makes it readable."""
    return line.wire.readable(0)


def _converse(
    line: _Line, data: Sequence[bytes], wait: Callable[[], None] | None = None
) -> list[Any]:
    """Send commands and wait for the replies: server errors are among them, not raised.

    `wait` is called before each read.
    """
    talk, wire = line.talk, line.wire
    replies: list[Any] = []
    wire.send(b"".join([talk.say(command, data) for command in data]))
    while True:
        if wait is not None:
            wait()
        for asked, reply in talk.feed(wire.receive()):
            if asked is data:
                replies.append(reply)
                if len(replies) == len(data):
                    return replies


class _ClusterPool:
    """The same on a cluster: redis-py's client follows the slots."""

    def __init__(self, engine: EngineBase) -> None:
        self._engine = engine
        self._client: Any = None
        self._opening = Shared[Any]()

    @property
    def client(self) -> Any:
        return self._client or self._opening(self._open)

    def _open(self) -> Any:
        self._client = self._client or connect.cluster(self._engine.address)
        return self._client

    def one(self, call: Call[Any]) -> Any:
        return self.send((call,))[0]

    def outage(self, call: Call[Any]) -> Outage:
        """That of the node which serves the queue, as far as the slots are known."""
        try:
            node = self._client.get_node_from_key(call.keys[0])
            return outage_of(f"{node.host}:{node.port}")
        except (AttributeError, server.RedisClusterException, server.RedisError):
            return self._engine.outage

    def send(self, calls: Sequence[Call[Any]], loads: Sequence[Call[Any]] = ()) -> list[Any]:
        try:
            client = self.client
        except SERVER_ERRORS as error:
            raise connecting(error) from error
        replies: list[Any] = []
        sends = [partial(self._load, client, call) for call in loads]
        sends += [partial(client.execute_command, *call.command()) for call in calls]
        for send in sends:
            try:
                replies.append(send())
            except server.ResponseError as error:
                replies.append(error.with_traceback(None))
            except (server.RedisClusterException, server.ConnectionError) as error:
                self._engine.verified = False
                raise (error if replies else not_reached(error)) from error.__cause__
        return replies

    def _load(self, client: Any, call: Call[Any]) -> Any:
        node = client.get_node_from_key(call.keys[0])
        return client.execute_command("SCRIPT LOAD", call.script.text, target_nodes=node)

    def command(self, args: Sequence[Any], target: Any = None) -> Any:
        if target is None:
            return self.client.execute_command(*args)
        return self.client.execute_command(*args, target_nodes=target)

    def blocking(self, keys: Sequence[str]) -> list[tuple[AbstractConnection, list[str]]]:
        found = []
        for key in keys:
            node = self.client.get_node_from_key(key)
            connection = node.redis_connection.connection_pool.make_connection()
            connection.connect()
            wires.opened.add(connection)
            found.append((connection, [key]))
        return found

    def fresh(self) -> AbstractConnection:
        """A connection to some node: in a cluster a message to a channel reaches all of them."""
        node = self.client.get_random_node()
        connection: AbstractConnection = node.redis_connection.connection_pool.make_connection()
        connection.connect()
        wires.opened.add(connection)
        return connection

    def unblock(self, client_id: int, node: tuple[str, int] | None) -> None:
        self.command(("CLIENT UNBLOCK", client_id), self.client.get_node(*(node or ())))

    def nodes(self) -> list[Node]:
        return [Node(node.name, self, node) for node in self.client.get_primaries()]

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def forget(self) -> None:
        fork.leak(self._client)
        self._client = None


# ── waiting ───────────────────────────────────────────────────────────────────────────────────


class Waiter:
    """Connections of their own for what blocks: BLPOP on tokens, a subscription to a result.

    It belongs to one thread at a time. What it does is in `waiting.py`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting = Waiting(engine, inline=engine.address.kind == "memory")
        self._ear: Line | None = None
        self._era = engine.era

    @property
    def connected(self) -> bool:
        """Whether there is anything to close."""
        return bool(self._waiting.lines) or self._ear is not None

    def wait(
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
        return self._drive(actions)

    def withdraw(self) -> str | Claimed | None:
        """See `flows.Withdraw`."""
        return self._drive(self._waiting.withdraw())

    def listen(self, channel: str, seconds: float) -> bytes | None:
        """The next message on a channel, or None after `seconds`; 0 only subscribes."""
        try:
            ear = self._listening(channel)
            deadline = time.monotonic() + seconds
            while seconds:
                for purpose, reply in ear.talk:
                    if purpose is PUSHED and reply[0] == b"message":
                        found: bytes = reply[2]
                        return found
                if not ear.wire.readable(max(0.0, deadline - time.monotonic())):
                    break
                ear.talk.feed(ear.wire.receive())
        except server.NoPermissionError as error:
            self._hang_up()
            raise translated(error) from error
        except SERVER_ERRORS:
            self._hang_up()
            time.sleep(min(seconds, 0.05))
        return None

    def _listening(self, channel: str) -> Line:
        if self._era != self._engine.era:
            self._hang_up()
            self._era = self._engine.era
        if self._ear is None or self._ear.names != [channel]:
            self._hang_up()
            ear = self._ear = _line(self._engine._pool.fresh(), [channel])
            ear.wire.send(ear.talk.subscribe("SUBSCRIBE", [channel], channel))
            while ear.talk.under_way:
                for purpose, reply in ear.talk.feed(ear.wire.receive()):
                    if purpose == channel and isinstance(reply, Exception):
                        raise reply
        return self._ear

    def close(self) -> None:
        """Close the connections. A token read by nobody is lost; others notice within 1.2 s."""
        self._drive(self._waiting.close())
        self._hang_up()

    def _hang_up(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.wire.close()

    # ── driving ───────────────────────────────────────────────────────────────────────────────

    def _drive(self, actions: Actions[T]) -> T:
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
                answer = self._perform(action)
            except BaseException as error:  # noqa: BLE001 - raised again there
                trouble = error

    def _perform(self, action: waiting.Action) -> Any:
        match action:
            case waiting.Send(line, data):
                try:
                    line.wire.send(data)
                except BaseException:
                    line.wire.close()  # interrupted: part of it may be on its way
                    raise
            case waiting.Hear(lines, seconds):
                return _hear(lines, seconds)
            case waiting.Unblock(client_id, line):
                self._engine._pool.unblock(client_id, line.wire.node)
            case waiting.Open(names):
                return [_line(*found) for found in self._engine._pool.blocking(names)]
            case waiting.Close(lines):
                for line in lines:
                    line.wire.close()
            case waiting.Rest(seconds):
                time.sleep(seconds)
        return None


def _line(connection: AbstractConnection, names: Sequence[str]) -> Line:
    wire = wires.taken(connection)
    line = Line(wire, names)
    line.talk.feed(wire.read_before)
    return line


def _hear(lines: Sequence[Line], seconds: float | None) -> Line | None:
    if seconds is None:
        line = lines[0]
    elif len(lines) == 1:
        line = lines[0]
        if not line.wire.readable(seconds):
            return None
    else:
        readable = [line for line in lines if line.wire.readable(0)] or _select(lines, seconds)
        if not readable:
            return None
        line = readable[0]
    line.talk.feed(line.wire.receive())
    return line


def _select(lines: Sequence[Line], seconds: float) -> list[Line]:
    with selectors.DefaultSelector() as selector:
        for line in lines:
            selector.register(line.wire.fileno(), selectors.EVENT_READ, line)
        return [key.data for key, _ in selector.select(seconds)]
