"""A thread for each node of a cluster: one that stands still keeps no other waiting.

A thread begins with the first thing to do, and ends when there is nothing to do for a while.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import TypeVar

from atomq import fork
from atomq.keys import Place

log = logging.getLogger("atomq.leases")

IDLE = 5.0  # seconds after which a thread ends that has nothing to do


T = TypeVar("T")


def by_place(items: Iterable[T], place: Callable[[T], Place | None]) -> dict[Place | None, list[T]]:
    """What belongs to each node, in the order it came."""
    found: dict[Place | None, list[T]] = {}
    for item in items:
        found.setdefault(place(item), []).append(item)
    return found


class NodeThreads:
    """The threads of one process. A forked child makes its own."""

    def __init__(self) -> None:
        self._by_place: dict[Place | None, _NodeThread] = {}

    def do(self, place: Place | None, what: str, job: Callable[[], None]) -> threading.Event | None:
        """Do it in the thread of this node; None for a node that is not known.

        The event is set once it is done. None is returned if the same (`what`) is under way there:
        then this is not done.
        """
        thread = self._by_place.get(place)
        if thread is None:
            thread = self._by_place.setdefault(place, _NodeThread())
        return thread.do(what, job)


class _NodeThread:
    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[str, Callable[[], None], threading.Event]] = SimpleQueue()
        self._under_way: set[str] = set()
        self._thread: threading.Thread | None = None
        self._gate = fork.Lock()

    def do(self, what: str, job: Callable[[], None]) -> threading.Event | None:
        with self._gate:
            done = None
            if what not in self._under_way:
                done = threading.Event()
                self._under_way.add(what)
                self._jobs.put((what, job, done))
            if self._thread is None or self._thread.ident is None:  # or it could not be started
                self._thread = threading.Thread(target=self._run, name="atomq-node", daemon=True)
                self._thread.start()
        return done

    def _run(self) -> None:
        while True:
            try:
                what, job, done = self._jobs.get(timeout=IDLE)
            except Empty:
                with self._gate:
                    if not self._under_way:
                        self._thread = None
                        return
                continue
            try:
                job()
            except Exception:
                log.exception("the thread of a node goes on")
            finally:
                del job
                self._under_way.discard(what)
                done.set()
