"""A peer on a raw socket that sends the bytes a test gives it, to test behaviour that no correct broker has."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from azure.servicebus._pyamqp.performatives import BeginFrame, FlowFrame

from azsession import amqp

from ....amqp.amqp_bytes import from_the_sdk


def sasl(body: bytes) -> bytes:
    """Return a SASL frame."""
    return (len(body) + 8).to_bytes(4, "big") + b"\x02\x01\x00\x00" + body


def mechanisms(name: bytes = b"ANONYMOUS") -> bytes:
    """Return the SASL frame that offers one mechanism."""
    array = b"\xe0" + bytes((len(name) + 3, 1, 0xA3, len(name))) + name
    return sasl(b"\x00\x53\x40\xc0" + bytes((len(array) + 1, 1)) + array)


def outcome(code: int) -> bytes:
    """Return the SASL frame with the result of authentication."""
    return sasl(b"\x00\x53\x44\xc0\x03\x01\x50" + bytes((code,)))


class Talk:
    """One connection, seen from the peer."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(20)
        self.sock = sock
        self._in = b""
        #: How many transfer frames the client may send ahead, and how many have arrived.
        self.window, self.transfers = 5000, 0

    def read(self, size: int) -> bytes:
        while len(self._in) < size:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self._in += data
        found, self._in = self._in[:size], self._in[size:]
        return found

    def frame(self, *codes: int) -> Any:
        """Return the next performative with one of these codes; skip others. `amqp.HEARTBEAT` is the code of heartbeats."""
        while True:
            size = int.from_bytes(self.read(4), "big")
            rest = self.read(size - 4)
            code, fields = amqp.decode_frame(rest[4:])
            self.transfers += code == amqp.TRANSFER
            if code in codes:
                return fields

    def next_code(self) -> int:
        """Return the code of the next frame."""
        size = int.from_bytes(self.read(4), "big")
        return int(amqp.decode_frame(self.read(size - 4)[4:])[0])

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def authenticate(self) -> None:
        """Authenticate the client, up to both AMQP headers."""
        assert self.read(8) == amqp.SASL_HEADER
        self.send(amqp.SASL_HEADER, mechanisms())
        size = int.from_bytes(self.read(4), "big")
        self.read(size - 4)
        self.send(outcome(0))
        assert self.read(8) == amqp.AMQP_HEADER
        self.send(amqp.AMQP_HEADER)

    def open(self, idle_timeout_ms: int | None = None, **fields: Any) -> amqp.Open:
        """Authenticate the client and open the connection; return the client's open."""
        self.authenticate()
        opened: amqp.Open = self.frame(amqp.OPEN)
        settings: dict[str, Any] = {"max_frame_size": 65536, "channel_max": 100, **fields}
        self.send(amqp.open_frame(container_id="peer", hostname="", idle_timeout_ms=idle_timeout_ms, **settings))
        return opened

    def begin(self, handle_max: int = 255) -> None:
        """Accept the client's first channel."""
        self.frame(amqp.BEGIN)
        begin = BeginFrame(
            remote_channel=0,
            next_outgoing_id=0,
            incoming_window=self.window,
            outgoing_window=5000,
            handle_max=handle_max,
            offered_capabilities=None,
            desired_capabilities=None,
            properties=None,
        )
        self.send(from_the_sdk(begin))

    def attach(self) -> amqp.Attach:
        """Accept the next link with the same handle, and give a sender credit; return the client's attach."""
        attach: amqp.Attach = self.frame(amqp.ATTACH)
        make = amqp.attach_sender if attach.is_receiver else amqp.attach_receiver
        self.send(make(0, name=attach.name, handle=attach.handle, address="x"))
        if not attach.is_receiver:
            self.flow(self.window, next_incoming_id=self.transfers, handle=attach.handle, credit=100)
        return attach

    def serve_token(self) -> None:
        """Accept the links to ``$cbs`` and the token that the client puts."""
        responses, _ = self.attach(), self.attach()
        request = amqp.decode_message(bytes(self.frame(amqp.TRANSFER).payload))
        properties = {"status-code": 202, "status-description": "Accepted"}
        response = amqp.AmqpMessage(correlation_id=request.message_id, application_properties=properties, value="taken")
        self.send(amqp.disposition_frame(0, first=0, last=0, outcome=amqp.ACCEPTED, settled=True))
        self.send(
            *amqp.transfer_frames(
                0,
                handle=responses.handle,
                delivery_id=0,
                delivery_tag=b"1",
                message_format=0,
                payload=amqp.encode_message(response),
                max_frame_size=4096,
            )
        )

    def flow(
        self, window: int, *, next_incoming_id: int, handle: int | None = None, credit: int | None = None, echo: bool = False
    ) -> None:
        """Send the window of the channel and, with a handle, a link's credit."""
        flow = FlowFrame(
            next_incoming_id=next_incoming_id,
            incoming_window=window,
            next_outgoing_id=0,
            outgoing_window=5000,
            handle=handle,
            delivery_count=None if handle is None else 0,
            link_credit=credit,
            available=None,
            drain=False,
            echo=echo,
            properties=None,
        )
        self.send(from_the_sdk(flow))


class RawPeer:
    """Listens on a free port and runs a script for each connection in a thread of its own.

    Attributes:
        talks: How many connections there were.
        errors: The errors of the scripts, except for the end of the connection.
    """

    def __init__(self, script: Callable[[Talk], object]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.talks = 0
        self.errors: list[Exception] = []
        self._socks: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def connection_string(self) -> str:
        return f"Endpoint=sb://127.0.0.1:{self.port};SharedAccessKeyName=k;SharedAccessKey=a2V5;UseDevelopmentEmulator=true"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._socks.append(sock)
                self.talks += 1
                thread = threading.Thread(target=self._talk, args=(sock,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _talk(self, sock: socket.socket) -> None:
        try:
            self._script(Talk(sock))
        except (OSError, EOFError):
            return
        except Exception as error:
            self.errors.append(error)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for sock in self._socks:
            sock.close()


@contextmanager
def raw_peer(script: Callable[[Talk], object]) -> Iterator[RawPeer]:
    """Run a peer during the `with` block, and raise the first error of its scripts afterwards."""
    peer = RawPeer(script)
    try:
        yield peer
    finally:
        peer.close()
    if peer.errors:
        raise peer.errors[0]
