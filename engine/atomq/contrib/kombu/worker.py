"""What a Celery worker in this process is doing with the messages it was given.

Celery is asked where it was imported, and never imported here: all this must hold for programs
that use Kombu alone.
"""

from __future__ import annotations

import _thread
import gc
import logging
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from functools import cache, wraps
from types import SimpleNamespace
from typing import Any

from kombu.utils import functional
from kombu.utils.compat import detect_environment

log = logging.getLogger("atomq.kombu")

CLOSE, TERMINATE = 0x2, 0x3  # states of a worker that stops, as celery.bootsteps counts them
# Imported where they were asked for.
PREFORK = "celery.concurrency.prefork"
SOLO = "celery.concurrency.solo"
THREADS = "celery.concurrency.thread"
BEGINS_IN = 0.01  # seconds in which a thread or greenlet that was started has begun its task


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


def ending() -> bool:
    """Whether the worker stops, as it was asked to or by an error of its own."""
    module = sys.modules.get("celery.worker.worker")
    return stopping() or any(
        getattr(getattr(thing, "blueprint", None), "state", None) in (CLOSE, TERMINATE)
        for thing in _alive(getattr(module, "WorkController", None))
    )


def begin_no_more() -> None:
    """Let the pool begin nothing any more of what it was given, where it would.

    Celery strikes out what waits for a place in prefork. A thread takes the next task when it has
    done one, until the pool itself is stopped, which is later.
    """
    module = sys.modules.get(THREADS)
    for pool in _alive(getattr(module, "TaskPool", None)):
        waiting = getattr(getattr(pool.executor, "_work_queue", None), "queue", ())
        for item in tuple(waiting):
            if item is not None:
                item.future.cancel()
    time.sleep(BEGINS_IN)


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
    return not _is_green()


def acks_between_drains() -> bool:
    """Whether this is the loop of a worker in a green pool: it has no event loop.

    That is the main greenlet. Tasks and remote control, which may drain as well, have others.
    """
    if "celery.worker.loops" not in sys.modules or not _is_green():
        return False
    return sys.modules["greenlet"].getcurrent().parent is None


def let_greenlets_run() -> None:
    """Have Kombu sleep, between two tries to connect, as everything else here sleeps.

    While gevent patches, it looks at an object of Celery's that loads Kombu, which takes hold of
    the `sleep` that stops all greenlets: tasks, and the renewal of their leases.
    """
    functional.sleep = time.sleep


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
    """Every object of this class that is alive."""
    if kind is None:
        return []
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]


def cancelled() -> Iterator[Any]:
    """Messages of tasks that Celery has cancelled and will not settle: the connection was lost.

    The caller has just collected garbage.
    """
    for _, request in _requests():
        message, is_cancelled = request.message, getattr(request, "_already_cancelled", False)
        delivery = getattr(message, "delivery", None)
        if is_cancelled and delivery and not (delivery.settled or message.acknowledged):
            yield message


def when_stopping(do: Callable[[], None]) -> None:
    """Have this done when the worker has to stop, also while a task has its only thread.

    Celery sends its signal in a handler, in a green pool in the loop itself, where nothing may
    wait; and sets its flag only afterwards.
    """
    from celery.signals import worker_shutting_down

    def soon() -> None:
        until = time.monotonic() + 1.0
        while not stopping():
            if time.monotonic() > until:  # a soft shutdown: its tasks have time
                return
            time.sleep(BEGINS_IN / 10)
        do()

    worker_shutting_down.connect(
        lambda **_: _thread.start_new_thread(soon, ()), weak=False, dispatch_uid="atomq.stop"
    )


def killed(message: Any) -> bool:
    """Whether a cold shutdown killed a task, which Celery takes for an end of its own, and acks.

    In a green pool that looks like success. A solo pool can kill nothing and says so by an error,
    in the midst of the task that runs: of that it fails.
    """
    if message.failure.startswith("NotImplementedError") and "kill_job" in message.failure:
        return True
    request = requests().get(message.delivery_tag) if _is_green() else None
    return bool(getattr(request, "_already_cancelled", False))


_doubtful: deque[tuple[float, Any]] = deque()  # since when, and the message of the task
_MARK = "__atomq__"


def note_failures() -> None:
    """Have a message note what its task failed of: Celery rejects it later, without a word.

    Later, and in the worker's own thread: its signal of a failure, which is sent where the task
    ran, is of no use there. And remember which failed outside of its own code, as when the result
    cannot be stored: in all pools but prefork Celery may forget the message then.
    """
    from billiard.einfo import ExceptionWithTraceback
    from celery.signals import task_internal_error
    from celery.worker.request import Request

    task_internal_error.connect(_failed_outside, weak=False, dispatch_uid="atomq.failed")
    if not hasattr(Request.on_failure, _MARK):
        Request.on_failure = _noted(Request.on_failure, ExceptionWithTraceback)


