"""A WebSocket server in front of a TCP port, as Azure has on port 443. Hand-written after RFC 6455."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import threading
from contextlib import suppress

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Bridge:
    """Accepts WebSocket connections and forwards their content to a port on this machine.

    Args:
        port: The port to forward to.
        context: The TLS settings, `None` for no TLS.
        piece: The largest content of a frame to the client, in bytes.
        protocol: The subprotocol in the answer to the handshake.

    Attributes:
        requests: The heads of the handshake requests.
        pongs: The contents of received pong frames.
    """

    def __init__(
        self, port: int, context: ssl.SSLContext | None = None, *, piece: int = 65536, protocol: str = "AMQPWSB10"
    ) -> None:
        self._target, self._context, self._piece, self._protocol = port, context, piece, protocol
        self.requests: list[str] = []
        self.pongs: list[bytes] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def __enter__(self) -> Bridge:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(10)
        for sock in self._sockets:
            sock.close()

    def _start(self, run: object, *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        self._sockets.append(client)
        with suppress(OSError, EOFError):
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
                self._sockets.append(client)
            reader = client.makefile("rb")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = reader.readline()
                if not line:
                    return
                head += line
            self.requests.append(head.decode())
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line)
            key = {name.lower(): value for name, value in fields.items()}["sec-websocket-key"]
            accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()
            client.sendall(
                f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {self._protocol}\r\n\r\n".encode()
            )
            target = socket.create_connection(("127.0.0.1", self._target))
            self._sockets.append(target)
            self._start(self._back, target, client)
            try:
                self._forth(reader, target)
            finally:
                target.shutdown(socket.SHUT_RDWR)

    def _forth(self, reader: object, target: socket.socket) -> None:
        def take(size: int) -> bytes:
            data: bytes = reader.read(size)  # type: ignore[attr-defined]
            if len(data) < size:
                raise EOFError
            return data

        while True:
            first, second = take(2)
            assert second & 0x80, "a client must mask its frames (RFC 6455 §5.3)"
            size = second & 0x7F
            if size >= 126:
                size = int.from_bytes(take(2 if size == 126 else 8), "big")
            key = take(4)
            data = bytes(byte ^ key[at % 4] for at, byte in enumerate(take(size)))
            if first & 0x0F == 0xA:
                self.pongs.append(data)
            elif first & 0x0F == 0x2:
                target.sendall(data)

    def _back(self, target: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            number = 0
            while data := target.recv(self._piece):
                number += 1
                ping = b"ping %d" % number
                client.sendall(_frame(0x89, ping) + _frame(0x82, data))
            client.sendall(_frame(0x88, b"\x03\xe8"))


def _frame(first: int, data: bytes) -> bytes:
    if len(data) < 126:
        return bytes((first, len(data))) + data
    if len(data) < 65536:
        return bytes((first, 126)) + len(data).to_bytes(2, "big") + data
    return bytes((first, 127)) + len(data).to_bytes(8, "big") + data
