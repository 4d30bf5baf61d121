"""Tasks with an eta that the server found due: they start now, and still know when they were to.

Celery would put them into a timer of its own, by the worker's clock, and hold them meanwhile. It
asks its request for the eta; the task is shown the one in the message.
"""

from __future__ import annotations

from typing import Any

from atomq.contrib.kombu.qos import Message


def install() -> None:
    """Be asked before a worker looks at the eta. Doing it again changes nothing."""
    from celery.signals import task_received

    task_received.connect(_start_now, weak=False, dispatch_uid="atomq.due")


def _start_now(request: Any = None, **_: Any) -> None:
    message = getattr(request, "message", None)
    if isinstance(message, Message) and message.channel.settings.delay_in_server != "never":
        request._eta = None
