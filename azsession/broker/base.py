"""The interface between the gateway and a broker: `Broker`, and the classes of its arguments and results.

A broker keeps messages in queues and sessions. The gateway's handlers call it. `EmbeddedBroker` and `AzureBroker`
implement it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

import attrs

from ..errors import ProviderError
from ..messages import Message, PeekedMessage, ReceivedMessage, SessionInfo
from ..protocol.error_codes import SERVER_BUSY
from ..queues import QueueInfo, QueueSettings


class Disposition(Enum):
    """How a received message is settled. The values are the protocol's names."""

    COMPLETE = "complete"
    ABANDON = "abandon"
    DEFER = "defer"
    DEAD_LETTER = "deadletter"


@attrs.frozen
class Settlement:
    """One message to settle.

    Attributes:
        lock_token: The message's lock token.
        disposition: How to settle the message.
        reason: Why the message is dead-lettered; ignored for other dispositions.
        description: More about the reason; ignored for other dispositions.
    """

    lock_token: str = attrs.field(repr=False)
    disposition: Disposition
    reason: str | None = None
    description: str | None = None


@attrs.frozen
class Delivery:
    """The result of a receive or an accept.

    Attributes:
        session_id: The session.
        messages: The received messages. Empty if none came in time, and for an accept.
        lock_expires_in: Seconds until the session lock expires, counted from the end of the call.
        waited: Seconds that the call took.
    """

    session_id: str
    messages: Sequence[ReceivedMessage]
    lock_expires_in: float
    waited: float


class Caller:
    """The client that waits for an answer. This class is a client that never goes away; subclasses watch a real one."""

    def is_gone(self) -> bool:
        """Return whether the client went away. A broker must not hand out messages to a client that is gone."""
        return False

    @contextmanager
    def watched(self, on_gone: Callable[[], None]) -> Iterator[None]:
        """Call `on_gone`, from any thread, if the client goes away inside the ``with`` block.

        Raises:
            ThrottledError: Too many clients wait already.
        """
        yield


#: A caller that never goes away.
PRESENT: Caller = Caller()


@attrs.frozen
class CallContext:
    """The caller of the broker, and how long the caller can use the answer.

    Attributes:
        caller: The client that waits for the answer. A receive and an accept end their wait when the client goes away.
        deadline: The time on the monotonic clock at which the client stops waiting; `None` if it waits for any answer. Until
            the deadline, a broker that depends on a remote service also watches the caller in calls other than receive and
            accept.
    """

    caller: Caller = PRESENT
    deadline: float | None = None


#: The context of a caller that never goes away and has no deadline.
NO_DEADLINE: CallContext = CallContext()


@attrs.frozen
class ReceiveRequest:
    """The arguments of `Broker.receive`.

    Attributes:
        entity: The queue or subscription.
        session_id: The session to receive from.
        lock_id: The holder of the session lock; ``""`` for the shared holder of the plain dialect.
        max_count: Messages to receive at most, 1 to 1,000.
        timeout: Seconds to wait for the first message, from 0.
        request_id: The same for all attempts of one request; ``""`` if the caller does not retry.
        holds_lock: Whether the caller believes that it has the lock. If so, the broker reports a lost lock and does not take
            the lock again: another holder may have had the session in between.
    """

    entity: str
    session_id: str
    lock_id: str
    max_count: int = attrs.field(kw_only=True)
    timeout: float = attrs.field(kw_only=True)
    request_id: str = attrs.field(default="", kw_only=True)
    holds_lock: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class AcceptRequest:
    """The arguments of `Broker.accept`.

    Attributes:
        entity: The queue or subscription.
        session_id: The session to accept; `None` accepts the next free session that has messages.
        lock_id: The holder of the session lock; ``""`` for the shared holder of the plain dialect.
        timeout: Seconds to wait for a session, from 0.
        request_id: The same for all attempts of one request; ``""`` if the caller does not retry.
    """

    entity: str
    session_id: str | None
    lock_id: str
    timeout: float = attrs.field(kw_only=True)
    request_id: str = attrs.field(default="", kw_only=True)


