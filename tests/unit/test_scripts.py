"""Bundling: one text a script, every line known by where it came from, headers that are kept."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from atomq import scripts
from atomq.assets import lua_dir
from atomq.client import Engine
from atomq.scripts import contract_of
from tests.schemas import validator
from tests.servers import Server
from tests.tools.lint_lua import slow_patterns


@pytest.fixture
def lua(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of scripts of a test's own."""
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(scripts, "lua_dir", lambda: tmp_path)
    # Without their memory: that of the real scripts stays as it is.
    monkeypatch.setattr(scripts, "get", scripts.get.__wrapped__)
    monkeypatch.setattr(scripts, "names", scripts.names.__wrapped__)
    for read in ("_sources", "_lines_of"):
        monkeypatch.setattr(scripts, read, getattr(scripts, read).__wrapped__)
    return tmp_path


def write(lua: Path, **files: str) -> None:
    for name, text in files.items():
        (lua / f"{name.replace('__', '/')}.lua").write_text(text)


def test_a_module_is_there_once_and_before_its_users(lua: Path) -> None:
    write(
        lua,
        lib__one="local M = {}\nfunction M.one()\n  return 1\nend\nreturn M\n",
        lib__two='local one = require("lib.one")\nlocal M = {}\n'
        "function M.two()\n  return one.one() + 1\nend\nreturn M\n",
        job='-- job: x\nlocal two = require("lib.two")\nlocal one = require("lib.one")\n'
        "return one.one() + two.two()\n",
    )
    script = scripts.get("job")
    assert script.text.count("return 1") == 1
    assert script.text.index("return 1") < script.text.index("one_one() + 1"), "a local"
    assert "require" not in script.text
    assert script.sha == hashlib.sha1(script.text.encode()).hexdigest()


def test_a_module_that_is_not_there_is_named(lua: Path) -> None:
    write(lua, job='-- job: x\nlocal gone = require("lib.gone")\nreturn gone.one()\n')
    with pytest.raises(ValueError, match=r"there is no lua/lib/gone\.lua"):
        _ = scripts.get("job").text


