"""Byte streams to a namespace: TCP, TLS, and WebSockets. Any thread opens them; only the loop's thread uses them."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any, Protocol
from urllib.request import proxy_bypass

import attrs
import certifi

from ...._extras import need
from ....errors import ConfigurationError, ConnectionFailedError
from ....proxies import check_proxy, without_password

#: How many bytes are read at once.
READ_SIZE = 256 * 1024
#: The WebSocket subprotocol of AMQP 1.0 (OASIS "AMQP WebSocket Binding" §2.1), and the path at which Azure serves it.
WEBSOCKET_PROTOCOL, WEBSOCKET_PATH = "AMQPWSB10", "/$servicebus/websocket"


@attrs.frozen
class Address:
    """The address of a namespace.

    Attributes:
        host: The host name or IP address.
        port: The TCP port.
        tls: Whether to use TLS, with a verified certificate.
        websocket: Whether to use AMQP over WebSockets.
        ca_bundle: A file or folder with the certificates to trust, instead of the default ones.
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
        """Return the bytes there are, ``b""`` at the end of the stream, `None` if there are none yet."""

    def has_more(self, data: bytes) -> bool:
        """Return whether more bytes may follow `data` that a selector on the descriptor would not report."""

    def pack(self, data: bytes) -> bytes:
        """Return `data` as the bytes to write to the socket."""

    def write(self, packed: bytes) -> bytes:
        """Write packed bytes; return the rest that the socket did not accept."""

    def close(self) -> None:
        """Close the socket."""


def open_stream(address: Address, timeout: float) -> Stream:
    """Connect to a namespace. Blocks for up to `timeout` seconds for each step (TCP, TLS, WebSocket).

    Raises:
        ConnectionFailedError: The namespace cannot be reached, or its certificate is not valid for its name.
        ConfigurationError: `ca_bundle` cannot be read, or the extra ``websockets`` is missing.
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
        reason = type(error).__name__
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted ({error.verify_message})"
        raise ConnectionFailedError(f"{address.host}:{address.port} cannot be reached{_by(address)}: {reason}") from error


def _proxy(address: Address) -> tuple[str, str] | None:
    """Return the environment variable with the proxy that websocket-client uses for an address, and its value, or `None`."""
    lower = "https_proxy" if address.tls else "http_proxy"
    name = lower if lower in os.environ else lower.upper()
    value = os.environ.get(name)
    return (name, value) if address.websocket and value and not proxy_bypass(address.host) else None


def check_environment(address: Address) -> None:
    """Return if the proxy of the environment can be used for an address, or if none is needed.

    Raises:
        ConfigurationError: Its URL is malformed.
    """
    proxy = _proxy(address)
    if proxy is not None:
        # websocket-client connects without the proxy if its URL has no scheme.
        check_proxy(proxy[1], proxy[0], {"http", "https"}, default="")


def _by(address: Address) -> str:
    """Return which proxy is used for an address, for error messages."""
    proxy = _proxy(address)
    return "" if proxy is None else f" through the proxy {without_password(proxy[1])}"


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
    """TCP, or TLS over TCP."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._is_tls = isinstance(sock, ssl.SSLSocket)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bytes | None:
        try:
            return self._socket.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def has_more(self, data: bytes) -> bool:
        return self._is_tls or len(data) == READ_SIZE

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


#: Opcodes of WebSocket frames (RFC 6455 §5.2), and the bits of their first two bytes.
_CONTINUED, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x2, 0x8, 0x9, 0xA
_FINAL, _MASKED = 0x80, 0x80
#: The largest WebSocket frame that is accepted, in bytes.
MAX_WEBSOCKET_FRAME = 16 * 1024 * 1024


class _WebSocket:
    """AMQP in binary WebSocket messages, whose boundaries mean nothing. websocket-client does the handshake.

    Its reader is not used: it reads a few bytes at a time, so that bytes stay in the TLS layer, where a selector does not see
    them.
    """

    def __init__(self, address: Address, timeout: float) -> None:
        need("websocket", "websockets")
        import websocket

        scheme = "wss" if address.tls else "ws"
        host = f"[{address.host}]" if ":" in address.host else address.host
        options = {"context": _tls_context(address)} if address.tls else None
        try:
            self._websocket: Any = websocket.create_connection(
                f"{scheme}://{host}:{address.port}{WEBSOCKET_PATH}",
                subprotocols=[WEBSOCKET_PROTOCOL],
                timeout=timeout,
                sslopt=options,
                redirect_limit=0,
                enable_multithread=False,
                skip_utf8_validation=True,
            )
        except websocket.WebSocketException as error:
            # The text of the error may contain headers, and so secrets.
            raise ConnectionFailedError(
                f"{address.host}:{address.port} did not accept a WebSocket connection{_by(address)}: {type(error).__name__}"
            ) from error
        connected: Any = self._websocket.sock
        self._stream = _Socket(connected)
        # A bytearray: with bytes, each piece of a large frame would copy all pieces before it.
        self._in = bytearray()
        self._replies = b""
        self._ended = False

    def fileno(self) -> int:
        return self._stream.fileno()

    def read(self) -> bytes | None:
        while True:
            data = b"" if self._ended else self._stream.read()
            if not data:
                return data
            self._in += data
            content = self._take_frames()
            if content or self._ended:
                return content

    def has_more(self, data: bytes) -> bool:
        return True

    def _take_frames(self) -> bytes:
        """Return the content of the complete frames, and keep the rest."""
        data, at, parts = self._in, 0, []
        while len(data) - at >= 2 and not self._ended:
            opcode, size, start = data[at] & 0x0F, data[at + 1], at + 2
            if size & _MASKED or data[at] & 0x70:
                raise OSError(f"a WebSocket frame with the header 0x{data[at : at + 2].hex()}, which a server must not send")
            if size >= 126:
                start += 2 if size == 126 else 8
                size = int.from_bytes(data[at + 2 : start], "big")
            if len(data) < start:
                break
            if size > MAX_WEBSOCKET_FRAME:
                raise OSError(f"a WebSocket frame of {size} bytes; the limit is {MAX_WEBSOCKET_FRAME}")
            if len(data) - start < size:
                break
            content, at = bytes(data[start : start + size]), start + size
            if opcode in (_BINARY, _CONTINUED):
                parts.append(content)
            elif opcode == _PING:
                self._replies += self._frame(content, _PONG)
            elif opcode == _CLOSE:
                self._ended = True
        del data[:at]
        return b"".join(parts)

    def pack(self, data: bytes) -> bytes:
        replies, self._replies = self._replies, b""
        return replies + (self._frame(data, _BINARY) if data else b"")

    def write(self, packed: bytes) -> bytes:
        return self._stream.write(packed)

    def _frame(self, data: bytes, opcode: int) -> bytes:
        """Return a frame, masked as RFC 6455 §5.3 requires of clients."""
        size = len(data)
        if size < 126:
            head = bytes((_FINAL | opcode, _MASKED | size))
        elif size < 65536:
            head = bytes((_FINAL | opcode, _MASKED | 126)) + size.to_bytes(2, "big")
        else:
            head = bytes((_FINAL | opcode, _MASKED | 127)) + size.to_bytes(8, "big")
        key = os.urandom(4)
        mask = (key * (size // 4 + 1))[:size]
        masked = int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")
        return head + key + masked.to_bytes(size, "big")

    def close(self) -> None:
        self._websocket.shutdown()
