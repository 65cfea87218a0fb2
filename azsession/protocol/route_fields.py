"""The fields of log records about a route. The client's log of requests and the gateway's access log use it."""

from __future__ import annotations

from ..logs import About
from .routes import Route


def about_route(route: Route) -> About:
    """Return the fields of a record about a request with this route."""
    return {
        "queue": route.entity or None,
        "session_id": route.session_id if route.is_on_session else None,
        "sequence_number": route.sequence_number or None,
    }
