"""One AMQP connection: SASL, open, heartbeats, and the dispatch of frames to channels. Only the loop's thread uses it.

`Namespace` opens a stream and makes a `Connection` over it. A connection has these states:

    SASL_HEADER --(the peer's SASL header)--> SASL --(outcome: success)--> AMQP_HEADER --(the peer's AMQP header)--> OPENING
    OPENING --(the peer's open)--> OPENED --(close, a lost stream, silence or a malformed frame)--> CLOSED

Every other state may also go straight to CLOSED. CLOSED is final; the namespace makes a new connection when it needs one.
"""

from __future__ import annotations

import struct
import time
import uuid
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from .... import amqp
from ....amqp import Begin, Close, Condition, End, MalformedFrameError, Open, SaslOutcome
from ....errors import ConnectionFailedError, QueueError
from ....logs import SessionLogger, get_logger
from .channel import Channel, ChannelState
from .links import CONNECTION_LOST, NO_ROOM, Link
from .loop import Loop, Timer
from .stream import Address, Stream

logger: SessionLogger = get_logger(__name__)

#: The largest frame that is accepted, and that is sent if the peer accepts it, in bytes.
MAX_FRAME_SIZE = 64 * 1024
#: The frame size that every peer accepts, in bytes (AMQP 1.0 §2.8.19).
MIN_MAX_FRAME_SIZE = 512
#: How many channels a connection may have, unless the peer allows fewer.
MAX_CHANNELS = 256
#: How many links a connection keeps free for senders, tokens and management; message sessions get the rest.
RESERVED = 8
#: Seconds without a frame after which the peer counts as gone. The open frame announces them (§2.4.5).
IDLE_TIMEOUT = 60.0
#: The header of a frame: size, data offset in words of 4 bytes, type, and channel (§2.3.1).
_FRAME_HEADER = struct.Struct(">IBBH")
#: How many reads one event allows, so that a busy connection does not starve the others.
_MAX_READS = 16


class ConnectionState(Enum):
    """How far a connection is; the module's docstring has the transitions."""

    SASL_HEADER = "SASL header"
    SASL = "SASL"
    AMQP_HEADER = "AMQP header"
    OPENING = "opening"
    OPENED = "opened"
    CLOSED = "closed"


# The states that each frame is checked for: a global is faster than an attribute of an enum.
_OPENED, _CLOSED = ConnectionState.OPENED, ConnectionState.CLOSED


