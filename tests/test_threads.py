"""Starting threads while signal handlers raise exceptions."""

from __future__ import annotations

import threading

import pytest

from azsession import threads

from .conftest import eventually
from .interrupts.conftest import alarm


def test_a_started_thread_has_started() -> None:
    thread = threading.Thread(target=lambda: None)
    threads.start(thread)
    assert thread.ident is not None
    thread.join(10)


def test_the_error_of_a_start_reaches_the_caller() -> None:
    thread = threading.Thread(target=lambda: None)
    threads.start(thread)
    with pytest.raises(RuntimeError, match="once"):
        threads.start(thread)
    thread.join(10)


def test_an_interrupted_start_raises_the_exception_and_the_thread_runs() -> None:
    class AlarmError(Exception):
        pass

    def handler(*_: object) -> None:
        raise AlarmError

    interrupted = 0
    for number in range(400):
        done = threading.Event()
        thread = threading.Thread(target=done.set)
        try:
            with alarm(0.00002 + number * 0.0000005, handler):
                threads.start(thread)
        except AlarmError:
            interrupted += 1
        else:
            assert done.wait(10)
        if thread.ident is not None:
            assert done.wait(10)
            thread.join(10)
    assert interrupted > 0
    eventually(lambda: threading.active_count() < 20)
