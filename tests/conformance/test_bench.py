"""The programs of `tests/bench` that print what pages show, in small."""

from __future__ import annotations

from argparse import Namespace

import pytest

from tests.bench import shards


@pytest.mark.long
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_what_a_message_costs_a_cluster_is_a_table(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "REST", 0.01)
    given = {"rounds": 1, "messages": 1, "only": "", "server": kind}
    given |= {"replicas": False, "free": True, "instructions": False}
    head, line, *rows = shards.table(Namespace(**given))
    assert head.count("|") == line.count("|")
    assert [row.split(" | ")[0] for row in rows] == [f"| {work.name}" for work in shards.WORKS]
    for row in rows:
        cells = row.strip("| ").split(" | ")
        assert len([float(cell.split()[0]) for cell in cells[1:] if cell.strip()]) >= 7
