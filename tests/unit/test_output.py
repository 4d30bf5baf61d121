"""Tables: whatever the width, a row takes one line, and what is cut says so."""

from __future__ import annotations

import sys
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from atomq.cli.output import Column, Output, table

COLUMNS = (
    Column("queue"),
    Column("id"),
    Column("dead", "right"),
    Column("detail", gives=True, spare=2),
    Column("size", "right", spare=1),
)
WORDS = st.text("abc-", min_size=1, max_size=70)


def printed(columns: tuple[Column, ...], rows: list[tuple[str, ...]], width: int) -> list[str]:
    console = Console(file=StringIO(), width=width, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table(columns, rows, width))
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_wide_is_wide_in_any_terminal(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    file = StringIO()
    monkeypatch.setattr(file, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", file)
    Output(wide=True).table((Column("id"),), [("x" * 200,)])
    assert "x" * 200 in file.getvalue()


@given(
    st.lists(st.tuples(WORDS, WORDS, st.integers(0, 9999), WORDS, st.just("1.2 KiB")), min_size=1),
    st.integers(40, 120),
)
def test_a_row_is_one_line_that_fits(rows: list[tuple[str, ...]], width: int) -> None:
    head, *lines = printed(COLUMNS, rows, width)
    assert all(len(line) <= width for line in lines)
    if caption := lines[len(rows) :]:
        assert " ".join(caption).startswith("--wide shows ")
    for line, row in zip(lines, rows, strict=False):
        shown = line.split()
        assert row[0] == shown[0] or (shown[0].endswith("…") and row[0].startswith(shown[0][:-1]))
        assert f"{row[2]:,}" in shown  # a number is never cut
    assert head.split()[:3] == ["queue", "id", "dead"]


def test_what_can_be_spared_goes_before_names_are_cut() -> None:
    rows = [("q" * 20, "i" * 20, "7", "d" * 60, "1.2 KiB")]
    assert "…" not in "".join(printed(COLUMNS, rows, 200))
    head, row, *_ = printed(COLUMNS, rows, 80)
    assert head.split() == ["queue", "id", "dead", "detail", "size"]
    assert "d…" in row
    head, row, caption = printed(COLUMNS, rows, 52)
    assert head.split() == ["queue", "id", "dead"]
    assert row.split() == ["q" * 20, "i" * 20, "7"]
    assert caption == "--wide shows detail, size too"
    _, row, _ = printed(COLUMNS, rows, 40)
    assert row.split()[0].endswith("…")


def test_prose_folds() -> None:
    columns = (Column("name"), Column("what it is", folds=True))
    lines = printed(columns, [("n" * 30, "some words " * 12)], 80)
    assert len(lines) == 4
    assert all("…" not in line for line in lines)
