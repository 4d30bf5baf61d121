"""What the engines of threads and of tasks do around a call, over a pool that is played."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as server

from atomq import aio, calls, flows, probing, retrying
from atomq.actions import BRIEF, Elsewhere, NoAnswer
from atomq.aio import AsyncEngine
from atomq.calls import Call, Outgoing, Verdict
from atomq.cancellation import Unhurried
from atomq.client import Engine
from atomq.errors import (
    AtomqError,
    InvalidArgument,
    PermissionDenied,
    ServerUnavailable,
)
from atomq.gathering import TOGETHER
from atomq.keys import QueueKeys, hash_slot
from atomq.outage import Standing
from atomq.retrying import Retry

GONE = server.ConnectionError("gone")
REFUSED = server.NoPermissionError("NOPERM")
URL = "redis://nowhere.invalid"


def ack() -> Call[Any]:
    return calls.ack(QueueKeys("q"), ["r"])


def brief(call: Call[Any]) -> Call[Any]:
    call.brief = True
    return call


class Pool:
    """One server of which the rights are known. It gives its answers, and notes what is asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = [*answers]
        self.did: list[Any] = []
        self.standing = Standing(SimpleNamespace(away=lambda *_: None, back=lambda: None))  # type: ignore[arg-type]
        self.standing.verified = True
        self.why: Any = None

    def standing_of(self, _: Any) -> Standing:
        return self.standing

    def in_doubt(self, _: Any) -> bool:
        return False

    has_left = in_doubt

    def hopeless(self, *_: Any) -> Any:
        return self.why

    def answer(self, *asked: Any) -> Any:
        self.did.append(asked)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def one(self, call: Call[Any], within: float | None = None) -> Any:
        asked = ("one", call.script.name)
        return self.answer(*(asked if within is None else (*asked, within)))

    def commands(self, many: Any, within: float | None = None) -> Any:
        return self.answer("commands", [*many], within)

    def command(self, args: Any) -> Any:
        return self.answer("command", args)

    def fresh(self) -> Any:
        return self.answer("fresh")

    def fresh_at(self, place: Any) -> Any:
        return self.answer("fresh", place)

    def nodes(self) -> Any:
        return self.answer("nodes")

    def close(self) -> None:
        self.did.append("closed")


class AsyncPool(Pool):
    """The same, awaited."""

    def one(self, call: Call[Any], within: float | None = None) -> Any:
        return self.later(super().one, call, within)

    def get(self, key: str) -> Any:
        return self.later(self.answer, "get", key)

    def close(self) -> Any:
        return self.later(super().close)

    @staticmethod
    async def later(do: Callable[..., Any], *args: Any) -> Any:
        await asyncio.sleep(0)
        return do(*args)


def engine(*answers: Any, **options: Any) -> tuple[Any, Pool]:
    found: Any = Engine(URL, **options)
    found._pool = Pool(*answers)
    return found, found._pool


def in_tasks(*answers: Any, **options: Any) -> tuple[Any, Any]:
    found: Any = AsyncEngine(URL, **options)
    found._enter_loop()
    found._pool = AsyncPool(*answers)
    return found, found._pool


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**given: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**given), 5.0))

    return run


def queue(name: str = "q") -> QueueKeys:
    keys = QueueKeys(name)
    keys.noted = time.monotonic() + 60
    return keys


# ── one message ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("reply", "was_put"), [(1, True), (b"0 0 1", False)])
def test_a_put_says_whether_the_id_was_known(reply: Any, was_put: bool) -> None:
    one, _ = engine(reply)
    assert one.publish(queue(), Outgoing("{}", "i")) is was_put

    async def main() -> bool:
        one, _ = in_tasks(reply)
        return bool(await one.publish(queue(), Outgoing("{}", "i")))

    assert asyncio.run(main()) is was_put


