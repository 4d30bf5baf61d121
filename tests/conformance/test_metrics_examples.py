"""The dashboard, the alerts and the scalers of examples/metrics ask for metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from atomq import Engine
from atomq.metrics import LIMITS, AtomqCollector
from tests.conformance.test_overview import ONE, fleet
from tests.servers import ROOT, Server, wait_until

FOLDER = ROOT / "examples" / "metrics"
# Labels that Prometheus adds to each sample of a target.
OF_TARGETS = {"instance", "job"}
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())


def dashboard() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if isinstance(variable["query"], dict):
            yield variable["query"]["query"]


def alerts() -> Iterator[str]:
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"]
            yield rule["expr"]


def scalers() -> Iterator[str]:
    for one in yaml.safe_load_all((FOLDER / "keda.yml").read_text()):
        (trigger,) = one["spec"]["triggers"]
        if trigger["type"] == "prometheus":
            yield trigger["metadata"]["query"]


@ONE
@pytest.mark.parametrize("expressions", [dashboard, alerts, scalers])
def test_each_query_names_what_a_scrape_has(server: Server, expressions: Any) -> None:
    with Engine(server.url) as engine:
        fleet(server, engine, 2, busy=1)
        wait_until("this process is there", lambda: engine.overview().processes)
        registry = CollectorRegistry()
        AtomqCollector(engine).register(registry)
        found: dict[str, dict[str, set[str]]] = {}
        for family in registry.collect():
            for sample in family.samples:
                labels = found.setdefault(sample.name, {})
                for label, value in sample.labels.items():
                    labels.setdefault(label, set()).add(value)
    asked = list(expressions())
    assert asked
    for expression in asked:
        names = re.findall(r"\batomq_\w+", expression)
        assert names, expression
        assert set(names) <= found.keys(), expression
        for name, matchers in re.findall(r"\b(atomq_\w+)\{([^}]*)\}", expression):
            for label, _, value in re.findall(r'(\w+)(=~|=|!=)"([^"]*)"', matchers):
                assert label in found[name], expression
                if label in ("state", "event"):
                    assert set(value.split("|")) <= found[name][label], expression
                if label == "limit":  # one that is not set is no sample
                    assert value in LIMITS, expression
        for grouped in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
            wanted = {label.strip() for label in grouped.split(",")} - OF_TARGETS
            assert wanted <= {label for name in names for label in found[name]}, expression


def test_the_dashboard_shows_every_metric() -> None:
    """Catches a new metric that has no panel."""
    asked = " ".join(dashboard())
    for family in AtomqCollector("memory://").describe():
        assert re.search(rf"\b{family.name}(_total)?\b", asked), f"no panel shows {family.name}"


def test_the_dashboard_is_one() -> None:
    """What Grafana asks of one: panels with places that do not overlap, and its own data source."""
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["type"] in ("stat", "timeseries", "table")
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "queue"]
    assert DASHBOARD["schemaVersion"] >= 36


def test_a_scaler_counts_what_is_held_and_never_takes_no_data_for_nothing() -> None:
    by_prometheus, by_json = yaml.safe_load_all((FOLDER / "keda.yml").read_text())
    (trigger,) = by_prometheus["spec"]["triggers"]
    assert "held" in trigger["metadata"]["query"]
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    (trigger,) = by_json["spec"]["triggers"]
    assert trigger["metadata"]["valueLocation"] == "busy"
    assert trigger["metadata"]["url"].endswith("/backlog/mails")
    assert all(each["spec"]["fallback"]["replicas"] > 0 for each in (by_prometheus, by_json))
