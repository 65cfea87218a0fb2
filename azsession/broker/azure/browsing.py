"""`MessageBrowser`: peeking, and dead letters on Azure. None of them needs a session lock.

The broker's operations call it in the loop's thread.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from ... import amqp
from ...amqp import AmqpMessage, Attach, Condition, Response
from ...amqp.message_mapping import peeked
from ...errors import ProviderError, QueueError
from ...futures import Future
from ...messages import PeekedMessage
from ...protocol.error_codes import MESSAGE_NOT_FOUND, SERVER_BUSY
from .answer_size import fitting
from .authorized_connection import AuthorizedConnection, address_of
from .error_mapping import error_of
from .namespace import Namespace
from .operation import Operation
from .session.drain_watch import ANSWER_TIMEOUT
from .transport.links import Receiver, Settled
from .transport.loop import Loop
from .transport.task import WithdrawnError, done_within

#: Messages in one answer to a peek.
PAGE = 250
#: Dead letters that are locked at once while one is searched for.
SEARCH_CREDIT = 100
#: Seconds without a dead letter after which a search ends.
SEARCH_QUIET = 1.0

#: The suffix of an entity's dead-letter queue. It needs a token of its own, as the SDK for Python puts one.
DEAD_LETTER_QUEUE = "/$DeadLetterQueue"


class MessageBrowser:
    """Reads messages without receiving them, and takes dead letters.

    Args:
        namespace: The namespace.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    async def peek(
        self, entity: str, session_id: str | None, start: int, max_count: int, operation: Operation
    ) -> list[PeekedMessage]:
        """Return up to `max_count` messages of a session, or of all sessions, from sequence number `start`."""
        return [peeked(message) for message in await self._peek(entity, session_id, start, max_count, operation)]

    async def dead_letters(
        self, entity: str, start: int, max_count: int, session_id: str | None, operation: Operation
    ) -> list[PeekedMessage]:
        """Return up to `max_count` dead letters of a session, or of all sessions, from sequence number `start`.

        A dead-letter queue has no sessions, so that those of a session are picked out of all.
        """
        queue, found = entity + DEAD_LETTER_QUEUE, list[PeekedMessage]()
        size = max_count if session_id is None else PAGE
        while len(found) < max_count:
            page = [peeked(one, dead_letter=True) for one in await self._peek(queue, None, start, size, operation)]
            found += [one for one in page if session_id is None or one.session_id == session_id]
            if session_id is None or not page:
                break
            start = page[-1].sequence_number + 1
        return found[:max_count]

    async def _peek(
        self, entity: str, session_id: str | None, start: int, max_count: int, operation: Operation
    ) -> list[AmqpMessage]:
        found: list[bytes] = []
        while len(found) < max_count and fitting(found) == len(found):
            body: dict[str, Any] = {
                "from-sequence-number": amqp.Long(start),
                "message-count": min(PAGE, max_count - len(found)),
            }
            if session_id is not None:
                body["session-id"] = session_id
            answer = await self._namespace.manage(entity, "peek-message", body, operation)
            page = messages_of(answer)
            if not page:
                break
            found += page
            last = amqp.decode_message(page[-1]).annotations.get("x-opt-sequence-number")
            start = (last if isinstance(last, int) else start) + 1
        return [amqp.decode_message(payload) for payload in found[: min(max_count, fitting(found))]]

    async def numbers(
        self, state: str, entity: str, session_id: str | None, operation: Operation, *, without: Collection[str] = ()
    ) -> list[int]:
        """Return the sequence numbers of all messages with a state, for example ``"Deferred"``.

        Args:
            state: The state.
            entity: The queue or subscription.
            session_id: The session; `None` for all sessions.
            operation: The call.
            without: Sessions that are left out.
        """
        numbers: list[int] = []
        start = 0
        while found := await self._peek(entity, session_id, start, PAGE, operation):
            page = [peeked(message) for message in found]
            numbers += [one.sequence_number for one in page if one.state == state and one.session_id not in without]
            start = (page[-1].sequence_number or start) + 1
        return numbers

    async def numbers_with_id(self, entity: str, session_id: str, message_id: object, operation: Operation) -> set[int]:
        """Return the sequence numbers of a session's messages with this id, of any AMQP type."""
        numbers: set[int] = set()
        start = 0
        while page := await self._peek(entity, session_id, start, PAGE, operation):
            for message in page:
                number = message.annotations.get("x-opt-sequence-number")
                start = (number if isinstance(number, int) else start) + 1
                if message.message_id == message_id:
                    numbers.add(start - 1)
        return numbers

    # Dead letters

    async def take_dead_letter(
        self, entity: str, number: int, then: Callable[[bytes], Awaitable[object]] | None, operation: Operation
    ) -> None:
        """Lock a dead letter, call `then` with its payload, and complete it.

        Azure locks dead letters only in their order. Those before the wanted one are locked too, and released at the end.

        Raises:
            ProviderError: There is no such dead letter, or another client has it locked (transient).
            QueueError: Another error of Azure, or of `then`.
        """
        if not any(one.sequence_number == number for one in await self.dead_letters(entity, number, 1, None, operation)):
            raise _no_dead_letter(number)
        connection = await self._namespace.connect(entity + DEAD_LETTER_QUEUE, operation)
        operation.commit()
        search = _DeadLetterSearch(self._namespace.loop, connection, entity + DEAD_LETTER_QUEUE, number)
        connection.attach(search)
        try:
            await self._search(search, operation)
            if not search.found.done():
                raise await self._not_found(entity, number, operation)
            delivery_id, payload = search.found.result()
            if then is not None:
                await then(payload)
            done: Future[tuple[str | None, Condition | None]] = Future()
            search.complete(delivery_id, lambda _, state, error: done.set_result((state, error)))
            state, error = await self._namespace.wait(done, operation)
            if state is None or error is not None:
                raise error_of(error, entity=entity)
        except (Exception, WithdrawnError):
            search.finish()
            raise
        search.finish()

    async def _search(self, search: _DeadLetterSearch, operation: Operation) -> None:
        """Wait until the message is found, or no more messages come."""
        deadline = time.monotonic() + self._namespace.timeout
        while True:
            seen, left = search.seen, operation.left(min(SEARCH_QUIET, deadline - time.monotonic()))
            if left <= 0 or await done_within(search.found, left) or search.seen == seen:
                return

    async def _not_found(self, entity: str, number: int, operation: Operation) -> QueueError:
        if any(one.sequence_number == number for one in await self.dead_letters(entity, number, 1, None, operation)):
            text = f"another client has dead letter {number}, or one before it, locked: try again"
            return ProviderError(text, code=SERVER_BUSY, status=503, is_transient=True)
        return _no_dead_letter(number)


