"""When a lock ends, and when it is renewed."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

from azsession.client.lock_term import Term


def test_a_term_is_renewed_when_about_half_of_it_is_left() -> None:
    now = time.monotonic()
    for _ in range(100):
        term = Term.until(now + 100, 100)
        assert 40 <= term.renew_at - now <= 50
        assert term.deadline == now + 100


def test_a_term_ends_at_a_time_of_the_wall_clock() -> None:
    expires_at = Term.until(time.monotonic() + 100, 100).expires_at
    assert abs(expires_at - datetime.now(timezone.utc) - timedelta(seconds=100)) < timedelta(seconds=5)
