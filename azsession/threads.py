"""Starts threads so that an exception of a signal handler does no damage."""

from __future__ import annotations

import _thread
import threading

from .events import Event


def start(thread: threading.Thread) -> None:
    """Start a thread. Blocks until it has started. After an interrupt, it starts nevertheless.

    `threading.Thread.start` is not safe against exceptions of signal handlers: the new thread can hang at its start, and the
    exception can become a `KeyError`. Handlers run in the main thread only, so another thread makes the call.

    Raises:
        RuntimeError: The process cannot start another thread.
    """
    if threading.get_ident() != threading.main_thread().ident:
        thread.start()
        return
    errors: list[BaseException] = []
    done = Event()

    def work() -> None:
        try:
            thread.start()
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    _thread.start_new_thread(work, ())
    done.wait()
    if errors:
        raise errors[0]
