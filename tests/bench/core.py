"""What the engine costs, measured against stock Kombu and against bare commands in the same run.

    python -m tests.bench.core [--quick] [--server valkey-9|redis-7] [--only WORD]
                               [--docs FILE] [--json FILE]

Starts a server of its own. Ours and theirs take turns, and every figure is the median of the
rounds: a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from atomq import calls
from atomq.calls import Outgoing
from atomq.client import Engine
from atomq.ids import Ids
from atomq.message import Writer
from atomq.queue import Queue
from tests.bench.stock import Stock
from tests.bench.waiters import Waiters
from tests.servers import NotAvailable, Server

BODY = {"task": "resize", "n": 1, "text": "x" * 200}  # 230 bytes as JSON


@dataclass
class Row:
    """One line of the table: what was measured, ours and theirs, and the target for `value`."""

    group: str
    what: str
    ours: str
    theirs: str
    value: float
    unit: str
    target: str = ""
    met: bool | None = None
    """None: a figure without a target."""


def at_least(value: float, target: float) -> tuple[str, bool]:
    return f"≥ {target:g}", value >= target


def at_most(value: float, target: float) -> tuple[str, bool]:
    return f"≤ {target:g}", value <= target


def about_one(value: float, share: float) -> tuple[str, bool]:
    return f"1 ± {share:g}", abs(value - 1) <= share


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


# ── the server, as a meter ───────────────────────────────────────────────────────────────────


class Meter:
    """The server under test, and what it says of itself."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.url
        self.admin: redis.Redis = server.client()

    def cpu(self) -> float:
        """CPU seconds of the thread that runs commands (Redis 6.2: of the process)."""
        info: Any = self.admin.info("cpu")
        parts = ("used_cpu_user", "used_cpu_sys")
        return float(sum(info.get(f"{part}_main_thread", info[part]) for part in parts))

    def commands(self) -> int:
        """Commands run so far, those inside scripts included."""
        info: Any = self.admin.info("commandstats")
        ours = ("cmdstat_info", "cmdstat_config|resetstat", "cmdstat_slowlog|get")
        return sum(stat["calls"] for name, stat in info.items() if name not in ours)

    @contextmanager
    def durations(self, sha: str) -> Iterator[list[float]]:
        """Collects how many µs the server spent in each EVALSHA of this script, in their order."""
        found: list[float] = []
        self.admin.config_set("slowlog-max-len", 100_000)
        self.admin.config_set("slowlog-log-slower-than", 0)
        self.admin.slowlog_reset()
        try:
            yield found
        finally:
            self.admin.config_set("slowlog-log-slower-than", -1)
            for entry in reversed(self.admin.slowlog_get(100_000)):
                words = entry["command"].split(b" ", 2)
                if words[0].upper() == b"EVALSHA" and words[1] == sha.encode():
                    found.append(float(entry["duration"]))
            self.admin.slowlog_reset()


@dataclass
class Bench:
    """One run: the meter, how long to go on, and the rows so far."""

    meter: Meter
    quick: bool
    rows: list[Row]

    def times(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def add(
        self,
        group: str,
        what: str,
        ours: str,
        theirs: str,
        value: float,
        unit: str,
        verdict: tuple[str, bool] | None = None,
    ) -> None:
        target, met = verdict or ("", None)
        self.rows.append(Row(group, what, ours, theirs, round(value, 3), unit, target, met))


def rate(work: Callable[[], int]) -> float:
    """Messages a second."""
    began = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - began)


def per_second(value: float) -> str:
    return f"{value:,.0f} msgs/s"


# ── rates against stock ──────────────────────────────────────────────────────────────────────


