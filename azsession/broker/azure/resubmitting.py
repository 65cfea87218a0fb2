"""`DeadLetterResubmitter`: sends dead letters again on Azure. The broker's operations call it in the loop's thread.

A dead letter is completed after Azure accepted its copy. With duplicate detection, Azure accepts a message with the id of an
earlier one, and drops it. So the copy must be found in its session; else the dead letter stays.
"""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from typing import Any

from ... import amqp
from ...amqp import AmqpMessage
from ...amqp.message_mapping import text_of
from ...errors import ProviderError, QueueError
from ...protocol.error_codes import CONFLICT
from .batches import EncodedMessages, topic_of
from .browsing import MessageBrowser
from .namespace import Namespace
from .operation import Operation
from .sending import MessageSender

#: Seconds after which a probe would become available, if it could not be cancelled. It has no body, and expires at once.
PROBE_SECONDS = 365 * 86400
#: Entities of which it is remembered whether they detect duplicates. This setting of an entity cannot be changed.
MAX_KNOWN = 10_000


class DeadLetterResubmitter:
    """Sends dead letters again.

    Args:
        namespace: The namespace.
        browser: Takes dead letters, and looks into sessions.
        sender: Sends the copies.
    """

    def __init__(self, namespace: Namespace, browser: MessageBrowser, sender: MessageSender) -> None:
        self._namespace = namespace
        self._browser = browser
        self._sender = sender
        #: Maps each entity to `True` if it detects duplicates.
        self._detects: OrderedDict[str, bool] = OrderedDict()

    async def resubmit(self, entity: str, number: int, operation: Operation) -> None:
        """Send a dead letter again, unchanged, and complete it. A subscription's dead letter goes to the topic.

        Raises:
            ProviderError: There is no such dead letter; or Azure dropped the copy as a duplicate, and the dead letter stays.
            QueueError: Another error of Azure.
        """
        target = topic_of(entity) or entity
        detects_duplicates = await self._detects_duplicates(target, operation)

        async def send(payload: bytes) -> None:
            copy = amqp.resent(payload, int(time.time() * 1000))
            message = amqp.decode_message(copy)
            session_id, message_id = text_of(message.group_id), message.message_id
            encoded = EncodedMessages([copy], [session_id], [text_of(message_id) or ""])
            if not detects_duplicates or message_id is None or session_id is None:
                await self._sender.send(target, encoded, "", operation)
                return
            # A later message of the sender can have the same id. It is not the copy.
            others = await self._browser.numbers_with_id(entity, session_id, message_id, operation)
            await self._sender.send(target, encoded, "", operation)
            if await self._browser.numbers_with_id(entity, session_id, message_id, operation) <= others:
                raise ProviderError(
                    f"{entity}: dead letter {number} stays: the copy is not in session {session_id!r}. The queue detects "
                    f"duplicates, and dropped the copy if it had a message with the id {text_of(message_id)!r} before, or "
                    "a receiver has settled the copy already",
                    code=CONFLICT,
                    status=409,
                )

        await self._browser.take_dead_letter(entity, number, send, operation)

    async def _detects_duplicates(self, target: str, operation: Operation) -> bool:
        known = self._detects.get(target)
        if known is None:
            known = self._detects[target] = await self._probe(target, operation)
            while len(self._detects) > MAX_KNOWN:
                self._detects.popitem(last=False)
        return known

    async def _probe(self, target: str, operation: Operation) -> bool:
        """Return whether an entity drops the second of two messages with a new id. They are scheduled, and cancelled."""
        session_id, message_id = f"azsession-probe-{uuid.uuid4()}", str(uuid.uuid4())
        at = amqp.Timestamp(int((time.time() + PROBE_SECONDS) * 1000))
        probe = AmqpMessage(
            ttl_ms=1,
            annotations={"x-opt-scheduled-enqueue-time": at},
            message_id=message_id,
            group_id=session_id,
            data=b"",
        )
        item = {"message-id": message_id, "session-id": session_id, "message": amqp.encode_message(probe)}
        numbers: list[int] = []
        for _ in range(2):
            answer = await self._namespace.manage(target, "schedule-message", {"messages": [item]}, operation)
            found: Any = answer.body.get("sequence-numbers") if isinstance(answer.body, dict) else None
            numbers += [int(number) for number in found or []]
        cancelled = [await self._cancel(target, number, operation) for number in dict.fromkeys(numbers)]
        return cancelled != [True, True]

    async def _cancel(self, target: str, number: int, operation: Operation) -> bool:
        body = {"sequence-numbers": amqp.Array([amqp.Long(number)])}
        try:
            await self._namespace.manage(target, "cancel-scheduled-message", body, operation)
        except QueueError as error:
            if error.is_transient:
                raise
            return False
        return True
