"""Accepts to which Azure granted a session that seems to be held here. `HeldSession` has one `Contenders`.

Azure grants a session to a new link after it ended the old link. The end of the old link can arrive here after the grant,
which comes by another link, and perhaps by another connection. How the old link ended decides: if the lock was lost, the
session is the accept's; if only the link was lost, the session stays its holder's.

Everything here runs in the loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable

from ..transport.loop import Loop, Timer

#: Seconds for the end of the old link.
CONTEST_TIMEOUT = 1.0


class Contenders:
    """The accepts that wait for the end of one session's link.

    Args:
        loop: The loop that owns the session.
        on_timeout: Called when the link did not end in time.
    """

    def __init__(self, loop: Loop, on_timeout: Callable[[], object]) -> None:
        self._loop = loop
        self._on_timeout = on_timeout
        self._callbacks: list[Callable[[], object]] = []
        self._timer: Timer | None = None

    def add(self, callback: Callable[[], object]) -> None:
        """Have `callback` called when the link has ended."""
        self._callbacks.append(callback)
        if self._timer is None:
            self._timer = self._loop.later(CONTEST_TIMEOUT, self._on_timeout)

    def on_link_ended(self) -> None:
        """Call those that wait: the link has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
