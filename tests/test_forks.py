"""Objects and imports at a fork."""

from __future__ import annotations

import os
import threading

import pytest

from azsession import forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_waits_for_an_import_at_first_use() -> None:
    importing, finish = threading.Event(), threading.Event()

    def import_slowly() -> None:
        with forks.import_lock:
            importing.set()
            finish.wait(20)

    thread = threading.Thread(target=import_slowly)
    thread.start()
    assert importing.wait(20)
    timer = threading.Timer(0.2, finish.set)
    timer.start()
    child = os.fork()
    if child == 0:
        # No other thread holds the lock here, and this one can take it.
        os._exit(0 if finish.is_set() and forks.import_lock.acquire(timeout=30) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join(20)
    timer.join(20)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_registered_object_is_reset_in_the_child_only() -> None:
    class Counted:
        forked = 0

        def after_fork(self) -> None:
            self.forked += 1

    counted, gone = Counted(), Counted()
    forks.register(counted)
    forks.register(gone)
    del gone
    child = os.fork()
    if child == 0:
        os._exit(counted.forked)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert counted.forked == 0
