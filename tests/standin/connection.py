"""One client's connection: its socket, SASL, and proton's engine, whose events go to the links. `server` makes them.

proton's engine is driven directly. Its reactor is slower and hides details that a misbehaving broker needs.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from cproton import ffi, lib, pn_transport_push
from proton import Collector, Condition, Connection, Link, Session, Transport, symbol

from tests.standin import tokens, wire
from tests.standin.attach import attach
from tests.standin.links import AnyLink

if TYPE_CHECKING:
    from tests.standin.server import StandIn

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Peer:
    """A connection, seen from the server."""

    def __init__(self, server: StandIn, sock: socket.socket) -> None:
        self.server, self.loop, self.sock = server, server.loop, sock
        self.grants: dict[str, tokens.Grant] = {}
        self.links: dict[Any, AnyLink] = {}
        self.watch = wire.FrameWatch(server.log)
        self._stage = self._sasl
        self._sasl_rest = b""
        self._out: deque[tuple[float, bytes]] = deque()
        self._flushing: Any = None
        self._ticking: Any = None
        self._closing = self.gone = False
        self._begins = 0
        self._ended: dict[Any, Any] = {}
        self._new_engine()
        self._watch(selectors.EVENT_READ)

    def _new_engine(self) -> None:
        self._transport = Transport(Transport.SERVER)
        self._transport.max_frame_size = self.server.max_frame_size
        self._transport.channel_max = self.server.channel_max
        self._transport.idle_timeout = self.server.idle_timeout
        self._connection = Connection()
        self._collector = Collector()
        self._connection.collect(self._collector)
        self._transport.bind(self._connection)
        self._impl, self._events = self._transport._impl, self._collector._impl

    # The socket

    def _watch(self, mask: int) -> None:
        self._mask = mask
        self.loop.selector.register(self.sock, mask, self.ready)

    def ready(self, mask: int) -> None:
        """Read from the socket and mark the connection for writing."""
        if mask & selectors.EVENT_READ:
            while not self.gone:
                try:
                    data = self.sock.recv(262144)
                except _WOULD_BLOCK:
                    break
                except OSError:
                    data = b""
                if not data:
                    self.drop()
                    return
                self._stage(data)
                if not isinstance(self.sock, ssl.SSLSocket):
                    break
        self.server.dirty(self)

    def _sasl(self, data: bytes) -> None:
        data = self._sasl_rest = self._sasl_rest + data
        if data[:8] == wire.AMQP_HEADER:
            # AMQP without SASL is refused with the header of SASL (AMQP 1.0 §2.2).
            self._send(wire.SASL_HEADER)
            self._closing = True
        elif data[:8] == wire.SASL_HEADER:
            self._send(wire.SASL_HEADER + wire.sasl_mechanisms("MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL"))
            self._stage, self._sasl_rest = self._sasl_init, b""
            if data[8:]:
                self._stage(data[8:])
        elif len(data) >= 8:
            self.drop()

    def _sasl_init(self, data: bytes) -> None:
        data = self._sasl_rest = self._sasl_rest + data
        size = int.from_bytes(data[:4], "big") if len(data) >= 4 else 8
        if len(data) < size:
            return
        taken = wire.sasl_mechanism(data[:size]) == "ANONYMOUS"
        self._send(wire.sasl_outcome(0 if taken else 1))
        self._closing = not taken
        self._stage, self._sasl_rest = self._amqp_header, b""
        if data[size:]:
            self._stage(data[size:])

    def _amqp_header(self, data: bytes) -> None:
        data = self._sasl_rest = self._sasl_rest + data
        if len(data) >= 8:
            self._stage = self._amqp
            self._push(data[:8])
            if data[8:]:
                self._amqp(data[8:])

    def _amqp(self, data: bytes) -> None:
        self.watch.feed(data)
        self._push(data)
        if self.watch.highest_handle > self.server.handle_max and not self._closing:
            self.close("amqp:connection:framing-error", "An attach has a handle above handle-max.")

    def _push(self, data: bytes) -> None:
        impl, at = self._impl, 0
        while at < len(data):
            capacity = lib.pn_transport_capacity(impl)
            if capacity <= 0:
                break
            piece = data[at : at + capacity] if at or len(data) > capacity else data
            if pn_transport_push(impl, piece) < 0:
                break
            at += len(piece)
            self.pump()
        if self._ticking is None and not self._closing:
            self._tick()

    def _tick(self) -> None:
        if self.gone:
            return
        now = time.monotonic()
        due = self._transport.tick(now)
        self.pump()
        self._ticking = self.loop.after(max(0.001, due - now), self._tick) if due else None
        self.server.dirty(self)

    # Out

    def flush(self) -> None:
        """Move proton's output to the socket, after the server's delay if there is one."""
        if self.gone:
            return
        impl = self._impl
        pieces = []
        while (pending := lib.pn_transport_pending(impl)) > 0:
            buffer = bytearray(pending)
            got = lib.pn_transport_peek(impl, ffi.from_buffer(buffer), pending)
            pieces.append(bytes(buffer[:got]))
            lib.pn_transport_pop(impl, got)
        if pieces:
            data = b"".join(pieces)
            if self._begins:
                data, self._begins = wire.with_handle_max(data, self.server.handle_max), 0
            self._send(data)
        if pending < 0 or self._connection.state & (Connection.LOCAL_CLOSED | Connection.REMOTE_CLOSED) == (
            Connection.LOCAL_CLOSED | Connection.REMOTE_CLOSED
        ):
            self._closing = True
        self._write()

    def _send(self, data: bytes) -> None:
        delay = self.server.answer_delay
        self._out.append((time.monotonic() + delay if delay else 0.0, data))

    def hurry(self) -> None:
        """Send delayed output at once."""
        self._out = deque((0.0, data) for _, data in self._out)
        self._write()

    def _write(self) -> None:
        out = self._out
        blocked = False
        while out and not self.gone:
            due, data = out[0]
            if due and due > time.monotonic():
                if self._flushing is None:
                    self._flushing = self.loop.after(due - time.monotonic(), self._due)
                break
            try:
                sent = self.sock.send(data)
            except _WOULD_BLOCK:
                blocked = True
                break
            except OSError:
                self.drop()
                return
            if sent == len(data):
                out.popleft()
            else:
                out[0] = (0.0, data[sent:])
        if self.gone:
            return
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if blocked else 0)
        if mask != self._mask:
            self._mask = mask
            self.loop.selector.modify(self.sock, mask, self.ready)
        if not out and self._closing:
            self.drop()

    def _due(self) -> None:
        self._flushing = None
        self._write()

    # Ends

    def close(self, condition: str, description: str) -> None:
        """Close the connection with an AMQP close frame and an error."""
        self._connection.condition = Condition(condition, description)
        self._connection.close()
        self._end_links()
        self.server.dirty(self)
        # Do not wait longer for a client that does not answer.
        self.loop.after(1.0, self.drop)

    def drop(self) -> None:
        """Close the socket without a close frame."""
        if self.gone:
            return
        self.gone = True
        self.loop.selector.unregister(self.sock)
        self.sock.close()
        self._end_links()
        if self._ticking is not None:
            self._ticking.cancel()
        self.server.peers.discard(self)

    def _end_links(self) -> None:
        links = list(self.links.values())
        self.links.clear()
        for link in links:
            link.gone()

    # Tokens

    def allows(self, path: str, right: str) -> bool:
        """Return whether a valid token gives this right on the path."""
        now = self.loop.now()
        return any(
            (not grant.path or path == grant.path or path.startswith(grant.path + "/"))
            and right in grant.rights
            and grant.expires > now
            for grant in self.grants.values()
        )

    def put_token(self, token: str, kind: str, audience: str, expires: float | None) -> None:
        """Accept a token.

        Raises:
            InvalidTokenError: The token is refused.
        """
        grant = tokens.verify(token, kind, audience, self.server.keys, expires)
        # The token counts for the audience it was put for, even if its own resource is wider.
        grant = tokens.Grant(tokens.path_of(audience), grant.rights, grant.expires)
        self.grants[grant.path] = grant
        self.loop.after(min(max(0.0, grant.expires - self.loop.now()), 86400.0), self.check_tokens)

    def check_tokens(self) -> None:
        """Detach the links whose token has expired."""
        for link in list(self.links.values()):
            if link.audience is not None and not any(self.allows(link.audience, right) for right in link.rights):
                text = "ExpiredToken: The token is expired."
                link.detach("amqp:unauthorized-access", f"{text} It was not renewed for '{link.audience}'.")
        self.server.dirty(self)

    # Events

    def pump(self) -> None:
        """Handle proton's events."""
        events, handlers, null = self._events, _HANDLERS, ffi.NULL
        while (event := lib.pn_collector_peek(events)) != null:
            handler = handlers.get(lib.pn_event_type(event))
            if handler is not None:
                handler(self, event)
            lib.pn_collector_pop(events)
        # Free ended objects only now: events in between may be about them.
        ended, self._ended = self._ended, {}
        # Free links before their sessions.
        for impl, free in sorted(ended.items(), key=lambda item: item[1] is lib.pn_session_free):
            free(impl)

    def _on_open(self, _event: Any) -> None:
        self._connection.container = self.server.container
        self._connection.properties = {symbol("product"): "stand-in"}
        self._connection.open()

    def _on_close(self, _event: Any) -> None:
        self._end_links()
        self._connection.close()

    def _on_begin(self, event: Any) -> None:
        session = Session.wrap(lib.pn_event_session(event))
        session.incoming_capacity = 16 * 1024 * 1024
        session.open()
        self._begins += 1

    def _on_end(self, event: Any) -> None:
        impl = lib.pn_event_session(event)
        for link_impl, link in list(self.links.items()):
            if lib.pn_link_session(link_impl) == impl:
                del self.links[link_impl]
                link.gone()
        session = Session.wrap(impl)
        session.close()
        self._ended[impl] = lib.pn_session_free

    def _on_attach(self, event: Any) -> None:
        impl = lib.pn_event_link(event)
        self.links[impl] = attach(self, impl, Link.wrap(impl))

    def _on_detach(self, event: Any) -> None:
        impl = lib.pn_event_link(event)
        link = self.links.pop(impl, None)
        if link is not None:
            link.gone()
        lib.pn_link_close(impl)
        self._ended[impl] = lib.pn_link_free

    def _on_flow(self, event: Any) -> None:
        link = self.links.get(lib.pn_event_link(event))
        if link is not None:
            link.flow()

    def _on_delivery(self, event: Any) -> None:
        link = self.links.get(lib.pn_event_link(event))
        if link is not None:
            link.delivery(lib.pn_event_delivery(event))

    def _on_error(self, _event: Any) -> None:
        self._closing = True


_HANDLERS = {
    lib.PN_CONNECTION_REMOTE_OPEN: Peer._on_open,
    lib.PN_CONNECTION_REMOTE_CLOSE: Peer._on_close,
    lib.PN_SESSION_REMOTE_OPEN: Peer._on_begin,
    lib.PN_SESSION_REMOTE_CLOSE: Peer._on_end,
    lib.PN_LINK_REMOTE_OPEN: Peer._on_attach,
    lib.PN_LINK_REMOTE_CLOSE: Peer._on_detach,
    lib.PN_LINK_REMOTE_DETACH: Peer._on_detach,
    lib.PN_LINK_FLOW: Peer._on_flow,
    lib.PN_DELIVERY: Peer._on_delivery,
    lib.PN_TRANSPORT_ERROR: Peer._on_error,
}
