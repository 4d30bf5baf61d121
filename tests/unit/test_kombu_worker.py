"""What is asked of Celery, which is played: its modules as far as they are looked at."""

from __future__ import annotations

import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from atomq.contrib.kombu import worker
from tests.scripted import told_to_end

MODULES = (
    *("state", "worker", "loops", "request", "control", "consumer.consumer"),
    *("concurrency.prefork", "concurrency.solo", "concurrency.thread", "concurrency.base"),
)


class Celery:
    """Its modules, each made as it is named; what is not named was not imported."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.kind = type("Thing", (SimpleNamespace,), {})
        """The class of what is to be found on the heap: of this test, and of no other."""
        for each in MODULES:
            name = each if each.startswith("concurrency") else f"worker.{each}"
            monkeypatch.delitem(sys.modules, f"celery.{name}", raising=False)
        for name in ("gevent", "greenlet"):
            monkeypatch.delitem(sys.modules, name, raising=False)

    def module(self, name: str, **contents: Any) -> Any:
        made: Any = ModuleType(name)
        vars(made).update(contents)
        self._patch.setitem(sys.modules, name, made)
        return made

    def state(self, stop: Any = None, terminate: Any = None) -> None:
        self.module("celery.worker.state", should_stop=stop, should_terminate=terminate)

    def thing(self, **has: Any) -> Any:
        return self.kind(**has)

    def request(self, tag: Any, **more: Any) -> Any:
        """One whose message has this delivery tag."""
        return self.thing(message=SimpleNamespace(delivery_tag=tag, **more))

    def green(self, *, is_green: bool) -> None:
        self._patch.setattr(worker, "is_green", lambda: is_green)


@pytest.fixture
def celery(monkeypatch: pytest.MonkeyPatch) -> Celery:
    return Celery(monkeypatch)


# ── whether it stops ──────────────────────────────────────────────────────────────────────────


def test_without_celery_nothing_stops_and_nothing_runs(celery: Celery) -> None:
    assert not worker.stopping()
    assert not worker.terminating()
    assert not worker.ending()
    assert not worker.waiting()
    assert not worker.takes_tasks(celery.thing())
    assert worker.controller() is None
    assert worker.running() == set()
    assert worker.requests() == {}
    assert list(worker.cancelled()) == []
    worker.revoke("id", "TERM")


@pytest.mark.parametrize(
    ("stop", "terminate", "stopping", "terminating"),
    [
        (None, None, False, False),
        (False, False, False, False),
        (0, None, True, False),
        (True, False, True, False),
        (None, 0, True, True),
        (False, True, True, True),
        (1, 1, True, True),
    ],
)
def test_an_exit_code_says_that_it_stops_also_if_it_is_0(
    celery: Celery, stop: Any, terminate: Any, stopping: bool, terminating: bool
) -> None:
    celery.state(stop, terminate)
    assert (worker.stopping(), worker.terminating()) == (stopping, terminating)
    assert worker.ending() == stopping


@pytest.mark.parametrize(
    ("state", "ends"), [(None, False), (0x1, False), (0x2, True), (0x3, True), (0x4, False)]
)
def test_one_that_ends_by_an_error_of_its_own_is_seen_by_its_blueprint(
    celery: Celery, state: Any, ends: bool
) -> None:
    celery.module("celery.worker.worker", WorkController=celery.kind)
    kept = celery.thing(blueprint=SimpleNamespace(state=state))
    bare = celery.thing(blueprint=None)
    assert worker.ending() == ends, (kept, bare)


def test_an_error_of_a_signal_handler_of_celery_is_told_apart_whatever_became_of_it() -> None:
    def fails() -> None:
        raise NotImplementedError("kill_job")

    def because(error: Exception | None) -> None:
        try:
            told_to_end()
        except NotImplementedError as its:
            raise KeyError("x") from (error or its)

    def beside() -> None:
        try:
            told_to_end()
        except NotImplementedError:
            {}["x"]

    errors = [None]
    for what in (
        fails,
        partial(because, ValueError("x")),
        told_to_end,
        partial(because, None),
        beside,
    ):
        with pytest.raises(Exception, match=r"kill_job|x") as raised:
            what()
        errors.append(raised.value)
    assert [worker.interrupted(error) for error in errors] == [False] * 3 + [True] * 3


# ── what it was given ─────────────────────────────────────────────────────────────────────────


def test_more_tasks_than_run_say_that_no_place_is_idle(celery: Celery) -> None:
    reserved, active = SimpleNamespace(data={1: 1, 2: 2}), SimpleNamespace(data={1: 1})
    celery.module("celery.worker.state", reserved_requests=reserved, active_requests=active)
    assert worker.waiting()
    active.data[2] = 2
    assert not worker.waiting()


def test_the_consumer_of_a_worker_is_the_one_that_it_is_given_its_tasks_by(celery: Celery) -> None:
    consumer, other = celery.thing(), celery.thing()
    assert not worker.takes_tasks(consumer)
    celery.module("celery.worker.consumer.consumer", Consumer=celery.kind)
    kept = celery.thing(task_consumer=consumer)
    assert worker.takes_tasks(consumer), kept
    assert not worker.takes_tasks(other)
    assert not worker.takes_tasks(None), celery.thing(task_consumer=None)


def test_the_worker_of_this_process_is_found(celery: Celery) -> None:
    celery.module("celery.worker.worker")
    assert worker.controller() is None
    celery.module("celery.worker.worker", WorkController=celery.kind)
    kept = celery.thing()
    assert worker.controller() is kept


def test_what_runs_is_known_by_its_tags(celery: Celery) -> None:
    bare = celery.thing(message=object())
    celery.module(
        "celery.worker.state", active_requests=[celery.request("a"), celery.request(None), bare]
    )
    assert worker.running() == {"a"}


def test_every_request_that_is_alive_is_found(celery: Celery) -> None:
    celery.module("celery.worker.request", Request=celery.kind)
    kept, bare = (
        [celery.request("a"), celery.request("b"), celery.request(None)],
        celery.thing(message=object()),
    )
    circle = celery.request("garbage")
    vars(circle)["itself"] = circle
    del circle
    found = worker.requests()
    assert (found, bare.message) == ({"a": kept[0], "b": kept[1]}, bare.message)


def test_requests_of_classes_below_are_found_too(celery: Celery) -> None:
    """Celery makes a class of its own for the requests of each task."""
    celery.module("celery.worker.request", Request=celery.kind)
    kept = [celery.request("a")]
    for tag in "bc":
        celery.kind = type("RequestOfTask", (celery.kind,), {})
        kept.append(celery.request(tag))
    assert worker.requests() == dict(zip("abc", kept, strict=True))


def test_threads_make_tuples_while_the_heap_is_looked_through(celery: Celery) -> None:
    """`tuple(generator)` raises SystemError while another thread has a list of all objects."""
    celery.module("celery.worker.request", Request=celery.kind)
    kept, heap = celery.request("a"), [[each] for each in range(50_000)]
    ended = threading.Event()

    def make() -> int:
        made = 0
        while not ended.is_set():
            made += len(tuple(same(each) for each in range(15)))
        return made

    def same(each: int) -> int:
        return each

    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(make)
        try:
            found = [worker.requests() for _ in range(5)]
        finally:
            ended.set()
        assert made.result() > 0
    assert found == [{"a": kept}] * 5
    assert heap


def test_what_celery_cancelled_and_will_not_settle_is_found(celery: Celery) -> None:
    celery.module("celery.worker.request", Request=celery.kind)

    def made(tag: str, *, cancelled: bool, settled: bool, acknowledged: bool) -> Any:
        delivery = SimpleNamespace(settled=settled)
        one = celery.request(tag, delivery=delivery, acknowledged=acknowledged)
        if cancelled:
            vars(one)["_already_cancelled"] = True
        return one

    kept = [
        made("lost", cancelled=True, settled=False, acknowledged=False),
        made("runs", cancelled=False, settled=False, acknowledged=False),
        made("settled", cancelled=True, settled=True, acknowledged=False),
        made("acked", cancelled=True, settled=False, acknowledged=True),
        celery.request("of another transport"),
    ]
    vars(kept[-1])["_already_cancelled"] = True
    assert [message.delivery_tag for message in worker.cancelled()] == ["lost"]


@pytest.mark.parametrize(
    ("failure", "green", "cancelled", "killed"),
    [
        ("NotImplementedError: TaskPool does not implement kill_job", False, False, True),
        ("NotImplementedError: something else", False, False, False),
        ("ValueError: kill_job", False, False, False),
        ("", True, True, True),
        ("", True, False, False),
        ("", False, True, False),
    ],
)
def test_what_a_cold_shutdown_killed_is_known(
    celery: Celery, failure: str, green: bool, cancelled: bool, killed: bool
) -> None:
    celery.module("celery.worker.request", Request=celery.kind)
    celery.green(is_green=green)
    one = celery.request("a", failure=failure)
    if cancelled:
        vars(one)["_already_cancelled"] = True
    message = one.message
    assert worker.killed(message) is killed
    message.delivery_tag = "of no request"
    del one
    assert worker.killed(message) is (failure != "" and killed)


# ── where it runs ─────────────────────────────────────────────────────────────────────────────


def test_a_solo_pool_works_while_it_is_given_a_message_and_a_program_that_drains(
    celery: Celery,
) -> None:
    celery.green(is_green=False)
    assert worker.runs_in_delivery(in_loop=False)
    assert not worker.runs_in_delivery(in_loop=True)
    celery.module(worker.SOLO)
    assert worker.runs_in_delivery(in_loop=True)
    celery.green(is_green=True)
    assert not worker.runs_in_delivery(in_loop=False)


def test_acks_go_between_drains_in_the_main_greenlet_of_a_green_pool(celery: Celery) -> None:
    current = SimpleNamespace(parent=None)
    celery.module("greenlet", getcurrent=lambda: current)
    celery.green(is_green=True)
    assert not worker.acks_between_drains(), "no worker"
    celery.module("celery.worker.loops")
    assert worker.acks_between_drains()
    current.parent = current
    assert not worker.acks_between_drains(), "a task"
    celery.green(is_green=False)
    current.parent = None
    assert not worker.acks_between_drains()


def test_gevent_s_own_loop_is_known(celery: Celery) -> None:
    assert not worker.in_gevent_hub()
    celery.module("gevent", getcurrent=lambda: 1, get_hub=lambda: 1)
    assert worker.in_gevent_hub()
    celery.module("gevent", getcurrent=lambda: 1, get_hub=lambda: 2)
    assert not worker.in_gevent_hub()


@pytest.mark.parametrize(("found", "green"), [("default", False), ("gevent", True)])
def test_green_is_what_kombu_says(monkeypatch: pytest.MonkeyPatch, found: str, green: bool) -> None:
    monkeypatch.setattr(worker, "detect_environment", lambda: found)
    assert worker.is_green.__wrapped__() is green


# ── what is asked of it ───────────────────────────────────────────────────────────────────────


class Revoking:
    """A worker of this process, and what its remote control revoked."""

    def __init__(self, celery: Celery, *, own: bool, hub: Any = None) -> None:
        self.revoked: list[Any] = []
        self.error: Exception | None = None

        class BasePool:
            def terminate_job(self) -> None:
                """As stock has it."""

        class Pool(BasePool):
            def terminate_job(self) -> None:
                """As prefork has it."""

        celery.module("celery.concurrency.base", BasePool=BasePool)
        celery.module("celery.worker.control", revoke=self.revoke)
        celery.module("celery.worker.worker", WorkController=celery.kind)
        pool = Pool() if own else BasePool()
        self.kept = celery.thing(
            pool=pool, app="app", hostname="host", consumer="consumer", hub=hub
        )

    def revoke(self, state: Any, ids: list[str], **more: Any) -> None:
        assert (state.app, state.hostname, state.consumer) == ("app", "host", "consumer")
        if self.error is not None:
            raise self.error
        self.revoked.append((ids, more))


ENDED = {"terminate": True, "signal": "TERM"}


@pytest.mark.parametrize(
    ("signal", "own", "more", "warns"),
    [("TERM", True, ENDED, 0), ("TERM", False, {}, 1), ("", True, {}, 0), ("", False, {}, 0)],
)
def test_a_task_is_revoked_and_ended_where_the_pool_can(
    celery: Celery, caplog: Any, signal: str, own: bool, more: Any, warns: int
) -> None:
    stage = Revoking(celery, own=own)
    worker.revoke("id", signal)
    assert stage.revoked == [(["id"], more)]
    assert len(caplog.records) == warns


def test_the_worker_s_own_thread_revokes_where_it_has_an_event_loop(celery: Celery) -> None:
    soon: list[Any] = []
    stage = Revoking(
        celery, own=True, hub=SimpleNamespace(call_soon=lambda *given: soon.append(given))
    )
    worker.revoke("id", "TERM")
    assert stage.revoked == []
    (call, *given) = soon[0]
    call(*given)
    assert stage.revoked == [(["id"], ENDED)]


def test_what_fails_in_celery_then_is_written_down(celery: Celery, caplog: Any) -> None:
    stage = Revoking(celery, own=True)
    stage.error = KeyError("no")
    worker.revoke("id", "TERM")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
