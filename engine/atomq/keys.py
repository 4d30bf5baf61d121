r"""Every key name, of both layouts.

    celery                            ready, priority 0: as stock Kombu has it
    celery\x06\x163                   ready, priority 3 (cluster: {celery}\x06\x163)
    _atomq.{celery}.unacked           and the rest: see lua/README.md
    _atomq.{celery}.result.<id>
    _atomq.{celery}.bindings          of an exchange of Kombu's, on a cluster
    _atomq.register{.}.queues         and two more: names of queues, processes

A `global_keyprefix` goes in front of the queue's name, inside the braces too. The hash tag is the
name itself, so in a cluster all keys of a queue live in the slot of its bare list. On a cluster
without numbered databases a `virtual_host` other than 0 goes in front of that: see `namespace`.
"""

from __future__ import annotations

import binascii
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Literal

from atomq.arguments import shown
from atomq.errors import InvalidArgument

Layout = Literal["stock", "cluster"]

SEP = "\x06\x16"
STEPS = (0, 3, 6, 9)
SLOTS = 16384
Place = tuple[str, int]
"""Host and port of a node of a cluster."""
REGISTER = "_atomq.register{"  # the keys of the register begin so; no queue's do
_PLAIN = str.maketrans({"{": "%7B", "}": "%7D", "%": "%25"})


def namespace(database: int) -> str:
    """What stands before all names of a virtual host, where a cluster has no numbered databases.

    No queue of another virtual host may be called so. The same text as `global_keyprefix`, with
    virtual host 0, leads to the same keys.
    """
    return f"_atomq.{database}:" if database else ""


def namespace_in(prefix: str) -> str:
    """The namespace at the head of what stands before names; "" if there is none."""
    found = re.match(r"_atomq\.[1-9][0-9]*:", prefix)
    return found[0] if found else ""


