"""How far the aims of a call can be reached: an older build, this one, and the least there can be.

    python -m tests.bench.floor --beside CHECKOUT [--only ROW] [--rounds N] [--instructions]
                                [--server valkey-9|redis-7]

The floor does what a call promises and nothing else. It sends the same keys and words over a bare
socket, to a script that runs the same commands and checks nothing, and makes the same id, JSON and
envelope. It has no retries, no leases to renew, no other kind of call. So no client of these
promises is faster, and its ratio to the older build is the best that can be had.

The three take turns. A line has the least µs a message, or with `--instructions` the thousands of
instructions of client and server, which no load moves: then client and server are added, as they
take turns too. Starts a server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hiredis import Reader, pack_command

from tests.bench.instructions import (
    BODY,
    CASES,
    FEW,
    ROOT,
    Work,
    environment,
    instructions,
    load_scripts,
    slow_clock,
)
from tests.servers import Server

THREADS = 8
MESSAGES = 2_000  # a round

PUBLISH = """
local waiting = redis.call("LLEN", KEYS[2])
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2], "GET")
redis.call("HINCRBY", KEYS[4], "published", #ARGV - 3)
redis.call("LPUSH", KEYS[5], unpack(ARGV, 4))
if waiting == 0 then
  redis.call("RPUSH", KEYS[2], "1")
end
return 1
"""

CLAIM = """
local time = redis.call("TIME")
local now = time[1] .. string.sub("00000" .. time[2], -6, -4)
redis.call("LLEN", KEYS[12])
redis.call("HMGET", KEYS[7], "paused", "renew", "largest", "steps", "quiet")
redis.call("ZCOUNT", KEYS[3], "-inf", now .. ".5")
redis.call("LLEN", KEYS[6])
local body = redis.call("RPOP", KEYS[12])
redis.call("HINCRBY", KEYS[8], "delivered", 1)
local receipt = ARGV[1] .. ".0.1"
redis.call("ZADD", KEYS[1], "NX", now + ARGV[4], receipt)
redis.call("HSET", KEYS[2], receipt, "1 1 " .. now .. " " .. body)
redis.call("HDEL", KEYS[2], ARGV[12])
redis.call("ZREM", KEYS[1], ARGV[12])
redis.call("HINCRBY", KEYS[8], "acked", 1)
return now .. " -1 0 1 1 0 1 1 1 1 1\\n" .. body
"""


# ── the least there can be ───────────────────────────────────────────────────────────────────


class Least:
    """One script over one socket of redis-py, with the keys of a call of ours."""

    def __init__(self, url: str, text: str, call: Any) -> None:
        from atomq.client import Engine

        self.connection: Any = Engine(url).connection()
        self.connection.send_command("SCRIPT", "LOAD", text)
        self.head = ("EVALSHA", self.connection.read_response(), len(call.keys), *call.keys)
        self.socket: Any = self.connection._sock
        self.connection._sock.settimeout(None)  # else Python polls before each read and each write
        self.reader = Reader()

    def packed(self, words: int) -> bytes:
        """What stands before so many words of a call."""
        packed: bytes = pack_command(self.head)
        return b"*%d%b" % (len(self.head) + words, packed[packed.index(b"\r") :])

    def call(self, data: bytes) -> Any:
        """The answer."""
        self.socket.sendall(data)
        self.reader.feed(self.socket.recv(65536))
        return self.reader.gets()


def words(*said: Any) -> bytes:
    """Words of a command as they are sent."""
    packed: bytes = pack_command(said)
    return packed[packed.index(b"\n") + 1 :]


def _publishing(url: str) -> tuple[Least, Callable[[int], str]]:
    from atomq.calls import plain, publish
    from atomq.client import Engine
    from atomq.ids import CallId
    from atomq.message import Writer

    write = Writer("q").write
    call = publish(Engine(url).keys("q"), [plain("{}", "")], CallId("abcdefabcdefabcdefabcdef-1"))
    return Least(url, PUBLISH, call), lambda i: write(BODY, f"abcdefabcdefabcdefabcdef-{i}")


def floor_put(url: str) -> Work:
    """`put`, one thread."""
    least, message = _publishing(url)
    head = least.packed(4)

    def work(count: int) -> None:
        for i in range(count):
            assert least.call(head + words(i, 240_000, "", message(i))) == 1

    return work


def floor_put_in_a_task(url: str) -> Work:
    """`put`, one task: a `Protocol`, and a future a call."""
    least, message = _publishing(url)
    head, runner, reader = least.packed(4), asyncio.Runner(), least.reader

    class Calls(asyncio.Protocol):
        answer: asyncio.Future[Any]

        def data_received(self, data: bytes) -> None:
            reader.feed(data)
            self.answer.set_result(reader.gets())

    async def begin() -> Any:
        return await asyncio.get_running_loop().create_connection(Calls, sock=least.socket)

    transport, calls = runner.run(begin())

    async def work(count: int) -> None:
        loop = asyncio.get_running_loop()
        for i in range(count):
            calls.answer = loop.create_future()
            transport.write(head + words(i, 240_000, "", message(i)))
            assert await calls.answer == 1
        assert least.connection  # which would close the socket

    return lambda count: runner.run(work(count))


def _in_threads(count: int, put: Callable[[int, int], Any]) -> None:
    def puts(name: int) -> None:
        for i in range(count // THREADS):
            put(name, i)

    threads = [threading.Thread(target=puts, args=(name,)) for name in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def floor_put_in_threads(url: str) -> Work:
    """`put`, eight threads, each over a socket of its own."""
    works = [floor_put(url) for _ in range(THREADS)]
    return lambda count: _in_threads(count, lambda name, _: works[name](1))


def floor_put_together(url: str) -> Work:
    """`put`, eight threads that share calls: what comes while one is under way goes in the next."""
    least, message = _publishing(url)
    waiting: deque[Any] = deque()
    calls = threading.Lock()  # one is under way

    def lead(own: Any) -> None:
        batch = [waiting.popleft() for _ in range(len(waiting))]
        said = words(1, 240_000, "", *[put[0] for put in batch])
        least.call(least.packed(3 + len(batch)) + said)
        for put in batch:
            put[2] = True
            if put is not own:
                put[1].release()
        calls.release()
        if waiting and calls.acquire(False):
            waiting[0][1].release()

    def put(_: int, i: int) -> None:
        own: Any = [message(i), threading.Lock(), False]
        own[1].acquire()
        waiting.append(own)
        if not calls.acquire(False):
            own[1].acquire()
        if not own[2]:
            lead(own)

    return lambda count: _in_threads(count, put)


def floor_consume(url: str) -> Work:
    """`consume(prefetch=1)`: each claim takes the ack of the last message along."""
    from atomq.calls import Claims
    from atomq.client import Engine

    engine = Engine(url)
    claims = Claims([engine.keys("q")], lease_ms=60_000)
    least = Least(url, CLAIM, claims.call("abcdefabcdefabcdefabcdef-1", 1, 0, [["x"]]))
    middle = words(0, 1, 60_000, 20_000, 0, 1 << 20, 1, 0, "", 1)
    head, name = least.packed(12), "abcdefabcdefabcdefabcdef-"
    _fill(url)

    def work(count: int) -> None:
        receipt = ""
        for i in range(count):
            claim_id = f"{name}{i}"
            data = b"%b%b%b%b" % (head, words(claim_id), middle, words(receipt))
            said, body = least.call(data).split(b"\n", 1)
            assert body
            assert said
            receipt = f"{claim_id}.0.1"

    return work


def _fill(url: str) -> None:
    from atomq import Queue

    Queue("q", url).put_many([BODY] * 15 * MESSAGES)


FLOORS: dict[str, Callable[[str], Work]] = {
    "put": floor_put,
    "put-task": floor_put_in_a_task,
    "put-threads": floor_put_in_threads,
    "put-together": floor_put_together,
    "consume-1": floor_consume,
}
AIMS = {"put": 1.3, "put-task": 1.7, "put-threads": 2.0, "consume-1": 1.4}


# ── the three in turn ────────────────────────────────────────────────────────────────────────


def _child(case: str, url: str) -> None:
    """Do as many as a line says, and say how long it took; a line that is empty is the end."""
    load_scripts(url)
    kind, _, name = case.partition(":")
    if name == "consume-1" and kind != "floor":
        _fill(url)
    work = (FLOORS if kind == "floor" else CASES)[name](url)
    work(FEW)
    print(flush=True)
    for line in sys.stdin:
        began, cpu = time.perf_counter(), time.process_time()
        work(int(line))
        print(json.dumps([time.perf_counter() - began, time.process_time() - cpu]), flush=True)


class Side:
    """One of the three, in a process of its own, and the least of its rounds."""

    def __init__(self, name: str, checkout: Path, case: str, server: Server) -> None:
        self.name = name
        words = [sys.executable, "-m", "tests.bench.floor", "--child", case, server.url]
        self.process = subprocess.Popen(
            words, env=environment(checkout), cwd=ROOT, stdin=-1, stdout=-1, text=True
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()
        self.least = [1e9, 1e9]

    def round(self, messages: int) -> None:
        """So many messages."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{messages}\n")
        self.process.stdin.flush()
        took = json.loads(self.process.stdout.readline())
        self.least = list(map(min, self.least, took))

    def end(self) -> None:
        """It has nothing to do any more."""
        self.process.communicate()


