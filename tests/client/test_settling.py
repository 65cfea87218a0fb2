"""Receipts: which ones settle a message, and which are refused."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import responses

from azsession import InvalidReceiptError, ReceiptHandle, ServiceBusProvider, SessionClient
from azsession.testing import AzsessionServer

from .orders import CONNECTION_STRING, send, take


def test_a_message_its_receipt_and_the_receipts_text_settle(
    azsession_provider: ServiceBusProvider, session: SessionClient
) -> None:
    send(azsession_provider, b"0", b"1", b"2", b"3")
    session.complete_message(take(session))
    session.complete_message(take(session).receipt)
    session.complete_message(str(take(session).receipt))
    session.complete_message(pickle.loads(pickle.dumps(take(session))))
    assert azsession_provider.peek_messages("orders", "s1") == []


@pytest.mark.parametrize(
    "receipt",
    [
        ReceiptHandle("6b2d11f2-0ab2-4b2e-9f7a-1f6f2f0e9d3c", queue_name="orders", session_id="s1"),
        ReceiptHandle("unknown"),
        str(ReceiptHandle("unknown", queue_name="orders", session_id="s1")),
        "azs1.damaged",
        "no receipt",
        "",
        None,
        5,
    ],
)
def test_an_unknown_receipt_is_refused_without_a_request(receipt: Any) -> None:
    with responses.RequestsMock(), ServiceBusProvider.from_connection_string(CONNECTION_STRING) as provider:
        session = provider.create_session_client("orders", "s1")
        for settle in (session.complete_message, session.abandon_message, session.defer_message):
            with pytest.raises(InvalidReceiptError):
                settle(receipt)
        with pytest.raises(InvalidReceiptError):
            session.dead_letter_message(receipt, "why")
        with pytest.raises(InvalidReceiptError):
            session.complete_messages([receipt])


def test_a_receipt_of_another_session_is_refused(azsession_provider: ServiceBusProvider, session: SessionClient) -> None:
    send(azsession_provider, b"0")
    handle = take(session).receipt.handle
    for forged in (
        ReceiptHandle(handle, queue_name="orders", session_id="s2"),
        ReceiptHandle(handle, queue_name="bills", session_id="s1"),
    ):
        with pytest.raises(InvalidReceiptError):
            session.complete_message(str(forged))


def test_a_receipt_settles_once(azsession_provider: ServiceBusProvider, session: SessionClient) -> None:
    send(azsession_provider, b"0")
    message = take(session)
    session.complete_message(message)
    with pytest.raises(InvalidReceiptError):
        session.abandon_message(message)


@pytest.mark.parametrize("form", ["text", "handle"])
def test_a_receipt_settles_through_another_provider(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, session: SessionClient, form: str
) -> None:
    send(azsession_provider, b"0")
    receipt = take(session).receipt
    with azsession_server.provider() as other:
        there = other.session_from_receipt(str(receipt) if form == "text" else receipt)
        assert (there.session_id, there.queue_name) == ("s1", "orders")
        there.complete_message(str(receipt))
        there.close()
    assert azsession_provider.peek_messages("orders", "s1") == []
    session.renew_session_lock()


def test_a_forged_receipt_settles_nothing(azsession_provider: ServiceBusProvider, session: SessionClient) -> None:
    send(azsession_provider, b"0")
    take(session)
    forged = ReceiptHandle("6b2d11f2-0ab2-4b2e-9f7a-1f6f2f0e9d3c", queue_name="orders", session_id="s1")
    with pytest.raises(InvalidReceiptError):
        azsession_provider.session_from_receipt(forged).complete_message(forged)
    assert len(azsession_provider.peek_messages("orders", "s1")) == 1


def test_completing_many_messages_completes_the_valid_ones_and_reports_the_others(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, session: SessionClient
) -> None:
    send(azsession_provider, b"0", b"1", b"2")
    messages = session.receive_messages(3, timeout=5)
    with azsession_server.provider() as other:
        other.session_from_receipt(messages[1].receipt).abandon_message(messages[1])
    with pytest.raises(InvalidReceiptError, match="1 of 3"):
        session.complete_messages(messages)
    assert [message.body for message in azsession_provider.peek_messages("orders", "s1")] == [b"1"]
