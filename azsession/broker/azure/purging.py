"""`Purger`: deletes the messages of sessions on Azure. The broker's operations call it in the loop's thread."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Collection, Sequence

from ...errors import ProviderError, SessionLockedError
from ...protocol.error_codes import MESSAGE_NOT_FOUND
from ..calls import Disposition, ReceiveRequest, Settlement
from .browsing import MessageBrowser
from .delays import DelayedSessions
from .held_operations import HeldSessionOperations
from .operation import Operation
from .receiving import SessionReceiver
from .scheduling import MessageScheduler
from .session.registry import SessionRegistry
from .session_listing import SessionLister

#: Messages that are deleted at once.
AT_ONCE = 500
#: Requests that another attempt can continue.
MAX_REMEMBERED = 1_000
#: More sessions than a queue has.
ALL = 2**31


class Purger:
    """Takes the lock of a session, and completes what is in it. Azure has no other way to delete a session's messages.

    Args:
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
        registry: SessionRegistry,
        receiver: SessionReceiver,
        held: HeldSessionOperations,
        browser: MessageBrowser,
        lister: SessionLister,
        scheduler: MessageScheduler,
        delays: DelayedSessions,
    ) -> None:
        self._registry = registry
        self._receiver = receiver
        self._held = held
        self._browser = browser
        self._lister = lister
        self._scheduler = scheduler
        self._delays = delays
        #: How many messages each request deleted: another attempt continues to count.
        self._counts: OrderedDict[str, int] = OrderedDict()

    async def purge(self, entity: str, session_id: str | None, request_id: str, operation: Operation) -> int:
        """Delete the messages of a session, or of all sessions that nobody holds. Return their number.

        Raises:
            SessionLockedError: A holder has the session.
            QueueError: Another error of Azure.
        """
        operation.commit()
        # A request without an id is never repeated.
        key = request_id or str(uuid.uuid4())
        self._counts.setdefault(key, 0)
        while len(self._counts) > MAX_REMEMBERED:
            self._counts.popitem(last=False)
        if session_id is not None:
            await self._purge_session(entity, session_id, key, operation)
            await self._cancel(entity, session_id, key, operation)
            return self._counts.get(key, 0)
        held: set[str] = set()
        for info in await self._lister.list_sessions(entity, None, ALL, operation):
            if not await self._purge_if_free(entity, info.session_id, key, operation):
                held.add(info.session_id)
        await self._cancel(entity, None, key, operation, without=held)
        return self._counts.get(key, 0)

    async def _purge_if_free(self, entity: str, session_id: str, key: str, operation: Operation) -> bool:
        """Complete the messages of a session; return `False` if a holder has it."""
        try:
            await self._purge_session(entity, session_id, key, operation)
        except SessionLockedError:
            return False
        return True

    async def _purge_session(self, entity: str, session_id: str, key: str, operation: Operation) -> None:
        self._delays.release(self._registry.held(entity, session_id))
        lock_id = str(uuid.uuid4())
        wanted = ReceiveRequest(entity, session_id, lock_id, max_count=AT_ONCE, timeout=0.0)

        async def complete(tokens: Sequence[str]) -> None:
            settlements = [Settlement(token, Disposition.COMPLETE) for token in tokens]
            codes = await self._held.settle(entity, session_id, settlements, operation)
            self._counts[key] = self._counts.get(key, 0) + codes.count(None)

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
        self, entity: str, session_id: str | None, key: str, operation: Operation, *, without: Collection[str] = ()
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
            self._counts[key] = self._counts.get(key, 0) + 1
