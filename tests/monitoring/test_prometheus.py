"""Prometheus itself reads the metrics of a gateway, with the documented configuration, and evaluates the alerts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from azsession.broker.embedded import EmbeddedBroker
from azsession.messages import Message
from azsession.server import AccessKey, GatewayMetrics, GatewayService

from ..conftest import eventually
from ..support.paths import ROOT
from ..support.ports import free_port
from ..support.prometheus import require

MONITORING = ROOT / "examples" / "deployment" / "monitoring"
KEY = AccessKey.parse("prometheus:c2NyYXBl:Metrics")


@pytest.fixture
def service() -> Iterator[GatewayService]:
    broker = EmbeddedBroker(queues=["orders"])
    with GatewayService(broker, [KEY], metrics=GatewayMetrics(), metrics_port=0) as service:
        broker.send("orders", [Message("x", session_id=str(number)) for number in range(5)]).result()
        yield service


def checked(*arguments: str | Path, stdin: str | None = None) -> str:
    """Run promtool, which must find no fault. Return its output."""
    ended = subprocess.run(
        [require("promtool"), *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    return ended.stdout


def test_promtool_finds_no_fault_in_the_metrics(service: GatewayService) -> None:
    answer = requests.get(f"{service.url}/metrics", auth=(KEY.name, KEY.key), timeout=60)
    assert answer.status_code == 200
    checked("check", "metrics", stdin=answer.text)


def test_promtool_finds_no_fault_in_the_configuration_and_the_alerts(tmp_path: Path) -> None:
    shutil.copytree(MONITORING, tmp_path, dirs_exist_ok=True)
    (tmp_path / "azsession-key").write_text(KEY.key)
    checked("check", "config", tmp_path / "prometheus.yml")
    assert "SUCCESS: 7 rules found" in checked("check", "rules", tmp_path / "alerts.yml")


@contextmanager
def prometheus(folder: Path) -> Iterator[str]:
    """Run Prometheus with the configuration in a folder. Yield its URL."""
    port = free_port()
    command = [
        require("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def asked(url: str, query: str) -> list[dict[str, Any]]:
    try:
        answer = requests.get(f"{url}/api/v1/query", params={"query": query}, timeout=60)
    except requests.ConnectionError:
        return []
    found: list[dict[str, Any]] = answer.json()["data"]["result"] if answer.status_code == 200 else []
    return found


def test_prometheus_reads_a_gateway_with_the_documented_configuration(service: GatewayService, tmp_path: Path) -> None:
    shutil.copytree(MONITORING, tmp_path, dirs_exist_ok=True)
    (tmp_path / "azsession-key").write_text(KEY.key)
    config = yaml.safe_load((tmp_path / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [service.url.removeprefix("http://")]
    assert service.metrics_url is not None
    config["scrape_configs"][1]["static_configs"][0]["targets"] = [service.metrics_url.split("/")[2]]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    with prometheus(tmp_path) as url:
        query = 'sum by (job) (azsession_queue_sessions{queue="orders"})'
        expected = {"azsession": "5", "azsession-consumers": "5"}

        def has_read() -> bool:
            # A scrape that took more than a second would have failed, and its series would be missing until the next one.
            found = {one["metric"]["job"]: one["value"][1] for one in asked(url, query)}
            return found == expected and [one["value"][1] for one in asked(url, 'up{job="azsession"}')] == ["1"]

        eventually(has_read, "Prometheus has not read the metrics", seconds=60)
        scaling = yaml.safe_load((MONITORING / "keda.yaml").read_text())["spec"]["triggers"][0]["metadata"]["query"]
        eventually(lambda: asked(url, scaling) != [])
        dashboard = json.loads((MONITORING / "grafana.json").read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                expression = re.sub(r"\$__rate_interval", "1m", target["expr"]).replace("$queue", ".*")
                answer = requests.get(f"{url}/api/v1/query", params={"query": expression}, timeout=60)
                assert answer.status_code == 200, (panel["title"], answer.text)
        rules = requests.get(f"{url}/api/v1/rules", timeout=60).json()["data"]["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
