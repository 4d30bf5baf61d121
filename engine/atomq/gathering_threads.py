"""What threads put into a queue while others wait for the server travels as one script call.

One thread at a time runs Python, so few calls under way keep it busy: as many as it makes while one
of them travels. What is put beside these is gathered, and goes in one call once enough of them are
answered. A thread that is alone, or has one companion, waits for no other. Nor do many whose server
is far away: all their calls are under way at once. `gathering.py` is that for tasks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import inf

from atomq.calls import MOST, Call, Outgoing, Published
from atomq.errors import AtomqError
from atomq.gathering import TOGETHER, own

COST = 30e-6  # seconds that Python takes for a call
PATIENCE = 0.05  # seconds: what is under way for longer is in trouble, and nothing waits for it


class _Put:
    """A message that waits for its call, and the thread that waits for both."""

    __slots__ = ("batch", "call", "error", "message", "place", "woken")

    def __init__(self, message: Outgoing) -> None:
        self.message = message
        self.woken = threading.Lock()
        self.woken.acquire()
        self.error: AtomqError | None = None
        self.place: list[None] | None = None
        """Where the call is counted that its thread is to make, for the whole batch."""
        self.batch: Sequence[_Put] = ()
        self.call: Call[Published] | None = None


class ThreadGathering:
    """The plain messages that threads put into one queue.

    `make` makes one call of some of them, and `run` carries it out. Each caller has its own answer
    and its own error. A call does all or nothing, so an error of the call is one of each message. A
    thread that is interrupted leaves the call to another one, which says it again.

    There is no lock: Python may run a finalizer, which may put, at any moment. Each step is one
    operation on a list or a deque, which neither threads nor finalizers divide.
    """

    def __init__(
        self,
        make: Callable[[Sequence[Outgoing]], Call[Published]],
        run: Callable[[Call[Published]], Published],
    ) -> None:
        self._make = make
        self._run = run
        self._under_way: list[None] = []
        self._waiting: deque[_Put] = deque()
        self._trip = inf  # seconds, of the fastest call of late
        self._most = MOST  # calls that go alone at once

    def put(self, message: Outgoing) -> bool:
        """Put one message, by itself or with others; False if its id was known."""
        under_way = self._under_way
        beside = len(under_way)
        is_crowded = beside >= self._most or self._waiting
        if is_crowded and message.is_plain and len(message.message) <= TOGETHER:
            self._put_with_others(message)
            return True
        began = time.monotonic() if beside else 0.0
        under_way.append(None)
        try:
            done = self._run(self._make((message,)))
        finally:
            under_way.pop()
            if self._waiting:
                self._go_on()
        if beside:
            self._took(time.monotonic() - began)
        return not done.known

    def _took(self, seconds: float) -> None:
        self._trip = min(seconds, 1.01 * self._trip)
        self._most = max(2, int(self._trip / COST))

    def _put_with_others(self, message: Outgoing) -> None:
        put = _Put(message)
        try:
            self._waiting.append(put)
            self._go_on()
            while not put.woken.acquire(timeout=PATIENCE):
                if put in self._waiting:
                    self._under_way = []  # each call leaves the list that it came into
                    self._go_on()
        except BaseException:
            self._withdraw(put)
            raise
        if put.place is not None:
            self._lead(put, put.place)
        if put.error is not None:
            try:
                raise put.error
            finally:
                put.error = None  # kept, it would keep this frame

    def _go_on(self) -> None:
        """Have the next call made, by the thread that waits longest, if it is time.

        While some wait, half as many are under way: so more travel together.
        """
        while len(self._under_way) < self._most // 2:
            try:
                put = self._waiting.popleft()
            except IndexError:
                return
            self._hand_over(put, self._under_way)

    def _hand_over(self, put: _Put, place: list[None]) -> None:
        place.append(None)
        put.place = place
        put.woken.release()

    def _withdraw(self, put: _Put) -> None:
        """Its thread is interrupted: what is not sent is not put."""
        try:
            self._waiting.remove(put)
        except ValueError:
            if put.place is not None:
                put.place.pop()
                self._leave_to_another(put)

    def _lead(self, put: _Put, place: list[None]) -> None:
        """Make the call of all that wait, or the one that another thread had to leave."""
        began = time.monotonic()
        try:
            if not put.batch:
                put.batch = self._gathered(put)
            if put.call is None:
                put.call = self._make([each.message for each in put.batch])
            self._run(put.call)
        except AtomqError as error:
            put.error = error
        except BaseException:
            self._leave_to_another(put)  # before its place is free
            raise
        else:
            self._took(time.monotonic() - began)
        finally:
            place.pop()
        others = [other for other in put.batch if other is not put]
        try:
            self._wake(others, put.error)
        except BaseException:  # interrupted: nothing else would wake them
            self._wake(others, put.error)
            raise
        if self._waiting:
            self._go_on()

    def _wake(self, others: list[_Put], error: AtomqError | None) -> None:
        """Have the others of a call go on; each leaves the list after that."""
        while others:
            other = others[-1]
            other.error = None if error is None else own(error)
            if other.woken.locked():
                other.woken.release()
            others.pop()

    def _gathered(self, put: _Put) -> list[_Put]:
        found, size, waiting = [put], len(put.message.message), self._waiting
        while len(found) < MOST:
            try:
                other = waiting.popleft()
            except IndexError:
                break
            size += len(other.message.message)
            if size > TOGETHER:
                waiting.appendleft(other)
                break
            found.append(other)
        return found

    def _leave_to_another(self, put: _Put) -> None:
        others = [other for other in put.batch if other is not put]
        if not others:
            self._go_on()
            return
        others[0].batch = others
        others[0].call = None if put.call is None else put.call.again()
        self._hand_over(others[0], self._under_way)
