"""Single messages by their ids: get, cancel, run-now."""

from __future__ import annotations

import pytest

from atomq import Queue
from atomq.client import Engine
from tests.acceptance.conftest import Atomq
from tests.servers import Server

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def test_a_message_is_found_run_now_and_cancelled(
    atomq: Atomq, server: Server, engine: Engine
) -> None:
    url = server.url
    put = atomq("put", "q", '{"to": "ann"}', "--id", "a", "--tracked", "--delay", "1h", url=url)
    assert put.code == 0
    (row,) = atomq("--json", "get", "q", "a", url=url).json("get")
    assert (row["state"], row["body"], row["tracked"]) == ("delayed", {"to": "ann"}, True)
    assert atomq("run-now", "q", "a", url=url).out == "q: due now: 1 message\n"
    queue = Queue("q", engine)
    held = queue.claim()
    assert held
    held.progress(0.4, "reading")
    (row,) = atomq("--json", "get", "q", "a", url=url).json("get")
    assert (row["state"], row["receipt"], row["progress"]["fraction"]) == (
        "held",
        held.receipt,
        0.4,
    )
    said = atomq("cancel", "q", "a", "nobody", url=url)
    assert (said.code, said.out) == (1, "q: cancelled 1 message\n")
    assert said.err == "atomq: nobody: neither delayed, ready nor held\n"
    shown = atomq("get", "q", "a", url=url).out
    assert "held, being cancelled" in shown
    assert "40% reading" in shown


def test_what_cannot_be_known_is_said(atomq: Atomq, server: Server) -> None:
    done = atomq("get", "q", "nobody", url=server.url)
    assert done.code == 1
    assert "not tracked: it is not in the queue" in done.out
