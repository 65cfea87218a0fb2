"""Sending: each request to send becomes one transfer, which Azure takes whole or not at all."""

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

#: Seconds that a request to send is remembered, and how many at most.
REMEMBERED_SECONDS, MAX_REMEMBERED = 600.0, 100_000

#: How a transfer ended: its state, its error, and the largest message that the link takes.
_Ended = tuple["str | None", "Condition | None", "int | None"]


class Sending:
    """The part of the broker on Azure that sends."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        # The loop's thread only.
        self._requests: OrderedDict[str, tuple[Future[_Ended], float]] = OrderedDict()

    def send(self, entity: str, messages: Sequence[Message], request_id: str, context: CallContext) -> None:
        """Send messages, all or none; the same request again sends nothing if the first did, or may have.

        Raises:
            ConnectionFailedError: The answer was lost: they may have been accepted, or not.
            QueueError: They were not accepted.
        """
        if "/subscriptions/" in entity.lower():
            topic = entity[: entity.lower().index("/subscriptions/")]
            raise ValidationError(f"a subscription has its messages from its topic: send to {topic!r}")
        encoded = [to_amqp(message) for message in messages]
        payload, message_format = (encoded[0], 0) if len(encoded) == 1 else (amqp.encode_batch(encoded), amqp.BATCH_FORMAT)
        uplink = self._namespace.reach(entity, context)

        def job() -> Future[_Ended]:
            known = self._requests.get(request_id) if request_id else None
            if known is not None:
                return known[0]
            ended: Future[_Ended] = Future()
            sender = uplink.sender(entity)
            if request_id:
                self._remember(request_id, ended)

            def outcome(number: int, state: str | None, error: Condition | None) -> None:
                if request_id and not _may_be_there(state, error):
                    self._requests.pop(request_id, None)
                ended.set_result((state, error, sender.max_message_size))

            sender.send(payload, outcome, message_format)
            return ended

        ended = self._namespace.loop.run(job)
        try:
            self._check(entity, self._namespace.wait(ended, context), len(payload))
        except ConnectionFailedError as error:
            raise revised(error, code=OUTCOME_UNKNOWN) from error.__cause__

    def _remember(self, request_id: str, ended: Future[_Ended]) -> None:
        now = time.monotonic()
        self._requests[request_id] = (ended, now)
        while self._requests:
            oldest, (_, when) = next(iter(self._requests.items()))
            if len(self._requests) <= MAX_REMEMBERED and now - when < REMEMBERED_SECONDS:
                break
            del self._requests[oldest]

    def _check(self, entity: str, ended: _Ended, size: int) -> None:
        state, error, limit = ended
        if state == "accepted":
            return
        if state is None:
            raise ConnectionFailedError(
                f"{entity}: the link was lost before Azure confirmed the messages, which may have been accepted",
                maybe_delivered=True,
            )
        if error is None:
            raise ProviderError(f"{entity}: Azure did not take the messages", code=SERVER_BUSY, status=503, is_transient=True)
        failure = error_of(error, entity=entity)
        if isinstance(failure, MessageTooLargeError):
            failure = MessageTooLargeError(str(failure), code=failure.code, size=size, limit=limit)
        raise failure


def _may_be_there(state: str | None, error: Condition | None) -> bool:
    return state == "accepted" or state is None
