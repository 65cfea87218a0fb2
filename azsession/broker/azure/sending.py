"""`MessageSender`: sends messages to Azure. Each request becomes one transfer, which Azure accepts as a whole or not at all.

The broker's operations call it in the loop's thread.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence

import attrs

from ... import amqp
from ...amqp import Condition
from ...errors import ConnectionFailedError, MessageTooLargeError, ProviderError, ValidationError, revised
from ...messages import Message
from ...protocol.error_codes import OUTCOME_UNKNOWN, SERVER_BUSY
from .authorized_connection import EntitySender
from .error_mapping import error_of
from .message_mapping import to_amqp
from .namespace import Namespace
from .operation import Operation
from .transport.task import LocalFuture

#: Seconds for which a request is remembered, and how many requests at most.
REMEMBERED_SECONDS, MAX_REMEMBERED = 600.0, 100_000

#: The result of a transfer: its state, its error, and the largest message that the link takes.
_Result = tuple["str | None", "Condition | None", "int | None"]


@attrs.frozen
class EncodedMessages:
    """Messages as one transfer carries them.

    Attributes:
        payload: The payload of the transfer.
        message_format: The format of the payload.
    """

    payload: bytes = attrs.field(repr=False)
    message_format: int

    @classmethod
    def of(cls, entity: str, messages: Sequence[Message]) -> EncodedMessages:
        """Encode messages. Any thread may call this: the caller's thread does, because many messages take their time.

        Raises:
            ValidationError: The entity is a subscription, or AMQP cannot carry an attribute.
        """
        if "/subscriptions/" in entity.lower():
            topic = entity[: entity.lower().index("/subscriptions/")]
            raise ValidationError(f"messages cannot be sent to a subscription: send to its topic {topic!r}")
        encoded = [to_amqp(message) for message in messages]
        if len(encoded) == 1:
            return cls(encoded[0], 0)
        return cls(amqp.encode_batch(encoded), amqp.BATCH_FORMAT)


class MessageSender:
    """Sends messages.

    Args:
        namespace: The namespace.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._requests: OrderedDict[str, tuple[LocalFuture[_Result], float]] = OrderedDict()

    async def send(self, entity: str, encoded: EncodedMessages, request_id: str, operation: Operation) -> None:
        """Send messages: all of them, or none and an error. Returns when Azure has confirmed them.

        A request is remembered for 10 minutes: the same request again sends nothing, unless the first attempt surely failed.

        Args:
            entity: The queue or topic.
            encoded: The messages.
            request_id: The same for all attempts of one request; ``""`` for none.
            operation: The call.

        Raises:
            MessageTooLargeError: The messages are larger than the link takes.
            ConnectionFailedError: The confirmation was lost: Azure may have accepted the messages.
            QueueError: Azure did not accept the messages.
        """
        connection = await self._namespace.connect(entity, operation)
        operation.commit()
        known = self._requests.get(request_id) if request_id else None
        result = self._transfer(connection.sender(entity), encoded, request_id) if known is None else known[0]
        try:
            self._check(entity, await self._namespace.wait(result, operation), len(encoded.payload))
        except ConnectionFailedError as error:
            raise revised(error, code=OUTCOME_UNKNOWN) from error.__cause__

    def _transfer(self, sender: EntitySender, encoded: EncodedMessages, request_id: str) -> LocalFuture[_Result]:
        result: LocalFuture[_Result] = LocalFuture()
        if request_id:
            self._remember(request_id, result)

        def outcome(number: int, state: str | None, error: Condition | None) -> None:
            if request_id and state not in ("accepted", None):
                # The messages were surely not accepted: the next attempt may send them.
                self._requests.pop(request_id, None)
            result.set_result((state, error, sender.max_message_size))

        sender.send(encoded.payload, outcome, encoded.message_format)
        return result

    def _remember(self, request_id: str, result: LocalFuture[_Result]) -> None:
        now = time.monotonic()
        self._requests[request_id] = (result, now)
        while self._requests:
            oldest, (_, when) = next(iter(self._requests.items()))
            if len(self._requests) <= MAX_REMEMBERED and now - when < REMEMBERED_SECONDS:
                break
            del self._requests[oldest]

    def _check(self, entity: str, result: _Result, size: int) -> None:
        state, error, limit = result
        if state == "accepted":
            return
        if state is None:
            raise ConnectionFailedError(
                f"{entity}: the link was lost before Azure confirmed the messages, which may have been accepted",
                maybe_delivered=True,
            )
        if error is None:
            raise ProviderError(
                f"{entity}: Azure did not accept the messages", code=SERVER_BUSY, status=503, is_transient=True
            )
        failure = error_of(error, entity=entity)
        if isinstance(failure, MessageTooLargeError):
            failure = MessageTooLargeError(str(failure), code=failure.code, size=size, limit=limit)
        raise failure
