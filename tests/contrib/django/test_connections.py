"""Database connections around the calls of a handler."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test import override_settings

from azsession.contrib.django import closing_connections


def test_a_wrapped_handler_begins_with_fresh_database_connections() -> None:
    seen: list[object] = []

    def handle(message: object, session: object) -> str:
        assert connection.queries_log.maxlen
        seen.append(len(connection.queries))
        connection.cursor().execute("SELECT 1")
        seen.append(len(connection.queries))
        return f"{message} {session}"

    with override_settings(DEBUG=True):
        wrapped = closing_connections(handle)
        for _ in range(2):
            assert wrapped("one", session="two") == "one two"
            # CONN_MAX_AGE is 0.
            assert connection.connection is None
    assert seen == [0, 1, 0, 1]
    assert wrapped.__name__ == "handle"


def test_a_failed_handler_leaves_no_database_connection_open() -> None:
    def handle() -> None:
        connection.cursor().execute("SELECT 1")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        closing_connections(handle)()
    assert connection.connection is None
