"""What the tasks of an event loop put into a queue at the same moment travels as one script call.

A put that is alone goes at once. While one is under way, others may come: what is put in one turn
of the loop is gathered, and goes at the end of that turn. No put waits for the answer to another.
Each partition of a queue has calls of its own. `gathering_threads.py` is that for threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from copy import copy
from typing import Any, Generic, TypeVar

from atomq.calls import Outgoing
from atomq.errors import AtomqError
from atomq.flows import by_size

TOGETHER = 12_288  # bytes of messages in one call, which is small then: it shares a connection

T = TypeVar("T")
_Put = tuple[Outgoing, asyncio.Future[None]]


class Gathering(Generic[T]):
    """The plain messages that are put into one queue; `publish` makes one call of some of them.

    A call is for one place: a partition, or the queue if it has none.

    Each caller has its own answer and its own error. A call does all or nothing, so an error of the
    call is one of each message. A caller that is cancelled withdraws its own message only, if that
    is not sent yet.
    """

    def __init__(
        self, publish: Callable[[T, Sequence[Outgoing]], Coroutine[Any, Any, object]]
    ) -> None:
        self.under_way = 0
        """How many calls are not answered yet."""
        self._publish = publish
        self._waiting: dict[T, list[_Put]] = {}
        self._calls: set[asyncio.Task[None]] = set()  # the loop itself keeps no task

    def waits(self, place: T) -> bool:
        """Whether some are to be sent there at the end of this turn."""
        return place in self._waiting

    def put(self, place: T, message: Outgoing) -> asyncio.Future[None]:
        """Put it with what else is put there in this turn of the loop. The future says it is done.

        It raises what the call raises.
        """
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._send)
        future = loop.create_future()
        self._waiting.setdefault(place, []).append((message, future))
        return future

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for place, given in waiting.items():
            puts = [put for put in given if not put[1].done()]
            first = 0
            for batch in by_size([message for message, _ in puts], TOGETHER) if puts else ():
                some = puts[first : first + len(batch)]
                call = asyncio.ensure_future(self._call(place, batch, some))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
                first += len(batch)

    async def _call(self, place: T, messages: Sequence[Outgoing], puts: Sequence[_Put]) -> None:
        self.under_way += 1
        try:
            await self._publish(place, messages)
        except AtomqError as error:
            for _, future in puts:
                if not future.done():
                    future.set_exception(own(error))
        except BaseException:  # the loop ends
            for _, future in puts:
                future.cancel()
            raise
        else:
            for _, future in puts:
                if not future.done():
                    future.set_result(None)
        finally:
            self.under_way -= 1


def own(error: AtomqError) -> AtomqError:
    """The same for one caller: what raises it writes down where."""
    mine = copy(error)
    mine.__cause__ = error.__cause__
    return mine
