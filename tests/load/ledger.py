"""What was sent and must arrive: the soak's and the burst's account of their messages."""

from __future__ import annotations

import threading
from collections import Counter


class Ledger:
    """Messages that are on their way, by number, and what became of the others. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards all that follows.
        self._number = 0
        self._under_way: dict[int, str] = {}
        self._unsure: set[int] = set()
        self._last: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def new(self, kind: str) -> int:
        """Return the number of a message that is about to be sent."""
        with self._lock:
            self._number += 1
            self._under_way[self._number] = kind
            self.counts["sent"] += 1
            self.counts[f"sent: {kind}"] += 1
            return self._number

    def not_sent(self, number: int) -> None:
        """Note that a send failed: it may have been accepted all the same, or not."""
        with self._lock:
            self.counts["sends that failed"] += 1
            if self._under_way.pop(number, None) is not None:
                self._unsure.add(number)

    def done(self, number: int) -> None:
        """Note that a message was settled for good; once each."""
        with self._lock:
            self._unsure.discard(number)
            if self._under_way.pop(number, None) is None:
                self.wrong.append(f"message {number} was settled twice, or never sent")
            else:
                self.counts["settled for good"] += 1

    def in_order(self, session_id: str, sequence_number: int, number: int) -> None:
        """Note a first delivery: sequence numbers rise in a session."""
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
        """The messages that have not arrived yet, with their kinds."""
        with self._lock:
            return dict(self._under_way)
