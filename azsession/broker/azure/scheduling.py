"""`MessageScheduler`: schedules messages on Azure, and cancels them. The broker's operations call it in the loop's thread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from ... import amqp
from ...errors import ConnectionFailedError, ProviderError, QueueError, ValidationError, revised
from ...protocol.error_codes import OUTCOME_UNKNOWN
from .batches import MAX_BATCH_SIZE, EncodedMessages, chunks_of, names_distinct_keys
from .namespace import Namespace
from .operation import Operation
from .request_turns import RequestTurns

#: Requests whose results can be repeated.
MAX_REMEMBERED = 10_000
#: Messages in one request to Azure. A request may be as large as one message.
MESSAGES_AT_ONCE = 100
#: The bytes by which a request is larger than its messages and their ids: for each message.
_MESSAGE_OVERHEAD = 100


@attrs.define(eq=False)
class _Request:
    """A request of a caller, in one or more requests to Azure.

    Attributes:
        numbers: The sequence numbers that Azure gave to the messages at these positions.
        lost: The error of an attempt whose answer was lost. Another attempt could schedule the messages twice.
    """

    numbers: dict[int, int] = attrs.field(factory=dict)
    lost: ConnectionFailedError | None = None


class MessageScheduler:
    """Sends messages that become available later. See "schedule-message" and "cancel-scheduled-message" in Microsoft's
    "AMQP 1.0 in Azure Service Bus: request-response-based operations".

    Args:
        namespace: The namespace.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._requests: RequestTurns[_Request] = RequestTurns(namespace, _Request, MAX_REMEMBERED)

    async def schedule(self, entity: str, encoded: EncodedMessages, request_id: str, operation: Operation) -> list[int]:
        """Schedule messages. Return their sequence numbers.

        Raises:
            MessageTooLargeError: A message is larger than Azure takes. None was scheduled.
            ConnectionFailedError: Azure's answer was lost: it may have stored the messages.
            QueueError: Azure refused the messages. `accepted` says how many it had accepted before.
        """
        sender = await self._namespace.sender(entity, operation)
        encoded.check_sizes(sender.max_message_size)
        limit = sender.max_message_size or MAX_BATCH_SIZE

        async def attempt(request: _Request) -> list[int]:
            if request.lost is not None:
                raise revised(request.lost)
            operation.commit()
            try:
                await self._schedule_all(entity, encoded, request, limit, operation)
            except QueueError as error:
                failure = revised(error, accepted=len(request.numbers))
                if isinstance(failure, ConnectionFailedError) and failure.maybe_delivered:
                    failure = request.lost = revised(failure, code=OUTCOME_UNKNOWN)
                raise failure from error.__cause__
            return [request.numbers[at] for at in range(len(encoded))]

        return await self._requests.run(request_id, attempt, operation)

    async def _schedule_all(
        self, entity: str, encoded: EncodedMessages, request: _Request, limit: int, operation: Operation
    ) -> None:
        try:
            await self._schedule_groups(entity, encoded, [range(len(encoded))], request.numbers, limit, operation)
        except ValidationError as error:
            if not names_distinct_keys(str(error)):
                raise
            # The entity is partitioned, and a request has messages of one session.
            await self._schedule_groups(entity, encoded, encoded.by_session(), request.numbers, limit, operation)

    async def _schedule_groups(
        self,
        entity: str,
        encoded: EncodedMessages,
        groups: Iterable[Sequence[int]],
        numbers: dict[int, int],
        limit: int,
        operation: Operation,
    ) -> None:
        """Schedule the messages at some positions that have no number yet. A request has messages of one group."""
        for group in groups:
            left = [at for at in group if at not in numbers]
            sizes = [_size_in_request(encoded, at) for at in left]
            for positions in chunks_of(left, sizes, limit, most=MESSAGES_AT_ONCE):
                found = await self._schedule(entity, encoded, positions, operation)
                numbers.update(zip(positions, found, strict=True))

    async def _schedule(
        self, entity: str, encoded: EncodedMessages, positions: Sequence[int], operation: Operation
    ) -> list[int]:
        """Schedule the messages at some positions. Return their sequence numbers."""
        messages: list[dict[str, Any]] = []
        for at in positions:
            message = {"message-id": encoded.message_ids[at], "message": encoded.messages[at]}
            if encoded.session_ids[at] is not None:
                message["session-id"] = encoded.session_ids[at] or ""
            messages.append(message)
        answer = await self._namespace.manage(entity, "schedule-message", {"messages": messages}, operation)
        found = answer.body.get("sequence-numbers") if isinstance(answer.body, dict) else None
        if not isinstance(found, list) or len(found) != len(messages):
            raise ProviderError(f"{entity}: Azure did not answer with the sequence numbers of the scheduled messages")
        return [int(number) for number in found]

    async def cancel(self, entity: str, sequence_numbers: Sequence[int], operation: Operation) -> None:
        """Cancel scheduled messages.

        Raises:
            ProviderError: There is no scheduled message with one of the numbers.
            QueueError: Another error of Azure.
        """
        operation.commit()
        body = {"sequence-numbers": amqp.Array([amqp.Long(number) for number in sequence_numbers])}
        await self._namespace.manage(entity, "cancel-scheduled-message", body, operation)


def _size_in_request(encoded: EncodedMessages, at: int) -> int:
    """Return the bytes by which a message and its ids make a request larger."""
    ids = len((encoded.session_ids[at] or "").encode()) + len(encoded.message_ids[at].encode())
    return len(encoded.messages[at]) + ids + _MESSAGE_OVERHEAD
