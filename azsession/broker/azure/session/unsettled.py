"""The messages in a holder's hands, and what becomes of them. The loop's thread only; a part of `HeldSession`."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import attrs

from .... import amqp
from ....amqp import AmqpMessage, Condition, Response
from ....errors import QueueError
from ....protocol.error_codes import CONFLICT, MESSAGE_LOCK_LOST, SESSION_LOCK_LOST
from ...base import Disposition, Settlement
from ..error_mapping import MESSAGE_LOCK_LOST_CONDITION, SESSION_LOCK_LOST_CONDITION, error_of
from ..transport.links import Receiver

if TYPE_CHECKING:
    from .held_session import HeldSession

#: What Azure calls the dispositions in a request to its management node.
STATUSES = {
    Disposition.COMPLETE: "completed",
    Disposition.ABANDON: "abandoned",
    Disposition.DEFER: "defered",  # Azure's spelling
    Disposition.DEAD_LETTER: "suspended",
}
#: What a confirmed dead-lettering may carry, which is no failure.
_DEAD_LETTER = "com.microsoft:dead-letter"


def outcome_of(settlement: Settlement) -> bytes:
    """Return the AMQP outcome of a settlement."""
    if settlement.disposition is Disposition.COMPLETE:
        return amqp.ACCEPTED
    if settlement.disposition is Disposition.ABANDON:
        return amqp.ABANDONED
    if settlement.disposition is Disposition.DEFER:
        return amqp.DEFERRED
    return amqp.dead_lettered(settlement.reason, settlement.description)


class Answers:
    """The answer to one call that settles messages: for each `None`, or the protocol's code of why not."""

    __slots__ = ("_codes", "_error", "_left", "future")

    def __init__(self, count: int) -> None:
        self.future: Future[list[str | None]] = Future()
        self._codes: list[str | None] = [None] * count
        self._left = count
        self._error: QueueError | None = None
        if count == 0:
            self.future.set_result([])

    def give(self, at: int, code: str | None, error: QueueError | None = None) -> None:
        """Give one of them; the last one resolves the future, to the error if there was any."""
        self._codes[at] = code
        self._error = self._error or error
        self._left -= 1
        if self._left == 0:
            if self._error is None:
                self.future.set_result(self._codes)
            else:
                self.future.set_exception(self._error)


@attrs.define(eq=False)
class Settle:
    """A settlement under way, and whose answers it is part of; `sent` says that Azure may have it."""

    settlement: Settlement
    waiting: list[tuple[Answers, int]]
    sent: bool = False

    def answer(self, code: str | None, error: QueueError | None = None) -> None:
        """Give the answer to all who wait for it."""
        for answers, at in self.waiting:
            answers.give(at, code, error)


@attrs.define(eq=False)
class InHand:
    """A message that came and is not settled.

    Attributes:
        token: Its lock token, as its holder knows it. It stays the same if the link is lost and the message comes again.
        delivery_id: Its number on its channel; `None` where it was received by its sequence number.
        payload: The message, encoded.
        link: What it came by.
        settle: How it is being settled.
        lock: Its lock token, as Azure knows it.
    """

    token: str
    delivery_id: int | None
    payload: bytes = attrs.field(repr=False)
    link: Receiver | None
    settle: Settle | None = None
    lock: str = attrs.Factory(lambda self: self.token, takes_self=True)
    _message: AmqpMessage | None = attrs.field(default=None, repr=False)

    @property
    def message(self) -> AmqpMessage:
        """The message, decoded."""
        if self._message is None:
            self._message = amqp.decode_message(self.payload)
        return self._message

    @property
    def sequence_number(self) -> int:
        number = self.message.annotations.get("x-opt-sequence-number")
        return number if isinstance(number, int) else -1

    @property
    def delivery_count(self) -> int:
        return self.message.delivery_count

    @property
    def was_sent(self) -> bool:
        """Whether Azure may have been told how it is settled."""
        return self.settle is not None and self.settle.sent

    @property
    def is_being_abandoned(self) -> bool:
        """Whether Azure may have been told that it is given back."""
        return self.settle is not None and self.settle.sent and self.settle.settlement.disposition is Disposition.ABANDON


