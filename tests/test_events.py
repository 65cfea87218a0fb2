"""The event without a lock."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from azsession.events import Event

from .conftest import eventually
from .interrupts.conftest import alarm


def test_a_wait_ends_with_the_event_or_with_its_time() -> None:
    event = Event()
    began = time.monotonic()
    assert not event.wait(0.05)
    assert time.monotonic() - began >= 0.04
    assert not event.wait(-1)
    assert not event.is_set()
    event.set()
    assert event.is_set()
    assert event.wait()
    event.clear()
    assert not event.wait(0)


def test_all_threads_that_wait_are_woken() -> None:
    event = Event()
    with ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(event.wait, None if number % 2 else 60.0) for number in range(8)]
        eventually(lambda: len(event._waiting) == 8)
        event.set()
        event.set()
        assert all(wait.result(20) for wait in waits)
    assert event._waiting == []


def test_a_signal_handler_can_set_the_event_that_its_thread_waits_for() -> None:
    event = Event()
    with alarm(0.1, lambda *_: event.set()):
        assert event.wait(30)


def test_an_exception_of_a_signal_handler_ends_the_wait_and_leaves_nothing_behind() -> None:
    class InterruptError(Exception):
        pass

    def handler(*_: object) -> None:
        raise InterruptError

    event = Event()
    with pytest.raises(InterruptError), alarm(0.1, handler):
        event.wait(30)
    assert event._waiting == []
    thread = threading.Thread(target=event.set)
    thread.start()
    assert event.wait(20)
    thread.join()
