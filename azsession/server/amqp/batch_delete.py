"""Deletes the oldest messages of a session, or the oldest dead letters, for the operation ``batch-delete-messages``.

`management` calls it. Source: Microsoft's SDKs, for example `ServiceBusReceiver.deleteMessages` of @azure/service-bus.
"""

from __future__ import annotations

from datetime import datetime

from ...broker.base import Broker
from ...broker.calls import Disposition, ReceiveRequest, Settlement
from ...errors import QueueError
from ...messages import PeekedMessage
from ...validation import MAX_BATCH
from .broker_calls import CONTEXT, result_of
from .dead_letter_locks import DeadLetterLocks

#: Messages that one request deletes at most, as on Azure.
MAX_DELETES = 4000


async def delete_of_session(broker: Broker, entity: str, session_id: str, lock_id: str, most: int, before: datetime) -> int:
    """Delete the first messages of a session that this holder has, up to `most`, and return their number.

    Only messages that were enqueued before a time and that nobody has received are deleted. The others stay as they are.

    Raises:
        QueueError: The holder lost the session, or the broker failed.
    """
    deleted = 0
    while deleted < most:
        count = min(most - deleted, MAX_BATCH)
        request = ReceiveRequest(entity, session_id, lock_id, max_count=count, timeout=0, holds_lock=True)
        received = (await result_of(broker.receive(request, context=CONTEXT))).messages
        old = [message.receipt.handle for message in received if _is_older(message, before)]
        rest = [message.receipt.handle for message in received if not _is_older(message, before)]
        if rest:
            broker.give_back(entity, session_id, lock_id, rest, context=CONTEXT)
        settlements = [Settlement(token, Disposition.COMPLETE) for token in old]
        codes = await result_of(broker.settle(entity, session_id, settlements, context=CONTEXT)) if old else []
        deleted += codes.count(None)
        if rest or not old:
            break
    return deleted


async def delete_dead_letters(broker: Broker, locks: DeadLetterLocks, entity: str, most: int, before: datetime) -> int:
    """Delete the first dead letters that were enqueued before a time and that nobody has locked; return their number."""
    deleted = start = 0
    while deleted < most:
        found = await result_of(broker.dead_letters(entity, start, min(most - deleted, MAX_BATCH), context=CONTEXT))
        if not found:
            break
        start = found[-1].sequence_number + 1
        for message in found:
            if _is_older(message, before) and not locks.is_locked(entity, message.sequence_number):
                deleted += await _is_deleted(broker, entity, message.sequence_number)
    return deleted


async def _is_deleted(broker: Broker, entity: str, sequence_number: int) -> bool:
    """Delete a dead letter; return whether it was still there."""
    try:
        await result_of(broker.delete_dead_letter(entity, sequence_number, context=CONTEXT))
    except QueueError:
        return False
    return True


def _is_older(message: PeekedMessage, before: datetime) -> bool:
    return message.enqueued_at is not None and message.enqueued_at < before
