"""How exceptions of signal handlers are told from other exceptions."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from azsession import interrupts
from azsession.futures import Future


class InterruptError(Exception):
    pass


def caught(work: Callable[[], object]) -> BaseException:
    with pytest.raises(InterruptError) as info:
        work()
    return info.value


def raise_in(handler: Any) -> BaseException:
    """Return what a signal handler raises."""

    def work() -> None:
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        return caught(work)
    finally:
        signal.signal(signal.SIGUSR1, before)


def plain(signum: int, frame: object) -> None:
    raise InterruptError("raised")


def with_any_arguments(*arguments: object) -> None:
    plain(1, None)


def deep(signum: int, frame: object = None) -> None:
    plain(signum, None)


class Handler:
    def __call__(self, signum: int, frame: object) -> None:
        raise InterruptError("raised")

    def method(self, signum: int, frame: object) -> None:
        raise InterruptError("raised")


def given(name: str, signum: int, frame: object) -> None:
    raise InterruptError(name)


@pytest.mark.parametrize(
    "handler",
    [plain, with_any_arguments, deep, Handler(), Handler().method, functools.partial(given, "x"), lambda *args: plain(*args)],
)
def test_an_exception_of_any_kind_of_handler_passes(handler: Any) -> None:
    error = raise_in(handler)
    assert interrupts.raised_by_handler(error)
    with pytest.raises(InterruptError) as passed:
        interrupts.let_pass(error)
    assert passed.value is error


def test_an_exception_of_other_code_does_not_pass() -> None:
    for work in (lambda: plain(1, None), lambda: given("x", 1, sys._getframe(2))):
        error = caught(work)
        assert not interrupts.raised_by_handler(error)
        interrupts.let_pass(error)


def test_the_exception_is_found_behind_the_error_of_a_library() -> None:
    inner = raise_in(plain)

    class LibraryError(Exception):
        reason: BaseException | None = None

    by_reason = LibraryError("failed")
    by_reason.reason = inner
    by_cause = LibraryError("failed")
    by_cause.__cause__ = LibraryError("inside", inner)
    # urllib3 raises its own error with the traceback of the error behind it.
    by_cause.with_traceback(inner.__traceback__)
    for error in (by_reason, by_cause, LibraryError("failed", inner)):
        with pytest.raises(InterruptError) as passed:
            interrupts.let_pass(error)
        assert passed.value is inner


def test_an_exception_that_was_handled_before_the_work_began_does_not_pass() -> None:
    old = raise_in(plain)
    try:
        raise old
    except InterruptError:
        older = interrupts.handled()
        try:
            raise OSError("a network error")
        except OSError as error:
            interrupts.let_pass(error, older)
            with pytest.raises(InterruptError):
                interrupts.let_pass(error)


@pytest.mark.parametrize("inside", [True, False])
def test_a_handler_learns_whether_it_has_interrupted_the_package(inside: bool) -> None:
    found: list[bool] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: found.append(interrupts.has_interrupted_us()))

    def raise_signal(*_: object) -> str:
        signal.raise_signal(signal.SIGUSR1)
        return ""

    try:
        if inside:
            future: Future[str] = Future()
            future.set_result("")
            future.add_done_callback(raise_signal)
        else:
            raise_signal()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert found == [inside]
    assert interrupts.has_interrupted_us() is False


def test_work_is_continued_after_each_exception_and_the_last_one_is_raised() -> None:
    left = [InterruptError("first"), InterruptError("last")]
    done: list[str] = []

    def work() -> None:
        if left:
            raise left.pop(0)
        done.append("done")

    with pytest.raises(InterruptError, match="last"):
        interrupts.persist(work)
    assert done == ["done"]


def test_work_that_always_fails_is_given_up() -> None:
    tries: list[int] = []

    def work() -> None:
        tries.append(len(tries))
        raise InterruptError

    with pytest.raises(InterruptError):
        interrupts.persist(work)
    assert len(tries) == interrupts.MAX_INTERRUPTS
