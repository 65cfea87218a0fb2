"""Delayed abandons in front of Azure: the process keeps the lock, also for longer than it lasts, and after its release."""

from __future__ import annotations

import time

import pytest

from azsession import NoSessionAvailableError, ServiceBusProvider, UnsupportedOperationError
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import Disposition, Settlement

from ...conftest import eventually
from ...namespaces import Namespace
from .holders import QUEUE, Holder, broker_on, send, texts


@pytest.fixture
def short_locks(namespace: Namespace) -> str:
    """A queue whose locks last two seconds."""
    namespace.create_queue("short", lock_duration=2)
    return "short"


@pytest.mark.parametrize("is_closed", [False, True], ids=["held", "closed"])
def test_the_lock_is_kept_for_longer_than_it_lasts(namespace: Namespace, short_locks: str, is_closed: bool) -> None:
    from azsession import Message

    text = namespace.connection_string
    with (
        ServiceBusProvider.from_connection_string(text) as provider,
        ServiceBusProvider.from_connection_string(text) as other,
    ):
        provider.send_messages(short_locks, [Message(body, session_id="s") for body in "ab"])
        session = provider.create_session_client(short_locks, "s", auto_renew=False)
        message = session.receive_message(timeout=10)
        assert message is not None
        began = time.monotonic()
        session.abandon_message(message, delay=6)
        if is_closed:
            session.close_session()
        with pytest.raises(NoSessionAvailableError):
            other.create_session_client(short_locks, accept_timeout=3)
        with other.create_session_client(short_locks, accept_timeout=20) as following:
            again = following.receive_message(timeout=10)
            assert again is not None
            assert (again.text(), again.delivery_count) == ("a", 2)
        assert time.monotonic() - began >= 6
        session.close_session()


def test_closing_the_broker_frees_a_session_that_it_kept(namespace: Namespace) -> None:
    with broker_on(namespace) as broker:
        send(broker, "a")
        holder = Holder(broker)
        (message,) = holder.receive()
        settlement = Settlement(message.receipt.handle, Disposition.ABANDON, delay=100)
        assert broker.settle(QUEUE, "s1", [settlement]).result() == [None]
        broker.release(*holder.whose).result()
        assert namespace.locked_sessions(QUEUE) == {"s1"}
    eventually(lambda: namespace.locked_sessions(QUEUE) == set())
    with broker_on(namespace) as broker:
        assert texts(Holder(broker).receive()) == ["a"]


def test_a_lost_connection_does_not_end_a_delay(namespace: Namespace, broker: AzureBroker) -> None:
    send(broker, "a", "b")
    holder = Holder(broker)
    (message,) = holder.receive()
    began = time.monotonic()
    broker.settle(QUEUE, "s1", [Settlement(message.receipt.handle, Disposition.ABANDON, delay=1.5)]).result()
    namespace.drop_connections()
    assert texts(holder.receive(max_count=2, timeout=20))[0] == "a"
    assert time.monotonic() - began >= 1.5


def test_only_the_process_that_holds_the_session_can_delay_it(broker: AzureBroker, other: AzureBroker) -> None:
    send(broker, "a")
    (message,) = Holder(broker).receive()
    with pytest.raises(UnsupportedOperationError, match="only the process that holds the session"):
        other.settle(QUEUE, "s1", [Settlement(message.receipt.handle, Disposition.ABANDON, delay=5)]).result()
