"""`Term`: how long a lock lasts, as its holder knows it. `LockExpiredError`: it has ended. `SessionLock` uses both."""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta, timezone

import attrs

from ..errors import SessionNotFoundError

#: The part of a lock's time that is left when the lock is renewed. It is drawn at random between these two, so that the
#: renewals of many locks do not fall together.
RENEW_AT = (0.5, 0.6)


@attrs.frozen
class Term:
    """How long the lock lasts.

    Attributes:
        deadline: When the lock ends, on the monotonic clock.
        renew_at: When to renew it, on the monotonic clock.
        expires_at: When it ends, as an aware UTC datetime.
    """

    deadline: float
    renew_at: float
    expires_at: datetime

    @classmethod
    def until(cls, deadline: float, lasts: float) -> Term:
        """Return the term of a lock that lasts `lasts` seconds and ends at `deadline`."""
        expires_at = datetime.now(timezone.utc) + timedelta(seconds=deadline - time.monotonic())
        return cls(deadline, deadline - lasts * random.uniform(*RENEW_AT), expires_at)  # noqa: S311 - not a secret


class LockExpiredError(Exception):
    """`SessionLock.check` found that the lock expired. Internal: the caller reports the loss and raises `error`.

    Attributes:
        error: The error for the user.
    """

    def __init__(self, error: SessionNotFoundError) -> None:
        super().__init__(str(error))
        self.error = error
