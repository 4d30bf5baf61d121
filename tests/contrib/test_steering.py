"""Where a Celery task is, and that it is cancelled: `Queue.get` and `cancel` on tracked tasks."""

from __future__ import annotations

import time
from typing import Any

import pytest
from celery import states
from celery.exceptions import TaskRevokedError
from kombu import Connection

import atomq
from atomq import InvalidArgument, InvalidOptions, Verdict
from tests.contrib.rig import ON_ONE_KIND, Place, pools
from tests.servers import wait_until

TRACKED = {"broker_transport_options": {"tracked": True}}
ENDS = {"broker_transport_options": {"terminate_cancelled": True}}


def queue_of(at: Place, name: str = "celery") -> atomq.Queue:
    return atomq.Queue(name, at.engine())


def sent(at: Place, *args: Any, **options: Any) -> str:
    return at.send("work", *args, tracked=True, **options)


# ── what is tracked ───────────────────────────────────────────────────────────────────────────


@ON_ONE_KIND
def test_the_transport_option_and_the_message_say_what_is_tracked(at: Place) -> None:
    plain, everything = at.app, at.make_app(**TRACKED)
    some = at.make_app(broker_transport_options={"tracked": ["mails"]})
    for app, options, tracked in (
        (plain, {}, False),
        (plain, {"tracked": True}, True),
        (everything, {}, True),
        (everything, {"tracked": False}, False),
        (everything, {"countdown": 60}, True),
        (some, {}, False),
        (some, {"queue": "mails"}, True),
    ):
        name = at.send("work", app=app, **options)
        found = queue_of(at, options.get("queue", "celery")).get(name)
        assert (found.tracked, found.state) == (tracked, "ready"), (options, found)
    with pytest.raises(InvalidArgument, match="tracked"):
        at.send("work", tracked="yes")


@pytest.mark.parametrize(
    "options",
    [
        {"tracked": "celery"},
        {"tracked": [1]},
        {"terminate_cancelled": "SIGNOTHING"},
        {"terminate_cancelled": 9},
    ],
)
def test_an_option_that_says_nothing_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptions, match=next(iter(options))):
        Connection("atomq://127.0.0.1:1", transport_options=options).transport  # noqa: B018


@ON_ONE_KIND
def test_what_tracking_costs(at: Place) -> None:
    """An untracked publish sends what it always did; a tracked one has the server do one more."""

    def cost(**options: Any) -> dict[str, int]:
        at.send("work", **options)
        at.db.config_resetstat()
        at.send("work", **options)
        stats: Any = at.db.info("commandstats")
        return {
            name: each["calls"]
            for name, each in stats.items()
            if not name.startswith(("cmdstat_info", "cmdstat_config"))
        }

    plain, tracked = cost(), cost(tracked=True)
    assert plain["cmdstat_evalsha"] == tracked["cmdstat_evalsha"] == 1
    assert 0 < sum(tracked.values()) - sum(plain.values()) <= 2


# ── cancelled ─────────────────────────────────────────────────────────────────────────────────


@ON_ONE_KIND
@pools("prefork", long=["threads"])
def test_tasks_are_found_and_cancelled_wherever_they_are(at: Place, pool: str) -> None:
    queue = queue_of(at)
    ready, later = sent(at, value="never"), sent(at, countdown=60)
    assert queue.cancel(ready) == [Verdict.DONE]
    worker = at.worker(pool, 1, worker_prefetch_multiplier=2, **ENDS).ready()
    runs, waits = sent(at, 2), sent(at)
    at.ledger.await_starts(runs)
    wait_until("both are held", lambda: queue.get(waits).state == "held")
    found = queue.get(runs)
    assert (found.state, found.pid, found.tracked) == ("held", worker.pid, True)
    late = sent(at, countdown=60)
    assert queue.get(late).state == "delayed"

    began = time.monotonic()
    assert queue.cancel(waits, late, later, runs) == [Verdict.DONE] * 4
    worker.await_log(r"Delivery\(.* was cancelled", 3, times=2)
    assert time.monotonic() - began < 2.5  # a second, and a machine under load
    if pool == "prefork":
        with pytest.raises(TaskRevokedError):
            at.result(runs, 5)
        assert runs not in at.ledger.ends()
    else:
        worker.await_log("no pool ends threads")
        at.ledger.await_ends(runs)
    at.await_empty()
    wait_until("no word of it is left", lambda: queue.get(waits).state == "cancelled")
    assert queue.get(runs).state == ("cancelled" if pool == "prefork" else "done")
    for name in (ready, later, late):
        assert queue.get(name).state == "cancelled"
    assert at.ledger.starts() == {runs: 1}
    assert at.outcome(waits)["status"] == states.REVOKED
    assert at.state().dead == 0


@ON_ONE_KIND
def test_a_running_task_goes_on_unless_the_option_says_so(at: Place) -> None:
    queue = queue_of(at)
    worker = at.worker("prefork", 1).ready()
    task = sent(at, 1.2, "done all the same")
    at.ledger.await_starts(task)
    assert queue.cancel(task) == [Verdict.DONE]
    worker.await_log("was cancelled", 3)
    assert at.result(task) == "done all the same"
    at.await_empty()
    wait_until("it is done", lambda: queue.get(task).state == "done")
    assert at.ledger.starts() == {task: 1}
