"""What is changed in a Celery worker, which is played: its modules as far as they are changed."""

from __future__ import annotations

import os
import sys
from collections import deque
from concurrent.futures import CancelledError
from types import MethodType, ModuleType, SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from kombu.utils import functional

from atomq.contrib.kombu import worker_hooks
from atomq.contrib.kombu.worker import PREFORK, SOLO, THREADS
from tests.threads import running


class Celery:
    """Its modules, each made as it is named; and what they were told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.told: list[Any] = []
        self.connected: list[tuple[Any, dict[str, Any]]] = []
        self.now = 100.0
        for name in (PREFORK, SOLO, THREADS, "celery.worker.state", "greenlet"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        self.green(is_green=False)
        monkeypatch.setattr(worker_hooks, "_doubtful", deque())
        time = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        monkeypatch.setattr(worker_hooks, "time", time)
        told = self.told

        class Request:
            message: Any

            def __init__(self, message: Any) -> None:
                self.message = message

            def on_failure(self, *given: Any, **more: Any) -> str:
                told.append(("failed", given, more))
                return "its answer"

            def on_accepted(self, *given: Any, **more: Any) -> str:
                told.append(("accepted", given, more))
                return "its answer"

            def _announce_revoked(self, *given: Any, **more: Any) -> str:
                told.append(("revoked", given, more))
                return "its answer"

            def reject(self, **more: Any) -> None:
                told.append(("rejected", (), more))

        class AsynPool:
            def __init__(self, *jobs: Any) -> None:
                self.outbound_buffer: deque[Any] = deque(jobs)
                self._putlock = SimpleNamespace(release=lambda: told.append("released"))

            def _create_write_handlers(self, *given: Any, **more: Any) -> str:
                told.append(("handlers", given, more))
                return "its answer"

        self.Request, self.AsynPool = Request, AsynPool
        self.module("celery.worker.request", Request=Request)
        self.module("celery.concurrency.asynpool", AsynPool=AsynPool)
        signal = SimpleNamespace(
            connect=lambda *given, **more: self.connected.append((given, more))
        )
        self.module("celery.signals", task_internal_error=signal, worker_shutting_down=signal)

    def module(self, name: str, **contents: Any) -> None:
        made = ModuleType(name)
        vars(made).update(contents)
        self._patch.setitem(sys.modules, name, made)

    def state(self, **contents: Any) -> None:
        contents = {"should_stop": None, "should_terminate": None, **contents}
        self.module("celery.worker.state", task_ready=self.told.append, **contents)

    def green(self, *, is_green: bool) -> None:
        self._patch.setattr(worker_hooks, "is_green", lambda: is_green)

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds < 0.01, "what it waits for may come at any time"
        self.now += seconds

    def request(self, *, given_up: bool | None = False, cancelled: bool | None = False) -> Any:
        """One of a message of ours; None: of another transport, one without a delivery."""
        delivery = None if cancelled is None else SimpleNamespace(cancelled=cancelled)
        message = SimpleNamespace(delivery=delivery)
        if given_up is not None:
            message.given_up = lambda: given_up
        return self.Request(message)

    def job(self, request: Any) -> Any:
        """What a pool has of a task."""
        accept = getattr(request, "on_accepted", None)
        return SimpleNamespace(
            _accept_callback=accept, discard=lambda: self.told.append("discarded")
        )


@pytest.fixture
def celery(monkeypatch: pytest.MonkeyPatch) -> Celery:
    return Celery(monkeypatch)


# ── what a message notes ──────────────────────────────────────────────────────────────────────


def failed(error: Exception) -> ExceptionInfo:
    try:
        raise error
    except type(error):
        return ExceptionInfo()


def test_a_message_of_ours_notes_what_its_task_failed_of(celery: Celery) -> None:
    worker_hooks.note_failures()
    ours, other = SimpleNamespace(failure=""), SimpleNamespace()
    how = failed(KeyError("x"))
    assert celery.Request(ours).on_failure(how, 1, more=2) == "its answer"
    assert celery.Request(other).on_failure(how) == "its answer"
    assert (vars(ours), vars(other)) == ({"failure": "KeyError: 'x'"}, {})
    assert celery.told == [("failed", (how, 1), {"more": 2}), ("failed", (how,), {})]
    celery.Request(ours).on_failure(SimpleNamespace(exception=ValueError("bare")))
    assert ours.failure == "ValueError: bare"


def test_a_message_of_ours_notes_that_its_task_was_revoked(celery: Celery) -> None:
    worker_hooks.note_revoked()
    ours, other = SimpleNamespace(revoked=False), SimpleNamespace()
    assert celery.Request(ours)._announce_revoked("why", signum=2) == "its answer"
    assert celery.Request(other)._announce_revoked("why") == "its answer"
    assert (vars(ours), vars(other)) == ({"revoked": True}, {})
    assert celery.told == [("revoked", ("why",), {"signum": 2}), ("revoked", ("why",), {})]


def test_each_change_is_made_once(celery: Celery) -> None:
    celery.module(PREFORK)
    celery.module(THREADS)
    changes = (
        worker_hooks.note_failures,
        worker_hooks.note_revoked,
        worker_hooks.ask_before_work,
    )

    def made() -> list[Any]:
        for change in changes:
            change()
        request = celery.Request
        return [
            *(request.on_failure, request._announce_revoked, request.on_accepted),
            celery.AsynPool._create_write_handlers,
        ]

    before = made()
    assert all(map(vars, before)), "marked"
    assert made() == before


def test_what_failed_outside_of_its_code_and_was_not_settled_is_found_later(
    celery: Celery,
) -> None:
    worker_hooks.note_failures()
    ((note,), more) = celery.connected[0]
    assert more == {"weak": False, "dispatch_uid": "atomq.failed"}
    note(task_id="before Celery has a state")
    celery.state(requests={})
    note(task_id="unknown", sender="its task")

    def notes(name: str, **about: Any) -> Any:
        message = SimpleNamespace(**about)
        sys.modules["celery.worker.state"].requests[name] = celery.Request(message)
        note(task_id=name)
        return message

    first = notes("a", delivery=1, acknowledged=False)
    notes("acked", delivery=1, acknowledged=True)
    notes("without", delivery=None, acknowledged=False)
    notes("other", acknowledged=False)
    celery.now += 5
    second = notes("b", delivery=1, acknowledged=False)
    assert list(worker_hooks.forgotten(5.0)) == []
    celery.now += 0.5
    assert list(worker_hooks.forgotten(5.0)) == [first]
    assert list(worker_hooks.forgotten(5.0)) == []
    celery.now += 5
    assert list(worker_hooks.forgotten(5.0)) == [second]


# ── what no exception ends ────────────────────────────────────────────────────────────────────


def ended_by(error: BaseException) -> ExceptionInfo:
    """What Celery hands on: a lost worker, and behind it what really ended the task."""
    try:
        try:
            raise error
        except type(error):
            raise RuntimeError("lost") from None
    except RuntimeError:
        return ExceptionInfo()


def test_a_task_that_no_exception_ends_fails(
    celery: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ExceptionInfo, "__iter__", None, raising=False)
    worker_hooks.fail_what_no_exception_ends()
    info = ended_by(SystemExit(3))
    is_failed, of_what, runtime = info
    assert (is_failed, of_what, runtime) == (True, info, None)
    assert [one.message for one in caplog.records] == ["a task fails, as SystemExit: 3 ended it"]
    killed = type("GreenletExit", (BaseException,), {})
    with pytest.raises(TypeError, match="not to be unpacked"):
        list(ended_by(killed()))
    celery.module(SOLO)
    with pytest.raises(TypeError, match="not to be unpacked"):
        list(info)


def test_an_exception_in_words() -> None:
    assert worker_hooks.described(None) == ""
    assert worker_hooks.described(KeyError("x")) == "KeyError: 'x'"


# ── what is asked before a task begins ────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pools", "is_green", "asks_in_threads", "asks_for_children"),
    [
        ((), False, True, False),
        ((THREADS,), False, True, False),
        ((PREFORK,), False, False, True),
        ((SOLO,), False, False, False),
        ((PREFORK, THREADS), False, True, True),
        ((SOLO, THREADS), False, True, False),
        ((SOLO,), True, True, False),
        ((PREFORK,), True, True, True),
    ],
)
def test_a_worker_asks_where_its_pool_needs_it(
    celery: Celery,
    pools: tuple[str, ...],
    is_green: bool,
    asks_in_threads: bool,
    asks_for_children: bool,
) -> None:
    for name in pools:
        celery.module(name)
    celery.green(is_green=is_green)
    worker_hooks.ask_before_work()
    changed = (celery.Request.on_accepted, celery.AsynPool._create_write_handlers)
    marked = tuple(hasattr(each, "__atomq__") for each in changed)
    assert marked == (asks_in_threads, asks_for_children)


def accepts(celery: Celery, request: Any, pid: int) -> str:
    worker_hooks.ask_before_work()
    return str(request.on_accepted(pid, 1.5, more=2))


def test_a_thread_begins_no_task_that_was_given_up(celery: Celery) -> None:
    celery.state()
    assert accepts(celery, celery.request(), os.getpid()) == "its answer"
    assert celery.told == [("accepted", (os.getpid(), 1.5), {"more": 2})]
    celery.told.clear()
    request = celery.request(given_up=True)
    with pytest.raises(CancelledError):
        accepts(celery, request, os.getpid())
    assert celery.told == [request, ("rejected", (), {"requeue": True})]


def test_a_child_and_solo_begin_what_they_were_handed(celery: Celery) -> None:
    celery.state()
    request = celery.request(given_up=True)
    assert accepts(celery, request, os.getpid() + 1) == "its answer"
    celery.module(SOLO)
    assert accepts(celery, request, os.getpid()) == "its answer"


def test_a_greenlet_begins_no_task_that_was_given_up_whatever_its_number(celery: Celery) -> None:
    class GreenletExit(BaseException):
        """As greenlet's."""

    celery.module("greenlet", GreenletExit=GreenletExit)
    celery.green(is_green=True)
    celery.state()
    assert accepts(celery, celery.request(), 7) == "its answer"
    with pytest.raises(GreenletExit):
        accepts(celery, celery.request(given_up=True), 7)


