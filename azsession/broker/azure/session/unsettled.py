"""The messages that were handed out in a session and are not settled. `HeldSession` has one `UnsettledMessages`.

Everything here runs in the loop's thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol

import attrs

from .... import amqp
from ....amqp import AmqpMessage, Condition, Response
from ....protocol.error_codes import CONFLICT, MESSAGE_LOCK_LOST, SESSION_LOCK_LOST
from ...calls import Disposition, Settlement
from ..error_mapping import MESSAGE_LOCK_LOST_CONDITION, SESSION_LOCK_LOST_CONDITION, error_of
from ..transport.links import Receiver
from ..transport.task import LocalFuture
from .requests import OnAnswer
from .settlement import PendingSettlement, SettlementHistory, SettlementResults, disposition_body, outcome_of

#: The condition in the answer to a dead-lettering that succeeded.
_DEAD_LETTER = "com.microsoft:dead-letter"

SEQUENCE_NUMBER = "x-opt-sequence-number"


class SettlingSession(Protocol):
    """The session, as settlements see it."""

    entity: str
    session_id: str | None

    @property
    def link(self) -> Receiver | None:
        """The link, while the lock is known to be held by it."""

    def send_request(self, operation: str, body: dict[str, Any], on_answer: OnAnswer) -> None:
        """Send a request about the session to the management node, by the present link."""

    def give_link_up(self) -> None:
        """Let the link go, and take the lock by another one."""


@attrs.define(eq=False)
class UnsettledMessage:
    """A message that came and is not settled.

    Attributes:
        token: The lock token that the holder knows. It stays the same when the link is lost and the message comes again.
        delivery_id: The delivery's number on its channel; `None` for a message that was received by its sequence number.
        payload: The encoded message.
        link: The link that brought the message.
        settlement: The settlement that Azure has not confirmed.
        answers: How many results of receives contain it. A repeated receive has it in its result again.
        ahead: Whether it was fetched ahead and its holder does not use it yet, so that its delivery must not count.
        was_refused: Azure refused a settlement by the link, for example because it was busy. The delivery has ended by that
            (AMQP 1.0 §2.6.12), so that the link takes no other settlement of it.
        azure_token: The lock token that Azure knows.
    """

    token: str
    delivery_id: int | None
    payload: bytes = attrs.field(repr=False)
    link: Receiver | None
    settlement: PendingSettlement | None = None
    answers: int = 0
    ahead: bool = False
    was_refused: bool = False
    azure_token: str = attrs.Factory(lambda self: self.token, takes_self=True)
    _message: AmqpMessage | None = attrs.field(default=None, repr=False)
    _sequence_number: int | None = attrs.field(default=None, repr=False)

    @property
    def message(self) -> AmqpMessage:
        """The decoded message."""
        if self._message is None:
            self._message = amqp.decode_message(self.payload)
        return self._message

    def decoded(self) -> AmqpMessage:
        """Return the decoded message without keeping it: the caller makes another object of it."""
        return amqp.decode_message(self.payload) if self._message is None else self._message

    @property
    def sequence_number(self) -> int:
        if self._sequence_number is None:
            number = self.message.annotations.get(SEQUENCE_NUMBER)
            self._sequence_number = number if isinstance(number, int) else -1
        return self._sequence_number

    @property
    def delivery_count(self) -> int:
        return self.message.delivery_count

    @property
    def may_be_settled(self) -> bool:
        """Whether its settlement was sent, so that Azure may have done it."""
        return self.settlement is not None and self.settlement.was_sent

    @property
    def may_be_abandoned(self) -> bool:
        """Whether an abandon was sent, so that Azure may have done it."""
        return self.settlement is not None and self.settlement.was_sent and self.settlement.abandons

    def redelivered_as(self, delivery: UnsettledMessage) -> None:
        """Note that the same message came again, by a new link or with a new lock token."""
        self.delivery_id, self.link, self.azure_token = delivery.delivery_id, delivery.link, delivery.azure_token
        self.was_refused = False


class UnsettledMessages:
    """The unsettled messages of one session, by lock token, and their settlements on the way to Azure.

    Args:
        session: The session.
        history: Where confirmed settlements are remembered.
    """

    def __init__(self, session: SettlingSession, history: SettlementHistory) -> None:
        self._session = session
        self._history = history
        self._messages: dict[str, UnsettledMessage] = {}
        #: The requests by number that Azure has not answered: the numbers, and a future that is done after the answer.
        self._requested: list[tuple[frozenset[int], LocalFuture[None]]] = []

    def __iter__(self) -> Iterator[UnsettledMessage]:
        return iter(self._messages.values())

    def __contains__(self, message: UnsettledMessage) -> bool:
        return self._messages.get(message.token) is message

    def add(self, message: UnsettledMessage) -> None:
        """Note that a message is handed out."""
        self._messages[message.token] = message

    def take_back(self, messages: Iterable[UnsettledMessage]) -> list[UnsettledMessage]:
        """Note that a result with these messages did not arrive. Return those that are in no other result.

        Messages that are being settled did arrive.
        """
        taken = []
        for message in messages:
            if message in self and message.settlement is None:
                message.answers -= 1
                if message.answers <= 0:
                    del self._messages[message.token]
                    taken.append(message)
        return taken

    def take_back_by_number(self, tokens: Iterable[str]) -> list[UnsettledMessage]:
        """Note that a result with messages received by number did not arrive. Return those that are in no other result."""
        unread = []
        for message in self.with_tokens(tokens):
            if message.delivery_id is None and message.settlement is None:
                message.answers -= 1
                if message.answers <= 0:
                    unread.append(message)
        return unread

    def with_tokens(self, tokens: Iterable[str]) -> list[UnsettledMessage]:
        """Return the messages with these lock tokens that are still unsettled."""
        return [self._messages[token] for token in tokens if token in self._messages]

    def unused(self, link: Receiver) -> list[UnsettledMessage]:
        """Return the messages of a link that were fetched ahead, whose holder does not use them yet."""
        return [one for one in self if one.ahead and one.settlement is None and one.link is link]

    def received_by_number(self) -> list[UnsettledMessage]:
        """Return the messages that were received by their sequence numbers, having been deferred."""
        return [message for message in self if message.delivery_id is None]

    def by_number(self) -> dict[int, UnsettledMessage]:
        """Return those of `received_by_number` that are not being settled, by their sequence numbers."""
        return {message.sequence_number: message for message in self.received_by_number() if message.settlement is None}

    def requested_by_number(self, numbers: Iterable[int]) -> OnAnswer:
        """Note that messages are being requested by their sequence numbers.

        Returns:
            The function to call with Azure's answer, also if nobody waits for the answer any more. Azure has locked the
            messages then, and would not find them for a second request.
        """
        requested: tuple[frozenset[int], LocalFuture[None]] = (frozenset(numbers), LocalFuture())
        self._requested.append(requested)

        def answered(answer: Response | Condition) -> None:
            self._requested.remove(requested)
            if isinstance(answer, Response):
                for message in messages_by_number(answer):
                    self.add(message)
            requested[1].set_result(None)

        return answered

    def change_by_number(self, numbers: Collection[int]) -> LocalFuture[None] | None:
        """Return a future that is done when one of these messages was received by number or settled; `None` if none is.

        Until then nobody can know whether the message is deferred, and with which lock token it comes.
        """
        for requested, done in self._requested:
            if not requested.isdisjoint(numbers):
                return done
        for message in self.received_by_number():
            if message.settlement is not None and message.sequence_number in numbers:
                return message.settlement.ended()
        return None

    def delivered_by_link(self) -> list[UnsettledMessage]:
        """Return the messages that a link brought."""
        return [message for message in self if message.delivery_id is not None]

    def begin(self, settlements: Sequence[Settlement], results: SettlementResults) -> list[UnsettledMessage]:
        """Note how messages are to be settled; return those whose settlements are to be sent.

        A message that has been settled, or is being settled, needs nothing to be sent.
        """
        to_send: list[UnsettledMessage] = []
        for index, settlement in enumerate(settlements):
            message = self._messages.get(settlement.lock_token)
            if message is None:
                results.set(index, self._history.result_of(settlement, MESSAGE_LOCK_LOST))
            elif settlement.disposition is Disposition.TAKE:
                message.ahead = False
                results.set(index, None if message.settlement is None else CONFLICT)
            elif message.settlement is None:
                message.settlement = PendingSettlement(settlement, [(results, index)])
                to_send.append(message)
            elif message.settlement.settlement.disposition is settlement.disposition:
                message.settlement.callers.append((results, index))
            else:
                results.set(index, CONFLICT)
        self._use_next()
        return to_send

    def _use_next(self) -> None:
        """Note that the holder uses the first message that was fetched ahead, if the messages before it are settled."""
        first: UnsettledMessage | None = None
        for message in self._messages.values():
            if message.settlement is None:
                if not message.ahead:
                    return
                if first is None or message.sequence_number < first.sequence_number:
                    first = message
        if first is not None:
            first.ahead = False

    def unconfirmed(self) -> list[UnsettledMessage]:
        """Return the messages whose settlements Azure has not confirmed."""
        return [message for message in self if message.settlement is not None]

    def send(self, messages: Iterable[UnsettledMessage]) -> None:
        """Send the settlements of these messages: one frame for a run of deliveries with the same outcome.

        Without a link nothing is sent: the session calls again when the lock was taken again, or `end` when it is lost.
        """
        run: list[UnsettledMessage] = []
        by_request: list[UnsettledMessage] = []
        for message in messages:
            if message.delivery_id is None or message.was_refused:
                by_request.append(message)
                continue
            if run and not _continues(run[-1], message):
                self._send_run(run)
                run = []
            run.append(message)
        if run:
            self._send_run(run)
        for message in by_request:
            self._send_by_request(message)

    def _send_run(self, run: Sequence[UnsettledMessage]) -> None:
        link = self._session.link
        first, settlement = run[0], run[0].settlement
        if link is None or first.link is not link or settlement is None or first.delivery_id is None:
            return
        by_delivery_id = {message.delivery_id: message for message in run}
        for message in run:
            if message.settlement is not None:
                message.settlement.was_sent = True

        def settled(numbers: Sequence[int], state: str | None, error: Condition | None) -> None:
            self._on_outcome([by_delivery_id[number] for number in numbers], link, state, error)

        link.settle(first.delivery_id, first.delivery_id + len(run) - 1, outcome_of(settlement.settlement), settled)

    def _on_outcome(
        self, messages: Iterable[UnsettledMessage], link: Receiver, state: str | None, error: Condition | None
    ) -> None:
        if state is None:
            # The link ended first. `Verification` finds out whether the messages are settled.
            return
        present = [message for message in messages if message in self and message.link is link]
        if error is None or error.condition == _DEAD_LETTER:
            self.confirm(present)
            return
        for message in present:
            message.was_refused = True
            self._on_refused(message, error)

    def _send_by_request(self, message: UnsettledMessage) -> None:
        """Settle a message that its link cannot settle: the management node takes these settlements, as for Azure's SDKs.

        It has no status for a release. A message that was received by its sequence number is deferred again. The others come
        again uncounted by another link, which then releases them.
        """
        session, settlement, link = self._session, message.settlement, self._session.link
        if settlement is None or link is None:
            return
        if message.delivery_id is not None and settlement.settlement.disposition is Disposition.RELEASE:
            session.give_link_up()
            return

        def answered(answer: Response | Condition) -> None:
            if message not in self or message.settlement is None:
                return
            if isinstance(answer, Response):
                self.confirm([message])
            elif session.link is link:
                self._on_refused(message, answer)
            # Else the link was lost. `Verification` finds out whether the message is settled.

        settlement.was_sent = True
        body = disposition_body(settlement.settlement, session.session_id or "", message.azure_token)
        session.send_request("update-disposition", body, answered)

    def confirm(self, messages: Iterable[UnsettledMessage]) -> None:
        """Note that Azure settled messages as it was asked to."""
        confirmed: list[PendingSettlement] = []
        for message in messages:
            self._messages.pop(message.token, None)
            settlement, message.settlement = message.settlement, None
            if settlement is not None:
                confirmed.append(settlement)
        self._history.add([pending.settlement for pending in confirmed])
        for pending in confirmed:
            pending.finish(None)

    def _on_refused(self, message: UnsettledMessage, error: Condition) -> None:
        settlement, message.settlement = message.settlement, None
        if settlement is None:
            return
        if error.condition in (MESSAGE_LOCK_LOST_CONDITION, SESSION_LOCK_LOST_CONDITION):
            self._messages.pop(message.token, None)
            settlement.finish(MESSAGE_LOCK_LOST)
        else:
            settlement.finish(None, error_of(error, entity=self._session.entity, session_id=self._session.session_id))

    def end(self) -> None:
        """Forget every message: the lock is gone."""
        messages, self._messages = self._messages, {}
        for message in messages.values():
            if message.settlement is not None:
                message.settlement.finish(SESSION_LOCK_LOST)


def _continues(last: UnsettledMessage, message: UnsettledMessage) -> bool:
    """Return whether one disposition frame can settle both: the deliveries follow each other and have the same outcome."""
    if last.delivery_id is None or message.delivery_id != last.delivery_id + 1 or message.link is not last.link:
        return False
    if last.settlement is None or message.settlement is None:
        return False
    one, two = last.settlement.settlement, message.settlement.settlement
    return one.disposition is two.disposition and one.reason == two.reason and one.description == two.description


def any_returns(messages: Iterable[UnsettledMessage]) -> bool:
    """Return whether one of the messages is being abandoned or released, so that it comes again."""
    return any(message.settlement is not None and message.settlement.returns for message in messages)


def messages_by_number(answer: Response) -> list[UnsettledMessage]:
    """Return the messages in the answer to a ``receive-by-sequence-number`` request."""
    items = answer.body.get("messages") if isinstance(answer.body, dict) else None
    return [
        UnsettledMessage(str(item["lock-token"]), None, item["message"], None)
        for item in items or []
        if isinstance(item, dict) and isinstance(item.get("message"), bytes) and "lock-token" in item
    ]
