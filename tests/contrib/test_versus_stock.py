"""The scenarios of `make versus-stock` run, and what they promise of atomq holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.versus.__main__ import COSTS, arguments, page, run
from tests.bench.versus.safety import SCENARIOS
from tests.bench.versus.side import CLUSTER, Group
from tests.contrib.rig import KIND

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def _met(*words: str, side: str = "atomq") -> tuple[list[Group], set[str]]:
    """What these scenarios tell of atomq, and the names of those that promise something."""
    chosen = [each for word in words for each in ("--only", word)]
    groups = run(arguments(["--quick", "--side", side, "--server", KIND, *chosen]))
    rows = {(group.name, row.what): row for group in groups for row in group.rows}
    missed = {name: row.atomq or row.cluster for name, row in rows.items() if row.met is False}
    assert not missed
    return groups, {name for name, _ in rows if rows[name, _].met}


def test_nothing_is_lost_or_started_twice_on_atomq() -> None:
    groups, met = _met(*(scenario.name for scenario in SCENARIOS))
    assert {"sigkill", "recovery", "long task", "eta", "full memory", "poison"} < met
    assert {"restore", "reconnect"} < met
    assert "| sigkill |" not in page(groups, {}, quick=True)
    assert "## sigkill" in page(groups, {}, quick=True)


@pytest.mark.parametrize(
    "word",
    [
        "reconnect",
        *(
            pytest.param(each.name, marks=pytest.mark.long)
            for each in SCENARIOS
            if each.on_a_cluster and each.name != "reconnect"
        ),
    ],
)
def test_nothing_is_lost_or_started_twice_on_a_cluster(word: str) -> None:
    _, met = _met(word, side=CLUSTER)
    assert word in met


@pytest.mark.alone
def test_what_a_task_costs_on_atomq() -> None:
    _, met = _met(*COSTS)
    assert {"round trips", "at rest"} <= met


def test_a_scenario_tells_stock_from_atomq(tmp_path: Path) -> None:
    """The table can fail: what it asserts of atomq does not hold on stock."""
    (group,) = run(arguments(["--quick", "--only", "poison", "--server", KIND]))
    lost = next(row for row in group.rows if row.what.startswith("lost"))
    assert lost.stock != lost.atomq
    assert lost.met
