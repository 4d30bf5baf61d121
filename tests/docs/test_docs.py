"""Every snippet runs, every command answers as shown, every link and every test named is there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from atomq import scripts
from tests.docs.pages import PAGES, RUN, Block, Stage, alike, blocks, prose, text_of
from tests.servers import ROOT, Server

ON_ONE_KIND = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
# Made by `make conformance`, `make versus-stock`, `make bench` and `make bench-core`.
MADE_BY_RUNS = {
    "docs/benchmarks-core.md",
    "docs/benchmarks.md",
    "docs/conformance.md",
    "docs/versus-stock.md",
}
HAND_MADE = [page for page in PAGES if page not in MADE_BY_RUNS]
# Where readers may be sent.
HOSTS = {
    "docs.celeryq.dev",
    "keepachangelog.com",
    "opentelemetry.io",
    "github.com",
    "redis.io",
    "semver.org",
    "valkey.io",
}


@pytest.fixture
def stage(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    import celery.app  # noqa: F401 - it makes our schemes known, once a process: they must stay
    from kombu import transport

    aliases = dict(transport.TRANSPORT_ALIASES)
    monkeypatch.chdir(tmp_path)  # where the commands of a page run, too
    made = Stage(server, tmp_path)
    yield made
    made.close()
    transport.TRANSPORT_ALIASES.clear()  # take_over() is for this page only
    transport.TRANSPORT_ALIASES.update(aliases)
    transport._transport_cache.clear()


# ── it runs ───────────────────────────────────────────────────────────────────────────────────


def _runs(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.kind in RUN]


@pytest.mark.slow
@pytest.mark.timeout(300)  # a page may start thirty programs, on a machine that is busy
@ON_ONE_KIND
@pytest.mark.parametrize("page", [page for page in HAND_MADE if _runs(page)])
def test_a_page_runs_from_top_to_bottom(page: str, stage: Stage) -> None:
    stage.needs(("redis-cli", "curl"), page)
    for block in _runs(page):
        stage.play(block)
    stage.end()


@pytest.mark.parametrize("page", HAND_MADE)
def test_no_block_is_of_a_kind_that_nobody_runs(page: str) -> None:
    """`sh` is for what a test cannot do: installing. A command of ours must be in a console."""
    for block in blocks(page):
        where = f"{page}:{block.line}"
        assert block.kind in (*RUN, "sh", "text", "mermaid"), where
        if block.kind == "sh":
            ours = re.compile(
                r"^\s*(\$ )?(atomq|python|celery)\b(?! -m (?:pip|venv))", re.MULTILINE
            )
            assert not ours.search(block.text), where


@pytest.mark.parametrize(
    ("said", "wanted", "same"),
    [
        ("a  b\nc\n", "a b\nc", True),
        ("a 17 ms\n", "a … ms", True),
        ("a\nb\nc\nd\n", "a\n…\nd", True),
        ("a\nb\n", "a", False),
        ("a\n", "a\nb", False),
        ("ab\n", "a", False),
    ],
)
def test_what_counts_as_the_output_shown(said: str, wanted: str, same: bool) -> None:
    assert alike(said, wanted) is same


# ── it is there ───────────────────────────────────────────────────────────────────────────────


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads)
    return set(plain)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if match := re.match(r"https?://([^/]+)", target):
            assert match[1] in HOSTS, f"{page}: {target}"
            continue
        path, _, anchor = target.partition("#")
        found = ROOT / page if not path else (ROOT / page).parent / path
        name = str(found.resolve().relative_to(ROOT))
        if name in MADE_BY_RUNS and not found.exists():
            continue
        assert found.exists(), f"{page}: {target}"
        assert not anchor or anchor in _anchors(found), f"{page}: {target}"


@cache
def _tests(file: str) -> set[str]:
    text = (ROOT / file).read_text(encoding="utf-8")
    return set(re.findall(r"^ *def (\w+)\(", text, re.MULTILINE))


@pytest.mark.parametrize("page", HAND_MADE)
def test_tests_that_are_named_exist(page: str) -> None:
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text_of(page)):
        assert (ROOT / file).is_file(), f"{page}: {file}"
        assert not name or name in _tests(file), f"{page}: {file}::{name}"


@cache
def _methods() -> dict[str, set[str]]:
    """What the classes of the package define, by their names."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "engine" / "atomq").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
                found.setdefault(node.name, set()).update(names)
    return found


def test_the_map_names_what_is_there() -> None:
    """Files, classes and methods; a renamed one would send the reader nowhere."""
    named = re.findall(r"`([\w/.]+)`", text_of("docs/internals.md"))
    for name in named:
        if name.endswith((".py", ".lua")):
            assert (ROOT / name).is_file() or (ROOT / "engine" / "atomq" / name).is_file(), name
        elif match := re.fullmatch(r"(?:flows\.|leases\.)?([A-Z]\w+)(?:\.(\w+))?", name):
            if match[1].isupper():
                continue  # UNKNOWN, LOST
            known = {**_methods(), "Call": {"again"}}.get(match[1])
            assert known is not None, name
            assert match[2] is None or match[2] in known, name
    assert len(named) > 50