@pytest.mark.parametrize("known", [(), (0,)])
def test_a_brief_put_of_a_thread_says_so_too(known: tuple[int, ...]) -> None:
    one, _ = engine()
    tried: list[Call[Any]] = []

    def run(call: Call[Any]) -> calls.Published:
        tried.append(call)
        if trouble is not None and len(tried) == 1:
            raise trouble
        return calls.Published(1 - len(known), known)

    trouble: ServerUnavailable | None = None
    one._run_one = run
    assert one.publish(queue(), Outgoing("{}", "i"), brief=True) is (not known)
    assert [call.brief for call in tried] == [True]
    tried.clear()
    trouble = ServerUnavailable("no answer")
    assert one.publish(queue(), Outgoing("{}", "i"), brief=True) is (not known)
    assert [(call.brief, call.repeated) for call in tried] == [(True, False), (False, True)]
    assert tried[0].args[0] == tried[1].args[0], "the same call"
    tried.clear()
    trouble.unsent = True
    with pytest.raises(ServerUnavailable):
        one.publish(queue(), Outgoing("{}", "i"), brief=True)
    assert len(tried) == 1, "it may go elsewhere"


class Gatherings:
    """An engine whose puts wait until a test lets them go: how many messages each call has."""

    def __init__(self) -> None:
        self.engine, _ = in_tasks()
        self.sizes: list[int] = []
        self.known: tuple[int, ...] = ()
        self.go = asyncio.Event()
        self.engine._run_one = self.run

    async def run(self, call: Call[Any]) -> Any:
        size = len(call.args) - 3
        self.sizes.append(size)
        await self.go.wait()
        return calls.Published(size, self.known)

    def put(self, size: int = 1, name: str = "q", **more: Any) -> asyncio.Task[bool]:
        put = self.engine.publish(self.engine.keys(name), Outgoing("x" * size, "i", **more))
        return asyncio.ensure_future(put)

    async def said(self) -> list[int]:
        await soon()
        sizes, self.sizes = self.sizes, []
        return sizes

    async def end(self, *puts: asyncio.Task[bool]) -> list[bool]:
        assert self.engine._gatherings["q"].under_way > 0
        self.go.set()
        found = await asyncio.gather(*puts)
        self.go.clear()
        assert self.engine._gatherings["q"].under_way == 0
        return found


async def soon() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@in_loop
async def test_what_is_put_while_another_is_under_way_goes_together() -> None:
    stage = Gatherings()
    for _ in range(2):  # the second time nothing is under way again
        one = stage.put()
        await asyncio.sleep(0)
        assert stage.sizes == [1], "it is alone and goes at once"
        others = [stage.put() for _ in range(3)]
        assert await stage.said() == [1, 3]
        assert await stage.end(one, *others) == [True] * 4


@in_loop
async def test_a_put_goes_alone_that_is_of_another_queue_or_has_more_to_be_told() -> None:
    stage = Gatherings()
    puts = [stage.put(), stage.put(name="other"), stage.put(dedup=True), stage.put(TOGETHER + 1)]
    assert len(await stage.said()) == 4
    stage.known = (0,)
    assert await stage.end(*puts) == [False] * 4


@pytest.mark.parametrize("brief", [False, True])
@in_loop
async def test_it_is_known_of_a_queue_whether_messages_wait_to_go_together(brief: bool) -> None:
    stage = Gatherings()
    keys, other = stage.engine.keys("q"), stage.engine.keys("other")
    assert not stage.engine.gathers(keys)
    one = stage.put()
    await asyncio.sleep(0)
    assert not stage.engine.gathers(keys), "it is sent"
    waits = stage.engine._gatherings["q"].put((keys, brief), Outgoing("x", "i"))
    assert (stage.engine.gathers(keys), stage.engine.gathers(other)) == (True, False)
    waits.cancel()
    await stage.end(one)


# ── several commands ──────────────────────────────────────────────────────────────────────────


