"""What a message costs three nodes of a cluster, beside one server: CPU of servers and of client.

    python -m tests.bench.shards [--rounds 7] [--messages 40000] [--only WORD] [--replicas]
                                 [--free] [--instructions] [--server valkey-9]

All in one run, in turn, and the medians of all rounds:

- `one`: a queue on one server.
- `three`: a queue of twelve partitions on the three nodes of a cluster.
- `in turn`: the same cluster, and the same partitions, those of one node after those of another.
  So the nodes displace each other from no cache, as on machines of their own.
- `apart`: three servers that are no cluster, a queue on each, used in turn. What they cost above
  `one` is what three processes cost that share a core, whatever runs on them.

A ratio is that of messages for each second of server CPU: 1 is as good as `one`. CPU is that of the
main threads; what the same servers take while idle, for as long, is taken off. The servers run on
one core, and the client on another one (`--free`: wherever the kernel puts them). `--replicas`
gives each server a replica, whose own CPU is not counted. `--instructions` counts those instead, of
all threads of a server in user mode, by Callgrind; no load moves them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from atomq import AsyncEngine, AsyncQueue, Queue
from atomq.partitioned_base import TOGETHER
from tests import servers
from tests.bench.consumers import Counted, slow_down
from tests.servers import Cluster, Server, wait_until

BODY = {"task": "resize", "n": 1, "text": "x" * 60}
BATCH, TASKS, PARTITIONS = 100, 64, 12
REST = 0.2  # s in which idle servers are measured
OPTIONS = {"cluster-require-full-coverage": "no"}
PATIENT = {"cluster-node-timeout": "120000"}


class Part(NamedTuple):
    """A queue, for threads and for tasks."""

    queue: Any
    tasks: Any


class World:
    """Some servers, and the queues that the client uses on them."""

    def __init__(
        self,
        name: str,
        runner: asyncio.Runner,
        nodes: Sequence[Server],
        shares: Sequence[Sequence[Part]],
    ) -> None:
        self.name = name
        self.runner = runner
        self.nodes = nodes
        self.shares = shares
        """Queues that are used in turn; those of a share before those of the next one."""

    def over(self, count: int) -> Iterable[Part]:
        """The queue to use, so many times."""
        for at, parts in enumerate(self.shares):
            some = count * (at + 1) // len(self.shares) - count * at // len(self.shares)
            for i in range(some):
                yield parts[i % len(parts)]

    def empty(self) -> None:
        """Throw away what lies in the queues."""
        for parts in self.shares:
            for part in parts:
                part.queue.purge("ready", "delayed", "unacked")


# ── what is done ──────────────────────────────────────────────────────────────────────────────


def put_many(world: World, messages: int) -> None:
    """100 in a call."""
    items = [BODY] * BATCH
    for part in world.over(messages // BATCH):
        part.queue.put_many(items)


def _in_tasks(world: World, messages: int, put: Callable[[Any, int], Any]) -> None:
    turns = world.over(messages // TOGETHER)
    uses = (part.tasks for part in turns for _ in range(TOGETHER))

    async def puts(number: int) -> None:
        for _ in range(messages // TASKS):
            await put(next(uses), number)

    async def all_of_them() -> None:
        await asyncio.gather(*map(puts, range(TASKS)))

    world.runner.run(all_of_them())


def put_in_tasks(world: World, messages: int) -> None:
    """64 tasks, each one at a time."""
    _in_tasks(world, messages, lambda queue, _: queue.put(BODY))


def put_by_key(world: World, messages: int) -> None:
    """The same, each task with a key of its own."""
    _in_tasks(world, messages, lambda queue, number: queue.put(BODY, key=f"customer {number}"))


def put(world: World, messages: int) -> None:
    """One thread, one at a time."""
    for part in world.over(messages):
        part.queue.put(BODY)


def claim_many(world: World, messages: int) -> None:
    """100 in a claim, and acked in a call."""

    def done(queue: Any) -> int:
        claimed = queue.claim_many(BATCH)
        queue.ack_many(claimed)
        return len(claimed)

    left = messages - sum(done(part.queue) for part in world.over(messages // BATCH))
    while left:
        left -= done(world.shares[0][0].queue)


class Work(NamedTuple):
    """Something that a client does."""

    name: str
    do: Callable[[World, int], None]
    share: float = 1.0
    """Of the messages: what is slow is done with fewer."""
    filled: bool = False
    worlds: tuple[str, ...] = ("one", "three", "in turn", "apart")


WORKS = (
    Work("put_many of 100", put_many),
    Work("64 tasks that put", put_in_tasks),
    Work("claim_many and ack_many of 100", claim_many, filled=True),
    Work("64 tasks that put, by key", put_by_key, worlds=("one", "three")),
    Work("put, one at a time", put, 0.1),
)


# ── what it costs ─────────────────────────────────────────────────────────────────────────────


class Cost(NamedTuple):
    """Of one message: CPU in µs, or thousands of instructions."""

    server: float
    client: float
    calls: float
    """Of scripts."""
    wakes: float
    """How often a server has slept."""


def _cpu(node: Server) -> float:
    """Of its main thread, in µs: exactly, where Linux says so."""
    exact = Path(f"/proc/{node.pid}/task/{node.pid}/schedstat")
    if exact.exists():
        return int(exact.read_text().split()[0]) / 1e3
    about = node.client().info("cpu")
    kinds = [f"used_cpu_{kind}_main_thread" for kind in ("user", "sys")]
    return 1e6 * sum(about.get(kind, about[kind.removesuffix("_main_thread")]) for kind in kinds)


def _instructions(node: Any) -> float:
    """Those since this was asked last, in thousands."""
    return float(node.instructions()) / 1e3


def _wakes(node: Server) -> int:
    status = Path(f"/proc/{node.pid}/task/{node.pid}/status")
    if not status.exists():
        return 0
    return int(status.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def _calls(node: Server) -> int:
    return int(node.client().info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))


def measured(world: World, work: Work, messages: int, *, counts: bool) -> Cost:
    """What a message costs."""
    messages = max(1, int(work.share * messages) // (TASKS * BATCH)) * TASKS * BATCH
    if work.filled:
        put_many(world, messages)

    def now(meter: Callable[[Any], float]) -> float:
        return sum(map(meter, world.nodes))

    meter = _instructions if counts else _cpu
    calls, wakes, mine = now(_calls), now(_wakes), time.process_time()
    began, server = time.monotonic(), now(meter)
    work.do(world, messages)
    server, took = now(meter) - (0 if counts else server), time.monotonic() - began
    mine, wakes, calls = time.process_time() - mine, now(_wakes) - wakes, now(_calls) - calls
    world.empty()
    rested, idle = time.monotonic(), now(meter)
    time.sleep(REST)
    idle = now(meter) - (0 if counts else idle)
    server -= idle * took / (time.monotonic() - rested)
    return Cost(server / messages, 1e6 * mine / messages, calls / messages, wakes / messages)


# ── the servers ───────────────────────────────────────────────────────────────────────────────


def _part(url: str, engine: AsyncEngine, **more: Any) -> Part:
    return Part(Queue("orders", url, **more), AsyncQueue("orders", engine, **more))


def _follow(stack: ExitStack, kind: str, node: Server) -> Server:
    replica = stack.enter_context(Server(kind))
    replica.client().replicaof("127.0.0.1", str(node.port))
    about = replica.client().info
    wait_until("a replica", lambda: about("replication")["master_link_status"] == "up")
    return replica


def _pin(nodes: Sequence[Server]) -> None:
    """This process on one core, and servers on another one, where the system can."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cpus) > 1:
        os.sched_setaffinity(0, {cpus[0]})
        for node in nodes:
            for thread in Path(f"/proc/{node.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {cpus[1]})


def worlds(
    stack: ExitStack, kind: str, *, replicas: bool, free: bool, patient: bool
) -> list[World]:
    """One server, a cluster in two ways, three servers: with those that follow them."""
    options = OPTIONS | (PATIENT if patient else {})
    cluster = stack.enter_context(Cluster(kind, nodes=3, replicas=replicas, options=options))
    plain = [stack.enter_context(servers.Server(kind)) for _ in range(4)]
    following = [_follow(stack, kind, node) for node in plain if replicas]
    if not free:
        _pin([*cluster.everyone, *plain, *following])
    runner = stack.enter_context(asyncio.Runner())

    def part(url: str, **more: Any) -> Part:
        found = Part(Queue("orders", url, **more), AsyncQueue("orders", AsyncEngine(url), **more))
        stack.callback(found.queue.close)
        stack.callback(lambda: runner.run(found.tasks.engine.close()))
        return found

    alone = [part(f"redis://127.0.0.1:{node.port}") for node in plain]
    url = ";".join(f"redis+cluster://127.0.0.1:{node.port}" for node in cluster.nodes)
    whole = part(url, partitions=PARTITIONS)
    shares: dict[Any, list[Part]] = {}
    slots, parts = whole.queue.engine.slots, whole.queue.partitions()
    for queue, tasks in zip(parts, runner.run(whole.tasks.partitions()), strict=True):
        shares.setdefault(slots.owner(queue.keys.slot), []).append(Part(queue, tasks))
    return [
        World("one", runner, plain[:1], [alone[:1]]),
        World("three", runner, cluster.nodes, [[whole]]),
        World("in turn", runner, cluster.nodes, list(shares.values())),
        World("apart", runner, plain[1:], [alone[1:]]),
    ]


def table(given: argparse.Namespace) -> list[str]:
    """Measure; the lines of the table, in Markdown."""
    found: dict[tuple[str, str], list[Cost]] = {}
    works = [work for work in WORKS if given.only in work.name]
    if given.instructions:
        servers.Server = Counted  # type: ignore[misc]
        slow_down()
    with ExitStack() as stack:
        all_of_them = worlds(
            stack,
            given.server,
            replicas=given.replicas,
            free=given.free,
            patient=given.instructions,
        )
        for work in works:
            for turn in range(given.rounds + 1):
                for at in range(len(all_of_them)):
                    world = all_of_them[(turn + at) % len(all_of_them)]
                    if world.name in work.worlds:
                        cost = measured(world, work, given.messages, counts=given.instructions)
                        if turn:  # the first time connections are opened, and scripts loaded
                            found.setdefault((work.name, world.name), []).append(cost)
    what = "thousand instructions" if given.instructions else "µs of server CPU"
    heads = [f"{what} a message: one", *WORKS[0].worlds[1:], "ratio: three", *WORKS[0].worlds[2:]]
    heads += ["client CPU, µs: one", "three", "script calls: one", "three"]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + len(heads) * "---:|"]
    for work in works:
        costs = {world: _median(found[work.name, world]) for world in work.worlds}
        one, three = costs["one"], costs["three"]
        cells = [work.name]
        every = WORKS[0].worlds
        cells += [f"{costs[name].server:.1f}" if name in costs else "" for name in every]
        cells += [
            f"{one.server / costs[name].server:.2f}" if name in costs else "" for name in every[1:]
        ]
        cells += [f"{one.client:.1f}", f"{three.client:.1f} ({three.client / one.client:.2f})"]
        cells += [f"{one.calls:.2f}", f"{three.calls:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(*map(median, zip(*costs, strict=True)))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--only", default="", help="what has this word in its name")
    parser.add_argument("--replicas", action="store_true", help="each server has one")
    parser.add_argument("--free", action="store_true", help="on any core")
    parser.add_argument("--instructions", action="store_true", help="count those, not CPU time")
    parser.add_argument("--server", default="valkey-9")
    print("\n".join(table(parser.parse_args())))


if __name__ == "__main__":
    main()