def _noted(on_failure: Callable[..., Any], wrapper: Any) -> Callable[..., Any]:
    @wraps(on_failure)
    def noted(request: Any, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(request.message, "failure"):  # a message of ours
            # As text: the exception would keep alive all that its traceback has hold of.
            error = exc_info.exception
            request.message.failure = described(error.exc if isinstance(error, wrapper) else error)
        return on_failure(request, exc_info, *args, **kwargs)

    setattr(noted, _MARK, True)
    return noted


def note_revoked() -> None:
    """Have a message note that its task ends by Celery's revoke, which acks it as any other end."""
    from celery.worker.request import Request

    if not hasattr(Request._announce_revoked, _MARK):
        Request._announce_revoked = _noted_revoked(Request._announce_revoked)


def _noted_revoked(announce: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(announce)
    def noted(request: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(request.message, "revoked"):  # a message of ours
            request.message.revoked = True
        return announce(request, *args, **kwargs)

    setattr(noted, _MARK, True)
    return noted


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


def ask_before_work() -> None:
    """Have no task begin whose lease may have ended while it was reserved.

    A thread or greenlet asks when it begins one. A child of prefork asks nothing: its worker does,
    when a child is free for the task. Solo is handed nothing that it does not begin. Both ways cost
    something for each task, so a worker has the one that its pool needs.
    """
    from celery.worker.request import Request
    from celery.worker.worker import WorkController

    others = PREFORK in sys.modules or SOLO in sys.modules
    in_threads = THREADS in sys.modules or _is_green() or not others
    if in_threads and not hasattr(Request.on_accepted, _MARK):
        Request.on_accepted = _asked(Request.on_accepted)
    if not hasattr(WorkController._process_task, _MARK):
        WorkController._process_task = _asked_for_a_child(WorkController._process_task)


def _asked(on_accepted: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(on_accepted)
    def asked(request: Any, pid: int, *args: Any, **kwargs: Any) -> Any:
        # It begins when this is said, in a thread or greenlet; a greenlet's number is its own.
        begins_here = _is_green() or (pid == os.getpid() and SOLO not in sys.modules)
        if begins_here and _given_up(request):
            raise sys.modules["greenlet"].GreenletExit if _is_green() else CancelledError
        return on_accepted(request, pid, *args, **kwargs)

    setattr(asked, _MARK, True)
    return asked


def _asked_for_a_child(process_task: Callable[..., Any]) -> Callable[..., Any]:
    """Called for each task when a child of prefork is free: other pools queue theirs themselves."""

    @wraps(process_task)
    def asked(controller: Any, request: Any) -> Any:
        release = getattr(controller, "_quick_release", None)  # where tasks wait for a child
        if release is None or not _given_up(request):
            return process_task(controller, request)
        # It calls this for the next task: soon, as each would stand on the stack of the last.
        return controller.hub.call_soon(release)

    setattr(asked, _MARK, True)
    return asked


def _given_up(request: Any) -> bool:
    """Whether a task is not to be begun. Celery's books are put right."""
    message = request.message
    given_up = getattr(message, "given_up", None)  # of a message of ours
    if given_up is None:
        return False
    delivery = message.delivery
    if delivery is not None and delivery.cancelled:
        request._announce_revoked("revoked", False, None, False)
        return True
    if not given_up():
        return False
    sys.modules["celery.worker.state"].task_ready(request)
    request.reject(requeue=True)
    return True


def _failed_outside(task_id: str = "", **_: Any) -> None:
    state = sys.modules.get("celery.worker.state")
    request = state.requests.get(task_id) if state is not None else None
    if request is not None:
        _doubtful.append((time.monotonic(), request.message))


def forgotten(seconds: float) -> Iterator[Any]:
    """Messages of tasks that failed outside of their code so long ago and were not settled."""
    while _doubtful and time.monotonic() - _doubtful[0][0] > seconds:
        _, message = _doubtful.popleft()
        if getattr(message, "delivery", None) is not None and not message.acknowledged:
            yield message


def described(error: BaseException | None) -> str:
    """An exception in words; "" for none."""
    return "".join(traceback.format_exception_only(error)).strip() if error else ""


# What Celery reads of a task outside every guard of its own: a wrong type there would end the
# worker, or keep one of the pool's places for ever. The first two are there, others may be None.
_NAMES = ("id", "task")
_TYPES: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("shadow", str),
    ("root_id", str),
    ("parent_id", str),
    ("group", str),
    ("retries", int),
    ("timelimit", (list, tuple)),
    ("stamped_headers", (list, tuple)),
    ("stamps", dict),
)


def fault(task: Any) -> str:
    """What is wrong with a task, by its headers or, in Celery's first protocol, its body; or ""."""
    if not isinstance(task, dict) or "task" not in task:
        return ""
    if "celery.worker.strategy" not in sys.modules:
        return ""
    get = task.get
    for name in _NAMES:
        if not isinstance(value := get(name), str):
            return f"the task's {name} is {type(value).__name__}"
    for name, types in _TYPES:
        # For each task: to look for NoneType among the types would take twice as long.
        if (value := get(name)) is not None and not isinstance(value, types):
            return f"the task's {name} is {type(value).__name__}"
    stamped, limits = task.get("stamped_headers"), task.get("timelimit")
    if stamped and not all(isinstance(stamp, str) for stamp in stamped):
        return "the task's stamped_headers are not text"
    if not limits or limits == [None, None]:
        return ""
    if len(limits) != 2 or not all(isinstance(x, int | float | None) for x in limits):
        return "the task's timelimit is not a pair of numbers"
    return ""


@cache  # as Kombu keeps it
def _is_green() -> bool:
    return bool(detect_environment() != "default")


def in_gevent_hub() -> bool:
    """Whether this is gevent's own loop, where nothing may wait: it runs signal handlers there."""
    gevent = sys.modules.get("gevent")
    return gevent is not None and gevent.getcurrent() is gevent.get_hub()
