"""The durations of a handler."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from azsession.processor import handler_times
from azsession.processor.handler_times import BOUNDS, HandlerTimes

NOTHING: Any = None


class Clock:
    """A clock of which each call takes a given time."""

    def __init__(self, *durations: float) -> None:
        self._times = [time for duration in durations for time in (0.0, duration)]

    def monotonic(self) -> float:
        return self._times.pop(0)


def test_each_call_is_counted_up_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    times = HandlerTimes()
    handler = times.measured(lambda message, session: "result")
    monkeypatch.setattr(handler_times, "time", Clock(0.001, BOUNDS[0], 0.2, BOUNDS[-1] + 1))
    assert [handler(NOTHING, NOTHING) for _ in range(4)] == ["result"] * 4
    found = times.read()
    assert {at: count for at, count in enumerate(found.counts) if count} == {0: 2, 5: 1, len(BOUNDS): 1}
    assert found.total == pytest.approx(0.001 + BOUNDS[0] + 0.2 + BOUNDS[-1] + 1)


def test_a_call_that_fails_is_counted() -> None:
    times = HandlerTimes()

    def fail(message: object, session: object) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        times.measured(fail)(NOTHING, NOTHING)
    assert sum(times.read().counts) == 1


def test_threads_lose_no_call() -> None:
    times = HandlerTimes()
    handler = times.measured(lambda message, session: None)

    def work() -> None:
        for _ in range(2000):
            handler(NOTHING, NOTHING)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(times.read().counts) == 8000


def test_a_forked_child_counts_by_itself() -> None:
    times = HandlerTimes()
    handler = times.measured(lambda message, session: None)
    handler(NOTHING, NOTHING)
    with times._lock:  # As if another thread had it at the fork.
        child = os.fork()
        if child == 0:
            handler(NOTHING, NOTHING)
            os._exit(sum(times.read().counts))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
