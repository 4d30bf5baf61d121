"""The Lua scripts as the server runs them: bundled, checked, and named by their SHA1.

A script under `lua/` may begin with lines `local clock = require("lib.clock")`. Each module is put
in front of it once. The server makes every function anew at each call, so functions of modules that
nothing in the bundle calls are left out, and all modules that are required further in, where they
are needed now and then, are one function: what stands in it is made when it is asked for. Lines
that hold only a comment are left out too: a comment changes no SHA. What the server says of a line
is translated back to the file it came from.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from atomq.assets import lua_dir

_REQUIRE = re.compile(r'^( *)local (\w+) = require\("([\w.]+)"\)$')
_FUNCTION = re.compile(r"^function M\.(\w+)\(")
_CONSTANT = re.compile(r"^M\.([A-Z_]+) = (\d+)(?: --.*)?$")
_FIELD = re.compile(r"^--   (\w+)\s+(\w+)((?:\s+\* \w+)*)(?:\s{2,}(.*))?$")
_MEMBER = re.compile(r"\b(\w+)\.(\w+)")
_TABLE = "local M = {"
_SECTION = re.compile(r"^-- (KEYS|ARGV|RETURNS|ERRORS)$")
# "@user_script:29:", "on @user_script:29.", "user_script:29:" - by server and version.
_LINE = re.compile(r"@?user_script:(\d+)")


@dataclass(frozen=True)
class Parameter:
    """One key or argument of a script, as its header declares it."""

    name: str
    type: str
    repeats: tuple[str, ...]
    about: str

    def __str__(self) -> str:
        return " * ".join((self.name, *self.repeats))


@dataclass(frozen=True)
class Contract:
    """What a script's header promises."""

    summary: str
    keys: tuple[Parameter, ...]
    argv: tuple[Parameter, ...]
    returns: str
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Script:
    """One script: the exact text that is loaded, its SHA1 and where each line came from.

    It is bundled when one of these is first asked for, which raises `ValueError` if that cannot be
    done: a process uses few of them.
    """

    name: str
    contract: Contract = field(repr=False)
    text: str = field(init=False, repr=False, compare=False)
    sha: str = field(init=False, compare=False)
    lines: tuple[tuple[str, int], ...] = field(init=False, repr=False, compare=False)

    def __getattr__(self, name: str) -> Any:
        # No lock: two threads find the same, and a fork beside them leaves none locked.
        if name not in ("text", "sha", "lines"):
            raise AttributeError(name)
        bundle = _Bundle(self.name)
        text = bundle.text
        sha = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - the server's name for it
        vars(self).update(text=text, sha=sha, lines=bundle.origins)
        return vars(self)[name]

    @property
    def file(self) -> str:
        """Its file, relative to the `lua` directory."""
        return f"{self.name}.lua"

    def locate(self, error: str) -> str:
        """An error text of the server with line numbers of the files instead of the bundle."""

        def named(match: re.Match[str]) -> str:
            number = int(match[1]) - 1
            if not 0 <= number < len(self.lines):
                return match[0]
            file, line = self.lines[number]
            return f"lua/{file}:{line}"

        return _LINE.sub(named, error)

    def describe(self) -> dict[str, Any]:
        """Its entry in the manifest."""
        return {
            "name": self.name,
            "sha1": self.sha,
            "file": self.file,
            "bytes": len(self.text.encode()),
            "keys": [str(key) for key in self.contract.keys],
            "argv": [str(arg) for arg in self.contract.argv],
        }


@cache
def names() -> tuple[str, ...]:
    """The names of all scripts, sorted."""
    return tuple(sorted(file.removesuffix(".lua") for file in _sources() if "/" not in file))


@cache
def get(name: str) -> Script:
    """The script `lua/<name>.lua`, of which a process has one.

    Raises `LookupError` if there is no such script: a broken installation.
    """
    if name not in names():
        raise LookupError(f"there is no script {name}")
    return Script(name, contract_of(_sources()[f"{name}.lua"]))


def every() -> tuple[Script, ...]:
    """All scripts, by name."""
    return tuple(get(name) for name in names())


def manifest(version: str) -> dict[str, Any]:
    """What a release of atomq runs: meets `schemas/manifest.schema.json`."""
    return {"atomq": version, "scripts": [script.describe() for script in every()]}


def declared(name: str, *, keys: Sequence[str], argv: Sequence[str]) -> Script:
    """The script `name`, whose header must declare exactly these keys and arguments.

    A caller states what it is going to pass; a header that says otherwise is a `ValueError` when
    the module is imported, not a surprise at run time.
    """
    script = get(name)
    for what, ours, theirs in (
        ("KEYS", keys, script.contract.keys),
        ("ARGV", argv, script.contract.argv),
    ):
        if tuple(ours) != tuple(map(str, theirs)):
            raise ValueError(
                f"lua/{script.file} declares {what} {list(map(str, theirs))}, "
                f"its caller passes {list(ours)}"
            )
    return script


