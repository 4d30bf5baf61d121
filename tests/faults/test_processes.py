"""Forks, spawned processes, threads: nobody takes, gives back or drops what is another's."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from atomq import Queue
from tests.servers import Server, wait_until

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    # What is tested here goes on in the client.
    pytest.mark.parametrize("kind", ["valkey-9"], indirect=True),
]


def fork(work: Callable[[], Any]) -> int:
    """Run `work` in a forked child, which ends as it would by `sys.exit`; its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - the child must not go on as pytest
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def reap(*pids: int) -> None:
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_forked_child_is_a_consumer_of_its_own(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atomq.backlog.PATIENCE", 60)
    queue = Queue("q", server.url)
    queue.put_many(range(-3, 6))
    messages = queue.consume(prefetch=3)
    for _ in range(3):  # one message first, then two, then three at once
        next(messages).ack()
    first = next(messages)

    def child() -> None:
        mine = queue.claim()
        assert mine is not None
        assert mine.body == 3, "what the parent holds is the parent's"
        assert mine.receipt.partition("-")[0] != first.receipt.partition("-")[0]
        mine.complete("by the child")
        queue.put("from the child")
        assert not queue.keeper.holds(first.receipt)
        with contextlib.suppress(SystemExit), first:
            raise SystemExit  # the frames of the parent, unwound in the child …
        messages.close()  # … change nothing of what it holds

    reap(fork(child))
    state = queue.state()
    assert (state.unacked, state.ready) == (3, 3)
    with first:
        assert first.body == 0
    assert [next(messages).body for _ in range(2)] == [1, 2]
    assert queue.keeper.holds(first.receipt) is False
    messages.close()
    assert [m.body for m in queue.claim_many(10)] == [4, 5, "from the child"]
    queue.engine.close()


def test_children_that_put_by_the_same_queue_lose_nothing(server: Server) -> None:
    queue = Queue("q", server.url)
    queue.put("parent 0")

    def child() -> None:
        for n in range(10):
            queue.put(f"{os.getpid()} {n}")

    pids = [fork(child) for _ in range(4)]
    child()
    reap(*pids)
    bodies = [m.body for m in queue.claim_many(1000)]
    assert len(bodies) == len(set(bodies)) == 51
    assert len({p.partition(" ")[0] for p in bodies}) == 6
    queue.engine.close()


def test_a_child_renews_its_own_leases_while_its_parents_go_on(server: Server) -> None:
    queue = Queue("q", server.url, lease=0.4)
    queue.put_many(["parent's", "child's"])
    held = queue.claim()

    def child() -> None:
        with queue.claim() as message:  # type: ignore[union-attr]
            assert message.body == "child's"
            time.sleep(1.2)

    pid = fork(child)
    wait_until("the child to have its message", lambda: queue.state().unacked == 2)
    assert queue.claim(timeout=1.2) is None
    reap(pid)
    assert held is not None
    held.ack()
    assert queue.state().stats["acked"] == 2
    queue.engine.close()


def test_a_child_forked_while_threads_are_at_work_is_not_stuck(server: Server) -> None:
    queue = Queue("q", server.url, max_connections=4)
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            queue.put("x")
            if message := queue.claim():
                with message:
                    pass

    threads = [threading.Thread(target=hammer, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()

    def child() -> None:
        for _ in range(20):
            queue.put("from a child")

    try:
        for _ in range(5):
            reap(fork(child))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert queue.state().stats["published"] >= 100
    queue.engine.close()


def test_a_handler_may_fork_in_each_of_several_threads(server: Server) -> None:
    queue = Queue("q", server.url)
    queue.put_many(range(4))
    codes = []

    def child(body: int) -> None:
        Queue("out", server.url).put(body)

    def handler(message: Any) -> None:
        process = multiprocessing.get_context("fork").Process(target=child, args=(message.body,))
        process.start()
        process.join(10)
        codes.append(process.exitcode)

    assert queue.work(handler, concurrency=2, timeout=0) == 4
    assert codes == [0, 0, 0, 0]
    assert Queue("out", queue.engine).state().ready == 4
    queue.engine.close()


def consume_all(url: str, name: str, results: Any) -> None:
    """What a spawned worker runs."""
    queue = Queue(name, url)
    for message in queue.consume(timeout=0.3):
        with message:
            results.put((os.getpid(), message.body))
    queue.engine.close()


@pytest.mark.slow
def test_spawned_workers_share_the_work(server: Server) -> None:
    queue = Queue("q", server.url)
    queue.put_many(range(400))
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=consume_all, args=(server.url, "q", results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    done = [results.get(timeout=30) for _ in range(400)]
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert sorted(body for _, body in done) == list(range(400))
    assert queue.state().stats["acked"] == 400
    queue.engine.close()


def test_eight_threads_hammer_one_queue(server: Server) -> None:
    queue = Queue("q", server.url)
    got: Counter[int] = Counter()
    lock = threading.Lock()

    def put(start: int) -> None:
        for n in range(start, start + 250, 10):
            queue.put_many(range(n, n + 10))

    def consume(how: int) -> None:
        messages = queue.consume(prefetch=7, timeout=0.3)
        for message in messages:
            if how:
                message.complete(message.body)
            with lock:
                got[message.body] += 1
            with message:
                pass

    threads = [threading.Thread(target=put, args=(250 * n,), daemon=True) for n in range(4)]
    threads += [threading.Thread(target=consume, args=(n % 2,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == Counter(range(1000))
    state = queue.state()
    assert (state.ready, state.unacked, state.stats["acked"]) == (0, 0, 1000)
    queue.engine.close()


def test_what_was_acked_at_the_very_end_of_a_program_is_acked(server: Server) -> None:
    import subprocess

    queue = Queue("q", server.url)
    queue.put_many(range(3))
    program = f"""
from atomq import Queue
queue = Queue("q", {server.url!r})
kept = []
def main():
    messages = queue.consume()
    kept.append(messages)
    for message in messages:
        with message:
            pass
        if message.body == 1:
            queue.engine._pool.close()
            raise SystemExit
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    state = queue.state()
    assert (state.stats["acked"], state.ready, state.unacked) == (2, 1, 0)
    queue.engine.close()


def test_an_ack_that_waits_for_a_claim_is_sent_at_the_end_of_a_program(server: Server) -> None:
    import subprocess

    queue = Queue("q", server.url)
    queue.put("x")
    program = f"""
from atomq import Queue
queue = Queue("q", {server.url!r})
queue.keeper.ack_later(queue.keys, queue.claim().receipt)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert queue.state().stats.get("acked") == 1
    queue.engine.close()


def test_what_threads_work_on_when_ctrl_c_ends_the_program_goes_back(server: Server) -> None:
    import subprocess

    queue = Queue("q", server.url)
    queue.put_many(range(2))
    program = f"""
import os, signal, threading
from atomq import Queue
from atomq.workers import Threads
def again(*_):
    raise KeyboardInterrupt
Threads._join = again  # the second one, while it waits for the handlers
threading._shutdown = lambda *_: None  # and the third one, while Python waits for their threads
both = threading.Barrier(2)
def handler(message):
    if both.wait() == 0:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    threading.Event().wait()
Queue("q", {server.url!r}).work(handler, concurrency=2)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30)
    assert done.returncode == -2, done.stderr
    assert done.stderr.rstrip().endswith(b"KeyboardInterrupt")
    state = queue.state()
    assert (state.ready, state.unacked, state.stats["released"]) == (2, 0, 2)
    assert [claimed.deliveries for claimed in queue.claim_many(2)] == [2, 2]
    queue.engine.close()


def test_a_worker_told_by_a_signal_finishes_its_message_and_gives_the_rest_back(
    server: Server,
) -> None:
    queue = Queue("q", server.url)
    queue.put_many(range(10))

    def child() -> None:
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        count = Queue("q", server.url).work(
            lambda message: time.sleep(message.body == 3), prefetch=5, stop=stop
        )
        assert count == 4

    pid = fork(child)
    wait_until("it to begin with four claimed at once", lambda: queue.state().unacked == 4)
    time.sleep(0.2)
    os.kill(pid, signal.SIGTERM)
    reap(pid)
    assert queue.state().stats["acked"] == 4
    assert [(m.body, m.deliveries) for m in queue.claim_many(10)] == [(n, 1) for n in range(4, 10)]
    queue.engine.close()
