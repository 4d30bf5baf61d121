"""Workers to start and to kill, the ledger of what they did, and what lies in the broker."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
import redis
from celery import Celery, states
from kombu import Connection, Consumer, Exchange, Producer, Queue, transport
from kombu.transport import TRANSPORT_ALIASES

import atomq.celery
from atomq import Engine, calls
from atomq.calls import Peeked, QueueState
from tests.contrib import app as module
from tests.contrib.nursery import FORKS, GREEN, Forked
from tests.servers import ROOT, Server, wait_until

POOLS = ("prefork", "threads", "solo", *GREEN)
# What differs between servers is proved elsewhere; here it is Celery that is tried.
_NAMED = [name for name in os.environ.get("ATOMQ_TEST_SERVERS", "").split(",") if name]
KIND = "valkey-9" if "valkey-9" in _NAMED or not _NAMED else _NAMED[0]
LONG = os.environ.get("ATOMQ_LONG") == "1"


def pools(*short: str, long: Sequence[str] = POOLS) -> Any:
    """Has a test run in these pools, and at full length in the others too."""
    more = [pytest.param(pool, marks=pytest.mark.long) for pool in long if pool not in short]
    return pytest.mark.parametrize("pool", [*short, *more])


ON_ONE_KIND = pytest.mark.parametrize("kind", [KIND], indirect=True)
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_names = itertools.count(1)


def ours(url: str) -> str:
    """A redis+socket:// or redis:// URL under our scheme."""
    return re.sub(r"^(redis|valkey)", "atomq", url)


@contextlib.contextmanager
def taken_over() -> Iterator[None]:
    """Stock's schemes run on atomq meanwhile."""
    before = dict(TRANSPORT_ALIASES)
    atomq.celery.take_over()
    try:
        yield
    finally:
        TRANSPORT_ALIASES.clear()
        TRANSPORT_ALIASES.update(before)
        transport._transport_cache.clear()


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(1, signal.SIGKILL)


class Event(NamedTuple):
    """One line of the ledger."""

    what: str
    id: str
    name: str
    pid: int
    at: float


