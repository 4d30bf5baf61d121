"""Celery's Redis result backend on a cluster, of which Celery has none.

    app = Celery(broker="atomq-cluster://a:7000;atomq-cluster://b:7001",
                 backend="atomq-cluster://a:7000;atomq-cluster://b:7001")

Keys are Celery's, but for those of a group, which lie in one slot: `celery-taskset-meta-{<id>}`.
On a cluster without databases the namespace of a virtual host stands in front of them.
The result of a task lies where its id says, or elsewhere if that shard was away when it was stored:
no shard keeps a worker from the tasks of another. What belongs to a group lies in its slot alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from functools import cached_property, partial
from typing import Any

from celery import states
from celery._state import get_current_worker_task
from celery.backends import redis as stock
from celery.backends.base import SyncBackendMixin
from celery.exceptions import BackendStoreError

from atomq import fork
from atomq.address import Address
from atomq.client import Engine
from atomq.contrib.cluster_client import Client, Ear, PatientClient
from atomq.errors import AtomqError, ServerUnavailable
from atomq.node_threads import NodeThreads
from atomq.shared import OneEach

AGAIN = 5.0  # seconds between two times that what was announced, and not heard, is read
READ = 100  # results read each time
SLOW = 120.0  # Celery's default for `redis_socket_timeout`, in seconds: as if nothing were said


_counts: ContextVar[bool] = ContextVar("counts a part of a chord", default=False)


class ResultConsumer(stock.ResultConsumer):
    """Listens to any node. What it may have missed it reads."""

    _pubsub: Ear | None = None
    _read_at = 0.0

    def _reconnect_pubsub(self) -> None:
        with self._locked():
            before, self._pubsub = self._pubsub, None
            if before is not None:
                before.close()
            ear = self._pubsub = self.backend.client.pubsub()
            self.subscribed_to -= self._pending_unsubscribe
            self._pending_unsubscribe.clear()
            if self.subscribed_to:
                ear.subscribe(*self.subscribed_to)
            self._read(list(self.subscribed_to))

    def drain_events(self, timeout: float | None = None) -> None:
        """As Celery's; it finds out too whether the node is still there."""
        with self._locked():
            ear = self._pubsub
            if ear is not None:
                with self.reconnect_on_error():
                    ear.check()
                if time.monotonic() - self._read_at > AGAIN:
                    keys = list(self.subscribed_to)
                    self._read(random.sample(keys, min(READ, len(keys))))
        super().drain_events(min(1.0, 1.0 if timeout is None else timeout))

    def on_wait_for_pending(self, result: Any, **kwargs: Any) -> None:
        """Take in what is there already; of a shard that is away it is heard, or read later."""
        waited_for = getattr(result, "results", None) or [result]
        keys = [self.backend.get_key_for_task(each.id) for each in waited_for]
        super().on_wait_for_pending(_Known(self._found(keys)), **kwargs)

    def _read(self, keys: list[Any]) -> None:
        self._read_at = time.monotonic()
        for meta in self._found(keys):
            self.on_state_change(meta, None)

    def _found(self, keys: list[Any]) -> list[Any]:
        """What is known soon of these results. One that is not final may be so elsewhere."""
        client, metas = self.backend.client, dict[str, Any]()
        for key, value in client.known(keys).items():
            if value is not None:
                metas[key] = self._decode_result(value)
        ready = {key for key, meta in metas.items() if meta["status"] in states.READY_STATES}
        for key, value in client.aside([key for key in keys if _text(key) not in ready]).items():
            metas[key] = self._decode_result(value)
        return list(metas.values())


class _Known:
    """Results that were read, as `on_wait_for_pending` asks for them."""

    def __init__(self, metas: list[Any]) -> None:
        self._metas = metas

    def _iter_meta(self, **_: Any) -> Iterator[Any]:
        return iter(self._metas)


