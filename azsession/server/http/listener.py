"""Serves an ASGI application on one address, with uvicorn in one thread. `GatewayService` uses it."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

from ...errors import ConfigurationError
from . import limits
from .acceptor import Acceptor
from .asgi import ASGIApplication
from .connection import Connection
from .connections import Connections

logger: logging.Logger = logging.getLogger(__name__)

#: Connections that the system keeps until they are accepted.
BACKLOG = 4096
#: Seconds in which running requests can finish when the server stops.
STOP_PATIENCE = 5.0
#: The name of the server's thread.
THREAD_NAME = "azsession-server"
#: Seconds of silence after which the system asks whether the peer is still there, seconds between such questions, and how
#: many of them may stay without an answer.
KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}


class Listener:
    """A server for one address.

    Args:
        application: The application.
        host: The address to listen on.
        port: The port to listen on; 0 uses a free port.
        max_connections: Connections at most; by default as many as the process can open files, less a reserve.
        tls_cert: A file with the certificate chain, to serve HTTPS.
        tls_key: A file with the private key of the certificate.

    Raises:
        ConfigurationError: The certificate or its key cannot be used.
    """

    def __init__(
        self,
        application: ASGIApplication,
        host: str,
        port: int,
        *,
        max_connections: int | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
    ) -> None:
        self._address = (host, port)
        self._tls = _tls_context(tls_cert, tls_key)
        self._scheme = "http" if self._tls is None else "https"
        options: dict[str, Any] = {
            "log_config": None,
            "lifespan": "off",
            "ws": "none",
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
        )
        # On Windows, the loop must be one that can watch a socket.
        self._make_loop = asyncio.SelectorEventLoop if sys.platform == "win32" else config.get_loop_factory()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The URL of the server. With port 0, the port is known after `start`."""
        host, port = self._address
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def start(self) -> None:
        """Listen, and serve in another thread.

        Raises:
            ConfigurationError: The server cannot listen on the address.
        """
        host, port = self._address
        try:
            listener = _listen(host, port)
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {host}:{port}: {error}") from error
        self._address = (host, listener.getsockname()[1])
        self._loop = (self._make_loop or asyncio.new_event_loop)()
        self._thread = threading.Thread(target=self._run, args=(self._loop, listener), name=THREAD_NAME, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop accepting, finish the running requests, and end the thread. Blocks for about five seconds at most."""
        if self._loop is None or self._thread is None:
            return
        with suppress(RuntimeError):  # The loop is closed already.
            self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        try:
            loop.set_exception_handler(_log_loop_error)
            loop.run_until_complete(self._serve(listener))
        except Exception:
            logger.exception("the gateway's server failed")
        finally:
            listener.close()
            loop.close()

    async def _serve(self, listener: socket.socket) -> None:
        acceptor = Acceptor(listener, self.connections, self._open)
        try:
            await self._stopping.wait()
            acceptor.stop()
            await self.connections.drain(STOP_PATIENCE)
        finally:
            await _cancel_other_tasks()

    async def _open(self, connection: Connection, sock: socket.socket) -> None:
        """Make the transport of a connection. Returns after the TLS handshake."""
        seconds = None if self._tls is None else limits.HEADER_DEADLINE
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: connection, sock, ssl=self._tls, ssl_handshake_timeout=seconds
        )


async def _cancel_other_tasks() -> None:
    own = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not own]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    dual = host == "::" and socket.has_dualstack_ipv6()
    # This sets SO_REUSEADDR except on Windows, so that a server can be started again on the port that it has just used.
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=dual)
    listener.setblocking(False)
    # Accepted connections inherit these options.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        with suppress(OSError, AttributeError):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return listener


def _tls_context(cert: str | Path | None, key: str | Path | None) -> ssl.SSLContext | None:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ConfigurationError("TLS needs both a certificate and its key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the TLS certificate or key cannot be used: {error}") from error
    return context


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of the event loop, for example that the process cannot open more files."""
    logger.log(
        logging.DEBUG if isinstance(context.get("exception"), OSError) else logging.ERROR,
        "%s",
        context.get("message"),
        exc_info=context.get("exception"),
    )


class _OwnRecords(logging.Filter):
    """Drops uvicorn's log records about the gateway, except for failures: they contain the paths and headers of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        has_failed = error is not None and not isinstance(error, asyncio.CancelledError)
        return record.threadName != THREAD_NAME or has_failed


_OWN_RECORDS = _OwnRecords()
