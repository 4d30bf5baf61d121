"""The sync engine: runs calls and flows against a server. `aio.py` is its asyncio twin.

All knowledge is elsewhere: `calls` says what to send, `retrying.py` what to do about errors,
`flows/` what comes next, `pool.py` and `shards.py` over which connection.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import GeneratorType
from typing import Any, Self, TypeVar, overload

from redis import exceptions as server
from redis.connection import AbstractConnection

from atomq import arguments, flows, fork, retrying
from atomq.address import Address
from atomq.calls import GONE, Call, Outgoing
from atomq.durability import Durability
from atomq.engine_base import EngineBase
from atomq.errors import AtomqError, InvalidArgument, NotDurable, ServerUnavailable
from atomq.flows import Filled, Flow, Get, Listen, Sleep, Together, Wait, Withdraw
from atomq.keys import Place, QueueKeys
from atomq.node import Node
from atomq.options import Options
from atomq.outage import Standing
from atomq.outage_report import OutageReport
from atomq.overview import Overview, overview
from atomq.pool import Pool
from atomq.retrying import BRIEF, SERVER_ERRORS, Ask, Pause, Retry, Send, bare, translated, unsent
from atomq.shards import Shards
from atomq.waiter import Waiter

NOT_AGAIN = Retry(attempts=0, budget=0.0)

T = TypeVar("T")
R = TypeVar("R")


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

    @staticmethod
    def for_thread(address: Address) -> Engine:
        """A sync engine for the same server, for a thread of this process."""
        return Engine(address)

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
        # One node that is verified will do: the first call may be for one that is away.
        is_known = any(self._pool.standing_of(call).verified for call in calls)
        retry = self.retry if is_known else self._verify(calls[0])
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
        if isinstance(effect, Filled):
            return self._filled(effect.keys)
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

    def _filled(self, keys: Sequence[str]) -> list[str]:
        try:
            lengths = self._pool.lengths(keys)
        except SERVER_ERRORS:
            return []
        answered = zip(keys, lengths, strict=True)
        return [key for key, length in answered if isinstance(length, int) and length > 0]
