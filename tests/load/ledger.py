"""Counts the messages that the soak and the burst sent, received and settled."""

from __future__ import annotations

import threading
from collections import Counter


class Ledger:
    """The messages in flight, by number, and the counts and errors of the others. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards all attributes below.
        self._number = 0
        self._under_way: dict[int, str] = {}
        self._unsure: set[int] = set()
        self._last: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def new(self, kind: str) -> int:
        """Register a message that is about to be sent, and return its number."""
        with self._lock:
            self._number += 1
            self._under_way[self._number] = kind
            self.counts["sent"] += 1
            self.counts[f"sent: {kind}"] += 1
            return self._number

    def not_sent(self, number: int) -> None:
        """Record that a send failed. The message may have been stored nevertheless."""
        with self._lock:
            self.counts["sends that failed"] += 1
            if self._under_way.pop(number, None) is not None:
                self._unsure.add(number)

    def done(self, number: int) -> None:
        """Record that a message was completed or dead-lettered, which happens once for each message."""
        with self._lock:
            self._unsure.discard(number)
            if self._under_way.pop(number, None) is None:
                self.wrong.append(f"message {number} was settled twice, or never sent")
            else:
                self.counts["settled for good"] += 1

    def in_order(self, session_id: str, sequence_number: int, number: int) -> None:
        """Record a first delivery. Sequence numbers must rise within a session."""
        with self._lock:
            if sequence_number <= self._last.get(session_id, 0):
                self.wrong.append(f"message {number} of {session_id} came after a later one")
            self._last[session_id] = sequence_number

    def count(self, what: str, by: int = 1) -> None:
        with self._lock:
            self.counts[what] += by

    def complain(self, what: str) -> None:
        with self._lock:
            if len(self.wrong) < 100:
                self.wrong.append(what)

    @property
    def under_way(self) -> dict[int, str]:
        """The messages that have not arrived, with their kinds."""
        with self._lock:
            return dict(self._under_way)
