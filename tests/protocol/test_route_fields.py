"""The fields of log records name the queue, the session and the message of a route, if it has them."""

from __future__ import annotations

import pytest

from azsession.protocol.route_fields import about_route
from azsession.protocol.routes import parse_route


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/healthz", (None, None, None)),
        ("POST", "/orders/messages", ("orders", None, None)),
        ("POST", "/orders/sessions/s%201/renewlock", ("orders", "s 1", None)),
        ("DELETE", "/orders/$deadletterqueue/messages/7", ("orders", None, 7)),
    ],
)
def test_the_fields_of_a_route(method: str, path: str, expected: tuple[str | None, str | None, int | None]) -> None:
    queue, session_id, number = expected
    about = about_route(parse_route(method, path, encoded=True))
    assert about == {"queue": queue, "session_id": session_id, "sequence_number": number}
