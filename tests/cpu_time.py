"""Measures processor time, for tests that compare two amounts of work in one thread."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the seconds of processor time of `work`: the least of three runs, without garbage collections.

    A collection of all objects of a long test run takes longer than the work. Threads of earlier tests do not count.
    """
    gc.disable()
    try:
        return min(_once(work) for _ in range(3))
    finally:
        gc.enable()


def _once(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began
