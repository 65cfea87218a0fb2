"""Whose turn it is, where `max_messages_per_session` has busy sessions give way.

The next available session is the one whose first message is oldest: a busy one that was just released, again and again. So
those that had their share are passed over, and held meanwhile, as long as there are others.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from .sources import TakenSession

#: Sessions that are passed over at once, at the most.
MAX_PASSED = 16
#: Sessions whose turn is remembered.
MAX_REMEMBERED = 10_000


class Fairness:
    """The sessions that had their share and may have more. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards what follows.
        self._had: OrderedDict[str, None] = OrderedDict()

    def after_fork(self) -> None:
        """In a forked child: another thread may have had the lock."""
        self._lock = threading.Lock()

    def note(self, session_id: str, *, had_share: bool) -> None:
        """Note how a session's handling ended: with its share done, or otherwise."""
        if had_share or self._had:
            with self._lock:
                self._had.pop(session_id, None)
                if had_share:
                    self._had[session_id] = None
                    if len(self._had) > MAX_REMEMBERED:
                        self._had.popitem(last=False)

    def choose(self, taken: TakenSession, take_now: Callable[[], TakenSession | None]) -> TakenSession:
        """Return the session to handle: this one, or another one if it is not this one's turn. The rest is released."""
        passed: list[TakenSession] = []
        chosen: TakenSession | None = taken
        while chosen is not None and chosen.session.session_id in self._had:
            passed.append(chosen)
            chosen = take_now() if len(passed) < MAX_PASSED else None
        if chosen is None:
            with self._lock:
                turns = {session_id: number for number, session_id in enumerate(self._had)}
            chosen = min(passed, key=lambda one: turns.get(one.session.session_id, -1))
        for one in passed:
            if one is not chosen:
                one.session.close_session()
        return chosen