def test_what_is_of_others_or_of_no_delivery_is_asked_as_it_can_be(celery: Celery) -> None:
    celery.state()
    pid = os.getpid()
    assert accepts(celery, celery.request(given_up=None), pid) == "its answer"
    assert accepts(celery, celery.request(cancelled=None), pid) == "its answer"
    with pytest.raises(CancelledError):
        accepts(celery, celery.request(given_up=True, cancelled=None), pid)


@pytest.mark.parametrize("given_up", [False, True])
def test_what_was_cancelled_meanwhile_is_revoked(celery: Celery, given_up: bool) -> None:
    celery.state()
    with pytest.raises(CancelledError):
        accepts(celery, celery.request(given_up=given_up, cancelled=True), os.getpid())
    assert celery.told == [("revoked", ("revoked", False, None, False), {})]


def test_a_child_of_prefork_is_written_nothing_that_was_given_up(celery: Celery) -> None:
    celery.module(PREFORK)
    celery.state()
    worker_hooks.ask_before_work()
    lost, kept = celery.request(given_up=True), celery.request()
    jobs = [celery.job(each) for each in (lost, kept, lost, None)]
    pool: Any = celery.AsynPool(*jobs)
    assert pool._create_write_handlers("hub", more=1) == "its answer"
    assert celery.told == [("handlers", ("hub",), {"more": 1})]
    celery.told.clear()
    waiting = pool.outbound_buffer
    assert list(waiting) == jobs, "in their order"
    assert waiting.popleft() is jobs[1]
    rejected = ("rejected", (), {"requeue": True})
    assert celery.told == [lost, rejected, "discarded", "released"]
    assert waiting.popleft() is jobs[3]
    with pytest.raises(IndexError):
        waiting.popleft()
    pool._create_write_handlers("hub")  # where the worker connects anew
    assert pool.outbound_buffer is waiting


