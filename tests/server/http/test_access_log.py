"""The access log of requests that are refused, and of clients that go away. `tests/cli/test_log_output.py` has the others."""

from __future__ import annotations

import http.client
import logging
from typing import Any

import pytest

from azsession.protocol.routes import Operation, Route
from azsession.server.route_templates import placeholder, template
from tests.conftest import eventually

from ..raw import LISTEN, Gateway


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "azsession.server.http.access_log")


def logged(caplog: pytest.LogCaptureFixture, connection: http.client.HTTPConnection) -> logging.LogRecord:
    """Return the only record of a connection. Clients of earlier tests can have gone away just now, too."""
    client = "{}:{}".format(*connection.sock.getsockname())

    def found() -> list[logging.LogRecord]:
        return [each for each in caplog.records if getattr(each, "client", None) == client]

    eventually(found)
    (record,) = found()
    return record


def fields(record: logging.LogRecord, *names: str) -> list[Any]:
    return [getattr(record, name) for name in names]


def test_a_refused_request_has_no_route_and_no_key(gateway: Gateway, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    target = f"/{queue}/messages"
    connection = gateway.connect()
    connection.request("POST", target, b"", {"Authorization": "SharedAccessSignature sr=x&sig=5ecre7&se=1&skn=root"})
    assert connection.getresponse().status == 401
    record = logged(caplog, connection)
    connection.close()
    assert fields(record, "status", "route", "key", "method", "queue") == [401, None, None, "POST", None]
    assert "5ecre7" not in caplog.text


def test_a_client_that_goes_away_is_logged(gateway: Gateway, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    head = (
        f"DELETE /{queue}/sessions/s/messages/head?timeout=30 HTTP/1.1\r\nHost: {gateway.host}:{gateway.port}\r\n"
        f"Authorization: {gateway.token(key=LISTEN)}\r\n\r\n"
    )
    sock = gateway.open_socket(head.encode())
    client = "{}:{}".format(*sock.getsockname())
    holder = gateway.holder(queue, "s", "another")
    eventually(lambda: holder.receive("timeout=0").status == 423)
    sock.close()
    eventually(lambda: any(fields(each, "client") == [client] for each in caplog.records))
    (record,) = [each for each in caplog.records if fields(each, "client") == [client]]
    assert fields(record, "status") == [499]
    expected = [f"/{queue}/sessions/{{sid}}/messages/head", "listener", queue, "s"]
    assert fields(record, "route", "key", "queue", "session_id") == expected


@pytest.mark.parametrize(
    ("method", "target", "status", "route"),
    [
        ("GET", "/explorer", 303, "/explorer"),
        ("GET", "/explorer/", 303, "/explorer/"),
        ("GET", "/explorer/messages?queue=secret", 303, "/explorer/messages"),
        ("POST", "/explorer/%73ign-in?to=secret", 403, "/explorer/sign-in"),
        ("GET", "/explorer/explorer.css", 200, "/explorer/explorer.css"),
        ("GET", "/explorer/secret/of/a/visitor", 404, "/explorer/{page}"),
    ],
)
def test_a_request_for_the_explorer_has_the_path_of_its_page(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, method: str, target: str, status: int, route: str
) -> None:
    connection = gateway.connect()
    connection.request(method, target, b"", {"Content-Type": "application/x-www-form-urlencoded"})
    assert connection.getresponse().status == status
    record = logged(caplog, connection)
    connection.close()
    assert fields(record, "status", "route", "key", "method", "queue") == [status, route, None, method, None]
    assert f" {method} {route} {status} " in caplog.text
    assert "secret" not in caplog.text


def test_a_request_for_the_metrics_has_its_path(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    connection = gateway.connect()
    assert gateway.ask("GET", "/metrics", connection=connection).status == 200
    record = logged(caplog, connection)
    connection.close()
    assert fields(record, "status", "route", "key") == [200, "/metrics", "root"]


def test_every_operation_has_a_template() -> None:
    assert all(placeholder(operation).startswith("/") for operation in Operation)
    assert template(Route(Operation.ABANDON, "a/b", "s", "token")) == "/a/b/sessions/{sid}/messages/{token}"
