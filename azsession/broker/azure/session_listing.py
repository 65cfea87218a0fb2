"""`SessionLister`: lists the sessions of an entity on Azure. The broker's operations call it in the loop's thread."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import OrderedDict
from datetime import datetime, timedelta, timezone

from ... import amqp
from ...messages import UNKNOWN_CLIENT, SessionInfo
from ...queues import QueueStatistics
from .namespace import Namespace
from .operation import Operation
from .session.held_session import HeldSession
from .session.registry import SessionRegistry

#: Sessions in one answer of Azure. The SDKs ask for as many, and the service may cap larger numbers.
PAGE = 100
#: The ``last-updated-time`` that lists all sessions with messages or state: .NET's `DateTime.MaxValue`, in milliseconds since
#: 1970. See Microsoft's "AMQP 1.0 in Azure Service Bus: request-response-based operations", enumerate sessions.
ALL_SESSIONS_MS = 253402300800000
#: Seconds for which a list is kept for the caller's next pages, and how many lists are kept at most.
KEPT_SECONDS, MAX_KEPT = 30.0, 16


class SessionLister:
    """Lists sessions. For the loop's thread.

    Azure has no "sessions after this id", so that the first page of a caller needs all of Azure's pages. The rest of the
    list is kept for the caller's next pages.

    Args:
        namespace: The namespace.
        registry: The sessions that are held here. Azure does not tell who holds a session.
    """

    def __init__(self, namespace: Namespace, registry: SessionRegistry) -> None:
        self._namespace = namespace
        self._registry = registry
        #: Sorted ids and when they were fetched, by the entity and the last id of a page.
        self._kept: OrderedDict[tuple[str, str], tuple[list[str], float]] = OrderedDict()

    async def list_sessions(self, entity: str, after: str | None, max_count: int, operation: Operation) -> list[SessionInfo]:
        """Return up to `max_count` sessions that have messages or state, sorted by id: the first, or those after `after`."""
        self._forget_old()
        kept = None if after is None else self._kept.get((entity, after))
        names, fetched = (await self.names(entity, operation), time.monotonic()) if kept is None else kept
        start = 0 if after is None else bisect_right(names, after)
        page = names[start : start + max_count]
        if page and len(page) == max_count:
            # The caller asks for the next page, also where this one ends the list.
            self._kept[entity, page[-1]] = (names, fetched)
            self._namespace.loop.later(KEPT_SECONDS + 1.0, self._forget_old)
        held = self._registry.held_in(entity)
        return [_info(name, held.get(name)) for name in page]

    async def statistics(self, entity: str, operation: Operation) -> QueueStatistics:
        """Return how many sessions have messages, and how many are held here."""
        names = await self.names(entity, operation)
        return QueueStatistics(
            name=entity, session_count=len(names), locked_session_count=len(self._registry.held_in(entity))
        )

    async def names(self, entity: str, operation: Operation) -> list[str]:
        """Return the ids of all sessions that have messages, sorted. A session that has only a state can be among them."""
        names: set[str] = set()
        skip = 0
        while True:
            body = {"last-updated-time": amqp.Timestamp(ALL_SESSIONS_MS), "skip": skip, "top": PAGE}
            answer = await self._namespace.manage(entity, "get-message-sessions", body, operation)
            page = answer.body.get("sessions-ids") if isinstance(answer.body, dict) else None
            if not page:
                # Only an empty page is the last one: a service that caps pages answers less than was asked for.
                return sorted(names)
            names.update(str(name) for name in page)
            skip += len(page)

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._kept:
            key, (_, fetched) = next(iter(self._kept.items()))
            if len(self._kept) <= MAX_KEPT and now - fetched < KEPT_SECONDS:
                break
            del self._kept[key]


def _info(name: str, session: HeldSession | None) -> SessionInfo:
    if session is None:
        return SessionInfo(name, None)
    until = datetime.now(timezone.utc) + timedelta(seconds=session.lock.left())
    return SessionInfo(name, None, until, holder=session.client or UNKNOWN_CLIENT)
