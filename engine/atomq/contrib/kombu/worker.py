"""What a Celery worker in this process is doing with the messages it was given.

Celery is asked where it was imported, and never imported here: all this must hold for programs
that use Kombu alone.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

from kombu.utils.compat import detect_environment

log = logging.getLogger("atomq.kombu")

CLOSE, TERMINATE = 0x2, 0x3  # states of a worker that stops, as celery.bootsteps counts them
# Imported where they were asked for.
PREFORK = "celery.concurrency.prefork"
SOLO = "celery.concurrency.solo"
THREADS = "celery.concurrency.thread"


def stopping() -> bool:
    """Whether the worker stops, and begins nothing any more."""
    state = sys.modules.get("celery.worker.state")
    if state is None:
        return False
    stop, terminate = state.should_stop, state.should_terminate
    return (stop is not None and stop is not False) or (  # 0, an exit code, is a yes
        terminate is not None and terminate is not False
    )


def terminating() -> bool:
    """Whether the worker stops without waiting for its tasks: a cold shutdown."""
    state = sys.modules.get("celery.worker.state")
    if state is None:
        return False
    terminate = state.should_terminate
    return terminate is not None and terminate is not False


def interrupted(error: BaseException | None) -> bool:
    """Whether this is an error of Celery's own signal handler, which runs wherever a worker stands.

    A cold shutdown raises NotImplementedError there in pools of threads and solo, as they cannot
    end a task (Celery 5.7.0). That says nothing about the message that was being read.
    """
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_globals.get("__name__") == "celery.apps.worker":
                return True
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return False


def ending() -> bool:
    """Whether the worker stops, as it was asked to or by an error of its own."""
    module = sys.modules.get("celery.worker.worker")
    return stopping() or any(
        getattr(getattr(thing, "blueprint", None), "state", None) in (CLOSE, TERMINATE)
        for thing in _alive(getattr(module, "WorkController", None))
    )


def waiting() -> bool:
    """Whether a task that it was given waits for a place in its pool: then no place is idle."""
    state = sys.modules.get("celery.worker.state")
    # Their own `__len__` is two calls of Python each, and this is asked at turns of an event loop.
    return state is not None and len(state.reserved_requests.data) > len(state.active_requests.data)


def takes_tasks(consumer: Any) -> bool:
    """Whether this consumer of Kombu's is the one by which a worker is given its tasks.

    A program may import all of Celery and consume by itself, also in a task. So the heap is asked,
    which takes some milliseconds.
    """
    module = sys.modules.get("celery.worker.consumer.consumer")
    return consumer is not None and any(
        getattr(thing, "task_consumer", None) is consumer
        for thing in _alive(getattr(module, "Consumer", None))
    )


def controller() -> Any:
    """The worker of this process, if it is one. The heap is asked, as above."""
    module = sys.modules.get("celery.worker.worker")
    return next(iter(_alive(getattr(module, "WorkController", None))), None)


def runs_in_delivery(*, in_loop: bool) -> bool:
    """Whether a message is worked on while it is handed over: solo pools, programs that drain."""
    if in_loop:
        return SOLO in sys.modules
    return not is_green()


def acks_between_drains() -> bool:
    """Whether this is the loop of a worker in a green pool: it has no event loop.

    That is the main greenlet. Tasks and remote control, which may drain as well, have others.
    """
    if "celery.worker.loops" not in sys.modules or not is_green():
        return False
    return sys.modules["greenlet"].getcurrent().parent is None


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
    if "celery.worker.request" not in sys.modules:
        return {}
    gc.collect()
    return dict(_requests())


def _requests() -> Iterator[tuple[str, Any]]:
    """The same, and maybe some that are garbage."""
    module = sys.modules.get("celery.worker.request")
    for thing in _alive(getattr(module, "Request", None)):
        if (tag := getattr(thing.message, "delivery_tag", None)) is not None:
            yield tag, thing


def _alive(kind: type | None) -> list[Any]:
    """Every object of this class, or of one below it, that is alive: each refers to its class.

    A list of the whole heap would also refer to the tuples that other threads are making, and
    `tuple(generator)` raises SystemError there (CPython, Objects/tupleobject.c).
    """
    if kind is None:
        return []
    kinds = [kind]
    for each in kinds:
        kinds += each.__subclasses__()
    return [thing for thing in gc.get_referrers(*kinds) if type(thing) in kinds]


def cancelled() -> Iterator[Any]:
    """Messages of tasks that Celery has cancelled and will not settle: the connection was lost.

    The caller has just collected garbage.
    """
    for _, request in _requests():
        message, is_cancelled = request.message, getattr(request, "_already_cancelled", False)
        delivery = getattr(message, "delivery", None)
        if is_cancelled and delivery and not (delivery.settled or message.acknowledged):
            yield message


def killed(message: Any) -> bool:
    """Whether a cold shutdown killed a task, which Celery takes for an end of its own, and acks.

    In a green pool that looks like success. A solo pool can kill nothing and says so by an error,
    in the midst of the task that runs: of that it fails.
    """
    if message.failure.startswith("NotImplementedError") and "kill_job" in message.failure:
        return True
    request = requests().get(message.delivery_tag) if is_green() else None
    return bool(getattr(request, "_already_cancelled", False))


def revoke(task_id: str, signal: str) -> None:
    """Have the worker of this process revoke a task that it holds, as its remote control does.

    One that has not begun does not begin. One that runs is ended by this signal, "": it goes on.
    For any thread: the worker's own does it, where it has an event loop. Never raises.
    """
    if (found := controller()) is None:  # a program that consumes by itself
        return
    hub = getattr(found, "hub", None)
    if hub is not None:
        hub.call_soon(_revoke, found, task_id, signal)
    else:
        _revoke(found, task_id, signal)


def _revoke(found: Any, task_id: str, signal: str) -> None:
    stock = sys.modules["celery.concurrency.base"].BasePool.terminate_job
    ends = getattr(found.pool.terminate_job, "__func__", None)
    if signal and ends is stock:  # as threads and solo have it
        log.warning("task %s was cancelled, and goes on if it runs: no pool ends threads", task_id)
        signal = ""
    ask = {"terminate": True, "signal": signal} if signal else {}
    state = SimpleNamespace(app=found.app, hostname=found.hostname, consumer=found.consumer)
    try:
        sys.modules["celery.worker.control"].revoke(state, [task_id], **ask)
    except Exception:  # that of a result backend, or of what listens for revoked tasks
        log.exception("task %s was cancelled, and could not be revoked", task_id)


@cache  # as Kombu keeps it
def is_green() -> bool:
    """Whether gevent or eventlet patches this process: what waits is a greenlet."""
    return bool(detect_environment() != "default")


def in_gevent_hub() -> bool:
    """Whether this is gevent's own loop, where nothing may wait: it runs signal handlers there."""
    gevent = sys.modules.get("gevent")
    return gevent is not None and gevent.getcurrent() is gevent.get_hub()
