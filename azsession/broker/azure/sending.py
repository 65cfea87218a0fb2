"""`MessageSender`: sends messages to Azure. Each request becomes one transfer, which Azure accepts as a whole or not at all.

The broker's operations call it in the loop's thread.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future

from ...amqp import Condition
from ...errors import ConnectionFailedError, MessageTooLargeError, ProviderError, ValidationError, revised
from ...messages import Message
from ...protocol.error_codes import OUTCOME_UNKNOWN, SERVER_BUSY
from .authorized_connection import EntitySender
from .coding import MessageCoder
from .error_mapping import error_of
from .namespace import Namespace
from .operation import Operation

#: Seconds for which a request is remembered, and how many requests at most.
REMEMBERED_SECONDS, MAX_REMEMBERED = 600.0, 100_000

#: The result of a transfer: its state, its error, and the largest message that the link takes.
_Result = tuple["str | None", "Condition | None", "int | None"]


class MessageSender:
    """Sends messages.

    Args:
        namespace: The namespace.
        coder: Encodes the messages.
    """

    def __init__(self, namespace: Namespace, coder: MessageCoder) -> None:
        self._namespace = namespace
        self._coder = coder
        self._requests: OrderedDict[str, tuple[Future[_Result], float]] = OrderedDict()

    async def send(self, entity: str, messages: Sequence[Message], request_id: str, operation: Operation) -> None:
        """Send messages: all of them, or none and an error. Returns when Azure has confirmed them.

        A request is remembered for 10 minutes: the same request again sends nothing, unless the first attempt surely failed.

        Args:
            entity: The queue or topic.
            messages: The messages.
            request_id: The same for all attempts of one request; ``""`` for none.
            operation: The call.

        Raises:
            ValidationError: The entity is a subscription, or AMQP cannot carry an attribute.
            MessageTooLargeError: The messages are larger than the link takes.
            ConnectionFailedError: The confirmation was lost: Azure may have accepted the messages.
            QueueError: Azure did not accept the messages.
        """
        if "/subscriptions/" in entity.lower():
            topic = entity[: entity.lower().index("/subscriptions/")]
            raise ValidationError(f"messages cannot be sent to a subscription: send to its topic {topic!r}")
        payload, message_format = await self._coder.encode(messages)
        connection = await self._namespace.connect(entity, operation)
        operation.claim()
        known = self._requests.get(request_id) if request_id else None
        result = self._transfer(connection.sender(entity), payload, message_format, request_id) if known is None else known[0]
        try:
            self._check(entity, await self._namespace.wait(result, operation), len(payload))
        except ConnectionFailedError as error:
            raise revised(error, code=OUTCOME_UNKNOWN) from error.__cause__

    def _transfer(self, sender: EntitySender, payload: bytes, message_format: int, request_id: str) -> Future[_Result]:
        result: Future[_Result] = Future()
        if request_id:
            self._remember(request_id, result)

        def outcome(number: int, state: str | None, error: Condition | None) -> None:
            if request_id and state not in ("accepted", None):
                # The messages were surely not accepted: the next attempt may send them.
                self._requests.pop(request_id, None)
            result.set_result((state, error, sender.max_message_size))

        sender.send(payload, outcome, message_format)
        return result

    def _remember(self, request_id: str, result: Future[_Result]) -> None:
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
