"""`MessageSender`: sends messages to Azure. Each request becomes one transfer, which Azure accepts as a whole or not at all.

The broker calls it in the caller's thread.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future

from ... import amqp
from ...amqp import Condition
from ...errors import ConnectionFailedError, MessageTooLargeError, ProviderError, ValidationError, revised
from ...messages import Message
from ...protocol.error_codes import OUTCOME_UNKNOWN, SERVER_BUSY
from ..base import CallContext
from .error_mapping import error_of
from .message_mapping import to_amqp
from .namespace import Namespace

#: Seconds for which a request is remembered, and how many requests at most.
REMEMBERED_SECONDS, MAX_REMEMBERED = 600.0, 100_000

#: The result of a transfer: its state, its error, and the largest message that the link takes.
_Result = tuple["str | None", "Condition | None", "int | None"]


class MessageSender:
    """Sends messages.

    Args:
        namespace: The namespace.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        # Only the loop's thread uses this.
        self._requests: OrderedDict[str, tuple[Future[_Result], float]] = OrderedDict()

    def send(self, entity: str, messages: Sequence[Message], request_id: str, context: CallContext) -> None:
        """Send messages: all of them, or none and an error. Blocks until Azure has confirmed them.

        A request is remembered for 10 minutes: the same request again sends nothing, unless the first attempt surely failed.

        Args:
            entity: The queue or topic.
            messages: The messages.
            request_id: The same for all attempts of one request; ``""`` for none.
            context: The caller and its deadline.

        Raises:
            ValidationError: The entity is a subscription, or AMQP cannot carry an attribute.
            MessageTooLargeError: The messages are larger than the link takes.
            ConnectionFailedError: The confirmation was lost: Azure may have accepted the messages.
            QueueError: Azure did not accept the messages.
        """
        if "/subscriptions/" in entity.lower():
            topic = entity[: entity.lower().index("/subscriptions/")]
            raise ValidationError(f"messages cannot be sent to a subscription: send to its topic {topic!r}")
        encoded = [to_amqp(message) for message in messages]
        payload, message_format = (encoded[0], 0) if len(encoded) == 1 else (amqp.encode_batch(encoded), amqp.BATCH_FORMAT)
        connection = self._namespace.connect(entity, context)

        def job() -> Future[_Result]:
            known = self._requests.get(request_id) if request_id else None
            if known is not None:
                return known[0]
            result: Future[_Result] = Future()
            sender = connection.sender(entity)
            if request_id:
                self._remember(request_id, result)

            def outcome(number: int, state: str | None, error: Condition | None) -> None:
                if request_id and state not in ("accepted", None):
                    # The messages were surely not accepted: the next attempt may send them.
                    self._requests.pop(request_id, None)
                result.set_result((state, error, sender.max_message_size))

            sender.send(payload, outcome, message_format)
            return result

        result = self._namespace.loop.run(job)
        try:
            self._check(entity, self._namespace.wait(result, context), len(payload))
        except ConnectionFailedError as error:
            raise revised(error, code=OUTCOME_UNKNOWN) from error.__cause__

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
