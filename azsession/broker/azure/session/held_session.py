"""One session whose lock is held by this process, or is about to be. `SessionRegistry` makes `HeldSession` objects.

`HeldSession` owns the session's state (see `state`), its link and its parts:

* `PendingReceives`: the receives that wait;
* `UnsettledMessages`: the messages that were handed out;
* `SessionRequests`: the requests about the session to the management node;
* `LockTimer`: when the lock ends;
* `Relock`: how the lock is taken again after the link was lost;
* `Contenders`: the accepts to which Azure granted the session while its link seems to be attached.

Everything here runs in the loop's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ....amqp import Attach, Condition
from ....amqp.message_mapping import token_of
from ....errors import ConnectionFailedError, QueueError, SessionNotFoundError
from ....futures import Future
from ....logs import About, SessionLogger, get_logger
from ....protocol.error_codes import SESSION_LOCK_LOST
from ...calls import Settlement
from ..authorized_connection import AuthorizedConnection
from ..error_mapping import LOST_LINK, TIMEOUT, error_of
from ..lock_clock import ServiceClock, locked_until
from ..transport.loop import Loop
from .contenders import Contenders
from .expiring_link import ExpiringLink
from .lock_timer import LockTimer
from .offers import Offers
from .opening import Opening
from .pending_receive import Patience, PendingReceive
from .pending_receives import PendingReceives
from .relock import Relock
from .requests import KnownState, OnAnswer, SessionRequests
from .session_link import SessionLink
from .settlement import SettlementHistory, SettlementResults
from .state import SessionEvent, SessionState, next_state
from .unsettled import UnsettledMessage, UnsettledMessages, any_returns

logger: SessionLogger = get_logger(__name__)


class SessionOwner(Protocol):
    """The registry, as a session sees it."""

    loop: Loop
    clock: ServiceClock
    history: SettlementHistory
    offers: Offers

    @property
    def is_stopping(self) -> bool:
        """Whether receives must end without waiting."""

    def held(self, entity: str, session_id: str) -> HeldSession | None:
        """Return the session that is held here, or about to be."""

    def on_opened(self, session: HeldSession) -> None:
        """The session's lock was granted."""

    def on_ended(self, session: HeldSession, *, had_lock: bool) -> None:
        """The session is over."""

    def request_connection(self, session: HeldSession, pause: float) -> None:
        """Call the session's `connect` when there is a connection, after `pause` seconds."""


