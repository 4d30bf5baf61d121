"""The page of `make bench` and its plots, drawn of a sample; the backlog of copies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from atomq import Queue
from benchmarks import deep, page
from benchmarks.environments import FILES
from benchmarks.field import FIELD
from benchmarks.plot import Line, draw, median, short
from tests.servers import ROOT, Server

SAMPLE: dict[str, Any] = json.loads((ROOT / "tests/unit/benchmarks_sample.json").read_text())
ON_ONE_KIND = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def test_a_table_is_sorted_and_shows_losing_and_missing_lines_too() -> None:
    (section,) = [one for one in page.SECTIONS if one.name == "publish"]
    lines = page.table(section, "publish 100", SAMPLE)
    assert [re.split(r" *\| *", line)[1:3] for line in lines[2:]] == [
        ["floor", "9,000 (8,000–10,000)"],
        ["**atomq**", "5,000"],
        ["other", "— failed: no answer within 30 s"],
        ["gone", "— no release of it for this Python"],
    ]


def test_the_order_of_costs_begins_with_the_least() -> None:
    (section,) = [one for one in page.SECTIONS if one.name == "wake"]
    lines = page.table(section, "wake 1", SAMPLE)
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "other",
        "**atomq**",
        "floor",
        "gone",
    ]
    assert "— the bare scripts do not wait" in lines[4]


def test_the_page_names_each_picture_that_is_written(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/old.svg").write_text("of a former run")
    page.write(SAMPLE, tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    named = set(re.findall(r"benchmarks/(\w+\.\w+)", text))
    assert named == {path.name for path in (tmp_path / "benchmarks").iterdir()}
    assert json.loads((tmp_path / "benchmarks/results.json").read_text()) == SAMPLE
    assert "quick run" in text
    assert "| **atomq** | atomq 0.1.0 | the library |" in text
    assert "**absent**: no release of it for this Python." in text


def test_a_picture_is_well_formed_and_nothing_in_it_overlaps_the_edge() -> None:
    for section in page.SECTIONS:
        if not any(part in SAMPLE["found"] for part in section.parts):
            continue
        root = ET.fromstring(page.picture(section, SAMPLE))
        width = float(root.attrib["width"])
        for node in root.iter("{http://www.w3.org/2000/svg}text"):
            text, x = node.text or "", float(node.attrib["x"])
            ends = node.attrib.get("text-anchor", "start")
            reach = 6.6 * len(text)  # of a character at 12 px
            left, right = {
                "start": (x, x + reach),
                "middle": (x - reach / 2, x + reach / 2),
                "end": (x - reach, x),
            }[ends]
            assert left >= 0, text
            assert right <= width, text


def test_what_is_said_in_a_plot_is_escaped() -> None:
    drawn = draw("a < b", "ms", [Line("<x>", ours=False, runs=((),), said="a & b")])
    assert ET.fromstring(drawn) is not None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0123, "0.0123"), (0.001, "0.001"), (7.856, "7.86"), (12345.6, "12,346")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_a_median_of_two_lies_between() -> None:
    assert median([3.0, 1.0]) == 2.0
    assert median([3.0, 1.0, 9.0]) == 3.0


def test_each_entrant_has_its_files() -> None:
    """The adapters themselves cannot be imported here: they need their peers."""
    for entrant in FIELD:
        module, _, name = entrant.adapter.partition(":")
        text = (ROOT / f"benchmarks/peers/{module}.py").read_text()
        assert f"class {name}(" in text
        assert (FILES / f"{entrant.environment}.txt").exists()
    assert len({entrant.name for entrant in FIELD}) == len(FIELD)
    for file in FILES.glob("*.txt"):
        for line in file.read_text().splitlines():
            assert "==" in line or line.startswith(("#", "--editable")), (
                f"{file}: {line} is not pinned"
            )


@ON_ONE_KIND
def test_a_backlog_is_made_of_copies_of_one_message(server: Server) -> None:
    db = server.client()
    with Queue("bench", server.url) as queue:
        queue.put({"n": 1}, delay=3600)
        assert deep.fill(db, 500, later=True) == 500
        assert queue.state().delayed == 500
        assert len({entry.name for entry in queue.peek("delayed", limit=500)}) == 500
        db.flushall()
        queue.put({"n": 1})
        assert deep.fill(db, 50, later=False) == 50
        assert queue.state().ready == 50
        assert len({message.id for message in queue.consume(timeout=0)}) == 50
