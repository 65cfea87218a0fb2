"""`azsession serve` with short retention, in a process: ``python -m tests.load.served SECONDS ARGUMENTS..``.

The broker remembers settlements and request ids for about SECONDS instead of minutes, remembers fewer expired locks, and
checks its file more often, so that a short run goes through several periods. Everything else is as in production.
"""

from __future__ import annotations

import sys

from azsession.broker.embedded import due_work, session_locks, store
from azsession.cli import main

if __name__ == "__main__":
    period = float(sys.argv[1])
    store.SETTLED_SECONDS = period
    store.REQUESTS_SECONDS = 2 * period
    session_locks.MAX_LOST = int(50 * period)
    due_work.RELEASE_AFTER = min(due_work.RELEASE_AFTER, period)
    sys.argv[1:] = ["serve", *sys.argv[2:]]
    main()
