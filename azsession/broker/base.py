"""`Broker`: the interface between the gateway and the engines that keep messages.

The gateway's handlers call it. `EmbeddedBroker` and `AzureBroker` implement it. `calls` has its arguments and results.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from ..messages import Message, PeekedMessage, ReceivedMessage, SessionInfo
from ..queues import QueueInfo, QueueSettings, QueueStatistics
from .calls import BLOCKING, AcceptRequest, Backup, CallContext, Delivery, ReceiveRequest, Settled, Settlement


class Broker(abc.ABC):
    """An engine that keeps messages in queues and sessions.

    All methods may be called from any thread. Every operation returns a future without waiting, or, with
    `CallContext.blocking`, after work on a disk. The future gets the result, or a `QueueError` with a code of the protocol.
    Callers validate names, ids and numbers first.

    A caller that goes away cancels the future. `Future.cancel` returns `True` if the operation is withdrawn: the broker gives
    no message and no lock for it. It returns `False` if the operation has taken effect.

    Arguments that several methods have:

    * `entity`: The name of a queue, or of a subscription as ``topic/subscriptions/name``.
    * `session_id`: The session.
    * `lock_id`: The holder of the session lock. ``""`` is one holder that all callers of the plain dialect share: it takes
      a free lock when it needs one.
    * `request_id`: The same for all attempts of one request, so that the request takes effect once; ``""`` if the caller
      does not retry.
    * `context`: How the operation is called.

    The future of an operation on an `entity` can get these errors:

    * `QueueNotFoundError`: The entity does not exist.
    * `ConnectionFailedError`: The remote service cannot be reached, or did not answer before the deadline.
    * `ProviderError`: The broker is closed, or it failed.

    The future of an operation with a `lock_id` can get these, too, except where it gives something back or releases:

    * `SessionLockedError`: Another holder has the lock.
    * `SessionNotFoundError`: The holder lost the lock.
    """

    # Sessions

    @abc.abstractmethod
    def receive(self, request: ReceiveRequest, *, context: CallContext = BLOCKING) -> Future[Delivery]:
        """Take the session lock if it is free, and receive messages. Waits for the first message.

        Returns:
            The messages; none if the timeout passed or `stop_waiting` was called.

        Raises:
            SessionLockedError: Another holder has the lock.
            SessionNotFoundError: The holder lost the lock.
            ThrottledError: Too many callers wait already.
            ProviderError: A later attempt of the same request replaced this one.
        """

    def take_offered(self, request: ReceiveRequest) -> Delivery | None:
        """Return the result of a receive whose message is at hand, without work of another thread. `None`: call `receive`."""
        return None

    @abc.abstractmethod
    def accept(self, request: AcceptRequest, *, context: CallContext = BLOCKING) -> Future[Delivery | None]:
        """Take the lock of a session, and receive messages that are there if the request asks for messages.

        Waits until a session has messages, if the request names no session. A session that the request names can be empty.

        Returns:
            The session; `None` if no session came before the timeout or `stop_waiting` was called.

        Raises:
            SessionLockedError: Another holder has the lock of the session that the request names.
            SessionNotFoundError: The holder lost the lock of this session.
            ThrottledError: Too many callers wait already.
        """

    @abc.abstractmethod
    def settle(
        self, entity: str, session_id: str, settlements: Sequence[Settlement], *, context: CallContext = BLOCKING
    ) -> Future[list[str | None]]:
        """Settle messages of one session. `Disposition.TAKE` does not settle, but notes that the caller uses the message.

        An abandon can have a delay. Until it has passed, the session's messages are given to nobody: not to the holder, and,
        if the holder releases the lock or loses it, to no other holder. Then the session goes on with the abandoned message.
        Of several delays of one session, the one that ends last counts.

        Returns:
            One item for each settlement: `None` if the message is settled, else the error code.

        Raises:
            UnsupportedOperationError: An abandon has a delay, and another process holds the session of a remote service.
        """

    @abc.abstractmethod
    def settle_and_receive(
        self, settlements: Sequence[Settlement], request: ReceiveRequest, *, context: CallContext = BLOCKING
    ) -> Future[Settled]:
        """Settle messages, then receive the messages that are there. A failed settlement prevents the receive.

        The messages are those of the session of `request`. The timeout of `request` is ignored: this does not wait.

        Returns:
            A result also if the receive is refused, because the lock is lost or too many callers wait. Then the settlements
            stand.

        Raises:
            ProviderError: A later attempt of the same request replaced this one.
        """

    @abc.abstractmethod
    def renew(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = BLOCKING) -> Future[float]:
        """Renew the session lock.

        Returns:
            Seconds until the lock expires.
        """

    @abc.abstractmethod
    def release(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        settlements: Sequence[Settlement] = (),
        *,
        context: CallContext = BLOCKING,
    ) -> Future[Sequence[str | None]]:
        """Settle messages, then release the session lock if this holder has it. Also if a settlement fails.

        The session's unsettled messages return to their places. Their deliveries do not count.

        Returns:
            One item for each settlement; see `settle`.
        """

    @abc.abstractmethod
    def give_back(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        lock_tokens: Sequence[str],
        *,
        context: CallContext = BLOCKING,
    ) -> Future[None]:
        """Return received messages to their places, because their caller did not get the answer. This counts as no delivery.

        Messages that are settled, whose lock is lost, or that a repeated attempt of the same receive has got, are ignored.
        """

    @abc.abstractmethod
    def undo_accept(self, request: AcceptRequest, delivery: Delivery, *, context: CallContext = BLOCKING) -> Future[None]:
        """Give back the messages and the lock that an accept took, because its caller did not get the answer.

        The messages return as with `give_back`. The lock stays if a repeated attempt of the same accept has got the session.
        Unlike `release`, this lets the same holder take the session again.
        """

    @abc.abstractmethod
    def get_state(
        self, entity: str, session_id: str, lock_id: str, *, context: CallContext = BLOCKING
    ) -> Future[bytes | None]:
        """Return the session state, or `None` if the session has none."""

    @abc.abstractmethod
    def set_state(
        self, entity: str, session_id: str, lock_id: str, state: bytes | None, *, context: CallContext = BLOCKING
    ) -> Future[None]:
        """Store the session state; `None` deletes it."""

    @abc.abstractmethod
    def receive_deferred(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        sequence_numbers: Sequence[int],
        *,
        context: CallContext = BLOCKING,
    ) -> Future[list[ReceivedMessage]]:
        """Receive deferred messages: all of them, or none and an error.

        Raises:
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
        context: CallContext = BLOCKING,
    ) -> Future[int]:
        """Dead-letter all messages of the session. Each dead letter keeps `reason` and `description`.

        Returns:
            How many messages the request dead-lettered. A later attempt of the same request returns the same number.
        """

    @abc.abstractmethod
    def peek(
        self,
        entity: str,
        session_id: str | None,
        from_sequence_number: int,
        max_count: int,
        *,
        context: CallContext = BLOCKING,
    ) -> Future[list[PeekedMessage]]:
        """Return up to `max_count` messages of a session, or of all, by sequence number. Receives none. Needs no lock."""

    @abc.abstractmethod
    def list_sessions(
        self, entity: str, after: str | None, max_count: int, since: float | None = None, *, context: CallContext = BLOCKING
    ) -> Future[list[SessionInfo]]:
        """Return up to `max_count` sessions that have messages or state, sorted by id.

        Their ids are greater than `after`. `None` returns the first ones: the empty id is an id, too. With
        `since`, in seconds since 1970, only sessions whose state was set later are returned.
        """

    # Messages

    @abc.abstractmethod
    def send(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[None]:
        """Store messages: all of them, or none and an error. They are stored safely when the method returns.

        Raises:
            MessageTooLargeError: A message or the batch is too large.
            ValidationError: A message has no session id, or the entity does not accept messages.
            ConnectionFailedError: The remote service did not confirm the messages; it may have stored them.
        """

    @abc.abstractmethod
    def schedule(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[list[int]]:
        """Store messages that become available at their `scheduled_enqueue_time`: all of them, or none and an error.

        Returns:
            The sequence number of each message, for `cancel_scheduled`. A later attempt of the same request returns the same
            numbers.

        Raises:
            MessageTooLargeError: A message is too large.
            ValidationError: A message has no session id, or the entity does not accept messages.
            ConnectionFailedError: The remote service did not confirm the messages; it may have stored them.
        """

    @abc.abstractmethod
    def cancel_scheduled(
        self, entity: str, sequence_numbers: Sequence[int], *, context: CallContext = BLOCKING
    ) -> Future[None]:
        """Delete messages that were scheduled and are not available yet: all of them, or none and an error.

        On Azure, Azure decides whether the others are deleted if there is no message with one of the numbers.

        Raises:
            ProviderError: There is no scheduled message with one of these numbers (code ``MessageNotFound``).
        """

    @abc.abstractmethod
    def purge(
        self, entity: str, session_id: str | None, request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[int]:
        """Delete the active, deferred and scheduled messages that are there, but no dead letters and no session state.

        Without a `session_id`, all sessions are purged that nobody holds.

        Returns:
            How many messages were deleted. A later attempt of a finished request returns the same number.

        Raises:
            SessionLockedError: A holder has the session that the call names.
        """

    @abc.abstractmethod
    def dead_letters(
        self,
        entity: str,
        from_sequence_number: int,
        max_count: int,
        session_id: str | None = None,
        *,
        context: CallContext = BLOCKING,
    ) -> Future[list[PeekedMessage]]:
        """Return up to `max_count` dead letters of a session, or of all sessions, by sequence number."""

    @abc.abstractmethod
    def resubmit(self, entity: str, sequence_number: int, *, context: CallContext = BLOCKING) -> Future[None]:
        """Move a dead letter to the end of its session, as a new message.

        Raises:
            ProviderError: There is no such dead letter (code ``MessageNotFound``), or the remote service dropped the new
                message as a duplicate (code ``Conflict``).
        """

    @abc.abstractmethod
    def delete_dead_letter(self, entity: str, sequence_number: int, *, context: CallContext = BLOCKING) -> Future[None]:
        """Delete a dead letter.

        Raises:
            ProviderError: There is no such dead letter (code ``MessageNotFound``).
        """

    # Queues

    @abc.abstractmethod
    def create_queue(self, entity: str, settings: QueueSettings, *, context: CallContext = BLOCKING) -> Future[bool]:
        """Create a queue.

        Returns:
            `True` if the queue is new, `False` if it existed with the same settings.

        Raises:
            ProviderError: The queue exists with other settings (code ``Conflict``).
            UnsupportedOperationError: This broker does not manage queues.
        """

    @abc.abstractmethod
    def get_queue(self, entity: str, *, context: CallContext = BLOCKING) -> Future[QueueInfo]:
        """Return a queue with its settings and message counts.

        Raises:
            UnsupportedOperationError: This broker does not manage queues.
        """

    @abc.abstractmethod
    def queue_statistics(self, entity: str, *, context: CallContext = BLOCKING) -> Future[QueueStatistics]:
        """Return the numbers of messages and sessions of a queue or subscription. Takes no longer for a long queue."""

    @abc.abstractmethod
    def list_queues(self, *, context: CallContext = BLOCKING) -> Future[list[QueueInfo]]:
        """Return all queues, sorted by name, without message counts.

        Raises:
            UnsupportedOperationError: This broker does not manage queues.
        """

    @abc.abstractmethod
    def delete_queue(self, entity: str, *, context: CallContext = BLOCKING) -> Future[None]:
        """Delete a queue and everything in it.

        Raises:
            UnsupportedOperationError: This broker does not manage queues.
        """

    # Operation

    @abc.abstractmethod
    def backup(self, *, context: CallContext = BLOCKING) -> Future[Backup]:
        """Copy all queues and messages into a file, while the broker serves its other callers.

        The copy has everything that was stored before the future is done. Cancelling the future ends the copying.

        Raises:
            ThrottledError: A backup is being made already.
            ProviderError: The disk has no room (code ``QuotaExceeded``), or the copy failed.
            UnsupportedOperationError: A remote service keeps the messages.
        """

    def dead_letter_counts(self) -> Mapping[str, int] | None:
        """Return how many messages were dead-lettered since the start, by `counted_as`; `None` if it does not know."""
        return None

    # Lifecycle

    @abc.abstractmethod
    def check_ready(self, *, context: CallContext = BLOCKING) -> Future[None]:
        """Check whether the broker can store and deliver messages now.

        Raises:
            ProviderError: It cannot. The text says why, for example because the disk is full.
            ConnectionFailedError: The remote service cannot be reached.
        """

    @abc.abstractmethod
    def stop_waiting(self) -> None:
        """End the waits of all receives and accepts, as if their timeouts had passed. Later calls do not wait either."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop the broker, and release its resources. Idempotent."""
