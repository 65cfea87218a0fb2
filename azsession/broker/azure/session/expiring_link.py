"""A link whose session is over here, until Azure's own expiry of the lock detaches it. `HeldSession` makes it.

Microsoft's "Message sessions" says that an expiry counts as a delivery of the unsettled messages, and that closing the
session does not. So the link must not be detached shortly before the lock expires.

Everything here runs in the loop's thread.
"""

from __future__ import annotations

from collections.abc import Iterable

from .... import amqp
from ....amqp import Attach, Condition
from ..lock_clock import MAX_LOCK_DURATION
from ..transport.loop import Loop
from .session_link import SessionLink
from .unsettled import UnsettledMessage

#: Seconds after which the link is detached if Azure has not done it. The lock cannot last longer.
PATIENCE = MAX_LOCK_DURATION + 30.0


class ExpiringLink:
    """Takes over a link, returns messages that nobody uses, and waits for Azure's detach.

    Args:
        link: The link.
        unused: Messages of the link that are returned. Their delivery does not count.
        loop: The loop that owns the link.
    """

    def __init__(self, link: SessionLink, unused: Iterable[UnsettledMessage], loop: Loop) -> None:
        self._link = link
        link.pass_to(self)
        self._timer = loop.later(PATIENCE, link.detach)
        if link.credit:
            # Azure does not let a lock expire while the link has credit.
            link.drain()
        for message in unused:
            if message.delivery_id is not None:
                self._return(message.delivery_id)

    def _return(self, delivery_id: int) -> None:
        self._link.settle(delivery_id, delivery_id, amqp.RELEASED, lambda *_: None)

    def on_attached(self, link: SessionLink, attach: Attach) -> None:
        """Do nothing: the link is attached already."""

    def on_message(self, link: SessionLink, delivery_id: int, delivery_tag: bytes, payload: bytes) -> None:
        """Return a message that was on its way."""
        self._return(delivery_id)

    def on_drained(self, link: SessionLink) -> None:
        """Do nothing: the link has no credit left."""

    def on_link_ended(self, link: SessionLink, error: Condition | None) -> None:
        """Stop waiting for Azure's detach."""
        self._timer.cancel()
