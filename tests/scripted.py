"""Kombu's transport of ours without a server: each call and command is noted, answers are given."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from hiredis import PushNotification, Reader
from kombu import Connection
from kombu.transport import virtual
from redis import exceptions as server

from atomq import scripts
from atomq.calls import Call
from atomq.client import Engine
from atomq.contrib.kombu.broker import Broker
from atomq.contrib.kombu.channel import Channel
from atomq.contrib.kombu.transport import Transport
from atomq.errors import AtomqError
from atomq.partitions import PartitionMap

_names = itertools.count(1)
NOW_MS = 1_800_000_000_000


def raw(body: Any = "x", **headers: Any) -> bytes:
    """A message as Kombu writes it."""
    properties = {"delivery_info": {}, "delivery_tag": "t", "body_encoding": None}
    message = {
        "body": json.dumps(body),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": properties,
    }
    return json.dumps(message).encode()


def claimed(
    *receipts: str,
    wait_ms: int = -1,
    more: Sequence[int] = (),
    lost: Sequence[int] = (),
    message: bytes = b"",
    deliveries: int = 1,
    queue: int = 1,
    then: Sequence[str] = (),
) -> list[Any]:
    """What the server answers to a claim; `queue` and `more` count queues from 1.

    `then` are receipts of the queue after it. `lost` has a queue and a receipt's position for each
    ack that found nothing.
    """
    runs: list[int] = [0]
    for some, of in ((receipts, queue), (then, queue + 1)):
        if some:
            runs = [runs[0] + 1, *runs[1:], of, deliveries, 1, len(some)]
    head = " ".join(map(str, (NOW_MS, wait_ms, 0, len(more), *more, -1, *runs, *lost)))
    found: list[Any] = [head.encode()]
    for receipt in (*receipts, *then):
        found += [receipt.encode(), message or raw(receipt)]
    return found


def told_to_end(*_: Any, **__: Any) -> Any:
    """What Celery's handler of a signal raises, wherever its worker stands."""
    theirs: dict[str, Any] = {"__name__": "celery.apps.worker"}
    exec("def handle():\n    raise NotImplementedError('kill_job')", theirs)
    return theirs["handle"]()


def push(*parts: bytes) -> PushNotification:
    """What the server says without being asked."""
    return PushNotification(parts)


class Together(list[Any]):
    """Replies that come in one piece."""


