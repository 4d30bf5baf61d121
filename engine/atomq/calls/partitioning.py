"""The record of a queue's partitions."""

from __future__ import annotations

from atomq import scripts
from atomq.calls.base import Call, as_text
from atomq.calls.registering import IN_USE
from atomq.keys import QueueKeys

_PARTITIONS = scripts.declared("partitions", keys=("meta",), argv=("map", "copy"))


def partitions(keys: QueueKeys, record: str = "", *, copy: bool = False) -> Call[str]:
    """The record of a queue's partitions as it is now, "" if there is none.

    Writes `record` if there is none yet, or in place of what is there if this is a `copy`.
    """
    noted = IN_USE if record and not copy else 0
    args = [record, int(copy)]
    return Call(_PARTITIONS, keys, (keys.meta,), args, lambda reply, _: as_text(reply), noted=noted)
