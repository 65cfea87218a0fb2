"""Which sessions are held here, by whom, and what was settled lately. The loop's thread only."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from functools import partial

from ....errors import QueueError, SessionLockedError, SessionNotFoundError
from ....protocol.error_codes import CONFLICT, SESSION_LOCK_LOST, SESSION_LOCKED
from ...base import NO_DEADLINE, Settlement
from ..authorized_connection import Uplink
from ..lock_clock import ServiceClock
from ..namespace import Namespace
from ..transport.loop import closed_error
from .held_session import HeldSession
from .relock import MAX_RETAKE_PAUSE, VERIFY_TIMEOUT

logger = logging.getLogger(__name__)

#: Ended lock ids that are remembered in all, to tell a late holder that its lock is lost.
MAX_ENDED = 50_000
#: Settlements that are remembered at most, and for how many seconds.
MAX_SETTLED, SETTLED_SECONDS = 100_000, 300.0
#: Accepts whose answers can be given again.
MAX_ACCEPTS = 10_000

SessionKey = tuple[str, str]


class Table:
    """The sessions held here."""

    def __init__(self, namespace: Namespace) -> None:
        self.loop = namespace.loop
        self.clock = ServiceClock()
        self._namespace = namespace
        self._held: dict[SessionKey, HeldSession] = {}
        self._pending: set[HeldSession] = set()
        self._accepts: OrderedDict[str, HeldSession] = OrderedDict()
        self._ended: OrderedDict[tuple[SessionKey, str], None] = OrderedDict()
        self._settled: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._to_restore: set[HeldSession] = set()
        self._restoring = False
        self.stopping = self._closed = False

    # Holding

    def held(self, entity: str, session_id: str) -> HeldSession | None:
        """Return the session, if it is held here, or about to be."""
        return self._held.get((entity, session_id))

    def holders(self, entity: str, session_id: str, lock_id: str) -> HeldSession | None:
        """Return the session, if this holder has it.

        Raises:
            SessionLockedError: Another holder has it here.
            SessionNotFoundError: This holder had it, and lost or released it.
        """
        key = (entity, session_id)
        session = self._held.get(key)
        if session is not None and session.lock_id == lock_id:
            return session
        if (key, lock_id) in self._ended:
            raise SessionNotFoundError("the session's lock is lost: it expired, or was released", code=SESSION_LOCK_LOST)
        if session is not None:
            left = session.left() if session.opened.done() else None
            raise SessionLockedError("another holder has this session", code=SESSION_LOCKED, retry_after=left)
        return None

    def require(self, entity: str, session_id: str, lock_id: str) -> HeldSession:
        """Return the session of a holder who has it.

        Raises:
            SessionLockedError: Another holder has it here.
            SessionNotFoundError: This holder lost or released it, or never had it.
        """
        session = self.holders(entity, session_id, lock_id)
        if session is None:
            # It may have had it by another gateway, or by this one before it was started anew.
            raise SessionNotFoundError("the session's lock is lost, or was never taken", code=SESSION_LOCK_LOST)
        return session

    def claim(self, entity: str, session_id: str, lock_id: str, *, holds: bool = False) -> tuple[HeldSession, bool]:
        """Return this holder's session; `True` says that it is new, and the caller must have it opened.

        Raises:
            QueueError: As `holders` does.
        """
        session = self.require(entity, session_id, lock_id) if holds else self.holders(entity, session_id, lock_id)
        if session is not None:
            return session, False
        self._check_open()
        session = self._held[entity, session_id] = HeldSession(self, entity, session_id, lock_id)
        return session, True

    def pend(self, entity: str, lock_id: str, request_id: str) -> tuple[HeldSession, bool]:
        """Return a session to accept, whichever comes; `False` says that an earlier try of this request got one."""
        self._check_open()
        known = self._accepts.get(request_id) if request_id else None
        if known is not None:
            if known.lock_id == lock_id and known.over is None and known.opened.done():
                return known, False
            # The caller tried again: its first attempt must not lock a session for nobody.
            known.superseded = True
            self.withdraw(known)
        session = HeldSession(self, entity, None, lock_id)
        self._pending.add(session)
        if request_id:
            self._accepts[request_id] = session
            while len(self._accepts) > MAX_ACCEPTS:
                self._accepts.popitem(last=False)
        return session, True

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error()

    def withdraw(self, session: HeldSession) -> None:
        """End a session that is not open yet: nobody waits for it any more."""
        if not session.opened.done():
            session.end(SessionNotFoundError("nobody waits for the session any more", code=SESSION_LOCK_LOST), opened=False)

    def on_opened(self, session: HeldSession) -> None:
        """A session's lock was taken."""
        self._pending.discard(session)
        key = (session.entity, session.session_id or "")
        other = self._held.get(key)
        if other is not None and other is not session:
            # Azure gave it to this one: whoever had it here has lost it without our being told, or does not get it.
            if other.opened.done():
                other.lose("Azure gave it away")
            else:
                other.end(SessionLockedError("another holder has this session", code=SESSION_LOCKED))
        self._held[key] = session

    def on_ended(self, session: HeldSession) -> None:
        """A session's lock is gone, or could not be taken."""
        self._pending.discard(session)
        self._to_restore.discard(session)
        if session.session_id is None:
            return
        key = (session.entity, session.session_id)
        if self._held.get(key) is session:
            del self._held[key]
        if session.opened.done() and session.opened.exception() is None:
            self.note_ended(session.entity, session.session_id, session.lock_id)

    def note_ended(self, entity: str, session_id: str, lock_id: str) -> None:
        """Remember a lock id that shall not take this session again; the plain dialect's holder may."""
        if lock_id:
            self._ended[(entity, session_id), lock_id] = None
            while len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)

    def sessions(self) -> list[HeldSession]:
        """Return all sessions, pending ones included."""
        return [*self._held.values(), *self._pending]

    # Lost links

    def restore(self, session: HeldSession, pause: float) -> None:
        """Have a session's lock taken again, by a thread that may wait for a connection if there is none."""
        if pause:
            self.loop.later(pause, lambda: self.restore(session, 0.0))
            return
        if session.over is not None or not session.retaking.under_way:
            return
        uplink = self._namespace.at_hand(session.entity)
        if uplink is not None:
            self._retake_now(session, uplink)
            return
        self._to_restore.add(session)
        if not self._restoring:
            self._restoring = True
            self.loop.later(0.0, self._start_restoring)

    def _retake_now(self, session: HeldSession, uplink: Uplink) -> None:
        # Azure may wait for the session to be free: for a shorter time than its answer is waited for.
        session.retake(uplink, min(VERIFY_TIMEOUT * 0.8, max(1.0, session.left())))

    def _start_restoring(self) -> None:
        by_entity: dict[str, list[HeldSession]] = {}
        for session in self._to_restore:
            by_entity.setdefault(session.entity, []).append(session)
        self._to_restore.clear()
        try:
            threading.Thread(target=self._restore, args=(by_entity,), name="azsession-restore", daemon=True).start()
        except RuntimeError:
            self._restore_later(by_entity)

    def _restore(self, by_entity: dict[str, list[HeldSession]]) -> None:
        failed = {entity: sessions for entity, sessions in by_entity.items() if not self._retake(entity, sessions)}
        try:
            self.loop.call(lambda: self._restore_later(failed))
        except QueueError:
            return  # Closed meanwhile.

    def _retake(self, entity: str, sessions: list[HeldSession]) -> bool:
        try:
            uplink = self._namespace.reach(entity, NO_DEADLINE)
            for session in sessions:
                self.loop.call(partial(self._retake_now, session, uplink))
        except QueueError as error:
            logger.info("sessions of %s wait for the namespace: %s", entity, error)
            return False
        return True

    def _restore_later(self, by_entity: dict[str, list[HeldSession]]) -> None:
        """Try again in a while with those that failed, and with those that came meanwhile."""
        pause = MAX_RETAKE_PAUSE / 4 if by_entity else 0.0
        self._to_restore.update(one for sessions in by_entity.values() for one in sessions if one.over is None)
        self._restoring = False

        def again() -> None:
            if self._to_restore and not self._restoring:
                self._restoring = True
                self._start_restoring()

        self.loop.later(pause, again)

    # Settlements

    def remember_settled(self, settlement: Settlement) -> None:
        """Remember how a message was settled: the same again is well, another way is a conflict."""
        now = time.monotonic()
        self._settled[settlement.lock_token] = (settlement.disposition.value, now)
        while self._settled:
            token, (_, when) = next(iter(self._settled.items()))
            if len(self._settled) <= MAX_SETTLED and now - when < SETTLED_SECONDS:
                break
            del self._settled[token]

    def how_settled(self, settlement: Settlement, unknown: str) -> str | None:
        """Return `None` where it was settled in this very way, or the code of why it cannot be."""
        known = self._settled.get(settlement.lock_token)
        if known is None:
            return unknown
        return None if known[0] == settlement.disposition.value else CONFLICT

    # The end

    def stop_waiting(self) -> None:
        """End every wait, as if its time were over, now and from now on."""
        self.stopping = True
        for session in self.sessions():
            session.waiting.stop()
            if session.session_id is None:
                self.withdraw(session)

    def release_all(self) -> list[Future[None]]:
        """Give all locks back, and take no more."""
        self.stopping = self._closed = True
        for session in list(self._pending):
            self.withdraw(session)
        return [session.release() for session in self.sessions()]
