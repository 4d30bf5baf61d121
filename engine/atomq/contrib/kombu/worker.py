"""What a Celery worker in this process is doing with the messages it was given.

Celery is asked where it was imported, and never imported here: all this must hold for those who use
Kombu alone.
"""

from __future__ import annotations

import gc
import sys
from typing import Any

from kombu.utils.compat import detect_environment


def stopping() -> bool:
    """Whether it was told to stop, and begins nothing any more."""
    return _told("should_stop") or terminating()


def terminating() -> bool:
    """Whether it was told to stop without waiting for its tasks: a cold shutdown."""
    return _told("should_terminate")


def _told(how: str) -> bool:
    state = sys.modules.get("celery.worker.state")
    if state is None:
        return False
    code = getattr(state, how)
    return code is not None and code is not False  # 0, an exit code, is a yes


def running() -> set[str]:
    """Delivery tags of the tasks that it has started."""
    state = sys.modules.get("celery.worker.state")
    if state is None:
        return set()
    return {
        tag
        for request in tuple(state.active_requests)
        if (tag := getattr(request.message, "delivery_tag", None)) is not None
    }


def requests() -> dict[str, Any]:
    """Every request that is alive, by delivery tag: running, in a pool's queue, or killed just now.

    Celery strikes requests from its own lists when it loses a connection or stops, also those that
    its pool will run all the same. So the heap is asked; that takes some milliseconds.
    """
    module = sys.modules.get("celery.worker.request")
    if module is None:
        return {}
    gc.collect()
    return {
        tag: thing
        for thing in gc.get_objects()
        if issubclass(type(thing), module.Request)
        and (tag := getattr(thing.message, "delivery_tag", None)) is not None
    }


def killed(tag: str) -> bool:
    """Whether a task was killed in a green pool: to Celery that looks like success, and it acks."""
    if not terminating() or detect_environment() == "default":
        return False
    return bool(getattr(requests().get(tag), "_already_cancelled", False))


def in_gevent_hub() -> bool:
    """Whether this is gevent's own loop, where nothing may wait: it runs signal handlers there."""
    gevent = sys.modules.get("gevent")
    return gevent is not None and gevent.getcurrent() is gevent.get_hub()
