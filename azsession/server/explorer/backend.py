"""Calls the broker for the pages. Every call is bounded in time and in the number of messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import attrs

from ...broker.base import Broker
from ...broker.calls import CallContext
from ...errors import ProviderError, UnsupportedOperationError
from ...messages import Message, PeekedMessage, SessionInfo
from ...queues import QueueInfo, QueueStatistics
from .transport import Wait

#: Seconds that a page waits for one result of the broker.
PATIENCE = 20.0
#: Seconds that a page waits for the numbers of a queue.
FIGURES_PATIENCE = 3.0
#: Dead letters that one page looks at while it searches for a reason, and the seconds for which it does.
MAX_SEARCHED, SEARCH_SECONDS = 2000, 3.0
#: Dead letters that are fetched at once during a search.
_BATCH = 100


@attrs.frozen
class MessagePage:
    """Some messages of a list.

    Attributes:
        messages: The messages.
        following: The sequence number at which the next page starts; `None` if this is the last page.
        is_unfinished: Whether a search ended before it had looked at all messages.
    """

    messages: Sequence[PeekedMessage]
    following: int | None
    is_unfinished: bool = False


class Backend:
    """The broker, as pages use it. No method blocks the event loop.

    Args:
        broker: The broker.
        wait: Waits for its results.
    """

    def __init__(self, broker: Broker, wait: Wait) -> None:
        self._broker = broker
        self._wait = wait

    async def queues(self) -> list[QueueInfo] | None:
        """Return all queues by name, without counts; `None` if the broker does not manage queues."""
        try:
            found: list[QueueInfo] = await self._result(self._broker.list_queues(context=_context()))
        except UnsupportedOperationError:
            return None
        return found

    async def figures(self, entity: str) -> QueueStatistics:
        """Return the numbers of a queue. Those that the broker does not know, or does not find out in time, are `None`.

        Azure tells the number of sessions only by listing them all.
        """
        context = CallContext(blocking=False, deadline=time.monotonic() + FIGURES_PATIENCE)
        future = self._broker.queue_statistics(entity, context=context)
        try:
            found: QueueStatistics = await self._wait(future, None, patience=FIGURES_PATIENCE)
        except ProviderError as error:
            if not error.is_transient:
                raise
            return QueueStatistics(name=entity)
        return found

    async def sessions(self, entity: str, after: str | None, count: int) -> list[SessionInfo]:
        """Return up to `count` sessions with ids greater than `after`."""
        found: list[SessionInfo] = await self._result(self._broker.list_sessions(entity, after, count, context=_context()))
        return found

    async def session(self, entity: str, session_id: str) -> SessionInfo | None:
        """Return a session; `None` if it has neither messages nor state."""
        near = await self.sessions(entity, before(session_id), 2)
        return next((session for session in near if session.session_id == session_id), None)

    async def messages(self, entity: str, session_id: str, start: int, count: int) -> MessagePage:
        """Return up to `count` messages of a session from the sequence number `start` on."""

        def fetch(start: int, limit: int) -> Future[list[PeekedMessage]]:
            return self._broker.peek(entity, session_id, start, limit, context=_context())

        return await self._page(fetch, start, count, lambda _: True)

    async def dead_letters(
        self, entity: str, session_id: str | None, start: int, count: int, matches: Callable[[PeekedMessage], bool] | None
    ) -> MessagePage:
        """Return up to `count` dead letters that match, from the sequence number `start` on.

        Args:
            entity: The queue or subscription.
            session_id: The session; `None` for all sessions.
            start: The lowest sequence number.
            count: Dead letters at most.
            matches: Chooses dead letters; `None` for all. The search ends after `MAX_SEARCHED` of them.
        """

        def fetch(start: int, limit: int) -> Future[list[PeekedMessage]]:
            limit = limit if matches is None else _BATCH
            return self._broker.dead_letters(entity, start, limit, session_id, context=_context())

        return await self._page(fetch, start, count, matches or (lambda _: True))

    async def _page(
        self,
        fetch: Callable[[int, int], Future[list[PeekedMessage]]],
        start: int,
        count: int,
        matches: Callable[[PeekedMessage], bool],
    ) -> MessagePage:
        """Fetch until there is one message more than wanted, which starts the next page.

        A broker can return fewer messages than it was asked for, because it bounds the bytes of an answer.
        """
        found: list[PeekedMessage] = []
        searched, ends = 0, time.monotonic() + SEARCH_SECONDS
        while True:
            batch: list[PeekedMessage] = await self._result(fetch(start, count + 1 - len(found)))
            if not batch:
                return MessagePage(found, None)
            found += [message for message in batch if matches(message)]
            searched += len(batch)
            start = batch[-1].sequence_number + 1
            if len(found) > count:
                return MessagePage(found[:count], found[count].sequence_number)
            if searched >= MAX_SEARCHED or time.monotonic() > ends:
                return MessagePage(found, start, is_unfinished=True)

    async def message(self, entity: str, session_id: str, number: int) -> PeekedMessage | None:
        """Return the message with a sequence number; `None` if it is not there any more."""
        found = await self._result(self._broker.peek(entity, session_id, number, 1, context=_context()))
        return next((message for message in found if message.sequence_number == number), None)

    async def dead_letter(self, entity: str, number: int) -> PeekedMessage | None:
        """Return the dead letter with a sequence number; `None` if it is not there any more."""
        found = await self._result(self._broker.dead_letters(entity, number, 1, None, context=_context()))
        return next((message for message in found if message.sequence_number == number), None)

    async def send(self, entity: str, message: Message, request_id: str) -> None:
        """Send a message. The same `request_id` sends it once only."""
        await self._result(self._broker.send(entity, [message], request_id, context=_context()))

    async def resubmit(self, entity: str, number: int) -> None:
        """Move a dead letter to the end of its session."""
        await self._result(self._broker.resubmit(entity, number, context=_context()))

    async def delete_dead_letter(self, entity: str, number: int) -> None:
        """Delete a dead letter."""
        await self._result(self._broker.delete_dead_letter(entity, number, context=_context()))

    async def purge(self, entity: str, session_id: str, request_id: str) -> int:
        """Delete the messages of a session, and return how many there were."""
        count: int = await self._result(self._broker.purge(entity, session_id, request_id, context=_context()))
        return count

    async def _result(self, future: Future[Any]) -> Any:
        return await self._wait(future, None, patience=PATIENCE)


def before(session_id: str) -> str | None:
    """Return a text that is less than a session id, and greater than almost all ids that are less; `None` for ``""``."""
    if not session_id:
        return None
    start, last = session_id[:-1], ord(session_id[-1])
    if last == 0:
        return start
    previous = 0xD7FF if last == 0xE000 else last - 1
    return f"{start}{chr(previous)}\U0010ffff"


def _context() -> CallContext:
    return CallContext(blocking=False, deadline=time.monotonic() + PATIENCE)
