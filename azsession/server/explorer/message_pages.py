"""The pages with the messages of a session, and with one message."""

from __future__ import annotations

import re

from ...display import plural
from ...errors import SessionLockedError, ValidationError
from ...messages import PeekedMessage
from ...protocol.routes import Operation
from ..answer import Answer
from .audit import note
from .backend import Backend
from .body_views import preview, view_body
from .page_request import PageRequest
from .page_values import frame
from .rendering import HEADERS, link, redirect, render
from .request_ids import new_request_id, request_id_of
from .rights import check_right

#: Messages, or dead letters, on one page.
PAGE = 25
_GONE = "The message is not there any more. It was completed, dead-lettered or deleted."


class MessagePages:
    """Shows messages.

    Args:
        backend: The broker.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def messages(self, request: PageRequest) -> Answer:
        """Show the messages of a session."""
        queue, session_id, start = request.queue, required_session(request), request.number("start")
        check_right(request, Operation.PEEK, queue)
        page = await self._backend.messages(queue, session_id, start, PAGE)
        return render(
            "messages.html",
            **frame(request, queue, "sessions", is_live=True),
            session_id=session_id,
            session=await self._backend.session(queue, session_id),
            page=page,
            start=start,
            preview=preview,
        )

    async def message(self, request: PageRequest) -> Answer:
        """Show one message."""
        queue, session_id = request.queue, required_session(request)
        check_right(request, Operation.PEEK, queue)
        message = await self._backend.message(queue, session_id, request.number("number"))
        if message is None:
            return gone(request, _GONE)
        return render(
            "message.html",
            **frame(request, queue, "sessions"),
            message=message,
            session_id=session_id,
            view=view_body(message.body, request.query.get("view", "")),
        )

    async def body(self, request: PageRequest) -> Answer:
        """Send the body of a message as a file."""
        queue, session_id = request.queue, required_session(request)
        check_right(request, Operation.PEEK, queue)
        message = await self._backend.message(queue, session_id, request.number("number"))
        return gone(request, _GONE) if message is None else download(message)

    async def purge(self, request: PageRequest) -> Answer:
        """Ask whether to delete the messages of a session, or delete them."""
        queue, session_id = request.queue, required_session(request)
        check_right(request, Operation.PURGE_SESSION, queue)
        problem = ""
        if request.method == "POST":
            try:
                count = await self._backend.purge(queue, session_id, request_id_of(request))
                note(request, f"deleted {plural(count, 'message')}", queue, session_id=session_id)
            except SessionLockedError:
                problem = "A client holds this session now. Its messages can be deleted when it releases the session."
            else:
                return redirect(link("messages", queue=queue, session=session_id, done="purged"))
        session = await self._backend.session(queue, session_id)
        return render(
            "purge.html",
            409 if problem else 200,
            **frame(request, queue, "sessions"),
            session_id=session_id,
            session=session,
            problem=problem,
            request_id=new_request_id(),
        )


def required_session(request: PageRequest) -> str:
    """Return the session that the page is about.

    Raises:
        ValidationError: The query has none.
    """
    session_id = request.session_id
    if session_id is None:
        raise ValidationError("the address of this page needs a session")
    return session_id


def gone(request: PageRequest, text: str) -> Answer:
    """Return the page that is shown if a message is not there any more."""
    return render("problem.html", 404, status=404, title="Not there any more", text=text, request=request)


def download(message: PeekedMessage) -> Answer:
    """Return the body of a message as a file. Browsers store it and do not show it, whatever it contains."""
    headers = {
        **HEADERS,
        "Content-Type": "application/octet-stream",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
        "Content-Disposition": f'attachment; filename="message-{message.sequence_number}{_suffix(message)}"',
    }
    return Answer(200, headers, message.body)


def _suffix(message: PeekedMessage) -> str:
    kind = (message.content_type or "").partition(";")[0].strip().lower()
    if kind == "application/json" or re.fullmatch(r"application/[\w.-]+\+json", kind, re.ASCII):
        return ".json"
    return ".txt" if kind == "text/plain" else ".bin"
