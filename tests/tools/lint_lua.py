"""Check the Lua scripts with the best that is to be had here, and say what was not.

luacheck finds misspelt and leaked globals; `luac5.1 -p` and, where that is missing, Lua 5.1's
own `loadstring` find what only a newer Lua would understand. A pattern that may take more than
linear time is found by its looks: a server stands still meanwhile.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

_PATTERN = re.compile(
    r"""\b(?:string\.)?(?:find|match|gmatch|gsub)\(.*?,\s*(?P<quote>['"])(?P<pattern>.*?)(?P=quote)"""
    r"""(?P<plain>[^)]*,\s*true\))?"""
)
_REPEATED = re.compile(r"(?:%[a-zA-Z]|\[[^\]]*\]|\.|[^%^$()])[*+-](?!\])")
_OURS = {
    "^(.+)%-%d+$",  # of a claim id, which has at most 96 bytes
    "(%S+) (%d+)",  # of what `attend` has written
}


def main(folders: list[str]) -> int:
    """Check every `*.lua` below the folders. Returns 1 if anything is wrong."""
    files = sorted(str(path) for folder in folders for path in Path(folder).rglob("*.lua"))
    if not files:
        print(f"no Lua files in {', '.join(folders)}")
        return 1
    failed = _syntax(files) | _patterns(files)
    if luacheck := shutil.which("luacheck"):
        failed |= _run([luacheck, "--quiet", "--no-color", "--codes", *files])
    else:
        print("not run: luacheck (`make tools` gets it where apt is to be had)")
    return failed


def slow_patterns(source: str) -> list[str]:
    """Patterns that may be tried from many places, or give back what they took from anything.

    That is, with something repeated in them, not anchored, or repeating whatever it is.
    """
    return [
        found["pattern"]
        for found in _PATTERN.finditer(source)
        if not found["plain"] and found["pattern"] not in _OURS
        if _REPEATED.search(found["pattern"])
        if not found["pattern"].startswith("^") or re.search(r"(?<!%)\.[*+-]", found["pattern"])
    ]


def _patterns(files: list[str]) -> int:
    slow = [f"{name}: {p}" for name in files for p in slow_patterns(Path(name).read_text())]
    for each in slow:
        print(f"{each}: a pattern over a message must be linear: anchored by ^, no repeated dot")
    return int(bool(slow))


def _syntax(files: list[str]) -> int:
    if luac := shutil.which("luac5.1"):
        return _run([luac, "-p", "--", *files])
    try:
        from lupa.lua51 import LuaRuntime
    except ImportError:
        print("not run: syntax check (neither luac5.1 nor lupa is installed)")
        return 0
    load = LuaRuntime().eval(
        "function(text, name) local _, e = loadstring(text, name) return e end"
    )
    faults = [fault for name in files if (fault := load(Path(name).read_text(), f"@{name}"))]
    print(*faults, sep="\n", end="\n" if faults else "")
    return int(bool(faults))


def _run(command: list[str]) -> int:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout + done.stderr)
    return int(done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
