"""What a forked child begins anew: its locks, its names, its connections. One hook for the package.

A fork copies one thread and all memory. So in the child a lock that another thread held stays
locked for ever, names that must be unique are not, and connections are those of the parent: what
the child did to one (a shutdown, TLS's farewell, a socket taken out of an epoll instance that both
share) would happen to the parent. Therefore

- whatever has a lock, or names, or connections gives itself to `renew`, and has a method `forked`;
- a lock of a module is made by `Lock`, here;
- connections of the parent are given to `leak`: they are neither used nor closed, nor collected.

`logging` renews its locks itself. `file_locks.py` keeps forks out while it holds file locks.
"""

from __future__ import annotations

import base64
import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, Self, TypeVar, overload

log = logging.getLogger("atomq.fork")


class Forked(Protocol):
    """What begins anew in a child process."""

    def forked(self) -> None:
        """In the child, before anything else runs there."""
        ...


F = TypeVar("F", bound=Forked)
T = TypeVar("T")

_all: weakref.WeakSet[Any] = weakref.WeakSet()
_inherited: list[Any] = []


def renew(one: F) -> F:
    """Call `one.forked()` in a child process, if `one` still lives then."""
    _all.add(one)
    return one


def leak(*inherited: Any) -> None:
    """Keep what a child process inherited for as long as it lives, so that nothing closes it."""
    _inherited.extend(inherited)


NAME = 12  # letters and digits of a process's name


class _Process:
    """The name of this process, and of all in it that need one."""

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        self.name = base64.b64encode(os.urandom(9), b"AB").decode()
        self._count = itertools.count(1)

    def next(self) -> str:
        return f"{self.name}{next(self._count):04x}"


_process = _Process()


def process() -> str:
    """This process's name, `NAME` letters and digits of 71 random bits; a child has another."""
    return _process.name


def unique() -> str:
    """A name that nothing else has, here or elsewhere: that of the process, and a number."""
    return _process.next()


class Lock:
    """A lock that is free in a child process, whatever other threads did when it was forked.

    The thread that holds it may take it again: Python runs finalizers at any moment, so a generator
    that was abandoned may give back its messages in the midst of what the lock guards.
    """

    def __init__(self) -> None:
        self.forked()
        renew(self)

    def forked(self) -> None:
        """Begin anew in a child process."""
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class once(Generic[T]):  # noqa: N801 - as functools.cached_property
    """`functools.cached_property` without the lock that this has before Python 3.12."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Self | T:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._function(instance)
        return value


def _in_child() -> None:
    _process.forked()  # first: what begins anew takes its names from it
    for one in list(_all):
        try:
            one.forked()
        except Exception:
            log.exception("%r does not begin anew in this child process", one)


os.register_at_fork(after_in_child=_in_child)
