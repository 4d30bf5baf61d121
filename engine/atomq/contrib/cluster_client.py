"""What Celery's Redis result backend asks of a client of redis-py's, for a cluster, by our engine.

A command goes to the node of its key, and waits for no other. What is stored is announced by the
script that stores it. Raises our exceptions.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self

from redis import exceptions as server

from atomq import wires
from atomq.client import Engine
from atomq.contrib.kombu.line import Line
from atomq.conversation import PUSHED
from atomq.errors import AtomqError, ServerUnavailable
from atomq.keys import SLOTS, Place, hash_slot

# A result is stored and announced in one step, so that a listener reads what it heard of.
STORE = """
if ARGV[2] == "0" then
  redis.call("SET", KEYS[1], ARGV[1])
else
  redis.call("SET", KEYS[1], ARGV[1], "EX", ARGV[2])
end
return redis.call("PUBLISH", ARGV[3], ARGV[1])
"""
# Where a result lies whose own shard was away: one of these is elsewhere, if there is an elsewhere.
ASIDE = tuple(
    next(tag for n in itertools.count() if hash_slot(tag := f"{{{n}}}") // (SLOTS // 2) == half)
    for half in (0, 1)
)
BEAT = 1.0  # seconds between two questions whether the node is there that is listened to
DEAF = 3.0  # seconds without an answer after which another node is listened to


class Client:
    """A client of the cluster of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.connection_pool = _Pool()

    def get(self, key: Any) -> Any:
        """The value of a key, or None."""
        return self.engine.command("GET", _text(key), patient=True)

    def mget(self, keys: Sequence[Any]) -> list[Any]:
        """The values of keys, of any slots, or what lies beside; not read at one moment."""
        found = self.engine.reads([("GET", _text(key)) for key in keys])
        pairs = [*zip(keys, found, strict=True)]
        missing = [key for key, value in pairs if not isinstance(value, bytes)]
        beside = self.aside(missing) if missing else {}
        values = [beside.get(_text(key), value) for key, value in pairs]
        for value in values:
            if isinstance(value, Exception):
                raise value
        return values

    def known(self, keys: Sequence[str]) -> dict[str, Any]:
        """The values of keys; those of nodes that do not answer soon are left out."""
        names = [_text(key) for key in keys]
        pairs = zip(names, self.engine.briefly(*(("GET", name) for name in names)), strict=True)
        return {name: value for name, value in pairs if not isinstance(value, Exception)}

    def store(self, key: Any, value: Any, seconds: int | None) -> None:
        """Store a result and announce it."""
        self.engine.command(*_storing(key, key, value, seconds), patient=True)

    def store_soon(self, key: Any, value: Any, seconds: int | None) -> bool:
        """The same; False if its shard does not answer soon."""
        return self._is_done(_storing(key, key, value, seconds))

    def store_aside(self, key: Any, value: Any, seconds: int | None) -> bool:
        """Store a result at another shard, and announce it; False if none answers soon."""
        return any(self._is_done(_storing(at, key, value, seconds)) for at in _aside(key))

    def _is_done(self, words: tuple[Any, ...]) -> bool:
        (done,) = self.engine.briefly(words)
        if isinstance(done, Exception) and not isinstance(done, ServerUnavailable):
            raise done
        return not isinstance(done, Exception)

    def soon(self, key: Any) -> Any:
        """The value of a key, or None. Raises `ServerUnavailable` if no answer comes soon."""
        (value,) = self.engine.briefly(("GET", _text(key)))
        if isinstance(value, Exception):
            raise value
        return value

    def aside(self, keys: Sequence[Any]) -> dict[str, Any]:
        """Those of these results that lie at another shard than their own, as far as is known."""
        names = [_text(key) for key in keys for _ in ASIDE]
        asked = [("GET", at) for key in keys for at in _aside(key)]
        pairs = zip(names, self.engine.briefly(*asked), strict=True)
        return {name: value for name, value in pairs if isinstance(value, bytes)}

    def set(self, key: Any, value: Any, ex: int | None = None) -> Any:
        """Store a value."""
        words = ("EX", int(ex)) if ex else ()
        return self.engine.command("SET", _text(key), value, *words, patient=True)

    def delete(self, key: Any) -> Any:
        """Delete a key."""
        return self.engine.command("DEL", _text(key), patient=True)

    def forget(self, key: Any) -> None:
        """Delete a result, wherever it lies."""
        self.delete(key)
        self.engine.briefly(*(("DEL", at) for at in _aside(key)))

    def incr(self, key: Any, amount: int = 1) -> Any:
        """Count up."""
        return self.engine.command("INCRBY", _text(key), amount, patient=True)

    def expire(self, key: Any, seconds: int) -> Any:
        """Let a key live for so many seconds more."""
        return self.engine.command("EXPIRE", _text(key), int(seconds), patient=True)

    def evaluate(self, script: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """Run a script whose keys lie in one slot."""
        names = [_text(key) for key in keys]
        return self.engine.command("EVAL", script, len(names), *names, *args, patient=True)

    def read(self, *words: Any) -> Any:
        """A command that changes nothing."""
        return self.engine.command(*words, patient=True)

    def place(self, key: Any) -> Place | None:
        """The node of a key, as far as it is known."""
        slots = self.engine.slots
        return None if slots is None else slots.owner(hash_slot(_text(key)))

    def pipeline(self, **_: Any) -> Pipeline:
        """Commands that are said one after another; nothing holds them together."""
        return Pipeline(self)

    def pubsub(self, **_: Any) -> Ear:
        """What listens to results."""
        return Ear(self.engine)


class PatientClient(Client):
    """The same, for what may be asked again where an answer was lost: for as long as `ensure` does.

    `ensure` calls a function with these arguments until it raises no error of a connection.
    """

    def __init__(
        self, engine: Engine, ensure: Callable[[Callable[..., Any], tuple[Any, ...]], Any]
    ) -> None:
        super().__init__(engine)
        self._ensure = ensure

    def get(self, key: Any) -> Any:
        """The value of a key, or None."""
        return self._ensure(super().get, (key,))

    def mget(self, keys: Sequence[Any]) -> list[Any]:
        """The values of keys, of any slots, or what lies beside; not read at one moment."""
        found: list[Any] = self._ensure(super().mget, (keys,))
        return found

    def read(self, *words: Any) -> Any:
        """A command that changes nothing."""
        return self._ensure(super().read, words)

    def delete(self, key: Any) -> Any:
        """Delete a key."""
        return self._ensure(super().delete, (key,))


class _Pool:
    """The connections are the engine's, which begins anew by itself after a fork."""

    def reset(self) -> None:
        """Do nothing."""


class Pipeline:
    """The reads that Celery puts in a pipeline."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._said: list[tuple[Any, ...]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._said.clear()

    def zrange(self, key: Any, first: int, last: int) -> Self:
        """Members of a sorted set."""
        self._said.append(("ZRANGE", _text(key), first, last))
        return self

    def lrange(self, key: Any, first: int, last: int) -> Self:
        """Elements of a list."""
        self._said.append(("LRANGE", _text(key), first, last))
        return self

    def execute(self) -> list[Any]:
        """The answers."""
        said, self._said = self._said, []
        return [self._client.read(*words) for words in said]


class Ear:
    """Subscriptions over one connection, to any node: what is published reaches all.

    It has what Celery uses of redis-py's `PubSub`. It raises redis-py's `ConnectionError` when the
    node is gone, or says nothing though it is asked once a second: then another one is made.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._line: Line | None = None
        self._heard: deque[dict[str, Any]] = deque()
        self._names: set[str] = set()
        self._said_at = self._heard_at = 0.0
        self.subscribed_event = threading.Event()

    @property
    def subscribed(self) -> bool:
        """Whether there is anything to hear."""
        return bool(self._names) and self._line is not None

    @property
    def connection(self) -> Ear | None:
        """Itself, where it is connected: Celery asks whether its connection can be read."""
        return self if self._line is not None else None

    @property
    def _sock(self) -> Any:
        return self._line.wire if self._line is not None else None

    def can_read(self, timeout: float = 0) -> bool:
        """Whether something was heard, or is to be."""
        return bool(self._heard) or (self._line is not None and self._line.readable(timeout))

    def subscribe(self, *names: Any) -> None:
        """Listen to these channels too."""
        wanted = [_text(name) for name in names]
        self._names.update(wanted)
        line = self._connected()
        line.subscribe("SUBSCRIBE", wanted, None)
        self.subscribed_event.set()

    def unsubscribe(self, *names: Any) -> None:
        """Listen to them no more."""
        gone = [_text(name) for name in names]
        self._names.difference_update(gone)
        if self._line is not None:
            self._line.subscribe("UNSUBSCRIBE", gone, None)

    def get_message(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next message, or None if none comes in time."""
        line = self._line
        if not self._heard and line is not None and line.readable(timeout or 0):
            self._take_in(line)
        return self._heard.popleft() if self._heard else None

    def check(self) -> None:
        """Ask whether the node is there, if it is time. Raises `ConnectionError` if it is not."""
        line, now = self._line, time.monotonic()
        if line is None:
            return
        while line.readable(0):
            self._take_in(line)
        if now - self._said_at > BEAT:
            if line.talk.under_way and now - self._heard_at > DEAF:
                self._doubt(line)
                raise server.ConnectionError("the node that is listened to does not answer")
            if not line.talk.under_way:
                self._heard_at = now
            self._said_at = now
            line.say(("PING",), None)

    def _take_in(self, line: Line) -> None:
        line.hear()
        self._heard_at = time.monotonic()
        while line.has_answer:
            purpose, reply = line.answer()
            if purpose is PUSHED and reply[0] == b"message":
                self._heard.append({"type": "message", "channel": reply[1], "data": reply[2]})

    def _connected(self) -> Line:
        if self._line is None:
            try:
                self._line = Line(wires.taken(self._engine.connection()))
            except AtomqError as error:
                raise server.ConnectionError(str(error)) from error
            self._said_at = self._heard_at = time.monotonic()
        return self._line

    def _doubt(self, line: Line) -> None:
        if self._engine.slots is not None and line.wire.node is not None:
            self._engine.slots.doubt(line.wire.node)

    def close(self) -> None:
        """Hang up."""
        line, self._line = self._line, None
        if line is not None:
            line.wire.close()


def _storing(at: Any, key: Any, value: Any, seconds: int | None) -> tuple[Any, ...]:
    return ("EVAL", STORE, 1, _text(at), value, int(seconds or 0), _text(key))


def _aside(key: Any) -> list[str]:
    return [_text(key) + tag for tag in ASIDE]


def _text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)
