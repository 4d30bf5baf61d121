"""`atomq put`: settings of a message, many from stdin, what is not put."""

from __future__ import annotations

import time

import pytest

from atomq import calls, scripts
from atomq.client import Engine
from tests.acceptance.conftest import Atomq
from tests.acceptance.given import claim
from tests.proxy import Proxy
from tests.servers import Server

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def test_put_with_everything(on: Atomq, engine: Engine) -> None:
    options = ["--priority", "9", "--id", "me", "--ttl", "1h", "--header", "n=5", "--header", "t=x"]
    done = on("put", "q", '{"to": "ann"}', *options, "--json")
    assert done.json("put") == [{"queue": "q", "published": 1, "known": 0, "id": "me"}]
    (found,) = claim(engine, "q", 1)
    assert found.envelope.body() == {"to": "ann"}
    assert found.envelope.headers == {"n": 5, "t": "x"}
    assert found.envelope.expires_ms > time.time() * 1000 + 3_000_000
    assert found.step == 4
    again = on("put", "q", "1", "--id", "me")
    assert again.code == 1
    assert "nothing was put" in again.err


def test_put_says_what_was_not_confirmed(on: Atomq, server: Server) -> None:
    alone = ("--option", "durability_timeout=0.1", "--durability")
    done = on("put", "q", "1", *alone, "replicas=1")
    assert (done.code, done.out) == (1, "")
    assert "nothing was put: a trial write was not confirmed, 0 of 1 replicas" in done.err
    assert on("put", "q", "1", *alone, "both").code == 2
    assert server.client().llen("q") == 0
    with Server(server.kind) as replica:
        replica.client().replicaof("127.0.0.1", str(server.port))
        done = on("put", "q", "1", "--durability", "replicas=1")
    assert done.code == 0, done.err
    assert server.client().llen("q") == 1


@pytest.mark.parametrize("ttl", ["0", "0s", "0ms", "5"])
def test_put_what_nothing_could_take_in_time(on: Atomq, server: Server, ttl: str) -> None:
    done = on("put", "q", "1", "--ttl", ttl, *(["--delay", "5s"] if ttl == "5" else []))
    assert (done.code, done.out) == (2, "")
    assert "--ttl must be more than 0" in done.err
    both = on("put", "q", "1", "--delay", "", "--at", "2100-01-01T00:00Z")
    assert (both.code, server.client().llen("q")) == (2, 0)


def test_put_later_and_cancel(on: Atomq, engine: Engine) -> None:
    assert on("put", "q", "1", "--delay", "10m").code == 0
    assert on("put", "q", "-", "--at", "2100-01-01T00:00Z", stdin='"x"').code == 0
    rows = on("delayed", "list", "q", "--json").json("delayed")
    assert [row["due_ms"] > time.time() * 1000 + 500_000 for row in rows] == [True, True]
    assert rows[1]["due_ms"] == 4_102_444_800_000
    ids = "".join(f"{row['id']}\n" for row in rows)
    done = on("delayed", "cancel", "q", "-", "--json", stdin=ids)
    assert done.code == 0
    assert done.json("moved")[0]["done"] == 2
    gone = on("delayed", "cancel", "q", rows[0]["id"])
    assert gone.code == 1
    assert "not delayed" in gone.err


def test_a_put_with_an_id_may_be_repeated(atomq: Atomq, server: Server, engine: Engine) -> None:
    """Its answer is lost: it was put, and the same command does not put it once more."""
    command = ("put", "q", '"x"', "--id", "one", "--option", "retry_attempts=0")
    engine.nodes()[0].load()
    with Proxy(server.socket) as proxy:
        proxy.drop_reply(matching=scripts.get("publish").sha.encode())
        assert atomq(*command, url=proxy.url).code == 3
        assert "one is known in q" in atomq(*command, url=proxy.url).err
    assert engine.run(calls.inspect(engine.keys("q"))).ready == 1


def test_put_lines(on: Atomq, engine: Engine) -> None:
    done = on("put", "q", "--lines", "--json", stdin="".join(f"{i}\n" for i in range(2500)))
    assert done.json("put") == [{"queue": "q", "published": 2500, "known": 0}]
    assert [d.envelope.body() for d in claim(engine, "q", 3)] == [0, 1, 2]
    bad = on("put", "other", "--lines", stdin="1\n" * 1000 + "x\n")
    assert bad.code == 2
    assert "line 1001" in bad.err
    assert "1,000 messages were put before" in bad.err
