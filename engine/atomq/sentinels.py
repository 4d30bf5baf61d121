"""Which server is the master, as the sentinels say, and when another one becomes it.

After a planned failover the old master lives on, and takes writes that are lost when its sentinels
make it a replica, some ten seconds later. So a thread listens to the sentinels, and the connections
to the old master are dropped as soon as one says that there is another.
"""

from __future__ import annotations

import logging
import selectors
import threading
import time
from collections.abc import Generator
from typing import Any, Protocol
from weakref import WeakSet

from redis import exceptions as server
from redis.asyncio import sentinel as aio_sentinel
from redis.sentinel import MasterNotFoundError, Sentinel

from atomq import drive_aio, fork, wires
from atomq.address import Address
from atomq.drive import drive
from atomq.shared import AsyncShared, Shared

log = logging.getLogger("atomq.client")

ROUND = 1.0  # seconds between two looks at what else is to be done
AGAIN = 5.0  # seconds until a sentinel that could not be listened to is tried again
PING_EVERY = 10.0  # seconds; one that is silent for twice as long is not listened to any more

Place = tuple[str, int]


class Audience(Protocol):
    """What holds connections to the master."""

    def switched(self) -> None:
        """There is another master. Called in any thread; must not block."""

    def rotated(self) -> None:
        """There are other credentials, of the same server. The same holds."""


class _Asker:
    """Asks the sentinels for the master, where redis-py's connection expects its pool.

    `sentinel` is one of redis-py's, for threads or for tasks.
    """

    is_master = True
    check_connection = False

    def __init__(self, address: Address, sentinel: Any) -> None:
        self.address = address
        self.service_name = address.master_name or ""
        self._sentinel = sentinel
        self._all = tuple(sentinel.sentinels)

    def _asking(self, heard: Master) -> Generator[str, Place, Place]:
        """Yields the master's name, and is sent where the sentinels say it is. See `drive`."""
        in_order(self._sentinel.sentinels, self._all, heard.first)
        try:
            found = yield self.service_name
        except (MasterNotFoundError, aio_sentinel.MasterNotFoundError):
            raise not_found(self.address) from None
        heard.found(found)
        return found


class Master(_Asker):
    """For threads. It listens to the sentinels too, for all of the process."""

    def __init__(self, address: Address, sentinel_kwargs: dict[str, Any]) -> None:
        sentinel = Sentinel(
            address.nodes,
            min_other_sentinels=address.options.min_other_sentinels,
            sentinel_kwargs=sentinel_kwargs,
        )
        super().__init__(address, sentinel)
        self.first: int | None = None
        """Which sentinel is to be asked first: it was the first to hear of the last switch."""
        self._shared = Shared[Place]()
        self._known: Place | None = None
        self._gate = fork.Lock()
        self._audience: WeakSet[Audience] = WeakSet()
        self._thread: threading.Thread | None = None
        fork.renew(self)

    def forked(self) -> None:
        """In a child process: the thread that listens is the parent's."""
        self._thread = None

    def get_master_address(self) -> Place:
        """Where the master is. Many threads may ask; one does. Raises `MasterNotFoundError`."""
        return self._shared(self._ask)

    def _ask(self) -> Place:
        return drive(self._asking(self), self._sentinel.discover_master)

    def replicas(self) -> list[Place]:
        """Where the replicas of the master are that live, as the first sentinel says that may."""
        found = self._sentinel.discover_slaves(self.service_name)
        return [(host, int(port)) for host, port in found]

    def found(self, place: Place) -> None:
        """The sentinels name the master; the audience hears of it if it was not there before."""
        before, self._known = self._known, place
        if before not in (None, place):
            log.info("the master of %s is at %s:%s now", self.address, *place)
            with self._gate:
                audience = list(self._audience)
            for one in audience:
                one.switched()

    def watched_by(self, audience: Audience) -> Master:
        """Tell it, for as long as it is about, when there is another master."""
        with self._gate:
            self._audience.add(audience)
            if self._thread is None or self._thread.ident is None:  # or it could not be started
                self._thread = threading.Thread(
                    target=self._listen, name="atomq-sentinels", daemon=True
                )
                self._thread.start()
        return self

    # ── the thread ────────────────────────────────────────────────────────────────────────────

    def _listen(self) -> None:
        ears: dict[int, _Ear] = {}
        again = [0.0] * len(self._all)
        said: tuple[Place, float] | None = None
        while self._has_audience():
            now = time.monotonic()
            # One that was not listened to may have said something meanwhile. Where none may be
            # listened to, one is asked every second.
            look = not ears or said is not None
            for i, sentinel in enumerate(self._all):
                if i not in ears and now >= again[i]:
                    again[i] = now + AGAIN
                    try:
                        ears[i] = _Ear(sentinel.connection_pool.make_connection())
                        look = True
                    except (server.RedisError, OSError) as error:
                        log.debug("not listening to the sentinel %s: %s", i, error)
            if look:
                found = self._looked()
                if said is not None and (found == said[0] or now > said[1] + AGAIN):
                    said = None
            for i in _readable(ears, ROUND / 5 if said else ROUND):
                try:
                    for place in ears[i].heard(self.service_name):
                        self.first, said = i, (place, time.monotonic())
                except (server.RedisError, OSError) as error:
                    log.debug("listening no more to the sentinel %s: %s", i, error)
                    ears.pop(i).close()
        for ear in ears.values():
            ear.close()

    def _has_audience(self) -> bool:
        with self._gate:
            if not self._audience:
                self._thread = None
            return self._thread is not None

    def _looked(self) -> Place | None:
        try:
            return self.get_master_address()
        except (server.RedisError, OSError):
            return None


