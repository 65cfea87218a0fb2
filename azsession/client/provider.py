"""`ServiceBusProvider`, the public class that an application makes once for each process."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import requests

from ..azure_names import NoArguments, explain_azure_names, refuse
from ..config import ConfigFields, ConfigOptions, ServiceBusConfig
from ..errors import ConfigurationError, NoSessionAvailableError, ValidationError
from ..messages import Message, PeekedMessage, ReceiptHandle, SessionInfo
from ..validation import check_function, check_queue_name, check_session_id, seconds
from . import management, sending
from .accepting import Acceptance
from .dead_letter_methods import DeadLetterMethods
from .holder import LockOptions
from .lock_handle import LockHandle
from .provider_core import ProviderCore
from .queue_methods import QueueMethods
from .redacted import Redacted
from .server_connection import ServerConnection
from .session import OnLockLost, SessionClient
from .uncopied import refuse_copies

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from typing_extensions import Unpack


@explain_azure_names
@refuse_copies("share this one between threads; in another process make one from the same configuration")
class ServiceBusProvider(DeadLetterMethods, QueueMethods):
    """The connection to one Service Bus namespace or gateway. It sends messages and opens sessions.

    Make one for each process, and close it at the end. It keeps one HTTP session, one token cache and one thread that renews
    locks, for any number of sessions. Safe to use from many threads. After a fork, parent and child can both use it: the
    child gets its own connections, and a session belongs to the process that opened it.

    Args:
        config: Where the server is, timeouts, retries, and the key that signs tokens.
        credential: A `TokenCredential`, for example one of azure-identity, to use instead of a key.
        http: The `requests.Session` to use, with its proxies, certificates, adapters, headers, cookies, hooks and
            authentication. Only the header ``Authorization`` is always the provider's, and redirects are not followed. The
            provider does not close it. For an Azure URL the provider mounts an adapter that speaks AMQP. Closing `http`
            closes this adapter.

    Raises:
        ConfigurationError: `config` is wrong, there is nothing to authenticate with, or an extra is not installed.

    Example:
        >>> from azsession import Message, ServiceBusProvider
        >>> with ServiceBusProvider.embedded() as provider:
        ...     message_id = provider.send_message("orders", Message("paid", session_id="order-42"))
        ...     with provider.create_session_client("orders") as session:
        ...         message = session.receive_message()
        ...         session.complete_message(message)
        ...         print(session.session_id, message.text())
        order-42 paid

    The methods below name their own errors. Each method that sends a request blocks, and can also raise these:

    * `AuthenticationFailedError`: the server refused the credentials, or there is no token.
    * `PermissionDeniedError`: the credentials lack the right for the operation: Send, Listen or Manage.
    * `ConnectionFailedError`: no answer came. Its `maybe_delivered` says whether the request may have taken effect.
    * `ThrottledError`: the server was busy, also at the last retry.
    * `UnsupportedOperationError`: the server does not offer the operation, for example because it speaks the plain dialect.
    * `ProviderError`: the server failed.
    * `ValidationError`: an argument is out of its range.
    * `ConfigurationError`: the provider is closed.
    """

    def __init__(
        self,
        config: ServiceBusConfig,
        *,
        credential: TokenCredential | None = None,
        http: requests.Session | None = None,
    ) -> None:
        if not isinstance(config, ServiceBusConfig):
            raise ConfigurationError(
                f"config must be a ServiceBusConfig, not {type(config).__name__}; use "
                "ServiceBusProvider.from_connection_string or ServiceBusProvider.from_namespace"
            )
        self._core = ProviderCore(ServerConnection(config, credential, http))

    @classmethod
    def from_connection_string(
        cls, connection_string: str, *, credential: TokenCredential | None = None, **config_fields: Unpack[ConfigOptions]
    ) -> ServiceBusProvider:
        """Return a provider for a connection string of Azure's form. Sends no request.

        Args:
            connection_string: For example ``"Endpoint=sb://myns.servicebus.windows.net/;SharedAccessKeyName=..;.."``.
            credential: A `TokenCredential` to use instead of a key.
            config_fields: Further fields of `ServiceBusConfig`.

        Raises:
            ConfigurationError: The connection string or a field is wrong, or there is nothing to authenticate with.
        """
        return cls(ServiceBusConfig(connection_string=connection_string, **config_fields), credential=credential)

    @classmethod
    def from_namespace(
        cls, namespace: str, credential: TokenCredential | None = None, **config_fields: Unpack[ConfigOptions]
    ) -> ServiceBusProvider:
        """Return a provider for an Azure namespace. Sends no request.

        Args:
            namespace: For example ``"myns"`` or ``"myns.servicebus.windows.net"``.
            credential: A `TokenCredential`. By default azure-identity's `DefaultAzureCredential`.
            config_fields: Further fields of `ServiceBusConfig`.

        Raises:
            ConfigurationError: The namespace or a field is wrong.
        """
        return cls(ServiceBusConfig(namespace=namespace, **config_fields), credential=credential)

    @classmethod
    def from_env(cls, **config_fields: Unpack[ConfigFields]) -> ServiceBusProvider:
        """Return a provider for the server that the environment names. Sends no request. See `ServiceBusConfig.from_env`.

        Args:
            config_fields: Fields of `ServiceBusConfig`. They take precedence over the environment.

        Raises:
            ConfigurationError: Neither the environment nor a field names a server, or one of them is wrong.
        """
        return cls(ServiceBusConfig.from_env(**config_fields))

    @classmethod
    def embedded(
        cls, path: str | Path | None = None, *, queues: Iterable[str] = (), auto_create: bool = True
    ) -> ServiceBusProvider:
        """Return a provider with a broker inside this process, without any server.

        The broker is closed with the provider. A forked child cannot use it.

        Args:
            path: The data file. It is created if it does not exist. One process can have it open at a time. `None` keeps
                everything in memory.
            queues: The names of queues to create if they do not exist.
            auto_create: Create a queue when the first message is sent to it. Reading creates none.

        Raises:
            ConfigurationError: The file cannot be opened: another process or broker has it open, or it is damaged.
            ValidationError: A queue name is wrong.
        """
        provider = cls.__new__(cls)
        connection = ServerConnection.embedded(path, queues=queues, auto_create=auto_create)
        provider._core = ProviderCore(connection, "embedded in memory" if path is None else f"embedded on {path}")
        return provider

    def __repr__(self) -> str:
        return f"<ServiceBusProvider {self._core.place}{', closed' if self._core.closed else ''}>"

    def __enter__(self) -> ServiceBusProvider:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def config(self) -> ServiceBusConfig:
        """The configuration."""
        return self._core.config

    # Sessions

    def create_session_client(
        self,
        queue_name: str,
        session_id: str | None = None,
        *,
        session_timeout: float | timedelta | None = None,
        auto_renew: bool = True,
        max_renewal: float | timedelta | None = None,
        on_lock_lost: OnLockLost | None = None,
        accept_timeout: float | timedelta = 60,
        **others: Unpack[NoArguments],
    ) -> SessionClient:
        """Return a client for one session. Blocks only without a `session_id`.

        Args:
            queue_name: The queue, or ``"topic/subscriptions/name"``.
            session_id: The session, 0 to 128 characters. No request is sent then: the first receive takes the lock. `None`
                takes the lock of the next available session that has messages.
            session_timeout: Seconds (or a timedelta), more than 0, that the lock is expected to last if the server does not
                say. The default is the configuration's.
            auto_renew: Renew the lock in the background.
            max_renewal: Seconds (or a timedelta) after the start of the lock at which the renewal stops. `None`: never.
            on_lock_lost: Called once, with the client and the error, when the lock is found to be lost, in any thread.
            accept_timeout: Seconds (or a timedelta), 0 or more, to wait for the next available session.

        Raises:
            NoSessionAvailableError: No session with messages became available in time.
            QueueNotFoundError: The queue does not exist.
        """
        refuse(others, "create_session_client")
        check_queue_name(queue_name)
        lasts = self.config.session_timeout
        if session_timeout is not None:
            lasts = seconds(session_timeout, "session_timeout", positive=True)
        wait = seconds(accept_timeout, "accept_timeout")
        options = LockOptions(lasts, auto_renew, max_renewal)
        check_function(on_lock_lost, "on_lock_lost")
        if session_id is not None:
            if not isinstance(session_id, str):
                kind = type(session_id).__name__
                raise ValidationError(f"session_id must be a str, not {kind}; leave it out for the next available session")
            check_session_id(session_id)
            return self._core.open_session(queue_name, session_id, options, on_lock_lost)
        acceptance = Acceptance(self._core, queue_name, options, self._core.pending, on_lock_lost)
        try:
            client = acceptance.accept(wait)
            if client is None:
                raise NoSessionAvailableError(f"no session of {queue_name!r} had messages within {wait:g} s")
            return client
        except BaseException:
            acceptance.give_back()
            raise

    def session_from_receipt(self, receipt: ReceiptHandle | str) -> SessionClient:
        """Return a client that can settle the message of a receipt that another process received. Sends no request.

        It can only settle: its other methods raise `UnsupportedOperationError`. See `session_from_handle` for the whole lock.

        Args:
            receipt: The receipt, or its text.

        Raises:
            InvalidReceiptError: It is not the text of a receipt.
            ConfigurationError: The provider is closed.
        """
        self._core.check_open()
        return self._core.adopt(receipt if isinstance(receipt, ReceiptHandle) else ReceiptHandle.parse(receipt))

    def session_from_handle(
        self,
        handle: str,
        *,
        auto_renew: bool = True,
        max_renewal: float | timedelta | None = None,
        on_lock_lost: OnLockLost | None = None,
    ) -> SessionClient:
        """Return a client that holds the session whose lock another process handed over. Sends no request.

        The client receives, settles, renews, uses the session state, and releases the lock when it is closed. The lock is
        renewed at once, in the background. If it was lost meanwhile, the first call raises `SessionNotFoundError`.

        Args:
            handle: The text that `SessionClient.lock_handle` returned, from a client of the same gateway.
            auto_renew: Renew the lock in the background.
            max_renewal: Seconds (or a timedelta) after which the renewal stops. `None`: never.
            on_lock_lost: Called once, with the client and the error, when the lock is found to be lost, in any thread.

        Raises:
            ValidationError: The text is not a lock handle, or is damaged.
            UnsupportedOperationError: The provider is connected to Azure without a gateway.
            ConfigurationError: The provider is closed.
        """
        options = LockOptions(self.config.session_timeout, auto_renew, max_renewal)
        check_function(on_lock_lost, "on_lock_lost")
        handle = Redacted(handle) if isinstance(handle, str) else handle
        return self._core.resume(LockHandle.parse(handle), options, on_lock_lost)

    def list_sessions(self, queue_name: str) -> list[SessionInfo]:
        """Return the sessions of a queue that have messages or a state, sorted by id.

        Raises:
            QueueNotFoundError: The queue does not exist.
        """
        return management.list_sessions(self._core, queue_name)

    def peek_messages(
        self, queue_name: str, session_id: str | None, max_message_count: int = 10, from_sequence_number: int = 0
    ) -> list[PeekedMessage]:
        """Return messages without receiving them: active, deferred and scheduled ones, by sequence number.

        The server may return fewer than there are. There are no more if it returns none.

        Args:
            queue_name: The queue.
            session_id: The session. `None`: all sessions of the queue.
            max_message_count: The largest number of messages, 1 to 1000.
            from_sequence_number: The first sequence number, 0 or more.

        Raises:
            QueueNotFoundError: The queue does not exist.
        """
        return management.peek_messages(self._core, queue_name, session_id, max_message_count, from_sequence_number)

    # Sending

    def send_message(self, queue_name: str, message: Message) -> str:
        """Send a message. When the call returns, the server has stored the message.

        Args:
            queue_name: The queue, or the topic.
            message: The message. It needs a `session_id`.

        Returns:
            The message id. It is a new UUID if the message has none.

        Raises:
            MessageTooLargeError: The message is larger than the server accepts.
            QueueNotFoundError: The queue does not exist.
        """
        return self.send_messages(queue_name, message if isinstance(message, Message) else [message])[0]

    def send_messages(self, queue_name: str, messages: Iterable[Message] | Message) -> list[str]:
        """Send messages, in their order, in as few requests as their sizes allow. Blocks until they are stored.

        The server accepts all messages of a request or none of them. If a later request fails, the error's `accepted` says
        how many messages the earlier requests sent: the first `accepted` of `messages`. Single messages that several threads
        send to a queue at the same time share requests.

        Args:
            queue_name: The queue, or the topic.
            messages: The messages, or one message. Each needs a `session_id`.

        Returns:
            The message ids, in a list also for one message.

        Raises:
            MessageTooLargeError: A message is larger than the server accepts.
            QueueNotFoundError: The queue does not exist.
        """
        check_queue_name(queue_name)
        return sending.send_messages(self._core, queue_name, messages)

    def close(self) -> None:
        """Close all sessions of this provider, stop its threads and close its connections. Idempotent.

        Blocks until the sessions are released, or for a few seconds if the server does not answer. A release that fails is
        logged, not raised.
        """
        self._core.close()


def core_of(provider: ServiceBusProvider) -> ProviderCore:
    """Return the internals of a provider."""
    return provider._core
