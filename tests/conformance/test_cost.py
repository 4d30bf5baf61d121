"""What a message costs, in figures that no load moves: commands, round trips, bytes on the wire.

A figure here is what it is today. What raises one is a decision, to be made here; what lowers one
lowers it here, so that it stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from atomq import AsyncEngine, AsyncQueue, Queue, calls
from benchmarks.meter import Meter
from tests.servers import Cluster, Server, wait_until

COUNT, WARM = 200, 50
BODY = {"at": 12345.678901, "pad": "x" * 100}


def put(queue: Queue, count: int) -> None:
    for _ in range(count):
        queue.put(BODY)


def put_many(queue: Queue, count: int) -> None:
    for _ in range(count // 50):
        queue.put_many([BODY] * 50)


def claim_and_ack(queue: Queue, count: int) -> None:
    for _ in range(count):
        message = queue.claim()
        assert message
        message.ack()


def claim_and_complete(queue: Queue, count: int) -> None:
    for _ in range(count):
        message = queue.claim()
        assert message
        message.complete("done")


def claim_and_reject(queue: Queue, count: int) -> None:
    for _ in range(count):
        message = queue.claim()
        assert message
        message.reject("failed", "at once")


def claim_many_and_ack(queue: Queue, count: int) -> None:
    for _ in range(count // 50):
        messages = queue.claim_many(50)
        assert len(messages) == 50
        queue.ack_many(messages)


def consume(queue: Queue, count: int) -> None:
    for done, message in enumerate(queue.consume(prefetch=1), 1):
        with message:
            pass
        if done == count:
            break


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
@pytest.mark.parametrize(
    ("work", "fill", "commands", "round_trips", "size"),
    [
        pytest.param(put, 0, 5, 1, 570, id="put"),
        pytest.param(put_many, 0, 0.1, 0.02, 336, id="put_many of 50"),
        pytest.param(claim_and_ack, 1, 16.4, 2, 1100, id="claim, ack"),
        pytest.param(claim_and_complete, 1, 18.4, 2, 1320, id="claim, complete"),
        pytest.param(claim_and_reject, 1, 21.4, 2, 1410, id="claim, reject"),
        pytest.param(claim_many_and_ack, 1, 0.4, 0.04, 380, id="claim_many, ack_many of 50"),
        pytest.param(consume, 1, 14, 1.1, 945, id="consume(prefetch=1)"),
    ],
)
def test_a_message_costs_no_more_than_it_did(
    server: Server,
    work: Callable[[Queue, int], None],
    fill: int,
    commands: float,
    round_trips: float,
    size: float,
) -> None:
    """Bytes are of a body of 100 bytes with its envelope, to the server and back."""
    with Queue("cost", server.url) as queue:
        queue.engine.nodes()[0].load()
        put_many(queue, fill * (COUNT + 2 * WARM))
        work(queue, WARM)  # connections are made, the register is written
        if fill:
            roster = calls.roster(queue.engine.register.keys)
            wait_until("this process is there", lambda: queue.engine.run(roster).processes)
        meter = Meter(server.client())
        begin = meter.read()
        work(queue, COUNT)
        spent = meter.spent(begin)
    assert spent.commands / COUNT <= commands
    assert spent.round_trips / COUNT <= round_trips
    assert spent.bytes / COUNT <= size


async def consume_nothing(url: str, names: list[str], seconds: float, meter: Meter) -> float:
    """Commands a second while a consumer of each of these queues waits."""

    async def wait(queue: AsyncQueue) -> None:
        async for _ in queue.consume():
            raise AssertionError

    async with AsyncEngine(url) as engine:
        tasks = [asyncio.create_task(wait(AsyncQueue(name, engine))) for name in names]
        await asyncio.sleep(1.5)  # by then one of each queue is known to look
        begin, began = meter.read(), time.monotonic()
        await asyncio.sleep(seconds)
        spent = meter.spent(begin).commands / (time.monotonic() - began)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
    return spent


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(
    ("queues", "consumers", "most", "kind"),
    # What asks is the client, of any server alike: the oldest is tried where several share a queue.
    [
        (1, 1, 10, "valkey-9"),
        (1, 10, 14, "redis-6.2"),
        (1, 10, 14, "valkey-9"),
        (50, 1, 350, "valkey-9"),
    ],
    ids=str,
    indirect=["kind"],
)
def test_idle_consumers_ask_little(
    server: Server, queues: int, consumers: int, most: float
) -> None:
    """Of one queue as many as there are cost little more than one: one of them looks."""
    names = [f"q{n}" for n in range(queues)] * consumers
    meter, found = Meter(server.client()), []
    for _ in range(4):  # where a busy machine lets a consumer be late, another one looks too
        found.append(asyncio.run(consume_nothing(server.url, names, 2.5, meter)))
        if found[-1] <= most:
            return
    raise AssertionError(found)


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
@pytest.mark.parametrize(
    ("work", "fill", "calls"),
    [
        pytest.param(put, 0, 23.1, id="put"),
        pytest.param(claim_and_ack, 1, 69, id="claim, ack"),
        pytest.param(claim_and_complete, 1, 85, id="claim, complete"),
        pytest.param(claim_and_reject, 1, 90, id="claim, reject"),
        pytest.param(consume, 1, 44, id="consume(prefetch=1)"),
    ],
)
def test_a_message_runs_no_more_python_than_it_did(
    server: Server, work: Callable[[Queue, int], None], fill: int, calls: float
) -> None:
    """Python functions that the thread which works calls, a message: the client's CPU, nearly."""
    with Queue("cost", server.url) as queue:
        put_many(queue, fill * (COUNT + 2 * WARM))
        assert functions(queue, work) <= calls


