"""`Telemetry` and its operations as the client and the processor see them. These classes do nothing: telemetry is off.

An operation is a context manager around the work that it describes. Its methods never raise an error of their own.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from types import TracebackType
from typing import Any

from ..messages import Message, PeekedMessage


class Operation:
    """An operation: receiving, settling or processing messages."""

    __slots__ = ()

    def __enter__(self) -> Operation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def messages(self, messages: Sequence[PeekedMessage]) -> None:
        """Note the messages that a receive returns."""

    def count(self, count: int) -> None:
        """Note how many messages the operation was about, if it is known only now."""

    def returned(self, error: BaseException | None = None) -> None:
        """Note that the handler of a message returned, or raised `error`. The time of the operation ends here."""


class SendOperation(Operation):
    """The sending of messages.

    Args:
        to_send: The messages.

    Attributes:
        to_send: The messages to send, with the trace context in their attributes if it can be added.
    """

    __slots__ = ("to_send",)

    def __init__(self, to_send: Sequence[Message]) -> None:
        self.to_send: Sequence[Message] = to_send

    def __enter__(self) -> SendOperation:
        return self


#: The operation if telemetry is off.
NO_OPERATION: Operation = Operation()


class Telemetry:
    """Describes the operations of one provider to OpenTelemetry. Thread-safe. This class does nothing."""

    def send(self, name: str, queue_name: str, messages: Sequence[Message], *, is_batch: bool) -> SendOperation:
        """Return the operation that sends messages.

        Args:
            name: ``"send"`` or ``"schedule"``.
            queue_name: The queue or topic.
            messages: The messages, each with an id.
            is_batch: The caller gave a list of messages, also if there is only one in it.
        """
        return SendOperation(messages)

    def receive(self, name: str, queue_name: str, session_id: str | None, *, is_batch: bool = False) -> Operation:
        """Return the operation that receives messages. `Operation.messages` says which ones.

        Args:
            name: ``"receive"``, ``"receive_deferred"`` or ``"peek"``.
            queue_name: The queue.
            session_id: The session. `None`: all sessions.
            is_batch: The caller asked for a list of messages.
        """
        return NO_OPERATION

    def settle(
        self, name: str, queue_name: str, session_id: str, settled: Sequence[object], *, is_batch: bool = False
    ) -> Operation:
        """Return the operation that settles messages.

        Args:
            name: ``"complete"``, ``"abandon"``, ``"defer"`` or ``"dead_letter"``.
            queue_name: The queue.
            session_id: The session.
            settled: The messages. Receipts among them say nothing about their messages.
            is_batch: The caller gave a list, or settles a whole session.
        """
        return NO_OPERATION

    def process(self, queue_name: str, session_id: str, message: PeekedMessage) -> Operation:
        """Return the operation in which a handler is called with a message. `Operation.returned` ends its time."""
        return NO_OPERATION

    def inject(self, headers: MutableMapping[str, Any]) -> None:
        """Add the trace context of the current span to the headers of a request."""
