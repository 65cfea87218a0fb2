"""`RecentRequests`: the requests that were carried out lately. Repeating them does nothing. `MessageSender` has one."""

from __future__ import annotations

import time
from typing import Generic, TypeVar

T = TypeVar("T")

#: Seconds for which a request is remembered at least, and how many requests at least.
REMEMBERED_SECONDS, MIN_REMEMBERED = 600.0, 100_000


class RecentRequests(Generic[T]):
    """Requests by their ids. Of a request that is done, only the hash of its id is kept. For the loop's thread.

    The hashes are in two generations. When the younger one is old enough or full, it takes the place of the older one.
    """

    def __init__(self) -> None:
        self._unfinished: dict[str, tuple[T, float]] = {}
        self._young: set[int] = set()
        self._old: set[int] = set()
        self._since = time.monotonic()

    def is_done(self, request_id: str) -> bool:
        """Return whether this request was carried out lately."""
        known = hash(request_id)
        return known in self._young or known in self._old

    def unfinished(self, request_id: str) -> T | None:
        """Return the request with this id that is under way, or whose result is not known."""
        known = self._unfinished.get(request_id)
        return None if known is None else known[0]

    def add(self, request_id: str, request: T) -> None:
        """Remember a request that begins."""
        self._rotate()
        self._unfinished[request_id] = (request, time.monotonic())
        while len(self._unfinished) > MIN_REMEMBERED:
            del self._unfinished[next(iter(self._unfinished))]

    def finish(self, request_id: str) -> None:
        """Note that a request was carried out."""
        self._rotate()
        self._unfinished.pop(request_id, None)
        self._young.add(hash(request_id))

    def _rotate(self) -> None:
        now = time.monotonic()
        while self._unfinished:
            oldest = next(iter(self._unfinished))
            if now - self._unfinished[oldest][1] < REMEMBERED_SECONDS:
                break
            del self._unfinished[oldest]
        if now - self._since >= REMEMBERED_SECONDS or len(self._young) >= MIN_REMEMBERED:
            self._old, self._young, self._since = self._young, set(), now
