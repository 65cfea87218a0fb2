"""The spans of a gateway: they continue the trace of the client's request, and show no lock token."""

from __future__ import annotations

import asyncio
import http.client
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from azsession import Message, ServiceBusProvider, amqp
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import AccessKey, GatewayService, create_app
from azsession.testing import AzsessionServer

from ..api.conftest import take
from ..conftest import eventually
from ..server.amqp.raw import RawClient
from ..server.raw import serving
from .exported import Exported, ids

RECEIVE = "/{entity}/sessions/{sid}/messages/head"


def attributes_of(span: Any) -> dict[str, Any]:
    return dict(span.attributes)


def test_a_request_continues_the_trace_of_the_client(azsession_provider: ServiceBusProvider, telemetry: Exported) -> None:
    with trace.get_tracer("test").start_as_current_span("caller"):
        azsession_provider.send_message("orders", Message("x", session_id="s1"))
        with azsession_provider.create_session_client("orders", "s1") as session:
            message = take(session)
            session.complete_message(message)
    # A send is current while it runs. Receives and settlements get their spans at the end.
    pairs = [("send orders", "POST /{entity}/messages"), ("caller", f"DELETE {RECEIVE}")]
    pairs.append(("caller", "DELETE /{entity}/sessions/{sid}/messages/{token}"))
    for client, server in pairs:
        eventually(lambda server=server: telemetry.spans(server))
        answered = telemetry.span(server)
        assert answered.kind is SpanKind.SERVER
        assert answered.parent is not None
        assert ids(answered.parent) == ids(telemetry.span(client).get_span_context())
        assert message.receipt.handle not in str(answered.attributes)
    found = attributes_of(telemetry.span(f"DELETE {RECEIVE}"))
    assert found["http.request.method"] == "DELETE"
    assert found["http.route"] == found["url.path"] == RECEIVE
    assert found["http.response.status_code"] == 201
    assert found["client.address"] == "127.0.0.1"


def test_a_request_without_a_trace_begins_one(azsession_server: AzsessionServer, telemetry: Exported) -> None:
    connection = http.client.HTTPConnection(urlsplit(azsession_server.connection_string.split(";")[0][9:]).netloc)
    connection.request("GET", "/healthz", headers={"traceparent": "malformed"})
    assert connection.getresponse().read()
    connection.request("GET", "/nothing/of/this")
    assert connection.getresponse().status == 401
    connection.close()
    eventually(lambda: len(telemetry.spans()) == 2)
    health, unknown = telemetry.spans()
    assert (health.name, health.parent, health.status.status_code) == ("GET /healthz", None, StatusCode.UNSET)
    assert (unknown.name, unknown.status.status_code) == ("GET", StatusCode.UNSET)
    assert attributes_of(unknown)["http.response.status_code"] == 401


def test_a_request_for_the_explorer_has_the_path_of_its_page(azsession_server: AzsessionServer, telemetry: Exported) -> None:
    connection = http.client.HTTPConnection(urlsplit(azsession_server.connection_string.split(";")[0][9:]).netloc)
    for page in ("sign-in", "of-a-visitor"):
        connection.request("GET", f"/explorer/{page}?to=queues")
        assert connection.getresponse().read()
    connection.close()
    eventually(lambda: len(telemetry.spans()) == 2)
    assert [span.name for span in telemetry.spans()] == ["GET /explorer/sign-in", "GET /explorer/{page}"]
    assert attributes_of(telemetry.spans()[0])["http.route"] == "/explorer/sign-in"


def test_an_application_in_a_span_makes_none_of_its_own(telemetry: Exported) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def call() -> None:
        scope = {"type": "http", "method": "GET", "path": "/healthz", "headers": [(b"host", b"x")], "http_version": "1.1"}
        with trace.get_tracer("instrumentation").start_as_current_span("around"):
            await create_app(broker, keys=None)(scope, receive, send)

    with EmbeddedBroker() as broker:
        asyncio.run(call())
    assert sent[0]["status"] == 200
    assert [span.name for span in telemetry.spans()] == ["around"]


def test_a_request_whose_client_goes_away_is_an_error(telemetry: Exported) -> None:
    with serving() as gateway:
        queue = gateway.queue()
        head = (
            f"DELETE /{queue}/sessions/s/messages/head?timeout=30 HTTP/1.1\r\nHost: {gateway.host}:{gateway.port}\r\n"
            f"Authorization: {gateway.token()}\r\n\r\n"
        )
        sock = gateway.open_socket(head.encode())
        other = gateway.holder(queue, "s", "another")
        eventually(lambda: other.receive("timeout=0").status == 423)
        sock.close()
        eventually(lambda: [each for each in telemetry.spans() if attributes_of(each).get("error.type") == "client gone"])
    (gone,) = [span for span in telemetry.spans() if span.status.status_code is StatusCode.ERROR]
    assert (gone.name, attributes_of(gone)["error.type"]) == (f"DELETE {RECEIVE}", "client gone")


def test_operations_over_amqp_have_spans(telemetry: Exported) -> None:
    key = AccessKey("root", "cm9vdA==")
    with GatewayService(EmbeddedBroker(queues=["q"]), [key], amqp_port=0) as service, RawClient(service) as raw:
        raw.open(key)
        assert raw.attach_receiver("q", "s").has_source
        assert not raw.attach_receiver("q", "s", handle=3).has_source
        raw.expect(amqp.DETACH)
    eventually(lambda: len(telemetry.spans("AMQP accept")) == 2)
    granted, refused = telemetry.spans("AMQP accept")
    assert (granted.kind, granted.parent, granted.status.status_code) == (SpanKind.SERVER, None, StatusCode.UNSET)
    found = attributes_of(granted)
    assert (found["messaging.operation.name"], found["messaging.destination.name"]) == ("accept", "q")
    assert (found["network.protocol.name"], found["client.address"]) == ("amqp", "127.0.0.1")
    assert granted.end_time >= granted.start_time
    assert "error.type" not in found
    assert attributes_of(refused)["error.type"] == "410"
