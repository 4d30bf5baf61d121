"""Dead letters: newest first, over all queues, by reason, since."""

from __future__ import annotations

import re

import pytest

from atomq import calls
from atomq.client import Engine
from tests.acceptance.conftest import Atomq
from tests.acceptance.given import claim, kill, publish
from tests.servers import Server

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def test_the_newest_come_first_over_all_queues(on: Atomq, engine: Engine, server: Server) -> None:
    for ms, (queue, reason) in enumerate((("a", "first"), ("b", "second"), ("a", "third"))):
        publish(engine, queue)
        letter = {"reason": reason, "message": "{}"}
        server.client().xadd(engine.keys(queue).dead, letter, id=f"{1_790_000_000_000 + ms}-0")
    rows = on("dead", "list", "--json").json("dead")
    assert [(row["queue"], row["reason"]) for row in rows] == [
        ("a", "third"),
        ("b", "second"),
        ("a", "first"),
    ]
    assert "1 of 3 dead letters; --limit shows more" in on("dead", "list", "--limit", "1").err
    assert on("dead", "list", "--oldest", "--json").json("dead") == rows[::-1]
    assert on("dead", "list", "b", "--json").json("dead") == rows[1:2]
    assert on("dead", "list", "--before", rows[0]["dead_id"]).code == 2, "of which queue?"


def test_a_page_goes_on_where_the_last_one_ended(on: Atomq, engine: Engine) -> None:
    kill(engine, "q", ["first", "second", "third"])
    rows = on("dead", "list", "q", "--json").json("dead")
    page = on("dead", "list", "q", "--limit", "1")
    assert f"go on with --before {rows[0]['dead_id']}" in page.err
    older = on("dead", "list", "q", "--before", rows[0]["dead_id"], "--json").json("dead")
    assert older == rows[1:]
    behind = on("dead", "list", "q", "--after", rows[2]["dead_id"], "--json").json("dead")
    assert behind == rows[1::-1]
    assert on("dead", "list", "q", "--oldest", "--before", "1-1").code == 2


def test_pages_of_the_newest_go_on_beyond_one_call(on: Atomq, engine: Engine) -> None:
    kill(engine, "q", ["rejected"] * 450)
    found = on("dead", "list", "q", "--limit", "1000", "--json").json("dead")
    back = on("dead", "list", "q", "--limit", "1000", "--oldest", "--json").json("dead")
    assert len(found) == 450
    assert found == back[::-1]


def test_dead_letters_are_counted_by_reason(on: Atomq, engine: Engine) -> None:
    kill(engine, "a", ["rejected", "boring", "rejected"])
    kill(engine, "b", ["rejected"])
    rows = on("dead", "reasons", "--json").json("reasons")
    counts = [(row["queue"], row["reason"], row["count"]) for row in rows]
    assert counts[0] == ("a", "rejected", 2)
    assert set(counts[1:]) == {("a", "boring", 1), ("b", "rejected", 1)}
    assert on("dead", "reasons", "b", "--json").json("reasons")[0]["count"] == 1
    assert "boring" in on("dead", "reasons").out
    assert on("dead", "reasons", "empty").err == "no dead letters\n"


