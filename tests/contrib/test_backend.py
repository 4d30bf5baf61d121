"""Result backends under our schemes are Celery's own. Needs no server."""

from __future__ import annotations

import ssl

import pytest
from celery import Celery
from celery.backends.redis import RedisBackend, SentinelBackend


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
