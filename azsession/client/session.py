"""`SessionClient`: one session, as its holder sees it."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import attrs
import requests

from ..config import ServiceBusConfig
from ..errors import (
    InvalidReceiptError,
    QueueError,
    SessionNotFoundError,
    ValidationError,
)
from ..messages import ReceiptHandle, ReceivedMessage
from ..protocol.error_codes import CONFLICT, SESSION_LOCK_LOST
from ..validation import (
    MAX_BATCH,
    MAX_REASON_LENGTH,
    MAX_SEQUENCE_NUMBER,
    check_count,
    check_queue_name,
    check_session_id,
    check_text,
    seconds,
)
from . import operations
from .call import Call, SessionTarget
from .holder import Holder
from .redacted import Redacted
from .server_connection import ServerConnection

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

#: What settles a message: itself, its receipt, or the receipt's text.
Receipt = ReceivedMessage | ReceiptHandle | str


@attrs.frozen
class SessionOptions:
    """How a client treats its lock.

    Attributes:
        session_timeout: Seconds that the lock is expected to last if the server does not say.
        auto_renew: Renew the lock in the background.
        max_renewal: Seconds (or a timedelta) after the start of the lock at which the renewal stops. `None` is never.
        on_lock_lost: Called once, with the client and the error, when the lock is found to be lost.
    """

    session_timeout: float
    auto_renew: bool = True
    max_renewal: float | timedelta | None = None
    on_lock_lost: Callable[[SessionClient, SessionNotFoundError], object] | None = None


class SessionClient(Holder):
    """One session of a queue, held by its lock: nobody else gets its messages meanwhile, and they come in order.

    Usually made by `ServiceBusProvider.create_session_client`. The first receive takes the lock; it is renewed in the
    background until the client is closed. Safe to use from many threads. After a fork the session stays the parent's; the
    child may settle what the parent received.

    Args:
        session_id: The session, 1 to 128 characters.
        queue_name: The queue, or ``topic/subscriptions/name``.
        session_timeout: Seconds (or a timedelta) that the lock is expected to last where the server does not tell.
        http: The `requests.Session` to use. It is not closed here. An Azure URL gives it an adapter that speaks AMQP,
            which its clients share, and which is closed with it.
        namespace_url: The base of the session routes, or of an Azure namespace.
        config: Retries, timeouts, and the key that signs tokens.
        credential: A `TokenCredential`, instead of a key.
        auto_renew: Renew the lock in the background.
        max_renewal: Seconds after the lock began at which that ends; `None` is never.
        on_lock_lost: Called with the client and the error, once, when the lock is found to be lost.

    Raises:
        ValidationError: An argument is out of its range.
        ConfigurationError: There is nothing to authenticate with.
    """

    def __init__(
        self,
        session_id: str,
        queue_name: str,
        session_timeout: float | timedelta,
        http: requests.Session,
        namespace_url: str,
        config: ServiceBusConfig,
        credential: TokenCredential | None = None,
        *,
        auto_renew: bool = True,
        max_renewal: float | timedelta | None = None,
        on_lock_lost: Callable[[SessionClient, SessionNotFoundError], object] | None = None,
    ) -> None:
        check_session_id(session_id)
        check_queue_name(queue_name)
        lasts = seconds(session_timeout, "session_timeout", positive=True)
        link = ServerConnection(config, credential, http, namespace_url)
        self._begin(link, session_id, queue_name, lasts, auto_renew, max_renewal, on_lock_lost)
        self._own_link: ServerConnection | None = link

    @classmethod
    def on_link(
        cls,
        link: ServerConnection,
        session_id: str,
        queue_name: str,
        options: SessionOptions,
    ) -> SessionClient:
        """Return a client on a provider's link, which outlives it. For `ServiceBusProvider`."""
        client = cls.__new__(cls)
        client._own_link = None
        client._begin(
            link,
            session_id,
            queue_name,
            options.session_timeout,
            options.auto_renew,
            options.max_renewal,
            options.on_lock_lost,
        )
        return client

    # What it is

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self._session_id

    @property
    def queue_name(self) -> str:
        """The queue's name."""
        return self._queue_name

    @property
    def session_expires_at(self) -> datetime:
        """When the lock ends unless it is renewed (aware, UTC), never later than the server ends it.

        Before the first receive it is the client's creation + `session_timeout`, and passing it means nothing.
        """
        return self._held.expires_at

    @property
    def closed(self) -> bool:
        """Whether `close_session` was called."""
        return self._held.closed

    def __repr__(self) -> str:
        held = self._held
        state = "lost" if held.error is not None else f"locked until {held.expires_at:%H:%M:%S} UTC"
        if held.closed:
            state = "closed"
        elif not held.begun:
            state = "not locked yet"
        return f"<SessionClient {self._session_id!r} of {self._queue_name!r}, {state}>"

    def __enter__(self) -> SessionClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close_session()

    def __del__(self) -> None:
        held = getattr(self, "_held", None)
        if held is not None and held.begun and not held.closed and held.error is None and not held.inherited:
            # Not with the `repr`: telling a time imports a module, which the end of the interpreter does not have.
            told = f"{held.name} was never closed: its lock holds until it expires"
            # Whoever keeps the warning keeps the client with it: that shall not go on being renewed.
            held.close()
            warnings.warn(told, ResourceWarning, 2, self)

    # Receiving

    def receive_message(self, timeout: float | timedelta = 30) -> ReceivedMessage | None:
        """Return the session's next message, or `None` when none came in `timeout` seconds. Blocks.

        Raises:
            SessionNotFoundError: The lock is lost, or the session was closed.
            SessionLockedError: Another holder has the session.
            QueueNotFoundError: There is no such queue.
            ConnectionFailedError: No answer came; in the plain dialect a message may have been locked meanwhile.
            ProviderError: The server failed.
        """
        messages = self._receive(1, seconds(timeout, "timeout"))
        return messages[0] if messages else None

    def receive_messages(self, max_message_count: int, timeout: float | timedelta = 30) -> list[ReceivedMessage]:
        """Return up to `max_message_count` (1 to 1000) messages that are there, waiting only for the first. Blocks.

        Raises:
            QueueError: As `receive_message` does.
        """
        return self._receive(check_count(max_message_count, "max_message_count"), seconds(timeout, "timeout"))

    def messages(self, timeout: float | timedelta = 30, prefetch: int = 1) -> Iterator[ReceivedMessage]:
        """Yield the session's messages, in order, until `timeout` seconds bring none. Blocks.

        Args:
            timeout: Seconds to wait for each.
            prefetch: How many to fetch in one request (1 to 1000). Those not handed out yet stay first in line for the
                next receive of this client; an abandoned message gives them back, so that none overtakes it.

        Raises:
            QueueError: As `receive_message` does.
        """
        check_count(prefetch, "prefetch")
        wait = seconds(timeout, "timeout")
        return self._iterate(wait, prefetch)

    def _iterate(self, wait: float, prefetch: int) -> Iterator[ReceivedMessage]:
        while True:
            messages = self._receive(1, wait, prefetch)
            if not messages:
                return
            yield messages[0]

    def _receive(self, count: int, timeout: float, prefetch: int = 1) -> list[ReceivedMessage]:
        self._check()
        ahead = self._held.take_ahead(count)
        if ahead:
            return ahead
        messages = self._fetch(max(count, prefetch), timeout)
        if len(messages) > count:
            self._held.put_ahead(messages[count:])
        return messages[:count]

    def _fetch(self, count: int, timeout: float) -> list[ReceivedMessage]:
        if self._transport.speaks_v1:
            return self._receive_once(count, timeout)
        messages = self._receive_plain(timeout)
        if not messages or count == 1:
            return messages
        try:
            # The first answer may have told that the server has version 1.
            if self._transport.speaks_v1:
                return messages + self._receive_once(count - 1, 0.0)
            while len(messages) < count:
                more = self._receive_plain(0.0)
                if not more:
                    break
                messages += more
        except QueueError as error:
            # What came is not lost with what did not, unless the lock is.
            self._check()
            logger.warning("%s gave %d messages, and then none: %s", self._held.name, len(messages), str(error))
        return messages

    def _receive_plain(self, timeout: float) -> list[ReceivedMessage]:
        """Receive one message, in waits that are short enough for the lock not to run out in one."""
        deadline = time.monotonic() + timeout
        while timeout >= self._session_timeout and not self._transport.speaks_v1:
            part = self._session_timeout / 2
            began = time.monotonic()
            messages = self._receive_once(None, part)
            if messages or time.monotonic() - began < part * 0.9:
                return messages
            timeout = max(0.0, deadline - time.monotonic())
        return self._receive_once(None, timeout)

    def _receive_once(self, count: int | None, timeout: float) -> list[ReceivedMessage]:
        deadline = time.monotonic() + timeout
        while True:
            request_id, is_again = self._held.request_id()
            try:
                call = operations.receive(
                    self._session(), count, timeout, self._session_timeout, request_id, has_lock=self._held.begun
                )
                answer = self._on_lock(call)
            except BaseException:
                if self._transport.speaks_v1:
                    self._held.note_unanswered(request_id)
                raise
            self._held.register(answer.messages)
            # The lock may have been lost, or the session closed, while the answer was on its way.
            self._check()
            if answer.messages or not is_again:
                return list(answer.messages)
            timeout = max(0.0, deadline - time.monotonic())

    def receive_deferred_messages(self, sequence_numbers: Sequence[int]) -> list[ReceivedMessage]:
        """Return messages that were deferred, by their sequence numbers: all, or an error.

        Raises:
            ProviderError: One of them is not a deferred message of this session (``code`` is ``"MessageNotFound"``).
            QueueError: As `receive_message` does; `UnsupportedOperationError` in the plain dialect.
        """
        numbers = [check_count(number, "a sequence number", MAX_SEQUENCE_NUMBER) for number in sequence_numbers]
        if not 1 <= len(numbers) <= MAX_BATCH:
            raise ValidationError(f"1 to {MAX_BATCH} deferred messages are received at once, not {len(numbers)}")
        self._hold("receive deferred messages")
        messages = self._on_session(
            operations.receive_deferred(self._session(), numbers, max(0.0, self._held.seconds_left()))
        )
        self._held.register(messages)
        return messages

    # Settling

    def complete_message(self, receipt: Receipt) -> None:
        """Complete a message: it is done, and deleted.

        Args:
            receipt: The message, its receipt, or the receipt's text.

        Raises:
            InvalidReceiptError: It was not received here, is settled already, or its lock is lost.
            SessionNotFoundError: The lock is lost, or the session was closed.
            ConnectionFailedError: No answer came; the receipt can be used again.
            ProviderError: The server failed; the receipt can be used again.
        """
        self._settle(receipt, operations.complete)

    def abandon_message(self, receipt: Receipt) -> None:
        """Give a message back: it comes again, before the later ones. At the queue's limit it is dead-lettered instead.

        Raises:
            QueueError: As `complete_message` does.
        """
        self._check(settling=True)
        token = self._held.resolve(receipt)
        # What was fetched ahead would overtake it: that goes back first.
        ahead = self._held.take_ahead(MAX_BATCH)
        try:
            if ahead and self._transport.speaks_v1:
                self._settle_many({"abandon": [Redacted(message.receipt.handle) for message in ahead]})
            else:
                while ahead:
                    self._settle_token(Redacted(ahead[-1].receipt.handle), operations.abandon)
                    ahead.pop()
        except BaseException:
            self._held.put_ahead(ahead)
            raise
        self._settle_token(token, operations.abandon)

    def defer_message(self, receipt: Receipt) -> None:
        """Put a message aside: from now on it is received by its sequence number only.

        Raises:
            QueueError: As `complete_message` does; `UnsupportedOperationError` in the plain dialect.
        """
        self._check(settling=True)
        self._held.resolve(receipt)
        self._transport.require_v1("defer a message")
        self._settle(receipt, operations.defer)

    def dead_letter_message(self, receipt: Receipt, reason: str, description: str | None = None) -> None:
        """Move a message to the dead-letter queue, with a reason and maybe more about it (up to 4096 characters each).

        Raises:
            QueueError: As `complete_message` does.
        """
        _check_reason(reason, description)
        self._settle(receipt, lambda session, token: operations.dead_letter(session, token, reason, description))

    def complete_messages(self, receipts: Iterable[Receipt]) -> None:
        """Complete many messages, in one request for each thousand.

        Raises:
            InvalidReceiptError: Some could not be completed; the others are.
            QueueError: As `complete_message` does.
        """
        self._check(settling=True)
        tokens = [self._held.resolve(receipt) for receipt in receipts]
        if not tokens:
            return
        if not self._transport.speaks_v1:
            for token in tokens:
                self._settle_token(token, operations.complete)
            return
        failed: dict[str, str] = {}
        for start in range(0, len(tokens), MAX_BATCH):
            part = tokens[start : start + MAX_BATCH]
            failed.update(self._settle_many({"complete": part}))
        if failed:
            if SESSION_LOCK_LOST in failed.values():
                self._found_lost(SESSION_LOCK_LOST)
            raise InvalidReceiptError(
                f"{len(failed)} of {len(tokens)} messages could not be completed: their lock is lost, or they were "
                "settled before",
                code=next(iter(failed.values())),
            )

    def dead_letter_session(self, reason: str, description: str | None = None) -> int:
        """Move everything that is left in the session to the dead-letter queue; return how many messages that were.

        What this client received and has not settled is among it, and so are deferred messages.

        Raises:
            QueueError: As `complete_message` does.
        """
        _check_reason(reason, description)
        self._check()
        ahead = self._held.take_ahead(MAX_BATCH)
        try:
            if not self._transport.speaks_v1:
                return self._dead_letter_session_plain(reason, description)
            self._hold("dead-letter a session")
            # Before the request: what another thread receives after it is not dead-lettered.
            tokens = self._held.tokens()
            count = self._on_session(operations.dead_letter_session(self._session(), reason, description))
        except BaseException:
            self._held.put_ahead(ahead)
            raise
        for token in tokens:
            self._held.forget(token)
        return count

    def _dead_letter_session_plain(self, reason: str, description: str | None) -> int:
        count = 0
        while True:
            for token in self._held.tokens():
                self._settle_token(token, lambda at, token: operations.dead_letter(at, token, reason, description))
                count += 1
            if not self._receive_plain(0.0):
                return count

    def _settle_many(self, dispositions: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Settle messages in one request; return the codes of those that could not be, by token."""
        try:
            failed = self._transport.send(operations.settle(self._session(), dispositions))
        except InvalidReceiptError as error:
            if error.code == SESSION_LOCK_LOST:
                self._found_lost(error.code)
            raise
        for tokens in dispositions.values():
            for token in tokens:
                self._held.forget(token)
        return failed

    def _settle(self, receipt: Receipt, make: Callable[[SessionTarget, str], Call[None]]) -> None:
        self._check(settling=True)
        self._settle_token(self._held.resolve(receipt), make)

    def _settle_token(self, token: str, make: Callable[[SessionTarget, str], Call[None]]) -> None:
        try:
            self._transport.send(make(self._session(), token))
        except InvalidReceiptError as error:
            self._held.forget(token)
            if error.code == SESSION_LOCK_LOST:
                self._found_lost(error.code)
            elif error.code != CONFLICT and not self._transport.speaks_v1:
                # The plain dialect does not remember: this may be the answer to our own second try.
                raise InvalidReceiptError(
                    f"{error} (if its first answer was lost, the message may have been settled)", code=error.code
                ) from error
            raise
        self._held.forget(token)

    # The lock and the state

    def renew_session_lock(self) -> datetime:
        """Renew the lock; return its new expiry (aware, UTC). Done in the background too, unless that is turned off.

        Raises:
            SessionNotFoundError: The lock is lost, or the session was closed.
            ConnectionFailedError: No answer came.
            ProviderError: The server failed.
        """
        self._check()
        self._on_lock(operations.renew(self._session()))
        return self._held.expires_at

    def get_session_state(self) -> bytes | None:
        """Return the bytes that were kept with the session, or `None`. Takes the lock, if it has not begun.

        Raises:
            QueueError: As `receive_message` does; `UnsupportedOperationError` in the plain dialect.
        """
        self._hold("keep a session's state")
        return self._on_session(operations.get_state(self._session()))

    def set_session_state(self, state: bytes | None) -> None:
        """Keep bytes with the session, for whoever holds it next; `None` takes them away.

        Raises:
            QueueError: As `get_session_state` does; `MessageTooLargeError` where the state is.
        """
        if state is not None and not isinstance(state, bytes):
            raise ValidationError(f"a session's state is bytes or None, not {type(state).__name__}")
        self._hold("keep a session's state")
        self._on_session(operations.set_state(self._session(), state))

    def close_session(self) -> None:
        """Close the session: what is not settled goes back to its place, and the lock is released. Idempotent.

        Another thread's receive that waits in it returns soon, with `SessionNotFoundError`. In the plain dialect, which has
        no release, the server keeps the lock until it expires. A release that fails is logged, not raised.
        """
        if self.shut():
            self.release()
        if self._own_link is not None:
            self._own_link.close()

    def close(self) -> None:
        """Close the session, as `close_session` does."""
        self.close_session()


def holder_of(client: SessionClient) -> Holder:
    """Return the part of a client that the processor works with."""
    return client


def _check_reason(reason: str, description: str | None) -> None:
    check_text(reason, "a dead-letter reason", MAX_REASON_LENGTH)
    if description is not None:
        check_text(description, "a dead-letter description", MAX_REASON_LENGTH)
