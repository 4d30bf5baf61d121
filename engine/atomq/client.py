"""The sync engine: runs calls and flows against a server. `aio.py` is its asyncio twin.

All knowledge is elsewhere: `calls` says what to send, `retrying.py` what to do about errors,
`flows/` what comes next, `pool.py` and `shards.py` over which connection.
"""

from __future__ import annotations

import selectors
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from redis import exceptions as server
from redis.connection import AbstractConnection

from atomq import arguments, calls, flows, fork, retrying, waiting, wires
from atomq.address import Address
from atomq.calls import GONE, IN_USE, Call, Claimed, Outgoing
from atomq.conversation import ENDED, HEARD, PUSHED
from atomq.durability import Durability
from atomq.errors import (
    AtomqError,
    InvalidArgument,
    NotDurable,
    PermissionDenied,
    ScriptsNotLoaded,
    ServerUnavailable,
)
from atomq.flows import Answer, Flow, Get, Listen, Sleep, Together, Wait, Withdraw
from atomq.keys import Layout, Place, QueueKeys
from atomq.message import Producers
from atomq.options import Options
from atomq.outage import PATIENCE, Outage, Standing, outage_of, outage_of_slot
from atomq.overview import Overview, overview
from atomq.pool import Pool
from atomq.register import AGAIN, NOTED, REFUSED, register_of
from atomq.retrying import BRIEF, SERVER_ERRORS, Ask, Pause, Retry, Send, bare, translated, unsent
from atomq.scripts import Script, every
from atomq.shards import Shards
from atomq.waiting import Actions, Line, Waiting

if TYPE_CHECKING:
    from atomq.cluster import SlotMap

NOT_AGAIN = Retry(attempts=0, budget=0.0)

T = TypeVar("T")
R = TypeVar("R")