def contract_of(source: str) -> Contract:
    """The contract in the comment a script begins with."""
    sections: dict[str, list[str]] = {"": [], "KEYS": [], "ARGV": [], "RETURNS": [], "ERRORS": []}
    section = ""
    for line in source.splitlines():
        if not line.startswith("--"):
            break
        if found := _SECTION.match(line):
            section = found[1]
        else:
            sections[section].append(line)
    return Contract(
        summary=_prose(sections[""]),
        keys=_parameters(sections["KEYS"]),
        argv=_parameters(sections["ARGV"]),
        returns=_prose(sections["RETURNS"]),
        errors=tuple(_prose(sections["ERRORS"]).split()),
    )


def _prose(lines: list[str]) -> str:
    return "\n".join(line.removeprefix("--").strip() for line in lines).strip()


def _parameters(lines: list[str]) -> tuple[Parameter, ...]:
    found = []
    for line in lines:
        match = _FIELD.match(line)
        if not match:
            raise ValueError(f"not a declaration of a key or an argument: {line}")
        name, kind, repeats, about = match.groups(default="")
        found.append(Parameter(name, kind, tuple(repeats.replace("*", " ").split()), about))
    return tuple(found)


_Line = tuple[str, str, int]  # text, file, number


class _Bundle:
    """Modules first, each once, then the script; with the origin of every line."""

    def __init__(self, script: str) -> None:
        self._open: list[str] = []
        self._early: dict[str, list[_Line]] = {}  # made at once, in this order
        self._late: dict[str, list[_Line]] = {}  # made by a function, when they are needed
        self._asked: list[str] = []  # late ones still to be read
        self._numbers: dict[str, int] = {}  # by which late ones are asked for
        self._constants: dict[str, dict[str, str]] = {}  # of modules that are nothing else
        self._read(script, self._early)
        while self._asked:
            self._read(self._asked.pop(), self._late)
        self._lines = self._together(script)
        while self._prune():
            pass
        self._lines = self._sized(self._localized())

    @property
    def text(self) -> str:
        return "".join(f"{text}\n" for text, _, _ in self._lines)

    @property
    def origins(self) -> tuple[tuple[str, int], ...]:
        return tuple((file, number) for _, file, number in self._lines)

    def _read(self, module: str, into: dict[str, list[_Line]]) -> None:
        file = module.replace(".", "/") + ".lua"
        if module in self._open:
            raise ValueError(f"lua/{file} requires itself: {' > '.join([*self._open, module])}")
        if module in self._early or module in into:
            return
        kept = list(_lines_of(file))
        self._open.append(module)
        for line, _, _ in kept:
            if found := _required(line):
                indent, alias, wanted = found.groups()
                if alias != (name := _name(wanted)):
                    raise ValueError(f"{wanted} is required as {alias}: its name is {name}")
                if self._is_constants(wanted):
                    continue
                if indent:
                    self._asked.append(wanted)
                else:
                    self._read(wanted, into)
        self._open.pop()
        if file.startswith("lib/") and kept[-1][0] != "return M":
            raise ValueError(f"lua/{file}: a module ends in `return M`")
        into[module] = kept

    def _is_constants(self, module: str) -> bool:
        """Whether a module is numbers only: they are written where they are used."""
        name = _name(module)
        if name not in self._constants:
            lines = _lines_of(f"{module.replace('.', '/')}.lua")[1:-1]
            found = [_CONSTANT.match(line) for line, _, _ in lines]
            values = {each[1]: each[2] for each in found if each}
            self._constants[name] = values if len(values) == len(lines) else {}
        return bool(self._constants[name])

    def _written(self, text: str, file: str) -> str:
        """The line with the numbers of those modules in it."""
        for module, values in self._constants.items():
            if not values or f"{module}." not in text:
                continue
            for name in re.findall(rf"\b{module}\.(\w+)", text):
                if name not in values:
                    raise ValueError(f"lua/{file}: {module} has no {name}")
                text = re.sub(rf"\b{module}\.{name}\b", values[name], text)
        return text

    def _together(self, script: str) -> list[_Line]:
        main = self._early.pop(script)
        late = {module: lines for module, lines in self._late.items() if module not in self._early}
        self._numbers = {_name(module): number for number, module in enumerate(late, 1)}
        lines: list[_Line] = [("local load_late", f"{script}.lua", 1)] if late else []
        if self._early:
            lines.append((f"local {', '.join(map(_name, self._early))}", f"{script}.lua", 1))
        for module, kept in self._early.items():
            (_, file, first), (_, _, last) = kept[0], kept[-1]
            # A block, not a function: that would be one more to make and to call.
            lines += [("do", file, first), *self._linked(kept[:-1])]
            lines.append((f"{_name(module)} = M end", file, last))
        return lines + self._hidden(late, f"{script}.lua") + self._linked(main)

    def _hidden(self, late: dict[str, list[_Line]], script: str) -> list[_Line]:
        """`load_late(number)`: one function, in which the late modules are made.

        A branch each, which asks for what the module needs by the same function. A function each
        would have to be made before any of them is known to be needed.
        """
        if not late:
            return []
        opening = (
            "function load_late(number)",  # keeps what it made, from its first call on
            f"local made = {{ {', '.join(['false'] * len(late))} }}",
            "function load_late(number)",
            "if made[number] then return made[number] end",
        )
        closing = ("end", "return load_late(number) end")
        return [
            *((text, script, 1) for text in opening),
            *self._branches(list(late.values())),
            *((text, script, 1) for text in closing),
        ]

    def _branches(self, modules: Sequence[list[_Line]], first: int = 1) -> list[_Line]:
        """Where each of them is made, found by halves: the server compares at each call."""
        if len(modules) > 1:
            half = len(modules) // 2
            below = self._branches(modules[:half], first)
            above = self._branches(modules[half:], first + half)
            (_, file, line), (_, other, last) = below[0], above[-1]
            opening = (f"if number < {first + half} then", file, line)
            return [opening, *below, ("else", other, last), *above, ("end", other, last)]
        [kept] = modules
        _, file, last = kept[-1]
        return [*self._linked(kept[:-1]), (f"made[{first}] = M return M", file, last)]

    def _linked(self, lines: Sequence[_Line]) -> list[_Line]:
        found: list[_Line] = []
        for text, file, number in lines:
            if wanted := _required(text):
                indent, name, module = wanted.groups()
                if module in self._early or self._constants.get(name):
                    continue
                load = f"load_late({self._numbers[name]})"
                text = f"{indent}local {name} = {load}"  # noqa: PLW2901 - it reads best so
            found.append((self._written(text, file), file, number))
        return found

    def _prune(self) -> bool:
        """Leave out the functions of modules that nothing mentions. True if there was one."""
        mentioned = {
            (_stem(file) if module == "M" else module, name)
            for text, file, _ in self._lines
            for module, name in _members(text)
        }
        kept, idle = [], False
        for line in self._lines:
            text, file, _ = line
            if found := _FUNCTION.match(text):
                idle = (_stem(file), found[1]) not in mentioned
            if not idle:
                kept.append(line)
            if text[:1] != " " and text.endswith("end"):
                idle = False
        shorter = len(kept) < len(self._lines)
        self._lines = kept
        return shorter

    def _localized(self) -> list[_Line]:
        """The lines with each function of an early module as a local of the script.

        A field of a table costs the server three times as much to make, at each call.
        """
        early = set(map(_name, self._early))
        made: dict[str, list[str]] = {}
        for text, file, _ in self._lines:
            if (found := _FUNCTION.match(text)) and _stem(file) in early:
                made.setdefault(_stem(file), []).append(found[1])
        if not made:
            return self._lines
        names = [f"{module}_{name}" for module, found in made.items() for name in found]

        def renamed(text: str, file: str) -> str:
            def local(match: re.Match[str]) -> str:
                module = _stem(file) if match[1] == "M" else match[1]
                return f"{module}_{match[2]}" if match[2] in made.get(module, ()) else match[0]

            return _MEMBER.sub(local, text)

        (first, file, number), *rest = self._lines
        top = (f"{first}, {', '.join(names)}", file, number)
        return [top, *((renamed(text, file), file, number) for text, file, number in rest)]

    @staticmethod
    def _sized(lines: list[_Line]) -> list[_Line]:
        """The lines with the tables of modules as large from the begin as their functions need.

        One that grows is made anew each time.
        """
        made: dict[str, list[str]] = {}
        for text, file, _ in lines:
            if found := _FUNCTION.match(text):
                made.setdefault(file, []).append(f"{found[1]} = 0")

        def sized(text: str, file: str) -> str:
            if file not in made or not text.startswith(_TABLE):
                return text
            rest = text.removeprefix(_TABLE).lstrip()
            fields = ", ".join(made[file])
            return f"{_TABLE} {fields} {rest}" if rest[0] == "}" else f"{_TABLE} {fields}, {rest}"

        return [(sized(text, file), file, number) for text, file, number in lines]