class Ledger:
    """What the tasks of all workers of a test did."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def events(self) -> list[Event]:
        found = []
        for line in self.path.read_text().splitlines():
            what, *rest = line.split()
            if what in ("start", "end"):
                found.append(Event(what, rest[0], rest[1], int(rest[2]), float(rest[3])))
        return found

    def vitals(self) -> list[dict[str, int]]:
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return [json.loads(line[1]) for line in lines if line[0] == "vitals"]

    def starts(self) -> Counter[str]:
        """How often each task was started, by id."""
        return Counter(event.id for event in self.events() if event.what == "start")

    def ends(self) -> Counter[str]:
        return Counter(event.id for event in self.events() if event.what == "end")

    def started(self, task_id: str) -> list[float]:
        """When a task was started, by the clock of the wall."""
        return [e.at for e in self.events() if e.id == task_id and e.what == "start"]

    def await_starts(self, ids: list[str] | str, seconds: float = 15, times: int = 1) -> None:
        wanted = [ids] if isinstance(ids, str) else ids

        def there() -> bool:
            starts = self.starts()
            return all(starts[one] >= times for one in wanted)

        try:
            wait_until(f"{len(wanted)} tasks to start", there, seconds)
        except AssertionError as error:
            starts = self.starts()
            missing = [one for one in wanted if starts[one] < times]
            raise AssertionError(f"{error}; {len(missing)} did not: {missing[:5]}") from None

    def await_ends(self, ids: list[str] | str, seconds: float = 15) -> None:
        wanted = set([ids] if isinstance(ids, str) else ids)
        try:
            wait_until(f"{len(wanted)} tasks", lambda: not wanted - set(self.ends()), seconds)
        except AssertionError as error:
            missing = sorted(wanted - set(self.ends()))
            raise AssertionError(f"{error}; {len(missing)} did not end: {missing[:5]}") from None


class Worker:
    """One `celery worker` in a process of its own. Its log is a file.

    With an environment of its own (`env`) it is never forked: what Celery loads may look there.
    """

    def __init__(
        self,
        broker: str,
        directory: Path,
        ledger: Ledger,
        *,
        pool: str = "solo",
        concurrency: int = 1,
        queues: str = "celery",
        backend: str | None = None,
        role: str = "worker",
        args: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        **conf: Any,
    ) -> None:
        self.name = f"w{next(_names)}@test"
        self.pool = pool
        self.log_path = directory / f"{self.name}.log"
        environment = {
            **os.environ,
            "ATOMQ_TEST_WORKER": role,
            "ATOMQ_TEST_BROKER": broker,
            "ATOMQ_TEST_LEDGER": str(ledger.path),
            "ATOMQ_TEST_CONF": json.dumps({"worker_prefetch_multiplier": 4, **conf}),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "engine")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            **(env or {}),
        }
        if backend:
            environment["ATOMQ_TEST_BACKEND"] = backend
        words = ["-A", "tests.contrib.app", "--skip-checks"]
        if role == "beat":
            words += ["beat", "-s", str(directory / "schedule"), "--pidfile=", "-l", "INFO"]
        else:
            words += ["worker", "-P", pool, "-c", str(concurrency), "-n", self.name]
            words += ["-Q", queues, "-l", "INFO", *(args or ("--without-mingle",))]
        self.process: subprocess.Popen[bytes] | Forked
        if FORKS and env is None:
            self.log_path.touch()
            self.process = Forked(pool, words, environment, directory, self.log_path)
            return
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=directory,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - calls prctl and nothing else
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def pid(self) -> int:
        return self.process.pid

    def ready(self, seconds: float = 40) -> Self:
        """Wait until it takes tasks."""
        self.await_log(r" ready\.", seconds)
        return self

    def await_log(self, pattern: str, seconds: float = 15, times: int = 1) -> None:
        """Wait for a line of its log."""

        def there() -> bool:
            if not self.alive and not re.search(pattern, self.log):
                raise AssertionError(f"the worker ended ({self.process.returncode}):\n{self.log}")
            return len(re.findall(pattern, self.log)) >= times

        try:
            wait_until(f"{pattern!r} in the log", there, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-3000:]}") from None

    def send_signal(self, number: int) -> None:
        """To the worker itself, not to its children."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to the worker and all its children, and wait."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP to the worker itself."""
        self.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send_signal(signal.SIGCONT)

    # A child of a prefork pool may wait for 30 s until its parent has read what it reads no more:
    # billiard 4.3.2, in one warm shutdown of eight just after a task began, with stock Kombu too.
    def stop(self, number: int = signal.SIGTERM, seconds: float = 45) -> int:
        """Tell it to stop and wait; its return code."""
        if self.alive:
            self.send_signal(number)
        return self.ended(seconds)

    def ended(self, seconds: float = 45) -> int:
        """Wait until it has ended; its return code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker does not end:\n{self.log[-3000:]}") from None

    def cpu(self) -> float:
        """Seconds of processor time it has used, without its children."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def vitals(self, ledger: Ledger) -> dict[str, int]:
        """What its own process holds open."""
        before = len(ledger.vitals())
        self.send_signal(signal.SIGUSR2)
        wait_until("the vitals", lambda: len(ledger.vitals()) > before, 10)
        return ledger.vitals()[-1]


def late_beside_a_busy_one(url: str, busy: str, due: str) -> float:
    """By how many seconds a message comes late that falls due while its timekeeper works.

    That consumes both queues, and works on a message of `busy`; an idle one consumes `due`.
    """
    works, done, came = threading.Event(), threading.Event(), list[float]()

    def work(_: Any, message: Any) -> None:
        message.ack()
        works.set()
        done.wait(10)

    def take(_: Any, message: Any) -> None:
        came.append(time.time())
        message.ack()

    with contextlib.ExitStack() as stack:
        # By this name, so that each has ids of its own, as in processes of their own.
        mine, other, out = (
            stack.enter_context(Connection(url, transport_options={"client_name": name}))
            for name in ("busy", "idle", "out")
        )
        queues = [Queue(name, Exchange(name), routing_key=name) for name in (busy, due)]
        Consumer(mine, queues, callbacks=[work]).consume()
        falls_due = datetime.now(UTC) + timedelta(seconds=0.9)
        for queue, headers in ((queues[1], {"eta": falls_due.isoformat()}), (queues[0], {})):
            with contextlib.suppress(TimeoutError):
                mine.drain_events(timeout=0.2)  # it claims, and waits for what is due
            Producer(out).publish(
                {},
                exchange=queue.exchange,
                routing_key=queue.name,
                declare=[queue],
                headers=headers,
            )
        working = threading.Thread(target=mine.drain_events, kwargs={"timeout": 5})
        working.start()
        stack.callback(working.join)
        stack.callback(done.set)
        assert works.wait(5)
        Consumer(other, queues[1:], callbacks=[take]).consume()
        wait_until("what falls due", lambda: came or _drained(other), 5)
    return came[0] - falls_due.timestamp()


def _drained(connection: Connection) -> None:
    with contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=0.5)


class Place:
    """A broker, the app that sends to it, and the workers of one test."""

    def __init__(
        self,
        server: Server,
        directory: Path,
        url: str | None = None,
        backend: str | None = None,
    ) -> None:
        self.server = server
        self.directory = directory
        self.url, self.engine_url = ours(url or server.url), server.url
        self.ledger = Ledger(directory / f"ledger{next(_names)}")
        self.workers: list[Worker] = []
        self._apps: list[Celery] = []
        self._engines: dict[str, Engine] = {}
        self.backend = backend or server.url.replace("virtual_host=0", "virtual_host=1")
        # What sends has no result backend: it would subscribe to each result it sends for.
        self.app = self.make_app()
        self.reader = self.make_app(backend=self.backend)

    def make_app(
        self, broker: str | None = None, backend: str | None = None, **conf: Any
    ) -> Celery:
        app = module.make(broker or self.url, backend, **conf)
        self._apps.append(app)
        return app

    def worker(self, pool: str = "solo", concurrency: int = 1, **more: Any) -> Worker:
        """Start a worker; `ready()` waits for it."""
        broker = more.pop("broker", self.url)
        backend = more.pop("backend", self.backend)
        worker = Worker(
            broker,
            self.directory,
            self.ledger,
            pool=pool,
            concurrency=concurrency,
            backend=backend,
            **more,
        )
        self.workers.append(worker)
        return worker

    def send(self, name: str, *args: Any, **options: Any) -> str:
        """Send one task; its id."""
        app: Celery = options.pop("app", self.app)
        kwargs = options.pop("kwargs", {})
        return str(app.tasks[name].apply_async(args, kwargs, **options).id)

    def send_many(self, n: int, name: str, *args: Any, **options: Any) -> list[str]:
        return [self.send(name, *args, **dict(options)) for _ in range(n)]

    def result(self, task_id: str, seconds: float = 15) -> Any:
        """What a task returned; its exception is raised."""
        meta = self.outcome(task_id, seconds)
        if isinstance(meta["result"], Exception):
            raise meta["result"]
        return meta["result"]

    def outcome(self, task_id: str, seconds: float = 15) -> dict[str, Any]:
        """What the result backend holds of a task, once it is final."""
        backend = self.reader.backend
        wait_until(
            f"the result of {task_id}",
            lambda: backend.get_task_meta(task_id, cache=False)["status"] in states.READY_STATES,
            seconds,
        )
        meta: dict[str, Any] = backend.get_task_meta(task_id, cache=False)
        return meta

    @property
    def db(self) -> redis.Redis:
        return self.server.client()

    def engine(self, **options: Any) -> Engine:
        key = repr(options)
        if key not in self._engines:
            self._engines[key] = Engine(self.engine_url, **options)
        return self._engines[key]

    def state(self, queue: str = "celery", **options: Any) -> QueueState:
        engine = self.engine(**options)
        return engine.run(calls.inspect(engine.keys(queue)))

    def peek(self, part: Any, queue: str = "celery", limit: int = 1000) -> list[Peeked]:
        engine = self.engine()
        return engine.run(calls.peek(engine.keys(queue), part, limit=limit))

    def await_state(
        self, test: Callable[[QueueState], object], seconds: float = 10, queue: str = "celery"
    ) -> None:
        """Wait until the queue is as `test` wants it."""
        try:
            wait_until("the queue", lambda: test(self.state(queue)), seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.state(queue)}") from None

    def await_empty(self, seconds: float = 10, queue: str = "celery") -> None:
        """Wait until nothing is ready, held or delayed."""
        self.await_state(lambda s: s.ready + s.unacked + s.delayed == 0, seconds, queue)

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
            # pytest shows it if the test failed.
            print(f"── {worker.name} ({worker.pool}) ──\n{worker.log[-6000:]}")
        print(f"── ledger ──\n{self.ledger.path.read_text()[-2000:]}")
        for app in self._apps:
            app.close()
        for engine in self._engines.values():
            engine.close()


class Fleet(Place):
    """One worker of each pool, each on a queue of its own that is called like the pool."""

    def __init__(self, server: Server, directory: Path, backend: str, **conf: Any) -> None:
        super().__init__(server, directory, backend=backend)
        self.conf = conf
        self.of: dict[str, Worker] = {}
        self.muster()

    def muster(self) -> None:
        """Start those that are not there, and wait until all are ready and listen to orders."""
        new = [pool for pool in POOLS if pool not in self.of or not self.of[pool].alive]
        for pool in new:
            self.of[pool] = self.worker(pool, 1 if pool == "solo" else 2, queues=pool, **self.conf)
        for pool in new:
            self.of[pool].ready()
        # A green worker says that it is ready, and then a greenlet of its own begins to listen:
        # what is asked of all before that, it does not hear.
        names = {self.of[pool].name for pool in new}
        inspect = self.app.control.inspect(list(names), timeout=0.5, limit=len(names))
        if new:
            wait_until("the workers to listen", lambda: set(inspect.ping() or ()) == names, 30)

    def each(self, name: str, *args: Any, **options: Any) -> dict[str, str]:
        """Send one task to each pool; its id, by pool."""
        return {pool: self.send(name, *args, queue=pool, **dict(options)) for pool in POOLS}

    def await_all_empty(self, seconds: float = 10) -> None:
        for pool in POOLS:
            self.await_empty(seconds, pool)

    def where(self) -> dict[str, Any]:
        """What lies in each queue, for those who ask why a test failed."""
        return {
            f"{pool} {part}": [(m.name, m.deliveries, m.raw[-600:]) for m in self.peek(part, pool)]
            for pool in POOLS
            for part in ("ready", "unacked", "delayed", "dead")
        }

    def assert_alive(self) -> None:
        """No worker died, or logged what it should not have."""
        for pool, worker in self.of.items():
            assert worker.alive, f"{pool} ended: {worker.log[-3000:]}"


@contextlib.contextmanager
def place(server: Server, directory: Path, url: str | None = None) -> Iterator[Place]:
    """A broker and its workers; none of them outlives the test."""
    found = Place(server, directory, url)
    try:
        yield found
    finally:
        found.close()


def await_true(what: str, test: Callable[[], object], seconds: float = 10) -> None:
    wait_until(what, test, seconds)


def now() -> float:
    return time.time()
