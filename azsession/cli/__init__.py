"""The `azsession` command. It needs click and rich, which are loaded when `main` runs, not when this package is imported."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["main"]

#: The exit status for Ctrl-C.
INTERRUPTED = 130


def main() -> None:
    """Run the command line of this process, then exit.

    The exit status is 0 for success, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C, 143 for SIGTERM and 129 for SIGHUP.
    """
    try:
        status = _run()
        # The interpreter needs a moment to end. Ctrl-C then ends it at once, instead of with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        # Ctrl-C outside a command.
        status = INTERRUPTED
    sys.exit(status)


def _run() -> int:
    with _left_at_once():
        from .. import __version__
        from .._extras import need
        from ..errors import ConfigurationError

        try:
            need("click", "cli")
            need("rich", "cli")
        except ConfigurationError as error:
            if sys.argv[1:] == ["--version"]:
                print(f"azsession, version {__version__}")
                return 0
            print(f"azsession: {error}", file=sys.stderr)
            return 1
        from .group import run
    return run()


@contextmanager
def _left_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process at once while modules are loading, which takes some tenths of a second.

    Nothing is open yet. Code of a module that is loading could catch or print a `KeyboardInterrupt`.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
