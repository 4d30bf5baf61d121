"""Over which partitions a queue is spread, and which message goes where. Without I/O.

Partition 0 has the name of the queue. The others are called `<queue>#<position>.<number>`, where
the number is the first one whose slot is on the shard that has the fewest of them: names alone
would lie unevenly. So the numbers are written down in the record of the queue.

Their count can be raised, never lowered. Keys and ids stay where they were: they are spread over as
many as there were at first. So processes that know of different counts agree about each of them,
and nothing moves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise

from atomq.errors import InvalidArgument, ServerError
from atomq.keys import SLOTS, hash_slot

MOST = 256
COPY = "copy "
COPIES, NUMBERS = (1, 2), 12  # partitions whose copies of the record are sought, by these numbers
_TRIES = 10_000  # names that are tried for one partition
_MASK = (1 << 64) - 1
_RECORD = re.compile(r"[0-9]{1,3}(/[0-9]{1,3})*( [0-9]{1,9})*", re.ASCII)
_MARK = re.compile(r"#(\+?)([0-9]{1,3})\Z", re.ASCII)
_NAME = re.compile(r"(.+)#[0-9]{1,3}\.[0-9]{1,9}", re.ASCII | re.DOTALL)


class PartitionMap:
    """The partitions of a queue. `numbers` belong to all but the first.

    `before` are the counts it had before it was raised, the last one first.
    """

    def __init__(self, queue: str, numbers: Iterable[int], before: Iterable[int] = ()) -> None:
        given = list(numbers)
        self.queue = queue
        self.numbers = given
        self.names = (queue, *(name_of(queue, i, n) for i, n in enumerate(given, 1)))
        self.counts = (len(self.names), *before)
        """How many there are, and were."""
        self.keyed = self.counts[-1]
        """Over how many of them keys and ids are spread: the first ones."""
        self.record = " ".join(("/".join(map(str, self.counts)), *map(str, given)))
        """As it is written down."""
        self.copy = COPY + self.record
        """As it is written down beside the other partitions."""

    @classmethod
    def read(cls, queue: str, record: str) -> PartitionMap:
        """The one that was written down. Raises `ServerError` if that is none.

        Raises `InvalidArgument` if it is the copy beside a partition: the queue itself was meant.
        """
        if record.startswith(COPY):
            whole = queue_of(queue)
            raise InvalidArgument(f"{queue!r} is a partition of {whole!r}, and has none itself")
        head, *rest = record.split() if _RECORD.fullmatch(record) else ("0",)
        count, *before = map(int, head.split("/"))
        falls = all(a > b for a, b in pairwise((count, *before, 0)))
        if count != len(rest) + 1 or count > MOST or not falls:
            raise ServerError(f"the record of the partitions of {queue!r} is damaged: {record!r}")
        return cls(queue, map(int, rest), before)

    @classmethod
    def names_of(cls, queue: str, record: str) -> tuple[str, ...]:
        """Those in the record of a queue; none if it has none, or only a copy of another's."""
        return cls.read(queue, record).names if _RECORD.fullmatch(record) else ()

    @classmethod
    def spread(
        cls,
        queue: str,
        count: int,
        *,
        prefix: str = "",
        shards: Iterable[Hashable] = (),
        shard_of: Callable[[int], Hashable] | None = None,
    ) -> PartitionMap:
        """So many, evenly over the shards, each of which serves some slots.

        Without any shard, evenly over the slots: so they may move to a cluster one day.
        """
        known, one = [queue], cls(queue, ())
        return cls(queue, one._numbers(known, count, prefix, shards, shard_of))

    def raised(
        self,
        count: int,
        *,
        prefix: str = "",
        shards: Iterable[Hashable] = (),
        shard_of: Callable[[int], Hashable] | None = None,
    ) -> PartitionMap:
        """These, and so many more that there are `count`, where the fewest are."""
        more = self._numbers(list(self.names), count, prefix, shards, shard_of)
        return PartitionMap(self.queue, [*self.numbers, *more], self.counts)

    def _numbers(
        self,
        known: Sequence[str],
        count: int,
        prefix: str,
        shards: Iterable[Hashable],
        shard_of: Callable[[int], Hashable] | None,
    ) -> list[int]:
        """The numbers of those to come, behind those that are known."""
        if shard_of is None:
            shards, shard_of = range(count), lambda slot: slot * count // SLOTS
        load = Counter[Hashable](dict.fromkeys(shards, 0))
        taken = set[int]()

        def take(name: str, most: float) -> bool:
            slot = hash_slot(f"{{{prefix}{name}}}")
            shard = shard_of(slot)
            if slot in taken or load.get(shard, most + 1) > most:
                return False
            taken.add(slot)
            load[shard] += 1
            return True

        for name in known:
            take(name, MOST)
        numbers = []
        for i in range(len(known), count):
            fewest = min(load.values(), default=0)
            fitting = (n for n in range(_TRIES) if take(name_of(self.queue, i, n), fewest))
            numbers.append(next(fitting, 0))
        return numbers

    def of_key(self, key: str) -> int:
        """Where all messages of this key go."""
        return jump(key, self.keyed)

    def of_id(self, message_id: str) -> int:
        """Where the message of this id is: as the id says, else as for a key."""
        marked = self.marked(message_id)
        return jump(message_id, self.keyed) if marked is None else marked

    def mark(self, position: int) -> str:
        """What the ids end with that are made for messages in this partition.

        An id of the user's own may look like one of the first kind, and did so before there were
        more: it must lead to where it led.
        """
        return f"#{position}" if position < self.keyed else f"#+{position}"

    def marked(self, message_id: str) -> int | None:
        """The partition that an id ends with; None: with none that is known."""
        found = _MARK.search(message_id)
        if found is None:
            return None
        at = int(found[2])
        is_known = self.keyed <= at < len(self.names) if found[1] else at < self.keyed
        return at if is_known else None

    def knows(self, name: str) -> bool:
        """False: a process that knows of more partitions made this id or dead letter's name."""
        found = _MARK.search(name)
        return found is None or int(found[2]) < len(self.names)

    def of_letter(self, name: str) -> int | None:
        """The partition that the name of a dead letter ends with; None: with none that is known."""
        found = _MARK.search(name)
        return int(found[2]) if found and int(found[2]) < len(self.names) else None


def name_of(queue: str, position: int, number: int) -> str:
    """What a partition is called that is not the first."""
    return f"{queue}#{position}.{number}"


def queue_of(name: str) -> str:
    """The queue that this would be a partition of, by its name; "": it looks like none of any.

    Whether it is one is in the record of that queue.
    """
    found = _NAME.fullmatch(name)
    return found[1] if found else ""


def copies_of(queue: str) -> Iterator[str]:
    """Names of partitions that have a copy of the record of a queue, if it has any."""
    return (name_of(queue, at, number) for number in range(NUMBERS) for at in COPIES)


def letter_mark(position: int) -> str:
    """What the names of dead letters in this partition end with."""
    return f"#{position}"


def jump(key: str, buckets: int) -> int:
    """Jump consistent hash: https://arxiv.org/abs/1406.2294."""
    data = key.encode("utf-8", "surrogatepass")
    state = int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
    at, following = -1, 0
    while following < buckets:
        at = following
        state = (state * 2862933555777941757 + 1) & _MASK
        following = int((at + 1) * (1 << 31) / ((state >> 33) + 1))
    return at
