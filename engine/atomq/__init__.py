"""atomq: an atomic queue engine on Redis and Valkey.

from atomq import Queue

queue = Queue("emails", "redis://localhost:6379/0")
queue.put({"to": "ann"})
for message in queue.consume():
    with message:
        send(message.body)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomq.aio import AsyncEngine
    from atomq.calls import (
        Counts,
        MessageStatus,
        Peeked,
        Process,
        Progress,
        QueueOverview,
        QueueState,
        Verdict,
    )
    from atomq.client import Engine
    from atomq.errors import (
        AtomqError,
        DurabilityUnavailable,
        EmbeddedServerError,
        InvalidAddress,
        InvalidArgument,
        InvalidMessage,
        InvalidOptions,
        LeaseLost,
        MessageCancelled,
        MessageFailed,
        NotDurable,
        PermissionDenied,
        QueueInUse,
        ResultTimeout,
        ScriptFault,
        ScriptsNotLoaded,
        ServerError,
        ServerFull,
        ServerTooOld,
        ServerUnavailable,
        UnknownPartition,
        WrongType,
    )
    from atomq.options import Options
    from atomq.overview import Overview
    from atomq.partitioned import PartitionedQueue
    from atomq.partitioned_aio import AsyncPartitionedQueue
    from atomq.queue import Message, Queue, Receiver, Sent
    from atomq.queue_aio import AsyncMessage, AsyncQueue, AsyncReceiver, AsyncSent
    from atomq.queue_base import Item
    from atomq.serializers import BYTES, JSON, Serializer

__version__: str

# Where each name is. Imported when it is asked for: the command line starts in half the time, and a
# sync program never imports asyncio's side.
_HOMES = {
    "atomq.aio": "AsyncEngine",
    "atomq.calls": "Counts MessageStatus Peeked Process Progress QueueOverview QueueState Verdict",
    "atomq.client": "Engine",
    "atomq.errors": (
        "AtomqError DurabilityUnavailable EmbeddedServerError InvalidAddress InvalidArgument "
        "InvalidMessage InvalidOptions LeaseLost MessageCancelled MessageFailed NotDurable "
        "PermissionDenied QueueInUse ResultTimeout ScriptFault ScriptsNotLoaded ServerError "
        "ServerFull ServerTooOld ServerUnavailable UnknownPartition WrongType"
    ),
    "atomq.serializers": "BYTES JSON Serializer",
    "atomq.options": "Options",
    "atomq.overview": "Overview",
    "atomq.partitioned": "PartitionedQueue",
    "atomq.partitioned_aio": "AsyncPartitionedQueue",
    "atomq.queue": "Message Queue Receiver Sent",
    "atomq.queue_aio": "AsyncMessage AsyncQueue AsyncReceiver AsyncSent",
    "atomq.queue_base": "Item",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    from importlib import import_module, metadata

    if name == "__version__":
        value: Any = metadata.version("atomq")
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "BYTES",
    "JSON",
    "AsyncEngine",
    "AsyncMessage",
    "AsyncPartitionedQueue",
    "AsyncQueue",
    "AsyncReceiver",
    "AsyncSent",
    "AtomqError",
    "Counts",
    "DurabilityUnavailable",
    "EmbeddedServerError",
    "Engine",
    "InvalidAddress",
    "InvalidArgument",
    "InvalidMessage",
    "InvalidOptions",
    "Item",
    "LeaseLost",
    "Message",
    "MessageCancelled",
    "MessageFailed",
    "MessageStatus",
    "NotDurable",
    "Options",
    "Overview",
    "PartitionedQueue",
    "Peeked",
    "PermissionDenied",
    "Process",
    "Progress",
    "Queue",
    "QueueInUse",
    "QueueOverview",
    "QueueState",
    "Receiver",
    "ResultTimeout",
    "ScriptFault",
    "ScriptsNotLoaded",
    "Sent",
    "Serializer",
    "ServerError",
    "ServerFull",
    "ServerTooOld",
    "ServerUnavailable",
    "UnknownPartition",
    "Verdict",
    "WrongType",
    "__version__",
]
