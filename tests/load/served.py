"""`azsession serve` with short memories, as a process: ``python -m tests.load.served SECONDS ARGUMENTS..``.

What is remembered of settlements and requests for minutes is remembered for about SECONDS here, fewer locks that ended are
remembered, and the file is looked at more often, so that a short run sees all that several times. All else is as users have
it.
"""

from __future__ import annotations

import sys

from azsession.broker.embedded import core, session_locks, store
from azsession.cli import main

if __name__ == "__main__":
    period = float(sys.argv[1])
    store.SETTLED_SECONDS = period
    store.REQUESTS_SECONDS = 2 * period
    session_locks.MAX_ENDED = int(50 * period)
    core.RELEASE_AFTER = min(core.RELEASE_AFTER, period)
    sys.argv[1:] = ["serve", *sys.argv[2:]]
    main()
