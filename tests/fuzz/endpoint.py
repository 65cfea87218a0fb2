"""The AMQP endpoint as a parser: connections and messages. Each function is one of `targets`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from websockets.frames import Frame, Opcode

from azsession import amqp
from azsession.amqp.encoding import encode_value
from azsession.amqp.frames import SASL_FRAME, frame
from azsession.amqp.types import Symbol
from azsession.broker.calls import CallContext
from azsession.broker.embedded import EmbeddedBroker
from azsession.messages import PeekedMessage
from azsession.server.access_keys import AccessKey
from azsession.server.amqp.connection import Connection
from azsession.server.amqp.messages import encode_peeked, read_batch, read_message
from azsession.server.amqp.services import Services
from azsession.server.amqp.websocket import WebSocket
from azsession.server.authorization import Guard

KEY = AccessKey("root", "cm9vdA==")
MAX_SIZE = 64 * 1024

_SIGN_IN = (encode_value(Symbol("PLAIN")), encode_value(f"\0{KEY.name}\0{KEY.key}".encode()))
#: The bytes of a client up to an open connection with a session on channel 0.
OPENED = b"".join(
    (
        amqp.SASL_HEADER,
        frame(0, amqp.SASL_INIT, *_SIGN_IN, kind=SASL_FRAME),
        amqp.AMQP_HEADER,
        amqp.open_frame(container_id="c", hostname="h", max_frame_size=65536, channel_max=7, idle_timeout_ms=1000),
        amqp.begin_frame(0, next_outgoing_id=0, incoming_window=100, outgoing_window=100, handle_max=255),
    )
)

_services: list[Services] = []


@contextmanager
def serving() -> Iterator[None]:
    """Run the broker behind `connection`."""
    broker = EmbeddedBroker(queues=["q"])
    # The broker starts its thread with the first call that does not block.
    broker.list_queues(context=CallContext(blocking=False)).result()
    _services.append(Services(broker, Guard([KEY]), MAX_SIZE))
    try:
        yield
    finally:
        _services.pop()
        broker.close()


class _Transport:
    """Collects what the server writes."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.is_closed = False

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def get_extra_info(self, name: str, default: Any = None) -> None:
        """Return nothing: nobody is connected."""

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int, low: int | None = None) -> None:
        assert high > 0

    def pause_reading(self) -> None:
        """Do nothing: all bytes are there."""

    def resume_reading(self) -> None:
        """Do nothing: all bytes are there."""


class _Owner:
    def add(self, connection: Connection) -> bool:
        return True

    def remove(self, connection: Connection) -> None:
        """Do nothing."""


class _Errors(logging.Handler):
    """Notes the exceptions that the endpoint did not expect."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(logging.Formatter().format(record))


def connection(data: bytes) -> None:
    """Handle the bytes of a client whose connection is open. The endpoint never fails in a way that it does not expect."""
    _check_frames(_served(Connection, OPENED + data))


def websocket(data: bytes) -> None:
    """Handle the bytes of a client behind the head of its request for a WebSocket."""
    written = _served(_new_websocket, data, head=_HANDSHAKE)
    assert written.startswith(b"HTTP/1.1 101 ")


_HANDSHAKE = (
    b"GET /$servicebus/websocket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: amqp\r\n\r\n"
)


def _new_websocket(owner: _Owner, services: Services) -> WebSocket:
    return WebSocket(lambda: Connection(owner, services), lambda: True)


def _served(make_peer: Callable[[_Owner, Services], asyncio.Protocol], data: bytes, head: bytes = b"") -> bytes:
    """Return what the server writes to a client, and check that nothing failed in a way that it does not expect."""
    errors = _Errors()
    log = logging.getLogger("azsession.server.amqp")
    log.addHandler(errors)
    try:
        written = asyncio.run(_converse(make_peer, data, head))
    finally:
        log.removeHandler(errors)
    assert not errors.records, errors.records[0]
    return written


async def _converse(make_peer: Callable[[_Owner, Services], asyncio.Protocol], data: bytes, head: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    failures: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    transport = _Transport()
    peer = make_peer(_Owner(), _services[-1])
    if head:
        # The HTTP server passes the head, and hands the connection over.
        peer.connection_made(cast("asyncio.Transport", None))
        peer.data_received(head)
    peer.connection_made(cast("asyncio.Transport", transport))
    for start in range(0, len(data), 4099):
        if not transport.is_closed:
            peer.data_received(data[start : start + 4099])
            await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    peer.connection_lost(None)
    await asyncio.sleep(0)
    assert not failures, failures
    return bytes(transport.written)


def _check_frames(written: bytes) -> None:
    """Check that everything that the server wrote can be read."""
    splitter = amqp.FrameSplitter(65536)
    for item in splitter.feed(written):
        splitter.awaits_header = False
        if isinstance(item, amqp.RawFrame):
            code, performative = amqp.decode_frame(item.body)
            splitter.awaits_header = code == amqp.SASL_OUTCOME and performative.code == 0


def message(data: bytes) -> None:
    """Read a message as a sender's, and deliver it. The bare message stays the same."""
    sent = read_message(data, MAX_SIZE)
    fields = {name: getattr(sent, name) for name in ("body", "session_id", "message_id", "attributes")}
    again = encode_peeked(PeekedMessage(**fields, sequence_number=1))
    assert amqp.decode_message(again).group_id == sent.session_id
    payload = amqp.delivered(sent.encoded, sent.body, failed_deliveries=2, annotations={"a": 1}, properties={})
    before, after = amqp.decode_message(data), amqp.decode_message(payload)
    assert after.delivery_count == 2
    assert after.annotations["a"] == 1
    # A message without a body gets an empty one.
    assert (before.data or b"", repr(before.value)) == (after.data or b"", repr(after.value))
    for name in ("message_id", "group_id", "correlation_id", "application_properties", "priority"):
        # A text comparison: NaN is not equal to itself.
        assert repr(getattr(after, name)) == repr(getattr(before, name)), name


