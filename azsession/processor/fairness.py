"""Lets sessions take turns if `max_messages_per_session` limits how long a session keeps its slot.

The server offers the session with the oldest message first. Right after its release, a busy session would be offered again
and again. `Fairness` therefore holds a session that had its turn and asks for another one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from ..client.session import SessionClient
from .sources import TakenSession

#: Number of sessions that are held while another one is asked for.
MAX_HELD = 16
#: Number of sessions whose turn is remembered. Beyond it, the oldest are forgotten.
MAX_REMEMBERED = 10_000


class Fairness:
    """Remembers the sessions that had their turn and may have more messages. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards _had_turn.
        self._had_turn: OrderedDict[str, None] = OrderedDict()

    def after_fork(self) -> None:
        """Replace the lock in a forked child, because another thread of the parent may have held it."""
        self._lock = threading.Lock()

    def record(self, session_id: str, *, had_turn: bool) -> None:
        """Record the end of a session's handling.

        Args:
            session_id: The session.
            had_turn: The session was released because it reached `max_messages_per_session`.
        """
        if had_turn or self._had_turn:
            with self._lock:
                self._had_turn.pop(session_id, None)
                if had_turn:
                    self._had_turn[session_id] = None
                    if len(self._had_turn) > MAX_REMEMBERED:
                        self._had_turn.popitem(last=False)

    def choose(
        self,
        taken: TakenSession,
        take_now: Callable[[], TakenSession | None],
        release: Callable[[SessionClient], object],
    ) -> TakenSession:
        """Return the session to handle next, and release the others.

        Args:
            taken: The session that the server offered.
            take_now: Takes another session without waiting; returns `None` if there is none.
            release: Releases a session.
        """
        held: list[TakenSession] = []
        chosen: TakenSession | None = taken
        while chosen is not None and chosen.session.session_id in self._had_turn:
            held.append(chosen)
            chosen = take_now() if len(held) < MAX_HELD else None
        if chosen is None:
            with self._lock:
                turns = {session_id: number for number, session_id in enumerate(self._had_turn)}
            chosen = min(held, key=lambda each: turns.get(each.session.session_id, -1))
        for each in held:
            if each is not chosen:
                release(each.session)
        return chosen
