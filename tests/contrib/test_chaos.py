"""All that may go wrong, at random, under all pools and kinds of task at once: nothing is lost.

A short `make battle-celery`. Workers start slowly, so none is killed by poison here.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.battle.pools import SHORT, CeleryTrial
from tests.contrib.rig import ON_ONE_KIND
from tests.servers import Server

SECONDS = 12.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 300), ON_ONE_KIND]


def test_whatever_happens_no_task_is_lost(own_server: Server, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    out = CeleryTrial(own_server, tmp_path, seed, SHORT).run(SECONDS)
    print(f"seed {seed}: {out}")
    assert out.lost == []
    assert out.innocent == []
    assert out.unexplained == []
    assert out.put > 100
