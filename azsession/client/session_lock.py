"""A session's lock as its holder knows it, and the registry of the lock tokens of what was received under it.

`SessionClient` keeps one `HeldLock`; everything that its threads share of a session is in there, guarded by one lock that is
never held over a request.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from ..errors import InvalidReceiptError, SessionNotFoundError
from ..messages import ReceiptHandle, ReceivedMessage
from ..protocol.error_codes import SESSION_LOCK_LOST
from ..protocol.routes import route_of
from .redacted import Redacted

#: The part of a lock that is left when it is renewed: drawn between these, so that many do not fall together.
RENEW_AT = (0.5, 0.6)


class HeldLock:
    """The state of one session's lock. Safe to use from many threads.

    Before the first receive or accept that the server answered well it has not begun: there is nothing to lose then.

    Args:
        name: The session, for messages to people.
        session_timeout: Seconds that the lock lasts where the server does not tell.
    """

    def __init__(self, name: str, session_timeout: float) -> None:
        self.name = name
        self._lock = threading.Lock()  # Guards everything below.
        self._lock_id = str(uuid.uuid4())
        self._route = route_of(self._lock_id)
        self._begun = False
        self._requested = False
        self._inherited = False
        self._closed = False
        self._error: SessionNotFoundError | None = None
        self._lasts = session_timeout
        self._deadline = time.monotonic() + session_timeout
        self._expires_at = datetime.now(timezone.utc) + timedelta(seconds=session_timeout)
        self._renew_part = random.uniform(*RENEW_AT)  # noqa: S311 - no secret
        self._tokens: dict[str, ReceiptHandle] = {}
        self._buffer: deque[ReceivedMessage] = deque()
        self._unanswered: deque[str] = deque()

    @property
    def lock_id(self) -> str:
        """Who holds the session, for the server."""
        return self._lock_id

    @property
    def route(self) -> str:
        """Where its holder is, for what balances between several gateways."""
        return self._route

    @property
    def begun(self) -> bool:
        """The server gave the lock, at least once."""
        return self._begun

    @property
    def requested(self) -> bool:
        """The server was asked for the lock, and may have given it."""
        return self._requested

    @property
    def inherited(self) -> bool:
        """The lock is that of the process which this one was forked from."""
        return self._inherited

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def error(self) -> SessionNotFoundError | None:
        """Why the lock is lost, if it is known to be."""
        return self._error

    @property
    def expires_at(self) -> datetime:
        """When the lock ends unless it is renewed; aware, UTC; never later than the server ends it."""
        return self._expires_at

    def seconds_left(self) -> float:
        """Return the seconds until the lock ends."""
        return self._deadline - time.monotonic()

    def renew_at(self) -> float:
        """Return when to renew the lock, on the monotonic clock."""
        with self._lock:
            return self._deadline - self._lasts * self._renew_part

    def deadline(self) -> float:
        """Return when the lock ends, on the monotonic clock."""
        return self._deadline

    def check(self, *, settling: bool = False) -> None:
        """Return where calls make sense; `settling` ones do in a forked child too.

        Raises:
            SessionNotFoundError: The session was closed, its lock is lost or over, or is another process's.
        """
        if self._closed:
            raise SessionNotFoundError(f"{self.name} is closed", code=SESSION_LOCK_LOST)
        if self._error is not None:
            raise SessionNotFoundError(str(self._error), code=self._error.code) from self._error
        if self._inherited:
            if settling:
                return
            raise SessionNotFoundError(
                f"{self.name} was opened by the process that this one was forked from: it stays that one's; open "
                "another session here, or settle what was received there",
                code=SESSION_LOCK_LOST,
            )
        if self._begun and self._deadline <= time.monotonic():
            error = SessionNotFoundError(f"the lock of {self.name} expired", code=SESSION_LOCK_LOST)
            raise ExpiredError(error)

    def request(self) -> str:
        """Note that the lock is about to be asked for; return its id."""
        self._requested = True
        return self._lock_id

    def take_over(self, lock_id: str) -> None:
        """Note under which id the lock was taken, where that was done elsewhere."""
        self._lock_id, self._route = lock_id, route_of(lock_id)
        self._requested = True

    def refresh(self, sent: float, lasts: float, *, waited: float = 0.0) -> bool:
        """Note that the server gave or renewed the lock; tell whether that is the first time.

        Args:
            sent: When the request was sent, on the monotonic clock: the server gave the lock no earlier.
            lasts: Seconds that it lasts from then.
            waited: Seconds that the server held the request before it gave the lock.
        """
        deadline = sent + waited + lasts
        with self._lock:
            first, self._begun = not self._begun, True
            if first or deadline > self._deadline:
                self._deadline, self._lasts = deadline, lasts
                left = timedelta(seconds=deadline - time.monotonic())
                self._expires_at = datetime.now(timezone.utc) + left
                self._renew_part = random.uniform(*RENEW_AT)  # noqa: S311 - no secret
            return first

    def lose(self, error: SessionNotFoundError) -> bool:
        """Note that the lock is lost, and forget what was received under it; tell whether that is news."""
        with self._lock:
            if self._closed or self._error is not None or self._inherited:
                return False
            self._error = error
            self._tokens.clear()
            self._buffer.clear()
            return True

    def close(self) -> bool:
        """Note that the session is closed; tell whether that is news."""
        with self._lock:
            was, self._closed = self._closed, True
            self._tokens.clear()
            self._buffer.clear()
            return not was

    # Receives whose answer never came

    def request_id(self) -> tuple[str, bool]:
        """Return the request id for a receive, and whether it is that of an earlier one whose answer never came.

        What that one was given is in this holder's hands, for all that the server knows: it comes again under the same id,
        before later messages.
        """
        with self._lock:
            return (self._unanswered.popleft(), True) if self._unanswered else (str(uuid.uuid4()), False)

    def note_unanswered(self, request_id: str) -> None:
        """Note that nobody knows what the receive with this id was given."""
        with self._lock:
            self._unanswered.append(request_id)

    # The registry

    def register(self, messages: Sequence[ReceivedMessage]) -> None:
        """Note what was received, so that it can be settled."""
        with self._lock:
            if self._closed or self._error is not None:
                return
            for message in messages:
                self._tokens[message.receipt.handle] = message.receipt

    def adopt(self, receipt: ReceiptHandle) -> None:
        """Note a receipt that another process got."""
        with self._lock:
            self._tokens[receipt.handle] = receipt
            self._route = receipt.route or self._route

    def resolve(self, receipt: ReceivedMessage | ReceiptHandle | str) -> str:
        """Return the lock token that a receipt is for.

        Raises:
            InvalidReceiptError: It was not received here, or is settled already.
        """
        if isinstance(receipt, ReceivedMessage):
            receipt = receipt.receipt
        if isinstance(receipt, str):
            receipt = ReceiptHandle.parse(receipt)
        if not isinstance(receipt, ReceiptHandle):
            raise InvalidReceiptError(
                f"a receipt is a ReceivedMessage, its receipt, or the text of one, not {type(receipt).__name__}"
            )
        known = self._tokens.get(receipt.handle)
        if known is None or (receipt.session_id, receipt.queue_name) not in (
            ("", ""),
            (known.session_id, known.queue_name),
        ):
            raise InvalidReceiptError(f"the receipt was not received from {self.name}, or is settled already")
        return Redacted(receipt.handle)

    def forget(self, token: str) -> None:
        """Forget a token: its message is settled, or gone."""
        with self._lock:
            self._tokens.pop(token, None)

    def tokens(self) -> list[str]:
        """Return the tokens of what was received and is not settled, in the order of receipt."""
        with self._lock:
            return [Redacted(token) for token in self._tokens]

    # What was fetched ahead

    def put_ahead(self, messages: Sequence[ReceivedMessage]) -> None:
        """Keep messages that were received, but not handed out yet; of several threads' the earlier sent come first."""
        with self._lock:
            if not self._closed and self._error is None:
                # What is settled by now was in vain.
                kept = [message for message in (*self._buffer, *messages) if message.receipt.handle in self._tokens]
                self._buffer = deque(sorted(kept, key=lambda message: message.sequence_number))

    def take_ahead(self, count: int) -> list[ReceivedMessage]:
        """Return up to `count` messages that were received ahead."""
        with self._lock:
            return [self._buffer.popleft() for _ in range(min(count, len(self._buffer)))]

    # Forks

    def after_fork(self) -> None:
        """In a forked child: the lock stays the parent's; one that has not begun becomes a new one, the child's own."""
        self._lock = threading.Lock()
        self._buffer.clear()
        self._unanswered.clear()
        if self._requested:
            self._inherited = True
        else:
            self._lock_id = str(uuid.uuid4())
            self._route = route_of(self._lock_id)


class ExpiredError(Exception):
    """The lock was found to be over, just now: whoever finds it tells the session of its loss."""

    def __init__(self, error: SessionNotFoundError) -> None:
        super().__init__(str(error))
        self.error = error
