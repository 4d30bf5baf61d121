"""What the headers say is what the verbs pass and what the scripts do."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from atomq import assets, calls, scripts
from atomq.calls import Call
from atomq.conversation import packed
from atomq.errors import ScriptFault
from atomq.keys import QueueKeys
from atomq.scripts import Parameter
from tests.lua.rig import Queue, Rig
from tests.lua.verbs import SIZES, VERBS, World

TYPES = {"list", "hash", "zset", "set", "stream", "string", "any", "int", "text", "group"}
LUA = assets.lua_dir()
SOURCES = {path.relative_to(LUA).as_posix(): path.read_text() for path in LUA.rglob("*.lua")}


def code(source: str) -> str:
    """A source without its comments."""
    return "\n".join(line.partition("--")[0] for line in source.splitlines())


class Offline:
    """A queue's keys and call builders without a server."""

    def __init__(self, layout: Any) -> None:
        self.keys, self.name = QueueKeys("q", layout=layout), "q"

    def claiming(self, limit: int, **more: Any) -> Call[Any]:
        return calls.claim([self.keys], "c-1", limit=limit, lease_ms=60_000, **more)


def build(verb: str, layout: str = "stock") -> Call[Any]:
    queue: Any = Offline(layout)
    return VERBS[verb](World(queue, ["r0", "r1", "r2"], "1-1"))


# ── headers ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", scripts.names())
def test_header(name: str) -> None:
    contract = scripts.get(name).contract
    assert contract.summary.startswith(f"{name}: ")
    assert contract.returns
    assert set(contract.errors) <= {"BADARG", "WRONGTYPE", "INUSE", "NOPART"}
    assert "BADARG" in contract.errors
    for each in (*contract.keys, *contract.argv):
        assert each.type in TYPES, each


def test_every_script_has_a_verb_and_the_other_way_round() -> None:
    assert {build(verb).script.name for verb in VERBS} == set(scripts.names())


def times(parameter: Parameter, sizes: dict[str, int]) -> int:
    n = 1
    for repeat in parameter.repeats:
        if f"{repeat} of {parameter.name}" in sizes:
            return sizes[f"{repeat} of {parameter.name}"]
        n *= sizes[repeat] if repeat != "group" or parameter.repeats[-1] == "group" else 1
    if parameter.type == "group":
        n += sizes[f"members of {parameter.name}"]
    return n


