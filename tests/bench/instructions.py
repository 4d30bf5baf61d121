"""What a call costs its client in instructions, which no load moves: here beside another checkout.

    python -m tests.bench.instructions [--only WORD] [--beside CHECKOUT] [--functions]
                                       [--server valkey-9|redis-7]

Runs each case in a process of its own under Valgrind's Cachegrind, twice: with few calls and with
many. The difference is what the calls cost, all threads of the client together. `--beside` does the
same with the engine of another checkout. `--functions` says where: the bytecodes that Python
executes in each function a call, in the thread that calls. Starts a server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tests.bench.stock import Stock
from tests.servers import Server

BODY = {"task": "resize", "n": 1, "text": "x" * 200}  # 230 bytes as JSON
SLOWER = 40  # times: so much Cachegrind takes longer, and so much the timers of the client wait
THIS = "tests.bench.instructions"
ROOT = Path(__file__).resolve().parents[2]
FEW, MANY = 100, 500  # calls
TIMERS = {"ACK_DELAY", "COST", "PACE", "TURN"}

Work = Callable[[int], Any]


# ── the cases, run in a child ────────────────────────────────────────────────────────────────


def bare(url: str) -> Work:
    """A script without keys, over the socket of redis-py: what is below is Python's and ours."""
    from atomq.client import Engine

    connection: Any = Engine(url).connection()
    connection.send_command("SCRIPT", "LOAD", "return 1")
    sha = connection.read_response()
    data = connection.pack_command("EVALSHA", sha, 0, "x" * 330)[0]
    connection._sock.settimeout(None)  # else Python polls before each read and each write

    def work(count: int) -> None:
        for _ in range(count):
            connection._sock.sendall(data)
            connection._sock.recv(65536)

    return work