class Connection:
    """An AMQP connection over an open stream.

    Args:
        loop: The loop whose thread uses the connection.
        stream: The open stream.
        address: The address of the stream, for log messages and the open frame.
        on_opened: Called when the connection is OPENED.
        on_closed: Called once when it is CLOSED, after all its links have ended.
        open_timeout: Seconds that the peer may take until OPENED.

    Attributes:
        max_frame_size: The largest frame that is sent, in bytes.
        state: See the module's docstring.
    """

    def __init__(
        self,
        loop: Loop,
        stream: Stream,
        address: Address,
        *,
        on_opened: Callable[[], object],
        on_closed: Callable[[QueueError], object],
        open_timeout: float,
    ) -> None:
        self.max_frame_size: int = MIN_MAX_FRAME_SIZE
        self.state: ConnectionState = ConnectionState.SASL_HEADER
        self._loop = loop
        self._stream = stream
        self._address = address
        self._on_opened = on_opened
        self._on_closed = on_closed
        # Frames to send, packed bytes that the stream has not accepted, and received bytes of an incomplete frame.
        self._out: list[bytes] = []
        self._unsent = self._in = b""
        # Channels by our number and by the peer's, and links that wait for a channel with room.
        self._channel_max = MAX_CHANNELS - 1
        self._channels: dict[int, Channel] = {}
        self._by_remote: dict[int, Channel] = {}
        self._waiting: deque[Link] = deque()
        self._received = self._written = time.monotonic()
        #: Seconds between frames that the peer expects, `None` if it does not care.
        self._heartbeat: float | None = None
        self._timer: Timer = loop.later(open_timeout, lambda: self.fail("the peer did not answer in time"))
        loop.add(self)
        self.send(amqp.SASL_HEADER)

    def fileno(self) -> int:
        """Return the descriptor of the stream's socket."""
        return self._stream.fileno()

    @property
    def closed(self) -> bool:
        """Whether the connection is over."""
        return self.state is ConnectionState.CLOSED

    # Links

    @property
    def is_full(self) -> bool:
        """Whether more message sessions need another connection: the room that is left is reserved."""
        if len(self._channels) <= self._channel_max:
            return False
        begun = list(self._channels.values())
        if any(channel.state is ChannelState.BEGINNING for channel in begun):
            return False
        size, room = sum(channel.size for channel in begun), sum(channel.room for channel in begun)
        return room - len(self._waiting) <= min(RESERVED, size // 2)

    def attach(self, link: Link) -> None:
        """Attach a link on a channel with room, or on a new channel. Without any room, the link ends with `NO_ROOM`."""
        if self.closed:
            link.end(Condition(CONNECTION_LOST, "the connection is closed", {}))
            return
        self._waiting.append(link)
        self.on_room()

    def on_room(self) -> None:
        """Attach the links that wait for room."""
        while self._waiting and not self.closed:
            if self._waiting[0].ended:
                self._waiting.popleft()
                continue
            channel = next((one for one in self._channels.values() if one.room), None)
            if channel is not None:
                channel.attach(self._waiting.popleft())
                continue
            if self.state is not ConnectionState.OPENED:
                return
            if any(one.state is ChannelState.BEGINNING for one in self._channels.values()):
                return
            if len(self._channels) <= self._channel_max:
                self._begin()
                return
            self._waiting.popleft().end(Condition(NO_ROOM, "the connection takes no more links", {}))

    def _begin(self) -> None:
        number = next(number for number in range(self._channel_max + 1) if number not in self._channels)
        channel = self._channels[number] = Channel(self, number)
        channel.begin()

    # Sending

    def send(self, frame: bytes) -> None:
        """Send a frame at the end of the loop's round, together with the other frames of the round."""
        if self.state is not _CLOSED:
            self._out.append(frame)
            self._loop.flush_later(self)

    def flush(self) -> bool:
        """Write waiting frames to the stream; return whether it accepted all."""
        if self.closed:
            return True
        try:
            while True:
                if not self._unsent:
                    self._unsent = self._stream.pack(b"".join(self._out))
                    self._out.clear()
                if not self._unsent:
                    return True
                rest = self._stream.write(self._unsent)
                if len(rest) < len(self._unsent):
                    self._written = time.monotonic()
                self._unsent = rest
                if rest:
                    return False
        except OSError as error:
            self.fail(type(error).__name__)
            return True

    # Receiving

    def on_readable(self) -> None:
        """Read from the stream and handle the frames."""
        try:
            for _ in range(_MAX_READS):
                data = self._stream.read()
                if data is None:
                    break
                if not data:
                    self.fail("the peer closed the connection")
                    return
                self._received = time.monotonic()
                self._feed(data)
                if self.closed:
                    return
                if not self._stream.has_more(data):
                    break
        except OSError as error:
            self.fail(type(error).__name__)
        except MalformedFrameError as error:
            self.fail(f"the peer violated the AMQP 1.0 protocol: {error}")
        self._loop.flush_later(self)

    def _feed(self, data: bytes) -> None:
        """Split received bytes into headers and frames (§2.2, §2.3.1), and keep the rest."""
        if self._in:
            data = self._in + data
        at, end = 0, len(data)
        while end - at >= 8:
            if self.state is not _OPENED:
                if self.state is _CLOSED:
                    break
                if self.state in _AWAITED_HEADERS:
                    self._on_header(data[at : at + 8])
                    at += 8
                    continue
            size, words, _, number = _FRAME_HEADER.unpack_from(data, at)
            if not 8 <= size <= MAX_FRAME_SIZE:
                raise MalformedFrameError(f"a frame of {size} bytes; 8 to {MAX_FRAME_SIZE} are allowed")
            if end - at < size:
                break
            offset = 4 * words
            if not 8 <= offset <= size:
                raise MalformedFrameError(f"a frame of {size} bytes with a data offset of {offset}")
            self._on_frame(number, data[at + offset : at + size])
            at += size
        self._in = data[at:]

    def _on_header(self, header: bytes) -> None:
        expected, following = _AWAITED_HEADERS[self.state]
        if header != expected:
            raise MalformedFrameError(f"another protocol or version: its header is {header!r}, not {expected!r}")
        self.state = following
        if following is ConnectionState.OPENING:
            self.send(
                amqp.open_frame(
                    container_id=f"azsession-{uuid.uuid4()}",
                    hostname=self._address.host,
                    max_frame_size=MAX_FRAME_SIZE,
                    channel_max=MAX_CHANNELS - 1,
                    idle_timeout_ms=int(IDLE_TIMEOUT * 1000),
                )
            )

    def _on_frame(self, number: int, body: bytes) -> None:
        code, performative = amqp.decode_frame(body)
        if code == amqp.HEARTBEAT:
            return
        if self.state is _OPENED:
            handle = _CHANNEL_FRAMES.get(code)
            if handle is not None:
                channel = self._by_remote.get(number)
                if channel is not None:
                    handle(channel, performative)
            elif code == amqp.BEGIN:
                self._on_begin(number, performative)
            elif code == amqp.END:
                self._on_end(number, performative)
            elif code == amqp.CLOSE:
                self._on_close(performative)
            elif code == amqp.OPEN:
                raise MalformedFrameError("a second open frame")
        else:
            early = _EARLY_FRAMES[self.state].get(code)
            if early is None:
                raise MalformedFrameError(f"frame 0x{code:02x} while the connection is in the state {self.state.value!r}")
            early(self, performative)

    def _on_sasl_mechanisms(self, _: Any) -> None:
        self.send(amqp.sasl_init_anonymous(self._address.host))

    def _on_sasl_outcome(self, outcome: SaslOutcome) -> None:
        if outcome.code != 0:
            self.fail(f"authentication failed with SASL code {outcome.code}")
            return
        self.state = ConnectionState.AMQP_HEADER
        self.send(amqp.AMQP_HEADER)

    def _on_open(self, opened: Open) -> None:
        self._timer.cancel()
        self.state = ConnectionState.OPENED
        self.max_frame_size = min(MAX_FRAME_SIZE, opened.max_frame_size)
        self._channel_max = min(MAX_CHANNELS - 1, opened.channel_max)
        # The peer should announce half of its actual timeout (§2.4.5), but might not: send well within half of it.
        if opened.idle_timeout_ms:
            self._heartbeat = opened.idle_timeout_ms / 1000 / 2.5
        self._keep_alive()
        self._on_opened()
        self.on_room()

    def _on_begin(self, number: int, begin: Begin) -> None:
        channel = None if begin.remote_channel is None else self._channels.get(begin.remote_channel)
        if channel is not None:
            self._by_remote[number] = channel
            channel.on_begin(begin)
            self.on_room()

    def _on_end(self, number: int, end: End) -> None:
        channel = self._by_remote.pop(number, None)
        if channel is not None:
            self.send(amqp.end_frame(channel.number))
            del self._channels[channel.number]
            channel.on_end(end.error)

    def _on_close(self, close: Close) -> None:
        self.send(amqp.close_frame())
        self.flush()
        error = close.error
        self.fail("the peer closed the connection" if error is None else f"{error.condition}: {error.description}")

    # Time

    def _keep_alive(self) -> None:
        """Send a heartbeat if one is due, and fail if the peer has been silent for too long."""
        now = time.monotonic()
        if now - self._received >= IDLE_TIMEOUT:
            self.fail(f"no frame arrived for {IDLE_TIMEOUT:g} s")
            return
        due = [self._received + IDLE_TIMEOUT - now]
        if self._heartbeat is not None:
            if now - self._written >= self._heartbeat * 0.99:
                self.send(amqp.EMPTY_FRAME)
                self._written = now
            due.append(self._written + self._heartbeat - now)
        self._timer = self._loop.later(min(due), self._keep_alive)

    # The end

    def close(self) -> None:
        """Close the connection, with a close frame if an open frame was sent. Idempotent."""
        if self.state in (ConnectionState.OPENING, ConnectionState.OPENED):
            self.send(amqp.close_frame())
            self.flush()
        self.fail("it was closed by this client")

    def abandon(self) -> None:
        """Close the descriptor in a forked child, without a word to the peer."""
        self.state = ConnectionState.CLOSED
        self._stream.close()

    def fail(self, why: str) -> None:
        """Close the stream without a close frame, and end all links with `CONNECTION_LOST`. Idempotent."""
        if self.closed:
            return
        self.state = ConnectionState.CLOSED
        self._timer.cancel()
        self._loop.remove(self)
        self._stream.close()
        logger.info("the connection to %s:%s ended: %s", self._address.host, self._address.port, why)
        lost = Condition(CONNECTION_LOST, why, {})
        for channel in list(self._channels.values()):
            channel.on_end(lost)
        waiting, self._waiting = self._waiting, deque()
        for link in waiting:
            link.end(lost)
        on_closed, self._on_opened, self._on_closed = self._on_closed, _ignore, _ignore
        on_closed(ConnectionFailedError(f"the connection to {self._address.host}:{self._address.port} failed: {why}"))


#: In the states that wait for a header: the header, and the state that follows.
_AWAITED_HEADERS = {
    ConnectionState.SASL_HEADER: (amqp.SASL_HEADER, ConnectionState.SASL),
    ConnectionState.AMQP_HEADER: (amqp.AMQP_HEADER, ConnectionState.OPENING),
}

#: The frames that are allowed before OPENED, by state.
_EARLY_FRAMES: dict[ConnectionState, dict[int, Callable[[Connection, Any], None]]] = {
    ConnectionState.SASL: {
        amqp.SASL_MECHANISMS: Connection._on_sasl_mechanisms,
        amqp.SASL_OUTCOME: Connection._on_sasl_outcome,
    },
    ConnectionState.OPENING: {amqp.OPEN: Connection._on_open, amqp.CLOSE: Connection._on_close},
}

#: The frames that channels handle. Frames on unknown channels are ignored.
_CHANNEL_FRAMES: dict[int, Callable[[Channel, Any], None]] = {
    amqp.TRANSFER: Channel.on_transfer,
    amqp.DISPOSITION: Channel.on_disposition,
    amqp.FLOW: Channel.on_flow,
    amqp.ATTACH: Channel.on_attach,
    amqp.DETACH: Channel.on_detach,
}


def _ignore(*_: object) -> None:
    """Replace a callback that is not needed any more, so that its owner can be freed."""