def _sides(row: str, beside: Path) -> list[tuple[str, Path, str]]:
    named = [(beside.name, beside, f"build:{row}"), ("this", ROOT, f"build:{row}")]
    floors = [row, "put-together"] if row == "put-threads" else [row]
    return named + [("floor", ROOT, f"floor:{floor}") for floor in floors]


def by_clock(row: str, beside: Path, kind: str, rounds: int) -> list[tuple[str, float, float]]:
    """Name, least µs and least µs of client CPU a message, of each side."""
    servers = [Server(kind) for _ in _sides(row, beside)]  # no side works beside another's keys
    try:
        sides = []
        for server, (name, checkout, case) in zip(servers, _sides(row, beside), strict=True):
            server.start()
            sides.append(Side(name, checkout, case, server))
        for _ in range(rounds):
            for side in sides:
                side.round(MESSAGES)
        for side in sides:
            side.end()
        return [(s.name, *[each / MESSAGES * 1e6 for each in s.least]) for s in sides]  # type: ignore[misc]
    finally:
        for server in servers:
            server.stop()


def by_instructions(row: str, beside: Path, kind: str) -> list[tuple[str, float, float]]:
    """Name, thousands of instructions of client and server a message, of each side."""
    from tests.bench.consumers import Counted  # here: it imports what `beside` may lack

    found = []
    for name, checkout, case in _sides(row, beside):
        with Server(kind) as server:
            client = instructions(checkout, case, server, "tests.bench.floor") / 1000
        with Counted(kind, options={"hz": "1"}) as counted:
            side = Side(name, checkout, case, counted)
            counted.instructions()
            side.round(FEW)
            few = counted.instructions()
            side.round(4 * FEW)
            server_ = (counted.instructions() - few) / (3 * FEW) / 1000
            side.end()
        found.append((name, client, server_))
    return found


