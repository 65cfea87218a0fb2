"""AMQP over WebSockets (OASIS "AMQP WebSocket Binding"), on the port of the HTTP server.

The HTTP server reads the head of the request, and hands the connection over. Behind the WebSocket is the same `Connection`
as behind a socket of the AMQP port: it gets the payloads of the frames as its bytes.
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

from websockets.exceptions import InvalidState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

#: The path at which Azure's SDKs connect.
PATH = "/$servicebus/websocket"
#: The names of AMQP 1.0 in the handshake: the one of the standard (§2.1), and the one of Azure's SDKs.
PROTOCOLS = (Subprotocol("amqp"), Subprotocol("AMQPWSB10"))
#: Bytes of a WebSocket message at most. AMQP frames have up to 64 KB, and clients may join some of them.
MAX_MESSAGE_SIZE = 1024 * 1024

#: websockets would log the bytes of all frames, with the keys and messages in them.
_NO_LOG = logging.Logger("azsession.server.amqp.websocket", logging.CRITICAL)


class WebSocket(asyncio.Protocol, asyncio.Transport):
    """One WebSocket: a protocol for the event loop, and a transport for the AMQP connection.

    The HTTP server calls `connection_made` and `data_received` with the head of the request. When the connection is handed
    over, `connection_made` is called again, with the transport of the event loop.

    Args:
        make_inner: Makes the AMQP connection.
        has_room: Returns whether there may be another connection.
    """

    def __init__(self, make_inner: Callable[[], asyncio.Protocol], has_room: Callable[[], bool]) -> None:
        super().__init__()
        self._make_inner = make_inner
        self._has_room = has_room
        self._inner: asyncio.Protocol | None = None
        #: Whether the HTTP server has passed the head. Nothing can be written before the connection is handed over.
        self._has_head = self._is_ours = False
        self._request: Request | None = None
        self._protocol = ServerProtocol(subprotocols=PROTOCOLS, max_size=MAX_MESSAGE_SIZE, logger=_NO_LOG)

    # For the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._is_ours = self._has_head
        if self._request is not None:
            self._answer(self._request)
        elif self._is_ours:
            self._send()

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        self._has_head = True
        if self._is_ours:
            self._send()
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._request = event
            elif isinstance(event, Frame):
                self._on_frame(event)

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.connection_lost(error)

    # For the AMQP connection

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._protocol.send_binary(data)
        except InvalidState:  # The client has ended the WebSocket.
            return
        self._send()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def close(self) -> None:
        """Send the close frame. The client's close frame closes the connection, or `abort` does."""
        try:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
        except InvalidState:
            return
        self._send()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        self._transport.abort()

    # Inside

    def _answer(self, request: Request) -> None:
        """Answer the request: with the handshake, or with an error."""
        response = self._response(request)
        self._protocol.send_response(response)
        if response.status_code == http.HTTPStatus.SWITCHING_PROTOCOLS:
            self._send()
            self._inner = self._make_inner()
            self._inner.connection_made(self)
        else:
            self._send()

    def _response(self, request: Request) -> Response:
        if unquote(request.path.partition("?")[0]).rstrip("/").lower() != PATH:
            return self._protocol.reject(http.HTTPStatus.NOT_FOUND, f"There are WebSockets at {PATH} only.\n")
        if not self._has_room():
            return self._protocol.reject(http.HTTPStatus.SERVICE_UNAVAILABLE, "The server has too many connections.\n")
        return self._protocol.accept(request)

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.TEXT:
            self._protocol.fail(CloseCode.UNSUPPORTED_DATA, "AMQP needs binary messages.")
            self._send()
        elif frame.opcode in (Opcode.BINARY, Opcode.CONT) and self._inner is not None:
            # AMQP is a stream of bytes: neither the ends of messages nor those of fragments matter.
            self._inner.data_received(bytes(frame.data))

    def _send(self) -> None:
        """Write the bytes that the protocol wants to send. An empty part is the end of the connection."""
        for part in self._protocol.data_to_send():
            if part:
                self._transport.write(part)
            else:
                self._transport.close()
