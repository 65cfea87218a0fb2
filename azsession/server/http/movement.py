"""The rate at which a client sends a body or takes an answer."""

from __future__ import annotations

import time

from . import limits


class Movement:
    """Bytes that must move at a rate. Bytes that move faster give no credit for later."""

    def __init__(self) -> None:
        self._count = 0
        self.restart()

    def restart(self) -> None:
        """Give the bytes the whole time again."""
        self._due = time.monotonic() + limits.HEADER_DEADLINE

    def add(self, size: int) -> None:
        """Count bytes that have moved."""
        self._count += size

    def is_late(self, now: float) -> bool:
        """Return whether the bytes stand still, or move too slowly."""
        moved, self._count = self._count, 0
        self._due = min(self._due + moved / limits.BODY_RATE, now + limits.HEADER_DEADLINE)
        return self._due < now
