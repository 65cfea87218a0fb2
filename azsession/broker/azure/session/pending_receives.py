"""The receives that wait in one session, and the messages that came for them. `HeldSession` has one `PendingReceives`.

A message is also fetched ahead: when a message that was received alone is settled, the next message is requested together
with the settlement. A consumer that works message by message so waits for Azure once per message, not twice. Messages fetched
ahead are returned to Azure, which does not count as a delivery (see `returns`):

* before another message is abandoned, because that message must come before them;
* before the lock expires, because the expiry would count as a delivery of them.

A message that was fetched ahead is offered to the thread of the next receive, see `offers`.

Everything here runs in the loop's thread.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Protocol

from ....amqp.message_mapping import has_expired
from ....errors import QueueError
from ...calls import SupersededError
from ..answer_size import fitting
from ..transport.links import Receiver
from ..transport.loop import Loop
from .drain_watch import DrainWatch, SessionWithLink
from .offers import Offer, OfferingLock, Offers
from .pending_receive import Patience, PendingReceive
from .returns import ReturnedMessages
from .unsettled import UnsettledMessage, UnsettledMessages

#: Receives of one session that can be repeated with the same result: as many as one holder's threads may have under way.
MAX_RESULTS = 32
#: Receives of one session without messages that are remembered.
MAX_EMPTY = 64


class ReceivingLock(OfferingLock, Protocol):
    """The lock of a session, as its receives see it."""

    def plan(self) -> None:
        """Set the timer of the lock again: a receive began or ended, so that the lock needs a renewal or needs none."""


class ReceivingSession(SessionWithLink, Protocol):
    """The session, as its receives see it."""

    entity: str
    session_id: str | None
    lock_id: str
    client: str
    is_shared: bool

    @property
    def lock(self) -> ReceivingLock:
        """The session's lock."""

    @property
    def link(self) -> Receiver | None:
        """The link, while the lock is known to be held by it."""

    @property
    def is_stopping(self) -> bool:
        """Whether receives must end without waiting."""


