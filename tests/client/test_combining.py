"""Settling a message together with the caller's next step."""

from __future__ import annotations

import pytest

from azsession import InvalidReceiptError, Message, ServiceBusProvider
from azsession.client import settling
from azsession.client.session import holder_of


def test_settling_and_closing_does_both(azsession_provider: ServiceBusProvider) -> None:
    azsession_provider.send_messages("orders", [Message(body, session_id="s1") for body in "ab"])
    session = azsession_provider.create_session_client("orders", "s1")
    message = session.receive_message(timeout=5)
    assert message is not None
    settling.settle_and_close(holder_of(session), message)
    assert session.closed
    assert [each.text() for each in azsession_provider.peek_messages("orders", "s1")] == ["b"]
    assert azsession_provider.list_sessions("orders")[0].locked_until is None


def test_a_session_is_closed_also_if_the_settlement_fails(azsession_provider: ServiceBusProvider) -> None:
    azsession_provider.send_message("orders", Message("a", session_id="s1"))
    session = azsession_provider.create_session_client("orders", "s1")
    message = session.receive_message(timeout=5)
    assert message is not None
    with azsession_provider.session_from_receipt(message.receipt) as other:
        other.defer_message(message)
    with pytest.raises(InvalidReceiptError) as caught:
        settling.settle_and_close(holder_of(session), message)
    assert caught.value.code == "Conflict"
    assert session.closed
    assert azsession_provider.list_sessions("orders")[0].locked_until is None
