"""Code that mypy (strict) and pyright must reject. Each comment names the expected error.

`test_typing` checks this file with both; nothing runs it. A type checker that accepts a line reports its comment as
unnecessary.
"""

from __future__ import annotations

from dataclasses import dataclass

from azsession import (
    Message,
    ProviderError,
    QueueError,
    QueueSettings,
    ReceivedMessage,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionClient,
)


@dataclass
class Order:
    """A dataclass."""

    amount: float


Message({"a": 1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Message(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Message(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Message()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Message("x", sesion_id="s")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Message("x", session_id=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Message("x", attributes=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Message("x", attributes={"a": [1]})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
Message("x", time_to_live="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Message("x", scheduled_enqueue_time=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Message("x").body = b"y"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]

QueueSettings(lock_duration="a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
QueueSettings(lock_duration=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
QueueSettings(max_delivery_count=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
QueueSettings(dead_letter_on_expiration="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

ServiceBusConfig(sesion_timeout=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
ServiceBusConfig(session_timeout="60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ServiceBusConfig(retry_attempts=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ServiceBusConfig.from_env(nosuch=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
ServiceBusProvider("Endpoint=sb://h/")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ServiceBusProvider.from_env(nosuch=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
ServiceBusProvider.from_env(transport=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ServiceBusProvider.from_namespace("n", namespace="m")  # type: ignore[misc]  # pyright: ignore[reportCallIssue]
ServiceBusProvider.from_connection_string("Endpoint=sb://h/", retry_atempts=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

QueueError(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
QueueError("m", status=404)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
ProviderError("m", status="404")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def calls(session: SessionClient, message: ReceivedMessage) -> None:
    session.complete_message(message.sequence_number)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    session.set_session_state(message.json(Order))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    session.receive_messages(5, max_wait_time=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    message.renew_lock()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    session.receive_deferred_messages([message])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    session.receive_deferred_messages([None])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
