"""One session's lock on Azure, as its holder's: the link that holds it, what came by it, and who waits for more.

Everything here belongs to the loop's thread. `broker` brings the callers, `table` knows which sessions are held.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from .... import amqp
from ....amqp import ABSENT, Attach, Condition, Response
from ....errors import ConnectionFailedError, ProviderError, QueueError, SessionNotFoundError
from ....protocol.error_codes import SESSION_LOCK_LOST
from ..authorized_connection import Uplink, address_of
from ..error_mapping import SESSION_LOCK_LOST_CONDITION, TIMEOUT, error_of
from ..lock_clock import MIN_LOCK_DURATION
from ..message_mapping import token_of
from ..transport.links import CONNECTION_LOST, Receiver
from ..transport.loop import Timer
from .pending_receives import Waiting
from .relock import Retaking
from .unsettled import InHand, Settling

if TYPE_CHECKING:
    from .registry import Table

logger = logging.getLogger(__name__)

#: The part of a lock's life that is left when it is renewed for those who wait.
RENEW_PART = 0.5
#: The part that is left when what came ahead goes back: a lock's expiry would count as its delivery.
CLEAR_PART = 0.1
#: Seconds between 0001-01-01, which Azure counts ticks of 100 ns from, and 1970.
_TICKS_EPOCH = 62135596800
#: Seconds that the answer to a wish for a session may take beyond the time that Azure was given for it.
ANSWER_TIME = 10.0
#: Seconds in which Azure tells of a link's end after it gave the link's session to another one.
HEIR_PATIENCE = 1.0


class SessionLink(Receiver):
    """The link that holds a session's lock. Its events are its session's."""

    def __init__(self, session: HeldSession, session_id: str | None, timeout: float) -> None:
        properties = {"com.microsoft:timeout": amqp.Uint(max(1, min(int(timeout * 1000), 0xFFFFFFFF)))}
        super().__init__(
            f"azsession-{uuid.uuid4()}", address_of(session.entity), session_id=session_id, properties=properties
        )
        self._session = session

    def serve(self, session: HeldSession) -> None:
        """Be another session's from now on."""
        self._session = session

    def on_attached(self, attach: Attach) -> None:
        super().on_attached(attach)
        self._session.on_attached(self, attach)

    def on_message(self, delivery_id: int, delivery_tag: bytes, payload: bytes) -> None:
        self._session.on_message(self, delivery_id, delivery_tag, payload)

    def on_drained(self) -> None:
        self._session.on_drained(self)

    def on_ended(self, error: Condition | None) -> None:
        self._session.on_link_ended(self, error)


