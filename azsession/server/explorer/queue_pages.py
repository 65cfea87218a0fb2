"""The pages with the queues, and with the sessions of one queue."""

from __future__ import annotations

import asyncio

import attrs

from ...errors import QueueNotFoundError
from ...protocol.routes import Operation
from ...queues import QueueStatistics
from ..answer import Answer
from .backend import Backend
from .page_request import PageRequest
from .page_values import frame
from .rendering import render
from .rights import Rights, check_right, rights_of

#: Queues and sessions on one page.
PAGE = 50
_MAX_FILTER = 260


@attrs.frozen
class QueueRow:
    """A queue in the list.

    Attributes:
        name: Its name.
        figures: Its numbers, if the user may see them and it exists.
        exists: `False` for a queue that a key names, and that is not there.
        can_listen: Whether the user may look at it.
    """

    name: str
    figures: QueueStatistics | None = None
    exists: bool = True
    can_listen: bool = True


class QueuePages:
    """Shows queues and sessions.

    Args:
        backend: The broker.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def queues(self, request: PageRequest) -> Answer:
        """Show the queues that the user may see."""
        rights = rights_of(request)
        wanted = request.query.get("find", "").strip()[:_MAX_FILTER]
        names = await self._names(rights)
        found = None if names is None else [name for name in names if wanted.lower() in name.lower()]
        start = request.number("start", highest=10**6)
        shown = (found or [])[start : start + PAGE]
        rows = await asyncio.gather(*(self._row(name, rights) for name in shown))
        return render(
            "queues.html",
            **frame(request, is_live=True),
            rows=rows,
            is_known=names is not None,
            total=len(names or ()),
            wanted=wanted,
            start=start,
            matching=len(found or ()),
            following=start + PAGE if found is not None and len(found) > start + PAGE else None,
        )

    async def _names(self, rights: Rights) -> list[str] | None:
        """Return the names of the queues that the user may see; `None` if the broker does not list queues.

        A key that may only send sees the queues that it names itself, and no others.
        """
        named = rights.named
        if named is not None:
            return sorted(named)
        known = await self._backend.queues()
        return None if known is None else [queue.name for queue in known if rights.can_listen(queue.name)]

    async def _row(self, name: str, rights: Rights) -> QueueRow:
        if not rights.can_listen(name):
            return QueueRow(name, can_listen=False)
        try:
            return QueueRow(name, await self._backend.figures(name))
        except QueueNotFoundError:
            return QueueRow(name, exists=False)

    async def sessions(self, request: PageRequest) -> Answer:
        """Show the sessions of a queue."""
        queue = request.queue
        check_right(request, Operation.LIST_SESSIONS, queue)
        after = request.query.get("after")
        figures = await self._backend.figures(queue)
        found = await self._backend.sessions(queue, after, PAGE + 1)
        return render(
            "sessions.html",
            **frame(request, queue, "sessions", is_live=True),
            figures=figures,
            sessions=found[:PAGE],
            following=found[PAGE - 1].session_id if len(found) > PAGE else None,
            is_first=after is None,
        )
