"""`Holder`: the internals of a `SessionClient`.

A holder sends the calls of one session, and changes the session's lock according to the responses. It is used by
`SessionClient`, the functions of `receiving` and `settling`, `ProviderCore`, `SessionProcessor` and the `Renewer`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import attrs

from .. import interrupts
from ..errors import (
    ConnectionFailedError,
    InvalidReceiptError,
    QueueError,
    QueueNotFoundError,
    SessionLockedError,
    SessionNotFoundError,
)
from ..logs import About, SessionLogger, get_logger
from ..messages import ReceiptHandle, ReceivedMessage
from ..protocol.error_codes import SESSION_LOCK_LOST
from ..protocol.routes import is_fragile, must_be_escaped
from ..telemetry import Telemetry
from ..validation import check_flag, seconds
from . import operations
from .call import Call, SessionTarget
from .cancellation import PendingCalls
from .lock_term import LockExpiredError
from .responses import LockGrant
from .server_connection import ServerConnection
from .session_lock import SessionLock, Stage
from .transport import Transport

logger: SessionLogger = get_logger(__name__)

T = TypeVar("T")

#: Seconds in which a release must be answered, and in which it is retried. They are few, because the lock expires anyway.
RELEASE_PATIENCE = 2.5
#: The longest pause, in seconds, before a failed renewal is tried again.
RENEW_AGAIN = 1.0


def _max_renewal(value: float | timedelta | None) -> float | None:
    return None if value is None else seconds(value, "max_renewal")


def _auto_renew(value: bool) -> bool:
    return check_flag(value, "auto_renew")


@attrs.frozen
class LockOptions:
    """How a client treats its lock.

    Attributes:
        session_timeout: Seconds that the lock is expected to last if the server does not say.
        auto_renew: Renew the lock in the background.
        max_renewal: Seconds after the start of the lock at which the renewal stops. `None`: it never stops.
    """

    session_timeout: float
    auto_renew: bool = attrs.field(default=True, converter=_auto_renew)
    max_renewal: float | None = attrs.field(default=None, converter=_max_renewal)


class Holder:
    """One session's holder. Safe to use from many threads: everything that they share is in `lock`.

    Args:
        connection: The way to the server.
        session_id: The session.
        queue_name: The queue.
        options: How to treat the lock.
        on_lost: Called once with the error when the lock is found to be lost.
        owns_connection: `close` closes the connection, too.

    Attributes:
        lock: The state of the session's lock.
        pending: The receives that wait. `shut` and `stop_waiting` cancel them.
        renewals: The renewals that wait. `shut` cancels them.
        is_releasing: A settlement releases the lock, too. Only renewals go on, and one that is refused finds no lost lock.
    """

    def __init__(
        self,
        connection: ServerConnection,
        session_id: str,
        queue_name: str,
        options: LockOptions,
        *,
        on_lost: Callable[[SessionNotFoundError], object] | None = None,
        owns_connection: bool = False,
    ) -> None:
        self.connection = connection
        self.transport: Transport = connection.transport
        self.session_id = session_id
        self.queue_name = queue_name
        self.options = options
        self.lock: SessionLock = SessionLock(f"the session {session_id!r} of {queue_name!r}", options.session_timeout)
        self.pending: PendingCalls = PendingCalls()
        self.renewals: PendingCalls = PendingCalls()
        self._on_lost = on_lost
        self._owns_connection = owns_connection
        self._renew_until: float | None = None
        self._is_released = self._is_watched = self._grant_combines = False
        self.is_releasing: bool = False
        connection.add_client(self)

    @property
    def is_lost(self) -> bool:
        """Whether the lock is known to be lost or expired."""
        try:
            self.lock.check(settling=True)
        except LockExpiredError as expired:
            self._lose(expired.error)
        except SessionNotFoundError:
            pass
        return self.lock.error is not None

    @property
    def combines(self) -> bool:
        """Whether the gateway that has the lock is known to take two steps in one request."""
        return self._grant_combines and self.lock.is_live

    @property
    def telemetry(self) -> Telemetry:
        """Describes the operations on the session to OpenTelemetry."""
        return self.connection.telemetry

    @property
    def about(self) -> About:
        """The fields of a log record about the session."""
        return {"queue": self.queue_name, "session_id": self.session_id}

    # Start and end

    def accepted(self, grant: LockGrant, lock_id: str) -> None:
        """Note that the provider accepted the session under this lock id, with its first messages."""
        self.lock.take_over(lock_id)
        self.refresh(grant)
        self.lock.register(grant.messages)
        self.lock.put_ahead(grant.messages)

    def adopt(self, receipt: ReceiptHandle) -> None:
        """Note the receipt of a message that another process received, so that it can be settled here."""
        self.lock.adopt(receipt)

    def resume(self, lock_id: str, lasts: float) -> None:
        """Hold the lock that another process handed over. It is renewed at once, in the background."""
        self.lock.resume(lock_id, (self.queue_name, self.session_id), lasts)
        if self.options.max_renewal is not None:
            self._renew_until = time.monotonic() + self.options.max_renewal
        self._is_watched = True
        self.connection.renewer.watch(self)
        logger.info("took over %s from another process", self.lock.name, **self.about)

    def detach(self) -> None:
        """Refuse further calls, and leave the lock to another process. Idempotent."""
        self._is_released = True
        is_new = not self.lock.closed
        self.shut()
        if is_new:
            logger.info("left %s to another process", self.lock.name, **self.about)
        if self._owns_connection:
            self.connection.close()

    def shut(self) -> bool:
        """Refuse further calls and cancel those that wait. Return whether there is a lock to release.

        After an interrupt, a second call continues. It returns `True` until `release` has ended.
        """
        self.lock.close()
        self.pending.stop()
        self.renewals.stop()
        may_be_locked = self.lock.stage in (Stage.REQUESTED, Stage.HELD) and self.lock.error is None
        return may_be_locked and not self._is_released and self.transport.may_speak_v1

    def release(self) -> bool:
        """Release the lock. A failure is logged, not raised. Return whether the server answered."""
        call = operations.release(self.target())
        call.response_timeout = call.retry_within = RELEASE_PATIENCE
        has_answered = True
        try:
            self.transport.send(call)
        except QueueError as error:
            if interrupts.raised_by_handler(error):
                raise
            has_answered = not isinstance(error, ConnectionFailedError)
            # A server that has shown no dialect yet can be one of the plain dialect, which has no release. A queue that does
            # not exist has no locks.
            may_last = self.transport.speaks_v1 and not isinstance(error, QueueNotFoundError)
            level = logging.WARNING if may_last or not has_answered else logging.DEBUG
            text = "%s could not be released, its lock lasts until it expires: %s"
            logger.log(level, text, self.lock.name, error, **self.about)
        else:
            self.released()
        self._is_released = True
        return has_answered

    def released(self) -> None:
        """Note that the server released the lock."""
        self._is_released = True
        logger.info("released %s", self.lock.name, **self.about)

    def close(self) -> None:
        """Close the session and release its lock. Idempotent. After an interrupt, a second call continues."""
        if self.shut():
            self.release()
        if self._owns_connection:
            self.connection.close()

    def after_fork(self) -> None:
        """In a forked child: leave the session to the parent process."""
        self.lock.after_fork()
        self.pending, self.renewals = PendingCalls(), PendingCalls()

    # Renewal, for the renewer

    def renewal_due(self) -> float | None:
        """Return when to call `renew_in_background`, on the monotonic clock. `None`: never again."""
        if not self.lock.is_live:
            return None
        if self.options.auto_renew and (self._renew_until is None or time.monotonic() < self._renew_until):
            return self.lock.term.renew_at
        # No automatic renewal, but report the expiry.
        return self.lock.term.deadline if self._on_lost is not None else None

    def renew_in_background(self) -> float | None:
        """Renew the lock, or report its expiry. Return when to come back. `None`: never again."""
        if self.is_lost or self.lock.closed:
            return None
        due = self.renewal_due()
        if due is None or due > time.monotonic():  # A receive has extended the lock, or only the expiry is to be reported.
            return due
        left = self.lock.seconds_left()
        call = operations.renew(self.target())
        # A request on a dead connection gets no answer. It must leave time for another attempt.
        call.response_timeout = max(left / 3, min(left / 2, 1.0))
        call.retry_within = 0.0
        try:
            self.send_for_lock(call, self.renewals)
        except SessionNotFoundError:
            return None
        except Exception as error:
            # Not only errors of the package: a hook of the caller's `requests.Session` can raise any. Log the error's text
            # only. A handler that keeps its records would keep the error's frames, and so this holder.
            text = str(error) if isinstance(error, QueueError) else repr(error)
            failed = "the lock of %s could not be renewed yet, %.1f s are left: %s"
            logger.warning(failed, self.lock.name, left, text, **self.about)
            return time.monotonic() + self._pause_after(error)
        logger.debug("renewed the lock of %s, %.1f s are left", self.lock.name, self.lock.seconds_left(), **self.about)
        return self.renewal_due()

    def _pause_after(self, error: Exception) -> float:
        """Return the seconds until a failed renewal is tried again."""
        left = self.lock.seconds_left()
        if left <= 0.2:
            return max(0.0, left)
        retry_after = error.retry_after if isinstance(error, QueueError) else None
        pause = max(min(RENEW_AGAIN, left / 4), min(retry_after or 0.0, left / 2))
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret

    # For the processor

    def stop_waiting(self) -> None:
        """Cancel the receives that wait, and later ones. The session is about to be closed."""
        self.pending.stop()

    def has_settled(self, message: ReceivedMessage) -> bool:
        """Return whether a message that was received here is settled while the lock is still held."""
        # In this order: a thread that closes the session or loses its lock says so before it forgets the receipts.
        try:
            self.lock.resolve(message)
        except InvalidReceiptError:
            return not self.lock.closed and not self.is_lost
        return False

    # Calls

    def target(self) -> SessionTarget:
        """Return the session's properties that a call needs."""
        lock = self.lock
        return SessionTarget(self.queue_name, self.session_id, lock.lock_id, lock.route, escaped=self._is_escaped())

    def _is_escaped(self) -> bool:
        """Return whether requests write the session id in the escaped form.

        Raises:
            UnsupportedOperationError: The server speaks only the plain dialect, which cannot carry this session id.
        """
        if must_be_escaped(self.session_id):
            self.transport.require_v1(f"carry the session id {self.session_id!r}")
            return True
        return self.transport.speaks_v1 and is_fragile(self.session_id)

    def check(self, *, settling: bool = False) -> None:
        """Return if a call makes sense. A forked child may settle (`settling`), but nothing else.

        Raises:
            SessionNotFoundError: The session was closed, its lock is lost, or it belongs to another process.
        """
        self.connection.renewer.ensure_thread()
        try:
            self.lock.check(settling=settling, closed=self.is_releasing)
        except LockExpiredError as expired:
            self._lose(expired.error)
            raise expired.error from None

    def require_lock(self, operation: str) -> None:
        """Take the lock if it is not held yet, for an operation that only the holder may do."""
        self.check()
        self.transport.require_v1(operation)
        if self.lock.stage is not Stage.HELD:
            lock_id, lasts = self.lock.request(), self.options.session_timeout
            grant = self.send(operations.accept(self.queue_name, self.session_id, lock_id, None, lasts))
            if grant is not None:
                self.refresh(grant)

    def send_for_lock(self, call: Call[LockGrant], pending: PendingCalls | None = None) -> LockGrant:
        """Send a call that takes or renews the lock."""
        self.lock.request()
        grant = self.send(call, pending or self.pending)
        self.refresh(grant)
        return grant

    def take_offered(self, request_id: str) -> LockGrant | None:
        """Return the lock and a message that needs no request; `None` if it needs one. See `Transport.take_offered`."""
        if self.lock.stage is not Stage.HELD:
            return None
        grant = self.transport.take_offered(self.target(), request_id)
        if grant is not None:
            self.refresh(grant)
        return grant

    def send(self, call: Call[T], pending: PendingCalls | None = None) -> T:
        """Send a call that only the holder may make. The lock is lost if the response says so."""
        try:
            return self.transport.send(call, pending)
        except SessionNotFoundError as error:
            if not interrupts.raised_by_handler(error):
                self.check()
                self._lose(error)
            raise
        except (SessionLockedError, QueueNotFoundError) as error:
            if self.lock.stage is not Stage.HELD or interrupts.raised_by_handler(error):
                raise
            lost = SessionNotFoundError(f"the lock of {self.lock.name} is lost: {error}", code=SESSION_LOCK_LOST)
            self._lose(lost)
            raise lost from error
        except QueueError as error:
            if not interrupts.raised_by_handler(error):
                # If another thread closed the session meanwhile, report that instead.
                self.check()
            raise

    def found_lost(self, code: str) -> None:
        """Note that the response to a settlement says that the lock is lost."""
        if self.lock.stage is Stage.HELD:
            self._lose(SessionNotFoundError(f"the lock of {self.lock.name} is lost", code=code))

    def refresh(self, grant: LockGrant) -> None:
        """Note that the server granted or extended the lock."""
        self._grant_combines = grant.combines
        lasts = self.options.session_timeout if grant.duration is None else grant.duration
        is_due_earlier = self.lock.refresh(grant.sent_at, lasts, waited=grant.waited)
        # Also if an interrupt came before this in an earlier call.
        if self._renew_until is None and self.options.max_renewal is not None:
            self._renew_until = time.monotonic() + self.options.max_renewal
        if is_due_earlier or not self._is_watched:
            is_new = not self._is_watched
            self.connection.renewer.watch(self)
            self._is_watched = True
            if is_new:
                logger.info("took %s for %.1f s", self.lock.name, lasts, **self.about)

    def _lose(self, error: SessionNotFoundError) -> None:
        """Note that the lock is lost, and report it once."""
        if self.is_releasing or not self.lock.lose(error):
            return
        if self._on_lost is not None:
            try:
                self._on_lost(error)
            except Exception as failure:
                interrupts.let_pass(failure, error)
                logger.exception("on_lock_lost of %s failed", self.lock.name, **self.about)
        logger.info("the lock of %s is lost: %s", self.lock.name, error, **self.about)
