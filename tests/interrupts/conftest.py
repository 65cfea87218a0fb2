"""The arrangements in which calls are interrupted, and a context manager that raises an exception from a signal handler."""

from __future__ import annotations

import signal
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ..api.conftest import Arrangement, AzureInProcess, EmbeddedInProcess, EmbeddedOverHTTP
from ..api.conftest import provider as provider
from ..api.conftest import queue as queue


@pytest.fixture(params=[EmbeddedInProcess, EmbeddedOverHTTP, AzureInProcess], ids=lambda kind: kind.name)
def arrangement(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Arrangement]:
    """An empty broker for this test."""
    with request.param(tmp_path, request) as arrangement:
        yield arrangement


@contextmanager
def alarm(seconds: float, handle: Callable[..., object]) -> Iterator[None]:
    """Call `handle` from the handler of a signal after so many seconds."""
    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class InterruptError(Exception):
    """Raised in the middle of a call."""


def is_in_finalizer(frame: FrameType | None) -> bool:
    """Return whether a ``__del__`` or a `weakref.finalize` has called a function."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename == weakref.__file__:
            return True
        frame = frame.f_back
    return False


@contextmanager
def interrupted_in(name: str) -> Iterator[list[str]]:
    """Raise an exception when this thread enters a function of the package of that name, once. Yield whether it did."""
    entered: list[str] = []

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        is_it = event == "call" and frame.f_code.co_name == name and "azsession" in frame.f_code.co_filename
        # The garbage collector can end another provider meanwhile. Python ignores an exception there.
        if is_it and not entered and not is_in_finalizer(frame):
            entered.append(name)
            raise InterruptError(name)
        return None

    sys.settrace(trace)
    try:
        yield entered
    finally:
        sys.settrace(None)
