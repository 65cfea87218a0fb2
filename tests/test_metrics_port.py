"""The port for metrics."""

from __future__ import annotations

import socket

import pytest
import requests
from prometheus_client import CollectorRegistry, Counter

from azsession import ConfigurationError
from azsession.metrics_port import MetricsPort


def registry() -> CollectorRegistry:
    found = CollectorRegistry()
    Counter("things", "Things.", registry=found).inc(3)
    return found


def test_it_serves_one_registry_on_loopback_until_it_is_closed() -> None:
    with MetricsPort(registry()) as port:
        assert port.url.startswith("http://127.0.0.1:")
        text = requests.get(port.url, timeout=10).text
    assert "things_total 3.0" in text
    assert "python_info" not in text
    with pytest.raises(requests.ConnectionError):
        requests.get(port.url, timeout=10)


def test_an_address_in_use_is_a_configuration_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1 port {number}"):
            MetricsPort(registry(), port=number)


def test_an_ipv6_address_is_in_brackets() -> None:
    with MetricsPort(registry(), "::1") as port:
        assert port.url.startswith("http://[::1]:")
        assert requests.get(port.url, timeout=10).status_code == 200