def test_a_script_is_bundled_when_it_is_asked_for() -> None:
    """Bundling all of them at the import was a third of the CPU of `import atomq.calls`."""
    code = (
        "from atomq import calls, scripts\n"
        "from atomq.keys import QueueKeys\n"
        "calls.pause(QueueKeys('q')).script.sha\n"
        "print([script.name for script in scripts.every() if 'text' in vars(script)])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "['pause']\n"


def test_what_is_installed_under_a_running_process_changes_nothing_in_it(
    lua: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "_sources", cache(scripts._sources))
    write(lua, lib__one="local M = { 1 }\nreturn M\n", job="-- job: x\nreturn 1\n")
    job = scripts.get("job")
    write(lua, job="-- job: x\nreturn 2\n")
    assert job.text == "return 1\n"


def test_a_module_required_further_in_is_made_when_it_is_needed(lua: Path, server: Server) -> None:
    write(
        lua,
        lib__one="local M = { n = 0 }\nfunction M.one()\n  M.n = M.n + 1\n  return M.n\nend\n"
        "return M\n",
        lib__rare='local one = require("lib.one")\nlocal also = require("lib.also")\n'
        "local M = { made = one.one() }\n"
        "function M.both()\n  return also.two() * 10 + M.made\nend\nreturn M\n",
        lib__also="local M = {}\nfunction M.two()\n  return 2\nend\nreturn M\n",
        job='-- job: x\nlocal one = require("lib.one")\nlocal found = { one.one() }\n'
        "for i = 1, tonumber(ARGV[1]) do\n"
        '  local rare = require("lib.rare")\n  found[#found + 1] = rare.both()\nend\n'
        "found[#found + 1] = one.one()\nreturn found\n",
    )
    text = scripts.get("job").text
    assert "require" not in text
    client = server.client()
    assert client.eval(text, 0, 0) == [1, 2]
    # Made once, after what stands before it, and with the modules that are there already.
    assert client.eval(text, 0, 2) == [1, 22, 22, 3]


def test_a_module_that_a_script_begins_with_may_need_another_now_and_then(
    lua: Path, server: Server
) -> None:
    write(
        lua,
        lib__rare="local M = {}\nfunction M.two()\n  return 2\nend\nreturn M\n",
        lib__one="local M = {}\nfunction M.one(n)\n  if n > 1 then\n"
        '    local rare = require("lib.rare")\n    return rare.two()\n  end\n  return 1\nend\n'
        "return M\n",
        job='-- job: x\nlocal one = require("lib.one")\n'
        "return { one.one(1), one.one(2), one.one(2) }\n",
    )
    assert server.client().eval(scripts.get("job").text, 0) == [1, 2, 2]


def test_a_module_of_numbers_is_written_where_it_is_used(lua: Path) -> None:
    write(
        lua,
        lib__limits="-- Two.\nlocal M = {}\n\nM.MOST = 7 -- of them\nM.MOST_MS = 8\n\nreturn M\n",
        job='-- job: x\nlocal limits = require("lib.limits")\n'
        "return limits.MOST + limits.MOST_MS\n",
    )
    assert scripts.get("job").text == "return 7 + 8\n"
    write(lua, job='-- job: x\nlocal limits = require("lib.limits")\nreturn limits.LEAST\n')
    with pytest.raises(ValueError, match="limits has no LEAST"):
        _ = scripts.get("job").text


def test_a_large_number_stands_in_one_file() -> None:
    """Two files that hold to one number take it from lib/limits."""
    stands: dict[str, set[str]] = {}
    for path in lua_dir().rglob("*.lua"):
        for line in path.read_text().splitlines():
            for number in re.findall(r"\b[0-9]{7,}\b", line.partition("--")[0]):
                stands.setdefault(number, set()).add(path.name)
    assert {number: files for number, files in stands.items() if len(files) > 1} == {}


def test_a_comment_changes_no_sha(lua: Path) -> None:
    write(lua, job="-- job: x\nreturn 1\n")
    before = scripts.get("job").sha
    write(lua, job="-- job: y\n\n  -- why\nreturn 1\n")
    assert scripts.get("job").sha == before


def test_a_module_that_requires_itself_is_named(lua: Path) -> None:
    write(
        lua,
        lib__a='local b = require("lib.b")\nlocal M = {}\nreturn M\n',
        lib__b='local a = require("lib.a")\nlocal M = {}\nreturn M\n',
        job='local a = require("lib.a")\nreturn 1\n',
    )
    with pytest.raises(ValueError, match=r"lua/lib/a.lua requires itself: .*lib.a > lib.b"):
        _ = scripts.get("job").sha


def test_a_script_that_is_not_there(lua: Path) -> None:
    with pytest.raises(LookupError, match="no script job"):
        scripts.get("job")


def test_an_error_is_told_by_file_and_line(lua: Path, server: Server) -> None:
    write(
        lua,
        lib__deep='-- a comment\nlocal M = {}\n\nfunction M.fail()\n  error("deep trouble")\nend\n'
        "return M\n",
        job='-- job: x\nlocal deep = require("lib.deep")\n-- why\nif KEYS[1] == "k" then\n'
        "  deep.fail()\nend\nreturn nil + 1\n",
    )
    script = scripts.get("job")
    for key, where in (("k", "lua/lib/deep.lua:5"), ("other", "lua/job.lua:7")):
        with pytest.raises(Exception, match="user_script") as caught:
            server.client().eval(script.text, 1, key)
        assert where in script.locate(str(caught.value))
    assert script.locate("user_script:999: beyond") == "user_script:999: beyond"


def _spelled(text: str, file: str) -> str:
    """A line with members of modules and the locals that stand for them written alike."""
    return re.sub(r"\bM\.", f"{Path(file).stem}.", text).replace("_", ".")


def _but_for_numbers(source: str, file: str) -> str:
    """A pattern of the line, where what stands for a number is one."""
    parts = re.split(r"\blimits\.[A-Z_]+", source)
    return r"\d+".join(re.escape(_spelled(part, file)) for part in parts)


def test_every_line_of_a_bundle_is_a_line_of_its_file() -> None:
    for script in scripts.every():
        lines = script.text.splitlines()
        assert len(lines) == len(script.lines)
        for line, (file, number) in zip(lines, script.lines, strict=True):
            source = (lua_dir() / file).read_text().splitlines()[number - 1]
            made = line == "do" or line.endswith(" = M end")  # the block around a module
            # What makes a module when it is needed, and the locals of those that are made at once.
            late = "late" in line or "made" in line
            late = late or re.fullmatch(r"if number < \d+ then|else|end|local .*", line) is not None
            numbered = re.fullmatch(_but_for_numbers(source, file), _spelled(line, file))
            assert numbered or made or late, f"{file}:{number}"


def test_a_header_is_read() -> None:
    contract = contract_of(
        "-- job: does it.\n--\n-- KEYS\n--   one     zset    receipt -> deadline\n"
        "--   two     hash    * queue * step   more\n-- ARGV\n--   n       int     ms\n"
        "-- RETURNS\n--   nothing much\n-- ERRORS\n--   BADARG  WRONGTYPE\nlocal x = 1\n"
    )
    assert contract.summary == "job: does it."
    assert [str(key) for key in contract.keys] == ["one", "two * queue * step"]
    assert [(arg.name, arg.type, arg.about) for arg in contract.argv] == [("n", "int", "ms")]
    assert (contract.returns, contract.errors) == ("nothing much", ("BADARG", "WRONGTYPE"))
    with pytest.raises(ValueError, match="not a declaration"):
        contract_of("-- job\n-- KEYS\n--   one\n")


def test_a_caller_that_passes_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lua/pause.lua declares ARGV \['paused'\], its caller"):
        scripts.declared("pause", keys=("wake", "meta"), argv=("paused", "more"))


def test_the_manifest_meets_its_schema() -> None:
    manifest = scripts.manifest("1.2.3")
    validator("manifest").validate(manifest)
    assert len(manifest["scripts"]) == len(list(lua_dir().glob("*.lua")))
    assert len({entry["sha1"] for entry in manifest["scripts"]}) == len(manifest["scripts"])


def test_every_script_loads_under_the_name_the_manifest_gives(server: Server) -> None:
    with Engine(server.url) as engine:
        [node] = engine.nodes()
        assert node.missing() == list(scripts.every())
        assert node.load() == list(scripts.every())
        assert node.missing() == []


@pytest.mark.parametrize(
    ("line", "slow"),
    [
        ("string.match(body, '.*\"priority\": ?(%d)')", True),
        ('string.find(x, "%d+$")', True),
        ('string.match(held, "^%[(.*), (.-)%]$")', True),
        ('x = string.gsub(body, " *", "")', True),
        ('string.match(record, "^(%d+) (%d+) ")', False),
        ('string.find(x, "%D")', False),
        ('string.find(x, "a-b*", 1, true)', False),
        ("string.find(message, '^\"x%-' .. name, at)", False),
    ],
)
def test_lint_finds_patterns_that_may_be_slow(line: str, slow: bool) -> None:
    assert bool(slow_patterns(line)) == slow
