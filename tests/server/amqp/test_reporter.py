"""Operations over AMQP in the access log, the metrics and spans, and log records about locks."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from azsession import Message, ServiceBusProvider, amqp
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import GatewayMetrics, GatewayService

from ...conftest import eventually
from .conftest import ROOT, SENDER
from .raw import RawClient, encoded, token_for, transfer
from .test_management import Manager

ACCESS_LOG = "azsession.server.http.access_log"


@pytest.fixture
def metrics() -> GatewayMetrics:
    return GatewayMetrics()


@pytest.fixture
def served(metrics: GatewayMetrics) -> Iterator[GatewayService]:
    broker = EmbeddedBroker(queues=["q"])
    with GatewayService(broker, [ROOT, SENDER], amqp_port=0, metrics=metrics) as service:
        yield service


@pytest.fixture
def raw(served: GatewayService) -> Iterator[RawClient]:
    with RawClient(served) as raw:
        yield raw.open(ROOT)


def use(raw: RawClient) -> None:
    """Send two messages, one of them without a session, and receive, complete and lose the other."""
    raw.attach_sender("q")
    raw.expect(amqp.FLOW)
    for number, session_id in enumerate(("s", None)):
        raw.send(transfer(1, number, encoded(b"private", session_id)))
        raw.expect(amqp.DISPOSITION)
    raw.attach_receiver("q", "s")
    raw.credit(2, 1)
    received = raw.expect(amqp.TRANSFER)
    raw.send(amqp.disposition_frame(0, first=0, last=0, outcome=amqp.ACCEPTED))
    raw.expect(amqp.DISPOSITION)
    manager = Manager(raw, "q")
    assert manager.ask("renew-session-lock", {"session-id": "s"}).status == 200
    tokens = [uuid.UUID(bytes_le=received.delivery_tag), uuid.uuid4()]
    asked = {"session-id": "s", "disposition-status": "completed", "lock-tokens": tokens}
    assert manager.ask("update-disposition", asked).status == 410
    assert manager.ask("invented", {}).status == 501
    with_lock = raw.attach_receiver("q", "s", handle=3)
    assert not with_lock.has_source
    raw.expect(amqp.DETACH)


#: The operations of `use`: route, status, session.
OPERATIONS = [
    ("/q/messages", 201, None),
    ("/q/messages", 400, None),
    ("/q/sessions", 201, None),
    ("/q/sessions/{sid}/messages/head", 201, "s"),
    ("/q/sessions/{sid}/messages/$settle", 200, "s"),
    ("/q/sessions/{sid}/renewlock", 200, "s"),
    ("/q/sessions/{sid}/messages/$settle", 410, "s"),
    (None, 501, None),
    ("/q/sessions", 410, None),
]


def fields(record: logging.LogRecord, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in names)


def logged(caplog: pytest.LogCaptureFixture, raw: RawClient) -> list[logging.LogRecord]:
    """Return the records of a client in the access log. Clients of earlier tests can have gone away just now, too."""
    client = "{}:{}".format(*raw.socket.getsockname())
    return [record for record in caplog.records if record.name == ACCESS_LOG and fields(record, "client") == (client,)]


def test_operations_are_in_the_access_log(raw: RawClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, ACCESS_LOG)
    use(raw)
    records = logged(caplog, raw)
    assert [fields(record, "route", "status", "session_id") for record in records] == OPERATIONS
    assert {fields(record, "method", "key") for record in records} == {("AMQP", "root")}
    assert all(fields(record, "ms") >= (0,) for record in records)
    assert " root AMQP /q/sessions/{sid}/renewlock 200 " in caplog.text
    assert "private" not in caplog.text


def test_a_lost_session_is_in_the_access_log(
    raw: RawClient, served: GatewayService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, ACCESS_LOG)
    raw.attach_receiver("q", "s")
    raw.credit(2, 1)
    raw.attach_sender("q")
    endpoint = served._endpoint
    assert endpoint is not None
    (connection,) = endpoint._connections
    (holder,) = connection.held.values()
    served.broker.release("q", "s", holder.lock_id).result()
    assert raw.expect(amqp.DETACH).error.condition == "com.microsoft:session-lock-lost"
    last = logged(caplog, raw)[-1]
    assert fields(last, "route", "status", "session_id") == ("/q/sessions/{sid}/messages/head", 410, "s")


def test_refused_clients_are_in_the_access_log(served: GatewayService, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, ACCESS_LOG)
    with RawClient(served) as raw:
        assert raw.open().put_token("sb://127.0.0.1/q", token_for(ROOT, "other")) == 401
        assert not raw.attach_sender("q").has_target
        assert not raw.attach_receiver("", handle=3).has_source
        found = [fields(record, "route", "status", "key") for record in logged(caplog, raw)]
    assert found == [(None, 401, None), ("/q/messages", 401, None), (None, 400, None)]
    assert "sig=" not in caplog.text


def test_operations_are_counted(raw: RawClient, metrics: GatewayMetrics) -> None:
    use(raw)

    def count(operation: str, status: int) -> float | None:
        labels = {"operation": operation, "status": str(status)}
        return metrics.registry.get_sample_value("azsession_gateway_requests_total", labels)

    counts = {("send", 201): 1, ("send", 400): 1, ("accept", 201): 1, ("accept", 410): 1, ("receive", 201): 1}
    counts |= {("settle", 200): 1, ("settle", 410): 1, ("renew", 200): 1, ("refused", 501): 1}
    assert {each: count(*each) for each in counts} == counts


def test_waiting_receivers_are_counted(raw: RawClient, served: GatewayService, metrics: GatewayMetrics) -> None:
    def waiting(operation: str) -> float | None:
        return metrics.registry.get_sample_value("azsession_gateway_waiting_requests", {"operation": operation})

    def durations(operation: str) -> float | None:
        return metrics.registry.get_sample_value("azsession_gateway_wait_duration_seconds_count", {"operation": operation})

    raw.send(amqp.attach_receiver(0, name="next", handle=2, address="q", session_id=None))
    eventually(lambda: waiting("accept") == 1)
    with ServiceBusProvider.from_connection_string(served.connection_string()) as provider:
        provider.send_messages("q", Message("x", session_id="s"))
        assert raw.expect(amqp.ATTACH).has_source
        assert (waiting("accept"), durations("accept")) == (0, 1)
        raw.credit(2, 5)
        raw.expect(amqp.TRANSFER)
        eventually(lambda: waiting("receive") == 1)
    raw.send(amqp.detach_frame(0, handle=2))
    eventually(lambda: waiting("receive") == 0)


def test_taken_and_released_sessions_are_logged(raw: RawClient, sid: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "azsession.server.amqp")
    raw.attach_receiver("q", sid)
    raw.send(amqp.detach_frame(0, handle=2))
    raw.expect(amqp.DETACH)

    def found() -> list[tuple[Any, ...]]:
        # Connections of earlier tests can end just now, too.
        records = [record for record in caplog.records if getattr(record, "session_id", None) == sid]
        return [(record.getMessage(), *fields(record, "queue")) for record in records]

    eventually(lambda: len(found()) == 2)
    assert found() == [
        (f"a client took the session '{sid}' of 'q'", "q"),
        (f"a client released the session '{sid}' of 'q'", "q"),
    ]