@pytest.mark.parametrize("layout", ["stock", "cluster"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_passes_as_many_keys_and_arguments_as_declared(verb: str, layout: str) -> None:
    call = build(verb, layout)
    sizes = {"cluster": int(layout == "cluster"), **SIZES.get(verb, {"step": 4})}
    contract = call.script.contract
    assert len(call.keys) == sum(times(each, sizes) for each in contract.keys)
    assert len(call.args) == sum(times(each, sizes) for each in contract.argv)


@pytest.mark.parametrize("layout", ["stock", "cluster"])
@pytest.mark.parametrize("verb", VERBS)
def test_what_is_packed_once_is_what_is_sent(verb: str, layout: str) -> None:
    for call in (build(verb, layout), build(verb, layout).again()):
        assert call.packed() == call.packed() == packed(call.command())


@pytest.mark.parametrize("verb", VERBS)
def test_whole_numbers_are_whole_numbers_and_texts_texts(verb: str) -> None:
    call = build(verb)
    for parameter, value in zip(call.script.contract.argv, call.args, strict=False):
        if parameter.repeats and parameter.type != "int":
            break  # from here on they are interleaved
        assert type(value) is int if parameter.type == "int" else isinstance(value, str | bytes)


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_sends_a_time_of_day(verb: str) -> None:
    """Promise 9: one clock, the server's."""
    now = time.time()
    for value in build(verb).args:
        assert not (isinstance(value, int | float) and 0.5 * now < value < 2000 * now)


@pytest.mark.parametrize("verb", VERBS)
def test_keys_stand_in_the_order_declared(verb: str) -> None:
    """Each fixed key carries the declared name at its end."""
    call = build(verb)
    for parameter, key in zip(call.script.contract.keys, call.keys, strict=False):
        if not parameter.repeats and not parameter.name.startswith("stock_"):
            of = "register{." if call.queue.name == "the register" else "{q"
            own = f"_atomq.{of}}}.{parameter.name}"  # and of some, a name behind it
            assert key == own or key.startswith(f"{own}.")


def test_a_caller_that_says_otherwise_is_refused_at_import() -> None:
    with pytest.raises(ValueError, match="declares KEYS"):
        scripts.declared("ack", keys=("unacked",), argv=("receipt * item",))
    with pytest.raises(ValueError, match="declares ARGV"):
        scripts.declared("touch", keys=("wake", "meta", "stats", "ready * step"), argv=())


# ── the rules of script writing ───────────────────────────────────────────────────────────────

_CALL = re.compile(r'redis\.p?call\((?:"([A-Z]+)"|(\w+))')
# Commands that stand in a variable: redis.call(push, …). Whoever adds one names its values here.
VARIABLES = {
    ("lib/guard.lua", "command"): ["LLEN", "HLEN", "ZCARD", "SCARD", "XLEN"],
    ("lib/state.lua", "command"): ["HINCRBY", "HSET", "ZADD", "RPUSH"],
    ("hand_back.lua", "range"): ["ZRANGE", "ZREVRANGE"],
    ("hand_back.lua", "push"): ["LPUSH", "RPUSH"],
    ("release.lua", "front"): ["LPUSH", "RPUSH"],
    ("probe.lua", "unpack"): [],
}


def used() -> set[str]:
    found: set[str] = set()
    for file, source in SOURCES.items():
        for literal, variable in _CALL.findall(code(source)):
            found |= {literal} if literal else set(VARIABLES[file, variable])
    return found


def test_probe_runs_exactly_the_commands_that_scripts_run() -> None:
    """Promise 1: a command that the probe does not try may be refused in the middle of a move."""
    probed = set(re.findall(r'\{ "([A-Z]+)"', SOURCES["probe.lua"]))
    # The first is part of no move, and what it says can be had by others. The others are tried by
    # the few scripts that run them before they move anything, or move nothing.
    others = {"EXISTS", "XTRIM", "GET", "LREM", "PERSIST", "SPUBLISH", "XREVRANGE"}
    assert probed == used() - others


def test_commands_in_variables_are_written_out_somewhere() -> None:
    for (file, _), commands in VARIABLES.items():
        assert all(f'"{command}"' in SOURCES[file] for command in commands)


@pytest.mark.parametrize("file", SOURCES)
def test_rules(file: str) -> None:
    """Promise 10: no KEYS, no SCAN. Errors are answers. Time is the server's. JSON stays opaque."""
    source = code(SOURCES[file])
    assert not source.startswith("#!")
    assert not re.search(r"\berror\(|\bcjson\b|\bos\.|math\.random", source)
    assert not {name for name in used() if name == "KEYS" or name.endswith("SCAN")}


# ── SHA and source map ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of lua/ that scripts are read from."""
    shutil.copytree(LUA, tmp_path / "lua")
    monkeypatch.setattr(scripts, "lua_dir", lambda: tmp_path / "lua")
    for read in ("_sources", "_lines_of"):
        monkeypatch.setattr(scripts, read, getattr(scripts, read).__wrapped__)
    return tmp_path / "lua"


def bundled(name: str) -> scripts.Script:
    return scripts.get.__wrapped__(name)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_comment_changes_no_sha(copy: Path) -> None:
    before = bundled("claim").sha
    edit(copy / "claim.lua", "local take", "-- a word more\n\n    -- and one\nlocal take")
    edit(copy / "lib/delivering.lua", "local M", "-- a word more\nlocal M")
    assert bundled("claim").sha == before


@pytest.mark.parametrize("file", ["claim.lua", "lib/delivering.lua", "lib/outage.lua"])
def test_code_changes_the_sha(copy: Path, file: str) -> None:
    """Promise 12: the SHA names the exact text, so that two releases run side by side."""
    before = bundled("claim").sha
    edit(copy / file, "return", "local _ = 1\nreturn")
    assert bundled("claim").sha != before


def test_each_module_once_and_no_circle(copy: Path) -> None:
    assert bundled("claim").text.count("function M.header(") == 1
    edit(
        copy / "lib/record.lua", "local M", 'local delivering = require("lib.delivering")\nlocal M'
    )
    with pytest.raises(ValueError, match="requires itself"):
        _ = bundled("claim").text


@pytest.mark.parametrize(
    ("file", "before"),
    [("ack.lua", "local lost, ended ="), ("lib/receipts.lua", "local lost, receipts")],
)
def test_an_error_names_file_and_line(q: Queue, copy: Path, file: str, before: str) -> None:
    edit(copy / file, before, f"local nothing = nil + 1\n{before}")
    line = 1 + (copy / file).read_text().split("local nothing")[0].count("\n")
    call = calls.ack(q.keys, ["x"])
    call.script = bundled("ack")
    with pytest.raises(ScriptFault, match=f"lua/{file}:{line}"):
        q.run(call)


def test_the_manifest_names_what_the_server_knows(rig: Rig) -> None:
    (node,) = rig.engine.nodes()
    node.load()
    assert node.missing() == []
    shas = [each["sha1"] for each in scripts.manifest("0")["scripts"]]
    assert len(set(shas)) == len(shas) == len(scripts.names())
    assert all(rig.db.script_exists(*shas))
