"""A pytest plugin for their suites: which transport serves them, and what became of each test.

Loaded with `-p` into a pytest of its own. ATOMQ_SUITE_SIDE is "stock", "atomq" or "cluster", which
is atomq on a cluster; each test is a line of JSON in the file ATOMQ_SUITE_RESULTS.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from celery.app.backends import BACKEND_ALIASES
from kombu import Connection

SIDE = os.environ["ATOMQ_SUITE_SIDE"]
RESULTS = Path(os.environ["ATOMQ_SUITE_RESULTS"])

if SIDE != "stock":
    import atomq.celery

    if SIDE == "atomq":
        atomq.celery.take_over()
    else:  # many tests skip themselves unless the URL of the backend begins with "redis"
        BACKEND_ALIASES["redis"] = "atomq.contrib.celery_cluster:Backend"


def pytest_report_header() -> str:
    url = os.environ["TEST_BROKER"]
    scheme, module = url.partition("//")[0], Connection(url).get_transport_cls().__module__
    if module.startswith("atomq.") != (SIDE != "stock"):
        raise pytest.UsageError(f"{SIDE} was asked for, and {scheme}// is {module}")
    return f"{scheme}// is {module}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    outcome: str = report.outcome
    if outcome not in ("passed", "failed", "skipped"):
        return
    if outcome == "passed" and report.when != "call":
        return
    if hasattr(report, "wasxfail"):
        outcome = "xfailed" if report.skipped else "passed"
    with RESULTS.open("a") as file:
        file.write(json.dumps([report.nodeid, outcome, _reason(report)]) + "\n")


def _reason(report: pytest.TestReport) -> str:
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        return str(crash.message if crash is not None else report.longrepr).splitlines()[0][:300]
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return ""
