"""`Rows`: the results of a query, which are read one by one. `Store` and `QueueRows` make them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

R = TypeVar("R")


class Rows(Generic[R]):
    """The results of a query. Each step reads one. The caller closes it.

    This is not a generator with a ``with`` block. The garbage collector closes a generator that an interrupt left, and Python
    ignores an exception that a signal handler raises meanwhile.

    Args:
        cursor: The query.
        convert: Returns an iterator over the results, in C, for the rows of the cursor.
    """

    __slots__ = ("_cursor", "_results")

    def __init__(self, cursor: sqlite3.Cursor, convert: Callable[[Iterable[Any]], Iterator[R]]) -> None:
        self._cursor = cursor
        self._results = convert(cursor)

    def __iter__(self) -> Iterator[R]:
        return self._results

    def close(self) -> None:
        """End the query, so that it locks nothing."""
        self._cursor.close()
