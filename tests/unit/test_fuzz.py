"""The public surface raises only errors of ours, whatever is passed: each argument of each verb.

The tables say what a call needs to be right; one argument at a time is then something odd. What is
accepted is fine too: how it is judged is told by `test_arguments.py`.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from atomq import (
    AsyncEngine,
    AsyncQueue,
    AsyncReceiver,
    AtomqError,
    Engine,
    Item,
    Options,
    Queue,
    Receiver,
    Serializer,
    calls,
)
from atomq.cli.app import app
from tests.conformance.twin import Loop, Twin, run

pytest.importorskip("fakeredis")

LONG = os.environ.get("ATOMQ_LONG") == "1"

URL = "memory://fuzz"
ours = settings(
    max_examples=1000 if LONG else 15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Evil:
    """Fails at most of what may be asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    __str__ = __len__ = __repr__


class Number(IntEnum):
    ONE = 1


def raises(*_: Any, **__: Any) -> Any:
    raise KeyError("of the caller's own")


def circle() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["a"] = found
    return found


ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, Number.ONE, 1.5, -0.0, 1e-9, 1e300, float("nan"), float("inf")),
    *(-float("inf"), 10**400, -(10**400), 10**5000, 1 << 42, 1 << 63, 3162240000, Decimal("1.5")),
    *(Fraction(1, 3), 1j, "", "x", "\udce9", "\0", "a\nb", "x" * 2000, "ü", "{}", "ready", "q"),
    *(b"", b"\xff", bytearray(b"x"), memoryview(b"x"), (), [], {}, [1], [None], ["x"], ["\udce9"]),
    *({"a": 1}, {1: 2}, {"type": {}}, {"$ref": "#/x"}, {"pattern": "("}, {"a": {1}}, set(), {"x"}),
    *(range(3), object(), object, Evil(), Evil, raises, lambda: 1, len, circle(), [[]] * 1001),
    *(timedelta(0), timedelta(days=-1), timedelta.max, timedelta.min, timedelta(microseconds=1)),
    *(
        datetime(9999, 12, 31),  # noqa: DTZ001 - it is odd because it has no zone
        datetime.max.replace(tzinfo=UTC),
        date(2030, 1, 1),
        Item(1),
    ),
    *(datetime.min.replace(tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC), Item(Item(1)), Engine),
]


class Pick(NamedTuple):
    """One of them, or of what Hypothesis makes. (It would fail at printing some of them.)"""

    value: Any
    where: int = -1

    def __repr__(self) -> str:
        return repr(self.value) if self.where < 0 else f"ODD[{self.where}]"


made = st.text() | st.integers() | st.floats() | st.timedeltas()
odd = st.integers(0, len(ODD) - 1).map(lambda at: Pick(ODD[at], at)) | made.map(Pick)


def only_ours(work: Callable[[], Any]) -> Any:
    """What it answers; None if it raised an error of ours. Whatever else it raises fails."""
    try:
        return work()
    except AtomqError as error:
        said = str(error)
    assert said, "an error without a word"
    return None


def parameters(verb: Any) -> list[str]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = inspect.signature(verb).parameters.values()
    return [p.name for p in named if p.kind not in kinds and p.name != "self"]


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module", params=["sync", "asyncio"])
def make(request: pytest.FixtureRequest, loop: Loop) -> Callable[..., Any]:
    """Makes a queue, with what is given."""
    if request.param == "sync":
        engine = Engine(URL)
        return lambda **how: Queue(**({"name": "q", "engine": engine} | how))
    engine_aio = AsyncEngine(URL)
    return lambda **how: Twin(loop, AsyncQueue(**({"name": "q", "engine": engine_aio} | how)))


# ── verbs of a queue ──────────────────────────────────────────────────────────────────────────

# What each needs. A wait of any length ends at once, for there is a message, or the result.
VERBS: dict[str, dict[str, Any]] = {
    "put": {"body": 1},
    "put_many": {"items": [1]},
    "claim": {},
    "claim_many": {"limit": 1},
    "consume": {"timeout": 0},
    "work": {"handler": None, "timeout": 0},
    "ack_many": {"messages": []},
    "give_back": {"messages": []},
    "wait": {"message_id": "done", "timeout": 0},
    "get": {"message_id": "done"},
    "peek": {},
    "redrive": {},
    "delete": {"force": True},
    "state": {},
    "pause": {},
    "resume": {},
}


