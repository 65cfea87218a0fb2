"""Serves an ASGI application on a listening socket, with uvicorn's HTTP parser. `GatewayService` runs it in a thread."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import uvicorn

from ...errors import ConfigurationError
from ...logs import SessionLogger, get_logger
from ..acceptor import Acceptor
from . import limits
from .asgi import ASGIApplication
from .connection import Connection
from .connections import Connections

logger: SessionLogger = get_logger(__name__)

#: Connections that the system keeps until they are accepted.
BACKLOG = 4096
#: Seconds in which running requests can finish when the server stops.
STOP_PATIENCE = 5.0
#: The name of the server's thread.
THREAD_NAME = "azsession-server"
#: Seconds of silence after which the system asks whether the peer is still there, seconds between such questions, and how
#: many of them may stay without an answer.
KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}


class Companion(Protocol):
    """A server that runs in the event loop of a `Listener`, and shares its limit of connections."""

    @property
    def connection_count(self) -> int:
        """How many connections it has."""

    def new_websocket(self) -> asyncio.Protocol:
        """Return the protocol to which a request for a WebSocket is handed over."""

    async def start(self) -> None:
        """Start to serve."""

    async def stop(self) -> None:
        """End all connections, within `STOP_PATIENCE` seconds."""


class Listener:
    """Accepts connections, and serves an application on them. After its creation, only the thread of `serve` may use it.

    Args:
        application: The application.
        tls: The context of HTTPS connections; `None` for HTTP.
        max_connections: Connections at most; by default as many as the process can open files, less a reserve.
        companion: Another server for the same event loop, which starts and ends with this one. Without it, a request for a
            WebSocket is a request like others.
    """

    def __init__(
        self,
        application: ASGIApplication,
        tls: ssl.SSLContext | None,
        max_connections: int | None,
        companion: Companion | None = None,
    ) -> None:
        self._tls = tls
        self._companion = companion
        options: dict[str, Any] = {
            "log_config": None,
            "lifespan": "off",
            # A class for uvicorn, which passes its own objects to it.
            "ws": "none" if companion is None else lambda **_: companion.new_websocket(),
            "proxy_headers": False,
            "server_header": False,
            "date_header": False,
            "timeout_keep_alive": int(limits.IDLE_TIMEOUT),
        }
        for name in ("uvicorn.access", "uvicorn.asgi", "uvicorn.error"):
            logging.getLogger(name).addFilter(_OWN_RECORDS)
        # Always the same parser: parsers differ in the malformed requests that they refuse.
        config = uvicorn.Config(application, http="httptools", **options)
        config.load()
        # The server itself does not run: the connections are accepted here, and need only its state.
        server_state = uvicorn.Server(config).server_state
        # uvicorn annotates the class without the arguments that it passes to it.
        inner_class: Any = config.http_protocol_class
        most = limits.default_max_connections()
        self.connections: Connections = Connections(
            lambda state: inner_class(config=config, server_state=server_state, app_state=state),
            most if max_connections is None else min(max_connections, most),
            (lambda: 0) if companion is None else lambda: companion.connection_count,
        )
        # On Windows, the loop must be one that can watch a socket.
        self._make_loop = asyncio.SelectorEventLoop if sys.platform == "win32" else config.get_loop_factory()

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return an event loop for `serve`."""
        loop = (self._make_loop or asyncio.new_event_loop)()
        loop.set_exception_handler(_log_loop_error)
        return loop

    async def serve(self, sock: socket.socket, stopping: asyncio.Event) -> None:
        """Serve until `stopping` is set. Then close the listening socket, and finish the running requests.

        Args:
            sock: The listening socket.
            stopping: Ends the server.
        """
        companion = self._companion
        acceptor = Acceptor(sock, self._on_socket, self.connections.make_room)
        acceptor.start()
        try:
            if companion is not None:
                await companion.start()
            await stopping.wait()
            acceptor.stop()
            draining = [self.connections.drain(STOP_PATIENCE)]
            if companion is not None:
                draining.append(companion.stop())
            await asyncio.gather(*draining)
        finally:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    def _on_socket(self, sock: socket.socket) -> None:
        connection = self.connections.new()
        if connection is None:
            sock.close()
        else:
            connection.open(asyncio.get_running_loop().create_task(self._open(connection, sock)), sock)

    async def _open(self, connection: Connection, sock: socket.socket) -> None:
        """Make the transport of a connection. Returns after the TLS handshake."""
        seconds = None if self._tls is None else limits.HEADER_DEADLINE
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: connection, sock, ssl=self._tls, ssl_handshake_timeout=seconds
        )


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket that does not block.

    Raises:
        ConfigurationError: The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        dual = host == "::" and socket.has_dualstack_ipv6()
        # This sets SO_REUSEADDR except on Windows, so that a server can be started again on the port that it has just used.
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=dual)
    except OSError as error:
        # Behind the reason, `create_server` repeats the address.
        reason = (error.strerror or str(error)).partition(" (while ")[0]
        raise ConfigurationError(f"cannot listen on {host}:{port}: {reason}") from error
    listener.setblocking(False)
    # Accepted connections inherit these options.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        with suppress(OSError, AttributeError):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return listener


def tls_context(cert: str | Path | None, key: str | Path | None, *, alpn: str | None = "http/1.1") -> ssl.SSLContext | None:
    """Return the context for a certificate and its key; `None` without both. `alpn` names the protocol over TLS.

    Raises:
        ConfigurationError: They cannot be used.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ConfigurationError("TLS needs both a certificate and its key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    try:
        context.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        # The other reasons of OpenSSL, for example "PEM lib", do not say which file is wrong, or why.
        is_other_key = error.reason == "KEY_VALUES_MISMATCH"
        why = "the key is that of another certificate" if is_other_key else "both must be files in the PEM format"
        raise ConfigurationError(f"the TLS certificate {cert} with the key {key} cannot be used: {why}") from error
    except OSError as error:
        raise ConfigurationError(f"the TLS certificate {cert} or the key {key} cannot be read: {error.strerror}") from error
    return context


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of the event loop, for example that the process cannot open more files."""
    error = context.get("exception")
    level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
    logger.log(level, "%s", context.get("message"), exc_info=error)


class _OwnRecords(logging.Filter):
    """Drops uvicorn's log records about the gateway, except for failures: they contain the paths and headers of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        has_failed = error is not None and not isinstance(error, asyncio.CancelledError)
        return record.threadName != THREAD_NAME or has_failed


_OWN_RECORDS = _OwnRecords()
