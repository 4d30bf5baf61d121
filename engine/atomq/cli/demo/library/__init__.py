"""The first act: the library at work, with everything that can happen to a message.

Every file of the standard library is a message. Some are delayed, some urgent, one takes longer
than a lease, one names a file that is not there. Half way one worker is killed. What the workers
answer comes through a second queue, and is checked at the end against the files themselves.
"""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING, Any

from atomq import Engine, Queue, QueueState, Receiver
from atomq.cli.demo.deaths import Deaths
from atomq.cli.demo.library.ledger import Played, outcome
from atomq.cli.demo.library.plan import MISSING, Plan
from atomq.cli.demo.library.tally import Tally, path_of
from atomq.cli.demo.outcome import Outcome
from atomq.cli.demo.view import Pace, QueueRow, Show, WorkerRow
from atomq.cli.output import number, plural, size

if TYPE_CHECKING:
    from atomq.cli.demo import DemoSettings
    from atomq.cli.demo.stage import Stage

TICK = 0.1  # seconds between two looks at everything
RETRY = 0.5  # seconds until a file that failed is tried again
MANY = 1000  # results taken at once
PATIENCE = 15.0  # seconds (and a long job) without any progress, then the act is over


def play(stage: Stage, show: Show, settings: DemoSettings) -> Outcome:
    """The act. Raises what the engine raises if the server cannot be used."""
    return _Play(stage, show, settings).run()


