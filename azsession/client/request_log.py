"""The log records about requests: each attempt (DEBUG), each repetition and the first success after it (INFO).

`Transport` and `retry` call it. The path of a request can contain a lock token, so a record shows the operation instead.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from ..errors import QueueError, ValidationError
from ..logs import About, SessionLogger, get_logger
from ..protocol.route_fields import about_route
from ..protocol.routes import NoRouteError, parse_route
from .call import Call, ServerResponse

logger: SessionLogger = get_logger(__name__)


def is_on() -> bool:
    """Return whether responses are logged."""
    return logger.isEnabledFor(logging.DEBUG)


def response(call: Call[Any], answer: ServerResponse) -> None:
    """Log the response to an attempt."""
    name, about = _described(call)
    milliseconds = (time.monotonic() - answer.sent_at) * 1000.0
    logger.debug("%s: status %d after %.1f ms", name, answer.status, milliseconds, **about)


def repetition(call: Call[Any], error: QueueError, number: int, pause: float) -> None:
    """Log that an attempt failed, and that attempt `number` follows after `pause` seconds."""
    if logger.isEnabledFor(logging.INFO):
        name, about = _described(call)
        logger.info("%s failed, attempt %d follows in %.2f s: %s", name, number, pause, error, **about)


def success(call: Call[Any], attempts: int) -> None:
    """Log that a call succeeded after failed attempts: the server is reached again."""
    if logger.isEnabledFor(logging.INFO):
        name, about = _described(call)
        logger.info("%s succeeded at attempt %d: the server answers again", name, attempts, **about)


def _described(call: Call[Any]) -> tuple[str, About]:
    """Return the name of a call's operation, and the fields of a record about it."""
    try:
        route = parse_route(call.method, call.path, encoded=True)
    except (NoRouteError, ValidationError):
        return call.method, {"queue": call.entity or None}
    return route.operation.value, about_route(route)
