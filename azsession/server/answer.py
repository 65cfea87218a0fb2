"""An answer of the gateway, and the answer that reports an error. The handlers and the dispatcher make them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import attrs

from ..broker.calls import Backup
from ..errors import QueueError, SessionLockedError, UnsupportedOperationError, ValidationError
from ..logs import SessionLogger, get_logger
from ..messages import PeekedMessage
from ..protocol import COUNT_HEADER, ENVELOPE_TYPE, ERROR_CODE_HEADER, JSON_TYPE, LOCK_EXPIRES_HEADER
from ..protocol.combined import combined_pieces
from ..protocol.error_codes import INTERNAL_ERROR, INVALID_REQUEST, NOT_SUPPORTED, answer_to, code_of
from ..protocol.routes import NoRouteError
from ..protocol.wire import MalformedError, encode_single, envelope_pieces, fits_headers

logger: SessionLogger = get_logger(__name__)

T = TypeVar("T")


@attrs.frozen
class Answer:
    """An answer to a request.

    Attributes:
        status: The HTTP status.
        headers: The headers that belong to the answer, without the ones of the transport such as ``Content-Length``.
        body: The body, or `None`.
        messages: The messages of the answer. `encoded` turns them into headers and a body; a client in the same process
            takes them as they are. If there is a body, too, it is a JSON object, and gets a member for the messages.
        single: Encode a single message as headers and a raw body, if it fits. `False` always encodes an envelope.
        download: A file that is the body. The transport reads it in pieces, and closes it.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes | None = None
    messages: Sequence[PeekedMessage] | None = None
    single: bool = False
    download: Backup | None = None

    @classmethod
    def json(
        cls,
        status: int,
        value: Any,
        headers: Mapping[str, str] | None = None,
        messages: Sequence[PeekedMessage] | None = None,
    ) -> Answer:
        """Return an answer with a JSON body. If it has messages, `value` is an object with at least one member."""
        body = json.dumps(value, separators=(",", ":")).encode()
        return cls(status, {"Content-Type": JSON_TYPE, **(headers or {})}, body, messages)

    def encoded(self) -> Answer:
        """Return the same answer with its messages encoded into headers and body, or with its file read into the body."""
        if self.download is not None:
            with self.download.file as file:
                return Answer(self.status, self.headers, file.read())
        if self.messages is None:
            return self
        headers, pieces = self.pieces()
        return Answer(self.status, headers, b"".join(pieces))

    def pieces(self) -> tuple[Mapping[str, str], Iterable[bytes]]:
        """Return the headers, and the body in pieces. Each piece takes little time to encode."""
        messages = self.messages
        if messages is None:
            return self.headers, [self.body] if self.body else []
        if self.body is not None:
            return self.headers, combined_pieces(self.body, messages)
        # A repeated request gets the same answer. If the first attempt asked for several messages, there can be more than
        # one here, although this attempt asked for one.
        if self.single and len(messages) == 1:
            own, body = encode_single(messages[0])
            if fits_headers(own):
                return {**own, **self.headers}, [body]
        described = {"Content-Type": ENVELOPE_TYPE, COUNT_HEADER: str(len(messages)), **self.headers}
        return described, envelope_pieces(messages)


@attrs.frozen
class PendingAnswer(Generic[T]):
    """An answer that waits for a result of the broker.

    Attributes:
        future: The result. Cancelling the future withdraws the operation, unless it has taken effect.
        make: Makes the answer from the result.
        give_back: Called with the result if the client did not get the answer. It returns the messages or the session to the
            broker. `None` if the answer has neither.
        patience: Seconds to wait for the result at most; `None` for any time.
    """

    future: Future[T]
    make: Callable[[T], Answer]
    give_back: Callable[[T], Future[None] | None] | None = None
    patience: float | None = None


def done(future: Future[None], status: int) -> PendingAnswer[None]:
    """Return an answer without contents, for when the broker has finished."""
    return PendingAnswer(future, lambda _: Answer(status))


def no_metrics() -> PendingAnswer[bytes]:
    """Refuse a request for metrics: the gateway has none.

    Raises:
        UnsupportedOperationError: Always.
    """
    raise UnsupportedOperationError("this gateway has no metrics: it was started without them", code=NOT_SUPPORTED)


def error_answer(error: Exception, method: str) -> Answer:
    """Return the answer that reports an error to the client.

    An exception that is not the protocol's becomes status 500. Its text goes to the log, not to the client.

    Args:
        error: The exception that ended the request.
        method: The HTTP method of the request, for the log.
    """
    headers: dict[str, str] = {}
    if isinstance(error, MalformedError):
        error = ValidationError(str(error))
    if isinstance(error, QueueError):
        code = code_of(error)
        status, body = answer_to(error)
        if error.retry_after is not None and status in (429, 503):
            headers["Retry-After"] = str(math.ceil(error.retry_after))
        if isinstance(error, SessionLockedError) and error.retry_after is not None:
            headers[LOCK_EXPIRES_HEADER] = f"{error.retry_after:.3f}"
        if status == 401:
            headers["WWW-Authenticate"] = "SharedAccessSignature"
        return Answer.json(status, body, {**headers, ERROR_CODE_HEADER: code})
    if isinstance(error, NoRouteError):
        status, code, text = (405, NOT_SUPPORTED, str(error)) if error.allowed else (404, INVALID_REQUEST, str(error))
        if error.allowed:
            headers["Allow"] = ", ".join(sorted(set(error.allowed)))
    else:
        logger.error("the gateway failed to answer a %s request", method, exc_info=error)
        status, code, text = 500, INTERNAL_ERROR, "the gateway failed; its log has the reason"
    return Answer.json(status, {"error": {"code": code, "message": text}}, {**headers, ERROR_CODE_HEADER: code})
