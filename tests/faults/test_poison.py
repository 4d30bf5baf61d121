"""A message that kills its process goes to dead letters, and takes none of its neighbours along."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atomq import AsyncQueue, Queue
from tests.faults.test_processes import fork
from tests.servers import Server, wait_until
from tests.threads import running

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    # What is tested here goes on in the client.
    pytest.mark.parametrize("kind", ["valkey-9"], indirect=True),
]

LEASE = 0.2
ENDS = 1.5  # seconds without a message: that a lease has ended is noticed within one
OPTIONS: dict[str, Any] = {"lease": LEASE, "max_deliveries": 3}
SIGSEGV = 139


class Ran:
    """What was worked on, by any process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def add(self, body: Any) -> None:
        with self._path.open("a") as file:
            file.write(f"{body}\n")

    def __call__(self) -> list[int]:
        return sorted(map(int, self._path.read_text().split()))


@pytest.fixture
def ran(tmp_path: Path) -> Ran:
    return Ran(tmp_path / "ran")


def handler_of(ran: Ran) -> Callable[[Any], None]:
    def handler(message: Any) -> None:
        if message.body == "segfault":
            os._exit(SIGSEGV)
        ran.add(message.body)

    return handler


def work(url: str, ran: Ran, prefetch: int | None) -> None:
    queue = Queue("q", url, **OPTIONS)
    queue.work(handler_of(ran), prefetch=prefetch, timeout=ENDS)


def work_in_asyncio(url: str, ran: Ran, prefetch: int | None) -> None:
    async def main() -> None:
        handler = handler_of(ran)

        async def handle(message: Any) -> None:
            handler(message)

        queue = AsyncQueue("q", url, **OPTIONS)
        await queue.work(handle, prefetch=prefetch, timeout=ENDS)

    asyncio.run(main())


def work_in_batches(url: str, ran: Ran, _: int | None) -> None:
    queue, handler = Queue("q", url, **OPTIONS), handler_of(ran)
    while messages := queue.claim_many(64, timeout=ENDS):
        for message in messages:
            with message:
                handler(message)


def work_in_threads(url: str, ran: Ran, prefetch: int | None) -> None:
    """Eight consumers of one process: what one of them holds, all of them hold."""
    queue, handler = Queue("q", url, **OPTIONS), handler_of(ran)

    def slowly(message: Any) -> None:
        time.sleep(0.01)
        handler(message)

    def one() -> None:
        queue.work(slowly, prefetch=prefetch, timeout=ENDS)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def work_at_once(url: str, ran: Ran, prefetch: int | None) -> None:
    """Four threads of one consumer."""
    handler = handler_of(ran)

    def slowly(message: Any) -> None:
        time.sleep(0.01)
        handler(message)

    Queue("q", url, **OPTIONS).work(slowly, concurrency=4, prefetch=prefetch, timeout=ENDS)


def work_at_once_in_asyncio(url: str, ran: Ran, prefetch: int | None) -> None:
    async def main() -> None:
        handler = handler_of(ran)

        async def slowly(message: Any) -> None:
            await asyncio.sleep(0.01)
            handler(message)

        queue = AsyncQueue("q", url, **OPTIONS)
        await queue.work(slowly, concurrency=4, prefetch=prefetch, timeout=ENDS)

    asyncio.run(main())


SEVERAL = (work_in_threads, work_at_once, work_at_once_in_asyncio)


def crashes(child: Callable[[], None]) -> int:
    """As often as it dies it is started anew, as a supervisor would; how often that was."""
    for count in range(30):
        _, status = os.waitpid(fork(child), 0)
        code = os.waitstatus_to_exitcode(status)
        if code != SIGSEGV:
            assert code == 0
            return count
    raise AssertionError("it goes on dying")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("consumer", "prefetch"),
    [
        (work, None),
        (work, 1),
        (work_in_asyncio, None),
        (work_in_asyncio, 1),
        (work_in_batches, None),
        *((consumer, None) for consumer in SEVERAL),
    ],
)
def test_only_the_poison_is_dead(
    server: Server, ran: Ran, consumer: Callable[..., None], prefetch: int | None
) -> None:
    """Of 31 claimed at once, 30 were never begun: they went to dead letters too."""
    queue = Queue("q", server.url)
    queue.put_many(["segfault", *range(30)])
    count = crashes(lambda: consumer(server.url, ran, prefetch))
    assert [letter.body for letter in queue.peek("dead", 100)] == ["segfault"]
    assert sorted(set(ran())) == list(range(30))
    assert queue.peek("dead")[0].reason == "max_deliveries"
    if consumer not in SEVERAL:
        assert ran() == list(range(30)), "none of them twice"
        # Alone in its process every end counts; with others beside it the first two do not.
        assert count == (5 if consumer is work_in_batches else 3)


def test_what_goes_alone_has_nothing_beside_it_in_its_process(server: Server) -> None:
    queue = Queue("q", server.url, lease=60)
    queue.put_many(["a", "b"])
    for _ in range(2):
        held = Queue("q", server.url).claim_many(2)
        assert len(held) == 2
        for message in held:
            message.extend(0)  # as if its process had died
    queue.put("c")
    alone = queue.claim()
    assert alone is not None
    assert (alone.body, alone.deliveries) == ("a", 3)
    assert queue.claim() is None
    assert queue.claim(timeout=0.05) is None
    waiting: list[Any] = []
    thread = threading.Thread(target=lambda: waiting.append(queue.claim(timeout=10)))
    thread.start()
    elsewhere = Queue("q", server.url).claim()
    assert elsewhere is not None
    assert elsewhere.body == "b", "others go on meanwhile"
    assert not waiting
    alone.ack()
    thread.join()
    assert [message.body for message in waiting] == ["c"]


def test_a_process_that_is_never_idle_comes_to_hold_nothing_for_it(server: Server) -> None:
    """One is asked to, claims nothing for a while, and has its usual share of work again."""
    queue = Queue("q", server.url, lease=60)
    queue.put_many(["a", "b"])
    for _ in range(2):
        for message in Queue("q", server.url).claim_many(2):
            message.extend(0)
    done: list[Any] = []
    stop = threading.Event()

    def handler(message: Any) -> None:
        time.sleep(0.05)
        done.append(message.body)
        if isinstance(message.body, int):
            queue.put(message.body + 2)

    queue.put_many([0, 1])
    with running(*[lambda: queue.work(handler, prefetch=1, stop=stop)] * 2, stop=stop):
        wait_until("both to be worked on", lambda: {"a", "b"} <= set(done), 10)
        count = len(done)
        wait_until("the others to go on", lambda: len(done) > count + 4, 5)
