"""``/healthz`` reports that the gateway's process lives, ``/readyz`` whether it can store and deliver messages."""

from __future__ import annotations

import resource
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import requests

from azsession import Message, ServiceBusProvider
from azsession.broker.embedded import EmbeddedBroker
from azsession.errors import ConnectionFailedError
from azsession.server import GatewayService, handlers, readiness
from tests.conftest import eventually

from ..support.processes import Served
from .raw import KEYS, Gateway, SteppedClock, in_thread


class CheckedBroker(EmbeddedBroker):
    """A broker whose checks get their results from the test."""

    def __init__(self) -> None:
        super().__init__()
        self.checks: list[Future[None]] = []

    def check_ready(self, **options: Any) -> Future[None]:
        self.checks.append(Future())
        return self.checks[-1]


@pytest.fixture(autouse=True)
def _fresh_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "READY_SECONDS", 0.0)


def test_a_gateway_is_ready_without_a_token(gateway: Gateway) -> None:
    for path in ("/readyz", "/healthz"):
        reply = gateway.ask("GET", path, token="")
        assert (reply.status, reply.json) == (200, {"status": "ok"})
        assert gateway.ask("HEAD", path, token="").status == 200


def test_a_read_only_data_file_is_reported(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "data.db")
    with GatewayService(broker, KEYS) as service:
        gateway = Gateway(service, SteppedClock())
        broker._core.connection.execute("PRAGMA query_only=1")
        reply = gateway.ask("GET", "/readyz", token="")
        assert (reply.status, reply.code) == (503, "ServerBusy")
        assert "cannot be written" in reply.json["error"]["message"]
        assert gateway.ask("GET", "/healthz", token="").status == 200
        broker._core.connection.execute("PRAGMA query_only=0")
        assert gateway.ask("GET", "/readyz", token="").status == 200


def test_a_full_disk_is_reported_until_there_is_space_again(tmp_path: Path) -> None:
    with Served("--data", tmp_path / "data.db", "--auto-create") as served:
        url = served.line.partition("=")[2].partition("/;")[0]
        with ServiceBusProvider.from_connection_string(served.line) as provider:
            provider.send_message("q", Message(b"x" * 100_000, session_id="s"))

        def ready() -> requests.Response:
            return requests.get(f"{url}/readyz", timeout=20)

        assert ready().status_code == 200
        no_limit = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)
        # The process can write no byte beyond this: as on a full disk, the log of the data file cannot grow.
        size = (tmp_path / "data.db-wal").stat().st_size
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (size, no_limit[1]))
        eventually(lambda: ready().status_code == 503)
        assert ready().json()["error"]["message"]
        assert requests.get(f"{url}/healthz", timeout=20).status_code == 200
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, no_limit)
        eventually(lambda: ready().status_code == 200)


def test_an_unreachable_service_is_reported_with_status_503() -> None:
    broker = CheckedBroker()
    with GatewayService(broker, KEYS) as service:
        asking = in_thread(lambda: Gateway(service, SteppedClock()).ask("GET", "/readyz", token=""))
        eventually(lambda: broker.checks)
        broker.checks[0].set_exception(ConnectionFailedError("myns cannot be reached"))
        reply = asking()
        assert (reply.status, reply.code) == (503, "ServerBusy")
        assert "myns cannot be reached" in reply.json["error"]["message"]


def test_a_check_that_takes_too_long_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "READY_TIMEOUT", 0.1)
    broker = CheckedBroker()
    with GatewayService(broker, KEYS) as service:
        reply = Gateway(service, SteppedClock()).ask("GET", "/readyz", token="")
        assert (reply.status, reply.code) == (503, "ServerBusy")
        broker.checks[0].set_result(None)


def test_many_requests_share_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Future[None]] = []
    check_of = readiness.Readiness.check

    def noting(self: readiness.Readiness) -> Future[None]:
        checked.append(check_of(self))
        return checked[-1]

    monkeypatch.setattr(readiness.Readiness, "check", noting)
    broker = CheckedBroker()
    with GatewayService(broker, KEYS) as service:
        gateway = Gateway(service, SteppedClock())
        asking = [in_thread(lambda: gateway.ask("GET", "/readyz", token="").status) for _ in range(8)]
        eventually(lambda: len(checked) == 8)
        (check,) = broker.checks
        check.set_result(None)
        assert [status() for status in asking] == [200] * 8
