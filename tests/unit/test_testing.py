"""`atomq.testing`: what users' tests are given."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from atomq import AsyncMessage, AsyncQueue, InvalidArgument, Queue
from atomq.testing import Clock, drain, drain_async

URL = "memory://test-testing"


@pytest.fixture
def queue() -> Iterator[Queue]:
    with Queue("q", URL) as queue:
        yield queue
        queue.delete(force=True)


def test_drain_handles_what_handlers_put_and_leaves_what_is_not_due(queue: Queue) -> None:
    queue.put(3)
    queue.put(0, delay=60)
    put = drain(queue, lambda message: message.body and queue.put(message.body - 1).id)
    assert len(put) == 4
    assert queue.state().delayed == 1


def test_what_a_handler_raises_comes_out_of_drain_and_the_message_is_tried_again(
    queue: Queue,
) -> None:
    queue.put("x")
    with Clock() as clock:
        with pytest.raises(ZeroDivisionError):
            drain(queue, lambda _: 1 / 0)
        assert drain(queue, lambda _: None) == []
        clock.advance(timedelta(minutes=1))
        assert drain(queue, lambda message: message.deliveries) == [2]


def test_a_handler_whose_work_nothing_awaits_is_named(queue: Queue) -> None:
    queue.put("x")
    with pytest.raises(InvalidArgument, match="which nothing awaits"):
        drain(queue, lambda _: asyncio.sleep(0))
    assert queue.state().delayed == 1, "it is not acked"


def test_handlers_that_never_end_are_named(queue: Queue) -> None:
    queue.put(1)
    with pytest.raises(AssertionError, match="10 messages, and there are more"):
        drain(queue, lambda _: queue.put(1), most=10)


def test_asyncio_drains_too(queue: Queue) -> None:
    async def handler(message: AsyncMessage) -> int:
        return int(message.body)

    async def run() -> list[int]:
        async with AsyncQueue("q", URL) as same:
            return await drain_async(same, handler)

    queue.put_many([1, 2])
    assert asyncio.run(run()) == [1, 2]


def test_the_clock_moves_times_to_live_and_leases_and_is_put_back(queue: Queue) -> None:
    queue.put("held")
    queue.put("late", ttl=10)
    with Clock() as clock:
        held = queue.claim()
        queue.keeper.drop((held.receipt,)) if held else None
        clock.advance(61)  # the lease has ended, and the outage that this looks like begins
        assert drain(queue, lambda message: message.body) == []
        assert queue.peek("dead")[0].reason == "expired"
        clock.advance(21)
        assert drain(queue, lambda message: message.body) == ["held"]
    import fakeredis.commands_mixins.server_mixin as where

    assert where.time is time  # type: ignore[attr-defined]


def test_nothing_is_loaded_unasked() -> None:
    assert not [each for each in entry_points(group="pytest11") if each.value.startswith("atomq")]


CONFTEST = 'pytest_plugins = ["atomq.testing"]\n'
TESTS = """
from atomq import Queue

def test_it_is_empty(atomq_url):
    with Queue("same", atomq_url) as queue:
        assert queue.state().ready == 0
        queue.put(1)

test_it_is_empty_again = test_it_is_empty

def test_a_queue_of_its_own(atomq_queue, atomq_url):
    atomq_queue.put(1)
    assert atomq_url.startswith(WHERE)
    assert atomq_queue.claim().body == 1

def test_a_real_clock_cannot_be_moved(atomq_clock):
    atomq_clock.advance(1)
"""


@pytest.mark.parametrize(
    ("where", "outcome"), [("memory", "4 passed"), ("embedded", "3 passed, 1 error")]
)
def test_the_fixtures_go_where_the_ini_file_says(tmp_path: Path, where: str, outcome: str) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS.replace("WHERE", repr(f"{where}:")))
    (tmp_path / "pytest.ini").write_text(f"[pytest]\natomq_url = {where}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert outcome in done.stdout, done.stdout
    assert ("only the clock of memory:// can be moved" in done.stdout) == ("error" in outcome)
