"""The access log: one DEBUG record for each request, and for each operation over AMQP.

``azsession serve --access-log`` turns on this logger alone.

A record has the attributes `method`, `route`, `status`, `ms`, `key` and `client` besides those of every record. It has
neither the token nor the lock token of a request: the route has placeholders.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from ...logs import About, SessionLogger, get_logger
from ...protocol.route_fields import about_route
from ...protocol.routes import Route
from ..dispatch import Admission
from ..route_templates import template
from .asgi import Scope

logger: SessionLogger = get_logger(__name__)

#: The status of a request whose client went away before the answer. nginx logs it so.
CLIENT_GONE = 499


def is_on() -> bool:
    """Return whether requests are logged."""
    return logger.isEnabledFor(logging.DEBUG)


def request(scope: Scope, admitted: Admission | None, status: int | None, began: float, *, page: str | None = None) -> None:
    """Log a request.

    Args:
        scope: The scope of the request.
        admitted: The route and the key; `None` for a page, and if the request was refused before they were known.
        status: The status of the answer; `None` if the client went away before it.
        began: When the request began, on the monotonic clock.
        page: The path of a page of the Explorer, with placeholders; `None` for other requests.
    """
    route = None if admitted is None else admitted.route
    key = None if admitted is None or admitted.key is None else admitted.key.name
    _log(scope["method"], route, page, key, scope.get("client"), CLIENT_GONE if status is None else status, began)


def amqp_operation(route: Route | None, key: str | None, client: Sequence[Any] | None, status: int, began: float) -> None:
    """Log an operation over AMQP, with the method ``AMQP``, and the route of the same operation over HTTP.

    Args:
        route: The route; `None` if the operation was refused before it was known.
        key: The name of the client's key, if it is known.
        client: The client's host and port, if they are known.
        status: The status that an answer over HTTP would have.
        began: When the operation began, on the monotonic clock.
    """
    _log("AMQP", route, None, key, client, status, began)


def _log(
    method: str,
    route: Route | None,
    page: str | None,
    key: str | None,
    address: Sequence[Any] | None,
    status: int,
    began: float,
) -> None:
    host, port = (address or (None, None))[:2]
    client = None if host is None else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    fields: dict[str, Any] = {
        "method": method,
        "route": page if route is None else template(route),
        "status": status,
        "ms": round((time.monotonic() - began) * 1000.0, 1),
        "key": key,
        "client": client,
    }
    about: About = {} if route is None else about_route(route)
    session_id = about.get("session_id")
    text, more = ("", ()) if session_id is None else (" session %r", (session_id,))
    logger.debug(
        f"%s %s %s %s %d %.1f ms{text}",
        *(client or "-", key or "-", fields["method"], fields["route"] or "-", fields["status"], fields["ms"]),
        *more,
        **about,
        **fields,
    )
