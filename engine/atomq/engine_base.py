"""What the engine of threads and that of asyncio have in common: address, options, key names."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from atomq import calls, fork
from atomq.address import Address
from atomq.calls import GONE, IN_USE, Call
from atomq.durability import Durability
from atomq.errors import AtomqError, InvalidArgument, PermissionDenied
from atomq.ids import Producers
from atomq.keys import (
    LateQueueKeys,
    LateRegisterKeys,
    Layout,
    Place,
    QueueKeys,
    RegisterKeys,
)
from atomq.options import Options
from atomq.outage import Standing, outage_of
from atomq.register import AGAIN, NOTED, REFUSED, register_of
from atomq.retrying import Retry
from atomq.virtual_host import virtual_host_of

if TYPE_CHECKING:
    from atomq.cluster import SlotMap


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
        self.may_watch = True
        """Whether this user may wait for lists of one node together: see `watched.py`."""
        self.carriers: WeakSet[Any] = WeakSet()
        """Waiters over whose connections calls may travel while no consumer waits there."""
        self.at_close: list[Callable[[], None]] = []
        """What has to be done before the connections are closed."""
        self.producers = Producers()
        """Those of all that publish by this engine."""
        self._keys: dict[str, QueueKeys] = {}
        self._partition_keys: dict[tuple[str, str], QueueKeys] = {}
        self.virtual_host = virtual_host_of(address, self.for_thread)
        """What a `virtual_host` other than 0 is on a cluster."""
        prefix = self.options.global_keyprefix
        self.register = register_of(
            address.server,
            RegisterKeys(prefix)
            if self.virtual_host.namespace is not None
            else LateRegisterKeys(prefix, namespace=partial(self.virtual_host.find, self.retry)),
            partial(self.for_thread, address),
            off=address.kind == "memory",
        )
        """What this process writes into the register of queues and processes."""
        fork.renew(self)

    @staticmethod
    def for_thread(address: Address) -> Any:
        """A sync engine for the same server, for a thread of this process."""
        raise NotImplementedError

    @property
    def layout(self) -> Layout:
        """The key layout: as the option says, else by the kind of server."""
        if self.options.layout == "cluster" or self.address.kind == "cluster":
            return "cluster"
        return "stock"

    @property
    def namespace(self) -> str:
        """What stands before all names of this `virtual_host`. Raises what `find` does there."""
        return self.virtual_host.find(self.retry)

    @property
    def prefix(self) -> str:
        """What stands before the names of queues: the namespace, and `global_keyprefix`."""
        return self.namespace + self.options.global_keyprefix

    @property
    def reached(self) -> Address:
        """What connections are made for: a namespace lies in database 0."""
        return self.address.of_database(0) if self.namespace else self.address

    def gathers(self, keys: QueueKeys) -> bool:  # noqa: ARG002 - AsyncEngine looks at them
        """Whether messages for a queue wait to be sent together: those of threads never do."""
        return False

    def keys(self, queue: str) -> QueueKeys:
        """The keys of a queue. Raises `InvalidArgument` if no queue may be called so."""
        found = self._keys.get(queue) if isinstance(queue, str) else None
        if found is None:
            found = self._keys[queue] = self._keys_of(queue)
        return found

    def partition_keys(self, name: str, whole: str) -> QueueKeys:
        """The keys of a partition, as those have them that put into the `whole` queue."""
        found = self._partition_keys.get((name, whole))
        if found is None:
            found = self._partition_keys[name, whole] = self._keys_of(name, whole)
        return found

    def _keys_of(self, name: str, whole: str = "") -> QueueKeys:
        options, namespace = self.options, self.virtual_host.namespace
        how: dict[str, Any] = {
            "prefix": (namespace or "") + options.global_keyprefix,
            "sep": options.sep,
            "steps": options.priority_steps,
            "layout": self.layout,
            "keep": options.dead_kept,
            "whole": whole,
        }
        if namespace is not None:
            return QueueKeys(name, **how)
        return LateQueueKeys(name, namespace=lambda: self.namespace, **how)

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

    def _has_verified(self, standing: Standing) -> None:
        """This user may run there what the scripts run; so the scripts were there."""
        standing.verified = True
        standing.confirming.clear()
        self.retry = replace(self.retry, loaded=True)

    def follow(self, slots: SlotMap) -> None:
        """Share another engine's map of the cluster."""
        self.slots = self._pool.map = slots

    def place(self, queue: str | None) -> Place | None:
        """The node of a cluster that serves a queue; None: not known, or there is no cluster."""
        if self.slots is None or queue is None:
            return None
        return self.slots.owner(self.keys(queue).slot)

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
        self.carriers = WeakSet()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address.safe_url!r})"
