"""What cannot be right is refused at once, in one line that says what would be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from http import HTTPStatus
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from atomq import (
    AsyncEngine,
    AsyncQueue,
    Engine,
    InvalidArgument,
    Item,
    Queue,
    Receiver,
    Serializer,
    arguments,
    embedded,
)
from atomq.metrics import AtomqCollector, WorkHistograms, wsgi_app
from atomq.testing import drain, drain_async

pytest.importorskip("fakeredis")

URL = "memory://arguments"
SOON = datetime.now(UTC) + timedelta(hours=1)
NAN = float("nan")


# ── text, seconds and whole numbers, by themselves ────────────────────────────────────────────

CENTURY = 100 * 365 * 86_400  # seconds: longer is a mistake
IN_2109 = (1 << 42) / 1000  # seconds since 1970: from here on no score can hold the milliseconds


def since_1970(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        (lambda: arguments.seconds("delay", 0), 0.0),
        (lambda: arguments.seconds("delay", CENTURY), float(CENTURY)),
        (lambda: arguments.seconds("delay", timedelta(minutes=2)), 120.0),
        (lambda: arguments.seconds("delay", 3, most=3), 3.0),
        (lambda: arguments.milliseconds("delay", 1.5), 1500),
        (lambda: arguments.milliseconds("delay", 1e-9), 1),
        (lambda: arguments.milliseconds("delay", 0), 0),
        (lambda: arguments.timeout(None), None),
        (lambda: arguments.timeout(0), 0),
        (lambda: arguments.timeout(0.0), 0.0),
        (lambda: arguments.timeout(-1), 0.0),
        (lambda: arguments.timeout(-0.5), 0.0),
        (lambda: arguments.timeout(0.5), 0.5),
        (lambda: arguments.timeout(timedelta(minutes=2)), 120.0),
        (lambda: arguments.timeout(CENTURY), CENTURY),
        (lambda: arguments.timeout(float(CENTURY)), float(CENTURY)),
        (lambda: arguments.timeout(CENTURY + 1), None),
        (lambda: arguments.timeout(CENTURY + 0.5), None),
        (lambda: arguments.timeout(float("inf")), None),
        (lambda: arguments.moment_ms(0), 1),
        (lambda: arguments.moment_ms(1.5), 1500),
        (lambda: arguments.moment_ms(since_1970(1.5)), 1500),
        (lambda: arguments.moment_ms(((1 << 42) - 1) / 1000), (1 << 42) - 1),
        (lambda: arguments.whole("limit", 1, 1, 9), 1),
        (lambda: arguments.whole("limit", 9, 1, 9), 9),
        (lambda: arguments.whole("limit", HTTPStatus.OK, 200, 200), 200),
        (lambda: arguments.text("id", "", 3), ""),
        (lambda: arguments.text("id", "abc", 3, least=3), "abc"),
        (lambda: arguments.text("id", "hé", 3), "hé"),
        (lambda: arguments.readable("x" * 5, 3), "xxx"),
        (lambda: arguments.readable("é\ud800", 99), "é\\ud800"),
        (lambda: arguments.words(ValueError("x" * 5000)), "ValueError: " + "x" * 3988),
        (lambda: arguments.flag("force", 2), 1),
        (lambda: arguments.flag("force", False), 0),
    ],
)
def test_what_is_within_bounds_is_taken(given: Callable[[], Any], answer: Any) -> None:
    assert (given(), type(given())) == (answer, type(answer))


@pytest.mark.parametrize(
    "given",
    [
        *(partial(arguments.seconds, "delay", each) for each in (-0.001, CENTURY + 1, True, "3")),
        *(partial(arguments.timeout, each) for each in (NAN, True, "3", [])),
        *(partial(arguments.moment_ms, each) for each in (-0.001, IN_2109, True, "3")),
        *(partial(arguments.whole, "limit", each, 1, 9) for each in (0, 10, True, 3.0, "3")),
        *(partial(arguments.text, "id", each, 3, least=1) for each in ("", "four", b"a", ["a"])),
        *(partial(arguments.text, "id", each, 3) for each in ("\udce9", None)),
        *(partial(arguments.flag, "force", each) for each in ("yes", None, 1.0)),
    ],
)
def test_what_is_out_of_bounds_is_refused(given: Callable[[], Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"^(delay|timeout|at|limit|id|force) "):
        given()


def test_a_value_is_shown_in_80_characters() -> None:
    """In a row of a log there is room for what was wrong with it too."""
    assert [len(arguments.shown(each)) for each in ("x" * 99, Long())] == [80, 80]
    assert arguments.LARGEST == (512 << 20) - 4096  # what every server takes, less a head


class Long:
    def __repr__(self) -> str:
        return "x" * 99


@pytest.mark.parametrize("word", [None, True, [], {}, 1 << 64, -(1 << 63) - 1, "\udce9"])
def test_what_is_no_word_of_a_command(word: Any) -> None:
    with pytest.raises(InvalidArgument, match="a command's argument"):
        arguments.command(("ECHO", word))


def test_words_that_a_command_takes() -> None:
    arguments.command(("ECHO", "text", b"bytes", memoryview(b"x"), 1.5, (1 << 64) - 1, -(1 << 63)))


# ── what queues and engines are given ─────────────────────────────────────────────────────────


def many(n: int) -> list[Queue]:
    engine = Engine(URL)
    return [Queue(f"q{i}", engine) for i in range(n)]


MADE: list[tuple[Callable[[], Any], str]] = [
    (lambda: Queue("q", None), "needs an Engine or a URL, got None"),
    (lambda: Queue("q", None, lease=3), "needs an Engine or a URL, got None"),
    (lambda: Queue("q", None, partitions=2), "needs an Engine or a URL, got None"),
    (lambda: Queue("q", AsyncEngine(URL)), "needs an Engine or a URL, got AsyncEngine"),
    (lambda: AsyncQueue("q", Engine(URL)), "needs an AsyncEngine or a URL, got Engine"),
    (lambda: Queue("q", Engine(URL), lease=3), "options belong to the engine"),
    (lambda: Queue("", URL), "name must be text and not empty"),
    (lambda: Queue("q", URL, serializer="json"), "must be a Serializer"),
    (lambda: Queue("q", URL, schema="object"), "schema must be a mapping"),
    (lambda: Queue("q", URL, schema={"type": "thing"}), "no JSON Schema"),
    (lambda: Queue("q", URL, schema={"type": {1}}), "the schema is not JSON"),
    (lambda: Queue("q", URL, backoff=5), "backoff must be a function"),
    (lambda: Queue("\udce9", URL), "cannot be written as UTF-8"),
    (lambda: Queue("q", URL, lease=10**400), "lease: got 1000"),
    (lambda: Serializer("text/x", None, None), "must be callable"),
    (lambda: Receiver(Queue("q", URL)), "takes a list of queues"),
    (lambda: Receiver([1]), "takes a list of queues"),
    (lambda: Receiver(many(1001)), "at most 1000 queues, got 1001"),
    (lambda: Receiver(many(1)).return_unstarted([3]), "must be claimed messages: 3"),
    (lambda: Engine(URL, global_keyprefix="\udce9"), "global_keyprefix: .* written as UTF-8"),
    (lambda: Engine(URL, username="\udce9"), "username: .* cannot be written as UTF-8"),
    (lambda: Engine(URL).overview("orders"), "names must be a list of names of queues"),
    (lambda: Engine(URL).overview([[]]), "names must be a list of names of queues"),
    (lambda: AtomqCollector(None), "needs an Engine or a URL, got None"),
    (lambda: AtomqCollector(URL, queues="orders"), "queues must be a list of their names"),
    (lambda: WorkHistograms(CollectorRegistry(), run_buckets=5), "histograms cannot be made"),
    (lambda: wsgi_app(URL), "needs an AtomqCollector"),
    (lambda: embedded.status(None), "directory must be text or an os.PathLike, got None"),
    (lambda: embedded.start("nowhere", timeout="5"), "timeout must be seconds"),
    (lambda: embedded.stop("nowhere", timeout=None), "timeout must be seconds"),
    (lambda: drain(URL, print), "queue must be a Queue"),
    (lambda: drain(Queue("q", URL), None), "a handler must be a function"),
    (lambda: drain(Queue("q", URL), asyncio.sleep), "use drain_async, or a plain function"),
    (lambda: drain(Queue("q", URL), print, most=0), "most must be a whole number from 1"),
    (lambda: asyncio.run(drain_async(Queue("q", URL), print)), "queue must be an AsyncQueue"),
    (lambda: asyncio.run(drain_async(AsyncQueue("q", URL), print)), "needs a coroutine function"),
]
ASKED: list[tuple[Callable[[Any], Any], str]] = [
    (lambda q: q.put(1, delay="3"), "delay must be seconds from 0"),
    (lambda q: q.put(1, delay=NAN), "delay must be seconds from 0"),
    (lambda q: q.put(1, delay=timedelta(-1)), "delay must be seconds from 0"),
    (lambda q: q.put(1, delay=10**400), "delay must be seconds from 0"),
    (lambda q: q.put(1, at=datetime(2110, 1, 1, tzinfo=UTC)), "at must be .* to 2109"),
    (lambda q: q.put(1, at=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=9)))), "at"),
    (lambda q: q.put(1, ttl=5, delay=5), "ttl must be .* more than the delay"),
    (lambda q: q.put(1, id="\udce9"), "id cannot be written as UTF-8"),
    (lambda q: q.put(NAN), "cannot be serialized: ValueError"),
    (lambda q: q.put(1, headers={"x": [float("inf")]}), "headers are not JSON"),
    (lambda q: q.put(10**5000), "cannot be serialized"),
    (lambda q: q.put_many([1, {2}, 3]), "message 1: the body cannot be serialized"),
    (lambda q: q.put_many([1, Item(1), Item(1, delay=-1)]), "message 2: delay must be"),
    (lambda q: q.put_many({"to": "ann"}), "put_many takes messages"),
    (lambda q: q.put_many(7), "put_many takes messages"),
    (lambda q: q.wait("x", on_progress=5), "on_progress must be a function"),
    (lambda q: q.wait("x", on_progress=asyncio.sleep), "on_progress is called here, .* plain one"),
    (lambda q: q.wait("\udce9"), "message_id cannot be written as UTF-8"),
    (lambda q: q.cancel("\udce9"), "ids cannot be written"),
    (lambda q: q.cancel(3), "ids must be text"),
    (lambda q: q.redrive(3), "ids must be a list"),
    (lambda q: q.redrive(reason="\udce9"), "after, until and reason cannot be"),
    (lambda q: q.ack_many([3]), "must be claimed messages: 3"),
    (lambda q: q.give_back(3), "must be claimed messages: 3"),
    (lambda q: q.claim_many(1, timeout=[]), "timeout must be seconds, a timedelta or None"),
    (lambda q: q.put(1, delay=3, at=SOON), "a delay or at, not both"),
    (lambda q: q.put(1, at=SOON.replace(tzinfo=None)), "must say its time zone"),
    (lambda q: q.put(1, ttl=0), "ttl must be more than 0"),
    (lambda q: q.put(1, id=3), "id must be text of 1 to 256 characters"),
    (lambda q: q.put(1, priority=10), "priority must be a whole number from 0"),
    (lambda q: q.put(1, headers=[1]), "headers must be a mapping"),
    (lambda q: q.put({1}), "cannot be serialized"),
    (lambda q: q.claim(timeout="3"), "timeout must be seconds"),
    (lambda q: q.claim(timeout=NAN), "timeout must be seconds"),
    (lambda q: q.claim_many(0), "limit must be a whole number from 1 to 1000"),
    (lambda q: q.wait("x", timeout="3"), "timeout must be seconds"),
    (lambda q: q.wait(3), "message_id must be text"),
    (lambda q: q.peek("all"), "no part 'all'"),
    (lambda q: q.purge("all"), "no part 'all'"),
    (lambda q: q.redrive(["x"]), "not the id of a dead letter"),
    (lambda q: q.redrive("x1"), "x1 is not the id of a dead letter"),
]


@pytest.mark.parametrize(("make", "words"), MADE, ids=[words for _, words in MADE])
def test_what_is_made(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ask", "words"), ASKED, ids=[f"{n} {words}" for n, (_, words) in enumerate(ASKED)]
)
def test_what_is_asked(ask: Callable[[Any], Any], words: str) -> None:
    queue = Queue("q", URL)
    with pytest.raises(InvalidArgument, match=words) as caught:
        ask(queue)
    assert "\n" not in str(caught.value)
    assert queue.state().stats.get("published", 0) == 0, "nothing was sent"

    async def main() -> None:
        with pytest.raises(InvalidArgument, match=words):
            await ask(AsyncQueue("q", URL))

    asyncio.run(main())


def test_a_reason_is_one_line() -> None:
    queue = Queue("reasons", URL)
    queue.put(1)
    message = queue.claim()
    assert message is not None
    for reason in ("", 3, "two\nlines", "x" * 65):
        with pytest.raises(InvalidArgument, match="reason must be one line"):
            message.reject(reason)  # type: ignore[arg-type]
    message.ack()


@pytest.mark.parametrize("word", [None, True, [], {}, 1 << 64, -(1 << 63) - 1, "\udce9"])
def test_the_words_of_a_command_are_looked_at_before_they_are_written(word: Any) -> None:
    engine = Engine("redis://127.0.0.1:1")  # nothing is there, and nothing is asked
    with pytest.raises(InvalidArgument, match="a command's argument"):
        engine.command("ECHO", word)
    engine.close()


def test_a_lease_is_extended_by_seconds() -> None:
    queue = Queue("extended", URL)
    queue.put(1)
    message = queue.claim()
    assert message is not None
    for seconds in (-1, 1e9, 31_622_401):
        with pytest.raises(InvalidArgument, match="seconds must be seconds from 0 to 31622400,"):
            message.extend(seconds)
    message.extend(31_622_400)
    message.ack()


def test_a_partition_has_no_partitions() -> None:
    whole = Queue("orders", URL, partitions=2)
    whole.put(1)
    name = whole.partitions()[1].name
    for number in (1, 2, 3):
        with pytest.raises(InvalidArgument, match=f"'{name}' is a partition of 'orders'"):
            Queue(name, whole.engine, partitions=number).put(1)
    whole.delete()


@pytest.mark.parametrize("given", [["a", "b"], ("a",), {"a", "b"}, {"a": 1}.keys(), []])
def test_texts_are_a_list_or_a_set_of_them(given: Any) -> None:
    assert arguments.texts("names", given, "names of queues") is given
