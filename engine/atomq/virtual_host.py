"""What a `virtual_host` other than 0 is on a cluster: a database of it, or a namespace.

A server has numbered databases, and so has a cluster of Valkey 9 whose `cluster-databases` says so.
On any other cluster all keys lie in database 0, and each virtual host puts a text of its own before
all its names: see `keys.namespace`. Which of the two it is the cluster says, once for all engines
of a process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from atomq import fork, keys
from atomq.address import Address
from atomq.errors import ServerError
from atomq.retrying import Retry
from atomq.shared import Shared
from atomq.translating import has_no_database


class VirtualHost:
    """That of all engines of this process that reach a server alike."""

    def __init__(self, address: Address, for_thread: Callable[[Address], Any]) -> None:
        self.namespace: str | None = None if address.kind == "cluster" and address.db else ""
        """What stands before all names; "" where it is a database; None: not known yet."""
        self._address = address
        self._for_thread = for_thread
        self._share = Shared[str]()

    def find(self, retry: Retry) -> str:
        """The namespace; the cluster is asked if it is not known yet, for as long as `retry` says.

        Raises `ServerUnavailable`, `PermissionDenied` if this user may not SELECT, and
        `ServerError` if the cluster has databases, and not this one.
        """
        if self.namespace is None:
            self.namespace = self._share(lambda: self._ask(retry))
        return self.namespace

    def _ask(self, retry: Retry) -> str:
        number = self._address.db
        with self._for_thread(self._address.of_database(0)) as engine:
            engine.retry = retry
            try:
                engine.command("SELECT", number, patient=True)
            except ServerError as error:
                if not has_no_database(error):
                    raise
                if number > 1 and self._has_others(engine):
                    raise
                return keys.namespace(number)
        return ""

    @staticmethod
    def _has_others(engine: Any) -> bool:
        try:
            engine.command("SELECT", 1, patient=True)
        except ServerError as error:
            if not has_no_database(error):
                raise
            return False
        return True


_known: WeakValueDictionary[Address, VirtualHost] = WeakValueDictionary()
_making = fork.Lock()


def virtual_host_of(address: Address, for_thread: Callable[[Address], Any]) -> VirtualHost:
    """The one of a server; the same for addresses that reach it alike."""
    with _making:
        found = _known.get(address.server)
        if found is None:
            found = _known[address.server] = VirtualHost(address, for_thread)
        return found
