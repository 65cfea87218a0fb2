"""The thread of the embedded broker."""

from __future__ import annotations

import threading

from azsession.broker.clock import Clock
from azsession.broker.embedded.broker_thread import BrokerThread
from tests.conftest import eventually


def test_a_very_late_time_does_not_end_the_thread() -> None:
    acted = threading.Event()
    thread = BrokerThread(lambda: None, acted.set, Clock())
    # For example, Azure's longest time to live.
    thread.act_at(922337203685.0)
    eventually(thread._signals.empty)
    thread.act_at(0.0)
    assert acted.wait(10)
    thread.stop()
