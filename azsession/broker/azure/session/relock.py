"""Taking a session's lock again after its link was lost: only where nobody else can be seen to have had it meanwhile.

Azure lets a session go with its link, and its messages go back. What shows that the session is untouched: the messages in
hand come again, none of them delivered more often, those that were put aside can be had by their numbers, and the state is
the one that the holder knows. What does not come again must have been settled by what this holder sent. An other holder who
took the session and changed nothing leaves no trace, and has done no harm.

The loop's thread only; a part of `HeldSession`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from .... import amqp
from ....amqp import Condition, Response
from ....errors import SessionNotFoundError
from ..error_mapping import UNAUTHORIZED_ACCESS, error_of
from ..transport.loop import Timer
from .unsettled import InHand, put_aside

if TYPE_CHECKING:
    from .held_session import HeldSession

#: Seconds before the second and the following tries to take a session's lock again; each is twice as long, up to the last.
RETAKE_PAUSE, MAX_RETAKE_PAUSE = 0.1, 1.6
#: Seconds for Azure to show what is in hand; then the link is let go, and another one tried.
VERIFY_TIMEOUT = 5.0
#: Conditions that pass when a new token was put.
_WORTH_RETAKING: frozenset[Any] = frozenset({UNAUTHORIZED_ACCESS})
#: What Azure says of a message that was put aside and is not there any more.
_NOT_THERE = "com.microsoft:message-not-found"


class Retaking:
    """What is known, and being found out, about a session whose link was lost.

    Attributes:
        under_way: The link was lost, and the lock is not known to be the holder's again.
    """

    def __init__(self, session: HeldSession) -> None:
        self.under_way = False
        self._session = session
        self._pause = 0.0
        self._expected: dict[int, InHand] = {}
        self._asked = 0
        self._came = 0
        self._questions = 0
        self._timer: Timer | None = None
        #: Digests of what the state can be; `None` where the holder does not know it.
        self._states: set[bytes] | None = None

    # What the holder knows of the state

    def state_is(self, state: object) -> None:
        """Note the state that Azure has for sure."""
        self._states = {_digest(state)}

    def state_may_be(self, state: object) -> None:
        """Note a state that Azure was asked to have."""
        if self._states is not None:
            self._states.add(_digest(state))

    # The link is lost

    def begin(self, error: Condition | None) -> None:
        """Have the lock taken again, or end the session where that makes no sense."""
        session = self._session
        self.stop()
        self.under_way = True
        why = error_of(error, entity=session.entity, session_id=session.session_id)
        if error is not None and isinstance(why, SessionNotFoundError):
            session.lose(str(why))
        elif error is not None and not why.is_transient and error.condition not in _WORTH_RETAKING:
            session.end(why)
        else:
            session.table.restore(session, self._pause)
            self._pause = min(MAX_RETAKE_PAUSE, self._pause * 2 or RETAKE_PAUSE)

    def stop(self) -> None:
        """Find out no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # There is another

    def attaching(self) -> None:
        """Another link is asked for."""
        self.stop()
        self._timer = self._session.table.loop.later(VERIFY_TIMEOUT, self._took_too_long)

    def attached(self) -> None:
        """Azure gave the lock: have it show what was in hand."""
        self.attaching()
        self._expected = self._session.settling.expected()
        self._ask_for_expected()

    def _took_too_long(self) -> None:
        self._session.drop_link()
        self.begin(None)

    def _ask_for_expected(self) -> None:
        link = self._session.raw_link
        if link is None:
            return  # It is being let go: its end tells what comes next.
        if not self._expected:
            self._ask_the_rest()
            return
        self._asked, self._came = len(self._expected), 0
        link.give_credit(self._asked)
        link.drain()

    def on_message(self, message: InHand) -> None:
        """A message came: one in hand, or another."""
        session = self._session
        self._came += 1
        known = self._expected.pop(message.sequence_number, None)
        if known is None or session.settling.in_hand.get(known.token) is not known:
            session.waiting.put_ready(message)
            return
        more = message.delivery_count - known.delivery_count
        if more == 0:
            session.settling.move(known, message)
        elif more == 1 and known.is_being_abandoned:
            # That was done, though not answered: it is a new delivery.
            session.settling.finish(known)
            session.waiting.put_ready(message)
        else:
            session.lose("another holder had it meanwhile")

    def on_drained(self) -> None:
        """Azure has sent what there is, or as much as it was asked for."""
        if not self._expected:
            self._ask_the_rest()
        elif self._came == self._asked and not self._session.waiting.has_ready_after(max(self._expected)):
            # Others came first, which had been given back.
            self._ask_for_expected()
        elif self._accounts_for(list(self._expected.values())):
            self._ask_the_rest()

    def _accounts_for(self, missing: list[InHand]) -> bool:
        """Tell whether messages that are not there any more are those that were being settled: then they are."""
        in_hand = self._session.settling.in_hand
        if not all(message.was_sent for message in missing if message.token in in_hand):
            self._session.lose("another holder had it meanwhile")
            return False
        for message in missing:
            self._session.settling.finish(message)
        self._expected = {}
        return True

    # What does not come by the link

    def _ask_the_rest(self) -> None:
        session, link = self._session, self._session.raw_link
        self._expected = {}
        if link is None:
            return
        numbered = session.settling.by_number()
        self._questions = len(numbered) + (self._states is not None)
        if not self._questions:
            self._succeed()
            return

        def ask(operation: str, body: dict[str, Any], answered: Any, *about: Any) -> None:
            def done(answer: Response | Condition) -> None:
                if session.raw_link is link and session.over is None:
                    answered(answer, *about)
                    self._questions -= 1
                    if not self._questions and session.raw_link is link and session.over is None:
                        self._succeed()

            if session.uplink is not None:
                about_it = {"session-id": session.session_id, **body}
                session.uplink.manage(session.entity, operation, about_it, done, session.link_name)

        for message in numbered:
            # One by one: Azure refuses all where one of them is not there.
            body = {
                "sequence-numbers": amqp.Array([amqp.Long(message.sequence_number)]),
                "receiver-settle-mode": amqp.Uint(1),
            }
            ask("receive-by-sequence-number", body, self._on_put_aside, message)
        if self._states is not None:
            ask("get-session-state", {}, self._on_state)

    def _on_put_aside(self, answer: Response | Condition, known: InHand) -> None:
        session = self._session
        if isinstance(answer, Response):
            for again in put_aside(answer):
                more = again.delivery_count - known.delivery_count
                if more == 0:
                    session.settling.move(known, again)
                elif more == 1 and known.is_being_abandoned:
                    session.settling.finish(known)
                    session.settling.in_hand[again.token] = again
                else:
                    session.lose("another holder had it meanwhile")
        elif answer.condition == _NOT_THERE:
            self._accounts_for([known])
        else:
            self._took_too_long()

    def _on_state(self, answer: Response | Condition) -> None:
        if not isinstance(answer, Response):
            self._took_too_long()
        elif self._states is not None:
            state = _digest(answer.body.get("session-state") if isinstance(answer.body, dict) else None)
            if state not in self._states:
                self._session.lose("another holder changed its state meanwhile")

    def _succeed(self) -> None:
        self.stop()
        self.under_way = False
        self._pause = 0.0
        self._session.on_retaken()


def _digest(state: object) -> bytes:
    return hashlib.sha256(state).digest() if isinstance(state, bytes) else b""
