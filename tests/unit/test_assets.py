"""The scripts and schemas are found in a checkout and in an installed wheel, or missed loudly."""

from __future__ import annotations

from pathlib import Path

import pytest

from atomq import assets


def test_found_here() -> None:
    assert (assets.lua_dir() / "claim.lua").is_file()
    assert list(assets.schemas_dir().glob("*.schema.json"))


def test_the_installed_copy_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lua").mkdir()
    monkeypatch.setattr(assets, "_PACKAGE", tmp_path)
    assert assets.lua_dir() == tmp_path / "lua"


def test_a_broken_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "_PACKAGE", tmp_path)
    monkeypatch.setattr(assets, "_CHECKOUT", tmp_path)
    with pytest.raises(FileNotFoundError, match="install it again"):
        assets.schemas_dir()