def named(cls: type) -> set[str]:
    return {name for name, value in vars(cls).items() if callable(value) and name[0] != "_"}


def test_every_verb_is_here() -> None:
    others = {"close", "cancel", "purge", "run_now"}  # close takes nothing; of the others see below
    assert named(Queue) - others == set(VERBS)
    assert named(AsyncQueue) - others == set(VERBS)


def stocked(queue: Any) -> Any:
    """The queue with something to claim, and a result."""
    queue.delete(force=True)
    queue.resume()
    queue.put_many([1, 2])
    return queue


@pytest.mark.parametrize("verb", VERBS)
@given(data=st.data())
@ours
def test_verbs(make: Any, verb: str, data: st.DataObject) -> None:
    names = parameters(getattr(Queue, verb))
    queue, stop = stocked(make()), threading.Event()
    if verb == "wait":
        run(queue, calls.tell(queue.keys, [("done", '{"state": "done", "value": 1}')]))
    right = dict(VERBS[verb])
    if verb == "work":
        right["handler"] = _handler(queue, stop)
        right["stop"] = stop
    if names:
        right[data.draw(st.sampled_from(names))] = data.draw(odd).value
    if verb in ("consume", "work") and right.get("timeout", 0) != 0:
        right["stop"] = stop
        stop.set()  # to go on for ever is right there
    answer = only_ours(lambda: getattr(queue, verb)(**right))
    if verb == "consume" and answer is not None:
        only_ours(lambda: next(answer, None))
        answer.close()


def _handler(queue: Any, stop: threading.Event) -> Any:
    async def handle_aio(_: Any) -> None:
        stop.set()

    return handle_aio if isinstance(queue, Twin) else lambda _: stop.set()


@pytest.mark.parametrize("verb", ["cancel", "purge", "run_now"])
@given(picked=odd)
@ours
def test_verbs_of_several(make: Any, verb: str, picked: Pick) -> None:
    value = picked.value
    queue = make()
    only_ours(lambda: getattr(queue, verb)(value))
    only_ours(lambda: getattr(queue, verb)("ready", value))


@pytest.mark.parametrize(
    "name", ["body", "delay", "at", "priority", "id", "headers", "ttl", "tracked"]
)
@given(picked=odd)
@ours
def test_items(make: Any, name: str, picked: Pick) -> None:
    value = picked.value
    queue = make()
    only_ours(lambda: queue.put_many([Item(**({"body": 1} | {name: value}))]))
    only_ours(lambda: queue.put_many([value]))


# ── verbs of a message ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["release", "reject", "complete", "extend", "progress"])
@given(data=st.data())
@ours
def test_verbs_of_a_message(make: Any, verb: str, data: st.DataObject) -> None:
    message = stocked(make()).claim()
    name = data.draw(
        st.sampled_from(parameters(getattr(type(getattr(message, "target", message)), verb)))
    )
    value = data.draw(odd).value
    only_ours(lambda: getattr(message, verb)(**{name: value}))
    assert message.settled or only_ours(message.ack) is not None, "what was refused changed nothing"


# ── what is made ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["name", "engine", "serializer", "schema", "backoff"])
@given(picked=odd)
@ours
def test_queues(make: Any, name: str, picked: Pick) -> None:
    value = picked.value
    queue = only_ours(lambda: make(**{name: value}))
    if queue is not None:
        only_ours(lambda: queue.put({"a": [1]}))
        message = only_ours(queue.claim)
        if message is not None:
            with contextlib.suppress(ZeroDivisionError), message:
                _ = 1 / 0
            assert message.settled


@given(name=st.sampled_from(["content_type", "dumps", "loads"]), picked=odd, body=odd)
@ours
def test_serializers(make: Any, name: str, picked: Pick, body: Pick) -> None:
    value = picked.value
    right = {"content_type": "text/x", "dumps": repr, "loads": str}
    serializer = only_ours(lambda: Serializer(**(right | {name: value})))
    if serializer is not None:
        queue = make(name="other", serializer=serializer, schema={})
        only_ours(lambda: queue.put(body.value))
        message = only_ours(queue.claim)
        if message is not None:
            only_ours(lambda: message.body)


