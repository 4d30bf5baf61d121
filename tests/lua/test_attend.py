"""attend: who consumes a queue, and what the last one to leave puts back."""

from __future__ import annotations

import json

import pytest

from atomq import calls, flows
from atomq.calls import Attended, Outgoing
from atomq.errors import InvalidArgument
from tests.lua.rig import Queue, names
from tests.servers import wait_until


def _task(name: str) -> str:
    return json.dumps({"body": "", "headers": {"id": name, "eta": "2100-01-01T00:00:00"}})


def _delayed(q: Queue, *tasks: str, ms: int = 60_000, step: int = 1) -> None:
    out = [Outgoing(_task(name), name, delay_ms=ms + n, step=step) for n, name in enumerate(tasks)]
    q.run(calls.publish(q.keys, out))


def test_the_last_to_leave_puts_back_what_waits(q: Queue) -> None:
    assert q.run(calls.attend(q.keys, "a", alive_ms=60_000)).consumers == 1
    assert q.run(calls.attend(q.keys, "b", alive_ms=60_000)).consumers == 2
    assert q.run(calls.attend(q.keys, "a", alive_ms=60_000)).consumers == 2
    _delayed(q, "one", "two")
    q.put("ready")
    assert q.run(calls.attend(q.keys, "a")) == Attended(1, 0, 0, 0)
    assert len(q.delayed) == 2
    assert q.run(calls.attend(q.keys, "b")) == Attended(0, 2, 0, 0)
    assert q.delayed == {}
    ready = [json.loads(raw) for raw in q.ready]
    assert [one["headers"]["id"] for one in ready[1:]] == ["one", "two"], "behind what is ready"
    assert [one["headers"]["eta"] for one in ready[1:]] == ["2100-01-01T00:00:00"] * 2
    assert q.stats["handed_back"] == 2
    assert q.db.llen(q.keys.wake) == 1


def test_one_that_died_is_not_waited_for(q: Queue) -> None:
    q.run(calls.attend(q.keys, "dead", alive_ms=1))
    _delayed(q, "one")
    wait_until("it to be over", lambda: q.run(calls.attend(q.keys, "a", alive_ms=9)).consumers == 1)
    q.run(calls.attend(q.keys, "here", alive_ms=60_000))
    q.run(calls.attend(q.keys, "a"))
    assert q.run(calls.attend(q.keys, "here")) == Attended(0, 1, 0, 0)


def test_what_is_published_after_the_last_one_goes_to_ready(q: Queue) -> None:
    q.take()  # it is seen
    late = Outgoing(_task("late"), "late", delay_ms=60_000, alive_ms=60_000)
    q.run(calls.attend(q.keys, "a", alive_ms=60_000))
    q.run(calls.attend(q.keys, "a"))
    q.run(calls.publish(q.keys, [late]))
    assert (len(q.ready), q.delayed) == (1, {})


def test_what_only_its_place_delays_stays_until_it_is_due(q: Queue) -> None:
    q.put("mine", delay_ms=1000)
    _delayed(q, "task", ms=2000)
    assert q.run(calls.attend(q.keys, "a", limit=1)) == Attended(0, 0, 1, 1)
    assert q.run(calls.attend(q.keys, "a", skip=1, limit=1)) == Attended(0, 1, 0, 0)
    assert len(q.delayed) == 1
    q.fall_due()
    assert q.rig.engine.run(flows.leave(q.keys, "a")) == 1
    assert q.delayed == {}


def test_each_to_its_step_and_paused_queues_wake_nobody(q: Queue) -> None:
    _delayed(q, "third", step=3)
    q.run(calls.pause(q.keys))
    q.run(calls.attend(q.keys, "a"))
    assert q.db.llen(q.keys.ready[2]) == 1
    assert q.db.llen(q.keys.wake) == 0


def test_many_go_in_bounded_calls(q: Queue) -> None:
    _delayed(q, *(f"n{n}" for n in range(700)))
    q.put("kept", delay_ms=1)
    assert q.run(calls.attend(q.keys, "a", max_bytes=1)).left > 690
    assert q.rig.engine.run(flows.leave(q.keys, "a")) >= 698
    assert len(names(q.ready)) >= 700


def test_a_name_with_blanks_is_refused(q: Queue) -> None:
    with pytest.raises(InvalidArgument, match="consumer"):
        q.run(calls.attend(q.keys, "a b"))
