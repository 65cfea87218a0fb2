"""The access log: one DEBUG record for each request. ``azsession serve --access-log`` turns on this logger alone.

A record has the attributes `method`, `route`, `status`, `ms`, `key` and `client` besides those of every record. It has
neither the token nor the lock token of a request: the route has placeholders.
"""

from __future__ import annotations

import logging
import time

from ...logs import About, SessionLogger, get_logger
from ...protocol.route_fields import about_route
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
    host, port = (scope.get("client") or (None, None))[:2]
    client = None if host is None else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    fields = {
        "method": scope["method"],
        "route": page if route is None else template(route),
        "status": CLIENT_GONE if status is None else status,
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