# One module is in many scripts: what a file or a line holds is found once.


@cache
def _sources() -> dict[str, str]:
    """What the files of `lua/` hold, by name.

    All are read at once: a release that is installed under this process changes nothing in it.
    """
    directory = lua_dir()
    return {
        path.relative_to(directory).as_posix(): path.read_text(encoding="utf-8")
        for path in directory.rglob("*.lua")
    }


@cache
def _lines_of(file: str) -> tuple[_Line, ...]:
    """The lines of a file that are more than a comment."""
    if file not in _sources():
        raise ValueError(f"there is no lua/{file}")
    source = _sources()[file].splitlines()
    return tuple((line, file, n) for n, line in enumerate(source, 1) if not _is_comment(line))


@cache
def _members(text: str) -> tuple[tuple[str, str], ...]:
    """What a line mentions of modules and tables, but for the function that it begins."""
    return tuple(_MEMBER.findall(_FUNCTION.sub("", text))) if "." in text else ()


def _required(line: str) -> re.Match[str] | None:
    return _REQUIRE.match(line) if "require" in line else None


def _is_comment(line: str) -> bool:
    bare = line.strip()
    return not bare or (bare.startswith("--") and not bare.startswith("--[["))


def _name(module: str) -> str:
    return module.rpartition(".")[2]


def _stem(file: str) -> str:
    return file.removesuffix(".lua").rpartition("/")[2]
