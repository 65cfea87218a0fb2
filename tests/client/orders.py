"""Constants and helpers for tests that use the session `s1` of the queue `orders`."""

from __future__ import annotations

import re

from azsession import Message, ReceivedMessage, ServiceBusProvider, SessionClient

URL = "http://127.0.0.1:9"
CONNECTION_STRING = f"Endpoint={URL}/;SharedAccessKeyName=reader;SharedAccessKey=c2VjcmV0"
HEAD = re.compile(rf"{URL}/orders/sessions/s1/messages/head")


def send(provider: ServiceBusProvider, *bodies: bytes, session_id: str = "s1") -> None:
    provider.send_messages("orders", [Message(body, session_id=session_id) for body in bodies])


def take(session: SessionClient) -> ReceivedMessage:
    message = session.receive_message(timeout=5)
    assert message is not None
    return message
