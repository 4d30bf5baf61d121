"""What is published: small modules of the standard library, tasks with an ETA, and a long one."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from atomq import embedded
from atomq.address import Address
from atomq.cli.demo.library.plan import standard_library

SMALL = 8192  # bytes of source: a few milliseconds of work
LONG = 3  # visibility timeouts the long task takes
FEW = 8  # tasks with an ETA
MEASURES = ("outline", "bytecode")


@dataclass(frozen=True)
class Job:
    """One task to be sent."""

    task: str
    args: tuple[Any, ...]
    countdown: float | None = None


@dataclass(frozen=True)
class Plan:
    """Which tasks there are. The same plan for the same standard library."""

    visibility_timeout: int
    long: Job
    eta: list[Job]
    measures: list[Job] = field(repr=False)

    @classmethod
    def of(cls, tasks: int, lease: float) -> Plan:
        """The plan for so many tasks of the small kind."""
        timeout = max(1, math.ceil(lease))
        chance = random.Random(2)
        _, files = standard_library()
        modules = [path for path, size in files if path.endswith(".py") and 0 < size <= SMALL]
        jobs = [Job(task, (path,)) for path in modules for task in MEASURES]
        chance.shuffle(jobs)
        many = (jobs * (1 + tasks // len(jobs)))[:tasks]
        last = LONG * timeout
        eta = [
            Job("outline", (chance.choice(modules),), round(chance.uniform(0.2, 0.9) * last, 1))
            for _ in range(FEW)
        ]
        return cls(timeout, Job("wait", (float(last),)), eta, many)

    @property
    def jobs(self) -> list[Job]:
        """All of them, in the order in which they are sent."""
        return [self.long, *self.eta, *self.measures]

    @property
    def modules(self) -> int:
        """How many files it is about."""
        return len({job.args for job in self.measures})


_SCHEMES = {
    "redis": "atomq",
    "rediss": "atomqs",
    "unix": "atomq+socket",
    "socket": "atomq+socket",
    "redis+socket": "atomq+socket",
    "valkey+socket": "atomq+socket",
    "sentinel": "atomq-sentinel",
    "sentinels": "atomqs-sentinel",
}


_IN_URL = ("username", "password", "db", "virtual_host", "ssl", "credential_provider")


def celery_options(address: Address) -> dict[str, Any]:
    """What else the URL said, as options of Celery's transport."""
    given = address.options.given()
    return {name: value for name, value in given.items() if name not in _IN_URL}


def celery_url(address: Address, given: str) -> str:
    """The URL of the same server for Celery; an embedded one must be running."""
    if address.kind == "embedded":
        server = embedded.start(address.path)
        query = f"?virtual_host={address.db}" if address.db else ""
        return f"atomq+socket://{quote(str(server.socket))}{query}"
    if address.kind == "sentinel":  # its query names the master, which Celery takes as an option
        given = re.sub(r"\?[^;]*", "", given)
    return re.sub(r"(?:(?<=^)|(?<=;))([a-z+-]+)(?=://)", lambda m: _SCHEMES.get(m[1], m[1]), given)
