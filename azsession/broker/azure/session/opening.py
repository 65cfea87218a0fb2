"""How long a session waits for Azure's answer to the attach that asks for its lock. `HeldSession` has one `Opening`.

Everything here runs in the loop's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..transport.loop import Loop, Timer

#: Seconds that the answer to an attach may take beyond the time that Azure may wait for a session.
ANSWER_TIME = 10.0


class Opening:
    """Watches the time of an attach.

    Args:
        loop: The loop that owns the session.
        on_timeout: Called if Azure did not answer in time.
    """

    def __init__(self, loop: Loop, on_timeout: Callable[[], object]) -> None:
        self._loop = loop
        self._on_timeout = on_timeout
        self._until = 0.0
        self._timer: Timer | None = None

    def begin(self, seconds: float) -> None:
        """Note that an attach was sent. Azure may wait `seconds` for a session; its own wait ends a little before."""
        self._until = time.monotonic() + seconds
        self._timer = self._loop.later(seconds + ANSWER_TIME, self._on_timeout)

    def left(self) -> float:
        """Return the seconds that are left of the wait."""
        return self._until - time.monotonic()

    def end(self) -> None:
        """Note that Azure answered, or that nobody waits for the answer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
