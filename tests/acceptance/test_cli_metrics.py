"""`atomq metrics`: printed once, and served."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from atomq import Queue
from tests.acceptance.conftest import Atomq
from tests.servers import Server

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def test_printed_once(on: Atomq, server: Server) -> None:
    with Queue("mails", server.url) as queue:
        queue.put_many([1, 2])
    done = on("metrics")
    assert done.code == 0
    samples = {s.name: s for family in parsed(done.out) for s in family.samples}
    assert samples["atomq_queue_backlog"].labels == {"queue": "mails"}
    assert samples["atomq_queue_backlog"].value == 2
    rows = on("metrics", "--json").json("metrics")
    assert {"name": "atomq_queue_backlog", "labels": {"queue": "mails"}, "value": 2.0} in rows


def test_while_the_server_is_away(atomq: Atomq, kind: str) -> None:
    done = atomq("metrics", "--option", "retry_budget=0", url="redis://127.0.0.1:1")
    assert (done.code, "atomq_up 0.0" in done.out) == (3, True)
    assert "Traceback" not in done.err


@pytest.mark.parametrize("start", [[], ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]])
def test_served_until_it_is_told_to_end(server: Server, start: list[str]) -> None:
    """Also where SIGINT is ignored, as in the background of a shell's script."""
    with Queue("mails", server.url) as queue:
        queue.put(1)
    command = [*start, sys.executable, "-m", "atomq.cli", "metrics", "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "ATOMQ_URL": server.url}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as serving:
        try:
            assert serving.stderr is not None
            said = serving.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+/", said)
            assert found, said
            with urllib.request.urlopen(f"{found[0]}metrics", timeout=10) as reply:
                assert b'atomq_queue_backlog{queue="mails"} 1.0' in reply.read()
            with urllib.request.urlopen(f"{found[0]}backlog/mails", timeout=10) as reply:
                assert reply.read() == b'{"queue": "mails", "backlog": 1, "busy": 1}\n'
            serving.send_signal(signal.SIGTERM)
            assert serving.wait(10) == 0
        finally:
            serving.kill()


def test_where_nothing_can_listen(atomq: Atomq, server: Server) -> None:
    for place in ("127.0.0.1:99999", "192.0.2.1:9464"):
        done = atomq("metrics", "--listen", place, url=server.url)
        assert (done.code, "--listen" in done.err) == (2, True), place


@pytest.mark.starts_anew
def test_without_its_library_it_names_the_extra(
    atomq: Atomq, broken: Callable[[str], None], kind: str
) -> None:
    broken("import sys; sys.modules['prometheus_client'] = None")
    done = atomq("metrics", url="redis://127.0.0.1:1")
    assert (done.code, 'pip install "atomq[metrics]"' in done.err) == (2, True)
