"""How a session client receives messages. `SessionClient` calls these functions with its holder."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

from .. import interrupts
from ..errors import QueueError, ValidationError
from ..logs import SessionLogger, get_logger
from ..messages import ReceivedMessage
from ..telemetry import Operation
from ..validation import MAX_BATCH, MAX_SEQUENCE_NUMBER, as_list, check_count
from . import fetched_ahead, operations
from .holder import Holder
from .in_flight import hand_out
from .responses import LockGrant
from .running_receive import Receive
from .session_lock import Stage

logger: SessionLogger = get_logger(__name__)

#: Seconds to wait for an answer that the server gave before another answer that has arrived.
TRANSIT_TIME = 1.0


# A signal handler can raise an exception at any place. The functions below return messages from a `try`, so that a message
# that came in is kept for the next receive until nothing is left to interrupt but the return itself. `hand_out` also keeps it
# if the return is interrupted.


def receive_one(holder: Holder, timeout: float) -> ReceivedMessage | None:
    """Return the next message. Wait up to `timeout` seconds for it."""
    running = holder.lock.begin_receive()
    try:
        with _operation(holder, is_batch=False) as operation:
            messages = _receive(holder, running, 1, timeout)
            operation.messages(messages)
        hand_out(messages, sys._getframe(1), holder.lock)
        return messages[0] if messages else None
    except BaseException:
        holder.lock.undo_receive(running)
        raise


def fetch(holder: Holder, timeout: float, prefetch: int) -> ReceivedMessage | None:
    """Return the next message for a handler. Wait up to `timeout` seconds for it. Fetch up to `prefetch` in one request."""
    running = holder.lock.begin_receive()
    try:
        messages = _receive(holder, running, 1, timeout, prefetch)
        return messages[0] if messages else None
    except BaseException:
        holder.lock.undo_receive(running)
        raise


def receive(holder: Holder, count: int, timeout: float) -> list[ReceivedMessage]:
    """Return up to `count` messages. Wait up to `timeout` seconds for the first."""
    running = holder.lock.begin_receive()
    try:
        with _operation(holder, is_batch=True) as operation:
            messages = _receive(holder, running, count, timeout)
            operation.messages(messages)
        hand_out(messages, sys._getframe(1), holder.lock)
        return messages
    except BaseException:
        holder.lock.undo_receive(running)
        raise


def _operation(holder: Holder, *, is_batch: bool) -> Operation:
    return holder.telemetry.receive("receive", holder.queue_name, holder.session_id, is_batch=is_batch)


def next_ahead(holder: Holder) -> ReceivedMessage | None:
    """Return the next message that was fetched ahead, or `None` if no such message is left."""
    running = holder.lock.begin_receive()
    try:
        messages = fetched_ahead.take(holder, 1)
        return messages[0] if messages else None
    except BaseException:
        holder.lock.undo_receive(running)
        raise


def _receive(holder: Holder, running: Receive, count: int, timeout: float, prefetch: int = 1) -> list[ReceivedMessage]:
    """Return up to `count` messages. Fetch up to `prefetch` in one request.

    One request at a time fetches ahead. Other threads wait for it, because the messages that it brings come before theirs.
    """
    lock, deadline, left = holder.lock, time.monotonic() + timeout, timeout
    own = running.turn
    try:
        while True:
            holder.check()
            ahead = fetched_ahead.take(holder, count)
            if ahead:
                return ahead
            size = fetched_ahead.batch_size(holder, prefetch)
            under_way = lock.fetches.begin(own if size > count else None)
            if under_way is None and size > count:
                return _merged(holder, _receive_once(holder, size, left, taken=count), count)
            if under_way is None:
                return _merged(holder, _fetch(holder, count, left), count)
            if not under_way.wait(left):
                messages = _fetch(holder, count, 0.0)
                if messages or under_way.is_prompt:
                    under_way.wait(TRANSIT_TIME)
                return _merged(holder, messages, count)
            left = max(0.0, deadline - time.monotonic())
    finally:
        lock.fetches.end(own)


def _merged(holder: Holder, messages: list[ReceivedMessage], count: int) -> list[ReceivedMessage]:
    """Return the first `count` of received messages and those that were fetched ahead. The others are kept."""
    if holder.lock.ahead_count:
        holder.lock.put_ahead(messages)
        return fetched_ahead.take(holder, count)
    if len(messages) > count:
        holder.lock.put_ahead(messages[count:])
    return messages[:count]


class MessageIterator(Iterator[ReceivedMessage]):
    """Returns messages until `timeout` seconds pass without one. After an error, it can go on."""

    __slots__ = ("_holder", "_prefetch", "_running", "_timeout")

    def __init__(self, holder: Holder, timeout: float, prefetch: int) -> None:
        self._holder: Holder | None = holder
        self._timeout = timeout
        self._prefetch = prefetch
        self._running: Receive | None = None

    def __next__(self) -> ReceivedMessage:
        holder = self._holder
        if holder is None:
            raise StopIteration
        running = self._running = holder.lock.begin_receive()
        messages: Sequence[ReceivedMessage] = ()
        try:
            with _operation(holder, is_batch=False) as operation:
                messages = _receive(holder, running, 1, self._timeout, self._prefetch)
                operation.messages(messages)
            if messages:
                running.next_count, running.yielded = self._prefetch, messages[0].receipt.handle
                hand_out(messages, sys._getframe(1), holder.lock)
                running.arrived = []  # Keep no reference to the message.
                return messages[0]
        except BaseException:
            holder.lock.undo_receive(running, messages)
            raise
        self.close()
        raise StopIteration

    def close(self) -> None:
        """End the loop. A settlement of its last message fetches no message then."""
        if self._running is not None:
            self._running.has_ended = True
        self._holder = self._running = None


def _fetch(holder: Holder, count: int, timeout: float) -> list[ReceivedMessage]:
    if holder.transport.speaks_v1:
        return _receive_once(holder, count, timeout)
    messages = receive_plain(holder, timeout)
    if not messages or count == 1:
        return messages
    try:
        # The first response can have shown that the server speaks version 1.
        if holder.transport.speaks_v1:
            return messages + _receive_once(holder, count - 1, 0.0)
        while len(messages) < count:
            more = receive_plain(holder, 0.0)
            if not more:
                break
            messages += more
    except QueueError as error:
        if interrupts.raised_by_handler(error):
            raise
        # Return the messages that came before the error, unless the lock is lost.
        holder.check()
        logger.warning("%s gave %d messages before an error: %s", holder.lock.name, len(messages), error, **holder.about)
    return messages


def receive_plain(holder: Holder, timeout: float) -> list[ReceivedMessage]:
    """Receive one message in the plain dialect. Divide a long wait into parts in which the lock cannot expire."""
    deadline = time.monotonic() + timeout
    session_timeout = holder.options.session_timeout
    while timeout >= session_timeout and not holder.transport.speaks_v1:
        part = session_timeout / 2
        began = time.monotonic()
        messages = _receive_once(holder, None, part)
        if messages or time.monotonic() - began < part * 0.9:
            return messages
        timeout = max(0.0, deadline - time.monotonic())
    return _receive_once(holder, None, timeout)


def _receive_once(holder: Holder, count: int | None, timeout: float, *, taken: int | None = None) -> list[ReceivedMessage]:
    lock = holder.lock
    deadline = time.monotonic() + timeout
    while True:
        request_id, is_again = lock.request_id()
        grant = holder.take_offered(request_id) if count == 1 else None
        if grant is None:
            grant = _request(holder, count, timeout, request_id, taken)
        lock.register(grant.messages, request_id)
        # The lock can have been lost, or the session closed, while the response was on its way.
        holder.check()
        if grant.messages or not is_again:
            return list(grant.messages)
        timeout = max(0.0, deadline - time.monotonic())


def _request(holder: Holder, count: int | None, timeout: float, request_id: str, taken: int | None) -> LockGrant:
    """Send one request for messages."""
    lock = holder.lock
    try:
        call = operations.receive(
            holder.target(),
            count,
            timeout,
            holder.options.session_timeout,
            request_id,
            has_lock=lock.stage is Stage.HELD,
            taken=taken,
        )
        return holder.send_for_lock(call)
    except BaseException:
        if not holder.transport.may_speak_v1:
            lock.forget_request(request_id)
        raise


def receive_deferred(holder: Holder, sequence_numbers: Sequence[int]) -> list[ReceivedMessage]:
    """Return the deferred messages with these sequence numbers."""
    numbers = as_list(sequence_numbers, "sequence_numbers")
    for number in numbers:
        check_count(number, "a sequence number", MAX_SEQUENCE_NUMBER)
    if not 1 <= len(numbers) <= MAX_BATCH:
        raise ValidationError(f"sequence_numbers must have 1 to {MAX_BATCH} numbers, not {len(numbers)}")
    with holder.telemetry.receive("receive_deferred", holder.queue_name, holder.session_id, is_batch=True) as operation:
        holder.require_lock("receive deferred messages")
        seconds_left = max(0.0, holder.lock.seconds_left())
        messages = holder.send(operations.receive_deferred(holder.target(), numbers, seconds_left))
        holder.lock.register(messages)
        operation.messages(messages)
        return messages
