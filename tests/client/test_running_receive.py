"""Which receive of a loop comes next, as `SessionLock.fetch_after` tells it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from azsession.client.running_receive import Receive
from azsession.client.session_lock import SessionLock

from .received import received


@pytest.fixture
def lock() -> SessionLock:
    lock = SessionLock("the session 's1' of 'orders'", 300)
    lock.refresh(0.0, 300)
    return lock


def yielded(lock: SessionLock) -> Receive:
    """Return the receive of a loop in this thread that has yielded the message 1."""
    receive = lock.begin_receive()
    lock.register([received(1)])
    receive.next_count, receive.yielded = 10, "t1"
    return receive


def test_a_loop_fetches_after_the_message_that_it_yielded(lock: SessionLock) -> None:
    receive = yielded(lock)
    assert lock.fetch_after("t1") == 10
    receive.yielded = None
    assert lock.fetch_after("t1") == 0


def test_a_loop_that_was_left_fetches_nothing(lock: SessionLock) -> None:
    receive = yielded(lock)
    receive.has_ended = True
    assert lock.fetch_after("t1") == 0
    del receive
    assert lock.fetch_after("t1") == 0


def test_a_message_that_no_loop_of_this_thread_yielded_has_no_fetch_after_it(lock: SessionLock) -> None:
    assert lock.fetch_after("t1") == 0
    receive = yielded(lock)
    assert lock.fetch_after("t2") == 0
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lock.fetch_after, "t1").result(20) == 0
    assert not receive.has_ended


def test_there_is_no_fetch_while_another_message_is_unsettled_or_ahead(lock: SessionLock) -> None:
    receive = yielded(lock)
    lock.register([received(2)])
    assert lock.fetch_after("t1") == 0
    lock.forget("t2")
    assert lock.fetch_after("t1") == 10
    lock.is_shared = True  # Another process that holds the lock can have messages.
    assert lock.fetch_after("t1") == 0
    assert receive.yielded == "t1"


def test_there_is_no_fetch_after_the_end_of_the_lock(lock: SessionLock) -> None:
    receive = yielded(lock)
    lock.close()
    assert lock.fetch_after("t1") == 0
    assert receive.yielded == "t1"
