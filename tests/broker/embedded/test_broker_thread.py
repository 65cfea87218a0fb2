"""The thread of the embedded broker."""

from __future__ import annotations

import threading

from azsession.broker.clock import Clock
from azsession.broker.embedded.broker_thread import BrokerThread
from tests.conftest import eventually

from .helpers import HandClock


def test_a_very_late_time_does_not_end_the_thread() -> None:
    acted = threading.Event()
    thread = BrokerThread(lambda: None, acted.set, Clock())
    # For example, Azure's longest time to live.
    thread.act_at(922337203685.0)
    eventually(thread._signals.empty)
    thread.act_at(0.0)
    assert acted.wait(10)
    thread.stop()


def test_a_request_wakes_the_thread_if_an_earlier_one_is_overdue() -> None:
    clock = HandClock()
    acted = threading.Event()
    thread = BrokerThread(lambda: None, acted.set, clock)
    thread.act_at(clock.monotonic() + 60)
    eventually(thread._signals.empty)
    clock.advance(61)  # The thread still waits for a minute of real time.
    thread.act_at(clock.monotonic() + 60)
    assert acted.wait(10)
    thread.stop()
