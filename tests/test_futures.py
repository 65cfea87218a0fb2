"""The condition and the future that an exception of a signal handler does not damage."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from azsession.futures import Condition, Future, wait_all

from .broker.embedded.helpers import Background
from .conftest import eventually
from .interrupts.conftest import InterruptError, alarm
from .interrupts.sweep import BytecodeInterrupter


@contextmanager
def interrupted_at(at: int) -> Iterator[list[int]]:
    """Raise an exception at the start or the end of a function of `threading` and of futures: number `at` of these."""
    count = [0]

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        name = frame.f_code.co_filename
        if name.endswith(("threading.py", "_base.py")) and event in ("call", "return"):
            count[0] += 1
            if count[0] == at:
                raise InterruptError(f"{frame.f_code.co_name} {event}")
        return trace

    sys.settrace(trace)
    try:
        yield count
    except InterruptError:
        pass
    finally:
        sys.settrace(None)


def is_free(condition: threading.Condition) -> bool:
    def take() -> bool:
        taken = condition.acquire(blocking=False)
        if taken:
            condition.release()
        return taken

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(take).result(30)


def test_an_interrupt_does_not_leave_a_condition_taken() -> None:
    condition = Condition()
    for at in range(1, 5):
        with interrupted_at(at), condition:
            condition.notify_all()
        assert is_free(condition), at


@pytest.mark.parametrize(
    "call",
    [
        lambda future: future.done(),
        lambda future: future.result(0),
        lambda future: future.wait(0),
        lambda future: future.cancel(),
        lambda future: future.add_done_callback(lambda _: None),
        lambda future: future.set_result(1),
    ],
    ids=["done", "result", "wait", "cancel", "add_done_callback", "set_result"],
)
@pytest.mark.parametrize("is_done", [True, False], ids=["done", "open"])
def test_an_interrupt_in_any_call_does_not_leave_a_future_taken(call: Callable[[Future[int]], object], is_done: bool) -> None:
    for at in range(1, 40):
        future: Future[int] = Future()
        if is_done:
            future.set_result(1)
        with interrupted_at(at):
            try:
                call(future)
            except Exception as error:
                if isinstance(error, InterruptError):
                    raise
        assert is_free(future._condition), at


def test_an_interrupt_ends_a_wait_for_a_result() -> None:
    class AlarmError(Exception):
        pass

    def handler(*_: object) -> None:
        raise AlarmError

    future: Future[int] = Future()
    began = time.monotonic()
    with pytest.raises(AlarmError), alarm(0.1, handler):
        future.result(20)
    assert time.monotonic() - began < 10
    assert is_free(future._condition)
    future.set_result(1)
    assert future.result() == 1


def test_an_exception_of_a_handler_in_a_callback_is_raised_and_the_callback_is_repeated() -> None:
    class AlarmError(Exception):
        pass

    def handler(*_: object) -> None:
        raise AlarmError

    calls: list[str] = []

    def first(_: Future[int]) -> None:
        calls.append("first")
        if len(calls) == 1:
            with alarm(0.1, handler):
                time.sleep(20)

    future: Future[int] = Future()
    future.add_done_callback(first)
    future.add_done_callback(lambda _: calls.append("second"))
    with pytest.raises(AlarmError):
        future.set_result(1)
    assert future.result() == 1
    future.finish()
    assert calls == ["first", "first", "second"]


def test_the_error_of_a_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    future: Future[int] = Future()
    future.add_done_callback(lambda _: 1 / 0)
    future.set_result(1)
    assert "ZeroDivisionError" in caplog.text


def test_a_wait_for_several_futures_ends_with_the_last_or_with_its_time() -> None:
    futures: list[Future[int]] = [Future(), Future()]
    futures[0].set_result(1)
    assert not wait_all(futures, 0.05)
    timer = threading.Timer(0.05, futures[1].set_result, [2])
    timer.start()
    assert wait_all(futures, 20)
    timer.join()


def test_a_result_that_does_not_come_in_time_is_a_timeout() -> None:
    # In Python 3.10 it is not the built-in one.
    with pytest.raises(concurrent.futures.TimeoutError):
        Future[int]().result(0.05)


def test_a_cancel_that_was_interrupted_anywhere_wakes_waiting_threads_when_it_is_repeated() -> None:
    def scenario(at: int) -> bool:
        future: Future[None] = Future()
        waiting = Background(lambda: future.wait(60))
        eventually(lambda: future._done_callbacks)
        interrupter = BytecodeInterrupter(at)
        interrupter.run(future.cancel)
        future.cancel()
        assert waiting.result(30), interrupter.where
        return interrupter.where is not None

    assert all(scenario(at) for at in range(1, 10))


def test_callbacks_that_two_threads_run_are_all_called() -> None:
    called: list[int] = []
    future: Future[None] = Future()

    def first(_: object) -> None:
        called.append(1)
        if len(called) == 1:
            future.finish()  # As another thread would.

    future.add_done_callback(first)
    future.add_done_callback(lambda _: called.append(2))
    future.set_result(None)
    assert called.count(2) >= 1
    assert future._done_callbacks == []
