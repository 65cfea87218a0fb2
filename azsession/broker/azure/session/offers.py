"""Messages that are ready, offered to the threads of callers. `PendingReceives` offers, `AzureBroker.receive` takes.

A consumer that works message by message completes one message and receives the next. The next message usually comes together
with the confirmation. A receive that takes it from here needs neither the loop's thread nor a switch of threads.

The loop's thread offers and withdraws, and any thread takes. There is no lock: the first claim of an offer gets the message,
and ``list.append`` is atomic.
"""

from __future__ import annotations

import time
from collections.abc import Container
from typing import Protocol

from ....amqp import MalformedFrameError
from ....amqp.message_mapping import has_expired
from ...calls import ReceiveRequest
from .unsettled import UnsettledMessage


class OfferingLock(Protocol):
    """The lock of a session that offers a message."""

    @property
    def renewal_due(self) -> float:
        """When a receive must renew the lock, on the monotonic clock."""

    def left(self) -> float:
        """Return the seconds that the lock has left at least. Any thread may call this."""


class OfferingSession(Protocol):
    """A session that offers a message."""

    entity: str
    session_id: str | None
    lock_id: str

    @property
    def lock(self) -> OfferingLock:
        """The session's lock."""


class Offer:
    """One message for the next receive of its session's holder.

    Args:
        session: The session.
        message: The message.
        answered: The request ids of earlier receives. Their results must not change.

    Attributes:
        session: The session.
        message: The message.
        key: The entity, the session and the holder, as `Offers` finds the offer.
    """

    __slots__ = ("_answered", "_claims", "_until", "key", "message", "session")

    def __init__(self, session: OfferingSession, message: UnsettledMessage, answered: Container[str]) -> None:
        self.session: OfferingSession = session
        self.message: UnsettledMessage = message
        self.key: tuple[str, str | None, str] = (session.entity, session.session_id, session.lock_id)
        self._answered = answered
        self._until = session.lock.renewal_due
        #: The receives that tried to take the message, and `None` for the loop. The first one has it.
        self._claims: list[ReceiveRequest | None] = []

    def take(self, request: ReceiveRequest) -> bool:
        """Take the message for a receive; return whether it got it. Any thread may call this."""
        if self._claims or request.request_id in self._answered or time.monotonic() >= self._until:
            return False
        try:
            if has_expired(self.message.message):
                return False  # Azure would not have delivered it now, so Azure must decide.
        except MalformedFrameError:
            return False  # The loop's thread reports the error.
        self._claims.append(request)
        return self._claims[0] is request

    def withdraw(self) -> ReceiveRequest | None:
        """Take the message back; return the receive that has it, or `None` if nobody has. For the loop's thread."""
        self._claims.append(None)
        return self._claims[0]


class Offers:
    """The offers of all sessions, by holder."""

    def __init__(self) -> None:
        self._offers: dict[tuple[str, str | None, str], Offer] = {}

    def put(self, offer: Offer) -> None:
        """Offer a message. For the loop's thread."""
        self._offers[offer.key] = offer

    def remove(self, offer: Offer) -> None:
        """End an offer. For the loop's thread."""
        self._offers.pop(offer.key, None)

    def take(self, request: ReceiveRequest) -> Offer | None:
        """Return the offer of the message that a receive got, or `None`. Any thread may call this."""
        if request.max_count != 1 or not request.holds_lock or not request.request_id or not request.lock_id:
            return None
        offer = self._offers.get((request.entity, request.session_id, request.lock_id))
        return offer if offer is not None and offer.take(request) else None
