"""The documentation site: `python -m tests.docs.site` lays its pages out and builds it strictly.

A page stands where GitHub shows it, and links to what lies beside it there: ../lua/README.md, a
schema. The site holds pages alone. So they are laid out in .site/pages, links that lead out
of docs/ lead to where their file lies here, and what only the tests read (hidden blocks, marks of
tables) is left out. The script that draws the diagrams lies beside the pages: the theme would
have every reader's browser fetch it from elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path, PurePosixPath

from tests.docs.commands import reference
from tests.servers import ROOT

PAGES = ROOT / ".site" / "pages"
HTML = ROOT / ".site" / "html"
# Pages that stand outside of docs/, and their places in the site.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "lua/README.md": "scripts.md",
    "tests/README.md": "tests.md",
    "examples/celery_app/README.md": "examples/celery_app.md",
    "examples/killed_worker/README.md": "examples/killed_worker.md",
}
# Mermaid's own dist/mermaid.min.js, release 11.16.0, by its SHA-256: `diagrams` in pyproject.toml.
DIAGRAMS = "assets/mermaid.min.js"
DIAGRAMS_ARE = "74d7c46dabca328c2294733910a8aa1ed0c37451776e8d5295da38a2b758fb9b"
_LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")
_HIDDEN = re.compile(r"^<!--.*?-->\n", re.DOTALL | re.MULTILINE)
_COMMANDS = "<!-- made: commands -->"
_FENCES = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def place(file: str) -> str:
    """Where a file of the checkout lies in the site."""
    return OUTSIDE.get(file, file.removeprefix("docs/"))


def laid_out(file: str, text: str) -> tuple[str, set[str]]:
    """A page as the site has it, and the other files that it links to, from the root."""
    here, linked = PurePosixPath(place(file)).parent, set()

    def moved(match: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(file).parent / match[2])
        linked.add(target)
        return match[1] + os.path.relpath(place(target), here)

    def outside_of_code(part: str) -> str:
        return part if part.startswith("`") else _LINK.sub(moved, part)

    text = _HIDDEN.sub("", text.replace(_COMMANDS, reference() if _COMMANDS in text else ""))
    return "".join(map(outside_of_code, _FENCES.split(text))), linked


def diagrams() -> Path:
    """The script that draws diagrams, as `make install` brings it."""
    try:
        found = [file for file in files("mermaidx") or () if file.match("assets/mermaid.js")]
    except PackageNotFoundError:
        sys.exit("the site: no script that draws diagrams: `make install` brings it")
    script = Path(str(found[0].locate()))
    if hashlib.sha256(script.read_bytes()).hexdigest() != DIAGRAMS_ARE:
        sys.exit(f"the site: {script} is not the release of Mermaid that tests/docs/site.py names")
    return script


def lay_out() -> None:
    """Write all pages, what they link to, and the script that draws diagrams."""
    shutil.rmtree(PAGES, ignore_errors=True)
    found = [str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*") if path.is_file()]
    waiting = {*found, *OUTSIDE}
    seen: set[str] = set()
    while waiting:
        file = waiting.pop()
        seen.add(file)
        if not (ROOT / file).is_file():
            continue  # MkDocs names the page and the link
        there = PAGES / place(file)
        there.parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".md"):
            text, linked = laid_out(file, (ROOT / file).read_text(encoding="utf-8"))
            there.write_text(text, encoding="utf-8")
            waiting |= linked - seen
        else:
            shutil.copy(ROOT / file, there)
    shutil.copy(diagrams(), PAGES / DIAGRAMS)


def main() -> int:
    """Lay the pages out and build the site; any warning is a failure."""
    lay_out()
    shutil.rmtree(HTML, ignore_errors=True)
    # Not --quiet: what is not printed does not count as a warning.
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        print(done.stdout, end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
