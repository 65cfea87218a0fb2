"""The receives that wait in a session, and what came for them. The loop's thread only; a part of `HeldSession`.

When a message that was received alone is settled, the next one is asked for ahead, in the same breath, so that working one by
one waits for Azure once a message, not twice. What came ahead goes back, its deliveries uncounted, before a message is
abandoned, which must come before it, and before the lock expires, which would count.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from .... import amqp
from ....errors import QueueError
from ...base import superseded_error
from ..transport.loop import Timer
from .unsettled import InHand

if TYPE_CHECKING:
    from .held_session import HeldSession, SessionLink

#: Receives of one lock whose answers can be given again: as many as one holder's threads may have under way.
MAX_ANSWERS = 32
#: Seconds that Azure may take to answer a drain before what is there is handed out without its answer.
DRAIN_TIMEOUT = 2.0


class Wait:
    """A receive that waits for messages. `future` gives their lock tokens and payloads."""

    __slots__ = ("future", "max_count", "over", "request_id", "unwanted")

    def __init__(self, max_count: int, request_id: str) -> None:
        self.max_count = max_count
        self.request_id = request_id
        self.future: Future[list[InHand]] = Future()
        self.over = False
        self.unwanted = False


class Waiting:
    """Who waits in a session, in the order in which they came, and the messages that are there for them.

    Attributes:
        waits: The receives that wait.
    """

    def __init__(self, session: HeldSession) -> None:
        self.waits: list[Wait] = []
        self._session = session
        self._answers: OrderedDict[str, tuple[Wait, tuple[str, ...]]] = OrderedDict()
        self._ready: deque[InHand] = deque()
        self._drain_timer: Timer | None = None
        self._pumping = False
        #: The last receive asked for one message, and got it.
        self._one_by_one = False
        #: Messages that may come without being waited for.
        self._ahead = 0
        #: What is to be done when nothing is there, and nothing on its way.
        self._cleared: list[Callable[[], object]] = []

    def want(self, wait: Wait) -> None:
        """Have a receive get messages, as soon as there are any."""
        if self._session.over is not None:
            wait.future.set_exception(self._session.over)
            return
        if wait.request_id:
            known = self._answers.get(wait.request_id)
            if known is not None:
                in_hand, tokens = self._session.settling.in_hand, known[1]
                self._answers[wait.request_id] = (wait, tokens)
                wait.future.set_result([in_hand[token] for token in tokens if token in in_hand])
                return
            for other in [other for other in self.waits if other.request_id == wait.request_id]:
                # The caller tried again: its first attempt must not take messages that nobody reads.
                self.waits.remove(other)
                other.future.set_exception(superseded_error())
        self.waits.append(wait)
        wait.over = wait.over or self._session.table.stopping
        self._session.renew_if_due()
        self.pump()
        self._session.plan()

    def stop(self) -> None:
        """End every wait, as if its time were over."""
        for wait in self.waits:
            wait.over = True
        self.pump()

    def give_up(self, wait: Wait, *, unwanted: bool = False) -> None:
        """End a receive's wait: with what there is, or, `unwanted`, with nothing."""
        wait.over = True
        wait.unwanted = wait.unwanted or unwanted
        self.pump()

    def take_back(self, wait: Wait) -> None:
        """End a receive's wait whose caller is gone for sure: what it was given is for the next."""
        self.give_up(wait, unwanted=True)
        if self._session.over is not None or wait.future.exception() is not None:
            return
        if wait.request_id:
            if self._answers.get(wait.request_id, (wait,))[0] is not wait:
                return  # Its caller tried again, and has them.
            self._answers.pop(wait.request_id, None)
        in_hand = self._session.settling.in_hand
        for message in reversed(wait.future.result()):
            if in_hand.get(message.token) is message and message.settle is None:
                del in_hand[message.token]
                # What came by a link that was lost meanwhile comes again by itself.
                if message.link is self._session.raw_link:
                    self._ready.appendleft(message)
        self.pump()

    def pump(self) -> None:
        """Serve those who wait with what is there, and ask Azure for what is not."""
        self._pumping = False
        link = self._session.link
        stopping = link is None and self._session.table.stopping
        for wait in [wait for wait in self.waits if wait.unwanted or stopping]:
            self._resolve(wait, [])
        if link is None or link.draining:
            return
        while self.waits and len(self._ready) >= self.waits[0].max_count:
            self._hand_out(self.waits[0])
        wanted = sum(wait.max_count for wait in self.waits) if self.waits else self._ahead
        wanted -= len(self._ready)
        if link.credit < wanted:
            link.give_credit(wanted)
        enough = bool(self._ready) or any(wait.over for wait in self.waits) if self.waits else link.credit > self._ahead
        if link.credit and enough:
            # Nobody waits any more, or not longer: whatever else is there comes now, and then there is no credit left.
            self._drain(link)

    def _hand_out(self, wait: Wait) -> None:
        messages = [self._ready.popleft() for _ in range(min(wait.max_count, len(self._ready)))]
        for message in messages:
            self._session.settling.in_hand[message.token] = message
        if wait.request_id and messages:
            self._answers[wait.request_id] = (wait, tuple(message.token for message in messages))
            while len(self._answers) > MAX_ANSWERS:
                self._answers.popitem(last=False)
        self._resolve(wait, messages)

    def _resolve(self, wait: Wait, messages: list[InHand]) -> None:
        self.waits.remove(wait)
        self._one_by_one, self._ahead = bool(messages) and wait.max_count == 1, 0
        wait.future.set_result(messages)
        self._session.plan()

    def _drain(self, link: SessionLink) -> None:
        self._stop_drain()
        self._drain_timer = self._session.table.loop.later(DRAIN_TIMEOUT, lambda: self._drained_without_answer(link))
        link.drain()

    def _drained_without_answer(self, link: SessionLink) -> None:
        if link is self._session.raw_link and link.draining:
            link.draining = False
            self._session.on_drained(link)

    def _stop_drain(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None

    def on_drained(self) -> None:
        """Azure has sent what there is: whoever waits for no more gets it."""
        self._stop_drain()
        if self._cleared:
            self.give_back_ready()
            cleared, self._cleared = self._cleared, []
            for then in cleared:
                then()
        for wait in list(self.waits):
            if self._ready and not wait.unwanted:
                self._hand_out(wait)
            elif wait.over or wait.unwanted:
                self._resolve(wait, [])
        self.pump()

    def on_message(self, message: InHand) -> None:
        """A message came."""
        self._ready.append(message)
        if not self._pumping:
            # Not now: more may have come in the same packet.
            self._pumping = True
            self._session.table.loop.call(self.pump)

    def look_ahead(self) -> None:
        """Ask for the next message where they are received one by one, and nobody waits for it yet."""
        if self._one_by_one and not self.waits and not self._ready:
            self._ahead = 1
            self.pump()

    @property
    def has_ahead(self) -> bool:
        """Whether something came, or may come, that nobody waits for."""
        return not self.waits and not self._cleared and (self._ahead > 0 or bool(self._ready))

    def clear(self, then: Callable[[], object]) -> None:
        """Give back what nobody has received, and what is on its way; then do something that must come before it."""
        self._ahead = 0
        link = self._session.link
        if link is None or self.waits or not (link.credit or link.draining):
            self.give_back_ready()
            then()
            return
        self._cleared.append(then)
        if not link.draining:
            self._drain(link)

    def give_back_ready(self) -> None:
        """Give back what came but was not handed out: what is abandoned now must come before it."""
        link = self._session.link
        if link is not None and self._ready:
            for message in reversed(self._ready):
                if message.delivery_id is not None:
                    link.settle(message.delivery_id, message.delivery_id, amqp.RELEASED, lambda *_: None)
            self._ready.clear()

    def put_ready(self, message: InHand) -> None:
        """Take a message that is not in hand."""
        self._ready.append(message)

    def has_ready_after(self, sequence_number: int) -> bool:
        """Tell whether a message came that is later in the session than this."""
        return any(message.sequence_number > sequence_number for message in self._ready)

    def forget_ready(self) -> None:
        """The link is gone: what came by it and was not handed out comes again."""
        self._ready.clear()
        self._ahead = 0
        # Settlements among these are sent when there is another link.
        self._cleared.clear()
        self._stop_drain()

    def end(self, error: QueueError | None) -> None:
        """Have nobody wait any more: they get nothing, or the error."""
        self.forget_ready()
        waits, self.waits = self.waits, []
        for wait in waits:
            if error is None:
                wait.future.set_result([])
            else:
                wait.future.set_exception(error)
