"""`SessionClient`, the public class for one session. `ServiceBusProvider` makes its clients with `make_client`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING

import requests

from ..azure_names import NoArguments, explain_azure_names, refuse
from ..config import ServiceBusConfig
from ..errors import SessionNotFoundError
from ..messages import ReceivedMessage
from ..validation import check_count, check_queue_name, check_session_id, check_state, seconds
from . import background, handover, operations, receiving
from .holder import Holder, LockOptions
from .lost_hook import hook_without_reference
from .server_connection import ServerConnection
from .session_lock import Stage
from .settling_methods import SettlingMethods
from .uncopied import refuse_copies

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from typing_extensions import Unpack

#: The hook for a lost lock. It is called with the client and the error.
OnLockLost = Callable[["SessionClient", SessionNotFoundError], object]


@explain_azure_names
@refuse_copies("share this one between threads; another process can use session_from_handle or session_from_receipt")
class SessionClient(SettlingMethods):
    """One session of a queue, held by its lock. No other client receives the session's messages meanwhile.

    Usually `ServiceBusProvider.create_session_client` makes it. The first receive takes the lock. A background thread renews
    the lock until the client is closed. Use the client as a context manager, or call `close_session`.

    Safe to use from many threads. A session belongs to the process that opened it. A forked child can settle the messages
    that its parent received, and nothing else. A call that failed because no answer came, or because the server was busy or
    failed, can be repeated.

    Args:
        session_id: The session, 0 to 128 characters of any kind.
        queue_name: The queue, or ``"topic/subscriptions/name"``.
        session_timeout: Seconds (or a timedelta), more than 0, that the lock is expected to last if the server does not say.
        http: The `requests.Session` to use. The client does not close it. For an Azure URL the client mounts an adapter that
            speaks AMQP. Clients of the same `http` share this adapter, and closing `http` closes it.
        namespace_url: The base URL of the session routes, or of an Azure namespace.
        config: Timeouts, retries, and the key that signs tokens.
        credential: A `TokenCredential` to use instead of a key.
        auto_renew: Renew the lock in the background.
        max_renewal: Seconds (or a timedelta) after the start of the lock at which the renewal stops. `None`: it never stops.
        on_lock_lost: Called once, with the client and the error, when the lock is found to be lost. It can run in any thread.

    Raises:
        ValidationError: An argument is out of its range.
        ConfigurationError: There is nothing to authenticate with, or `http` already speaks AMQP with other credentials.

    Example:
        >>> from azsession import Message, ServiceBusProvider
        >>> provider = ServiceBusProvider.embedded()
        >>> _ = provider.send_message("orders", Message("paid", session_id="order-42"))
        >>> with provider.create_session_client("orders", "order-42") as session:
        ...     for message in session.messages(timeout=0):
        ...         print(message.text())
        ...         session.complete_message(message)
        paid
        >>> provider.close()
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
        on_lock_lost: OnLockLost | None = None,
    ) -> None:
        check_session_id(session_id)
        check_queue_name(queue_name)
        lasts = seconds(session_timeout, "session_timeout", positive=True)
        options = LockOptions(lasts, auto_renew, max_renewal)
        on_lost = hook_without_reference(self, on_lock_lost)
        connection = ServerConnection(config, credential, http, namespace_url)
        self._holder = Holder(connection, session_id, queue_name, options, on_lost=on_lost, owns_connection=True)

    @property
    def session_id(self) -> str:
        """The id of the session."""
        return self._holder.session_id

    @property
    def queue_name(self) -> str:
        """The name of the queue."""
        return self._holder.queue_name

    @property
    def session_expires_at(self) -> datetime:
        """When the lock expires unless it is renewed (aware, UTC). The server never ends it earlier.

        Before the first receive it is the creation of the client plus `session_timeout`, and has no effect.
        """
        return self._holder.lock.term.expires_at

    @property
    def is_lock_lost(self) -> bool:
        """Whether the lock was held, and is known to be lost or expired."""
        return self._holder.is_lost

    @property
    def closed(self) -> bool:
        """Whether `close_session` was called."""
        return self._holder.lock.closed

    def __repr__(self) -> str:
        lock = self._holder.lock
        if lock.closed:
            state = "closed"
        elif lock.error is not None:
            state = "lost"
        elif lock.stage is Stage.HELD:
            state = f"locked until {lock.term.expires_at:%H:%M:%S} UTC"
        else:
            state = "held by the parent process" if lock.stage is Stage.INHERITED else "not locked yet"
        return f"<SessionClient {self.session_id!r} of {self.queue_name!r}, {state}>"

    def __enter__(self) -> SessionClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close_session()

    def __del__(self) -> None:
        holder: Holder | None = getattr(self, "_holder", None)  # `None` if the constructor raised an error.
        if holder is not None and holder.lock.is_live:
            # If the warning is kept, the client stays alive with it. The lock must expire nevertheless.
            holder.lock.abandon()
            # Not with the client's `repr`: formatting a time imports a module, which fails when the interpreter exits.
            text = f"{holder.lock.name} was never closed: its lock holds until it expires"
            warnings.warn(text, ResourceWarning, 2, self)

    # Receiving

    if not TYPE_CHECKING:

        def __iter__(self) -> Iterator[ReceivedMessage]:  # As a receiver of azure-servicebus has it.
            raise TypeError("a SessionClient is not iterable: use session.messages(timeout=...)")

    def receive_message(self, timeout: float | timedelta = 30, **others: Unpack[NoArguments]) -> ReceivedMessage | None:
        """Return the next message of the session. Blocks.

        Args:
            timeout: Seconds (or a timedelta), 0 or more, to wait for a message.

        Returns:
            The message, or `None` if none came in time.

        Raises:
            SessionNotFoundError: The lock is lost, or the session was closed.
            SessionLockedError, QueueNotFoundError: Another client holds the session, or the queue does not exist.
            AuthenticationFailedError, PermissionDeniedError: The credentials were refused, or lack the right Listen.
            ConnectionFailedError: No answer came. In the plain dialect a message may have been locked (`maybe_delivered`).
            ThrottledError, ProviderError: The server was busy, or failed.
            ValidationError: `timeout` is out of its range.
        """
        refuse(others, "receive_message")
        return receiving.receive_one(self._holder, seconds(timeout, "timeout"))

    def receive_messages(
        self, max_message_count: int, timeout: float | timedelta = 30, **others: Unpack[NoArguments]
    ) -> list[ReceivedMessage]:
        """Return the messages that are there, in order. Blocks, but only until the first message comes.

        Args:
            max_message_count: The largest number of messages, 1 to 1000.
            timeout: Seconds (or a timedelta), 0 or more, to wait for the first message.

        Returns:
            The messages. The list is empty if none came in time.

        Raises:
            SessionNotFoundError: The lock is lost, or the session was closed.
            SessionLockedError, QueueNotFoundError: Another client holds the session, or the queue does not exist.
            AuthenticationFailedError, PermissionDeniedError: The credentials were refused, or lack the right Listen.
            ConnectionFailedError: No answer came. In the plain dialect a message may have been locked (`maybe_delivered`).
            ThrottledError, ProviderError: The server was busy, or failed.
            ValidationError: An argument is out of its range.
        """
        refuse(others, "receive_messages")
        count = check_count(max_message_count, "max_message_count")
        return receiving.receive(self._holder, count, seconds(timeout, "timeout"))

    def messages(
        self, timeout: float | timedelta = 30, prefetch: int = 10, **others: Unpack[NoArguments]
    ) -> Iterator[ReceivedMessage]:
        """Iterate over the messages of the session, in order. Each step blocks. After an error, the iteration can go on.

        Args:
            timeout: Seconds (or a timedelta), 0 or more, to wait for each message. The iteration ends when none came.
            prefetch: How many messages to fetch in one request, 1 to 1000. This does not change which messages come, their
                order, or their delivery counts. Later receives of this client return the messages that were not handed out
                yet. `abandon_message` and `close_session` give them back. Settle each message before the next step: otherwise
                each step needs a request of its own. The settlement of the last one also fetches the next messages.

        Raises:
            SessionNotFoundError: The lock is lost, or the session was closed.
            SessionLockedError, QueueNotFoundError: Another client holds the session, or the queue does not exist.
            AuthenticationFailedError, PermissionDeniedError: The credentials were refused, or lack the right Listen.
            ConnectionFailedError: No answer came. In the plain dialect a message may have been locked (`maybe_delivered`).
            ThrottledError, ProviderError: The server was busy, or failed.
            ValidationError: An argument is out of its range.
        """
        refuse(others, "messages")
        check_count(prefetch, "prefetch")
        return receiving.MessageIterator(self._holder, seconds(timeout, "timeout"), prefetch)

    def receive_deferred_messages(self, sequence_numbers: Sequence[int]) -> list[ReceivedMessage]:
        """Receive deferred messages: all of them, or none and an error. Takes the lock if it is not held yet. Blocks.

        Args:
            sequence_numbers: The `sequence_number` of each message, 1 to 1000 of them.

        Raises:
            ProviderError: One of them is not a deferred message of this session (`code` is ``"MessageNotFound"``), or the
                server failed.
            SessionNotFoundError: The lock is lost, or the session was closed.
            SessionLockedError, QueueNotFoundError: Another client holds the session, or the queue does not exist.
            UnsupportedOperationError: The server speaks the plain dialect.
            AuthenticationFailedError, PermissionDeniedError: The credentials were refused, or lack the right Listen.
            ConnectionFailedError, ThrottledError: No answer came, or the server was busy.
            ValidationError: A sequence number is out of its range, or there are too few or too many.
        """
        return receiving.receive_deferred(self._holder, sequence_numbers)

    # The lock and the state

    def renew_session_lock(self) -> datetime:
        """Renew the lock now. Blocks. A background thread does the same unless `auto_renew` is off.

        Returns:
            When the lock expires (aware, UTC).

        Raises:
            SessionNotFoundError: The lock is lost, or the session was closed.
            AuthenticationFailedError, PermissionDeniedError: The credentials were refused, or lack the right Listen.
            ConnectionFailedError, ThrottledError, ProviderError: No answer came, or the server was busy or failed.
        """
        self._holder.check()
        self._holder.send_for_lock(operations.renew(self._holder.target()))
        return self._holder.lock.term.expires_at

    def get_session_state(self) -> bytes | None:
        """Return the bytes that are stored with the session, or `None`. Takes the lock if it is not held yet. Blocks.

        Raises:
            SessionNotFoundError: The lock is lost, or the session was closed.
            SessionLockedError, QueueNotFoundError: Another client holds the session, or the queue does not exist.
            UnsupportedOperationError: The server speaks the plain dialect.
            AuthenticationFailedError, PermissionDeniedError: The credentials were refused, or lack the right Listen.
            ConnectionFailedError, ThrottledError, ProviderError: No answer came, or the server was busy or failed.
        """
        self._holder.require_lock("keep a session's state")
        return self._holder.send(operations.get_state(self._holder.target()))

    def set_session_state(self, state: bytes | str | None) -> None:
        """Store bytes with the session, for its next holder. `None` removes them. Takes the lock if not held yet. Blocks.

        Args:
            state: The bytes. Text is stored as UTF-8; `get_session_state` returns its bytes.

        Raises:
            MessageTooLargeError: `state` is larger than the server accepts.
            SessionNotFoundError: The lock is lost, or the session was closed.
            SessionLockedError, QueueNotFoundError: Another client holds the session, or the queue does not exist.
            UnsupportedOperationError: The server speaks the plain dialect.
            AuthenticationFailedError, PermissionDeniedError: The credentials were refused, or lack the right Listen.
            ConnectionFailedError, ThrottledError, ProviderError: No answer came, or the server was busy or failed.
            ValidationError: `state` is neither bytes nor text nor `None`.
        """
        stored = check_state(state)
        self._holder.require_lock("keep a session's state")
        self._holder.send(operations.set_state(self._holder.target(), stored))

    def lock_handle(self) -> str:
        """Return the session's lock as text. Takes the lock if it is not held yet. Blocks.

        Another process makes a client of it with `ServiceBusProvider.session_from_handle`. This client continues to hold the
        session, and renews the lock, until `detach` or `close_session`. Treat the text as a secret: it is enough to hold the
        session.

        Raises:
            UnsupportedOperationError: The session is on Azure without a gateway: there the lock belongs to an AMQP link. Or
                the server speaks the plain dialect.
            SessionNotFoundError: The lock is lost, or the session was closed.
            SessionLockedError, QueueNotFoundError: Another client holds the session, or the queue does not exist.
            AuthenticationFailedError, PermissionDeniedError: The credentials were refused, or lack the right Listen.
            ConnectionFailedError, ThrottledError, ProviderError: No answer came, or the server was busy or failed.
        """
        return handover.lock_handle(self._holder).text()

    def detach(self) -> None:
        """Close this client and leave the lock to the process that has its handle. Idempotent.

        The lock is neither released nor renewed any more. Unsettled messages stay with the lock, except those that were
        fetched ahead: blocks until they are given back. A failure of this is logged, not raised. Without another process
        that renews it, the lock ends when it expires.
        """
        handover.detach(self._holder)

    def close_session(self) -> None:
        """Close the session: return its unsettled messages and release its lock. Idempotent. Blocks, for seconds at most.

        A receive that waits in another thread ends with `SessionNotFoundError`. The plain dialect has no release: there the
        server keeps the lock until it expires. A release that fails is logged, not raised.
        """
        background.finish(self._holder.lock.background)
        self._holder.close()

    def close(self) -> None:
        """Close the session. The same as `close_session`."""
        self.close_session()


def make_client(
    connection: ServerConnection,
    session_id: str,
    queue_name: str,
    options: LockOptions,
    on_lock_lost: OnLockLost | None = None,
) -> SessionClient:
    """Return a client on a connection that other clients use as well, and that outlives it. The constructor makes its own."""
    client = SessionClient.__new__(SessionClient)
    on_lost = hook_without_reference(client, on_lock_lost)
    client._holder = Holder(connection, session_id, queue_name, options, on_lost=on_lost)
    return client


def holder_of(client: SessionClient) -> Holder:
    """Return the internals of a client."""
    return client._holder
