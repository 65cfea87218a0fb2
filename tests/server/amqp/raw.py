"""An AMQP client that sends any bytes, for tests of the endpoint's protocol."""

from __future__ import annotations

import itertools
import socket
import time
from types import TracebackType
from typing import Any

from azsession import amqp
from azsession.amqp.encoding import described, encode_value, fields_of
from azsession.amqp.frames import SASL_FRAME, frame
from azsession.amqp.types import Symbol
from azsession.protocol.sas import generate_sas_token
from azsession.server import AccessKey, GatewayService

#: Seconds that a test waits for a frame.
PATIENCE = 30.0
WINDOW = 100_000
_numbers = itertools.count()


class RawClient:
    """A connection to the endpoint of a gateway. `expect` reads frames."""

    def __init__(self, service: GatewayService) -> None:
        assert service.amqp_port is not None
        self.socket = socket.create_connection(("127.0.0.1", service.amqp_port), timeout=PATIENCE)
        #: The client's name. Links of two clients never have the same full name.
        self.container_id = f"raw-{next(_numbers)}"
        self._splitter = amqp.FrameSplitter(1 << 20)
        self._items: list[bytes | amqp.RawFrame] = []

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()

    def send(self, *data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(b"".join(data))

    def next(self) -> bytes | amqp.RawFrame | None:
        """Return the next header or frame; `None` at the end of the connection."""
        while not self._items:
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                return None
            if not data:
                return None
            for item in self._splitter.feed(data):
                self._items.append(item)
                # The endpoint sends a header before SASL, and one before AMQP.
                is_outcome = isinstance(item, amqp.RawFrame) and item.kind == 1 and amqp.decode_frame(item.body)[0] == 0x44
                self._splitter.awaits_header = is_outcome
        return self._items.pop(0)

    def expect(self, code: int, patience: float = PATIENCE) -> Any:
        """Return the next performative of a kind. Others in between are dropped."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            item = self.next()
            assert item is not None, f"the connection ended before a frame 0x{code:02x}"
            if isinstance(item, amqp.RawFrame):
                found, performative = amqp.decode_frame(item.body)
                if found == code:
                    return performative
        raise AssertionError(f"no frame 0x{code:02x} came")

    def assert_ended(self) -> None:
        """Check that the endpoint closes the connection."""
        while self.next() is not None:
            pass

    # Steps

    def sasl(self, mechanism: str = "ANONYMOUS", response: bytes = b"") -> int:
        """Authenticate; return the code of the outcome."""
        self.send(amqp.SASL_HEADER)
        assert "PLAIN" in self.expect(amqp.SASL_MECHANISMS).mechanisms
        fields = (encode_value(Symbol(mechanism)), encode_value(response), encode_value("127.0.0.1"))
        self.send(frame(0, amqp.SASL_INIT, *fields, kind=SASL_FRAME))
        return int(self.expect(amqp.SASL_OUTCOME).code)

    def open(
        self, key: AccessKey | None = None, *, idle_timeout_ms: int | None = None, max_frame_size: int = 65536
    ) -> RawClient:
        """Authenticate, with a key or anonymously, open the connection, and begin a session on channel 0."""
        if key is None:
            assert self.sasl() == 0
        else:
            assert self.sasl("PLAIN", f"\0{key.name}\0{key.key}".encode()) == 0
        self.send(
            amqp.AMQP_HEADER,
            amqp.open_frame(
                container_id=self.container_id,
                hostname="127.0.0.1",
                max_frame_size=max_frame_size,
                channel_max=100,
                idle_timeout_ms=idle_timeout_ms,
            ),
            begin(0),
        )
        self.expect(amqp.BEGIN)
        return self

    def attach_sender(self, queue: str, handle: int = 1) -> amqp.Attach:
        """Attach a sender; return the endpoint's attach."""
        self.send(amqp.attach_sender(0, name=f"sender-{handle}", handle=handle, address=queue))
        attach: amqp.Attach = self.expect(amqp.ATTACH)
        return attach

    def attach_receiver(self, queue: str, session_id: str | None = "s", handle: int = 2, **options: Any) -> amqp.Attach:
        """Attach a receiver of a session; return the endpoint's attach."""
        self.send(amqp.attach_receiver(0, name=f"r-{handle}", handle=handle, address=queue, session_id=session_id, **options))
        attach: amqp.Attach = self.expect(amqp.ATTACH)
        return attach

    def credit(self, handle: int, credit: int, *, delivery_count: int = 0, drain: bool = False, window: int = WINDOW) -> None:
        """Give credit to a receiver."""
        self.send(
            amqp.flow_frame(
                0,
                next_incoming_id=0,
                incoming_window=window,
                next_outgoing_id=0,
                outgoing_window=WINDOW,
                handle=handle,
                delivery_count=delivery_count,
                link_credit=credit,
                drain=drain,
            )
        )

    def put_token(self, audience: str, token: str, kind: str = "servicebus.windows.net:sastoken") -> int:
        """Put a token on ``$cbs``; return the status."""
        self.send(
            amqp.attach_receiver(0, name="cbs-in", handle=100, address="$cbs"),
            amqp.attach_sender(0, name="cbs-out", handle=101, address="$cbs"),
        )
        self.expect(amqp.ATTACH)
        self.expect(amqp.ATTACH)
        self.credit(100, 10)
        return self.put_next_token(0, audience, token, kind)

    def put_next_token(
        self, delivery_id: int, audience: str, token: str, kind: str = "servicebus.windows.net:sastoken"
    ) -> int:
        """Put another token on the same link; return the status."""
        properties = {"operation": "put-token", "type": kind, "name": audience}
        request = amqp.encode_request("1", "receiver-link-cbs-in", properties, token)
        self.send(transfer(101, delivery_id, request))
        return amqp.decode_response(self.expect(amqp.TRANSFER).payload).status


def token_for(key: AccessKey, path: str, seconds: float = 3600) -> str:
    """Return a token for a path."""
    return generate_sas_token(f"sb://127.0.0.1/{path}", key.name, key.key, int(time.time() + seconds))


def begin(channel: int, **changes: int) -> bytes:
    """Return a begin frame."""
    numbers = {"next_outgoing_id": 0, "incoming_window": WINDOW, "outgoing_window": WINDOW, "handle_max": 255, **changes}
    return amqp.begin_frame(channel, **numbers)


def transfer(handle: int, delivery_id: int, payload: bytes, **options: Any) -> bytes:
    """Return the frames of a delivery on channel 0."""
    return b"".join(
        amqp.transfer_frames(
            0,
            handle=handle,
            delivery_id=delivery_id,
            delivery_tag=delivery_id.to_bytes(4, "big"),
            payload=payload,
            **{"max_frame_size": 65536, **options},
        )
    )


def transfer_part(handle: int, delivery_id: int | None, payload: bytes, *, more: bool) -> bytes:
    """Return one transfer frame, which may be one of many."""
    number = amqp.Uint(delivery_id) if delivery_id is not None else None
    tag = None if delivery_id is None else delivery_id.to_bytes(4, "big")
    fields = fields_of([encode_value(value) for value in (amqp.Uint(handle), number, tag, amqp.Uint(0), False, more)])
    body = described(amqp.TRANSFER, fields) + payload
    return (len(body) + 8).to_bytes(4, "big") + b"\x02\x00\x00\x00" + body


def encoded(body: bytes, session_id: str | None = "s") -> bytes:
    """Return an encoded message."""
    return amqp.encode_message(amqp.AmqpMessage(group_id=session_id, data=body))
