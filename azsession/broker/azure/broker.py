"""`AzureBroker`: the broker interface on an Azure Service Bus namespace.

The gateway calls it, and so does a provider with an Azure connection string. It puts the parts together: `SessionReceiver`,
`MessageSender` and `MessageBrowser` in the callers' threads, `SessionRegistry` in the loop's thread.
"""

from __future__ import annotations

import logging
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ... import forks
from ...amqp import AmqpMessage, Condition, Response
from ...config import ServiceBusConfig
from ...errors import ProviderError, QueueError, SessionNotFoundError, UnsupportedOperationError
from ...messages import Message, PeekedMessage, ReceivedMessage, SessionInfo
from ...protocol.error_codes import MESSAGE_LOCK_LOST, NOT_SUPPORTED, SESSION_LOCK_LOST
from ...queues import QueueInfo, QueueSettings
from ...tokens import TokenCache, source_of
from ..base import NO_DEADLINE, PRESENT, AcceptRequest, Broker, CallContext, Delivery, Disposition, ReceiveRequest, Settlement
from .browsing import MessageBrowser
from .error_mapping import error_of
from .message_mapping import as_new
from .namespace import Namespace
from .receiving import SessionReceiver
from .sending import MessageSender
from .session.registry import SessionRegistry
from .session.settlement import SettlementResults, disposition_body
from .transport.stream import Address

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

logger: logging.Logger = logging.getLogger(__name__)

#: Messages of a session that are dead-lettered at once.
DEAD_LETTER_COUNT = 500
#: Requests to dead-letter a session whose results can be repeated.
MAX_DEAD_LETTERED = 1_000
#: Seconds for Azure to confirm the releases of all locks when the broker is closed.
RELEASE_TIMEOUT = 5.0


