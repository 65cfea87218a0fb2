"""Database connections around a handler's calls, as Django has them around a request."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from django.db import close_old_connections, reset_queries

F = TypeVar("F", bound=Callable[..., Any])


def closing_connections(function: F) -> F:
    """Return `function`, with database connections seen to before and after each call, as Django does for a request.

    Connections that broke, or are older than ``CONN_MAX_AGE``, are closed, and the queries that ``DEBUG`` collects are
    forgotten. For handlers and hooks of a `SessionProcessor`; `azsession_consume` does it by itself.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        reset_queries()
        close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            close_old_connections()

    return cast("F", call)
