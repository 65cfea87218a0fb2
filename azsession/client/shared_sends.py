"""`SharedSends`: sends of several threads that come at the same time share requests. `send_messages` uses it.

A send that finds fewer than `MAX_RUNNING` requests under way is sent at once, by its own thread. Later ones wait until one of
these requests ends. Then the thread of the first one leads: it sends the messages of all that wait, in one request. So a
single thread never waits for another, and the more threads send, the more sends a request has. If there are many, one request
is under way at a time.

A signal handler can raise an exception in any of these threads. If it interrupts the thread that leads, another thread
repeats the same request, with the same request id. So the messages of the other callers are neither lost nor doubled.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from .. import interrupts
from ..errors import ConnectionFailedError, MessageTooLargeError, QueueError, ValidationError, revised
from ..reentry import Reentry, is_method_in
from ..validation import MAX_BATCH
from .call import Call

#: Requests to a queue that may be under way when a send still gets a request of its own.
MAX_RUNNING = 2
#: The most bytes of a message that shares a request, and of all messages in it. Azure's smallest limit is 256 KB.
MAX_OWN_SIZE, MAX_SIZE = 32 * 1024, 192 * 1024
#: Seconds that a send waits for those before it. Then it gets a request of its own, because a server can take long to answer.
PATIENCE = 0.1


class _Send:
    """The send of one caller.

    Attributes:
        item: The encoded message.
        wake: A lock that its thread waits for. It is released when the thread gets the lead, and when the send is over.
        request: The request that has the messages; `None` before.
        has_led: Its thread passes the lead on, or has done so.
        heir: The send whose thread gets the lead then.
        is_over: The request has ended.
        has_left: Its thread was interrupted or has finished, so that it cannot lead.
        error: The error of the request.
        is_refused: The server refused the request because of its contents. Each caller sends its own message again.
    """

    __slots__ = ("error", "has_led", "has_left", "heir", "is_over", "is_refused", "item", "request", "wake")

    def __init__(self, item: bytes) -> None:
        self.item: bytes = item
        self.wake: threading.Lock = threading.Lock()
        self.wake.acquire()
        self.request: _Request | None = None
        self.has_led: bool = False
        self.heir: _Send | None = None
        self.is_over: bool = False
        self.has_left: bool = False
        self.error: QueueError | None = None
        self.is_refused: bool = False

    def let_go_on(self) -> None:
        """Wake its thread. After an interrupt, a second call has no effect."""
        with suppress(RuntimeError):
            self.wake.release()


class _Request:
    """A request with the messages of some callers. Each attempt sends the same call, also that of another thread."""

    __slots__ = ("call", "sends")

    def __init__(self, sends: Sequence[_Send]) -> None:
        self.sends: Sequence[_Send] = sends
        self.call: Call[None] | None = None

    def body(self) -> bytes:
        """Return the messages of all callers as an envelope."""
        return b"[" + b",".join([send.item for send in self.sends]) + b"]"

    def end(self, own: _Send, error: QueueError | None) -> None:
        """Note the result. After an interrupt, those without a result repeat the request: it gets the same answer."""
        is_shared = len(self.sends) > 1
        is_refused = is_shared and isinstance(error, (ValidationError, MessageTooLargeError)) and not error.accepted
        if is_shared and error is not None and error.accepted:
            text = f"{error}; the request also had messages of other threads"
            error = ConnectionFailedError(text, maybe_delivered=True)
        for send in self.sends:
            if not send.is_over:
                send.error = error if error is None or send is own else revised(error)
                send.is_refused = is_refused
                send.is_over = True

    def wake(self) -> None:
        """Wake the threads whose sends are over."""
        for send in self.sends:
            if send.is_over:
                send.let_go_on()

    def heirs(self) -> list[_Send]:
        """Return the sends without a result whose threads can repeat the request."""
        return [send for send in self.sends if not send.is_over and not send.has_left]


class _Line:
    """The sends to one queue. The lock of `SharedSends` guards it.

    After an interrupt, each method can be called again, and continues.

    Attributes:
        leaders: The sends whose threads send a request, or will.
        waiting: The sends that wait for them.
        is_crowded: The last request had many messages. Then one request at a time has more of them, and so has each commit.
    """

    __slots__ = ("is_crowded", "leaders", "waiting")

    def __init__(self) -> None:
        self.leaders: set[_Send] = set()
        self.waiting: deque[_Send] = deque()
        self.is_crowded: bool = False

    def join(self, own: _Send) -> bool:
        """Add a send. Return whether its thread leads."""
        leads = len(self.leaders) < (1 if self.is_crowded else MAX_RUNNING)
        (self.leaders.add if leads else self.waiting.append)(own)
        return leads

    def leave(self, own: _Send) -> bool:
        """Remove a send that waits, and was not chosen to lead. Return whether it was there."""
        if own in self.leaders or own not in self.waiting:
            return False
        self._remove(own)
        return True

    def gather(self, own: _Send) -> list[_Send]:
        """Return the sends of the next request: one that leads, and those behind it that fit."""
        taken, size = [own], len(own.item)
        for send in self.waiting:
            size += len(send.item)
            if size > MAX_SIZE or len(taken) == MAX_BATCH:
                break
            taken.append(send)
        self.is_crowded = len(taken) > MAX_RUNNING
        return taken

    def take(self, request: _Request) -> None:
        """Move the sends of a request from those that wait into the request."""
        for send in request.sends:
            send.request = request
            self._remove(send)

    def pass_on(self, own: _Send) -> None:
        """Pass the lead on: to a caller without a result in the same request, or to the first that waits."""
        own.has_led = True
        if own.request is not None:
            self.take(own.request)
        if own.heir not in self.leaders:
            heirs = [] if own.request is None else own.request.heirs()
            # The other leader passes the lead on to those that wait.
            waiting = [] if self.is_crowded and self.leaders - {own} else self.waiting
            own.heir = next(iter([*heirs, *waiting]), None)
        if own.heir is not None:
            self.leaders.add(own.heir)
            self._remove(own.heir)
        self.leaders.discard(own)

    def _remove(self, send: _Send) -> None:
        if send in self.waiting:
            self.waiting.remove(send)


class SharedSends:
    """Sends single messages of several threads in shared requests. Thread-safe. A forked child needs a new object.

    Args:
        make: Returns the call that sends an envelope to a queue.
        transmit: Sends a call, with retries.
    """

    def __init__(self, make: Callable[[str, bytes], Call[None]], transmit: Callable[[Call[None]], object]) -> None:
        self._make = make
        self._transmit = transmit
        # Guards all lines and sends. Not held during a request. A signal handler does not take it while its thread holds it,
        # because a thread that is inside `send` already does not share.
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._reentry = Reentry()

    def send(self, queue_name: str, item: bytes) -> bool:
        """Send a message, perhaps with those of other callers. Blocks.

        Args:
            queue_name: The queue.
            item: The encoded message.

        Returns:
            `False` if nothing was sent: the caller sends the message in a request of its own.

        Raises:
            QueueError: The server refused the request, or did not answer.
        """
        if len(item) > MAX_OWN_SIZE:
            return False
        is_outermost = self._reentry.mark()
        try:
            is_outermost = is_outermost or not is_method_in(sys._getframe(1), self, _WITH_LOCK)
            if not is_outermost:
                return False
            own = _Send(item)
            self._share(queue_name, own)
        finally:
            if is_outermost:
                self._reentry.unmark()
        if own.error is not None and not own.is_refused:
            raise own.error from own.error.__cause__
        return own.is_over and not own.is_refused

    def _share(self, queue_name: str, own: _Send) -> None:
        line = self._lines.get(queue_name) or self._lines.setdefault(queue_name, _Line())
        try:
            with self._lock:
                leads = line.join(own)
            if leads or self._wait(line, own):
                self._lead(queue_name, line, own)
                self._leave(line, own)
        except BaseException:
            interrupts.persist(lambda: self._leave(line, own))
            raise

    def _wait(self, line: _Line, own: _Send) -> bool:
        """Wait until the send is over, or can lead. Return whether it leads."""
        if not own.wake.acquire(timeout=PATIENCE):
            with self._lock:
                has_left = line.leave(own)
                line.is_crowded = False  # Let the next send go beside a request that takes so long.
            if has_left:
                return False
            own.wake.acquire()
        return not own.is_over

    def _lead(self, queue_name: str, line: _Line, own: _Send) -> None:
        """Send the request of the caller's messages and of those that wait."""
        older = interrupts.handled()
        if own.request is None:
            with self._lock:
                own.request = _Request(line.gather(own))
                line.take(own.request)
        request = own.request
        call = request.call = request.call or self._make(queue_name, request.body())
        error = None
        try:
            self._transmit(call)
        except QueueError as failure:
            interrupts.let_pass(failure, older)
            error = failure
        request.end(own, error)

    def _leave(self, line: _Line, own: _Send) -> None:
        """Leave the line. A thread that led wakes the one that leads next, and those whose sends are over.

        After an interrupt, a second call continues.
        """
        own.has_left = True
        with self._lock:
            if not line.leave(own) and own in line.leaders:
                line.pass_on(own)
        if own.has_led:
            if own.heir is not None:
                own.heir.let_go_on()
            if own.request is not None:
                own.request.wake()


#: The method that takes the lock; see `reentry`.
_WITH_LOCK = frozenset([SharedSends.send.__code__])
