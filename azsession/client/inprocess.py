"""The gateway in the caller's own process: a `requests` adapter that hands requests to it.

There is no socket and no thread in between: the gateway runs in the thread that asks, and trusts it. `link` mounts an
adapter for `ServiceBusProvider.embedded`, and wherever the server is Azure itself.
"""

from __future__ import annotations

import _thread
import io
import threading
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future
from contextlib import suppress
from http.client import responses
from typing import Any, TypeVar

import requests
from requests.adapters import BaseAdapter
from requests.utils import get_encoding_from_headers

from .. import forks
from ..broker.base import Broker, CallContext, wait_for
from ..errors import ConfigurationError, QueueError
from ..protocol import PROTOCOL_HEADER, PROTOCOL_VERSION
from ..server.answer import Answer
from ..server.dispatch import MAX_BODY_SIZE, MAX_MESSAGE_SIZE, Gateway
from ..server.request import Headers
from .cancellation import CancelledError, RequestInFlight, current_request

T = TypeVar("T")

#: Seconds that closing waits for requests that run.
CLOSE_PATIENCE = 5.0


class _Ask:
    """One request that runs.

    Attributes:
        thread: The thread that waits for the answer.
        waited: Whether the broker let the thread wait.
    """

    def __init__(self) -> None:
        self.thread: int = _thread.get_ident()
        self.waited: bool = False

    def wait(self, future: Future[T], request: RequestInFlight) -> T:
        """Return the broker's result. Cancelling `request` withdraws the operation."""
        self.waited = not future.done()
        if self.waited:
            request.on_cancel(future.cancel)
        try:
            return wait_for(future)
        finally:
            if self.waited:
                request.on_cancel(None)