class _Play:
    def __init__(self, stage: Stage, show: Show, settings: DemoSettings) -> None:
        self.stage, self.show, self.settings = stage, show, settings
        self.plan = Plan.of(settings.workers, settings.seconds, settings.lease, settings.files)
        self.tally = Tally(self.plan.paths, MISSING)
        self.options: dict[str, Any] = {
            "lease": settings.lease,
            "max_deliveries": settings.max_deliveries,
            "prefetch": self.plan.prefetch,
            "result_ttl": 60,  # nobody fetches the one result there is: that of the bad message
        }
        self.engine = Engine(stage.url, **self.options)
        self.files = Queue(stage.queue_name(self.engine, "files"), self.engine)
        self.results = Queue(stage.queue_name(self.engine, "results"), self.engine)
        self.deaths = Deaths(stage, show, self.files, path_of)
        self.killed = self.poisoned = False
        self.long_job: int | None = None
        self.states: list[QueueState] = []
        self.pace = Pace()
        self.urgent_at = 0.0

    # ── what is published ─────────────────────────────────────────────────────────────────────

    def publish(self) -> None:
        """Everything but the urgent ones."""
        items, delays = self.plan.first(), self.plan.delays
        began = time.monotonic()
        self.files.put_many(items)
        took = time.monotonic() - began
        self.tally.published += len(items)
        self.tally.not_before = {path: began + delay for path, delay in delays.items()}
        self.tally.publishing = len(items) / took
        self.show.event(
            f"published {plural(len(items), 'message')} in {took * 1000:.0f} ms, "
            f"{len(delays)} of them delayed"
        )

    def publish_urgent(self) -> None:
        """In the middle of the work, ahead of all that waits."""
        self.tally.overtaken = self.states[0].ready
        self.urgent_at = time.monotonic()
        items = self.plan.then()
        self.files.put_many(items)
        self.tally.published += len(items)
        self.show.event(
            f"published {plural(len(items), 'urgent message')} while "
            f"{number(self.tally.overtaken)} others are waiting"
        )

    # ── the act ───────────────────────────────────────────────────────────────────────────────

    def run(self) -> Outcome:
        self.show.title(
            f"{plural(len(self.tally.paths), 'file')}, {size(self.plan.bytes)}: "
            f"Python {platform.python_version()}'s standard library",
            "each is a message; workers compute its SHA-256 and count its lines",
        )
        self.deaths.workers = self.stage.processes(
            "atomq.cli.demo.library.worker", self.settings.workers
        )
        self.stage.open(self.engine)
        self.show.event(f"{self.stage.server}; lease {self.settings.lease:g} s")
        self.publish()
        for worker in self.deaths.workers:
            worker.tell(
                {
                    "worker": worker.number,
                    "url": self.stage.url,
                    "options": self.options,
                    "root": str(self.plan.root),
                    "files": self.files.name,
                    "results": self.results.name,
                    "pace": self.plan.pace,
                    "retry": RETRY,
                }
            )
        with Receiver([self.results]) as receiver:
            self.watch(receiver)
        self.stage.end_processes()
        self.show.event("checking every digest against the file itself")
        self.tally.check(self.plan.root)
        return outcome(
            Played(
                self.settings,
                self.tally,
                self.deaths.all,
                self.states[0],
                self.deaths.letters(),
                self.plan.urgent,
            )
        )

    def watch(self, receiver: Receiver) -> None:
        """Until nothing is left to do, or nothing moves any more."""
        moved_at, before = time.monotonic(), None
        while True:
            began = time.monotonic()
            found = self.look(receiver)
            self.deaths.count()
            if self.stage.restarted():
                self.show.event("the server died and was started again by those who need it", "red")
            self.follow_up()
            self.paint()
            now = time.monotonic()
            if (self.states[0].stats, self.tally.results) != before:
                moved_at, before = now, (self.states[0].stats, self.tally.results)
            if all(s.ready + s.unacked + s.delayed == 0 for s in self.states) and self.told():
                return
            stuck = now - moved_at > PATIENCE + self.plan.long_seconds
            if stuck or not self.deaths.alive():
                self.show.event("nothing moves any more" if stuck else "no worker is left", "red")
                while self.look(receiver):
                    pass
                return
            if found < MANY:
                time.sleep(max(0.0, began + TICK - now))

    def look(self, receiver: Receiver) -> int:
        """Take the results that are there, and see how the queues are; how many results it was."""
        found = receiver.receive(MANY, TICK)
        for message in found:
            self.take(message.body)
        self.results.ack_many(found)
        # In this order: a worker acks a file only after its result is in the other queue.
        self.states = [self.files.state(), self.results.state()]
        return len(found)

    def told(self) -> bool:
        """Whether everything that should happen has happened."""
        return self.urgent_at > 0 and not self.deaths.waiting

    def take(self, body: dict[str, Any]) -> None:
        """One result, or a worker that says who it is."""
        if "holder" in body:
            self.deaths.holders[body["holder"]] = body["worker"]
            if body["at"] == self.plan.longest:
                self.long_job = body["worker"]
            return
        self.tally.add(body)
        if body["path"] == self.plan.longest and self.long_job is not None:
            self.long_job = None
            self.show.event(
                f"worker {body['worker']} has done its long job: {self.plan.long_seconds:g} s "
                f"under a lease of {self.settings.lease:g} s"
            )
        if (
            self.urgent_at
            and not self.tally.urgent_seconds
            and self.tally.has_all(self.plan.urgent)
        ):
            self.tally.urgent_seconds = time.monotonic() - self.urgent_at
            self.show.event(f"the urgent ones are done, after {self.tally.urgent_seconds:.1f} s")

    def follow_up(self) -> None:
        """What happens at a third and at half of the work, and when the bad message has died."""
        if self.states[0].dead and not self.poisoned:
            self.poisoned = True
            letter = self.files.peek("dead", 1)[0]
            times = plural(letter.deliveries, "attempt")
            self.show.event(f"{path_of(letter)} is a dead letter now, after {times}")
        done = self.tally.completed
        if not self.urgent_at and done >= len(self.tally.paths) // 3:
            self.publish_urgent()
        if not self.killed and self.urgent_at and done >= len(self.tally.paths) // 2:
            self.kill_one()

    # ── the end of one ────────────────────────────────────────────────────────────────────────

    def kill_one(self) -> None:
        """SIGKILL for the worker that holds most; rather not the one with the long job."""
        held = self.deaths.held()
        alive = self.deaths.alive()
        fit = [w for w in alive if held[w.number] and w.number != self.long_job]
        fit = fit or [w for w in alive if held[w.number]]
        if len(alive) < 2 or not fit:
            return
        self.killed = self.deaths.kill(max(fit, key=lambda worker: len(held[worker.number])))

    # ── the picture ───────────────────────────────────────────────────────────────────────────

    def paint(self) -> None:
        """Everything as it is now."""
        picture = self.show.picture
        picture.queues = [
            QueueRow(state.name, state.ready, state.unacked, state.delayed, state.dead)
            for state in self.states
        ]
        states = dict.fromkeys(self.deaths.holders.values(), "working")
        if self.long_job is not None:
            states[self.long_job] = "long job"
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
        picture.done, picture.total = self.tally.completed, len(self.tally.paths)
        picture.per_second = self.pace.at(self.tally.completed)
        self.show.refresh()