class AzureBroker(Broker):
    """Message sessions of an Azure Service Bus namespace, over AMQP 1.0.

    One connection and one thread serve any number of sessions. The broker may be used from any thread. After a fork the
    child opens a connection of its own, and the sessions stay the parent's.

    Args:
        config: The configuration of the namespace; its `uses_amqp` must be true.
        credential: Authenticates instead of the configuration's key.

    Raises:
        ConfigurationError: Neither the configuration nor `credential` can authenticate.
    """

    def __init__(self, config: ServiceBusConfig, credential: TokenCredential | None = None) -> None:
        address = Address(
            config.host, config.port, tls=config.tls, websocket=config.uses_websockets, ca_bundle=config.ca_bundle
        )
        tokens = TokenCache(source_of(config, credential))
        self._namespace = Namespace(address, tokens, timeout=max(1.0, config.request_timeout))
        self._begin()
        forks.register(self)

    def _begin(self) -> None:
        self._loop = self._namespace.loop
        self._registry = SessionRegistry(self._namespace)
        self._sender = MessageSender(self._namespace)
        self._receiver = SessionReceiver(self._namespace, self._registry)
        self._browser = MessageBrowser(self._namespace)
        #: Counts of messages that were dead-lettered with their sessions, by request id. The loop's thread only.
        self._dead_lettered: OrderedDict[str, int] = OrderedDict()
        self._closed = False

    def __repr__(self) -> str:
        return f"<AzureBroker of {self._namespace!r}>"

    def check(self, entity: str = "") -> None:
        """Connect and authenticate, for an entity or for the namespace as a whole. Blocks.

        Raises:
            ConnectionFailedError: The namespace cannot be reached.
            AuthenticationFailedError: The token was refused, or there is none.
            QueueError: Another error of the namespace.
        """
        self._namespace.connect(entity, NO_DEADLINE)

    # Sessions

    def receive(self, request: ReceiveRequest, *, context: CallContext = NO_DEADLINE) -> Delivery:
        return self._receiver.receive(request, context.caller, context)

    def accept(self, request: AcceptRequest, *, context: CallContext = NO_DEADLINE) -> Delivery | None:
        return self._receiver.accept(request, context)

    def receive_deferred(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        sequence_numbers: Sequence[int],
        *,
        context: CallContext = NO_DEADLINE,
    ) -> list[ReceivedMessage]:
        return self._receiver.receive_deferred(entity, session_id, lock_id, sequence_numbers, context)

    def settle(
        self, entity: str, session_id: str, settlements: Sequence[Settlement], *, context: CallContext = NO_DEADLINE
    ) -> list[str | None]:
        results = SettlementResults(len(settlements))
        is_held_here = True

        def job() -> None:
            nonlocal is_held_here
            session = self._registry.held(entity, session_id)
            if session is not None:
                session.settle(settlements, results)
                return
            is_held_here = False
            for index, settlement in enumerate(settlements):
                results.set(index, self._registry.history.result_of(settlement, SESSION_LOCK_LOST))

        self._loop.resolve(results.future, job)
        codes = self._namespace.wait(results.future, context)
        if is_held_here:
            return codes
        for index, settlement in enumerate(settlements):
            if codes[index] == SESSION_LOCK_LOST:
                codes[index] = self._settle_elsewhere(entity, session_id, settlement, context)
        return codes

    def _settle_elsewhere(self, entity: str, session_id: str, settlement: Settlement, context: CallContext) -> str | None:
        """Settle a message of a session that another process holds: Azure's management node takes its lock token."""
        try:
            uuid.UUID(settlement.lock_token)
        except ValueError:
            return SESSION_LOCK_LOST
        try:
            self._namespace.manage(
                entity,
                "update-disposition",
                disposition_body(settlement, session_id, settlement.lock_token),
                context,
                session_id=session_id,
            )
        except (SessionNotFoundError, ProviderError) as error:
            if error.is_transient:
                raise
            return SESSION_LOCK_LOST
        except QueueError as error:
            if error.code not in (SESSION_LOCK_LOST, MESSAGE_LOCK_LOST):
                raise
            return error.code
        self._loop.call(lambda: self._registry.history.add(settlement))
        return None

    def renew(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = NO_DEADLINE) -> float:
        session = self._loop.run(lambda: self._registry.require(entity, session_id, lock_id))
        self._namespace.wait(session.opened, context)
        done: Future[Response | Condition] = Future()
        self._loop.call(lambda: session.lock.renew(done.set_result))
        answer = self._namespace.wait(done, context)
        if isinstance(answer, Condition):
            raise error_of(answer, entity=entity, session_id=session_id)
        return session.lock.left()

    def release(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = NO_DEADLINE) -> None:
        def job() -> Future[None] | None:
            session = self._registry.held(entity, session_id)
            if session is not None and session.lock_id == lock_id:
                return session.release()
            self._registry.note_ended(entity, session_id, lock_id)
            return None

        released = self._loop.run(job)
        if released is not None:
            self._namespace.wait(released, context)

    def get_state(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = NO_DEADLINE) -> bytes | None:
        answer = self._manage_session(entity, session_id, lock_id, "get-session-state", {}, context)
        state = answer.body.get("session-state") if isinstance(answer.body, dict) else None
        return state if isinstance(state, bytes) else None

    def set_state(
        self, entity: str, session_id: str, lock_id: str, state: bytes | None, *, context: CallContext = NO_DEADLINE
    ) -> None:
        self._manage_session(entity, session_id, lock_id, "set-session-state", {"session-state": state}, context)

    def _manage_session(
        self, entity: str, session_id: str, lock_id: str, operation: str, body: dict[str, object], context: CallContext
    ) -> Response:
        session = self._receiver.hold(entity, session_id, lock_id, context)
        return self._receiver.request(session, operation, body, context)

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
        known = self._loop.run(lambda: self._dead_lettered.get(request_id))
        if known is not None:
            return known
        session = self._receiver.hold(entity, session_id, lock_id, context)

        def dead_letter(tokens: Sequence[str]) -> int:
            settlements = [Settlement(token, Disposition.DEAD_LETTER, reason, description) for token in tokens]
            results = SettlementResults(len(settlements))
            self._loop.resolve(results.future, lambda: session.settle(settlements, results))
            return self._namespace.wait(results.future, context).count(None)

        count = dead_letter(self._loop.run(lambda: [message.token for message in session.unsettled]))
        rest = ReceiveRequest(entity, session_id, lock_id, max_count=DEAD_LETTER_COUNT, timeout=0.0)
        while True:
            delivery = self._receiver.receive(rest, PRESENT, context)
            if not delivery.messages:
                break
            count += dead_letter([message.receipt.handle for message in delivery.messages])
        numbers = self._browser.deferred_numbers(entity, session_id, context)
        for start in range(0, len(numbers), DEAD_LETTER_COUNT):
            some = numbers[start : start + DEAD_LETTER_COUNT]
            found = self._receiver.receive_deferred(entity, session_id, lock_id, some, context)
            count += dead_letter([message.receipt.handle for message in found])
        if request_id:
            self._loop.call(lambda: self._remember_dead_lettered(request_id, count))
        return count

    def _remember_dead_lettered(self, request_id: str, count: int) -> None:
        self._dead_lettered[request_id] = count
        while len(self._dead_lettered) > MAX_DEAD_LETTERED:
            self._dead_lettered.popitem(last=False)

    # Sending and browsing

    def send(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = NO_DEADLINE
    ) -> None:
        self._sender.send(entity, messages, request_id, context)

    def peek(
        self, entity: str, session_id: str, from_sequence_number: int, max_count: int, *, context: CallContext = NO_DEADLINE
    ) -> list[PeekedMessage]:
        return self._browser.peek(entity, session_id, from_sequence_number, max_count, context)

    def list_sessions(
        self, entity: str, after: str, max_count: int, *, context: CallContext = NO_DEADLINE
    ) -> list[SessionInfo]:
        return self._browser.list_sessions(entity, after, max_count, context)

    # Dead letters

    def dead_letters(
        self, entity: str, from_sequence_number: int, max_count: int, *, context: CallContext = NO_DEADLINE
    ) -> list[PeekedMessage]:
        return self._browser.dead_letters(entity, from_sequence_number, max_count, context)

    def resubmit(self, entity: str, sequence_number: int, *, context: CallContext = NO_DEADLINE) -> None:
        def send(message: AmqpMessage) -> None:
            self._sender.send(entity, [as_new(message)], "", context)

        self._browser.take_dead_letter(entity, sequence_number, send, context)

    def delete_dead_letter(self, entity: str, sequence_number: int, *, context: CallContext = NO_DEADLINE) -> None:
        self._browser.take_dead_letter(entity, sequence_number, None, context)

    # Queues

    def create_queue(self, entity: str, settings: QueueSettings, *, context: CallContext = NO_DEADLINE) -> bool:
        raise _unsupported()

    def get_queue(self, entity: str, *, context: CallContext = NO_DEADLINE) -> QueueInfo:
        raise _unsupported()

    def list_queues(self, *, context: CallContext = NO_DEADLINE) -> list[QueueInfo]:
        raise _unsupported()

    def delete_queue(self, entity: str, *, context: CallContext = NO_DEADLINE) -> None:
        raise _unsupported()

    # Closing, and forks

    def stop_waiting(self) -> None:
        try:
            self._loop.run(self._registry.stop_waiting)
        except ProviderError:
            return  # Closed.

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            for released in self._loop.run(self._registry.release_all):
                self._namespace.wait(released, NO_DEADLINE, RELEASE_TIMEOUT)
        except ProviderError as error:
            logger.info("some session locks were not released before the broker closed: %s", error)
        self._namespace.close()

    def after_fork(self) -> None:
        """In a forked child: forget the connection and the sessions, which stay the parent's."""
        self._namespace.after_fork()
        self._begin()


def _unsupported() -> UnsupportedOperationError:
    return UnsupportedOperationError(
        "queues of an Azure namespace cannot be managed over AMQP: use the Azure portal, the CLI or a template",
        code=NOT_SUPPORTED,
        status=405,
    )