@pytest.mark.parametrize("order", [[], ["--oldest"]])
def test_what_died_since(on: Atomq, engine: Engine, server: Server, order: list[str]) -> None:
    kill(engine, "q", ["rejected"])
    (letter,) = on("dead", "list", "--json").json("dead")
    dead = engine.keys("q").dead
    old = f"{letter['died_ms'] - 7_200_000}-0"
    server.client().delete(dead)
    for name in (old, letter["dead_id"]):
        server.client().xadd(dead, {"reason": "rejected", "message": "{}"}, id=name)

    def since(when: str) -> int:
        return len(on("dead", "list", *order, "--since", when, "--json").json("dead"))

    assert [since(when) for when in ("1h", "3h", "1d", str(letter["died_ms"] // 1000))] == [
        1,
        2,
        2,
        1,
    ]
    assert on("dead", "reasons", "--since", "1h", "--json").json("reasons")[0]["count"] == 1
    assert on("dead", "list", "--since", "soon").code == 2
    server.client().delete(dead)
    for command in (["list", *order], ["list", "--before", "x", "q"], ["reasons"]):
        assert on("dead", *command, "--since", "2x").code == 2, "and where nothing is dead"


def test_a_reason_that_there_is_not_is_a_typo(on: Atomq, engine: Engine) -> None:
    kill(engine, "q", ["rejected", "unwanted", "rejected"])
    for words in (
        ["list"],
        ["list", "q"],
        ["redrive", "q"],
        ["purge", "q", "--yes"],
    ):
        done = on("dead", *words, "--reason", "unwantd")
        assert done.code == 2
        said = "nothing here died of 'unwantd'; there are rejected (2), unwanted (1)"
        assert said in done.err
    assert on("dead", "list", "--reason", "expired", "--json").json("dead") == []
    assert on("dead", "redrive", "q", "--reason", "expired").code == 0
    done = on("dead", "purge", "q", "--all", "--reason", "unwanted", "--yes")
    assert done.out == "q: threw away 1 dead letter\n"
    assert len(on("dead", "list", "q", "--json").json("dead")) == 2


def test_a_user_without_the_new_right_reads_the_longest_dead_first(
    atomq: Atomq, engine: Engine, server: Server
) -> None:
    kill(engine, "q", ["rejected"])
    rights = ["on", ">pw", "~*", "&*", "+@all", "-xrevrange"]
    server.client().execute_command("ACL SETUSER", "old", *rights)
    url = f"redis://old:pw@127.0.0.1:{server.port}"
    done = atomq("dead", "list", "q", url=url)
    assert done.code == 4
    assert "+xrevrange: --oldest does without" in done.err
    assert re.search(r"rejected", atomq("dead", "list", "q", "--oldest", url=url).out)


def test_dead_letters_are_shown_redriven_and_purged(on: Atomq, engine: Engine) -> None:
    kill(engine, "q", ["rejected", "expired", "rejected", "expired"])
    rows = on("dead", "list", "q", "--oldest", "--json").json("dead")
    assert [row["reason"] for row in rows] == ["rejected", "expired", "rejected", "expired"]
    only = ["--oldest", "--reason", "expired", "--limit", "1"]
    page = on("dead", "list", "q", "--json", *only).json("dead")
    assert [row["dead_id"] for row in page] == [rows[1]["dead_id"]]

    shown = on("dead", "show", "q", rows[2]["dead_id"], "--json").json("dead")
    assert shown[0]["detail"] == "ValueError: no\nline 2"
    assert shown[0]["body"] == {"n": 2}
    assert on("dead", "show", "q", rows[2]["dead_id"], "1-1").code == 1
    whole = on("dead", "show", "q", rows[2]["dead_id"]).out
    assert '{"n": 2}' in whole
    assert "ValueError: no" in whole
    listed = on("dead", "list", "q").out  # has room for the last line, which says it in a traceback
    assert "line 2" in listed
    assert "ValueError" not in listed

    some = on("dead", "redrive", "q", rows[0]["dead_id"], "1-1", "--json")
    assert some.code == 1
    assert some.json("moved")[0]["not_done"] == [{"id": "1-1", "why": "no such dead letter"}]
    by_reason = on("dead", "redrive", "q", "--reason", "expired", "--json")
    assert by_reason.json("moved")[0]["done"] == 2
    purged = on("dead", "purge", "q", rows[2]["dead_id"], "--yes", "--json")
    assert purged.json("moved")[0]["done"] == 1
    state = engine.run(calls.inspect(engine.keys("q")))
    assert (state.ready, state.dead) == (3, 0)


def test_all_dead_letters_go_back_but_for_the_undecodable(
    on: Atomq, server: Server, engine: Engine
) -> None:
    server.client().lpush("q", "garbage")
    claim(engine, "q", 1)
    kill(engine, "q", ["rejected"] * 3)
    done = on("dead", "redrive", "q", "--all")
    assert done.code == 1
    assert done.out == "q: put 3 messages back to ready\n"
    assert "1 dead letter: cannot be decoded, stay" in done.err
    assert on("dead", "purge", "q", "--all", "--yes").code == 0
    assert engine.run(calls.inspect(engine.keys("q"))).dead == 0
