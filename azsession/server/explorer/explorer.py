"""`Explorer`: finds the page of a request, checks the user and the form, and turns errors into pages. `mount` calls it."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import TypeAlias
from urllib.parse import urlencode

import attrs

from ...broker.base import Broker
from ...errors import (
    MessageTooLargeError,
    PermissionDeniedError,
    QueueError,
    QueueNotFoundError,
    UnsupportedOperationError,
    ValidationError,
)
from ...logs import SessionLogger, get_logger
from ...protocol.error_codes import answer_to
from ..answer import Answer
from ..authorization import Guard
from ..request import Headers
from .backend import Backend
from .dead_letter_pages import DeadLetterPages
from .message_pages import MessagePages
from .page_request import MAX_FORM_SIZE, MAX_SIGN_IN_SIZE, PageRequest, read_fields, read_form
from .queue_pages import QueuePages
from .rendering import STATIC_FILES, link, redirect, render, static_answer
from .send_page import SendPage
from .sign_in import START, SignIn
from .transport import ReadBody, Wait

logger: SessionLogger = get_logger(__name__)

Handler: TypeAlias = "Callable[[PageRequest], Awaitable[Answer]]"

_SIGN_IN = "sign-in"
_READS = frozenset({"GET", "HEAD"})
_WRITES = frozenset({"POST"})
#: The titles of the pages that explain errors. Other errors have the phrase of the HTTP status.
_TITLES: list[tuple[type[QueueError], str]] = [
    (ValidationError, "This cannot be used"),
    (PermissionDeniedError, "Your key does not allow this"),
    (QueueNotFoundError, "There is no such queue"),
    (UnsupportedOperationError, "Not possible here"),
    (MessageTooLargeError, "Too large"),
]


@attrs.frozen
class Page:
    """A page.

    Attributes:
        handler: Makes the page.
        methods: The HTTP methods that it accepts.
    """

    handler: Handler
    methods: frozenset[str] = _READS


class Explorer:
    """Answers the requests for the Explorer. It belongs to the thread of the event loop.

    Args:
        broker: The broker.
        guard: Has the keys with which users sign in.
        wait: Waits in the event loop for results of the broker.
        max_message_size: Bytes of a message's body at most.
    """

    def __init__(self, broker: Broker, guard: Guard, wait: Wait, max_message_size: int) -> None:
        backend = Backend(broker, wait)
        queues, messages, dead = QueuePages(backend), MessagePages(backend), DeadLetterPages(backend)
        shown = {
            "queues": Page(queues.queues),
            "sessions": Page(queues.sessions),
            "messages": Page(messages.messages),
            "message": Page(messages.message),
            "body": Page(messages.body),
            "purge": Page(messages.purge, _READS | _WRITES),
            "dead-letters": Page(dead.dead_letters),
            "dead-letter": Page(dead.dead_letter),
            "dead-letter-body": Page(dead.body),
            "resubmit": Page(dead.resubmit, _READS | _WRITES),
            "delete": Page(dead.delete, _READS | _WRITES),
            "send": Page(SendPage(backend, max_message_size).page, _READS | _WRITES),
        }
        self._sign_in = SignIn(guard, frozenset(shown))
        #: The pages of users who are signed in.
        self._pages = {**shown, "sign-out": Page(self._sign_in.sign_out, _WRITES)}

    def has_page(self, name: str) -> bool:
        """Return whether there is a page or a static file with this name. ``""`` leads to the first page."""
        return name in ("", _SIGN_IN) or name in self._pages or name in STATIC_FILES

    async def answer(
        self,
        method: str,
        page: str | None,
        query: str,
        headers: Headers,
        *,
        is_secure: bool,
        address: str,
        read_body: ReadBody,
    ) -> Answer:
        """Answer a request. Raises nothing except errors of the connection, from `read_body`.

        Args:
            method: The HTTP method.
            page: The path behind ``/explorer/``; `None` for ``/explorer`` itself.
            query: The query, percent-encoded.
            headers: The headers.
            is_secure: Whether the browser uses HTTPS.
            address: The address of the client.
            read_body: Reads the body.
        """
        if page is None:
            return redirect(f"explorer/{START}")
        request = PageRequest(method, page, {}, {}, headers, is_secure, address)
        try:
            request = attrs.evolve(request, query=read_fields(query), user=self._sign_in.user(request))
            if method in _WRITES and (request.user is not None or page == _SIGN_IN):
                # The forms of others are not read.
                limit = MAX_FORM_SIZE if request.user is not None else MAX_SIGN_IN_SIZE
                body = await read_body(limit, partial(_form_too_large, limit))
                request = attrs.evolve(request, form=read_form(body, headers.get("Content-Type") or ""))
        except QueueError as error:
            return problem_page(error, request)
        try:
            return await self._answer(request)
        except QueueError as error:
            return problem_page(error, request)
        except Exception as error:
            logger.error("the Explorer failed to answer a %s request", method, exc_info=error)
            return _problem(request, 500, "Something went wrong", "The gateway's log has the reason.")

    async def _answer(self, request: PageRequest) -> Answer:
        name, method = request.page, request.method
        if name in STATIC_FILES:
            return static_answer(name) if method in _READS else _not_allowed(request, _READS)
        if name == _SIGN_IN:
            methods = _READS | _WRITES
            return await self._sign_in.page(request) if method in methods else _not_allowed(request, methods)
        if name == "" and method in _READS:
            return redirect(START)
        page = self._pages.get(name)
        if page is None:
            return _problem(request, 404, "Page not found", "The Explorer has no such page.")
        if method not in page.methods:
            return _not_allowed(request, page.methods)
        if request.user is None:
            return _to_sign_in(request)
        if method in _WRITES and not _is_own_form(request):
            text = "The form is not from a page of your present sign-in. Go back, reload that page, and try again."
            return _problem(request, 403, "The form was refused", text)
        return await page.handler(request)


def problem_page(error: QueueError, request: PageRequest) -> Answer:
    """Return the page that explains an error."""
    status, _ = answer_to(error)
    title = next((title for kind, title in _TITLES if isinstance(error, kind)), HTTPStatus(status).phrase)
    return _problem(request, status, title, str(error))


def _problem(request: PageRequest, status: int, title: str, text: str, **headers: str) -> Answer:
    values = {"status": status, "title": title, "text": text, "request": request, "folder": request.folder}
    return render("problem.html", status, headers, **values)


def _not_allowed(request: PageRequest, methods: frozenset[str]) -> Answer:
    text = f"This page does not accept requests with the method {request.method[:20]}."
    return _problem(request, 405, "Not possible", text, Allow=", ".join(sorted(methods)))


def _form_too_large(limit: int, size: int | None) -> MessageTooLargeError:
    described = "" if size is None else f" of {size} bytes"
    text = f"the form{described} is too large; the limit is {limit} bytes. Send larger messages with azsession send"
    return MessageTooLargeError(text, size=size, limit=limit)


def _is_own_form(request: PageRequest) -> bool:
    """Return whether a page of the Explorer made the form of a request, and not another site."""
    user = request.user
    if user is None or request.headers.get("Sec-Fetch-Site") not in (None, "same-origin", "none"):
        return False
    given = request.form.get("csrf", "").encode("utf-8", "surrogatepass")
    return hmac.compare_digest(given, user.csrf_token.encode())


def _to_sign_in(request: PageRequest) -> Answer:
    if "live" in request.query:
        # The script of a page asks for an update. It shows that the user is signed out, and stops.
        return _problem(request, 401, "You are signed out", "Sign in again to see this page.")
    query = urlencode({name: value for name, value in request.query.items() if name != "done"})
    return redirect(link(_SIGN_IN, to=f"{request.page}?{query}" if query else request.page))
