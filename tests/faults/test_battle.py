"""A short `make battle`: all that may go wrong, at random, against a ledger outside the server."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.battle.cluster import LIBRARY, POOLS, ClusterTrial
from tests.battle.trial import Trial
from tests.conftest import LONG, ON_CLUSTERS
from tests.servers import Server

SECONDS = 12.0 if LONG else 6.0


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 150)
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_nothing_is_lost_and_each_second_start_has_a_cause(
    own_server: Server, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 30)
    out = Trial(own_server, tmp_path, seed).run(SECONDS)
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


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(300)
@ON_CLUSTERS
@pytest.mark.parametrize("client", [*LIBRARY, *POOLS])
@pytest.mark.parametrize(
    "event",
    [
        *("freeze_shard", "lose_shard", "freeze_primary", "kill_primary", "manual_failover"),
        *("move_half_by_half", "move_at_once", "join_replica"),
    ],
)
def test_what_befalls_a_cluster_costs_no_client_a_message(
    kind: str, tmp_path: Path, client: str, event: str
) -> None:
    """Each by itself; its workers are killed and frozen meanwhile too."""
    if kind != "valkey-9" and (event == "move_at_once" or client not in ("sync", "prefork")):
        pytest.skip("on Redis, which moves no slot at once, two clients will do")
    seed = random.randrange(1 << 30)
    out = ClusterTrial(kind, tmp_path, seed, (client,) * 2, calm=0.5, event=event).run(SECONDS)
    print(f"seed {seed}: {out}")
    assert out.mishaps[event]
    assert out.lost == []
    assert out.unexplained == []
