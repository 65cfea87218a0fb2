"""The gateway without a transport: it authorizes requests, and hands them to the handlers.

`http.app` calls `Gateway` for requests over HTTP, and `azsession.client.inprocess` for requests of the same process. This
module knows no web framework and no HTTP library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

import attrs

from .. import interrupts
from ..broker.base import Broker
from ..broker.calls import CallContext, Disposition, Settlement, wait_for
from ..errors import MessageTooLargeError, QueueError, ValidationError
from ..protocol.routes import NoRouteError, Operation, Route, parse_route
from ..protocol.wire import MalformedError
from .access_keys import AccessKey
from .answer import Answer, PendingAnswer, error_answer, no_metrics
from .authorization import OPEN, Guard
from .fields import read_fields
from .handlers import Handlers
from .request import Headers, Request
from .session_handlers import settled

#: Default limits in bytes: the body of a request, and the body of one message.
MAX_BODY_SIZE = 16 * 1024 * 1024
MAX_MESSAGE_SIZE = 1024 * 1024
#: Receives and accepts that may wait at once, by default.
MAX_WAITING = 1024


@attrs.frozen
class Admission:
    """The head of a request that was read and authorized.

    Attributes:
        route: The operation, and the queue, session or message that it is about.
        query: The parameters of the query.
        key: The key of the request's token; `None` if the request needs no token.
    """

    route: Route
    query: Mapping[str, str]
    key: AccessKey | None


class Gateway:
    """Answers requests from a broker. Safe to use from many threads.

    A transport calls `admit`, reads the body, and calls `answer`. `handle` does all of it for a request in memory.

    Args:
        broker: The broker. The caller closes it.
        guard: Checks the tokens of requests; `None` allows everything, for clients in the same process.
        max_body_size: Bytes of a request's body at most.
        max_message_size: Bytes of a message's body, or of a session state, at most.
        metrics: Answers a request for the metrics. By default, the gateway has none.

    Attributes:
        answer: Carries out a request that was admitted; see `Handlers.answer`. `error_answer` turns its errors into answers.
    """

    def __init__(
        self,
        broker: Broker,
        guard: Guard | None = None,
        *,
        max_body_size: int = MAX_BODY_SIZE,
        max_message_size: int = MAX_MESSAGE_SIZE,
        metrics: Callable[[], PendingAnswer[bytes]] = no_metrics,
    ) -> None:
        self.max_body_size = max_body_size
        self.max_message_size = max_message_size
        handlers = Handlers(broker, max_message_size, metrics)
        self.answer: Callable[[Request], Answer | PendingAnswer[Any]] = handlers.answer
        self._guard = guard
        self._broker = broker

    def handle(
        self,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
        context: CallContext,
        wait: Callable[[Future[Any]], Any] = wait_for,
    ) -> Answer:
        """Answer a request whose body is in memory. Blocks as long as the broker does.

        Args:
            method: The HTTP method.
            target: The path, percent-encoded, and the query.
            headers: The headers.
            body: The body.
            context: How the broker is called. It blocks.
            wait: Waits for the broker's result.

        Returns:
            The answer, also for a request that failed. Its messages are not encoded: see `Answer.encoded`.
        """
        path, _, query = target.partition("?")
        older = interrupts.handled()
        try:
            if len(body) > self.max_body_size:
                raise self.body_too_large(len(body))
            admitted = self.admit(method, path, query, headers)
            answer = self.answer(Request(admitted.route, admitted.query, headers, body, context, key=admitted.key))
            return answer if isinstance(answer, Answer) else answer.make(wait(answer.future))
        except (QueueError, MalformedError, NoRouteError) as error:
            interrupts.let_pass(error, older)
            return error_answer(error, method)

    def complete(
        self, entity: str, session_id: str, lock_token: str, context: CallContext, wait: Callable[[Future[Any]], Any]
    ) -> Answer:
        """Answer a request of this process to complete a message, without the steps that read a request. Blocks.

        Args:
            entity: The queue or subscription.
            session_id: The session.
            lock_token: The lock token of the message.
            context: How the broker is called. It blocks.
            wait: Waits for the broker's result.
        """
        older = interrupts.handled()
        try:
            settlement = Settlement(lock_token, Disposition.COMPLETE)
            return settled(wait(self._broker.settle(entity, session_id, [settlement], context=context)))
        except QueueError as error:
            interrupts.let_pass(error, older)
            return error_answer(error, "DELETE")

    def admit(
        self,
        method: str,
        path: str,
        query: str,
        headers: Headers,
        *,
        encoded: bool = True,
        prefix: tuple[str, ...] = (),
    ) -> Admission:
        """Read and authorize the head of a request. A transport calls this before it reads the body.

        Args:
            method: The HTTP method.
            path: The path.
            query: The query, percent-encoded.
            headers: The headers; ``Host`` is the name that the token must be for.
            encoded: Whether the path is percent-encoded.
            prefix: The decoded segments in front of the path in the client's URL. They are part of the resource of a token.

        Raises:
            AuthenticationFailedError: The request has no valid token.
            PermissionDeniedError: The key of the token lacks the right.
            NoRouteError: The path or the method is not in the protocol.
            ValidationError: The path or the query is malformed.
        """
        try:
            route = parse_route(method, path, encoded=encoded)
        except (NoRouteError, ValidationError):
            # Only a client with a valid token learns the fault of the path.
            self._authorize(headers, None)
            raise
        key = None if route.operation in OPEN else self._authorize(headers, (*prefix, *route.resource), route)
        return Admission(route, parse_query(query), key)

    def end_when_revoked(self, future: Future[Any], admitted: Admission) -> None:
        """Cancel the future of an operation that waits when the key of its request is revoked."""
        if self._guard is not None and admitted.key is not None:
            self._guard.end_when_revoked(future, admitted.key, admitted.route.operation, admitted.route.entity)

    def body_too_large(self, size: int | None) -> MessageTooLargeError:
        """Return the error for a body over the limit; `size` is `None` if the size is not known."""
        limit = self.max_body_size
        described = "" if size is None else f" of {size} bytes"
        return MessageTooLargeError(f"the body{described} is too large; the limit is {limit} bytes", size=size, limit=limit)

    def _authorize(self, headers: Headers, resource: tuple[str, ...] | None, route: Route | None = None) -> AccessKey | None:
        if self._guard is None:
            return None
        authorization, host = headers.get("Authorization"), headers.get("Host") or ""
        operation, entity = (None, "") if route is None else (route.operation, route.entity)
        if operation is Operation.METRICS and resource is not None:
            return self._guard.check_scraper(authorization, host, resource, operation)
        return self._guard.check(authorization, host, resource, operation, entity)


def parse_query(text: str) -> Mapping[str, str]:
    """Return the parameters of a query.

    Raises:
        ValidationError: The query is malformed, or has a parameter twice.
    """
    # Only short queries are cached: clients repeat few of them.
    return _parse_query(text) if len(text) <= _SHORT_QUERY else _parse_query.__wrapped__(text)


@lru_cache(256)
def _parse_query(text: str) -> Mapping[str, str]:
    return read_fields(text, _MAX_PARAMETERS, place="the query", field="parameter")


_SHORT_QUERY = 64
#: Parameters of a query at most.
_MAX_PARAMETERS = 16
