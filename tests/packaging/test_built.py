"""The wheel and the sdist hold what they need, and work away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.servers import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with both: the wheel is built from the sdist, as pip does it."""
    there = tmp_path_factory.mktemp("built")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", there, ROOT], capture_output=True, text=True
    )
    words = done.stdout + done.stderr
    if done.returncode and "hatchling" in words and "No matching distribution" in words:
        pytest.skip("the build backend cannot be had: no package registry")
    assert done.returncode == 0, words
    return there


def run(installed: Path, directory: Path, *words: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ATOMQ_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=directory,
        env={**environment, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_works_alone(built: Path, tmp_path: Path) -> None:
    """From any directory, with the scripts and schemas that it brings."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = run(installed, elsewhere, "-c", "import atomq, atomq.assets as a; print(a.lua_dir())")
    assert where.strip() == str(installed / "atomq" / "lua")
    listed = run(installed, elsewhere, "-m", "atomq.cli", "scripts", "list")
    for script in (ROOT / "lua").glob("*.lua"):
        assert f"\n{script.stem} " in f"\n{listed}"
    for name in ("lua", "schemas"):
        for source in (ROOT / name).rglob("*.*"):
            packed = installed / "atomq" / source.relative_to(ROOT)
            assert packed.read_bytes() == source.read_bytes(), source
    for source in (ROOT / "engine" / "atomq" / "web").rglob("*.*"):
        if source.suffix in (".py", ".pyc"):
            continue
        assert (installed / source.relative_to(ROOT / "engine")).exists(), source
    assert (installed / "atomq" / "py.typed").exists()
    strange = [p for p in installed.iterdir() if p.name.partition("-")[0] != "atomq"]
    assert strange == [], "one import package, and nothing beside it"


def test_the_bare_install_is_light_and_works(built: Path, tmp_path: Path) -> None:
    """redis-py and hiredis, nothing else; what stands in an extra is not imported unasked."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    needed = [line for line in lines if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert [line.split()[1] for line in needed] == ["redis[hiredis]<9,>=6.4"]
    of_celery = [line.split()[1] for line in lines if line.endswith("extra == 'celery'")]
    # The transport to which a rollback leads imports packaging, and requires it of nobody.
    assert sorted(of_celery) == ["celery<6,>=5.7;", "kombu>=5.7;", "packaging;"]
    code = (
        "import sys\n"
        "for name in 'typer rich click pydantic jsonschema attr attrs referencing rpds'.split():\n"
        "    sys.modules[name] = None\n"
        "from atomq import AsyncQueue, InvalidOptions, Queue\n"
        "Queue('q', 'redis://127.0.0.1:1', lease=5, priority_steps=[0, 5])\n"
        "try:\n"
        "    Queue('q', 'redis://127.0.0.1:1', leese=5)\n"
        "except InvalidOptions as error:\n"
        "    print(error)\n"
        "try:\n"
        "    Queue('q', 'redis://127.0.0.1:1', schema={})\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    said = run(tmp_path, tmp_path, "-c", code)
    assert "did you mean lease?" in said
    assert 'pip install "atomq[schema]"' in said


def test_the_sdist_can_be_worked_on(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split("\n")
    if len(tracked) < 100:
        pytest.skip("this is no checkout")
    assert {name for name in tracked if name} - names == set()
    assert not [name for name in names if "__pycache__" in name or name.startswith(".venv")]
