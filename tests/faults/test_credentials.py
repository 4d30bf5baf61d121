"""A streaming credential provider hands out a new token: the old one's connections are left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kombu import Connection
from redis.credentials import StreamingCredentialProvider

import atomq.celery
from atomq import AsyncEngine, AsyncQueue, Engine, Queue
from tests.servers import Server, wait_until

atomq.celery.register()
pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


class Rotating(StreamingCredentialProvider):
    """Each token is another user's, so that the server says which one a connection has used."""

    def __init__(self, server: Server) -> None:
        self._db = server.client()
        self._tell: Callable[[Any], None] = lambda _: None
        self.tokens = 0
        self._add()

    def _add(self) -> None:
        self.tokens += 1
        rules = ("reset", "on", f">word{self.tokens}", "~*", "&*", "+@all")
        self._db.execute_command("ACL SETUSER", f"token{self.tokens}", *rules)

    def get_credentials(self) -> tuple[str, str]:
        return f"token{self.tokens}", f"word{self.tokens}"

    def on_next(self, callback: Callable[[Any], None]) -> None:
        self._tell = callback  # the last one counts, as in redis-entraid

    def on_error(self, callback: Callable[[Exception], None]) -> None:
        """It has none."""

    def is_streaming(self) -> bool:
        return True

    def rotate(self) -> None:
        self._add()
        self._tell(f"word{self.tokens}")

    def used(self) -> set[str]:
        """The users by whose tokens connections are logged in."""
        users = {client["user"] for client in self._db.client_list()}
        return {user for user in users if user.startswith("token")}

    def blocked(self) -> bool:
        """Whether a connection waits for a message."""
        return bool(self._db.info("clients")["blocked_clients"])

    def await_left(self) -> None:
        """Wait until no connection is the old token's, though it is still good."""
        now = {f"token{self.tokens}"}
        wait_until("the old token to be left", lambda: self.used() <= now, 3)


@pytest.fixture
def tokens(server: Server) -> Rotating:
    return Rotating(server)


def test_connections_that_idle_or_wait_use_the_new_token(server: Server, tokens: Rotating) -> None:
    with (
        Engine(server.tcp_url, credential_provider=tokens) as engine,
        Engine(server.tcp_url, credential_provider=tokens) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        other.command("PING")
        ear = engine.waiter()
        ear.listen("channel", 0)
        waiting = pool.submit(Queue("q", engine).claim, timeout=20)
        wait_until("the claim to wait", tokens.blocked)
        tokens.rotate()
        ear.listen("channel", 0)
        tokens.await_left()
        Queue("q", other).put("x")
        message = waiting.result(10)
        assert message is not None
        message.ack()
        ear.close()


def test_so_do_those_of_asyncio(server: Server, tokens: Rotating) -> None:
    async def run() -> None:
        async with (
            AsyncEngine(server.tcp_url, credential_provider=tokens) as engine,
            AsyncEngine(server.tcp_url, credential_provider=tokens) as other,
        ):
            await other.command("PING")
            ear = engine.waiter()
            await ear.listen("channel", 0)
            waiting = asyncio.ensure_future(AsyncQueue("q", engine).claim(timeout=20))
            await asyncio.to_thread(wait_until, "the claim to wait", tokens.blocked)
            await asyncio.to_thread(tokens.rotate)
            await ear.listen("channel", 0)
            await asyncio.to_thread(tokens.await_left)
            await AsyncQueue("q", other).put("x")
            message = await asyncio.wait_for(waiting, 10)
            assert message is not None
            await message.ack()
            await ear.close()

    asyncio.run(run())


def test_a_kombu_connection_logs_in_again(server: Server, tokens: Rotating) -> None:
    """What it waits for goes on: one that pops would lose what was popped for it."""
    url = server.tcp_url.replace("redis:", "atomq:")
    got: list[Any] = []
    with Connection(url, credential_provider=tokens) as connection:
        queues = [connection.SimpleQueue("acked"), connection.SimpleQueue("popped", no_ack=True)]
        for queue in queues:
            queue.consumer.callbacks = [lambda body, _: got.append(body)]
            queue.consumer.consume()

        def drained() -> bool:
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.05)
            return tokens.used() == {f"token{tokens.tokens}"}

        wait_until("it to wait", lambda: drained() and tokens.blocked())
        line = connection.transport.poller._intake.socket.line
        tokens.rotate()
        wait_until("the old token to be left", drained)
        assert connection.transport.poller._intake.socket.line is line
        for queue in queues:
            queue.put(queue.queue.name)
        wait_until("both", lambda: drained() and sorted(got) == ["acked", "popped"])
        connection.default_channel.broker.engine.close()
