"""The operations of a telemetry that is off."""

from __future__ import annotations

from azsession import Message
from azsession.telemetry import NO_OPERATION, Telemetry


def test_operations_do_nothing() -> None:
    off, message, headers = Telemetry(), Message("x", session_id="s"), {"a": "b"}
    messages = [message]
    with off.send("send", "orders", messages, is_batch=False) as sending:
        assert sending.to_send is messages
    for operation in (off.receive("receive", "orders", "s"), off.settle("complete", "orders", "s", [])):
        with operation as same:
            same.messages([])
            same.count(1)
            same.returned(ValueError("x"))
        assert operation is same is NO_OPERATION
    off.inject(headers)
    assert headers == {"a": "b"}
