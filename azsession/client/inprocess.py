"""`InProcessAdapter`: a requests adapter that answers requests from a broker in this process.

There is no socket and no further thread: the server's code runs in the thread of the caller, and trusts the caller.
`backends` makes an adapter for `ServiceBusProvider.embedded` and for Azure Service Bus over AMQP.
"""

from __future__ import annotations

import _thread
import io
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future
from contextlib import suppress
from http.client import responses
from typing import Any, TypeVar

import requests
from requests.adapters import BaseAdapter
from requests.utils import get_encoding_from_headers

from .. import forks, interrupts
from ..broker.base import Broker
from ..broker.calls import CallContext, ReceiveRequest, wait_for
from ..errors import ConfigurationError, ProviderError, QueueError
from ..events import Event
from ..futures import Future as OwnFuture
from ..protocol import EXTENSIONS_HEADER, PROTOCOL_HEADER, PROTOCOL_VERSION, SERVER_EXTENSIONS
from ..protocol.error_codes import SERVER_BUSY
from ..server.answer import Answer
from ..server.dispatch import MAX_BODY_SIZE, MAX_MESSAGE_SIZE, Gateway
from ..server.request import Headers
from .call import SessionTarget
from .cancellation import CancelledError, RequestInFlight, current_request
from .client_name import client_name
from .responses import LockGrant, own_messages

T = TypeVar("T")

#: Seconds that `close` waits for running requests.
CLOSE_PATIENCE = 5.0
#: Seconds that a signal handler waits for an operation of the broker if it interrupted a call.
HANDLER_PATIENCE = 1.0


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
        try:
            self.waited = not future.done()
            if self.waited:
                request.on_cancel(future.cancel)
            if _can_wait(future):
                return wait_for(future)
        except BaseException:
            # `wait_for` does the same, unless an interrupt came before it began.
            future.cancel()
            raise
        finally:
            request.on_cancel(None)
        raise ProviderError(
            "a signal handler cannot wait for this broker, because it interrupted a call", code=SERVER_BUSY, is_transient=True
        )


