"""Decides which errors end a processor or a dispatcher, because another attempt cannot resolve them."""

from __future__ import annotations

import threading
import time

from ..errors import (
    AuthenticationFailedError,
    ConfigurationError,
    PermissionDeniedError,
    QueueNotFoundError,
    UnsupportedOperationError,
    ValidationError,
)

#: Errors that another attempt cannot resolve.
PERMANENT_ERRORS = (
    ConfigurationError,
    PermissionDeniedError,
    QueueNotFoundError,
    UnsupportedOperationError,
    ValidationError,
)
#: Seconds for which refused credentials are tried again. A key may be in rotation, or the token service may be down.
REFUSED_PATIENCE = 300.0


class Permanence:
    """Tells which errors are permanent. Refused credentials become permanent after `REFUSED_PATIENCE`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards _refused_since.
        self._refused_since: float | None = None

    def is_permanent(self, error: BaseException) -> bool:
        """Record an error. Return whether another attempt cannot resolve it."""
        if isinstance(error, PERMANENT_ERRORS):
            return True
        if not isinstance(error, AuthenticationFailedError):
            # Without an answer, nobody knows whether the credentials are still refused.
            return False
        now = time.monotonic()
        with self._lock:
            if self._refused_since is None:
                self._refused_since = now
            return now - self._refused_since >= REFUSED_PATIENCE

    def succeeded(self) -> None:
        """Record that the server accepted the credentials."""
        if self._refused_since is not None:
            with self._lock:
                self._refused_since = None

    def after_fork(self) -> None:
        """Replace the lock in a forked child, because another thread of the parent may have held it."""
        self._lock = threading.Lock()
