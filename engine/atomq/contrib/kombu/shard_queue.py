"""One queue of a cluster as one connection consumes it: what is under way, and what it waits by.

The line is never blocked. So a queue is waited for by having the server tell that its tokens
changed: `LPOP wake`, `CLIENT CACHING YES`, `LLEN wake`, in one go. A token says that there is
something to claim; LLEN has the server report the next change, and says if that came before. All
consumers that wait hear of it, and one of them gets the token. Once a second a look finds what no
token tells of, as `looks.py` says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from redis import exceptions as server

from atomq import calls
from atomq.actions import Elsewhere, NotLoaded
from atomq.calls import Call, Claimed
from atomq.contrib.kombu.claims import Claims, Outcome
from atomq.contrib.kombu.looks import LOOK
from atomq.contrib.kombu.rights import WAIT
from atomq.conversation import CACHING, Command
from atomq.errors import PermissionDenied

if TYPE_CHECKING:
    from atomq.contrib.kombu.broker import Broker
    from atomq.contrib.kombu.hand_over import HandOver
    from atomq.contrib.kombu.nodes import NodeLine
    from atomq.contrib.kombu.popped import Popped


class ShardQueue:
    """What those share that are claimed from, and those that are popped from."""

    waits_for: tuple[str, ...] = ()
    """The keys of which the server reports changes."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker = broker
        self.name = name
        self.keys = broker.keys(name)
        self.line: NodeLine | None = None
        """That of the node that serves it."""
        self._armed = False  # whether the server reports the next change, or is asked to

    def moved_to(self, line: NodeLine) -> None:
        """Another node serves it."""
        self.line = line
        self._armed = False

    def changed(self) -> None:
        """The server reported, once, that what it waits for has changed."""
        self._armed = False

    def disconnected(self, line: NodeLine) -> None:
        """This line is gone, and with it what was under way."""
        if line is self.line:
            self._armed = False

    def _heard(self, line: NodeLine | None, reply: Any) -> bool:
        """Whether a command was carried out; else the server is asked anew, or elsewhere."""
        if line is not self.line:  # it has moved meanwhile
            return False
        if isinstance(reply, server.NoPermissionError):
            text = f"this user may not wait for messages: {reply}"
            self._broker.rights.refuse(WAIT, PermissionDenied(text))
        if isinstance(reply, Exception):
            self._armed = False
            return False
        return True

    def _cached(self, line: NodeLine, reply: Any) -> None:
        self._heard(line, reply)