class HeldSession:
    """A session from the request for its lock until the lock is released or lost.

    Args:
        owner: The registry.
        entity: The queue or subscription.
        session_id: The session's id; `None` for the next available session.
        lock_id: The lock id of the holder.

    Attributes:
        state: Where the session stands.
        session_id: The session's id; `None` until Azure has granted a session.
        error: Why the session is over; `None` while it is not.
        is_shared: Whether another call than the one that took the lock has used the session.
        opened: Gets `True` when the lock is granted, `False` when no session came, else the error.
        client: Who holds the session, for people; ``""`` if the client did not say.
        released: Gets `None` when the session is over and, after a release, Azure has confirmed the detach.
    """

    def __init__(self, owner: SessionOwner, entity: str, session_id: str | None, lock_id: str) -> None:
        self.entity = entity
        self.session_id = session_id
        self.lock_id = lock_id
        self.client: str = ""
        self.state: SessionState = SessionState.CLAIMED
        self.error: QueueError | None = None
        self.is_shared: bool = False
        self.opened: Future[bool] = Future()
        self.released: Future[None] = Future()
        self.unsettled: UnsettledMessages = UnsettledMessages(self, owner.history)
        self.receives: PendingReceives = PendingReceives(self, self.unsettled, owner.offers, owner.loop)
        self.contenders: Contenders = Contenders(owner.loop, lambda: self.lose("Azure granted it to another link"))
        known_state = KnownState()
        self.requests: SessionRequests = SessionRequests(self, known_state)
        self.lock: LockTimer = LockTimer(self, self.receives, self.requests, owner.clock, owner.loop)
        self._relock = Relock(self, self.unsettled, self.receives, known_state, owner.loop)
        self._owner = owner
        self._loop = owner.loop
        self._connection: AuthorizedConnection | None = None
        self._link: SessionLink | None = None
        self._opening = Opening(owner.loop, self._on_open_timeout)
        self._may_return = False

    def _advance(self, event: SessionEvent) -> bool:
        """Go to the next state; return `False` if the event is ignored."""
        following = next_state(self.state, event)
        if following is not None:
            self.state = following
        return following is not None

    @property
    def link(self) -> SessionLink | None:
        """The link, while the lock is known to be held by it."""
        if self.state is not SessionState.HELD or self._connection is None or self._connection.is_closed:
            return None
        return self.attached_link

    @property
    def attached_link(self) -> SessionLink | None:
        """The link, while it is attached, also while the session is being checked."""
        link = self._link
        return link if link is not None and link.attached and self.state.has_lock else None

    @property
    def is_stopping(self) -> bool:
        """Whether receives must end without waiting."""
        return self._owner.is_stopping

    # Taking the lock

    def connect(self, connection: AuthorizedConnection, timeout: float) -> None:
        """Ask for the lock, the first time or again. Azure may wait `timeout` seconds for a session to be free."""
        if not self._advance(SessionEvent.CONNECT):
            return
        if self.state is SessionState.RELOCKING:
            self._relock.on_attach_sent()
        self._attach(connection, timeout)

    def _attach(self, connection: AuthorizedConnection, timeout: float) -> None:
        self._connection = connection
        self._link = SessionLink(self, self.entity, self.session_id, timeout)
        if self.state is SessionState.OPENING:
            self._opening.begin(timeout)
        connection.attach(self._link)

    def _on_open_timeout(self) -> None:
        self.fail(ConnectionFailedError(f"{self.entity}: Azure did not answer the session attach", maybe_delivered=True))

    def on_attached(self, link: SessionLink, attach: Attach) -> None:
        """Handle Azure's attach: it names the session that was granted."""
        if link is not self._link or self.state.is_over:
            link.detach()
            return
        granted, error = link.granted(attach)
        if granted is None:
            # The session cannot be used, or no session was granted. The detach that follows says why.
            link.detach()
            if error is not None:
                self.fail(error)
        elif self.session_id is not None or not self._is_contested(link, attach, granted):
            self._on_granted(attach, granted)

    def _is_contested(self, link: SessionLink, attach: Attach, session_id: str) -> bool:
        """Return whether this process has another `HeldSession` with this id, which must decide about the grant first."""
        rival = self._owner.held(self.entity, session_id)
        if rival is None:
            return False
        if rival.attached_link is not None:
            # Azure has ended that link, or is about to. Its error shows whether the lock was lost.
            self._advance(SessionEvent.CONTEST)
            rival.contenders.add(lambda: self.on_attached(link, attach))
            return True
        if rival.state in (SessionState.LINK_LOST, SessionState.RELOCKING):
            # The session has a holder here, which only lost its link.
            self._advance(SessionEvent.PASS_ON)
            self._link = None
            rival._adopt(link, attach, self._connection)
            self._ask_for_another()
            return True
        return False

    def _ask_for_another(self) -> None:
        """Ask for another session in the time that is left: the one that was granted has a holder."""
        left = self._opening.left()
        self._opening.end()
        if left > 0 and self._connection is not None:
            self._attach(self._connection, left)
        else:
            self.withdraw()

    def _on_granted(self, attach: Attach, session_id: str) -> None:
        self._advance(SessionEvent.GRANT)
        self.session_id = session_id
        self.lock.on_granted(locked_until(attach.properties))
        if self.state is SessionState.VERIFYING:
            self._relock.on_attached()
            return
        self._opening.end()
        self._owner.on_opened(self)
        self.opened.set_result(True)
        self.receives.serve()
        self.lock.plan()

    # The link

    def on_message(self, link: SessionLink, delivery_id: int, delivery_tag: bytes, payload: bytes) -> None:
        """Handle a message."""
        if link is not self._link or self.state.is_over:
            return
        message = UnsettledMessage(token_of(delivery_tag), delivery_id, payload, link)
        if self.state is SessionState.VERIFYING:
            self._relock.on_message(message)
        else:
            self.receives.on_message(message)

    def on_drained(self, link: SessionLink) -> None:
        """Handle the answer to a drain."""
        if link is not self._link or self.state.is_over:
            return
        if self.state is SessionState.VERIFYING:
            self._relock.on_drained()
        else:
            self.receives.on_drained()

    def on_link_ended(self, link: SessionLink, error: Condition | None) -> None:
        """Handle the end of the link."""
        if self._connection is not None:
            self._connection.distrust(self.entity, error)
        if link is not self._link:
            return
        if self.state is SessionState.RELEASING:
            self._advance(SessionEvent.DETACH)
            self.released.set_result(None)
        elif self.state.is_opening:
            self._end_opening(error)
        elif self.state.has_lock:
            self._on_link_lost(error)

    def _end_opening(self, error: Condition | None) -> None:
        if self.session_id is None and (error is None or error.condition == TIMEOUT):
            self.withdraw()
        else:
            event = SessionEvent.DETACH if error is None or error.condition in LOST_LINK else SessionEvent.REFUSE
            self._end(event, error_of(error, entity=self.entity, session_id=self.session_id))

    def _on_link_lost(self, error: Condition | None) -> None:
        self._advance(SessionEvent.DETACH)
        self.receives.forget_ready()
        self._relock.on_link_lost(error)
        self.contenders.on_link_ended()
        self.receives.serve()
        self.lock.plan()

    # Taking the lock again

    def request_connection(self, pause: float) -> None:
        """Have `connect` called when there is a connection, after `pause` seconds."""
        self._owner.request_connection(self, pause)

    def give_link_up(self) -> None:
        """Let go of a link by which the lock was not taken again in time, and take it by another one."""
        self._drop_link()
        self._on_link_lost(None)

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.detach()

    def _adopt(self, link: SessionLink, attach: Attach, connection: AuthorizedConnection | None) -> None:
        """Take the lock again by the link of an accept to which Azure granted this session."""
        self._drop_link()
        self._link, self._connection = link, connection
        link.pass_to(self)
        self.on_attached(link, attach)

    def on_verified(self) -> None:
        """Hold the session again: no other holder had it while its link was lost."""
        self._advance(SessionEvent.VERIFY)
        self._relock.on_verified()
        unconfirmed = self.unsettled.unconfirmed()
        if any_returns(unconfirmed):
            self.receives.return_ready()
        self.unsettled.send(unconfirmed)
        self.requests.resume()
        self.receives.serve()
        self.lock.plan()

    # Receiving and settling

    def receive(self, receive: PendingReceive) -> None:
        """Give messages to a receive as soon as there are any."""
        if self.error is not None:
            receive.future.set_exception(self.error)
            return
        if self.receives.add(receive):
            if self.is_stopping:
                receive.patience = Patience.TIME_IS_UP
            self.lock.renew_if_due()
            self.receives.serve()
            self.lock.plan()

    def settle(self, settlements: Sequence[Settlement], results: SettlementResults) -> None:
        """Settle messages.

        Each result is `None` or an error code. The future gets a `QueueError` where Azure failed for the time being.
        """
        self.receives.withdraw_offer()
        messages = self.unsettled.begin(settlements, results)
        if any_returns(messages):
            # They come before messages that were fetched ahead, and in their order: Azure may send each of them at once.
            messages.sort(key=lambda message: message.sequence_number)
            self.receives.clear(lambda: self.unsettled.send(messages))
            return
        self.unsettled.send(messages)
        if len(messages) == 1:
            self.receives.fetch_ahead()

    # Requests about the session

    def send_request(self, operation: str, body: dict[str, Any], on_answer: OnAnswer) -> None:
        """Send a request about the session to the management node, by the present link."""
        if self._connection is not None and self._link is not None:
            body = {"session-id": self.session_id, **body}
            self._connection.manage(self.entity, operation, body, on_answer, self._link.name)

    # The end

    def lose(self, why: str) -> None:
        """End the session: its lock is lost."""
        about: About = {"queue": self.entity, "session_id": self.session_id}
        logger.info("the lock of session %r of %r is lost: %s", self.session_id, self.entity, why, **about)
        self._end(SessionEvent.LOSE, self._not_held(f"the lock of session {self.session_id!r} is lost: {why}"))

    def expire(self) -> None:
        """End the session, whose lock is about to expire. Azure's expiry detaches the link, and counts the deliveries."""
        link = self.attached_link
        if link is not None:
            self._link = None
            ExpiringLink(link, [*self.receives.take_ready(), *self.unsettled.unused(link)], self._loop)
        self.lose("it was not renewed in time")

    def fail(self, error: QueueError) -> None:
        """End the session with an error: its lock is lost, or cannot be taken."""
        self._end(SessionEvent.LOSE if self.state.has_lock else SessionEvent.REFUSE, error)

    def withdraw(self) -> None:
        """End the wait for the lock, without an error: no session came in time, or nobody waits for it."""
        self._end(SessionEvent.WITHDRAW, self._not_held("no session came in time, or nobody waits for it"))

    def supersede(self) -> None:
        """End the wait for the lock: the caller tried again."""
        self._end(SessionEvent.SUPERSEDE, self._not_held("another attempt of this accept replaced this one"))

    def release(self, *, may_return: bool = False) -> Future[None]:
        """Give the lock back; the future is done when Azure has it. The holder may take it again if `may_return` is true."""
        self._may_return = may_return
        if self.state.has_lock:
            self.receives.end(None)
        self._end(SessionEvent.RELEASE, self._not_held(f"session {self.session_id!r} was released"))
        return self.released

    def _not_held(self, why: str) -> SessionNotFoundError:
        return SessionNotFoundError(f"{self.entity}: {why}", code=SESSION_LOCK_LOST)

    def _end(self, event: SessionEvent, error: QueueError) -> None:
        """End the session, and everything that waits in it."""
        before = self.state
        if not self._advance(event) or self.error is not None:
            return
        self.error = error
        self.lock.stop()
        self._opening.end()
        self._relock.stop()
        self.unsettled.end()
        self._owner.on_ended(self, had_lock=before.has_lock and not self._may_return)
        if before.is_opening:
            if self.state in (SessionState.NOT_GRANTED, SessionState.SUPERSEDED):
                self.opened.set_result(False)
            else:
                self.opened.set_exception(error)
        self.receives.end(error)
        self.requests.resume()
        if self._link is not None:
            self._link.detach()
        self.contenders.on_link_ended()
        if self.state is not SessionState.RELEASING and not self.released.done():
            self.released.set_result(None)
