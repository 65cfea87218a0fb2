"""The gateway: a WSGI application that serves the session protocol on top of a broker.

`create_app` is called by `azsession serve`, by the pytest plugin, and by whoever serves it otherwise. A request is read and
authorized here, and handed to the operation of `handlers` that its route names; exceptions become answers here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import attrs
import falcon

from ..broker.base import Broker, CallContext
from ..errors import MessageTooLargeError, QueueError, SessionLockedError, ValidationError
from ..protocol import (
    ERROR_CODE_HEADER,
    LOCK_EXPIRES_HEADER,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
)
from ..protocol.error_codes import INTERNAL_ERROR, INVALID_REQUEST, NOT_SUPPORTED, answer_to, code_of
from ..protocol.routes import NoRouteError, Route, parse_route
from ..protocol.wire import MalformedError
from .authorization import OPEN, AccessKey, Guard
from .handlers import Handlers
from .http.presence import BODY_READ_KEY, SOCKET_KEY, Presence
from .request import Answer, Request

logger: logging.Logger = logging.getLogger(__name__)

#: Bytes of a request's body, and of one message in it, unless told otherwise.
MAX_BODY_SIZE = 16 * 1024 * 1024
MAX_MESSAGE_SIZE = 1024 * 1024
#: Requests that wait at once, unless told otherwise.
MAX_WAITING = 1024


def create_app(
    broker: Broker,
    *,
    keys: Iterable[AccessKey] | None,
    hosts: Iterable[str] = (),
    max_body_size: int = MAX_BODY_SIZE,
    max_message_size: int = MAX_MESSAGE_SIZE,
    presence: Presence | None = None,
) -> falcon.App[Any, Any]:
    """Return the falcon WSGI application that serves `broker`.

    Args:
        broker: Where the messages are. The caller closes it.
        keys: The keys whose tokens are accepted. `None` lets everybody in: for callers in the same process only.
        hosts: Host names that tokens may be for, besides the one that a request was sent to.
        max_body_size: Bytes of a request's body; a larger one is answered 413.
        max_message_size: Bytes of one message's body; a larger one is answered 413.
        presence: Watches the clients of those who wait, and bounds how many may; the caller stops it.
    """
    gateway = Gateway(
        broker,
        None if keys is None else Guard(keys, hosts),
        max_body_size=max_body_size,
        max_message_size=max_message_size,
        presence=presence,
    )
    app = _App()
    # Whatever the path: falcon's own 404 would tell whoever asks.
    app.add_sink(gateway.serve, "")
    app.add_error_handler(Exception, gateway.on_exception)
    app.add_error_handler(falcon.HTTPError, gateway.on_exception)
    # An answer without a body has no type, and a message without one keeps none.
    app.resp_options.default_media_type = None  # type: ignore[assignment]
    return app


#: Where the headers of an answer lie in the WSGI environment until it starts.
_HEADERS_KEY = "azsession.answer_headers"


class _App(falcon.App):  # type: ignore[type-arg]
    """A falcon application whose answers keep the case of header names: they are attributes' names."""

    def __call__(self, env: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*headers, *env.get(_HEADERS_KEY, ())], *rest)

        return super().__call__(env, start)


class Gateway:
    """What answers requests: over HTTP by way of `create_app`, in the same process by way of `answer`.

    Args:
        broker: Where the messages are.
        guard: Who may do what; `None` lets everybody in.
        max_body_size: Bytes of a request's body; a larger one is answered 413.
        max_message_size: Bytes of one message's body; a larger one is answered 413.
        presence: Watches the clients of those who wait, and bounds how many may.
    """

    def __init__(
        self,
        broker: Broker,
        guard: Guard | None = None,
        *,
        max_body_size: int = MAX_BODY_SIZE,
        max_message_size: int = MAX_MESSAGE_SIZE,
        presence: Presence | None = None,
    ) -> None:
        self._handlers = Handlers(broker, max_message_size)
        self._guard = guard
        self._max_body_size = max_body_size
        self._presence = presence or Presence(MAX_WAITING)

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes, context: CallContext) -> Answer:
        """Answer a request of this process, in the caller's thread. Nothing is raised: failures are answers, too.

        What is answered is not encoded: messages stay what they are.

        Args:
            method: The HTTP method.
            target: The path below the base of the routes, encoded, and the query.
            headers: The headers, under the names that WSGI gives them.
            body: The body.
            context: The caller and its deadline.
        """
        path, _, query = target.partition("?")
        try:
            if len(body) > self._max_body_size:
                raise self._too_large(len(body))
            route = parse_route(method, path, encoded=True)
            return self._handlers.answer(Request(route, _parse_query(query), headers, body, context))
        except Exception as error:
            return _answer_to(error, method)

    def serve(self, req: falcon.Request, resp: falcon.Response, **_: Any) -> None:
        """Answer one request over HTTP."""
        try:
            route = _route_of(req)
        except (NoRouteError, ValidationError):
            # What a path means, or does not, is told to those only who may ask for something.
            self._authorize(req, None)
            raise
        if route.operation not in OPEN:
            self._authorize(req, route)
        request = Request(
            route=route,
            query=_parse_query(req.query_string),
            headers=req.env,
            body=self._body_of(req),
            context=CallContext(self._presence.caller(req.env.get(SOCKET_KEY))),
        )
        _fill(req, resp, self._handlers.answer(request))

    def _authorize(self, req: falcon.Request, route: Route | None) -> None:
        if self._guard is not None:
            host = req.env.get("HTTP_HOST") or req.env.get("SERVER_NAME", "")
            resource, operation = (None, None) if route is None else (route.resource, route.operation)
            self._guard.check(req.get_header("Authorization"), host, resource, operation)

    def _body_of(self, req: falcon.Request) -> bytes:
        chunked = "HTTP_TRANSFER_ENCODING" in req.env
        if chunked and req.env.get("CONTENT_LENGTH"):
            raise ValidationError("a request has a Content-Length or a Transfer-Encoding, not both (RFC 9112, 6.1)")
        length = req.content_length
        if (length or 0) > self._max_body_size:
            raise self._too_large(length)
        body = b""
        try:
            if chunked or length:
                stream = req.env["wsgi.input"] if chunked else req.bounded_stream
                body = stream.read(self._max_body_size + 1)
        except Exception as error:
            # cheroot says only in words what was wrong with a chunk.
            if "Too Large" in str(error):
                raise self._too_large(None) from None
            if isinstance(error, ValueError):
                raise ValidationError("the chunks of the body are malformed") from None
            raise
        if len(body) > self._max_body_size:
            raise self._too_large(None)
        if length is not None and len(body) < length:
            raise ValidationError("the body is shorter than its Content-Length")
        done = req.env.get(BODY_READ_KEY)
        if done is not None:
            done()
        return body

    def _too_large(self, size: int | None) -> MessageTooLargeError:
        limit = self._max_body_size
        return MessageTooLargeError(f"a request's body has at most {limit} bytes", size=size, limit=limit)

    def on_exception(self, req: falcon.Request, resp: falcon.Response, error: Exception, _: Any) -> None:
        """Turn what went wrong into an answer."""
        _fill(req, resp, _answer_to(error, req.method))


