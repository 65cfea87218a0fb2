"""Database connections around the calls of a handler."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

P = ParamSpec("P")
T = TypeVar("T")


def closing_connections(function: Callable[P, T]) -> Callable[P, T]:
    """Return `function` with Django's care for database connections around each call, as around a request.

    Before and after each call, connections that are broken or older than ``CONN_MAX_AGE`` are closed. Before each call, the
    queries that ``DEBUG`` collects are discarded. A connection inside ``atomic()`` is left alone, for example in a `TestCase`
    that calls the handler. Use it for handlers and hooks of a `SessionProcessor`. ``azsession_consume`` does so itself.

    Args:
        function: A handler or a hook.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for connection in _outside_of_transactions():
            # Django's tests count the queries since the beginning of a block.
            if not connection.force_debug_cursor:
                connection.queries_log.clear()
        _close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            _close_old_connections()

    return call


def _close_old_connections() -> None:
    for connection in _outside_of_transactions():
        connection.close_if_unusable_or_obsolete()


def _outside_of_transactions() -> list[BaseDatabaseWrapper]:
    """Return this thread's connections that are not inside ``atomic()``.

    Inside, autocommit is off, and `close_old_connections` would close the connection: the transaction would be lost.
    """
    return [connection for connection in connections.all(initialized_only=True) if not connection.in_atomic_block]
