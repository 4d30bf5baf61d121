"""What the docs show is run; what they point to is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import options
from tests.servers import Server

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "lua" / "README.md", *(ROOT / "docs").glob("*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
one_kind = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@one_kind
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_snippets_run_in_their_order(server: Server, page: Path, tmp_path: Path) -> None:
    """One program a page; `url` is a server's."""
    program = f"url = {server.url!r}\n" + "\n".join(blocks(page, "python"))
    program = program.replace("/tmp/atomq-readme", str(tmp_path / "embedded"))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    subprocess.run(
        [sys.executable, "-m", "atomq.cli", "embedded", "stop", str(tmp_path / "embedded")],
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


@one_kind
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_that_are_shown_exist(server: Server, page: Path) -> None:
    """Every `atomq …` and `make …` on a page is one the tools know."""
    text = page.read_text()
    commands = set(re.findall(r"(?:^    |`)atomq ((?:[a-z][a-z-]* ?)+)", text, re.MULTILINE))
    for words in sorted(commands):
        done = subprocess.run(
            [sys.executable, "-m", "atomq.cli", *words.split(), "--help"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"atomq {words}: {done.stderr}"
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:|[ :]{target}[ :]", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_each_promise_names_tests_that_are_there() -> None:
    text = (ROOT / "lua" / "README.md").read_text()
    promises = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in promises] == list(range(1, 13))
    for _, named in promises:
        for file, test in re.findall(r"`([\w/.]+)(?:::(\w+))?`", named):
            source = (ROOT / file).read_text()
            assert not test or f"def {test}(" in source, f"{file}::{test}"


def test_the_options_table_is_up_to_date() -> None:
    page = options.PAGE.read_text()
    assert page == options.made(page), "python -m tests.docs.options"


def test_the_readme_is_one_screen() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 75
    assert max(map(len, lines)) <= 110
