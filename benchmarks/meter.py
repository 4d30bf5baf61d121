"""What a run cost: the server says it of itself, and the system of the clients' processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import redis

OURS = ("cmdstat_info", "cmdstat_config|resetstat", "cmdstat_flushall", "cmdstat_ping")


class Reading(NamedTuple):
    """Counters since the server's start; a difference of two is a cost."""

    commands: float
    """Commands run, those inside scripts included."""
    round_trips: float
    """How often the server read requests from a socket: a pipeline is one."""
    bytes: float
    """On the wire, both ways."""
    server_us: float
    """CPU µs of the thread that runs commands (Redis 6.2: of the process)."""
    client_us: float
    """CPU µs of the clients' processes, of children that ended too."""
    memory: float
    """Bytes the server has allocated, but for the buffers of its clients."""

    def less(self, other: Reading) -> Reading:
        """What came between the other and this one."""
        return Reading(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


class Meter:
    """Reads the server's counters, and takes from a difference what reading them cost."""

    def __init__(self, admin: redis.Redis) -> None:
        self._admin = admin

    def read(self, sessions: Iterable[int] = ()) -> Reading:
        """The counters now, with the CPU of all processes of these sessions."""
        return self._read(sessions)

    def spent(self, begin: Reading, sessions: Iterable[int] = ()) -> Reading:
        """What was spent since `begin`, less what reading spends.

        Readings that follow at once show that: the cheaper of two, as consumers may work between.
        """
        end = self._read(sessions)
        again = self._read(())
        own = map(min, again.less(end), self._read(()).less(again))
        total = end.less(begin)
        spent = Reading(*(max(0.0, all_ - part) for all_, part in zip(total, own, strict=True)))
        return spent._replace(
            commands=total.commands, client_us=total.client_us, memory=total.memory
        )

    def _read(self, sessions: Iterable[int]) -> Reading:
        info: Any = self._admin.info("everything")
        cpu = sum(
            info.get(f"used_cpu_{part}_main_thread", info[f"used_cpu_{part}"])
            for part in ("user", "sys")
        )
        return Reading(
            commands=sum(
                stat["calls"]
                for name, stat in info.items()
                if name.startswith("cmdstat_") and name not in OURS
            ),
            round_trips=info.get("total_reads_processed", 0),
            bytes=info["total_net_input_bytes"] + info["total_net_output_bytes"],
            server_us=cpu * 1e6,
            client_us=client_cpu(sessions) * 1e6,
            memory=info["used_memory"] - info.get("mem_clients_normal", 0),
        )


def client_cpu(sessions: Iterable[int]) -> float:
    """CPU seconds of all processes of these sessions (Linux)."""
    wanted, total, tick = set(sessions), 0.0, os.sysconf("SC_CLK_TCK")
    if not wanted:
        return 0.0
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) not in wanted:
                continue
            # A process's own CPU clock is exact; children that ended are counted in ticks.
            total += time.clock_gettime((~int(directory.name) << 3) | 2)
        except OSError:
            continue
        total += (int(fields[13]) + int(fields[14])) / tick
    return total