@pytest.mark.parametrize("kind", [Engine, AsyncEngine])
@given(picked=odd)
@ours
def test_engines(kind: Any, picked: Pick) -> None:
    value = picked.value
    only_ours(lambda: kind(value))
    only_ours(lambda: kind(URL, value))


@pytest.mark.parametrize("name", [row.name for row in Options.describe()])
@given(picked=odd)
@settings(max_examples=1000 if LONG else 8)
def test_options(name: str, picked: Pick) -> None:
    value = picked.value
    only_ours(lambda: Options.of({name: value}))
    only_ours(lambda: Options().replace(**{name: value}))


@pytest.mark.parametrize("kind", [Receiver, AsyncReceiver])
@given(picked=odd)
@ours
def test_receivers(make: Any, kind: Any, picked: Pick) -> None:
    value = picked.value
    only_ours(lambda: kind(value))
    only_ours(lambda: kind([value]))


@given(name=st.sampled_from(["limit", "timeout", "stop"]), picked=odd)
@ours
def test_what_a_receiver_is_asked(name: str, picked: Pick) -> None:
    value = picked.value
    queue = stocked(Queue("received", URL))
    with Receiver([queue]) as receiver:
        found = only_ours(lambda: receiver.receive(**({"limit": 1} | {name: value})))
        assert found is None or all(message.ack() for message in found)


@given(picked=odd)
def test_what_an_engine_is_asked(picked: Pick) -> None:
    value = picked.value
    engine = Engine(URL)
    only_ours(lambda: engine.run(value))
    only_ours(lambda: engine.keys(value))
    only_ours(lambda: engine.command("ECHO", value))
    if isinstance(value, int) and value.bit_length() > 64:
        return  # receipts are text, and what writes calls (hiredis 3.5.0) would end the process
    only_ours(lambda: engine.run(calls.ack(engine.keys("q"), value)))
    only_ours(lambda: engine.run(calls.ack(engine.keys("q"), [value])))


# ── what is read ──────────────────────────────────────────────────────────────────────────────

json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(
    envelope=st.fixed_dictionaries(
        {},
        optional={
            "body": json_like,
            "content-encoding": json_like | st.sampled_from(["utf-8", "idna", "zlib", "UTF-8"]),
            "content-type": json_like,
            "headers": json_like | st.fixed_dictionaries({"id": json_like}),
            "properties": json_like
            | st.fixed_dictionaries({"message_id": json_like, "body_encoding": json_like})
            | st.just({"body_encoding": "base64"}),
        },
    )
)
@ours
def test_what_others_wrote(make: Any, envelope: Any) -> None:
    queue = make(name="written")
    queue.delete(force=True)
    written = Queue("written", URL)
    raw = json.dumps({"x": 1, **envelope})
    written.engine.run(calls.publish(written.keys, [calls.Outgoing(raw, "x")]))
    message = queue.claim()
    for part in ("id", "headers", "properties", "body"):
        only_ours(lambda part=part: getattr(message, part))
    message.release(0.001)
    assert queue.state().delayed + queue.state().ready == 1


# ── the command line ──────────────────────────────────────────────────────────────────────────

words = st.text(st.characters(exclude_characters="\0"), max_size=12) | st.sampled_from(
    [
        "1",
        "nan",
        "1e400",
        "NaN",
        "9" * 400,
        "1" * 5000,
        "1h",
        "1.5ms",
        "0001-01-01",
        "\udce9",
        "[" * 9,
        *("9999-12-31T23:59:59", "99999999999", "a=[" * 2, "x=NaN", "x=1e400", "=", "[" * 100_000),
    ]
)


@given(
    body=words,
    options=st.lists(
        st.tuples(
            st.sampled_from(["--delay", "--at", "--priority", "--id", "--ttl", "--header"]), words
        ),
        max_size=2,
    ),
    how=st.sampled_from([[], ["--lines"], ["--text"]]),
    stdin=st.binary(max_size=20) | st.sampled_from([b"\xff", b"1\n1e400\n", b"[" * 100_000]),
)
@ours
def test_put_of_the_command_line(body: str, options: Any, how: Any, stdin: bytes) -> None:
    given_words = [f"{name}={value}" for name, value in options]
    args = ["put", "q", "--url", URL, *how, *given_words]
    args += [] if how == ["--lines"] else ["--", body]
    done = CliRunner().invoke(app, args, input=stdin)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in range(5), done.output
