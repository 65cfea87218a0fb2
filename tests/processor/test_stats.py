"""The counters of a processor."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from azsession.processor import stats
from azsession.processor.stats import StatsCounters


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, as the one item of a list."""
    now = [1000.0]
    monkeypatch.setattr(stats, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_each_counter_is_in_the_snapshot(clock: list[float]) -> None:
    counters = StatsCounters()
    counters.add("sessions_open")
    counters.add("sessions_done", 2)
    counters.add("messages_done", 3)
    counters.add("messages_failed", 4)
    counters.add("messages_dead_lettered", 5)
    counters.add("sessions_open", -1)
    found = counters.read(parked=6)
    assert (found.sessions_open, found.sessions_done, found.sessions_parked) == (0, 2, 6)
    assert (found.messages_done, found.messages_failed, found.messages_dead_lettered) == (3, 4, 5)


def test_messages_per_second_counts_settled_messages_of_the_last_ten_seconds(clock: list[float]) -> None:
    counters = StatsCounters()
    counters.add("messages_done", 10)
    counters.add("messages_failed", 99)
    assert counters.read(0).messages_per_second == 10.0
    clock[0] += 5
    counters.add("messages_dead_lettered", 20)
    assert counters.read(0).messages_per_second == 6.0
    clock[0] += 7
    assert counters.read(0).messages_per_second == pytest.approx(20 / 9, abs=0.05)
    clock[0] += 10
    assert counters.read(0).messages_per_second == 0.0


def test_the_wait_of_a_thread_counts_also_before_it_ends(clock: list[float]) -> None:
    counters = StatsCounters()
    counters.begin_wait()
    clock[0] += 2
    assert counters.read(0).seconds_waited == 2.0
    counters.end_wait()
    clock[0] += 5
    assert counters.read(0).seconds_waited == 2.0
    counters.end_wait()
    assert counters.read(0).seconds_waited == 2.0
