"""Every exception atomq raises. Catch `AtomqError` to catch them all.

Where an exception of the standard library says the same thing (`ValueError`,
`ConnectionError`, `TimeoutError`), ours is also one of those. Each has a section in
docs/reference/errors.md, under its own name.
"""

from __future__ import annotations


class AtomqError(Exception):
    """Base of everything raised on purpose by atomq.

    See docs/reference/errors.md#atomqerror.
    """


# ── what the caller passed ────────────────────────────────────────────────────────────────────


class InvalidArgument(AtomqError, ValueError):
    """An argument is of the wrong type or outside its range; nothing was sent to the server.

    See docs/reference/errors.md#invalidargument.
    """


class InvalidOptions(InvalidArgument):
    """One or more options are wrong. The message lists every fault, not just the first.

    See docs/reference/errors.md#invalidoptions.
    """

    def __init__(self, faults: list[str]) -> None:
        self.faults = list(faults)
        super().__init__("; ".join(self.faults))


class InvalidAddress(InvalidArgument):
    """A server URL cannot be understood. The message says which part and gives a working form.

    See docs/reference/errors.md#invalidaddress.
    """


class InvalidMessage(InvalidArgument):
    """A body cannot be serialized, or does not meet the queue's JSON Schema.

    See docs/reference/errors.md#invalidmessage.
    """


# ── the server ────────────────────────────────────────────────────────────────────────────────


class ServerError(AtomqError):
    """The server answered with an error that has no class of its own.

    See docs/reference/errors.md#servererror.
    """

    ids: list[str] | tuple[str, ...] = ()
    """Of `put_many`: ids of the messages that calls before this one put, in the order given."""

    def __str__(self) -> str:
        before = f"; {len(self.ids):,} of the messages were put before" if self.ids else ""
        return f"{super().__str__()}{before}"


class ServerUnavailable(ServerError, ConnectionError):
    """The server cannot be reached, or cannot serve now (loading, read-only, failing over).

    Raised after the retries of the call are used up; its last try may have been carried out without
    an answer. Every verb is safe to call again, but a put of a message without an `id` of its own
    may put it twice: the call within is known to the server, the next one is another.

    See docs/reference/errors.md#serverunavailable.
    """

    unsent = False
    """True: the server surely did not carry out the call."""


class ServerFull(ServerError):
    """The server is at `maxmemory`. The call wrote nothing; consumers go on and will make room.

    See docs/reference/errors.md#serverfull.
    """


class ServerTooOld(ServerError):
    """The server lacks commands atomq needs (Redis >= 6.2 or Valkey >= 7.2).

    See docs/reference/errors.md#servertooold.
    """


class PermissionDenied(ServerError):
    """The ACL user may not run a command or touch a key that the verb needs. Nothing was moved.

    See docs/reference/errors.md#permissiondenied.
    """


class ScriptsNotLoaded(ServerError):
    """The server does not know the script and this user may not load it.

    Run `atomq scripts load --url ...` as a user with `+script|load`, at deploy time.

    See docs/reference/errors.md#scriptsnotloaded.
    """


class WrongType(ServerError):
    """A key that belongs to a queue holds another Redis type. Nothing was moved.

    See docs/reference/errors.md#wrongtype.
    """


class ScriptFault(ServerError):
    """A script failed in a way it should not. The message names file and line under `lua/`.

    See docs/reference/errors.md#scriptfault.
    """


class UnknownPartition(ServerError):
    """The record of the queue does not name this partition any more. Nothing was put.

    Raised where one of `partitions()` is used by itself that a process has from before the queue,
    or the whole server, was deleted: ask `partitions()` again. The queue itself does that and puts
    the message where the record says. A `Queue` made of a partition's name is not checked.

    See docs/reference/errors.md#unknownpartition.
    """

    partition = ""
    """Its name."""


class DurabilityUnavailable(ServerError):
    """The server cannot confirm what `durability` asks for. Nothing was published.

    See docs/reference/errors.md#durabilityunavailable.
    """


class NotDurable(AtomqError):
    """The message is in the queue, and what `durability` asks for was not confirmed in time.

    Consumers are handed it, and it may become durable yet. Put again under an `id` of your own it
    is not doubled, and the answer is about the first one. Kombu and Celery do not try it again.

    See docs/reference/errors.md#notdurable.
    """

    def __init__(self, text: str, confirmed: int, asked: int) -> None:
        super().__init__(text)
        self.confirmed = confirmed
        """How many replicas have it, or 0 for the server's disk."""
        self.asked = asked
        """How many were to have it; 1 for the server's disk."""
        self.ids: list[str] = []
        """Ids of the messages that are in the queue, in the order in which they were given."""

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.confirmed, self.asked), {"ids": self.ids}


class MessageCancelled(AtomqError):
    """The message was cancelled while it was worked on: see `Queue.cancel`.

    A handler in a thread that finds `message.cancelled` raises it, to say that the work is not
    done. In asyncio the handler's task is cancelled.

    See docs/reference/errors.md#messagecancelled.
    """


class QueueInUse(AtomqError):
    """Consumers hold messages of the queue that was to be deleted. Nothing was changed.

    See docs/reference/errors.md#queueinuse.
    """


# ── leases and results ────────────────────────────────────────────────────────────────────────


class LeaseLost(AtomqError):
    """The receipt is not live any more: the message was handed to another consumer, or is gone.

    See docs/reference/errors.md#leaselost.
    """


class ResultTimeout(AtomqError, TimeoutError):
    """No result arrived within the time given to `wait`.

    See docs/reference/errors.md#resulttimeout.
    """


class MessageFailed(AtomqError):
    """The message whose result was awaited went to dead letters. `reason` says why.

    See docs/reference/errors.md#messagefailed.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


# ── the embedded server ───────────────────────────────────────────────────────────────────────


class EmbeddedServerError(AtomqError):
    """The embedded server could not be found, started or reached. The message says what to do.

    See docs/reference/errors.md#embeddedservererror.
    """