class Backend(stock.RedisBackend):
    """`atomq-cluster://a;atomq-cluster://b` and `atomqs-cluster://` as result backend."""

    ResultConsumer = ResultConsumer
    connection_errors: tuple[type[Exception], ...]
    channel_errors: tuple[type[Exception], ...]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connection_errors = (*self.connection_errors, ServerUnavailable)
        self.channel_errors = (*self.channel_errors, AtomqError)
        self.result_consumer._connection_errors = self.connection_errors
        self.forked()
        fork.renew(self)

    def forked(self) -> None:
        """In a child process."""
        self._books = NodeThreads()

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        """What an `Address` is made of. Raises `InvalidAddress` and `InvalidOptions`."""
        options: dict[str, Any] = {}
        for name, ours in (
            ("username", "username"),
            ("password", "password"),
            ("credential_provider", "credential_provider"),
            ("socket_connect_timeout", "socket_connect_timeout"),
            ("max_connections", "max_connections"),
        ):
            if defaults.get(name):
                options[ours] = defaults[name]
        if defaults.get("socket_timeout") not in (None, SLOW):
            options["socket_timeout"] = defaults["socket_timeout"]
        if tls := self.app.conf.get("redis_backend_use_ssl"):
            options["ssl"] = tls
        self.address = Address.parse(url, options)
        return {}

    def as_uri(self, include_password: bool = False) -> str:
        """The URL, for people; the password as *** unless it is asked for."""
        return str(self.url) if include_password else self.address.safe_url

    @property
    def client(self) -> Client:
        """A client of the cluster. Where a part of a chord is counted it waits for its shards."""
        return self._patient_client if _counts.get() else self._client

    @cached_property
    def _client(self) -> Client:
        return Client(engine_of(self.address))

    @cached_property
    def _patient_client(self) -> Client:
        return PatientClient(engine_of(self.address), self.ensure)

    def _get_key_for(self, prefix: Any, id: Any, key: Any = "") -> Any:  # noqa: A002 - Celery's
        """The namespace of its virtual host stands in front: see `VirtualHost`."""
        engine = engine_of(self.address)
        namespace = engine.virtual_host.namespace
        if namespace is None:
            namespace = self.ensure(lambda: engine.namespace, ())
        return self.key_t(namespace) + super()._get_key_for(prefix, id, key)

    def get_key_for_group(self, group_id: Any, key: str = "") -> Any:
        """The keys of a group lie in one slot."""
        if not group_id:
            raise ValueError(f"group_id must not be empty. Got {group_id} instead.")
        return self._get_key_for(self.group_keyprefix, f"{{{group_id}}}", key)

    def _set(self, key: Any, value: Any, expires: int | None = None) -> None:
        self.client.store(key, value, self.expires if expires is None else expires)

    # ── the result of a task ──────────────────────────────────────────────────────────────────

    def _store_result(
        self,
        task_id: Any,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **_: Any,
    ) -> Any:
        """Store it at its shard, or soon at another one. A success stays what it is."""
        meta = self._get_result_meta(
            result=result, state=state, traceback=traceback, request=request
        )
        meta["task_id"] = _text(task_id)
        key, value = self.get_key_for_task(task_id), self.encode(meta)
        if len(value) > self._MAX_STR_VALUE_SIZE:
            raise BackendStoreError("value too large", state=state, task_id=task_id)
        expires = self.failure_expires if state == states.FAILURE else self.expires
        client = self.client
        try:
            known = client.soon(key)
        except ServerUnavailable:
            is_stored = False
        else:
            if known and self.decode_result(known)["status"] == states.SUCCESS:
                return result
            is_stored = client.store_soon(key, value, expires)
        if not is_stored and not client.store_aside(key, value, expires):
            self.ensure(client.store, (key, value, expires))
        return result

    def _get_task_meta_for(self, task_id: Any) -> Any:
        """It is looked for beside too, unless its shard has one that is final."""
        return self._known_soon(task_id) or super()._get_task_meta_for(task_id)

    def _known_soon(self, task_id: Any) -> Any:
        """What is known of a task; None: nothing that is known soon."""
        key, found = self.get_key_for_task(task_id), None
        with suppress(ServerUnavailable):
            found = self.client.soon(key)
        meta = self.decode_result(found) if found else None
        if meta is None or meta["status"] not in states.READY_STATES:
            for value in self.client.aside([key]).values():
                meta = self.decode_result(value)
        return meta

    def _ensure_retryable(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """A worker that asks in its books names a limit of its own, and nothing waits for that."""
        if kwargs.get("max_retries") is not None and func == self._get_task_meta_for:
            return self._known_soon(kwargs["task_id"]) or {"status": states.PENDING}
        return super()._ensure_retryable(func, *args, **kwargs)

    def _forget(self, task_id: Any) -> None:
        self.client.forget(self.get_key_for_task(task_id))

    # ── groups and chords ─────────────────────────────────────────────────────────────────────

    def on_chord_part_return(self, request: Any, state: str, result: Any, **more: Any) -> None:
        """Count a part of a chord. A task waits until that is done: it is acked after that.

        A worker in its books, where a task was revoked or took too long, leaves it to a thread.
        """
        counted = partial(super().on_chord_part_return, request, state, result, **more)

        def count() -> None:
            """Celery takes any error on the way for one of the body, and fails the chord."""
            before = _counts.set(True)
            try:
                counted()
            finally:
                _counts.reset(before)

        if not request.group or get_current_worker_task() is not None:
            count()
            return
        place = self.client.place(self.get_key_for_group(request.group))
        self._books.do(place, f"{request.group} {request.id}", count)

    def iter_native(self, result: Any, **how: Any) -> Any:
        """The results of a group, as they come. Those of a chord are all there, at their shards."""
        if _counts.get():
            return SyncBackendMixin.iter_native(self, result, **how)
        return super().iter_native(result, **how)

    @cached_property
    def _chord_part_return_script(self) -> Any:
        return Script(self, stock.CHORD_PART_RETURN_LUA, part_claimed)

    @cached_property
    def _chord_cleanup_script(self) -> Any:
        return Script(self, stock.CHORD_CLEANUP_LUA)

    @cached_property
    def _chord_claim_extend_script(self) -> Any:
        return Script(self, stock.CHORD_CLAIM_EXTEND_LUA)


class Script:
    """A script of Celery's. It is run again, for as long as a result is stored again, where its
    answer was lost: what it does is the same the second time.
    """

    def __init__(self, backend: Backend, text: str, settled: Any = None) -> None:
        self._backend = backend
        self._text = text
        self._settled = settled or (lambda _client, reply, _keys, _args: reply)

    def __call__(self, keys: list[Any], args: list[Any], client: Client) -> Any:
        """What it answers."""
        reply = self._backend.ensure(client.evaluate, (self._text, keys, args))
        return self._settled(client, reply, keys, args)


def part_claimed(client: Client, reply: Any, keys: list[Any], args: list[Any]) -> Any:
    """The answer to the return of a part, which may have been given before and was lost.

    It is to dispatch the body if it is the last one, and the claim is its own already.
    """
    count, more, size, claimed = reply
    is_last = size is not None and count == int(size) + int(more or 0)
    if is_last and not claimed:
        held = client.get(keys[5])
        claimed = int(held is not None and held.decode() == args[7])
    return [count, more, size, claimed]


def _text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)


engine_of: OneEach[Address, Engine] = OneEach(Engine)
"""The engine of an address; the same for equal ones."""
