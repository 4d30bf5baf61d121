"""What is changed in a Celery worker: it notes what it would not say, and asks before it begins.

Each is done once, however often it is called.
"""

from __future__ import annotations

import _thread
import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from functools import wraps
from typing import Any

from kombu.utils import functional

from atomq.contrib.kombu.worker import PREFORK, SOLO, THREADS, controller, is_green, stopping

log = logging.getLogger("atomq.kombu")
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


def fail_what_no_exception_ends() -> None:
    """Have a thread's or greenlet's task that ends by SystemExit, or by another of its kind, fail.

    Celery calls that a lost worker, as where a child of prefork ends of it, and hands it on in a
    form that its `Request.on_success` cannot unpack. So the task would be forgotten: no result, and
    its message held until the worker ends. This is the unpacking, into a failure.
    """
    from billiard.einfo import ExceptionInfo

    ExceptionInfo.__iter__ = _unpacked


def _unpacked(info: Any) -> Iterator[Any]:
    wrapped = info.exception
    ended_by = getattr(wrapped, "exc", wrapped).__context__
    # Solo is ended by it as a whole. A greenlet that is killed says nothing about its task.
    if SOLO in sys.modules or type(ended_by).__name__ == "GreenletExit":
        raise TypeError("not to be unpacked")
    log.warning("a task fails, as %s ended it", described(ended_by))
    yield from (True, info, None)  # failed, what of, and a runtime that is not asked for


def described(error: BaseException | None) -> str:
    """An exception in words; "" for none."""
    return "".join(traceback.format_exception_only(error)).strip() if error else ""


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


def ask_before_work() -> None:
    """Have no task begin whose lease may have ended while it was reserved.

    A thread or greenlet asks when it begins one. A child of prefork asks nothing: its worker does,
    when it writes the task to a child. Solo is handed nothing that it does not begin. Both ways
    cost something for each task, so a worker has the one that its pool needs.
    """
    from celery.worker.request import Request

    others = PREFORK in sys.modules or SOLO in sys.modules
    in_threads = THREADS in sys.modules or is_green() or not others
    if in_threads and not hasattr(Request.on_accepted, _MARK):
        Request.on_accepted = _asked(Request.on_accepted)
    if PREFORK in sys.modules:
        from celery.concurrency.asynpool import AsynPool

        if not hasattr(AsynPool._create_write_handlers, _MARK):
            AsynPool._create_write_handlers = _asked_for_children(AsynPool._create_write_handlers)


def _asked(on_accepted: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(on_accepted)
    def asked(request: Any, pid: int, *args: Any, **kwargs: Any) -> Any:
        # It begins when this is said, in a thread or greenlet; a greenlet's number is its own.
        begins_here = is_green() or (pid == os.getpid() and SOLO not in sys.modules)
        if begins_here and _given_up(request):
            raise sys.modules["greenlet"].GreenletExit if is_green() else CancelledError
        return on_accepted(request, pid, *args, **kwargs)

    setattr(asked, _MARK, True)
    return asked


def _asked_for_children(create: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(create)
    def asked(pool: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(pool.outbound_buffer, _ForChildren):
            pool.outbound_buffer = _ForChildren(pool)
            _keep_what_children_have(pool)
        return create(pool, *args, **kwargs)

    setattr(asked, _MARK, True)
    return asked


class _ForChildren(deque[Any]):
    """The tasks that wait for a child of prefork: of these one is taken when a child is free.

    The worker hands its pool as many as there are children, and one more for each child that ended
    while it was busy: Celery 5.7 counts that child as free, and so the one that takes its place.
    """

    def __init__(self, pool: Any) -> None:
        super().__init__(pool.outbound_buffer)
        self._pool = pool

    def popleft(self) -> Any:
        """The next one that is still to be begun."""
        while True:
            job = super().popleft()
            request = getattr(job._accept_callback, "__self__", None)
            if request is None or not _given_up(request):
                return job
            job.discard()
            self._pool._putlock.release()  # the worker hands over the next one


def _keep_what_children_have(pool: Any) -> None:
    """Have a pool of prefork keep what it has written to a child that has not said that it begins.

    When the worker stops, or loses its connection, Celery 5.7 strikes such a task from the books of
    its pool. The child works on it all the same: nothing hears that it is done, and the child,
    which waits for that at its end, stays for 30 s.
    """
    found: Any = getattr(controller(), "pool", None)
    books: Any = getattr(found, "_pool", None)
    if books is not pool:
        return
    flush = found.flush  # as `pool` had it when it started

    @wraps(flush)
    def kept() -> None:
        waiting = {id(job) for job in pool.outbound_buffer}  # some were written to one that died
        written = {
            number: job
            for number, job in tuple(pool._cache.items())
            if not job._accepted and job._write_to and id(job) not in waiting
        }
        flush()
        pool._cache.update((n, job) for n, job in written.items() if job._write_to._is_alive())

    found.flush = kept


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


def ack_at_once() -> None:
    """Have a task acked by the thread that knows that it is done.

    Celery 5.7 leaves acks to the worker's event loop, which may stand still: solo goes on with the
    next task, which may be long; the worker connects anew; a pool of threads is joined. If the
    worker is killed then, or frozen, what was done runs again. An ack of ours only enters a buffer,
    in any thread. The loop has a turn then, as there is room for another message.
    """
    from celery.worker.consumer import Consumer

    if not hasattr(Consumer.call_soon_ack, _MARK):
        Consumer.call_soon_ack = _at_once(Consumer.call_soon_ack)


def _at_once(later: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(later)
    def acked(consumer: Any, ack: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(getattr(ack, "__self__", None), "given_up"):  # of no message of ours
            return later(consumer, ack, *args, **kwargs)
        ack(*args, **kwargs)
        if consumer.hub and threading.current_thread() is not threading.main_thread():
            consumer.hub.call_soon(_nothing)
        return ack

    setattr(acked, _MARK, True)
    return acked


def _nothing() -> None:
    """Have the event loop look what there is to do."""


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
            time.sleep(0.001)
        do()

    worker_shutting_down.connect(
        lambda **_: _thread.start_new_thread(soon, ()), weak=False, dispatch_uid="atomq.stop"
    )


def let_greenlets_run() -> None:
    """Have Kombu sleep, between two tries to connect, as everything else here sleeps.

    While gevent patches, it looks at an object of Celery's that loads Kombu, which takes hold of
    the `sleep` that stops all greenlets: tasks, and the renewal of their leases.
    """
    functional.sleep = time.sleep
