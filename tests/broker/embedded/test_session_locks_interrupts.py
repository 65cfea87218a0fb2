"""The session locks alone: a signal handler raises an exception while they change, and while the change is undone."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest

from azsession.broker.embedded import session_locks
from azsession.broker.embedded.jobs import Transaction
from azsession.broker.embedded.session_locks import SessionLocks

KEY = (1, "s")


class _InterruptError(Exception):
    pass


def _is_interrupted(call: Callable[[], object], line: int) -> bool:
    """Raise an exception before the line of `session_locks` with that number, counted as they run. Return whether it ran."""
    lines = itertools.count(1)

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != session_locks.__file__:
            return None
        if event == "line" and next(lines) == line:
            raise _InterruptError
        return trace

    sys.settrace(trace)
    try:
        call()
    except _InterruptError:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.parametrize("operation", ["take", "end", "undo_take"])
def test_an_interrupted_change_of_the_locks_is_undone_also_if_that_is_interrupted(operation: str) -> None:
    for line, undo_line in itertools.product(range(1, 30), range(1, 30)):
        locks, tx = SessionLocks(), Transaction()
        lock = None if operation == "take" else locks.take(Transaction(), KEY, "A", 30.0)
        arguments = (tx, KEY, "A", 30.0) if lock is None else (tx, lock)
        _is_interrupted(partial(getattr(locks, operation), *arguments), line)
        _is_interrupted(tx.roll_back, undo_line)
        tx.roll_back()
        where = f"after interrupts at {line} and {undo_line}"
        assert locks.get(KEY) is lock, where
        assert locks.names(KEY[0]) == (set() if lock is None else {KEY[1]}), where