class HeldSession:
    """A session's lock, from the wish to have it until it was lost or released.

    Attributes:
        session_id: The session; `None` until the next available one is known.
        lock_id: The holder.
        opened: Resolved when the lock is taken: with whether one was, or why not.
        lost_link: It was not refused, but its link was lost before there was an answer.
        superseded: Another try of the same request took its place.
        over: Why it is over; `None` while it is not.
        expires: When the lock ends unless renewed, on the monotonic clock.
    """

    def __init__(self, table: Table, entity: str, session_id: str | None, lock_id: str) -> None:
        self.entity = entity
        self.session_id = session_id
        self.lock_id = lock_id
        self.opened: Future[bool] = Future()
        self.over: QueueError | None = None
        self.superseded = self.lost_link = False
        self.expires = 0.0
        self.uplink: Uplink | None = None
        self.settling = Settling(self)
        self.retaking = Retaking(self)
        self.waiting = Waiting(self)
        self.table = table
        self._loop = table.loop
        self._link: SessionLink | None = None
        self._duration = 0.0
        self._lock_timer: Timer | None = None
        self._lock_timer_due = 0.0
        self._renewing = False
        self._released: Future[None] | None = None
        self._until = 0.0
        self._open_timer: Timer | None = None
        #: Who was given the session while this one's link seemed to be there.
        self._heirs: list[tuple[Callable[[], object], Timer]] = []
        #: Requests about the session that wait for its link.
        self._asking: list[Callable[[], object]] = []

    # Taking the lock

    def attach(self, uplink: Uplink, timeout: float) -> None:
        """Ask for the lock."""
        if self.over is not None:
            return
        self.uplink = uplink
        self._link = SessionLink(self, self.session_id, timeout)
        if not self.opened.done():
            self._until = time.monotonic() + timeout
            # Azure's own wait ends a little before.
            self._open_timer = self._loop.later(timeout + ANSWER_TIME, self._opened_late)
        uplink.connection.attach(self._link)

    def _opened_late(self) -> None:
        if not self.opened.done():
            self.end(
                ConnectionFailedError(f"{self.entity}: Azure did not answer the wish for a session", maybe_delivered=True)
            )

    @property
    def link(self) -> SessionLink | None:
        """The link, while the lock is held by it."""
        if self.retaking.under_way or self.uplink is None or self.uplink.connection.closed:
            return None
        return self.raw_link

    @property
    def link_name(self) -> str | None:
        """The name of the link, for management requests about the session."""
        return None if self._link is None else self._link.name

    def on_attached(self, link: SessionLink, attach: Attach) -> None:
        if link is not self._link or self.over is not None:
            link.detach()
            return
        granted = attach.session_id
        if granted is ABSENT or not isinstance(granted, str):
            granted = self.session_id
        if granted is None:
            # None was granted: why, the detach tells that follows, or the answer to ours.
            link.detach()
            return
        if self.session_id is not None and granted != self.session_id:
            link.detach()
            self.end(ProviderError(f"{self.entity}: Azure granted another session than was asked for"))
            return
        if self.session_id is None:
            other = self.table.held(self.entity, granted)
            if other is not None and other.raw_link is not None:
                # That link is gone, too, or soon will be: how it ended comes next, and decides.
                other.leave_to(lambda: self.on_attached(link, attach))
                return
            if other is not None and other.retaking.under_way:
                # It had lost its link only: it is nobody's to accept.
                self._link = None
                other.adopt(link, attach, self.uplink)
                self._ask_for_another()
                return
        self.session_id = granted
        ticks = attach.properties.get("com.microsoft:locked-until-utc")
        self._set_expiry(ticks / 1e7 - _TICKS_EPOCH if isinstance(ticks, int) else None)
        if not self.opened.done():
            self.table.on_opened(self)
            self.opened.set_result(True)
            self.waiting.pump()
            self.plan()
        else:
            self.retaking.attached()

    def leave_to(self, heir: Callable[[], object]) -> None:
        """Call `heir` when the link has ended, which Azure must have ended as it gave the session to another link."""
        late = self._loop.later(HEIR_PATIENCE, lambda: self.lose("Azure gave it away"))
        self._heirs.append((heir, late))

    def _call_heirs(self) -> None:
        heirs, self._heirs = self._heirs, []
        for heir, late in heirs:
            late.cancel()
            heir()

    def _ask_for_another(self) -> None:
        left = self._until - time.monotonic()
        if self._open_timer is not None:
            self._open_timer.cancel()
        if left > 0 and self.uplink is not None:
            self.attach(self.uplink, left)
        else:
            self._none_came()

    def _none_came(self) -> None:
        self.end(SessionNotFoundError("no session had messages in time", code=SESSION_LOCK_LOST), opened=False)

    def on_link_ended(self, link: SessionLink, error: Condition | None) -> None:
        if self.uplink is not None:
            self.uplink.distrust(self.entity, error)
        if self._released is not None:
            self._released.set_result(None)
            self._released = None
        if link is not self._link or self.over is not None:
            return
        if not self.opened.done():
            if self.session_id is None and (error is None or error.condition == TIMEOUT):
                self._none_came()
            else:
                self.lost_link = error is None or error.condition in _LOST_LINK
                self.end(error_of(error, entity=self.entity, session_id=self.session_id))
        else:
            self.waiting.forget_ready()
            self.retaking.begin(error)
            self._call_heirs()
            self.waiting.pump()
            self.plan()

    def lose(self, why: str) -> None:
        """End, as one whose lock is lost."""
        text = f"{self.entity}: the lock of session {self.session_id!r} is lost: {why}"
        logger.info("%s", text)
        self.end(SessionNotFoundError(text, code=SESSION_LOCK_LOST))

    # Its link was lost

    @property
    def raw_link(self) -> SessionLink | None:
        """The link that is attached, whether or not the lock is known to be the holder's by it."""
        return self._link if self._link is not None and self._link.attached else None

    def retake(self, uplink: Uplink, timeout: float) -> None:
        """Ask for the lock again, unless that is done."""
        if self.over is None and self.retaking.under_way and (self._link is None or self._link.ended):
            self.retaking.attaching()
            self.attach(uplink, timeout)

    def drop_link(self) -> None:
        """Let go of a link that does not do."""
        link, self._link = self._link, None
        if link is not None:
            link.detach()

    def adopt(self, link: SessionLink, attach: Attach, uplink: Uplink | None) -> None:
        """Go on with a link that asked for any session, and was given this one while it had none."""
        self.drop_link()
        self._link, self.uplink = link, uplink
        link.serve(self)
        self.on_attached(link, attach)

    def on_retaken(self) -> None:
        """The lock is known to be the holder's again."""
        self.settling.resume()
        waiting, self._asking = self._asking, []
        for ask in waiting:
            ask()
        self.waiting.pump()
        self.plan()

    # What comes by the link

    def on_drained(self, link: SessionLink) -> None:
        if link is self._link and self.over is None:
            (self.retaking if self.retaking.under_way else self.waiting).on_drained()

    def on_message(self, link: SessionLink, delivery_id: int, delivery_tag: bytes, payload: bytes) -> None:
        if link is self._link and self.over is None:
            message = InHand(token_of(delivery_tag), delivery_id, payload, link)
            (self.retaking if self.retaking.under_way else self.waiting).on_message(message)

    # The lock's time

    def left(self) -> float:
        """Return the seconds that the lock has left."""
        return max(0.0, self.expires - time.monotonic())

    def _set_expiry(self, instant: float | None) -> None:
        """Note until when Azure says that the lock lasts, in seconds since 1970; `None` where it does not say."""
        left = MIN_LOCK_DURATION if instant is None else self.table.clock.left(instant)
        self.expires = time.monotonic() + left
        self._duration = max(self._duration, self.left())
        self.plan()

    def plan(self) -> None:
        """Look at the lock again when it ends, or, while somebody waits, when it is worth renewing."""
        if self.over is not None or not self.opened.done():
            return
        due = self.expires
        if self.waiting.waits and not self._renewing and self.link is not None:
            due -= self._duration * RENEW_PART
        elif self.waiting.has_ahead:
            due -= self._duration * CLEAR_PART
        if self._lock_timer is not None:
            if self._lock_timer_due <= due:
                # Every receive comes here: a look too early costs less than a timer for each.
                return
            self._lock_timer.cancel()
        self._lock_timer_due = due
        self._lock_timer = self._loop.later(due - time.monotonic(), self._look_at_lock)

    def _look_at_lock(self) -> None:
        self._lock_timer = None
        if self.left() <= 0.0:
            self.lose("it was not renewed in time")
            return
        if self.waiting.waits and self.left() <= self._duration * RENEW_PART + 0.01:
            self._renew_for_holder()
        elif self.waiting.has_ahead and self.left() <= self._duration * CLEAR_PART + 0.01:
            self.waiting.clear(lambda: None)
        self.plan()

    def renew_if_due(self) -> None:
        """Renew the lock if less than half of it is left."""
        if self.opened.done() and self.left() < self._duration * RENEW_PART:
            self._renew_for_holder()

    def _renew_for_holder(self) -> None:
        """Renew the lock: a receive does that, and one that waits goes on doing it."""
        if self._renewing or self.link is None:
            return
        self._renewing = True

        def renewed(answer: Response | Condition) -> None:
            # A failure is not tried again at once, but well before the lock ends.
            self._loop.later(0.0 if isinstance(answer, Response) else max(0.1, self._duration * 0.1), pause_over)

        def pause_over() -> None:
            self._renewing = False
            self.plan()

        self.renew(renewed)

    def renew(self, done: Callable[[Response | Condition], object]) -> None:
        """Ask for more time."""

        def answered(answer: Response | Condition) -> None:
            if isinstance(answer, Response):
                until = answer.body.get("expiration") if isinstance(answer.body, dict) else None
                if isinstance(until, int) and self.over is None:
                    self._set_expiry(until / 1000)
            done(answer)

        self.ask("renew-session-lock", {}, answered)

    def ask(self, operation: str, body: dict[str, Any], done: Callable[[Response | Condition], object]) -> None:
        """Ask the management node about the session, as soon as its link is there; the request must be one to repeat."""
        link, uplink = self.link, self.uplink
        if self.over is not None:
            done(Condition(SESSION_LOCK_LOST_CONDITION, "", {}))
            return
        if link is None or uplink is None:
            self._asking.append(lambda: self.ask(operation, body, done))
            return
        if operation == "set-session-state":
            self.retaking.state_may_be(body["session-state"])

        def answered(answer: Response | Condition) -> None:
            if isinstance(answer, Condition):
                if answer.condition in (CONNECTION_LOST, SESSION_LOCK_LOST_CONDITION) and self.link is not link:
                    # It is not known whether it was done; by the next link it is.
                    self.ask(operation, body, done)
                    return
                if answer.condition == SESSION_LOCK_LOST_CONDITION:
                    self.lose("Azure says so")
            elif operation == "set-session-state":
                self.retaking.state_is(body["session-state"])
            elif operation == "get-session-state" and isinstance(answer.body, dict):
                self.retaking.state_is(answer.body.get("session-state"))
            done(answer)

        uplink.manage(self.entity, operation, {"session-id": self.session_id, **body}, answered, self.link_name)

    # The end

    def end(self, error: QueueError, *, opened: bool | None = None) -> None:
        """Note that the lock is gone, and tell all who wait for something of it."""
        if self.over is not None:
            return
        self.over = error
        for timer in (self._lock_timer, self._open_timer):
            if timer is not None:
                timer.cancel()
        self.retaking.stop()
        self.settling.end()
        self.table.on_ended(self)
        if not self.opened.done():
            if opened is None:
                self.opened.set_exception(error)
            else:
                self.opened.set_result(opened)
        self.waiting.end(error)
        waiting, self._asking = self._asking, []
        for ask in waiting:
            ask()
        if self._link is not None:
            self._link.detach()
        self._call_heirs()

    def release(self) -> Future[None]:
        """Give the lock back; the future tells when Azure has it."""
        released: Future[None] = Future()
        link = self._link
        self.waiting.end(None)
        if self.over is not None or link is None or link.ended:
            released.set_result(None)
        else:
            self._released = released
        self.end(SessionNotFoundError(f"{self.entity}: session {self.session_id!r} was released", code=SESSION_LOCK_LOST))
        return released


#: What links end with that were not refused: Azure makes room, or moves to another machine.
_LOST_LINK = frozenset({CONNECTION_LOST, "amqp:link:detach-forced", "amqp:connection:forced"})
