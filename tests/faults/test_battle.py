"""A short `make battle`: all that may go wrong, at random, against a ledger outside the server."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.battle.cluster import LIBRARY, ClusterTrial
from tests.battle.trial import Trial
from tests.conftest import LONG
from tests.servers import Server

SECONDS = 12.0


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 150)
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_nothing_is_lost_and_each_second_start_has_a_cause(
    own_server: Server, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 30)
    out = Trial(own_server, tmp_path / "ledger", seed).run(SECONDS)
    print(f"seed {seed}: {out}")
    assert out.lost == []
    assert out.innocent == []
    assert out.unexplained == []
    assert out.put > 100


@pytest.mark.skipif(not LONG, reason="set ATOMQ_LONG=1: workers of Celery on six nodes")
@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 150)
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_nor_on_a_cluster(kind: str, tmp_path: Path) -> None:
    """Library and Celery; `make battle-cluster` is the long form."""
    seed = random.randrange(1 << 30)
    out = ClusterTrial(kind, tmp_path, seed, (*LIBRARY, "threads"), calm=0.3).run(5)
    print(f"seed {seed}: {out}")
    assert out.lost == []
    assert out.unexplained == []
    assert out.put > 30
