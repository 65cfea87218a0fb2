"""`MessageScheduler`: schedules messages on Azure, and cancels them. The broker's operations call it in the loop's thread."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from ... import amqp
from ...errors import ConnectionFailedError, ProviderError, QueueError, ValidationError, revised
from ...protocol.error_codes import OUTCOME_UNKNOWN
from .batches import MAX_BATCH_SIZE, EncodedMessages, names_distinct_keys
from .namespace import Namespace
from .operation import Operation
from .transport.task import LocalFuture

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
        ended: Is done when the attempt that is under way ends; `None` without one.
        lost: The error of an attempt whose answer was lost. Another attempt could schedule the messages twice.
    """

    numbers: dict[int, int] = attrs.field(factory=dict)
    ended: LocalFuture[None] | None = None
    lost: ConnectionFailedError | None = None


class MessageScheduler:
    """Sends messages that become available later. See "schedule-message" and "cancel-scheduled-message" in Microsoft's
    "AMQP 1.0 in Azure Service Bus: request-response-based operations".

    Args:
        namespace: The namespace.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._requests: OrderedDict[str, _Request] = OrderedDict()

    async def schedule(self, entity: str, encoded: EncodedMessages, request_id: str, operation: Operation) -> list[int]:
        """Schedule messages. Return their sequence numbers.

        Raises:
            MessageTooLargeError: A message is larger than Azure takes. None was scheduled.
            ConnectionFailedError: Azure's answer was lost: it may have stored the messages.
            QueueError: Azure refused the messages. `accepted` says how many it had accepted before.
        """
        sender = await self._namespace.sender(entity, operation)
        encoded.check_sizes(sender.max_message_size)
        request = self._requests.setdefault(request_id, _Request()) if request_id else _Request()
        while len(self._requests) > MAX_REMEMBERED:
            self._requests.popitem(last=False)
        while request.ended is not None:
            await self._namespace.wait(request.ended, operation)
        if request.lost is not None:
            raise revised(request.lost)
        operation.commit()
        ended = request.ended = LocalFuture()
        try:
            await self._attempt(entity, encoded, request, sender.max_message_size or MAX_BATCH_SIZE, operation)
        except QueueError as error:
            failure = revised(error, accepted=len(request.numbers))
            if isinstance(failure, ConnectionFailedError) and failure.maybe_delivered:
                failure = request.lost = revised(failure, code=OUTCOME_UNKNOWN)
            raise failure from error.__cause__
        finally:
            request.ended = None
            ended.set_result(None)
        return [request.numbers[at] for at in range(len(encoded))]

    async def _attempt(
        self, entity: str, encoded: EncodedMessages, request: _Request, limit: int, operation: Operation
    ) -> None:
        try:
            await self._schedule_groups(entity, encoded, [range(len(encoded))], request.numbers, limit, operation)
        except ValidationError as error:
            if not names_distinct_keys(str(error)):
                raise
            # The entity is partitioned, and a request has messages of one session.
            sessions: dict[str | None, list[int]] = {}
            for at, session_id in enumerate(encoded.session_ids):
                sessions.setdefault(session_id, []).append(at)
            await self._schedule_groups(entity, encoded, sessions.values(), request.numbers, limit, operation)

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
            for positions in _divide(encoded, [at for at in group if at not in numbers], limit):
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


def _divide(encoded: EncodedMessages, positions: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Yield the positions of the messages of each request, which has at most `limit` bytes, or one message."""
    part: list[int] = []
    size = 0
    for at in positions:
        ids = len((encoded.session_ids[at] or "").encode()) + len(encoded.message_ids[at].encode())
        added = len(encoded.messages[at]) + ids + _MESSAGE_OVERHEAD
        if part and (size + added > limit or len(part) == MESSAGES_AT_ONCE):
            yield part
            part, size = [], 0
        part.append(at)
        size += added
    if part:
        yield part
