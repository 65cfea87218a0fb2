"""Database connections around the calls of a handler."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from django.db import close_old_connections, reset_queries

P = ParamSpec("P")
T = TypeVar("T")


def closing_connections(function: Callable[P, T]) -> Callable[P, T]:
    """Return `function` with Django's care for database connections around each call, as around a request.

    Before and after each call, connections that are broken or older than ``CONN_MAX_AGE`` are closed. Before each call, the
    queries that ``DEBUG`` collects are discarded. Use it for handlers and hooks of a `SessionProcessor`.
    ``azsession_consume`` does so itself.

    Args:
        function: A handler or a hook.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        reset_queries()
        close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            close_old_connections()

    return call
