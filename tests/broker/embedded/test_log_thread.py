"""`LogThread`: records are made in order, without the caller, and a slow log handler does not fill the memory."""

from __future__ import annotations

import threading

import pytest

from azsession.broker.embedded import log_thread
from azsession.broker.embedded.log_thread import LogThread
from tests.conftest import eventually


@pytest.fixture
def log() -> LogThread:
    return LogThread()


def test_records_are_made_in_their_order_in_another_thread(log: LogThread) -> None:
    made: list[tuple[int, str]] = []
    for number in range(100):
        log.submit(lambda number=number: made.append((number, threading.current_thread().name)))  # type: ignore[misc]
    log.close()
    assert made == [(number, "azsession-broker-log") for number in range(100)]


def test_the_thread_ends_when_it_is_idle_and_starts_again(log: LogThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_thread, "IDLE_SECONDS", 0.01)
    made: list[threading.Thread] = []
    log.submit(lambda: made.append(threading.current_thread()))
    eventually(lambda: made and not made[0].is_alive())
    log.submit(lambda: made.append(threading.current_thread()))
    log.close()
    assert len(set(made)) == 2


def test_records_beyond_the_limit_are_left_out_and_counted(
    log: LogThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_thread, "MAX_WAITING", 3)
    has_begun, may_end = threading.Event(), threading.Event()
    made: list[int] = []

    def slow() -> None:
        has_begun.set()
        may_end.wait(60)

    log.submit(slow)
    assert has_begun.wait(60)
    for number in range(10):
        log.submit(lambda number=number: made.append(number))  # type: ignore[misc]
    may_end.set()
    log.close()
    assert made == [0, 1, 2]
    (record,) = caplog.records
    assert record.getMessage() == "7 log records of the broker were left out, because a log handler is too slow"


def test_closing_waits_a_limited_time_for_a_handler_that_blocks(log: LogThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_thread, "CLOSING_SECONDS", 0.01)
    may_end = threading.Event()
    log.submit(lambda: may_end.wait(60))
    log.close()
    may_end.set()
    log.close()


def test_a_record_that_closes_the_broker_does_not_wait_for_itself(log: LogThread) -> None:
    has_closed = threading.Event()

    def close() -> None:
        log.close()
        has_closed.set()

    log.submit(close)
    assert has_closed.wait(60)
    log.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kind", [SystemExit, BaseException, ValueError])
def test_an_error_of_any_kind_does_not_end_the_thread(log: LogThread, kind: type[BaseException]) -> None:
    made: list[int] = []

    def fail() -> None:
        made.append(1)
        raise kind("of the handler")

    log.submit(fail)
    log.submit(lambda: made.append(2))
    eventually(lambda: made == [1, 2])
    log.close()