def test_what_failed_of_several_reads_is_asked_once_more() -> None:
    one, pool = engine([1, GONE, 3, REFUSED], 2, REFUSED)
    found = one.reads([("GET", each) for each in "abcd"])
    assert found[:3] == [1, 2, 3]
    assert isinstance(found[3], PermissionDenied)
    assert pool.did == [
        ("commands", [("GET", each) for each in "abcd"], None),
        ("command", ("GET", "b")),
        ("command", ("GET", "d")),
    ]
    one, pool = engine(GONE, 1, 2)
    assert one.reads([("GET", "a"), ("GET", "b")]) == [1, 2]
    assert one.reads([]) == []


def test_of_brief_commands_each_has_its_answer_or_its_error() -> None:
    moved = Elsewhere("MOVED 1 b:2")
    one, pool = engine([1, NoAnswer(GONE), moved, REFUSED, NoAnswer(moved)])
    found = one.briefly(*(("GET", each) for each in "abcde"))
    assert found[0] == 1
    kinds = [ServerUnavailable, ServerUnavailable, PermissionDenied, ServerUnavailable]
    assert [type(each) for each in found[1:]] == kinds
    assert ("gone" in str(found[1]), str(found[2])) == (True, "MOVED 1 b:2")
    assert pool.did == [("commands", [("GET", each) for each in "abcde"], BRIEF)]
    one, pool = engine(GONE)
    found = one.briefly(("GET", "a"), ("GET", "b"))
    assert [type(each) for each in found] == [ServerUnavailable] * 2


@pytest.mark.parametrize("ask", [lambda one, args: one.reads([args]), Engine.briefly])
def test_what_is_no_command_is_not_sent(ask: Callable[..., Any]) -> None:
    one, pool = engine([1])
    with pytest.raises(InvalidArgument):
        ask(one, ("GET", None))
    assert pool.did == []


def test_a_connection_goes_to_the_node_that_is_named() -> None:
    one, pool = engine("one", "two", OSError("no"))
    assert (one.connection(), one.connection(("h", 1))) == ("one", "two")
    assert pool.did == [("fresh",), ("fresh", ("h", 1))]
    with pytest.raises(AtomqError):
        one.connection()


# ── a brief call ──────────────────────────────────────────────────────────────────────────────