def bare_in_a_task(url: str) -> Work:
    """The same by asyncio: a `Protocol`, and a future a call."""
    from atomq.client import Engine

    connection: Any = Engine(url).connection()
    connection.send_command("SCRIPT", "LOAD", "return 1")
    sha = connection.read_response()
    data = connection.pack_command("EVALSHA", sha, 0, "x" * 330)[0]
    runner = asyncio.Runner()

    class Calls(asyncio.Protocol):
        answer: asyncio.Future[bytes]

        def data_received(self, data: bytes) -> None:
            self.answer.set_result(data)

    async def begin() -> Any:
        create = asyncio.get_running_loop().create_connection
        return await create(Calls, sock=connection._sock)

    transport, calls = runner.run(begin())

    async def work(count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            calls.answer = loop.create_future()
            transport.write(data)
            await calls.answer

    return lambda count: (connection, runner.run(work(count)))


def bare_put(url: str) -> Work:
    """What any client does that puts this message: its id, JSON, the envelope, the packed words."""
    from hiredis import Reader, pack_command

    from atomq.client import Engine
    from atomq.message import Writer

    connection: Any = Engine(url).connection()
    connection.send_command("SCRIPT", "LOAD", "return 1")
    head = pack_command(("EVALSHA", connection.read_response(), 0, 1, 240_000, "", ""))
    head, reader = head[: head.rindex(b"$")], Reader()
    connection._sock.settimeout(None)
    write = Writer("q").write

    def work(count: int) -> None:
        for number in range(count):
            words = pack_command((write(BODY, f"abcdefabcdefabcdefabcdef-{number}"),))
            connection._sock.sendall(head + words[words.index(b"\n") + 1 :])
            reader.feed(connection._sock.recv(65536))
            assert reader.gets() == 1

    return work


def put(url: str) -> Work:
    """One thread."""
    from atomq import Queue

    queue = Queue("q", url)

    def work(count: int) -> None:
        for _ in range(count):
            queue.put(BODY)

    return work


def put_in_a_task(url: str) -> Work:
    """One asyncio task."""
    from atomq import AsyncQueue

    runner = asyncio.Runner()

    async def begin() -> Any:
        return AsyncQueue("q", url)

    queue = runner.run(begin())

    async def puts(count: int) -> None:
        for _ in range(count):
            await queue.put(BODY)

    return lambda count: runner.run(puts(count))


def put_many(url: str) -> Work:
    """100 messages a call; the figure is of a call."""
    from atomq import Queue

    queue, items = Queue("q", url), [BODY] * 100

    def work(count: int) -> None:
        for _ in range(count):
            queue.put_many(items)

    return work


def consume(url: str) -> Work:
    """`consume(prefetch=1)` with a `with` block a message: the ack rides with the next claim."""
    from atomq import Queue

    queue = Queue("q", url)
    queue.put_many([BODY] * (2 * (FEW + MANY)))
    messages = queue.consume(prefetch=1, timeout=1)

    def work(count: int) -> None:
        for _ in range(count):
            with next(messages):
                pass

    return work


def consume_in_a_task(url: str) -> Work:
    """The same, by an asyncio task."""
    from atomq import AsyncQueue

    runner = asyncio.Runner()

    async def begin() -> Any:
        queue = AsyncQueue("q", url)
        await queue.put_many([BODY] * (2 * (FEW + MANY)))
        return queue.consume(prefetch=1, timeout=1)

    messages = runner.run(begin())

    async def take(count: int) -> None:
        for _ in range(count):
            async with await anext(messages):
                pass

    return lambda count: runner.run(take(count))


def consume_64(url: str) -> Work:
    """`consume(prefetch=64)`."""
    from atomq import Queue

    queue = Queue("q", url)
    queue.put_many([BODY] * (2 * (FEW + MANY) + 64))
    messages = queue.consume(prefetch=64, timeout=1)

    def work(count: int) -> None:
        for _ in range(count):
            with next(messages):
                pass

    return work


def claim_and_ack(url: str) -> Work:
    """Two calls."""
    from atomq import Queue

    queue = Queue("q", url)
    queue.put_many([BODY] * (2 * (FEW + MANY)))

    def work(count: int) -> None:
        for _ in range(count):
            message = queue.claim()
            assert message is not None
            message.ack()

    return work


def threads_that_put(url: str) -> Work:
    """Eight threads; the figure is of a message."""
    from atomq import Queue

    queue = Queue("q", url)

    def work(count: int) -> None:
        def puts() -> None:
            for _ in range(count // 8):
                queue.put(BODY)

        threads = [threading.Thread(target=puts) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return work


def kombu_publish(url: str) -> Work:
    """A message through an exchange, as `SimpleQueue` does."""
    peer = Stock(f"atomq+{url.removeprefix('redis+')}", "q")
    return lambda count: peer.publish(BODY, count)


def kombu_consume(url: str) -> Work:
    """A message consumed and acked in Kombu's event loop."""
    from atomq.client import Engine

    peer, connection = Stock(f"atomq+{url.removeprefix('redis+')}", "q"), Engine(url).connection()
    peer.publish(BODY, 1)
    connection.send_command("LPOP", "q")
    message = connection.read_response()

    def work(count: int) -> None:
        connection.send_command("LPUSH", "q", *[message] * count)
        connection.read_response()
        peer.published = count
        peer.consume()

    return work


def kombu_consumer(url: str) -> Work:
    """A consumer of Kombu's that begins, takes one message and ends."""
    work = kombu_consume(url)

    def works(count: int) -> None:
        for _ in range(count):
            work(1)

    return works


CASES = {
    "bare": bare,
    "bare-task": bare_in_a_task,
    "bare-put": bare_put,
    "put": put,
    "put-task": put_in_a_task,
    "put-many": put_many,
    "put-threads": threads_that_put,
    "consume-1": consume,
    "consume-1-task": consume_in_a_task,
    "consume-64": consume_64,
    "claim-ack": claim_and_ack,
    "kombu-publish": kombu_publish,
    "kombu-consume": kombu_consume,
    "kombu-consumer": kombu_consumer,
}


def slow_clock() -> None:
    """Have timers of the client go off as often a call as they do where nothing counts."""
    for name, module in [*sys.modules.items()]:
        if name.startswith("atomq."):
            for timer in TIMERS.intersection(vars(module)):
                setattr(module, timer, getattr(module, timer) * SLOWER)


def load_scripts(url: str) -> None:
    """Have a run with few calls do no more for it than one with many, which begins later."""
    from atomq.client import Engine

    with Engine(url) as engine:
        engine.nodes()[0].load()


def _child(case: str, url: str, count: int) -> None:
    load_scripts(url)
    work = CASES[case](url)
    slow_clock()
    work(FEW)  # connections, caches
    gc.collect()
    work(count)
    sys.stdout.flush()
    os._exit(0)  # without the work of leaving


# ── bytecodes ────────────────────────────────────────────────────────────────────────────────


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the bytecodes of this thread, by function."""
    found: Counter[str] = Counter()
    calls: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        code = frame.f_code
        name = f"{Path(code.co_filename).name}:{code.co_qualname}"
        if event == "call":
            calls[name] += 1

        def opcode(_: FrameType, event: str, __: Any) -> Any:
            if event == "opcode":
                found[name] += 1
            return opcode

        return opcode

    sys.settrace(trace)
    try:
        yield found
    finally:
        sys.settrace(None)


def _functions(case: str, url: str) -> None:
    work = CASES[case](url)
    work(FEW)
    with counted() as found:
        work(FEW)
    print(f"\n{case}: {sum(found.values()) / FEW:.0f} bytecodes a call")
    for name, count in found.most_common(45):
        print(f"  {count / FEW:7.1f}  {name}")
    sys.stdout.flush()
    os._exit(0)


# ── counting ─────────────────────────────────────────────────────────────────────────────────


def environment(checkout: Path) -> dict[str, str]:
    path = os.pathsep.join([str(checkout / "engine"), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}


def _run(checkout: Path, words: list[str], tool: Sequence[str] = (), module: str = THIS) -> str:
    command = [*tool, sys.executable, "-m", module, *words]
    done = subprocess.run(
        command, env=environment(checkout), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def instructions(checkout: Path, case: str, server: Server, module: str = THIS) -> float:
    """What one call of a case of that module costs, all threads of its client together."""
    with tempfile.TemporaryDirectory() as folder:
        tool = ["valgrind", "--tool=cachegrind", "--cache-sim=no"]
        tool += [f"--cachegrind-out-file={folder}/out"]
        totals = []
        for count in (FEW, MANY):
            server.client().flushall()
            said = _run(checkout, ["--child", case, server.url, str(count)], tool, module)
            found = re.search(r"I\s+refs:\s+([\d,]+)", said)
            assert found, said
            totals.append(int(found[1].replace(",", "")))
    return (totals[1] - totals[0]) / (MANY - FEW)


def main() -> None:
    """Count, and print a line a case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--only", default="", help="this case, or those that have it in their names"
    )
    parser.add_argument("--beside", type=Path, help="another checkout, counted too")
    parser.add_argument("--functions", action="store_true", help="bytecodes by function")
    parser.add_argument("--server", default="valkey-9")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--in-child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _child(given.child[0], given.child[1], int(given.child[2]))
    if given.in_child:
        _functions(*given.in_child)
    checkouts = [ROOT] if given.beside is None else [given.beside.resolve(), ROOT]
    with Server(given.server) as server:
        names = [given.only] if given.only in CASES else [n for n in CASES if given.only in n]
        for case in names:
            if given.functions:
                for checkout in checkouts:
                    server.client().flushall()
                    print(_run(checkout, ["--in-child", case, server.url]), end="", flush=True)
                continue
            counts = [instructions(checkout, case, server) / 1000 for checkout in checkouts]
            more = f"   {counts[-1] / counts[0]:.3f}" if len(counts) > 1 else ""
            print(f"{case:16}" + " -> ".join(f"{c:8.1f}" for c in counts) + more, flush=True)


if __name__ == "__main__":
    main()