def batch(data: bytes) -> None:
    """Read the messages of a batch."""
    for one in read_batch(data, MAX_SIZE):
        assert one.session_id is not None


def websocket_conversations() -> tuple[bytes, ...]:
    """Return the frames of clients with open connections."""

    def framed(operation: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
        return Frame(operation, payload, fin).serialize(mask=True)

    binary, more, ping, close = Opcode.BINARY, Opcode.CONT, Opcode.PING, Opcode.CLOSE
    return (
        *(framed(binary, OPENED + each) + framed(close, b"\x03\xe8") for each in conversations()[:2]),
        framed(binary, OPENED[:9], fin=False)
        + framed(ping, b"p")
        + framed(more, OPENED[9:20], fin=False)
        + framed(more, b""),
        framed(Opcode.TEXT, b"AMQP"),
    )


def conversations() -> tuple[bytes, ...]:
    """Return the bytes of clients with open connections."""
    token = {"operation": "put-token", "type": "jwt", "name": "sb://h/q"}
    manage = {"operation": "com.microsoft:peek-message"}
    flow = amqp.flow_frame(
        0, next_incoming_id=0, incoming_window=9, next_outgoing_id=0, outgoing_window=9, handle=1, link_credit=9, echo=True
    )

    def transfer(payload: bytes) -> bytes:
        parts = amqp.transfer_frames(0, handle=0, delivery_id=0, delivery_tag=b"t", payload=payload, max_frame_size=512)
        return b"".join(parts)

    sent = amqp.encode_message(amqp.AmqpMessage(group_id="s", data=b"x"))
    settled = amqp.disposition_frame(0, first=0, last=5, outcome=amqp.dead_lettered("a", "b"))
    body = {"from-sequence-number": amqp.Long(1), "message-count": 5, "session-id": "s"}
    return (
        amqp.attach_sender(0, name="a", handle=0, address="q") + transfer(sent) + amqp.detach_frame(0, handle=0),
        amqp.attach_receiver(0, name="b", handle=1, address="q", session_id=None) + flow + settled + amqp.end_frame(0),
        amqp.attach_receiver(0, name="b", handle=1, address="q/$deadletterqueue") + flow + settled,
        amqp.attach_receiver(0, name="b", handle=1, address="$cbs")
        + flow
        + amqp.attach_sender(0, name="a", handle=0, address="$cbs")
        + transfer(amqp.encode_request("1", "r", token, "SharedAccessSignature sr=a&sig=b&se=1&skn=c")),
        amqp.attach_sender(0, name="a", handle=0, address="q/$management")
        + transfer(amqp.encode_request("1", "r", manage, body))
        + amqp.close_frame(),
    )
