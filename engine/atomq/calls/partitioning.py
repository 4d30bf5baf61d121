"""The record of a queue's partitions."""

from __future__ import annotations

from atomq import scripts
from atomq.calls.base import Call, as_text
from atomq.calls.registering import IN_USE
from atomq.keys import QueueKeys

_PARTITIONS = scripts.declared("partitions", keys=("meta",), argv=("map", "before", "copy"))


def partitions(
    keys: QueueKeys, record: str = "", before: str = "", *, copy: bool = False
) -> Call[str]:
    """The record of a queue's partitions as it is now, "" if there is none.

    Writes `record` if that is the one of `before`, or whatever is there if this is a `copy`.
    """
    noted = IN_USE if record and not copy else 0
    args = [record, before, int(copy)]
    return Call(_PARTITIONS, keys, (keys.meta,), args, lambda reply, _: as_text(reply), noted=noted)