class ClaimedQueue(ShardQueue):
    """A queue that is consumed with acks."""

    def __init__(
        self,
        transport: Any,
        buffer: HandOver,
        name: str,
        ask: Callable[[str, Call[Claimed], Callable[[Outcome], None]], None],
        load: Callable[[Call[Any]], None],
    ) -> None:
        """`ask` has the engine ask for a claim; `load` has it carry out what was not loaded."""
        super().__init__(transport.broker, name)
        self.waits_for = (self.keys.wake,)
        self.claims = Claims(transport, buffer, self._send, self._got_nothing, partial(ask, name))
        self.claims.hot.add(name)
        self._load = load
        self.look_at = 0.0
        """When to look at it (monotonic)."""
        self._sent_over: NodeLine | None = None  # the line over which the claim is under way
        self._looks = False

    @property
    def is_sent(self) -> bool:
        """Whether a claim is under way over its line."""
        return self._sent_over is not None and self.claims.under_way is not None

    def can_ask(self, now: float) -> bool:
        """Whether anything can be said of it."""
        return (
            self.line is not None
            and self.line.is_open
            and not self.claims.under_way
            and now >= self.claims.rests_until
        )

    def wants_any_room(self, now: float) -> bool:
        """Whether it is to be asked, however little there is room for."""
        return self.claims.has_found or now >= self.look_at

    def moved_to(self, line: NodeLine) -> None:
        super().moved_to(line)
        self._looks = False
        self.claims.hot.add(self.name)

    def disconnected(self, line: NodeLine) -> None:
        super().disconnected(line)
        if line is self.line:
            self._looks = False
            self.claims.found([self.name])
        if line is self._sent_over and self.claims.under_way:
            self._sent_over = None
            self.claims.ask_by_engine()

    # ── claims ────────────────────────────────────────────────────────────────────────────────

    def _send(self, _purpose: Any, command: Command) -> None:
        line = self._sent_over = self.line
        assert line is not None
        self.look_at = time.monotonic() + LOOK
        line.say((command, partial(self._answered, line)))

    def _answered(self, line: NodeLine, reply: Any) -> None:
        if self._sent_over is not line:
            return  # it was asked for elsewhere
        self._sent_over = None
        if isinstance(reply, Elsewhere) and reply.place is None:
            self.claims.take_back()
        else:
            self.claims.answered(reply)

    def _got_nothing(self, _: Collection[str]) -> None:
        """A claim got nothing: it is waited for."""

    def pass_on(self) -> None:
        """It is consumed no more: a token that was taken wakes another consumer."""
        if self.name in self.claims.hot and self.line is not None and not self.is_sent:
            call = self._broker.claim([self.name], 0)
            self.line.say((call.command(), _ignore))
        self.claims.hot.discard(self.name)

    # ── waiting ───────────────────────────────────────────────────────────────────────────────

    def wait(self) -> None:
        """Have the server tell of the next token, unless it will."""
        line = self.line
        if self._armed or line is None:
            return
        self._armed = True
        wake = self.keys.wake
        line.say(
            (("LPOP", wake), partial(self._taken, line)),
            (CACHING, partial(self._cached, line)),
            (("LLEN", wake), partial(self._counted, line)),
        )

    def _taken(self, line: NodeLine, reply: Any) -> None:
        if self._heard(line, reply) and reply is not None:
            self.claims.found([self.name])

    def _counted(self, line: NodeLine, reply: Any) -> None:
        if self._heard(line, reply) and reply:
            self._armed = False

    def look(self, now: float) -> None:
        """Look whether there is something that no token tells of, if it is time."""
        line = self.line
        if now < self.look_at or self._looks or line is None:
            return
        self._looks, self.look_at = True, now + LOOK
        look = calls.look([self.keys], "", renew_ms=self._broker.keeper.renew_ms)
        line.say((look.command(), partial(self._looked, line, look)))

    def _looked(self, line: NodeLine, look: Call[tuple[str, ...]], reply: Any) -> None:
        self._looks = False
        if line is not self.line:
            return
        if isinstance(reply, NotLoaded):
            self._load(look)
        if isinstance(reply, Exception) or look.parse(reply, False):
            self.claims.found([self.name])


class PoppedQueue(ShardQueue):
    """A queue that is consumed without acks: no lease holds what is taken."""

    def __init__(self, broker: Broker, popped: Popped, name: str) -> None:
        super().__init__(broker, name)
        self._popped = popped
        self.waits_for = popped.lists(name)
        self.is_asked = False
        """Whether an answer is to come."""
        self._step: int | None = 0  # of the list to pop from next; None: all are empty
        self._look_at = 0.0

    def moved_to(self, line: NodeLine) -> None:
        super().moved_to(line)
        self.is_asked, self._step = False, 0

    def changed(self) -> None:
        super().changed()
        if self._step is None:
            self._step = 0

    def disconnected(self, line: NodeLine) -> None:
        super().disconnected(line)
        if line is self.line:
            self.is_asked, self._step = False, 0

    def ask(self, now: float) -> None:
        """Pop one message, or have the server tell when there is one."""
        line = self.line
        if self.is_asked or line is None or not line.is_open:
            return
        if self._step is None and now >= self._look_at:
            self._armed = False  # it is looked at once a second, whatever the server reports
        if self._step is not None:
            self.is_asked = True
            key = self.waits_for[self._step]
            line.say((("RPOP", key), partial(self._got, line, key)))
        elif not self._armed:
            self.is_asked = self._armed = True
            self._look_at = now + LOOK
            line.say(
                (CACHING, partial(self._cached, line)),
                (("EXISTS", *self.waits_for), partial(self._counted, line)),
            )

    def _got(self, line: NodeLine, key: str, reply: Any) -> bool:
        if line is self.line:
            self.is_asked = False
        if isinstance(reply, bytes):
            self._step = 0
            self._popped.hand_over(key, self.name, reply)
            return True
        if self._heard(line, reply):
            step = self.waits_for.index(key) + 1
            self._step = step if step < len(self.waits_for) else None
        return False

    def _counted(self, line: NodeLine, reply: Any) -> None:
        if line is self.line:
            self.is_asked = False
        if self._heard(line, reply) and reply:
            self._step = 0


def _ignore(_: Any) -> None:
    """An answer, or an error, that changes nothing."""
