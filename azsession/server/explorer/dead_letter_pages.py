"""The pages with the dead letters of a queue: look at them, resubmit and delete them."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone

from ...display import plural
from ...errors import ProviderError
from ...protocol.error_codes import MESSAGE_NOT_FOUND
from ...protocol.routes import Operation
from ...validation import MAX_SEQUENCE_NUMBER
from ..answer import Answer
from .audit import note
from .backend import Backend
from .body_views import preview, view_body
from .dead_letter_steps import Progress, Selection, reason_of, take_step
from .message_pages import PAGE, download, gone
from .page_request import PageRequest, whole_number
from .page_values import frame
from .rendering import link, redirect, render
from .rights import check_right

_GONE = "The dead letter is not there any more. It was resubmitted or deleted."
#: An action that was done, by the page.
_DONE = {"resubmit": "resubmitted", "delete": "deleted"}
#: The latest time, in milliseconds since 1970, in a form.
_MAX_TIME = 253_402_300_799_000


class DeadLetterPages:
    """Shows and handles dead letters.

    Args:
        backend: The broker.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def dead_letters(self, request: PageRequest) -> Answer:
        """Show the dead letters of a queue or a session."""
        queue, session_id, start = request.queue, request.session_id, request.number("start")
        check_right(request, Operation.PEEK_DEAD_LETTERS, queue)
        reason = _reason(request)
        matches = None if reason is None else lambda message: reason_of(message) == reason
        page = await self._backend.dead_letters(queue, session_id, start, PAGE, matches)
        return render(
            "dead-letters.html",
            **frame(request, queue, "dead-letters", is_live=True),
            figures=await self._backend.figures(queue),
            session_id=session_id,
            reason=reason,
            reasons=sorted({reason_of(message) for message in page.messages} - {reason, ""}),
            page=page,
            start=start,
            preview=preview,
            reason_of=reason_of,
        )

    async def dead_letter(self, request: PageRequest) -> Answer:
        """Show one dead letter."""
        queue = request.queue
        check_right(request, Operation.PEEK_DEAD_LETTERS, queue)
        message = await self._backend.dead_letter(queue, request.number("number"))
        if message is None:
            return gone(request, _GONE)
        return render(
            "message.html",
            **frame(request, queue, "dead-letters"),
            message=message,
            session_id=message.session_id,
            view=view_body(message.body, request.query.get("view", "")),
        )

    async def body(self, request: PageRequest) -> Answer:
        """Send the body of a dead letter as a file."""
        check_right(request, Operation.PEEK_DEAD_LETTERS, request.queue)
        message = await self._backend.dead_letter(request.queue, request.number("number"))
        return gone(request, _GONE) if message is None else download(message)

    async def resubmit(self, request: PageRequest) -> Answer:
        """Ask whether to resubmit dead letters, or resubmit them."""
        check_right(request, Operation.RESUBMIT, request.queue)
        return await self._handle(request, "resubmit", self._backend.resubmit)

    async def delete(self, request: PageRequest) -> Answer:
        """Ask whether to delete dead letters, or delete them."""
        check_right(request, Operation.DELETE_DEAD_LETTER, request.queue)
        return await self._handle(request, "delete", self._backend.delete_dead_letter)

    async def _handle(self, request: PageRequest, verb: str, action: Callable[[str, int], Awaitable[None]]) -> Answer:
        if "number" in request.query:
            return await self._handle_one(request, verb, action)
        before = whole_number(request.form.get("before"), "before", math.ceil(time.time() * 1000), _MAX_TIME)
        at = datetime.fromtimestamp(before / 1000, timezone.utc)
        selection = Selection(request.queue, request.session_id, _reason(request), at)
        progress = None
        if request.method == "POST":
            earlier = _progress(request)
            progress = await take_step(self._backend, selection, action, earlier)
            count = progress.handled - earlier.handled
            note(request, f"{_DONE[verb]} {plural(count, 'dead letter')}", selection.queue, session_id=selection.session_id)
        return render(
            "handle-all.html",
            **frame(request, request.queue, "dead-letters"),
            verb=verb,
            selection=selection,
            before=before,
            progress=progress,
            figures=await self._backend.figures(request.queue),
        )

    async def _handle_one(self, request: PageRequest, verb: str, action: Callable[[str, int], Awaitable[None]]) -> Answer:
        queue, number = request.queue, request.number("number")
        problem: ProviderError | None = None
        if request.method == "POST":
            # The list to return to has the filter that the user came from.
            done = _DONE[verb]
            try:
                await action(queue, number)
                note(request, f"{done} dead letter {number}", queue, sequence_number=number)
            except ProviderError as error:
                if error.code != MESSAGE_NOT_FOUND:
                    problem = error
                done = "gone"
            if problem is None:
                return redirect(
                    link("dead-letters", queue=queue, session=request.session_id, reason=_reason(request), done=done)
                )
        message = await self._backend.dead_letter(queue, number)
        if message is None:
            return gone(request, _GONE)
        return render(
            "handle-one.html",
            409 if problem else 200,
            **frame(request, queue, "dead-letters"),
            verb=verb,
            message=message,
            problem="" if problem is None else str(problem),
            view=view_body(message.body),
        )


def _reason(request: PageRequest) -> str | None:
    """Return the reason to which the list is limited. An empty field means no limit."""
    return request.query.get("reason", "")[:200] or None


def _progress(request: PageRequest) -> Progress:
    def number(name: str) -> int:
        return whole_number(request.form.get(name), name, 0, MAX_SEQUENCE_NUMBER)

    return Progress(number("start"), number("handled"), number("refused"))
