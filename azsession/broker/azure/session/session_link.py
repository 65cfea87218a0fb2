"""The link that holds a session's lock on Azure. `HeldSession` attaches it and gets its events."""

from __future__ import annotations

import uuid
from typing import Protocol

from .... import amqp
from ....amqp import Attach, Condition
from ....errors import ProviderError, ValidationError
from ....protocol.error_codes import SESSION_UNUSABLE
from ....validation import check_session_id
from ..authorized_connection import address_of
from ..transport.links import Receiver

_MAX_UINT = 0xFFFFFFFF


class LinkOwner(Protocol):
    """The session that a link belongs to. Its methods are called in the loop's thread."""

    def on_attached(self, link: SessionLink, attach: Attach) -> None:
        """Handle Azure's attach."""

    def on_message(self, link: SessionLink, delivery_id: int, delivery_tag: bytes, payload: bytes) -> None:
        """Handle a message."""

    def on_drained(self, link: SessionLink) -> None:
        """Handle the answer to a drain: the link has no credit left."""

    def on_link_ended(self, link: SessionLink, error: Condition | None) -> None:
        """Handle the end of the link."""


class SessionLink(Receiver):
    """The receiving link of one session.

    Its attach names the session in the source's filter ``com.microsoft:session-filter``, and in the link property
    ``com.microsoft:timeout`` how many milliseconds Azure may wait for a session. The SDK for Python sends the same.

    Args:
        owner: The session.
        entity: The queue or subscription.
        session_id: The session's id; `None` asks for the next available session.
        timeout: Seconds that Azure may wait.
    """

    def __init__(self, owner: LinkOwner, entity: str, session_id: str | None, timeout: float) -> None:
        properties = {"com.microsoft:timeout": amqp.Uint(max(1, min(int(timeout * 1000), _MAX_UINT)))}
        super().__init__(f"azsession-{uuid.uuid4()}", address_of(entity), session_id=session_id, properties=properties)
        self._owner = owner
        self._entity = entity
        self._wanted = session_id

    def granted(self, attach: Attach) -> tuple[str | None, ProviderError | None]:
        """Return the session that Azure granted, or `None`; and why that session cannot be used."""
        name = attach.session_id if isinstance(attach.session_id, str) else self._wanted
        if name is None:
            return None, None
        if self._wanted not in (None, name):
            return None, ProviderError(f"{self._entity}: Azure granted session {name!r}, not {self._wanted!r}")
        try:
            return check_session_id(name), None
        except ValidationError as error:
            text = f"{self._entity}: session {name[:200]!r} cannot be used and was released: {error}"
            return None, ProviderError(text, code=SESSION_UNUSABLE, status=409)

    def pass_to(self, owner: LinkOwner) -> None:
        """Give the link, and all events that follow, to another session."""
        self._owner = owner

    def on_attached(self, attach: Attach) -> None:
        super().on_attached(attach)
        self._owner.on_attached(self, attach)

    def on_message(self, delivery_id: int, delivery_tag: bytes, payload: bytes) -> None:
        self._owner.on_message(self, delivery_id, delivery_tag, payload)

    def on_drained(self) -> None:
        self._owner.on_drained(self)

    def on_ended(self, error: Condition | None) -> None:
        self._owner.on_link_ended(self, error)