def _counted_child(case: str, url: str, count: int) -> None:
    load_scripts(url)
    kind, _, name = case.partition(":")
    work = (FLOORS if kind == "floor" else CASES)[name](url)
    slow_clock()
    work(FEW)
    work(count)


def main() -> None:
    """Measure, and print a line a row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--beside", type=Path, help="a checkout of the older build")
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--server", default="valkey-9")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child and len(given.child) == 3:
        _counted_child(given.child[0], given.child[1], int(given.child[2]))
        return
    if given.child:
        _child(*given.child)
        return
    if given.beside is None:
        parser.error("--beside: the aims are ratios to another checkout")
    beside = given.beside.resolve()
    units = "client + server" if given.instructions else "µs (client CPU)"
    print(f"{'':12} aim  reached  best  {units}: {beside.name} -> this build -> floor")
    for row in [given.only] if given.only in AIMS else AIMS:
        if given.instructions:
            lines = by_instructions(row, beside, given.server)
            totals = [client + server for _, client, server in lines]
            shown = [f"{client:.0f} + {server:.0f}" for _, client, server in lines]
        else:
            lines = by_clock(row, beside, given.server, given.rounds)
            totals = [took for _, took, _ in lines]
            shown = [f"{took:.1f} ({cpu:.1f})" for _, took, cpu in lines]
        reached, best = totals[0] / totals[1], totals[0] / min(totals[2:])
        line = f"{row:12} {AIMS[row]:.1f}     {reached:.2f}  {best:.2f}"
        print(f"{line}  {' -> '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