def test_the_map_names_each_script_that_pushes_a_token() -> None:
    """And no other: the first thing that a reader looks for."""
    row = re.search(r"\| Where is a token pushed\? \|.*", text_of("docs/internals.md"))
    assert row is not None
    push = re.compile(r'"RPUSH", [\w\[\]]+, "1"\)')
    pushing = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "lua").rglob("*.lua")
        if push.search(path.read_text(encoding="utf-8"))
    }
    assert pushing == set(re.findall(r"`(lua/[\w/]+\.lua)`", row[0]))


@pytest.mark.parametrize("page", HAND_MADE)
def test_commands_that_are_named_exist(page: str) -> None:
    """`atomq …` and `make …`, in a sentence too, with their options."""
    import typer

    from atomq.cli.app import app

    root = typer.main.get_command(app)
    for line in re.findall(r"`(atomq [a-z][^`]*)`", text_of(page)):
        words, command = line.split()[1:], root
        while words and hasattr(command, "commands"):
            command = command.get_command(None, words.pop(0))
            assert command is not None, f"{page}: {line}"
        known = {option for parameter in command.params for option in parameter.opts}
        unknown = {w.partition("=")[0] for w in words if w.startswith("--")} - known
        assert not unknown, f"{page}: {line}"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", text_of(page), re.MULTILINE)) <= targets


def test_each_promise_names_its_tests() -> None:
    row = re.compile(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
    rows = row.findall(text_of("lua/README.md"))
    assert [int(number) for number, _ in rows] == list(range(1, 13))
    assert all("::test_" in tests for _, tests in rows)


def test_each_trap_names_its_tests() -> None:
    traps = text_of("docs/reliability.md").partition("### Traps")[2]
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", traps, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 13))
    assert all("::test_" in tests for _, tests in rows)


@cache
def _long(file: str) -> set[str]:
    """The tests of a file that are long, or are for some of what they try."""
    text = (ROOT / file).read_text(encoding="utf-8")
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    some = r"" if "pytest.mark.long,\n]" in text else r"mark\.long|\bLONG\b|seldom\("
    return {node.name for node in nodes if re.search(some, ast.unparse(node))}


def test_each_client_meets_each_trouble_in_a_test() -> None:
    part = (
        text_of("docs/reliability.md")
        .partition("## Each client in each trouble")[2]
        .partition("###")[0]
    )
    tests = dict(re.findall(r"^\| (\w) \| `(tests/[^`]+::test_\w+)` \|$", part, re.MULTILINE))
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    cells = [row for row in rows if row[0] in ("one server", "Sentinel", "cluster")]
    clients = next(row for row in rows if row[0] == "where")[2:]
    assert len(clients) == 6
    assert [row[0] for row in cells].count("cluster") == 8
    named = set()
    for where, trouble, *found in cells:
        assert len(found) == len(clients), trouble
        for client, letters in zip(clients, found, strict=True):
            assert letters, (where, trouble, client)
            for letter in letters.split():
                named.add(letter[0])
                file, _, test = tests[letter[0]].partition("::")
                assert letter[1:] == "" or test in _long(file), (where, trouble, letter)
    assert named == set(tests)


def test_the_engine_s_page_names_every_script_and_every_field() -> None:
    page = text_of("lua/README.md")
    lua = "\n".join(path.read_text() for path in (ROOT / "lua").rglob("*.lua"))
    fields = set(re.findall(r'(?:stats|KEYS\[at \+ 8\]), "(\w+)"', lua))
    for script in scripts.names():
        if "meta" in (key.name for key in scripts.get(script).contract.keys):
            text = scripts.get(script).text
            fields |= set(re.findall(r'HSET", (?:meta|KEYS\[2\]), "(\w+)"', text))
            fields |= set(re.findall(r'(?:M|delivering)\.change\(this, "(\w+)"', text))
            fields |= set(re.findall(r'changes\[#changes \+ 2\] = "(\w+)"', text))
    assert len(fields) > 15
    missing = [name for name in sorted({*scripts.names(), *fields}) if f"`{name}`" not in page]
    assert not missing
    codes = {code for name in scripts.names() for code in scripts.get(name).contract.errors}
    assert all(f"`{code} " in page for code in codes)


# ── it is up to date ──────────────────────────────────────────────────────────────────────────


def test_tables_are_those_of_the_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.tables", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# ── it is fit to print ────────────────────────────────────────────────────────────────────────

# Paths of one machine, unfinished ends, and words that praise instead of saying something.
_UNFIT = re.compile(
    r"/(?:home|root|Users|work|tmp|private)/\w|\b(?:TODO|FIXME|XXX|TBD|lorem)\b|"
    r"\b(?:blazing\w*|seamless\w*|robust\w*|powerful\w*|effortless\w*|enterprise|cutting-edge|"
    r"battle-tested|revolutionary|awesome|world-class|lightning|leverag\w+|simply|obviously)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", PAGES)
def test_nothing_unfit_is_written(page: str) -> None:
    for number, line in enumerate(text_of(page).splitlines(), 1):
        assert not (found := _UNFIT.search(line)), f"{page}:{number}: {found and found[0]}"


def test_the_words_of_the_glossary_are_used() -> None:
    """The glossary also lists words that no page has, with what stands in their place."""
    table = text_of("docs/glossary.md").partition("## Words that these pages avoid")[2]
    cells = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
    words = [word for cell in cells[1:] for word in cell.split(", ")]
    assert len(words) > 8
    avoided = re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)
    found = [
        f"{page}:{number}: {match[0]}"
        for page in PAGES
        for number, line in enumerate(prose(page).splitlines(), 1)
        if (match := avoided.search(line)) and not (page == "docs/glossary.md" and line in table)
    ]
    assert found == []


