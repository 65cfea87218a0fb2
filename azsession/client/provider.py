"""`ServiceBusProvider`: what a process keeps once, and makes its session clients from."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import attrs
import requests

from .. import forks
from ..config import ConfigFields, ConfigOptions, ServiceBusConfig
from ..errors import (
    ConfigurationError,
    ConnectionFailedError,
    MessageTooLargeError,
    NoSessionAvailableError,
    ProviderError,
    QueueError,
    SessionNotFoundError,
    ValidationError,
    revised,
)
from ..messages import Message, PeekedMessage, ReceiptHandle, SessionInfo
from ..protocol.wire import encode_item
from ..queues import QueueInfo, QueueSettings
from ..validation import MAX_BATCH, MAX_SEQUENCE_NUMBER, check_count, check_queue_name, check_session_id, seconds
from . import operations
from .call import Call
from .cancellation import PendingCalls
from .holder import RELEASE_PATIENCE
from .server_connection import ServerConnection
from .session import SessionClient, SessionOptions

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from typing_extensions import Unpack

T = TypeVar("T")

#: Bytes of one request that sends messages; more are divided among several.
MAX_SEND_SIZE = 4 * 1024 * 1024


class ServiceBusProvider:
    """The way to one namespace or gateway: one HTTP session, one token cache, one renewer thread, any number of sessions.

    Make one for each process, and close it at the end. Safe to use from many threads. After a fork, parent and child can
    both use it: the child gets connections of its own, and sessions stay their opener's.

    Args:
        config: How to reach the session routes.
        credential: A `TokenCredential`, such as azure-identity's, instead of the configuration's key.
        http: The `requests.Session` to use, with its proxies, certificates and adapters; it is not closed here. Where Azure's
            AMQP is spoken it gets an adapter for that, which is closed with it.

    Raises:
        ConfigurationError: The configuration is wrong, or there is nothing to authenticate with.
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
                "config is a ServiceBusConfig; for a connection string there is ServiceBusProvider.from_connection_string"
            )
        self._begin(ServerConnection(config, credential, http))

    def _begin(self, link: ServerConnection, embedded: str | None = None) -> None:
        self._config = link.config
        self._link = link
        self._embedded = embedded
        self._transport = self._link.transport
        self._under_way = PendingCalls()
        self._waits: weakref.WeakSet[PendingCalls] = weakref.WeakSet()
        self._closed = False
        forks.register(self)

    @classmethod
    def from_connection_string(
        cls, connection_string: str, *, credential: TokenCredential | None = None, **config_fields: Unpack[ConfigOptions]
    ) -> ServiceBusProvider:
        """Return a provider for a connection string of Azure's form; `config_fields` are those of `ServiceBusConfig`."""
        return cls(ServiceBusConfig(connection_string=connection_string, **config_fields), credential=credential)

    @classmethod
    def from_namespace(
        cls, namespace: str, credential: TokenCredential | None = None, **config_fields: Unpack[ConfigOptions]
    ) -> ServiceBusProvider:
        """Return a provider for ``"myns"`` or ``"myns.servicebus.windows.net"``, by default with `DefaultAzureCredential`."""
        return cls(ServiceBusConfig(namespace=namespace, **config_fields), credential=credential)

    @classmethod
    def from_env(cls, **config_fields: Unpack[ConfigFields]) -> ServiceBusProvider:
        """Return a provider for what the environment says; see `ServiceBusConfig.from_env`."""
        return cls(ServiceBusConfig.from_env(**config_fields))

    @classmethod
    def embedded(
        cls, path: str | Path | None = None, *, queues: Iterable[str] = (), auto_create: bool = True
    ) -> ServiceBusProvider:
        """Return a provider with a broker of its own, in this very process: sessions without any server.

        The broker is closed with the provider. A forked child cannot use it. Needs the extra ``server``.

        Args:
            path: The data file, which one process has open at a time; made if it is not there. `None` keeps everything in
                memory.
            queues: Names of queues to make if they are not there.
            auto_create: Make a queue when it is first used.

        Raises:
            ConfigurationError: The file cannot be opened: another process or broker has it, or it is damaged.
        """
        provider = cls.__new__(cls)
        link = ServerConnection.embedded(path, queues=queues, auto_create=auto_create)
        provider._begin(link, "in memory" if path is None else f"on {path}")
        return provider

    def __repr__(self) -> str:
        where = f"at {self._transport.url}" if self._embedded is None else f"embedded {self._embedded}"
        return f"<ServiceBusProvider {where}{', closed' if self._closed else ''}>"

    def __enter__(self) -> ServiceBusProvider:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def config(self) -> ServiceBusConfig:
        """The configuration."""
        return self._config

    # Sessions

    def create_session_client(
        self,
        queue_name: str,
        session_id: str | None = None,
        *,
        session_timeout: float | timedelta | None = None,
        auto_renew: bool = True,
        max_renewal: float | timedelta | None = None,
        on_lock_lost: Callable[[SessionClient, SessionNotFoundError], object] | None = None,
        accept_timeout: float | timedelta = 60,
    ) -> SessionClient:
        """Return a client for a session; close it when done.

        Args:
            queue_name: The queue, or ``topic/subscriptions/name``.
            session_id: The session. No request is made then: the first receive takes the lock. `None` takes the lock of the
                next session that has messages, and blocks until there is one.
            session_timeout: Seconds (or a timedelta) that the lock is expected to last where the server does not tell;
                the configuration's by default.
            auto_renew: Renew the lock in the background.
            max_renewal: Seconds after the lock began at which that ends; `None` is never.
            on_lock_lost: Called with the client and the error, once, when the lock is found to be lost.
            accept_timeout: Seconds to wait for the next available session.

        Raises:
            NoSessionAvailableError: No session with messages came in time.
            ValidationError: An argument is out of its range.
            QueueError: As any request does.
        """
        check_queue_name(queue_name)
        lasts = self._config.session_timeout
        if session_timeout is not None:
            lasts = seconds(session_timeout, "session_timeout", positive=True)
        wait = seconds(accept_timeout, "accept_timeout")
        options = SessionOptions(lasts, auto_renew, max_renewal, on_lock_lost)
        if session_id is not None:
            check_session_id(session_id)
            self._check_open()
            client = SessionClient.on_link(self._link, session_id, queue_name, options)
            if self._closed:  # By another thread, which may not have seen the client.
                client.shut()
                self._check_open()
            return client
        next_one = self.accept_next(queue_name, options, wait, self._under_way)
        if next_one is None:
            raise NoSessionAvailableError(f"no session of {queue_name!r} had messages within {wait:g} s")
        return next_one

    def accept_next(
        self, queue_name: str, options: SessionOptions, wait: float, under_way: PendingCalls
    ) -> SessionClient | None:
        """Return a client that holds the next available session; `None` if none came, or `under_way` was stopped.

        For `SessionProcessor`, whose waits end without the provider's.
        """
        self._require_v1("take the next available session")
        lock_id = str(uuid.uuid4())
        call = operations.accept(queue_name, None, lock_id, wait)
        try:
            answer = self._transport.send(call, under_way)
        except ConnectionFailedError as error:
            self._check_open()
            if not under_way.stopped.is_set():
                raise
            # The server may have given a session just when the wait was ended: asked again it gives the same one.
            answer = self._ask_again(call) if error.maybe_delivered else None
        if answer is None:
            return None
        client = SessionClient.on_link(self._link, answer.session_id, queue_name, options)
        client.begin(answer, lock_id)
        if self._closed or under_way.stopped.is_set():
            if client.shut():
                client.release()
            self._check_open()
            return None
        return client

    def _ask_again(self, call: Call[T]) -> T | None:
        call.wait, call.stopped = 0.0, None
        call.response_timeout = call.retry_within = RELEASE_PATIENCE
        try:
            return self._transport.send(call)
        except QueueError:
            return None

    def new_waits(self) -> PendingCalls:
        """Return what ends the waits of one user of this provider, as closing the provider does."""
        waits = PendingCalls()
        self._waits.add(waits)
        if self._closed:
            waits.stop()
        return waits

    def session_from_receipt(self, receipt: ReceiptHandle | str) -> SessionClient:
        """Return a client that can settle what another process received, given its receipt or the receipt's text.

        Raises:
            InvalidReceiptError: It is not a receipt.
        """
        self._check_open()
        parsed = ReceiptHandle.parse(str(receipt))
        options = SessionOptions(self._config.session_timeout, auto_renew=False)
        client = SessionClient.on_link(self._link, parsed.session_id, parsed.queue_name, options)
        client.adopt(parsed)
        return client

    def list_sessions(self, queue_name: str) -> list[SessionInfo]:
        """Return the sessions of a queue that have messages or state, by id.

        Raises:
            QueueError: As any request does; `UnsupportedOperationError` in the plain dialect.
        """
        check_queue_name(queue_name)
        self._require_v1("list sessions")
        sessions: dict[str, SessionInfo] = {}
        after = ""
        while True:
            page = self._transport.send(operations.list_sessions(queue_name, after, MAX_BATCH))
            known = len(sessions)
            sessions.update((session.session_id, session) for session in page)
            if len(page) < MAX_BATCH:
                return list(sessions.values())
            if len(sessions) == known:
                raise ProviderError(f"{self._transport.url} lists the same sessions again and again")
            after = page[-1].session_id

    def peek_messages(
        self, queue_name: str, session_id: str, max_message_count: int = 10, from_sequence_number: int = 0
    ) -> list[PeekedMessage]:
        """Return messages of a session without receiving them, by sequence number: active, deferred and scheduled ones.

        Raises:
            QueueError: As any request does; `UnsupportedOperationError` in the plain dialect.
        """
        check_queue_name(queue_name)
        check_session_id(session_id)
        check_count(max_message_count, "max_message_count")
        check_count(from_sequence_number, "from_sequence_number", MAX_SEQUENCE_NUMBER, lowest=0)
        self._require_v1("peek at messages")
        return self._transport.send(operations.peek(queue_name, session_id, from_sequence_number, max_message_count))

    # Sending

    def send_message(self, queue_name: str, message: Message) -> str:
        """Send a message; return its id. It is kept safely when this returns.

        Raises:
            ValidationError: It has no session_id, or is no `Message`.
            MessageTooLargeError: It is larger than the server takes.
            ConnectionFailedError: No answer came; ``maybe_delivered`` says whether it may have been accepted.
            QueueError: As any request does.
        """
        return self.send_messages(queue_name, [message])[0]

    def send_messages(self, queue_name: str, messages: Iterable[Message]) -> list[str]:
        """Send messages, in their order, in as few requests as their sizes allow; return their ids.

        A request is accepted whole or not at all. Where a later one of several fails, the error's ``accepted`` says how many
        messages the earlier ones brought, and so does its text.

        Raises:
            QueueError: As `send_message` does.
        """
        check_queue_name(queue_name)
        named = [with_id(message) for message in messages]
        if not named:
            return []
        self._require_v1("send messages")
        items = [encode_item(message) for message in named]
        accepted = 0
        try:
            for part in _divide(items):
                accepted += self._send_part(queue_name, part)
        except QueueError as error:
            accepted += error.accepted
            if not accepted:
                raise
            text = f"{error} ({accepted} of {len(named)} messages were accepted before that)"
            raise revised(error, text, accepted=accepted) from error.__cause__
        return [str(message.message_id) for message in named]

    def _send_part(self, queue_name: str, items: Sequence[bytes]) -> int:
        """Send messages in one request, or in halves where the server finds that too large; return how many."""
        try:
            self._transport.send(operations.send(queue_name, b"[" + b",".join(items) + b"]"))
        except MessageTooLargeError:
            if len(items) == 1:
                raise
        else:
            return len(items)
        middle, accepted = len(items) // 2, 0
        try:
            for half in (items[:middle], items[middle:]):
                accepted += self._send_part(queue_name, half)
        except QueueError as error:
            raise revised(error, accepted=accepted + error.accepted) from error.__cause__
        return accepted

    # Dead letters

    def dead_letters(
        self, queue_name: str, max_message_count: int = 100, from_sequence_number: int = 0
    ) -> list[PeekedMessage]:
        """Return the dead-lettered messages of a queue, of all sessions, by sequence number.

        Raises:
            QueueError: As any request does; `UnsupportedOperationError` in the plain dialect.
        """
        check_queue_name(queue_name)
        check_count(max_message_count, "max_message_count")
        check_count(from_sequence_number, "from_sequence_number", MAX_SEQUENCE_NUMBER, lowest=0)
        self._require_v1("look at dead letters")
        return self._transport.send(operations.dead_letters(queue_name, from_sequence_number, max_message_count))

    def resubmit(self, queue_name: str, sequence_number: int) -> None:
        """Move a dead letter to the end of its session, as a new message.

        Raises:
            ProviderError: There is no such dead letter (``code`` is ``"MessageNotFound"``).
            QueueError: As any request does.
        """
        self._on_dead_letter(operations.resubmit, queue_name, sequence_number)

    def delete_dead_letter(self, queue_name: str, sequence_number: int) -> None:
        """Delete a dead letter.

        Raises:
            ProviderError: There is no such dead letter (``code`` is ``"MessageNotFound"``).
            QueueError: As any request does.
        """
        self._on_dead_letter(operations.delete_dead_letter, queue_name, sequence_number)

    def _on_dead_letter(self, operation: Callable[[str, int], Call[None]], queue_name: str, sequence_number: int) -> None:
        check_queue_name(queue_name)
        check_count(sequence_number, "sequence_number", MAX_SEQUENCE_NUMBER)
        self._require_v1("manage dead letters")
        self._transport.send(operation(queue_name, sequence_number))

    # Queues

    def create_queue(self, queue_name: str, settings: QueueSettings | None = None) -> bool:
        """Make a queue; return whether it is new. Needs the right Manage.

        Raises:
            ProviderError: It is there with other settings (``code`` is ``"Conflict"``).
            QueueError: As any request does.
        """
        check_queue_name(queue_name)
        self._require_v1("manage queues")
        return self._transport.send(operations.create_queue(queue_name, settings or QueueSettings()))

    def get_queue(self, queue_name: str) -> QueueInfo:
        """Return a queue with its settings and counts. Needs the right Manage.

        Raises:
            QueueNotFoundError: There is no such queue.
            QueueError: As any request does.
        """
        check_queue_name(queue_name)
        self._require_v1("manage queues")
        return self._transport.send(operations.get_queue(queue_name))

    def list_queues(self) -> list[QueueInfo]:
        """Return all queues, by name, without counts. Needs the right Manage.

        Raises:
            QueueError: As any request does.
        """
        self._require_v1("manage queues")
        return self._transport.send(operations.list_queues())

    def delete_queue(self, queue_name: str) -> None:
        """Delete a queue and everything in it. Needs the right Manage.

        Raises:
            QueueNotFoundError: There is no such queue.
            QueueError: As any request does.
        """
        check_queue_name(queue_name)
        self._require_v1("manage queues")
        self._transport.send(operations.delete_queue(queue_name))

    # Its end

    def close(self) -> None:
        """Close all sessions made here that are open still, end the renewer, and close connections. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for waits in (self._under_way, *list(self._waits)):
            waits.stop()
        # All waits end before the first release; and one that is not answered is enough of waiting.
        for client in [client for client in self._link.clients() if client.shut()]:
            if not client.release():
                break
        self._link.close()

    def after_fork(self) -> None:
        """In a forked child: the parent's waits are not ours."""
        self._under_way = PendingCalls()
        self._waits = weakref.WeakSet()

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("the provider is closed: make another one")

    def _require_v1(self, operation: str) -> None:
        self._check_open()
        self._transport.require_v1(operation)


def core_of(provider: ServiceBusProvider) -> ServiceBusProvider:
    """Return the part of a provider that the processor works with."""
    return provider


def with_id(message: Message) -> Message:
    """Return a message to send, with an id; raises `ValidationError` where it is none, or has no session."""
    if not isinstance(message, Message):
        raise ValidationError(f"what is sent is a Message, not {type(message).__name__}")
    if message.session_id is None:
        raise ValidationError("a message to send needs a session_id")
    return message if message.message_id is not None else attrs.evolve(message, message_id=str(uuid.uuid4()))


def _divide(items: Sequence[bytes]) -> Iterable[list[bytes]]:
    """Yield the messages of each request."""
    part: list[bytes] = []
    size = 0
    for item in items:
        if part and (size + len(item) > MAX_SEND_SIZE or len(part) == MAX_BATCH):
            yield part
            part, size = [], 0
        part.append(item)
        size += len(item) + 1
    yield part
