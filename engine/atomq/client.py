"""The engine for threads: its connections, and what takes a thread. `aio.py` is that for tasks.

All knowledge is elsewhere: `calls` says what to send, `retrying.py` what to do about errors,
`flows/` what comes next, `pool.py` and `shards.py` over which connection.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from redis import exceptions as server
from redis.connection import AbstractConnection

from atomq import arguments, flows, fork, probing
from atomq.actions import BRIEF, Elsewhere, NoAnswer
from atomq.address import Address
from atomq.calls import Call, Outgoing, Published
from atomq.errors import AtomqError, ServerUnavailable
from atomq.flows import Flow
from atomq.gathering_threads import ThreadGathering
from atomq.keys import Place, QueueKeys
from atomq.node import Node
from atomq.options import Options
from atomq.pool import Pool
from atomq.retrying import Retry
from atomq.runner import Runner
from atomq.shards import Shards
from atomq.translating import SERVER_ERRORS, bare, translated
from atomq.waiter import Waiter

T = TypeVar("T")
R = TypeVar("R")


class Engine(Runner):
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
        self._gatherings: dict[QueueKeys, ThreadGathering] = {}

    @staticmethod
    def for_thread(address: Address) -> Engine:
        """A sync engine for the same server, for a thread of this process."""
        return Engine(address)

    def publish(self, keys: QueueKeys, message: Outgoing, *, brief: bool = False) -> bool:
        """Put one message; False if its id was known, so that it was not put again.

        What several threads put at the same moment travels together: see `ThreadGathering`.
        `brief`: as `publish_briefly` does it, alone.
        """
        if brief:
            return not self._publish_briefly(keys, message).known
        gathering = self._gatherings.get(keys)
        if gathering is None:
            make = flows.publishing(keys, self.producers, self.options)
            gathering = self._gatherings[keys] = ThreadGathering(make, self._run_one)
        return gathering.put(message)

    def _publish_briefly(self, keys: QueueKeys, message: Outgoing) -> Published:
        if self.virtual_host.namespace is None:
            self.find_namespace()
        call = flows.publish(keys, (message,), self.producers, self.options)
        call.brief = True
        try:
            return self._run_one(call)  # as nearly always: without a flow
        except ServerUnavailable as error:
            if error.unsent:
                raise
        return self.run_flow(flows.publish_again(call))

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

    def briefly(self, *many: tuple[Any, ...]) -> list[Any]:
        """Commands, in one flight to all nodes; each is answered within 0.6 s, or not at all.

        Its exception stands in the place of an answer: `ServerUnavailable` for a node that is away,
        which costs no time if it was so a moment ago. Then the command may have been carried out.
        """
        for args in many:
            arguments.command(args)
        try:
            found: list[Any] = self._pool.commands(many, BRIEF)
        except SERVER_ERRORS as error:
            found = [error] * len(many)
        for at, reply in enumerate(found):
            if isinstance(reply, Exception):
                why = reply.error if isinstance(reply, NoAnswer) else reply
                is_moving = isinstance(why, Elsewhere)
                found[at] = ServerUnavailable(str(why)) if is_moving else translated(why)
        return found

    def nodes(self) -> list[Node]:
        """Every server that runs scripts: one, or the primaries of a cluster."""
        try:
            return [Node(name, pool) for name, pool in self._pool.nodes()]
        except SERVER_ERRORS as error:
            raise translated(error) from bare(error)

    def replicas(self) -> list[Node]:
        """The replicas of a cluster, or of a master behind Sentinels, as these name them now.

        Of other servers none is known.
        """
        try:
            return [Node(name, pool) for name, pool in self._pool.replicas()]
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
        fork.leak(self._gatherings)
        self._gatherings = {}
        self._pool.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── driving ───────────────────────────────────────────────────────────────────────────────

    def find_namespace(self) -> None:
        """Find out what all names begin with, if it is not known: see `VirtualHost`."""
        self.virtual_host.find(self.retry)

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
                self._drive(probing.probing(call, left), standing)
            except BaseException as error:
                known = isinstance(error, Exception)
                mine.set_exception(
                    error if known else ServerUnavailable("the probe was interrupted")
                )
                raise
            else:
                standing = self._pool.standing_of(call)
                self._has_verified(standing)
                mine.set_result(None)
                return self.retry.after(time.monotonic() - began)
            finally:
                standing.verifying = None
                del mine
