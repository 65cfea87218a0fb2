"""Reads single keys from the terminal, without waiting for the end of a line. `azsession top` uses it."""

from __future__ import annotations

import os
import select
import sys
import time
from types import TracebackType

try:
    import termios
    import tty
except ImportError:  # Windows has another interface.
    import msvcrt


class Keys:
    """The keys of the terminal on standard input. Use it as a context manager. Without a terminal there are no keys."""

    def __init__(self) -> None:
        self._file = -1
        self._before: list[object] | None = None

    def __enter__(self) -> Keys:
        if sys.stdin.isatty():
            self._file = sys.stdin.fileno()
            if sys.platform != "win32":
                self._before = termios.tcgetattr(self._file)
                # Ctrl-C still interrupts.
                tty.setcbreak(self._file)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if sys.platform != "win32" and self._before is not None:
            termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)  # type: ignore[arg-type]

    def wait(self, seconds: float) -> str:
        """Return the keys that are pressed within a time; ``""`` if there are none."""
        if self._file < 0:
            time.sleep(seconds)
            return ""
        if sys.platform == "win32":
            until = time.monotonic() + seconds
            while not msvcrt.kbhit():
                if time.monotonic() > until:
                    return ""
                time.sleep(0.02)
            return msvcrt.getwch()
        if not select.select([self._file], [], [], seconds)[0]:
            return ""
        pressed = os.read(self._file, 64)
        if not pressed:
            # The terminal is gone.
            self._file = -1
        return pressed.decode(errors="replace")
