"""A transport without a server, driven by the event loop: what Celery itself costs, the ceiling.

A worker given VERSUS_FILL puts so many no-op tasks into its own memory as soon as it is ready,
works them off, and prints how long that took. Messages are JSON, as on any wire.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Any

from celery import signals
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.utils.json import dumps, loads

SCHEME = "versus-memory"
_waiting: deque[str] = deque()
_bell = os.eventfd(0, os.EFD_NONBLOCK)
_state = {"left": 0, "began": 0.0, "cpu": 0.0, "full": False}


class QoS(virtual.QoS):
    def ack(self, delivery_tag: str) -> None:
        super().ack(delivery_tag)
        _state["left"] -= 1
        if _state["full"]:
            _state["full"] = False
            os.eventfd_write(_bell, 1)
        if _state["left"] == 0:
            seconds, cpu = (
                time.perf_counter() - _state["began"],
                time.process_time() - _state["cpu"],
            )
            print(f"versus: {seconds:.6f} s, CPU {cpu:.6f} s.", flush=True)


class Channel(virtual.Channel):
    QoS = QoS
    do_restore = False

    def _put(self, queue: str, message: Any, **_: Any) -> None:
        _waiting.append(dumps(message))

    def _size(self, queue: str) -> int:
        return len(_waiting)

    def _purge(self, queue: str) -> int:
        return 0

    def _queue_bind(self, *_: Any) -> None:
        pass

    def get_table(self, exchange: str) -> list[tuple[str, str, str]]:
        return [("celery", "", "celery")]


class Transport(virtual.Transport):
    Channel = Channel
    driver_type = driver_name = "memory"
    implements = virtual.Transport.implements.extend(asynchronous=True)

    def driver_version(self) -> str:
        return "0"

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        loop.add_reader(_bell, self._on_readable)

    def _on_readable(self) -> None:
        os.eventfd_read(_bell)
        channel = next(ch for ch in self.channels if "celery" in ch._active_queues)
        callback, qos = self._callbacks["celery"], channel.qos
        for _ in range(qos.prefetch_count):
            if not _waiting:
                return
            if not qos.can_consume():
                _state["full"] = True
                if not qos.can_consume():  # an ack may have come in between
                    return
            callback(loads(_waiting.popleft()))
        os.eventfd_write(_bell, 1)


TRANSPORT_ALIASES[SCHEME] = f"{__name__}:Transport"


@signals.worker_ready.connect
def _fill(sender: Any, **_: Any) -> None:
    count = int(os.environ.get("VERSUS_FILL", "0"))
    if not count:
        return
    task = sender.app.tasks["noop"]
    for _ in range(count):
        task.apply_async()
    _state.update(left=count, began=time.perf_counter(), cpu=time.process_time())
    os.eventfd_write(_bell, 1)
