"""`Purger`: deletes the messages of sessions on Azure. The broker's operations call it in the loop's thread."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Sequence

import attrs

from ...errors import ProviderError, SessionLockedError
from ...protocol.error_codes import MESSAGE_NOT_FOUND
from ..calls import Disposition, ReceiveRequest, Settlement
from .browsing import MessageBrowser
from .delays import DelayedSessions
from .held_operations import HeldSessionOperations
from .namespace import Namespace
from .operation import Operation
from .receiving import SessionReceiver
from .request_turns import RequestTurns
from .scheduling import MessageScheduler
from .session.registry import SessionRegistry
from .session_listing import SessionLister
from .transport.task import done_within

#: Messages of a session that are deleted at once.
AT_ONCE = 500
#: Sessions that are purged at once. Azure takes half a second to say that a session is held.
SESSIONS_AT_ONCE = 64
#: Requests that are remembered.
MAX_REMEMBERED = 1_000
#: More sessions than a queue has.
ALL = 2**31


@attrs.define(eq=False)
class _Request:
    """A request of a caller.

    Attributes:
        count: How many messages its attempts have deleted.
        is_done: Whether an attempt has finished.
    """

    count: int = 0
    is_done: bool = False


class Purger:
    """Takes the lock of a session, and completes what is in it. Azure has no other way to delete a session's messages.

    Args:
        namespace: The namespace.
        registry: The sessions that are held here.
        receiver: Takes locks and receives.
        held: Completes messages, and releases locks.
        browser: Finds deferred and scheduled messages.
        lister: Finds sessions.
        scheduler: Cancels scheduled messages.
        delays: Holds sessions back. A purge ends this.
    """

    def __init__(
        self,
        namespace: Namespace,
        registry: SessionRegistry,
        receiver: SessionReceiver,
        held: HeldSessionOperations,
        browser: MessageBrowser,
        lister: SessionLister,
        scheduler: MessageScheduler,
        delays: DelayedSessions,
    ) -> None:
        self._namespace = namespace
        self._registry = registry
        self._receiver = receiver
        self._held = held
        self._browser = browser
        self._lister = lister
        self._scheduler = scheduler
        self._delays = delays
        self._requests: RequestTurns[_Request] = RequestTurns(namespace, _Request, MAX_REMEMBERED)

    async def purge(self, entity: str, session_id: str | None, request_id: str, operation: Operation) -> int:
        """Delete the messages of a session, or of all sessions that nobody holds. Return their number.

        Raises:
            SessionLockedError: A holder has the session.
            QueueError: Another error of Azure.
        """
        operation.commit()

        async def attempt(request: _Request) -> int:
            if not request.is_done:
                if session_id is None:
                    await self._purge_sessions(entity, request, operation)
                else:
                    await self._purge_session(entity, session_id, request, operation)
                    await self._cancel(entity, session_id, request, operation)
                request.is_done = True
            return request.count

        return await self._requests.run(request_id, attempt, operation)

    async def _purge_sessions(self, entity: str, request: _Request, operation: Operation) -> None:
        """Purge all sessions that nobody holds, several at once."""
        sessions = await self._lister.list_sessions(entity, None, ALL, operation)
        left, held = iter([info.session_id for info in sessions]), set[str]()

        async def purge(names: Iterator[str]) -> None:
            for name in names:
                if not await self._purge_if_free(entity, name, request, operation):
                    held.add(name)

        loop = self._namespace.loop
        tasks = [loop.start_call(lambda: purge(left)) for _ in range(min(SESSIONS_AT_ONCE, len(sessions)))]
        for task in tasks:
            await done_within(task, None)
        for task in tasks:
            task.result()
        await self._cancel(entity, None, request, operation, without=held)

    async def _purge_if_free(self, entity: str, session_id: str, request: _Request, operation: Operation) -> bool:
        """Complete the messages of a session; return `False` if a holder has it."""
        try:
            await self._purge_session(entity, session_id, request, operation)
        except SessionLockedError:
            return False
        return True

    async def _purge_session(self, entity: str, session_id: str, request: _Request, operation: Operation) -> None:
        self._delays.release(self._registry.held(entity, session_id))
        lock_id = str(uuid.uuid4())
        wanted = ReceiveRequest(entity, session_id, lock_id, max_count=AT_ONCE, timeout=0.0)

        async def complete(tokens: Sequence[str]) -> None:
            settlements = [Settlement(token, Disposition.COMPLETE) for token in tokens]
            codes = await self._held.settle(entity, session_id, settlements, operation)
            request.count += codes.count(None)

        try:
            while True:
                delivery = await self._receiver.receive(wanted, operation.part())
                if not delivery.messages:
                    break
                await complete([message.receipt.handle for message in delivery.messages])
            numbers = await self._browser.numbers("Deferred", entity, session_id, operation)
            session = self._registry.held(entity, session_id)
            for start in range(0, len(numbers), AT_ONCE):
                if session is None:
                    break
                found = await self._receiver.take_deferred(session, numbers[start : start + AT_ONCE], operation)
                await complete([message.token for message in found])
        finally:
            session = self._registry.held(entity, session_id)
            if session is not None and session.lock_id == lock_id:
                session.release()

    async def _cancel(
        self, entity: str, session_id: str | None, request: _Request, operation: Operation, *, without: Collection[str] = ()
    ) -> None:
        """Cancel the scheduled messages of a session, or of all sessions but some."""
        for number in await self._browser.numbers("Scheduled", entity, session_id, operation, without=without):
            try:
                await self._scheduler.cancel(entity, [number], operation)
            except ProviderError as error:
                # The message has become available meanwhile.
                if error.code != MESSAGE_NOT_FOUND:
                    raise
                continue
            request.count += 1
