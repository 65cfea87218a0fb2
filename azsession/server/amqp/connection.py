"""One client's connection: its bytes, SASL, open and close, heartbeats, back-pressure, and the dispatch of its frames.

A connection has these states (`ConnectionState`):

    SASL_HEADER --(the client's SASL header)--> SASL --(an accepted sasl-init)--> AMQP_HEADER --(its AMQP header)--> OPENING
    OPENING --(its open)--> OPENED --(a fault, or the server stops)--> CLOSING --(its close, or time)--> CLOSED

Every state may also go straight to CLOSED.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from ... import amqp
from ...amqp import Begin, Close, MalformedFrameError, Open, RawFrame, SaslInit
from ...logs import SessionLogger, get_logger
from . import limits, sasl
from .channel import Channel
from .claims import Claims
from .conditions import INTERNAL, ConnectionFaultError, RefusedError, SessionFaultError, inactive
from .link import Link, SessionHolder
from .services import Services
from .states import AWAITED_HEADERS, ConnectionState, LinkState

logger: SessionLogger = get_logger(__name__)

_AMQP, _SASL = 0, 1
_FRAMING_ERROR = "amqp:connection:framing-error"


class Owner(Protocol):
    """The endpoint, as its connections use it; see `endpoint.Endpoint`."""

    def add(self, connection: Connection) -> bool: ...
    def remove(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """A connection, seen from the server. Only the event loop uses it.

    Args:
        owner: The endpoint that accepted the connection.
        services: The broker and the limits.

    Attributes:
        services: The broker and the limits.
        claims: The rights of the client.
        held: The receivers of this connection that hold a session, by entity and session id.
        max_frame_size: The largest frame that the client accepts, in bytes.
        is_writable: Whether the client reads what is sent to it.
    """

    def __init__(self, owner: Owner, services: Services) -> None:
        self._owner = owner
        self.services: Services = services
        self.claims: Claims = Claims(services.guard)
        self.held: dict[tuple[str, str], SessionHolder] = {}
        self.max_frame_size: int = limits.MIN_MAX_FRAME_SIZE
        self.is_writable: bool = True
        self.state: ConnectionState = ConnectionState.SASL_HEADER
        self._loop = asyncio.get_running_loop()
        self._splitter = amqp.FrameSplitter(limits.MAX_FRAME_SIZE)
        self._channels: dict[int, Channel] = {}
        #: Channels that the server has ended. Frames on them are ignored until the client ends them, too.
        self._ended: set[int] = set()
        self._out: list[bytes] = []
        self._out_size = 0
        self._held_bytes = 0
        self._is_paused = False
        self._heard = self._sent = self._linked = self._loop.time()
        self._heartbeat: float | None = None
        self._expiry: asyncio.TimerHandle | None = None

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection, or refuse it."""
        # uvloop's transports are not instances of asyncio's class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=limits.WRITE_BUFFER)
        self._timer = self._loop.call_later(limits.HANDSHAKE_TIMEOUT, self._check)
        if not self._owner.add(self):
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Give back everything that the client has."""
        self._end()

    def data_received(self, data: bytes) -> None:
        """Handle received bytes."""
        self._heard = self._loop.time()
        try:
            for item in self._splitter.feed(data):
                if self.state is ConnectionState.CLOSED:
                    return
                if isinstance(item, bytes):
                    self._on_header(item)
                else:
                    self._on_frame(item)
        except MalformedFrameError as error:
            self.close(ConnectionFaultError(_FRAMING_ERROR, str(error)))
        except ConnectionFaultError as fault:
            self.close(fault)
        except Exception:
            logger.exception("an AMQP connection failed")
            self.close(ConnectionFaultError(INTERNAL, "The server had an internal error."))

    def pause_writing(self) -> None:
        """Stop reading, too: a client that does not read must not cause more answers."""
        self.is_writable = False
        self._update_reading()

    def resume_writing(self) -> None:
        """Read again, and let the links send again."""
        self.is_writable = True
        self._update_reading()
        for channel in list(self._channels.values()):
            channel.on_room()

    def hold(self, size: int) -> None:
        """Count bytes of messages that the client has sent and that are not stored yet. Many of them stop the reading."""
        self._held_bytes += size
        self._update_reading()

    def let_go(self, size: int) -> None:
        """Count bytes of messages that are stored or dropped."""
        self._held_bytes -= size
        self._update_reading()

    def _update_reading(self) -> None:
        wanted = not self.is_writable or self._held_bytes > limits.MAX_HELD
        if self.state is ConnectionState.CLOSED or wanted == self._is_paused:
            return
        self._is_paused = wanted
        if wanted:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    @property
    def client(self) -> Sequence[Any] | None:
        """The client's host and port."""
        address: Sequence[Any] | None = self._transport.get_extra_info("peername")
        return address

    # Sending

    @property
    def unsent_bytes(self) -> int:
        """How many bytes wait for the client to read them."""
        return self._out_size + self._transport.get_write_buffer_size()

    def send(self, data: bytes) -> None:
        """Send a frame, together with the other frames of this round of the loop."""
        if self.state is ConnectionState.CLOSED:
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)
        self._out_size += len(data)
        if self._out_size > limits.WRITE_BUFFER:
            # Now, so that the transport reports a client that does not read before there is more.
            self._flush()

    def _flush(self) -> None:
        if self._out and self.state is not ConnectionState.CLOSED:
            self._sent = self._loop.time()
            data, self._out, self._out_size = b"".join(self._out), [], 0
            self._transport.write(data)

    # Frames

    def _on_header(self, header: bytes) -> None:
        expected, following = AWAITED_HEADERS[self.state]
        if header != expected:
            # The server names the protocol that it wants, and closes (§2.2).
            self.send(expected)
            self._finish()
            return
        self.state = following
        self._splitter.awaits_header = False
        self.send(expected)
        if following is ConnectionState.SASL:
            self.send(amqp.sasl_mechanisms(*sasl.MECHANISMS))

    def _on_frame(self, frame: RawFrame) -> None:
        if frame.kind != (_SASL if self.state is ConnectionState.SASL else _AMQP):
            raise ConnectionFaultError(_FRAMING_ERROR, f"A frame of the type {frame.kind} is not expected here.")
        try:
            code, performative = amqp.decode_frame(frame.body)
        except MalformedFrameError as error:
            raise ConnectionFaultError("amqp:decode-error", str(error)) from error
        if self.state is ConnectionState.CLOSING:
            if code == amqp.CLOSE:
                self._finish()
        elif self.state is ConnectionState.OPENED:
            self._on_opened_frame(code, performative, frame.channel)
        else:
            early = _EARLY_FRAMES.get((self.state, code))
            if early is None:
                raise ConnectionFaultError(_FRAMING_ERROR, f"The frame 0x{code:02x} is not expected before the open.")
            early(self, performative)

    def _on_opened_frame(self, code: int, performative: Any, number: int) -> None:
        if code == amqp.HEARTBEAT:
            return
        if code == amqp.CLOSE:
            self._on_close(performative)
        elif code == amqp.BEGIN:
            self._on_begin(number, performative)
        elif code == amqp.END:
            self._on_end(number)
        else:
            handle = _CHANNEL_FRAMES.get(code)
            if handle is None:
                raise ConnectionFaultError("amqp:not-implemented", f"The performative 0x{code:02x} is unknown.")
            channel = self._channels.get(number)
            if channel is not None:
                self._handle(channel, handle, performative)
            elif number not in self._ended:
                raise ConnectionFaultError(_FRAMING_ERROR, f"There is no session on the channel {number}.")

    def _handle(self, channel: Channel, handle: Callable[[Channel, Any], None], performative: Any) -> None:
        try:
            handle(channel, performative)
        except SessionFaultError as fault:
            self._channels.pop(channel.number, None)
            self._ended.add(channel.number)
            channel.end(fault.error)

    def _on_sasl_init(self, init: SaslInit) -> None:
        if not sasl.authenticate(init, self.claims):
            self.send(amqp.sasl_outcome(1))
            self._finish()
            return
        self.send(amqp.sasl_outcome(0))
        self.state, self._splitter.awaits_header = ConnectionState.AMQP_HEADER, True

    def _on_open(self, opened: Open) -> None:
        if opened.max_frame_size < limits.MIN_MAX_FRAME_SIZE:
            raise ConnectionFaultError("amqp:invalid-field", f"max-frame-size must be at least {limits.MIN_MAX_FRAME_SIZE}.")
        self.state = ConnectionState.OPENED
        self._linked = self._loop.time()
        self.claims.introduce(opened)
        self.max_frame_size = min(limits.MAX_FRAME_SIZE, opened.max_frame_size)
        if opened.idle_timeout_ms:
            # The client should announce half of its timeout (§2.4.5), but might not: send well within half of it.
            self._heartbeat = max(0.1, opened.idle_timeout_ms / 2500)
        self._send_open()
        self._check()

    def _send_open(self) -> None:
        self.send(
            amqp.open_frame(
                container_id=self.services.container_id,
                hostname="",
                max_frame_size=limits.MAX_FRAME_SIZE,
                channel_max=limits.MAX_CHANNEL,
                idle_timeout_ms=int(limits.IDLE_TIMEOUT * 500),
            )
        )

    def _on_begin(self, number: int, begin: Begin) -> None:
        if number > limits.MAX_CHANNEL:
            raise ConnectionFaultError(_FRAMING_ERROR, f"The channel {number} is above channel-max.")
        if begin.remote_channel is not None:
            raise ConnectionFaultError(_FRAMING_ERROR, f"The begin on channel {number} must not have a remote-channel.")
        if number in self._channels:
            raise ConnectionFaultError(_FRAMING_ERROR, f"The channel {number} has a session already.")
        self._channels[number] = self.new_channel(number, begin)

    def new_channel(self, number: int, begin: Begin) -> Channel:
        """Return the AMQP session for a begin."""
        return Channel(self, number, begin)

    def _on_end(self, number: int) -> None:
        channel = self._channels.pop(number, None)
        if channel is not None:
            channel.end(None)
        self._ended.discard(number)

    def _on_close(self, close: Close) -> None:
        self.send(amqp.close_frame())
        self._finish()

    # Links

    @property
    def links(self) -> list[Link]:
        """All links of the connection."""
        return [link for channel in self._channels.values() for link in channel.links]

    def has_room_for_link(self) -> bool:
        """Return whether the connection may keep the link that was just added."""
        return sum(channel.link_count for channel in self._channels.values()) <= limits.MAX_LINKS

    def watch_tokens(self) -> None:
        """Detach the links whose tokens have expired, now and when the next token expires."""
        if self._expiry is not None:
            self._expiry.cancel()
        left = self.claims.next_expiry()
        if left is not None:
            self._expiry = self._loop.call_later(min(left + 0.01, limits.LONGEST_TIMER), self.watch_tokens)
        for link in self.links:
            if link.state is not LinkState.DETACHED:
                link.check_rights()

    # Time

    def _check(self) -> None:
        """Send a heartbeat if one is due, and close a connection that is silent, without links, or not opened in time."""
        now = self._loop.time()
        if self.state is not ConnectionState.OPENED:
            if self.state is not ConnectionState.CLOSED:
                self.abort()
            return
        if any(channel.link_count for channel in self._channels.values()):
            self._linked = now
        if now - self._heard >= limits.IDLE_TIMEOUT:
            self.abort()
            return
        if now - self._linked >= limits.UNLINKED_TIMEOUT:
            self.close(inactive(limits.UNLINKED_TIMEOUT))
            return
        due = [self._heard + limits.IDLE_TIMEOUT - now, limits.UNLINKED_TIMEOUT / 2]
        if self._heartbeat is not None:
            if now - self._sent >= self._heartbeat * 0.99:
                self.send(amqp.EMPTY_FRAME)
                self._sent = now
            due.append(self._sent + self._heartbeat - now)
        self._timer = self._loop.call_later(max(0.01, min(due)), self._check)

    # The end

    def close(self, refusal: RefusedError) -> None:
        """Close the connection with an error, and wait a moment for the client's close."""
        if self.state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
            return
        if self.state not in (ConnectionState.OPENING, ConnectionState.OPENED):
            self.abort()
            return
        if self.state is ConnectionState.OPENING:
            self._send_open()
        self.send(amqp.close_frame(refusal.error))
        self.state = ConnectionState.CLOSING
        self._release()
        self._timer.cancel()
        self._timer = self._loop.call_later(limits.CLOSE_TIMEOUT, self.abort)
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def _finish(self) -> None:
        """Close the transport after the bytes that wait."""
        self._flush()
        self._release()
        self.state = ConnectionState.CLOSED
        self._timer.cancel()
        self._transport.close()
        self._timer = self._loop.call_later(limits.CLOSE_TIMEOUT, self._transport.abort)

    def abort(self) -> None:
        """Close the transport without the bytes that wait."""
        self._end()
        self._transport.abort()

    def _end(self) -> None:
        self.state = ConnectionState.CLOSED
        self._timer.cancel()
        self._release()
        self._owner.remove(self)

    def _release(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.release()


#: The frames that are allowed before OPENED.
_EARLY_FRAMES: dict[tuple[ConnectionState, int], Callable[[Connection, Any], None]] = {
    (ConnectionState.SASL, amqp.SASL_INIT): Connection._on_sasl_init,
    (ConnectionState.OPENING, amqp.OPEN): Connection._on_open,
    (ConnectionState.OPENING, amqp.CLOSE): Connection._on_close,
}

#: The frames that channels handle.
_CHANNEL_FRAMES: dict[int, Callable[[Channel, Any], None]] = {
    amqp.TRANSFER: Channel.on_transfer,
    amqp.DISPOSITION: Channel.on_disposition,
    amqp.FLOW: Channel.on_flow,
    amqp.ATTACH: Channel.on_attach,
    amqp.DETACH: Channel.on_detach,
}
