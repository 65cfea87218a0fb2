"""What a `SessionClient` is made of: its lock, how its calls go out, and what their answers do to the lock.

`SessionClient` adds the public operations; `ServiceBusProvider`, `SessionProcessor` and the renewer use the methods without
an underscore.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from ..errors import (
    ConnectionFailedError,
    InvalidReceiptError,
    QueueError,
    QueueNotFoundError,
    SessionLockedError,
    SessionNotFoundError,
)
from ..messages import ReceiptHandle, ReceivedMessage
from ..protocol.error_codes import SESSION_LOCK_LOST
from ..validation import MAX_BATCH, seconds
from . import operations
from .call import Call, SessionTarget
from .cancellation import PendingCalls
from .responses import LockGrant
from .server_connection import ServerConnection
from .session_lock import ExpiredError, HeldLock

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds in which a release must be answered, and in which it is tried again: the lock ends anyway.
RELEASE_PATIENCE = 2.5
#: Seconds after which a renewal that failed is tried again, at the most.
RENEW_AGAIN = 1.0


class Holder:
    """A session's holder, towards the server. Everything that threads share is in its `HeldLock`."""

    def _begin(
        self,
        link: ServerConnection,
        session_id: str,
        queue_name: str,
        session_timeout: float,
        auto_renew: bool,
        max_renewal: float | timedelta | None,
        on_lock_lost: Callable[[Any, SessionNotFoundError], object] | None,
    ) -> None:
        self._link = link
        self._transport = link.transport
        self._session_id = session_id
        self._queue_name = queue_name
        self._session_timeout = session_timeout
        self._auto_renew = auto_renew
        self._max_renewal = None if max_renewal is None else seconds(max_renewal, "max_renewal")
        self._on_lock_lost = on_lock_lost
        self._renew_until: float | None = None
        self._held = HeldLock(f"the session {session_id!r} of {queue_name!r}", session_timeout)
        self._under_way = PendingCalls()
        link.add_client(self)

    @property
    def is_lock_lost(self) -> bool:
        """Whether the lock began, and is known to be lost or over."""
        try:
            self._held.check(settling=True)
        except ExpiredError as expired:
            self._lose(expired.error)
        except SessionNotFoundError:
            pass
        return self._held.error is not None

    # For the provider and the renewer

    def begin(self, answer: LockGrant, lock_id: str) -> None:
        """Note that the provider has accepted the session under this lock id."""
        self._held.take_over(lock_id)
        self._refresh(answer)

    def adopt(self, receipt: ReceiptHandle) -> None:
        """Note a receipt that another process got, so that it can be settled here."""
        self._held.adopt(receipt)

    def renewal_due(self) -> float | None:
        """Return when `renew_in_background` is due, on the monotonic clock; `None` when there is nothing to do."""
        held = self._held
        if held.closed or held.error is not None or held.inherited or not held.begun:
            return None
        if self._auto_renew and (self._renew_until is None or time.monotonic() < self._renew_until):
            return held.renew_at()
        # Not renewed, but its end shall be told.
        return held.deadline() if self._on_lock_lost is not None else None

    def renew_in_background(self) -> float | None:
        """Renew the lock, or find that it is over; return when to come back."""
        if self.is_lock_lost or self._held.closed:
            return None
        due = self.renewal_due()
        if due is None or due > time.monotonic():  # A receive was quicker; and maybe only the lock's end was to be told.
            return due
        left = self._held.seconds_left()
        call = operations.renew(self._session())
        # A request that gets no answer, on a connection that is dead without anybody having told, must leave time for others.
        call.response_timeout = max(left / 3, min(left / 2, 1.0))
        call.retry_within = 0.0
        try:
            self._on_lock(call)
        except SessionNotFoundError:
            return None
        except QueueError as error:
            # Its text: a log that keeps its records would keep an error's frames, and this client with them.
            logger.warning("the lock of %s could not be renewed yet, %.1f s are left: %s", self._held.name, left, str(error))
            left = self._held.seconds_left()
            pause = max(min(RENEW_AGAIN, left / 4), min(error.retry_after or 0.0, left / 2))
            return time.monotonic() + max(0.0, pause * random.uniform(0.5, 1.0) if left > 0.2 else left)  # noqa: S311 - no secret
        return self.renewal_due()

    # For the processor

    def stop_waiting(self) -> None:
        """End a receive that waits, and those that come: the session is about to be closed."""
        self._under_way.stop()

    def keep_ahead(self, messages: Sequence[ReceivedMessage]) -> None:
        """Keep messages that were received for `next_ahead`, in front of what the server has."""
        self._held.put_ahead(messages)

    def next_ahead(self) -> ReceivedMessage | None:
        """Return the next of the messages kept; none once the lock is lost, or an abandoned message sent them back."""
        kept = self._held.take_ahead(1)
        return kept[0] if kept else None

    def forget_ahead(self) -> None:
        """Let go of the messages kept: they go back with the lock."""
        self._held.take_ahead(MAX_BATCH)

    def has_settled(self, message: ReceivedMessage) -> bool:
        """Whether a message that was received here is settled, and the lock is held still."""
        # In this order: who loses the lock or closes the session forgets all tokens after saying so.
        try:
            self._held.resolve(message)
        except InvalidReceiptError:
            return not self._held.closed and not self.is_lock_lost
        return False

    # For the provider

    def shut(self) -> bool:
        """Refuse calls from now on, and end those that wait; tell whether that is news, and leaves a lock to release."""
        was_lost, held = self._held.error is not None, self._held
        if not held.close():
            return False
        self._under_way.stop()
        return held.requested and not was_lost and not held.inherited and self._transport.speaks_v1

    def release(self) -> bool:
        """Give the lock back, and return whether the server answered; a failure is logged, not raised."""
        call = operations.release(self._session())
        call.response_timeout = call.retry_within = RELEASE_PATIENCE
        try:
            self._transport.send(call)
        except QueueError as error:
            logger.warning("%s could not be released, its lock holds until it expires: %s", self._held.name, str(error))
            return not isinstance(error, ConnectionFailedError)
        return True

    def after_fork(self) -> None:
        """In a forked child: the session stays the parent's."""
        self._held.after_fork()
        self._under_way = PendingCalls()

    # Common to all calls

    def _session(self) -> SessionTarget:
        return SessionTarget(self._queue_name, self._session_id, self._held.lock_id, self._held.route)

    def _check(self, *, settling: bool = False) -> None:
        try:
            self._held.check(settling=settling)
        except ExpiredError as expired:
            self._lose(expired.error)
            raise expired.error from None

    def _hold(self, operation: str) -> None:
        """Take the lock if it has not begun, for what only a holder may do."""
        self._check()
        self._transport.require_v1(operation)
        if not self._held.begun:
            answer = self._on_session(operations.accept(self._queue_name, self._session_id, self._held.request(), None))
            if answer is not None:
                self._refresh(answer)

    def _on_lock(self, call: Call[LockGrant]) -> LockGrant:
        """Send a call that takes or renews the lock."""
        self._held.request()
        answer = self._on_session(call, waits=True)
        self._refresh(answer)
        return answer

    def _refresh(self, answer: LockGrant) -> None:
        lasts = self._session_timeout if answer.duration is None else answer.duration
        if self._held.refresh(answer.sent_at, lasts, waited=answer.waited):
            if self._max_renewal is not None:
                self._renew_until = time.monotonic() + self._max_renewal
            self._link.renewer.watch(self)

    def _on_session(self, call: Call[T], *, waits: bool = False) -> T:
        """Send a call of the session's holder; an answer that says so loses the lock."""
        try:
            return self._transport.send(call, self._under_way if waits else None)
        except SessionNotFoundError as error:
            self._check()
            self._lose(error)
            raise
        except (SessionLockedError, QueueNotFoundError) as error:
            if not self._held.begun:
                raise
            lost = SessionNotFoundError(f"the lock of {self._held.name} is lost: {error}", code=SESSION_LOCK_LOST)
            self._lose(lost)
            raise lost from error
        except QueueError:
            # Closed by another thread meanwhile: that is the news, not how the request ended.
            self._check()
            raise

    def _found_lost(self, code: str) -> None:
        if self._held.begun:
            self._lose(SessionNotFoundError(f"the lock of {self._held.name} is lost", code=code))

    def _lose(self, error: SessionNotFoundError) -> None:
        """Note that the lock is lost, and tell whoever wanted to know, once."""
        if self._held.lose(error) and self._on_lock_lost is not None:
            try:
                self._on_lock_lost(self, error)
            except Exception:
                logger.exception("on_lock_lost of %s failed", self._held.name)