class Either:
    """An engine of either kind, and the calls that it makes."""

    def __init__(self, is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_async = is_async
        self.driven: list[Any] = []
        self.firsts: list[Any] = []
        self.noted: list[Any] = []
        kind: Any = AsyncEngine if is_async else Engine
        self.engine = kind(URL)
        self.pool: Any = AsyncPool() if is_async else Pool()
        self.engine._begin = lambda: None
        self.engine._pool = self.pool
        self.engine._drive = self.awaited(self.drive)
        self.engine._note = self.awaited(self.noted.append)
        monkeypatch.setattr(probing, "probing", lambda *given, **more: (given, more))
        monkeypatch.setattr(retrying, "calling", lambda *given, **more: (given, more))

    def awaited(self, do: Callable[..., Any]) -> Callable[..., Any]:
        async def later(*given: Any) -> Any:
            return do(*given)

        return later if self.is_async else do

    def drive(self, asked: Any, standing: Any, first: Any = None) -> Any:
        assert standing is self.pool.standing
        self.driven.append(asked)
        self.firsts.append(first)
        answer = self.pool.answers.pop(0) if self.pool.answers else first or ["done"]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def do(self, ask: Any, call: Call[Any]) -> Any:
        found = ask(call)
        return asyncio.run(found) if self.is_async else found


@pytest.fixture(params=["threads", "tasks"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Either:
    return Either(request.param == "tasks", monkeypatch)


def test_a_brief_call_is_tried_once_and_its_node_is_verified_first(either: Either) -> None:
    call, one = brief(ack()), either.engine
    once = Retry(attempts=0, budget=one.retry.budget)
    either.pool.standing.verified = False
    either.pool.answers += [["probed"], []]
    assert either.do(one._run_one, call) == [Verdict.DONE]
    assert either.driven == [((call, once), {"within": BRIEF})]
    assert either.pool.did == [("one", "ack", BRIEF)]
    assert either.pool.standing.verified
    assert either.noted == []
    put = brief(calls.publish(QueueKeys("q"), [Outgoing("{}", "i")]))
    either.pool.answers.append(1)
    either.do(one._run_one, put)
    assert len(either.noted) == 1


def test_a_brief_call_without_an_answer_is_given_up_at_once(either: Either) -> None:
    """What came instead of its answer is judged like any, without another try."""
    call = brief(ack())
    once = Retry(attempts=0, budget=either.engine.retry.budget)
    gone = server.ConnectionError("gone")
    either.pool.answers += [gone, ["judged"]]
    assert either.do(either.engine._run_one, call) == "judged"
    assert either.driven == [(((call,), once), {"within": BRIEF})]
    assert either.firsts == [gone]


def test_a_brief_call_that_is_hopeless_is_not_tried(either: Either) -> None:
    either.pool.why = GONE
    with pytest.raises(ServerUnavailable, match="gone") as raised:
        either.do(either.engine._run_one, brief(ack()))
    assert raised.value.unsent
    assert (either.driven, either.pool.did) == ([], [])


# ── rights are verified once for all that come at the same time ───────────────────────────────


def test_one_that_comes_first_asks_and_has_its_patience_left(either: Either) -> None:
    either.pool.standing.verified = False
    either.pool.standing.confirming.add("all")
    left = either.do(either.engine._verify, ack())
    ((given, _),) = either.driven
    for retry in (given[1], left):
        assert (retry.attempts, retry.budget) == (3, pytest.approx(10, abs=1))
    standing = either.pool.standing
    assert (standing.verified, standing.confirming, standing.verifying) == (True, set(), None)


@pytest.mark.parametrize(
    ("error", "raised"),
    [(PermissionDenied("no"), PermissionDenied), (ServerUnavailable("away"), ServerUnavailable)],
)
def test_one_that_cannot_says_so(either: Either, error: Exception, raised: type) -> None:
    either.pool.standing.verified = False
    either.pool.answers.append(error)
    with pytest.raises(raised):
        either.do(either.engine._verify, ack())
    assert len(either.driven) == 1
    assert (either.pool.standing.verified, either.pool.standing.verifying) == (False, None)


class Other:
    """Another thread that asks; how it ends is said when it is waited for."""

    def __init__(self, standing: Standing, error: Exception | None = None) -> None:
        self.standing, self.error = standing, error
        self.waited = 0
        standing.verified, standing.verifying, standing.verifier = False, self, 0

    def result(self) -> None:
        self.waited += 1
        self.standing.verifying = None
        if self.error is not None:
            raise self.error


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Either:
    return Either(False, monkeypatch)


def test_a_thread_that_finds_another_asking_waits_for_it(threads: Either) -> None:
    other = Other(threads.pool.standing)
    left = threads.engine._verify(ack())
    assert (other.waited, threads.driven) == (1, [])
    assert (left.attempts, left.budget) == (3, pytest.approx(10, abs=1))
    Other(threads.pool.standing, PermissionDenied("no"))
    with pytest.raises(PermissionDenied):
        threads.engine._verify(ack())


@pytest.mark.parametrize(
    ("attempts", "budget", "asks"), [(3, 10.0, 1), (0, 10.0, 0), (3, 0.0, 0), (0, 0.0, 0)]
)
def test_where_the_other_gives_up_the_next_asks_that_has_patience_left(
    threads: Either, attempts: int, budget: float, asks: int
) -> None:
    threads.engine.retry = Retry(attempts, budget)
    Other(threads.pool.standing, ServerUnavailable("away"))
    if asks:
        threads.engine._verify(ack())
    else:
        with pytest.raises(ServerUnavailable, match="away"):
            threads.engine._verify(ack())
    assert len(threads.driven) == asks


def test_a_finalizer_does_not_wait_for_the_thread_that_it_interrupted(threads: Either) -> None:
    other = Other(threads.pool.standing)
    threads.pool.standing.verifier = threading.get_ident()
    assert threads.engine._verify(ack()).attempts == 3
    assert (other.waited, threads.driven) == (0, [])


@pytest.mark.parametrize("error", [PermissionDenied("no"), KeyboardInterrupt(), None])
def test_those_that_wait_hear_how_it_ended(threads: Either, error: Any) -> None:
    waited: list[Any] = []

    def drive(*_: Any) -> None:
        standing = threads.pool.standing
        assert standing.verifier == threading.get_ident()
        waited.append(standing.verifying)
        if error is not None:
            raise error

    threads.engine._drive = drive
    threads.pool.standing.verified = False
    with nullcontext() if error is None else pytest.raises(type(error)):
        threads.engine._verify(ack())
    heard = waited[0].exception(timeout=0)
    if isinstance(error, KeyboardInterrupt):
        assert isinstance(heard, ServerUnavailable)
    else:
        assert heard is error


class Tasks:
    """Tasks that want to know the same: how it ends, and how often it was asked."""

    def __init__(self, *ends: Exception | None, **options: Any) -> None:
        self.engine, self.pool = in_tasks(**options)
        self.pool.standing.verified = False
        self.ends = [*ends]
        self.asked = 0
        self.engine._drive = self.drive

    async def drive(self, *_: Any) -> None:
        self.asked += 1
        await soon()
        end = self.ends.pop(0)
        if end is not None:
            raise end

    async def verify(self, many: int = 3) -> list[Any]:
        asks = (self.engine._verify(ack()) for _ in range(many))
        return await asyncio.gather(*asks, return_exceptions=True)


@in_loop
async def test_of_many_tasks_one_asks() -> None:
    stage = Tasks(None)
    assert [left.budget for left in await stage.verify()] == [pytest.approx(10, abs=1)] * 3
    assert stage.asked == 1
    stage = Tasks(PermissionDenied("no"))
    assert [type(each) for each in await stage.verify()] == [PermissionDenied] * 3
    assert stage.asked == 1


@in_loop
async def test_where_that_one_gives_up_the_next_task_asks() -> None:
    stage = Tasks(ServerUnavailable("away"), None)
    first, *others = await stage.verify()
    assert isinstance(first, ServerUnavailable)
    assert [left.budget for left in others] == [pytest.approx(10, abs=1)] * 2
    assert stage.asked == 2


@pytest.mark.parametrize("options", [{"retry_attempts": 0}, {"retry_budget": 0}])
@in_loop
async def test_but_not_without_patience(options: dict[str, Any]) -> None:
    stage = Tasks(ServerUnavailable("away"), **options)
    assert [type(each) for each in await stage.verify()] == [ServerUnavailable] * 3
    assert stage.asked == 1


@in_loop
async def test_a_task_that_is_cancelled_leaves_the_question_to_the_others() -> None:
    stage = Tasks(None)
    first, second = (asyncio.ensure_future(stage.engine._verify(ack())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).attempts == 3
    assert stage.asked == 1


@in_loop
async def test_a_question_that_the_end_of_the_loop_cancelled_is_asked_again() -> None:
    """By those that go on: it is not they that were cancelled."""
    stage = Tasks(None)
    one = asyncio.ensure_future(stage.engine._verify(ack()))
    for _ in range(2):
        await asyncio.sleep(0)
    said = complaints()
    stage.pool.standing.verifying.cancel()
    assert (await one).attempts == 3
    assert (stage.asked, said) == (2, [])


@in_loop
async def test_the_loop_does_not_complain_of_an_error_that_no_task_waits_for() -> None:
    stage = Tasks(ServerUnavailable("away"))
    one = asyncio.ensure_future(stage.engine._verify(ack()))
    for _ in range(2):
        await asyncio.sleep(0)
    said = complaints()
    one.cancel()
    for _ in range(2):
        await soon()
    assert (one.cancelled(), stage.ends) == (True, [])
    gc.collect()
    assert said == []


def complaints() -> list[Any]:
    """What the loop will say of exceptions."""
    said: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: said.append(context))
    return said


# ── what is carried out though its task is cancelled ──────────────────────────────────────────


class Saying:
    """A flow of two calls, each of which is under way until a test lets it go."""

    def __init__(self) -> None:
        self.engine, _ = in_tasks()
        self.said: list[tuple[str, bool]] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None

    def flow(self) -> flows.Flow[str]:
        yield calls.ack(QueueKeys("q"), ["first"])
        yield calls.ack(QueueKeys("q"), ["second"])
        return "done"

    async def say(self, flow: flows.Flow[str]) -> str:
        call: Any = next(flow)
        while True:
            self.said.append((call.args[-1], call.repeated))
            await self.go.wait()
            if self.error is not None:
                raise self.error
            try:
                call = flow.send(1)
            except StopIteration as stop:
                return str(stop.value)

    def settle(self) -> Any:
        return self.engine.settle(self.flow(), self.say)


@in_loop
async def test_what_was_under_way_is_said_again_before_a_cancelled_task_ends() -> None:
    stage = Saying()
    task = asyncio.ensure_future(stage.settle())
    await soon()
    task.cancel()
    await soon()
    assert (task.done(), stage.said) == (False, [("first", False), ("first", True)])
    stage.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.said[2:] == [("second", False)]
    assert await stage.settle() == "done"


@in_loop
async def test_what_fails_then_is_written_down(caplog: pytest.LogCaptureFixture) -> None:
    stage = Saying()
    task = asyncio.ensure_future(stage.settle())
    await soon()
    task.cancel()
    stage.error = ServerUnavailable("away")
    stage.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caplog.messages == ["cancelled, and not carried out: away"]


@in_loop
async def test_what_a_cancelled_task_says_is_not_interrupted_by_another_cancellation() -> None:
    stage = Saying()

    async def clean_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await stage.settle()

    task = asyncio.ensure_future(clean_up())
    await soon()
    for _ in range(2):
        task.cancel()
        await soon()
    assert stage.said == [("first", False)]
    stage.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.said[1:] == [("second", False)]


@in_loop
async def test_what_does_not_end_in_time_is_not_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atomq.cancellation.PROMPT", 0.001)
    stage = Saying()
    task = Unhurried(stage.settle(), loop=asyncio.get_running_loop())
    await soon()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.said == [("first", False)]


# ── loops, and the end ────────────────────────────────────────────────────────────────────────


def test_in_another_loop_it_begins_anew() -> None:
    one = AsyncEngine(URL)

    async def pools() -> set[int]:
        one._enter_loop()
        first = one._pool
        one._enter_loop()
        return {id(first), id(one._pool)}

    before = one._pool
    first, second = asyncio.run(pools()), asyncio.run(pools())
    assert first == {id(before)}
    assert len(second) == 1
    assert first != second


@in_loop
async def test_one_listener_hears_all_that_one_node_says(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Any] = []

    class Listener:
        def __init__(self, _: Any) -> None:
            pass

        def close(self) -> None:
            closed.append(self)

    monkeypatch.setattr(aio, "Listener", Listener)
    one, _ = in_tasks()
    assert one.listener("a") is one.listener("b")
    one.slots = SimpleNamespace(owner=lambda slot: ("h", int(slot == hash_slot("a"))))
    assert one.listener("a") is one.listener("a")
    assert one.listener("a") is not one.listener("b")
    await one.close()
    assert len({*closed}) == 3


@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_to_be_done_at_the_end_is_done_before_connections_are_closed(
    is_async: bool,
) -> None:
    one, pool = in_tasks_or_threads(is_async)
    one.at_close += [lambda: pool.did.append("first"), lambda: pool.did.append("second")]
    if is_async:
        asyncio.run(one.close())
    else:
        one.close()
    assert pool.did == ["first", "second", "closed"]


def in_tasks_or_threads(is_async: bool) -> tuple[Any, Any]:
    if not is_async:
        return engine()
    one: Any = AsyncEngine(URL)
    one._begin = lambda: None
    one._pool = AsyncPool()
    return one, one._pool
