"""The server hangs up what idles, as `timeout` and proxies do: each verb answers all the same.

Here it does so before every step of every verb, and nothing is tried again; on a cluster redis-py
sends over what is dead, and learns the slots anew, so there the engine's retries are needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from atomq import Verdict, line_aio, pool
from tests.conformance.conftest import Make, Place
from tests.conformance.test_consume import counts, now
from tests.servers import Cluster, wait_until

pytestmark = pytest.mark.on_servers


@pytest.fixture
def hung(make: Make, place: Place, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A queue whose idle connections are dead whenever it has something to send."""
    db = place.db

    def before(step: Callable[..., Any]) -> Callable[..., Any]:
        def after_hanging_up(*args: Any) -> Any:
            for kind in ("normal", "pubsub"):
                db.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            return step(*args)

        return after_hanging_up

    for module in (pool, line_aio):
        monkeypatch.setattr(module, "FRESH", 0.0)
    options = {} if isinstance(place.server, Cluster) else {"retry_attempts": 0}
    queue = make(backoff=now, wait_cap=0.3, **options)
    for step in ("_run_one", "_perform"):
        monkeypatch.setattr(queue.engine, step, before(getattr(queue.engine, step)))
    return queue


def test_publish(hung: Any) -> None:
    hung.put(0)
    assert [sent.new for sent in hung.put_many([1, 2])] == [True, True]
    assert counts(hung) == (3, 0, 0, 0)


def test_claim_and_settle(hung: Any) -> None:
    hung.put_many(range(8))
    hung.claim().ack()
    assert hung.claim().complete("done") is Verdict.DONE
    hung.claim().reject("bad")
    hung.claim().release(delay=60)
    first, *rest = hung.claim_many(4)
    first.extend(60)
    hung.give_back(rest)
    hung.ack_many([first])
    with hung.claim():
        pass
    with pytest.raises(KeyError), hung.claim():
        raise KeyError
    assert counts(hung) == (2, 1, 0, 1)


def test_consume_and_work(hung: Any) -> None:
    hung.put_many(range(4))
    for message in hung.consume(timeout=0):
        with message:
            if message.body == 1:
                break
    assert hung.work(lambda _: None, timeout=0) == 2
    wait_until("the acks to arrive", lambda: counts(hung) == (0, 0, 0, 0))


@pytest.mark.parametrize("idled", [False, True])
def test_wait_for_a_message(hung: Any, make: Make, idled: bool) -> None:
    """Whether the connection that waits is new or has waited before."""
    receiver = make.receiver(hung)
    with receiver:
        if idled:
            assert receiver.receive(1, 0.05) == []
        timer = threading.Timer(0.1, make(retry_attempts=9).put, ["x"])
        timer.start()
        (message,) = receiver.receive(1, 5)
        timer.join()
        receiver.return_unstarted([message])
    assert counts(hung) == (1, 0, 0, 0)


def test_wait_for_a_result(hung: Any, make: Make) -> None:
    there, comes = hung.put_many(["there", "comes"])
    hung.claim().complete(1)
    assert there.wait(0) == 1
    assert hung.wait(there.id) == 1
    message = make(retry_attempts=9).claim()
    timer = threading.Timer(0.1, message.complete, [2])
    timer.start()
    assert comes.wait(5) == 2
    timer.join()


def test_operate(hung: Any) -> None:
    sent = hung.put("bad")
    hung.pause()
    hung.resume()
    assert hung.cancel(hung.put("later", delay=60).id) == [Verdict.DONE]
    hung.claim().reject("bad")
    assert [peeked.id for peeked in hung.peek("dead")] == [sent.id]
    assert hung.redrive() == 1
    assert hung.purge("ready").ready == 1
    hung.delete()