@pytest.mark.parametrize(
    ("work", "partitions", "calls"),
    [
        pytest.param(put, None, 29.1, id="put"),
        pytest.param(put, 12, 59, id="put into partitions"),
        pytest.param(put_many, 12, 7, id="put_many into partitions"),
    ],
)
def test_a_message_to_a_cluster_runs_no_more_python_than_it_did(
    cluster: Cluster, work: Callable[[Queue, int], None], partitions: int | None, calls: float
) -> None:
    """So the client of a cluster has little more to do than that of one server."""
    with Queue(
        "cost", f"redis+cluster://127.0.0.1:{cluster.nodes[0].port}", partitions=partitions
    ) as queue:
        # The first may meet a node that is to be given the script.
        assert min(functions(queue, work) for _ in range(3)) <= calls


def functions(queue: Queue, work: Callable[[Queue, int], None]) -> float:
    """How many functions of Python this thread calls, a message."""
    called = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal called
        called += event == "call"

    work(queue, WARM)
    gc.disable()  # what it finds is of other tests
    sys.setprofile(count)
    try:
        work(queue, COUNT)
    finally:
        sys.setprofile(None)
        gc.enable()
    return called / COUNT


def bytecodes(queue: Queue) -> float:
    """What Python executes a put, in the thread that puts."""
    executed = 0

    def trace(frame: FrameType, _event: str, _: Any) -> Any:
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return opcode

    def opcode(_: FrameType, event: str, __: Any) -> Any:
        nonlocal executed
        executed += event == "opcode"
        return opcode

    put(queue, WARM)
    sys.settrace(trace)
    try:
        put(queue, COUNT)
    finally:
        sys.settrace(None)
    return executed / COUNT


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_a_put_on_a_cluster_costs_its_client_hardly_more(server: Server, cluster: Cluster) -> None:
    """Of all instructions of the process, those in C included, it was 1.09 times as much."""
    at = f"redis+cluster://127.0.0.1:{cluster.nodes[0].port}"
    with Queue("cost", server.url) as one, Queue("cost", at) as other:
        assert bytecodes(other) < 1.15 * bytecodes(one)
