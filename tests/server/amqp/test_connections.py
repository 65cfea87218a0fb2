"""Connections of the AMQP endpoint: SASL, time limits, heartbeats, and clients that do not read."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusClient

from azsession import Message, ServiceBusProvider, amqp
from azsession.broker.calls import CallContext
from azsession.broker.embedded import EmbeddedBroker
from azsession.protocol.sas import expiry_of
from azsession.server import AccessKey, GatewayMetrics, GatewayService, Right
from azsession.server.amqp import limits
from azsession.server.amqp.endpoint import Endpoint
from azsession.server.http import limits as http_limits

from ...conftest import eventually
from ...support.sdk import message, send
from .conftest import ROOT, SENDER
from .raw import RawClient, begin, encoded, token_for, transfer


def endpoint_of(service: GatewayService) -> Endpoint:
    endpoint = service._endpoint
    assert endpoint is not None
    return endpoint


@pytest.mark.parametrize(
    ("mechanism", "response", "code"),
    [
        ("ANONYMOUS", b"", 0),
        ("MSSBCBS", b"", 0),
        ("PLAIN", b"\0root\0cm9vdA==", 0),
        ("PLAIN", b"\0root\0wrong", 1),
        ("PLAIN", b"\0nobody\0cm9vdA==", 1),
        ("PLAIN", b"\xff\0\xff\0\xff", 1),
        ("PLAIN", b"", 1),
        ("EXTERNAL", b"", 1),
    ],
)
def test_sasl_accepts_its_mechanisms_and_right_keys(
    service: GatewayService, mechanism: str, response: bytes, code: int
) -> None:
    with RawClient(service) as raw:
        assert raw.sasl(mechanism, response) == code
        if code:
            raw.assert_ended()


@pytest.mark.parametrize("header", [amqp.AMQP_HEADER, b"AMQP\x02\x01\x00\x00", b"GET / HT", b"AMQP\x03\x01\x01\x00"])
def test_another_protocol_is_answered_with_the_header_of_sasl(service: GatewayService, header: bytes) -> None:
    with RawClient(service) as raw:
        raw.send(header)
        assert raw.next() == amqp.SASL_HEADER
        raw.assert_ended()


def test_a_signed_in_key_has_its_rights_only(service: GatewayService, queue: str) -> None:
    with RawClient(service) as raw:
        raw.open(SENDER)
        assert raw.attach_sender(queue).has_target
        assert not raw.attach_receiver(queue).has_source
        assert raw.expect(amqp.DETACH).error.condition == "amqp:unauthorized-access"


def test_a_signed_in_key_has_the_rights_that_it_has_now() -> None:
    sends = AccessKey("key", "a2V5", frozenset({Right.SEND}))
    listens = AccessKey("key", "a2V5", frozenset({Right.LISTEN}), queues=frozenset({"q"}))
    other = AccessKey("key", "b3RoZXI=")
    with GatewayService(EmbeddedBroker(queues=["q"]), [ROOT, sends], amqp_port=0) as service, RawClient(service) as raw:
        raw.open(sends)
        granted = []
        for handle, key in enumerate((sends, listens, other)):
            service.replace_keys([ROOT, key])
            granted.append(
                (
                    raw.attach_sender("q", handle=10 + handle).has_target,
                    raw.attach_receiver("q", handle=20 + handle).has_source,
                )
            )
        assert granted == [(True, False), (False, True), (False, False)]


def test_a_token_counts_for_its_queue_only(service: GatewayService, new_queue: Callable[..., str]) -> None:
    own, other = new_queue(), new_queue()
    with RawClient(service) as raw:
        raw.open()
        assert not raw.attach_sender(own, handle=5).has_target
        assert raw.put_token(f"sb://127.0.0.1/{own}", token_for(ROOT, own)) == 202
        assert raw.attach_sender(own, handle=6).has_target
        assert not raw.attach_sender(other, handle=7).has_target
        assert raw.expect(amqp.DETACH).error.condition == "amqp:unauthorized-access"


@pytest.mark.parametrize("audience", ["sb://127.0.0.1/other", "sb://elsewhere/orders"])
def test_a_token_for_something_else_is_refused(service: GatewayService, queue: str, audience: str) -> None:
    with RawClient(service) as raw:
        raw.open()
        assert raw.put_token(audience, token_for(ROOT, queue)) == 401


def test_a_token_of_microsoft_entra_is_refused_with_the_reason(service: GatewayService, queue: str) -> None:
    audience = f"sb://127.0.0.1/{queue}"
    with RawClient(service) as raw:
        # Microsoft's SDK for Python calls also a shared access signature "jwt".
        assert raw.open().put_token(audience, token_for(ROOT, queue), "jwt") == 202
        request = {"operation": "put-token", "type": "jwt", "name": audience}
        raw.send(transfer(101, 1, amqp.encode_request("1", "receiver-link-cbs-in", request, "eyJhbGciOiJub25lIn0.e30.")))
        response = amqp.decode_response(raw.expect(amqp.TRANSFER).payload)
        assert (response.status, response.condition) == (401, "amqp:unauthorized-access")
        assert "Microsoft Entra are not supported. Use a connection string" in response.description


@pytest.mark.parametrize("right", [Right.MANAGE, Right.METRICS])
def test_a_token_does_not_tell_whether_a_queue_exists_that_its_key_cannot_use(right: Right) -> None:
    queues = None if right is Right.METRICS else frozenset({"own", "own-missing"})
    key = AccessKey("key", "a2V5", frozenset({right}), queues=queues)

    def put(queue: str) -> int:
        with RawClient(service) as raw:
            return raw.open().put_token(f"sb://127.0.0.1/{queue}", token_for(key, queue))

    with GatewayService(EmbeddedBroker(queues=["own", "other"]), [ROOT, key], amqp_port=0) as service:
        assert (put("other"), put("missing"), put("missing/$management")) == (202, 202, 202)
        assert (put("own"), put("own-missing")) == (202, 404 if queues else 202)


def attach_until_expiry(raw: RawClient, queue: str, seconds: float) -> bool:
    """Attach a receiver with a token that expires after some seconds. Return whether that was in time."""
    token = token_for(ROOT, queue, seconds)
    in_time = raw.open().put_token(f"sb://127.0.0.1/{queue}", token) == 202 and raw.attach_receiver(queue).has_source
    assert in_time or time.time() > expiry_of(token)
    return in_time


def test_a_link_ends_when_its_token_expires(service: GatewayService, queue: str) -> None:
    for seconds in (2, 8, 32):  # A machine that was too slow gets more time.
        with RawClient(service) as raw:
            if attach_until_expiry(raw, queue, seconds):
                raw.socket.settimeout(60)
                error = raw.expect(amqp.DETACH, 60).error
                assert (error.condition, "ExpiredToken" in error.description) == ("amqp:unauthorized-access", True)
                break
    else:
        pytest.fail("every token expired before its link was attached")
    with RawClient(service) as raw:
        # The session was released.
        assert raw.open(ROOT).attach_receiver(queue).has_source


def test_a_link_ends_when_its_key_is_revoked() -> None:
    old, new = AccessKey("old", "b2xk"), AccessKey("new", "bmV3")
    with GatewayService(EmbeddedBroker(queues=["q"]), [old, new], amqp_port=0) as service, RawClient(service) as raw:
        raw.open(old)
        raw.attach_receiver("q")
        service.replace_keys([new])
        error = raw.expect(amqp.DETACH).error
        assert (error.condition, "was revoked" in error.description) == ("amqp:unauthorized-access", True)
        assert not raw.attach_sender("q", handle=3).has_target


def test_the_metrics_count_connections() -> None:
    metrics = GatewayMetrics()

    def count() -> float | None:
        return metrics.registry.get_sample_value("azsession_gateway_connections")

    with GatewayService(EmbeddedBroker(), [ROOT], amqp_port=0, metrics=metrics) as service:
        assert count() == 0
        with RawClient(service) as raw:
            raw.open(ROOT)
            assert count() == 1
        eventually(lambda: count() == 0)


@pytest.mark.parametrize("revoked", ["former", "latter"])
def test_a_link_goes_on_with_the_key_of_the_last_token(revoked: str) -> None:
    keys = {name: AccessKey(name, "a2V5") for name in ("former", "latter")}
    with GatewayService(EmbeddedBroker(queues=["q"]), [*keys.values()], amqp_port=0) as service, RawClient(service) as raw:
        audience = "sb://127.0.0.1/q"
        assert raw.open().put_token(audience, token_for(keys["former"], "q")) == 202
        assert raw.attach_receiver("q").has_source
        assert raw.put_next_token(1, audience, token_for(keys["latter"], "q")) == 202
        service.replace_keys([ROOT, *(key for name, key in keys.items() if name != revoked)])
        if revoked == "latter":
            assert "was revoked" in raw.expect(amqp.DETACH).error.description
        else:
            # The link still holds the session.
            assert not raw.attach_receiver("q", handle=3).has_source


def test_connections_that_do_not_open_are_closed_and_others_are_served(
    service: GatewayService, client: ServiceBusClient, queue: str
) -> None:
    with RawClient(service) as other:
        other.open(ROOT)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(limits, "HANDSHAKE_TIMEOUT", 1.0)
            clients = [RawClient(service) for _ in range(200)]
            clients[0].send(amqp.SASL_HEADER)
            assert other.attach_sender(queue).has_target
            for one in clients:
                one.assert_ended()
                one.socket.close()
    send(client, queue, message("x"))


def test_too_many_connections_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    with GatewayService(EmbeddedBroker(), [ROOT], amqp_port=0, max_connections=2) as service:
        with RawClient(service) as first, RawClient(service) as second:
            assert (first.sasl(), second.sasl()) == (0, 0)
            with RawClient(service) as third:
                third.assert_ended()
        eventually(lambda: not endpoint_of(service).connection_count)
        with RawClient(service) as fourth:
            assert fourth.sasl() == 0
    assert not [
        record for record in caplog.records if record.levelno >= logging.ERROR and record.name.startswith("azsession")
    ]


def test_both_protocols_share_the_limit_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_limits, "IDLE_GRACE", 0.0)
    monkeypatch.setattr(http_limits, "CHECK_PAUSE", 0.05)
    with GatewayService(EmbeddedBroker(), [ROOT], amqp_port=0, max_connections=2) as service:
        address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        with RawClient(service) as first, socket.create_connection(address, timeout=10) as idle:
            assert first.sasl() == 0
            idle.sendall(request)
            assert idle.recv(1000).startswith(b"HTTP/1.1 200 ")
            # The idle connection over HTTP makes room for one over AMQP, when the server has seen that it is idle.
            eventually(lambda: service._listener.connections._idle)
            with RawClient(service) as second:
                assert second.sasl() == 0
                assert idle.recv(1000) == b""
                # Connections over AMQP make no room.
                with socket.create_connection(address, timeout=10) as refused, RawClient(service) as third:
                    refused.sendall(request)
                    assert refused.recv(1000).startswith(b"HTTP/1.1 503 ")
                    third.assert_ended()


def test_a_silent_client_is_cut_off(service: GatewayService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDLE_TIMEOUT", 1.0)
    with RawClient(service) as raw:
        raw.open(ROOT)
        raw.assert_ended()


def answers_heartbeats(service: GatewayService, idle: float) -> bool:
    """Answer the server's heartbeats for longer than its time limit. Return whether this thread was fast enough for that."""
    with RawClient(service) as raw:
        last = time.monotonic()
        raw.open(ROOT, idle_timeout_ms=500)
        ends = time.monotonic() + 1.6 * idle
        beats = 0
        while last < ends or beats < 3:
            item = raw.next()
            before, last = last, time.monotonic()
            if last - before > 0.5 * idle:
                return False
            assert item is not None
            beats += isinstance(item, amqp.RawFrame) and item.body == b""
            raw.send(amqp.EMPTY_FRAME)
        return True


