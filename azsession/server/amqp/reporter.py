"""`Reporter`: the operations of clients in the access log, the metrics and spans, as the HTTP server reports requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Protocol

from ...logs import SessionLogger, get_logger
from ...messages import Message, PeekedMessage
from ...protocol.routes import Operation, Route
from ...telemetry import gateway_telemetry
from ..http import access_log

logger: SessionLogger = get_logger(__name__)


class OperationMetrics(Protocol):
    """The metrics of a gateway; see `metrics.GatewayMetrics`."""

    def request(self, operation: str, status: int | None, seconds: float) -> None: ...
    def waits(self, operation: Operation) -> Callable[[], float]: ...


class Wait:
    """The wait of an operation for a message or a session. `seconds` is known when it is over."""

    seconds: float = 0.0


class Reporter:
    """Reports operations. Only the event loop uses it.

    Args:
        metrics: Counts the operations, if it is there.
    """

    def __init__(self, metrics: OperationMetrics | None = None) -> None:
        self._metrics = metrics
        self._telemetry = gateway_telemetry()

    @property
    def is_on(self) -> bool:
        """Whether anybody wants to know of operations."""
        return self._metrics is not None or self._telemetry is not None or access_log.is_on()

    def operation(
        self,
        route: Route | None,
        status: int,
        began: float,
        *,
        key: str | None,
        client: Sequence[Any] | None,
        waited: float = 0.0,
        messages: Sequence[Message | PeekedMessage] = (),
    ) -> None:
        """Report an operation that has ended.

        Args:
            route: The route of the same operation over HTTP; `None` if it was refused before it was known.
            status: The status that an answer over HTTP would have.
            began: When the operation began, on the monotonic clock.
            key: The name of the client's key, if it is known.
            client: The client's host and port, if they are known.
            waited: Seconds that the operation waited for a message or a session.
            messages: The messages that were sent or received.
        """
        if access_log.is_on():
            access_log.amqp_operation(route, key, client, status, began)
        seconds, name = time.monotonic() - began, "refused" if route is None else route.operation.value
        if self._metrics is not None:
            self._metrics.request(name, status, max(0.0, seconds - waited))
        if self._telemetry is not None:
            entity = "" if route is None else route.entity
            self._telemetry.amqp_operation(name, entity, client, seconds, status, messages)

    @contextmanager
    def waiting(self, operation: Operation, future: Future[Any]) -> Iterator[Wait]:
        """Count an operation as waiting, unless its future is done already."""
        wait = Wait()
        if self._metrics is None or future.done():
            yield wait
            return
        end = self._metrics.waits(operation)
        try:
            yield wait
        finally:
            wait.seconds = end()


def log_lock(what: str, entity: str, session_id: str) -> None:
    """Log that a client took or released a session, like the gateway over HTTP."""
    logger.info("a client %s the session %r of %r", what, session_id, entity, queue=entity, session_id=session_id)
