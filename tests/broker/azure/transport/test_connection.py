"""A connection is opened and kept alive; a silent, broken or hostile peer costs only its own connection."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from azsession import ConnectionFailedError, Message, QueueError, ServiceBusConfig, amqp
from azsession.broker.azure import AzureBroker
from azsession.broker.azure import namespace as namespace_module
from azsession.broker.azure.transport import connection as connection_module

from ....conftest import eventually
from ....namespaces import Namespace
from ....namespaces.choice import namespace_on
from ..holders import QUEUE, Holder, broker_on, in_thread, send
from .raw_peer import RawPeer, Talk, mechanisms, outcome, raw_peer


@pytest.fixture
def namespace(server: str) -> Iterator[Namespace]:
    with namespace_on(server) as namespace:
        namespace.create_queue(QUEUE)
        yield namespace


def broker_of(peer: RawPeer, **config_fields: object) -> AzureBroker:
    return AzureBroker(ServiceBusConfig(connection_string=peer.connection_string, **config_fields))  # type: ignore[arg-type]


def failure_of(peer: RawPeer) -> QueueError:
    """Return the error of a receive from this peer, after a check that the broker's thread still runs."""
    broker = broker_of(peer)
    try:
        with pytest.raises(QueueError) as caught:
            Holder(broker).receive(timeout=10)
        assert broker._loop.run(lambda: True)
        return caught.value
    finally:
        broker.close()


# Heartbeats and timeouts


def test_heartbeats_keep_an_idle_connection_open(server: str) -> None:
    with namespace_on(server, idle_timeout=2.0) as namespace:
        namespace.create_queue(QUEUE)
        with broker_on(namespace) as broker:
            send(broker, "one")
            holder = Holder(broker)
            messages = holder.take()
            began = time.monotonic()
            eventually(lambda: time.monotonic() - began > 5 or not namespace.connections())
            assert namespace.connections() == 1
            assert namespace.log["open"] == 1
            assert holder.complete(*messages) == [None]


def test_heartbeats_are_sent_while_the_peer_sends_all_the_time() -> None:
    heartbeats = threading.Event()

    def script(talk: Talk) -> None:
        talk.open(idle_timeout_ms=400)
        stop = threading.Event()

        def chatter() -> None:
            while not stop.wait(0.02):
                talk.send(amqp.EMPTY_FRAME)

        thread = threading.Thread(target=chatter, daemon=True)
        thread.start()
        try:
            for _ in range(5):
                talk.frame(amqp.HEARTBEAT)
            heartbeats.set()
        finally:
            stop.set()
            thread.join()

    with raw_peer(script) as peer:
        broker = broker_of(peer)
        waiting = in_thread(lambda: Holder(broker).receive(timeout=30))
        assert heartbeats.wait(15)
        broker.close()
        with pytest.raises(QueueError):
            waiting.result(10)


def test_a_silent_peer_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "IDLE_TIMEOUT", 0.5)
    announced = []

    def script(talk: Talk) -> None:
        announced.append(talk.open().idle_timeout_ms)
        while talk.read(1):
            pass

    with raw_peer(script) as peer:
        error = failure_of(peer)
    assert "no frame arrived for 0.5 s" in str(error) or "lost" in str(error)
    assert announced[0] == 500


def test_a_peer_that_does_not_answer_the_open_in_time_fails_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace_module, "CONNECT_TIMEOUT", 0.3)

    def script(talk: Talk) -> None:
        while talk.read(1):
            pass

    with raw_peer(script) as peer:
        error = failure_of(peer)
    assert isinstance(error, ConnectionFailedError)
    assert "did not answer in time" in str(error)
    assert not error.maybe_delivered


def test_the_next_call_replaces_a_lost_connection(namespace: Namespace) -> None:
    with broker_on(namespace) as broker:
        send(broker, "one")
        for polite in (False, True):
            assert namespace.drop_connections(polite=polite) == 1
            eventually(lambda: not namespace.connections())
            eventually(lambda: not broker._namespace._connections)
            send(broker, "again")
            assert namespace.connections() == 1
        assert len(namespace.accepted(QUEUE)) == 3


# Broken and hostile peers

_HUGE = (1 << 24).to_bytes(4, "big") + b"\x02\x00\x00\x00"


def _refuses_authentication(talk: Talk) -> None:
    talk.read(8)
    talk.send(amqp.SASL_HEADER, mechanisms())
    talk.read(int.from_bytes(talk.read(4), "big") - 4)
    talk.send(outcome(1))


def _opens_and(*frames: bytes) -> Callable[[Talk], object]:
    def script(talk: Talk) -> None:
        talk.open()
        talk.send(*frames)
        while talk.read(1):
            pass

    return script


