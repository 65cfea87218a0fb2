"""One connection of the gateway's server.

A `Connection` stands between the event loop and the protocol object of the HTTP server. It passes bytes on in both
directions, and never looks for requests in them: the HTTP server's parser alone decides where a request ends. The ASGI
application reports the progress of its requests (`asgi.RequestConnection`), so that the time limits of each phase apply.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from ...logs import SessionLogger, get_logger
from . import limits, refusals
from .asgi import Receive, RequestConnection
from .phases import Phase
from .refusals import http_date

logger: SessionLogger = get_logger(__name__)


class Connection(asyncio.Protocol, asyncio.Transport, RequestConnection):
    """One connection.

    The event loop calls the methods of `asyncio.Protocol`, the HTTP server those of `asyncio.Transport`, and the application
    those of `asgi.RequestConnection`.

    Args:
        on_closed: Called when the connection is closed.
        make_inner: Makes the protocol object of the HTTP server.
        is_refused: Whether the connection is beyond the limit of the server, so that its requests get status 503.
    """

    def __init__(
        self, on_closed: Callable[[Connection], None], make_inner: Callable[[], asyncio.Protocol], is_refused: bool
    ) -> None:
        super().__init__()
        RequestConnection.__init__(self)  # The classes of asyncio do not pass the call on.
        self._on_closed = on_closed
        self._make_inner = make_inner
        self._inner: asyncio.Protocol | None = None
        self._is_refused = is_refused
        self._transport: Any = None
        self._opening: asyncio.Task[None] | None = None
        self._phase = Phase.OPENING
        #: When the phase must be over. `None` if it may last.
        self._deadline: float | None = None
        #: The bytes of a body that arrives, and of an answer that the client takes.
        self._arrival: limits.Movement | None = None
        self._departure: limits.Movement | None = None
        self._unsent = 0
        #: Whether the HTTP server could not read what the client sent.
        self._is_malformed = False
        self._begun = 0
        self._is_feeding = False
        self._is_answered = False
        self._is_lost = False
        self._closes_slowly = False
        self._head_size = 0
        self._held = bytearray()
        self._inner_paused = False
        self._flushed: asyncio.Future[bool] | None = None
        self._on_lost: Callable[[], None] | None = None
        #: The parts of an answer that are sent together; `None` if each part is sent at once.
        self._joined: list[bytes] | None = None

    # For the table of connections

    @property
    def idle_until(self) -> float | None:
        """When the connection is closed if the client sends no request until then. `None` while a request is answered."""
        return self._deadline if self._phase is Phase.IDLE and self._departure is None else None

    def is_late(self, now: float) -> bool:
        """Return whether the connection is over a time limit."""
        if self._deadline is not None and self._deadline < now:
            return True
        if self._arrival is not None and not self._inner_paused and self._arrival.is_late(now):
            return True
        if self._departure is None:
            return False
        unsent = self._transport.get_write_buffer_size()
        self._departure.add(max(0, self._unsent - unsent))
        self._unsent = unsent
        return self._departure.is_late(now)

    def on_late(self) -> None:
        """Close the connection, because it is over a time limit."""
        if self._phase is Phase.HEAD and not self._is_refused:
            self._refuse(refusals.LATE)
        elif self.idle_until is not None:
            self.finish()
        else:
            self.abort()

    def finish(self) -> None:
        """Close the connection when the client has taken the last answer."""
        self._set_phase(Phase.CLOSING, None if self._departure is not None else limits.LINGER)
        self._transport.close()

    def stop(self) -> None:
        """Close the connection after the answer to the request that runs, or at once if none runs."""
        self.is_last = True
        if self._phase in (Phase.IDLE, Phase.HEAD):
            self.finish()
        elif self._phase is Phase.OPENING:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()
        elif self._opening is not None:
            self._phase = Phase.CLOSING
            self._opening.cancel()

    def open(self, opening: asyncio.Task[None], sock: socket.socket) -> None:
        """Wait for the task that makes the transport of the socket. If it fails, the connection is lost."""

        def on_done(task: asyncio.Task[None]) -> None:
            self._opening = None
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is not None:
                logger.debug("a connection could not be opened: %r", error)
                sock.close()
                self.connection_lost(None)

        self._opening = opening
        opening.add_done_callback(on_done)

    # For the application

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:  # type: ignore[override]
        return [(b"date", http_date(int(time.time())))]

    def begin(self) -> None:
        if self._phase is Phase.CLOSING:
            return
        self._head_size = 0
        self._begun += 1
        self._is_answered = False
        self._arrival = limits.Movement()
        self._set_phase(Phase.BODY)

    def watch(self, receive: Receive, on_lost: Callable[[], None] | None) -> None:
        self._on_lost = on_lost
        if on_lost is not None and self.is_closing():
            asyncio.get_running_loop().call_soon(self._report_loss)

    async def has_left(self, receive: Receive) -> bool:
        # The end of the connection may have arrived behind the request. The event loop reads it now.
        await asyncio.sleep(0)
        return self.is_closing()

    def body_arrived(self, size: int) -> None:
        if self._arrival is not None:
            self._arrival.add(size)

    def body_read(self) -> None:
        if self._phase is Phase.BODY:
            self._arrival = None
            self._set_phase(Phase.WORK)

    def join_writes(self) -> None:
        self._joined = []

    def flush(self) -> None:
        parts, self._joined = self._joined, None
        if parts:
            self.write(b"".join(parts))

    def close_slowly(self) -> None:
        self._closes_slowly = True

    async def flushed(self) -> bool:
        if self._is_lost or self._departure is None:
            return not self._is_lost
        if self._flushed is None:
            self._flushed = asyncio.get_running_loop().create_future()
        return await self._flushed

    def end(self) -> None:
        self.flush()
        if self._is_lost or self._phase is Phase.CLOSING:
            return
        self._arrival = None
        self._set_phase(Phase.IDLE, limits.IDLE_TIMEOUT)
        if self.is_last:
            self.finish()
            return
        # Afterwards: the HTTP server may start the next request at once.
        if self._is_malformed:
            asyncio.get_running_loop().call_soon(self._refuse_malformed, self._begun)
        elif self._held:
            asyncio.get_running_loop().call_soon(self._release_held)

    # For the event loop

    def connection_made(self, transport: Any) -> None:
        # uvloop's transports do not inherit from `asyncio.Transport`.
        self._transport = transport
        if self._phase is Phase.CLOSING:
            transport.abort()
            return
        # Writing is paused until the system has taken all bytes. TLS transports would always pause with a limit of 0.
        transport.set_write_buffer_limits(high=1, low=0)
        if self._is_refused:
            self._set_phase(Phase.HEAD, limits.HEADER_DEADLINE)
            return
        self._set_phase(Phase.IDLE, limits.IDLE_TIMEOUT)
        try:
            self._inner = self._make_inner()
            self._inner.connection_made(self)
        except BaseException:
            transport.abort()
            raise

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.CLOSING or self._is_malformed:
            return
        if self._is_refused:
            self._refuse(refusals.BUSY)
        elif self._phase is Phase.WORK:
            self._held += data
            self._control_reading()
        elif self._inner is not None:
            self._feed(self._inner, data)

    def eof_received(self) -> bool | None:
        self._report_loss()
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        self._departure = limits.Movement()
        self._unsent = self._transport.get_write_buffer_size()
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._departure = None
        if self._phase is Phase.CLOSING:
            self._deadline = time.monotonic() + limits.LINGER
        self._end_flush(True)
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._report_loss()
        self._on_closed(self)
        self._held.clear()
        self._end_flush(False)
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.connection_lost(exc)

    # For the HTTP server

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._is_lost or self._phase is Phase.CLOSING or self._transport.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_feeding:
            # The only answer without a request is to bytes that are no request.
            self._is_malformed = True
            asyncio.get_running_loop().call_soon(self._refuse_malformed, self._begun)
        elif self._joined is not None:
            self._joined.append(bytes(data))
        elif not self.is_closing():
            self._is_answered = self._is_answered or bytes(data[:13]) != b"HTTP/1.1 100 "
            self._transport.write(data)

    def close(self) -> None:
        if self._is_feeding or self._phase is Phase.CLOSING:
            return
        self.flush()
        if self._closes_slowly:
            self._linger()
        else:
            self.finish()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection over to another protocol, which has the head of its request already."""
        # For a request that came before and is not answered, the connection is lost.
        self._set_phase(Phase.CLOSING)
        self._is_lost = True
        self._report_loss()
        self._on_closed(self)
        self._inner = None
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)

    def pause_reading(self) -> None:
        self._inner_paused = True
        self._control_reading()

    def resume_reading(self) -> None:
        self._inner_paused = False
        if self._arrival is not None:
            self._arrival.restart()
        self._control_reading()

    # Inside

    def _end_flush(self, is_taken: bool) -> None:
        flushed, self._flushed = self._flushed, None
        if flushed is not None and not flushed.done():
            flushed.set_result(is_taken)

    def _report_loss(self) -> None:
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost()

    def _set_phase(self, phase: Phase, seconds: float | None = None) -> None:
        self._phase = phase
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def _feed(self, inner: asyncio.Protocol, data: bytes) -> None:
        if self._phase is Phase.IDLE:
            self._set_phase(Phase.HEAD, limits.HEADER_DEADLINE)
        self._head_size += len(data)
        self._is_feeding = True
        try:
            inner.data_received(data)
        finally:
            self._is_feeding = False
        if self._phase is Phase.HEAD and self._head_size > limits.MAX_HEAD_SIZE:
            # Afterwards: if the head is complete, the application begins before.
            asyncio.get_running_loop().call_soon(self._check_head_size)

    def _check_head_size(self) -> None:
        if self._phase is Phase.HEAD and self._head_size > limits.MAX_HEAD_SIZE:
            self._refuse(refusals.LARGE)

    def _release_held(self) -> None:
        """Pass on the bytes that came while the application worked, unless it works again."""
        if self._phase is Phase.IDLE and not self._is_lost:
            data = bytes(self._held)
            self._held.clear()
            self._control_reading()
            self.data_received(data)

    def _control_reading(self) -> None:
        wanted = self._phase is Phase.CLOSING or not (self._inner_paused or len(self._held) > limits.MAX_HELD)
        if self._transport.is_closing() or wanted == self._transport.is_reading():
            return
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _refuse_malformed(self, begun: int) -> None:
        """Answer bytes that are no request, after the answers to the requests before them.

        Args:
            begun: How many requests had begun when this call was planned. The end of a later one plans another call.
        """
        if self._phase in (Phase.WORK, Phase.CLOSING) or self._is_lost:
            return
        if self._phase is not Phase.BODY and begun != self._begun:
            return
        if self._phase is Phase.BODY and self._is_answered:
            self._linger()
        else:
            self._refuse(refusals.LARGE if self._head_size > limits.MAX_HEAD_SIZE else refusals.MALFORMED)

    def _refuse(self, answer: bytes) -> None:
        self._transport.write(refusals.dated(answer))
        self._linger()

    def _linger(self) -> None:
        """Close the connection when the client has had the time to read the answer.

        If a socket is closed while bytes arrive, the system answers them with a reset. The reset can overtake the answer.
        """
        self._held.clear()
        self._arrival = None
        self._set_phase(Phase.CLOSING, limits.LINGER)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._control_reading()
        asyncio.get_running_loop().call_soon(self._drop_inner)

    def _drop_inner(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.connection_lost(None)
