"""For tests of what uses atomq: fresh queues, `drain`, a clock that moves, a Celery config.

`pytest_plugins = ["atomq.testing"]` in your `conftest.py` brings the fixtures; nothing is loaded
where that does not stand. They work on `memory://` (`atomq[memory]`), or where the ini option
`atomq_url` says: `embedded` (`atomq[embedded]`), or the URL of a server. There is no fixture that
you have to use: `drain`, `drain_async` and `Clock` take any queue.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

import pytest

from atomq import embedded
from atomq.arguments import Seconds, expect, seconds, whole
from atomq.client import Engine
from atomq.errors import InvalidArgument
from atomq.handlers import check_handler, check_result
from atomq.queue import Message, Queue

if TYPE_CHECKING:
    from atomq.queue_aio import AsyncMessage, AsyncQueue

_MOST = 10_000
_LARGEST = 1 << 62
_MEMORY = "memory://atomq-testing"
_INI = "Where the fixtures of atomq put queues: memory (the default), embedded, or a URL."


def drain(queue: Queue, handler: Callable[[Message], Any], *, most: int = _MOST) -> list[Any]:
    """Handle what can be handed out now, until nothing is left; what the handler returned each
    time.

    What the handler raises comes out of it, once the message is released as `work` releases it.
    Messages that are delayed and not due stay; so do those that wait after a failure (see
    `Clock.advance`). Raises `AssertionError` after `most` messages, for handlers that put more,
    and `InvalidArgument` for what is no queue or would not do the work, as `work` does.
    """
    expect("queue", queue, isinstance(queue, Queue), "a Queue (drain_async takes an AsyncQueue)")
    check_handler(handler, awaited=False, instead="use drain_async, or a plain function")
    whole("most", most, 1, _LARGEST)
    results: list[Any] = []
    while (message := queue.claim()) is not None:
        _check(len(results), most)
        with message:
            results.append(result := handler(message))
            check_result(result)
    return results


async def drain_async(
    queue: AsyncQueue, handler: Callable[[AsyncMessage], Awaitable[Any]], *, most: int = _MOST
) -> list[Any]:
    """`drain` for an `AsyncQueue` and a coroutine function."""
    known = isinstance(queue, _async_queue())
    expect("queue", queue, known, "an AsyncQueue (drain takes a Queue)")
    check_handler(handler, awaited=True)
    whole("most", most, 1, _LARGEST)
    results: list[Any] = []
    while (message := await queue.claim()) is not None:
        _check(len(results), most)
        async with message:
            results.append(await handler(message))
    return results


def _async_queue() -> type[AsyncQueue]:
    from atomq.queue_aio import AsyncQueue  # by now asyncio's side was imported

    return AsyncQueue


def _check(done: int, most: int) -> None:
    if done >= most:
        raise AssertionError(f"{most} messages, and there are more: does each put another one?")


class Clock:
    """The clock of `memory://`, which can be moved forward. Use it in a `with` block.

    Delays, times to live and leases go by it, as they go by a server's: a message that is claimed
    and not acked comes back after `advance(lease)` and the grace of an outage, a third of a lease.
    Raises `ImportError` where `atomq[memory]` lacks.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        self._moved: list[Any] = []

    def __enter__(self) -> Self:
        with Engine(_MEMORY) as engine:  # loads fakeredis, or says that it lacks
            engine.command("PING")
        for name, module in list(sys.modules.items()):
            if name.startswith("fakeredis.") and getattr(module, "time", None) is time:
                self._moved.append(module)
                module.time = self  # type: ignore[attr-defined]
        assert self._moved, "this fakeredis takes its time from elsewhere"
        return self

    def __exit__(self, *_: object) -> None:
        for module in self._moved:
            module.time = time
        self._moved.clear()

    def advance(self, by: Seconds) -> None:
        """Move it forward by so many seconds, or a `timedelta`. Raises `InvalidArgument`."""
        self._ahead += seconds("by", by)

    def time(self) -> float:
        """Seconds since 1970, as `time.time` says them to fakeredis."""
        return time.time() + self._ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


# ── fixtures ──────────────────────────────────────────────────────────────────────────────────


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option."""
    parser.addini("atomq_url", _INI, default="memory")


@pytest.fixture(scope="session")
def _atomq_embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.EmbeddedServer]:
    server = embedded.start(tmp_path_factory.mktemp("atomq"))
    yield server
    embedded.stop(server.directory)


@pytest.fixture(scope="session")
def _atomq_server(request: pytest.FixtureRequest) -> str:
    where = str(request.config.getini("atomq_url"))
    if where == "embedded":
        return f"embedded://{request.getfixturevalue('_atomq_embedded').directory}"
    return _MEMORY if where == "memory" else where


@pytest.fixture
def atomq_url(_atomq_server: str) -> Iterator[str]:
    """The URL of the server, for queues of your own; memory and embedded are empty in each test."""
    yield _atomq_server
    if _atomq_server.startswith(("memory:", "embedded:")):
        with Engine(_atomq_server) as engine:
            engine.command("FLUSHALL")


@pytest.fixture
def atomq_queue(atomq_url: str) -> Iterator[Queue]:
    """A queue of this test alone."""
    with Queue(f"test-{uuid.uuid4().hex}", atomq_url) as queue:
        yield queue
        queue.delete(force=True)


@pytest.fixture
def atomq_clock(atomq_url: str) -> Iterator[Clock]:
    """The clock of `memory://`, which `advance` moves."""
    if not atomq_url.startswith("memory:"):
        raise InvalidArgument(f"only the clock of memory:// can be moved, not that of {atomq_url}")
    with Clock() as clock:
        yield clock


@pytest.fixture(scope="session")
def atomq_celery_config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of a Celery app whose broker and results are on the server of the tests.

    On the embedded server instead of `memory://`, which is Kombu's own name for something else.
    """
    url = request.getfixturevalue("_atomq_server")
    if url.startswith(("memory:", "embedded:")):
        server = request.getfixturevalue("_atomq_embedded")
        url = f"redis+socket://{server.socket}?virtual_host=0"
    url = f"atomq{url[5:]}" if url.startswith("redis") else url
    return {
        "broker_url": url,
        "result_backend": url,
        "broker_connection_retry_on_startup": True,
        "worker_hijack_root_logger": False,
    }
