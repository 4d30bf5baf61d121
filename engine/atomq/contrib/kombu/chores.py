"""What a consuming connection does once a second, beside receiving."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from atomq.contrib.fleet import Registration
from atomq.contrib.kombu.declaring import is_reply_queue
from atomq.contrib.kombu.stock import Restore
from atomq.contrib.kombu.worker_hooks import forgotten

if TYPE_CHECKING:
    from atomq.contrib.kombu.broker import Broker

log = logging.getLogger("atomq.kombu")


class Chores:
    """Reports to the register, requeues tasks Celery forgot, restores what stock left."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._broker: Broker = transport.broker
        shared = transport.settings.shared()
        engine, keeper = self._broker.engine, self._broker.keeper
        self._registration = Registration(engine, keeper, shared, self._broker.attendance)
        self._restore = Restore(self._broker, transport.settings)

    def turn(self) -> None:
        """Do all that is due.

        Raises `PermissionDenied` if this user may not restore the messages of dead stock workers.
        """
        for message in forgotten(self._broker.keeper.lease_ms / 1000):
            log.warning("%s is given back: Celery forgot it when its task failed", message.delivery)
            message.requeue()
        for channel in self._transport.channels:
            for name in channel.popped_queues():
                if not is_reply_queue(name):
                    self._broker.attendance.pass_by(name)
        queues = [
            (channel, name)
            for channel in self._transport.channels
            for name in channel.claimed_queues()
        ]
        if queues:
            self._broker.introduce()
            self._registration.refresh([name for _, name in queues])
            self._restore.turn(*queues[0])

    def drop(self, queue: str) -> None:
        """No channel of this connection consumes the queue any more. Raises our exceptions."""
        self._registration.drop(queue)

    def leave(self) -> None:
        """The connection is closed: delete the entry in the register. Raises our exceptions."""
        self._registration.leave()

    def lost(self) -> None:
        """The connection is gone."""
        self._registration.lost()
