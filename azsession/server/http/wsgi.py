"""The gateway as a WSGI application (PEP 3333). `GatewayService` serves it, and applications can serve it themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from http.client import responses
from typing import TYPE_CHECKING

from ...broker.base import Broker, CallContext
from ...errors import ValidationError
from ...protocol import PROTOCOL_HEADER, PROTOCOL_VERSION
from ...protocol.routes import Route
from ..answer import Answer, error_answer
from ..authorization import AccessKey, Guard
from ..dispatch import MAX_BODY_SIZE, MAX_MESSAGE_SIZE, Gateway
from ..request import Headers, Request
from .presence import BODY_READ_KEY, SOCKET_KEY, Presence

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: Requests that may wait at once, by default.
MAX_WAITING = 1024


def create_app(
    broker: Broker,
    *,
    keys: Iterable[AccessKey] | None,
    hosts: Iterable[str] = (),
    max_body_size: int = MAX_BODY_SIZE,
    max_message_size: int = MAX_MESSAGE_SIZE,
    presence: Presence | None = None,
) -> WSGIApplication:
    """Return a WSGI application that serves a broker.

    Serve the application from one process with many threads: each waiting receive has a thread, and the embedded broker
    belongs to one process.

    Example::

        broker = EmbeddedBroker("messages.db", queues=["orders"])
        application = create_app(broker, keys=[AccessKey.parse("app:SECRET:Send,Listen")])

    Args:
        broker: The broker. The caller closes it.
        keys: The keys whose tokens the application accepts. `None` accepts every request without a token.
        hosts: Host names that tokens may be for, besides the host name in the request.
        max_body_size: Bytes of a request's body at most; a larger one gets status 413.
        max_message_size: Bytes of a message's body, or of a session state, at most; a larger one gets status 413.
        presence: Limits how many requests wait, and watches their clients; the caller stops it. By default 1,024 requests
            may wait.

    Returns:
        The application. It never raises for a request.
    """
    gateway = Gateway(
        broker,
        None if keys is None else Guard(keys, hosts),
        max_body_size=max_body_size,
        max_message_size=max_message_size,
    )
    watched = presence or Presence(MAX_WAITING)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        try:
            headers = _headers_of(environ)
            route, query = _admit(gateway, method, headers, environ)
            body = _read_body(gateway, environ)
            context = CallContext(watched.caller(environ.get(SOCKET_KEY)))
            answer = gateway.answer(Request(route, query, headers, body, context)).encoded()
        except Exception as error:
            answer = error_answer(error, method)
        return _respond(answer, method, start_response)

    return application


def _headers_of(environ: WSGIEnvironment) -> Headers:
    fields = [(name, environ[key]) for key in environ if (name := _header_name(key)) is not None]
    if not environ.get("HTTP_HOST"):
        fields.append(("Host", environ.get("SERVER_NAME", "")))
    return Headers(fields)


@lru_cache(1024)
def _header_name(key: str) -> str | None:
    """Return the header that an environment key holds. WSGI loses the case of the name, and turns ``-`` into ``_``."""
    if key == "CONTENT_TYPE":
        return "Content-Type"
    if not key.startswith("HTTP_") or key == "HTTP_CONTENT_TYPE":
        return None
    return key[5:].replace("_", "-").title()


def _admit(gateway: Gateway, method: str, headers: Headers, environ: WSGIEnvironment) -> tuple[Route, Mapping[str, str]]:
    query = environ.get("QUERY_STRING", "")
    raw = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    if not raw:
        # The server gives only the decoded path: UTF-8 bytes, as latin-1 text (PEP 3333). Other bytes become lone surrogates,
        # which no name or id may have.
        text = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "surrogateescape")
        return gateway.admit(method, text or "/", query, headers, encoded=False)
    path = raw.partition("?")[0].partition("#")[0]
    if not path.startswith("/") and "://" in path:
        path = "/" + path.split("://", 1)[1].partition("/")[2]
    return gateway.admit(method, path, query, headers)


def _read_body(gateway: Gateway, environ: WSGIEnvironment) -> bytes:
    """Read the body, which must be complete and within the limit."""
    limit = gateway.max_body_size
    is_chunked = "HTTP_TRANSFER_ENCODING" in environ
    length = _content_length(environ)
    if is_chunked and length is not None:
        raise ValidationError("a request must not have both Content-Length and Transfer-Encoding (RFC 9112, 6.1)")
    if length is not None and length > limit:
        raise gateway.body_too_large(length)
    body = b""
    try:
        if is_chunked:
            body = environ["wsgi.input"].read(limit + 1)
        elif length:
            body = environ["wsgi.input"].read(length)
    except Exception as error:
        # cheroot reports a bad chunk with a ValueError of its own text.
        if "Too Large" in str(error):
            raise gateway.body_too_large(None) from None
        if isinstance(error, ValueError):
            raise ValidationError("the chunks of the body are malformed") from None
        raise
    if len(body) > limit:
        raise gateway.body_too_large(None)
    if length is not None and len(body) < length:
        raise ValidationError(f"the body has {len(body)} bytes, but Content-Length is {length}")
    done = environ.get(BODY_READ_KEY)
    if done is not None:
        done()
    return body


def _content_length(environ: WSGIEnvironment) -> int | None:
    # Some servers give an empty value for a request without the header.
    text = environ.get("CONTENT_LENGTH")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValidationError("Content-Length must be a whole number")
    return int(text)


def _respond(answer: Answer, method: str, start_response: StartResponse) -> Iterable[bytes]:
    body = answer.body or b""
    headers = [*answer.headers.items(), (PROTOCOL_HEADER, PROTOCOL_VERSION)]
    if answer.status != 204:
        headers.append(("Content-Length", str(len(body))))
    if answer.status == 413:
        # The rest of the body is not read, so no other request can follow on this connection.
        headers.append(("Connection", "close"))
    start_response(f"{answer.status} {responses[answer.status]}", headers)
    return [body] if body and method != "HEAD" and answer.status != 204 else []
