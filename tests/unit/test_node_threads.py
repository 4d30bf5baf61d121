"""The threads of nodes: each does one thing after another, and none keeps another waiting."""

from __future__ import annotations

import logging
import threading
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from atomq import node_threads
from atomq.background import Background
from atomq.node_threads import NodeThreads, by_place

A, B = ("a", 1), ("b", 2)
SOON = 5.0


def test_what_belongs_to_each_node_stays_in_order() -> None:
    places = {"x": A, "y": None, "z": A}
    assert by_place(["x", "y", "z"], places.get) == {A: ["x", "z"], None: ["y"]}


def test_one_node_that_stands_still_keeps_no_other_waiting() -> None:
    threads, gate = NodeThreads(), threading.Event()
    done: list[str] = []
    stuck = threads.do(A, "stuck", lambda: bool(gate.wait(SOON)))
    behind = threads.do(A, "behind", lambda: done.append("behind"))
    other = threads.do(B, "other", lambda: done.append("other"))
    unknown = threads.do(None, "unknown", lambda: done.append("unknown"))
    assert stuck is not None
    for each in (other, unknown):
        assert each is not None
        assert each.wait(SOON)
    assert sorted(done) == ["other", "unknown"]
    assert not stuck.is_set()
    gate.set()
    assert behind is not None
    assert behind.wait(SOON)
    assert stuck.is_set()


def test_the_same_is_not_done_twice_at_once() -> None:
    threads, gate = NodeThreads(), threading.Event()
    done = threads.do(A, "open", lambda: bool(gate.wait(SOON)))
    assert done is not None
    assert threads.do(A, "open", gate.set) is None
    assert not gate.is_set()
    gate.set()
    assert done.wait(SOON)
    again = threads.do(A, "open", gate.clear)
    assert again is not None
    assert again.wait(SOON)
    assert not gate.is_set()


def test_a_thread_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    threads, ran = NodeThreads(), list[int]()

    def fail() -> None:
        ran.append(threading.get_ident())
        raise KeyError("oh")

    failed = threads.do(A, "fails", fail)
    assert failed is not None
    assert failed.wait(SOON)
    done = threads.do(A, "works", lambda: ran.append(threading.get_ident()))
    assert done is not None
    assert done.wait(SOON)
    assert ran[0] == ran[1]
    assert [(record.name, record.levelno) for record in caplog.records] == [
        ("atomq.leases", logging.ERROR)
    ]


def test_a_thread_ends_that_has_nothing_to_do_and_another_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_threads, "IDLE", 0.01)
    threads, ran = NodeThreads(), list[threading.Thread]()
    for _ in range(2):
        done = threads.do(A, "job", lambda: ran.append(threading.current_thread()))
        assert done is not None
        assert done.wait(SOON)
        ran[-1].join(SOON)
        assert not ran[-1].is_alive()
        assert ran[-1].daemon, "no program waits for it at its end"
    assert ran[0] is not ran[1]


def test_what_is_to_do_when_a_thread_was_about_to_end_is_done() -> None:
    class Late(SimpleQueue[Any]):
        late = True

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if self.late:
                self.late = False
                raise Empty
            return super().get(block, timeout)

    thread = node_threads._NodeThread()
    thread._jobs = Late()
    done = thread.do("job", lambda: None)
    assert done is not None
    assert done.wait(SOON)


def test_a_thread_that_could_not_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads, did = NodeThreads(), threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError):
            threads.do(A, "job", did.set)
    assert threads.do(A, "job", pytest.fail) is None, "it is under way"
    assert did.wait(SOON)


def test_a_thread_in_the_background_that_could_not_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    class Owner:
        def turn(self) -> bool:
            did.set()
            with thread.lock:
                thread.ended()
            return False

    owner, did = Owner(), threading.Event()
    thread = Background(owner.turn, "atomq-test", "is tested", logging.getLogger("atomq"), 0.01)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError):
            thread.rouse()
    thread.join(SOON)
    thread.rouse()
    assert did.wait(SOON)
    thread.join(SOON)
