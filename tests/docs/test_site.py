"""The documentation site is built, and its readers and its errors find their way."""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from atomq import errors
from tests.docs import site
from tests.docs.pages import PAGES, text_of
from tests.servers import ROOT
from tests.web.browser import Browser, needed, opened

# Scripts that the theme fetches from elsewhere: where there is no `mermaid`, which each page has by
# assets/diagrams.js; and in a browser older than 2020.
SPARED = {
    "https://unpkg.com/mermaid@11/dist/mermaid.min.js",
    "https://unpkg.com/resize-observer-polyfill",
}


@pytest.fixture(scope="module")
def html(testrun_uid: str) -> Path:
    """The site, built by the first process of this run that needs it; others wait for it."""
    pytest.importorskip("mkdocs")
    site.HTML.parent.mkdir(exist_ok=True)
    with (site.HTML.parent / "built-by").open("a+", encoding="utf-8") as run:
        fcntl.flock(run, fcntl.LOCK_EX)
        run.seek(0)
        if run.read() != testrun_uid:
            done = subprocess.run(
                [sys.executable, "-m", "tests.docs.site"], cwd=ROOT, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
            run.truncate(0)
            run.write(testrun_uid)
            run.flush()
    return site.HTML


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """No name leads anywhere from it."""
    with opened(*needed()) as browser:
        yield browser


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
        assert "assets/diagrams.js" in text, page.name
        assert "<!-- python" not in text, f"{page.name}: a hidden block is shown to nobody"
    for script in html.rglob("*.js"):
        text = script.read_text(encoding="utf-8")
        fetched = set(
            re.findall(
                r"""["'`](https?://(?:unpkg|[\w.-]*cdn)[^"'`]*|https?://[^"'`\s]+\.m?js)["'`]""",
                text,
            )
        )
        assert fetched <= SPARED, script.name
    assert "atomq scripts load" in (html / "reference" / "cli.html").read_text()
    assert "max_deliveries" in (html / "reference" / "api.html").read_text()


@pytest.mark.slow
def test_every_diagram_is_drawn_from_the_disk_without_a_network(
    html: Path, browser: Browser
) -> None:
    """On a page for each kind of diagram, as the reader has it; those of the others on the last."""
    browser.scripts(True)
    for name, width in (("internals", 1280), ("concepts/leases", 390)):
        page = html / f"{name}.html"
        browser.size(width)
        browser.dark(width < 600)
        browser.driver.get(page.as_uri())
        texts = _diagrams(page)
        assert texts
        drawn = "return document.querySelectorAll('div.mermaid').length"
        browser.until(lambda: browser.js(drawn) == len(texts), f"{name}: {len(texts)} diagrams")  # noqa: B023
        kinds = [svg.get("aria-roledescription") for svg in browser.nodes("svg")]
        assert len([kind for kind in kinds if kind not in (None, "error")]) == len(texts), name
        page_width, window_width = browser.widths()
        assert page_width == window_width, name
    for page in sorted(html.rglob("*.html")):
        for number, text in enumerate(_diagrams(page)):
            svg = browser.js(
                f"return mermaid.render('d{number}', {json.dumps(text)}).then(it => it.svg)"
            )
            assert "<svg" in svg, page.name
            assert 'aria-roledescription="error"' not in svg, page.name
    # What cannot be fetched is a complaint. The theme's index of words is read from a server only.
    assert not [words for words in browser.complaints() if "search_index.js" not in words]


def _diagrams(page: Path) -> list[str]:
    """The texts that are to be drawn."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r'<pre class="mermaid"><code>(.*?)</code></pre>', text, re.DOTALL)
    return [unescape(each) for each in found]


@pytest.mark.slow
@pytest.mark.parametrize("wide", [390, pytest.param(1280, marks=pytest.mark.long)])
def test_no_page_scrolls_sideways(wide: int, html: Path, browser: Browser) -> None:
    """Code and tables scroll in their blocks, where no script runs too."""
    browser.scripts(False)
    browser.size(wide)
    for page in sorted(html.rglob("*.html")):
        browser.driver.get(page.as_uri())
        assert browser.widths() == (wide, wide), page.relative_to(html)


@pytest.mark.parametrize("page", sorted({*PAGES, *site.OUTSIDE}))
def test_code_behind_a_list_is_code_in_the_site_too(page: str) -> None:
    """GitHub shows an indented block behind a list as code, MkDocs as a part of the list."""
    assert not re.search(r"^[-*] .*(?:\n +\S.*)*\n\n    [^\s\d*-]", text_of(page), re.MULTILINE)


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