def throughput(bench: Bench) -> None:
    """Publish, and consume with ack, through what a user of either library holds."""
    few, many = bench.times(1500, 400), bench.times(30_000, 8_000)
    found: dict[str, list[float]] = {}
    with Stock(bench.meter.url, "stock") as stock, Engine(bench.meter.url) as engine:
        queue = Queue("ours", engine)
        works = (
            ("stock publish", lambda: stock.publish(BODY, few)),
            ("stock default exchange", lambda: stock.publish(BODY, few, routed=False)),
            ("stock consume", stock.consume),
            ("put_many", lambda: _put_many(queue, many)),
            ("claim_many", lambda: _claim_many(queue)),
            ("put", lambda: _put(queue, few)),
            ("claim", lambda: _claim(queue)),
            ("put", lambda: _put(queue, few)),
            ("consume", lambda: _consume(queue, 1)),
            ("put_many", lambda: _put_many(queue, many)),
            ("consume 64", lambda: _consume(queue, 64)),
        )
        for again in range(1 + bench.times(7, 3)):
            for name, work in works:
                reached = rate(work)
                if again:  # the first round warms up
                    found.setdefault(name, []).append(reached)
        assert bench.meter.admin.llen("ours") == bench.meter.admin.llen("stock") == 0
    found["one by one"] = _in_turn(found["put"][1::2], found["consume"])
    found["stock"] = _in_turn(found["stock publish"], found["stock consume"])
    for what, ours, theirs, target in (
        ("put_many, 100 a call, by stock publish", "put_many", "stock publish", 50),
        ("… by stock publish to the default exchange", "put_many", "stock default exchange", None),
        ("claim_many + ack_many, 64 a call, by stock consume", "claim_many", "stock consume", 30),
        ("consume(prefetch=64), by stock consume", "consume 64", "stock consume", None),
        ("a message's life, one by one: both of the two below", "one by one", "stock", 4),
        ("put, by stock publish", "put", "stock publish", None),
        ("consume(prefetch=1), by stock consume", "consume", "stock consume", None),
        ("put, by stock publish to the default exchange", "put", "stock default exchange", None),
        ("claim + ack, two calls each, by stock consume", "claim", "stock consume", None),
    ):
        us, them = found[ours], found[theirs]
        share = len(us) // len(them)
        ratio = median([each / them[i // share] for i, each in enumerate(us)])
        verdict = at_least(ratio, target) if target else None
        bench.add(
            "rates", what, per_second(median(us)), per_second(median(them)), ratio, "×", verdict
        )


def _in_turn(*rates: Sequence[float]) -> list[float]:
    """The rate of one thing after the other, round by round."""
    return [1 / sum(1 / each for each in both) for both in zip(*rates, strict=True)]


def _put_many(queue: Queue, count: int) -> int:
    for _ in range(count // 100):
        queue.put_many([BODY] * 100)
    return count // 100 * 100


def _put(queue: Queue, count: int) -> int:
    for _ in range(count):
        queue.put(BODY)
    return count


def _claim_many(queue: Queue) -> int:
    count = 0
    while messages := queue.claim_many(64):
        count += sum(message.body["n"] for message in messages)
        queue.ack_many(messages)
    return count


def _claim(queue: Queue) -> int:
    count = 0
    while message := queue.claim():
        count += message.body["n"]
        message.ack()
    return count


def _consume(queue: Queue, prefetch: int) -> int:
    count = 0
    for message in queue.consume(prefetch=prefetch, timeout=0):
        with message:
            count += message.body["n"]
    return count


# ── server time against a bare layout ────────────────────────────────────────────────────────

# Layout A: what a list, a zset of leases and a hash of payloads cost at least. No checks, no retry,
# no delays, no priorities, no verdicts, no dead letters, no waking.
LAYOUT_A = {
    "publish": "redis.call('LPUSH', KEYS[1], unpack(ARGV)) return 1",
    "claim": """
        local t = redis.call('TIME')
        local deadline = t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[2])
        local bodies = redis.call('RPOP', KEYS[1], tonumber(ARGV[1]))
        if not bodies then return {} end
        local scores, held, out = {}, {}, {}
        for i = 1, #bodies do
          local id = ARGV[3] .. '.' .. i
          scores[2 * i - 1], scores[2 * i] = deadline, id
          held[2 * i - 1], held[2 * i] = id, bodies[i]
          out[2 * i - 1], out[2 * i] = id, bodies[i]
        end
        redis.call('ZADD', KEYS[2], unpack(scores))
        redis.call('HSET', KEYS[3], unpack(held))
        return out""",
    "ack": """
        redis.call('ZREM', KEYS[1], unpack(ARGV))
        return redis.call('HDEL', KEYS[2], unpack(ARGV))""",
}


class LayoutA:
    """Layout A behind the three verbs."""

    def __init__(self, admin: redis.Redis) -> None:
        self._admin = admin
        self._sha = {verb: admin.script_load(text) for verb, text in LAYOUT_A.items()}
        self._ids = Ids()

    def publish(self, bodies: Sequence[str]) -> None:
        self._admin.execute_command("EVALSHA", self._sha["publish"], 1, "A:list", *bodies)

    def claim(self, limit: int) -> list[bytes]:
        keys = ("A:list", "A:zset", "A:hash")
        args = (limit, 60_000, self._ids.next())
        return self._admin.execute_command("EVALSHA", self._sha["claim"], 3, *keys, *args)[::2]

    def ack(self, ids: Sequence[bytes]) -> None:
        self._admin.execute_command("EVALSHA", self._sha["ack"], 2, "A:zset", "A:hash", *ids)


class Ours:
    """Our scripts behind the same three verbs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._keys = engine.keys("bench")
        self._ids = Ids()

    def publish(self, bodies: Sequence[str]) -> None:
        messages = [Outgoing(body, "") for body in bodies]
        self._engine.run(calls.publish(self._keys, messages, call_id=self._engine.producers.next()))

    def claim(self, limit: int) -> list[str]:
        call = calls.claim([self._keys], self._ids.next(), limit=limit, lease_ms=60_000)
        return [delivery.receipt for delivery in self._engine.run(call).deliveries]

    def ack(self, receipts: Sequence[str]) -> None:
        self._engine.run(calls.ack(self._keys, receipts))


def server_cpu(bench: Bench) -> None:
    """CPU µs of the server for a message's whole life, beside layout A."""
    writer, ids = Writer("bench"), Ids()
    bodies = [writer.write(BODY, ids.next()) for _ in range(100)]
    with Engine(bench.meter.url) as engine:
        rivals: dict[str, Any] = {"ours": Ours(engine), "A": LayoutA(bench.meter.admin)}

        def spent(rival: Any, batch: int, times: int) -> dict[str, float]:
            some, parts = bodies[:batch], {}
            marks = [bench.meter.cpu()]
            for _ in range(times):
                rival.publish(some)
            marks.append(bench.meter.cpu())
            claimed = [rival.claim(batch) for _ in range(times)]
            marks.append(bench.meter.cpu())
            for receipts in claimed:
                rival.ack(receipts)
            marks.append(bench.meter.cpu())
            for verb, begin, end in zip(LAYOUT_A, marks, marks[1:], strict=False):
                parts[verb] = (end - begin) * 1e6 / (times * batch)
            return parts

        for batch, target in ((100, 1.5), (10, None), (1, None)):
            times = bench.times(12_000, 4_000) // (batch + 20)
            rounds = [
                {name: spent(rival, batch, times) for name, rival in rivals.items()}
                for _ in range(1 + bench.times(9, 3))
            ][1:]
            ratio = median([sum(r["ours"].values()) / sum(r["A"].values()) for r in rounds])
            told = {
                name: " + ".join(
                    f"{median([r[name][verb] for r in rounds]):.2f}" for verb in LAYOUT_A
                )
                for name in rivals
            }
            bench.add(
                "server CPU",
                f"publish + claim + ack, {batch} a call, µs a message, against layout A",
                told["ours"],
                told["A"],
                ratio,
                "×",
                at_most(ratio, target) if target else None,
            )


# ── latency, commands a message, idle cost ───────────────────────────────────────────────────


def latency(bench: Bench) -> None:
    """From before publish to the first line of a handler that waited idle, beside a bare BRPOP."""
    count = bench.times(300, 60)
    ratios: dict[int, float] = {}
    spent: dict[int, float] = {}
    for number in (1, 16, 64):
        with ExitStack() as stack:
            engine = stack.enter_context(Engine(bench.meter.url))
            queue = Queue(f"idle{number}", engine)
            ours = stack.enter_context(Waiters("atomq", bench.meter.url, queue.name, number))
            bare = stack.enter_context(Waiters("brpop", bench.meter.url, "bare", number))

            def put() -> None:
                queue.put(time.monotonic())  # noqa: B023 - called within this turn

            def push() -> None:
                bench.meter.admin.lpush("bare", repr(time.monotonic()))

            taken: dict[str, list[float]] = {"ours": [], "bare": []}
            for _ in range(count):
                for name, publish, waiters in (("ours", put, ours), ("bare", push, bare)):
                    publish()
                    taken[name].append(waiters.next())
                    time.sleep(0.004)
        warm = {name: values[count // 10 :] for name, values in taken.items()}
        ratio = ratios[number] = median(warm["ours"]) / median(warm["bare"])
        bench.add(
            "latency",
            f"idle publish → handler, {number} waiting, against BRPOP",
            _spread(warm["ours"]),
            _spread(warm["bare"]),
            ratio,
            "×",
            at_most(ratio, 2),
        )
        spent[number] = _commands_a_message(bench, number, bench.times(100, 30))
    same = max(ratios.values()) / min(ratios.values())
    bench.add(
        "latency",
        "these three ratios: largest by smallest",
        ", ".join(f"{value:.2f}" for value in ratios.values()),
        "",
        same,
        "×",
        at_most(same, 1.5),
    )
    grows = spent[64] / spent[1]
    bench.add(
        "latency",
        "server commands a message, inner ones too: 64 waiting by 1",
        ", ".join(f"{value:.1f}" for value in spent.values()),
        "",
        grows,
        "×",
        at_most(grows, 1.1),
    )


def _spread(seconds: Sequence[float]) -> str:
    p99 = statistics.quantiles(seconds, n=100)[98]
    return f"p50 {median(seconds) * 1e6:.0f}, p99 {p99 * 1e6:.0f} µs"


def _commands_a_message(bench: Bench, number: int, count: int) -> float:
    """What one message costs in commands while `number` wait, without what waiting costs anyway."""
    with Engine(bench.meter.url) as engine:
        queue = Queue("commands", engine)
        with Waiters("atomq", bench.meter.url, queue.name, number) as waiters:

            def commands_a_second(work: Callable[[], None]) -> tuple[float, float]:
                before, began = bench.meter.commands(), time.monotonic()
                work()
                seconds = time.monotonic() - began
                return (bench.meter.commands() - before) / seconds, seconds

            def busy() -> None:
                for _ in range(count):
                    queue.put(time.monotonic())
                    waiters.next()
                    time.sleep(0.012)  # longer than an ack waits for company

            busy()
            time.sleep(1.5)
            waiting, _ = commands_a_second(lambda: time.sleep(3))
            working, seconds = commands_a_second(busy)
            return (working - waiting) * seconds / count


def idle(bench: Bench) -> None:
    """What a consumer costs that waits and gets nothing."""
    number, seconds = 16, bench.times(10, 4)
    with Waiters("atomq", bench.meter.url, "nothing", number):
        time.sleep(0.5)
        calls_before, cpu_before = bench.meter.commands(), bench.meter.cpu()
        began = time.monotonic()
        time.sleep(seconds)
        span = (time.monotonic() - began) * number
        commands = (bench.meter.commands() - calls_before) / span
        cpu = (bench.meter.cpu() - cpu_before) * 1e6 / span
    bench.add(
        "idle",
        "commands a second and waiter, inner ones too",
        f"{commands:.1f}",
        "",
        commands,
        "/s",
    )
    bench.add("idle", "server CPU a second and waiter", f"{cpu:.0f} µs", "", cpu, "µs/s")


# ── size does not matter ─────────────────────────────────────────────────────────────────────

FILL = {
    "ready": """
        for i = 1, ARGV[1] do redis.call('LPUSH', KEYS[1], ARGV[2] .. i .. ARGV[3]) end""",
    "delayed": """
        for i = 1, ARGV[1] do
          local id, due = ARGV[4] .. i, string.format('%.0f', ARGV[5] + i)
          redis.call('ZADD', KEYS[1], due, id)
          redis.call('HSET', KEYS[2], id, '0 1 1700000000000 ' .. ARGV[2] .. i .. ARGV[3])
        end""",
    # A table that grows moves some of its entries at each command, until all of them have moved.
    "grown": """
        for i = 1, ARGV[1] do
          redis.call('ZSCORE', KEYS[1], i)
          redis.call('HEXISTS', KEYS[2], i)
        end""",
}


def sizes(bench: Bench) -> None:
    """Server µs of one claim: ten messages in the queue, and a million."""
    server = bench.meter.server.kind
    many, times = bench.times(1_000_000, 100_000), bench.times(400, 150)
    writer = Writer("size")
    head, tail = writer.write({"n": 1}, "I-D").rsplit("I-D", 1)
    text = writer.write({"n": 1}, "m")
    with Engine(bench.meter.url) as engine:
        fill = {part: bench.meter.admin.script_load(script) for part, script in FILL.items()}

        def filled(name: str, part: str, number: int, due_ms: int) -> Any:
            keys = engine.keys(name)
            names = [keys.ready[0]] if part == "ready" else [keys.delayed, keys.delayed_records]
            for first in range(0, number, 50_000):
                size = min(50_000, number - first)
                args = (size, head, tail, f"{name}-{first}-", due_ms)
                bench.meter.admin.execute_command("EVALSHA", fill[part], len(names), *names, *args)
                if part == "delayed":
                    bench.meter.admin.execute_command("EVALSHA", fill["grown"], 2, *names, size)
            return keys

        def measure(what: str, small: Any, large: Any, limit: int, refill: bool) -> None:
            ids = Ids()
            taken: dict[str, list[float]] = {"small": [], "large": []}
            sha = calls.claim([small], ids.next(), limit=1, lease_ms=1).script.sha
            order: list[str] = []
            with bench.meter.durations(sha) as found:
                for _ in range(times):
                    for name, keys in (("small", small), ("large", large)):
                        if refill:
                            engine.run(calls.publish(keys, [Outgoing(text, "")] * limit))
                        claim = calls.claim([keys], ids.next(), limit=limit, lease_ms=60_000)
                        got = engine.run(claim).deliveries
                        assert len(got) == limit
                        engine.run(calls.ack(keys, [delivery.receipt for delivery in got]))
                        order.append(name)
            for name, duration in zip(order, found, strict=True):
                taken[name].append(duration)
            ratio = median(taken["large"]) / median(taken["small"])
            bench.add(
                "size",
                f"{what}: {many:,} against 10, claims of {limit}, {server}",
                f"{median(taken['large']):.0f} µs",
                f"{median(taken['small']):.0f} µs",
                ratio,
                "×",
                about_one(ratio, 0.2),
            )

        limit = 10
        for part, when in (("ready", 0), ("delayed", 86_400_000), ("due", -86_400_000)):
            now = int(time.time() * 1000)
            kind = "ready" if part == "ready" else "delayed"
            # The small queue of due messages is filled for the whole series: a claim takes ten.
            few = 10 if part != "due" else times * limit
            small = filled(f"small-{part}", kind, few, now + when)
            large = filled(f"large-{part}", kind, many, now + when)
            measure(
                {"ready": "ready", "delayed": "delayed, not due", "due": "delayed, due"}[part],
                small,
                large,
                limit,
                refill=part != "due",
            )
            bench.meter.admin.flushdb(asynchronous=True)


def recovery(bench: Bench) -> None:
    """The longest that one claim holds the server while expired leases come back."""
    number = bench.times(100_000, 20_000)
    writer, ids = Writer("expired"), Ids()
    bodies = [Outgoing(writer.write(BODY, ids.next()), "") for _ in range(1000)]
    with Engine(bench.meter.url) as engine:
        keys = engine.keys("expired")

        def claim(limit: int) -> calls.Call[calls.Claimed]:
            return calls.claim([keys], ids.next(), limit=limit, lease_ms=60_000)

        for limit in (64, 1000):
            longest: list[float] = []
            for _ in range(bench.times(5, 2)):
                for _ in range(number // 1000):
                    engine.run(calls.publish(keys, bodies))
                held = [engine.run(claim(1000)).deliveries for _ in range(number // 1000)]
                for some in held:
                    receipts = [delivery.receipt for delivery in some]
                    engine.run(calls.extend(keys, receipts, lease_ms=0))
                time.sleep(0.01)
                restored, call = 0, claim(limit)
                with bench.meter.durations(call.script.sha) as found:
                    while restored < number:
                        got = engine.run(call).deliveries
                        assert got
                        assert all(delivery.deliveries == 2 for delivery in got)
                        restored, call = restored + len(got), claim(limit)
                longest.append(max(found) / 1000)
                bench.meter.admin.flushdb()
            bench.add(
                "recovery",
                f"{number:,} expired leases restored by claims of {limit}: longest single call",
                f"{median(longest):.2f} ms",
                "",
                median(longest),
                "ms",
                at_most(median(longest), 5),
            )


# ── the run ──────────────────────────────────────────────────────────────────────────────────

Part = Callable[[Bench], None]
PARTS: tuple[Part, ...] = (throughput, server_cpu, latency, idle, recovery, sizes)
OTHER, ON_BOTH = "redis-7", (sizes,)


def table(rows: Sequence[Row]) -> Table:
    shown = Table(show_lines=False)
    for title in ("", "what", "atomq", "beside it", "ratio", "target", ""):
        shown.add_column(title, justify="right" if title in ("ratio", "target") else "left")
    group = ""
    for row in rows:
        if group and row.group != group:
            shown.add_section()
        mark = {True: "[green]met[/]", False: "[bold red]missed[/]", None: ""}[row.met]
        shown.add_row(
            row.group if row.group != group else "",
            row.what,
            row.ours,
            row.theirs,
            f"{row.value:,.2f} {row.unit}",
            row.target,
            mark,
        )
        group = row.group
    return shown


MEANINGS = {
    "rates": "Messages a second, one process on each side, bodies of 230 bytes. Stock Kombu "
    "publishes and takes one by one, it has no other way.",
    "server CPU": "Time of the server's main thread. Layout A is the least that could do the job: "
    "a list, a hash and a sorted set, without checks, retries, delays, priorities or counts.",
    "latency": "Consumers in a process of their own wait; the time from before publish to the "
    "first line of the handler. Beside it a bare BRPOP.",
    "idle": "What waiting costs, when nothing comes.",
    "size": "Server time of one claim, with ten messages in the queue and with very many; on "
    "Debian's Redis too, where it is to be had. The server's own tables are let grow to their end "
    "first: until then each command moves some of their entries, which is what filling costs.",
    "recovery": "Leases that ended come back with the claims that follow: the longest single call.",
}


def page(rows: Sequence[Row], facts: dict[str, str]) -> str:
    """The table as Markdown, with what each group means."""
    lines = [
        "# Speed, and its targets",
        "",
        "Made by `make bench-core`. Both sides take turns on one server, and each figure is the",
        "median of the rounds: read the ratio. A target is what atomq has to reach. Other queues",
        "are in [benchmarks.md](benchmarks.md).",
        "",
        ", ".join(f"{name} {value}" for name, value in facts.items()) + ".",
    ]
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            lines += ["", f"## {group}", "", *textwrap.wrap(MEANINGS[group], 95), ""]
            lines += ["| what | atomq | beside it | | target | |", "|---|---|---|---|---|---|"]
        mark = {True: "met", False: "**missed**", None: ""}[row.met]
        value = f"{row.value:,.2f} {row.unit}"
        cells = row.what, row.ours, row.theirs, value, row.target, mark
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def about(server: Server) -> dict[str, str]:
    packages = ("kombu", "redis", "hiredis")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "server": f"{server.kind} ({'.'.join(map(str, server.version))})",
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        **{name: version(name) for name in packages},
    }


def hurry(pid: int) -> None:
    """Go before other work of the machine, where that is permitted (to root)."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, -15)


def measure(
    console: Console, server: Server, parts: Sequence[Part], given: Any, rows: list[Row]
) -> None:
    """Those of these parts that are asked for, on one server."""
    hurry(server.pid)
    hurry(os.getpid())
    for part in parts:
        if given.only in part.__name__:
            with console.status(f"measuring {part.__name__} on {server.kind}"):
                server.reset()
                with Engine(server.url) as engine:
                    engine.nodes()[0].load()
                part(Bench(Meter(server), given.quick, rows))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.core", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, for CI")
    parser.add_argument("--server", default="valkey-9", help="valkey-9, redis-7 or redis-6.2")
    parser.add_argument("--docs", type=Path, help="write the table there as Markdown")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--only", default="", help="parts whose name contains this word")
    given = parser.parse_args(argv)
    console = Console()
    rows: list[Row] = []
    try:
        server = Server(given.server)
    except NotAvailable as reason:
        print(f"{given.server} cannot be run here: {reason}", file=sys.stderr)
        return 2
    with server:
        facts = about(server)
        console.print("  ".join(f"{name} {value}" for name, value in facts.items()))
        measure(console, server, PARTS, given, rows)
    if given.server != OTHER:
        with suppress(NotAvailable), Server(OTHER) as other:
            measure(console, other, ON_BOTH, given, rows)
    console.print(table(rows))
    missed = [row.what for row in rows if row.met is False]
    console.print(f"{len(missed)} of {sum(row.met is not None for row in rows)} targets missed")
    if given.docs:
        given.docs.write_text(page(rows, facts), encoding="utf-8")
    if given.json:
        report = {"about": facts, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