# In sentences of the engine too: its docstrings are the reference, its messages are read by users.
_PEOPLE = re.compile(r"(?i)\b(?:who|whom|whoever|(?:some|any|every|no)body|someone|told)\b")


def test_the_engine_and_its_scripts_name_the_one_that_is_meant() -> None:
    """Docstrings, messages and comments; a name in the code may be any word."""
    found = []
    for file in (ROOT / "engine").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if not _PEOPLE.search(text):
            continue
        nodes = ast.walk(ast.parse(text))
        said = [each.value for each in nodes if isinstance(each, ast.Constant)]
        said += re.findall(r"(?m)(?:^|\s)#.*$", text)
        found += [(file.name, each) for each in said if _PEOPLE.search(str(each))]
    for file in (ROOT / "lua").rglob("*.lua"):
        comments = re.findall(r"--.*$", file.read_text(encoding="utf-8"), re.MULTILINE)
        found += [(file.name, each) for each in comments if _PEOPLE.search(each)]
    assert found == []


_SENTENCE_ENDS = re.compile(r"(?<=[.!?:;])\s+(?=[A-Z`*\[(])")
_MOST_WORDS = 36


@pytest.mark.parametrize("page", [page for page in HAND_MADE if page != "CHANGELOG.md"])
def test_no_sentence_is_too_long_to_read_once(page: str) -> None:
    """Of paragraphs and lists; a table's cell is short by itself."""
    text = re.sub(r"^(?: {4}|\||#).*$", "", prose(page, code="`x`"), flags=re.MULTILINE)
    text = re.sub(r"`x`(?:[\s,]+`x`)+", "`x`", text)  # a list of names is read as one
    for paragraph in re.split(r"\n\s*\n|\n(?=[-*] |\d+\. )", text):
        for sentence in _SENTENCE_ENDS.split(" ".join(paragraph.split())):
            assert len(sentence.split()) <= _MOST_WORDS, f"{page}: {sentence}"


# Words in the headings of docs/troubleshooting.md that are of others: Celery, servers, Python.
_OF_OTHERS = {
    "eta", "countdown", "acks_late", "delay()", "ReadOnlyError", "UNBLOCKED", "put", "wait",
    "InconsistencyError: Probably the key ('_kombu.binding.celery') has been removed",
    "OOM command not allowed", "NOSCRIPT", "NOPERM", "…reply.celery.pidbox",
    "certificate verify failed", "Reject(requeue=True)", "KeyError: 'No such transport: atomq'",
    "KeyError: 'zstd'", "atomq queues", "fixture 'atomq_queue' not found",
}  # fmt: skip


def test_what_troubleshooting_quotes_is_said_by_this_build() -> None:
    """Messages, reasons and errors that head an entry; and each entry has a cause and a cure."""
    files = [*(ROOT / "engine").rglob("*.py"), *(ROOT / "lua").rglob("*.lua")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    source = re.sub(r'"\s*f?"|\{[^{}]*\}', "", source)  # what is joined, and what is filled in
    entries = re.split(r"^### ", text_of("docs/troubleshooting.md"), flags=re.MULTILINE)[1:]
    assert len(entries) >= 25
    for entry in entries:
        heading = entry.partition("\n")[0]
        for quoted in {*re.findall(r"`([^`]+)`", heading)} - _OF_OTHERS:
            for part in filter(None, re.split(r"\s*…\s*|\s\(|\?\)|atomq: ", quoted)):
                assert part in source, f"{heading}: {part}"
        assert re.search(r"^\*\*Why", entry, re.MULTILINE), heading
        assert re.search(r"^\*\*(Do\.|Why, and do)", entry, re.MULTILINE), heading


def test_the_readme_fits_a_terminal() -> None:
    hidden = re.compile(r"^<!--.*?-->\n", re.DOTALL | re.MULTILINE)
    shown = hidden.sub("", text_of("README.md"))
    lines = shown.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert len(lines) <= 78
