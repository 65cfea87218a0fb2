"""`ServiceBusBroker`: the broker interface on an Azure Service Bus namespace, put together from its parts."""

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
from .browsing import Looking
from .error_mapping import error_of
from .message_mapping import as_new
from .namespace import Namespace
from .receiving import Receiving
from .sending import Sending
from .session.registry import Table
from .session.unsettled import Answers, disposition_body
from .transport.stream import Address

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

logger: logging.Logger = logging.getLogger(__name__)

#: Messages that are dead-lettered at once.
BURY_COUNT = 500
#: Dead-letterings of whole sessions that are remembered, for callers that try again.
MAX_BURIED = 1_000
#: Seconds for Azure to take locks back at the end.
RELEASE_TIMEOUT = 5.0


class ServiceBusBroker(Broker):
    """Message sessions of an Azure Service Bus namespace, over AMQP 1.0.

    One connection and one thread serve any number of sessions. Safe to use from many threads; after a fork the child has
    a connection of its own, and the sessions stay the parent's.

    Args:
        config: Where the namespace is, and with which key; `ServiceBusConfig.uses_amqp` is true of it.
        credential: A `TokenCredential`, instead of the configuration's key.

    Raises:
        ConfigurationError: There is nothing to authenticate with.
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
        self._table = Table(self._namespace)
        self._sending = Sending(self._namespace)
        self._receiving = Receiving(self._namespace, self._table)
        self._looking = Looking(self._namespace)
        self._buried: OrderedDict[str, int] = OrderedDict()
        self._closed = False

    def __repr__(self) -> str:
        return f"<ServiceBusBroker of {self._namespace!r}>"

    def check(self, entity: str = "") -> None:
        """Connect and authenticate, for an entity or for the namespace as a whole. Blocks.

        Raises:
            QueueError: What keeps the namespace from being used.
        """
        self._namespace.reach(entity, NO_DEADLINE)

    # A session's holder

    def receive(self, request: ReceiveRequest, *, context: CallContext = NO_DEADLINE) -> Delivery:
        return self._receiving.receive(request, context.caller, context)

    def accept(self, request: AcceptRequest, *, context: CallContext = NO_DEADLINE) -> Delivery | None:
        return self._receiving.accept(request, context)

    def receive_deferred(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        sequence_numbers: Sequence[int],
        *,
        context: CallContext = NO_DEADLINE,
    ) -> list[ReceivedMessage]:
        return self._receiving.receive_deferred(entity, session_id, lock_id, sequence_numbers, context)

    def settle(
        self, entity: str, session_id: str, settlements: Sequence[Settlement], *, context: CallContext = NO_DEADLINE
    ) -> list[str | None]:
        answers = Answers(len(settlements))
        here = True

        def job() -> None:
            nonlocal here
            session = self._table.held(entity, session_id)
            if session is not None:
                session.settling.settle(settlements, answers)
                return
            here = False
            for at, settlement in enumerate(settlements):
                answers.give(at, self._table.how_settled(settlement, SESSION_LOCK_LOST))

        self._loop.resolve(answers.future, job)
        found = self._namespace.wait(answers.future, context)
        if here:
            return found
        for at, settlement in enumerate(settlements):
            if found[at] == SESSION_LOCK_LOST:
                found[at] = self._settle_elsewhere(entity, session_id, settlement, context)
        return found

    def _settle_elsewhere(self, entity: str, session_id: str, settlement: Settlement, context: CallContext) -> str | None:
        """Settle a message of a session that is held by another process: Azure knows it by its lock token, and decides."""
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
        self._loop.call(lambda: self._table.remember_settled(settlement))
        return None

    def renew(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = NO_DEADLINE) -> float:
        session = self._loop.run(lambda: self._table.require(entity, session_id, lock_id))
        self._namespace.wait(session.opened, context)
        done: Future[Response | Condition] = Future()
        self._loop.call(lambda: session.renew(done.set_result))
        answer = self._namespace.wait(done, context)
        if isinstance(answer, Condition):
            raise error_of(answer, entity=entity, session_id=session_id)
        return session.left()

    def release(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = NO_DEADLINE) -> None:
        def job() -> Future[None] | None:
            session = self._table.held(entity, session_id)
            if session is not None and session.lock_id == lock_id:
                return session.release()
            self._table.note_ended(entity, session_id, lock_id)
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
        session = self._receiving.hold(entity, session_id, lock_id, context)
        return self._receiving.ask(session, operation, body, context)

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
        known = self._loop.run(lambda: self._buried.get(request_id))
        if known is not None:
            return known
        session = self._receiving.hold(entity, session_id, lock_id, context)

        def bury(tokens: Sequence[str]) -> int:
            settlements = [Settlement(token, Disposition.DEAD_LETTER, reason, description) for token in tokens]
            answers = Answers(len(settlements))
            self._loop.resolve(answers.future, lambda: session.settling.settle(settlements, answers))
            return self._namespace.wait(answers.future, context).count(None)

        count = bury(self._loop.run(lambda: list(session.settling.in_hand)))
        rest = ReceiveRequest(entity, session_id, lock_id, max_count=BURY_COUNT, timeout=0.0)
        while True:
            delivery = self._receiving.receive(rest, PRESENT, context)
            if not delivery.messages:
                break
            count += bury([message.receipt.handle for message in delivery.messages])
        numbers = self._looking.deferred_numbers(entity, session_id, context)
        for at in range(0, len(numbers), BURY_COUNT):
            found = self.receive_deferred(entity, session_id, lock_id, numbers[at : at + BURY_COUNT], context=context)
            count += bury([message.receipt.handle for message in found])
        if request_id:
            self._loop.call(lambda: self._remember_buried(request_id, count))
        return count

    def _remember_buried(self, request_id: str, count: int) -> None:
        self._buried[request_id] = count
        while len(self._buried) > MAX_BURIED:
            self._buried.popitem(last=False)

    # Sending and looking

    def send(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = NO_DEADLINE
    ) -> None:
        self._sending.send(entity, messages, request_id, context)

    def peek(
        self, entity: str, session_id: str, from_sequence_number: int, max_count: int, *, context: CallContext = NO_DEADLINE
    ) -> list[PeekedMessage]:
        return self._looking.peek(entity, session_id, from_sequence_number, max_count, context)

    def list_sessions(
        self, entity: str, after: str, max_count: int, *, context: CallContext = NO_DEADLINE
    ) -> list[SessionInfo]:
        return self._looking.list_sessions(entity, after, max_count, context)

    # Dead letters

    def dead_letters(
        self, entity: str, from_sequence_number: int, max_count: int, *, context: CallContext = NO_DEADLINE
    ) -> list[PeekedMessage]:
        return self._looking.dead_letters(entity, from_sequence_number, max_count, context)

    def resubmit(self, entity: str, sequence_number: int, *, context: CallContext = NO_DEADLINE) -> None:
        def send(message: AmqpMessage) -> None:
            self._sending.send(entity, [as_new(message)], "", context)

        self._looking.take_dead_letter(entity, sequence_number, send, context)

    def delete_dead_letter(self, entity: str, sequence_number: int, *, context: CallContext = NO_DEADLINE) -> None:
        self._looking.take_dead_letter(entity, sequence_number, None, context)

    # Queues

    def create_queue(self, entity: str, settings: QueueSettings, *, context: CallContext = NO_DEADLINE) -> bool:
        raise _not_here()

    def get_queue(self, entity: str, *, context: CallContext = NO_DEADLINE) -> QueueInfo:
        raise _not_here()

    def list_queues(self, *, context: CallContext = NO_DEADLINE) -> list[QueueInfo]:
        raise _not_here()

    def delete_queue(self, entity: str, *, context: CallContext = NO_DEADLINE) -> None:
        raise _not_here()

    # Its life

    def stop_waiting(self) -> None:
        try:
            self._loop.run(self._table.stop_waiting)
        except ProviderError:
            return  # Closed.

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            for released in self._loop.run(self._table.release_all):
                self._namespace.wait(released, NO_DEADLINE, RELEASE_TIMEOUT)
        except ProviderError as error:
            logger.info("not every session lock could be given back: %s", error)
        self._namespace.close()

    def after_fork(self) -> None:
        """In a forked child: a new connection when it is needed; the sessions stay the parent's."""
        self._namespace.after_fork()
        self._begin()


def _not_here() -> UnsupportedOperationError:
    return UnsupportedOperationError(
        "queues of an Azure namespace are managed with Azure's tools (portal, CLI, templates), not over AMQP",
        code=NOT_SUPPORTED,
        status=405,
    )
