"""What a message costs the servers of a cluster, by the consumers that wait for it.

    python -m tests.bench.consumers [--consumers 1,8,64] [--messages 120] [--few 4] [--clock]

Instructions, in thousands, and commands, for a queue of twelve partitions. Callgrind slows a server
down some fifty times. So timers of the consumers' process that end a call are slower too, and
looks, which come by the clock, are 30 s apart. What idle consumers cost in the ten seconds before
is taken off.

`--few 1` has a consumer wait on one connection to each node, as it does for many queues. `--clock`
runs the servers as they are, and gives server CPU in µs, and the time from `put` to the consumer in
ms: the median, and that of 95 of 100.
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
SETTLE = 8.0  # s for what began to be over
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


class Timed(Server):
    """One that runs as it is: its CPU time stands for the instructions, a µs for a thousand."""

    _used = 0.0

    def instructions(self) -> int:
        """The ns of CPU time that it took since this was asked last."""
        about = self.client().info("cpu")
        used = 1e9 * (about["used_cpu_user_main_thread"] + about["used_cpu_sys_main_thread"])
        took, self._used = used - self._used, used
        return int(took)


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


async def _consume(url: str, consumers: int, few: int) -> None:
    from atomq import cluster  # not in an older checkout, whose server `floor.py` counts by this

    cluster.FEW = few  # type: ignore[misc]
    engine = AsyncEngine(url, socket_timeout=60)
    object.__setattr__(engine.options, "wait_cap", 30.0)
    queue = AsyncQueue("orders", engine, partitions=12)

    async def one() -> None:
        async for message in queue.consume(prefetch=1):
            async with message:
                print(time.monotonic() - message.body, flush=True)

    await asyncio.gather(*[one() for _ in range(consumers)])


def slow_down() -> None:
    """Have the timers of this process end later."""
    for name, module in [*sys.modules.items()]:
        for timer in TIMERS if name.startswith("atomq.") else ():
            if isinstance(seconds := vars(module).get(timer), float):
                setattr(module, timer, SLOWER * seconds)


def waiting(nodes: list[Any]) -> int:
    """How many connections wait."""
    about = [node.client().info("clients") for node in nodes]
    return sum(int(each["blocked_clients"]) + int(each["tracking_clients"]) for each in about)


def measure(nodes: list[Any], url: str, queue: Any, consumers: int, given: Any) -> str:
    """A line of the table."""
    words = ["--child", url, "--consumers", str(consumers), "--few", str(given.few)]
    words += ["--clock"] if given.clock else []
    command = [sys.executable, "-m", "tests.bench.consumers", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        queue.put(time.monotonic())
        child.stdout.readline()
        many = consumers * sum(n if n <= given.few else 1 for n in shares(queue))
        wait_until("all to wait", lambda: waiting(nodes) == many, 120)
        time.sleep(SETTLE)
        began = Reading(nodes)
        time.sleep(IDLE)
        idle, base = Reading(nodes), time.monotonic()
        for i in range(given.messages):
            queue.put(time.monotonic())
            time.sleep(max(0.0, base + (i + 1) * EVERY - time.monotonic()))
        took = sorted(1000 * float(child.stdout.readline()) for _ in range(given.messages))
        busy = Reading(nodes)
        child.kill()
    share = (busy.at - idle.at) / (idle.at - began.at)
    instructions = (busy.instructions - share * idle.instructions) / given.messages / 1000
    commands = (busy.commands.total() - share * idle.commands.total()) / given.messages
    late = f"{took[len(took) // 2]:8.2f} {took[len(took) * 95 // 100]:8.2f}" if given.clock else ""
    idle_s = idle.commands.total() / (idle.at - began.at)
    return f"{consumers:9} {many:11} {instructions:9.1f} {commands:9.1f} {idle_s:9.1f} {late}"


def shares(queue: Any) -> list[int]:
    """How many partitions lie on each node."""
    slots = queue.engine.slots
    return [*Counter(slots.owner(part.keys.slot) for part in queue.partitions()).values()]


def main() -> None:
    """Measure, and print a line for each number of consumers."""
    from atomq.cluster import FEW

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--consumers", default="1,8,64")
    parser.add_argument("--messages", type=int, default=120)
    parser.add_argument("--few", type=int, default=FEW, help="connections to a node")
    parser.add_argument("--clock", action="store_true", help="CPU time, and how late a message is")
    parser.add_argument("--server", default="valkey-9")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.clock:
        slow_down()
    if given.child:
        asyncio.run(_consume(given.child, int(given.consumers), given.few))
    servers.Server = Timed if given.clock else Counted  # type: ignore[misc]
    with Cluster(given.server, nodes=3, options=OPTIONS) as made:
        url = ";".join(f"redis+cluster://127.0.0.1:{node.port}" for node in made.nodes)
        queue = Queue("orders", url, partitions=12, socket_timeout=60)
        what = "CPU µs" if given.clock else "thousands"
        print(f"consumers connections {what:>9}  commands idle a s.")
        for consumers in map(int, given.consumers.split(",")):
            nodes: list[Any] = made.nodes
            print(measure(nodes, url, queue, consumers, given), flush=True)


if __name__ == "__main__":
    main()
