"""The `repr` and the table of the public value classes: short, escaped, and without bodies and keys."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import attrs
import pytest

import azsession
from azsession import (
    Message,
    PeekedMessage,
    ProcessorStats,
    QueueInfo,
    QueueSettings,
    ReceiptHandle,
    ReceivedMessage,
    ServiceBusConfig,
    SessionInfo,
)

NOW = datetime(2026, 3, 1, 12, 30, 5, tzinfo=timezone.utc)
SECRET = "secret-text-0123456789"
CONNECTION_STRING = f"Endpoint=https://bus.example.com/;SharedAccessKeyName=root;SharedAccessKey={SECRET}"
RECEIPT = ReceiptHandle(SECRET, NOW, queue_name="orders", session_id="order-42")
SHOWN = [
    (Message(SECRET), "Message(body=<22 bytes>)"),
    (
        Message("x", session_id="s", time_to_live=timedelta(seconds=5), attributes={"a": 1}),
        "Message(body=<1 bytes>, session_id='s', time_to_live=datetime.timedelta(seconds=5), attributes={'a': 1})",
    ),
    (
        PeekedMessage(body=b"", sequence_number=7, enqueued_at=NOW + timedelta(milliseconds=5)),
        "PeekedMessage(body=<0 bytes>, sequence_number=7, enqueued_at=2026-03-01T12:30:05.005Z)",
    ),
    (
        ReceivedMessage(body=SECRET.encode(), receipt=RECEIPT, delivered_at=NOW),
        "ReceivedMessage(body=<22 bytes>, delivered_at=2026-03-01T12:30:05Z)",
    ),
    (RECEIPT, "ReceiptHandle(expires_at=2026-03-01T12:30:05Z, queue_name='orders', session_id='order-42')"),
    (SessionInfo("order-42", 0), "SessionInfo(session_id='order-42', message_count=0)"),
    (QueueSettings(lock_duration=30), "QueueSettings(lock_duration=30)"),
    (QueueInfo("orders", QueueSettings(), 3), "QueueInfo(name='orders', settings=QueueSettings(), active_count=3)"),
    (ServiceBusConfig(namespace="myns", retry_attempts=0), "ServiceBusConfig(namespace='myns', retry_attempts=0)"),
    (ServiceBusConfig(connection_string=CONNECTION_STRING), "ServiceBusConfig(at='https://bus.example.com')"),
    (ProcessorStats(messages_done=3), "ProcessorStats(messages_done=3)"),
]
ONES = [each for each, _ in SHOWN]


@pytest.mark.parametrize(("value", "text"), SHOWN, ids=[type(each).__name__ for each in ONES])
def test_the_repr_shows_the_fields_that_differ_from_their_defaults(value: object, text: str) -> None:
    assert repr(value) == text


@pytest.mark.parametrize("value", ONES, ids=[type(each).__name__ for each in ONES])
def test_the_table_shows_the_same_and_no_secret(value: object) -> None:
    table = value._repr_html_()  # type: ignore[attr-defined]
    assert table.startswith(f"<table><caption>{type(value).__name__}</caption>")
    assert table.endswith("</table>")
    assert SECRET not in table + repr(value)


def test_every_public_value_class_shows_itself_so() -> None:
    classes = [each for name in azsession.__all__ if attrs.has(each := getattr(azsession, name))]
    assert len(classes) >= 10
    assert [cls.__name__ for cls in classes if not hasattr(cls, "_repr_html_")] == []


def test_a_long_value_is_cut() -> None:
    text = repr(Message("x", session_id="s" * 128, attributes={"a": "b" * 5000}))
    assert len(text) < 300
    assert "…" in text


def test_the_table_escapes_what_a_sender_chose() -> None:
    table = Message("x", session_id="<script>alert(1)</script>&\u202e", attributes={"<b>": '"'})._repr_html_()
    assert "<script" not in table
    assert "<b>" not in table
    assert "&lt;script&gt;" in table
    assert "\u202e" not in table
