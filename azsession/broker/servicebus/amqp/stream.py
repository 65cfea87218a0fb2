"""A byte stream to the namespace: TCP, TLS over it, or AMQP over WebSockets. Opened by any thread, used by the loop's."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any, Protocol

import attrs
import certifi

from ....errors import ConfigurationError, ConnectionFailedError

#: Bytes read at once.
READ_SIZE = 256 * 1024
#: The WebSocket subprotocol of AMQP 1.0 (OASIS "AMQP WebSocket Binding", 2.1), and the path that Azure serves it at.
WEBSOCKET_PROTOCOL, WEBSOCKET_PATH = "AMQPWSB10", "/$servicebus/websocket"


@attrs.frozen
class Address:
    """Where a namespace is reached.

    Attributes:
        host: Its name or address.
        port: The port.
        tls: Whether to speak TLS; its certificate is verified.
        websocket: Whether AMQP goes over WebSockets.
        ca_bundle: A file or folder with the certificates to trust, instead of the usual ones.
    """

    host: str
    port: int
    tls: bool = True
    websocket: bool = False
    ca_bundle: str | None = None


class Stream(Protocol):
    """A connected, non-blocking stream."""

    def fileno(self) -> int:
        """Return the descriptor to watch."""

    def read(self) -> bytes | None:
        """Return what is there, ``b""`` at the end, `None` where nothing is there now."""

    def pack(self, data: bytes) -> bytes:
        """Return `data` as it goes onto the socket."""

    def write(self, packed: bytes) -> bytes:
        """Write; return the rest that was not taken now."""

    def close(self) -> None:
        """Let go of the socket."""


def open_stream(address: Address, timeout: float) -> Stream:
    """Connect. Blocks for up to `timeout` seconds a step.

    Raises:
        ConnectionFailedError: It could not be reached, or its certificate is not good for its name.
    """
    try:
        if address.websocket:
            return _WebSocket(address, timeout)
        sock = socket.create_connection((address.host, address.port), timeout)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if address.tls:
                sock = _tls_context(address).wrap_socket(sock, server_hostname=address.host)
            return _Socket(sock)
        except BaseException:
            sock.close()
            raise
    except (OSError, ValueError) as error:
        reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else type(error).__name__
        raise ConnectionFailedError(f"{address.host}:{address.port} cannot be reached: {reason}") from error


def _tls_context(address: Address) -> ssl.SSLContext:
    try:
        if address.ca_bundle is None:
            context = ssl.create_default_context()
            context.load_verify_locations(certifi.where())
        elif os.path.isdir(address.ca_bundle):
            context = ssl.create_default_context(capath=address.ca_bundle)
        else:
            context = ssl.create_default_context(cafile=address.ca_bundle)
    except OSError as error:
        raise ConfigurationError(f"ca_bundle {address.ca_bundle!r} cannot be read: {type(error).__name__}") from error
    return context


class _Socket:
    """TCP, or TLS over it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bytes | None:
        try:
            return self._socket.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def pack(self, data: bytes) -> bytes:
        return data

    def write(self, packed: bytes) -> bytes:
        view = memoryview(packed)
        try:
            while view:
                view = view[self._socket.send(view) :]
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return bytes(view)
        return b""

    def close(self) -> None:
        self._socket.close()


class _WebSocket:
    """Binary WebSocket messages, with websocket-client's handshake and framing."""

    def __init__(self, address: Address, timeout: float) -> None:
        from ...._extras import need

        need("websocket", "servicebus")
        import websocket

        self._abnf: Any = websocket.ABNF
        self._closed: Any = websocket.WebSocketConnectionClosedException
        scheme = "wss" if address.tls else "ws"
        options = {"context": _tls_context(address)} if address.tls else None
        try:
            self._websocket: Any = websocket.create_connection(
                f"{scheme}://{address.host}:{address.port}{WEBSOCKET_PATH}",
                subprotocols=[WEBSOCKET_PROTOCOL],
                timeout=timeout,
                sslopt=options,
                enable_multithread=False,
                skip_utf8_validation=True,
            )
        except websocket.WebSocketException as error:
            # What it says can hold headers; its kind must do.
            raise ConnectionFailedError(
                f"{address.host}:{address.port} took no WebSocket connection: {type(error).__name__}"
            ) from error
        self._websocket.settimeout(0)
        connected: Any = self._websocket.sock
        self._stream = _Socket(connected)
        self._pongs = b""

    def fileno(self) -> int:
        return self._stream.fileno()

    def read(self) -> bytes | None:
        try:
            frame = self._websocket.recv_frame()
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except self._closed:
            return b""
        if frame is None or frame.opcode == self._abnf.OPCODE_CLOSE:
            return b""
        if frame.opcode == self._abnf.OPCODE_PING:
            self._pongs += self._frame(frame.data, self._abnf.OPCODE_PONG)
        if frame.opcode not in (self._abnf.OPCODE_BINARY, self._abnf.OPCODE_CONT):
            return self.read()
        data: bytes = frame.data
        return data or self.read()

    def pack(self, data: bytes) -> bytes:
        pongs, self._pongs = self._pongs, b""
        return pongs + (self._frame(data, self._abnf.OPCODE_BINARY) if data else b"")

    def write(self, packed: bytes) -> bytes:
        return self._stream.write(packed)

    def _frame(self, data: bytes, opcode: int) -> bytes:
        formatted: bytes = self._abnf.create_frame(data, opcode).format()
        return formatted

    def close(self) -> None:
        self._websocket.shutdown()
