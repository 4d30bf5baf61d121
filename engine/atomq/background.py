"""A thread that does what is due, for an object that it does not keep alive.

It begins when there is something to do, and ends with the turn that says so. Between two turns it
holds its object weakly: what is not used any more may go.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable


class Background:
    """The thread of one object. The object's `forked` calls that of this one.

    `turn` is a method: it does what is due, waits for the next thing on `wake`, and answers False
    after it has called `ended`. What it raises is logged, and `pause` seconds later it goes on.
    """

    def __init__(
        self, turn: Callable[[], bool], name: str, what: str, log: logging.Logger, pause: float
    ) -> None:
        self._turn = weakref.WeakMethod(turn)
        self._name = name
        self._failed = f"the thread that {what} goes on"
        self._log = log
        self._pause = pause
        self.forked()

    def forked(self) -> None:
        """In a child process there is no such thread yet."""
        self.lock = threading.RLock()
        """Held for a moment; in a forked child, another one."""
        self.wake = threading.Condition(self.lock)
        """What a turn waits on. It is held to call `rouse` and `ended`."""
        self.closing = False
        """Whether it is to end soon. `rouse` takes that back."""
        self._thread: threading.Thread | None = None

    @property
    def runs(self) -> bool:
        """Whether there is a thread now."""
        return self._thread is not None

    def rouse(self) -> None:
        """There is something to do, or to wait for."""
        self.closing = False
        if self._thread is None or self._thread.ident is None:  # or it could not be started
            args = self._turn, self._failed, self._log, self._pause
            self._thread = threading.Thread(target=_run, args=args, name=self._name, daemon=True)
            self._thread.start()
        else:
            self.wake.notify()

    def close(self) -> None:
        """It is to end with this turn, or the next. The lock is held."""
        self.closing = True
        self.wake.notify()

    def ended(self) -> None:
        """This turn is the last one."""
        self._thread = None

    def join(self, seconds: float) -> None:
        """Wait for its end, so many seconds at most; not in the thread itself."""
        thread = self._thread
        if thread is threading.current_thread():
            return
        if thread is not None and thread.is_alive():  # one that could not be started never ends
            thread.join(seconds)


def _run(
    method: weakref.WeakMethod[Callable[[], bool]], failed: str, log: logging.Logger, pause: float
) -> None:
    while (turn := method()) is not None:
        try:
            if not turn():
                return
        except Exception:
            log.exception(failed)
            time.sleep(pause)
        del turn
