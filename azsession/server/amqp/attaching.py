"""The kind of link that a client's attach asks for. `channel` opens it."""

from __future__ import annotations

from typing import Any

from ...amqp import SESSION_FILTER, Attach, Described
from ...errors import ValidationError
from ...protocol.routes import Operation
from ...validation import check_queue_name, check_session_id
from .cbs import TokenRequests
from .claims import path_of
from .conditions import INVALID_FIELD, NOT_ALLOWED, NOT_FOUND, NOT_IMPLEMENTED, RefusedError
from .dead_letter_receiver import DeadLetterReceiver
from .entities import DEAD_LETTERS, MANAGEMENT, entity_of
from .link import Link, LinkChannel
from .management import ManagementRequests
from .requests import Responses
from .sender import Sender
from .session_receiver import SessionReceiver

#: The numeric descriptor of the session filter.
_FILTER_CODE = 0x00000137000000C


class RefusedLink(Link):
    """A link that is refused when it opens."""

    def __init__(self, channel: LinkChannel, attach: Attach, path: str, refusal: RefusedError) -> None:
        super().__init__(channel, attach, path, "")
        self._refusal = refusal

    def open(self) -> None:
        self.fail(self._refusal)


def link_for(channel: LinkChannel, attach: Attach) -> Link:
    """Return the link for an attach. It is not answered yet."""
    end = attach.source if attach.is_receiver else attach.target
    path = "" if end is None or end.address is None else path_of(end.address)
    try:
        if end is not None and end.is_coordinator:
            raise RefusedError(NOT_IMPLEMENTED, "Transactions are not supported.")
        if end is None or end.is_dynamic or not path:
            raise RefusedError(INVALID_FIELD, "The link needs the address of an entity.")
        return _link(channel, attach, path)
    except RefusedError as refusal:
        return RefusedLink(channel, attach, path, refusal)


def _link(channel: LinkChannel, attach: Attach, path: str) -> Link:
    lower = path.lower()
    if lower == "$cbs":
        return Responses(channel, attach, "$cbs", "") if attach.is_receiver else TokenRequests(channel, attach, "$cbs", "")
    entity = entity_of(path)
    try:
        check_queue_name(entity)
    except ValidationError as error:
        raise RefusedError(NOT_FOUND, f"The messaging entity '{path[:100]}' could not be found.") from error
    if lower.endswith(MANAGEMENT):
        kind = ManagementResponses if attach.is_receiver else ManagementRequests
        return kind(channel, attach, path, entity)
    if lower.endswith(DEAD_LETTERS):
        if not attach.is_receiver:
            raise RefusedError(NOT_ALLOWED, "Messages cannot be sent to a dead-letter queue.")
        return DeadLetterReceiver(channel, attach, path, entity)
    if not attach.is_receiver:
        return Sender(channel, attach, path, entity)
    is_sessionful, session_id = _session_filter(attach)
    if not is_sessionful:
        text = "It is not possible for an entity that requires sessions to create a non-sessionful message receiver."
        raise RefusedError(NOT_ALLOWED, text)
    return SessionReceiver(channel, attach, path, entity, session_id)


class ManagementResponses(Responses):
    """The link by which a client receives the responses of ``$management``."""

    operations: tuple[Operation, ...] = ManagementRequests.operations


def _session_filter(attach: Attach) -> tuple[bool, str | None]:
    """Return whether the link asks for a session, and its id; `None` is the next available session."""
    filters: dict[Any, Any] = {} if attach.source is None else attach.source.filters
    for name, value in filters.items():
        if name in (SESSION_FILTER, _FILTER_CODE):
            wanted = value.value if isinstance(value, Described) else value
            try:
                return True, None if wanted is None else check_session_id(wanted)
            except ValidationError as error:
                raise RefusedError(INVALID_FIELD, str(error)) from error
    return False, None
