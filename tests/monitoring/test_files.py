"""The alerts, the dashboard, the scaling and the documentation name metrics that exist, and the page names all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import yaml
from prometheus_client import CollectorRegistry

from azsession import ServiceBusProvider, SessionProcessor
from azsession.broker.embedded import EmbeddedBroker
from azsession.processor.collector import ProcessorCollector
from azsession.protocol.routes import Operation
from azsession.server import GatewayMetrics

from ..support.paths import ROOT

MONITORING = ROOT / "examples" / "deployment" / "monitoring"
PAGE = ROOT / "docs" / "monitoring.md"
#: Metrics that Prometheus or prometheus-client's process collector makes.
FOREIGN = {"up", "process_cpu_seconds_total"}
_NAME = re.compile(r"azsession_[a-z_]+|process_[a-z_]+|\bup\b")
#: What Prometheus adds to the name of a histogram, and what the dialects of its text add to others.
_PARTS = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",), "gauge": ("",)}


@pytest.fixture(scope="module")
def metrics() -> dict[str, tuple[str, set[str]]]:
    """All metrics by name, with their type and the names of their labels."""
    gateway, processors = GatewayMetrics(), CollectorRegistry()
    with EmbeddedBroker(queues=["q"]) as broker, ServiceBusProvider.embedded() as provider:
        gateway.measured(broker)
        gateway.request("send", 201, 0.1)
        gateway.waits(Operation.RECEIVE)()
        processors.register(ProcessorCollector(SessionProcessor(provider, "q", print)))
        found = [*gateway.registry.collect(), *processors.collect()]
    return {
        metric.name: (metric.type, {label for sample in metric.samples for label in sample.labels} - {"le"})
        for metric in found
        if metric.name.startswith("azsession_")
    }


def series(metrics: dict[str, tuple[str, set[str]]]) -> dict[str, set[str]]:
    """Return the labels of each series that Prometheus has."""
    return {name + part: labels for name, (kind, labels) in metrics.items() for part in _PARTS[kind]}


def expressions() -> Iterator[tuple[str, str]]:
    """Yield each expression with its place."""
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    for panel in dashboard["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])
    yield from ((one["name"], one["definition"]) for one in dashboard["templating"]["list"] if "definition" in one)
    scaled = yaml.safe_load((MONITORING / "keda.yaml").read_text())
    yield from ((scaled["metadata"]["name"], trigger["metadata"]["query"]) for trigger in scaled["spec"]["triggers"])


@pytest.mark.parametrize(("place", "expression"), list(expressions()))
def test_an_expression_uses_metrics_and_labels_that_exist(
    metrics: dict[str, tuple[str, set[str]]], place: str, expression: str
) -> None:
    known = series(metrics)
    names = set(_NAME.findall(re.sub(r'"[^"]*"', '""', expression))) - {"azsession_"}
    assert names, expression
    assert names <= known.keys() | FOREIGN, place
    labels = {"job", "instance", "le"}.union(*(known.get(name, set()) for name in names))
    used = set(re.findall(r"[{,]\s*([a-z_]+)\s*[=!]", expression))
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        used |= {label.strip() for label in group.split(",")}
    assert used <= labels, place


def test_the_page_describes_every_metric_and_no_other(metrics: dict[str, tuple[str, set[str]]]) -> None:
    rows = dict(re.findall(r"^\| `(azsession_[a-z_]+)` \|([^|]*)\|", PAGE.read_text(), flags=re.MULTILINE))
    suffixes = {"counter": "_total"}
    named = {name + suffixes.get(kind, ""): labels for name, (kind, labels) in metrics.items()}
    assert rows.keys() == named.keys()
    for name, labels in named.items():
        assert all(f"`{label}`" in rows[name] for label in labels), name
        assert rows[name].strip() or not labels, name


def test_every_metric_has_a_base_unit_or_none_and_a_help_text() -> None:
    metrics = GatewayMetrics()
    for metric in metrics.registry.collect():
        assert metric.documentation.endswith("."), metric.name
        assert not re.search(r"_(ms|millis|minutes|hours|kb|mb)(_|$)", metric.name)


#: The parts of KEDA's schema of a ScaledObject that this one uses (config/crd/bases/keda.sh_scaledobjects.yaml).
SCALED_OBJECT: dict[str, Any] = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "keda.sh/v1alpha1"},
        "kind": {"const": "ScaledObject"},
        "spec": {
            "type": "object",
            "required": ["scaleTargetRef", "triggers"],
            "additionalProperties": False,
            "properties": {
                "scaleTargetRef": {"type": "object", "required": ["name"]},
                "minReplicaCount": {"type": "integer"},
                "maxReplicaCount": {"type": "integer"},
                "pollingInterval": {"type": "integer"},
                "cooldownPeriod": {"type": "integer"},
                "fallback": {
                    "type": "object",
                    "required": ["failureThreshold", "replicas"],
                    "properties": {"failureThreshold": {"type": "integer"}, "replicas": {"type": "integer"}},
                },
                "triggers": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["type", "metadata"],
                        "properties": {
                            "type": {"const": "prometheus"},
                            "metricType": {"enum": ["AverageValue", "Value"]},
                            "metadata": {
                                "required": ["serverAddress", "query", "threshold"],
                                "additionalProperties": {"type": "string"},
                            },
                        },
                    },
                },
            },
        },
    },
}


def test_the_scaled_object_has_the_form_that_keda_accepts() -> None:
    found = yaml.safe_load((MONITORING / "keda.yaml").read_text())
    jsonschema_rs.validate(SCALED_OBJECT, found)
    # Numbers in the metadata of a trigger are texts.
    assert float(found["spec"]["triggers"][0]["metadata"]["threshold"]) == 8


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads((MONITORING / "grafana.json").read_text())["panels"]
    places = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