def superseded_error() -> ProviderError:
    """Return the error of a receive that a later attempt of the same request replaced.

    Attempts can overtake each other. The error is transient, so a client whose latest attempt gets the error tries again.
    """
    return ProviderError("another attempt of this request replaced this one", code=SERVER_BUSY, is_transient=True)


class Broker(abc.ABC):
    """An engine that keeps messages in queues and sessions.

    All methods may be called from any thread. All except `stop_waiting` may block: on a disk, or on a remote service. A
    `QueueError` that a method raises has a code of the protocol. Callers validate names, ids and numbers first.

    Arguments that several methods have, and that their docstrings do not repeat:

    * `entity`: The name of a queue, or of a subscription as ``topic/subscriptions/name``.
    * `session_id`: The session.
    * `lock_id`: The holder of the session lock. ``""`` is one holder that all callers of the plain dialect share: it takes
      a free lock when it needs one.
    * `request_id`: The same for all attempts of one request, so that the request takes effect once; ``""`` if the caller
      does not retry.
    * `context`: The caller and its deadline.

    All methods with an `entity` can raise these errors:

    * `QueueNotFoundError`: The entity does not exist.
    * `ConnectionFailedError`: The remote service cannot be reached, or did not answer before the deadline.
    * `ProviderError`: The broker is closed, or it failed.
    """

    # Sessions

    @abc.abstractmethod
    def receive(self, request: ReceiveRequest, *, context: CallContext = NO_DEADLINE) -> Delivery:
        """Take the session lock if it is free, and receive messages. Blocks until the first message comes.

        Args:
            request: The session, the holder, and how many messages to receive.
            context: The caller and its deadline. The wait ends when the caller goes away.

        Returns:
            The messages; none if the timeout passed, the caller went away, or `stop_waiting` was called.

        Raises:
            SessionLockedError: Another holder has the lock.
            SessionNotFoundError: The holder lost the lock.
            ThrottledError: Too many callers wait already.
            ProviderError: A later attempt of the same request replaced this one.
        """

    @abc.abstractmethod
    def accept(self, request: AcceptRequest, *, context: CallContext = NO_DEADLINE) -> Delivery | None:
        """Take the lock of a session. Blocks until a session has messages, if the request names no session.

        Args:
            request: The session, and the holder.
            context: The caller and its deadline. The wait ends when the caller goes away.

        Returns:
            The session; `None` if no session came before the timeout, the caller went away, or `stop_waiting` was called.

        Raises:
            SessionLockedError: Another holder has the lock of the session that the request names.
            SessionNotFoundError: The holder lost the lock of this session.
            ThrottledError: Too many callers wait already.
        """

    @abc.abstractmethod
    def settle(
        self, entity: str, session_id: str, settlements: Sequence[Settlement], *, context: CallContext = NO_DEADLINE
    ) -> list[str | None]:
        """Settle messages of one session.

        Returns:
            One item for each settlement: `None` if the message is settled, else the error code.
        """

    @abc.abstractmethod
    def renew(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = NO_DEADLINE) -> float:
        """Renew the session lock.

        Returns:
            Seconds until the lock expires.

        Raises:
            SessionLockedError: Another holder has the lock.
            SessionNotFoundError: The holder lost the lock.
        """

    @abc.abstractmethod
    def release(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = NO_DEADLINE) -> None:
        """Release the session lock if this holder has it; otherwise do nothing."""

    @abc.abstractmethod
    def get_state(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = NO_DEADLINE) -> bytes | None:
        """Return the session state, or `None` if the session has none.

        Raises:
            SessionLockedError: Another holder has the lock.
            SessionNotFoundError: The holder lost the lock.
        """

    @abc.abstractmethod
    def set_state(
        self, entity: str, session_id: str, lock_id: str, state: bytes | None, *, context: CallContext = NO_DEADLINE
    ) -> None:
        """Store the session state; `None` deletes it.

        Raises:
            SessionLockedError: Another holder has the lock.
            SessionNotFoundError: The holder lost the lock.
        """

    @abc.abstractmethod
    def receive_deferred(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        sequence_numbers: Sequence[int],
        *,
        context: CallContext = NO_DEADLINE,
    ) -> list[ReceivedMessage]:
        """Receive deferred messages: all of them, or none and an error.

        Raises:
            SessionLockedError: Another holder has the lock.
            SessionNotFoundError: The holder lost the lock.
            ProviderError: The session has no deferred message with one of these numbers (code ``MessageNotFound``).
        """

    @abc.abstractmethod
    def dead_letter_session(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        reason: str,
        description: str | None,
        request_id: str = "",
        *,
        context: CallContext = NO_DEADLINE,
    ) -> int:
        """Dead-letter all messages of the session.

        Args:
            reason: Why; each dead letter keeps it.
            description: More about the reason, or `None`.

        Returns:
            How many messages the request dead-lettered. A later attempt of the same request returns the same number.

        Raises:
            SessionLockedError: Another holder has the lock.
            SessionNotFoundError: The holder lost the lock.
        """

    @abc.abstractmethod
    def peek(
        self, entity: str, session_id: str, from_sequence_number: int, max_count: int, *, context: CallContext = NO_DEADLINE
    ) -> list[PeekedMessage]:
        """Return up to `max_count` messages of a session by sequence number, without receiving them. Needs no lock."""

    @abc.abstractmethod
    def list_sessions(
        self, entity: str, after: str, max_count: int, *, context: CallContext = NO_DEADLINE
    ) -> list[SessionInfo]:
        """Return up to `max_count` sessions that have messages or state, sorted by id, with ids greater than `after`."""

    # Messages

    @abc.abstractmethod
    def send(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = NO_DEADLINE
    ) -> None:
        """Store messages: all of them, or none and an error. They are stored safely when the method returns.

        Raises:
            MessageTooLargeError: A message or the batch is too large.
            ValidationError: A message has no session id, or the entity does not accept messages.
            ConnectionFailedError: The remote service did not confirm the messages; it may have stored them.
        """

    @abc.abstractmethod
    def dead_letters(
        self, entity: str, from_sequence_number: int, max_count: int, *, context: CallContext = NO_DEADLINE
    ) -> list[PeekedMessage]:
        """Return up to `max_count` dead letters of all sessions, by sequence number."""

    @abc.abstractmethod
    def resubmit(self, entity: str, sequence_number: int, *, context: CallContext = NO_DEADLINE) -> None:
        """Move a dead letter to the end of its session, as a new message.

        Raises:
            ProviderError: There is no such dead letter (code ``MessageNotFound``).
        """

    @abc.abstractmethod
    def delete_dead_letter(self, entity: str, sequence_number: int, *, context: CallContext = NO_DEADLINE) -> None:
        """Delete a dead letter.

        Raises:
            ProviderError: There is no such dead letter (code ``MessageNotFound``).
        """

    # Queues

    @abc.abstractmethod
    def create_queue(self, entity: str, settings: QueueSettings, *, context: CallContext = NO_DEADLINE) -> bool:
        """Create a queue.

        Returns:
            Whether the queue is new; `False` if it exists with the same settings.

        Raises:
            ProviderError: The queue exists with other settings (code ``Conflict``).
            UnsupportedOperationError: This broker does not manage queues.
        """

    @abc.abstractmethod
    def get_queue(self, entity: str, *, context: CallContext = NO_DEADLINE) -> QueueInfo:
        """Return a queue with its settings and message counts.

        Raises:
            UnsupportedOperationError: This broker does not manage queues.
        """

    @abc.abstractmethod
    def list_queues(self, *, context: CallContext = NO_DEADLINE) -> list[QueueInfo]:
        """Return all queues, sorted by name, without message counts.

        Raises:
            UnsupportedOperationError: This broker does not manage queues.
        """

    @abc.abstractmethod
    def delete_queue(self, entity: str, *, context: CallContext = NO_DEADLINE) -> None:
        """Delete a queue and everything in it.

        Raises:
            UnsupportedOperationError: This broker does not manage queues.
        """

    # Lifecycle

    @abc.abstractmethod
    def stop_waiting(self) -> None:
        """End the waits of all receives and accepts, as if their timeouts had passed. Later calls do not wait either."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop the broker, and release its resources. Idempotent."""
