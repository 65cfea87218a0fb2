"""The limits of the gateway's server on its clients. `docs/gateways.md` lists them for operators."""

from __future__ import annotations

import time

#: Seconds in which the head of a request must arrive, and for which a body or an answer may stand still.
HEADER_DEADLINE = 10.0
#: Bytes per second at which a body must arrive, and an answer must be taken, on average.
BODY_RATE = 16384
#: Bytes of a request's path, query and headers at most.
MAX_HEAD_SIZE = 65536
#: Bytes that are kept of the requests that a client sends ahead of its answer.
MAX_HELD = 65536
#: Seconds after which an idle connection is closed.
IDLE_TIMEOUT = 75.0
#: Seconds for which a connection must have been idle to make room for a new one.
IDLE_GRACE = 1.0
#: Seconds in which a client can read its last answer while it still sends.
LINGER = 5.0
#: Seconds between two checks of the time limits.
CHECK_PAUSE = 0.5
#: Connections at most, if the process may open so many files.
MAX_CONNECTIONS = 16384
#: Files that the process needs for other purposes than connections.
OTHER_FILES = 64


def default_max_connections() -> int:
    """Return the number of connections that the process can have: one for each file that it may open, less a reserve."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except ImportError:
        limit = 512  # The limit of select() on Windows.
    else:
        if limit == resource.RLIM_INFINITY:
            return MAX_CONNECTIONS
    # An eighth more connections are kept while they are refused.
    return max(8, min(MAX_CONNECTIONS, (limit - OTHER_FILES) * 8 // 9))


class Movement:
    """Bytes that must move at a rate. Bytes that move faster give no credit for later."""

    def __init__(self) -> None:
        self._count = 0
        self.restart()

    def restart(self) -> None:
        """Give the bytes the whole time again."""
        self._due = time.monotonic() + HEADER_DEADLINE

    def add(self, size: int) -> None:
        """Count bytes that have moved."""
        self._count += size

    def is_late(self, now: float) -> bool:
        """Return whether the bytes stand still, or move too slowly."""
        moved, self._count = self._count, 0
        self._due = min(self._due + moved / BODY_RATE, now + HEADER_DEADLINE)
        return self._due < now
