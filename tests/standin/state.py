"""The state of a namespace without AMQP: queues, their sessions and messages, and the locks on them.

Nothing here blocks or is thread-safe: only the stand-in's thread uses it. Holders are the links that receive.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

from tests.standin.admission import Admission
from tests.standin.boxes import ACTIVE, DEFERRED, SCHEDULED, Box, Counts, Message, Options, Order
from tests.standin.holder import NOBODY, Clock, Holder
from tests.standin.refusal import Refusal
from tests.standin.wire import Content, string


class Queue:
    """A queue, a subscription, or a dead-letter queue, whose `dead_letter` is `None`."""

    def __init__(self, name: str, options: Options, clock: Clock, *, dead_letter_of: Queue | None = None) -> None:
        self.name, self.options, self.clock = name, options, clock
        self.disabled = False
        self.boxes: dict[str | None, Box] = {}
        self.order = Order()
        self.locked: dict[bytes, Message] = {}
        self.deferred = self.scheduled = 0
        #: Available sessions (with messages, without a holder), the oldest first, and the links that wait for one.
        self.available: OrderedDict[str | None, Box] = OrderedDict()
        self.waiting: OrderedDict[Holder, None] = OrderedDict()
        self.completed: list[tuple[str | None, int, Any]] = []
        self.accepted: list[tuple[str | None, int, Any]] = []
        self.sessions = options.requires_session and dead_letter_of is None
        self._together = self.sessions and options.sessions_expire_together
        self._admission = Admission(options, clock.now, sessions=self.sessions)
        self.dead_letter: Queue | None = None
        if dead_letter_of is None:
            self.dead_letter = Queue(f"{name}/$DeadLetterQueue", options, clock, dead_letter_of=self)

    # Enqueueing

    def check(self, contents: Sequence[Content], envelope: Content | None = None) -> None:
        """Check messages that are sent together before `enqueue`; see `Admission.check`.

        Raises:
            Refusal: The queue does not accept the messages.
        """
        if self.dead_letter is None:
            raise Refusal("amqp:not-allowed", "Messages cannot be sent to a dead-letter queue.")
        if self.disabled:
            raise Refusal("com.microsoft:entity-disabled", "Messaging entity is disabled.")
        self._admission.check(contents, envelope)

    def enqueue(self, content: Content) -> int:
        """Add a checked message, now or at its scheduled time; return its sequence number, or that of the first duplicate."""
        earlier = self._admission.duplicate_of(content)
        if earlier is not None:
            return earlier
        now, number = self.clock.now(), self._admission.number(content)
        name = content.session_id if self.sessions else None
        self.accepted.append((name, number, content.message_id))
        if content.scheduled is not None and content.scheduled / 1000 > now:
            message = Message(content, number, int(now * 1000), self._box(name), state=SCHEDULED)
            message.timer = self.clock.after(content.scheduled / 1000 - now, self._activate, message)
            self.order.add(message)
            message.box.order.add(message)
            self.scheduled += 1
        else:
            self._add(Message(content, number, int(now * 1000), self._box(name), self._expiry(content, now)))
        return number

    def cancel(self, number: int) -> None:
        message = self.order.messages.get(number)
        if message is None or message.state != SCHEDULED:
            raise Refusal("com.microsoft:message-not-found", f"The scheduled message {number} was not found.", 404)
        message.timer.cancel()
        self.scheduled -= 1
        self.order.remove(number)
        message.box.order.remove(number)

    def _activate(self, message: Message) -> None:
        self.order.remove(message.number)
        message.box.order.remove(message.number)
        self.scheduled -= 1
        # As on Azure, a scheduled message gets a new sequence number when its time has come, and its enqueued time is that.
        number, content, due = self._admission.next_number(message.content), message.content, message.content.scheduled
        assert due is not None
        self._add(Message(content, number, due, message.box, self._expiry(content, due / 1000)))

    def _expiry(self, content: Content, now: float) -> float | None:
        ttl = content.ttl / 1000 if content.ttl is not None else None
        default = self.options.default_time_to_live
        if default is not None:
            ttl = default if ttl is None else min(ttl, default)
        if ttl is None and content.absolute_expiry is not None:
            return content.absolute_expiry / 1000
        return None if ttl is None else now + ttl

    def _add(self, message: Message) -> None:
        self.order.add(message)
        message.box.order.add(message)
        if message.expires is not None:
            message.timer = self.clock.after(max(0.0, message.expires - self.clock.now()), self._expire, message)
        self._place(message)

    def plain_box(self) -> Box:
        """Return the only box of a queue without sessions."""
        return self._box(None)

    def _box(self, name: str | None) -> Box:
        box = self.boxes.get(name)
        if box is None:
            box = self.boxes[name] = Box(name)
        return box

    def _place(self, message: Message) -> None:
        """Make an active message available in its order, and wake the links that may want it."""
        box = message.box
        heappush(box.ready, message.number)
        box.available += 1
        if not self.sessions:
            for holder in list(box.consumers):
                holder.wake()
        elif box.holder is not None:
            box.holder.wake()
        elif box.name not in self.available:
            self._offer(box)

    def _offer(self, box: Box) -> None:
        if self.waiting and not self.disabled:
            holder, _ = self.waiting.popitem(last=False)
            self._lock(box, holder)
            holder.granted(box)
        else:
            self.available[box.name] = box

    # Sessions

    def is_held(self, session_id: str) -> bool:
        """Return whether a link holds a session."""
        box = self.boxes.get(session_id)
        return box is not None and box.holder is not None

    def accept(self, session_id: str, holder: Holder) -> Box:
        """Lock a named session, which may have no messages.

        Raises:
            Refusal: Another holder has the session.
        """
        box = self._box(session_id)
        if box.holder is not None:
            text = f"The requested session '{session_id}' cannot be accepted. It may be locked by another receiver."
            raise Refusal("com.microsoft:session-cannot-be-locked", text, 410)
        self.available.pop(session_id, None)
        self._lock(box, holder)
        return box

    def accept_next(self, holder: Holder) -> Box | None:
        """Lock the session that has been available longest. Without one, return `None` and let the holder wait."""
        if not self.available:
            self.waiting[holder] = None
            return None
        _, box = self.available.popitem(last=False)
        self._lock(box, holder)
        return box

    def _lock(self, box: Box, holder: Holder) -> None:
        box.holder = holder
        box.locked_until = self.clock.now() + self.options.lock_duration
        box.lock_timer = self.clock.after(self.options.lock_duration, self._lock_due, box, holder)

    def renew(self, box: Box) -> float:
        box.locked_until = self.clock.now() + self.options.lock_duration
        return box.locked_until

    def _lock_due(self, box: Box, holder: Holder) -> None:
        if box.holder is not holder:
            return
        left = box.locked_until - self.clock.now()
        if left <= 0 and self.options.credit_keeps_lock and holder.has_credit():
            self.renew(box)
            left = self.options.lock_duration
        if left > 0:
            box.lock_timer = self.clock.after(left, self._lock_due, box, holder)
            return
        self.expire_session(box)

    def expire_session(self, box: Box) -> None:
        """End a session's lock, tell its holder, and count its deliveries as failed."""
        holder = box.holder
        self.release(box, failed=True)
        holder.lost()

    def release(self, box: Box, *, failed: bool = False) -> None:
        """Unlock a session, if the queue has sessions, and return its messages in their order."""
        if self.sessions:
            if box.lock_timer is not None:
                box.lock_timer.cancel()
            # Without this, returned messages would wake the old holder.
            box.holder = NOBODY
        for message in list(box.locked.values()):
            self._back(message, failed=failed)
        box.holder = None
        if box.available:
            self._offer(box)
        self._forget(box)

    def _forget(self, box: Box) -> None:
        if box.holder is None and box.state is None and not box.order.messages and not box.consumers:
            self.boxes.pop(box.name, None)

    # Receiving

    def take(self, box: Box, holder: Holder) -> Message | None:
        """Lock and return the next message of a box."""
        if self._together:
            for message in box.expired(self.clock.now()):
                box.available -= 1
                self._end(message, expired=True)
        now = 0.0
        while box.ready:
            message = box.order.messages.get(heappop(box.ready))
            if message is None or message.state != ACTIVE or message.token is not None:
                continue
            box.available -= 1
            if message.expires is not None:
                now = now or self.clock.now()
                if message.expires <= now:
                    self._end(message, expired=True)
                    continue
            self.lock(message)
            return message
        return None

    def lock(self, message: Message) -> bytes:
        token = message.token = os.urandom(16)
        self.locked[token] = message.box.locked[token] = message
        if not self.sessions:
            message.locked_until = self.clock.now() + self.options.lock_duration
            self.clock.after(self.options.lock_duration, self._message_due, message, token)
        return token

    def _message_due(self, message: Message, token: bytes) -> None:
        if message.token != token or token not in self.locked:
            return
        left = message.locked_until - self.clock.now()
        if left > 0:
            self.clock.after(left, self._message_due, message, token)
        else:
            self._back(message, failed=True)

    def find(self, token: bytes) -> Message:
        message = self.locked.get(token)
        if message is None:
            text = "The lock supplied is invalid. Either the lock expired, or the message has already been removed."
            raise Refusal("com.microsoft:message-lock-lost", text, 410)
        return message

    def renew_message(self, token: bytes) -> float:
        message = self.find(token)
        message.locked_until = self.clock.now() + self.options.lock_duration
        return message.locked_until

    # Settling

    def complete(self, token: bytes) -> None:
        message = self.find(token)
        self.completed.append((message.box.name, message.number, message.content.message_id))
        self._end(message)

    def abandon(self, token: bytes, changes: dict[str, bytes] | None = None, *, failed: bool = True) -> None:
        message = self.find(token)
        if changes:
            message.content = message.content.with_application(changes)
        self._back(message, failed=failed)

    def defer(self, token: bytes, changes: dict[str, bytes] | None = None) -> None:
        message = self.find(token)
        if changes:
            message.content = message.content.with_application(changes)
        if message.state != DEFERRED:
            self.deferred += 1
        message.state = DEFERRED
        self._back(message, failed=False)

    def dead_letter_message(
        self, token: bytes, reason: str | None, description: str | None, changes: dict[str, bytes] | None = None
    ) -> None:
        """Dead-letter a message; in a dead-letter queue, remove it."""
        self._dead_letter_message(self.find(token), reason, description, changes)

    def _dead_letter_message(
        self, message: Message, reason: str | None, description: str | None, changes: dict[str, bytes] | None = None
    ) -> None:
        self._end(message)
        dead = self.dead_letter
        if dead is None:
            return
        added = dict(changes or {})
        if reason is not None:
            added["DeadLetterReason"] = string(reason)
        if description is not None:
            added["DeadLetterErrorDescription"] = string(description)
        content = message.content.with_application(added) if added else message.content
        dead._add(
            Message(content, message.number, message.enqueued, dead._box(None), None, message.deliveries, source=self.name)
        )

    def _back(self, message: Message, *, failed: bool) -> None:
        """Unlock a message and return it in its order, or dead-letter it if it failed too often."""
        if failed:
            message.deliveries += 1
            if message.deliveries >= self.options.max_delivery_count and self.dead_letter is not None:
                text = f"Message could not be consumed after {message.deliveries} delivery attempts."
                self._dead_letter_message(message, "MaxDeliveryCountExceeded", text)
                return
        self._unlock(message)
        # Deferred messages do not expire.
        expired = message.expires is not None and message.expires <= self.clock.now()
        if message.state == ACTIVE and expired and not self._together:
            self._end(message, expired=True)
        elif message.state == ACTIVE:
            self._place(message)

    def _unlock(self, message: Message) -> None:
        if message.token is not None:
            self.locked.pop(message.token, None)
            message.box.locked.pop(message.token, None)
            message.token = None

    def _end(self, message: Message, *, expired: bool = False) -> None:
        if expired and self.options.dead_letter_on_expiration and self.dead_letter is not None:
            self._dead_letter_message(message, "TTLExpiredException", "The message expired and was dead lettered.")
            return
        self._unlock(message)
        if message.timer is not None:
            message.timer.cancel()
        if message.state == DEFERRED:
            self.deferred -= 1
        self.order.remove(message.number)
        message.box.order.remove(message.number)
        self._forget(message.box)

    def _expire(self, message: Message) -> None:
        if self._together:
            if message.box.holder is not None:
                message.box.holder.wake()
            return
        if message.number in message.box.order.messages and message.token is None and message.state == ACTIVE:
            message.box.available -= 1
            if not message.box.available:
                self.available.pop(message.box.name, None)
            self._end(message, expired=True)

    # Browsing

    def counts(self) -> Counts:
        dead = len(self.dead_letter.order.messages) if self.dead_letter is not None else 0
        active = len(self.order.messages) - self.deferred - self.scheduled
        return Counts(active, dead, self.deferred, self.scheduled, len(self.locked))

    def session_ids(self, updated_since: float | None) -> list[str]:
        """Return the ids of sessions with messages or state or, with a time, of those whose state was set after it."""
        if updated_since is not None:
            names = [name for name, box in self.boxes.items() if box.state is not None and box.state_set > updated_since]
        else:
            names = [name for name, box in self.boxes.items() if box.state is not None or box.order.messages]
        return sorted(name for name in names if name is not None)
