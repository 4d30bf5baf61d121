"""Behaviour of several steps, without I/O: generators over calls.

A flow asks, `answer = yield from ask(call)`: a `Call`, or one of the effects of `base.py`. Each
declares the type of its answer, and mypy holds the flow to it. `Engine.run` and `AsyncEngine.run`
drive the same flow.
"""

from __future__ import annotations

from atomq.flows.acks import Acks, flush, flush_all, repeat
from atomq.flows.base import (
    Answer,
    Filled,
    Flow,
    Get,
    Listen,
    Rest,
    Sleep,
    Together,
    Wait,
    Withdraw,
    ask,
)
from atomq.flows.batching import batches, give_back, in_batches
from atomq.flows.claiming import BEYOND_RETRIES, Begun, Company, Refused
from atomq.flows.consumer import AHEAD, Consumer
from atomq.flows.finding import cancel, run_now, status
from atomq.flows.operating import (
    copied_record,
    hand_back_all,
    leave,
    redrive,
    redrive_all,
    whole_roster,
)
from atomq.flows.pace import Pace
from atomq.flows.publishing import (
    by_size,
    publish,
    publish_again,
    publish_all,
    publish_briefly,
    publishing,
)
from atomq.flows.results import await_result, follow
from atomq.flows.times import Stop, clock, deadline_of, is_set, seconds_left

__all__ = [
    "AHEAD",
    "BEYOND_RETRIES",
    "Acks",
    "Answer",
    "Begun",
    "Company",
    "Consumer",
    "Filled",
    "Flow",
    "Get",
    "Listen",
    "Pace",
    "Refused",
    "Rest",
    "Sleep",
    "Stop",
    "Together",
    "Wait",
    "Withdraw",
    "ask",
    "await_result",
    "batches",
    "by_size",
    "cancel",
    "clock",
    "copied_record",
    "deadline_of",
    "flush",
    "flush_all",
    "follow",
    "give_back",
    "hand_back_all",
    "in_batches",
    "is_set",
    "leave",
    "publish",
    "publish_again",
    "publish_all",
    "publish_briefly",
    "publishing",
    "redrive",
    "redrive_all",
    "repeat",
    "run_now",
    "seconds_left",
    "status",
    "whole_roster",
]