class QueueKeys:
    """The keys of one queue, and the tuple of them that each script takes. Made once a queue."""

    __slots__ = (
        "_sep",
        "ack",
        "attend",
        "calls",
        "calls_old",
        "cancel",
        "cancelled",
        "claim",
        "complete",
        "dead",
        "dead_letter",
        "delayed",
        "delayed_records",
        "extend",
        "find",
        "hand_back",
        "ids",
        "inspect",
        "keep",
        "later",
        "layout",
        "look",
        "looked",
        "looking",
        "meta",
        "name",
        "noted",
        "nowhere",
        "once",
        "overview",
        "part",
        "pause",
        "peek",
        "probe",
        "producer_prefix",
        "progress",
        "publish",
        "purge",
        "put_prefix",
        "ready",
        "records",
        "redrive",
        "reject",
        "release",
        "result_prefix",
        "revoke",
        "run_now",
        "slot",
        "stats",
        "steps",
        "touch",
        "track0",
        "track1",
        "tracked",
        "unacked",
        "wake",
        "watch",
        "whole",
    )

    def __init__(
        self,
        name: str,
        *,
        prefix: str = "",
        sep: str = SEP,
        steps: Sequence[int] = STEPS,
        layout: Layout = "stock",
        keep: str = "",
        whole: str = "",
    ) -> None:
        """`name` as users know it. Raises `InvalidArgument` if no queue may be called so.

        `whole` is the queue that this is a partition of; itself, if it is the first one.
        """
        check_name(name, sep=sep, layout=layout)
        if layout == "cluster" and ("{" in prefix or "}" in prefix):
            raise InvalidArgument(f"in a cluster global_keyprefix has no braces, got {prefix!r}")
        self.name, self.whole, self.layout, self.steps = name, whole or name, layout, tuple(steps)
        self.part = "p" if whole else ""
        """What the settings of a publish begin with: "p" into a partition."""
        self.keep = keep
        """Which dead letters are kept, as the scripts that write them have it; "": all."""
        self.noted = 0.0
        """Until when (monotonic) its name need not be written into the register again."""
        self.looking = 0.0
        """When a consumer of this process began to look into it last (monotonic)."""
        self._sep = sep
        self._fill(prefix)

    def _fill(self, prefix: str) -> None:
        layout, sep = self.layout, self._sep
        full = prefix + self.name
        tagged = f"{{{full}}}" if layout == "cluster" else full
        self.ready = (full, *(f"{tagged}{sep}{step}" for step in self.steps[1:]))
        # In a cluster the tag must be the bare list's name to the letter; braces were refused.
        own = f"_atomq.{{{full if layout == 'cluster' else full.translate(_PLAIN)}}}."
        self.unacked, self.records = own + "unacked", own + "records"
        self.delayed, self.delayed_records = own + "delayed", own + "delayed_records"
        self.dead, self.wake, self.meta, self.stats = (
            own + "dead",
            own + "wake",
            own + "meta",
            own + "stats",
        )
        self.slot = hash_slot(self.wake) if layout == "cluster" else 0
        self.calls, self.calls_old, self.ids = own + "calls", own + "calls_old", own + "ids"
        self.probe, self.watch = own + "probe", own + "watch"
        self.looked, self.cancelled = own + "looked", own + "cancelled"  # the first is a channel
        self.nowhere = (self.looked,) if layout == "cluster" else ()
        self.result_prefix, self.put_prefix = own + "result.", own + "put."
        self.producer_prefix = own + "producer."
        self.tracked = self.track0, self.track1 = own + "track0", own + "track1"

        held, later = (self.unacked, self.records), (self.delayed, self.delayed_records)
        every = (*held, *later, self.dead, self.wake, self.meta, self.stats)
        self.claim = (*every, *self.tracked, self.cancelled, *self.ready, *self.nowhere)
        self.inspect = (*every, *self.ready)
        self.overview = (
            self.meta,
            self.stats,
            self.unacked,
            self.delayed,
            self.dead,
            *self.ready,
        )
        self.look = (self.unacked, self.delayed, self.meta, self.looked, *self.ready)
        self.publish, self.later = (self.wake, self.meta, self.stats, *self.ready), later
        self.once = (self.ids, self.calls, self.calls_old)
        self.attend = (*later, self.wake, self.meta, self.stats, *self.tracked, *self.ready)
        self.ack = (*held, self.stats)
        self.complete = (*held, self.stats, *self.tracked)
        self.release = (
            *held,
            *later,
            self.wake,
            self.meta,
            self.stats,
            *self.tracked,
            self.cancelled,
            *self.ready,
        )
        self.extend = (*held, self.meta, self.cancelled)
        self.reject = (*held, self.dead, self.stats, *self.tracked)
        self.dead_letter = (self.dead, self.stats)
        self.touch = (self.wake, self.meta, self.stats, *self.ready)
        self.redrive = (self.dead, self.wake, self.meta, self.stats, *self.tracked, *self.ready)
        self.cancel = (*later, self.ids, self.meta, self.stats, *self.tracked)
        self.find = (*held, *later, self.dead, *self.tracked, self.cancelled)
        self.revoke = (
            *held,
            self.ids,
            self.meta,
            self.stats,
            *self.tracked,
            self.cancelled,
        )
        self.run_now = (*later, self.wake, self.meta)
        self.progress = (self.unacked, *self.tracked)
        self.purge = (
            *held,
            *later,
            self.dead,
            self.wake,
            self.meta,
            self.stats,
            self.calls,
            self.calls_old,
            self.ids,
            *self.tracked,
            self.cancelled,
            # Another fleet may have other steps: these are all there are.
            *(full if priority == 0 else f"{tagged}{sep}{priority}" for priority in range(10)),
        )
        self.pause = (self.wake, self.meta)
        self.peek = (*held, *later, self.dead, *self.ready)
        self.hand_back = (*held, *later, self.stats, *self.tracked, *self.ready)

    @property
    def sharded(self) -> int:
        """1: the channels of its results are sharded ones too."""
        return int(self.layout == "cluster")

    def result(self, message_id: str) -> str:
        """The key, and the channel, of one message's result."""
        return self.result_prefix + message_id

    def put(self, message_id: str) -> str:
        """The key of when a tracked message was put. It expires."""
        return self.put_prefix + message_id

    def producer(self, producer: str) -> str:
        """The key of what is remembered of one producer's calls. It expires."""
        return self.producer_prefix + producer

    def every(self) -> tuple[str, ...]:
        """All keys of the queue but those of results, producers and messages that were put."""
        return (*self.purge, self.probe, self.watch)

    def step_of(self, priority: int) -> int:
        """The 1-based step of a priority (0 to 9, 0 first): the largest that is not above it."""
        return max(1, bisect_right(self.steps, priority))

    def priority_of(self, step: int) -> int:
        """The priority that a 1-based step stands for."""
        return self.steps[min(max(step, 1), len(self.steps)) - 1]

    def __repr__(self) -> str:
        return f"QueueKeys({self.name!r}, layout={self.layout!r})"


