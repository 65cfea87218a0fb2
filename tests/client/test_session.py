"""`SessionClient`: session state, dead-lettering, wrong arguments, and `repr`."""

from __future__ import annotations

import re
from typing import Any

import pytest
import responses

from azsession import (
    InvalidReceiptError,
    ServiceBusProvider,
    SessionClient,
    ValidationError,
)

from .orders import CONNECTION_STRING, HEAD, URL, send, take


def test_the_next_holder_reads_the_session_state(azsession_provider: ServiceBusProvider) -> None:
    with azsession_provider.create_session_client("orders", "s1") as session:
        assert session.get_session_state() is None
        session.set_session_state(b"\x00step 2")
    with azsession_provider.create_session_client("orders", "s1") as session:
        assert session.get_session_state() == b"\x00step 2"
        session.set_session_state(b"")
        assert session.get_session_state() == b""
        session.set_session_state(None)
        assert session.get_session_state() is None


def test_a_session_state_that_is_neither_bytes_nor_text_is_refused(session: SessionClient) -> None:
    with pytest.raises(ValidationError, match="bytes, str or None, not int"):
        session.set_session_state(5)  # type: ignore[arg-type]


def test_dead_lettering_a_session_moves_all_its_messages(
    azsession_provider: ServiceBusProvider, session: SessionClient
) -> None:
    send(azsession_provider, *(b"%d" % n for n in range(5)))
    message = next(session.messages(timeout=5, prefetch=3))
    assert session.dead_letter_session("poison", "more") == 5
    assert [(one.body, one.dead_letter_reason) for one in azsession_provider.dead_letters("orders")] == [
        (b"%d" % n, "poison") for n in range(5)
    ]
    assert session.receive_message(timeout=0) is None
    with pytest.raises(InvalidReceiptError):
        session.complete_message(message)


@responses.activate
def test_the_responses_library_can_replace_the_server() -> None:
    responses.delete(HEAD, status=201, body=b"paid", headers={"BrokerProperties": '{"LockToken": "t"}'})
    responses.delete(f"{URL}/orders/sessions/s1/messages/t", status=200)
    with ServiceBusProvider.from_connection_string(CONNECTION_STRING) as provider:
        session = provider.create_session_client("orders", "s1")
        message = take(session)
        session.complete_message(message)
    assert message.body == b"paid"
    assert len(responses.calls) == 2


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", None, True])
def test_a_wrong_timeout_is_refused_without_a_request(timeout: Any) -> None:
    with responses.RequestsMock(), ServiceBusProvider.from_connection_string(CONNECTION_STRING) as provider:
        session = provider.create_session_client("orders", "s1")
        for receive in (session.receive_message, session.messages, lambda timeout: session.receive_messages(2, timeout)):
            with pytest.raises(ValidationError):
                receive(timeout)


def test_repr_shows_the_state_of_the_lock(azsession_provider: ServiceBusProvider) -> None:
    session = azsession_provider.create_session_client("orders", "s1")
    assert repr(session) == "<SessionClient 's1' of 'orders', not locked yet>"
    session.receive_message(timeout=0)
    assert re.fullmatch(r"<SessionClient 's1' of 'orders', locked until \d\d:\d\d:\d\d UTC>", repr(session))
    session.close()
    assert repr(session) == "<SessionClient 's1' of 'orders', closed>"
