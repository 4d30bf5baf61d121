"""The second act: an unmodified Celery app with two workers, one of them killed.

Two thousand tasks measure small modules of the standard library; some have an ETA, one takes three
times the visibility timeout. Half way the worker that has not the long one is killed, with its
children. Results come through Celery's result backend, and are checked against what the same
functions compute here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from typing import TYPE_CHECKING, Any

from atomq import Engine, Queue, QueueState
from atomq.address import Address
from atomq.cli.demo.celery_app.ledger import Played, outcome
from atomq.cli.demo.celery_app.plan import FEW, LONG, Job, Plan, celery_options, celery_url
from atomq.cli.demo.celery_app.tally import Clocks, Start, Tally, task_of
from atomq.cli.demo.deaths import Deaths
from atomq.cli.demo.outcome import Outcome
from atomq.cli.demo.view import Pace, QueueRow, Show, WorkerRow
from atomq.cli.output import plural
from atomq.errors import AtomqError

if TYPE_CHECKING:
    from atomq.cli.demo import DemoSettings
    from atomq.cli.demo.stage import Stage

TICK = 0.1  # seconds between two looks at everything
WORKERS = 2
BOOT = 40.0  # seconds the workers may take to be ready
PATIENCE = 15.0  # seconds (and a long task) without any progress, then the act is over
STRIDE = 100  # tasks sent between two looks
QUEUE = "celery"
# The exchanges that Celery's workers bind to: their tables stay in the server.
EXCHANGES = (QUEUE, "celery.pidbox", "reply.celery.pidbox", "celeryev")


def why_not(url: str | None) -> str:
    """Why this act cannot be played on this server (None: an embedded one); "" if it can."""
    if importlib.util.find_spec("celery") is None:
        return "Celery is not installed: pip install 'atomq[celery]'"
    if url is not None and Address.parse(url).kind == "cluster":
        return "Celery cannot use a cluster"
    return ""


def play(stage: Stage, show: Show, settings: DemoSettings) -> Outcome:
    """The act. Raises what the engine raises if the server cannot be used."""
    return _Play(stage, show, settings).run()


class _Play:
    def __init__(self, stage: Stage, show: Show, settings: DemoSettings) -> None:
        self.stage, self.show = stage, show
        self.plan = Plan.of(settings.tasks, settings.lease)
        self.tally = Tally()
        self.options: dict[str, Any] = {
            "visibility_timeout": self.plan.visibility_timeout,
            "max_deliveries": settings.max_deliveries,
        }
        self.engine = Engine(stage.url, **self.options)
        self.queue = Queue(stage.queue_name(self.engine, QUEUE), self.engine)
        self.deaths = Deaths(stage, show, self.queue, task_of)
        self.notes = stage.file("notes.jsonl")
        self.read = 0
        self.ready: dict[int, int] = {}
        self.unsent = list(reversed(self.plan.jobs))
        self.publishing = 0.0
        self.killed = False
        self.long = ""
        self.long_worker: int | None = None
        self.state: QueueState
        self.clocks = Clocks()
        self.connections: int | None = None
        self.asked_at = 0.0
        self.restarts = 0
        self.pace = Pace()

    # ── the act ───────────────────────────────────────────────────────────────────────────────

    def run(self) -> Outcome:
        import celery

        from atomq.cli.demo.celery_app.minder import SLOTS, without_celerys

        self.show.title(
            f"{plural(len(self.plan.jobs), 'task')} of a Celery app on two workers",
            "they parse and compile small modules of the standard library",
        )
        for name in os.environ.keys() - without_celerys(dict(os.environ)).keys():
            del os.environ[name]
        self.deaths.workers = self.stage.processes("atomq.cli.demo.celery_app.minder", WORKERS)
        self.stage.open(self.engine)
        self.stage.at_end(self.remove)
        self.show.event(
            f"{self.stage.server}; Celery {celery.__version__}, {WORKERS} prefork workers "
            f"-c {SLOTS}; visibility timeout {self.plan.visibility_timeout} s"
        )
        self.open_app()
        self.watch()
        self.stage.end_processes()
        self.show.event("checking every result against what is computed here")
        self.tally.check()
        return outcome(
            Played(
                visibility_timeout=self.plan.visibility_timeout,
                modules=self.plan.modules,
                long=self.long,
                tally=self.tally,
                deaths=self.deaths.all,
                state=self.state,
                dead=self.deaths.letters(),
                connections=self.connections,
                restarts=self.restarts,
            )
        )

    def open_app(self) -> None:
        """Make the app here, and tell the workers of it."""
        from atomq.cli.demo.celery_app.app import build

        url = celery_url(self.engine.address, self.stage.url)
        app: dict[str, Any] = {"url": url, "queue": QUEUE, "prefix": self.stage.prefix}
        options = celery_options(self.engine.address)
        self.sender = build(**app, options=options, results=False)
        self.app = build(**app, options=options)
        for worker in self.deaths.workers:
            named = {**options, "client_name": self.client_name(worker.number)}
            worker.tell(
                {
                    "worker": worker.number,
                    "notes": str(self.notes),
                    "app": {**app, "options": named},
                }
            )

    def client_name(self, worker: int) -> str:
        """What a worker's connections to the broker are called in the server."""
        return f"{self.stage.prefix}demo-worker-{worker}"

    def watch(self) -> None:
        """Until nothing is left to do, or nothing moves any more."""
        began = moved_at = time.monotonic()
        before: Any = None
        while True:
            looked_at = time.monotonic()
            self.look()
            self.deaths.count()
            if self.stage.restarted():
                self.restarts += 1
                self.show.event("the server died and was started again", "red")
            self.follow_up(looked_at - began)
            self.paint()
            now = time.monotonic()
            if (self.state.stats, self.tally.completed, len(self.ready)) != before:
                moved_at = now
                before = (self.state.stats, self.tally.completed, len(self.ready))
            done = not (self.unsent or self.tally.pending or self.deaths.waiting)
            if done and self.idle():
                return
            patience = PATIENCE + self.plan.long.args[0] if self.tally.jobs else 2 * BOOT
            stuck = now - moved_at > patience
            if stuck or not self.deaths.alive() or self.buried():
                self.show.event(self.why_over(stuck=stuck), "red")
                return
            if self.unsent and self.tally.jobs:
                continue
            if not self.state.ready:
                self.tally.check(TICK / 2)
            time.sleep(max(0.0, looked_at + TICK - time.monotonic()))

    def idle(self) -> bool:
        """Whether the queue is empty."""
        return self.state.ready + self.state.unacked + self.state.delayed == 0

    def buried(self) -> bool:
        """Whether all that is still to come are dead letters."""
        pending = len(self.tally.pending)
        return not self.unsent and self.idle() and 0 < pending <= self.state.dead

    def why_over(self, *, stuck: bool) -> str:
        """Why the act ends before everything is done."""
        if self.buried():
            return "what is not done lies with the dead letters"
        return "nothing moves any more" if stuck else "no worker is left"

    # ── looking ───────────────────────────────────────────────────────────────────────────────

    def look(self) -> None:
        """Take what workers have noted and answered, and see how the queue is."""
        self.take_notes()
        self.take_results()
        # In this order: a worker acks a task after its result is there.
        asked = time.time()
        self.state = self.queue.state()
        self.clocks.asked(asked, self.state.now_ms, time.time())
        if self.tally.jobs and time.monotonic() > self.asked_at + 1:
            self.asked_at = time.monotonic()
            self.count_connections()

    def take_notes(self) -> None:
        """Read what the workers have written since the last time."""
        if not self.notes.exists():
            return
        with self.notes.open("rb") as file:
            file.seek(self.read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.read += len(whole) + len(newline)
        for line in whole.splitlines():
            note = json.loads(line)
            worker = note["worker"]
            if "ready" in note:
                self.ready[worker] = note["ready"]
                self.show.event(f"worker {worker} is ready")
                continue
            self.deaths.holders[note["holder"]] = worker
            start = Start(worker, self.clocks.server(note["at"]), note["deliveries"])
            self.tally.start(note["start"], start)
            if note["start"] == self.long:
                self.long_worker = worker

    def take_results(self) -> None:
        """Ask the result backend for all that is still to come."""
        backend = self.app.backend
        pending = self.tally.pending
        if not pending:
            return
        try:
            found = list(backend.get_many(set(pending), interval=0, max_iterations=1))
        except backend.connection_errors:  # it is asked again
            return
        for task, meta in found:
            self.tally.finish(task, meta["status"], meta["result"])
            if task == self.long:
                self.long_worker = None
                self.show.event(
                    f"the long task is done: {self.plan.long.args[0]:g} s under a visibility "
                    f"timeout of {self.plan.visibility_timeout} s"
                )

    def count_connections(self) -> None:
        """How many connections to the broker a worker has, at most."""
        try:
            lines = self.engine.command("CLIENT LIST").decode().splitlines()
        except AtomqError:  # not for this user
            return
        for worker in self.deaths.workers:
            name = f" name={self.client_name(worker.number)} "
            count = sum(name in line for line in lines)
            self.connections = max(self.connections or 0, count)

    # ── doing ─────────────────────────────────────────────────────────────────────────────────

    def follow_up(self, seconds: float) -> None:
        """What happens once all workers are ready, and at half of the work."""
        if self.unsent and (len(self.ready) == WORKERS or seconds > BOOT):
            self.publish()
        if not self.killed and self.tally.completed >= len(self.plan.jobs) // 2:
            self.kill_one()

    def publish(self) -> None:
        """Send some of the tasks that are still to be sent."""
        began = time.monotonic()
        for _ in range(min(STRIDE, len(self.unsent))):
            self.send(self.unsent.pop())
        self.publishing += time.monotonic() - began
        if self.unsent:
            return
        self.tally.publishing = len(self.plan.jobs) / self.publishing
        self.show.event(
            f"published {plural(len(self.plan.jobs), 'task')}, {self.tally.publishing:,.0f}/s; "
            f"{FEW} have an ETA, one takes {LONG} visibility timeouts"
        )

    def send(self, job: Job) -> None:
        """One task, as every Celery app sends it."""
        now = time.time()
        task = self.sender.send_task(job.task, job.args, countdown=job.countdown).id
        self.tally.jobs[task] = job
        if job is self.plan.long:
            self.long = task
        if job.countdown is not None:
            # The publisher's clock says when; the server's when that is.
            self.tally.due[task] = now + job.countdown

    def kill_one(self) -> None:
        """SIGKILL for the worker that has not the long task, with its children."""
        held = self.deaths.held()
        fit = [w for w in self.deaths.alive() if held[w.number] and w.number != self.long_worker]
        if len(self.deaths.alive()) > 1 and fit:
            self.killed = self.deaths.kill(max(fit, key=lambda worker: len(held[worker.number])))

    def remove(self) -> None:
        """From a server that others use too: everything that is not the queue itself."""
        engine, prefix = self.engine, self.stage.prefix
        tables = [
            f"{prefix}_kombu.{kind}.{exchange}"
            for exchange in EXCHANGES
            for kind in ("binding", "binding_permanent")
        ]
        engine.command("DEL", f"{prefix}_kombu.binding_deadlines", *tables)
        results = [self.app.backend.get_key_for_task(task) for task in self.tally.jobs]
        for at in range(0, len(results), STRIDE):
            engine.command("DEL", *results[at : at + STRIDE])

    # ── the picture ───────────────────────────────────────────────────────────────────────────

    def paint(self) -> None:
        """Everything as it is now."""
        picture, state = self.show.picture, self.state
        picture.queues = [
            QueueRow(state.name, state.ready, state.unacked, state.delayed, state.dead)
        ]
        states = dict.fromkeys(self.ready, "working")
        if self.long_worker is not None:
            states[self.long_worker] = "long job"
        states |= self.deaths.states()
        picture.workers = [
            WorkerRow(
                worker.number,
                worker.pid,
                states.get(worker.number, "starting"),
                self.tally.by_worker[worker.number],
            )
            for worker in self.deaths.workers
        ]
        picture.done, picture.total = self.tally.completed, len(self.plan.jobs)
        picture.per_second = self.pace.at(self.tally.completed)
        self.show.refresh()
