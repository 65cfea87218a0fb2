"""`AzureBroker`: the broker interface on an Azure Service Bus namespace.

The gateway calls it, and so does a provider with an Azure connection string. Each operation is a coroutine in the loop's
thread. One of the objects that `_begin` makes carries it out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from ... import forks, interrupts
from ...config import ServiceBusConfig, check_ca_bundle
from ...errors import ProviderError, QueueError, UnsupportedOperationError
from ...futures import Future, wait_all
from ...logs import SessionLogger, get_logger
from ...messages import Message, PeekedMessage, ReceivedMessage, SessionInfo
from ...protocol.error_codes import NOT_SUPPORTED
from ...queues import QueueInfo, QueueSettings, QueueStatistics
from ...token_cache import TokenCache
from ...tokens import source_of
from ..base import Broker
from ..calls import BLOCKING, AcceptRequest, Backup, CallContext, Delivery, ReceiveRequest, Settled, Settlement
from .batches import EncodedMessages
from .browsing import MessageBrowser
from .delays import DelayedSessions
from .direct_settling import DirectSettler
from .held_operations import HeldSessionOperations
from .namespace import Namespace
from .operation import Operation
from .purging import Purger
from .receiving import SessionReceiver
from .resubmitting import DeadLetterResubmitter
from .scheduling import MessageScheduler
from .sending import MessageSender
from .session.registry import SessionRegistry
from .session_listing import SessionLister
from .transport.stream import Address, check_environment

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

logger: SessionLogger = get_logger(__name__)

T = TypeVar("T")

#: Seconds for Azure to confirm the releases of all locks when the broker is closed.
RELEASE_TIMEOUT = 5.0
#: Seconds that `check_ready` may take.
READY_TIMEOUT = 5.0

#: `azsession serve` prints a second connection string, which leads here, too.
_GATEWAY = "if the server is azsession serve, use the connection string that begins with Endpoint=http"
_UNMANAGED = f"queues cannot be managed over AMQP: on Azure use the portal, the CLI or a template; {_GATEWAY}"
_NO_BACKUP = f"a namespace cannot be backed up, because Azure keeps its messages: use azsession export; {_GATEWAY}"


class AzureBroker(Broker):
    """Message sessions of an Azure Service Bus namespace, over AMQP 1.0.

    One connection and one thread serve any number of sessions. The broker may be used from any thread. After a fork the
    child opens a connection of its own, and the sessions stay the parent's.

    Args:
        config: The configuration of the namespace; its `uses_amqp` must be true.
        credential: Authenticates instead of the configuration's key.

    Raises:
        ConfigurationError: Neither the configuration nor `credential` can authenticate, `ca_bundle` cannot be read, or the
            proxy of the environment is not a URL that can be used.
    """

    def __init__(self, config: ServiceBusConfig, credential: TokenCredential | None = None) -> None:
        check_ca_bundle(config.ca_bundle)
        address = Address(
            config.host, config.port, tls=config.tls, websocket=config.uses_websockets, ca_bundle=config.ca_bundle
        )
        check_environment(address)
        tokens = TokenCache(source_of(config, credential))
        self._namespace = Namespace(address, tokens, timeout=max(1.0, config.request_timeout))
        # The key of a single entity is valid for that entity only.
        self._checked_entity = "" if config.credentials is None else config.credentials.entity_path or ""
        self._begin()
        forks.register(self)

    def _begin(self) -> None:
        self._loop = self._namespace.loop
        self._registry = SessionRegistry(self._namespace)
        self._sender = MessageSender(self._namespace)
        self._receiver = SessionReceiver(self._namespace, self._registry)
        self._browser = MessageBrowser(self._namespace)
        self._lister = SessionLister(self._namespace, self._registry)
        self._resubmitter = DeadLetterResubmitter(self._namespace, self._browser, self._sender)
        self._delays = DelayedSessions(self._registry, self._loop)
        self._held = HeldSessionOperations(self._namespace, self._registry, self._receiver, self._browser, self._delays)
        self._settler = DirectSettler(self._namespace, self._registry, self._held)
        self._scheduler = MessageScheduler(self._namespace)
        self._purger = Purger(
            self._namespace,
            self._registry,
            self._receiver,
            self._held,
            self._browser,
            self._lister,
            self._scheduler,
            self._delays,
        )
        self._closed = self._has_released = False

    def __repr__(self) -> str:
        return f"<AzureBroker of {self._namespace!r}>"

    def _run(self, context: CallContext, call: Callable[[Operation], Coroutine[Any, Any, T]]) -> Future[T]:
        operation = Operation(context)
        return self._loop.start_call(lambda: call(operation), operation)

    # Sessions

    def take_offered(self, request: ReceiveRequest) -> Delivery | None:
        return self._receiver.take_offered(request)

    def receive(self, request: ReceiveRequest, *, context: CallContext = BLOCKING) -> Future[Delivery]:
        delivery = self._receiver.take_offered(request)
        if delivery is not None:
            return _done(delivery)
        return self._run(context, lambda operation: self._receiver.receive(request, operation))

    def accept(self, request: AcceptRequest, *, context: CallContext = BLOCKING) -> Future[Delivery | None]:
        return self._run(context, lambda operation: self._receiver.accept(request, operation))

    def receive_deferred(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        sequence_numbers: Sequence[int],
        *,
        context: CallContext = BLOCKING,
    ) -> Future[list[ReceivedMessage]]:
        return self._run(
            context,
            lambda operation: self._receiver.receive_deferred(entity, session_id, lock_id, sequence_numbers, operation),
        )

    def settle(
        self, entity: str, session_id: str, settlements: Sequence[Settlement], *, context: CallContext = BLOCKING
    ) -> Future[list[str | None]]:
        return self._settler.settle(entity, session_id, settlements, context)

    def renew(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = BLOCKING) -> Future[float]:
        return self._run(context, lambda operation: self._held.renew(entity, session_id, lock_id, operation))

    def settle_and_receive(
        self, settlements: Sequence[Settlement], request: ReceiveRequest, *, context: CallContext = BLOCKING
    ) -> Future[Settled]:
        return self._run(context, lambda operation: self._held.settle_and_receive(settlements, request, operation))

    def release(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        settlements: Sequence[Settlement] = (),
        *,
        context: CallContext = BLOCKING,
    ) -> Future[Sequence[str | None]]:
        return self._run(context, lambda operation: self._held.release(entity, session_id, lock_id, settlements, operation))

    def give_back(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        lock_tokens: Sequence[str],
        *,
        context: CallContext = BLOCKING,
    ) -> Future[None]:
        return self._run(context, lambda operation: self._held.give_back(entity, session_id, lock_id, lock_tokens, operation))

    def undo_accept(self, request: AcceptRequest, delivery: Delivery, *, context: CallContext = BLOCKING) -> Future[None]:
        return self._run(context, lambda operation: self._held.undo_accept(request, delivery, operation))

    def get_state(
        self, entity: str, session_id: str, lock_id: str, *, context: CallContext = BLOCKING
    ) -> Future[bytes | None]:
        return self._run(context, lambda operation: self._held.get_state(entity, session_id, lock_id, operation))

    def set_state(
        self, entity: str, session_id: str, lock_id: str, state: bytes | None, *, context: CallContext = BLOCKING
    ) -> Future[None]:
        return self._run(context, lambda operation: self._held.set_state(entity, session_id, lock_id, state, operation))

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
        return self._run(
            context,
            lambda operation: self._held.dead_letter_session(
                entity, session_id, lock_id, reason, description, request_id, operation
            ),
        )

    # Sending and browsing

    def send(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[None]:
        try:
            encoded = EncodedMessages.of(entity, messages)
        except QueueError as error:
            return _failed(error)
        return self._run(context, lambda operation: self._sender.send(entity, encoded, request_id, operation))

    def schedule(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[list[int]]:
        try:
            encoded = EncodedMessages.of(entity, messages)
        except QueueError as error:
            return _failed(error)
        return self._run(context, lambda operation: self._scheduler.schedule(entity, encoded, request_id, operation))

    def cancel_scheduled(
        self, entity: str, sequence_numbers: Sequence[int], *, context: CallContext = BLOCKING
    ) -> Future[None]:
        return self._run(context, lambda operation: self._scheduler.cancel(entity, sequence_numbers, operation))

    def purge(
        self, entity: str, session_id: str | None, request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[int]:
        return self._run(context, lambda operation: self._purger.purge(entity, session_id, request_id, operation))

    def peek(
        self,
        entity: str,
        session_id: str | None,
        from_sequence_number: int,
        max_count: int,
        *,
        context: CallContext = BLOCKING,
    ) -> Future[list[PeekedMessage]]:
        return self._run(
            context, lambda operation: self._browser.peek(entity, session_id, from_sequence_number, max_count, operation)
        )

    def list_sessions(
        self, entity: str, after: str | None, max_count: int, since: float | None = None, *, context: CallContext = BLOCKING
    ) -> Future[list[SessionInfo]]:
        if since is not None:
            return _unsupported("the sessions of Azure are not listed by the times of their states")
        return self._run(context, lambda operation: self._lister.list_sessions(entity, after, max_count, operation))

    # Dead letters

    def dead_letters(
        self,
        entity: str,
        from_sequence_number: int,
        max_count: int,
        session_id: str | None = None,
        *,
        context: CallContext = BLOCKING,
    ) -> Future[list[PeekedMessage]]:
        return self._run(
            context,
            lambda operation: self._browser.dead_letters(entity, from_sequence_number, max_count, session_id, operation),
        )

    def resubmit(self, entity: str, sequence_number: int, *, context: CallContext = BLOCKING) -> Future[None]:
        return self._run(context, lambda operation: self._resubmitter.resubmit(entity, sequence_number, operation))

    def delete_dead_letter(self, entity: str, sequence_number: int, *, context: CallContext = BLOCKING) -> Future[None]:
        return self._run(context, lambda operation: self._browser.take_dead_letter(entity, sequence_number, None, operation))

    # Queues

    def create_queue(self, entity: str, settings: QueueSettings, *, context: CallContext = BLOCKING) -> Future[bool]:
        return _unsupported()

    def get_queue(self, entity: str, *, context: CallContext = BLOCKING) -> Future[QueueInfo]:
        return _unsupported()

    def queue_statistics(self, entity: str, *, context: CallContext = BLOCKING) -> Future[QueueStatistics]:
        return self._run(context, lambda operation: self._lister.statistics(entity, operation))

    def list_queues(self, *, context: CallContext = BLOCKING) -> Future[list[QueueInfo]]:
        return _unsupported()

    def delete_queue(self, entity: str, *, context: CallContext = BLOCKING) -> Future[None]:
        return _unsupported()

    # Closing, and forks

    def backup(self, *, context: CallContext = BLOCKING) -> Future[Backup]:
        return _unsupported(_NO_BACKUP)

    def check_ready(self, *, context: CallContext = BLOCKING) -> Future[None]:
        """Check whether the namespace can be reached and accepts the token. Takes a few seconds at most.

        Raises:
            ConnectionFailedError: The namespace cannot be reached, or did not answer in time.
            AuthenticationFailedError: The token was refused, or there is none.
            QueueError: Another error of the namespace.
        """
        deadline = time.monotonic() + READY_TIMEOUT
        if context.deadline is not None:
            deadline = min(deadline, context.deadline)

        async def call(operation: Operation) -> None:
            await self._namespace.connect(self._checked_entity, operation)

        return self._run(attrs.evolve(context, deadline=deadline), call)

    def stop_waiting(self) -> None:
        # A signal handler that interrupted a call cannot wait for the loop, see `close`.
        tell = self._loop.call if interrupts.has_interrupted_us() else self._loop.run
        try:
            tell(self._registry.stop_waiting)
        except ProviderError:
            return  # Closed.

    def close(self) -> None:
        """Release all locks, and close the connections. Idempotent. After an interrupt, a second call continues.

        A signal handler that interrupted a call of this thread cannot wait for the loop, which can need a lock of that call.
        Then the broker closes after it.
        """
        if interrupts.has_interrupted_us():
            threading.Thread(target=self._finish_closing, name="azsession-broker-closing").start()
        else:
            self._finish_closing()

    def _finish_closing(self) -> None:
        if self._closed:
            return
        try:
            if not self._has_released:
                if not wait_all(self._loop.run(self._registry.release_all), RELEASE_TIMEOUT):
                    logger.info("some session locks were not released before the broker closed: Azure did not answer in time")
                self._has_released = True
            self._namespace.close()
        except ProviderError:
            pass  # The loop is closed.
        self._closed = True

    def after_fork(self) -> None:
        """In a forked child: forget the connection and the sessions, which stay the parent's."""
        self._namespace.after_fork()
        self._begin()


def _done(result: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(result)
    return future


def _failed(error: QueueError) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def _unsupported(text: str = _UNMANAGED) -> Future[Any]:
    return _failed(UnsupportedOperationError(text, code=NOT_SUPPORTED, status=405))