def _answer_to(error: Exception, method: str) -> Answer:
    """Return the answer that tells of a failure."""
    headers: dict[str, str] = {}
    if isinstance(error, MalformedError):
        error = ValidationError(str(error))
    if isinstance(error, QueueError):
        status, body = answer_to(error)
        code = code_of(error)
        if error.retry_after is not None and status in (429, 503):
            headers["Retry-After"] = str(math.ceil(error.retry_after))
        if isinstance(error, SessionLockedError) and error.retry_after is not None:
            headers[LOCK_EXPIRES_HEADER] = f"{error.retry_after:.3f}"
        if status == 401:
            headers["WWW-Authenticate"] = "SharedAccessSignature"
        if status == 413:
            # The rest of the body is not read, so nothing else can follow on this connection.
            headers["Connection"] = "close"
    elif isinstance(error, NoRouteError):
        status, code = (405, NOT_SUPPORTED) if error.allowed else (404, INVALID_REQUEST)
        body = {"error": {"code": code, "message": str(error)}}
        if error.allowed:
            headers["Allow"] = ", ".join(sorted(set(error.allowed)))
    elif isinstance(error, falcon.HTTPError):
        status = error.status_code
        code = INVALID_REQUEST
        body = {"error": {"code": code, "message": error.title or "the request is malformed"}}
    else:
        logger.error("the gateway failed at %s", method, exc_info=error)
        status, code = 500, INTERNAL_ERROR
        body = {"error": {"code": code, "message": "the gateway failed; its log says why"}}
    answer = Answer.json(status, body)
    return attrs.evolve(answer, headers={**answer.headers, **headers, ERROR_CODE_HEADER: code})


def _route_of(req: falcon.Request) -> Route:
    raw = req.env.get("REQUEST_URI") or req.env.get("RAW_URI")
    if not raw:
        # PATH_INFO is decoded, as bytes in disguise (PEP 3333).
        try:
            path = req.env.get("PATH_INFO", "").encode("latin-1").decode()
        except UnicodeError:
            raise ValidationError("the path is not UTF-8") from None
        return parse_route(req.method, path or "/", encoded=False)
    path = raw.partition("?")[0].partition("#")[0]
    if not path.startswith("/") and "://" in path:
        path = "/" + path.split("://", 1)[1].partition("/")[2]
    return parse_route(req.method, path, encoded=True)


def _parse_query(text: str) -> Mapping[str, str]:
    # What is kept is short: only few queries are asked again and again.
    return _parse_known_query(text) if len(text) <= _SHORT_QUERY else _parse_any_query(text)


def _parse_any_query(text: str) -> Mapping[str, str]:
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError:
        raise ValidationError("the query is malformed") from None
    query = dict(pairs)
    if len(query) != len(pairs):
        raise ValidationError("a parameter of the query stands there twice")
    return query


_SHORT_QUERY = 64
_parse_known_query = lru_cache(256)(_parse_any_query)


def _fill(req: falcon.Request, resp: falcon.Response, answer: Answer) -> None:
    answer = answer.encoded()
    resp.status = answer.status
    req.env[_HEADERS_KEY] = [*answer.headers.items(), (PROTOCOL_HEADER, PROTOCOL_VERSION)]
    if answer.body is not None:
        resp.data = answer.body
