"""`MessageScheduler`: schedules messages on Azure, and cancels them. The broker's operations call it in the loop's thread."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from ... import amqp
from ...errors import ConnectionFailedError, ProviderError, ValidationError, revised
from ...protocol.error_codes import OUTCOME_UNKNOWN
from .batches import EncodedMessages, names_distinct_keys
from .namespace import Namespace
from .operation import Operation

#: Requests whose results can be repeated.
MAX_REMEMBERED = 10_000
#: Messages in one request to Azure, whose requests are at most as large as a message.
MESSAGES_AT_ONCE = 100


class MessageScheduler:
    """Sends messages that become available later. See "schedule-message" and "cancel-scheduled-message" in Microsoft's
    "AMQP 1.0 in Azure Service Bus: request-response-based operations".

    Args:
        namespace: The namespace.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        #: The sequence numbers that Azure gave to the messages at these positions, by request id.
        self._scheduled: OrderedDict[str, dict[int, int]] = OrderedDict()

    async def schedule(self, entity: str, encoded: EncodedMessages, request_id: str, operation: Operation) -> list[int]:
        """Schedule messages. Return their sequence numbers.

        Raises:
            ConnectionFailedError: Azure's answer was lost: it may have stored the messages.
            QueueError: Azure refused the messages. `accepted` says how many it had accepted before.
        """
        numbers = self._scheduled.setdefault(request_id, {}) if request_id else {}
        while len(self._scheduled) > MAX_REMEMBERED:
            self._scheduled.popitem(last=False)
        operation.commit()
        try:
            await self._schedule_groups(entity, encoded, [range(len(encoded))], numbers, operation)
        except ValidationError as error:
            if not names_distinct_keys(str(error)):
                raise
            # The entity is partitioned, and a request has messages of one session.
            sessions: dict[str | None, list[int]] = {}
            for at, session_id in enumerate(encoded.session_ids):
                sessions.setdefault(session_id, []).append(at)
            await self._schedule_groups(entity, encoded, sessions.values(), numbers, operation)
        return [numbers[at] for at in range(len(encoded))]

    async def _schedule_groups(
        self,
        entity: str,
        encoded: EncodedMessages,
        groups: Iterable[Sequence[int]],
        numbers: dict[int, int],
        operation: Operation,
    ) -> None:
        """Schedule the messages at some positions that have no number yet. A request has messages of one group."""
        for group in groups:
            left = [at for at in group if at not in numbers]
            for start in range(0, len(left), MESSAGES_AT_ONCE):
                positions = left[start : start + MESSAGES_AT_ONCE]
                try:
                    found = await self._schedule(entity, encoded, positions, operation)
                except ConnectionFailedError as error:
                    raise revised(error, code=OUTCOME_UNKNOWN, accepted=len(numbers)) from error.__cause__
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
