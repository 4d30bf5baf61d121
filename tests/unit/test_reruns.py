"""Which tests are run again when they fail."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import conftest
from tests.servers import ROOT


class Found:
    """A test that pytest has found in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "test_it.py"
        self.reruns = 0

    def get_closest_marker(self, _name: str) -> None:
        """It has none."""

    def add_marker(self, mark: Any) -> None:
        assert mark.name == "flaky"
        self.reruns = mark.kwargs["reruns"]


def test_what_fails_is_run_again_in_contrib_and_acceptance_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conftest, "RERUNS", 2)
    config: Any = SimpleNamespace(getoption={"--servers": "all", "--only": None}.get)
    found: list[Any] = [Found(path) for path in (ROOT / "tests").iterdir() if path.is_dir()]
    conftest.pytest_collection_modifyitems(config, found)
    again = {one.path.parent.name: one.reruns for one in found if one.reruns}
    assert again == {"acceptance": 2, "contrib": 2}
