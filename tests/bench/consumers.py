"""What a message costs the servers of a cluster, by the consumers that wait for it.

    python -m tests.bench.consumers [--consumers 1,8,64] [--messages 120]

Instructions, in thousands, and commands, for a queue of twelve partitions. Callgrind slows a server
down some fifty times. So timers of the consumers' process that end a call are slower too, and
looks, which come by the clock, are 30 s apart. What idle consumers cost in the ten seconds before
is taken off.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import time
from collections import Counter
from typing import Any

from atomq import AsyncEngine, AsyncQueue, Queue
from tests import servers
from tests.servers import Cluster, Server, wait_until

TIMERS = ("BRIEF", "LATE", "HANDSHAKE", "WITHIN", "NEAR")  # s for an answer, where it is imported
SLOWER = 20
EVERY = 0.25  # s between two messages
IDLE = 10.0
OPTIONS = {"cluster-node-timeout": "120000", "cluster-require-full-coverage": "no"}


class Counted(Server):
    """One whose instructions are counted."""

    def _command(self) -> list[str]:
        out = f"--callgrind-out-file={self.directory}/callgrind"
        return ["valgrind", "-q", "--tool=callgrind", out, *super()._command()]

    def instructions(self) -> int:
        """How many it took since this was asked last."""
        before = set(self.directory.glob("callgrind.*"))
        command = ["callgrind_control", "-d", str(self.pid)]
        subprocess.run(command, check=True, capture_output=True)
        found: list[str] = []

        def dumped() -> bool:
            for path in set(self.directory.glob("callgrind.*")) - before:
                found[:] = re.findall(r"^(?:summary|totals): (\d+)", path.read_text(), re.MULTILINE)
            return bool(found)

        wait_until("Callgrind", dumped)
        return int(found[0])


class Reading:
    """What all nodes have done since the last one, and when."""

    def __init__(self, nodes: list[Any]) -> None:
        self.instructions = sum(node.instructions() for node in nodes)
        self.commands: Counter[str] = Counter()
        for node in nodes:
            client = node.client()
            for name, about in client.info("commandstats").items():
                self.commands[name] += int(about["calls"])
            client.config_resetstat()
        self.at = time.monotonic()


async def _consume(url: str, consumers: int) -> None:
    engine = AsyncEngine(url, socket_timeout=60)
    object.__setattr__(engine.options, "wait_cap", 30.0)
    queue = AsyncQueue("orders", engine, partitions=12)

    async def one() -> None:
        async for message in queue.consume(prefetch=1):
            async with message:
                print(message.body, flush=True)

    await asyncio.gather(*[one() for _ in range(consumers)])


def slow_down() -> None:
    """Have the timers of this process end later."""
    for name, module in [*sys.modules.items()]:
        for timer in TIMERS if name.startswith("atomq.") else ():
            if isinstance(seconds := vars(module).get(timer), float):
                setattr(module, timer, SLOWER * seconds)


def blocked(nodes: list[Any]) -> int:
    """How many connections wait."""
    return sum(int(node.client().info("clients")["blocked_clients"]) for node in nodes)


def measure(nodes: list[Any], url: str, queue: Any, consumers: int, messages: int) -> str:
    """A line of the table."""
    command = [sys.executable, "-m", "tests.bench.consumers", "--child", url, str(consumers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        queue.put("begin")
        child.stdout.readline()
        wait_until("all to wait", lambda: blocked(nodes) == 12 * consumers, 120)
        time.sleep(3)
        began = Reading(nodes)
        time.sleep(IDLE)
        idle, base = Reading(nodes), time.monotonic()
        for i in range(messages):
            queue.put(i)
            time.sleep(max(0.0, base + (i + 1) * EVERY - time.monotonic()))
        for _ in range(messages):
            child.stdout.readline()
        busy = Reading(nodes)
        child.kill()
    share = (busy.at - idle.at) / (idle.at - began.at)
    instructions = (busy.instructions - share * idle.instructions) / messages / 1000
    commands = (busy.commands.total() - share * idle.commands.total()) / messages
    return f"{consumers:9} {instructions:9.1f} {commands:9.1f}"


def main() -> None:
    """Measure, and print a line for each number of consumers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--consumers", default="1,8,64")
    parser.add_argument("--messages", type=int, default=120)
    parser.add_argument("--server", default="valkey-9")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    slow_down()
    if given.child:
        asyncio.run(_consume(given.child[0], int(given.child[1])))
    servers.Server = Counted  # type: ignore[misc]
    with Cluster(given.server, nodes=3, options=OPTIONS) as cluster:
        url = ";".join(f"redis+cluster://127.0.0.1:{node.port}" for node in cluster.nodes)
        queue = Queue("orders", url, partitions=12, socket_timeout=60)
        print("consumers thousands  commands")
        for consumers in map(int, given.consumers.split(",")):
            nodes: list[Any] = cluster.nodes
            print(measure(nodes, url, queue, consumers, given.messages), flush=True)


if __name__ == "__main__":
    main()
