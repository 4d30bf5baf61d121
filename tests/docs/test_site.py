"""The documentation site is built, and its readers and its errors find their way."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from atomq import errors
from tests.docs import site
from tests.docs.pages import PAGES, text_of
from tests.servers import ROOT


@pytest.fixture(scope="module")
def html() -> Path:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.site"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return site.HTML


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing(html: Path) -> None:
    """Dead links and anchors are warnings, and a warning ends the build."""
    pages = sorted(html.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        text = page.read_text(encoding="utf-8")
        # <a href> may lead out; what the browser fetches by itself lies beside the page.
        tags = re.findall(r"<(?:script|img|iframe)\b[^>]*|<link\b[^>]*stylesheet[^>]*", text)
        outside = [tag for tag in tags if re.search(r'(?:src|href)="?(?:https?:)?//', tag)]
        assert not outside, f"{page.name}: {outside}"
        assert "<!-- python" not in text, f"{page.name}: a hidden block is shown to nobody"
    assert "atomq scripts load" in (html / "reference" / "cli.html").read_text()
    assert "max_deliveries" in (html / "reference" / "api.html").read_text()


def test_a_link_that_leads_out_of_docs_leads_to_where_its_file_lies() -> None:
    text, linked = site.laid_out(
        "docs/guides/a.md",
        "<!-- python\nx = 1\n-->\n"
        "[s](../../lua/README.md#keys) [l](../library.md) [w](https://a/b) [h](#x)\n"
        "`[no](../x.md)`\n```text\n[no](../x.md)\n```\n",
    )
    assert text == (
        "[s](../scripts.md#keys) [l](../library.md) [w](https://a/b) [h](#x)\n"
        "`[no](../x.md)`\n```text\n[no](../x.md)\n```\n"
    )
    assert linked == {"lua/README.md", "docs/library.md"}


def test_each_page_is_in_the_navigation_once() -> None:
    named = re.findall(
        r"^ +- (?:[^:\n]+: )?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE
    )
    assert sorted(named) == sorted({site.place(page) for page in (*PAGES, *site.OUTSIDE)})


def test_each_exception_has_a_section_and_names_it() -> None:
    page = text_of("docs/reference/errors.md")
    known = {name: thing for name, thing in vars(errors).items() if isinstance(thing, type)}
    for name, thing in known.items():
        assert f"\n## {name}\n" in page, name
        assert f"docs/reference/errors.md#{name.lower()}." in (thing.__doc__ or ""), name
    assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) == known.keys()