class PendingReceives:
    """The receives that wait in a session, first come first served, and the messages that are ready for them.

    Args:
        session: The session.
        unsettled: Where messages go when they are handed out.
        offers: Where a message that was fetched ahead is offered.
        loop: The loop that owns the session.
    """

    def __init__(self, session: ReceivingSession, unsettled: UnsettledMessages, offers: Offers, loop: Loop) -> None:
        self._session = session
        self._offers = offers
        self._unsettled = unsettled
        self._loop = loop
        self._receives: list[PendingReceive] = []
        #: The results of the last receives, by request id: the lock tokens of their messages.
        self._results: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        #: The request ids of the last receives that ended without messages. They do not displace `_results`.
        self._empty: deque[str] = deque(maxlen=MAX_EMPTY)
        #: Messages that came and were not handed out. The first one may be offered.
        self._came: deque[UnsettledMessage] = deque()
        self._offer: Offer | None = None
        self._drain = DrainWatch(session, loop, self.serve)
        self._serve_is_scheduled = False
        #: The last receive asked for one message, and got it.
        self._takes_one_by_one = False
        #: Messages that may come although no receive waits for them.
        self._fetch_ahead = 0
        self._returned = ReturnedMessages(session, loop, self.serve)
        #: No message is handed out or requested.
        self._is_paused = False
        #: Run when no message is ready, and none is on its way.
        self._when_cleared: list[Callable[[], object]] = []

    def __len__(self) -> int:
        return len(self._receives)

    @property
    def need_the_lock(self) -> bool:
        """Whether the lock must be renewed: a receive waits, or the session is held back."""
        return bool(self._receives) or self._is_paused

    def pause(self) -> None:
        """Hand out no message until `resume`. The lock is renewed meanwhile."""
        self.withdraw_offer()
        self._is_paused = True
        self._session.lock.plan()

    def resume(self) -> None:
        """Hand out messages again."""
        self._is_paused = False
        self.serve()

    @property
    def has_fetched_ahead(self) -> bool:
        """Whether messages came, or may come, that no receive waits for."""
        return not self._receives and not self._when_cleared and (self._fetch_ahead > 0 or bool(self._came))

    # Receives come and go

    def add(self, receive: PendingReceive) -> bool:
        """Add a receive; return whether it waits. A repeated request gets the result of the former attempt."""
        self.withdraw_offer()
        if receive.request_id:
            tokens = self._results.get(receive.request_id)
            if tokens is not None:
                messages = self._unsettled.with_tokens(tokens)
                for index, message in enumerate(messages):
                    message.answers += 1
                    message.ahead = message.ahead and receive.taken is not None and index >= receive.taken
                receive.future.set_result(messages)
                return False
            if receive.request_id in self._empty:
                receive.future.set_result([])
                return False
            for earlier in [one for one in self._receives if one.request_id == receive.request_id]:
                # Nobody reads the result of the first attempt: it must not take messages.
                self._receives.remove(earlier)
                earlier.future.set_exception(SupersededError())
        if not self._receives and any(has_expired(message.message) for message in self._ready):
            # Azure must decide: it would not have delivered the message now.
            self.return_ready()
        self._receives.append(receive)
        return True

    def expire(self, receive: PendingReceive) -> None:
        """End a receive's wait with the messages that are there."""
        if receive.patience is Patience.WAITS:
            receive.patience = Patience.TIME_IS_UP
        self.serve()

    def expire_all(self) -> None:
        """End every wait with the messages that are there."""
        for receive in self._receives:
            if receive.patience is Patience.WAITS:
                receive.patience = Patience.TIME_IS_UP
        self.serve()

    def cancel(self, receive: PendingReceive) -> None:
        """End a receive's wait without a message."""
        receive.patience = Patience.CANCELLED
        self.serve()

    def take_back(self, receive: PendingReceive) -> None:
        """End a receive's wait, and make the messages ready again that it got: its caller is gone."""
        self.cancel(receive)
        if receive.future.exception() is None:
            self._make_ready_again(receive.future.result())

    def give_back(self, lock_tokens: Iterable[str]) -> None:
        """Make messages ready again whose caller did not get them. If no receive waits, return them to Azure.

        Messages that were received by their sequence numbers did not come by the link, and do not go back by it.
        """
        self.withdraw_offer()
        self._make_ready_again(one for one in self._unsettled.with_tokens(lock_tokens) if one.delivery_id is not None)
        if not self._receives:
            self.clear(lambda: None)

    def _make_ready_again(self, messages: Iterable[UnsettledMessage]) -> None:
        taken = self._unsettled.take_back(messages)
        tokens = {message.token for message in taken}
        # A repeated request must not get the rest of this result.
        for request_id in [one for one, known in self._results.items() if not tokens.isdisjoint(known)]:
            del self._results[request_id]
        # Messages of a link that was lost come again.
        came = [message for message in taken if message.link is self._session.attached_link]
        if came:
            self._came = deque(sorted([*came, *self._ready], key=lambda message: message.sequence_number))
        self.serve()

    def end(self, error: QueueError | None) -> None:
        """End every receive, with no message or with the error."""
        self.forget_ready()
        receives, self._receives = self._receives, []
        for receive in receives:
            if error is None:
                receive.future.set_result([])
            else:
                receive.future.set_exception(error)

    # Serving them

    def serve(self) -> None:
        """Hand out the messages that are ready, and request those that are missing."""
        self._serve_is_scheduled = False
        self.withdraw_offer()
        link = self._session.link
        stopping = link is None and self._session.is_stopping
        for receive in [one for one in self._receives if stopping or one.patience is Patience.CANCELLED]:
            self._resolve(receive, [])
        if self._is_paused:
            for receive in [one for one in self._receives if one.patience is not Patience.WAITS]:
                self._resolve(receive, [])
        if link is None or self._returned or self._is_paused:
            return
        if link.draining:
            if self._drain.is_late and not self._when_cleared:
                self._hand_out_ready()
            return
        while self._receives and len(self._ready) >= self._receives[0].max_count:
            self._hand_out(self._receives[0])
        wanted = sum(one.max_count for one in self._receives) if self._receives else self._fetch_ahead
        wanted -= len(self._ready)
        if link.credit < wanted:
            link.give_credit(wanted)
        if link.credit and self._has_enough(link):
            # A drain takes the rest of the credit back, after the messages that are there.
            self._drain.drain(link)
        elif self._came and self._takes_one_by_one and not self._receives and not self._when_cleared:
            self._offer = Offer(self._session, self._came[0], {*self._results, *self._empty})
            self._offers.put(self._offer)

    def _has_enough(self, link: Receiver) -> bool:
        """Return whether the receives can end with the ready messages, or no message is wanted."""
        if not self._receives:
            return link.credit > self._fetch_ahead
        return bool(self._ready) or any(one.patience is not Patience.WAITS for one in self._receives)

    def _hand_out_ready(self) -> None:
        """Hand out the messages that came, before it is known whether more come. If the broker stops, end other receives."""
        while self._receives and self._ready:
            self._hand_out(self._receives[0])
        for receive in list(self._receives) if self._session.is_stopping else []:
            self._resolve(receive, [])

    def _hand_out(self, receive: PendingReceive) -> None:
        ready = self._ready
        count = fitting([message.payload for message in islice(ready, receive.max_count)])
        messages = [ready.popleft() for _ in range(count)]
        self._note_result(messages, receive.request_id, receive.taken)
        self._resolve(receive, messages)

    def _note_result(self, messages: list[UnsettledMessage], request_id: str, taken: int | None) -> None:
        """Note the messages that a receive got."""
        for index, message in enumerate(messages):
            message.answers += 1
            message.ahead = taken is not None and index >= taken
            self._unsettled.add(message)
        if request_id and messages:
            self._results[request_id] = tuple(message.token for message in messages)
            while len(self._results) > MAX_RESULTS:
                self._results.popitem(last=False)

    def _resolve(self, receive: PendingReceive, messages: list[UnsettledMessage]) -> None:
        self._receives.remove(receive)
        if not messages and receive.request_id and receive.patience is not Patience.CANCELLED:
            # An earlier attempt of the request that comes late must take no message.
            self._empty.append(receive.request_id)
        self._takes_one_by_one, self._fetch_ahead = bool(messages) and receive.max_count == 1, 0
        receive.future.set_result(messages)
        self._session.lock.plan()

    # Offers to receives in other threads

    @property
    def _ready(self) -> deque[UnsettledMessage]:
        """The messages that came and were not handed out. None of them is offered."""
        self.withdraw_offer()
        return self._came

    def withdraw_offer(self) -> None:
        """End the offer of a message. If a receive has taken the message, it was handed out."""
        offer = self._offer
        if offer is None:
            return
        self._offer = None
        self._offers.remove(offer)
        request = offer.withdraw()
        if request is not None:
            self._came.popleft()
            self._note_result([offer.message], request.request_id, request.taken)
            self._fetch_ahead = 0
            self._session.client = request.client or self._session.client
            self._session.is_shared = True

    def on_drained(self) -> None:
        """Azure has sent all messages that it has: end the receives that can have one, and those whose time is up."""
        self._drain.end()
        if self._when_cleared:
            self.return_ready()
            callbacks, self._when_cleared = self._when_cleared, []
            for callback in callbacks:
                callback()
        for receive in [] if self._is_paused else list(self._receives):
            if self._ready and receive.patience is not Patience.CANCELLED:
                self._hand_out(receive)
            elif receive.patience is not Patience.WAITS:
                self._resolve(receive, [])
        self.serve()

    def on_message(self, message: UnsettledMessage) -> None:
        """Make a message ready, and serve the receives after the other messages of the same packet."""
        self._came.append(message)
        if not self._serve_is_scheduled:
            self._serve_is_scheduled = True
            self._loop.call(self.serve)

    # Messages fetched ahead

    def fetch_ahead(self) -> None:
        """Request the next message, where messages are received one by one and no receive waits."""
        if self._takes_one_by_one and not self._receives:
            if not self._ready:
                self._fetch_ahead = 1
            self.serve()

    def clear(self, then: Callable[[], object]) -> None:
        """Return the messages that no receive waits for, also those on their way; then call `then`."""
        self.withdraw_offer()
        self._fetch_ahead = 0
        link = self._session.link
        receives = self._receives and not self._is_paused
        if link is None or receives or not (link.credit or link.draining):
            self.return_ready()
            then()
            return
        self._when_cleared.append(then)
        if not link.draining:
            self._drain.drain(link)

    def take_ready(self) -> list[UnsettledMessage]:
        """Return the ready messages, and forget them."""
        taken = list(self._ready)
        self._ready.clear()
        return taken

    def return_ready(self) -> None:
        """Return the ready messages to Azure, uncounted."""
        link = self._session.link
        if link is None or not self._ready:
            return
        self._returned.send(link, self._ready)
        self._ready.clear()

    # The link was lost

    def add_ready(self, message: UnsettledMessage) -> None:
        """Make a message ready that came while the session was being checked."""
        self._ready.append(message)

    def has_ready_after(self, sequence_number: int) -> bool:
        """Return whether a ready message comes later in the session than this number."""
        return any(message.sequence_number > sequence_number for message in self._ready)

    def forget_ready(self) -> None:
        """Forget the messages of a link that is gone: Azure sends them again."""
        self._ready.clear()
        self._fetch_ahead = 0
        # Settlements among these are sent when the lock was taken again.
        self._when_cleared.clear()
        self._drain.end()
        self._returned.forget()
