"""The signals that end a command, and the limit of open files of `azsession serve`."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

#: macOS reports no limit, but refuses to set one above this number (OPEN_MAX).
_MACOS_LIMIT = 10240


def raise_open_file_limit() -> None:
    """Allow this process as many open files as the system permits. Each connection is one, and 1024 is the usual limit."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit.
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard_limit, _MACOS_LIMIT):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard_limit))
            return


@contextmanager
def exiting_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise `SystemExit` in the main thread, so that everything open is closed.

    After the first signal, both have their default effect again: they end the process. A signal that is ignored, for example
    by ``nohup``, stays ignored.
    """
    before: dict[int, Any] = {}

    def leave(number: int, frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)):
            # Windows has no SIGHUP.
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class StopSignals:
    """Waits for SIGTERM, SIGINT or SIGHUP. After the first signal, all have their default effect again: they end the process.

    SIGHUP stays ignored if the process was started so, for example by ``nohup``.
    """

    def __init__(self) -> None:
        # Python runs signal handlers only between two instructions of the main thread. A signal that arrives just before
        # the thread blocks would not wake it, but a byte in a socket does.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno())
        self._signals = [signal.SIGTERM, signal.SIGINT]
        # Windows has no SIGHUP.
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._signals.append(signal.SIGHUP)
        for number in self._signals:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: object) -> None:
        for each in self._signals:
            signal.signal(each, signal.SIG_DFL)

    def wait(self) -> None:
        """Block until the first signal arrives."""
        self._reader.recv(1)
