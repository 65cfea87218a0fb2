"""Bounds how many wrong keys a client may try. `sign_in` calls it."""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Callable

#: Wrong attempts that one address may make at once, and in each minute after that.
ATTEMPTS_PER_ADDRESS = 10
#: The same for all addresses together.
ATTEMPTS_IN_ALL = 200
#: Addresses that are remembered.
MAX_ADDRESSES = 4096
_EVERYONE = ""


class Throttle:
    """Counts failed attempts by address. It belongs to the thread of the event loop.

    Each address has an allowance of `ATTEMPTS_PER_ADDRESS`, which fills up again within a minute. All addresses of an IPv6
    network of 64 bits count as one, because one client usually has all of them.

    Args:
        now: Returns the time in seconds, on a clock that does not jump.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        #: The attempts that are used up, and when they were counted, by network; the oldest first.
        self._used: dict[str, tuple[float, float]] = {}

    def wait(self, address: str) -> int:
        """Return the seconds until the address may try again; 0 if it may now."""
        waits = [self._wait(_network(address), ATTEMPTS_PER_ADDRESS), self._wait(_EVERYONE, ATTEMPTS_IN_ALL)]
        return max(waits)

    def count(self, address: str) -> None:
        """Count a failed attempt."""
        self._count(_network(address), ATTEMPTS_PER_ADDRESS)
        self._count(_EVERYONE, ATTEMPTS_IN_ALL)
        while len(self._used) > MAX_ADDRESSES:
            del self._used[next(iter(self._used))]

    def _left_over(self, name: str, limit: int) -> float:
        used, at = self._used.get(name, (0.0, self._now()))
        return max(0.0, used - (self._now() - at) * limit / 60)

    def _wait(self, name: str, limit: int) -> int:
        excess = self._left_over(name, limit) + 1 - limit
        return max(0, math.ceil(excess * 60 / limit))

    def _count(self, name: str, limit: int) -> None:
        used = self._left_over(name, limit) + 1
        self._used.pop(name, None)
        self._used[name] = (used, self._now())


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(getattr(found, "ipv4_mapped", None) or found)
