"""One AMQP connection: opened, kept alive, and its frames handed to the links they are for. The loop's thread only."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from .... import amqp
from ....amqp import Condition
from ....errors import ConnectionFailedError, QueueError
from .channel import Channel
from .links import CONNECTION_LOST, NO_ROOM, Link
from .loop import Loop, Timer
from .stream import Address, Stream

logger: logging.Logger = logging.getLogger(__name__)

#: Bytes of a frame that are taken, and sent where the peer takes as much.
MAX_FRAME_SIZE = 64 * 1024
#: Channels of a connection, if the peer does not allow fewer.
MAX_CHANNELS = 256
#: Links that a connection keeps room for, besides those of sessions: to send by, for tokens, and for management.
RESERVED = 8
#: Seconds without any frame after which the peer is taken for gone. It is told, and sends heartbeats.
IDLE_TIMEOUT = 60.0


class Connection:
    """An AMQP connection over a stream that is open.

    Args:
        loop: Whose thread it lives in.
        stream: The open stream.
        address: Where it leads, for messages and for the AMQP open.
        on_opened: Called when it can be used.
        on_closed: Called once when it cannot be used any more, after all its links have ended.
        open_timeout: Seconds for the peer to answer.
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
        self.max_frame_size: int = 512
        self.opened: bool = False
        self.closed: bool = False
        self._loop = loop
        self._stream = stream
        self._address = address
        self._on_opened = on_opened
        self._on_closed = on_closed
        self._out: list[bytes] = []
        self._unsent = b""
        self._in = b""
        self._header_seen = self._authenticated = False
        self._channel_max = MAX_CHANNELS - 1
        self._channels: dict[int, Channel] = {}
        self._by_remote: dict[int, Channel] = {}
        self._waiting: deque[Link] = deque()
        self._received = self._written = time.monotonic()
        self._heartbeat: float | None = None
        self._timer: Timer = loop.later(open_timeout, self._open_late)
        loop.add(self)
        self.send(amqp.SASL_HEADER)

    def fileno(self) -> int:
        return self._stream.fileno()

    # Links

    @property
    def is_full(self) -> bool:
        """Whether another connection is needed for more sessions: the rest of the room is for what those here need."""
        if len(self._channels) <= self._channel_max:
            return False
        begun = list(self._channels.values())
        if not all(channel.mapped for channel in begun):
            return False
        size, room = (sum(channel.size for channel in begun), sum(channel.room for channel in begun))
        return room - len(self._waiting) <= min(RESERVED, size // 2)

    def attach(self, link: Link) -> None:
        """Attach a link, on a channel that has room, or a new one; where there is no room at all, end it."""
        if self.closed:
            link.end(Condition(CONNECTION_LOST, "the connection is closed", {}))
            return
        self._waiting.append(link)
        self.on_room()

    def on_room(self) -> None:
        """Attach links that wait for room."""
        while self._waiting and not self.closed:
            if self._waiting[0].ended:
                self._waiting.popleft()
                continue
            channel = next((one for one in self._channels.values() if one.room), None)
            if channel is not None:
                channel.attach(self._waiting.popleft())
                continue
            if not self.opened or any(not one.mapped for one in self._channels.values()):
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
        """Send a frame, with what else this round of the loop brings."""
        if not self.closed:
            self._out.append(frame)
            self._loop.soil(self)

    def flush(self) -> bool:
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
        try:
            # What is there now, but no more than this at once: the other connections want their turn, too.
            for _ in range(16):
                data = self._stream.read()
                if data is None:
                    break
                if not data:
                    self.fail("the peer closed it")
                    return
                self._received = time.monotonic()
                self._feed(data)
                if self.closed:
                    return
                if not self._stream.has_more(data):
                    break
        except OSError as error:
            self.fail(type(error).__name__)
        except amqp.MalformedFrameError as error:
            self.fail(f"the peer does not speak AMQP 1.0 as agreed: {error}")
        self._loop.soil(self)

    def _feed(self, data: bytes) -> None:
        if self._in:
            data = self._in + data
        at, end = 0, len(data)
        while end - at >= 8 and not self.closed:
            if not self._header_seen:
                self._on_header(data[at : at + 8])
                at += 8
                continue
            size = int.from_bytes(data[at : at + 4], "big")
            if not 8 <= size <= MAX_FRAME_SIZE:
                raise amqp.MalformedFrameError(f"a frame of {size} bytes")
            if end - at < size:
                break
            offset = 4 * data[at + 4]
            if not 8 <= offset <= size:
                raise amqp.MalformedFrameError("a frame with a wrong offset")
            self._on_frame(int.from_bytes(data[at + 6 : at + 8], "big"), data[at + offset : at + size])
            at += size
        self._in = data[at:]

    def _on_header(self, header: bytes) -> None:
        expected = amqp.AMQP_HEADER if self._authenticated else amqp.SASL_HEADER
        if header != expected:
            raise amqp.MalformedFrameError("it answers with another protocol or version")
        self._header_seen = True
        if self._authenticated:
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
        code, fields = amqp.decode_frame(body)
        if code == amqp.HEARTBEAT:
            return
        if not self.opened and code != amqp.OPEN:
            self._on_early_frame(code, fields)
            return
        channel = self._by_remote.get(number)
        if code == amqp.TRANSFER and channel is not None:
            channel.on_transfer(fields)
        elif code == amqp.DISPOSITION and channel is not None:
            channel.on_disposition(fields)
        elif code == amqp.FLOW and channel is not None:
            channel.on_flow(fields)
        elif code == amqp.ATTACH and channel is not None:
            channel.on_attach(fields)
        elif code == amqp.DETACH and channel is not None:
            channel.on_detach(fields)
        elif code == amqp.BEGIN:
            begun = self._channels.get(-1 if fields.remote_channel is None else fields.remote_channel)
            if begun is not None:
                self._by_remote[number] = begun
                begun.on_begin(fields)
                self.on_room()
        elif code == amqp.END and channel is not None:
            self.send(amqp.end_frame(channel.number))
            del self._by_remote[number]
            del self._channels[channel.number]
            channel.on_end(fields.error)
        elif code == amqp.OPEN:
            if self.opened or not self._authenticated:
                raise amqp.MalformedFrameError("an open out of turn")
            self._on_open(fields)
        elif code == amqp.CLOSE:
            self._on_close(fields.error)

    def _on_early_frame(self, code: int, fields: Any) -> None:
        """Handle what comes before the open."""
        if code == amqp.CLOSE and self._authenticated:
            self._on_close(fields.error)
        elif self._authenticated:
            raise amqp.MalformedFrameError("a frame before the open")
        elif code == amqp.SASL_MECHANISMS:
            self.send(amqp.sasl_init_anonymous(self._address.host))
        elif code == amqp.SASL_OUTCOME:
            if fields.code != 0:
                self.fail(f"authentication failed with SASL code {fields.code}")
                return
            self._authenticated, self._header_seen = True, False
            self.send(amqp.AMQP_HEADER)
        else:
            raise amqp.MalformedFrameError("a frame before authentication")

    def _on_close(self, error: Condition | None) -> None:
        self.send(amqp.close_frame())
        self.flush()
        self.fail("the peer closed it" if error is None else f"{error.condition}: {error.description}")

    def _on_open(self, opened: amqp.Open) -> None:
        self._timer.cancel()
        self.opened = True
        self.max_frame_size = min(MAX_FRAME_SIZE, opened.max_frame_size)
        self._channel_max = min(MAX_CHANNELS - 1, opened.channel_max)
        # Half of what the peer allows, as it should itself have halved it (2.4.5), and less for a slow machine.
        if opened.idle_timeout_ms:
            self._heartbeat = opened.idle_timeout_ms / 1000 / 2.5
        self._keep_alive()
        self._on_opened()
        self.on_room()

    def _keep_alive(self) -> None:
        now = time.monotonic()
        if now - self._received >= IDLE_TIMEOUT:
            self.fail(f"nothing came for {IDLE_TIMEOUT:g} s")
            return
        due = [self._received + IDLE_TIMEOUT - now]
        if self._heartbeat is not None:
            if now - self._written >= self._heartbeat * 0.99:
                self.send(amqp.EMPTY_FRAME)
                self._written = now
            due.append(self._written + self._heartbeat - now)
        self._timer = self._loop.later(min(due), self._keep_alive)

    def _open_late(self) -> None:
        self.fail("it did not answer in time")

    # The end

    def close(self) -> None:
        """Close it, telling the peer. Idempotent."""
        if not self.closed:
            self.send(amqp.close_frame())
            self.flush()
            self.fail("it was closed here")

    def abandon(self) -> None:
        """In a forked child: let go of the descriptor."""
        self.closed = True
        self._stream.close()

    def fail(self, why: str) -> None:
        """End it, without a word to the peer. Idempotent."""
        if self.closed:
            return
        self.closed = True
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


def _ignore(*_: object) -> None:
    """Take the place of a callback that is not needed any more: it would hold what holds this."""
