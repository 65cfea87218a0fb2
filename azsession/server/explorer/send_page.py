"""The page for sending a message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone

from ...errors import MessageTooLargeError, QueueNotFoundError, ValidationError
from ...messages import Message
from ...protocol.routes import Operation
from ...validation import MAX_ATTRIBUTES_SIZE, AttributeValue
from ..answer import Answer
from ..request import check_size
from .audit import note
from .backend import Backend
from .page_request import PageRequest
from .page_values import frame
from .rendering import link, redirect, render
from .request_ids import new_request_id, request_id_of
from .rights import check_right, rights_of

_FIELDS = (
    "session_id",
    "body",
    "message_id",
    "subject",
    "content_type",
    "correlation_id",
    "reply_to",
    "reply_to_session_id",
    "to",
    "time_to_live",
    "scheduled",
    "attributes",
)


class SendPage:
    """Sends a message.

    Args:
        backend: The broker.
        max_size: Bytes of a message's body at most.
    """

    def __init__(self, backend: Backend, max_size: int) -> None:
        self._backend = backend
        self._max_size = max_size

    async def page(self, request: PageRequest) -> Answer:
        """Show the form, or send the message."""
        queue = request.queue
        check_right(request, Operation.SEND, queue)
        if request.method != "POST":
            return self._form(request, 200)
        try:
            message = message_of(request)
            check_size(len(message.body), "the body", self._max_size)
            await self._backend.send(queue, message, request_id_of(request))
            note(request, "sent a message", queue, session_id=message.session_id)
        except (ValidationError, MessageTooLargeError, QueueNotFoundError) as error:
            return self._form(request, 400, str(error))
        if rights_of(request).can_listen(queue):
            return redirect(link("messages", queue=queue, session=message.session_id, done="sent"))
        return redirect(link("send", queue=queue, session=request.session_id, done="sent"))

    def _form(self, request: PageRequest, status: int, problem: str = "") -> Answer:
        return render(
            "send.html",
            status,
            **frame(request, request.queue, "send"),
            problem=problem,
            figures=None,
            session_id=request.session_id,
            values={name: request.form.get(name, "") for name in _FIELDS},
            request_id=new_request_id() if status == 200 else request_id_of(request),
        )


def message_of(request: PageRequest) -> Message:
    """Return the message of a form.

    Raises:
        ValidationError: A field is malformed.
    """
    form = request.form
    session_id = request.session_id
    message = Message(
        # Browsers send the line feeds of a text field as CR LF.
        form.get("body", "").replace("\r\n", "\n"),
        session_id=form.get("session_id", "") if session_id is None else session_id,
        time_to_live=_seconds(form.get("time_to_live", "")),
        scheduled_enqueue_time=_time(form.get("scheduled", "")),
        attributes=_attributes(form.get("attributes", "")),
        message_id=form.get("message_id") or None,
        subject=form.get("subject") or None,
        content_type=form.get("content_type") or None,
        correlation_id=form.get("correlation_id") or None,
        reply_to=form.get("reply_to") or None,
        reply_to_session_id=form.get("reply_to_session_id") or None,
        to=form.get("to") or None,
    )
    size = sum(len(name) + len(str(value)) for name, value in message.attributes.items())
    check_size(size, "the set of attributes", MAX_ATTRIBUTES_SIZE, unit="characters")
    return message


def _seconds(text: str) -> float | None:
    if not text.strip():
        return None
    if not re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,3})?", text.strip()):
        raise ValidationError(f"the time to live must be a number of seconds, for example 3600, not {text[:80]!r}")
    return float(text)


def _time(text: str) -> datetime | None:
    if not text.strip():
        return None
    try:
        # The field of a form has no time zone. The page says that it is UTC.
        found = datetime.fromisoformat(text.strip().removesuffix("Z"))
        if found.tzinfo is not None:
            raise ValueError("the time has an offset")
        return found.replace(tzinfo=timezone.utc)
    except ValueError:
        raise ValidationError(f"the time must have the form 2026-03-01T12:30, in UTC, and not {text[:80]!r}") from None


def _attributes(text: str) -> Mapping[str, AttributeValue]:
    """Return the attributes in lines of ``name=value``."""
    found: dict[str, AttributeValue] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise ValidationError(f"line {number} of the attributes must have the form name=value, for example priority=1")
        if name.strip() in found:
            raise ValidationError(f"the attribute {name.strip()[:80]!r} is there twice")
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> AttributeValue:
    """Return the value of an attribute: a number, true, false or null as in JSON; text in all other cases."""
    words: dict[str, AttributeValue] = {"true": True, "false": False, "null": None}
    if text in words:
        return words[text]
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text):
        return int(text)
    if re.fullmatch(r"-?[0-9]{1,17}\.[0-9]{1,17}", text):
        return float(text)
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1]
    return text
