"""Brokers on the stand-in for a namespace, and holders of sessions on them, without a gateway in between."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from azsession import Message, ReceivedMessage, ServiceBusConfig
from azsession.broker.azure import AzureBroker
from azsession.broker.azure.authorized_connection import AuthorizedConnection
from azsession.broker.azure.operation import Operation
from azsession.broker.calls import (
    BLOCKING,
    AcceptRequest,
    CallContext,
    Delivery,
    Disposition,
    ReceiveRequest,
    Settlement,
    wait_for,
)

from ...conftest import eventually
from ...namespaces import Namespace

T = TypeVar("T")

QUEUE = "orders"


@contextmanager
def broker_on(namespace: Namespace, **config_fields: Any) -> Iterator[AzureBroker]:
    """Open a broker with a connection of its own; close it at the end of the ``with`` block."""
    config = ServiceBusConfig(connection_string=namespace.connection_string, **config_fields)
    broker = AzureBroker(config, None)
    try:
        yield broker
    finally:
        broker.close()


class Holder:
    """A client that holds a session, or asks for one. Its lock id is new, unless given."""

    def __init__(self, broker: AzureBroker, session_id: str = "s1", lock_id: str | None = None) -> None:
        self.broker = broker
        self.session_id = session_id
        self.lock_id = str(uuid.uuid4()) if lock_id is None else lock_id

    @property
    def whose(self) -> tuple[str, str, str]:
        return QUEUE, self.session_id, self.lock_id

    def receive(self, max_count: int = 1, timeout: float = 10.0, request_id: str = "") -> list[ReceivedMessage]:
        return list(wait_for(self.start_receive(max_count, timeout, request_id)).messages)

    def start_receive(
        self, max_count: int = 1, timeout: float = 10.0, request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[Delivery]:
        request = ReceiveRequest(*self.whose, max_count=max_count, timeout=timeout, request_id=request_id)
        return self.broker.receive(request, context=context)

    def take(self, count: int = 1) -> list[ReceivedMessage]:
        """Receive `count` messages that are there."""
        messages: list[ReceivedMessage] = []
        while len(messages) < count:
            more = self.receive(count - len(messages))
            assert more
            messages += more
        return messages

    def accept_next(self, timeout: float = 10.0, request_id: str = "") -> str | None:
        """Accept the next available session, and hold it; return its id, or `None` if none came."""
        delivery = wait_for(self.start_accept(timeout, request_id))
        if delivery is not None:
            self.session_id = delivery.session_id
        return None if delivery is None else delivery.session_id

    def start_accept(
        self, timeout: float = 10.0, request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[Delivery | None]:
        request = AcceptRequest(QUEUE, None, self.lock_id, timeout=timeout, request_id=request_id)
        return self.broker.accept(request, context=context)

    def settle(self, *messages: ReceivedMessage, how: Disposition = Disposition.COMPLETE) -> list[str | None]:
        settlements = [Settlement(message.receipt.handle, how, "because", None) for message in messages]
        return wait_for(self.broker.settle(QUEUE, self.session_id, settlements))

    def complete(self, *messages: ReceivedMessage) -> list[str | None]:
        return self.settle(*messages)

    def undo_accept(self, *messages: ReceivedMessage) -> None:
        """Undo an accept whose answer did not arrive."""
        request = AcceptRequest(QUEUE, None, self.lock_id, timeout=0.0)
        self.broker.undo_accept(request, Delivery(self.session_id, messages, 0.0, 0.0)).result(10)

    def renew(self) -> float:
        return wait_for(self.broker.renew(*self.whose))

    def release(self) -> None:
        wait_for(self.broker.release(*self.whose))


def send(broker: AzureBroker, *bodies: str, session_id: str = "s1", **fields: Any) -> None:
    """Send messages to one session."""
    messages = [Message(body, session_id=session_id, message_id=body, **fields) for body in bodies]
    wait_for(broker.send(QUEUE, messages))


def texts(messages: list[ReceivedMessage]) -> list[str]:
    return [message.text() for message in messages]


def completed(namespace: Namespace, session_id: str = "s1") -> list[Any]:
    """Return the ids of the messages of a session that were completed, in the order of completion."""
    return [message_id for session, _, message_id in namespace.completed(QUEUE) if session == session_id]


def in_thread(call: Callable[[], T]) -> Future[T]:
    """Run `call` in a new thread; return the future of its result."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def waits_in(holder: Holder) -> int:
    """Return how many receives wait in a holder's session."""
    broker = holder.broker

    def count() -> int:
        session = broker._registry.held(QUEUE, holder.session_id)
        return 0 if session is None else len(session.receives)

    return broker._loop.run(count)


def held_again(namespace: Namespace, holder: Holder) -> None:
    """Return when the session is locked again, and its check is over."""
    broker = holder.broker

    def is_held() -> bool:
        session = broker._registry.held(QUEUE, holder.session_id)
        return session is not None and session.link is not None

    eventually(lambda: holder.session_id in namespace.locked_sessions(QUEUE) and broker._loop.run(is_held))


def connection_of(broker: AzureBroker, entity: str = QUEUE) -> AuthorizedConnection:
    """Return a broker's connection, authorized for an entity."""
    return broker._loop.start(broker._namespace.connect(entity, Operation())).result(10)


def waiting_accepts(broker: AzureBroker) -> int:
    """Return how many accepts of any session wait in a broker."""
    return broker._loop.run(lambda: len(broker._registry._pending))