class _Ear:
    """A subscription to what one sentinel says."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        connection.connect()
        try:
            connection.send_command("SUBSCRIBE", "+switch-master", check_health=False)
            connection.read_response(push_request=True)
        except BaseException:
            connection.disconnect()
            raise
        self._heard_at = self._pinged_at = time.monotonic()

    def fileno(self) -> int:
        """Its socket's number, for a selector."""
        return wires.descriptor(self._connection)

    def heard(self, master_name: str) -> list[Place]:
        """Where it says that the master is now: the last is the newest. Raises if it is gone."""
        places = []
        while self._connection.can_read(0):
            said = self._connection.read_response(push_request=True)
            self._heard_at = time.monotonic()
            if isinstance(said, list) and len(said) == 3 and _text(said[0]) == "message":
                name, _, _, host, port = _text(said[2]).split()
                if name == master_name:
                    places.append((host, int(port)))
        now = time.monotonic()
        if now - self._heard_at > 2 * PING_EVERY:
            raise server.TimeoutError("it is silent")
        if now - self._pinged_at > PING_EVERY:
            self._pinged_at = now
            self._connection.send_command("PING", check_health=False)
        return places

    def close(self) -> None:
        self._connection.disconnect()


def _readable(ears: dict[int, _Ear], seconds: float) -> list[int]:
    """Those that something came from within so many seconds; all of them if nothing did."""
    if not ears:
        time.sleep(seconds)
        return []
    with selectors.DefaultSelector() as selector:
        for i, ear in ears.items():
            selector.register(ear, selectors.EVENT_READ, i)
        return [key.data for key, _ in selector.select(seconds)] or list(ears)


class AsyncMaster(_Asker):
    """For tasks."""

    heard: Master
    """What listens for it."""

    def __init__(self, address: Address, sentinel_kwargs: dict[str, Any]) -> None:
        sentinel = aio_sentinel.Sentinel(
            address.nodes,
            min_other_sentinels=address.options.min_other_sentinels,
            sentinel_kwargs=sentinel_kwargs,
        )
        super().__init__(address, sentinel)
        self._shared = AsyncShared[Place]()

    async def get_master_address(self) -> Place:
        """Where the master is. Many tasks may ask; one does. Raises `MasterNotFoundError`."""
        return await self._shared(self._ask)

    async def _ask(self) -> Place:
        return await drive_aio.drive(self._asking(self.heard), self._sentinel.discover_master)


def in_order(asked: list[Any], everyone: tuple[Any, ...], first: int | None) -> None:
    """Put the sentinel first that knows best: others hear of a switch seconds later."""
    if first is not None and asked[0] is not everyone[first]:
        asked[:] = [everyone[first], *(one for one in asked if one is not everyone[first])]


def not_found(address: Address) -> MasterNotFoundError:
    """The text of redis-py itself shows how the sentinels are logged in to, password and all."""
    return MasterNotFoundError(
        f"no sentinel of {address} answers or knows a living master {address.master_name!r}"
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
