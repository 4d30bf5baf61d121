"""A dozen tests of each of Celery's and Kombu's own integration suites, on atomq."""

from __future__ import annotations

import pytest

pytest.importorskip("celery")
pytest.importorskip("pydantic", reason="the tasks of Celery's suite import pydantic")

from tests.suites.chosen import SUITES, Suite
from tests.suites.run import Job, NotThere, unpacked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.package)
def test_suite(suite: Suite, kind: str) -> None:
    try:
        unpacked(suite)
    except NotThere as reason:
        pytest.skip(str(reason))
    job = Job(suite, "atomq", suite.short, f"{suite.package}-short").run(kind)
    log = job.log.read_text(errors="replace")
    assert not job.trouble, f"{job.trouble}\n{log[-5000:]}"
    assert not job.failed, log[-10_000:]
    passed = [test for test, result in job.results.items() if result.outcome == "passed"]
    assert len(passed) >= len(suite.short), passed
    assert "redis:// is atomq." in log
