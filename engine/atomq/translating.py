"""What redis-py raises, and what it means: the one place where its exceptions become ours."""

from __future__ import annotations

import ssl
from typing import Any

from redis import exceptions as server

from atomq.calls import Call
from atomq.errors import (
    AtomqError,
    InvalidArgument,
    InvalidMessage,
    PermissionDenied,
    QueueInUse,
    ScriptFault,
    ScriptsNotLoaded,
    ServerError,
    ServerFull,
    ServerTooOld,
    ServerUnavailable,
    UnknownPartition,
    WrongType,
)
from atomq.keys import RegisterKeys


class Unsent(server.ConnectionError):
    """No connection could be made, so that nothing was sent; `cause` is what redis-py raised."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(str(cause))


# redis-py's own, and what its packing may raise.
SERVER_ERRORS = (server.RedisError, OSError, UnicodeEncodeError)
# What passes by itself: the server loads, fails over, or is busy with another script.
_PASSING = (
    server.BusyLoadingError,
    server.ReadOnlyError,
    server.MasterDownError,
    server.ClusterDownError,
    server.TryAgainError,
)
_PASSING_CODES = frozenset(
    {"UNBLOCKED", "BUSY", "LOADING", "MASTERDOWN", "MISCONF", "READONLY", "NOREPLICAS"}
)
REFUSED = (server.AuthenticationError, server.AuthenticationWrongNumberOfArgsError)
AWAY = (server.ConnectionError, server.TimeoutError, OSError)
_CLUSTER_URL = "redis+cluster://host:port, in Celery atomq-cluster://host:port"
_ONE_NODE = (server.MovedError, server.AskError, server.ClusterCrossSlotError)


def connecting(error: Exception) -> Exception:
    """What to raise for an error of making a connection: `Unsent` where trying again may help."""
    if not is_away(error):
        return error
    return error if _caused_by(error, ssl.SSLCertVerificationError) else Unsent(error)


def is_away(error: Exception) -> bool:
    """Whether it says that the server cannot be reached, or gave no answer."""
    return isinstance(error, AWAY) and not isinstance(error, REFUSED)


def _caused_by(error: BaseException | None, kind: type[Exception]) -> bool:
    seen = 0
    while error is not None and not isinstance(error, kind) and seen < 9:
        error, seen = error.__cause__ or error.__context__, seen + 1
    return isinstance(error, kind)


def bare(error: Exception) -> Exception:
    """What redis-py raised."""
    return error.cause if isinstance(error, Unsent) else error


def passes(error: Exception | str) -> bool:
    """Whether it passes by itself: the server did nothing, and soon it can."""
    return isinstance(error, _PASSING) or str(error).partition(" ")[0] in _PASSING_CODES


# Codes our scripts answer with, and what they are in Python.
_CODES: dict[str, type[AtomqError]] = {
    "WRONGTYPE": WrongType,
    "INUSE": QueueInUse,
    "BADARG": InvalidArgument,
    "OOM": ServerFull,
    "NOPERM": PermissionDenied,
}


# What servers say inside a script, where NOPERM does not stand in front: 7 and later, 6.2.
_NO_PERMISSION = ("ACL failure in script", "The user executing the script can't")


_IN_THE_REGISTER = {"roster": "reading", "register": "writing", "probe": "trying the rights in"}


def named_call(call: Call[Any]) -> str:
    """A call in words."""
    if isinstance(call.queue, RegisterKeys):
        return f"{_IN_THE_REGISTER[call.script.name]} the register"
    return f"{call.script.name} of {call.queue.name!r}"


def translated(error: Exception, call: Call[Any] | None = None) -> AtomqError:
    """The exception of ours that says what this one of redis-py means."""
    text = str(error)
    where = f" ({named_call(call)})" if call is not None else ""
    if call is not None:
        text = call.script.locate(text)
    if isinstance(error, server.DataError | UnicodeEncodeError):
        return InvalidArgument(f"an argument cannot be sent: {text}{where}")
    if isinstance(error, server.OutOfMemoryError) or "OOM command not allowed" in text:
        return ServerFull(
            f"the server is at maxmemory, nothing was written: drain queues or raise it{where}"
        )
    if isinstance(error, server.NoPermissionError) or any(says in text for says in _NO_PERMISSION):
        return PermissionDenied(f"{text}{where}")
    if isinstance(error, server.NoScriptError):
        return ScriptsNotLoaded(f"the server forgets its scripts as fast as they are loaded{where}")
    if isinstance(error, REFUSED):
        # A connection begins with HELLO: what the server says of that leads users astray.
        text = "it wants one, and none was given" if _wants_one(text) else text
        return PermissionDenied(f"the server refused user or password: {text}")
    if isinstance(error, AWAY) or passes(error):
        return ServerUnavailable(f"{text}{where}")
    code, _, detail = text.partition(" ")
    if code == "WRONGTYPE":
        ours = "is not of the type" in detail  # of a script; the server does not say which key
        which = f"the key {detail}" if ours else "a key holds a value of another type"
        detail = f"{which}: another program uses it, rename it there or delete it"
    if code == "INUSE" and "unacked" in detail:
        detail += ": stop its consumers, or delete(force=True) and their acks will find nothing"
    if code in _CODES:
        return _CODES[code](f"{detail}{where}")
    if isinstance(error, _ONE_NODE):
        return ServerError(f"this server is one node of a cluster: write {_CLUSTER_URL}")
    return _unforeseen(text, where, call)


def unavailable(text: str, *, unsent: bool) -> ServerUnavailable:
    """Made here: an exception that the frame which raises it keeps keeps what is dropped."""
    error = ServerUnavailable(text)
    error.unsent = unsent
    return error


def unsent(error: Exception, call: Call[Any]) -> AtomqError:
    """The same for what kept a call from being sent."""
    found = translated(error, call)
    if isinstance(found, ServerUnavailable):
        found.unsent = True
    return found


def _unknown_partition(call: Call[Any]) -> UnknownPartition:
    name = call.queue.name
    error = UnknownPartition(f"{name!r} is no partition of its queue, or not any more")
    error.partition = name
    return error


_NO_DATABASE = ("SELECT is not allowed", "DB index is out of range")


def has_no_database(error: Exception) -> bool:
    """Whether it says that there is no database of this number."""
    return any(says in str(error) for says in _NO_DATABASE)


def _wants_one(text: str) -> bool:
    return "HELLO must be called" in text or "Authentication required" in text


def _unforeseen(text: str, where: str, call: Call[Any] | None) -> AtomqError:
    if text.startswith("NOPART ") and call is not None:
        return _unknown_partition(call)
    if "unknown command" in text.lower() or "Unknown Redis command" in text:
        return ServerTooOld(f"{text}{where}: atomq needs Redis 6.2 or Valkey 7.2")
    if "SELECT is not allowed" in text:
        return ServerError(
            f"this server is one node of a cluster, which has no such database ({text}): write "
            f"{_CLUSTER_URL}, where the number is a namespace"
        )
    if any(says in text for says in _NO_DATABASE):
        return ServerError(
            f"the server has no such database ({text}): its option databases says how many there "
            "are, in a cluster cluster-databases"
        )
    if "cluster support disabled" in text:
        return ServerError("this server is no cluster: write redis:// instead of redis+cluster://")
    if "invalid bulk length" in text:
        return InvalidMessage(f"the server takes no value so large (proto-max-bulk-len){where}")
    if "lua/" in text or "user_script" in text:
        return ScriptFault(f"{text}{where}")
    return ServerError(f"{text}{where}")
