"""What workers say of themselves, and what `atomq doctor` makes of it."""

from __future__ import annotations

import json
from typing import Any

from atomq import calls
from atomq.client import Engine
from atomq.contrib import fleet
from atomq.contrib.fleet import Attendance, Registration
from tests.servers import wait_until

SETTINGS = {
    "visibility_timeout": 3600,
    "global_keyprefix": "",
    "sep": "\x06\x16",
    "priority_steps": [0, 3, 6, 9],
    "fanout_prefix": "/0.",
    "fanout_patterns": True,
}


class Idle:
    """What holds nothing."""

    def working(self, most: int) -> tuple[int, list[Any]]:
        return 0, []


def entries(engine: Engine) -> list[fleet.Worker]:
    return fleet.of_register(engine.run(calls.roster(engine.register.keys)).processes)


def test_a_worker_is_in_the_register_until_it_leaves(server) -> None:
    with Engine(server.url) as engine:
        registration = Registration(engine, Idle(), SETTINGS, Attendance(engine, lambda: "w"))
        registration.refresh(["b", "a"])
        wait_until("the worker is there", lambda: entries(engine))
        (worker,) = entries(engine)
        assert worker.settings["queues"] == ["a", "b"]
        assert abs(worker.skew_ms) < 5_000
        assert fleet.disagreements([worker, worker]) == []
        registration.leave()
        wait_until("it is not", lambda: not entries(engine))


def test_a_process_leaves_a_queue_when_its_last_connection_does(server) -> None:
    with Engine(server.url) as engine:
        attendance = Attendance(engine, lambda: "w")
        registrations = [Registration(engine, Idle(), SETTINGS, attendance) for _ in range(3)]
        for registration in registrations:
            registration.refresh(["q"])

        def there() -> int:
            return len((engine.command("HGET", engine.keys("q").meta, "consumers") or b"").split())

        assert there() == 2  # a name and until when
        registrations[0].lost()
        registrations[1].leave()
        assert there() == 2
        registrations[2].drop("q")
        assert there() == 0


def test_settings_and_clocks_that_differ_are_named() -> None:
    one = fleet.Worker("1", {**SETTINGS, "host": "a", "pid": 1, "clock_ms": 0, "server_ms": 0})
    two = fleet.Worker(
        "2",
        {
            **SETTINGS,
            "host": "b",
            "pid": 2,
            "visibility_timeout": 60,
            "fanout_prefix": "",
            "clock_ms": 11_000,
            "server_ms": 0,
        },
    )
    faults = fleet.disagreements([one, two])
    assert [fault.split()[0] for fault in faults] == ["visibility_timeout", "fanout_prefix", "the"]
    assert "3600 on a (pid 1); 60 on b (pid 2)" in faults[0]
    assert "differ by 11 s" in faults[2]


def test_an_unreadable_entry_is_passed_over() -> None:
    assert fleet.workers([("k", b"{"), ("k", None), ("k", json.dumps([1]).encode())]) == []