class EngineBase:
    """What both engines share: address, options, key names."""

    _pool: Any

    def __init__(self, address: str | Address, options: Options | None = None, **more: Any) -> None:
        if not isinstance(address, Address):
            address = Address.parse(address, options, **more)
        self.address = address
        self.options = address.options
        longest = 0.3 if address.kind == "cluster" else 1.0  # a new primary is to be found soon
        self.retry = Retry(self.options.retry_attempts, self.options.retry_budget, longest)
        self.slots: SlotMap | None = None
        """Which node serves which slot; None: this is no cluster."""
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
        self._keys: dict[str, QueueKeys] = {}
        kind, prefix = address.kind, self.options.global_keyprefix
        self.register = register_of(
            address,
            prefix,
            lambda: Engine(address),
            off=kind == "memory",
            limits=self.options.limits,
        )
        """What this process writes into the register of queues and processes."""
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
                keep=options.dead_kept,
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
        if found is not None and self.address.kind == "memory":
            raise InvalidArgument(f"durability={found.name!r}: memory:// keeps nothing")
        if found is not None and found.replicas and self.address.kind == "embedded":
            raise InvalidArgument(
                f"durability={found.name!r}: the embedded server has no replicas, it has 'fsync'"
            )
        return found

    @property
    def verified(self) -> bool:
        """Whether this user may run what the scripts run, on each server that was asked."""
        return all(standing.verified for standing in self._pool.everywhere())

    @verified.setter
    def verified(self, verified: bool) -> None:
        for standing in self._pool.everywhere():
            standing.verified = verified

    def follow(self, slots: SlotMap) -> None:
        """Share another engine's map of the cluster."""
        self.slots = self._pool.map = slots

    def _to_note(self, call: Call[Any]) -> Call[int] | None:
        """What to write into the register after this call, and now; None: nothing.

        Where the server of the register may be another than that of the queue, it is written by a
        thread: no call waits for a server that it does not need.
        """
        keys, now = call.queue, time.monotonic()
        gone = call.noted == GONE
        if not isinstance(keys, QueueKeys) or not (gone or keys.noted < now):
            return None
        keys.noted = 0.0 if gone else now + AGAIN
        if self.address.kind == "cluster":
            self.register.note(keys, gone=gone)
            return None
        return calls.register(self.register.keys, [keys.name], gone=gone)

    def _noted(self, call: Call[Any], error: AtomqError | None = None) -> None:
        """What came of it: where it could not be written, it is tried again some time later."""
        if isinstance(call.queue, QueueKeys) and call.noted == IN_USE:
            denied = isinstance(error, PermissionDenied)
            seconds = NOTED if error is None else REFUSED if denied else AGAIN
            call.queue.noted = time.monotonic() + seconds

    def forked(self) -> None:
        """Begin anew in a child process: connections belong to the parent."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address.safe_url!r})"


class OutageReport:
    """What a driver reports of the servers that are in trouble while it runs a call."""

    def __init__(self, lines: Any, standing: Standing) -> None:
        self._pool = lines
        self._standing = standing
        self._troubled = {standing}
        self._moving: set[Outage] = set()

    def pauses(self, pause: Pause) -> None:
        """It waits for a server, or for a slot that moves: then its node is well."""
        outage = self._standing.outage
        if isinstance(pause.trouble, server.TryAgainError) and pause.call is not None:
            outage = outage_of_slot(pause.call.queue.slot)
            self._moving.add(outage)
        elif pause.call is not None:
            self._standing = self._pool.standing_of(pause.call)
            self._troubled.add(self._standing)
            outage = self._standing.outage
        if pause.spent + pause.seconds > PATIENCE:
            outage.away(pause.trouble, pause.spent)

    def gave_up(self, error: Exception) -> None:
        """It waits no longer."""
        if not isinstance(error.__cause__, server.TryAgainError):
            self._standing.gave_up(error)

    def ended(self, results: list[Any]) -> None:
        """There are results; of a batch some may be missing."""
        for result in results:
            if isinstance(result, ServerUnavailable):
                self._troubled.discard(self._standing)
                self.gave_up(result)
                break
        for outage in (*self._moving, *(standing.outage for standing in self._troubled)):
            outage.back()


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
        self._pool: Pool | Shards = Shards(self) if self.address.kind == "cluster" else Pool(self)
        self._gate = fork.Lock()

    @overload
    def run(self, work: Call[T], waiter: Waiter | None = None) -> T: ...
    @overload
    def run(self, work: Flow[T], waiter: Waiter | None = None) -> T: ...
    def run(self, work: Call[T] | Flow[T], waiter: Waiter | None = None) -> T:
        """Carry out one call, or a flow to its end. A flow that waits needs a `waiter`."""
        if isinstance(work, Call):
            return self._run_one(work)
        if not isinstance(work, GeneratorType):
            arguments.expect("what is run", work, False, "a call or a flow")
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

    def publish(self, keys: QueueKeys, message: Outgoing) -> bool:
        """Put one message; False if its id was known, so that it was not put again."""
        call = flows.publish(keys, [message], self.producers, self.options)
        return not self._run_one(call).known

    def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Carry out many calls in one round trip.

        Answers their results in order; an `AtomqError` stands in the place of what failed.
        """
        if not calls:
            return []
        standing = self._pool.standing_of(calls[0])
        retry = self.retry if standing.verified else self._verify(calls[0])
        for call in calls:
            if call.durability is not None:
                retry = self._verify_durable(call, call.durability, retry)
        results = self._drive(retrying.calling(calls, retry, single=False), standing)
        for call, result in zip(calls, results, strict=True):
            if call.durability is not None and isinstance(result, NotDurable):
                self._pool.standing_of(call).confirming.discard(call.durability)
            if call.noted and not isinstance(result, AtomqError):
                self._note(call)
        return results

    def overview(
        self, names: Sequence[str] | None = None, *, after: str = "", limit: int | None = None
    ) -> Overview:
        """The queues of the register in numbers, and the processes that consume.

        Two server calls for 200 queues, and one for every 200 more; nothing is searched for. With a
        `limit`, 1 to 1,000, only so many queues, those whose names come after `after`: `next` of
        the answer is where the next page begins. With `names` only these, and no processes.

        A queue that cannot be read is in `unreadable`, and the others are there. Raises
        `ServerUnavailable` while the server is away, `PermissionDenied` if this user may not read.
        """
        return self.run(overview(self.keys, self.register.keys, names, after, limit))

    def command(self, *args: Any, patient: bool = False) -> Any:
        """Any command, as the server answers it. Raises our exceptions.

        Its words are text, bytes, or numbers of 64 bits; others are an `InvalidArgument`. With
        `patient` it is tried again for `retry_budget`, as long as the server surely did not carry
        it out; else it is not tried again.
        """
        arguments.command(args)
        if patient:
            return self._drive(retrying.asking(args, self.retry), Standing(self.outage))[0]
        try:
            return self._pool.command(args)
        except SERVER_ERRORS as error:
            raise translated(error) from bare(error)

    def reads(self, many: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Several commands that change nothing, in one round trip, of a cluster to all nodes.

        What failed is asked once more, by itself; where that fails its exception stands in the
        place of the answer. A command is one word and more, as in `command`.
        """
        for args in many:
            arguments.command(args)
        try:
            found: list[Any] = self._pool.commands(many) if many else []
        except SERVER_ERRORS as error:
            found = [error] * len(many)
        for at, reply in enumerate(found):
            if isinstance(reply, Exception):
                try:
                    found[at] = self.command(*many[at])
                except AtomqError as error:
                    found[at] = error
        return found

    def nodes(self) -> list[Node]:
        """Every server that runs scripts: one, or the primaries of a cluster."""
        try:
            return [Node(name, pool) for name, pool in self._pool.nodes()]
        except SERVER_ERRORS as error:
            raise translated(error) from bare(error)

    def connection(self, place: Place | None = None) -> AbstractConnection:
        """A connection of the caller's own, connected: for those with a loop of their own.

        Of a cluster to the node at `place`, by default to some node that is well.
        """
        try:
            return self._pool.fresh() if place is None else self._pool.fresh_at(place)
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
        self._pool.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── driving ───────────────────────────────────────────────────────────────────────────────

    def _run_one(self, call: Call[T]) -> T:
        if call.brief:
            return self._run_briefly(call)
        standing = self._pool.standing_of(call)
        retry = self.retry if standing.verified else self._verify(call)
        if call.durability is not None:
            return self._run_durable(call, call.durability, retry)
        answer: Any
        try:
            answer = self._pool.one(call)
        except SERVER_ERRORS as error:
            answer = error
        else:
            if not isinstance(answer, Exception):  # as nearly always: no more ado
                if call.noted and (call.queue.noted < time.monotonic() or call.noted == GONE):
                    self._note(call)
                return call.parse(answer, call.repeated)
            answer = [answer]
        try:
            result: T = self._drive(retrying.calling((call,), retry), standing, answer)[0]
        finally:
            answer = None
        if call.noted:
            self._note(call)
        return result

    def _note(self, call: Call[Any]) -> None:
        """Have the register know what became of a queue, if it does not. Never raises."""
        noting = self._to_note(call)
        if noting is not None:
            try:
                self._drive(retrying.calling((noting,), NOT_AGAIN), self._pool.standing_of(noting))
                self._noted(call)
            except AtomqError as error:
                self._noted(call, error)

    def _run_briefly(self, call: Call[T]) -> T:
        """A call that is tried once, and is answered soon or not at all."""
        if (why := self._pool.hopeless(call)) is not None:
            raise unsent(why, call) from why
        standing, once = self._pool.standing_of(call), replace(self.retry, attempts=0)
        if not standing.verified:
            self._probe_briefly(call, once, standing)
            standing = self._pool.standing_of(call)
            standing.verified = True
        result: T = self._drive(retrying.calling((call,), once), standing, within=BRIEF)[0]
        if call.noted:
            self._note(call)
        return result

    def _probe_briefly(self, call: Call[Any], once: Retry, standing: Standing) -> None:
        try:
            self._drive(retrying.probing(call, once), standing, within=BRIEF)
        except ServerUnavailable as error:
            error.unsent = True  # the call itself
            raise

    def _run_durable(self, call: Call[T], durability: Durability, retry: Retry) -> T:
        """A call that is answered once it is confirmed."""
        retry = self._verify_durable(call, durability, retry)
        standing = self._pool.standing_of(call)
        try:
            result: T = self._drive(retrying.calling((call,), retry), standing)[0]
        except NotDurable:  # the next publish asks first whether the server confirms anything
            standing.confirming.discard(durability)
            raise
        if call.noted:
            self._note(call)
        return result

    def _verify_durable(self, call: Call[Any], durability: Durability, retry: Retry) -> Retry:
        """Find out whether the server confirms what is written, before anything is published."""
        standing = self._pool.standing_of(call)
        if durability not in standing.confirming:
            longer = self.retry.longer(durability.seconds)
            self._drive(retrying.probing(call, longer, durability), standing)
            standing.confirming.add(durability)
        return retry.longer(durability.seconds)

    def _verify(self, call: Call[Any]) -> Retry:
        """Find out whether this user may run what the scripts run; the patience that is left.

        Many threads may come at once. One asks, the others wait for its answer; if it gives up,
        the next one asks that has some patience left.
        """
        began = time.monotonic()
        while True:
            left = self.retry.after(time.monotonic() - began)
            with self._gate:
                standing = self._pool.standing_of(call)
                others, mine = standing.verifying, Future[None]()
                if others is None:
                    standing.verifying, standing.verifier = mine, threading.get_ident()
            if others is not None and standing.verifier == threading.get_ident():
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
                self._drive(retrying.probing(call, left), standing)
            except BaseException as error:
                known = isinstance(error, Exception)
                mine.set_exception(
                    error if known else ServerUnavailable("the probe was interrupted")
                )
                raise
            else:
                standing = self._pool.standing_of(call)
                standing.verified = True
                standing.confirming.clear()
                mine.set_result(None)
                return self.retry.after(time.monotonic() - began)
            finally:
                standing.verifying = None
                del mine

    def _drive(
        self,
        actions: retrying.Actions,
        standing: Standing,
        first: Any = None,
        within: float | None = None,
    ) -> list[Any]:
        """Drive to the end; `first` is the answer to the first action, if there is one already."""
        report = OutageReport(self._pool, standing)
        try:
            action = next(actions)
            while True:
                try:
                    answer = self._act(action, report, within) if first is None else first
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

    def _act(self, action: retrying.Action, report: OutageReport, within: float | None) -> Any:
        match action:
            case Send(calls, loads):
                return self._pool.send(calls, loads, within)
            case Ask(args):
                return self._pool.command(args)
            case Pause():
                report.pauses(action)
                time.sleep(action.seconds)
        return None

    def _perform(self, effect: Any, waiter: Waiter | None) -> Any:
        if isinstance(effect, Get):
            return self.command("GET", effect.key)
        if isinstance(effect, Together):
            return self.run_all(effect.calls)
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

    def __init__(self, name: str, pool: Pool) -> None:
        self.name = name
        self._pool = pool

    def command(self, *args: Any) -> Any:
        """Any command on this node. See `Engine.command`."""
        arguments.command(args)
        try:
            return self._pool.command(args)
        except SERVER_ERRORS as error:
            raise translated(error) from error

    def load(self, scripts: Sequence[Script] | None = None) -> list[Script]:
        """SCRIPT LOAD all scripts (or these). Raises `ScriptsNotLoaded` if this user may not."""
        scripts = every() if scripts is None else scripts
        for script in scripts:
            try:
                said = self._pool.command(("SCRIPT LOAD", script.text))
            except server.NoPermissionError as error:
                raise ScriptsNotLoaded(
                    f"this user may not load scripts on {self.name}: needs +script|load ({error})"
                ) from error
            except SERVER_ERRORS as error:
                raise translated(error) from error
            sha = said.decode() if isinstance(said, bytes) else said
            if sha != script.sha:
                raise AtomqError(f"{self.name} named {script.name} {sha}, not {script.sha}")
        return list(scripts)

    def missing(self) -> list[Script]:
        """The scripts this node does not know."""
        scripts = every()
        try:
            known = self._pool.command(("SCRIPT EXISTS", *(s.sha for s in scripts)))
        except SERVER_ERRORS as error:
            raise translated(error) from error
        return [script for script, present in zip(scripts, known, strict=True) if not present]


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

    def withdraw(self) -> list[str] | Claimed:
        """See `flows.Withdraw`."""
        return self._drive(self._waiting.withdraw())

    def listen(self, channel: str, seconds: float) -> bytes | None:
        """The next message on a channel, or None after `seconds`; 0 only subscribes."""
        try:
            ear = self._listening(channel)
            deadline = time.monotonic() + seconds
            while seconds:
                for purpose, reply in ear.talk:
                    if purpose is PUSHED and reply[0] in HEARD:
                        found: bytes = reply[2]
                        return found
                    if purpose is PUSHED and reply[0] == ENDED:
                        raise server.ConnectionError("the slot of the channel has moved")
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
        slots, ear = self._engine.slots, self._ear
        astray = ear is not None and slots is not None and not slots.serves(ear.wire.node, channel)
        if self._ear is None or self._ear.names != [channel] or astray:
            self._hang_up()
            ear = self._ear = _line(self._engine._pool.fresh(channel), [channel])
            verbs = ("SUBSCRIBE",) if slots is None else ("SSUBSCRIBE", "SUBSCRIBE")
            for verb in verbs:
                ear.wire.send(ear.talk.subscribe(verb, [channel], verb))
            while ear.talk.under_way:
                for purpose, reply in ear.talk.feed(ear.wire.receive()):
                    # A server or a user without SSUBSCRIBE hears what is said to all.
                    if purpose == "SUBSCRIBE" and isinstance(reply, Exception):
                        raise reply
        return self._ear

    def close(self) -> None:
        """Close the connections. A token that was not read is lost; others notice within 1.2 s."""
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
            case waiting.Unblock(client_ids, node):
                self._engine._pool.unblock(client_ids, node)
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