BROKEN_PEERS: dict[str, tuple[Callable[[Talk], object], str]] = {
    "closes-at-once": (lambda talk: talk.sock.close(), "peer closed the connection|ConnectionReset"),
    "speaks-http": (lambda talk: talk.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "another protocol"),
    "another-version": (lambda talk: talk.send(b"AMQP\x00\x00\x09\x01"), "another protocol"),
    "refuses-authentication": (_refuses_authentication, "authentication failed with SASL code 1"),
    "opens-before-authentication": (
        lambda talk: talk.send(
            amqp.SASL_HEADER,
            amqp.open_frame(container_id="p", hostname="", max_frame_size=512, channel_max=1, idle_timeout_ms=None),
        ),
        "frame 0x10 while the connection is in the state 'SASL'",
    ),
    "a-frame-too-large": (_opens_and(_HUGE), "a frame of 16777216 bytes"),
    "a-frame-too-small": (_opens_and(b"\x00\x00\x00\x07\x02\x00\x00\x00"), "a frame of 7 bytes"),
    "a-wrong-data-offset": (_opens_and(b"\x00\x00\x00\x08\x09\x00\x00\x00"), "a data offset of 36"),
    "garbage-in-a-frame": (_opens_and(b"\x00\x00\x00\x10\x02\x00\x00\x00" + b"\xff" * 8), "violated the AMQP 1.0 protocol"),
    "a-second-open": (
        _opens_and(amqp.open_frame(container_id="p", hostname="", max_frame_size=512, channel_max=1, idle_timeout_ms=None)),
        "a second open frame",
    ),
    "a-close": (_opens_and(amqp.close_frame()), "peer closed the connection"),
}


@pytest.mark.parametrize("name", BROKEN_PEERS)
def test_a_broken_peer_fails_only_its_connection(name: str) -> None:
    script, why = BROKEN_PEERS[name]
    with raw_peer(script) as peer:
        error = failure_of(peer)
    assert error.is_transient
    assert any(part in str(error) for part in why.split("|")), str(error)


def test_a_connection_that_ends_within_a_frame_has_failed() -> None:
    def script(talk: Talk) -> None:
        talk.open()
        talk.send(b"\x00\x00\x01\x00\x02\x00")
        talk.sock.close()

    with raw_peer(script) as peer:
        assert failure_of(peer).is_transient


def test_a_connection_that_is_closed_before_authentication_sends_no_close_frame() -> None:
    started = threading.Event()
    received: list[bytes] = []

    def script(talk: Talk) -> None:
        received.append(talk.read(8))
        started.set()
        with suppress(EOFError):
            while True:
                received.append(talk.read(1))

    with raw_peer(script) as peer:
        broker = broker_of(peer)
        waiting = in_thread(lambda: Holder(broker).receive(timeout=30))
        assert started.wait(10)
        broker.close()
        with pytest.raises(QueueError):
            waiting.result(10)
    assert b"".join(received) == amqp.SASL_HEADER


def test_frames_for_unknown_links_and_channels_are_ignored(namespace: Namespace) -> None:
    served = threading.Event()

    def script(talk: Talk) -> None:
        talk.open()
        talk.send(
            amqp.detach_frame(7, handle=9),
            amqp.end_frame(9),
            amqp.disposition_frame(3, first=1, last=2**32 - 1, outcome=amqp.ACCEPTED, settled=True),
            *amqp.transfer_frames(
                2, handle=4, delivery_id=0, delivery_tag=b"t", message_format=0, payload=b"x", max_frame_size=512
            ),
        )
        talk.begin()
        talk.send(amqp.detach_frame(0, handle=9))
        talk.serve_token()
        served.set()
        while talk.read(1):
            pass

    with raw_peer(script) as peer:
        broker = broker_of(peer)
        waiting = in_thread(lambda: Holder(broker).receive(timeout=30))
        assert served.wait(10)
        assert broker._namespace._connections
        broker.close()
        # The receive ends with an error because the broker is closed, or with no message.
        with suppress(QueueError):
            assert waiting.result(10) == []


# Windows


def test_a_message_of_many_frames_waits_for_the_peers_window() -> None:
    parts: list[int] = []
    body = os.urandom(30_000)

    def script(talk: Talk) -> None:
        talk.window = 3
        talk.open(max_frame_size=2048)
        talk.begin()
        talk.serve_token()
        talk.attach()
        more, allowed = True, talk.transfers + 3
        while more:
            transfer = talk.frame(amqp.TRANSFER)
            parts.append(len(transfer.payload))
            more = transfer.more
            if talk.transfers == allowed and more:
                # The next frame is the answer to this echo, so no part was sent beyond the window.
                talk.flow(0, next_incoming_id=talk.transfers, echo=True)
                assert talk.next_code() == amqp.FLOW
                talk.flow(3, next_incoming_id=talk.transfers)
                allowed += 3
        talk.send(amqp.disposition_frame(0, first=1, last=1, outcome=amqp.ACCEPTED, settled=True))
        while talk.read(1):
            pass

    with raw_peer(script) as peer:
        broker = broker_of(peer)
        broker.send(QUEUE, [Message(body, session_id="s")]).result()
        broker.close()
    assert len(parts) > 12
    assert sum(parts) > len(body)
