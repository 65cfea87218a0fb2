"""The messages in a holder's hands, and what becomes of them. The loop's thread only; a part of `HeldSession`."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import attrs

from ...errors import QueueError
from ...protocol.status import CONFLICT, MESSAGE_LOCK_LOST, SESSION_LOCK_LOST
from ..base import Disposition, Settlement
from .amqp import codec
from .amqp.codec import AmqpMessage, Condition, Response
from .amqp.links import Receiver
from .conditions import MESSAGE_LOCK_LOST_CONDITION, SESSION_LOCK_LOST_CONDITION, error_of

if TYPE_CHECKING:
    from .sessions import HeldSession

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
        return codec.ACCEPTED
    if settlement.disposition is Disposition.ABANDON:
        return codec.abandoned()
    if settlement.disposition is Disposition.DEFER:
        return codec.deferred()
    return codec.dead_lettered(settlement.reason, settlement.description)


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
    """A settlement under way, and whose answers it is part of."""

    settlement: Settlement
    waiting: list[tuple[Answers, int]]

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
    """

    token: str
    delivery_id: int | None
    payload: bytes = attrs.field(repr=False)
    link: Receiver | None
    settle: Settle | None = None
    _message: AmqpMessage | None = attrs.field(default=None, repr=False)

    @property
    def message(self) -> AmqpMessage:
        """The message, decoded."""
        if self._message is None:
            self._message = codec.decode_message(self.payload)
        return self._message

    @property
    def sequence_number(self) -> int:
        number = self.message.annotations.get("x-opt-sequence-number")
        return number if isinstance(number, int) else -1

    @property
    def delivery_count(self) -> int:
        return self.message.delivery_count


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
            self._session.give_back_ready()
        self._send(fresh)

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

        def settled(number: int, state: str | None, error: Condition | None) -> None:
            self._on_outcome(rest[number], link, state, error)

        link.settle(first.delivery_id, first.delivery_id + len(run) - 1, outcome_of(settle.settlement), settled)

    def _on_outcome(self, message: InHand, link: Receiver, state: str | None, error: Condition | None) -> None:
        if self.in_hand.get(message.token) is not message or message.link is not link or state is None:
            # `None`: the link ended before the answer. What became of the message shows when the link is back.
            return
        if error is None or error.condition == _DEAD_LETTER:
            self._finish(message)
        else:
            self._refused(message, error)

    def _finish(self, message: InHand) -> None:
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
        for message in messages:
            settle, uplink = message.settle, self._session.uplink
            if settle is None or uplink is None:
                continue

            def answered(answer: Response | Condition, message: InHand = message) -> None:
                if self.in_hand.get(message.token) is not message:
                    return
                if isinstance(answer, Response):
                    self._finish(message)
                else:
                    self._refused(message, answer)

            body = disposition_body(settle.settlement, self._session.session_id or "")
            uplink.manage(self._session.entity, "update-disposition", body, answered, self._session.link_name)

    # When the link was lost

    def expected(self) -> dict[int, InHand]:
        """Return what must come again if the lock was not anybody else's meanwhile, by sequence number."""
        for message in list(self.in_hand.values()):
            if message.delivery_id is None:
                # Locked by its number on the old link: that lock is gone.
                self._refused(message, Condition(MESSAGE_LOCK_LOST_CONDITION, "", {}))
                self.in_hand.pop(message.token, None)
        return {message.sequence_number: message for message in self.in_hand.values()}

    def move(self, known: InHand, again: InHand) -> None:
        """Note that a message in hand came again, by a new link."""
        known.delivery_id, known.link = again.delivery_id, again.link

    def accounts_for(self, missing: Iterable[InHand]) -> bool:
        """Tell whether the messages that did not come again are those that were being settled: then they are."""
        lost = list(missing)
        if any(message.settle is None for message in lost):
            return False
        for message in lost:
            self._finish(message)
        return True

    def resume(self) -> None:
        """Send again what was not answered before the link was lost."""
        self._send(message for message in self.in_hand.values() if message.settle is not None)

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


def disposition_body(settlement: Settlement, session_id: str) -> dict[str, Any]:
    """Return the body of a management request that settles a message by its lock token."""
    body: dict[str, Any] = {
        "disposition-status": STATUSES[settlement.disposition],
        "lock-tokens": codec.array([uuid.UUID(settlement.lock_token)]),
        "session-id": session_id,
    }
    if settlement.disposition is Disposition.DEAD_LETTER:
        body["deadletter-reason"] = settlement.reason
        body["deadletter-description"] = settlement.description
    return body
