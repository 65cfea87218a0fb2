"""`SessionLister`: lists the sessions of an entity on Azure. The broker's operations call it in the loop's thread."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import OrderedDict

from ... import amqp
from ...messages import SessionInfo
from .namespace import Namespace
from .operation import Operation

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
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        #: Sorted ids and when they were fetched, by the entity and the last id of a page.
        self._kept: OrderedDict[tuple[str, str], tuple[list[str], float]] = OrderedDict()

    async def list_sessions(self, entity: str, after: str | None, max_count: int, operation: Operation) -> list[SessionInfo]:
        """Return up to `max_count` sessions that have messages or state, sorted by id: the first, or those after `after`."""
        self._forget_old()
        kept = None if after is None else self._kept.get((entity, after))
        names, fetched = (await self._fetch(entity, operation), time.monotonic()) if kept is None else kept
        start = 0 if after is None else bisect_right(names, after)
        page = names[start : start + max_count]
        if page and len(page) == max_count:
            # The caller asks for the next page, also where this one ends the list.
            self._kept[entity, page[-1]] = (names, fetched)
            self._namespace.loop.later(KEPT_SECONDS + 1.0, self._forget_old)
        return [SessionInfo(name, None) for name in page]

    async def _fetch(self, entity: str, operation: Operation) -> list[str]:
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
