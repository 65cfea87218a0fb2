"""Messages on their way back to Azure. `PendingReceives` returns messages that were fetched ahead with it.

They are returned as *released* (AMQP 1.0 §3.4.4), which does not count as a delivery. Until Azure has confirmed it, later
messages would overtake them. A link that does not confirm it in time is given up: its end returns all messages.

Everything here runs in the loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from .... import amqp
from ....amqp import Condition
from ..transport.links import Receiver
from ..transport.loop import Loop, Timer
from .drain_watch import ANSWER_TIMEOUT, SessionWithLink
from .unsettled import UnsettledMessage


class ReturnedMessages:
    """The messages of one session that were returned, and whose return Azure has not confirmed.

    Args:
        session: The session.
        loop: The loop that owns the session.
        on_all: Called when all messages are back.
    """

    def __init__(self, session: SessionWithLink, loop: Loop, on_all: Callable[[], object]) -> None:
        self._session = session
        self._loop = loop
        self._on_all = on_all
        self._deliveries: set[int] = set()
        self._timer: Timer | None = None

    def __bool__(self) -> bool:
        """Return whether messages are on their way back."""
        return bool(self._deliveries)

    def send(self, link: Receiver, messages: Iterable[UnsettledMessage]) -> None:
        """Return messages that came by a link."""
        deliveries = [message.delivery_id for message in messages if message.delivery_id is not None]
        self._deliveries.update(deliveries)
        for delivery_id in reversed(deliveries):
            link.settle(delivery_id, delivery_id, amqp.RELEASED, partial(self._on_returned, link))
        self._stop_timer()
        self._timer = self._loop.later(ANSWER_TIMEOUT, lambda: self._unanswered(link))

    def _on_returned(self, link: Receiver, delivery_ids: Iterable[int], state: str | None, error: Condition | None) -> None:
        if link is not self._session.attached_link or not self._deliveries:
            return
        if error is not None and state is not None:
            # Azure refused it, for example because it was busy, and the link cannot settle the delivery again.
            self._session.give_link_up()
        else:
            self._deliveries.difference_update(delivery_ids)
            if not self._deliveries:
                self._end()

    def _end(self) -> None:
        self.forget()
        self._on_all()

    def _unanswered(self, link: Receiver) -> None:
        if link is self._session.attached_link:
            self._session.give_link_up()

    def forget(self) -> None:
        """Wait for no answer: the link is gone."""
        self._stop_timer()
        self._deliveries.clear()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
