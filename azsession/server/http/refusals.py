"""Answers to requests that the ASGI application does not see. The connection ends with each of them."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from ...protocol import (
    ERROR_CODE_HEADER,
    EXTENSIONS_HEADER,
    JSON_TYPE,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    SERVER_EXTENSIONS,
)
from ...protocol.error_codes import INVALID_REQUEST, MESSAGE_TOO_LARGE, SERVER_BUSY
from .limits import MAX_HEAD_SIZE


def _refusal(status: HTTPStatus, code: str, message: str, **headers: str) -> bytes:
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    fields = {"Content-Type": JSON_TYPE, "Content-Length": str(len(body)), "Connection": "close", "Cache-Control": "no-store"}
    fields |= {PROTOCOL_HEADER: PROTOCOL_VERSION, EXTENSIONS_HEADER: SERVER_EXTENSIONS, ERROR_CODE_HEADER: code}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{head}\r\n".encode("latin-1") + body


@lru_cache(1)
def http_date(now: int) -> bytes:
    """Return a time, in seconds since the Unix epoch, as the date of an answer (RFC 9110, section 6.6.1)."""
    return formatdate(now, usegmt=True).encode()


def dated(answer: bytes) -> bytes:
    """Return an answer with the current date."""
    status, _, rest = answer.partition(b"\r\n")
    return b"%s\r\nDate: %s\r\n%s" % (status, http_date(int(time.time())), rest)


BUSY = _refusal(HTTPStatus.SERVICE_UNAVAILABLE, SERVER_BUSY, "the gateway has too many connections", Retry_After="1")
LATE = _refusal(HTTPStatus.REQUEST_TIMEOUT, INVALID_REQUEST, "the head of the request took too long to arrive")
MALFORMED = _refusal(HTTPStatus.BAD_REQUEST, INVALID_REQUEST, "the request is not valid HTTP/1.1")
LARGE = _refusal(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    MESSAGE_TOO_LARGE,
    f"the head of the request has more than {MAX_HEAD_SIZE} bytes",
)
