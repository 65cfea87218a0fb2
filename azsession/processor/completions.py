"""How the completions of a session's handled messages reach the server: at once, or in the background.

`SessionRunner` makes one object of this module for each session. A `threads.Workers` sends the completions that are confirmed
in the background: as many sessions have a request under way as there are threads, and each session has one at a time. The
completions that come meanwhile wait, and are sent together in its next request.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Protocol

import attrs

from ..client import settling
from ..client.session import SessionClient, holder_of
from ..events import Event
from ..messages import ReceivedMessage
from ..protocol.error_codes import not_settled
from ..threads import Workers
from ..validation import MAX_BATCH


@attrs.frozen(eq=False, repr=False)
class FailedCompletion:
    """A message that could not be completed, and the error."""

    error: BaseException
    message: ReceivedMessage


class Completions(Protocol):
    """Completes the handled messages of one session, in order.

    Attributes:
        failures: The messages that could not be completed in the background, in order. No later message is completed.
    """

    failures: list[FailedCompletion]

    def complete(self, message: ReceivedMessage) -> bool:
        """Complete a message. Blocks as long as too many are not confirmed.

        Returns:
            `True` if no completion has failed, so that the session can go on.

        Raises:
            QueueError: The message could not be completed.
        """

    def complete_last(self, message: ReceivedMessage) -> bool:
        """Complete a message and close the session, in one request if the server can. Otherwise the same as `complete`."""

    def finish(self) -> bool:
        """Wait until all completions are confirmed, or one has failed. Return whether none has failed."""


class ImmediateCompletions:
    """Completes each message before the next one is handled.

    Args:
        session: The session.
        confirmed: Called with the number of messages when the server has confirmed them.
    """

    def __init__(self, session: SessionClient, confirmed: Callable[[int], object]) -> None:
        self._session = session
        self._confirmed = confirmed
        self.failures: list[FailedCompletion] = []

    def complete(self, message: ReceivedMessage) -> bool:
        self._session.complete_message(message)
        self._confirmed(1)
        return True

    def complete_last(self, message: ReceivedMessage) -> bool:
        settling.settle_and_close(holder_of(self._session), message)
        self._confirmed(1)
        return True

    def finish(self) -> bool:
        return True


class BackgroundCompletions:
    """Completes messages while later ones are handled. Thread-safe.

    A message that was delivered before is confirmed before the next one is handled. Otherwise a message that kills the
    process could take the messages before it along each time: their completions would never be sent, and they would be
    dead-lettered for too many deliveries.

    Args:
        session: The session.
        limit: How many messages may be unconfirmed while the next one is handled, 1 or more.
        workers: Sends the completions. Its work is `send`.
        confirmed: Called with the number of messages when the server has confirmed them. From any thread.
        failed: Called after a completion has failed. From any thread.
    """

    def __init__(
        self,
        session: SessionClient,
        limit: int,
        workers: Workers[BackgroundCompletions],
        confirmed: Callable[[int], object],
        failed: Callable[[], object],
    ) -> None:
        self._session = session
        self._limit = limit
        self._workers = workers
        self._confirmed = confirmed
        self._failed = failed
        self._process = os.getpid()
        # Guards all fields below. Never held during a request. A signal handler can use the session in a thread that has it.
        self._guard = threading.RLock()
        self._waiting: list[ReceivedMessage] = []
        self._under_way: list[ReceivedMessage] = []
        #: A worker has these completions, or will take them.
        self._is_queued = False
        #: A worker sends these completions.
        self._is_served = False
        self.failures: list[FailedCompletion] = []
        #: The threads that wait for a confirmation.
        self._waiters: list[Event] = []

    @property
    def unconfirmed(self) -> int:
        """How many messages are handled and not confirmed."""
        with self._guard:
            return len(self._waiting) + len(self._under_way)

    def complete(self, message: ReceivedMessage) -> bool:
        if os.getpid() != self._process:
            # A handler forked. The child has no workers, and the parent completes the earlier messages.
            self._session.complete_message(message)
            return True
        if not holder_of(self._session).transport.speaks_v1:
            # A server of the plain dialect cannot release a session. After a failure the messages behind the failed one would
            # stay locked, and later ones would overtake them.
            self._session.complete_message(message)
            self._confirmed(1)
            return True
        with self._guard:
            if self.failures:
                return False
            self._waiting.append(message)
            must_queue = not (self._is_queued or self._is_served)
            self._is_queued = self._is_queued or must_queue
        if must_queue and not self._workers.put(self):
            self._complete_here()  # There are too many threads, or the interpreter is exiting.
        return self._wait(0 if message.delivery_count > 1 else self._limit)

    def complete_last(self, message: ReceivedMessage) -> bool:
        if not self.finish():
            return False
        settling.settle_and_close(holder_of(self._session), message)
        self._confirmed(1)
        return True

    def finish(self) -> bool:
        if os.getpid() != self._process:
            return True
        with self._guard:
            # Also if they were queued: an interrupt can have come before a worker got them.
            must_queue = bool(self._waiting) and not self._is_served
        if must_queue and not self._workers.put(self):
            self._forget()
        return self._wait(0)

    def _complete_here(self) -> None:
        self._is_queued = False
        try:
            self._complete_waiting()
        except BaseException:
            self._forget()
            raise

    def _complete_waiting(self) -> None:
        # A function of its own because of its loop, see `interrupts`.
        while self._waiting:
            self._session.complete_message(self._waiting[0])
            self._confirmed(1)
            self._waiting = self._waiting[1:]

    def _forget(self) -> None:
        """Leave the messages that wait to the release of the session, which returns them to the queue."""
        with self._guard:
            self._waiting, self._is_queued = [], False

    def _wait(self, limit: int) -> bool:
        """Wait until at most `limit` messages are unconfirmed, or a completion has failed. Return whether none has."""
        waiter = self._new_waiter(limit)
        while waiter is not None:
            waiter.wait()
            waiter = self._new_waiter(limit)
        return not self.failures

    def _new_waiter(self, limit: int) -> Event | None:
        """Return an event that is set after the next answer, or `None` if there is nothing to wait for."""
        with self._guard:
            if len(self._waiting) + len(self._under_way) <= limit:
                return None
            waiter = Event()
            self._waiters.append(waiter)
            return waiter

    # In a worker

    def send(self) -> None:
        """Send the completions that wait, until none is left. Another worker that does so already goes on alone."""
        with self._guard:
            self._is_queued = False
            if self._is_served:
                return
            self._is_served = True
        while self._begin():
            confirmed, failures = _complete(self._session, self._under_way)
            self._end(confirmed, failures)

    def _begin(self) -> bool:
        with self._guard:
            self._under_way, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            self._is_served = bool(self._under_way)
            return self._is_served

    def _end(self, confirmed: int, failures: list[FailedCompletion]) -> None:
        if confirmed:
            self._confirmed(confirmed)
        with self._guard:
            self._under_way = []
            self.failures += failures
            if self.failures:
                # These return to the queue when the session is released: none may overtake a message that failed.
                self._waiting = []
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.set()
        if failures:
            self._failed()


def _complete(session: SessionClient, messages: list[ReceivedMessage]) -> tuple[int, list[FailedCompletion]]:
    """Complete messages in one request. Return how many are confirmed, and the failures of the others."""
    try:
        failed = settling.complete_together(holder_of(session), messages)
    except BaseException as error:
        # Not only errors of the package: a hook of the caller's `requests.Session` can raise any.
        return 0, [FailedCompletion(error, message) for message in messages]
    failures = [
        FailedCompletion(not_settled(failed[message.receipt.handle]), message)
        for message in messages
        if message.receipt.handle in failed
    ]
    return len(messages) - len(failures), failures
