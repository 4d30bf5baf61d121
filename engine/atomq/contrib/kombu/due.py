"""Tasks with an eta that the server found due: they start now, and still know when they were to.

Celery would put them into a timer of its own, by the worker's clock, and hold them meanwhile. It
asks its request for the eta; the task is shown the one in the message.
"""

from __future__ import annotations

import sys
from typing import Any

from atomq.contrib.kombu.broker import eta_ms
from atomq.contrib.kombu.qos import Message


def install() -> None:
    """Be asked before a worker looks at an eta. Doing it again changes nothing.

    Not before there is one: Celery asks for every task, which costs as much as acking it.
    """
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        signals.task_received.connect(_start_now, weak=False, dispatch_uid="atomq.due")


def _start_now(request: Any = None, **_: Any) -> None:
    message = getattr(request, "message", None)
    if not isinstance(message, Message) or message.channel.settings.delay_in_server == "never":
        return
    # Celery keeps the rest itself: broadcasts and what is not acked come without a lease, and an
    # eta in the body, as in Celery's first protocol, or one that we cannot read, was not seen.
    if message.delivery is not None and eta_ms(message.headers.get("eta")) is not None:
        request._eta = None
