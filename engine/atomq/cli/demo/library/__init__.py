"""The first act: the library at work, with everything that can happen to a message.

Every file of the standard library is a message. Some are delayed, some urgent, one takes longer
than a lease, one names a file that is not there. Half way one worker is killed. What the workers
answer comes through a second queue, and is checked at the end against the files themselves.
"""

from __future__ import annotations

import platform
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from atomq import Engine, Peeked, Queue, QueueState, Receiver
from atomq.cli.demo.library.ledger import Played, outcome
from atomq.cli.demo.library.plan import MISSING, Plan
from atomq.cli.demo.library.tally import Death, Tally, path_of
from atomq.cli.demo.outcome import Outcome
from atomq.cli.demo.view import QueueRow, Show, WorkerRow
from atomq.cli.output import number, plural, size

if TYPE_CHECKING:
    from atomq.cli.demo import DemoSettings
    from atomq.cli.demo.stage import Process, Stage

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
        self.workers: list[Process] = []
        self.holders: dict[str, int] = {}
        self.deaths: list[Death] = []
        self.killed = self.poisoned = False
        self.long_job: int | None = None
        self.states: list[QueueState] = []
        self.recent: deque[tuple[float, int]] = deque()
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
        self.workers = self.stage.processes("atomq.cli.demo.library.worker", self.settings.workers)
        self.stage.open(self.engine)
        self.show.event(f"{self.stage.server}; lease {self.settings.lease:g} s")
        self.publish()
        for worker in self.workers:
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
        dead = self.dead_letters()
        return outcome(
            Played(self.settings, self.tally, self.deaths, self.states[0], dead, self.plan.urgent)
        )

    def watch(self, receiver: Receiver) -> None:
        """Until nothing is left to do, or nothing moves any more."""
        moved_at, before = time.monotonic(), None
        while True:
            began = time.monotonic()
            found = self.look(receiver)
            self.count_the_dead()
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
            if stuck or not self.alive():
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
        return self.urgent_at > 0 and all(not death.waiting for death in self.deaths)

    def take(self, body: dict[str, Any]) -> None:
        """One result, or a worker that says who it is."""
        if "holder" in body:
            self.holders[body["holder"]] = body["worker"]
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

    # ── who dies, and what becomes of what it held ────────────────────────────────────────────

    def kill_one(self) -> None:
        """SIGKILL for the worker that holds most; rather not the one with the long job."""
        held = self.held()
        alive = self.alive()
        fit = [w for w in alive if held[w.number] and w.number != self.long_job]
        fit = fit or [w for w in alive if held[w.number]]
        if len(alive) < 2 or not fit:
            return
        victim = max(fit, key=lambda worker: len(held[worker.number]))
        victim.kill()
        self.killed = True
        self.bury(victim, planned=True)

    def count_the_dead(self) -> None:
        """Who died by itself, or by somebody else's hand; and whose messages came back."""
        buried = {death.worker for death in self.deaths}
        for worker in self.workers:
            if worker.ended and worker.number not in buried:
                self.bury(worker, planned=False)
        waiting = [death for death in self.deaths if death.waiting]
        if not waiting:
            return
        live = {peeked.name for peeked in self.files.peek("unacked", 1000)}
        for death in waiting:
            if death.seen(live):
                self.tell_return(death)

    def bury(self, worker: Process, *, planned: bool) -> None:
        """From here on it is watched how its messages come back."""
        at = time.monotonic()
        self.files.state()  # with this the server has also read what the worker had sent before
        held = self.held()[worker.number]
        self.deaths.append(Death(worker.number, worker.pid, worker.ended, planned, at, held))
        did = "killed" if planned else "lost"
        self.show.event(
            f"{did} worker {worker.number} (pid {worker.pid}, {worker.ended}), "
            f"which held {plural(len(held), 'message')}",
            "red",
        )
        if not worker.ended.startswith("SIG"):
            self.show.event(f"its last words: {self.stage.last_words()}", "red")

    def tell_return(self, death: Death) -> None:
        """All of a dead worker's messages are in other hands."""
        dead = {path_of(peeked) for peeked in self.dead_letters()}
        death.buried = len(dead.intersection(death.held.values()))
        after = f"the last after {death.seconds:.1f} s"
        if death.buried:
            self.show.event(f"{death.buried} of its messages went to dead letters: {after}", "red")
        else:
            self.show.event(f"its messages came back: {after}", "green")

    def dead_letters(self) -> list[Peeked]:
        """All of them."""
        letters: list[Peeked] = []
        while some := self.files.peek("dead", 1000, after=letters[-1].name if letters else ""):
            letters += some
        return letters

    def held(self) -> dict[int, dict[str, str]]:
        """Who holds what: receipts and paths by worker."""
        held: dict[int, dict[str, str]] = {worker.number: {} for worker in self.workers}
        for peeked in self.files.peek("unacked", 1000):
            holder = self.holders.get(peeked.holder)
            if holder is not None:
                held[holder][peeked.name] = path_of(peeked)
        return held

    def alive(self) -> list[Process]:
        """The workers that are there."""
        return [worker for worker in self.workers if not worker.ended]

    # ── the picture ───────────────────────────────────────────────────────────────────────────

    def paint(self) -> None:
        """Everything as it is now."""
        picture, now = self.show.picture, time.monotonic()
        picture.queues = [
            QueueRow(state.name, state.ready, state.unacked, state.delayed, state.dead)
            for state in self.states
        ]
        states = dict.fromkeys(self.holders.values(), "working")
        if self.long_job is not None:
            states[self.long_job] = "long job"
        states |= {death.worker: "killed" if death.planned else "died" for death in self.deaths}
        picture.workers = [
            WorkerRow(
                worker.number,
                worker.pid,
                states.get(worker.number, "starting"),
                self.tally.by_worker[worker.number],
            )
            for worker in self.workers
        ]
        picture.done, picture.total = self.tally.completed, len(self.tally.paths)
        self.recent.append((now, self.tally.completed))
        while now - self.recent[0][0] > 2:
            self.recent.popleft()
        (since, then), span = self.recent[0], now - self.recent[0][0]
        picture.per_second = (self.tally.completed - then) / span if span > 0 and since else 0
        self.show.refresh()
