"""The name that this process gives itself in receives and accepts, for people who look at sessions."""

from __future__ import annotations

import os
import re
import socket
from functools import lru_cache


def client_name() -> str:
    """Return the host name and the process id, for example ``"worker-7:4711"``. It is not a secret, and gives no access."""
    return _client_name(os.getpid())


@lru_cache(1)
def _client_name(pid: int) -> str:
    # A forked child has another process id. A host name can have any characters; a header cannot.
    host = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname())[:80] or "localhost"
    return f"{host}:{pid}"