class InProcessAdapter(BaseAdapter):
    """Answers the requests for one base URL from a broker of this process.

    A read timeout ends a wait as it would over the network, and so does
    `RequestInFlight.cancel`; without one, closing does.
    What the application has begun otherwise is finished.

    Args:
        broker: Where the messages are; closed with the adapter, or when that is forgotten.
        url: The base of the routes.
        identity: What the broker was made for, so that others find out whether it does for them.
        in_child: Why a forked child cannot use the broker; `None` where it can.
        max_body_size: Bytes of a request's body.
        max_message_size: Bytes of one message's body.
    """

    def __init__(
        self,
        broker: Broker,
        url: str,
        *,
        identity: object = None,
        in_child: str | None = None,
        max_body_size: int = MAX_BODY_SIZE,
        max_message_size: int = MAX_MESSAGE_SIZE,
    ) -> None:
        super().__init__()
        self.identity = identity
        self.url: str = url.rstrip("/")
        self._broker = broker
        self._gateway = Gateway(broker, max_body_size=max_body_size, max_message_size=max_message_size)
        self._in_child = in_child
        self._refusal: str | None = None
        self._running: set[_Ask] = set()
        self._ended: threading.Event | None = None
        forks.register(self)
        self._finalizer = weakref.finalize(self, _close_elsewhere, broker)
        # At the interpreter's end whoever waits still is a daemon thread, which had better not wake up then.
        self._finalizer.atexit = False

    def __repr__(self) -> str:
        return f"<InProcessAdapter for {self.url}>"

    @property
    def broker(self) -> Broker:
        """The broker that answers."""
        return self._broker

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return not self._finalizer.alive

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Return the application's answer.

        Raises:
            requests.ReadTimeout: The time to read was over before the wait that was asked for.
            requests.ConnectionError: The wait was ended from another thread.
            ConfigurationError: The adapter was closed, or its broker is the process's that this one was forked from.
        """
        patience = timeout[1] if isinstance(timeout, tuple) else getattr(timeout, "read_timeout", timeout)
        body: Any = request.body or b""
        if isinstance(body, str):
            body = body.encode()
        elif not isinstance(body, bytes):
            body = b"".join(body) if not hasattr(body, "read") else body.read()
        target = (request.url or "")[len(self.url) :]
        names: Any = request.headers.items()
        headers = {name: value if isinstance(value, str) else value.decode("latin-1") for name, value in names}
        try:
            answer = self.ask(request.method or "", target, headers, body, patience, current_request() or RequestInFlight())
        except requests.RequestException as error:
            error.request = request
            raise
        return self._response_to(request, answer.encoded())

    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        patience: float | None,
        flight: RequestInFlight,
    ) -> Answer:
        """Return the gateway's answer to a request; what `send` does, without its wrapping.

        Args:
            method: The HTTP method.
            target: The path below the URL, encoded, and the query.
            headers: The headers.
            body: The body.
            patience: Seconds to wait for the answer.
            flight: Ends the wait, and is told how far it came.

        Raises:
            requests.RequestException: As `send` does.
            ConfigurationError: As `send` does.
        """
        flight.tracked = True
        if flight.cancelled:
            raise requests.ConnectionError(CancelledError("the request was cancelled"))
        own = _Ask()
        deadline = None if patience is None else time.monotonic() + patience
        self._running.add(own)
        try:
            # Looked at after that, and set before those that run are looked at: no call begins on a closed broker.
            if self._refusal is not None:
                raise ConfigurationError(self._refusal)
            # From here on it may take effect, whatever becomes of the answer.
            flight.written = True
            answer = self._gateway.handle(
                method,
                target,
                Headers(headers.items()),
                body,
                CallContext(deadline=deadline),
                lambda future: own.wait(future, flight),
            )
        except FutureCancelledError:
            raise requests.ConnectionError(CancelledError("the request was cancelled")) from None
        finally:
            self._running.discard(own)
            if self._ended is not None:
                self._ended.set()
        # If the deadline has passed, the answer is worth no more than a timeout, unless something came of the request.
        is_empty = answer.status >= 500 or (answer.status == 204 and own.waited)
        if is_empty and deadline is not None and time.monotonic() >= deadline:
            raise requests.ReadTimeout(f"{self.url}: read timed out")
        return answer

    def _response_to(self, request: requests.PreparedRequest, answer: Answer) -> requests.Response:
        response = requests.Response()
        body = b"" if answer.body is None or request.method == "HEAD" else answer.body
        response.status_code = answer.status
        response.reason = responses.get(answer.status, "")
        response.headers.update(answer.headers)
        response.headers[PROTOCOL_HEADER] = PROTOCOL_VERSION
        if answer.body:
            response.headers["Content-Length"] = str(len(answer.body))
        response._content = body
        response._content_consumed = True
        response.raw = io.BytesIO(body)
        response.url = request.url or ""
        response.request = request
        response.encoding = get_encoding_from_headers(response.headers)
        response.connection = self  # type: ignore[assignment]
        return response

    def close(self) -> None:
        """End all waits, let what runs finish, and close the broker. Idempotent."""
        closing = self._finalizer.detach()
        if closing is None:
            return
        if self._refusal is None:
            self._refusal = f"what answers for {self.url} in this process was closed: make another client"
            self._ended = threading.Event()
            with suppress(QueueError):
                self._broker.stop_waiting()
            self._finish_running(self._ended)
        self._broker.close()

    def _finish_running(self, ended: threading.Event) -> None:
        own, until = _thread.get_ident(), time.monotonic() + CLOSE_PATIENCE
        # This thread's own would be one that a signal handler interrupted.
        while any(caller.thread != own for caller in self._running.copy()):
            left = until - time.monotonic()
            if left <= 0 or not ended.wait(left):
                return
            ended.clear()

    def after_fork(self) -> None:
        """In a forked child: some brokers stay the parent's."""
        self._running = set()
        if self._refusal is None:
            self._refusal = self._in_child


def _close_elsewhere(broker: Broker) -> None:
    """Close the broker of an adapter that was forgotten, in a thread of its own: the collector stops threads anywhere."""
    with suppress(RuntimeError):
        _thread.start_new_thread(broker.close, ())
