"""atomq: an atomic queue engine on Redis and Valkey.

from atomq import Queue

queue = Queue("emails", "redis://localhost:6379/0")
queue.put({"to": "ann"})
for message in queue.consume():
    with message:
        send(message.body)
"""

from __future__ import annotations

from importlib import metadata

from atomq.aio import AsyncEngine
from atomq.calls import Counts, Peeked, QueueState, Verdict
from atomq.client import Engine
from atomq.errors import (
    AtomqError,
    EmbeddedServerError,
    InvalidAddress,
    InvalidArgument,
    InvalidMessage,
    InvalidOptions,
    LeaseLost,
    MessageFailed,
    PermissionDenied,
    ResultTimeout,
    ScriptFault,
    ScriptsNotLoaded,
    ServerError,
    ServerFull,
    ServerTooOld,
    ServerUnavailable,
    WrongType,
)
from atomq.message import BYTES, JSON, Serializer
from atomq.options import Options
from atomq.queue import (
    AsyncMessage,
    AsyncQueue,
    AsyncReceiver,
    AsyncSent,
    Item,
    Message,
    Queue,
    Receiver,
    Sent,
)

__version__ = metadata.version("atomq")

__all__ = [
    "BYTES",
    "JSON",
    "AsyncEngine",
    "AsyncMessage",
    "AsyncQueue",
    "AsyncReceiver",
    "AsyncSent",
    "AtomqError",
    "Counts",
    "EmbeddedServerError",
    "Engine",
    "InvalidAddress",
    "InvalidArgument",
    "InvalidMessage",
    "InvalidOptions",
    "Item",
    "LeaseLost",
    "Message",
    "MessageFailed",
    "Options",
    "Peeked",
    "PermissionDenied",
    "Queue",
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
    "Verdict",
    "WrongType",
    "__version__",
]