class Settling:
    """What a session's holder has in hand, by lock token."""

    def __init__(self, session: HeldSession) -> None:
        self.in_hand: dict[str, InHand] = {}
        self._session = session

    def settle(self, settlements: Sequence[Settlement], answers: Answers) -> None:
        """Settle messages; each is answered `None`, or the protocol's code of why not.

        The whole fails with a `QueueError` where Azure failed in a way that may pass.
        """
        fresh: list[InHand] = []
        for at, settlement in enumerate(settlements):
            message = self.in_hand.get(settlement.lock_token)
            if message is None:
                answers.give(at, self._session.table.how_settled(settlement, MESSAGE_LOCK_LOST))
            elif message.settle is None:
                message.settle = Settle(settlement, [(answers, at)])
                fresh.append(message)
            elif message.settle.settlement.disposition is settlement.disposition:
                message.settle.waiting.append((answers, at))
            else:
                answers.give(at, CONFLICT)
        if any(message.settle.settlement.disposition is Disposition.ABANDON for message in fresh if message.settle):
            self._session.waiting.clear(lambda: self._send(fresh))
        else:
            self._send(fresh)
            if len(fresh) == 1:
                self._session.waiting.look_ahead()

    def _send(self, messages: Iterable[InHand]) -> None:
        """Send what settles these: one frame for a run of deliveries with the same outcome."""
        run: list[InHand] = []
        by_number: list[InHand] = []
        for message in messages:
            if message.delivery_id is None:
                by_number.append(message)
                continue
            if run and not _continues(run[-1], message):
                self._send_run(run)
                run = []
            run.append(message)
        if run:
            self._send_run(run)
        if by_number:
            self._send_by_number(by_number)

    def _send_run(self, run: Sequence[InHand]) -> None:
        link = self._session.link
        first, settle = run[0], run[0].settle
        # Without the link they wait for it to be attached again, or for the lock to be lost.
        if link is None or first.link is not link or settle is None or first.delivery_id is None:
            return
        rest = {message.delivery_id: message for message in run}
        for message in run:
            if message.settle is not None:
                message.settle.sent = True

        def settled(number: int, state: str | None, error: Condition | None) -> None:
            self._on_outcome(rest[number], link, state, error)

        link.settle(first.delivery_id, first.delivery_id + len(run) - 1, outcome_of(settle.settlement), settled)

    def _on_outcome(self, message: InHand, link: Receiver, state: str | None, error: Condition | None) -> None:
        if self.in_hand.get(message.token) is not message or message.link is not link or state is None:
            # `None`: the link ended before the answer. What became of the message shows when the link is back.
            return
        if error is None or error.condition == _DEAD_LETTER:
            self.finish(message)
        else:
            self._refused(message, error)

    def finish(self, message: InHand) -> None:
        """Note that a message is settled as it was to be."""
        self.in_hand.pop(message.token, None)
        settle, message.settle = message.settle, None
        if settle is not None:
            self._session.table.remember_settled(settle.settlement)
            settle.answer(None)

    def _refused(self, message: InHand, error: Condition) -> None:
        settle, message.settle = message.settle, None
        if settle is None:
            return
        if error.condition in (MESSAGE_LOCK_LOST_CONDITION, SESSION_LOCK_LOST_CONDITION):
            self.in_hand.pop(message.token, None)
            settle.answer(MESSAGE_LOCK_LOST)
        else:
            settle.answer(None, error_of(error, entity=self._session.entity, session_id=self._session.session_id))

    def _send_by_number(self, messages: Sequence[InHand]) -> None:
        """Settle messages that came by their sequence number: Azure's management node takes these."""
        session, link = self._session, self._session.link
        for message in messages:
            settle, uplink = message.settle, session.uplink
            if settle is None or uplink is None or link is None:
                continue

            def answered(answer: Response | Condition, message: InHand = message) -> None:
                if self.in_hand.get(message.token) is not message or message.settle is None:
                    return
                if isinstance(answer, Response):
                    self.finish(message)
                elif session.link is link:
                    self._refused(message, answer)
                # Else what became of the message shows when the link is back.

            settle.sent = True
            body = disposition_body(settle.settlement, session.session_id or "", message.lock)
            uplink.manage(session.entity, "update-disposition", body, answered, session.link_name)

    # When the link was lost

    def expected(self) -> dict[int, InHand]:
        """Return what must come again if the lock was not anybody else's meanwhile, by sequence number."""
        return {message.sequence_number: message for message in self.in_hand.values() if message.delivery_id is not None}

    def by_number(self) -> list[InHand]:
        """Return what does not come again by itself, having been put aside."""
        return [message for message in self.in_hand.values() if message.delivery_id is None]

    def move(self, known: InHand, again: InHand) -> None:
        """Note that a message in hand came again, by a new link."""
        known.delivery_id, known.link, known.lock = again.delivery_id, again.link, again.lock

    def resume(self) -> None:
        """Send again what was not answered before the link was lost."""
        again = [message for message in self.in_hand.values() if message.settle is not None]
        if any(message.settle.settlement.disposition is Disposition.ABANDON for message in again if message.settle):
            self._session.waiting.give_back_ready()
        self._send(again)

    def end(self) -> None:
        """The lock is gone, and with it every message in hand."""
        in_hand, self.in_hand = self.in_hand, {}
        for message in in_hand.values():
            if message.settle is not None:
                message.settle.answer(SESSION_LOCK_LOST)


def _continues(last: InHand, message: InHand) -> bool:
    """Tell whether one disposition can settle both: the next delivery, in the same way."""
    if last.delivery_id is None or message.delivery_id != last.delivery_id + 1 or message.link is not last.link:
        return False
    if last.settle is None or message.settle is None:
        return False
    one, other = last.settle.settlement, message.settle.settlement
    return (one.disposition, one.reason, one.description) == (other.disposition, other.reason, other.description)


def put_aside(answer: Response) -> list[InHand]:
    """Return the messages of a management response that were received by their numbers."""
    items = answer.body.get("messages") if isinstance(answer.body, dict) else None
    return [
        InHand(str(item["lock-token"]), None, item["message"], None)
        for item in items or []
        if isinstance(item, dict) and isinstance(item.get("message"), bytes) and "lock-token" in item
    ]


def disposition_body(settlement: Settlement, session_id: str, lock_token: str) -> dict[str, Any]:
    """Return the body of a management request that settles a message by the lock token that Azure knows."""
    body: dict[str, Any] = {
        "disposition-status": STATUSES[settlement.disposition],
        "lock-tokens": amqp.Array([uuid.UUID(lock_token)]),
        "session-id": session_id,
    }
    if settlement.disposition is Disposition.DEAD_LETTER:
        body["deadletter-reason"] = settlement.reason
        body["deadletter-description"] = settlement.description
    return body
