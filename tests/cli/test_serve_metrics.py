"""The options of `azsession serve` about metrics."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import requests

from ..support.ports import free_port
from ..support.processes import Served, assert_one_line, run


def test_metrics_are_on_their_own_port_and_at_the_gateway_with_a_key(tmp_path: Path) -> None:
    keys = ("--key", "root:c2VjcmV0:Manage", "--key", "prometheus:c2NyYXBl:Metrics")
    with Served("--memory", "--queue", "orders", "--metrics-port", "0", "--no-amqp", *keys, cwd=tmp_path) as served:
        url = re.search(r"Endpoint=(http[^;]*)/;", served.line)
        assert url is not None
        answers = {
            auth: requests.get(f"{url[1]}/metrics", auth=auth, timeout=10)
            for auth in (("prometheus", "c2NyYXBl"), ("prometheus", "wrong"), None)
        }
        status, _, err = served.end()
    assert [answer.status_code for answer in answers.values()] == [200, 401, 401]
    assert 'azsession_queue_sessions{queue="orders"} 0.0' in answers["prometheus", "c2NyYXBl"].text
    assert status == 0
    assert re.search(r"metrics http://127\.0\.0\.1:\d+/metrics", err)


def test_a_port_for_metrics_that_is_in_use_ends_the_command(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        ended = run("serve", "--memory", "--port", "0", "--no-amqp", "--metrics-port", str(number))
    assert_one_line(ended, f"the metrics cannot listen on 127.0.0.1 port {number}")


def test_a_free_port_is_served_without_a_key(tmp_path: Path) -> None:
    number = free_port()
    with Served("--memory", "--no-amqp", "--metrics-port", str(number), cwd=tmp_path):
        assert "azsession_broker_up 1.0" in requests.get(f"http://127.0.0.1:{number}/metrics", timeout=10).text
