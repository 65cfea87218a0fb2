"""Exceptions of signal handlers. Code that turns errors into answers, other errors or retries must let them pass.

A signal handler can raise any exception, anywhere in the main thread: Celery's `SoftTimeLimitExceeded`, or a
`TimeoutError` of a handler for ``SIGALRM``. The type alone does not tell such an exception from an error of a socket.

Loops inside ``with`` and ``try``: if the exception comes where a condition ends a round of a loop, Python 3.13 skips the
``with``, ``except`` and ``finally`` around the loop (https://github.com/python/cpython/issues/130279). A lock would stay
taken. So code that runs in the caller's thread has such loops in functions of their own. They are ``while`` with a condition,
``for`` with an ``if`` at its end, and comprehensions with ``if``. ``tests/interrupts/test_loops.py`` looks for them.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_PACKAGE = os.path.join(os.path.dirname(__file__), "")
#: How often `persist` continues.
MAX_INTERRUPTS = 100


def handled() -> BaseException | None:
    """Return the exception that the caller's callers are handling. It is older than any that follows."""
    return sys.exc_info()[1]


def let_pass(error: BaseException, older: BaseException | None = None) -> None:
    """Return if no signal handler raised `error` or an exception behind it.

    Libraries wrap the exceptions that pass through them, so that a handler's `TimeoutError` can arrive as the cause of
    another error.

    Args:
        error: The exception that was caught.
        older: The result of `handled` before the work began. This exception and those behind it are not part of the work.

    Raises:
        BaseException: The exception of the signal handler.
    """
    seen = {id(older)}
    behind: list[object] = [error]
    found: BaseException | None = None
    while behind:
        known = behind.pop()
        if isinstance(known, BaseException) and id(known) not in seen:
            seen.add(id(known))
            if raised_by_handler(known):
                # urllib3 gives its own error the traceback of the exception behind it, so the search goes on.
                found = known
            behind += (known.__cause__, known.__context__, getattr(known, "reason", None), *known.args)
    if found is not None:
        context = found.__context__
        try:
            raise found
        finally:
            # A handler can raise the same exception again. Do not find the errors of this work behind it then.
            found.__context__ = context


def raised_by_handler(error: BaseException) -> bool:
    """Return whether a signal handler raised an exception. Python gives a handler the frame that the signal interrupted."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        if _was_given(step.tb_next.tb_frame, step.tb_frame):
            return True
        step = step.tb_next
    return False


def has_interrupted_us() -> bool:
    """Return whether a signal handler that interrupted this package in this thread called the caller.

    The interrupted code can hold locks that other threads need. So the handler must not wait for these threads without a
    limit.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return False  # Handlers run in the main thread only.
    frame: FrameType | None = sys._getframe()
    # Only these: up to Python 3.12, looking at the variables of a frame keeps them alive.
    candidates: list[FrameType] = []
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            candidates.append(frame)
        elif any(each.f_back is not None and _was_given(each, each.f_back) for each in candidates):
            return True
        else:
            candidates.clear()
        frame = frame.f_back
    return False


def _was_given(frame: FrameType, caller: FrameType) -> bool:
    """Return whether `caller` is one of the arguments of the call of `frame`."""
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount
    names, variables = code.co_varnames, frame.f_locals
    given: list[Any] = [variables.get(name) for name in names[:count]]
    if code.co_flags & inspect.CO_VARARGS:
        given += variables.get(names[count], ())
    return any(each is caller for each in given)


def persist(work: Callable[[], object]) -> None:
    """Do work to its end, although a signal handler raises exceptions. The last exception is raised afterwards.

    The work is called again after each exception, and continues, up to `MAX_INTERRUPTS` times.
    """
    interrupt: BaseException | None = None
    for _ in range(MAX_INTERRUPTS):
        try:
            work()
            break
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
