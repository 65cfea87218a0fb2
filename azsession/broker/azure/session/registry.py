"""The sessions that are held in this process, their holders, and the lock ids that are lost. The broker has one registry.

Everything here runs in the loop's thread.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum, auto

from ....errors import SessionLockedError, SessionNotFoundError
from ....futures import Future
from ....protocol.error_codes import SESSION_LOCK_LOST, SESSION_LOCKED
from ..lock_clock import ServiceClock
from ..namespace import Namespace
from ..transport.loop import Loop, closed_error
from .held_session import HeldSession
from .lock_probe import LockProbe
from .offers import Offers
from .reconnector import Reconnector
from .settlement import SettlementHistory

#: Lost and released lock ids that are remembered at most.
MAX_ENDED = 50_000
#: Accepts that can be repeated with the same result.
MAX_ACCEPTS = 10_000

SessionKey = tuple[str, str]


class _Phase(Enum):
    RUNNING = auto()
    #: Receives and accepts do not wait.
    STOPPING = auto()
    #: No session is taken.
    CLOSED = auto()


class SessionRegistry:
    """The sessions that are held here, and those whose locks are being taken.

    Args:
        namespace: The namespace.

    Attributes:
        loop: The loop that owns the sessions.
        clock: Azure's clock.
        history: The settlements that Azure confirmed lately.
        offers: The messages that receives can take in their own threads.
    """

    def __init__(self, namespace: Namespace) -> None:
        self.loop: Loop = namespace.loop
        self.clock: ServiceClock = ServiceClock()
        self.history: SettlementHistory = SettlementHistory()
        self.offers: Offers = Offers()
        self._held: dict[SessionKey, HeldSession] = {}
        #: Accepts of any session to which Azure has granted none.
        self._pending: set[HeldSession] = set()
        #: The sessions of accepts that can be repeated, by request id, and their request ids.
        self._accepts: OrderedDict[str, HeldSession] = OrderedDict()
        self._accept_ids: dict[HeldSession, str] = {}
        self._ended: OrderedDict[tuple[SessionKey, str], None] = OrderedDict()
        self._reconnector = Reconnector(namespace)
        self.clock.on_renewed = LockProbe(namespace, self.clock).on_renewed
        self._phase = _Phase.RUNNING

    @property
    def is_stopping(self) -> bool:
        """Whether receives and accepts must end without waiting."""
        return self._phase is not _Phase.RUNNING

    # Finding sessions

    def held(self, entity: str, session_id: str) -> HeldSession | None:
        """Return the session, if it is held here, or about to be."""
        return self._held.get((entity, session_id))

    def held_in(self, entity: str) -> dict[str, HeldSession]:
        """Return the sessions of an entity whose locks are held here, by id."""
        return {name: session for (at, name), session in self._held.items() if at == entity and session.state.has_lock}

    def find(self, entity: str, session_id: str, lock_id: str) -> HeldSession | None:
        """Return the session if this holder has it; `None` if the holder never had it here.

        Raises:
            SessionLockedError: Another holder has the session here.
            SessionNotFoundError: This holder lost or released the session.
        """
        key = (entity, session_id)
        session = self._held.get(key)
        if session is not None and session.lock_id == lock_id:
            session.is_shared = True
            return session
        if (key, lock_id) in self._ended:
            raise SessionNotFoundError("the session's lock is lost: it expired, or was released", code=SESSION_LOCK_LOST)
        if session is not None:
            left = session.lock.left() if session.state.has_lock else None
            raise SessionLockedError("another holder has this session", code=SESSION_LOCKED, retry_after=left)
        return None

    def require(self, entity: str, session_id: str, lock_id: str) -> HeldSession:
        """Return the session of a holder that has it.

        Raises:
            SessionLockedError: Another holder has the session here.
            SessionNotFoundError: This holder lost or released the session, or never had it here. It may have had it by
                another gateway, or before this process was restarted.
        """
        session = self.find(entity, session_id, lock_id)
        if session is None:
            raise SessionNotFoundError("the session's lock is lost, or was never taken", code=SESSION_LOCK_LOST)
        return session

    # Taking sessions

    def claim(self, entity: str, session_id: str, lock_id: str, *, holds_lock: bool = False) -> tuple[HeldSession, bool]:
        """Return this holder's session, and whether it is new, so that the caller must have its lock taken.

        Args:
            entity: The queue or subscription.
            session_id: The session.
            lock_id: The holder.
            holds_lock: The holder believes that it has the lock, so that it must not be taken for it again.

        Raises:
            SessionLockedError: Another holder has the session here.
            SessionNotFoundError: This holder lost or released the session; or, with `holds_lock`, never had it here.
            ProviderError: The broker is closed.
        """
        find = self.require if holds_lock else self.find
        session = find(entity, session_id, lock_id)
        if session is not None:
            return session, False
        self._check_open()
        session = self._held[entity, session_id] = HeldSession(self, entity, session_id, lock_id)
        return session, True

    def claim_next(self, entity: str, lock_id: str, request_id: str) -> tuple[HeldSession, bool]:
        """Return a session for an accept of any session, and whether it is new.

        It is not new where an earlier attempt of the same request was granted a session. An earlier attempt that still
        waits is superseded: it must not take a session that nobody reads.

        Raises:
            ProviderError: The broker is closed.
        """
        self._check_open()
        known = self._accepts.get(request_id) if request_id else None
        if known is not None:
            if known.lock_id == lock_id and known.state.has_lock:
                known.is_shared = True
                return known, False
            known.supersede()
        session = HeldSession(self, entity, None, lock_id)
        self._pending.add(session)
        if request_id:
            if known is not None:
                self._accept_ids.pop(known, None)
            self._accepts[request_id], self._accept_ids[session] = session, request_id
            while len(self._accepts) > MAX_ACCEPTS:
                self._accept_ids.pop(self._accepts.popitem(last=False)[1], None)
        return session, True

    def end_accept(self, request_id: str) -> None:
        """Forget the request of an accept that ended without a session. A later attempt of the request may still wait."""
        session = self._accepts.get(request_id)
        if session is not None and session.state.is_over:
            self._forget_accept(session)

    def _forget_accept(self, session: HeldSession) -> None:
        request_id = self._accept_ids.pop(session, None)
        if request_id is not None and self._accepts.get(request_id) is session:
            del self._accepts[request_id]

    def _check_open(self) -> None:
        if self._phase is _Phase.CLOSED:
            raise closed_error()

    # Events of sessions

    def on_opened(self, session: HeldSession) -> None:
        """Note that a session's lock was granted. Another holder here has lost it, or does not get it."""
        self._pending.discard(session)
        key = (session.entity, session.session_id or "")
        other = self._held.get(key)
        if other is not None and other is not session:
            if other.state.has_lock:
                other.lose("Azure granted it to another link")
            else:
                other.fail(SessionLockedError("another holder has this session", code=SESSION_LOCKED))
        self._held[key] = session

    def on_ended(self, session: HeldSession, *, had_lock: bool) -> None:
        """Note that a session is over."""
        self._pending.discard(session)
        self._reconnector.discard(session)
        if session.session_id is None:
            return
        self._forget_accept(session)
        key = (session.entity, session.session_id)
        if self._held.get(key) is session:
            del self._held[key]
        if had_lock:
            self.note_ended(session.entity, session.session_id, session.lock_id)

    def note_ended(self, entity: str, session_id: str, lock_id: str) -> None:
        """Remember a lock id that must not take this session again. The empty id of the plain dialect may."""
        if lock_id:
            self._ended[(entity, session_id), lock_id] = None
            while len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)

    def request_connection(self, session: HeldSession, pause: float) -> None:
        """Give a session that lost its link a connection, after `pause` seconds."""
        self._reconnector.connect(session, pause)

    # The end

    def _sessions(self) -> list[HeldSession]:
        return [*self._held.values(), *self._pending]

    def stop_waiting(self) -> None:
        """End every wait, as if its time were over, from now on."""
        if self._phase is _Phase.RUNNING:
            self._phase = _Phase.STOPPING
        for session in self._sessions():
            session.receives.expire_all()
            if session.session_id is None:
                session.withdraw()

    def release_all(self) -> list[Future[None]]:
        """Give all locks back, and take no more; return the futures of the releases."""
        self._phase = _Phase.CLOSED
        for session in list(self._pending):
            session.withdraw()
        return [session.release() for session in self._sessions()]