def test_what_a_child_was_written_stays_in_the_books_of_its_pool(
    celery: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that it says it begins stays by itself; one that was put back is written anew."""
    celery.module(PREFORK)
    alive, dead = SimpleNamespace(_is_alive=lambda: True), SimpleNamespace(_is_alive=lambda: False)

    def job(child: Any, *, accepted: bool = False) -> Any:
        return SimpleNamespace(_write_to=child, _accepted=accepted)

    back = job(alive)
    pool: Any = celery.AsynPool(back)
    begins = job(alive, accepted=True)
    pool._cache = {1: begins, 2: job(alive), 3: job(dead), 4: job(None), 5: back}
    written = pool._cache[2]
    started = SimpleNamespace(_pool=pool, flush=pool._cache.clear)
    monkeypatch.setattr(worker_hooks, "controller", lambda: SimpleNamespace(pool=started))
    worker_hooks.ask_before_work()
    pool._create_write_handlers("hub")
    started.flush()
    assert pool._cache == {2: written}
    other: Any = celery.AsynPool()
    flush = started.flush
    other._create_write_handlers("hub")
    assert started.flush is flush, "of another pool"


@pytest.mark.parametrize("is_main", [True, False])
def test_a_task_is_acked_by_the_thread_that_knows_that_it_is_done(
    celery: Celery, is_main: bool
) -> None:
    """Where that is not the one of the event loop, the loop has a turn: there is room now."""

    class Consumer:
        hub: Any = SimpleNamespace(call_soon=lambda _: celery.told.append("a turn"))

        def call_soon_ack(self, *given: Any, **more: Any) -> str:
            celery.told.append(("later", given, more))
            return "its answer"

    celery.module("celery.worker.consumer", Consumer=Consumer)
    for _ in range(2):
        worker_hooks.ack_at_once()
    ours = SimpleNamespace(given_up=None)
    ack = MethodType(lambda *given, **more: celery.told.append((*given, more)), ours)
    one: Any = Consumer()
    if is_main:
        one.call_soon_ack(ack, 1, more=2)
    else:
        with running(lambda: one.call_soon_ack(ack, 1, more=2)):
            pass
    assert celery.told == [(ours, 1, {"more": 2}), *([] if is_main else ["a turn"])]
    celery.told.clear()
    assert one.call_soon_ack(len, 1) == "its answer"
    assert celery.told == [("later", (len, 1), {})], "of another transport"
    one.hub = None
    with running(lambda: one.call_soon_ack(ack, 1)):
        pass


# ── when it stops ─────────────────────────────────────────────────────────────────────────────


class Stopping:
    """A worker that is told to stop; `soon` is what a thread of its own does then."""

    def __init__(self, celery: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[float] = []
        threads: list[Any] = []
        thread = SimpleNamespace(start_new_thread=lambda *given: threads.append(given))
        monkeypatch.setattr(worker_hooks, "_thread", thread)
        worker_hooks.when_stopping(lambda: self.done.append(celery.now))
        (((told,), more),) = celery.connected
        assert more == {"weak": False, "dispatch_uid": "atomq.stop"}
        told(sig="SIGTERM", how="Warm", exitcode=0)
        ((self.soon, nothing),) = threads
        assert (nothing, self.done) == ((), [])


def test_what_is_to_be_done_when_it_stops_waits_for_celery_s_flag(
    celery: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = celery.now + 0.99
    monkeypatch.setattr(worker_hooks, "stopping", lambda: celery.now >= stops)
    stage = Stopping(celery, monkeypatch)
    stage.soon()
    assert stage.done == [pytest.approx(stops, abs=0.01)]


def test_a_soft_shutdown_gives_nothing_back_at_once(
    celery: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_hooks, "stopping", lambda: False)
    began = celery.now
    stage = Stopping(celery, monkeypatch)
    stage.soon()
    assert stage.done == []
    assert celery.now - began == pytest.approx(1.0, abs=0.01)


def test_kombu_sleeps_as_all_else_does(celery: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "sleep", None)
    worker_hooks.let_greenlets_run()
    assert functional.sleep == celery.sleep
