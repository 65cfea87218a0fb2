"""The probes of `azsession consume --health-port`, and the server that answers them."""

from __future__ import annotations

import re
import signal
import socket

import pytest
import requests

from azsession import ConfigurationError
from azsession.cli.health import HealthServer
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..support.paths import ROOT
from ..support.processes import PATIENCE, start

PAGES = {"/healthz": lambda: (200, "alive"), "/readyz": lambda: (503, "not yet")}


def get(port: int, path: str, method: str = "GET") -> requests.Response:
    return requests.request(method, f"http://127.0.0.1:{port}{path}", timeout=10)


def test_a_page_is_answered_with_its_status_and_text() -> None:
    with HealthServer(0, PAGES) as server:
        assert (get(server.port, "/healthz").status_code, get(server.port, "/healthz?verbose=1").text) == (200, "alive\n")
        assert (get(server.port, "/readyz").status_code, get(server.port, "/readyz").text) == (503, "not yet\n")
        assert get(server.port, "/").status_code == 404
        assert get(server.port, "/healthz", "POST").status_code == 501
        head = get(server.port, "/healthz", "HEAD")
        assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", "6")
        assert head.headers["Server"] == "azsession"


def test_a_client_that_sends_nothing_holds_up_neither_others_nor_the_end() -> None:
    with HealthServer(0, PAGES) as server, socket.create_connection(("127.0.0.1", server.port)):
        assert get(server.port, "/healthz").status_code == 200


def test_a_port_in_use_is_a_clear_error() -> None:
    with HealthServer(0, PAGES) as server, pytest.raises(ConfigurationError, match=f"port {server.port} for --health-port"):
        HealthServer(server.port, PAGES)


def test_a_consumer_answers_probes_until_it_ends(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("orders")
    process = start(
        *("consume", "orders", "tests.cli.consume_handlers:refuse", "--health-port", "0"),
        connection_string=azsession_server.connection_string,
        cwd=ROOT,
    )
    try:
        assert process.stderr is not None
        lines = [process.stderr.readline(), process.stderr.readline()]
        found = re.search(r"probes at http://127\.0\.0\.1:(\d+)/healthz and /readyz", "".join(lines))
        assert found is not None, lines
        port = int(found[1])
        assert get(port, "/healthz").status_code == 200
        eventually(lambda: get(port, "/readyz").status_code == 200)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_consumer_whose_broker_is_away_lives_and_is_not_ready(azsession_server: AzsessionServer) -> None:
    string = re.sub(r":\d+/", ":9/", azsession_server.connection_string)
    process = start(
        "consume", "orders", "tests.cli.consume_handlers:refuse", "--health-port", "0", connection_string=string, cwd=ROOT
    )
    try:
        assert process.stderr is not None
        lines = [process.stderr.readline(), process.stderr.readline()]
        port = int(re.search(r":(\d+)/healthz", "".join(lines))[1])  # type: ignore[index]
        assert (get(port, "/healthz").status_code, get(port, "/readyz").status_code) == (200, 503)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