def _can_wait(future: Future[Any]) -> bool:
    """Return whether this thread can wait for a result without a limit.

    A signal handler cannot: it can have interrupted a call that holds a lock which the broker's thread needs. The operation
    then goes on after the handler. A result that needs no such lock comes within `HANDLER_PATIENCE`.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return True
    return (isinstance(future, OwnFuture) and future.wait(HANDLER_PATIENCE)) or not interrupts.has_interrupted_us()


class InProcessAdapter(BaseAdapter):
    """Answers the requests for one base URL from a broker in this process. Thread-safe.

    The read timeout of requests and `RequestInFlight.cancel` end the wait of a request, and `close` ends all waits. Work that
    does not wait is always finished.

    Args:
        broker: The broker. It is closed with the adapter, or when the adapter is garbage-collected.
        url: The base URL of the routes.
        identity: The endpoint and credentials of the broker. Clients with an equal identity can share the adapter.
        error_in_child: The error message for a forked child, which cannot use the broker. `None` if it can.
        max_body_size: The largest body of a request, in bytes.
        max_message_size: The largest body of a message, in bytes.
    """

    def __init__(
        self,
        broker: Broker,
        url: str,
        *,
        identity: object = None,
        error_in_child: str | None = None,
        max_body_size: int = MAX_BODY_SIZE,
        max_message_size: int = MAX_MESSAGE_SIZE,
    ) -> None:
        super().__init__()
        self.identity: object = identity
        self.url: str = url.rstrip("/")
        self._broker = broker
        self._gateway = Gateway(broker, max_body_size=max_body_size, max_message_size=max_message_size)
        self._error_in_child = error_in_child
        #: The error message for new requests after `close`, or in a forked child. `None` while requests are answered.
        self._refusal: str | None = None
        self._running: set[_Ask] = set()
        #: Set after each request while `close` waits for running ones.
        self._one_ended: Event | None = None
        self._is_closing = self._has_ended = False
        forks.register(self)
        self._finalizer = weakref.finalize(self, _close_in_thread, broker)
        # Do not close the broker at the end of the interpreter: this would wake daemon threads while it shuts down.
        self._finalizer.atexit = False

    def __repr__(self) -> str:
        return f"<InProcessAdapter for {self.url}>"

    @property
    def broker(self) -> Broker:
        """The broker."""
        return self._broker

    @property
    def closed(self) -> bool:
        """Whether the adapter is closed."""
        return self._is_closing or self._has_ended

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Answer a request of a `requests.Session`. Blocks.

        Raises:
            requests.ReadTimeout: The read timeout ended the wait.
            requests.ConnectionError: Another thread ended the wait.
            ConfigurationError: The adapter is closed, or the broker belongs to the parent process.
        """
        read_timeout = timeout[1] if isinstance(timeout, tuple) else getattr(timeout, "read_timeout", timeout)
        body: Any = request.body or b""
        if isinstance(body, str):
            body = body.encode()
        elif not isinstance(body, bytes):
            body = b"".join(body) if not hasattr(body, "read") else body.read()
        target = (request.url or "")[len(self.url) :]
        names: Any = request.headers.items()
        headers = {name: value if isinstance(value, str) else value.decode("latin-1") for name, value in names}
        try:
            answer = self.ask(
                request.method or "", target, headers, body, read_timeout, current_request() or RequestInFlight()
            )
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
        timeout: float | None,
        in_flight: RequestInFlight,
    ) -> Answer:
        """Answer a request, like `send`, but without the objects of requests. Blocks.

        Args:
            method: The HTTP method.
            target: The encoded path below the base URL, and the query.
            headers: The headers.
            body: The body.
            timeout: Seconds to wait for the answer. `None` is no limit.
            in_flight: Cancels the request, and records whether it may have taken effect.

        Raises:
            requests.ReadTimeout: The timeout ended the wait.
            requests.ConnectionError: Another thread ended the wait.
            ConfigurationError: The adapter is closed, or the broker belongs to the parent process.
        """
        return self._carry_out(
            lambda context, wait: self._gateway.handle(method, target, Headers(headers.items()), body, context, wait),
            timeout,
            in_flight,
        )

    def complete(self, session: SessionTarget, token: str, timeout: float | None, in_flight: RequestInFlight) -> Answer:
        """Complete a message, and answer as `ask` does. Blocks.

        Args:
            session: The session of the message.
            token: The lock token.
            timeout: See `ask`.
            in_flight: See `ask`.

        Raises:
            requests.ReadTimeout, requests.ConnectionError, ConfigurationError: See `ask`.
        """
        return self._carry_out(
            lambda context, wait: self._gateway.complete(session.entity, session.session_id, token, context, wait),
            timeout,
            in_flight,
        )

    def _carry_out(
        self,
        work: Callable[[CallContext, Callable[[Future[Any]], Any]], Answer],
        timeout: float | None,
        in_flight: RequestInFlight,
    ) -> Answer:
        """Return the answer of the gateway. `work` gets the context of the broker's operation, and a function that waits."""
        in_flight.tracked = True
        if in_flight.cancelled:
            raise requests.ConnectionError(CancelledError("the request was cancelled"))
        own = _Ask()
        deadline = None if timeout is None else time.monotonic() + timeout
        self._running.add(own)
        try:
            # `close` does these steps in the opposite order, so that no request begins on a closed broker.
            if self._refusal is not None:
                raise ConfigurationError(self._refusal)
            # From here on the request may take effect, also if it has no answer.
            in_flight.written = True
            answer = work(CallContext(deadline=deadline), lambda future: own.wait(future, in_flight))
        except FutureCancelledError:
            raise requests.ConnectionError(CancelledError("the request was cancelled")) from None
        finally:
            self._running.discard(own)
            if self._one_ended is not None:
                self._one_ended.set()
        # Any other answer is returned, also if it comes late: it tells the outcome.
        is_empty = answer.status >= 500 or (answer.status == 204 and own.waited)
        if is_empty and deadline is not None and time.monotonic() >= deadline:
            raise requests.ReadTimeout(f"{self.url}: read timed out")
        return answer

    def take_offered(self, session: SessionTarget, request_id: str) -> LockGrant | None:
        """Return the lock and the message of a receive, if the broker has the message at hand. Does not block.

        Args:
            session: The session, which the caller holds.
            request_id: The request id of the receive.
        """
        if self._refusal is not None:
            return None
        sent_at = time.monotonic()
        request = ReceiveRequest(
            session.entity,
            session.session_id,
            session.lock_id,
            max_count=1,
            timeout=0.0,
            request_id=request_id,
            holds_lock=True,
            client=client_name(),
        )
        delivery = self._broker.take_offered(request)
        if delivery is None:
            return None
        lasts = delivery.lock_expires_in
        messages = own_messages(delivery.messages, session, lasts)
        return LockGrant(session.session_id, messages, sent_at, lasts, 0.0, combines=True)

    def _response_to(self, request: requests.PreparedRequest, answer: Answer) -> requests.Response:
        response = requests.Response()
        body = b"" if answer.body is None or request.method == "HEAD" else answer.body
        response.status_code = answer.status
        response.reason = responses.get(answer.status, "")
        response.headers.update(answer.headers)
        response.headers[PROTOCOL_HEADER] = PROTOCOL_VERSION
        response.headers[EXTENSIONS_HEADER] = SERVER_EXTENSIONS
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
        """End all waits, let running requests finish, and close the broker. After an interrupt, a second call continues."""
        if not self._has_ended and (self._refusal is None or self._is_closing):
            self._is_closing = True
            self._refusal = f"the backend of {self.url} in this process was closed: create a new client"
            ended = self._one_ended = Event()
            with suppress(QueueError):
                self._broker.stop_waiting()
            self._finish_running(ended)
        # Also in a second call: a broker that a signal handler closed in the middle of an operation closes after it.
        self._broker.close()
        self._finalizer.detach()
        self._has_ended = True

    def _finish_running(self, ended: Event) -> None:
        own, until = _thread.get_ident(), time.monotonic() + CLOSE_PATIENCE
        # If a signal handler calls `close`, a request of this same thread can be running. It continues only after `close`.
        while any(caller.thread != own for caller in self._running.copy()):
            left = until - time.monotonic()
            if left <= 0 or not ended.wait(left):
                return
            ended.clear()

    def after_fork(self) -> None:
        """In a forked child: refuse requests if the broker belongs to the parent."""
        self._running = set()
        if self._refusal is None:
            self._refusal = self._error_in_child


def _close_in_thread(broker: Broker) -> None:
    """Close a broker in a new thread. The garbage collector can call this in a thread that holds the broker's locks."""
    with suppress(RuntimeError):
        _thread.start_new_thread(broker.close, ())