class _DeadLetterSearch(Receiver):
    """A receiving link on the dead-letter queue that searches for one message. It belongs to the loop's thread.

    Attributes:
        found: Gets the delivery's number and the message's payload.
        seen: How many messages came.
    """

    def __init__(self, loop: Loop, connection: AuthorizedConnection, entity: str, number: int) -> None:
        super().__init__(f"azsession-{uuid.uuid4()}", address_of(entity))
        self._loop = loop
        self._connection = connection
        self._entity = entity
        self._number = number
        self._locked: list[int] = []
        self.found: Future[tuple[int, bytes]] = Future()
        self.seen = 0

    def on_attached(self, attach: Attach) -> None:
        super().on_attached(attach)
        self.give_credit(SEARCH_CREDIT)

    def on_message(self, delivery_id: int, delivery_tag: bytes, payload: bytes) -> None:
        self._locked.append(delivery_id)
        if self.draining:
            return
        self.seen += 1
        message = amqp.decode_message(payload)
        if message.annotations.get("x-opt-sequence-number") == self._number and not self.found.done():
            self.give_credit(0)
            self.found.set_result((delivery_id, payload))
        elif not self.found.done() and self.credit <= 1:
            self.give_credit(SEARCH_CREDIT)

    def complete(self, delivery_id: int, settled: Settled) -> None:
        """Complete the message that was found."""
        self._locked.remove(delivery_id)
        self.settle(delivery_id, delivery_id, amqp.ACCEPTED, settled)

    def finish(self) -> None:
        """Release the messages that were not completed, and detach.

        The link is drained first: a message that is on its way when the link ends stays locked until its lock expires.
        """
        if self.attached and self.credit:
            self.drain()
            self._loop.later(ANSWER_TIMEOUT, self._release_and_detach)
        else:
            self._release_and_detach()

    def on_drained(self) -> None:
        self._release_and_detach()

    def _release_and_detach(self) -> None:
        locked, self._locked = self._locked, []
        for delivery_id in locked:
            self.settle(delivery_id, delivery_id, amqp.RELEASED, lambda *_: None)
        self.detach()

    def on_ended(self, error: Condition | None) -> None:
        self._connection.distrust(self._entity, error)
        if not self.found.done():
            self.found.set_exception(error_of(error, entity=self._entity))


def messages_of(answer: Response) -> list[bytes]:
    """Return the encoded messages in the answer to a peek."""
    items = answer.body.get("messages") if isinstance(answer.body, dict) else None
    return [item["message"] for item in items or [] if isinstance(item, dict) and isinstance(item.get("message"), bytes)]


def _no_dead_letter(number: int) -> ProviderError:
    return ProviderError(f"there is no dead letter {number}", code=MESSAGE_NOT_FOUND, status=404)
