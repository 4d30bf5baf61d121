"""The record of a queue's partitions."""

from __future__ import annotations

from atomq import scripts
from atomq.calls.base import Call, as_text
from atomq.calls.registering import IN_USE
from atomq.keys import QueueKeys

_PARTITIONS = scripts.declared("partitions", keys=("meta",), argv=("map", "before"))


def partitions(
    keys: QueueKeys, record: str = "", before: str = "", *, copy: bool = False
) -> Call[str]:
    """The record of a queue's partitions as it is now, "" if there is none.

    Writes `record` if that is the one of `before`. A `copy` is no reason to enter the partition
    into the register.
    """
    noted = IN_USE if record and not copy else 0
    args = [record, before]
    return Call(_PARTITIONS, keys, (keys.meta,), args, lambda reply, _: as_text(reply), noted=noted)
