"""Over which partitions a queue is spread, and which message goes where. Without I/O.

Partition 0 has the name of the queue. The others are called `<queue>#<position>.<number>`, where
the number is the first one whose slot is on the shard that has the fewest of them: names alone
would lie unevenly. So the numbers are written down, once, in the record of the queue.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from hashlib import blake2b

from atomq.errors import ServerError
from atomq.keys import SLOTS, hash_slot

MOST = 256
COPY = "copy "
_TRIES = 10_000  # names that are tried for one partition
_MASK = (1 << 64) - 1
_RECORD = re.compile(r"[0-9]{1,3}( [0-9]{1,9})*", re.ASCII)
_MARK = re.compile(r"#([0-9]{1,3})\Z", re.ASCII)


class PartitionMap:
    """The partitions of a queue. `numbers` belong to all but the first."""

    def __init__(self, queue: str, numbers: Iterable[int]) -> None:
        given = list(numbers)
        self.names = (queue, *(name_of(queue, i, n) for i, n in enumerate(given, 1)))
        self.record = " ".join(map(str, (len(self.names), *given)))
        """As it is written down."""
        self.copy = COPY + self.record
        """As it is written down beside the other partitions."""

    @classmethod
    def read(cls, queue: str, record: str) -> PartitionMap:
        """The one that was written down. Raises `ServerError` if that is none."""
        count, *numbers = map(int, record.split()) if _RECORD.fullmatch(record) else (0,)
        if count != len(numbers) + 1 or count > MOST:
            raise ServerError(f"the record of the partitions of {queue!r} is damaged: {record!r}")
        return cls(queue, numbers)

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

        take(queue, MOST)
        numbers = []
        for i in range(1, count):
            fewest = min(load.values(), default=0)
            fitting = (n for n in range(_TRIES) if take(name_of(queue, i, n), fewest))
            numbers.append(next(fitting, 0))
        return cls(queue, numbers)

    def of_key(self, key: str) -> int:
        """Where all messages of this key go."""
        return jump(key, len(self.names))

    def of_id(self, message_id: str) -> int:
        """Where the message of this id is: as the id says, else as for a key."""
        marked = self.marked(message_id)
        return jump(message_id, len(self.names)) if marked is None else marked

    def marked(self, name: str) -> int | None:
        """The partition that an id, or the name of a dead letter, ends with; None: it has none."""
        found = _MARK.search(name)
        return int(found[1]) if found and int(found[1]) < len(self.names) else None


def name_of(queue: str, position: int, number: int) -> str:
    """What a partition is called that is not the first."""
    return f"{queue}#{position}.{number}"


def mark(position: int) -> str:
    """What the ids of messages in this partition end with."""
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
