"""One message by its id: where it is, cancelled wherever it is, run now."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from typing import Any

import pytest

from atomq import (
    AsyncMessage,
    AsyncQueue,
    InvalidArgument,
    Item,
    LeaseLost,
    MessageCancelled,
    Progress,
    Verdict,
    calls,
)
from tests.conformance.twin import run
from tests.servers import Server, wait_until

DONE, LOST = Verdict.DONE, Verdict.LOST


def test_a_tracked_message_is_found_wherever_it_goes(q: Any) -> None:
    sent = q.put({"to": "ann"}, tracked=True, delay=60)
    found = q.get(sent.id)
    assert (found.state, found.body, found.deliveries) == ("delayed", {"to": "ann"}, 0)
    assert 59_000 < found.due_ms - found.now_ms <= 60_000
    assert q.run_now(sent.id, "nobody") == [DONE, LOST]
    message = q.claim(2)
    found = q.get(sent.id)
    assert (found.state, found.receipt, found.deliveries) == ("held", message.receipt, 1)
    assert message.receipt.startswith(found.holder)
    message.release()
    assert q.get(sent.id).state == "ready"
    q.claim().reject("no", "never")
    found = q.get(sent.id)
    assert (found.state, found.reason, found.detail) == ("dead", "no", "never")
    assert q.redrive([found.letter]) == 1
    assert q.get(sent.id).state == "ready"
    q.claim().complete(5)
    found = q.get(sent.id)
    assert (found.state, found.result, found.body, found.tracked) == ("done", 5, None, True)


def test_a_queue_tracks_all_or_single_ones(make: Any) -> None:
    q = make(tracked=True)
    sent = [q.put(1), q.put(2, tracked=False), *q.put_many([3, Item(4, tracked=False, id="4")])]
    assert [q.get(each.id).tracked for each in sent] == [True, False, True, False]
    assert q.ack_many(q.claim_many(4)) == [DONE] * 4
    assert [q.get(each.id).state for each in sent] == ["done", "unknown", "done", "unknown"]
    with pytest.raises(InvalidArgument, match="tracked must be True or False"):
        q.put(1, tracked="yes")


def test_acks_that_ride_along_leave_their_word(make: Any) -> None:
    q = make(tracked=True)
    ids = [each.id for each in q.put_many(range(5))]
    for message in q.consume(timeout=0):
        with message:
            assert q.get(message.id).state == "held"
    wait_until("all are acked", lambda: q.state().unacked == 0)
    assert {q.get(each).state for each in ids} == {"done"}


def test_of_one_that_is_not_tracked_is_said_what_can_be_known(q: Any) -> None:
    sent = q.put(1)
    assert q.get(sent.id).state == "ready"
    message = q.claim()
    assert q.get(sent.id).receipt == message.receipt
    message.complete("ok")
    assert (q.get(sent.id).state, q.get(sent.id).result) == ("done", "ok")
    sent = q.put(2)
    q.claim().ack()
    found = q.get(sent.id)
    assert (found.state, found.tracked) == ("unknown", False)
    assert found.note.startswith("not tracked: ")
    with pytest.raises(InvalidArgument):
        q.get("")


def test_an_id_that_stands_in_many_other_messages_is_found(q: Any) -> None:
    ids = [str(n) for n in range(1, 31)]  # as of rows of a table; "17" is in each time of day
    q.put_many([Item({"order": 17, "parent": "17", "n": n}, id=i) for n, i in enumerate(ids)])
    held = q.claim_many(15)
    assert [q.get(each.id).receipt for each in held] == [each.receipt for each in held]
    for each in held[:14]:
        each.reject("no")
    assert {q.get(each).state for each in ids[:14]} == {"dead"}
    assert {q.get(each).state for each in ids[15:]} == {"ready"}
    assert q.cancel(*ids[14:]) == [DONE] * 16
    assert q.claim() is None
    assert held[14].release() is DONE
    found = q.get("17")
    assert (found.state, found.certain) == ("unknown", True)
    assert found.note.startswith("not tracked: it is not in the queue")


@pytest.mark.parametrize("tracked", [True, False])
def test_cancelled_wherever_it_is(q: Any, tracked: bool) -> None:
    ready, delayed = q.put(1, id="a", tracked=tracked), q.put(2, delay=60, tracked=tracked)
    assert q.cancel(ready.id, delayed.id, "nobody") == [DONE, DONE, LOST]
    assert q.claim() is None
    gone = "cancelled" if tracked else "unknown"
    assert [q.get(each.id).state for each in (ready, delayed)] == [gone, gone]
    assert q.put(1, id="a", tracked=tracked).new, "its id is free again"
    message = q.claim()
    assert q.cancel("a") == [DONE]
    assert q.get("a").cancelling
    message.release()
    assert q.claim() is None
    assert q.get("a").state == gone
    assert q.state().stats["cancelled"] == 3


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("end", ["release", "ack"])
def test_the_id_of_a_held_one_that_is_cancelled_is_free_again(
    make: Any, tracked: bool, end: str
) -> None:
    q = make(tracked=tracked)
    q.put("first", id="a")
    first = q.claim()
    assert not q.put("too early", id="a").new
    assert q.cancel("a") == [DONE]
    assert q.put("second", id="a").new
    assert not q.put("third", id="a").new, "it is known again"
    found = q.get("a")
    assert (found.state, found.body) == ("ready", "second")
    assert (first.release() if end == "release" else first.ack()) is DONE
    second = q.claim(5)
    assert second.body == "second"
    assert q.get("a").receipt == second.receipt
    assert not q.put("fourth", id="a").new
    second.ack()
    assert q.claim() is None


def test_what_is_put_under_the_id_of_a_cancelled_one_is_cancelled_too(q: Any) -> None:
    q.put("first", id="a", tracked=True)
    first = q.claim()
    assert q.cancel("a") == [DONE]
    assert q.put("second", id="a", tracked=True).new
    first.progress(0.5)  # its record is the newest now
    assert q.get("a").body == "second"
    assert q.cancel("a") == [DONE]
    assert q.get("a").cancelling
    assert q.claim() is None, "the second one was cancelled too"
    assert q.put("third", id="a").new
    first.release()
    assert q.claim().body == "third"


def test_in_partitions_the_id_of_a_held_one_that_is_cancelled_is_free_again(make: Any) -> None:
    q = make(partitions=3)
    q.put("first", id="a")
    first = q.claim(2)
    assert q.cancel("a") == [DONE]
    first.release()
    assert q.put("second", id="a").new
    assert q.claim(2).body == "second"
    q.delete(force=True)


@pytest.mark.on_servers  # what lives in one process has no register
def test_a_holder_is_named_by_host_and_pid(q: Any) -> None:
    for other in ("A" * 12, "z" * 12):  # of a fleet it is not the first
        entry = '{"host": "elsewhere", "pid": 1}'
        other_says = calls.register(
            q.engine.register.keys, process=other, alive_ms=50_000, entry=entry
        )
        run(q, other_says)
    sent = q.put(1)
    message = q.claim()
    wait_until("the register knows this process", lambda: q.get(sent.id).pid)
    found = q.get(sent.id)
    assert (found.host, found.pid) == (socket.gethostname(), os.getpid())
    message.ack()


def test_a_queue_of_partitions_finds_it_in_any_of_them(make: Any) -> None:
    q = make(partitions=3, tracked=True)
    sent = [q.put(1), q.put(2, id="own"), q.put(3, id="keyed", key="k"), q.put(4, delay=60)]
    assert [q.get(each.id).state for each in sent] == ["ready", "ready", "ready", "delayed"]
    assert q.run_now(sent[3].id) == [DONE]
    messages = q.claim_many(4, 2)
    while len(messages) < 4:
        messages += q.claim_many(4, 2)
    assert q.cancel("keyed", "nobody") == [DONE, LOST]
    assert q.get("keyed").cancelling
    assert q.ack_many(messages) == [DONE] * 4
    assert {q.get(each.id).state for each in sent} == {"done"}
    assert q.get("nobody").state == "unknown"
    q.delete(force=True)


# ── cancelled while it is worked on ───────────────────────────────────────────────────────────


@pytest.mark.on_servers
def test_a_handler_hears_within_a_second_that_its_message_is_cancelled(q: Any) -> None:
    heard = threading.Event()
    sent = q.put("long", tracked=True, id="long")

    def handler(message: Any) -> None:
        assert q.cancel("long") == [DONE]
        began = time.monotonic()
        wait_until("the handler hears", lambda: message.cancelled, seconds=10)
        assert time.monotonic() - began < 2.5, "a renewal a second"
        heard.set()
        raise MessageCancelled

    assert q.work(handler, timeout=0.1) == 1
    assert heard.is_set()
    assert q.get(sent.id).state == "cancelled"
    state = q.state()
    assert (state.ready, state.unacked, state.delayed) == (0, 0, 0)


@pytest.mark.on_servers
def test_what_is_done_all_the_same_is_done(q: Any) -> None:
    sent = q.put("long", tracked=True)
    with q.claim() as message:
        assert q.cancel(sent.id) == [DONE]
        assert q.cancel(sent.id) == [DONE], "as often as you like"
        message.extend()
        assert message.cancelled
    assert q.get(sent.id).state == "done"


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_task_of_asyncio_is_cancelled(server: Server, concurrency: int) -> None:
    async def main() -> None:
        async with AsyncQueue("q", server.url, tracked=True) as q:
            ids = [sent.id for sent in await q.put_many(["hangs", "works"])]
            began, ended = asyncio.Event(), []

            async def handler(message: AsyncMessage) -> None:
                if message.body == "hangs":
                    began.set()
                    try:
                        await asyncio.sleep(60)
                    except asyncio.CancelledError:
                        ended.append(message.id)
                        raise

            stop = asyncio.Event()
            work = asyncio.create_task(q.work(handler, concurrency=concurrency, stop=stop))
            await began.wait()
            assert await q.cancel(ids[0]) == [DONE]
            for _ in range(500):
                if [(await q.get(each)).state for each in ids] == ["cancelled", "done"]:
                    break
                await asyncio.sleep(0.02)
            else:
                raise AssertionError([await q.get(each) for each in ids])
            assert ended == ids[:1]
            stop.set()
            assert await work == 2

    asyncio.run(main())


# ── progress ──────────────────────────────────────────────────────────────────────────────────


def test_progress_is_shown_and_followed(q: Any) -> None:
    sent = q.put("long", tracked=True)
    heard: list[Progress] = []
    told = threading.Event()

    def hear(progress: Progress) -> None:
        heard.append(progress)
        told.set()

    def work() -> None:
        with q.claim(5) as message:
            message.progress(0.4, "reading")
            told.wait(5)
            message.complete("ok")

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    assert sent.wait(10, on_progress=hear) == "ok"
    worker.join(5)
    assert [(each.fraction, each.text) for each in heard] == [(0.4, "reading")]
    assert heard[0].at_ms


def test_progress_of_what_is_not_held_is_refused(q: Any) -> None:
    sent = q.put(1)
    message = q.claim()
    message.progress(None, "begun")
    found = q.get(sent.id)
    assert (found.progress.fraction, found.progress.text) == (None, "begun")
    with pytest.raises(InvalidArgument, match="fraction must be a number from 0 to 1"):
        message.progress(1.5)
    message.ack()
    with pytest.raises(LeaseLost):
        message.progress(1)
