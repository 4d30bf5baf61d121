"""Verbs: pure functions from arguments to one script call.

A `Call` says which script, keys and arguments to send and how to read the answer. Nothing here
talks to a server; `Engine.run` and `AsyncEngine.run` do. Every call may be sent again after a lost
reply: `again()` is what to send then.

All verbs raise `InvalidArgument` for what is out of range, before anything is sent. Times are
milliseconds here, as the scripts have them.
"""

from __future__ import annotations

from atomq.calls.base import (
    FEW,
    HOLDS,
    LONGEST_NAME,
    MAX_BYTES,
    MOST,
    NO_CAP,
    SOLE,
    Call,
    Part,
    Verdict,
    check_limit,
    check_names,
    check_reason,
    check_size,
    renewal_ms,
)
from atomq.calls.claiming import Claimed, Claims, DeadLettered, claim, look
from atomq.calls.finding import (
    MessageStatus,
    Progress,
    find,
    progress,
    revoke,
    run_now,
)
from atomq.calls.looking import Peeked, QueueState, inspect, peek, probe
from atomq.calls.numbers import QueueNumbers, counters
from atomq.calls.operating import Counts, Redriven, cancel, pause, purge, redrive
from atomq.calls.overview import QueueOverview, overview
from atomq.calls.partitioning import partitions
from atomq.calls.publishing import Outgoing, Published, plain, publish
from atomq.calls.registering import GONE, IN_USE, Process, Roster, register, roster
from atomq.calls.results import failed, tell
from atomq.calls.settling import (
    LONGEST_LEASE,
    Rejection,
    ack,
    complete,
    dead_letter,
    extend,
    reject,
    release,
)
from atomq.calls.transport import (
    LONGEST_LIFE,
    Attended,
    Foreign,
    HandedBack,
    attend,
    bindings,
    hand_back,
    put_back,
    reply,
    resign,
    restore_foreign,
    touch,
)

__all__ = [
    "FEW",
    "GONE",
    "HOLDS",
    "IN_USE",
    "LONGEST_LEASE",
    "LONGEST_LIFE",
    "LONGEST_NAME",
    "MAX_BYTES",
    "MOST",
    "NO_CAP",
    "SOLE",
    "Attended",
    "Call",
    "Claimed",
    "Claims",
    "Counts",
    "DeadLettered",
    "Foreign",
    "HandedBack",
    "MessageStatus",
    "Outgoing",
    "Part",
    "Peeked",
    "Process",
    "Progress",
    "Published",
    "QueueNumbers",
    "QueueOverview",
    "QueueState",
    "Redriven",
    "Rejection",
    "Roster",
    "Verdict",
    "ack",
    "attend",
    "bindings",
    "cancel",
    "check_limit",
    "check_names",
    "check_reason",
    "check_size",
    "claim",
    "complete",
    "counters",
    "dead_letter",
    "extend",
    "failed",
    "find",
    "hand_back",
    "inspect",
    "look",
    "overview",
    "partitions",
    "pause",
    "peek",
    "plain",
    "probe",
    "progress",
    "publish",
    "purge",
    "put_back",
    "redrive",
    "register",
    "reject",
    "release",
    "renewal_ms",
    "reply",
    "resign",
    "restore_foreign",
    "revoke",
    "roster",
    "run_now",
    "tell",
    "touch",
]
