"""Celery and Kombu over TLS to a cluster: `atomqs-cluster://`."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery, chord
from kombu import Connection, Exchange, Queue
from kombu.exceptions import OperationalError

from tests.contrib.rig import Place
from tests.contrib.test_cluster import id_on
from tests.faults.test_cluster import name_on
from tests.faults.test_cluster_ways import ON_TLS, TlsCluster, tls

__all__ = ["tls"]  # a fixture

pytestmark = [ON_TLS, pytest.mark.slow]


@pytest.mark.parametrize("index", [0, 1])
def test_what_celery_and_kombu_send_is_got_and_acked(tls: TlsCluster, index: int) -> None:
    """Each node is found from the first one."""
    name, trusted = name_on(tls, index), {"ssl_ca_certs": tls.authority}
    url = f"atomqs-cluster://127.0.0.1:{tls.nodes[0].port}"
    app = Celery("sends", broker=url, broker_use_ssl=trusted, set_as_default=False)
    with app, Connection(url, ssl=trusted) as connection:
        queue = Queue(name, Exchange(name), routing_key=name)(connection.default_channel)
        queue.declare()
        sent = app.send_task("work", queue=name)
        connection.Producer().publish("plain", exchange=queue.exchange, routing_key=name)
        first, second = queue.get(), queue.get()
        assert (first.headers["id"], second.payload) == (sent.id, "plain")
        first.ack()
        second.ack()
    with Connection(url, ssl=trusted) as connection:  # what is not acked would be there again
        assert Queue(name)(connection.default_channel).get() is None


def test_a_worker_stores_results_there_and_ends_a_chord(tls: TlsCluster, tmp_path: Path) -> None:
    """Its children too; a program hears of a result of either node, and reads it later."""
    url = f"atomqs-cluster://127.0.0.1:{tls.nodes[0].port}"
    trusted = {"ssl_ca_certs": tls.authority}
    conf = {"broker_use_ssl": trusted, "redis_backend_use_ssl": trusted}
    names = [name_on(tls, index) for index in (0, 1)]
    at = Place(tls.nodes[0], tmp_path, url, backend=url)
    try:
        worker = at.worker("prefork", 2, queues=",".join(["celery", *names]), **conf).ready()
        app = at.make_app(backend=url, **conf)
        work, collected = app.tasks["work"], app.tasks["collected"]
        ids = [id_on(index, of=2) for index in (0, 1)]
        sent = [work.apply_async((0, n), task_id=one) for n, one in enumerate(ids)]
        assert [each.get(timeout=15) for each in sent] == [0, 1]
        assert [app.backend.get_task_meta(one, cache=False)["result"] for one in ids] == [0, 1]
        parts = [work.s(0, n).set(queue=names[n % 2]) for n in range(4)]
        assert chord(parts, collected.s())().get(timeout=15) == [0, 1, 2, 3]
        assert "Traceback" not in worker.log
    finally:
        at.close()


def test_a_certificate_that_is_not_trusted_is_named(tls: TlsCluster) -> None:
    url = f"atomqs-cluster://127.0.0.1:{tls.nodes[0].port}"
    for _ in range(3):  # the nodes are not asked again for each connection
        with (
            pytest.raises(OperationalError, match="certificate verify failed"),
            Connection(url) as connection,
        ):
            connection.ensure_connection(max_retries=1)
