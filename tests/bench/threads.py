"""What threads of one process that put at once cost, here beside another checkout.

    python -m tests.bench.threads [--beside CHECKOUT] [--threads 1,2,4,8,16] [--delay MS]
                                  [--server valkey-9|redis-7]

The checkouts take turns. A line has the least µs a message, the least CPU of client and of server,
and the commands that the server runs for each message, inner ones too. Of many short rounds the
least says most on a busy machine; there client and server share a core, and the sum of their CPU is
the time. With 0 threads it is a script that does nothing, over a bare socket: what no client saves.
`--delay` puts so many ms between client and server. Starts a server of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench.instructions import BODY, ROOT, bare, environment
from tests.servers import Server

MESSAGES, ROUNDS = 2_000, 10


def _child(url: str, threads: int) -> None:
    from atomq import Queue

    queue = Queue("q", url)
    queue.put(BODY)
    call = bare(url)

    def work() -> None:
        if not threads:
            call(MESSAGES)
            return
        for _ in range(MESSAGES // threads):
            queue.put(BODY)

    for _ in range(ROUNDS):
        workers = [threading.Thread(target=work) for _ in range(threads or 1)]
        began, cpu = time.perf_counter(), time.process_time()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print(json.dumps([time.perf_counter() - began, time.process_time() - cpu]), flush=True)
        sys.stdin.readline()


class Side:
    """One checkout's process, and the least of its rounds."""

    def __init__(self, checkout: Path, url: str, threads: int) -> None:
        words = [sys.executable, "-m", "tests.bench.threads", "--child", url, str(threads)]
        self.process = subprocess.Popen(
            words, env=environment(checkout), cwd=ROOT, stdin=-1, stdout=-1, text=True
        )
        self.least = [1e9] * 4

    def round(self, server: Server) -> None:
        """One round, which it does when the last one is read."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with server.client() as db:
            began, commands = db.info("cpu"), _commands(db.info("commandstats"))
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            found = json.loads(self.process.stdout.readline())
            ended = db.info("cpu")
            commands = _commands(db.info("commandstats")) - commands
        parts = ("used_cpu_user", "used_cpu_sys")
        cpu = sum(float(ended[part]) - float(began[part]) for part in parts)
        costs = [each / MESSAGES * 1e6 for each in (*found, cpu)] + [commands / MESSAGES]
        self.least = list(map(min, self.least, costs))


def _commands(stats: dict[str, dict[str, int]]) -> int:
    return sum(stat["calls"] for name, stat in stats.items() if "info" not in name)


def main() -> None:
    """Measure, and print a line a number of threads and checkout."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--beside", type=Path, help="another checkout, measured too")
    parser.add_argument("--threads", default="1,2,4,8,16")
    parser.add_argument("--delay", type=float, default=0.0, help="ms between client and server")
    parser.add_argument("--server", default="valkey-9")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _child(given.child[0], int(given.child[1]))
        return
    checkouts = [ROOT] if given.beside is None else [given.beside.resolve(), ROOT]
    print(f"{'threads':>7}  {'µs':>6}  client  server  commands")
    with ExitStack() as stack:
        server = stack.enter_context(Server(given.server))
        url = server.url
        if given.delay:
            from tests.proxy import Proxy  # which needs scripts that an older checkout has not

            proxy = stack.enter_context(Proxy(server.socket))
            proxy.delay(given.delay)
            url = proxy.url
        for threads in map(int, given.threads.split(",")):
            sides = [Side(checkout, url, threads) for checkout in checkouts]
            for side in sides:
                side.process.stdout.readline()  # type: ignore[union-attr] # it warms up
            for _ in range(ROUNDS - 1):
                for side in sides:
                    side.round(server)
            for side, checkout in zip(sides, checkouts, strict=True):
                side.process.communicate("\n")
                time_, client, cpu, commands = side.least
                line = f"{threads:7}  {time_:6.1f}  {client:6.1f}  {cpu:6.1f}  {commands:8.2f}"
                print(f"{line}  {checkout.name}", flush=True)


if __name__ == "__main__":
    main()