class LateQueueKeys(QueueKeys):
    """The same while it is not known which namespace they are in: asked when one is first read.

    Raises then what `namespace` raises.
    """

    __slots__ = ("_namespace", "_prefix")

    def __init__(self, name: str, *, namespace: Callable[[], str], **how: Any) -> None:
        self._namespace = namespace
        super().__init__(name, **how)

    def _fill(self, prefix: str) -> None:
        self._prefix = prefix

    def __getattr__(self, attribute: str) -> Any:
        if attribute not in QueueKeys.__slots__:
            raise AttributeError(attribute)
        super()._fill(self._namespace() + self._prefix)
        return getattr(self, attribute)


def hash_slot(key: str) -> int:
    """The slot of a key in a cluster, 0 to 16383: that of its tag, if it has one."""
    _, brace, rest = key.partition("{")
    tag, end, _ = rest.partition("}")
    data = (tag if brace and end and tag else key).encode("utf-8", "surrogateescape")
    return binascii.crc_hqx(data, 0) % SLOTS


class RegisterKeys:
    """The keys of the register: names of queues, and the processes that are there.

    There is one for each `global_keyprefix` of a database; in a cluster it lives in one slot.
    """

    __slots__ = ("alive", "every", "name", "probe", "processes", "queues", "slot")
    noted = float("inf")  # it is no queue

    def __init__(self, prefix: str = "", *, written: bool = False) -> None:
        """`written`: the prefix as it stands in a key."""
        self.name = "the register"
        self._fill(prefix if written else prefix.translate(_PLAIN))

    def _fill(self, prefix: str) -> None:
        own = f"{REGISTER}.{prefix}}}."
        self.queues, self.processes, self.alive = own + "queues", own + "processes", own + "alive"
        self.probe = own + "probe"
        self.every = (self.queues, self.processes, self.alive)
        self.slot = hash_slot(self.queues)

    def __repr__(self) -> str:
        return f"RegisterKeys({self.queues!r})"


class LateRegisterKeys(RegisterKeys):
    """The same while it is not known which namespace it is in. See `LateQueueKeys`."""

    __slots__ = ("_namespace", "_prefix")

    def __init__(self, prefix: str, *, namespace: Callable[[], str]) -> None:
        self._namespace = namespace
        super().__init__(prefix)

    def _fill(self, prefix: str) -> None:
        self._prefix = prefix

    def __getattr__(self, attribute: str) -> Any:
        if attribute not in RegisterKeys.__slots__:
            raise AttributeError(attribute)
        super()._fill(self._namespace() + self._prefix)
        return getattr(self, attribute)


class ExchangeKeys:
    """The key of what an exchange of Kombu's leads to, on a cluster.

    It lives in the slot of the queue that is called like the exchange, as Celery's are.
    """

    __slots__ = ("bindings", "name", "probe", "slot")
    noted = float("inf")  # it is no queue

    def __init__(self, name: str, prefix: str = "") -> None:
        self.name = name
        own = f"_atomq.{{{(prefix + name).translate(_PLAIN)}}}."
        self.bindings, self.probe = own + "bindings", own + "probe"
        self.slot = hash_slot(self.bindings)

    def __repr__(self) -> str:
        return f"ExchangeKeys({self.bindings!r})"


def check_name(name: str, *, sep: str = SEP, layout: Layout = "stock") -> None:
    """Refuse what no queue may be called, saying why: `InvalidArgument`."""
    if not isinstance(name, str) or not name:
        raise InvalidArgument(f"a queue's name must be text and not empty, got {shown(name)}")
    if len(name.encode("utf-8", "surrogatepass")) > 512:
        raise InvalidArgument(
            f"a queue's name must be at most 512 bytes, got {len(name)} characters"
        )
    if sep in name:
        raise InvalidArgument(f"the queue name {name!r} contains the separator {sep!r}")
    if name.startswith(("unacked", "_kombu.", "_atomq.")):
        raise InvalidArgument(f"the queue name {name!r} is reserved: unacked*, _kombu.*, _atomq.*")
    if layout == "cluster" and ("{" in name or "}" in name):
        raise InvalidArgument(f"in a cluster a queue's name has no braces, got {name!r}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"the queue name {name!r} cannot be written as UTF-8") from None


def is_queue_key(key: str) -> str | None:
    """The full name (prefix included) of the queue that an `_atomq.` key of ours belongs to."""
    if not key.startswith("_atomq.{"):
        return None
    inner, brace, _ = key.removeprefix("_atomq.{").partition("}")
    if not brace:
        return None
    return inner.replace("%7B", "{").replace("%7D", "}").replace("%25", "%")