def test_heartbeats_keep_both_sides_alive(service: GatewayService, monkeypatch: pytest.MonkeyPatch) -> None:
    for idle in (1.0, 5.0, 25.0):  # A machine that was too slow gets more time.
        monkeypatch.setattr(limits, "IDLE_TIMEOUT", idle)
        if answers_heartbeats(service, idle):
            break
    else:
        pytest.fail("the heartbeats came too late, or were answered too late")


def test_a_connection_without_links_is_closed(service: GatewayService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNLINKED_TIMEOUT", 0.4)
    with RawClient(service) as raw:
        raw.open(ROOT)
        assert raw.expect(amqp.CLOSE).error.condition == "amqp:connection:forced"


def test_a_client_that_does_not_read_gets_a_bounded_number_of_bytes(
    service: GatewayService, provider: ServiceBusProvider, queue: str
) -> None:
    body = "x" * 500_000
    for _ in range(4):
        provider.send_messages(queue, [Message(body, session_id="s") for _ in range(15)])
    with RawClient(service) as raw:
        raw.socket.settimeout(30)
        raw.open(ROOT)
        raw.attach_receiver(queue)
        raw.credit(2, 60)
        eventually(lambda: endpoint_of(service).unsent_bytes)
        time.sleep(1)  # More would come now.
        unread = endpoint_of(service).unsent_bytes
        assert 0 < unread < 2 * 1024 * 1024
        with RawClient(service) as other:
            assert other.open(ROOT).attach_sender(queue).has_target
        numbers = set()
        while len(numbers) < 60:
            received = raw.expect(amqp.TRANSFER)
            if received.delivery_id is not None:
                numbers.add(received.delivery_id)


def test_a_client_that_only_asks_and_never_reads_is_not_answered_for_ever(service: GatewayService, queue: str) -> None:
    with RawClient(service) as raw:
        raw.open(ROOT)
        raw.attach_sender(queue)
        raw.socket.settimeout(1.0)
        flow = amqp.flow_frame(0, next_incoming_id=0, incoming_window=1, next_outgoing_id=0, outgoing_window=1, echo=True)
        with pytest.raises(TimeoutError):
            raw.send(flow * 2_000_000)
        assert endpoint_of(service).unsent_bytes < 2 * 1024 * 1024


def test_a_small_frame_size_of_the_client_is_kept(service: GatewayService, queue: str) -> None:
    with RawClient(service) as raw:
        raw.open(ROOT, max_frame_size=512)
        raw.attach_sender(queue)
        raw.expect(amqp.FLOW)
        raw.send(transfer(1, 0, encoded(bytes(3000))))
        raw.attach_receiver(queue)
        raw.credit(2, 1)
        size, is_last = 0, False
        while not is_last:
            item = raw.next()
            assert isinstance(item, amqp.RawFrame)
            assert len(item.body) <= 504
            code, part = amqp.decode_frame(item.body)
            if code == amqp.TRANSFER:
                size, is_last = size + len(part.payload), not part.more
        assert size > 3000


def test_the_server_stops_with_a_close_frame() -> None:
    with GatewayService(EmbeddedBroker(queues=["q"]), [ROOT], amqp_port=0) as service, RawClient(service) as raw:
        raw.open(ROOT).attach_receiver("q")
        raw.send(begin(1))
        started = time.monotonic()
        service.stop()
        assert raw.expect(amqp.CLOSE).error.condition == "amqp:connection:forced"
        raw.assert_ended()
        # Connections that do not end in 20 s are cut.
        assert time.monotonic() - started < 15


def test_a_client_that_sends_faster_than_the_broker_stores_is_slowed_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_HELD", 1024 * 1024)
    broker = EmbeddedBroker(tmp_path / "data", queues=["q"])
    is_over = threading.Event()
    with GatewayService(broker, [ROOT], amqp_port=0) as service, RawClient(service) as raw:
        raw.open(ROOT).attach_sender("q")
        raw.expect(amqp.FLOW)
        # The broker stores nothing until the event is set.
        blocked = broker._core.submit(lambda _: is_over.wait(100), CallContext(blocking=False))
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        sent = 0
        payload = transfer(1, 0, encoded(bytes(200_000)))
        with suppress(TimeoutError):
            while sent < 100:
                # 1 MB is held in any case.
                raw.socket.settimeout(60.0 if sent < 5 else 1.0)
                raw.socket.sendall(payload.replace(b"\xa0\x04\x00\x00\x00\x00", b"\xa0\x04" + sent.to_bytes(4, "big"), 1))
                sent += 1
        # The buffers of the system hold some more; the client wanted to send 20 MB.
        assert 5 <= sent < 70
        is_over.set()
        blocked.result()
        eventually(lambda: broker.get_queue("q").result().active_count == sent)