def _verdicts(per_item: int, before: int) -> Callable[[Call[Any]], list[int]]:
    return lambda call: [1] * ((len(call.args) - before) // per_item)


_DONE: dict[str, Any] = {
    "ack": [],
    "attend": [0, 0, 0, 0],
    "dead_letter": 1,
    "extend": [],
    "look": b"",
    "publish": 1,
    "put_back": 1,
    "purge": [0, 0, 0],
    "reject": _verdicts(4, 2),
    "release": _verdicts(2, 4),
    "reply": 1,
    "resign": 1,
    "restore_foreign": [0, []],
    "touch": 4,
}


class Line:
    """The wire of a poller. It gives the `replies` in their order; an exception is raised."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, ...]] = []
        self.replies: deque[Any] = deque()
        self.waited: list[float] = []
        self.taken = 0
        self.broken = self.closed = False
        self.hello = {b"id": 7}
        self.credential_provider: Any = None
        self.read_before: list[Any] = []
        self._confirmed: list[Any] = []

    def fileno(self) -> int:
        return 3

    def send(self, data: bytes) -> None:
        if self.broken:
            raise server.ConnectionError("cut")
        reader = Reader()
        reader.feed(data)
        command = tuple(part.decode() for part in reader.gets())
        if command[0] == "SUBSCRIBE":  # of no interest to tests: confirmed with what comes next
            self._confirmed += [push(b"subscribe", each.encode(), b"1") for each in command[1:]]
        else:
            self.sent.append(command)

    def readable(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return bool(self.replies)

    def receive(self) -> list[Any]:
        reply = self.replies.popleft()
        self.taken += 1
        if isinstance(reply, server.ConnectionError):
            raise reply
        confirmed, self._confirmed = self._confirmed, []
        return [*confirmed, *(reply if isinstance(reply, Together) else (reply,))]

    def close(self) -> None:
        self.closed = True

    def names(self) -> list[str]:
        """The commands that were sent."""
        return [command[0] for command in self.sent]

    def claims(self) -> list[tuple[str, ...]]:
        """The arguments of the claims that were sent."""
        return self.calls("claim")

    def calls(self, script: str) -> list[tuple[str, ...]]:
        """The same of any script."""
        sha = scripts.get(script).sha
        return [command for command in self.sent if command[:2] == ("EVALSHA", sha)]


class ScriptedEngine(Engine):
    """An engine that notes what it runs, and answers as `answers` says, by script or command.

    An answer may be an exception, or be called with the call. `claim` has none by itself.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ran: list[Call[Any]] = []
        self.commands: list[tuple[Any, ...]] = []
        self.answers: dict[str, Any] = dict(_DONE)
        self.lines: list[Line] = []

    def _run_one(self, call: Call[Any]) -> Any:
        self.ran.append(call)
        return call.parse(self._answer(call.script.name, call), call.repeated)

    def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        found = []
        for call in calls:
            try:
                found.append(self._run_one(call))
            except AtomqError as error:
                found.append(error)
        return found

    def command(self, *args: Any, patient: bool = False) -> Any:
        self.commands.append(args)
        return self._answer(args[0], args, {"TIME": (1_800_000_000, 0), "LLEN": 0}.get(args[0]))

    def connection(self, place: Any = None) -> Any:
        if trouble := self.answers.get("connect"):
            raise trouble
        self.lines.append(Line())
        return self.lines[-1]

    def _answer(self, name: str, asked: Any, default: Any = None) -> Any:
        answer = self.answers.get(name, default)
        if isinstance(answer, list) and answer and isinstance(answer[0], Exception):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer(asked) if callable(answer) else answer

    def called(self, name: str) -> list[Call[Any]]:
        """The calls of one script, oldest first."""
        return [call for call in self.ran if call.script.name == name]


class Stage:
    """A transport with one channel, whose server is a script."""

    url = "atomq://nowhere.invalid"

    def __init__(self, monkeypatch: Any, **options: Any) -> None:
        monkeypatch.setattr("atomq.contrib.kombu.broker.Engine", ScriptedEngine)
        monkeypatch.setattr("atomq.leases.Engine", ScriptedEngine)
        monkeypatch.setattr("atomq.wires.taken", lambda line: line)
        name = f"scripted-{next(_names)}"  # brokers are known by their address
        options = {"client_name": name, **options}
        self.transport = Transport(Connection(self.url, transport_options=options))
        self.broker: Broker = self.transport.broker
        self.engine: Any = self.broker.engine
        self.engine.register._off = True  # its thread would look for a server
        leases: Any = self.broker.keeper._engine
        leases.ran, leases.answers = self.engine.ran, self.engine.answers
        self.poller = self.transport.poller
        self.connection = virtual.Transport.establish_connection(self.transport)
        self.channel: Channel = self.transport.create_channel(self.connection)
        self.got: list[Any] = []
        self.broker.keeper.acks._waiting = lambda: None  # they wait until the test looks
        self.engine.commands.clear()

    def consume(
        self, queue: str = "q", *, channel: Channel | None = None, no_ack: bool = False, **more: Any
    ) -> None:
        """What comes of this queue is noted in `got`."""
        on = channel or self.channel
        callback = more.pop("callback", self.got.append)
        on.basic_consume(queue, no_ack, callback, f"tag-{queue}-{id(on)}")

    def spread(self, queue: str, *numbers: int) -> tuple[str, ...]:
        """Have the queue be known to have partitions, of these numbers behind the first."""
        self.broker.spread.declare({queue: len(numbers) + 1})
        found: Any = self.broker.spread.get(queue)
        found._learn(PartitionMap(queue, numbers))
        names: tuple[str, ...] = found.names
        return names

    @property
    def line(self) -> Line:
        """The socket as it is now."""
        line: Line = self.engine.lines[-1]
        return line

    def give(self, *replies: Any) -> None:
        """Let the poller read these."""
        self.line.replies.extend(replies)
        while self.line.replies:
            line, taken = self.line, self.line.taken
            self.poller.on_readable()
            assert line.taken != taken, "what came was not taken in"

    def claim(self, *receipts: str, **said: Any) -> list[Any]:
        """Have the poller claim, answer with these messages; what was handed over."""
        self.poller.pump()
        before = len(self.got)
        self.give(claimed(*receipts, **said))
        return self.got[before:]

    def acks(self, queue: str = "q") -> list[str]:
        """The receipts whose acks wait to be sent."""
        return self.broker.keeper.acks.take(queue)

    def released(self) -> list[tuple[str, int, int, int]]:
        """Receipt, delay in ms, front and counted of what was given back."""
        return [
            (receipt, call.args[0], call.args[1], call.args[2])
            for call in self.engine.called("release")
            for receipt in call.args[4::2]
        ]

    def rejected(self) -> list[tuple[str, str, str]]:
        """Receipt, reason and detail of what was made a dead letter."""
        return [tuple(call.args[4:7]) for call in self.engine.called("reject")]

    def close(self) -> None:
        self.broker.keeper.close()
