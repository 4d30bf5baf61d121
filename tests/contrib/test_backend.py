"""Result backends under our schemes are Celery's own. Needs no server."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from celery import Celery
from celery.backends.redis import RedisBackend, SentinelBackend

from atomq.keys import hash_slot


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("atomq://h/1", RedisBackend),
        ("valkey://h/1", RedisBackend),
        ("atomq+socket:///run/redis.sock?virtual_host=1", RedisBackend),
        ("atomqs://h/1", RedisBackend),
        ("redis://h/1", RedisBackend),
        ("atomq-sentinel://a:26379/1;atomq-sentinel://b", SentinelBackend),
        ("sentinel://a:26379/1;sentinel://b", SentinelBackend),
    ],
)
def test_result_backends_are_celerys_own(url: str, base: type) -> None:
    app = Celery("backend", backend=url, set_as_default=False)
    app.conf.result_backend_transport_options = {"master_name": "mymaster"}
    backend = app.backend
    assert isinstance(backend, base)
    assert int(backend.connparams["db"]) == 1
    if url.startswith("atomqs"):
        assert backend.connparams["ssl_cert_reqs"] is ssl.CERT_REQUIRED


def test_on_a_cluster_the_keys_of_a_group_share_a_slot() -> None:
    app = Celery("backend", backend="atomq-cluster://h:7000", set_as_default=False)
    backend: Any = app.backend
    suffixes = ("", ".j", ".t", ".s", ".c")
    keys = [backend.get_key_for_group("0a-1b", suffix).decode() for suffix in suffixes]
    assert len(set(keys)) == 5
    assert {hash_slot(key) for key in keys} == {hash_slot("0a-1b")}
    backend.client.connection_pool.reset()  # as Celery does in a forked child
