"""Versions, the changelog, tags and their notes agree."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from importlib import metadata

import pytest

from tests.docs.pages import PAGES, text_of
from tests.servers import ROOT

KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]  # of Keep a Changelog
_DATED = re.compile(r"(\d+\.\d+\.\d+\S*) - \d{4}-\d{2}-\d{2}")


def sections(changelog: str) -> dict[str, str]:
    """What stands under each `## heading`; a release's notes are the text under its own."""
    parts = re.split(r"^## (.+)\n", changelog, flags=re.MULTILINE)
    return dict(zip(parts[1::2], map(str.strip, parts[2::2]), strict=True))


def without_notes(tags: list[str], changelog: str) -> list[str]:
    """The tags of releases under whose version and date nothing is written."""
    noted = {
        f"v{match[1]}"
        for head, text in sections(changelog).items()
        if (match := _DATED.fullmatch(head)) and text
    }
    return [tag for tag in tags if re.match(r"v\d", tag) and tag not in noted]


def test_versions_agree() -> None:
    """The package's, and the newest in the changelog."""
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    heads = list(sections(text_of("CHANGELOG.md")))
    versions = [match for head in heads if (match := re.match(r"\d+\.\d+\.\d+\S*", head))]
    assert versions[0][0] == project["version"], heads
    assert len(versions) + heads.count("Unreleased") == len(heads), heads
    assert heads.index("Unreleased") == 0 if "Unreleased" in heads else True
    assert metadata.version("atomq") == project["version"], "make install"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_a_page_names_no_other_version(page: str) -> None:
    named = re.findall(r"\batomq(?: is|-| +)(\d+\.\d+\.\d+)", text_of(page))
    assert set(named) <= {metadata.version("atomq")}


def test_changes_are_grouped_and_none_stands_twice() -> None:
    for head, text in sections(text_of("CHANGELOG.md")).items():
        groups = re.findall(r"^### (.+)$", text, re.MULTILINE)
        assert groups == [kind for kind in KINDS if kind in groups], head
        entries = re.findall(r"^- .+$", text, re.MULTILINE)
        assert not [entry for entry in entries if entries.count(entry) > 1], head


def test_each_tag_has_its_notes() -> None:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("no checkout of git, so no tags")
    done = subprocess.run(["git", "tag"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert without_notes(done.stdout.split(), text_of("CHANGELOG.md")) == []


@pytest.mark.parametrize(
    ("head", "text", "missing"),
    [
        ("1.2.0 - 2030-01-31", "- A change.", []),
        ("1.2.0 - 2030-01-31", "", ["v1.2.0"]),
        ("1.2.0 (unreleased)", "- A change.", ["v1.2.0"]),
        ("1.2.1 - 2030-01-31", "- A change.", ["v1.2.0"]),
    ],
)
def test_what_counts_as_notes(head: str, text: str, missing: list[str]) -> None:
    assert without_notes(["v1.2.0", "nightly"], f"# Changelog\n\n## {head}\n\n{text}\n") == missing
