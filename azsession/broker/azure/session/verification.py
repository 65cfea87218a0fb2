"""The check that no other holder had a session while its link was lost. `Relock` makes one for each new link.

Azure frees a session with its link, and returns the session's messages. Three things show that the session is untouched:

* The unsettled messages come again, and none was delivered more often. The same is true of messages that were received by
  their sequence numbers, which are requested again.
* A message that does not come again was being settled here, so that this settlement was done.
* The session state is one that the holder set or read.

A holder that took the session in between and changed nothing is not noticed, and did no harm.

Everything here runs in the loop's thread.
"""

from __future__ import annotations

from typing import Any, Protocol

from .... import amqp
from ....amqp import Condition, Response
from ..transport.links import Receiver
from .drain_watch import SessionWithLink
from .pending_receives import PendingReceives
from .requests import KnownState, OnAnswer
from .unsettled import UnsettledMessage, UnsettledMessages, messages_by_number

#: The condition of a request for a deferred message that is gone.
_MESSAGE_NOT_FOUND = "com.microsoft:message-not-found"


class VerifiedSession(SessionWithLink, Protocol):
    """The session, as the check sees it."""

    def send_request(self, operation: str, body: dict[str, Any], on_answer: OnAnswer) -> None:
        """Send a request about the session to the management node, by the present link."""

    def lose(self, why: str) -> None:
        """End the session: its lock is lost."""

    def on_verified(self) -> None:
        """The check found nothing that another holder changed."""


class Verification:
    """The check of one session by one link.

    Args:
        session: The session.
        link: The link that took the lock again.
        unsettled: The session's unsettled messages.
        receives: The session's receives: messages that were not handed out before become ready.
        state: The session state as the holder knows it.
    """

    def __init__(
        self,
        session: VerifiedSession,
        link: Receiver,
        unsettled: UnsettledMessages,
        receives: PendingReceives,
        state: KnownState,
    ) -> None:
        self._session = session
        self._link = link
        self._unsettled = unsettled
        self._receives = receives
        self._state = state
        #: The messages that must come by the link, by sequence number.
        self._missing = {message.sequence_number: message for message in unsettled.delivered_by_link()}
        self._requested = 0
        self._came = 0
        self._unanswered = 0

    def start(self) -> None:
        """Request the unsettled messages."""
        if not self._missing:
            self._request_rest()
            return
        self._requested, self._came = len(self._missing), 0
        self._link.give_credit(self._requested)
        self._link.drain()

    @property
    def _is_current(self) -> bool:
        return self._session.attached_link is self._link

    # Messages that come by the link

    def on_message(self, message: UnsettledMessage) -> None:
        """Compare a message with the unsettled one."""
        self._came += 1
        known = self._missing.pop(message.sequence_number, None)
        if known is None or known not in self._unsettled:
            self._receives.add_ready(message)
            return
        deliveries = message.delivery_count - known.delivery_count
        if deliveries == 0:
            known.redelivered_as(message)
        elif deliveries == 1 and known.may_be_abandoned:
            # The abandon was done, though not answered: this is a new delivery.
            self._unsettled.confirm([known])
            self._receives.add_ready(message)
        else:
            self._session.lose("another holder had it in between")

    def on_drained(self) -> None:
        """Go on after all messages came that the link was given credit for, or that are there."""
        if not self._missing:
            self._request_rest()
        elif self._came == self._requested and not self._receives.has_ready_after(max(self._missing)):
            # Messages that had been returned came first.
            self.start()
        elif self._accounts_for(list(self._missing.values())):
            self._request_rest()

    def _accounts_for(self, gone: list[UnsettledMessage]) -> bool:
        """Return whether all messages that are gone were being settled here. If so, note that they are settled."""
        if not all(message.may_be_settled for message in gone if message in self._unsettled):
            self._session.lose("another holder had it in between")
            return False
        for message in gone:
            self._unsettled.confirm([message])
        return True

    # Messages that were received by number, and the session state

    def _request_rest(self) -> None:
        by_number = self._unsettled.received_by_number()
        self._unanswered = len(by_number) + bool(self._state)
        if not self._unanswered:
            self._session.on_verified()
            return
        for message in by_number:
            # One request each: Azure refuses the whole request where one message is gone.
            body = receive_by_number_body([message.sequence_number])
            self._request("receive-by-sequence-number", body, self._compares(message))
        if self._state:
            self._request("get-session-state", {}, self._on_state)

    def _request(self, operation: str, body: dict[str, Any], handle: OnAnswer) -> None:
        def answered(answer: Response | Condition) -> None:
            if not self._is_current:
                return
            handle(answer)
            self._unanswered -= 1
            if not self._unanswered and self._is_current:
                self._session.on_verified()

        self._session.send_request(operation, body, answered)

    def _compares(self, known: UnsettledMessage) -> OnAnswer:
        return lambda answer: self._on_received_by_number(answer, known)

    def _on_received_by_number(self, answer: Response | Condition, known: UnsettledMessage) -> None:
        if isinstance(answer, Response):
            for message in messages_by_number(answer):
                deliveries = message.delivery_count - known.delivery_count
                if deliveries == 0:
                    known.redelivered_as(message)
                elif deliveries == 1 and known.may_be_abandoned:
                    self._unsettled.confirm([known])
                    self._unsettled.add(message)
                else:
                    self._session.lose("another holder had it in between")
        elif answer.condition == _MESSAGE_NOT_FOUND:
            self._accounts_for([known])
        else:
            self._session.give_link_up()

    def _on_state(self, answer: Response | Condition) -> None:
        if not isinstance(answer, Response):
            self._session.give_link_up()
        elif not self._state.allows(answer.body.get("session-state") if isinstance(answer.body, dict) else None):
            self._session.lose("another holder changed its state in between")


def receive_by_number_body(sequence_numbers: list[int]) -> dict[str, Any]:
    """Return the body of a ``receive-by-sequence-number`` request that locks the messages.

    See Microsoft's "AMQP 1.0 in Azure Service Bus: request-response-based operations".
    """
    return {
        "sequence-numbers": amqp.Array([amqp.Long(number) for number in sequence_numbers]),
        # Settle mode "second": the messages are locked, not deleted.
        "receiver-settle-mode": amqp.Uint(1),
    }
